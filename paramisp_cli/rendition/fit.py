"""Fit a rendition to pixels: the most probable one under a prior, and how sure it is (Gauss-Newton, Laplace)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paramisp_cli import color
from paramisp_cli.rendition.form import SIZE, Rendition, orderly, predict, values
from paramisp_cli.rendition.prior import Likelihood, Prior
from paramisp_cli.types import Direction

EVIDENCE = 1000.0
"""Independent pixels that a photograph is worth: neighbours err alike, so a million pixels are no million opinions."""
_FLOOR = {Direction.RENDER: 0.004, Direction.UNPROCESS: 0.002}
"""Error of a single opinion that no fit goes below: quantisation, and what the form cannot say."""
_TAIL = 9.0
"""Squared errors, in units of their mean, from which a pixel is an outlier (Student's t)."""
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
    if render:
        key = color.srgb_encode(np.clip(camera_rgb, 0, 1))
    else:
        key = np.asarray(srgb)
    index = np.minimum((np.clip(key, 0, 1) * _BINS).astype(np.int64), _BINS - 1)
    ring = np.minimum((away * _RINGS).astype(np.int64), _RINGS - 1)
    code = ((ring * _BINS + index[:, 0]) * _BINS + index[:, 1]) * _BINS + index[:, 2]
    seen = (count > 0) & np.isfinite(camera_rgb).all(-1) & np.isfinite(srgb).all(-1)
    if not seen.any():
        raise ValueError("no pixel to fit to")
    _, inverse = np.unique(code[seen], return_inverse=True)
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
        """(n, 3) source pixels → (n, 3) standard deviation of the prediction that the fit itself leaves open."""
        away = np.zeros(len(pixels)) if rho is None else rho
        r = self.rendition
        _, slopes = predict(r.direction, r.matrix, r.vector, np.asarray(pixels, np.float64), away)
        return np.sqrt(np.maximum(np.einsum("nci,ij,ncj->nc", slopes, self.covariance, slopes), 0))


def fit(photographs: Sequence[Cells], prior: Prior, *, evidence: float = EVIDENCE, camera: str = "") -> Fitted:
    """Fit one rendition to photographs of one camera, under a prior.

    Levenberg-Marquardt on Student-t errors plus the prior's quadratic form; each photograph counts as ``evidence``
    pixels, divided by its own error. The chroma stage is then made ``orderly``. Raises ValueError for no photograph.
    """
    vector, precision, _, errors = _most_probable(photographs, prior, evidence)
    covariance = np.linalg.inv(precision + prior.precision)
    rendition = Rendition(prior.direction, photographs[0].matrix, orderly(vector), camera)
    return Fitted(rendition, covariance, tuple(float(np.sqrt(error)) for error in errors))


def likelihood(photographs: Sequence[Cells], prior: Prior, *, evidence: float = EVIDENCE) -> Likelihood:
    """What photographs say of the vector, apart from the prior: for ``prior.estimate``."""
    vector, precision, slope, _ = _most_probable(photographs, prior, evidence)
    return precision, precision @ vector + slope


def _most_probable(
    photographs: Sequence[Cells], prior: Prior, evidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[float]]:
    """(vector, precision and slope of the log-likelihood there, mean square error of each photograph)."""
    if not photographs:
        raise ValueError("no photograph to fit to")
    if any(p.direction != prior.direction for p in photographs):
        raise ValueError(f"the prior is one of {prior.direction}")
    inverse = prior.precision
    vector, damping = prior.mean.copy(), 1e-3

    def penalty(v: np.ndarray) -> float:
        return 0.5 * float((v - prior.mean) @ inverse @ (v - prior.mean))

    for _ in range(_ROUNDS):
        errors, precision, slope, cost = _said(photographs, vector, evidence)
        cost += penalty(vector)
        normal, right = precision + inverse, slope - inverse @ (vector - prior.mean)
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
        if cost - new < 1e-2:
            break
    errors, precision, slope, _ = _said(photographs, vector, evidence)
    return vector, precision, slope, errors


def _errors(photograph: Cells, predicted: np.ndarray) -> np.ndarray:
    """(n, 3) weighted errors; none where both are clipped at the same end."""
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


def _said(
    photographs: Sequence[Cells], vector: np.ndarray, evidence: float
) -> tuple[list[float], np.ndarray, np.ndarray, float]:
    """(mean square errors, precision, slope, cost) of the likelihood at a vector."""
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
