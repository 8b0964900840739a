"""Search for a ColorChecker in a photograph, by the grid of its flat patches and by their colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from paramisp_cli import color

ROWS, COLUMNS = 4, 6

# The 24 patches in sRGB, from dark skin to black, row by row, as published by the maker.
_PATCHES = np.array(
    [
        (115, 82, 68), (194, 150, 130), (98, 122, 157), (87, 108, 67), (133, 128, 177), (103, 189, 170),
        (214, 126, 44), (80, 91, 166), (193, 90, 99), (94, 60, 108), (157, 188, 64), (224, 163, 46),
        (56, 61, 150), (70, 148, 73), (175, 54, 60), (231, 199, 31), (187, 86, 149), (8, 133, 161),
        (243, 243, 242), (200, 200, 200), (160, 160, 160), (122, 122, 121), (85, 85, 85), (52, 52, 52),
    ]
)  # fmt: skip

_SIDES = (640, 1280, 320)
"""Longer sides [px] of the reduced pictures that are searched, the likeliest first."""
_FLAT = (0.03, 0.06, 0.015)
"""Differences between neighbours up to which an area counts as flat: noise, vignetting."""
_FEWEST = 13
"""Smallest number of patches found one by one; the grid gives the others (black merges with the frame)."""
_MOST = 40
"""Number of patches from which a grid is something else: tiles, windows, a checkerboard."""
_SURE = 0.75
"""Smallest correlation with the colours of the chart, and with the hues alone. Chance gives about 0 ± 0.2."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart in a photograph.

    terms  (K, 2) polynomial that maps a place on the chart, (row, column) with patch centres at whole numbers, to the
           pixel (y, x); patch (0, 0) is dark skin, (3, 5) black
    score  correlation with the colours of the chart (0 to 1)
    """

    terms: np.ndarray
    score: float

    def at(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Return the pixels (y, x) of places on the chart, (…, 2)."""
        places: np.ndarray = _powers(row, column, len(self.terms)) @ self.terms
        return places

    def corners(self, half: float = 0.25) -> np.ndarray:
        """Return the corners (y, x) of the measured square of each patch, (24, 4, 2), clockwise from the first."""
        row, column = (x.ravel()[:, None] for x in np.mgrid[:ROWS, :COLUMNS])
        return self.at(row + half * np.array([-1, -1, 1, 1]), column + half * np.array([-1, 1, 1, -1]))

    def means(self, picture: np.ndarray) -> np.ndarray:
        """Return the mean linear light (24, 3) in the middle of each patch, of an sRGB picture (H, W, 3) in [0, 1]."""
        place = self.at(*_places(np.linspace(-0.25, 0.25, 24))).round().astype(int)
        means: np.ndarray = color.srgb_decode(picture[place[..., 0], place[..., 1]].astype(np.float64)).mean(1)
        return means


def find(picture: np.ndarray) -> Chart | None:
    """Find the ColorChecker in an sRGB picture (H, W, 3) uint8; None if there is none, or an uncertain one.

    The chart may be turned, seen in perspective and distorted by the lens. All of it must be in the picture, with
    patches of at least about 1/80 of the longer side.
    """
    done = set()
    best: Chart | None = None
    for side in _SIDES:
        step = max(round(max(picture.shape[:2]) / side), 1)
        if step in done:
            continue
        done.add(step)
        small = _shrunk(picture, step)
        for flat in _FLAT:
            chart = _search(small, flat)
            if chart is not None and (best is None or chart.score > best.score + 0.01):
                # The first term is the constant: pixel i of the small picture covers i·step to (i + 1)·step − 1.
                terms = chart.terms * step
                terms[0] += (step - 1) / 2
                best = Chart(terms, chart.score)
        if best is not None:
            break
    return best


def _shrunk(picture: np.ndarray, step: int) -> np.ndarray:
    """Compute means over ``step`` × ``step`` pixels, float32 in [0, 1]."""
    h, w = picture.shape[0] // step, picture.shape[1] // step
    rows = np.add.reduceat(picture[: h * step, : w * step].astype(np.float32), np.arange(0, h * step, step), 0)
    return np.add.reduceat(rows, np.arange(0, w * step, step), 1) / np.float32(255 * step * step)


@dataclass(frozen=True, slots=True)
class _Blobs:
    """Flat spots that may be patches: centres (N, 2) as (y, x), areas (N,) [px]."""

    at: np.ndarray
    area: np.ndarray


def _search(small: np.ndarray, flat: float) -> Chart | None:
    """Find the most likely chart in a reduced picture."""
    blobs = _blobs(small, flat)
    best: Chart | None = None
    for grid in _grids(blobs):
        for chart in _windows(small, blobs, grid):
            if best is None or chart.score > best.score:
                best = chart
    return best


def _blobs(small: np.ndarray, flat: float) -> _Blobs:
    """Find connected areas without edges that fill a parallelogram about as wide as high."""
    step_y, step_x = np.zeros(small.shape[:2]), np.zeros(small.shape[:2])
    step_y[1:-1] = np.abs(small[2:] - small[:-2]).max(-1)
    step_x[:, 1:-1] = np.abs(small[:, 2:] - small[:, :-2]).max(-1)
    mask = np.maximum(step_y, step_x) < flat
    mask[[0, -1]] = mask[:, [0, -1]] = False
    y, x = np.nonzero(mask)
    label = _components(mask)
    area = np.bincount(label).astype(float)
    safe = np.maximum(area, 1)
    my, mx = np.bincount(label, y) / safe, np.bincount(label, x) / safe
    # A pixel is a square, whose variance is 1/12 each way.
    yy = np.bincount(label, (y - my[label]) ** 2) / safe + 1 / 12
    xx = np.bincount(label, (x - mx[label]) ** 2) / safe + 1 / 12
    yx = np.bincount(label, (y - my[label]) * (x - mx[label])) / safe
    root = np.sqrt(np.maximum(yy * xx - yx * yx, 1e-9))
    fill = area / (12 * root)  # 1 for a parallelogram, less for frames, letters and fringes
    aspect = (yy + xx) / (2 * root)  # 1 for a square, 1.7 for 3:1
    keep = (area >= 12) & (area < mask.size / 30) & (fill > 0.8) & (aspect < 1.7)
    index = np.flatnonzero(keep)
    index = index[np.argsort(-area[index], kind="stable")][:800]
    return _Blobs(np.stack([my, mx], -1)[index], area[index])


def _components(mask: np.ndarray) -> np.ndarray:
    """Label the true pixels, in the order of ``np.nonzero``: one number for all pixels that are connected by sides."""
    stride = mask.shape[1] + 1  # a false column at the end separates the runs of two rows
    line = np.zeros(mask.shape[0] * stride + 2, np.int8)
    line[1:-1].reshape(mask.shape[0], stride)[:, :-1] = mask
    change = np.diff(line)
    begins, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    low = np.searchsorted(ends, begins + stride, "right")
    high = np.searchsorted(begins, ends + stride, "left")
    count = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(begins)), count)
    lower = np.repeat(low - np.cumsum(count) + count, count) + np.arange(count.sum())
    label = np.arange(len(begins))
    while True:
        before = label.copy()
        least = np.minimum(label[upper], label[lower])
        np.minimum.at(label, before[upper], least)
        np.minimum.at(label, before[lower], least)
        while not np.array_equal(label, label[label]):
            label = label[label]
        if np.array_equal(before, label):
            return np.repeat(label, ends - begins)


Grid = dict[tuple[int, int], int]
"""(row, column) → number of the blob there."""


def _grids(blobs: _Blobs) -> Iterator[Grid]:
    """Grow grids from blobs with a neighbour below, one to the right and one across; a blob is in one grid only."""
    if len(blobs.at) < _FEWEST:
        return
    away = blobs.at[None] - blobs.at[:, None]
    distance = np.hypot(away[..., 0], away[..., 1])
    ratio = blobs.area[None] / blobs.area[:, None]
    side = np.sqrt(np.maximum(blobs.area[None], blobs.area[:, None]))
    # Centres of patches are 1.0 to 1.5 of their sides apart; each blob lacks the width of an edge.
    near = (ratio > 0.4) & (ratio < 2.5) & (distance > 0.9 * side) & (distance < 2.4 * side)
    used: set[int] = set()
    for seed in range(len(blobs.at)):
        if seed in used:
            continue
        around = np.flatnonzero(near[seed])
        around = around[np.argsort(distance[seed, around])][:8]
        for right in around.tolist():
            for below in around.tolist():
                u, v = away[seed, right], away[seed, below]
                turn = u[1] * v[0] - u[0] * v[1]
                if turn < 0.6 * distance[seed, right] * distance[seed, below] or seed in used:
                    continue
                across = _nearest(blobs, blobs.at[seed] + u + v, 0.3 * min(np.hypot(*u), np.hypot(*v)))
                if across is None or across in (seed, right, below):
                    continue
                grid = _grown(blobs, {(0, 0): seed, (0, 1): right, (1, 0): below, (1, 1): across})
                if len(grid) >= _FEWEST:
                    used.update(grid.values())
                    if len(grid) < _MOST:
                        yield grid


def _nearest(blobs: _Blobs, place: np.ndarray, within: float) -> int | None:
    """Return the number of the blob nearest to a place; None if it is farther than ``within``."""
    d = np.hypot(*(blobs.at - place).T)
    best = int(d.argmin())
    return best if d[best] <= within else None


def _grown(blobs: _Blobs, grid: Grid) -> Grid:
    """Add all blobs at the places that the spacing of their neighbours predicts; the spacing may change gradually."""
    taken = set(grid.values())
    frontier = list(grid)
    while frontier and len(grid) < _MOST:
        cell = frontier.pop(0)
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            new = (cell[0] + dy, cell[1] + dx)
            if new in grid or not (-COLUMNS < new[0] < COLUMNS and -COLUMNS < new[1] < COLUMNS):
                continue
            here = blobs.at[grid[cell]]
            step = _step(blobs, grid, cell, (dy, dx))
            found = None if step is None else _nearest(blobs, here + step, 0.3 * float(np.hypot(*step)))
            if found is None or found in taken:
                continue
            if 0.4 < blobs.area[found] / blobs.area[grid[cell]] < 2.5:
                grid[new] = found
                taken.add(found)
                frontier.append(new)
    return grid


def _step(blobs: _Blobs, grid: Grid, cell: tuple[int, int], way: tuple[int, int]) -> np.ndarray | None:
    """Predict the distance to the next cell from the nearest two cells of the grid that lie in this direction."""
    dy, dx = way
    best, closest = None, 99
    for y, x in grid:
        if (y + dy, x + dx) in grid:
            far = abs(y - cell[0]) + abs(x - cell[1])
            if far < closest:
                best, closest = blobs.at[grid[y + dy, x + dx]] - blobs.at[grid[y, x]], far
    return best


def _powers(row: np.ndarray, column: np.ndarray, count: int) -> np.ndarray:
    """Compute powers (…, count) of (row, column) up to the second degree (6) or the third (10), the constant first."""
    r, c = np.broadcast_arrays(np.asarray(row, float) - 1.5, np.asarray(column, float) - 2.5)
    powers = [np.ones_like(r), r, c, r * r, r * c, c * c, r**3, r * r * c, r * c * c, c**3]
    return np.stack(powers[:count], -1)


def _places(spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (row, column), each (24, n²), of a square of places around the centre of each patch."""
    row, column = (x.ravel()[:, None] for x in np.mgrid[:ROWS, :COLUMNS])
    dy, dx = (x.ravel()[None] for x in np.meshgrid(spread, spread, indexing="ij"))
    return row + dy, column + dx


def _windows(small: np.ndarray, blobs: _Blobs, grid: Grid) -> Iterator[Chart]:
    """Yield every position of the chart on the grid with enough patches and the right colours."""
    rows, columns = ({cell[axis] for cell in grid} for axis in (0, 1))
    for high, wide in ((ROWS, COLUMNS), (COLUMNS, ROWS)):
        for top in range(min(rows) - 2, max(rows) - high + 4):
            for left in range(min(columns) - 2, max(columns) - wide + 4):
                inside = {
                    (y - top, x - left): i for (y, x), i in grid.items() if 0 <= y - top < high and 0 <= x - left < wide
                }
                if len(inside) < _FEWEST or min(len({c[axis] for c in inside}) for axis in (0, 1)) < 3:
                    continue
                for flip in (False, True):
                    chart = _accepted(small, blobs, {_turned(c, high, flip): i for c, i in inside.items()})
                    if chart is not None:
                        yield chart


def _turned(cell: tuple[int, int], high: int, flip: bool) -> tuple[int, int]:
    """Return the (row, column) on the chart of a cell in a window 4 or 6 high; ``flip`` turns the chart by a half."""
    y, x = cell if high == ROWS else (cell[1], COLUMNS - 1 - cell[0])
    return (ROWS - 1 - y, COLUMNS - 1 - x) if flip else (y, x)


def _accepted(small: np.ndarray, blobs: _Blobs, cells: Grid) -> Chart | None:
    """Return the chart if its grid is smooth, lies inside the picture, and shows the colours of the chart."""
    row, column = np.array(list(cells), float).T
    at = blobs.at[list(cells.values())]
    powers = _powers(row, column, 10 if len(cells) >= 20 else 6)
    terms = np.linalg.lstsq(powers, at, rcond=None)[0]
    chart = Chart(terms, 0.0)
    spacing = float(np.hypot(*(terms[1])) + np.hypot(*(terms[2]))) / 2
    if np.hypot(*(powers @ terms - at).T).max() > 0.2 * spacing:
        return None
    place = chart.at(*_places(np.linspace(-0.2, 0.2, 5)))
    if place.min() < 0 or (place.max((0, 1)) > np.array(small.shape[:2]) - 1).any():
        return None
    index = place.round().astype(int)
    seen = color.srgb_decode(small[index[..., 0], index[..., 1]].astype(np.float64)).mean(1)
    score = _likeness(seen)
    return Chart(terms, score) if score >= _SURE else None


def _likeness(seen: np.ndarray) -> float:
    """Correlate (24, 3) linear colours with those of the chart, in all and in hues alone; return the lower value.

    The colours are logarithms less the mean of each channel, which exposure, white balance and gamma do not change.
    """
    known = color.srgb_decode(_PATCHES / 255)
    one, two = (x - x.mean(0) for x in (np.log(seen + 0.01 * seen.max() + 1e-6), np.log(known + 0.01)))
    scores = []
    for a, b in ((one, two), (one - one.mean(1, keepdims=True), two - two.mean(1, keepdims=True))):
        scores.append(float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-12)))
    return min(scores)
