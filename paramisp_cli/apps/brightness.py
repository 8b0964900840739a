"""Light beside a picture: one scale for linear light, and the gain map that leads from the picture to the light."""

from __future__ import annotations

import math

import numpy as np

from paramisp_cli import color
from paramisp_cli.rendition.bands import in_bands

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
_SAMPLES = 400_000
"""Pixels of a statistic, at least a quarter of it."""
_MIDDLE = (0.1, 0.4)
"""Light of the picture in which picture and scene are to agree: the middle tones."""
_FEW = 500
"""Samples below which a range of tones counts as missing."""
_OFFSET = 1 / 64
"""Offset of the gain: see ``types.HdrImage``."""
_RISE = (0.18, 0.5)
"""Luminance of the picture from which the gain begins to count, and from which it counts in full.

Middle grey and darker tones do not change: there a tone curve adds contrast, which a gain map would take away.
"""
_MOST = 3.0
"""Greatest gain [EV] of a map."""
_BRIGHTEST = 99.9
"""Percentile of the gain that becomes the map's greatest."""
_LEAST = 0.05
"""Greatest gain [EV] below which a map is not worth writing."""
_LARGE = 4_000_000
"""Pixels of a picture from which its map has a quarter of its side, else half."""
_RADIUS, _EDGE = 4, 0.03
"""Guided filter: radius in pixels of the map, and contrast of encoded luma that counts as an edge."""


def scale_between(light: np.ndarray, shown: np.ndarray) -> float:
    """Return the factor that makes linear light (H, W, 3) as bright as a picture in the middle tones.

    ``shown`` (H, W, 3) is sRGB, uint8, uint16 or float32. The factor is the median of the ratio over the middle tones;
    a picture without them is compared over all tones that are neither black nor white.
    """
    step = max(int(math.sqrt(light.shape[0] * light.shape[1] / _SAMPLES)), 1)
    own = light[::step, ::step] @ _LUMA
    target = decoded(shown[::step, ::step]) @ _LUMA
    for low, high in (_MIDDLE, (0.01, 0.9)):
        chosen = (target > low) & (target < high) & (own > 0)
        if chosen.sum() >= min(_FEW, target.size // 4):
            return float(np.median(target[chosen] / own[chosen]))
    return 1.0


def decoded(shown: np.ndarray) -> np.ndarray:
    """Return linear light, float32, of sRGB-encoded uint8, uint16 or float32; whole numbers by a table."""
    if shown.dtype.kind == "f":
        return color.srgb_decode(np.clip(shown, 0, 1)).astype(np.float32)
    top = int(np.iinfo(shown.dtype).max)
    linear: np.ndarray = color.srgb_decode(np.arange(top + 1) / top).astype(np.float32).take(shown)
    return linear


def gain_map(light: np.ndarray, shown: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """Return (codes (h, w) uint8, EV of the code 255) of the map from a picture to light; 0 EV if there is no gain.

    ``light`` (H, W, 3), times ``scale``, and ``shown`` (H, W, 3) are as for ``scale_between``. The map has a half or a
    quarter of the picture's side. It never darkens, and it is smooth between the picture's edges.
    """
    height, width = shown.shape[:2]
    factor = 4 if height * width > _LARGE else 2
    size = (-(-height // factor), -(-width // factor))
    gains, luma = np.empty(size, np.float32), np.empty(size, np.float32)

    def work(first: int, last: int) -> None:
        rows = slice(first * factor, min(last * factor, height))
        own = np.maximum(_means(light[rows] @ _LUMA, factor), 0)  # colours outside sRGB may have a luminance below 0
        target = _means(decoded(shown[rows]) @ _LUMA, factor)
        share = np.clip((target - _RISE[0]) / (_RISE[1] - _RISE[0]), 0, 1)
        share *= share * (3 - 2 * share)
        gains[first:last] = share * np.log2((own * np.float32(scale) + _OFFSET) / (target + _OFFSET))
        luma[first:last] = color.srgb_encode(np.clip(target, 0, 1))

    in_bands(work, size[0], max((1 << 18) // (width * factor), 1))
    np.clip(gains, 0, _MOST, out=gains)
    gains = guided(gains, luma, _RADIUS, _EDGE**2)
    most = min(float(np.percentile(gains, _BRIGHTEST)), _MOST)
    if most < _LEAST:
        return np.zeros(size, np.uint8), 0.0
    most = round(most, 3)
    return np.rint(np.clip(gains / most, 0, 1) * 255).astype(np.uint8), most


def _means(plane: np.ndarray, factor: int) -> np.ndarray:
    """Return the means of squares of ``factor`` pixels; the last row and column repeat to fill the last squares."""
    height, width = plane.shape
    plane = np.pad(plane, ((0, -height % factor), (0, -width % factor)), mode="edge")
    total = np.zeros((len(plane) // factor, plane.shape[1] // factor), np.float32)
    for y in range(factor):
        for x in range(factor):
            total += plane[y::factor, x::factor]
    total *= np.float32(1 / factor**2)
    return total


def guided(values: np.ndarray, guide: np.ndarray, radius: int, edge: float) -> np.ndarray:
    """Smooth (h, w) float32 between the edges of a guide (h, w) (He, Sun, Tang, "Guided Image Filtering", 2010).

    ``edge`` is the variance of the guide from which a place counts as an edge.
    """
    mean, mean_guide = _boxed(values, radius), _boxed(guide, radius)
    covariance = _boxed(values * guide, radius) - mean * mean_guide
    variance = _boxed(guide * guide, radius) - mean_guide * mean_guide
    slope = covariance / (np.maximum(variance, 0) + edge)
    smooth: np.ndarray = _boxed(slope, radius) * guide + _boxed(mean - slope * mean_guide, radius)
    return smooth.astype(np.float32)


def _boxed(values: np.ndarray, radius: int) -> np.ndarray:
    """Return the means over squares of 2 · radius + 1 pixels, smaller at the border."""
    for axis in (0, 1):
        length = values.shape[axis]
        sums = np.cumsum(values, axis, dtype=np.float64)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis)
        place = np.arange(length)
        last, first = np.minimum(place + radius + 1, length), np.maximum(place - radius, 0)
        count = (last - first).reshape((-1, 1) if axis == 0 else (1, -1))
        values = (sums.take(last, axis) - sums.take(first, axis)) / count
    return values
