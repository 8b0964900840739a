"""Alignment of a camera's JPEG with its RAW: offsets of windows, measured on edges, and one offset fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paramisp_cli.rendition.preview import vertex

TILE = 256
"""Side [px] of the windows whose offsets are measured."""

_GOOD = 0.55
"""Normalised correlation from which the offset of a window is accepted."""

_OUTLIER = 6.0
"""Distance [px] from the median beyond which the offset of a window is a mistake."""

Geometry = tuple[float, float, float, float]
"""Place of a picture on a RAW: position (y, x) of its corner on the RAW, and RAW pixels to a picture pixel (y, x)."""


@dataclass(frozen=True, slots=True)
class Window:
    """A window of the JPEG, its offset to the RAW in pixels (RAW = JPEG + offset), and its correlation (−1 to 1)."""

    top: int
    left: int
    size: int
    dy: float
    dx: float
    score: float


def detail(image: np.ndarray, radius: int = 8) -> np.ndarray:
    """Extract the edges of (H, W): local mean 0 and local contrast 1, float32.

    Tone curve, vignetting and white balance then hardly matter, so that RAW and JPEG can be compared.
    """
    x = np.asarray(image, np.float32)
    mean = box_blur(x, radius)
    x = x - mean
    spread = np.sqrt(box_blur(x * x, 4 * radius)) + 1e-3 * float(np.abs(x).max() + 1e-12)
    edges: np.ndarray = x / spread
    return edges


def box_blur(x: np.ndarray, radius: int) -> np.ndarray:
    """Compute means over (2·radius + 1)² pixels; the border is repeated."""
    size = 2 * radius + 1
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius + 1, radius)
        sums = np.cumsum(np.pad(x, pad, mode="edge"), axis, dtype=np.float64)
        upper = sums[size:] if axis == 0 else sums[:, size:]
        lower = sums[:-size] if axis == 0 else sums[:, :-size]
        x = ((upper - lower) / size).astype(np.float32)
    return x


def shift_of(window: np.ndarray, image: np.ndarray) -> tuple[float, float, float]:
    """Find the best place (y, x) of a window in an image, to a fraction of a pixel → (y, x, score).

    The score is the normalised correlation there (−1 to 1). Both should be ``detail`` images; computed by FFT.
    """
    h, w = window.shape
    height, width = image.shape
    window = window - window.mean()
    shape = (height, width)
    cross = np.fft.irfft2(np.fft.rfft2(image, shape) * np.conj(np.fft.rfft2(window, shape)), shape)
    cross = cross[: height - h + 1, : width - w + 1]
    energy = _window_energy(image, h, w)
    score = cross / (np.sqrt(energy * float((window * window).sum())) + 1e-9)
    y, x = np.unravel_index(int(score.argmax()), score.shape)
    peak = float(score[y, x])
    return y + vertex(score[:, x], int(y)), x + vertex(score[y], int(x)), peak


def _window_energy(image: np.ndarray, h: int, w: int) -> np.ndarray:
    """Compute Σ(value − window mean)² of every h×w window."""
    sums = []
    for x in (image.astype(np.float64), image.astype(np.float64) ** 2):
        c = np.pad(x.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        sums.append(c[h:, w:] - c[:-h, w:] - c[h:, :-w] + c[:-h, :-w])
    energy: np.ndarray = np.maximum(sums[1] - sums[0] ** 2 / (h * w), 1e-9)
    return energy


def coarse(jpeg: np.ndarray, raw: np.ndarray) -> tuple[float, float, float]:
    """Find (dy, dx, score) of a JPEG's luma on a RAW's at the same scale; a sixth of either may lie outside the other.

    Both are reduced to about 1000 px, so the offset is exact to a pixel of the reduced images.
    """
    step = max(max(jpeg.shape) // 1000, 1)
    small, large = (shrunk(x, step) for x in (jpeg, raw))
    margin_y, margin_x = small.shape[0] // 6, small.shape[1] // 6
    core = detail(small)[margin_y:-margin_y, margin_x:-margin_x]
    y, x, score = shift_of(core, detail(large))
    return (y - margin_y) * step, (x - margin_x) * step, score


def shrunk(x: np.ndarray, step: int) -> np.ndarray:
    """Compute means (h, w) over ``step`` × ``step`` pixels of (H, W), float32."""
    h, w = x.shape[0] // step * step, x.shape[1] // step * step
    small: np.ndarray = x[:h, :w].reshape(h // step, step, w // step, step).mean((1, 3), dtype=np.float32)
    return small


def windows(jpeg: np.ndarray, raw: np.ndarray, dy: float, dx: float, reach: int = 40, size: int = TILE) -> list[Window]:
    """Measure textured windows all over the JPEG, each within ``reach`` px of the offset (dy, dx)."""
    jpeg_detail, raw_detail = detail(jpeg), detail(raw)
    found = []
    rows = np.linspace(0, jpeg.shape[0] - size, max(jpeg.shape[0] // size, 1)).astype(int)
    columns = np.linspace(0, jpeg.shape[1] - size, max(jpeg.shape[1] // size, 1)).astype(int)
    for top in rows.tolist():
        for left in columns.tolist():
            window = measure(jpeg_detail, raw_detail, (top, left), dy, dx, reach, size)
            if window is not None:
                found.append(window)
    return found


def measure(
    jpeg: np.ndarray, raw: np.ndarray, corner: tuple[int, int], dy: float, dx: float, reach: int, size: int
) -> Window | None:
    """Measure one window of ``detail`` images; None if it has too little texture or no clear match."""
    top, left = corner
    inside = jpeg[top : top + size, left : left + size]
    y0, x0 = max(round(top + dy) - reach, 0), max(round(left + dx) - reach, 0)
    area = raw[y0 : round(top + dy) + size + reach, x0 : round(left + dx) + size + reach]
    if inside.shape != (size, size) or min(area.shape) < size + 2 or inside.std() < 0.05:
        return None
    y, x, score = shift_of(inside, area)
    if score < _GOOD:
        return None
    return Window(top, left, size, y + y0 - top, x + x0 - left, score)


@dataclass(frozen=True, slots=True)
class Fit:
    """Agreement of windows: median offset, share within one pixel of it, largest distance, number of windows."""

    dy: float
    dx: float
    agree: float
    worst: float
    count: int


def fit(measured: Sequence[Window]) -> Fit | None:
    """Fit one offset to all windows; None for fewer than three."""
    if len(measured) < 3:
        return None
    offsets = np.array([(w.dy, w.dx) for w in measured])
    middle = np.median(offsets, 0)
    away = np.abs(offsets - middle).max(1)
    return Fit(float(middle[0]), float(middle[1]), float((away <= 1).mean()), float(away.max()), len(measured))


def refined(geometry: Geometry, measured: Sequence[Window]) -> Geometry:
    """Correct position and scale by a line fitted to the offsets of the windows, without outliers."""
    axes = []
    for axis in (0, 1):
        middle = np.array([(w.top, w.left)[axis] + w.size / 2 for w in measured])
        offset = np.array([(w.dy, w.dx)[axis] for w in measured])
        near = np.abs(offset - np.median(offset)) < _OUTLIER
        line = near.sum() > 4 and np.ptp(middle[near]) > 0
        slope, start = np.polyfit(middle[near], offset[near], 1) if line else (0.0, np.median(offset))
        scale = geometry[2 + axis]
        axes.append((float(geometry[axis] + start * scale), float(scale * (1 + slope))))
    return axes[0][0], axes[1][0], axes[0][1], axes[1][1]
