"""Turn pixel arrays upright, and change their bit depth."""

from __future__ import annotations

from typing import Any

import numpy as np

STRIP = 256  # rows converted at a time, so that float copies stay small


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels (H, W, …) upright by their EXIF orientation 1–8 (tag 0x0112): a view, H and W swapped for 5–8.

    2 and 4 are mirrored (left-right, top-bottom), 3 upside down, 5 transposed, 6 needs a quarter turn clockwise, 7 is
    transposed over the other diagonal, 8 needs a quarter turn counter-clockwise.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = {
        1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1),
    }[orientation]  # fmt: skip
    return pixels[::rows, ::columns]


def composed(first: int, then: int) -> int:
    """Return the orientation 1–8 that turns pixels by ``first`` and then by ``then``."""
    corners = np.arange(6).reshape(2, 3)
    turned = apply_orientation(apply_orientation(corners, first), then)
    return next(one for one in range(1, 9) if np.array_equal(apply_orientation(corners, one), turned))


def to_depth(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Convert to (H, W, 3) uint8 or uint16, rounded to nearest: v·257 and back for integers, [0, 1] floats scaled."""
    kind: Any = np.uint8 if bits == 8 else np.uint16
    if pixels.dtype == kind:
        return pixels
    if pixels.dtype == np.uint8:
        return pixels * np.uint16(257)
    out = np.empty(pixels.shape, kind)
    for top in range(0, len(pixels), STRIP):
        strip = pixels[top : top + STRIP]
        if strip.dtype == np.uint16:
            out[top : top + STRIP] = (strip.astype(np.uint32) + 128) // 257
        else:
            scaled = np.nan_to_num(strip).clip(0, 1).astype(np.float64) * (2**bits - 1)
            out[top : top + STRIP] = np.rint(scaled)
    return out
