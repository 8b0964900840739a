"""Motion between two frames, by block matching at a quarter of their size."""

from __future__ import annotations

import numpy as np

_BY = 4
"""Reduction of the frames."""
_BLOCK = 12
"""Side of a block [px of the reduced frame]."""
_TEXTURE = 4.0
"""Standard deviation [codes] of a block that can be matched."""
_REST = 2e-3
"""Error, as a share of the block's variance, of a motion of one reduced pixel: along a straight edge any motion fits,
and the smallest is meant."""
_SHARE = 90
"""Percentile of the blocks' motion that stands for the frame: a single wrong match must not count."""


def reduced(pixels: np.ndarray) -> np.ndarray:
    """Return the grey of a frame (H, W, 3) uint8 at a quarter of its size: (H // 4, W // 4) float32."""
    height, width = pixels.shape[0] // _BY * _BY, pixels.shape[1] // _BY * _BY
    grey = pixels[:height, :width].astype(np.float32) @ np.array([0.3, 0.59, 0.11], np.float32)
    small: np.ndarray = grey.reshape(height // _BY, _BY, width // _BY, _BY).mean((1, 3))
    return small


def between(first: np.ndarray, second: np.ndarray, most: float) -> float:
    """Return the motion [px of the full frame] between two frames as ``reduced`` returns them.

    The search reaches a little beyond ``most`` px; a larger motion gives a number above ``most``. Frames without
    texture give 0.
    """
    reach = int(np.ceil(most / _BY)) + 2
    height, width = first.shape
    offsets = np.square(np.arange(-reach, reach + 1))
    distance = offsets[:, None] + offsets
    motions = []
    for top in range(reach, height - _BLOCK - reach + 1, _BLOCK):
        for left in range(reach, width - _BLOCK - reach + 1, _BLOCK):
            block = first[top : top + _BLOCK, left : left + _BLOCK]
            if block.std() < _TEXTURE:
                continue
            around = second[top - reach : top + _BLOCK + reach, left - reach : left + _BLOCK + reach]
            windows = np.lib.stride_tricks.sliding_window_view(around, (_BLOCK, _BLOCK))
            errors = np.square(windows - block).mean((2, 3)) + _REST * block.var() * distance
            motions.append(np.hypot(*_lowest(errors)))
    return float(np.percentile(motions, _SHARE) * _BY) if motions else 0.0


def _lowest(errors: np.ndarray) -> tuple[float, float]:
    """Return the place (y, x) of the least error, from the middle, between samples by parabolas."""
    y, x = np.unravel_index(np.argmin(errors), errors.shape)
    middle = errors.shape[0] // 2
    return (
        int(y) - middle + _vertex(errors[:, x], int(y)),
        int(x) - middle + _vertex(errors[y], int(x)),
    )


def _vertex(values: np.ndarray, at: int) -> float:
    """Return the offset, −½ to ½, of the vertex of the parabola through three neighbours; 0 for a perfect match."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = (float(value) for value in values[at - 1 : at + 2])
    bend = before - 2 * here + after
    return 0.0 if bend <= 0 or here == 0 else float(np.clip((before - after) / (2 * bend), -0.5, 0.5))
