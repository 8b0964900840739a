"""Main memory: how much there is, and how to have it without paying for it again and again."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

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
        stat = Path("/sys/fs/cgroup/memory.stat")
        counts = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
        # What it holds of files that were read or written is given up when something needs it.
        taken = int(used.read_text()) - int(counts.get("inactive_file", 0))
        available = min(available, max(int(text) - taken, 0))
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
