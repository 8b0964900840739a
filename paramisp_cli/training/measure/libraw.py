"""The baseline of rendering that knows no camera's look: LibRaw's own rendering, in the frame of a pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paramisp_cli import color
from paramisp_cli.errors import ConfigError, InputMissingError
from paramisp_cli.formats import raster
from paramisp_cli.formats.libraw import developed as developed_by_libraw
from paramisp_cli.training.dataset import LoadedPair
from paramisp_cli.training.measure.predictors import Predictor
from paramisp_cli.training.pairing import align

_SURE = 0.8
"""Share of windows that must agree on the offset, as in ``pairing``."""
_CODES = 255 * 16
"""Steps of the table of ``gain_fitted``, exact for 8-bit values."""


def libraw(item: LoadedPair) -> np.ndarray:
    """Render the RAW file of a pair with LibRaw, in the frame of the pair: (H, W, 3) float32 in [0, 1].

    ``rawpy.postprocess`` takes the camera's white balance and its defaults, with automatic brightness. For a reduced
    pair the result is averaged down in linear light. Raises InputMissingError if the file is gone, FormatError if it
    cannot be read, ConfigError if it could not be aligned reliably.
    """
    path = Path(item.pair.raw)
    if not path.is_file():
        raise InputMissingError(f"{path}: no longer there (a relative path counts from where `paramisp pairs` ran)")
    return in_frame(item, developed_by_libraw(path).pixels, "LibRaw's picture")


def in_frame(item: LoadedPair, developed: np.ndarray, subject: str, attempts: int = 1) -> np.ndarray:
    """Place a program's picture of the RAW file, (H, W, 3) uint8, in the frame of the pair, as ``libraw`` does.

    ``attempts``: how often a picture of full size is placed, for programs with a border of their own. Raises
    ConfigError, which names ``subject``, if it could not be aligned reliably.
    """
    pair, path = item.pair, Path(item.pair.raw)
    truth = item.srgb.astype(np.float32) / 255
    geometry = (*pair.offset, pair.reduction, pair.reduction)
    best, best_score = developed, -1.0
    # The index has no orientation of the RAW: try all, only the right one is like the picture.
    for orientation in range(1, 9):
        turned = raster.apply_orientation(developed, orientation)
        placed = _placed(turned, item, geometry)
        if placed is not None and (score := _likeness(placed, truth)) > best_score:
            best, best_score = turned, score
    reduced = pair.status == "reduced"
    size = min(96 if reduced else 256, *(side // 2 for side in truth.shape[:2]))
    result, sureness, reason = None, _SURE, "another shape"
    for _ in range(3 if reduced else attempts):
        placed = _placed(best, item, geometry)
        windows = [] if placed is None else align.windows(truth[..., 1], placed[..., 1], 0, 0, reach=8, size=size)
        fit = align.fit(windows)
        if fit is None:
            reason = "too little alike" if placed is not None else reason
            break
        if max(abs(fit.dy), abs(fit.dx)) <= 1 and fit.agree >= sureness:
            result, sureness = placed, fit.agree
        reason = f"({fit.dy:.1f}, {fit.dx:.1f}) px off, {fit.agree:.0%} of it alike"
        if result is not None and fit.agree >= 0.95:
            break
        # A pair has one scale, but a camera may reduce height and width by slightly different factors.
        geometry = align.refined(geometry, windows)
    if result is None:
        raise ConfigError(f"{path}: {subject} could not be aligned reliably with the camera JPEG ({reason})")
    return result


def _placed(developed: np.ndarray, item: LoadedPair, geometry: align.Geometry) -> np.ndarray | None:
    """Cut the frame of the pair from a developed RAW (uint8), at its scale, in [0, 1]; None if it is too small."""
    height, width = item.srgb.shape[:2]
    y, x, step_y, step_x = geometry
    if item.pair.status != "reduced":
        top, left = max(round(y), 0), max(round(x), 0)  # the stored picture begins at the border of the RAW
        inside = developed[top : top + height, left : left + width]
        return inside.astype(np.float32) / 255 if inside.shape == item.srgb.shape else None
    if developed.shape[0] < y + height * step_y - 2 * step_y or developed.shape[1] < x + width * step_x - 2 * step_x:
        return None
    decoded = color.srgb_decode(np.arange(256) / 255)
    planes = []
    for i in range(3):
        rows = _averaged(decoded[developed[..., i]], y, step_y, height)
        planes.append(_averaged(rows.T, x, step_x, width).T)
    encoded: np.ndarray = np.clip(color.srgb_encode(np.stack(planes, -1)), 0, 1).astype(np.float32)
    return encoded


def _averaged(values: np.ndarray, start: float, step: float, count: int) -> np.ndarray:
    """Average rows, (N, M) → (count, M): over [start + i·step, start + (i + 1)·step), with fractions of rows."""
    sums = np.concatenate([np.zeros_like(values[:1]), values.cumsum(0)])
    edges = np.clip(start + step * np.arange(count + 1), 0, len(values))
    low = np.minimum(edges.astype(int), len(values) - 1)
    integral = sums[low] + (edges - low)[:, None] * (sums[low + 1] - sums[low])
    means: np.ndarray = np.diff(integral, axis=0) / np.maximum(np.diff(edges), 1e-9)[:, None]
    return means


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Correlate the edges of two pictures, in green, reduced to a few hundred pixels."""
    step = max(min(a.shape[:2]) // 300, 1)
    one, two = (align.detail(align.shrunk(x[..., 1], step), radius=4) for x in (a, b))
    return float((one * two).sum() / np.sqrt((one * one).sum() * (two * two).sum() + 1e-9))


def gain_fitted(predict: Predictor) -> Predictor:
    """Make a rendering with one exposure, in linear light, fitted to each picture that it is measured on."""

    def codes(x: np.ndarray) -> np.ndarray:
        return (x * np.float32(_CODES) + np.float32(0.5)).astype(np.int32)

    def fitted(item: LoadedPair) -> np.ndarray:
        rendered = predict(item)
        step = max(min(rendered.shape[:2]) // 200, 1)
        few, truth = codes(rendered[::step, ::step]), item.srgb[::step, ::step].astype(np.float32) / 255
        linear = color.srgb_decode(np.linspace(0, 1, _CODES + 1))

        def curve(stops: float) -> np.ndarray:
            return color.srgb_encode(np.clip(linear * 2**stops, 0, 1)).astype(np.float32)

        def error(stops: float) -> float:
            return float(((curve(stops)[few] - truth) ** 2).mean())

        best = 0.0
        for width in (0.5, 0.1, 0.02):  # coarse to fine, ±4 stops
            best = min((best + width * n for n in range(-8, 9)), key=error)
        result: np.ndarray = curve(best)[codes(rendered)]
        return result

    return fitted
