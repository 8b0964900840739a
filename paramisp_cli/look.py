"""How bright and how contrasty a picture is beside its linear data: small statistics, numpy only."""

from __future__ import annotations

import numpy as np

from paramisp_cli import color
from paramisp_cli.types import RawImage

_SAMPLES = 512
"""Quads looked at along the shorter side: enough for statistics, nothing beside the pixel work."""


def _quads(raw: RawImage) -> tuple[np.ndarray, int, int, int]:
    """((h, w, 3) white-balanced camera RGB of every ``step``-th 2×2, top, left, step) inside the crop."""
    assert raw.crop is not None
    top, left = raw.crop.top + raw.crop.top % 2, raw.crop.left + raw.crop.left % 2
    rows, columns = (raw.crop.top + raw.crop.height - top) // 2, (raw.crop.left + raw.crop.width - left) // 2
    step = max(min(rows, columns) // _SAMPLES, 1)
    planes: list[list[np.ndarray]] = [[], [], []]
    black, white = raw.canonical.black_level, raw.canonical.white_level
    for y in (0, 1):
        for x in (0, 1):
            plane = raw.mosaic[top + y : top + 2 * rows : 2 * step, left + x : left + 2 * columns : 2 * step]
            if raw.mosaic.dtype == np.uint16:
                plane = (plane - black[y, x]) / (white - black[y, x])
            planes["RGB".index(raw.canonical.cfa[2 * y + x])].append(plane.astype(np.float64))
    camera = np.stack([np.mean(p, 0) for p in planes], -1)
    return np.clip(camera * raw.canonical.wb_gains, 0, 1), top, left, step


def linear_srgb(raw: RawImage) -> np.ndarray:
    """(h, w, 3) linear sRGB of a sample of the RAW's 2×2 sites, not clipped; empty if it is smaller than 2×2."""
    camera, *_ = _quads(raw)
    return camera @ raw.canonical.cam_to_srgb().T


def fitted_curve(pixels: np.ndarray, raw: RawImage) -> np.ndarray | None:
    """(N, 2) rising curve, linear light → linear light, that takes ``raw`` nearest to the picture it was made from.

    ``pixels`` (H, W, 3), sRGB encoded, aligned with the crop, uint8, uint16 or float32. None for a picture too small.
    """
    camera, top, left, step = _quads(raw)
    assert raw.crop is not None
    if camera.size < 3 * 64:
        return None
    linear = camera @ raw.canonical.cam_to_srgb().T
    rows, columns = linear.shape[:2]
    scale = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(pixels.dtype, 1.0)
    target = np.zeros_like(linear)
    for y in (0, 1):
        for x in (0, 1):
            part = pixels[top - raw.crop.top + y :: 2 * step, left - raw.crop.left + x :: 2 * step][:rows, :columns]
            target += color.srgb_decode(part / scale) / 4
    # Bins of equal width in the cube root: near to equal in lightness.
    edges = np.linspace(0, 1, 65) ** 3
    index = np.digitize(linear.ravel(), edges) - 1
    points = [(0.0, 0.0)]
    for number in range(64):
        inside = index == number
        if inside.sum() >= 32:
            at = float(np.median(linear.ravel()[inside]))
            if points[-1][0] + 1e-6 < at < 1 - 1e-6:  # whites that just clip are the end's
                points.append((at, float(np.median(target.ravel()[inside]))))
    x, y = np.array([*points, (1.0, 1.0)]).T
    return np.stack([x, np.clip(np.maximum.accumulate(y), 0, 1)], 1)


def matched_exposure(raw: RawImage, preview: np.ndarray) -> float:
    """EV that makes the parametric rendering of ``raw`` as bright, on average, as its camera's own preview.

    ``preview`` (h, w, 3) uint8, any size. Mean of the encoded green-weighted luma, found by bisection in ±6 EV.
    """
    weights = np.array([0.2126, 0.7152, 0.0722])
    wanted = float((preview.reshape(-1, 3) @ weights).mean()) / 255
    camera, *_ = _quads(raw)
    sample = camera[::2, ::2] if camera.shape[0] > 64 else camera
    matrix = raw.canonical.cam_to_srgb().T
    low, high = -6.0, 6.0
    for _ in range(24):
        middle = (low + high) / 2
        encoded = color.srgb_encode(np.clip(np.clip(sample * 2**middle, 0, 1) @ matrix, 0, 1))
        luma = ((encoded * encoded * (3 - 2 * encoded)) @ weights).mean()
        low, high = (middle, high) if luma < wanted else (low, middle)
    return round((low + high) / 2, 3)
