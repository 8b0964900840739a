"""Cut a picture into regions, strips and tiles; read it a few rows at a time; work on regions in threads.

This module is independent of the networks.

``Planes`` are an image as (C, H + 2, W + 2): its pixels within a ring that repeats the border (replicate padding), so
that the input of a 3×3 convolution is a slice and needs no padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from paramisp_cli import isp, memory
from paramisp_cli.models.geometry import cut

CPU_STRIP, DEVICE_STRIP = 16384, 1 << 22
"""Pixels of a strip: on a CPU they fit a core's cache, on other devices they fill the device."""
_COLUMNS = 512
"""Largest width of a region on a CPU."""
_SHORTEST, _TALLEST = 64, 512
"""Fewest and most rows of a region on a CPU. Two neighbours both compute the rows between them, so short regions cost
more; with tall regions, threads wait for the last one to finish."""
_REGIONS = 3
"""Regions for each thread, at least."""

Source = Callable[[int, int], Tensor]
"""Function (first row, end row) → (1, C, rows, W) float32, on the CPU or on the computing device."""
Sink = Callable[[int, Tensor], None]
"""Function (first row, (1, C, rows, W)) → None that takes the rows."""

Progress = Callable[[float], None]
"""Takes the share of the work that is done, 0 to 1; called from any thread, by one at a time."""

_Result = TypeVar("_Result")


# --- regions, strips and tiles ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Region:
    """Rows [top, bottom) and columns [left, right), worked on ``rows`` at a time."""

    top: int
    bottom: int
    left: int
    right: int
    rows: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    def strips(self, pixels: int = 1) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of each strip; ``pixels`` is the number of image pixels per pixel of the region."""
        rows = max(self.rows // pixels, 1)
        for begin in range(self.top, self.bottom, rows):
            yield begin, min(begin + rows, self.bottom)


def cut_for_threads(height: int, width: int, threads: int, pixels: int, top: int = 0, left: int = 0) -> list[Region]:
    """Cut a picture into regions whose strips of ``pixels`` fit a core's cache, with equal shares for all threads.

    ``top`` and ``left`` are the picture's corner.
    """
    columns = cut(width, min(_COLUMNS, max(pixels // 4, 16)), 16)
    rows = max(pixels // columns[0][1] // 4 * 4, 4)
    wanted = -(-_REGIONS * threads // len(columns))
    count = len(cut(height, max(min(-(-height // wanted), _TALLEST), min(_SHORTEST, rows)), 4))
    fair = threads // math.gcd(threads, len(columns))  # 15 regions would give 2 threads unequal shares
    count = -(-count // fair) * fair
    bands = cut(height, max(-(-height // count), min(_SHORTEST, rows)), 4)
    return [Region(top + t, top + b, left + l, left + r, rows) for t, b in bands for l, r in columns]  # noqa: E741


def cut_for_device(height: int, width: int, top: int = 0, left: int = 0) -> list[Region]:
    """Return the picture as one region, in strips that fill a GPU."""
    return [Region(top, top + height, left, left + width, min(max(DEVICE_STRIP // width // 4 * 4, 4), height))]


# --- pictures, a few rows at a time -----------------------------------------------------------------------------------


def reflecting(source: Source, size: tuple[int, int], padded: tuple[int, int]) -> Source:
    """Return a source for the picture padded by reflection, to the right and downwards."""
    if size == padded:
        return source
    (height, width), reflected = size, isp.reflect_index(size[0], 0, padded[0] - size[0])

    def rows(first: int, end: int) -> Tensor:
        if end <= height:
            strip = source(first, end)
        else:
            wanted = reflected[first:end]
            low = int(wanted.min())
            strip = source(low, int(wanted.max()) + 1)
            strip = strip[:, :, wanted.to(strip.device) - low]
        return isp.reflect_pad(strip, 0, padded[1] - width, 0, 0)

    return rows


def with_ring(image: Tensor) -> Tensor:
    """Make Planes of an image (C, H, W)."""
    return F.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]


def renew_ring(planes: Tensor) -> None:
    """Copy the border of Planes into their ring."""
    planes[:, 0], planes[:, -1] = planes[:, 1], planes[:, -2]
    planes[..., 0], planes[..., -1] = planes[..., 1], planes[..., -2]


class Picture(Protocol):
    """An image (C, H, W) that returns a range of its rows as Planes."""

    size: tuple[int, int]

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return Planes of rows [top, bottom): (C, bottom − top + 2, W + 2), the rows around them as the ring."""


class Whole:
    """A picture in memory, as Planes."""

    def __init__(self, planes: Tensor) -> None:
        self.planes = planes
        self.size = planes.shape[1] - 2, planes.shape[2] - 2

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return a view."""
        return self.planes[:, top : bottom + 2]


class Fetched:
    """A picture whose rows are computed on request; it caches the last rows."""

    def __init__(self, size: tuple[int, int], fetch: Callable[[int, int], Tensor]) -> None:
        """Set the size (H, W) and the function ``fetch``: (first row, end row) → (C, rows, W)."""
        self.size, self.fetch = size, fetch
        self.band, self.first = torch.empty(0), 0

    def rows(self, top: int, bottom: int) -> Tensor:
        """Return Planes from the cached rows, or from fetched rows."""
        height = self.size[0]
        first, end = max(top - 1, 0), min(bottom + 1, height)
        if not (self.band.numel() and self.first <= first and end <= self.first + self.band.shape[1]):
            self.band, self.first = torch.empty(0), first  # free the old band before the new one exists
            self.band = self.fetch(first, end)
        wanted = self.band[:, first - self.first : end - self.first]
        ring = (1, 1, first - top + 1, bottom + 1 - end)
        return F.pad(wanted[None], ring, mode="replicate")[0]


# --- threads ----------------------------------------------------------------------------------------------------------


class Workers:
    """Threads that work on one region each, with single-threaded torch operations; none on one core or on a device.

    Torch runs one operation on all threads; they would wait for each other thousands of times per picture.
    ``progress`` takes the share of the work that is done, 0 to 1; ``total`` is the work in pixels of all stages.
    """

    def __init__(self, device: torch.device, progress: Progress | None = None, total: float = 1) -> None:
        self.count = torch.get_num_threads() if device.type == "cpu" else 1
        self.pool: ThreadPoolExecutor | None = None
        self.progress, self.total, self.done = progress, total, 0
        self.counting = Lock()

    def __enter__(self) -> Workers:
        if self.count > 1:
            memory.keep_freed()
            torch.set_num_threads(1)  # threads started from now on begin with this number
            self.pool = ThreadPoolExecutor(self.count)
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self.count)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Give torch all threads for one operation on the whole picture, while these threads are idle."""
        if self.pool is None:
            yield
            return
        torch.set_num_threads(self.count)
        try:
            yield
        finally:
            torch.set_num_threads(1)

    def each(self, regions: Sequence[Region], stage: Callable[..., _Result], *arguments: object) -> list[_Result]:
        """Return ``stage(*arguments, region)`` for all regions, in their order."""
        if self.pool is None or len(regions) == 1:
            return [self._one(stage, arguments, region) for region in regions]
        inference = torch.is_inference_mode_enabled()  # the mode is per thread: pass it on

        def work(region: Region) -> _Result:
            with torch.inference_mode(inference), torch.no_grad():
                return self._one(stage, arguments, region)

        return list(self.pool.map(work, regions))

    def _one(self, stage: Callable[..., _Result], arguments: tuple[object, ...], region: Region) -> _Result:
        """Run a stage on a region, and count it."""
        result = stage(*arguments, region)
        if self.progress is not None:
            with self.counting:
                self.done += (region.bottom - region.top) * region.width
                self.progress(min(self.done / self.total, 1.0))
        return result
