"""Stores for tensors that do not fit the computing device's memory: a file, or host memory beside a GPU.

A window holds some rows of a tensor in memory; the other rows are in the store.
"""

from __future__ import annotations

import errno
import math
import os
import re
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramisp_cli import memory
from paramisp_cli.errors import ConfigError, FileAccessError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class _Store(ABC):
    """A store of ``size`` bytes, assigned to tensors one after the other."""

    def __init__(self, size: int) -> None:
        self.size, self.given = size, 0

    def rows(self, shape: tuple[int, ...], window: int, like: Tensor) -> Window:
        """Assign the next bytes to a tensor of this shape; ``window`` rows of it are in memory at a time."""
        begin = self.given
        self.given += math.prod(shape) * like.element_size()
        return Window(self, begin, shape, min(window, shape[0]), like)

    @abstractmethod
    def transfer(self, rows: Tensor, place: int, *, write: bool) -> None:
        """Write contiguous rows to a place [bytes] in the store, or read them from it."""

    @abstractmethod
    def expect(self, place: int, size: int) -> None:
        """Prepare for reading these bytes soon."""


class Scratch(_Store):
    """A temporary file without a name. It ends with the context or the process."""

    def __init__(self, size: int, folder: Path | None = None) -> None:
        """Plan a file of ``size`` bytes in ``folder`` (None: the system's).

        Raises ConfigError for a folder in memory; entering raises FileAccessError if the file does not fit.
        """
        super().__init__(size)
        self.folder = folder or Path(tempfile.gettempdir())
        if _in_memory(self.folder):
            raise ConfigError(f"{self.folder} is in memory, not on a disk; pass `scratch` with a folder on a disk")

    def __enter__(self) -> Scratch:
        try:
            self.file = tempfile.TemporaryFile(prefix=".paramisp-", dir=self.folder, buffering=0)
            try:
                self._reserve()
            except OSError:
                self.file.close()
                raise
        except OSError as error:
            reason = f"no room for a file of {self.size / 1e9:.1f} GB: {error.strerror or error}"
            raise FileAccessError(f"{self.folder}: {reason}; pass `scratch` with another folder") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _reserve(self) -> None:
        """Reserve the file's size, if the system can: a full disk then fails now, not in the middle of the work."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self.file.fileno(), 0, self.size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # the file system cannot reserve
                    raise

    def transfer(self, rows: Tensor, place: int, *, write: bool) -> None:
        """Write or read rows; raises FileAccessError."""
        rest = rows.numpy().data.cast("B")
        try:
            self.file.seek(place)
            while rest:
                done = self.file.write(rest) if write else self.file.readinto(rest)
                if not done:
                    raise OSError("the file ends early")
                rest = rest[done:]
        except OSError as error:
            raise FileAccessError(f"{self.folder}: the scratch file: {error.strerror or error}") from None

    def expect(self, place: int, size: int) -> None:
        """Ask the system to read ahead."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.fileno(), place, size, os.POSIX_FADV_WILLNEED)


class HostMemory(_Store):
    """Host memory beside a GPU, pinned on CUDA: copies run at the bus's speed, in order with the computation."""

    def __enter__(self) -> HostMemory:
        import torch

        self.bytes = torch.empty(self.size, dtype=torch.uint8)
        # Registered here: torch's own pinned memory would be rounded up to a power of two.
        self.pinned = torch.cuda.is_available() and self._register() == 0
        self.device: torch.device | None = None
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        if self.pinned:
            torch.cuda.synchronize(self.device)  # copies may still be under way
            cudart: Any = torch.cuda.cudart
            cudart().cudaHostUnregister(self.bytes.data_ptr())
        del self.bytes

    def _register(self) -> int:
        """Pin the memory; return CUDA's error code, 0 for success."""
        import torch

        cudart: Any = torch.cuda.cudart
        return int(cudart().cudaHostRegister(self.bytes.data_ptr(), self.size, 0))

    def transfer(self, rows: Tensor, place: int, *, write: bool) -> None:
        """Copy rows to or from the host; pinned memory is copied in the device's order of operations."""
        self.device = rows.device
        stored = self.bytes[place : place + rows.numel() * rows.element_size()].view(rows.dtype).view(rows.shape)
        target, source = (stored, rows) if write else (rows, stored)
        target.copy_(source, non_blocking=self.pinned)

    def expect(self, place: int, size: int) -> None:
        """Do nothing: memory needs no read-ahead."""


class Window:
    """A tensor in a store, with a window of its rows in memory that slides down over the tensor repeatedly."""

    def __init__(self, store: _Store, begin: int, shape: tuple[int, ...], window: int, like: Tensor) -> None:
        self.store, self.begin, self.count, self.window = store, begin, shape[0], window
        self.row = math.prod(shape[1:]) * like.element_size()
        self.room = memory.pool(window * math.prod(shape[1:]), like).view(window, *shape[1:])
        self.first = self.end = 0  # rows of the tensor in the window
        self.changed = 0, 0  # rows in the window that are not yet written to the store

    def __call__(self, first: int, end: int, *, fresh: bool = False, change: bool = False) -> Tensor:
        """Return rows [first, end), a view that is valid until the next call that moves the window.

        ``fresh``: the caller overwrites the rows, so they are not read. ``change``: the rows are written back.
        """
        if not self.first <= first or end > self.end:
            self._slide(first, end, fresh)
        if change:
            low, high = self.changed if self.changed[0] < self.changed[1] else (first, end)
            self.changed = min(low, first), max(high, end)
        return self.room[first - self.first : end - self.first]

    def _slide(self, first: int, end: int, fresh: bool) -> None:
        ahead = self.first <= first < self.end  # else the window is refilled
        start, present = (max(end - self.window, self.first), self.end) if ahead else (first, first)
        low, high = self.changed
        if not ahead or low < start:  # write back rows leaving the window
            self._transfer(low, high if not ahead else min(high, start), write=True)
            self.changed = (max(low, start), high) if ahead else (0, 0)
        if ahead and start > self.first:
            self.room[: present - start] = self.room[start - self.first : present - self.first].clone()
        self.first, self.end = start, end
        if not fresh:
            self._transfer(present, end, write=False)
            following = min(end + self.window, self.count)
            self.store.expect(self.begin + end * self.row, (following - end) * self.row)

    def _transfer(self, first: int, end: int, *, write: bool) -> None:
        if first < end:
            place = self.room[first - self.first : end - self.first]
            self.store.transfer(place, self.begin + first * self.row, write=write)


_MOUNTS = Path("/proc/self/mountinfo")


def _in_memory(folder: Path) -> bool:
    """Tell whether a folder's files are in memory, like /tmp on many systems."""
    if not _MOUNTS.exists():
        return False
    kinds: dict[Path, str] = {}
    for line in _MOUNTS.read_text().splitlines():
        place, _, about = line.partition(" - ")
        mount = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), place.split()[4])  # \040 is a space
        kinds[Path(mount)] = about.split()[0]
    folder = folder.resolve()
    return next((kinds[f] for f in (folder, *folder.parents) if f in kinds), "") in ("tmpfs", "ramfs")
