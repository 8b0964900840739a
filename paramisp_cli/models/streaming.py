"""ParamISP without the gradients: the same numbers, whole image, region by region, with two feature maps in memory.

    GlobalNet  features and first layer per region; its output (1/16 of the pixels) whole; the tone stages per strip
    LocalNet   head per region, from features that exist only for a strip
    block      A, per region: r = conv2(ELU(conv1 x)), with each channel's sum and maximum
               barrier: the channel scales, which need the whole image
               B, per region: mean and maximum over channels, 7×7 convolution, x += r · scale · sigmoid

On a CPU every thread takes regions of its own, with single-threaded operations on strips that its cache holds: torch's
own way, all threads on one operation, has them wait for each other thousands of times an image, and every operation
on the whole image goes through main memory. Elsewhere the image is one region. ``stages`` has the arithmetic.

Memory: x and r, 64 channels each, are 512 bytes a pixel in float32. x at full size is its own skip connection: the
decoder adds to it in place. The lower levels live inside r's memory, which is free while they are at work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from paramisp_cli import memory
from paramisp_cli.models import stages
from paramisp_cli.models.stages import Conv, Convs, FirstConv, Region

if TYPE_CHECKING:
    from paramisp_cli.models.paramisp import GlobalNet, LocalNet, ParamISP

CPU_STRIP, DEVICE_STRIP = 8192, 1 << 22
"""Pixels a strip: on a CPU what a core's cache holds, elsewhere enough to fill the device."""
_COLUMNS = 512
"""Columns of a region on a CPU, at most."""
_SHORTEST = 64
"""Rows of a region on a CPU, at least, if that keeps all threads busy: the rows between two are made twice."""
_REGIONS = 4
"""Regions a thread, at least: none waits long for the last."""
_HEAD_ROOM = 384 << 20

_Result = TypeVar("_Result")


def peak_bytes(height: int, width: int) -> int:
    """An upper estimate [bytes] of ``run`` in float32 for one padded image, the input not counted.

    x and r with ring 512 B a pixel; the image, its first version, the result and the maps of a block 56 B; and a
    fixed part for strips.
    """
    return (height + 2) * (width + 2) * (512 + 56) + _HEAD_ROOM


def run(model: ParamISP, image: Tensor, z: Tensor | None) -> Tensor:
    """Both sub-networks in the direction's order: image (N, 3, H, W), padded, z (N, 64) or None → (N, 3, H, W)."""
    kind = image.device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    with torch.autocast(kind, enabled=False), _Workers(image.device) as workers:
        engine = _Engine(workers, low, model.strip_pixels)
        for i in range(len(image)):  # one by one: a batch needs no more memory than its largest image
            first = stages.planes_of(image[i])
            planes, zi = first, None if z is None else z[i : i + 1]
            if model.direction == "unprocess" and model.globalnet is not None:
                planes = engine.tone(model.globalnet, planes, first, zi)
            if model.localnet is not None:
                planes = engine.local(model.localnet, planes, first, zi)
            if model.direction == "render" and model.globalnet is not None:
                planes = engine.tone(model.globalnet, planes, first, zi)
            out[i] = planes[:, 1:-1, 1:-1]
    return out


class _Workers:
    """Threads that take a task each, with torch's operations in one thread; no threads for one core or a device."""

    def __init__(self, device: torch.device) -> None:
        self.count = torch.get_num_threads() if device.type == "cpu" else 1
        self.pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> _Workers:
        if self.count > 1:
            memory.keep_freed()
            torch.set_num_threads(1)  # what threads begun from now on start with
            self.pool = ThreadPoolExecutor(self.count)
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self.count)

    def each(self, regions: Sequence[Region], stage: Callable[..., _Result], *arguments: object) -> list[_Result]:
        """``stage(*arguments, region)`` of all regions, in their order."""
        if self.pool is None or len(regions) == 1:
            return [stage(*arguments, region) for region in regions]
        inference = torch.is_inference_mode_enabled()  # modes are each thread's own

        def work(region: Region) -> _Result:
            with torch.inference_mode(inference), torch.no_grad():
                return stage(*arguments, region)

        return list(self.pool.map(work, regions))


class _Engine:
    """The schedule: what is done with which region, and what waits for what."""

    def __init__(self, workers: _Workers, dtype: torch.dtype, strip_pixels: int | None) -> None:
        self.workers, self.dtype, self.strip_pixels = workers, dtype, strip_pixels

    def regions(self, device: torch.device, height: int, width: int) -> list[Region]:
        """The image cut up: columns that, a few rows high, fit a cache, and rows for every thread to have some."""
        if device.type != "cpu" and self.strip_pixels is None:
            return [Region(0, height, 0, width, max(DEVICE_STRIP // width // 4 * 4, 4))]
        pixels = self.strip_pixels or CPU_STRIP
        columns = _cut(width, min(_COLUMNS, max(pixels // 4, 16)), 16)
        rows = max(pixels // columns[0][1] // 4 * 4, 4)
        wanted = -(-_REGIONS * self.workers.count // len(columns))
        bands = _cut(height, max(-(-height // wanted), min(_SHORTEST, rows)), 4)
        return [Region(*band, *part, rows) for band in bands for part in columns]

    def tone(self, net: GlobalNet, planes: Tensor, first: Tensor, z: Tensor | None) -> Tensor:
        """Planes through GlobalNet's tone stages, ring and all → new Planes."""
        height, width = (stages.pooled_size(size - 2) for size in planes.shape[1:])
        conv = self._first_conv(net.convs[0], stride=2)
        layer = planes.new_empty(height, width, 64)
        parts = self.regions(planes.device, height, width)
        self.workers.each(parts, stages.first_layer, conv, planes, first, layer)
        coefficients = net.coefficients(net.pool(layer.permute(2, 0, 1)[None], layers=(1, 2)), z)
        out = torch.empty_like(planes)
        source, target = planes.view(3, -1), out.view(3, -1)
        strip = self.strip_pixels or (CPU_STRIP if planes.device.type == "cpu" else DEVICE_STRIP)
        pixels = [Region(0, 1, *part, 1) for part in _cut(source.shape[1], strip, 1)]
        self.workers.each(pixels, stages.tone, net, coefficients, source, target)
        return out

    def _first_conv(self, conv: torch.nn.Conv2d, stride: int = 1) -> FirstConv:
        assert conv.bias is not None
        return FirstConv(conv.weight, conv.bias, self.dtype, table=conv.weight.device.type == "cpu", stride=stride)

    def local(self, net: LocalNet, planes: Tensor, first: Tensor, z: Tensor | None) -> Tensor:
        """LocalNet: Planes → new Planes; height and width multiples of 4."""
        height, width = planes.shape[1] - 2, planes.shape[2] - 2
        sizes = [(height >> level, width >> level) for level in range(3)]
        x, r = _maps(sizes, planes)
        parts = [self.regions(planes.device, *size) for size in sizes]
        each = self.workers.each

        def blocks(level: int, *numbers: int) -> None:
            for block in (net.blocks[number] for number in numbers):
                pooled = each(parts[level], stages.block_a, Convs(block, self.dtype), x[level], r[level])
                scale = stages.channel_scale(block, pooled, math.prod(sizes[level]))
                each(parts[level], stages.block_b, block, scale, x[level], r[level])

        bias = net.condition(z)[0] if net.condition is not None and z is not None else None
        each(parts[0], stages.head, self._first_conv(net.head), bias, planes, first, x[0])
        blocks(0, 0, 1)
        for level in (1, 2):
            stride = Conv(net.down[level - 1].weight, net.down[level - 1].bias, self.dtype, stride=2)
            each(parts[level], stages.down, stride, x[level - 1], x[level])
            blocks(level, 2 * level, 2 * level + 1)
        for level in (1, 0):
            each(parts[level + 1], stages.up, net.up[1 - level], x[level + 1], x[level])
            blocks(level, 8 - 2 * level, 9 - 2 * level)
        out = torch.empty_like(planes)
        each(parts[0], stages.tail, net.tail, x[0], planes, out)
        stages.ring_of_planes(out)
        return out


def _cut(size: int, length: int, multiple: int) -> list[tuple[int, int]]:
    """[0, size) in even parts of about ``length``, all but the last a multiple of ``multiple``."""
    count = max(round(size / length), 1)
    step = max(-(-size // count) + multiple - 1, multiple) // multiple * multiple
    return [(begin, min(begin + step, size)) for begin in range(0, size, step)]


def _maps(sizes: Sequence[tuple[int, int]], like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """x with ring and r without, for each level; the lower levels' in the memory of the first one's r."""

    def taken(pool: Tensor, begin: int, *shape: int) -> tuple[Tensor, int]:
        end = begin + math.prod(shape)
        return pool[begin:end].view(shape), end

    (height, width), *lower = sizes
    lower_pixels = sum((h + 2) * (w + 2) + h * w for h, w in lower)
    big = memory.pool((height + 2) * (width + 2) * 64, like)
    small = memory.pool(max(height * width, lower_pixels) * 64, like)
    x = [big.view(height + 2, width + 2, 64)]
    r = [taken(small, 0, height, width, 64)[0]]
    end = 0
    for h, w in lower:
        map_, end = taken(small, end, h + 2, w + 2, 64)
        inner, end = taken(small, end, h, w, 64)
        x.append(map_)
        r.append(inner)
    return x, r
