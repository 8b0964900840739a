"""Sites of a Bayer mosaic, in numpy: the four half-size planes, RGB superpixels, and the phase of the CFA.

A CFA is the colours of the mosaic's top-left 2×2, row by row ("RGGB"). The four planes and the four letters come in
that order. Heights and widths are even.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sites(image: np.ndarray, step: int = 1) -> list[np.ndarray]:
    """Return the four planes (h, w, …) of an image (H, W, …) as views, of every ``step``-th 2×2 down and across."""
    return [image[row :: 2 * step, column :: 2 * step] for row in (0, 1) for column in (0, 1)]


def joined(planes: Sequence[np.ndarray]) -> np.ndarray:
    """Return the image (2 h, 2 w, …) of four planes (h, w, …): the inverse of ``sites``."""
    height, width, *rest = planes[0].shape
    image = np.empty((2 * height, 2 * width, *rest), planes[0].dtype)
    for view, plane in zip(sites(image), planes, strict=True):
        view[:] = plane
    return image


def superpixels(planes: Sequence[np.ndarray], cfa: str) -> np.ndarray:
    """Return RGB (h, w, 3) of four float planes (h, w): one pixel for each 2×2, green the mean of its two sites."""
    rgb = np.zeros((*planes[0].shape, 3), planes[0].dtype)
    for plane, color in zip(planes, cfa, strict=True):
        rgb[..., "RGB".index(color)] += plane * (0.5 if color == "G" else 1)
    return rgb


def linear_sites(
    mosaic: np.ndarray, black_level: np.ndarray, white_level: float, step: int = 1, dtype: type = np.float64
) -> list[np.ndarray]:
    """Return the four planes with black 0 and white 1, not clipped; a mosaic of floats has these levels already."""
    planes = sites(mosaic, step)
    if mosaic.dtype != np.uint16:
        return [plane.astype(dtype) for plane in planes]
    return [(p - dtype(black)) / dtype(white_level - black) for p, black in zip(planes, black_level.flat, strict=True)]


def linear(mosaic: np.ndarray, black_level: np.ndarray, white_level: float) -> np.ndarray:
    """Return the whole mosaic (H, W) as float32 with black 0 and white 1, not clipped."""
    black = repeated(black_level, mosaic.shape).astype(np.float32)
    scaled: np.ndarray = (mosaic - black) / (np.float32(white_level) - black)
    return scaled


def repeated(pattern: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return values by site (2, 2) for every pixel of a mosaic of this shape (H, W)."""
    return np.tile(pattern, (shape[0] // 2, shape[1] // 2))


def pattern(cfa: str) -> np.ndarray:
    """Return the letters of a CFA as an array (2, 2), which can be turned and mirrored like a mosaic."""
    return np.array(list(cfa)).reshape(2, 2)


def named(letters: np.ndarray) -> str:
    """Return the CFA of an array (2, 2) of letters: the inverse of ``pattern``."""
    return "".join(letters.ravel().tolist())


def shifted(by_site: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return letters or values by site (2, 2) for the mosaic that begins ``rows`` and ``columns`` further in."""
    return np.roll(by_site, (-(rows % 2), -(columns % 2)), (0, 1))
