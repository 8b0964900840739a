"""Aligned pixels of pairs, from which colours are fitted in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paramisp_cli import isp, mosaic
from paramisp_cli.directions import Direction
from paramisp_cli.rendition.fit import Cells, cells
from paramisp_cli.training.dataset import LoadedPair, Region

_PIXELS = 1_000_000
"""Pixels of a photograph, at most: more tell nothing new about colours."""


def cells_of(item: LoadedPair, direction: Direction, lens_shading: Sequence[Sequence[float]] | None = None) -> Cells:
    """Gather the colours of a pair's aligned regions: means over 2×2 pixels, the mosaic without its lens shading.

    Raises ValueError for a pair without aligned regions.
    """
    regions = [region for region in item.pair.regions if min(region.height, region.width) >= 4]
    share = sum(region.height * region.width for region in regions) / 4 / _PIXELS
    step = max(int(np.ceil(np.sqrt(share))), 1)
    sides = [_superpixels(item, region, step, lens_shading) for region in regions]
    camera_rgb, srgb = (np.concatenate([side[number] for side in sides]) for number in (0, 1))
    gains = item.canonical.wb_gains
    return cells(direction, camera_rgb * gains, srgb, item.canonical.cam_to_srgb(), gains)


def _superpixels(
    item: LoadedPair, region: Region, step: int, lens_shading: Sequence[Sequence[float]] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return camera RGB and sRGB (n, 3) of every ``step``-th 2×2 of a region, across and down."""
    height, width = region.height // 2 * 2, region.width // 2 * 2
    top, left = region.top + region.dy, region.left + region.dx
    codes = item.mosaic[top : top + height, left : left + width]
    canonical = item.canonical.shifted(top, left)
    raw = mosaic.linear(codes, canonical.black_level, canonical.white_level)
    if lens_shading is not None:
        frame_top, frame_left, *size = item.frame or (0, 0, *item.mosaic.shape)
        frame = (frame_top + top, frame_left + left, size[0], size[1])
        raw = raw * isp.shading_gain(lens_shading, canonical.cfa, (0, height), frame, width)[0, 0].numpy()
    colours = mosaic.superpixels(mosaic.sites(raw, step), canonical.cfa)
    picture = item.srgb[region.top : region.top + height, region.left : region.left + width]
    shown = np.stack(mosaic.sites(picture, step)).mean(0) / 255
    return colours.reshape(-1, 3).astype(np.float64), shown.reshape(-1, 3)
