"""Main memory: how much there is, and how to have it without paying for it again and again."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import re
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from paramisp_cli.errors import ConfigError, FileAccessError

if TYPE_CHECKING:
    from torch import Tensor


def free() -> int:
    """Bytes of main memory that can be had now, the limit of a container and what ``kept`` holds included."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8 << 30
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(lines.get("MemAvailable", f"{available >> 10} kB").split()[0]) << 10
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        available = min(available, max(int(text) - int(used.read_text()), 0))
    return available + sum(len(mapping) for mapping in _spare)


@cache
def keep_freed() -> None:
    """Tell glibc to keep what is freed: by default every temporary over 128 kB is mapped, zeroed and unmapped again,
    which is half of a network's time. Does nothing elsewhere.
    """  # fmt: skip
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-2, 256 << 20)  # M_TOP_PAD
    except (OSError, AttributeError):  # another C library
        return


_spare: list[mmap.mmap] = []
_keepers: list[None] = []


@contextmanager
def kept() -> Iterator[None]:
    """Inside it, what ``pool`` gave stays when it is done with, for the next picture: giving it back to the system and
    having it zeroed again is a twentieth to a seventh of a network's time.
    """  # fmt: skip
    _keepers.append(None)
    try:
        yield
    finally:
        _keepers.pop()
        if not _keepers:
            release()


def release() -> None:
    """Give back to the system what is kept and not used now."""
    _spare.clear()


def pool(count: int, like: Tensor) -> Tensor:
    """(count,) uninitialised numbers, on 2-MB pages where the system has them (first touch of 4-kB pages is 1 s/GB)."""
    import torch  # here, for who only lists files does not wait for it

    size = count * like.element_size()
    if like.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE") or size < 8 << 20:
        return torch.empty(count, dtype=like.dtype, device=like.device)
    mapping = next((spare for spare in _spare[:] if size <= len(spare) <= size * 1.1 and _taken(spare)), None)
    if mapping is None:
        release()  # pictures of another size have come, and what these left would only take their room
        mapping = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a shared one gets no large pages
        mapping.madvise(mmap.MADV_HUGEPAGE)
    # Not the mapping itself: this one ends with the last view of the tensor, and can say so.
    lent = (ctypes.c_char * len(mapping)).from_buffer(mapping)
    weakref.finalize(lent, _back, mapping).atexit = False
    return torch.frombuffer(lent, dtype=like.dtype, count=count)


class Scratch:
    """A file for what memory has no room for. It has no name, and ends with the context or the process."""

    def __init__(self, folder: Path | None, size: int) -> None:
        """``size`` bytes in ``folder`` (None: the system's).

        ConfigError if it lies in memory, FileAccessError if they do not fit.
        """
        self.folder, self.given = folder or Path(tempfile.gettempdir()), 0
        if _in_memory(self.folder):
            raise ConfigError(f"{self.folder} lies in memory itself; pass --scratch with a folder on a disk")
        self.size = size

    def __enter__(self) -> Scratch:
        try:
            self.file = tempfile.TemporaryFile(prefix=".paramisp-", dir=self.folder, buffering=0)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self.file.fileno(), 0, self.size)  # now, rather than in the middle of the work
            except OSError:
                self.file.close()
                raise
        except OSError as error:
            why = f"no room for a file of {self.size / 1e9:.1f} GB: {error.strerror or error}"
            raise FileAccessError(f"{self.folder}: {why}; pass --scratch with another folder") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def rows(self, shape: tuple[int, ...], window: int, like: Tensor) -> ScratchRows:
        """A tensor of this shape in the next part of the file, ``window`` rows of which are in memory at a time."""
        begin = self.given
        self.given += math.prod(shape) * like.element_size()
        return ScratchRows(self, begin, shape, min(window, shape[0]), like)

    def transfer(self, rows: Tensor, place: int, *, write: bool) -> None:
        """Read or write contiguous rows at a place [bytes] in the file. FileAccessError if that fails."""
        left = rows.numpy().data.cast("B")
        try:
            self.file.seek(place)
            while left:
                done = self.file.write(left) if write else self.file.readinto(left)
                if not done:
                    raise OSError("the file ends early")
                left = left[done:]
        except OSError as error:
            raise FileAccessError(f"{self.folder}: the scratch file: {error.strerror or error}") from None

    def expect(self, place: int, size: int) -> None:
        """Have the system read ahead."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.fileno(), place, size, os.POSIX_FADV_WILLNEED)


class ScratchRows:
    """A tensor in a Scratch, of which a window of rows is in memory, and slides down over it again and again."""

    def __init__(self, scratch: Scratch, begin: int, shape: tuple[int, ...], window: int, like: Tensor) -> None:
        self.scratch, self.begin, self.count, self.window = scratch, begin, shape[0], window
        self.row = math.prod(shape[1:]) * like.element_size()
        self.room = pool(window * math.prod(shape[1:]), like).view(window, *shape[1:])
        self.first = self.end = 0  # rows of the tensor in the room
        self.changed = 0, 0  # of these, those that the file does not have

    def __call__(self, first: int, end: int, *, fresh: bool = False, change: bool = False) -> Tensor:
        """Rows [first, end), a view until the next call that goes further down or back up.

        ``fresh``: whoever asks overwrites them, so that they need not be read. ``change``: what is done to them counts.
        """
        if not self.first <= first or end > self.end:
            self._slide(first, end, fresh)
        if change:
            low, high = self.changed if self.changed[0] < self.changed[1] else (first, end)
            self.changed = min(low, first), max(high, end)
        return self.room[first - self.first : end - self.first]

    def _slide(self, first: int, end: int, fresh: bool) -> None:
        ahead = self.first <= first < self.end  # else it begins anew
        start, kept = (max(end - self.window, self.first), self.end) if ahead else (first, first)
        low, high = self.changed
        if not ahead or low < start:  # those that leave
            self._transfer(low, high if not ahead else min(high, start), write=True)
            self.changed = (max(low, start), high) if ahead else (0, 0)
        if ahead and start > self.first:
            self.room[: kept - start] = self.room[start - self.first : kept - self.first].clone()
        self.first, self.end = start, end
        if not fresh:
            self._transfer(kept, end, write=False)
            following = min(end + self.window, self.count)
            self.scratch.expect(self.begin + end * self.row, (following - end) * self.row)

    def _transfer(self, first: int, end: int, *, write: bool) -> None:
        if first < end:
            place = self.room[first - self.first : end - self.first]
            self.scratch.transfer(place, self.begin + first * self.row, write=write)


_MOUNTS = Path("/proc/self/mountinfo")


def _in_memory(folder: Path) -> bool:
    """Whether a folder's files are in memory, as /tmp's are on many systems."""
    if not _MOUNTS.exists():
        return False
    kinds: dict[Path, str] = {}
    for line in _MOUNTS.read_text().splitlines():
        place, _, about = line.partition(" - ")
        mount = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), place.split()[4])  # a space is \040 there
        kinds[Path(mount)] = about.split()[0]
    folder = folder.resolve()
    return next((kinds[f] for f in (folder, *folder.parents) if f in kinds), "") in ("tmpfs", "ramfs")


def _taken(mapping: mmap.mmap) -> bool:
    """Take it from the spare ones, unless another thread just has."""
    try:
        _spare.remove(mapping)
    except ValueError:
        return False
    return True


def _back(mapping: mmap.mmap) -> None:
    """Keep a mapping that nobody uses any more, or let go of it, which unmaps it."""
    if _keepers:
        _spare.append(mapping)
