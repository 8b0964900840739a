"""Predict the samples of a pass, and how sure that is: weighted sums of known neighbours and of the JPEG around them.

Every number is an integer. Sums of products are formed by matrix products of float64 numbers that hold integers below
2^53: each partial sum is exact, so that the result depends neither on the order of the sum nor on the machine. The
weights are fitted to the shot (least squares, weighted by the noise), rounded and stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paramisp_cli.formats.kept.lattice import Pass
from paramisp_cli.formats.kept.light import FRACTION

WEIGHT_BITS = 14
_LARGEST_WEIGHT = 1 << 20
BAND = 1 << 14
"""Samples that are predicted at a time: their features stay near a core's cache."""
LEVELS = 64
_NEAR = 8
"""Neighbours whose disagreement tells how sure a prediction is."""
SCALE_BITS = 6
"""Bits after the point of the expected error."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Features of a band: values (k, n) float64 of integers; ``centre`` (n,) and ``doubts`` (3, n) int64, in eighths.

    ``centre`` is the JPEG's prediction. ``doubts``: disagreement of the neighbours' residuals, unevenness of the JPEG,
    and the level (0 to ``LEVELS`` − 1).
    """

    values: np.ndarray
    centre: np.ndarray
    doubts: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Integers that predict a pass.

    limits      (classes − 1,) of the first doubt, where the next class begins
    weights     (classes, k), of 2^14
    level_error (LEVELS,) expected error by level, of 2^9
    doubt_share (3,) of the first two doubts and of the level's error in the expected error, of 2^6
    """

    limits: np.ndarray
    weights: np.ndarray
    level_error: np.ndarray
    doubt_share: np.ndarray


def count(each: Pass) -> int:
    """Return the number of features of a pass."""
    return len(each.known) + sum(len(sites) - (sites[0][0] != each.plane) for sites in each.light) + 1


def bands(
    each: Pass, planes: list[np.ndarray], lights: list[np.ndarray], size: tuple[int, int], top: int, every: int = 1
) -> Iterator[tuple[slice, Features]]:
    """Yield the features of a pass's samples band by band, or of some bands, with the band's place among them."""
    rows, columns = size
    known = [list(each.views(planes, site, rows, columns)) for site in each.known]
    light_of = {
        site: list(each.views(lights, site, rows, columns))
        for site in {*each.known, *(site for sites in each.light for site in sites)}
    }
    centres = list(each.views(lights, (each.plane, 0, 0), rows, columns))
    shift = max(0, (top.bit_length() + FRACTION) - 6)
    begin, number, band = 0, count(each), -1
    for subset, (high, wide) in enumerate(each.shapes(rows, columns)):
        if not high or not wide:
            continue
        step = max(1, BAND // wide)
        for first in range(0, high, step):
            part = slice(first, min(first + step, high))
            n = (part.stop - first) * wide
            band += 1
            if band % every:
                begin += n
                continue
            values = np.empty((number, part.stop - first, wide))
            centre = centres[subset][part]
            row = 0
            for site, views in zip(each.known, known, strict=True):
                np.multiply(views[subset][part], 1 << FRACTION, out=values[row], casting="unsafe")
                values[row] -= light_of[site][subset][part]
                row += 1
            uneven = np.zeros(centre.shape)
            for sites in each.light:
                own = sites[0][0] == each.plane
                middle = centre if own else light_of[sites[0]][subset][part]
                for site in sites if own else sites[1:]:
                    np.subtract(light_of[site][subset][part], middle, out=values[row], casting="unsafe")
                    if own:
                        uneven += np.abs(values[row])
                    row += 1
            values[row] = 1 << FRACTION
            near = values[: min(len(each.known), _NEAR)]
            doubts = np.zeros((3, n), np.int64)
            if len(near):
                mean = np.floor(near.sum(0) / len(near))
                doubts[0] = (np.abs(near - mean).sum(0) * (8 // min(8, len(near)))).ravel()
            doubts[1] = uneven.ravel()
            doubts[2] = np.clip(centre >> shift, 0, LEVELS - 1).ravel()
            yield slice(begin, begin + n), Features(values.reshape(number, n), centre.ravel().astype(np.int64), doubts)
            begin += n


def predict(model: Model, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return (prediction of 2^17, expected error of 2^9) (n,), int64."""
    sums = model.weights.astype(np.float64) @ features.values
    if len(model.limits):
        group = np.searchsorted(model.limits, features.doubts[0], side="right")
        sums = np.take_along_axis(sums, group[None], 0)
    prediction = (features.centre << WEIGHT_BITS) + sums[0].astype(np.int64)
    share, level = model.doubt_share, model.level_error[features.doubts[2]]
    error = share[0] * features.doubts[0] + share[1] * features.doubts[1] + ((share[2] * level) >> SCALE_BITS)
    return prediction, error


def fit(each: Pass, sampled: Sequence[tuple[np.ndarray, Features]], classes: int) -> Model:
    """Fit the model of a pass to sampled bands: (their samples, their features)."""
    target = np.concatenate([samples for samples, _ in sampled]).astype(np.float64) * (1 << FRACTION)
    values = np.concatenate([features.values for _, features in sampled], 1)
    centre = np.concatenate([features.centre for _, features in sampled])
    doubts = np.concatenate([features.doubts for _, features in sampled], 1)
    wanted = target - centre
    classes = int(np.clip(len(wanted) // (40 * len(values)), 1, classes))
    limits = np.unique(np.quantile(doubts[0], np.arange(1, classes) / classes).astype(np.int64))
    group = np.searchsorted(limits, doubts[0], side="right")
    order = np.argsort(group, kind="stable")
    values, wanted, doubts = np.take(values, order, 1), wanted[order], np.take(doubts, order, 1)
    ends = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(limits) + 1))]).tolist()
    weights: np.ndarray = np.zeros((len(limits) + 1, len(values)), np.int64)
    # The error by level, of a first fit, weighs the second.
    level_error: np.ndarray = np.ones(LEVELS)
    off: np.ndarray = np.abs(wanted)
    for _ in range(2):
        weight = 1 / level_error[doubts[2]]
        for number, chosen in enumerate(map(slice, ends, ends[1:])):
            some = values[:, chosen]
            scaled = some * weight[chosen]
            normal = scaled @ scaled.T
            size = np.trace(normal) / len(values)
            normal += np.diag(np.diag(normal)) * 1e-6 + np.eye(len(values)) * (1e-6 * size + 1e-9)
            solved = np.linalg.solve(normal, scaled @ (wanted[chosen] * weight[chosen]))
            weights[number] = np.rint(solved * (1 << WEIGHT_BITS)).clip(-_LARGEST_WEIGHT, _LARGEST_WEIGHT)
            off[chosen] = np.abs(wanted[chosen] - solved @ some)
        level_error = _by_level(off, doubts[2])
    share = _shares(off, doubts, level_error)
    return Model(limits, weights, np.rint(level_error * 64).astype(np.int64), share)


def _by_level(off: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return the mean error (LEVELS,) by level, smoothed; levels without samples take their neighbours'."""
    sums = np.bincount(level, minlength=LEVELS).astype(np.float64), np.bincount(level, off, LEVELS)
    number, total = (np.convolve(np.pad(each, 1), (0.25, 0.5, 0.25), "valid") for each in sums)
    filled = number > 8
    if not filled.any():
        return np.full(LEVELS, max(float(off.mean()), 0.25))
    mean = total[filled] / number[filled]
    return np.interp(np.arange(LEVELS), np.flatnonzero(filled), mean).clip(0.25)


def _shares(off: np.ndarray, doubts: np.ndarray, level_error: np.ndarray) -> np.ndarray:
    """Fit the expected error to the doubts, with shares ≥ 0 → (3,) of 2^6."""
    level = level_error[doubts[2]]
    terms = np.stack([doubts[0].astype(np.float64), doubts[1].astype(np.float64), level]) / level
    best: np.ndarray = np.array([0.0, 0.0, 1.0])
    least = np.inf
    for used in ([0, 1, 2], [0, 2], [1, 2], [2]):
        chosen = terms[used]
        normal = chosen @ chosen.T + 1e-9 * np.eye(len(used)) * float((chosen**2).sum())
        solved = np.zeros(3)
        solved[used] = np.linalg.solve(normal, chosen @ (off / level))
        error = float(((solved @ terms - off / level) ** 2).sum())
        if (solved >= 0).all() and error < least:
            best, least = solved, error
    shares: np.ndarray = np.rint(best * 64).astype(np.int64)
    return shares
