"""Refine the look-up table of a profile against a picture, in the differences that are seen.

``look_table.fitted`` solves for a table in closed form, before the tone curve: it weighs differences of saturation and
value, which are not those of the picture. Here Gauss-Newton steps bring the colours of the picture itself closer, in
CIELAB. It takes seconds, which the profile of a whole camera is worth and the DNG of one photo is not.
"""

from __future__ import annotations

import numpy as np

from paramisp_cli import color, look, look_table

_SAMPLES = 20_000
_ROUNDS = 6
_UNITS = np.array([20.0, 0.3, 0.15])
"""Changes of hue [°], saturation and value that count alike in a table's roughness."""
_SMOOTH = 1e-4
"""Weight of the squared difference of neighbours, for each sample: on five held-out looks, better than 1e-3."""
_DAMPING = 1e-2
"""Weight of the squared step of an entry, for each sample of a table's mean entry."""
_ROUND = 0.5
"""ΔE below which a difference counts by its square; above, by itself, so that outliers do not rule."""
_STEP = 1e-3
_TURN, _MOST = 60.0, 4.0
"""Largest shift of hue [°], and largest factor."""


def refined(
    linear: np.ndarray, shown: np.ndarray, weight: np.ndarray, curve: np.ndarray, table: np.ndarray
) -> np.ndarray:
    """Return the table with less error: ``look.toned`` with it takes ``linear`` closer to ``shown``.

    linear, shown  (n, 3) linear sRGB; linear may lie outside sRGB
    weight         (n,) of each sample
    curve, table   (N, 2) and (V, H, S, 3), a start: those of ``look.profile``
    """
    step = max(len(linear) // _SAMPLES, 1)
    linear, shown, weight = linear[::step], shown[::step], weight[::step]
    problem = _Problem(np.clip(linear @ color.SRGB_TO_PROPHOTO.T, 0, 1), shown, weight, curve, table.shape[:3])
    entries = table.reshape(-1, 3)
    cost = problem.cost(entries)
    for _ in range(_ROUNDS):
        way = problem.step(entries)
        for length in (1.0, 0.5, 0.25, 0.1):
            tried = entries + length * way
            tried[:, 0] = tried[:, 0].clip(-_TURN, _TURN)
            tried[:, 1:] = tried[:, 1:].clip(0, _MOST)
            now = problem.cost(tried)
            if now < cost:
                break
        else:
            break
        entries, cost = tried, now
    result: np.ndarray = entries.reshape(table.shape)
    return result


class _Problem:
    """The samples of a fit, and the entries around each."""

    def __init__(
        self, wide: np.ndarray, shown: np.ndarray, weight: np.ndarray, curve: np.ndarray, shape: tuple[int, ...]
    ) -> None:
        hue, saturation, value = look_table.hsv(wide)
        self.hue, self.saturation, self.light = hue, saturation, color.srgb_encode(value)
        self.corners, self.shares = look_table.corners(hue, saturation, self.light, shape)
        self.lab, self.weight, self.curve, self.shape = color.srgb_to_lab(shown), weight, curve, shape
        # A difference of chroma is seen less in a saturated colour (CIE94).
        less = 1 / (1 + 0.045 * np.hypot(self.lab[:, 1], self.lab[:, 2]))
        self.seen = np.stack([np.ones(len(less)), less, less], 1)
        self.size = int(np.prod(shape))
        index = np.arange(self.size).reshape(shape)
        pairs = [(index[1:], index[:-1]), (index, np.roll(index, -1, 1)), (index[:, :, 1:], index[:, :, :-1])]
        self.pairs = [(one.ravel(), two.ravel()) for one, two in pairs]
        free = np.ones((*shape, 3), bool)
        free[:, :, 0, [0, 2]] = False  # greys keep their hue and value, as the specification demands
        self.free = free.ravel()

    def between(self, entries: np.ndarray) -> np.ndarray:
        """Interpolate entries (m, 3) at the samples → (n, 3)."""
        mean = np.zeros((len(self.hue), 3))
        for corner, share in zip(self.corners, self.shares, strict=True):
            mean += share[:, None] * entries[corner]
        return mean

    def off(self, changes: np.ndarray) -> np.ndarray:
        """Return the visible differences (n, 3) of the colours that changes (n, 3) make."""
        wide = look_table.changed(self.hue, self.saturation, self.light, changes)
        made = color.srgb_to_lab(np.clip(look.through(wide, self.curve) @ color.PROPHOTO_TO_SRGB.T, 0, 1))
        result: np.ndarray = (made - self.lab) * self.seen
        return result

    def cost(self, entries: np.ndarray) -> float:
        """Return the sum of rounded differences, and of the squared differences of neighbours."""
        off = self.off(self.between(entries))
        rough = sum(float((((entries[one] - entries[two]) / _UNITS) ** 2).sum()) for one, two in self.pairs)
        seen = float((np.sqrt((off**2).sum(1) + _ROUND**2) * self.weight).sum())
        return seen + 0.5 * _SMOOTH * float(self.weight.sum()) * rough

    def step(self, entries: np.ndarray) -> np.ndarray:
        """Return the step (m, 3) of Gauss and Newton from entries."""
        changes = self.between(entries)
        off = self.off(changes)
        factor = self.weight / np.sqrt((off**2).sum(1) + _ROUND**2)
        slopes = np.empty((len(off), 3, 3))  # of each difference by each change, in units
        for number in range(3):
            move = np.zeros(3)
            move[number] = _STEP * _UNITS[number]
            slopes[..., number] = (self.off(changes + move) - self.off(changes - move)) / (2 * _STEP)
        squares = np.einsum("nik,nil->nkl", slopes, slopes) * factor[:, None, None]
        pull = -np.einsum("nik,ni->nk", slopes, off) * factor[:, None]
        count = 3 * self.size
        right = np.zeros((self.size, 3))
        flat = np.zeros(count * count)
        for corner, share in zip(self.corners, self.shares, strict=True):
            for k in range(3):
                right[:, k] += np.bincount(corner, share * pull[:, k], self.size)
            for other, much in zip(self.corners, self.shares, strict=True):
                both = share * much
                # Entries that no sample has stay out: few places of the matrix are used.
                used, place = np.unique(corner * self.size + other, return_inverse=True)
                for k in range(3):
                    for m in range(3):
                        at = (3 * (used // self.size) + k) * count + 3 * (used % self.size) + m
                        flat[at] += np.bincount(place, both * squares[:, k, m])
        normal = flat.reshape(count, count)
        smooth = _SMOOTH * float(self.weight.sum())
        for one, two in self.pairs:
            apart = smooth * (entries[one] - entries[two]) / _UNITS
            for k in range(3):
                right[:, k] += np.bincount(two, apart[:, k], self.size) - np.bincount(one, apart[:, k], self.size)
                a, b = 3 * one + k, 3 * two + k
                normal[np.arange(k, count, 3), np.arange(k, count, 3)] += smooth * (
                    np.bincount(one, minlength=self.size) + np.bincount(two, minlength=self.size)
                )
                normal[a, b] -= smooth
                normal[b, a] -= smooth
        normal[np.arange(count), np.arange(count)] += _DAMPING * float(self.weight.sum()) / self.size
        way = np.zeros(count)
        way[self.free] = np.linalg.solve(normal[np.ix_(self.free, self.free)], right.ravel()[self.free])
        result: np.ndarray = way.reshape(-1, 3) * _UNITS
        return result
