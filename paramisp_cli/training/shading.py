"""Lens shading: how much darker a camera's RAW is towards the corners than its JPEG, which it corrects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paramisp_cli.training.baselines import polynomial, quads
from paramisp_cli.training.data import Loaded
from paramisp_cli.training.metrics import psnr
from paramisp_cli.types import Direction

_WORTH = 0.5
"""dB by which shading must better, on average, the prediction of pixels it was not fitted to, to be believed."""
_BRIGHT = 0.9
"""RAW value from which a pixel may be clipped, and says nothing."""
_ROUNDS, _FOLDS = 3, 4

Sites = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Pixels of a picture: features of its sRGB (P, 16), RAW (P, 3), ρ (P,) as in ``isp.shading_gain``."""


def measure(loaded: Sequence[Loaded]) -> list[list[float]] | None:
    """``isp.shading_gain``'s coefficients for the camera of these pairs, or None if there is no shading to see.

    RAW = polynomial of the JPEG's colours × radial polynomial is fitted channel by channel. Shading is symmetric and
    pictures are not: it is believed if, fitted on all halves of pictures but some, it predicts those better.
    """
    halves = [half for item in loaded if item.is_whole for half in _halves(item)]
    if not halves:
        return None
    better = []
    folds = min(len(halves), _FOLDS)
    for fold in range(folds):
        train = [half for j, half in enumerate(halves) if j % folds != fold]
        plain, shaded = _fitted(train, 0), _fitted(train, _ROUNDS)
        for features, raw, rho in halves[fold::folds]:
            fall = _fall(shaded[1], rho)
            if fall.min() < 0.1 or fall.max() > 2:
                return None  # no lens: what fell into place there was the scene
            truth = np.clip(features @ shaded[0], 0, 1) * fall
            better.append(psnr(truth, raw) - psnr(np.clip(features @ plain[0], 0, 1), raw))
    if float(np.mean(better)) < _WORTH or min(better) < 0:
        return None
    return [[round(float(k), 5) for k in row] for row in _fitted(halves, _ROUNDS)[1]]


def _halves(item: Loaded) -> list[Sites]:
    raw, picture = quads(item)
    h, w = raw.shape[:2]
    top, left, high, wide = (value / 2 for value in item.frame or (0, 0, 2 * h, 2 * w))  # in 2×2 sites
    y, x = np.arange(h)[:, None] + (top + 0.5 - high / 2), np.arange(w) + (left + 0.5 - wide / 2)
    rho = ((y**2 + x**2) / (high * high / 4 + wide * wide / 4)).astype(np.float32)
    step = max(int(np.sqrt(h * w / 20_000)), 1)
    raw, picture, rho = raw[::step, ::step], picture[::step, ::step], rho[::step, ::step]
    made = []
    for part in (np.s_[:, : rho.shape[1] // 2], np.s_[:, rho.shape[1] // 2 :]):
        features = polynomial(picture[part], Direction.UNPROCESS).reshape(-1, 16).astype(np.float64)
        made.append((features, raw[part].reshape(-1, 3).astype(np.float64), rho[part].ravel().astype(np.float64)))
    return made


def _fall(coefficients: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """(3, 3) coefficients, (P,) → (P, 3): the share of light that arrives."""
    return np.asarray(1 + np.stack([rho, rho**2, rho**3], -1) @ coefficients.T)


def _fitted(sites: Sequence[Sites], rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """(16, 3) weights of the colours' polynomial and (3, 3) coefficients of the fall-off, by ``rounds`` Gauss-Newton
    steps from the polynomial alone.
    """
    weights, coefficients = np.zeros((16, 3)), np.zeros((3, 3))
    for c in range(3):
        for number in range(rounds + 1):
            size = 16 if number == 0 else 19
            normal, right = 1e-9 * np.eye(size), np.zeros(size)
            for features, raw, rho in sites:
                seen = raw[:, c] < _BRIGHT
                powers = np.stack([rho, rho**2, rho**3], -1)[seen]
                fall, clean = 1 + powers @ coefficients[c], features[seen] @ weights[:, c]
                slopes = np.concatenate([features[seen] * fall[:, None], powers * clean[:, None]], 1)[:, :size]
                normal += slopes.T @ slopes / len(seen)
                right += slopes.T @ (raw[seen, c] - clean * fall) / len(seen)
            step = np.linalg.solve(normal, right)
            weights[:, c] += step[:16]
            coefficients[c] += step[16:] if number else 0
    return weights, coefficients
