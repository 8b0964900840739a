"""Read the pickles of ``torch.save`` without running any code in them.

Every class and function that a pickle names is replaced by an inert stub, except the few that make tensors: this module
implements them. ``torch_zip`` and ``torch_legacy`` read the two containers. All sizes are checked before anything is
read. Importing this module does not import torch.
"""

from __future__ import annotations

import io
import math
import pickle
import stat
import struct
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli.errors import WeightsError

# Bounds of a checkpoint's pickle. A published network has 50 kB, 12 thousand operations and a dozen globals.
MAX_PICKLE = 16 << 20  # bytes
_MAX_OPERATIONS = 500_000
_MAX_GLOBALS = 1000
MAX_DIMENSIONS = 8
"""Most dimensions of a tensor."""
_MAX_FILE = 1 << 30
"""Largest file [bytes]; the published ones have 12 MB at most."""


def content(path: Path, most: int = -1) -> bytes:
    """Return the file's bytes, or its first ``most``; WeightsError if it cannot be read, or is far too large."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise WeightsError(f"{path} is no regular file")
        if facts.st_size > _MAX_FILE:
            raise WeightsError(
                f"{path} has {facts.st_size / 1e9:.1f} GB, and a checkpoint at most {_MAX_FILE / 1e9:.1f}"
            )
        with path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError as error:
        raise WeightsError(f"{path} does not exist") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


# Name of torch's storage class → type of its numbers. bfloat16 has no numpy type and is in no published file.
STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "<u1",
}  # fmt: skip


class Inert:
    """A stand-in for every unknown object that a pickle names: it accepts any call and does nothing.

    It stores named values as plain attributes, so that a published checkpoint's ``inverse`` can be read.
    """

    def __new__(cls, *args: object, **kwargs: object) -> Inert:  # noqa: D102
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __call__(self, *args: object, **kwargs: object) -> Inert:  # noqa: D102
        return self

    def __setstate__(self, state: object) -> None:
        for key, value in state.items() if isinstance(state, dict) else ():
            self[key] = value

    def __setitem__(self, key: object, value: object) -> None:
        if isinstance(key, str):
            self.__dict__[key] = value

    def append(self, item: object) -> None:
        """Do nothing."""

    def extend(self, items: object) -> None:
        """Do nothing."""

    def add(self, item: object) -> None:
        """Do nothing."""


@dataclass(frozen=True, eq=False)
class Storage:
    """The name of a tensor's bytes in the file, as claimed by the pickle: untrusted."""

    member: object
    dtype: object
    count: object


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor as claimed by the pickle: untrusted, and neither checked nor read before ``array``."""

    storage: object
    offset: object
    shape: object
    stride: object

    def array(self, archive: Container, where: str) -> np.ndarray:
        """Read the numbers, float32 or float16; WeightsError unless they lie inside a storage of the stated size."""
        storage, shape, stride = self.storage, self.shape, self.stride
        if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(stride, tuple)):
            raise WeightsError(f"{where} is not a plain tensor; the file is damaged or hostile")
        member: Any = storage.member
        dtype: Any = storage.dtype
        total: Any = storage.count
        start: Any = self.offset
        plain = isinstance(member, str) and isinstance(dtype, str) and dtype in STORAGES.values()
        numbers = (start, total, *shape, *stride)
        sane = len(shape) == len(stride) <= MAX_DIMENSIONS and all(type(v) is int and 0 <= v < 1 << 40 for v in numbers)
        if isinstance(member, str) and not plain:
            raise WeightsError(f"{where} has numbers of a type that is not read, such as bfloat16; save it as float32")
        if not (plain and sane):
            raise WeightsError(f"{where} has an absurd shape or storage; the file is damaged or hostile")
        data = archive.storage(member, where)
        end = start + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1
        if data.size != total * np.dtype(dtype).itemsize or (math.prod(shape) and end > total):
            raise WeightsError(f"{where}: its storage of {data.size} bytes does not fit it; the file is damaged")
        archive.spend(math.prod(shape), where)
        if not math.prod(shape):
            return np.empty(shape, np.float32)
        steps = [step * np.dtype(dtype).itemsize for step in stride]
        values = np.lib.stride_tricks.as_strided(data.view(dtype)[start:end], shape, steps, writeable=False)
        return values.copy() if dtype == "<f2" else values.astype(np.float32)


def _rebuild_tensor(storage: object, offset: object, shape: object, stride: object, *_: object) -> TensorRef:
    return TensorRef(storage, offset, shape, stride)


def _rebuild_parameter(data: object = None, *_: object) -> object:
    return data


def _ordered_dict(pairs: Any = ()) -> OrderedDict[object, object]:
    items: OrderedDict[object, object] = OrderedDict()
    for key, value in pairs:
        _check_keys([key])
        items[key] = value
    return items


class _Constructor:
    """A callable without attributes that a pickle could change."""

    __slots__ = ("_call",)
    _call: Any

    def __init__(self, call: Any) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: object) -> object:
        return self._call(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError("a pickle tries to change a constructor")


_KNOWN = {
    ("collections", "OrderedDict"): _Constructor(_ordered_dict),
    ("torch._utils", "_rebuild_tensor_v2"): _Constructor(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Constructor(_rebuild_parameter),
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


def _check_keys(keys: Iterable[object]) -> None:
    """Raise ValueError for a key of a dictionary or set whose hash is slow or made to collide.

    The hash of a nested tuple may take 2^n time for n operations, or recursion deeper than the stack. An attacker can
    give any number of tuples, or of integers beyond 2^61, the same hash.
    """
    for key in keys:
        if isinstance(key, tuple | frozenset) or (isinstance(key, int) and abs(key) >= 1 << 61):
            raise ValueError(f"a {type(key).__name__} as the key of a dictionary or set")


class _Operations(Mapping[int, Callable[[Any], None]]):
    """The pickle operations for plain data, by code. It counts uses and raises ValueError beyond the bound."""

    def __init__(self, known: Mapping[int, Callable[[Any], None]]) -> None:
        self.known, self.left = known, _MAX_OPERATIONS

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"its pickle has more than {_MAX_OPERATIONS} operations")
        if code not in self.known:
            raise ValueError(f"its pickle has the operation {code:#x}, which no checkpoint needs")
        return self.known[code]

    def __iter__(self) -> Iterator[int]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


class _Unpickler(pickle._Unpickler):
    """A reader of pickles that runs none of their code: a global outside ``_KNOWN`` becomes an inert class.

    It extends the pickle interpreter in Python, not the one in C: its memo is a dictionary (in C it is an array, and
    one PUT at a huge index takes all memory), and operations can be counted, replaced and left out.
    """

    # The base class creates these when it starts.
    stack: list[Any]
    append: Callable[[object], None]
    read: Callable[[int], bytes]

    def __init__(self, stream: io.BytesIO, folder: str | None) -> None:
        super().__init__(stream, encoding="utf-8", errors="replace")
        self.folder = folder
        self.storages: list[Storage] = []
        self.inert: dict[tuple[str, str], type] = {}
        self.dispatch: Any = _Operations(_OPERATIONS)  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        """Return a known constructor or an inert class, and never import; each inert global has its own class."""
        if (known := _KNOWN.get((module, name))) is not None:
            return known
        if len(self.inert) >= _MAX_GLOBALS:
            raise ValueError(f"its pickle names more than {_MAX_GLOBALS} classes and functions")
        return self.inert.setdefault((module, name), type("Inert", (Inert,), {}))

    def persistent_load(self, pid: Any) -> object:
        """Return a Storage for ("storage", storage class, key, device, count), an inert object for anything else.

        The old container, which has no ``folder``, adds None or a view, which published checkpoints do not have.
        """
        length = 6 if self.folder is None else 5
        if not (isinstance(pid, tuple) and len(pid) == length and pid[0] == "storage" and pid[5:] in ((), (None,))):
            return Inert()
        _, dtype, key, _, count = pid[:5]
        member = key if self.folder is None else f"{self.folder}/data/{key}"
        self.storages.append(Storage(member if isinstance(key, str) else None, dtype, count))
        return self.storages[-1]

    def build(self) -> None:
        """Set the attributes of an inert object; ignore attributes of other objects (state_dict._metadata)."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            Inert.__setstate__(self.stack[-1], state)

    def bytearray8(self) -> None:
        """Read a bytearray as bytes: Python's own method allocates the length that the pickle claims."""
        (length,) = struct.unpack("<Q", self.read(8))
        if length > MAX_PICKLE:
            raise ValueError(f"a bytearray of {length} bytes")
        self.append(self.read(length))


def _with_checked_keys(code: bytes, keys: Callable[[list[Any]], Iterable[object]]) -> Callable[[Any], None]:
    """Return Python's method for an operation, preceded by a check of the ``keys`` that it takes from the stack."""
    method = pickle._Unpickler.dispatch[code[0]]

    def checked(unpickler: Any) -> None:
        _check_keys(keys(unpickler.stack))
        method(unpickler)

    return checked


# Without the extension registry and out-of-band buffers. The stack begins at the last mark.
_OPERATIONS: dict[int, Callable[[Any], None]] = {
    code: method
    for code, method in pickle._Unpickler.dispatch.items()
    if bytes([code]) not in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)
} | {
    pickle.BUILD[0]: _Unpickler.build,
    pickle.BYTEARRAY8[0]: _Unpickler.bytearray8,
    pickle.SETITEM[0]: _with_checked_keys(pickle.SETITEM, lambda stack: stack[-2:-1]),
    pickle.SETITEMS[0]: _with_checked_keys(pickle.SETITEMS, lambda stack: stack[::2]),
    pickle.DICT[0]: _with_checked_keys(pickle.DICT, lambda stack: stack[::2]),
    pickle.ADDITEMS[0]: _with_checked_keys(pickle.ADDITEMS, lambda stack: stack),
    pickle.FROZENSET[0]: _with_checked_keys(pickle.FROZENSET, lambda stack: stack),
}


def unpickle(data: bytes, folder: str) -> object:
    """Return the object in a zip container's pickle, inert. A damaged pickle raises ValueError or any other error."""
    return _Unpickler(io.BytesIO(data), folder).load()


def unpickle_next(stream: io.BytesIO) -> tuple[Any, list[Storage]]:
    """Return the next object in a stream of pickles, inert, and the storages that it names. Raises as ``unpickle``."""
    begin = stream.tell()
    window = io.BytesIO(stream.read(MAX_PICKLE))
    unpickler = _Unpickler(window, None)
    saved = unpickler.load()
    stream.seek(begin + window.tell())
    return saved, unpickler.storages


class Container(ABC):
    """A file of ``torch.save``: the saved object, and the bytes of its tensors."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.left = path, 4 * size  # total of numbers that further tensors may have

    @abstractmethod
    def saved(self) -> Any:
        """Return the saved object, with TensorRef for tensors."""

    @abstractmethod
    def storage(self, member: str, where: str) -> np.ndarray:
        """Return the bytes (N,) of a storage; tensors that share it read it once."""

    def spend(self, numbers: int, where: str) -> None:
        """Count the numbers of one more tensor; raises WeightsError when tensors repeat a storage too often."""
        self.left -= numbers
        if self.left < 0:
            raise WeightsError(f"{where}: its tensors hold more numbers than the file; it is damaged or hostile")

    @contextmanager
    def wrapped_damage(self) -> Iterator[None]:
        """Turn every error of a damaged file into a WeightsError of one line."""
        try:
            yield
        except WeightsError:
            raise
        except MemoryError as error:
            raise WeightsError(
                f"{self.path} needs more memory than there is; the file is damaged or hostile"
            ) from error
        except Exception as error:  # a damaged pickle may provoke any error in the unpickler
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"{self.path} is damaged: {type(error).__name__}: {reason}".rstrip(": ")) from error
