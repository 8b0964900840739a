"""Prior knowledge of renditions: mean and covariance over cameras, estimated by empirical Bayes, stored as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Self

import numpy as np

from paramisp_cli.directions import Direction
from paramisp_cli.rendition.form import SIZE, SPLINES, TOP, blocks


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """A Gaussian over the vectors of renditions of one direction: mean (SIZE,), covariance (SIZE, SIZE)."""

    direction: Direction
    mean: np.ndarray
    covariance: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Inverse of the covariance."""
        return np.linalg.inv(self.covariance)

    def record(self) -> dict[str, Any]:
        """Make a JSON-serialisable record: mean, standard deviations, correlations below the diagonal (per mille)."""
        spread = np.sqrt(np.diag(self.covariance))
        correlation = np.rint(self.covariance / np.outer(spread, spread) * 1000).astype(int)
        return {
            "direction": str(self.direction),
            "mean": [float(f"{value:.5g}") for value in self.mean],
            "spread": [float(f"{value:.5g}") for value in spread],
            "correlation": [correlation[row, :row].tolist() for row in range(SIZE)],
        }

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """Make a prior of a ``record``."""
        correlation = np.eye(SIZE)
        for row, values in enumerate(record["correlation"]):
            correlation[row, :row] = correlation[:row, row] = np.array(values) / 1000
        # Rounded correlations may have slightly negative eigenvalues.
        values, vectors = np.linalg.eigh(correlation)
        correlation = vectors * np.maximum(values, 2e-3) @ vectors.T
        spread = np.array(record["spread"])
        return cls(Direction(record["direction"]), np.array(record["mean"]), correlation * np.outer(spread, spread))


def vague(direction: Direction) -> Prior:
    """Make a weak prior: the table's matrix is nearly right, and curves are smooth with a shoulder."""
    at = blocks()
    knots = np.linspace(0, TOP, SPLINES)
    if direction == Direction.RENDER:
        slope = np.where(knots < 0.85, 1.05, np.maximum(1.05 - 1.9 * (knots - 0.85), 0.12))
    else:
        slope = np.where(knots < 0.8, 0.95, 0.95 + 1.5 * (knots - 0.8))
    mean, covariance = np.zeros(SIZE), np.zeros((SIZE, SIZE))
    mean[0], covariance[0, 0] = 0.5, 0.7**2
    mean[at["curves"]] = np.tile(np.log(slope), 3)
    covariance[at["matrix"], at["matrix"]] = 0.1**2 * np.eye(6)
    together, apart = _smooth(0.25, 2.5) + 0.1**2 * np.eye(SPLINES), _smooth(0.08, 3) + 0.03**2 * np.eye(SPLINES)
    covariance[at["curves"], at["curves"]] = np.kron(np.ones((3, 3)), together) + np.kron(np.eye(3), apart)
    terms = at["chroma"].stop - at["chroma"].start
    covariance[at["chroma"], at["chroma"]] = 0.15**2 * np.eye(terms)
    covariance[at["shading"], at["shading"]] = shading_covariance()
    return Prior(direction, mean, covariance)


def shading_covariance() -> np.ndarray:
    """Return the covariance (6, 6) of the shading: a lens darkens all channels much alike."""
    return np.kron(np.ones((3, 3)), np.diag([0.2**2, 0.25**2])) + np.kron(np.eye(3), np.diag([0.05**2, 0.05**2]))


def _smooth(spread: float, reach: float) -> np.ndarray:
    k = np.arange(SPLINES)
    return np.asarray(spread**2 * np.exp(-0.5 * ((k[:, None] - k) / reach) ** 2))


Likelihood = tuple[np.ndarray, np.ndarray]
"""A photograph's say: precision H (SIZE, SIZE) and natural mean h (SIZE,), the likelihood ∝ exp(−θᵀHθ/2 + hᵀθ)."""


def estimate(
    start: Prior, photographs: Sequence[Likelihood], weights: Sequence[float], belief: float = 3.0, rounds: int = 10
) -> Prior:
    """Estimate mean and covariance of a prior by expectation-maximisation (empirical Bayes).

    ``weights``: of each photograph, 1 / photographs of its camera. ``belief``: how many cameras the covariance of
    ``start`` is worth. The shading stays ``start``'s: it is a lens's, not a rendition's.
    """
    shading = blocks()["shading"]
    mean, covariance = start.mean.copy(), start.covariance.copy()
    share = np.array(weights, np.float64)
    for _ in range(rounds):
        precision = np.linalg.inv(covariance)
        spreads = [np.linalg.inv(weight + precision) for weight, _ in photographs]
        means = [v @ (h + precision @ mean) for v, (_, h) in zip(spreads, photographs, strict=True)]
        mean = np.average(means, axis=0, weights=share)
        mean[shading] = start.mean[shading]
        scatter = [np.outer(m - mean, m - mean) + v for m, v in zip(means, spreads, strict=True)]
        covariance = belief * start.covariance + np.tensordot(share, scatter, 1)
        covariance /= share.sum() + belief
        covariance[shading, :] = covariance[:, shading] = 0
        covariance[shading, shading] = start.covariance[shading, shading]
    return Prior(start.direction, mean, covariance)


@cache
def shipped(direction: Direction) -> Prior:
    """Return the prior in this package (``prior.json``), estimated from all cameras with photographs at hand."""
    text = resources.files(__package__).joinpath("prior.json").read_text("utf-8")
    return Prior.of(json.loads(text)[str(direction)])
