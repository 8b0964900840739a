"""LocalNet over a picture of any size: its stages on regions, and the order in which they run.

A stage works on a region in strips of a few thousand pixels, so that its intermediate results stay in a core's cache;
rows that two strips share are carried over. Regions of one stage do not depend on each other: each thread works on one.
Neighbouring regions both compute the few rows and columns between them.

The attention of a block pools over the whole picture, so a block is two stages with a barrier between them:

    block_a  r = conv2(ELU(conv1 x)), with each channel's sum and maximum
    barrier  the channel scales, which need all regions
    block_b  mean and maximum over channels, 7×7 convolution, x += r · scale · sigmoid
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from paramisp_cli import memory
from paramisp_cli.models.geometry import cut
from paramisp_cli.models.paramisp.kernels import TOGETHER, BlockConvs, Conv, FirstConv, first_conv
from paramisp_cli.models.paramisp.plans import AROUND, CHANNELS, LEVELS, Schedule, map_shapes
from paramisp_cli.models.regions import Picture, Region

if TYPE_CHECKING:
    from paramisp_cli.models.base import StoredRows
    from paramisp_cli.models.paramisp.network import Block, LocalNet

Rows = tuple[int, Tensor]
"""Rows of the result: number of the first row, and pixels (3, rows, W)."""
Pooled = tuple[Tensor, Tensor]
"""Each channel's sum and maximum over a region."""
_Stage = Callable[[int, int, int], Tensor | None]
"""Function (level, first row, end row) that computes these rows."""


def run(schedule: Schedule, net: LocalNet, picture: Picture, first: Picture, z: Tensor | None) -> Iterator[Rows]:
    """Yield LocalNet's result for a picture whose sides are multiples of 4, top to bottom.

    ``first`` is the picture for the over-exposure mask; z is (1, 64) or None.
    """
    kind = _InBands if schedule.plan.band else _AtOnce
    yield from kind(schedule, net, picture, first, z).run()


# --- stages -----------------------------------------------------------------------------------------------------------


def head(conv: FirstConv, planes: Tensor, first: Tensor, x: Tensor, region: Region) -> None:
    """Write the first convolution of the features to x."""
    for begin, end in region.strips():
        target = x[begin + 1 : end + 1, region.left + 1 : region.right + 1]
        conv(planes, first, begin, region.left, end - begin, region.width, target)
    ring(x, region)


def ring(x: Tensor, region: Region) -> None:
    """Copy the border of a Map into its ring beside a region just written."""
    height, width = x.shape[0] - 2, x.shape[1] - 2
    rows, columns = slice(region.top + 1, region.bottom + 1), slice(region.left + 1, region.right + 1)
    if region.left == 0:
        x[rows, 0] = x[rows, 1]
        columns = slice(0, columns.stop)
    if region.right == width:
        x[rows, -1] = x[rows, -2]
        columns = slice(columns.start, width + 2)
    if region.top == 0:
        x[0, columns] = x[1, columns]
    if region.bottom == height:
        x[-1, columns] = x[-2, columns]


def block_a(convs: BlockConvs, x: Tensor, r: Tensor | None, region: Region) -> Pooled:
    """Write conv2(ELU(conv1 x)) to r, unless it is None; return each channel's sum (64,), float64, and maximum."""
    height, width = x.shape[0] - 2, x.shape[1] - 2
    passing = x.new_empty(region.rows if r is None else 0, region.width, 64)
    left, right = max(region.left - 1, 0), min(region.right + 1, width)
    # ELU(conv1 x): row i is image row begin − 1 + i, column j is image column region.left − 1 + j.
    inner = torch.empty(region.rows + 2, region.width + 2, 32, dtype=convs.second.dtype, device=x.device)
    columns = slice(left - region.left + 1, right - region.left + 1)
    total = torch.zeros(64, dtype=torch.float64, device=x.device)
    peak = x.new_full((64,), -torch.inf)
    for begin, end in region.strips():
        n = end - begin
        # Rows begin − 1 and begin are carried over from the previous strip.
        start, stop = begin + 1 if begin > region.top else max(begin - 1, 0), min(end + 1, height)
        if stop > start:
            rows = convs.first(x[start : stop + 2, left : right + 2])
            convs.elu(rows, inner[start - begin + 1 : stop - begin + 1, columns])
        # Replicate padding repeats conv1's *output*: its ring is a copy, not conv1 of an extended x.
        if left == region.left:
            inner[:, 0] = inner[:, 1]
        if right == region.right:
            inner[:, -1] = inner[:, -2]
        if begin == 0:
            inner[0] = inner[1]
        if end == height:
            inner[n + 1] = inner[n]
        target = passing[:n] if r is None else r[begin:end, region.left : region.right]
        out = convs.second(inner[: n + 2], target)
        row = out.flatten(1)  # reduce rows first: reducing both dimensions at once is ten times slower on cut columns
        total += row.sum(0).view(-1, 64).sum(0).double()
        peak = torch.maximum(peak, row.amax(0).view(-1, 64).amax(0))
        inner[:2] = inner[n : n + 2].clone()
    return total, peak


def channel_scale(block: Block, pooled: list[Pooled], pixels: int) -> Tensor:
    """Return the factor (64,) of each channel from ``block_a``'s results for all regions of an image."""
    peak = torch.stack([peak for _, peak in pooled]).amax(0)
    mean = (torch.stack([total for total, _ in pooled]).sum(0) / pixels).to(peak.dtype)
    return block.channel_scale(mean.view(1, 64, 1, 1), peak.view(1, 64, 1, 1)).view(64)


def block_b(convs: BlockConvs, scale: Tensor, x: Tensor, r: Tensor, region: Region) -> None:
    """Add r · scale · sigmoid(7×7 convolution of r · scale's mean and maximum over channels) to x."""
    height, width = r.shape[:2]
    left, right = max(region.left - 3, 0), min(region.right + 3, width)
    before, behind = left - (region.left - 3), region.right + 3 - right
    # Mean and maximum with the 7×7's ring of 3: row i is image row region.top − 3 + i; columns follow the same rule.
    full = -(-region.width // TOGETHER) * TOGETHER + 6
    padded = r.new_zeros(2, region.bottom - region.top + 6, full)
    where = padded[..., : region.width + 6]
    scaled = r.new_empty(region.rows + 6, right - left, 64)  # row i is image row begin − 3 + i
    done = max(region.top - 3, 0)
    for begin, end in region.strips():
        n, ahead = end - begin, min(end + 3, height)
        rows = torch.mul(r[done:ahead, left:right], scale, out=scaled[done - begin + 3 : ahead - begin + 3])
        new = where[:, done - region.top + 3 : ahead - region.top + 3]
        torch.mean(rows, 2, out=new[0, :, before : new.shape[2] - behind])
        torch.amax(rows, 2, out=new[1, :, before : new.shape[2] - behind])
        if before:
            new[..., :before] = new[..., before : before + 1]
        if behind:
            new[..., -behind:] = new[..., -behind - 1 : -behind]
        if done == 0:
            where[:, : 3 - region.top] = where[:, 3 - region.top, None]
        if ahead == height:
            last = height - region.top + 2
            where[:, last + 1 :] = where[:, last, None]
        done = ahead
        attention = convs.places(padded[:, begin - region.top : end - region.top + 6], region.width)
        rows = scaled[3 : n + 3, region.left - left : region.right - left]
        x[begin + 1 : end + 1, region.left + 1 : region.right + 1].addcmul_(rows, attention)
        scaled[3:6] = scaled[n + 3 : n + 6].clone()
    ring(x, region)


def down(conv: Conv, x: Tensor, half: Tensor, region: Region) -> None:
    """Write the 2×2 convolution of x with stride 2 to ``half``; the region counts half's pixels."""
    for begin, end in region.strips(4):
        rows = conv(x[2 * begin + 1 : 2 * end + 1, 2 * region.left + 1 : 2 * region.right + 1])
        half[begin + 1 : end + 1, region.left + 1 : region.right + 1] = rows
    ring(half, region)


def up(conv: nn.ConvTranspose2d, half: Tensor, x: Tensor, region: Region) -> None:
    """Add the 2×2 transposed convolution of ``half``, stride 2, to x, which is its own skip connection.

    The region counts half's pixels.
    """
    assert conv.bias is not None
    # With stride 2 the 2×2 results do not overlap. The upper two of the four, and the lower two, are each one product
    # with (64, 2 · 64), whose results lie side by side.
    weight, bias = conv.weight.permute(2, 0, 3, 1).reshape(2, 64, 128), conv.bias.repeat(2)
    for begin, end in region.strips(4):
        rows = half[begin + 1 : end + 1, region.left + 1 : region.right + 1]
        target = x[2 * begin + 1 : 2 * end + 1, 2 * region.left + 1 : 2 * region.right + 1]
        for lower in range(2):
            pairs = target[lower::2].view(len(rows), -1, 128)
            pairs.add_(bias).baddbmm_(rows, weight[lower].expand(len(rows), -1, -1))
    ring(x, Region(2 * region.top, 2 * region.bottom, 2 * region.left, 2 * region.right, 1))


def tail(conv: nn.Conv2d, x: Tensor, planes: Tensor, out: Tensor, region: Region) -> None:
    """Write planes + last convolution of x to ``out``, except to its ring."""
    # Three output channels leave a convolution kernel mostly idle. Instead, nine taps × three channels are one product.
    weight = conv.weight.permute(2, 3, 0, 1).reshape(27, 64)
    assert conv.bias is not None
    width, bias = region.width, conv.bias[:, None, None]
    for begin, end in region.strips():
        n = end - begin
        rows = x[begin : end + 2, region.left : region.right + 2]
        taps = (weight @ rows.transpose(1, 2)).view(n + 2, 3, 3, 3, width + 2).permute(1, 2, 3, 0, 4)
        inside = (slice(None), slice(begin + 1, end + 1), slice(region.left + 1, region.right + 1))
        torch.add(planes[inside], bias, out=out[inside])
        for dy in range(3):
            for dx in range(3):
                out[inside] += taps[dy, dx, :, dy : dy + n, dx : dx + width]


# --- schedules --------------------------------------------------------------------------------------------------------


class _Run:
    """One run of LocalNet: its prepared convolutions, its pictures and its channel scales."""

    def __init__(self, schedule: Schedule, net: LocalNet, picture: Picture, first: Picture, z: Tensor | None) -> None:
        self.schedule, self.net, self.picture, self.first = schedule, net, picture, first
        self.each = schedule.each
        self.sizes = [(picture.size[0] >> level, picture.size[1] >> level) for level in range(LEVELS)]
        self.like = net.head.weight
        steered = net.condition(z)[0] if net.condition is not None and z is not None else None
        self.head = first_conv(net.head, schedule.dtype, more=steered)
        self.convs = [BlockConvs(block, schedule.dtype) for block in net.blocks]
        self.downs = [Conv(conv.weight, conv.bias, schedule.dtype, stride=2) for conv in net.down]

    def scale(self, number: int, level: int, pooled: list[Pooled]) -> Tensor:
        """Compute the channel scales of a block from all regions' pooled statistics."""
        return channel_scale(self.net.blocks[number], pooled, math.prod(self.sizes[level]))


class _AtOnce(_Run):
    """A run with x and r of the whole picture in memory."""

    def run(self) -> Iterator[Rows]:
        """Yield the whole result."""
        height = self.sizes[0][0]
        regions = [self.schedule.regions(*size) for size in self.sizes]
        x, r = self._maps()
        planes, mask_of = (each.rows(0, height) for each in (self.picture, self.first))
        self.each(regions[0], head, self.head, planes, mask_of, x[0])
        for level in range(LEVELS):
            if level:
                self.each(regions[level], down, self.downs[level - 1], x[level - 1], x[level])
            self._blocks(level, 2 * level, regions[level], x[level], r[level])
        for level in (1, 0):
            self.each(regions[level + 1], up, self.net.up[1 - level], x[level + 1], x[level])
            self._blocks(level, 8 - 2 * level, regions[level], x[level], r[level])
        out = planes.new_empty(planes.shape)
        self.each(regions[0], tail, self.net.tail, x[0], planes, out)
        yield 0, out[:, 1:-1, 1:-1]

    def _blocks(self, level: int, number: int, regions: list[Region], x: Tensor, r: Tensor) -> None:
        """Run the two blocks ``number`` and ``number`` + 1 of a level."""
        for n in (number, number + 1):
            pooled = self.each(regions, block_a, self.convs[n], x, r)
            self.each(regions, block_b, self.convs[n], self.scale(n, level, pooled), x, r)

    def _maps(self) -> tuple[list[Tensor], list[Tensor]]:
        """Make x (with ring) and r of every level; the maps of lower levels share the memory of the first level's r."""
        top, *lower = map_shapes(*self.sizes[0])
        x = memory.pool(math.prod(top), self.like).view(top)
        full = (*self.sizes[0], CHANNELS)
        shapes = [each for ringed in lower for each in (ringed, (ringed[0] - 2, ringed[1] - 2, CHANNELS))]
        counts = [math.prod(shape) for shape in shapes]
        room = memory.pool(max(math.prod(full), sum(counts)), self.like)
        views = [each.view(shape) for each, shape in zip(torch.split(room[: sum(counts)], counts), shapes, strict=True)]
        return [x, *views[::2]], [room[: math.prod(full)].view(full), *views[1::2]]


class _InBands(_Run):
    """A run with only x, of every size, in memory or in a store; r is computed twice, for a band of rows at a time.

    The next stage reads a band's rows while they are in memory: each level's map is read five times and written five
    times.
    """

    def run(self) -> Iterator[Rows]:
        """Yield the result, band by band."""
        self.band = self.schedule.plan.band
        bands = [(cut(height, self.band, 4)[0][1] + 8, width, CHANNELS) for height, width in self.sizes]
        room = memory.pool(max(map(math.prod, bands)), self.like)  # one level at a time uses it
        self.r = [room[: math.prod(band)].view(band) for band in bands]
        with self._maps() as self.x:
            for level in range(LEVELS):
                first, last = None if level else self._head, self._down if level < LEVELS - 1 else None
                yield from self._blocks(level, 2 * level, first, last)
            for level in (1, 0):
                yield from self._blocks(level, 8 - 2 * level, self._up, None if level else self._tail)

    @contextmanager
    def _maps(self) -> Iterator[list[StoredRows]]:
        """Make x of every level, each as a function that returns rows of it."""
        shapes, like = map_shapes(*self.sizes[0]), self.like
        if not self.schedule.plan.stored:
            yield [_in_memory(memory.pool(math.prod(shape), like).view(shape)) for shape in shapes]
            return
        assert self.schedule.store is not None
        windows = [cut(height, self.band, 4)[0][1] + AROUND for height, _ in self.sizes]
        with self.schedule.store(sum(map(math.prod, shapes)) * like.element_size()) as store:
            yield [store.rows(shape, rows, like) for shape, rows in zip(shapes, windows, strict=True)]

    def _blocks(self, level: int, number: int, make: _Stage | None, consume: _Stage | None) -> Iterator[Rows]:
        """Run blocks ``number`` and ``number`` + 1, between the stage that makes x and the stage that consumes it."""
        for n in (number, number + 1):
            pooled: list[Pooled] = []
            yield from self._pass(level, make, partial(self._measure, n, pooled))
            make = partial(self._add, n, self.scale(n, level, pooled))
        yield from self._pass(level, make, consume)

    def _pass(self, level: int, make: _Stage | None, consume: _Stage | None) -> Iterator[Rows]:
        """Make all rows of a level's x, let ``consume`` read them, and yield the rows of the result that it returns."""
        height, done = self.sizes[level][0], 0
        for first, last in cut(height, self.band, 4):
            if make is not None:
                make(level, first, last)
            # A consumer needs two rows of lookahead; the level below needs an even number of rows from a multiple of 4.
            ready = height if last == height else last - 4
            if consume is not None and ready > done:
                rows = consume(level, done, ready)
                if rows is not None:
                    yield done, rows
                done = ready

    def _around(self, level: int, first: int, last: int, more: int) -> tuple[int, int, list[Region]]:
        """Return rows [first, last) extended by ``more`` on both sides, and regions of [first, last) within them.

        The edge of these rows is the picture's edge, or too far away to matter to a stage.
        """
        height, width = self.sizes[level]
        low, high = max(first - more, 0), min(last + more, height)
        return low, high, self.schedule.regions(last - first, width, first - low)

    def _rows(self, level: int, low: int, high: int, *, fresh: bool = False, change: bool = False) -> Tensor:
        """Return rows [low, high) of a level's x, with the ring."""
        return self.x[level](low, high + 2, fresh=fresh, change=change)

    def _head(self, level: int, first: int, last: int) -> None:
        low, high, regions = self._around(level, first, last, 4)
        planes, mask_of = (each.rows(low, high) for each in (self.picture, self.first))
        x = self._rows(level, low, high, fresh=True, change=True)
        self.each(regions, head, self.head, planes, mask_of, x)

    def _tail(self, level: int, first: int, last: int) -> Tensor:
        low, high, regions = self._around(level, first, last, 4)
        planes = self.picture.rows(low, high)
        out = torch.empty_like(planes, memory_format=torch.contiguous_format)
        self.each(regions, tail, self.net.tail, self._rows(level, low, high), planes, out)
        return out[:, first - low + 1 : last - low + 1, 1:-1]

    def _down(self, level: int, first: int, last: int) -> None:
        low, high, regions = self._around(level + 1, first // 2, last // 2, 2)
        x, half = self._rows(level, 2 * low, 2 * high), self._rows(level + 1, low, high, fresh=True, change=True)
        self.each(regions, down, self.downs[level], x, half)

    def _up(self, level: int, first: int, last: int) -> None:
        low, high, regions = self._around(level + 1, first // 2, last // 2, 2)
        x, half = self._rows(level, 2 * low, 2 * high, change=True), self._rows(level + 1, low, high)
        self.each(regions, up, self.net.up[1 - level], half, x)

    def _measure(self, number: int, pooled: list[Pooled], level: int, first: int, last: int) -> None:
        """Run a block's first stage for its statistics, and drop r."""
        low, high, regions = self._around(level, first, last, 2)
        pooled += self.each(regions, block_a, self.convs[number], self._rows(level, low, high), None)

    def _add(self, number: int, scale: Tensor, level: int, first: int, last: int) -> None:
        """Compute r again and run a block's second stage; image row i is row i − first + 3 of r.

        The stage reads three rows of r on either side, and r reads two rows of x. So r is computed three rows further
        than it is added; these rows stay for the next band, which then reads no changed row of x.
        """
        convs, r, height = self.convs[number], self.r[level], self.sizes[level][0]
        begin, end = first + 3 if first else 0, min(last + 3, height)
        if end > begin:
            low, high, regions = self._around(level, begin, end, 2)
            x = self._rows(level, low, high)
            self.each(regions, block_a, convs, x, r[low - first + 3 : high - first + 3])
        low, high, regions = self._around(level, first, last, 3)
        x = self._rows(level, low, high, change=number < len(self.convs) - 1)  # only the tail reads the last result
        self.each(regions, block_b, convs, scale, x, r[low - first + 3 : high - first + 3])
        r[:6] = r[last - first : last - first + 6].clone()


def _in_memory(x: Tensor) -> StoredRows:
    """Return ``StoredRows`` of a tensor in memory."""

    def rows(first: int, end: int, *, fresh: bool = False, change: bool = False) -> Tensor:
        return x[first:end]

    return rows
