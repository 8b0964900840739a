"""ParamISP without the gradients: the same numbers, of images of any size, in as much memory as there is.

GlobalNet's coefficients and the attention of every block come from statistics of the whole image, so no part of it can
be run by itself. Stage by stage instead:

    GlobalNet  features and first layer per region; its output (1/16 of the pixels) whole; the tone stages per strip
    LocalNet   head per region, from features that exist only for a strip
    block      A, per region: r = conv2(ELU(conv1 x)), with each channel's sum and maximum
               barrier: the channel scales, which need the whole image
               B, per region: mean and maximum over channels, 7×7 convolution, x += r · scale · sigmoid

What lives between the stages is the plan's to say (``PLANS``). "whole" keeps x and r, 64 channels each, at full size:
512 bytes a pixel in float32, and the least arithmetic. "bands" keeps x alone, of every size, and makes r twice: for the
statistics, and again some rows at a time where it is added to x. "half" and "quarter" keep x and r only from the
half-size or the quarter-size level on, 128 and 32 bytes a pixel, and make what lies above anew, tile by tile, every
time that a statistic, the level below or the result needs it: with all scales that are known so far, and with a margin
around the tile as wide as the stages see. Nothing but rounding differs.

On a CPU every thread takes regions of its own, with single-threaded operations on strips that its cache holds: torch's
own way, all threads on one operation, has them wait for each other thousands of times an image, and every operation
on the whole image goes through main memory. Elsewhere the image is one region. ``stages`` has the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

from paramisp_cli import isp, memory
from paramisp_cli.models import stages
from paramisp_cli.models.stages import Conv, Convs, FirstConv, Region

if TYPE_CHECKING:
    from paramisp_cli.models.base import Params, Sink, Source
    from paramisp_cli.models.paramisp import GlobalNet, LocalNet, ParamISP

PLANS = {
    "whole": (0, 0), "bands": (0, 256), "half": (1, 1024), "quarter": (2, 1024), "small": (2, 512), "tiny": (2, 256)
}  # fmt: skip
"""Name → (the level that feature maps are kept from: full, half or quarter size; side of the tiles [px, full size] in
which those above are made; for full size, rows of the bands in which r is made again, 0: it is kept). Each needs less
memory than the one before it, and does more of the convolutions at full size, margins counted: 1, 2, 4, 8, 10 and 14
times as many as must be."""
CPU_STRIP, DEVICE_STRIP = 16384, 1 << 22
"""Pixels a strip: on a CPU what a core's cache holds, elsewhere enough to fill the device."""
_TONE_STRIP = 32768
"""The same for the tone stages on a CPU: three channels and many small operations, half in Python below 16 thousand."""
_BAND = 1024
"""Rows of an image that are made at a time where it is made in rows."""
_COLUMNS = 512
"""Columns of a region on a CPU, at most."""
_SHORTEST = 64
"""Rows of a region on a CPU, at least, if that keeps all threads busy: the rows between two are made twice."""
_REGIONS, _TALLEST = 3, 512
"""Regions a thread, at least, and rows of one on a CPU, at most: none waits long for the last."""
_GIVEN = 256
"""Rows of the result that are finished at a time."""
_HEAD_ROOM = 512 << 20
_BLOCKS = 10
_BLOCK_REACH, _HEAD_REACH, _TAIL_REACH = 5, 1, 1
"""How far [px, at the level] a block sees (3×3, 3×3 and 7×7), the gradient among the features, and the last layer."""

_Result = TypeVar("_Result")


def margin(kept: int) -> int:
    """Pixels [full size] around a tile that its result depends on: two blocks down and two up at every level made."""
    reach = _HEAD_REACH + _TAIL_REACH + sum(4 * _BLOCK_REACH << level for level in range(kept))
    return -(-reach // 4) * 4


def peak_bytes(height: int, width: int, plan: str = "whole") -> int:
    """An upper estimate [bytes] of a float32 run of one padded image, its input and output not counted.

    x and r with ring from the plan's level on (with bands, x of every level and r of a band), images, what tiles need,
    and a fixed part for strips and threads: half as much again where windows for tiles come and go, which leave gaps in
    what the allocator keeps (measured at 8 megapixels).
    """
    (kept, side), pixels = PLANS[plan], (height + 2) * (width + 2)
    if not kept and side:
        return pixels * (336 + 56) + (max(_cut(height, side, 4)[0]) + 8) * width * 256 + _HEAD_ROOM
    if not kept:
        return pixels * (512 + 56) + _HEAD_ROOM
    rows, columns = (min(size, side + 2 * margin(kept)) for size in (height, width))
    return pixels * (512 >> 2 * kept) + pixels * 24 + rows * columns * 720 + rows * width * 60 + _HEAD_ROOM * 3 // 2


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


# --- the networks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tile:
    """A part of the image, its rows and columns [px, full size]: those wanted, and those with the margin around."""

    core: tuple[int, int, int, int]
    outer: tuple[int, int, int, int]

    def sizes(self, levels: int) -> list[tuple[int, int]]:
        """Height and width with the margin, at so many levels."""
        top, bottom, left, right = self.outer
        return [((bottom - top) >> level, (right - left) >> level) for level in range(levels)]


class Engine:
    """The schedule: what is done with which region, and what waits for what."""

    def __init__(self, workers: Workers, dtype: torch.dtype, strip_pixels: int | None, plan: str = "whole") -> None:
        self.workers, self.dtype, self.strip_pixels = workers, dtype, strip_pixels
        self.kept, self.tile = PLANS[plan]

    def regions(self, device: torch.device, height: int, width: int, top: int = 0, left: int = 0) -> list[Region]:
        """Rows and columns cut up: columns that, a few rows high, fit a cache, and rows for every thread."""
        if device.type != "cpu" and self.strip_pixels is None:
            return [Region(top, top + height, left, left + width, min(max(DEVICE_STRIP // width // 4 * 4, 4), height))]
        pixels = self.strip_pixels or CPU_STRIP
        columns = _cut(width, min(_COLUMNS, max(pixels // 4, 16)), 16)
        rows = max(pixels // columns[0][1] // 4 * 4, 4)
        wanted = -(-_REGIONS * self.workers.count // len(columns))
        bands = _cut(height, max(min(-(-height // wanted), _TALLEST), min(_SHORTEST, rows)), 4)
        return [Region(top + t, top + b, left + l, left + r, rows) for t, b in bands for l, r in columns]  # noqa: E741

    def coefficients(
        self, net: GlobalNet, picture: Picture, first: Picture, z: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """GlobalNet's tone stages for the picture; ``first`` is what the over-exposure mask is of."""
        height, width = (stages.pooled_size(size) for size in picture.size)
        conv = self.first_conv(net.convs[0], stride=2)
        layer = net.stage.weight.new_empty(height, width, 64)
        for begin, end in _cut(height, _BAND // 4 if self.kept else height, 1):
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
        parts = [Region(0, 1, *part, 1) for part in _cut(source.shape[1], strip, 1)]
        self.workers.each(parts, stages.tone, net, coefficients, source, target)
        return out

    def first_conv(self, conv: torch.nn.Conv2d, stride: int = 1, more: Tensor | None = None) -> FirstConv:
        """GlobalNet's or LocalNet's first convolution, in the way that suits the device; ``more`` adds to its bias."""
        assert conv.bias is not None
        bias = conv.bias if more is None else conv.bias + more
        return FirstConv(conv.weight, bias, self.dtype, table=conv.weight.device.type == "cpu", stride=stride)


class _Local:
    """One run of LocalNet over one picture: the maps that are kept, the scales known so far."""

    def __init__(self, engine: Engine, net: LocalNet, picture: Picture, first: Picture, z: Tensor | None) -> None:
        self.engine, self.net, self.picture, self.first = engine, net, picture, first
        self.each, self.kept = engine.workers.each, engine.kept
        self.sizes = [(picture.size[0] >> level, picture.size[1] >> level) for level in range(3)]
        self.like = net.head.weight
        steered = net.condition(z)[0] if net.condition is not None and z is not None else None
        self.head = engine.first_conv(net.head, more=steered)
        self.convs = [Convs(block, engine.dtype) for block in net.blocks]
        self.downs = [Conv(conv.weight, conv.bias, engine.dtype, stride=2) for conv in net.down]
        self.scales: list[Tensor] = [self.like.new_empty(0)] * _BLOCKS
        self.x: list[Tensor] = []
        self.r: list[Tensor] = []
        self.room = self.like.new_empty(0)

    def run(self) -> Iterator[tuple[tuple[int, int, int, int], Tensor]]:
        """The result, tile by tile: ((top, bottom, left, right), (3, …)); sides multiples of 4."""
        kept = self.kept
        tiles = self._tiles()
        # One room for all tiles: maps that come and go leave gaps in what the allocator keeps, which grow.
        self.room = memory.pool(max((_numbers(tile.sizes(kept)) for tile in tiles), default=0), self.like)
        for number in range(2 * kept):
            self._measure(number, tiles)
        x, r = _maps(self.sizes[kept:], self.like, 0 if kept else self.engine.tile)
        self.x, self.r = [x[0]] * kept + x, [r[0]] * kept + r  # (those of smaller numbers are not used)
        for tile in tiles if kept else ():
            self._store(tile)
        parts = [self._regions(level) for level in range(3)]
        if not kept:
            planes, mask_of = (p.window(0, self.sizes[0][0], 0, self.sizes[0][1]) for p in (self.picture, self.first))
            self.each(parts[0], stages.head, self.head, planes, mask_of, x[0])
        for level in range(kept, 3):
            if level > kept:
                self.each(parts[level], stages.down, self.downs[level - 1], self.x[level - 1], self.x[level])
            self._blocks(level, 2 * level, parts[level])
        for level in range(1, kept - 1, -1):
            self.each(parts[level + 1], stages.up, self.net.up[1 - level], self.x[level + 1], self.x[level])
            self._blocks(level, 8 - 2 * level, parts[level])
        if not kept:
            out = planes.new_empty(planes.shape)
            self.each(parts[0], stages.tail, self.net.tail, self.x[0], planes, out)
            yield (0, self.sizes[0][0], 0, self.sizes[0][1]), out[:, 1:-1, 1:-1]
            return
        self.x, self.r, x, r = [self.x[kept]] * (kept + 1), [], [], []  # from here on all others are made anew
        for number in range(_BLOCKS - 2 * kept, _BLOCKS):
            self._measure(number, tiles)
        for tile in tiles:
            yield tile.core, self._finish(tile)

    def _regions(self, level: int) -> list[Region]:
        return self.engine.regions(self.like.device, *self.sizes[level])

    def _blocks(self, level: int, number: int, parts: list[Region]) -> None:
        """Two blocks, from ``number`` on, of a level that is kept."""
        for n in (number, number + 1):
            convs, x, r = self.convs[n], self.x[level], self.r[level]
            if self.kept or not self.engine.tile:
                pooled = self.each(parts, stages.block_a, convs, x, r)
                self.each(parts, stages.block_b, convs, self._scale(n, level, pooled), x, r)
                continue
            pooled = self.each(parts, stages.block_a, convs, x, None)
            self._in_bands(convs, self._scale(n, level, pooled), x, r)

    def _in_bands(self, convs: Convs, scale: Tensor, x: Tensor, r: Tensor) -> None:
        """A block's phase B with its r made again for some rows at a time: image row i is row i − begin + 3 of r.

        Phase B looks at three rows of r beside its own, and r at two of x: three rows more are made than are added, and
        stay for the next band, which so needs no row of x that has been changed.
        """
        height, width = x.shape[0] - 2, x.shape[1] - 2
        for begin, end in _cut(height, self.engine.tile, 4):
            # Rows [first, last) of r, from what lies around them: the edge of that is the image's, or not looked at.
            first, last = begin + 3 if begin else 0, min(end + 3, height)
            low, high = max(first - 2, 0), min(last + 2, height)
            if last > first:
                parts = self.engine.regions(x.device, last - first, width, first - low)
                self.each(parts, stages.block_a, convs, x[low : high + 2], r[low - begin + 3 : high - begin + 3])
            low, high = max(begin - 3, 0), last
            parts = self.engine.regions(x.device, end - begin, width, begin - low)
            self.each(parts, stages.block_b, convs, scale, x[low : high + 2], r[low - begin + 3 : high - begin + 3])
            r[:6] = r[end - begin : end - begin + 6].clone()

    def _scale(self, number: int, level: int, pooled: list[tuple[Tensor, Tensor]]) -> Tensor:
        self.scales[number] = stages.channel_scale(self.net.blocks[number], pooled, math.prod(self.sizes[level]))
        return self.scales[number]

    # What is made anew, tile by tile

    def _tiles(self) -> list[_Tile]:
        """The image in tiles, row by row."""
        if not self.kept:
            return []
        height, width = self.sizes[0]
        around = margin(self.kept)
        return [
            _Tile(
                (top, bottom, left, right),
                (max(top - around, 0), min(bottom + around, height), max(left - around, 0), min(right + around, width)),
            )
            for top, bottom in _cut(height, self.engine.tile, 4)
            for left, right in _cut(width, self.engine.tile, 4)
        ]

    def _measure(self, number: int, tiles: list[_Tile]) -> None:
        """Find the channel scales of a block above the kept level: everything before it, and its phase A, per tile."""
        level = number // 2 if number < _BLOCKS // 2 else (_BLOCKS - 1 - number) // 2

        def pooled(tile: _Tile) -> list[tuple[Tensor, Tensor]]:  # of its own, so that no tile outlives its turn
            made = _Made(self, tile)
            made.until(number)
            return self.each(made.core(level), stages.block_a, self.convs[number], made.x[level], made.r[level])

        self._scale(number, level, [part for tile in tiles for part in pooled(tile)])

    def _store(self, tile: _Tile) -> None:
        """The kept level's x within a tile, from the level above."""
        made = _Made(self, tile)
        made.until(2 * self.kept)
        self.each(made.core(self.kept), stages.down, self.downs[self.kept - 1], made.x[-1], made.below())

    def _finish(self, tile: _Tile) -> Tensor:
        """The result within a tile."""
        made = _Made(self, tile)
        made.until(_BLOCKS)
        out = torch.empty_like(made.planes)
        self.each(made.core(0), stages.tail, self.net.tail, made.x[0], made.planes, out)
        top, bottom, left, right = tile.core
        above, beside = top - tile.outer[0] + 1, left - tile.outer[2] + 1
        return out[:, above : above + bottom - top, beside : beside + right - left]


class _Made:
    """The levels above the kept one within a tile and its margin; true in the tile, off towards the margin's edge."""

    def __init__(self, local: _Local, tile: _Tile) -> None:
        self.local, self.tile = local, tile
        self.planes = local.picture.window(*tile.outer)
        self.first = local.first.window(*tile.outer)
        sizes = tile.sizes(local.kept)
        self.x, self.r = _laid_out(sizes, local.room)
        self.parts = [local.engine.regions(local.like.device, *size) for size in sizes]

    def core(self, level: int) -> list[Region]:
        """The tile without its margin, at a level."""
        top, bottom, left, right = (edge >> level for edge in self.tile.core)
        above, beside = self.tile.outer[0] >> level, self.tile.outer[2] >> level
        device = self.local.like.device
        return self.local.engine.regions(device, bottom - top, right - left, top - above, left - beside)

    def below(self) -> Tensor:
        """The part of the kept level's Map that lies under the tile and its margin, ring included."""
        top, bottom, left, right = (edge >> self.local.kept for edge in self.tile.outer)
        return self.local.x[self.local.kept][top : bottom + 2, left : right + 2]

    def until(self, number: int) -> None:
        """Everything before block ``number``, of those above the kept level: down, and from the kept level up again."""
        local, kept = self.local, self.local.kept
        each, net = local.each, local.net
        each(self.parts[0], stages.head, local.head, self.planes, self.first, self.x[0])
        for n in range(min(number + 1, 2 * kept)):
            level = n // 2
            if n and n % 2 == 0:
                each(self.parts[level], stages.down, local.downs[level - 1], self.x[level - 1], self.x[level])
            if n < number:
                self._block(n, level)
        if number <= 2 * kept:
            return
        for level in range(kept - 1, -1, -1):
            first = 8 - 2 * level
            if first > number:
                return
            half = self.below() if level == kept - 1 else self.x[level + 1]
            parts = local.engine.regions(local.like.device, half.shape[0] - 2, half.shape[1] - 2)
            each(parts, stages.up, net.up[1 - level], half, self.x[level])
            for n in (first, first + 1):
                if n < number:
                    self._block(n, level)

    def _block(self, number: int, level: int) -> None:
        """Both phases with the scales that are known."""
        local, convs, x, r = self.local, self.local.convs[number], self.x[level], self.r[level]
        local.each(self.parts[level], stages.block_a, convs, x, r)
        local.each(self.parts[level], stages.block_b, convs, local.scales[number], x, r)


# --- whole runs -------------------------------------------------------------------------------------------------------


def run(model: ParamISP, image: Tensor, z: Tensor | None) -> Tensor:
    """Both sub-networks in the direction's order: image (N, 3, H, W), padded, z (N, 64) or None → (N, 3, H, W)."""
    kind = image.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    with torch.autocast(kind, enabled=False), Workers(image.device) as workers:
        engine = Engine(workers, dtype, model.strip_pixels)
        for i in range(len(image)):  # one by one: a batch needs no more memory than its largest image
            picture: Picture = Whole(stages.planes_of(image[i]))
            zi = None if z is None else z[i : i + 1]
            for (top, bottom, left, right), part in through(model, engine, picture, zi):
                out[i, :, top:bottom, left:right] = part
    return out


def stream(
    model: ParamISP,
    source: Source,
    sink: Sink,
    size: tuple[int, int],
    padded: tuple[int, int],
    params: Params,
    dtype: torch.dtype,
    plan: str,
) -> None:
    """The whole model, from rows of ``source`` to rows of ``sink`` (see ``IspModel.stream``).

    ``padded``: the size that the image is padded to, by reflection, to the right and downwards.
    """
    from paramisp_cli.models.paramisp import cano_render, cano_unprocess

    device, render = params.iso.device, model.direction == "render"
    reflected = isp.reflect_index(size[0], 0, padded[0] - size[0])

    def rows(first: int, end: int) -> Tensor:
        """(1, C, rows, W) of the padded image."""
        if end <= size[0]:
            taken = source(first, end)
        else:
            wanted = reflected[first:end]
            low = int(wanted.min())
            taken = source(low, int(wanted.max()) + 1)[:, :, wanted - low]
        return isp.reflect_pad(taken.to(device), 0, padded[1] - size[1], 0, 0)

    def fetch(first: int, end: int) -> Tensor:
        """(3, rows, W): what the sub-networks see."""
        if not render:
            return rows(first, end)[0]
        # The CFA begins at even rows; what demosaicing looks at beyond these rows must be there.
        low, high = max(first - isp.DEMOSAIC_REACH, 0) // 2 * 2, end + isp.DEMOSAIC_REACH + 1
        image = cano_render(rows(low, min(high // 2 * 2, padded[0])), params, model.demosaic_border)
        return image[0, :, first - low : end - low]

    def give(top: int, image: Tensor) -> None:
        """(3, rows, W) as the model's output, without the padding."""
        for begin in range(top, min(top + image.shape[1], size[0]), _GIVEN):
            part = image[None, :, begin - top : min(begin + _GIVEN, size[0]) - top, : size[1]]
            sink(begin, (part if render else cano_unprocess(part, params)).float())

    z = model.paramnet(params) if model.paramnet is not None else None
    with Workers(device) as workers:
        engine = Engine(workers, dtype, model.strip_pixels, plan)
        picture: Picture = Fetched(padded, fetch)
        if not engine.kept:
            planes = params.iso.new_empty(3, padded[0] + 2, padded[1] + 2)
            for first, end in _cut(padded[0], _BAND, 4):
                planes[:, first + 1 : end + 1, 1:-1] = fetch(first, end)
            stages.ring_of_planes(planes)
            picture = Whole(planes)
        band = torch.empty(0)
        for (top, bottom, left, right), part in through(model, engine, picture, z):
            if right - left == padded[1]:
                give(top, part)
                continue
            if left == 0:
                band = part.new_empty(3, bottom - top, padded[1])
            band[:, :, left:right] = part
            if right == padded[1]:
                give(top, band)


def through(
    model: ParamISP, engine: Engine, first: Picture, z: Tensor | None
) -> Iterator[tuple[tuple[int, int, int, int], Tensor]]:
    """Both sub-networks over a picture, tile by tile, row by row: ((top, bottom, left, right), (3, …))."""
    tone, local, picture = model.globalnet, model.localnet, first
    if model.direction == "unprocess":
        if tone is not None:
            picture = _toned(engine, tone, engine.coefficients(tone, first, first, z), first)
        if local is not None:
            yield from _Local(engine, local, picture, first, z).run()
            return
    else:
        if local is not None:
            height, width = first.size
            planes: Tensor | None = None
            for (top, bottom, left, right), part in _Local(engine, local, first, first, z).run():
                if planes is None:
                    planes = part.new_empty(3, height + 2, width + 2)
                planes[:, top + 1 : bottom + 1, left + 1 : right + 1] = part
            assert planes is not None
            stages.ring_of_planes(planes)
            picture = Whole(planes)
        if tone is not None:
            picture = _toned(engine, tone, engine.coefficients(tone, picture, first, z), picture)
    height, width = first.size
    for top, bottom in _cut(height, _BAND if engine.kept else height, 4):
        yield (top, bottom, 0, width), picture.window(top, bottom, 0, width)[:, 1:-1, 1:-1]


def _toned(engine: Engine, net: GlobalNet, coefficients: list[tuple[Tensor, Tensor]], picture: Picture) -> Picture:
    """The picture through the tone stages: at once, or row by row where the plan is not to keep it."""
    if not engine.kept:
        height, width = picture.size
        return Whole(engine.tone(net, coefficients, picture.window(0, height, 0, width)))

    def fetch(first: int, end: int) -> Tensor:
        return engine.tone(net, coefficients, picture.window(first, end, 0, picture.size[1])[:, 1:-1, 1:-1])

    return Fetched(picture.size, fetch)


def _cut(size: int, length: int, multiple: int) -> list[tuple[int, int]]:
    """[0, size) in even parts of about ``length``, all but the last a multiple of ``multiple``."""
    count = max(round(size / length), 1)
    step = max(-(-size // count) + multiple - 1, multiple) // multiple * multiple
    return [(begin, min(begin + step, size)) for begin in range(0, size, step)]


def _maps(sizes: Sequence[tuple[int, int]], like: Tensor, band: int) -> tuple[list[Tensor], list[Tensor]]:
    """x with ring and r without, for each level; the lower levels' in the memory of the first one's r.

    With rows to a band, r is of a band at every level, with the eight rows around it, in the same memory.
    """
    x = memory.pool((sizes[0][0] + 2) * (sizes[0][1] + 2) * 64, like).view(sizes[0][0] + 2, sizes[0][1] + 2, 64)
    if band:
        shapes = [(_cut(height, band, 4)[0][1] + 8, width, 64) for height, width in sizes]
        room = memory.pool(max(map(math.prod, shapes)), like)
        lower = [memory.pool((h + 2) * (w + 2) * 64, like).view(h + 2, w + 2, 64) for h, w in sizes[1:]]
        return [x, *lower], [room[: math.prod(shape)].view(shape) for shape in shapes]
    shape = (*sizes[0], 64)
    room = memory.pool(max(math.prod(shape), _numbers(sizes[1:])), like)
    lower, residuals = _laid_out(sizes[1:], room)
    return [x, *lower], [room[: math.prod(shape)].view(shape), *residuals]


def _numbers(sizes: Sequence[tuple[int, int]]) -> int:
    """Of x and r of these sizes."""
    return sum((h + 2) * (w + 2) + h * w for h, w in sizes) * 64


def _laid_out(sizes: Sequence[tuple[int, int]], room: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """x and r of these sizes, one behind the other in a room."""
    shapes = [shape for h, w in sizes for shape in ((h + 2, w + 2, 64), (h, w, 64))]
    parts = room[: _numbers(sizes)].split([math.prod(shape) for shape in shapes]) if shapes else ()
    views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    return views[::2], views[1::2]
