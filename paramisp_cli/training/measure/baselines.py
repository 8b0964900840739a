"""Baselines that a network must beat: the parametric model with a fitted gain, and a polynomial regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from paramisp_cli import isp, mosaic
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.training.dataset import LoadedPair
from paramisp_cli.training.measure.predictors import Predictor, network, target

_POWERS = {Direction.UNPROCESS: (1.0, 2.2, 3.0, 4.4), Direction.RENDER: (1.0, 1 / 2.2, 1 / 3, 1 / 4.4)}
_RIDGE = 1e-6
"""Weight decay of the regression: of 1e-9 to 1e-4 the best on areas and photographs outside the fit."""


def fitted_parametric(train: Sequence[LoadedPair], direction: Direction) -> Predictor:
    """Make the parametric model with the digital gain of least square error on the training pairs."""

    def error(gain: float) -> float:
        predict = network(Parametric(direction, gain), torch.device("cpu"))
        return sum(float(((predict(small) - target(small, direction)) ** 2).mean()) for small in thinned)

    thinned = [_thinned(item, 8) for item in train]
    gains = 2.0 ** np.arange(-1, 4.01, 0.25)
    return network(Parametric(direction, float(min(gains, key=error))), torch.device("cpu"))


def _thinned(item: LoadedPair, factor: int) -> LoadedPair:
    """Keep every ``factor``-th 2×2 of each row and column: the same colours at a fraction of the work."""
    h, w = (size // (2 * factor) for size in item.mosaic.shape)
    few = [mosaic.joined([plane[:h, :w] for plane in mosaic.sites(x, factor)]) for x in (item.mosaic, item.srgb)]
    return replace(item, mosaic=few[0], srgb=few[1])


def regression(train: Sequence[LoadedPair], direction: Direction) -> Predictor:
    """Fit a polynomial of the colours of a pixel by least squares, on means over 2×2 pixels.

    The powers of a channel are nearly alike. Without a little weight decay, large coefficients of opposite signs fit
    hardly better, and lose up to 18 dB a little beyond the fitted colours.
    """
    normal, right = np.zeros((16, 16)), np.zeros((16, 3))
    for item in train:
        raw, picture = quads(item)
        source, wanted = (picture, raw) if direction.input == Kind.SRGB else (raw, picture)
        x, y = polynomial(source, direction).reshape(-1, 16), wanted.reshape(-1, 3)
        normal += x.T @ x / len(x)
        right += x.T @ y / len(x)
    weights = np.linalg.solve(normal + _RIDGE * np.eye(16), right).astype(np.float32)

    def predict(item: LoadedPair) -> np.ndarray:
        raw, picture = item.sides()
        cfa = item.canonical.cfa
        if direction.input == Kind.SRGB:
            rgb = np.stack([polynomial(rows, direction) @ weights for rows in picture])
            full = isp.mosaic(torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None].float(), cfa)[0, 0].numpy()
            clipped: np.ndarray = np.clip(full, 0, 1)
            return clipped
        rgb = isp.demosaic(torch.from_numpy(raw)[None, None], cfa)[0].permute(1, 2, 0).numpy()
        return np.clip(np.stack([polynomial(rows, direction) @ weights for rows in rgb]), 0, 1).astype(np.float32)

    return predict


def polynomial(rgb: np.ndarray, direction: Direction) -> np.ndarray:
    """Compute the terms of the regression, (…, 3) → (…, 16): constant, four powers of each channel, three products."""
    x = np.clip(rgb, 0, 1)
    powers = [x**p for p in _POWERS[direction]]
    base = powers[0] if direction == Direction.UNPROCESS else powers[1]
    products = base * np.roll(base, -1, -1)
    return np.concatenate([np.ones_like(x[..., :1]), *powers, products], -1)


def quads(item: LoadedPair) -> tuple[np.ndarray, np.ndarray]:
    """Compute (RAW, picture), each (h, w, 3): means over 2×2 pixels, of each colour in the RAW."""
    raw, picture = item.sides()
    means = np.stack(mosaic.sites(picture)).mean(0, dtype=np.float32)
    return mosaic.superpixels(mosaic.sites(raw), item.canonical.cfa), means
