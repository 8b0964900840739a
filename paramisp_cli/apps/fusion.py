"""Exposure fusion: one picture of several exposures (Mertens, Kautz, Van Reeth, "Exposure Fusion", 2007).

Every pixel of every exposure has a weight: its contrast, its saturation and its closeness to middle grey, multiplied.
The pictures are mixed by these weights in Laplacian pyramids, so that seams between exposures do not show. OpenCV's
``MergeMertens`` gives the same numbers for the same exponents, but for its grey, whose weights are in another order.

Memory: the pictures, 4 bytes a pixel for each picture's weights with their pyramid, and about 20 bytes a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paramisp_cli.errors import ConfigError
from paramisp_cli.rendition.bands import Progress, in_bands

EXPONENTS = (1.0, 1.0, 1.0)
"""Exponents of contrast, saturation and well-exposedness: those of the paper; OpenCV's default is 1, 1, 0."""
_SIGMA = 0.2
"""Width of the bell curve around middle grey, of encoded values."""
_LEAST = 1e-12
"""Added to every weight: where all are 0, all pictures count alike."""
_GREY = (0.299, 0.587, 0.114)
_BAND = 1 << 18
"""Pixels of a band of rows: its arrays stay near a core's cache."""


def fused(
    pictures: Sequence[np.ndarray],
    exponents: tuple[float, float, float] = EXPONENTS,
    *,
    dtype: type[np.generic] = np.uint8,
    progress: Progress | None = None,
) -> np.ndarray:
    """Fuse exposures of one scene: pictures (H, W, 3), uint8, uint16 or float32 in [0, 1] → the same of ``dtype``.

    pictures   sRGB-encoded, at least one, all of one size; they lie exactly on each other
    exponents  of contrast, saturation and well-exposedness, ≥ 0; 0 leaves a measure out
    progress   takes the finished share, 0 to 1

    The result is clipped: a fusion overshoots at edges. Raises ConfigError for pictures of different shapes and for
    exponents below 0.
    """
    check_exponents(exponents)
    shape = pictures[0].shape if pictures else ()
    if len(shape) != 3 or shape[2] != 3 or any(picture.shape != shape for picture in pictures):
        shapes = ", ".join(str(picture.shape) for picture in pictures) or "none"
        raise ConfigError(f"fusion needs pictures (H, W, 3) of one size, got {shapes}")
    height, width = shape[:2]
    levels = int(np.log2(min(height, width)))
    pyramids = [_weight_pyramid(weight, levels) for weight in _weights(pictures, exponents)]
    out = np.empty(shape, dtype)
    for channel in range(3):
        total = _blended([_plane(picture, channel) for picture in pictures], pyramids)
        for level in range(levels - 1, -1, -1):
            _add_up(total[level + 1], total[level])
            total.pop()
        _encode(total[0], out[..., channel])
        if progress is not None:
            progress((channel + 1) / 3)
    return out


def check_exponents(exponents: Sequence[float]) -> None:
    """Raise ConfigError unless these are three finite numbers that are not negative."""
    if len(exponents) != 3 or not all(np.isfinite(value) and 0 <= value <= 10 for value in exponents):
        shown = ",".join(f"{value:g}" for value in exponents)
        raise ConfigError(
            "`fusion` takes three exponents from 0 to 10, of contrast, saturation and exposure, such as 1,1,1, "
            f"got {shown or 'none'}"
        )


# Weights -------------------------------------------------------------------------------------------------------------


def _weights(pictures: Sequence[np.ndarray], exponents: tuple[float, float, float]) -> list[np.ndarray]:
    """Return the normalised weights (H, W) of each picture, as uint16 of full scale 65535: half the memory of floats.

    The rounding errors are below 1e-5, less than a hundredth of an 8-bit code.
    """
    height, width = pictures[0].shape[:2]
    out = [np.empty((height, width), np.uint16) for _ in pictures]

    def work(first: int, last: int) -> None:
        raw = [_measured(picture, first, last, exponents) for picture in pictures]
        total = raw[0].copy()
        for weight in raw[1:]:
            total += weight
        for target, weight in zip(out, raw, strict=True):
            target[first:last] = np.rint(weight * (np.float32(65535) / total))

    in_bands(work, height, max(_BAND // width, 1))
    return out


def _measured(picture: np.ndarray, first: int, last: int, exponents: tuple[float, float, float]) -> np.ndarray:
    """Return the weights of rows ``first`` to ``last`` of a picture before they are normalised."""
    height = len(picture)
    rows = np.abs(np.arange(first - 1, last + 1))
    rows = np.clip(np.where(rows >= height, 2 * (height - 1) - rows, rows), 0, height - 1)
    planes = [_decoded(np.ascontiguousarray(picture[rows, :, channel])) for channel in range(3)]
    weight = np.ones((last - first, picture.shape[1]), np.float32)
    contrast, saturation, exposedness = exponents
    if contrast:
        grey = np.tensordot(np.array(_GREY, np.float32), np.stack(planes), 1)
        grey = np.pad(grey, ((0, 0), (1, 1)), mode="reflect")
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        weight *= _power(np.abs(around - 4 * grey[1:-1, 1:-1]), contrast)
    red, green, blue = (plane[1:-1] for plane in planes)
    if saturation:
        mean = (red + green + blue) * np.float32(1 / 3)
        weight *= _power(np.sqrt(_square(red - mean) + _square(green - mean) + _square(blue - mean)), saturation)
    if exposedness:
        middle = np.float32(0.5)
        off = _square(red - middle) + _square(green - middle) + _square(blue - middle)
        weight *= np.exp(off * np.float32(-exposedness / (2 * _SIGMA**2)))
    return weight + np.float32(_LEAST)


def _square(values: np.ndarray) -> np.ndarray:
    squared: np.ndarray = values * values
    return squared


def _power(values: np.ndarray, exponent: float) -> np.ndarray:
    raised: np.ndarray = values if exponent == 1 else values ** np.float32(exponent)
    return raised


def _weight_pyramid(weight: np.ndarray, levels: int) -> list[np.ndarray]:
    """Return the Gaussian pyramid of a weight: the finest level as uint16, the others float32 in [0, 1]."""
    pyramid = [weight]
    small = weight
    for _ in range(levels):
        small = _halved(small)
        pyramid.append(small)
    return pyramid


# Pyramids ------------------------------------------------------------------------------------------------------------


def _blended(planes: list[np.ndarray], pyramids: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    """Return the Laplacian pyramid of the mixture of planes (H, W), which it uses up, finest level first."""
    total: list[np.ndarray] = []
    for number, pyramid in enumerate(pyramids):
        plane = planes[number]
        planes[number] = np.empty(0)
        for level, weight in enumerate(pyramid):
            small = None
            if level + 1 < len(pyramid):
                small = _halved(plane)
                _add_up(small, plane, sign=-1)  # the details that the smaller picture lacks
            if not number:
                total.append(np.zeros(weight.shape, np.float32))
            _accumulate(total[level], plane, weight)
            if small is not None:
                plane = small
    return total


def _accumulate(total: np.ndarray, detail: np.ndarray, weight: np.ndarray) -> None:
    """Add a detail times its weight."""

    def work(first: int, last: int) -> None:
        share = _decoded(weight[first:last])
        total[first:last] += detail[first:last] * share

    in_bands(work, len(total), max(_BAND // total.shape[1], 1))


def _decoded(codes: np.ndarray) -> np.ndarray:
    """Return float32 in [0, 1] of uint8, uint16 or float32."""
    if codes.dtype == np.float32:
        return codes
    return codes * np.float32(1 / np.iinfo(codes.dtype).max)


def _plane(picture: np.ndarray, channel: int) -> np.ndarray:
    """Return a channel (H, W) as float32 in [0, 1], a copy."""
    height, width = picture.shape[:2]
    out = np.empty((height, width), np.float32)
    scale = 1 if picture.dtype == np.float32 else np.iinfo(picture.dtype).max

    def work(first: int, last: int) -> None:
        out[first:last] = picture[first:last, :, channel]
        out[first:last] *= np.float32(1 / scale)

    in_bands(work, height, max(_BAND // width, 1))
    return out


def _encode(plane: np.ndarray, out: np.ndarray) -> None:
    """Clip a plane and write it to ``out``; round it if ``out`` holds integers."""
    np.clip(plane, 0, 1, out=plane)
    if out.dtype != np.float32:
        plane *= np.float32(np.iinfo(out.dtype).max)
        np.rint(plane, out=plane)
    out[...] = plane


def _halved(plane: np.ndarray) -> np.ndarray:
    """Return the next smaller level: 5 taps 1 4 6 4 1 each way, reflected borders, every second pixel."""
    height, width = plane.shape
    out = np.empty(((height + 1) // 2, (width + 1) // 2), np.float32)

    def work(first: int, last: int) -> None:
        rows = np.arange(2 * first - 2, 2 * last + 1)
        strip = np.pad(_decoded(plane[_reflected(rows, height)]), ((0, 0), (2, 2)), mode="reflect")
        out[first:last] = _taps(_taps(strip.T, out.shape[1]).T, last - first)

    in_bands(work, out.shape[0], max(_BAND // (4 * out.shape[1]), 1))
    return out


def _taps(strip: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` rows: 5 taps around every second row of a strip of at least 2 · count + 3 rows."""
    end = 2 * count
    total: np.ndarray = strip[1 : end + 1 : 2] + strip[3 : end + 3 : 2]
    total *= np.float32(4)
    total += strip[0:end:2]
    total += strip[4 : end + 4 : 2]
    total += np.float32(6) * strip[2 : end + 2 : 2]
    total *= np.float32(1 / 16)
    return total


def _reflected(rows: np.ndarray, height: int) -> np.ndarray:
    """Return indices reflected about the first and the last row, as often as needed."""
    if height == 1:
        return np.zeros_like(rows)
    rows = np.mod(rows, 2 * height - 2)
    inside: np.ndarray = np.where(rows >= height, 2 * height - 2 - rows, rows)
    return inside


def _add_up(small: np.ndarray, plane: np.ndarray, sign: int = 1) -> None:
    """Add the enlarged ``small``, times ``sign``, to a plane: zeros between the pixels, then the 5 taps, times 4.

    On the original's pixels this gives 1 6 1 / 8, between them 1 1 / 2; the border reflects about the first and the
    last pixel of ``small``.
    """
    height, width = plane.shape

    def work(first: int, last: int) -> None:
        top, bottom = first // 2, (last + 1) // 2
        rows = np.clip(np.abs(np.arange(top - 1, bottom + 1)), 0, len(small) - 1)
        strip = _enlarged(small[rows], 2 * (bottom - top))[first - 2 * top : last - 2 * top]
        columns = np.clip(np.abs(np.arange(-1, (width + 1) // 2 + 1)), 0, small.shape[1] - 1)
        wide = _enlarged(strip.T[columns], width).T
        if sign > 0:
            plane[first:last] += wide
        else:
            plane[first:last] -= wide

    in_bands(work, height, max(_BAND // width // 2 * 2, 2))


def _enlarged(strip: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` rows of twice the number, from rows with one more at each end."""
    half = (count + 1) // 2
    here, after = strip[1 : half + 1], strip[2 : half + 2]
    out = np.empty((2 * half, strip.shape[1]), np.float32)
    even = out[0::2]
    np.multiply(here, np.float32(6), out=even)
    even += strip[:half]
    even += after
    even *= np.float32(1 / 8)
    np.add(here, after, out=out[1::2])
    out[1::2] *= np.float32(0.5)
    return out[:count]
