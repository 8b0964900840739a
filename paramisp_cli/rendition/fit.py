"""Fit a rendition to pixels: the most probable one under a prior, and how sure it is (Gauss-Newton, Laplace)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paramisp_cli import color
from paramisp_cli.directions import Direction
from paramisp_cli.rendition.form import (
    CHROMA,
    LEAST_SLOPE,
    SIZE,
    Rendition,
    blocks,
    chroma_bounds,
    orderly,
    predict,
    values,
)
from paramisp_cli.rendition.prior import Likelihood, Prior

EVIDENCE = 100.0
"""Independent pixels that a photograph is worth for another one: neighbours err alike, and so do all of one shot.

Of 30, 100 and 1000 the best compromise between shots like the fitted ones (more) and brighter ones (less), measured
across photographs by tests/bench/rendition_prior.py.
"""
_FLOOR = {Direction.RENDER: 0.004, Direction.UNPROCESS: 0.002}
"""Least error of one pixel: quantisation, and the limits of the form."""
_TAIL = 1000.0
"""Squared errors, in units of their mean, from which a cell is an outlier (Student's t).

High: a few neutral cells beside a large blue sky err by twenty times the mean at first, and must not be given up.
"""
_MARGIN, _STIFF = 2 * LEAST_SLOPE, 1e7
"""Slope of a chroma stage that a fit aims at, and how firmly."""
_PROBES, _RISE = 65, 2e-4
"""Neutral pixels that a fit holds in order, and the least rise from one to the next."""
_BINS, _RINGS, _ROUNDS = 24, 4, 30


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Pixels of one photograph, averaged over cells of like colour: source, target (n, 3), share (n,), rho (n,).

    ``matrix`` is the camera's cam_to_srgb; ``scale`` (3,) is a channel's weight in the error: of ``unprocess`` it turns
    white-balanced errors into those of the mosaic, where green counts twice.
    """

    direction: Direction
    source: np.ndarray
    target: np.ndarray
    share: np.ndarray
    rho: np.ndarray
    matrix: np.ndarray
    scale: np.ndarray


def cells(
    direction: Direction,
    camera_rgb: np.ndarray,
    srgb: np.ndarray,
    matrix: np.ndarray,
    wb_gains: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    rho: np.ndarray | None = None,
) -> Cells:
    """Average aligned pixels over cells of like source colour (a 24th of the encoded range).

    ``camera_rgb`` (n, 3): white-balanced, green clipping at 1; ``srgb`` (n, 3): encoded, in [0, 1]; ``weights`` (n,):
    0 for a pixel to ignore; ``rho`` (n,): squared distance from the middle of the picture, see ``Rendition``.
    Raises ValueError if no pixel counts.
    """
    count = np.ones(len(srgb)) if weights is None else np.asarray(weights, np.float64)
    away = np.zeros(len(srgb)) if rho is None else np.asarray(rho, np.float64)
    render = direction == Direction.RENDER
    key = color.srgb_encode(np.clip(camera_rgb, 0, 1)) if render else np.asarray(srgb)
    index = np.minimum((np.clip(key, 0, 1) * _BINS).astype(np.int64), _BINS - 1)
    ring = np.minimum((away * _RINGS).astype(np.int64), _RINGS - 1)
    code = ((ring * _BINS + index[:, 0]) * _BINS + index[:, 1]) * _BINS + index[:, 2]
    seen = (count > 0) & np.isfinite(camera_rgb).all(-1) & np.isfinite(srgb).all(-1)
    if not seen.any():
        raise ValueError("no pixel to fit to")
    code = code[seen]
    used = np.bincount(code) > 0
    inverse = (np.cumsum(used) - 1)[code]
    total = np.bincount(inverse, count[seen])

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(inverse, count[seen] * values[seen]) / total

    camera = np.stack([mean(camera_rgb[:, c]) for c in range(3)], -1)
    shown = np.stack([mean(srgb[:, c]) for c in range(3)], -1)
    scale = np.ones(3) if render else np.sqrt([0.75, 1.5, 0.75]) / wb_gains
    source, target = (camera, shown) if render else (shown, np.maximum(camera, 0))
    return Cells(direction, source, target, total / total.sum(), mean(away), np.asarray(matrix, np.float64), scale)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """The most probable rendition, its covariance (SIZE, SIZE), and the photographs' own root-mean-square errors."""

    rendition: Rendition
    covariance: np.ndarray
    noise: tuple[float, ...]

    def spread(self, pixels: np.ndarray, rho: np.ndarray | None = None) -> np.ndarray:
        """Return the standard deviation (n, 3) that the fit leaves in its prediction for source pixels (n, 3)."""
        away = np.zeros(len(pixels)) if rho is None else rho
        r = self.rendition
        _, slopes = predict(r.direction, r.matrix, r.vector, np.asarray(pixels, np.float64), away)
        result: np.ndarray = np.sqrt(np.maximum(np.einsum("nci,ij,ncj->nc", slopes, self.covariance, slopes), 0))
        return result


def fit(
    photographs: Sequence[Cells], prior: Prior, *, evidence: float = EVIDENCE, strict: bool = True, camera: str = ""
) -> Fitted:
    """Fit one rendition to photographs of one camera, under a prior.

    Levenberg-Marquardt on Student-t errors plus the prior's quadratic form; each photograph counts as ``evidence``
    pixels, divided by its own error. The result is ``orderly``; ``strict`` False frees the order of single channels,
    for a fit that is used on the very picture it was fitted to. Raises ValueError for no photograph.
    """
    vector, precision, _, errors = _most_probable(photographs, prior, evidence, strict)
    covariance = np.linalg.inv(precision + prior.precision)
    rendition = orderly(Rendition(prior.direction, photographs[0].matrix, vector, camera), strict=strict)
    return Fitted(rendition, covariance, tuple(float(np.sqrt(error)) for error in errors))


def likelihood(photographs: Sequence[Cells], prior: Prior, *, evidence: float = EVIDENCE) -> Likelihood:
    """Return the likelihood of photographs, apart from the prior: for ``prior.estimate``."""
    vector, precision, slope, _ = _most_probable(photographs, prior, evidence, True)
    return precision, precision @ vector + slope


def _most_probable(
    photographs: Sequence[Cells], prior: Prior, evidence: float, strict: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[float]]:
    """Return the vector, precision and slope of the log-likelihood there, and each photograph's mean square error."""
    if not photographs:
        raise ValueError("no photograph to fit to")
    if any(p.direction != prior.direction for p in photographs):
        raise ValueError(f"the prior is one of {prior.direction}")
    inverse = prior.precision
    ordered = _Order(prior.direction, photographs[0].matrix, strict)
    vector, damping = prior.mean.copy(), 1e-3

    def penalty(v: np.ndarray) -> float:
        return 0.5 * float((v - prior.mean) @ inverse @ (v - prior.mean)) + ordered.cost(v)

    for _ in range(_ROUNDS):
        errors, precision, slope, cost = _likelihood_at(photographs, vector, evidence)
        cost += penalty(vector)
        bend, push = ordered.slopes(vector)
        normal, right = precision + inverse + bend, slope - inverse @ (vector - prior.mean) + push
        for _ in range(6):
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), right)
            step *= min(1.0, 1 / float(np.abs(step).max() + 1e-12))
            new = _cost(photographs, vector + step, evidence, errors) + penalty(vector + step)
            if new < cost:
                damping = max(damping / 5, 1e-7)
                break
            damping *= 10
        else:
            break
        vector = vector + step
        if cost - new < 1e-4 * evidence:
            break
    errors, precision, slope, _ = _likelihood_at(photographs, vector, evidence)
    return vector, precision, slope, errors


class _Order:
    """A penalty on vectors that ``orderly`` would change: within the fit, the other stages make up for the loss."""

    def __init__(self, direction: Direction, matrix: np.ndarray, strict: bool) -> None:
        self.direction, self.matrix = direction, matrix
        bounds, chroma = chroma_bounds(), blocks()["chroma"]
        rows = np.zeros((3, bounds.shape[1], SIZE))
        for channel in range(3):
            start = chroma.start + channel * CHROMA
            rows[channel, :, start : start + CHROMA] = bounds[channel]
        self.rows = rows.reshape(-1, SIZE) if strict else np.zeros((0, SIZE))
        grey = np.linspace(0, 1, _PROBES)
        self.neutral = (grey**2 if direction == Direction.RENDER else grey)[:, None] * np.ones(3)
        self.middle = np.zeros(_PROBES)

    def _fall(self, steps: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return the missing rise (n − 1, 3) of neutral pixels; none where the picture is clipped."""
        short = np.maximum(_RISE - steps, 0)
        return np.where(at[1:] > 1, 0, short) if self.direction == Direction.RENDER else short

    def cost(self, vector: np.ndarray) -> float:
        missing = np.maximum(_MARGIN - 1 - self.rows @ vector, 0)
        at = values(self.direction, self.matrix, vector, self.neutral, self.middle)
        fall = self._fall(np.diff(at, axis=0), at)
        return 0.5 * _STIFF * (float(missing @ missing) + float((fall * fall).sum()))

    def slopes(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Its second derivatives (SIZE, SIZE), and the slope (SIZE,) that lowers it."""
        missing = np.maximum(_MARGIN - 1 - self.rows @ vector, 0)
        at, slopes = predict(self.direction, self.matrix, vector, self.neutral, self.middle)
        fall = self._fall(np.diff(at, axis=0), at).ravel()
        rows = np.concatenate([self.rows, np.diff(slopes, axis=0).reshape(-1, SIZE)])
        missing = np.concatenate([missing, fall])
        active = rows[missing > 0]
        return _STIFF * active.T @ active, _STIFF * (missing @ rows)


def _errors(photograph: Cells, predicted: np.ndarray) -> np.ndarray:
    """Return the weighted errors (n, 3); none where both are clipped at the same end."""
    off = photograph.target - predicted
    if photograph.direction == Direction.RENDER:
        clipped = (predicted >= 1) & (photograph.target >= 0.99) | (predicted <= 0) & (photograph.target <= 0.01)
        off = np.where(clipped, 0, off)
    return np.asarray(off * photograph.scale)


def _cost(photographs: Sequence[Cells], vector: np.ndarray, evidence: float, errors: Sequence[float]) -> float:
    total = 0.0
    for photograph, error in zip(photographs, errors, strict=True):
        predicted = values(photograph.direction, photograph.matrix, vector, photograph.source, photograph.rho)
        square = (_errors(photograph, predicted) ** 2).mean(-1)
        total += 1.5 * evidence * _TAIL * float((photograph.share * np.log1p(square / (_TAIL * error))).sum())
    return total


def _likelihood_at(
    photographs: Sequence[Cells], vector: np.ndarray, evidence: float
) -> tuple[list[float], np.ndarray, np.ndarray, float]:
    """Return mean square errors, precision, slope and cost of the likelihood at a vector."""
    precision, slope, errors, cost = np.zeros((SIZE, SIZE)), np.zeros(SIZE), [], 0.0
    for photograph in photographs:
        predicted, slopes = predict(photograph.direction, photograph.matrix, vector, photograph.source, photograph.rho)
        off = _errors(photograph, predicted)
        square, share = (off * off).mean(-1), photograph.share
        plain = max(float((share * square).sum()), 1e-12)
        error = float((share * square / (1 + square / (_TAIL * plain))).sum()) + _FLOOR[photograph.direction] ** 2
        errors.append(error)
        cost += 1.5 * evidence * _TAIL * float((share * np.log1p(square / (_TAIL * error))).sum())
        weight = np.repeat(share / (1 + square / (_TAIL * error)), 3) * (evidence / error)
        flat = (slopes * photograph.scale[:, None]).reshape(-1, SIZE)
        flat = np.where((off == 0).reshape(-1, 1), 0, flat)
        precision += (flat * weight[:, None]).T @ flat
        slope += flat.T @ (weight * off.ravel())
    return errors, precision, slope, cost
