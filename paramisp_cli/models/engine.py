"""What the stages of ParamISP's inference run on: images seen in windows, threads, regions, and plans for memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from paramisp_cli import memory
from paramisp_cli.models import stages
from paramisp_cli.models.stages import FirstConv, Region

if TYPE_CHECKING:
    from paramisp_cli.models.base import MakeScratch
    from paramisp_cli.models.paramisp import GlobalNet


class Plan(NamedTuple):
    """How feature maps use memory: how much of them is kept, and where."""

    kept: int
    """The level that they are kept from: full (0), half (1) or quarter size (2)."""
    side: int
    """Side of the tiles [px, full size] in which those above are made. For full size, rows of the bands in which the
    residuals r are made again, 0: they are kept."""
    on_disk: bool = False
    """Whether x is kept in a file."""


PLANS = {
    "whole": Plan(0, 0), "bands": Plan(0, 256), "disk": Plan(0, 128, on_disk=True), "half": Plan(1, 1024),
    "quarter": Plan(2, 1024), "small": Plan(2, 512), "tiny": Plan(2, 256),
}  # fmt: skip
"""The plans, the fastest first. But for "disk", which has to be asked for, each needs less memory than the one before
it, and does more of the convolutions at full size, margins counted: 1, 2, 4, 8, 10 and 14 times as many as must be."""
CPU_STRIP, DEVICE_STRIP = 16384, 1 << 22
"""Pixels a strip: on a CPU what a core's cache holds, elsewhere enough to fill the device."""
_TONE_STRIP = 32768
"""The same for the tone stages on a CPU: three channels and many small operations, half in Python below 16 thousand."""
BAND = 1024
"""Rows of an image that are made at a time where it is made in rows."""
_COLUMNS = 512
"""Columns of a region on a CPU, at most."""
_SHORTEST = 64
"""Rows of a region on a CPU, at least, if that keeps all threads busy: the rows between two are made twice."""
_REGIONS, _TALLEST = 3, 512
"""Regions a thread, at least, and rows of one on a CPU, at most: none waits long for the last."""

_Result = TypeVar("_Result")


# --- images, looked at in windows -------------------------------------------------------------------------------------


class Picture(Protocol):
    """An image (3, H, W) of which windows can be had."""

    size: tuple[int, int]

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """Planes of a part: (3, bottom − top + 2, right − left + 2), the ring being what lies around it."""


class Whole:
    """A picture in memory, as Planes."""

    def __init__(self, planes: Tensor) -> None:
        self.planes = planes
        self.size = planes.shape[1] - 2, planes.shape[2] - 2

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """A view."""
        return self.planes[:, top : bottom + 2, left : right + 2]


class Fetched:
    """A picture whose rows are made when they are asked for; the last ones made stay, for the next tile beside."""

    def __init__(self, size: tuple[int, int], fetch: Callable[[int, int], Tensor]) -> None:
        """``fetch``: (first row, end row) → (3, rows, W)."""
        self.size, self.fetch = size, fetch
        self.band, self.first = torch.empty(0), 0

    def window(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """From the rows kept, or new ones."""
        height, width = self.size
        first, end = max(top - 1, 0), min(bottom + 1, height)
        if not (self.band.numel() and self.first <= first and end <= self.first + self.band.shape[1]):
            self.band, self.first = torch.empty(0), first  # not two bands at a time
            self.band = self.fetch(first, end)
        before, behind = max(left - 1, 0), min(right + 1, width)
        part = self.band[:, first - self.first : end - self.first, before:behind]
        ring = (before - left + 1, right + 1 - behind, first - top + 1, bottom + 1 - end)
        return torch.nn.functional.pad(part[None], ring, mode="replicate")[0] if any(ring) else part


# --- threads ----------------------------------------------------------------------------------------------------------


class Workers:
    """Threads that take a task each, with torch's operations in one thread; no threads for one core or a device."""

    def __init__(self, device: torch.device) -> None:
        self.count = torch.get_num_threads() if device.type == "cpu" else 1
        self.pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self.count > 1:
            memory.keep_freed()
            torch.set_num_threads(1)  # what threads begun from now on start with
            self.pool = ThreadPoolExecutor(self.count)
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self.count)

    @contextmanager
    def together(self) -> Iterator[None]:
        """For what is one operation on the whole image: torch's own threads, while ours have nothing to do."""
        if self.pool is None:
            yield
            return
        torch.set_num_threads(self.count)
        try:
            yield
        finally:
            torch.set_num_threads(1)

    def each(self, regions: Sequence[Region], stage: Callable[..., _Result], *arguments: object) -> list[_Result]:
        """``stage(*arguments, region)`` of all regions, in their order."""
        if self.pool is None or len(regions) == 1:
            return [stage(*arguments, region) for region in regions]
        inference = torch.is_inference_mode_enabled()  # modes are each thread's own

        def work(region: Region) -> _Result:
            with torch.inference_mode(inference), torch.no_grad():
                return stage(*arguments, region)

        return list(self.pool.map(work, regions))


class Engine:
    """The schedule: what is done with which region, and what waits for what."""

    def __init__(
        self,
        workers: Workers,
        dtype: torch.dtype,
        strip_pixels: int | None,
        plan: str = "whole",
        scratch: MakeScratch | None = None,
    ) -> None:
        self.workers, self.dtype, self.strip_pixels, self.plan = workers, dtype, strip_pixels, PLANS[plan]
        self.scratch = scratch
        self.in_rows = self.plan.kept > 0 or self.plan.on_disk  # so that no image is kept either

    def regions(self, device: torch.device, height: int, width: int, top: int = 0, left: int = 0) -> list[Region]:
        """Rows and columns cut up: columns that, a few rows high, fit a cache, and rows for every thread."""
        if device.type != "cpu" and self.strip_pixels is None:
            return [Region(top, top + height, left, left + width, min(max(DEVICE_STRIP // width // 4 * 4, 4), height))]
        pixels = self.strip_pixels or CPU_STRIP
        columns = cut(width, min(_COLUMNS, max(pixels // 4, 16)), 16)
        rows = max(pixels // columns[0][1] // 4 * 4, 4)
        wanted = -(-_REGIONS * self.workers.count // len(columns))
        count = len(cut(height, max(min(-(-height // wanted), _TALLEST), min(_SHORTEST, rows)), 4))
        fair = self.workers.count // math.gcd(self.workers.count, len(columns))  # 15 regions keep 2 threads unequal
        count = -(-count // fair) * fair
        bands = cut(height, max(-(-height // count), min(_SHORTEST, rows)), 4)
        return [Region(top + t, top + b, left + l, left + r, rows) for t, b in bands for l, r in columns]  # noqa: E741

    def coefficients(
        self, net: GlobalNet, picture: Picture, first: Picture, z: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """GlobalNet's tone stages for the picture; ``first`` is what the over-exposure mask is of."""
        height, width = (stages.pooled_size(size) for size in picture.size)
        conv = self.first_conv(net.convs[0], stride=2)
        layer = net.stage.weight.new_empty(height, width, 64)
        for begin, end in cut(height, BAND // 4 if self.in_rows else height, 1):
            part = 4 * begin, 4 * end + 1, 0, picture.size[1]
            planes, mask_of = picture.window(*part), first.window(*part)
            parts = self.regions(planes.device, end - begin, width)
            self.workers.each(parts, stages.first_layer, conv, planes, mask_of, layer[begin:end])
        with self.workers.together():
            return net.coefficients(net.pool(layer.permute(2, 0, 1)[None], layers=(1, 2)), z)

    def tone(self, net: GlobalNet, coefficients: list[tuple[Tensor, Tensor]], pixels: Tensor) -> Tensor:
        """(3, …) through the tone stages → a new tensor of that shape."""
        out = torch.empty_like(pixels, memory_format=torch.contiguous_format)
        source, target = pixels.reshape(3, -1), out.view(3, -1)
        strip = self.strip_pixels or (_TONE_STRIP if pixels.device.type == "cpu" else DEVICE_STRIP)
        parts = [Region(0, 1, *part, 1) for part in cut(source.shape[1], strip, 1)]
        self.workers.each(parts, stages.tone, net, coefficients, source, target)
        return out

    def first_conv(self, conv: torch.nn.Conv2d, stride: int = 1, more: Tensor | None = None) -> FirstConv:
        """GlobalNet's or LocalNet's first convolution, in the way that suits the device; ``more`` adds to its bias."""
        assert conv.bias is not None
        bias = conv.bias if more is None else conv.bias + more
        return FirstConv(conv.weight, bias, self.dtype, table=conv.weight.device.type == "cpu", stride=stride)


def cut(size: int, length: int, multiple: int) -> list[tuple[int, int]]:
    """[0, size) in even parts of about ``length``, all but the last a multiple of ``multiple``."""
    count = max(round(size / length), 1)
    step = max(-(-size // count) + multiple - 1, multiple) // multiple * multiple
    return [(begin, min(begin + step, size)) for begin in range(0, size, step)]
