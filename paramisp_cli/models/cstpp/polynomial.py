"""A polynomial of the four values of a packed pixel, with coefficients of its own at every pixel.

The coefficients are known at the centres of patches, and bilinear between them. Every function works on rows of a
picture alone, so a picture runs in strips.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS, TERMS = 4, 14
"""R, Gr, Gb, B; and their 4 squares, 6 products and themselves."""
_PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


def terms(packed: Tensor) -> Tensor:
    """Return the terms (N, 14, H, W) of packed RAW (N, 4, H, W): squares, products, and the values themselves."""
    products = [packed[:, one] * packed[:, other] for one, other in _PAIRS]
    return torch.cat([packed.square(), torch.stack(products, 1), packed], 1)


def identity(like: Tensor) -> Tensor:
    """Return the coefficients (14 · 4,) that change nothing: each value is its own linear term."""
    table = like.new_zeros(TERMS, CHANNELS)
    table[-CHANNELS:] = torch.eye(CHANNELS, dtype=like.dtype, device=like.device)
    return table.flatten()


def between(grid: Tensor, first: int, last: int, side: int) -> Tensor:
    """Return the coefficients (N, 56, (last − first) · side, columns · side) of the pixels of patches' rows.

    ``grid`` (N, 56, rows, columns) holds them at the patches' centres; ``side`` is a patch's side [px]. Beyond the
    outer centres they are constant.
    """
    rows = torch.arange(first - 1, last + 1, device=grid.device).clamp(0, grid.shape[2] - 1)
    wide = F.interpolate(
        grid.index_select(2, rows), scale_factor=float(side), mode="bilinear", align_corners=False
    )  # fmt: skip
    return wide[:, :, side:-side]


def apply(packed: Tensor, coefficients: Tensor) -> Tensor:
    """Return the polynomials' values (N, 4, H, W) of packed RAW; ``coefficients`` (N, 56, H, W)."""
    weights = torch.unflatten(coefficients, 1, (TERMS, CHANNELS))
    values = terms(packed)
    out = weights[:, 0] * values[:, :1]
    for number in range(1, TERMS):
        out = out + weights[:, number] * values[:, number : number + 1]
    return out
