"""The authors' published ParamISP checkpoints (Lightning ``.ckpt``): read without running what is in them.

Every class and function that such a file names is replaced by an inert stub, except the few that make tensors, which
are ours; the tensors are renamed, checked against each other and loaded strictly. Importing this module costs no torch.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paramisp_cli.cameras import slug
from paramisp_cli.errors import ConfigError, WeightsError
from paramisp_cli.types import Direction

if TYPE_CHECKING:
    import torch

    from paramisp_cli.models.base import IspModel

    Build = Callable[[str, str, str, str, Mapping[str, torch.Tensor]], IspModel]

_MAX_PICKLE = 64 << 20

ROW_SUM_THREE = ("d7000", "d90", "d40", "a7r3", "a7r-iii", "a7riii", "ilce-7rm3")
ROW_SUM_ONE = ("s7", "galaxy-s7", "sm-g930")
"""Words in a camera's or a file's slug that tell by which rule the published weights scaled the colour matrix."""


def row_sum_of(name: str) -> float | None:
    """How the published weights of a camera scale the rows of ``cam_to_srgb``: 3, 1, or None for a camera not known."""
    text = f"-{slug(name)}-"
    for words, row_sum in ((ROW_SUM_THREE, 3.0), (ROW_SUM_ONE, 1.0)):
        if any(f"-{word}-" in text for word in words):
            return row_sum
    return None


def _names() -> dict[str, str]:
    """Module of a published network → module of ours; each has .weight and .bias."""
    names = {f"tonenet.convs.{i}": f"globalnet.convs.{i}" for i in range(3)}
    names |= {f"tonenet.fcs.{i}": f"globalnet.hidden.{i}" for i in range(2)}
    names |= {f"tonenet.fc_last.{i}": f"globalnet.last.{i}" for i in range(4)}
    names |= {"tonenet.fc_index": "globalnet.stage", "hypertonenet.fc_embed": "globalnet.condition"}
    names |= {"localnet.conv_head": "localnet.head", "localnet.conv_tail": "localnet.tail"}
    names |= {"hyperlocalnet.fc_head": "localnet.condition"}
    # The published decoder counts by level, full size first; ours counts in order of use. (Found by parity: with any
    # other order of the ten blocks and the two up-convolutions the stored outputs are not reproduced.)
    names |= {f"localnet.conv_down.{i}": f"localnet.down.{i}" for i in range(2)}
    names |= {f"localnet.conv_up.{i}": f"localnet.up.{1 - i}" for i in range(2)}
    parts = {"conv1": "conv1", "conv2": "conv2", "chattn.conv1": "channel1", "chattn.conv2": "channel2"}
    parts |= {"spattn.conv": "spatial"}
    for used, i in enumerate((0, 1, 2, 3, 4, 5, 8, 9, 6, 7)):
        names |= {f"localnet.resblks.{i}.{theirs}": f"localnet.blocks.{used}.{ours}" for theirs, ours in parts.items()}
    names |= {"embed_color": "paramnet.color"}
    embeds = {"focallen": "focal_length", "aperture": "f_number", "expstime": "exposure_time", "senstvty": "iso"}
    names |= {f"embed_{theirs}": f"paramnet.optical.{ours}" for theirs, ours in embeds.items()}
    return names | {f"embednet.{i}": f"paramnet.mlp.{i}" for i in (1, 3, 5)}


NAMES = _names()
_DROPPED = ("demosaic.", "ms_ssim_loss.", "embed_id.")
_REPEATED = {"hypertonenet.target.": "tonenet.", "hyperlocalnet.target.": "localnet."}
_JOINT = {"rgb2raw.": Direction.UNPROCESS, "raw2rgb.": Direction.RENDER}


def content(path: Path) -> bytes:
    """The file's bytes; WeightsError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise WeightsError(f"{path} does not exist") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def read(path: Path, direction: Direction | None, row_sum: float, build: Build) -> dict[Direction, IspModel]:
    """The networks of a published checkpoint by direction; of a joint one, both or the one asked for.

    ``build`` makes a model, strictly, of (where, architecture, config as JSON, direction, tensors). Raises
    WeightsError, or ConfigError if the file does not tell its direction.
    """
    content, archive = _read_torch_zip(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise WeightsError(f"{path} has no state_dict of named tensors; it is not a published ParamISP checkpoint")
    if not any(key.startswith(tuple(_JOINT)) for key in state):
        told = _told_direction(content)
        if direction is not None and told not in (None, direction):
            raise WeightsError(f"{path} is for {told}, {direction} is needed")
        if (way := direction or told) is None:
            raise ConfigError(f"{path} does not say its direction; pass direction: {' or '.join(Direction)}")
        return {way: _convert(path, archive, state, way, row_sum, build)}
    models = {}
    for prefix, way in _JOINT.items():
        if direction in (None, way):
            part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            models[way] = _convert(path, archive, part, way, row_sum, build)
    loose = [key for key in state if not key.startswith((*_JOINT, *_DROPPED))]
    if loose:
        raise WeightsError(f"{path} has tensors that ParamISP does not: {', '.join(loose[:4])}")
    return models


def _told_direction(content: Mapping[object, object]) -> Direction | None:
    """The direction by the training program's own ``inverse`` flag, plain data beside the weights, if it is there."""
    hyper = content.get("hyper_parameters")
    for _ in range(2):  # the flag itself, or an ``args`` that holds it
        hyper = hyper.__dict__ if isinstance(hyper, _Inert) else hyper
        hyper = hyper if isinstance(hyper, dict) else {}
        if "inverse" in hyper:
            break
        hyper = hyper.get("args")
    inverse = hyper.get("inverse") if isinstance(hyper, dict) else None
    if not isinstance(inverse, bool):
        return None
    return Direction.UNPROCESS if inverse else Direction.RENDER


def _convert(
    path: Path,
    archive: zipfile.ZipFile,
    state: Mapping[str, object],
    direction: Direction,
    row_sum: float,
    build: Build,
) -> IspModel:
    """One published network: rename, drop what is known to be idle, refuse the rest."""
    import torch

    from paramisp_cli.models.paramisp import ParamISP

    tensors: dict[str, torch.Tensor] = {}
    arrays: dict[str, np.ndarray] = {}
    for key, value in state.items():
        if key.startswith(_DROPPED):
            continue
        if not isinstance(value, _TensorRef):
            raise WeightsError(f"{path}: {key} in state_dict is not a tensor; the file is damaged or hostile")
        arrays[key] = value.array(archive, f"{path}: {key}")
    for key, array in arrays.items():
        repeated = next((prefix for prefix in _REPEATED if key.startswith(prefix)), None)
        if repeated is not None:
            original = arrays.get(_REPEATED[repeated] + key.removeprefix(repeated))
            if original is None or not np.array_equal(original, array):
                raise WeightsError(f"{path}: {key} differs from the tensor that it should repeat")
            continue
        module, _, kind = key.rpartition(".")
        if module not in NAMES or kind not in ("weight", "bias"):
            raise WeightsError(f"{path} has a tensor that ParamISP does not: {key}")
        tensors[f"{NAMES[module]}.{kind}"] = torch.from_numpy(array)
    wanted = [f"{theirs}.{kind}" for theirs in NAMES for kind in ("weight", "bias")]
    if missing := [key for key in wanted if key not in arrays]:
        some = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
        raise WeightsError(f"{path} misses {len(missing)} of ParamISP's tensors: {some}")
    config = json.dumps(ParamISP(direction, color_matrix_row_sum=row_sum, demosaic_border="replicate").config())
    return build(str(path), "paramisp", config, str(direction), tensors)


# torch's storage classes by name → what their bytes are. bfloat16 has no numpy type and is in no published file.
_STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "<u1",
}  # fmt: skip


class _Inert:
    """Stands for every object that a pickle wants and we do not know: takes anything, does nothing.

    It keeps what it is given by name as plain attributes, so that ``inverse`` can be read.
    """

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __call__(self, *args: object, **kwargs: object) -> _Inert:
        return self

    def __setstate__(self, state: object) -> None:
        for key, value in state.items() if isinstance(state, dict) else ():
            self[key] = value

    def __setitem__(self, key: object, value: object) -> None:
        if isinstance(key, str):
            self.__dict__[key] = value

    def append(self, item: object) -> None:
        """Nothing."""

    def extend(self, items: object) -> None:
        """Nothing."""

    def add(self, item: object) -> None:
        """Nothing."""


@dataclass(frozen=True, eq=False)
class _Storage:
    """Where a tensor's bytes are in the zip file, as the pickle tells it; nothing is trusted."""

    member: object
    dtype: object
    count: object


@dataclass(frozen=True, eq=False)
class _TensorRef:
    """A tensor as the pickle describes it; nothing is trusted or read before ``array``."""

    storage: object
    offset: object
    shape: object
    stride: object

    def array(self, archive: zipfile.ZipFile, where: str) -> np.ndarray:
        """The numbers, float32 or float16; raises WeightsError unless they lie inside a storage of the stated size."""
        storage, shape, stride = self.storage, self.shape, self.stride
        if not (isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(stride, tuple)):
            raise WeightsError(f"{where} is not a plain tensor; the file is damaged or hostile")
        member: Any = storage.member
        dtype: Any = storage.dtype
        total: Any = storage.count
        start: Any = self.offset
        plain = isinstance(member, str) and isinstance(dtype, str) and dtype in _STORAGES.values()
        numbers = (start, total, *shape, *stride)
        sane = all(type(v) is int and 0 <= v < 1 << 40 for v in numbers) and len(shape) == len(stride) <= 8
        if not (plain and sane):
            raise WeightsError(f"{where} has an absurd shape or storage; the file is damaged or hostile")
        contiguous = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        if any(given != plain and size > 1 for given, plain, size in zip(stride, contiguous, shape, strict=True)):
            raise WeightsError(f"{where} is not stored contiguously, which published checkpoints are")
        try:
            entry = archive.getinfo(member)
            fits = entry.file_size == total * np.dtype(dtype).itemsize and start + math.prod(shape) <= total
            if not fits or entry.compress_type != zipfile.ZIP_STORED:
                raise WeightsError(f"{where}: {entry.file_size} bytes do not make its storage; the file is damaged")
            data = np.frombuffer(archive.read(entry), dtype)[start : start + math.prod(shape)].reshape(shape)
        except (KeyError, ValueError, zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
            raise WeightsError(f"{where}: its storage cannot be read ({error}); the file is damaged") from error
        return data.copy() if dtype == "<f2" else data.astype(np.float32)


def _rebuild_tensor(storage: object, offset: object, shape: object, stride: object, *_: object) -> _TensorRef:
    return _TensorRef(storage, offset, shape, stride)


def _rebuild_parameter(data: object = None, *_: object) -> object:
    return data


class _Constructor:
    """A callable without attributes that a pickle could change."""

    __slots__ = ("_call",)
    _call: Any

    def __init__(self, call: Any) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: object) -> object:
        return self._call(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError("a pickle wants to change a constructor")


_KNOWN = {
    ("collections", "OrderedDict"): _Constructor(OrderedDict),
    ("torch._utils", "_rebuild_tensor_v2"): _Constructor(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Constructor(_rebuild_parameter),
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Reads the data of a pickle and runs none of its code: what is not in ``_KNOWN`` becomes an inert class."""

    def __init__(self, data: bytes, folder: str) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="replace")
        self.folder = folder

    def find_class(self, module: str, name: str) -> Any:
        """Never imports. A class of its own for each inert global, so that none can change another's."""
        known = _KNOWN.get((module, name))
        return known if known is not None else type("Inert", (_Inert,), {})

    def persistent_load(self, pid: Any) -> object:
        """("storage", storage class, key, device, count) → _Storage; anything else is inert."""
        if isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage":
            _, dtype, key, _, count = pid
            return _Storage(f"{self.folder}/data/{key}" if isinstance(key, str) else None, dtype, count)
        return _Inert()


def _unpickle(data: bytes, folder: str) -> object:
    """The object in a pickle, inert; raises ValueError or whatever a damaged pickle provokes."""
    for opcode, argument, _ in pickletools.genops(data):
        # The memo is an array: one PUT with a huge index would ask for all the memory there is.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
            raise ValueError(f"memo index {argument}")
    return _Unpickler(data, folder).load()


def _read_torch_zip(path: Path) -> tuple[Any, zipfile.ZipFile]:
    """The object that ``torch.save`` wrote, with _TensorRef for tensors, and the zip file; raises WeightsError."""
    raw = content(path)
    if not raw.startswith(b"PK"):
        raise WeightsError(
            f"{path} is not a zip file as torch 1.6 and later write them; if it is a checkpoint of an older torch, "
            "load it there and save it again"
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
        names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(names) != 1:
            raise WeightsError(f"{path} is a zip file, but not one that torch wrote: it has {len(names)} data.pkl")
        folder = names[0].removesuffix("/data.pkl")
        entry = archive.getinfo(names[0])
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > min(_MAX_PICKLE, len(raw)):
            raise WeightsError(f"{path}: its data.pkl, of {entry.file_size} bytes, is not one that torch writes")
        if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder").strip() != b"little":
            raise WeightsError(f"{path} was written on a big-endian machine; save it again on another")
        return _unpickle(archive.read(entry), folder), archive
    except WeightsError:
        raise
    except MemoryError as error:
        raise WeightsError(f"{path} wants more memory than there is; the file is damaged or hostile") from error
    except Exception as error:  # a damaged pickle may provoke any error in the C unpickler
        raise WeightsError(f"{path} is damaged: {type(error).__name__}: {error}") from error
