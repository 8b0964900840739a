"""Sites of a Bayer mosaic, in numpy: the four half-size planes, RGB superpixels, and the phase of the CFA.

A CFA is the colours of the mosaic's top-left 2×2, row by row ("RGGB"). The four planes and the four letters come in
that order. Heights and widths are even.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def site_names(cfa: str) -> list[str]:
    """Return the names of the four sites: "R", "B", "Gr" (green in the row of red) and "Gb" (green in that of blue)."""
    row_of_red = cfa.index("R") // 2
    greens = ("Gr", "Gb") if row_of_red == 0 else ("Gb", "Gr")
    return [letter if letter != "G" else greens[number // 2] for number, letter in enumerate(cfa)]


PACKED = ("R", "Gr", "Gb", "B")
"""Channels of a packed mosaic, for every CFA."""


def packed(mosaic: np.ndarray, cfa: str) -> np.ndarray:
    """Return a mosaic (H, W) as (H / 2, W / 2, 4): the samples of each 2×2 in the order R, Gr, Gb, B."""
    planes = dict(zip(site_names(cfa), sites(mosaic), strict=True))
    return np.stack([planes[name] for name in PACKED], -1)


def unpacked(channels: np.ndarray, cfa: str) -> np.ndarray:
    """Return the mosaic (2 h, 2 w) of a packed one (h, w, 4): the inverse of ``packed``."""
    return joined([channels[..., PACKED.index(name)] for name in site_names(cfa)])


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


def sampled(colours: np.ndarray, cfa: str) -> np.ndarray:
    """Return the mosaic (H, W) of a picture of three colours a pixel (H, W, 3): at every site the colour of the CFA."""
    image = np.empty(colours.shape[:2], colours.dtype)
    for plane, site, color in zip(sites(image), sites(colours), cfa, strict=True):
        plane[:] = site[..., "RGB".index(color)]
    return image


def of_mosaics(mosaics: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a picture of three colours a pixel (H, W, 3) from the mosaics (H, W) of all four Bayer CFAs.

    At each pixel one of them has red, one blue and two green; green is their mean, of whole numbers rounded down.
    """
    first = next(iter(mosaics.values()))
    colours = np.empty((*first.shape, 3), first.dtype)
    halved = np.divide if first.dtype.kind == "f" else np.floor_divide
    seen: set[int] = set()
    for cfa, image in mosaics.items():
        for number, (target, plane, color) in enumerate(zip(sites(colours), sites(image), cfa, strict=True)):
            green = target[..., 1]
            if color != "G":
                target[..., "RGB".index(color)] = plane
            elif number in seen:
                low = np.minimum(green, plane)  # a sum of both may not fit the type
                green[...] = low + halved(np.maximum(green, plane) - low, first.dtype.type(2))
            else:
                seen.add(number)
                green[...] = plane
    return colours


def expose(light: np.ndarray, cfa: str | None, wb_gains: np.ndarray, gain: float) -> None:
    """Multiply linear light by ``gain``, in place, and clip it to [0, 1], as a sensor would with so much more light.

    ``light`` is a mosaic (H, W) with a ``cfa``, or three colours a pixel (H, W, 3) without one; float32, black 0, white
    1. In a darker exposure the channels are first clipped where green clips: a blown highlight is grey there, and not
    magenta.
    """
    caps = wb_gains.min() / wb_gains if gain < 1 else np.ones(3)
    if cfa is None:
        np.clip(light, 0, caps.astype(light.dtype), out=light)
    else:
        for plane, letter in zip(sites(light), cfa, strict=True):
            np.clip(plane, 0, light.dtype.type(caps["RGB".index(letter)]), out=plane)
    light *= light.dtype.type(gain)
    np.minimum(light, 1, out=light)


def by_color(values: np.ndarray, cfa: str) -> np.ndarray:
    """Return the mean (3,) of values by site (2, 2) over each colour's sites."""
    return np.array([np.ravel(values)[[letter == color for letter in cfa]].mean() for color in "RGB"])


def by_site(values: np.ndarray, cfa: str) -> np.ndarray:
    """Return values by colour (3,) as values by site (2, 2)."""
    return np.asarray(values)[["RGB".index(color) for color in cfa]].reshape(2, 2)


def pattern(cfa: str) -> np.ndarray:
    """Return the letters of a CFA as an array (2, 2), which can be turned and mirrored like a mosaic."""
    return np.array(list(cfa)).reshape(2, 2)


def named(letters: np.ndarray) -> str:
    """Return the CFA of an array (2, 2) of letters: the inverse of ``pattern``."""
    return "".join(letters.ravel().tolist())


def shifted(by_site: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return letters or values by site (2, 2) for the mosaic that begins ``rows`` and ``columns`` further in."""
    return np.roll(by_site, (-(rows % 2), -(columns % 2)), (0, 1))


def channel_of(cfa: str, row: int, column: int) -> int:
    """Return the colour (0 R, 1 G, 2 B) of the mosaic at a position."""
    return "RGB".index(cfa[2 * (row % 2) + column % 2])


# Malvar, He, Cutler, "High-quality linear interpolation for demosaicing of Bayer-patterned color images" (ICASSP
# 2004), Fig. 2: four 5×5 kernels, in sixteenths so that every coefficient is an integer.
_GREEN_AT_COLOR = np.array([[0, 0, -2, 0, 0], [0, 0, 4, 0, 0], [-2, 4, 8, 4, -2], [0, 0, 4, 0, 0], [0, 0, -2, 0, 0]])
_COLOR_AT_GREEN_IN_ROW = np.array(
    [[0, 0, 1, 0, 0], [0, -2, 0, -2, 0], [-2, 8, 10, 8, -2], [0, -2, 0, -2, 0], [0, 0, 1, 0, 0]]
)
_COLOR_AT_GREEN_IN_COLUMN = _COLOR_AT_GREEN_IN_ROW.T
_COLOR_AT_OPPOSITE = np.array(
    [[0, 0, -3, 0, 0], [0, 4, 0, 4, 0], [-3, 0, 12, 0, -3], [0, 4, 0, 4, 0], [0, 0, -3, 0, 0]]
)
_IDENTITY = np.zeros((5, 5))
_IDENTITY[2, 2] = 16


def packed_demosaic_kernel(cfa: str) -> np.ndarray:
    """Return (12, 4, 3, 3) float32: the four 5×5 kernels rewritten for the mosaic packed as four half-size planes.

    Output channel 4·colour + phase, input channel = phase, phase = 2·(row % 2) + column % 2.
    """
    kernel = np.zeros((12, 4, 3, 3), np.float32)
    for row in (0, 1):
        for column in (0, 1):
            here = channel_of(cfa, row, column)
            for want in range(3):
                if want == here:
                    taps = _IDENTITY
                elif want == 1:
                    taps = _GREEN_AT_COLOR
                elif here != 1:
                    taps = _COLOR_AT_OPPOSITE
                elif channel_of(cfa, row, column + 1) == want:
                    taps = _COLOR_AT_GREEN_IN_ROW
                else:
                    taps = _COLOR_AT_GREEN_IN_COLUMN
                for dy in range(-2, 3):
                    for dx in range(-2, 3):
                        y, x = row + dy, column + dx
                        phase = 2 * (y % 2) + x % 2
                        kernel[4 * want + 2 * row + column, phase, y // 2 + 1, x // 2 + 1] += taps[dy + 2, dx + 2] / 16
    return kernel


def reflect_index(size: int, before: int, after: int) -> np.ndarray:
    """Return indices that extend [0, size) by reflection about its first and last sample (−k ↔ k), by any amount.

    Reflection about a sample preserves the CFA phase, also when a tiny image is reflected many times.
    """
    period = max(2 * (size - 1), 1)
    index = np.arange(-before, size + after) % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)


def shading_gain(
    coefficients: Sequence[Sequence[float]],
    cfa: str,
    rows: np.ndarray,
    columns: np.ndarray,
    frame: tuple[int, int, int, int],
) -> np.ndarray:
    """Return the factors (rows, columns) that undo the lens's fall-off of light; ``isp.shading_gain`` explains them.

    ``rows`` and ``columns`` are positions in a mosaic; ``cfa`` begins at the first of them.
    """
    top, left, high, wide = frame
    y = rows.astype(np.float32)[:, None] + np.float32(top + 0.5 - high / 2)
    x = columns.astype(np.float32) + np.float32(left + 0.5 - wide / 2)
    rho = (y * y + x * x) / np.float32(high * high / 4 + wide * wide / 4)
    gain = np.empty_like(rho)
    for row in (0, 1):
        for column in (0, 1):
            k1, k2, k3 = (np.float32(k) for k in coefficients[channel_of(cfa, row, column)])
            r = rho[row::2, column::2]
            gain[row::2, column::2] = 1 / (1 + r * (k1 + r * (k2 + r * k3)))
    return gain
