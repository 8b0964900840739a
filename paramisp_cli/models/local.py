"""LocalNet over a whole image: what is kept of its maps, what is made again, in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paramisp_cli import memory
from paramisp_cli.models import stages
from paramisp_cli.models.engine import PLANS, Engine, Picture, cut
from paramisp_cli.models.stages import Conv, Convs, Region
from paramisp_cli.scratch import Scratch

if TYPE_CHECKING:
    from paramisp_cli.models.paramisp import LocalNet

_HEAD_ROOM = 512 << 20
_BLOCKS = 10
_BLOCK_REACH, _HEAD_REACH, _TAIL_REACH = 5, 1, 1
"""How far [px, at the level] a block sees (3×3, 3×3 and 7×7), the gradient among the features, and the last layer."""

Part = tuple[tuple[int, int, int, int], Tensor]
"""A part of the result: (top, bottom, left, right) [px] and its pixels (3, bottom − top, right − left)."""
_Stage = Callable[[int, int, int], Tensor | None]
"""(level, first row, end row): does those rows."""


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
    (kept, side, on_disk), pixels = PLANS[plan], (height + 2) * (width + 2)
    if not kept and side:
        band = (max(cut(height, side, 4)[0]) + 8) * width * 256
        if on_disk:
            return pixels * 40 + 5 * band + _HEAD_ROOM
        return pixels * (336 + 56) + band + _HEAD_ROOM
    if not kept:
        return pixels * (512 + 56) + _HEAD_ROOM
    rows, columns = (min(size, side + 2 * margin(kept)) for size in (height, width))
    return pixels * (512 >> 2 * kept) + pixels * 24 + rows * columns * 720 + rows * width * 60 + _HEAD_ROOM * 3 // 2


@dataclass(frozen=True, slots=True)
class _Tile:
    """A part of the image, its rows and columns [px, full size]: those wanted, and those with the margin around."""

    core: tuple[int, int, int, int]
    outer: tuple[int, int, int, int]

    def sizes(self, levels: int) -> list[tuple[int, int]]:
        """Height and width with the margin, at so many levels."""
        top, bottom, left, right = self.outer
        return [((bottom - top) >> level, (right - left) >> level) for level in range(levels)]


class LocalRun:
    """One run of LocalNet over one picture: the maps that are kept, the scales known so far."""

    def __init__(self, engine: Engine, net: LocalNet, picture: Picture, first: Picture, z: Tensor | None) -> None:
        self.engine, self.net, self.picture, self.first = engine, net, picture, first
        self.each, self.kept = engine.workers.each, engine.plan.kept
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

    def run(self) -> Iterator[Part]:
        """The result, tile by tile, row by row; sides are multiples of 4."""
        if self.kept:
            yield from self._in_tiles()
        elif self.engine.plan.side:
            yield from _Bands(self).run()
        else:
            yield from self._at_once()

    def _at_once(self) -> Iterator[Part]:
        """With all of x and r."""
        self.x, self.r = _maps(self.sizes, self.like)
        (height, width), parts = self.sizes[0], self._regions(0)
        planes, mask_of = (p.window(0, height, 0, width) for p in (self.picture, self.first))
        self.each(parts, stages.head, self.head, planes, mask_of, self.x[0])
        self._kept_levels()
        out = planes.new_empty(planes.shape)
        self.each(parts, stages.tail, self.net.tail, self.x[0], planes, out)
        yield (0, height, 0, width), out[:, 1:-1, 1:-1]

    def _in_tiles(self) -> Iterator[Part]:
        """With x and r from a lower level on."""
        kept, tiles = self.kept, self._tiles()
        # One room for all tiles: maps that come and go leave gaps in what the allocator keeps, which grow.
        self.room = memory.pool(max(_numbers(tile.sizes(kept)) for tile in tiles), self.like)
        for number in range(2 * kept):
            self._measure(number, tiles)
        x, r = _maps(self.sizes[kept:], self.like)
        self.x, self.r = [x[0]] * kept + x, [r[0]] * kept + r  # (those of smaller numbers are not used)
        for tile in tiles:
            self._store(tile)
        self._kept_levels()
        self.x, self.r, x, r = [self.x[kept]] * (kept + 1), [], [], []  # from here on all others are made anew
        for number in range(_BLOCKS - 2 * kept, _BLOCKS):
            self._measure(number, tiles)
        for tile in tiles:
            yield tile.core, self._finish(tile)

    def _kept_levels(self) -> None:
        """All blocks from the kept level on, down and up again."""
        parts = [self._regions(level) for level in range(3)]
        for level in range(self.kept, 3):
            if level > self.kept:
                self.each(parts[level], stages.down, self.downs[level - 1], self.x[level - 1], self.x[level])
            self._blocks(level, 2 * level, parts[level])
        for level in range(1, self.kept - 1, -1):
            self.each(parts[level + 1], stages.up, self.net.up[1 - level], self.x[level + 1], self.x[level])
            self._blocks(level, 8 - 2 * level, parts[level])

    def _regions(self, level: int) -> list[Region]:
        return self.engine.regions(self.like.device, *self.sizes[level])

    def _blocks(self, level: int, number: int, parts: list[Region]) -> None:
        """Two blocks, from ``number`` on, of a level that is kept."""
        for n in (number, number + 1):
            convs, x, r = self.convs[n], self.x[level], self.r[level]
            pooled = self.each(parts, stages.block_a, convs, x, r)
            self.each(parts, stages.block_b, convs, self.scale(n, level, pooled), x, r)

    def scale(self, number: int, level: int, pooled: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Find and note a block's channel scales, from what phase A gave everywhere."""
        self.scales[number] = stages.channel_scale(self.net.blocks[number], pooled, math.prod(self.sizes[level]))
        return self.scales[number]

    # What is made anew, tile by tile

    def _tiles(self) -> list[_Tile]:
        """The image in tiles, row by row."""
        height, width = self.sizes[0]
        around = margin(self.kept)
        return [
            _Tile(
                (top, bottom, left, right),
                (max(top - around, 0), min(bottom + around, height), max(left - around, 0), min(right + around, width)),
            )
            for top, bottom in cut(height, self.engine.plan.side, 4)
            for left, right in cut(width, self.engine.plan.side, 4)
        ]

    def _measure(self, number: int, tiles: list[_Tile]) -> None:
        """Find the channel scales of a block above the kept level: everything before it, and its phase A, per tile."""
        level = number // 2 if number < _BLOCKS // 2 else (_BLOCKS - 1 - number) // 2

        def pooled(tile: _Tile) -> list[tuple[Tensor, Tensor]]:  # of its own, so that no tile outlives its turn
            made = _Made(self, tile)
            made.until(number)
            return self.each(made.core(level), stages.block_a, self.convs[number], made.x[level], made.r[level])

        self.scale(number, level, [part for tile in tiles for part in pooled(tile)])

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

    def __init__(self, local: LocalRun, tile: _Tile) -> None:
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


class _Bands:
    """A run with x alone, of every size, in memory or in a file. r is made for some rows at a time, and made twice.

    Rows are made band by band, and what comes next looks at them while they are at hand: every map is gone through
    five times a level, and written as often.
    """

    def __init__(self, run: LocalRun) -> None:
        self.of, self.engine, self.each = run, run.engine, run.each
        self.x: list[Callable[..., Tensor]] = []
        side = run.engine.plan.side
        bands = [(cut(height, side, 4)[0][1] + 8, width, 64) for height, width in run.sizes]  # and what lies around
        room = memory.pool(max(map(math.prod, bands)), run.like)
        self.r = [room[: math.prod(band)].view(band) for band in bands]

    def run(self) -> Iterator[Part]:
        """The result, band by band."""
        with self._maps() as self.x:
            for level in range(3):
                first, last = None if level else self._head, self._down if level < 2 else None
                yield from self._blocks(level, 2 * level, first, last)
            for level in (1, 0):
                yield from self._blocks(level, 8 - 2 * level, self._up, None if level else self._tail)

    @contextmanager
    def _maps(self) -> Iterator[list[Callable[..., Tensor]]]:
        """x of every level, as what gives rows of it."""
        plan, like = self.engine.plan, self.of.like
        shapes = [(height + 2, width + 2, 64) for height, width in self.of.sizes]
        if not plan.on_disk:
            yield [_kept(memory.pool(math.prod(shape), like).view(shape)) for shape in shapes]
            return
        windows = [cut(height, plan.side, 4)[0][1] + _AROUND for height, _ in self.of.sizes]
        make = self.engine.scratch or Scratch
        with make(sum(map(math.prod, shapes)) * like.element_size()) as scratch:
            yield [scratch.rows(shape, rows, like) for shape, rows in zip(shapes, windows, strict=True)]

    def _blocks(self, level: int, number: int, make: _Stage | None, look: _Stage | None) -> Iterator[Part]:
        """Two blocks, from ``number`` on, after what makes their input and before what takes their output."""
        for n in (number, number + 1):
            pooled: list[tuple[Tensor, Tensor]] = []
            yield from self._pass(level, make, partial(self._measure, n, pooled))
            make = partial(self._add, n, self.of.scale(n, level, pooled))
        yield from self._pass(level, make, look)

    def _pass(self, level: int, make: _Stage | None, look: _Stage | None) -> Iterator[Part]:
        """Make all rows of a level's x, and look at them; what that gives, if it is a part of the result."""
        height, width = self.of.sizes[level]
        bands, done = cut(height, self.engine.plan.side, 4), 0
        for first, last in bands:
            if make is not None:
                make(level, first, last)
            # Looking at a row takes the two below it; and rows of half the size come in twos, for the level below.
            ready = height if last == height else last - 4
            if look is not None and ready > done:
                part = look(level, done, ready)
                if part is not None:
                    yield (done, ready, 0, width), part
                done = ready

    def _around(self, level: int, first: int, last: int, more: int) -> tuple[int, int, list[Region]]:
        """The rows first − more to last + more that there are, and [first, last) in regions counted from the former.

        Seen from a stage, the edge of these rows is the image's, or too far away to matter.
        """
        height, width = self.of.sizes[level]
        low, high = max(first - more, 0), min(last + more, height)
        return low, high, self.engine.regions(self.of.like.device, last - first, width, first - low)

    def _rows(self, level: int, low: int, high: int, *, fresh: bool = False, change: bool = False) -> Tensor:
        """Rows [low, high) of a level's x, with ring."""
        return self.x[level](low, high + 2, fresh=fresh, change=change)

    def _head(self, level: int, first: int, last: int) -> None:
        low, high, parts = self._around(level, first, last, 4)
        planes, mask_of = (p.window(low, high, 0, p.size[1]) for p in (self.of.picture, self.of.first))
        self.each(
            parts, stages.head, self.of.head, planes, mask_of, self._rows(level, low, high, fresh=True, change=True)
        )

    def _tail(self, level: int, first: int, last: int) -> Tensor:
        low, high, parts = self._around(level, first, last, 4)
        planes = self.of.picture.window(low, high, 0, self.of.picture.size[1])
        out = torch.empty_like(planes, memory_format=torch.contiguous_format)
        self.each(parts, stages.tail, self.of.net.tail, self._rows(level, low, high), planes, out)
        return out[:, first - low + 1 : last - low + 1, 1:-1]

    def _down(self, level: int, first: int, last: int) -> None:
        low, high, parts = self._around(level + 1, first // 2, last // 2, 2)
        x, half = self._rows(level, 2 * low, 2 * high), self._rows(level + 1, low, high, fresh=True, change=True)
        self.each(parts, stages.down, self.of.downs[level], x, half)

    def _up(self, level: int, first: int, last: int) -> None:
        low, high, parts = self._around(level + 1, first // 2, last // 2, 2)
        x, half = self._rows(level, 2 * low, 2 * high, change=True), self._rows(level + 1, low, high)
        self.each(parts, stages.up, self.of.net.up[1 - level], half, x)

    def _measure(self, number: int, pooled: list[tuple[Tensor, Tensor]], level: int, first: int, last: int) -> None:
        """A block's phase A, r not kept."""
        low, high, parts = self._around(level, first, last, 2)
        pooled += self.each(parts, stages.block_a, self.of.convs[number], self._rows(level, low, high), None)

    def _add(self, number: int, scale: Tensor, level: int, first: int, last: int) -> None:
        """A block's phase B with its r made again: image row i is row i − first + 3 of r.

        Phase B looks at three rows of r beside its own, and r at two of x: three rows more are made than are added, and
        stay for the next band, which so needs no row of x that has been changed.
        """
        convs, r, height = self.of.convs[number], self.r[level], self.of.sizes[level][0]
        begin, end = first + 3 if first else 0, min(last + 3, height)
        if end > begin:
            low, high, parts = self._around(level, begin, end, 2)
            self.each(parts, stages.block_a, convs, self._rows(level, low, high), r[low - first + 3 : high - first + 3])
        low, high, parts = self._around(level, first, last, 3)
        x = self._rows(level, low, high, change=number < _BLOCKS - 1)  # the last one's result goes to the tail only
        self.each(parts, stages.block_b, convs, scale, x, r[low - first + 3 : high - first + 3])
        r[:6] = r[last - first : last - first + 6].clone()


_AROUND = 40
"""Rows of x that are in memory beside a band's: what lies around it, and what was made and not looked at."""


def _kept(x: Tensor) -> Callable[..., Tensor]:
    """Like ``ScratchRows``, for a tensor in memory."""

    def rows(first: int, end: int, *, fresh: bool = False, change: bool = False) -> Tensor:
        return x[first:end]

    return rows


def _maps(sizes: Sequence[tuple[int, int]], like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """x with ring and r without, for each level; the lower levels' in the memory of the first one's r."""
    x = memory.pool((sizes[0][0] + 2) * (sizes[0][1] + 2) * 64, like).view(sizes[0][0] + 2, sizes[0][1] + 2, 64)
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
