"""Main memory: the free amount, and large blocks that are reused from one picture to the next."""

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
    """Return the free main memory [bytes], within a container's limit; memory held for reuse counts as free."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8 << 30
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(lines.get("MemAvailable", f"{available >> 10} kB").split()[0]) << 10
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        stat = Path("/sys/fs/cgroup/memory.stat")
        counts = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
        # The container frees cached pages of files on demand.
        occupied = int(used.read_text()) - int(counts.get("inactive_file", 0))
        available = min(available, max(int(text) - occupied, 0))
    return available + sum(len(mapping) for mapping in _spare)


@cache
def keep_freed() -> None:
    """Make glibc reuse freed memory; do nothing with other C libraries.

    By default glibc maps, zeroes and unmaps every temporary over 128 kB, which is half of a network's time.
    """
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
    """Reuse memory from ``pool`` for the next picture, within this context.

    Returning it to the system and getting it back zeroed takes a twentieth to a seventh of a network's time.
    """
    _keepers.append(None)
    try:
        yield
    finally:
        _keepers.pop()
        if not _keepers:
            release()


def release() -> None:
    """Return unused memory, held for reuse, to the system."""
    _spare.clear()


def pool(count: int, like: Tensor) -> Tensor:
    """Return (count,) uninitialised numbers, on 2-MB pages if the system has them (4-kB pages cost 1 s/GB)."""
    import torch  # lazily: listing files must not load torch

    size = count * like.element_size()
    if like.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE") or size < 8 << 20:
        return torch.empty(count, dtype=like.dtype, device=like.device)
    mapping = next((spare for spare in _spare[:] if size <= len(spare) <= size * 1.1 and _claim(spare)), None)
    if mapping is None:
        release()  # spare mappings of other sizes would only occupy memory
        mapping = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared mappings get no large pages
        mapping.madvise(mmap.MADV_HUGEPAGE)
    # The tensor holds this object, not the mapping: it ends with the tensor's last view, and then ``_back`` is called.
    lent = (ctypes.c_char * len(mapping)).from_buffer(mapping)
    weakref.finalize(lent, _back, mapping).atexit = False
    return torch.frombuffer(lent, dtype=like.dtype, count=count)


def _claim(mapping: mmap.mmap) -> bool:
    """Claim a spare mapping; return False if another thread just claimed it."""
    try:
        _spare.remove(mapping)
    except ValueError:
        return False
    return True


def _back(mapping: mmap.mmap) -> None:
    """Store an unused mapping for reuse, or drop it, which unmaps it."""
    if _keepers:
        _spare.append(mapping)
