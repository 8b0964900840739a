"""A RAW laid over the JPEG: turned into its orientation, and averaged down to its scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from paramisp_cli import isp, mosaic
from paramisp_cli.formats import raster
from paramisp_cli.training.pairing import align
from paramisp_cli.types import RawImage, SrgbImage

_GAMMA = np.float32(1 / 2.2)
_UNTURN = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
"""Orientation that undoes an orientation."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """A RAW in the orientation of the JPEG; JPEG pixel (y, x) has its corner at RAW (y·step + dy, x·step + dx).

    linear  (H, W) float32 mosaic, black 0, white 1
    score   correlation of the two (−1 to 1)
    """

    raw: RawImage
    linear: np.ndarray
    step: float
    dy: float
    dx: float
    score: float


def best(raw: RawImage, picture: SrgbImage) -> Overlay | None:
    """Lay a RAW over its JPEG, to about a pixel of the JPEG, in the most likely orientation; None if no shape fits.

    The orientations in EXIF come first. Embedded JPEGs often have the orientation of the sensor, without a tag.
    """
    turns = dict.fromkeys([(raw.orientation, _UNTURN[picture.orientation]), (1, 1), (raw.orientation, 1)])
    overlays = [overlay for turn in turns if (overlay := _laid(raw, picture, turn)) is not None]
    return max(overlays, key=lambda overlay: overlay.score, default=None)


def _laid(raw: RawImage, picture: SrgbImage, turn: Sequence[int]) -> Overlay | None:
    """Lay a RAW over its JPEG after these orientations; None if the two differ in shape."""
    turned = _turned(raw, turn)
    height, width = raw.size[::-1] if turned.mosaic.shape != raw.mosaic.shape else raw.size
    shown = luma(picture)
    by_height, by_width = height / shown.shape[0], width / shown.shape[1]
    if abs(by_height / by_width - 1) > 0.03 or by_width < 0.97:
        return None
    step = 1.0 if by_width < 1.06 else by_width  # a small difference is a margin: no camera reduces by so little
    c = turned.canonical
    black = mosaic.repeated(c.black_level, turned.mosaic.shape).astype(np.float32)
    linear = (turned.mosaic - black) / np.float32(c.white_level - c.black_level.mean())
    gray = green(linear, c.cfa)
    if step > 1:
        rows = _box(int(gray.shape[0] / step), 0, step, 0, 1, gray.shape[0], 1)
        columns = _box(int(gray.shape[1] / step), 0, step, 0, 1, gray.shape[1], 1)
        gray = rows @ gray @ columns.T
    dy, dx, score = align.coarse(shown, gray)
    return Overlay(turned, linear, step, dy * step, dx * step, score)


def _turned(raw: RawImage, orientations: Sequence[int]) -> RawImage:
    """Apply orientations, one after the other, to the mosaic, its CFA and its black levels."""
    sides = [raw.mosaic, mosaic.pattern(raw.canonical.cfa), raw.canonical.black_level]
    for orientation in orientations:
        sides = [raster.apply_orientation(side, orientation) for side in sides]
    turned = replace(raw.canonical, cfa=mosaic.named(sides[1]), black_level=sides[2])
    return replace(raw, mosaic=np.ascontiguousarray(sides[0]), canonical=turned, crop=None)


def luma(picture: SrgbImage) -> np.ndarray:
    """Return the green channel (H, W) of an 8-bit picture in [0, 1]."""
    return picture.pixels[..., 1].astype(np.float32) / 255


def green(linear: np.ndarray, cfa: str) -> np.ndarray:
    """Demosaic the green (H, W) of a linear mosaic, with about the tone of a picture."""
    return toned(isp.demosaic(torch.from_numpy(linear)[None, None], cfa)[0, 1].numpy())


def toned(linear: np.ndarray) -> np.ndarray:
    """Apply about the tone of a picture to linear light."""
    encoded: np.ndarray = np.clip(linear, 0, None) ** _GAMMA
    return encoded


def averaged(overlay: Overlay, shape: tuple[int, int], geometry: align.Geometry) -> np.ndarray:
    """Average the sites of each colour over the pixels of the JPEG: (h, w, 3) linear camera RGB at its scale."""
    y0, x0, step_y, step_x = geometry
    spread = 1.0 if min(step_y, step_x) >= 3 else 2.0  # below 3 px a pixel may hold no site of a colour: widen them
    planes = []
    for (row, column), plane in zip(np.ndindex(2, 2), mosaic.sites(overlay.linear), strict=True):
        rows = _box(shape[0], y0, step_y, row, 2, plane.shape[0], spread)
        columns = _box(shape[1], x0, step_x, column, 2, plane.shape[1], spread)
        planes.append(rows @ plane @ columns.T)
    return mosaic.superpixels(planes, overlay.raw.canonical.cfa)


def _box(count: int, start: float, step: float, first: int, stride: int, sites: int, width: float) -> np.ndarray:
    """Compute weights (count, sites) that average sites over [start + i·step, start + (i + 1)·step).

    Site j spreads over ``width`` px around the middle of pixel first + j·stride. Rows sum to 1.
    """
    low = start + step * np.arange(count)[:, None]
    middle = first + stride * np.arange(sites)[None] + 0.5
    overlap = np.minimum(low + step, middle + width / 2) - np.maximum(low, middle - width / 2)
    weights = np.clip(overlap, 0, None).astype(np.float32)
    rows: np.ndarray = weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)
    return rows
