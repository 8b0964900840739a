"""The contact sheet of a data set of pairs: a row for each pair, for the user's eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paramisp_cli import formats
from paramisp_cli.mosaic import linear_sites, superpixels
from paramisp_cli.training.dataset import CONTACT_SHEET, Pair, Region, read_arrays
from paramisp_cli.types import CanonicalParams, SrgbImage


def write(dataset: Path, rows: Sequence[np.ndarray]) -> None:
    """Write rows of different width as one picture."""
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(row, ((4, 4), (0, width - row.shape[1]), (0, 0))) for row in rows])
    formats.write(SrgbImage(sheet), dataset / CONTACT_SHEET, overwrite=True)


def row(dataset: Path, pair: Pair) -> np.ndarray:
    """Draw the JPEG, the RAW rendered simply, and both in a checkerboard, which shows shifts."""
    mosaic, srgb = read_arrays(dataset, pair)
    assert pair.canonical is not None
    region = pair.regions[0] if len(pair.regions) == 1 else Region(0, 0, *srgb.shape[:2])
    c = pair.canonical
    step = max(region.height // 480, 1)
    height, width = region.height // (2 * step), region.width // (2 * step)
    planes = [plane[:height, :width] for plane in linear_sites(mosaic, c.black_level, c.white_level, step)]
    ours = drawn(planes, c)
    theirs = srgb[:: 2 * step, :: 2 * step][: ours.shape[0], : ours.shape[1]]
    ours = ours[: theirs.shape[0], : theirs.shape[1]]
    cells = (np.indices(ours.shape[:2]) // 24).sum(0) % 2
    both = np.where(cells[..., None] == 0, ours, theirs)
    return np.concatenate([theirs, ours, both], 1)


def drawn(planes: Sequence[np.ndarray], canonical: CanonicalParams) -> np.ndarray:
    """Draw the four planes (h, w) of a mosaic, black 0 and white 1, with even brightness → sRGB (h, w, 3) uint8."""
    camera = np.clip(superpixels(planes, canonical.cfa) * canonical.wb_gains, 0, 1)
    camera *= 0.25 / max(float(np.median(camera)), 0.02)
    rendered = np.clip(np.clip(camera, 0, 1) @ canonical.cam_to_srgb().T, 0, 1) ** (1 / 2.2)
    return np.asarray(rendered * 255).astype(np.uint8)
