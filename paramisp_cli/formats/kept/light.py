"""Predict samples from the JPEG's pixels: a table of YCbCr with integer interpolation, fitted to the shot itself.

A node is a sample's value in eighths. Nodes are 8 codes of luma and 16 or 32 codes of chroma apart. Floating-point
numbers occur in the fit alone: the tables are stored, so encoder and decoder agree bit for bit.
"""

from __future__ import annotations

import numpy as np

from paramisp_cli.formats.kept.lattice import MARGIN

FRACTION = 3
"""Bits after the point of a prediction."""
_LUMA_BITS, _LUMA_NODES = 3, 33
_ROUNDS, _SAMPLES = 12, 120_000


def chroma_bits(pixels: int) -> int:
    """Return log2 of the distance of chroma nodes [codes]: a large picture affords more of them."""
    return 4 if pixels >= 1 << 20 else 5 if pixels >= 1 << 16 else 6


def shape(bits: int) -> tuple[int, int, int]:
    """Return the number of nodes in luma and both chroma directions."""
    chroma = (256 >> bits) + 1
    return _LUMA_NODES, chroma, chroma


def fit(samples: np.ndarray, ycc: np.ndarray, bits: int, top: int) -> np.ndarray:
    """Fit the nodes, int32, to samples (n,) and their pixels (n, 3) uint8; ``top`` is the largest sample possible.

    A polynomial comes first, for nodes that no pixel is near; then rounds of residuals.
    """
    stride = max(1, len(samples) // _SAMPLES)
    target, ycc = samples[::stride].astype(np.float64), ycc[::stride]
    nodes = shape(bits)
    grid = np.stack(np.meshgrid(*(np.linspace(0, 256, n) for n in nodes), indexing="ij"), -1).reshape(-1, 3)
    wanted = _terms(ycc.astype(np.float64))
    normal = wanted.T @ wanted + 1e-3 * len(target) * np.eye(wanted.shape[1]) * 1e-3
    table = _terms(grid) @ np.linalg.solve(normal, wanted.T @ target)
    corners = [(index, weight / float(1 << (_LUMA_BITS + 2 * bits))) for index, weight in _corners(ycc, bits)]
    total = sum(np.bincount(index, weight, len(table)) for index, weight in corners) + 2.0
    for _ in range(_ROUNDS):
        off = target - sum(table[index] * weight for index, weight in corners)
        table += sum(np.bincount(index, weight * off, len(table)) for index, weight in corners) / total
    nodes_of_shot: np.ndarray = np.rint(table.clip(0, top) * (1 << FRACTION)).astype(np.int32)
    return nodes_of_shot


def plane(table: np.ndarray, ycc: np.ndarray, bits: int, rows: int, columns: int) -> np.ndarray:
    """Return the prediction of a plane, int32, in eighths, padded by ``MARGIN`` with its edge.

    ``ycc`` (h, w, 3) are the JPEG's pixels at the plane's sites; edges are repeated up to ``rows`` and ``columns``.
    """
    out = np.empty(ycc.shape[:2], np.int32)
    band = max(1, (1 << 16) // ycc.shape[1])
    for top in range(0, len(ycc), band):
        part = ycc[top : top + band].reshape(-1, 3)
        light = np.zeros(len(part), np.int64)
        for index, weight in _corners(part, bits):
            light += table[index] * weight
        out[top : top + band] = (light >> (_LUMA_BITS + 2 * bits)).reshape(-1, ycc.shape[1])
    below, right = rows - ycc.shape[0], columns - ycc.shape[1]
    return np.pad(out, ((MARGIN, MARGIN + below), (MARGIN, MARGIN + right)), mode="edge")


def _terms(ycc: np.ndarray) -> np.ndarray:
    y, b, r = ycc[:, 0] / 256, ycc[:, 1] / 256 - 0.5, ycc[:, 2] / 256 - 0.5
    return np.stack([np.ones_like(y), y, y * y, y**3, b, r, b * y, r * y], 1)


def _corners(ycc: np.ndarray, bits: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (node, weight) of the eight nodes around pixels (n, 3); the weights' sum is 2^(3 + 2·bits)."""
    chroma = shape(bits)[1]
    axes = []
    for channel, shift in ((0, _LUMA_BITS), (1, bits), (2, bits)):
        code = ycc[:, channel].astype(np.int64)
        at = code >> shift
        fraction = code - (at << shift)
        axes.append(((at, (1 << shift) - fraction), (at + 1, fraction)))
    found = []
    for luma, luma_weight in axes[0]:
        for blue, blue_weight in axes[1]:
            for red, red_weight in axes[2]:
                found.append(((luma * chroma + blue) * chroma + red, luma_weight * blue_weight * red_weight))
    return found
