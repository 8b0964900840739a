"""Checkpoints: from a name to a file, to verified tensors, to a built model; and the import of published ones.

A checkpoint is one safetensors file per camera and direction,
``<folder>/<architecture>/<camera>.<direction>.safetensors``, with the camera's make and model in lower case and a dash
for whatever is not a letter or digit ("gopro-hero7-black.unprocess.safetensors"), or
``generic.<direction>.safetensors`` for any camera. Its header, strings only, says what it is (``HEADER``). Nothing in
it can run, and nothing is ever fetched from a network.

Importing this module, listing and finding cost no ``import torch``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramisp_cli import atomic, published
from paramisp_cli.cameras import slug
from paramisp_cli.errors import ConfigError, FileAccessError, WeightsError
from paramisp_cli.models import names as architectures
from paramisp_cli.types import Camera, Direction

if TYPE_CHECKING:
    import torch

    from paramisp_cli.models.base import IspModel

FORMAT_VERSION = "1"
HEADER = (
    "format_version", "architecture", "config", "camera", "direction", "color_matrix_row_sum", "recipe", "training",
    "metrics", "licence", "source_hash",
)  # fmt: skip
"""Keys of the header; ``config``, ``training`` and ``metrics`` are JSON, an unknown value is an empty string."""
ENVIRONMENT = "PARAMISP_WEIGHTS"
GENERIC = "generic"
_MAX_HEADER = 16 << 20
_PREFERRED = architectures(needs_weights=True)
"""Architectures to look at first when none is asked for, best first; the others follow by name."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a checkpoint was found: the file, its camera's name in the file name, and by which rule of the search."""

    path: Path
    name: str
    how: str

    @property
    def is_generic(self) -> bool:
        """Whether it is the fallback for any camera rather than the camera's own."""
        return self.name == GENERIC


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A line of the list: where, what the header says (``HEADER``'s keys), or why it could not be read."""

    path: Path
    how: str
    header: Mapping[str, str]
    damaged: str | None = None


# --- the header, without torch ----------------------------------------------------------------------------------------


def _read_header(path: Path) -> dict[str, Any]:
    """The safetensors header: 8 bytes of length, little-endian, then as many bytes of JSON."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            size = path.stat().st_size
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
    if (told := max(ends, default=0)) != data:
        raise WeightsError(f"{path} is damaged: {data} bytes of tensors, its header says {told}; fetch it again")
    return header


def _span(entry: object) -> tuple[int, int]:
    """(begin, end) of a tensor in the data; (0, −1), which fits no file, if the entry is damaged."""
    span = entry.get("data_offsets") if isinstance(entry, dict) else None
    if isinstance(span, list) and len(span) == 2 and all(isinstance(v, int) for v in span):
        return span[0], span[1]
    return 0, -1


def info(path: Path | str) -> dict[str, str]:
    """What a checkpoint's header says: the keys of ``HEADER`` and any others it has; raises WeightsError."""
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"{path} does not exist; `paramisp weights list` shows what there is")
    metadata = {str(key): str(value) for key, value in _read_header(path).get("__metadata__", {}).items()}
    if missing := [key for key in HEADER[:6] if key not in metadata]:
        raise WeightsError(f"{path} is not a paramisp checkpoint: its header has no {', '.join(missing)}")
    if metadata["format_version"] != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {metadata['format_version']!r}, this paramisp reads {FORMAT_VERSION!r}; "
            "update paramisp"
        )
    if metadata["direction"] not in tuple(Direction):
        raise WeightsError(f"{path} has direction {metadata['direction']!r}, not {' or '.join(Direction)}")
    return metadata


# --- the search -------------------------------------------------------------------------------------------------------


def user_folder() -> Path:
    """Where imported and own checkpoints live: ``weights`` in the user's data folder."""
    import platformdirs

    return platformdirs.user_data_path("paramisp") / "weights"


def places() -> list[tuple[str, Path]]:
    """(name, folder or file) in the order of search: $PARAMISP_WEIGHTS, checkout or wheel, the user's data folder."""
    package = Path(__file__).parent
    found = []
    if value := os.environ.get(ENVIRONMENT):
        found.append((f"${ENVIRONMENT}", Path(value).expanduser()))
    if (package.parent / "pyproject.toml").is_file():
        found.append(("checkout", package.parent / "weights"))
    return [*found, ("installed package", package / "shipped_weights"), ("user data folder", user_folder())]


def _architecture_folders(root: Path) -> list[Path]:
    """The folders of a place, preferred architecture first; the place itself last, for a folder of loose files."""
    try:
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
    except OSError:
        folders = []
    rank = {name: number for number, name in enumerate(_PREFERRED)}
    return [*sorted(folders, key=lambda folder: rank.get(folder.name, len(rank))), root]


def locate(name_or_file: Path | str, direction: Direction | str | None = None) -> list[Path]:
    """Return the files of a checkpoint: the file itself, or those of a name ("generic", a camera's), one a direction.

    Raises WeightsError if there is none.
    """
    path = Path(name_or_file)
    if _is_file(path):
        return [path]
    ways = tuple(Direction) if direction is None else (Direction(direction),)
    named = slug(str(name_or_file))
    found = [each.path for way in ways if (each := find(named, way, generic=named == GENERIC)) is not None]
    if not found:
        raise WeightsError(f"{path} does not exist and is no name of a checkpoint; `paramisp weights list` shows them")
    return found


def _is_file(path: Path) -> bool:
    """Tell whether a path is a file; a name that no file system takes is not."""
    return os.path.isfile(path)  # noqa: PTH113 – Path.is_file raises for names too long


def _checked_file(path: Path, direction: Direction, architecture: str | None, how: str) -> Found:
    """An explicitly named file; raises WeightsError if it is missing or for something else."""
    if not _is_file(path):
        raise WeightsError(f"{path} ({how}) does not exist")
    if path.suffix != ".ckpt":
        header = info(path)
        for key, wanted in (("direction", str(direction)), ("architecture", architecture)):
            if wanted is not None and header[key] != wanted:
                raise WeightsError(f"{path} ({how}) has {key} {header[key]}, {wanted} is needed")
    return Found(path, path.name.split(".")[0], how)


def candidates(camera: Camera | str | Sequence[str] | None) -> list[str]:
    """The file names to look for: of a Camera, its name and its make and model; of names, each; without repeats."""
    if camera is None:
        names: Iterable[str] = ()
    elif isinstance(camera, Camera):
        names = (camera.name, f"{camera.make} {camera.model}")
    else:
        names = (camera,) if isinstance(camera, str) else camera
    return [name for name in dict.fromkeys(slug(name) for name in names) if name]


def find(
    camera: Camera | str | Sequence[str] | None,
    direction: Direction | str,
    architecture: str | None = None,
    explicit: Path | str | None = None,
    *,
    generic: bool = True,
) -> Found | None:
    """The checkpoint for a camera: its own if any place has it, else (``generic``) the generic one, else None.

    ``camera`` may be several names (aliases), best first. ``explicit`` (--weights) is a file, used as it is, a folder,
    searched alone, or the name of a checkpoint; $PARAMISP_WEIGHTS is a file or a folder, and the search goes on after a
    folder. Raises WeightsError if an explicit checkpoint is missing or is for another direction or architecture.
    """
    direction = Direction(direction)
    if explicit is not None and not os.path.lexists(Path(explicit).expanduser()) and not Path(explicit).suffix:
        return _named(str(explicit), direction, architecture)
    where = places() if explicit is None else [("--weights", Path(explicit).expanduser())]
    how, first = where[0]
    if how in ("--weights", f"${ENVIRONMENT}") and not os.path.isdir(first):  # noqa: PTH112 – see _is_file
        return _checked_file(first, direction, architecture, how)
    for name in [*candidates(camera), *([GENERIC] if generic else [])]:
        for how, root in where:
            folders = _architecture_folders(root) if architecture is None else [root / architecture]
            for folder in folders:
                path = folder / f"{name}.{direction}.safetensors"
                if _is_file(path):
                    return Found(path, name, how)
    if explicit is not None:
        raise WeightsError(f"{explicit} (--weights) holds no checkpoint for {direction}; see `paramisp weights list`")
    return None


def _named(name: str, direction: Direction, architecture: str | None) -> Found:
    """Find a checkpoint by its name alone. Raises WeightsError."""
    found = find(name, direction, architecture, generic=slug(name) == GENERIC)
    if found is None:
        raise WeightsError(
            f"{name} (--weights) is neither a file nor the name of a checkpoint for {direction}; "
            "`paramisp weights list` shows the names"
        )
    return Found(found.path, found.name, "--weights")


def available() -> list[Checkpoint]:
    """Every checkpoint in the places of the search, in its order; damaged files too, with the reason."""
    found = []
    for how, root in places():
        paths = [root] if root.is_file() else sorted(root.glob("*.safetensors")) + sorted(root.glob("*/*.safetensors"))
        for path in paths:
            try:
                found.append(Checkpoint(path, how, info(path)))
            except WeightsError as error:
                found.append(Checkpoint(path, how, {}, damaged=str(error)))
    return found


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
) -> Path:
    """Write a checkpoint, tensors and header, under a temporary name that is then renamed → its path.

    camera: "GoPro HERO7 Black", or "generic" · recipe: the training recipe's name · training: data and schedule ·
    metrics: what was measured, on what · licence: of the weights · source_hash: SHA-256 of the code or of the file
    that they come from · extra: more strings for the header · half: store numbers in 16 bits; between the results
    and those of 32 bits the PSNR was 97 dB or more.
    """
    from safetensors.torch import save as to_bytes

    path = Path(path)
    header = {
        **(extra or {}),
        "format_version": FORMAT_VERSION,
        "architecture": model.name,
        "config": json.dumps(model.config()),
        "camera": camera,
        "direction": str(model.direction),
        "color_matrix_row_sum": "" if model.color_matrix_row_sum is None else f"{model.color_matrix_row_sum:g}",
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
        atomic.write_bytes(path, to_bytes(tensors, header))
    except OSError as error:
        raise FileAccessError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def load(path: Path | str, device: torch.device | str = "cpu") -> IspModel:
    """A checkpoint as a model in ``eval`` mode; every tensor of the architecture, no other, each of its shape.

    float16 tensors are widened to float32. Raises WeightsError, in one line, for anything else that does not fit.
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
    return _build(str(path), header["architecture"], header["config"], header["direction"], tensors).to(device)


def _finite(value: Any) -> Any:
    """Return a value from JSON; raises ValueError if a number in it is not finite (Python reads NaN and 1e999)."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(inner)
    return value


def _build(where: str, name: str, config: str, direction: str, tensors: Mapping[str, torch.Tensor]) -> IspModel:
    """The architecture with these tensors in it, verified; ``where`` is for the messages."""
    import torch

    from paramisp_cli.models import architecture

    try:
        kind = architecture(name)
    except ConfigError as error:
        raise WeightsError(f"{where} is for another architecture: {error}; update paramisp") from error
    try:
        model = kind(**_finite(json.loads(config)))
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{where} has a configuration that {name} does not take: {error}") from error
    if model.direction != direction:
        raise WeightsError(f"{where} contradicts itself: direction {direction} and {model.direction}")
    wanted = model.state_dict()
    for problem, names in (("misses", wanted.keys() - tensors), ("has unknown", tensors.keys() - wanted)):
        if names:
            some = ", ".join(sorted(names)[:4]) + (" …" if len(names) > 4 else "")
            raise WeightsError(f"{where} {problem} {len(names)} of {name}'s tensors: {some}; fetch or convert it again")
    ready = {}
    for key, target in wanted.items():
        tensor = tensors[key]
        if tensor.shape != target.shape:
            raise WeightsError(f"{where}: {key} has shape {tuple(tensor.shape)}, {name} wants {tuple(target.shape)}")
        if tensor.dtype not in (torch.float32, torch.float16):
            raise WeightsError(f"{where}: {key} is {tensor.dtype}, float32 or float16 is wanted")
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{where}: {key} has values that are not finite; the training that made it diverged")
        ready[key] = tensor.to(torch.float32)
    model.load_state_dict(ready, strict=True)
    return model.eval()


def load_model(
    path_or_name: Path | str, direction: Direction | str | None = None, device: torch.device | str = "cpu"
) -> IspModel:
    """A model from a checkpoint file (.safetensors), a published one (.ckpt), or a name.

    A name is a camera's ("GoPro HERO7 Black", "gopro-hero7-black"), "generic", or "parametric", and needs a
    ``direction``; a file needs one only if it holds both. Raises WeightsError, or ConfigError without a direction.
    """
    path = Path(path_or_name)
    if path.suffix in (".safetensors", ".ckpt"):
        wanted = None if direction is None else Direction(direction)
        if path.suffix == ".ckpt":
            return _load_published(path, wanted).to(device)
        return load(path if wanted is None else _checked_file(path, wanted, None, "given").path, device)
    name = str(path_or_name)
    if direction is None:
        raise ConfigError(f"the model {name!r} needs a direction: {' or '.join(Direction)}")
    if slug(name) == "parametric":
        from paramisp_cli.models import architecture

        return architecture("parametric")(Direction(direction)).to(device).eval()
    found = find(name, direction, generic=slug(name) == GENERIC)
    if found is None:
        known = sorted({f"{slug(c.header['camera'])}.{c.header['direction']}" for c in available() if not c.damaged})
        raise WeightsError(
            f"there are no {direction} weights for {name!r}; there are: {', '.join(known) or 'none'}. "
            "`paramisp weights import` adds published ones, and --model parametric works without"
        )
    return load(found.path, device)


def verify(path: Path | str) -> dict[str, str]:
    """Load strictly and run a tiny image; returns the header. Raises WeightsError."""
    import torch

    from paramisp_cli.models import Params

    model = load(path)
    x = torch.linspace(0, 1, 3 * 8 * 8).view(1, 3, 8, 8)
    one = torch.ones(1)
    params = Params(torch.tensor([[2.0, 1.0, 1.5]]), torch.eye(3)[None], 100 * one, 0.01 * one, 4 * one, 50 * one)
    with torch.inference_mode():
        y = model(x[:, : model.direction.input.channels], params)
    if not torch.isfinite(y).all():
        raise WeightsError(f"{path} gives values that are not finite for an ordinary image; the weights are of no use")
    return info(path)


# --- published checkpoints --------------------------------------------------------------------------------------------


def import_checkpoint(
    path: Path | str,
    dest: Path | str | None = None,
    *,
    camera: str,
    direction: Direction | str | None = None,
    color_matrix_row_sum: float | None = None,
    licence: str = "",
) -> list[Path]:
    """Convert a published ParamISP checkpoint (Lightning .ckpt) → the files written, one a direction.

    dest is a folder of weights (default: the user's) or, for one direction, a .safetensors file; camera is the name
    that the files get ("Nikon D7000", "generic");
    direction is read from the file, and needed only if that does not tell; color_matrix_row_sum is known for the five
    published cameras and must be given for others, and ``info`` of a written file tells which it got. Code inside the
    file is not run. Raises WeightsError, or ConfigError where an argument is missing.
    """
    path = Path(path)
    if not slug(camera):
        raise ConfigError(f"camera {camera!r} makes no file name; say the make and model")
    row_sum = color_matrix_row_sum if color_matrix_row_sum is not None else published.row_sum_of(camera)
    if row_sum is None:
        raise ConfigError(
            f"by which rule {camera} scales the colour matrix is not known; pass --row-sum "
            "(color_matrix_row_sum): the published weights use 3 for D7000, D90, D40 and A7R III, 1 for the Galaxy S7"
        )
    dest = user_folder() if dest is None else Path(dest)
    source_hash = hashlib.sha256(published.content(path)).hexdigest()
    models = published.read(path, None if direction is None else Direction(direction), row_sum, _build)
    is_file = dest.suffix == ".safetensors"
    if is_file and len(models) > 1:
        raise ConfigError(f"{path} holds both directions, and {dest} is one file; pass direction, or a folder")
    return [
        save(
            model,
            dest if is_file else dest / "paramisp" / f"{slug(camera)}.{way}.safetensors",
            camera=camera,
            recipe="published",
            licence=licence,
            source_hash=source_hash,
            extra={"source": path.name},
        )
        for way, model in models.items()
    ]


def _load_published(path: Path, direction: Direction | None) -> IspModel:
    """A published checkpoint as a model, without writing; the file's name may tell the camera, else row sum 3."""
    models = published.read(path, direction, published.row_sum_of(path.stem) or 3.0, _build)
    if direction is None and len(models) > 1:
        raise ConfigError(f"{path} holds both directions; pass direction: {' or '.join(models)}")
    return next(iter(models.values())) if direction is None else models[direction]
