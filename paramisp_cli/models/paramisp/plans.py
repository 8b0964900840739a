"""Memory plans of ParamISP's inference: where its feature maps live, their size, and how a run is scheduled.

LocalNet's maps, 64 channels at full, half and quarter size, are most of the memory. ``x`` is the map itself; ``r`` is
the residual that a block adds to it.

    whole   x and r in memory, 512 bytes a pixel in float32, and the least arithmetic
    bands   x of every size in memory, 336 bytes a pixel; r is computed twice: once for the statistics, and again band
            by band to add it to x
    disk    as bands, with x in a file; every level's map is read and written about five times
    host    as disk, with x in the host's memory beside a GPU
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from paramisp_cli.models.base import BANDS, DISK, HOST, WHOLE
from paramisp_cli.models.geometry import cut
from paramisp_cli.models.regions import CPU_STRIP, Region, Workers, cut_for_device, cut_for_threads

if TYPE_CHECKING:
    from paramisp_cli.models.base import MakeStore
    from paramisp_cli.models.regions import Progress

LEVELS, CHANNELS = 3, 64
BAND = 1024
"""Rows of an image computed at a time in plans that do not hold it as a whole."""
AROUND = 40
"""Rows of x in memory beside a band, if x is in a store: the band's surroundings, and rows not yet consumed."""
_FIXED = 512 << 20
"""Bytes for strips and threads."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A memory plan for the feature maps.

    band    number of rows of r that are computed again and then dropped; 0: r stays in memory
    stored  x is in a store, and no image is in memory as a whole
    """

    band: int
    stored: bool = False


PLANS = {WHOLE: Plan(0), BANDS: Plan(256), DISK: Plan(128, stored=True), HOST: Plan(256, stored=True)}
"""The plans by name, from fast to slow; each needs less memory than the plan before it."""

_WORK = {plan: 3.7 + (3 if how.band else 2) * 5.125 for plan, how in PLANS.items()}
"""Stages that a pixel passes through, counted at full size: a block in bands computes its first stage twice."""


def names(device: torch.device) -> tuple[str, ...]:
    """Return the plans for a device, the fastest first."""
    if device.type == "mps":  # it shares the host's memory
        return WHOLE, BANDS
    return WHOLE, BANDS, DISK if device.type == "cpu" else HOST


def peak_bytes(height: int, width: int, plan: str) -> int:
    """Return an upper estimate [bytes] of a float32 run of one padded image, besides its input, output and store."""
    how, pixels = PLANS[plan], (height + 2) * (width + 2)
    if not how.band:
        return pixels * (512 + 56) + _FIXED
    band = (max(cut(height, how.band, 4)[0]) + 8) * width * 256
    return (pixels * 40 + 5 * band if how.stored else pixels * (336 + 56) + band) + _FIXED


def map_shapes(height: int, width: int) -> list[tuple[int, int, int]]:
    """Return the shape of x, ring included, at every level of a padded image."""
    return [((height >> level) + 2, (width >> level) + 2, CHANNELS) for level in range(LEVELS)]


def store_bytes(height: int, width: int) -> int:
    """Return the bytes of x at all levels, in float32."""
    return 4 * sum(map(math.prod, map_shapes(height, width)))


class Schedule:
    """Device, precision of the convolutions, size of strips and memory plan of one run; a context that owns threads.

    ``strip_pixels`` is the number of pixels computed at a time (None: chosen for the device). ``store`` makes the
    store for plans that need one. ``progress`` takes the finished share of the work on a picture of ``pixels``.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        strip_pixels: int | None = None,
        plan: str = WHOLE,
        store: MakeStore | None = None,
        progress: Progress | None = None,
        pixels: int = 0,
    ) -> None:
        self.device, self.dtype, self.strip_pixels, self.plan = device, dtype, strip_pixels, PLANS[plan]
        if self.plan.stored and store is None:
            raise ValueError(f"the memory plan {plan!r} needs a store")
        self.store = store
        self.workers = Workers(device, progress, pixels * _WORK[plan])
        self.each = self.workers.each

    def __enter__(self) -> Schedule:
        self.workers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.__exit__()

    def regions(self, height: int, width: int, top: int = 0, left: int = 0) -> list[Region]:
        """Cut a picture with its corner at ``top``, ``left`` into regions that suit the device."""
        if self.device.type != "cpu" and self.strip_pixels is None:
            return cut_for_device(height, width, top, left)
        return cut_for_threads(height, width, self.workers.count, self.strip_pixels or CPU_STRIP, top, left)
