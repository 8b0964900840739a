"""CycleISP's RGB → RAW network over a picture of any size, in strips of rows; the result is the plain network's.

Two maps of 96 channels have the picture's size: the input of the current group of blocks, and its features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from paramisp_cli.models.base import Store
from paramisp_cli.models.cycleisp.network import CHANNELS, Block, Group, RgbToRaw, Trunk
from paramisp_cli.models.regions import Progress, Sink, Source

REACH = 3
"""Reach [px] of a block."""
_STRIP_PIXELS = 1 << 17
_FEWEST_ROWS = 8


class Map(Protocol):
    """Features (1, 96, H, W), a range of rows at a time."""

    def rows(self, first: int, end: int) -> Tensor:
        """Return rows as (1, 96, rows, W), valid until the next call."""

    def write(self, first: int, rows: Tensor) -> None:
        """Overwrite rows."""


class InMemory:
    """A map in memory."""

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        self.values = torch.empty(1, CHANNELS, *size, device=device)

    def rows(self, first: int, end: int) -> Tensor:
        """Return a view."""
        return self.values[:, :, first:end]

    def write(self, first: int, rows: Tensor) -> None:
        """Copy the rows."""
        self.values[:, :, first : first + rows.shape[2]] = rows


class InStore:
    """A map in a store, row by row."""

    def __init__(self, size: tuple[int, int], device: torch.device, store: Store) -> None:
        height, width = size
        window = min(rows_of_a_strip(width) + 2 * REACH, height)
        self.window = store.rows((height, CHANNELS, width), window, torch.empty(0, device=device))

    def rows(self, first: int, end: int) -> Tensor:
        """Return a view of the window."""
        return self.window(first, end).permute(1, 0, 2)[None]

    def write(self, first: int, rows: Tensor) -> None:
        """Copy the rows into the window, which writes them back later."""
        self.window(first, first + rows.shape[2], fresh=True, change=True).copy_(rows[0].permute(1, 0, 2))


def rows_of_a_strip(width: int) -> int:
    """Return the number of rows computed at a time, even."""
    return max(_STRIP_PIXELS // width // 2 * 2, _FEWEST_ROWS)


def run(
    net: RgbToRaw,
    source: Source,
    sink: Sink,
    size: tuple[int, int],
    maps: Sequence[Map],
    keep: bool,
    progress: Progress | None = None,
) -> None:
    """Run the network from rows to rows. ``keep``: a third map holds features that are otherwise computed twice."""
    trunk, groups = net.trunk, cast("Sequence[Group]", net.trunk.groups)
    work = _Work(size, sum(1 + 2 * len(group.blocks) for group in groups) + 2, progress)
    device = trunk.slopes.device
    before, x = maps
    third = InMemory(size, device) if keep else None
    for top, end, first, last in work.strips(1):
        rows = trunk.head(source(first, last).to(device)).float()
        before.write(top, rows[:, :, top - first : end - first])
    for group in groups:
        for number, block in enumerate(cast("Sequence[Block]", group.blocks)):
            _run_block(block, trunk, before if number == 0 else x, x, third, work)
        for top, end, first, last in work.strips(1):
            change = group.conv(x.rows(first, last)).float()[:, :, top - first : end - first]
            before.write(top, before.rows(top, end) + change)
    for top, end, first, last in work.strips(2):
        rows = net.finished(trunk.conv(before.rows(first, last)).float())
        sink(top, rows[:, :, top - first : end - first])


def _run_block(block: Block, trunk: Trunk, before: Map, after: Map, third: Map | None, work: _Work) -> None:
    """Run a block from one map to another, or in place."""
    total = torch.zeros(1, CHANNELS, device=trunk.slopes.device, dtype=torch.float64)
    for top, end, first, last in work.strips(2):
        residual = block.residual(before.rows(first, last), trunk.slopes)[:, :, top - first : end - first]
        total += residual.sum((2, 3), dtype=torch.float64)
        if third is not None:
            third.write(top, residual)
    gate = block.gate((total / (work.size[0] * work.size[1])).float()[:, :, None, None])
    above = None  # rows that the strip before has overwritten
    for top, end, first, last in work.strips(REACH):
        if third is not None:
            low, high = max(top - 1, 0), min(end + 1, work.size[0])
            change = block.attended(third.rows(low, high), gate)[:, :, top - low : end - low]
            after.write(top, before.rows(top, end) + change)
            continue
        old = before.rows(first, last)
        if above is not None and top > first:
            old = torch.cat([above[:, :, first - top :], old[:, :, top - first :]], 2)
        residual = block.residual(old, trunk.slopes)
        low, high = max(top - 1, 0), min(end + 1, work.size[0])
        change = block.attended(residual[:, :, low - first : high - first], gate)[:, :, top - low : end - low]
        above = old[:, :, max(end - first - REACH, 0) : end - first].clone()
        after.write(top, old[:, :, top - first : end - first] + change)


class _Work:
    """The strips of a picture, and the share of all passes over it that is done."""

    def __init__(self, size: tuple[int, int], passes: int, progress: Progress | None) -> None:
        self.size, self.total, self.progress, self.done = size, passes * size[0], progress, 0

    def strips(self, reach: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (begin, end) of each strip, and the same with its surroundings, which end at the picture's border."""
        height = self.size[0]
        step = rows_of_a_strip(self.size[1])
        for top in range(0, height, step):
            end = min(top + step, height)
            yield top, end, max(top - reach, 0), min(end + reach, height)
            self.done += end - top
            if self.progress is not None:
                self.progress(self.done / self.total)
