"""Lens shading: a camera's RAW is darker towards the corners than its JPEG, in which the camera corrected it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paramisp_cli.directions import Direction
from paramisp_cli.training.dataset import LoadedPair
from paramisp_cli.training.measure.baselines import polynomial, quads
from paramisp_cli.training.measure.metrics import psnr

_WORTH = 0.5
"""Mean gain [dB] in the prediction of pixels outside the fit, from which shading is accepted."""
_BRIGHT = 0.9
"""RAW value from which a pixel may be clipped and is ignored."""
_ROUNDS, _FOLDS = 3, 4

Pixels = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Pixels of half a picture: features of the sRGB (P, 16), RAW (P, 3), ρ (P,) as in ``isp.shading_gain``."""


def measure(pairs: Sequence[LoadedPair]) -> list[list[float]] | None:
    """Measure the coefficients of ``isp.shading_gain`` for the camera of these pairs; None if there is no shading.

    The fit is RAW = polynomial of the JPEG's colours × radial polynomial, channel by channel. Shading is symmetric and
    pictures are not: it is accepted if, fitted on some halves of pictures, it improves the prediction of the others.
    """
    halves = [half for item in pairs if item.is_whole for half in _halves(item)]
    if not halves:
        return None
    gains = []
    folds = min(len(halves), _FOLDS)
    for fold in range(folds):
        train = [half for j, half in enumerate(halves) if j % folds != fold]
        plain, shaded = _fitted(train, 0), _fitted(train, _ROUNDS)
        for features, raw, rho in halves[fold::folds]:
            fall = _fall(shaded[1], rho)
            if fall.min() < 0.1 or fall.max() > 2:
                return None  # no lens does this: the fit followed the scene
            truth = np.clip(features @ shaded[0], 0, 1) * fall
            gains.append(psnr(truth, raw) - psnr(np.clip(features @ plain[0], 0, 1), raw))
    if float(np.mean(gains)) < _WORTH or min(gains) < 0:
        return None
    return [[round(float(k), 5) for k in row] for row in _fitted(halves, _ROUNDS)[1]]


def _halves(item: LoadedPair) -> list[Pixels]:
    """Sample the left and the right half of a pair."""
    raw, picture = quads(item)
    h, w = raw.shape[:2]
    top, left, high, wide = (value / 2 for value in item.frame or (0, 0, 2 * h, 2 * w))  # in 2×2 sites
    y, x = np.arange(h)[:, None] + (top + 0.5 - high / 2), np.arange(w) + (left + 0.5 - wide / 2)
    rho = ((y**2 + x**2) / (high * high / 4 + wide * wide / 4)).astype(np.float32)
    step = max(int(np.sqrt(h * w / 20_000)), 1)
    raw, picture, rho = raw[::step, ::step], picture[::step, ::step], rho[::step, ::step]
    halves = []
    for half in (np.s_[:, : rho.shape[1] // 2], np.s_[:, rho.shape[1] // 2 :]):
        features = polynomial(picture[half], Direction.UNPROCESS).reshape(-1, 16).astype(np.float64)
        halves.append((features, raw[half].reshape(-1, 3).astype(np.float64), rho[half].ravel().astype(np.float64)))
    return halves


def _fall(coefficients: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Compute the share of light that arrives: (3, 3) coefficients, (P,) → (P, 3)."""
    return np.asarray(1 + np.stack([rho, rho**2, rho**3], -1) @ coefficients.T)


def _fitted(halves: Sequence[Pixels], rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit (16, 3) weights of the polynomial of colours and (3, 3) coefficients of the fall-off.

    The polynomial alone is fitted first; ``rounds`` Gauss-Newton steps fit both.
    """
    weights, coefficients = np.zeros((16, 3)), np.zeros((3, 3))
    for c in range(3):
        for number in range(rounds + 1):
            size = 16 if number == 0 else 19
            normal, right = 1e-9 * np.eye(size), np.zeros(size)
            for features, raw, rho in halves:
                valid = raw[:, c] < _BRIGHT
                powers = np.stack([rho, rho**2, rho**3], -1)[valid]
                fall, clean = 1 + powers @ coefficients[c], features[valid] @ weights[:, c]
                slopes = np.concatenate([features[valid] * fall[:, None], powers * clean[:, None]], 1)[:, :size]
                normal += slopes.T @ slopes / len(valid)
                right += slopes.T @ (raw[valid, c] - clean * fall) / len(valid)
            step = np.linalg.solve(normal, right)
            weights[:, c] += step[:16]
            coefficients[c] += step[16:] if number else 0
    return weights, coefficients
