"""The order in which a mosaic's samples are coded, and the neighbours that predict each of them.

The four sites of the CFA's 2×2 are four planes of half size. They are coded one after the other: both greens, red,
blue. Within a plane a coarse lattice (every 8th sample) comes first; then each step halves the distance, first the
middle of each square, then the middles of its sides. So every sample of a pass depends only on earlier passes, and
numpy predicts and decodes all samples of a pass at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

COARSEST = 8
MARGIN = 16
"""Samples around each plane, for neighbours beyond its edge."""

Site = tuple[int, int, int]
"""Plane, and offset (rows, columns) within planes."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: samples of a plane at ``offsets`` of a lattice of ``period``.

    known   sites of coded samples around a sample, nearest first
    light   sites around a sample, itself excluded, by plane: the JPEG shows each
    """

    plane: int
    period: int
    offsets: tuple[tuple[int, int], ...]
    known: tuple[Site, ...]
    light: tuple[tuple[Site, ...], ...]

    def shapes(self, rows: int, columns: int) -> list[tuple[int, int]]:
        """Return the number (rows, columns) of samples at each offset in planes of a size."""
        return [(len(range(y, rows, self.period)), len(range(x, columns, self.period))) for y, x in self.offsets]

    def views(self, planes: list[np.ndarray], site: Site, rows: int, columns: int) -> Iterator[np.ndarray]:
        """Yield for each offset the view of padded planes that a site sees from all samples of the pass."""
        plane, dy, dx = site
        for y, x in self.offsets:
            yield planes[plane][
                MARGIN + y + dy : MARGIN + rows + dy : self.period,
                MARGIN + x + dx : MARGIN + columns + dx : self.period,
            ]


def passes(cfa: str) -> list[Pass]:
    """Return the passes of a CFA ("RGGB", …), in coding order."""
    order = sorted(range(4), key=lambda plane: "GRB".index(cfa[plane]))
    found = []
    for number, plane in enumerate(order):
        others = [site for reach in _AROUND if (site := _site(plane, *reach))[0] in order[:number]]
        light: dict[int, list[Site]] = {}
        for reach in _AROUND:
            site = _site(plane, *reach)
            light.setdefault(site[0], []).append(site)
        lights = tuple(map(tuple, (light[p] for p in sorted(light))))
        found.append(Pass(plane, COARSEST, ((0, 0),), tuple(others), lights))
        step = COARSEST // 2
        while step:
            own = [(plane, y * step, x * step) for y, x in _CORNERS]
            found.append(Pass(plane, 2 * step, ((step, step),), (*own, *others), lights))
            own = [(plane, y * step, x * step) for y, x in (*_SIDES, *_KNIGHTS)]
            found.append(Pass(plane, 2 * step, ((0, step), (step, 0)), (*own[:4], *others, *own[4:]), lights))
            step //= 2
    return found


_SIDES = ((-1, 0), (0, -1), (0, 1), (1, 0))
_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
_KNIGHTS = ((-2, -1), (-2, 1), (-1, -2), (-1, 2), (1, -2), (1, 2), (2, -1), (2, 1))
_AROUND = (*_SIDES, *_CORNERS, (-2, 0), (0, -2), (0, 2), (2, 0), *_KNIGHTS)
"""Offsets in the mosaic, nearest first."""


def _site(plane: int, dy: int, dx: int) -> Site:
    """Return the site at an offset in the mosaic from a sample of a plane."""
    y, x = plane // 2 + dy, plane % 2 + dx
    return 2 * (y % 2) + x % 2, y // 2, x // 2
