"""Main memory: how much there is, and how to have it without paying for it again and again."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor


def free() -> int:
    """Bytes of main memory that can be had now, the limit of a container included."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8 << 30
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(lines.get("MemAvailable", f"{available >> 10} kB").split()[0]) << 10
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        available = min(available, max(int(text) - int(used.read_text()), 0))
    return available


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


def pool(count: int, like: Tensor) -> Tensor:
    """(count,) uninitialised numbers, on 2-MB pages where the system has them (first touch of 4-kB pages is 1 s/GB)."""
    size = count * like.element_size()
    if like.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE") or size < 8 << 20:
        return torch.empty(count, dtype=like.dtype, device=like.device)
    mapped = mmap.mmap(-1, size)
    mapped.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(mapped, dtype=like.dtype)  # keeps the mapping alive, and unmaps it with the last view
