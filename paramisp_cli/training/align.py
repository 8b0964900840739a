"""Where a camera's JPEG lies over its RAW: orientation, scale, offset, and whether one offset fits the whole frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TILE = 256
"""Side [px] of the windows whose own offsets are measured."""

_GOOD = 0.55
"""Normalised correlation from which a window's offset is believed."""

_OUTLIER = 6.0
"""Pixels from the median beyond which a window's offset is a mistake."""

Geometry = tuple[float, float, float, float]
"""How a picture lies on a RAW: RAW position (y, x) of the picture's corner, and RAW pixels a picture pixel (y, x)."""


@dataclass(frozen=True, slots=True)
class Window:
    """A window of the JPEG, its offset to the RAW in pixels (RAW = JPEG + offset), and how sure that is (−1 to 1)."""

    top: int
    left: int
    size: int
    dy: float
    dx: float
    score: float


def detail(image: np.ndarray, radius: int = 8) -> np.ndarray:
    """(H, W) with its local mean taken out and its local contrast evened, float32: what is left is edges.

    Makes a tone curve, vignetting and white balance drop out, so that RAW and JPEG can be compared.
    """
    x = np.asarray(image, np.float32)
    mean = box_blur(x, radius)
    x = x - mean
    spread = np.sqrt(box_blur(x * x, 4 * radius)) + 1e-3 * float(np.abs(x).max() + 1e-12)
    edges: np.ndarray = x / spread
    return edges


def box_blur(x: np.ndarray, radius: int) -> np.ndarray:
    """Mean over (2·radius + 1)², the border repeated."""
    size = 2 * radius + 1
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius + 1, radius)
        sums = np.cumsum(np.pad(x, pad, mode="edge"), axis, dtype=np.float64)
        upper = sums[size:] if axis == 0 else sums[:, size:]
        lower = sums[:-size] if axis == 0 else sums[:, :-size]
        x = ((upper - lower) / size).astype(np.float32)
    return x


def shift_of(part: np.ndarray, whole: np.ndarray) -> tuple[float, float, float]:
    """(y, x, score): where in ``whole`` the smaller ``part`` lies best, to a fraction of a pixel.

    score is the normalised correlation there (−1 to 1). By FFT; both should be ``detail`` images.
    """
    h, w = part.shape
    height, width = whole.shape
    part = part - part.mean()
    shape = (height, width)
    cross = np.fft.irfft2(np.fft.rfft2(whole, shape) * np.conj(np.fft.rfft2(part, shape)), shape)
    cross = cross[: height - h + 1, : width - w + 1]
    energy = _window_energy(whole, h, w)
    score = cross / (np.sqrt(energy * float((part * part).sum())) + 1e-9)
    y, x = np.unravel_index(int(score.argmax()), score.shape)
    peak = float(score[y, x])
    return y + _vertex(score[:, x], int(y)), x + _vertex(score[y], int(x)), peak


def _window_energy(whole: np.ndarray, h: int, w: int) -> np.ndarray:
    """Σ(value − window mean)² of every h×w window."""
    sums = []
    for x in (whole.astype(np.float64), whole.astype(np.float64) ** 2):
        c = np.pad(x.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        sums.append(c[h:, w:] - c[:-h, w:] - c[h:, :-w] + c[:-h, :-w])
    energy: np.ndarray = np.maximum(sums[1] - sums[0] ** 2 / (h * w), 1e-9)
    return energy


def _vertex(line: np.ndarray, at: int) -> float:
    """How far from sample ``at`` the parabola through it and its neighbours has its maximum, in (−½, ½)."""
    if not 0 < at < len(line) - 1:
        return 0.0
    left, here, right = (float(v) for v in line[at - 1 : at + 2])
    bend = left - 2 * here + right
    return float(np.clip((left - right) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0


def coarse(jpeg: np.ndarray, raw: np.ndarray) -> tuple[float, float, float]:
    """(dy, dx, score) of a JPEG's luma over a RAW's at the same scale, either being allowed to stick out by a sixth.

    Works on both reduced to at most about 1000 px, so offsets are good to that reduction's pixel.
    """
    step = max(max(jpeg.shape) // 1000, 1)
    small, large = (_shrink(x, step) for x in (jpeg, raw))
    margin_y, margin_x = small.shape[0] // 6, small.shape[1] // 6
    core = detail(small)[margin_y:-margin_y, margin_x:-margin_x]
    y, x, score = shift_of(core, detail(large))
    return (y - margin_y) * step, (x - margin_x) * step, score


def _shrink(x: np.ndarray, step: int) -> np.ndarray:
    h, w = x.shape[0] // step * step, x.shape[1] // step * step
    small: np.ndarray = x[:h, :w].reshape(h // step, step, w // step, step).mean((1, 3), dtype=np.float32)
    return small


def windows(jpeg: np.ndarray, raw: np.ndarray, dy: float, dx: float, reach: int = 40, size: int = TILE) -> list[Window]:
    """Offsets of textured windows all over the JPEG, each searched within ``reach`` px of (dy, dx)."""
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
    """One window's offset; None if it has too little texture or no clear match. Both are ``detail`` images."""
    top, left = corner
    part = jpeg[top : top + size, left : left + size]
    y0, x0 = max(round(top + dy) - reach, 0), max(round(left + dx) - reach, 0)
    area = raw[y0 : round(top + dy) + size + reach, x0 : round(left + dx) + size + reach]
    if part.shape != (size, size) or min(area.shape) < size + 2 or part.std() < 0.05:
        return None
    y, x, score = shift_of(part, area)
    if score < _GOOD:
        return None
    return Window(top, left, size, y + y0 - top, x + x0 - left, score)


@dataclass(frozen=True, slots=True)
class Fit:
    """How the windows agree: the median offset, the share of them within one pixel of it, the largest distance."""

    dy: float
    dx: float
    agree: float
    worst: float
    count: int


def fit(found: list[Window]) -> Fit | None:
    """One offset for all windows; None if there are fewer than three."""
    if len(found) < 3:
        return None
    offsets = np.array([(w.dy, w.dx) for w in found])
    middle = np.median(offsets, 0)
    away = np.abs(offsets - middle).max(1)
    return Fit(float(middle[0]), float(middle[1]), float((away <= 1).mean()), float(away.max()), len(found))


def refined(geometry: Geometry, found: Sequence[Window]) -> Geometry:
    """The geometry with what the windows' offsets say of position and scale added, outliers left out."""
    parts = []
    for axis in (0, 1):
        at = np.array([(w.top, w.left)[axis] + w.size / 2 for w in found])
        off = np.array([(w.dy, w.dx)[axis] for w in found])
        near = np.abs(off - np.median(off)) < _OUTLIER
        line = near.sum() > 4 and np.ptp(at[near]) > 0
        slope, start = np.polyfit(at[near], off[near], 1) if line else (0.0, np.median(off))
        scale = geometry[2 + axis]
        parts.append((float(geometry[axis] + start * scale), float(scale * (1 + slope))))
    return parts[0][0], parts[1][0], parts[0][1], parts[1][1]
