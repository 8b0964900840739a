"""Write, read and verify checkpoint files: safetensors with a header that describes the network.

The header holds only strings (``HEADER``). A checkpoint contains no code. Reading a header does not import torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from paramisp_cli import atomic
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError, FileAccessError, WeightsError
from paramisp_cli.models.foreign import listed

if TYPE_CHECKING:
    import torch

    from paramisp_cli.models.base import IspModel

FORMAT_VERSION = "1"
_REQUIRED = ("format_version", "architecture", "config", "camera", "direction")
HEADER = (*_REQUIRED, "recipe", "training", "metrics", "licence", "source_hash")
"""Keys of the header; ``config``, ``training`` and ``metrics`` are JSON, an unknown value is an empty string."""
_MAX_HEADER = 16 << 20
PUBLISHED_SUFFIXES = (".ckpt", ".pth", ".pt")
"""Suffixes of checkpoints that other programs published; ``published`` reads them."""


def _read_header(path: Path) -> dict[str, Any]:
    """Read the safetensors header: 8 bytes of length, little-endian, then as many bytes of JSON."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            size = path.stat().st_size
            if path.suffix in PUBLISHED_SUFFIXES:
                raise WeightsError(f"{path} is a published checkpoint: `paramisp weights import` converts it")
            if len(start) < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise WeightsError(f"{path} is damaged: its header would be {length} of {size} bytes; fetch it again")
            header = json.loads(file.read(length))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged: its header is not JSON; fetch it again") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise WeightsError(f"{path} is damaged: its header is not a table of tensors; fetch it again")
    data = size - 8 - length
    ends = [_span(entry)[1] for name, entry in header.items() if name != "__metadata__"]
    if (claimed := max(ends, default=0)) != data:
        raise WeightsError(f"{path} is damaged: {data} bytes of tensors, its header says {claimed}; fetch it again")
    return header


def _span(entry: object) -> tuple[int, int]:
    """Return (begin, end) of a tensor in the data; (0, −1), which is invalid for any file, if the entry is damaged."""
    span = entry.get("data_offsets") if isinstance(entry, dict) else None
    if isinstance(span, list) and len(span) == 2 and all(isinstance(v, int) for v in span):
        return span[0], span[1]
    return 0, -1


def info(path: Path | str) -> dict[str, str]:
    """Read a checkpoint's header: the keys of ``HEADER`` and any further keys. Raises WeightsError."""
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"{path} does not exist; `paramisp weights list` shows the available weights")
    metadata = {str(key): str(value) for key, value in _read_header(path).get("__metadata__", {}).items()}
    if missing := [key for key in _REQUIRED if key not in metadata]:
        raise WeightsError(f"{path} is not a paramisp checkpoint: its header has no {', '.join(missing)}")
    if metadata["format_version"] != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {metadata['format_version']!r}, this paramisp reads {FORMAT_VERSION!r}; "
            "update paramisp"
        )
    if not directions(metadata):
        raise WeightsError(f"{path} has direction {metadata['direction']!r}, not {' or '.join(Direction)}")
    return metadata


def directions(header: Mapping[str, str]) -> tuple[Direction, ...]:
    """Return the directions that a file serves: one, or both ("unprocess+render"); none for an unknown one."""
    names = header["direction"].split("+")
    known = all(name in tuple(Direction) for name in names) and len({*names}) == len(names)
    return tuple(map(Direction, names)) if known else ()


# --- save and load ----------------------------------------------------------------------------------------------------


def save(
    model: IspModel,
    path: Path | str,
    *,
    camera: str,
    recipe: str = "",
    training: Mapping[str, object] | None = None,
    metrics: Mapping[str, object] | None = None,
    licence: str = "",
    source_hash: str = "",
    extra: Mapping[str, str] | None = None,
    half: bool = False,
    both: bool = False,
) -> Path:
    """Write a checkpoint, tensors and header, atomically; return its path.

    camera: "GoPro HERO7 Black", or "generic" · recipe: the training recipe's name · training: data and schedule ·
    metrics: measurements and their data · licence: licence of the weights · source_hash: SHA-256 of the code or file
    from which the weights come · extra: more strings for the header · half: store numbers in 16 bits; the PSNR between
    results with 16 and with 32 bits was 97 dB or more · both: the file serves both directions.
    """
    from safetensors.torch import save as to_bytes

    path = Path(path)
    if both and not model.serves_both:
        raise ConfigError(f"{model.name} has weights of its own for each direction")
    header = {
        **(extra or {}),
        **model.facts(),
        "format_version": FORMAT_VERSION,
        "architecture": model.name,
        "config": json.dumps(model.config()),
        "camera": camera,
        "direction": "+".join(ISP_DIRECTIONS) if both else str(model.direction),
        "recipe": recipe,
        "training": json.dumps(training) if training is not None else "",
        "metrics": json.dumps(metrics) if metrics is not None else "",
        "licence": licence,
        "source_hash": source_hash,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, _in_order(to_bytes(tensors, header), header))
    except OSError as error:
        raise FileAccessError.of(error, path, "write it") from error
    return path


def _in_order(data: bytes, header: Mapping[str, str]) -> bytes:
    """Return a safetensors file with its header in a fixed order: the library shuffles it, and hashes would differ."""
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    first = [key for key in HEADER if key in header]
    table["__metadata__"] = {key: header[key] for key in [*first, *sorted(header.keys() - {*first})]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def load(path: Path | str, device: torch.device | str = "cpu", direction: Direction | str | None = None) -> IspModel:
    """Load a checkpoint as a model in ``eval`` mode; names and shapes must match the architecture's tensors exactly.

    A file for both directions needs ``direction``. float16 tensors are widened to float32. Raises WeightsError, in one
    line, for any other mismatch, and ConfigError without a direction.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    path = Path(path)
    header = info(path)
    try:
        tensors = from_bytes(path.read_bytes())
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{path} is damaged: {error}; fetch it again") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    ways, config = directions(header), header["config"]
    if direction is not None and Direction(direction) not in ways:
        raise WeightsError(f"{path} has direction {header['direction']}, {direction} is needed")
    if len(ways) > 1:
        if direction is None:
            raise ConfigError(f"{path} holds both directions; pass `direction`: {' or '.join(ways)}")
        config = _turned(config, str(direction))
    return build(str(path), header["architecture"], config, str(direction or ways[0]), tensors).to(device)


def _turned(config: str, direction: str) -> str:
    """Return a configuration for another direction; text that is no table is not changed, and fails later."""
    try:
        table = json.loads(config)
    except (ValueError, RecursionError):
        return config
    return json.dumps({**table, "direction": direction}) if isinstance(table, dict) else config


def _finite(value: Any) -> Any:
    """Return a value from JSON; raises ValueError if one of its numbers is not finite (Python reads NaN and 1e999)."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(inner)
    return value


def build(where: str, name: str, config: str, direction: str, tensors: Mapping[str, torch.Tensor]) -> IspModel:
    """Build the architecture with verified tensors; ``where`` names the source in messages. Raises WeightsError."""
    import torch

    from paramisp_cli.models import architecture

    try:
        kind = architecture(name)
    except ConfigError as error:
        raise WeightsError(f"{where} is for another architecture: {error}; update paramisp") from error
    model = configured(where, name, config, direction, kind)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    _match(where, name, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, shapes)
    for key, tensor in tensors.items():
        _check(where, key, str(tensor.dtype).removeprefix("torch."), bool(torch.isfinite(tensor).all()))
    model.load_state_dict({key: tensor.to(torch.float32) for key, tensor in tensors.items()}, strict=True)
    return model.eval()


class _Configured(Protocol):
    @property
    def direction(self) -> Direction: ...


Kind = TypeVar("Kind", bound=_Configured)


class _Shaped(_Configured, Protocol):
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor, by name."""


Shaped = TypeVar("Shaped", bound=_Shaped)


def configured(where: str, name: str, config: str, direction: str, kind: Callable[..., Kind]) -> Kind:
    """Call the class of an architecture with the header's ``config``. Raises WeightsError."""
    try:
        made = kind(**_finite(json.loads(config)))
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{where} has a configuration that {name} does not take: {error}") from error
    if made.direction != direction:
        raise WeightsError(f"{where} contradicts itself: direction {direction} and {made.direction}")
    return made


def load_arrays(path: Path | str, kind: Callable[..., Shaped]) -> tuple[Shaped, dict[str, np.ndarray]]:
    """Load a checkpoint without torch: its configuration, made by ``kind``, and its tensors as float32 arrays.

    Names and shapes must match exactly, as for ``load``. Raises WeightsError.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    path = Path(path)
    header = info(path)
    name = header["architecture"]
    made = configured(str(path), name, header["config"], header["direction"], kind)
    try:
        tensors = from_bytes(path.read_bytes())
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{path} is damaged: {error}; fetch it again") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    _match(str(path), name, {key: array.shape for key, array in tensors.items()}, made.shapes())
    for key, array in tensors.items():
        _check(str(path), key, str(array.dtype), bool(np.isfinite(array).all()))
    return made, {key: array.astype(np.float32) for key, array in tensors.items()}


def _match(where: str, name: str, given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise WeightsError unless two sets of shapes agree."""
    for problem, names in (
        (f"lacks tensors of {name}", wanted.keys() - given),
        (f"has tensors that {name} does not have", given.keys() - wanted),
    ):
        if names:
            raise WeightsError(f"{where} {problem}: {listed(names)}; fetch or convert it again")
    for key, shape in wanted.items():
        if given[key] != shape:
            raise WeightsError(f"{where}: {key} has shape {given[key]}, {name} needs {shape}")


def _check(where: str, key: str, dtype: str, is_finite: bool) -> None:
    """Raise WeightsError for a tensor of another type, or with numbers that are not finite."""
    if dtype not in ("float32", "float16"):
        raise WeightsError(f"{where}: {key} is {dtype}, not float32 or float16")
    if not is_finite:
        raise WeightsError(f"{where}: {key} has values that are not finite; the training that made it diverged")


def verify(path: Path | str) -> dict[str, str]:
    """Load a checkpoint strictly and run a tiny image, in each direction; return the header. Raises WeightsError."""
    header = info(path)
    for direction in directions(header):
        _verify(path, direction)
    return header


def _verify(path: Path | str, direction: Direction) -> None:
    """Load and run a checkpoint in one direction. Raises WeightsError."""
    import torch

    from paramisp_cli.models import Params

    model = load(path, direction=direction)
    x = torch.linspace(0, 1, 3 * 8 * 8).view(1, 3, 8, 8)
    one = torch.ones(1)
    params = Params(torch.tensor([[2.0, 1.0, 1.5]]), torch.eye(3)[None], 100 * one, 0.01 * one, 4 * one, 50 * one)
    with torch.inference_mode():
        y = model(x[:, : model.direction.input.channels], params)
    if not torch.isfinite(y).all():
        raise WeightsError(f"{path} gives values that are not finite for an ordinary image; the weights are unusable")
