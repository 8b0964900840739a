"""Every real RAW file there is, carried by its JPEG without loss and below the noise, and given back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import paramisp_cli as paramisp
from paramisp_cli import formats
from paramisp_cli.formats import WriteOptions, kept
from paramisp_cli.formats.kept import levels
from paramisp_cli.types import Crop, RawImage

pytestmark = pytest.mark.slow

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SAMPLES = Path(os.environ.get("PARAMISP_SAMPLES", "/nonexistent"))
FOLDERS = [
    *(SHARED / name for name in ("canon_eos_30d", "canon_eos_d30", "canon_powershot_s40", "gopro_hero7_black")),
    SAMPLES,
]
RAWS = [
    path
    for folder in FOLDERS
    for path in sorted(folder.glob("*"))
    if path.suffix.lower() in (".dng", ".cr2", ".crw", ".arw")
]

needs_raws = pytest.mark.skipif(not RAWS, reason=f"no RAW files in {SHARED} or $PARAMISP_SAMPLES")


SIDE = 1024
"""Sides of the middle of each RAW that is carried: whole files take minutes (tests/bench/bench_kept_raw.py)."""


def middle(raw: RawImage) -> RawImage:
    """Return the middle of a RAW, with its corner on the same site of the CFA."""
    top, left = (max(side - SIDE, 0) // 4 * 2 for side in raw.mosaic.shape)
    mosaic = raw.mosaic[top : top + SIDE, left : left + SIDE]
    return replace(raw, mosaic=mosaic, crop=Crop(0, 0, *mosaic.shape))


def carried(raw: RawImage, folder: Path) -> tuple[float, float]:
    """Carry a RAW both ways and give it back → (JPEG with RAW / (JPEG and DNG), bits a sample of ``near``)."""
    picture = paramisp.render(raw, paramisp.Settings(model="parametric"))
    formats.write(picture, folder / "plain.jpg")
    formats.write(raw, folder / "raw.dng", WriteOptions(embed_jpeg=False))
    plain = (folder / "plain.jpg").stat().st_size

    formats.write(picture, folder / "lossless.jpg", WriteOptions(keep_raw="lossless"), raw=raw)
    back = paramisp.unprocess(folder / "lossless.jpg")
    np.testing.assert_array_equal(back.mosaic, raw.mosaic)
    np.testing.assert_array_equal(back.canonical.color_matrix, raw.canonical.color_matrix)
    np.testing.assert_array_equal(back.canonical.as_shot_neutral, raw.canonical.as_shot_neutral)

    formats.write(picture, folder / "near.jpg", WriteOptions(keep_raw="near"), raw=raw)
    data = (folder / "near.jpg").read_bytes()
    bits = 8 * (len(data) - plain) / raw.mosaic.size
    found = kept.find(data)
    assert found is not None
    # Where the noise is less than a raw unit, samples must stay exact, and no error below the noise saves bits.
    assert bits <= 2.5 or found.share == 1
    back = kept.restore(data)
    for site, sigma in enumerate(levels.bounds(raw.canonical, levels.noise(raw)[0], 1.0)):
        true, other = (image.mosaic[site // 2 :: 2, site % 2 :: 2].astype(np.int64) for image in (raw, back))
        assert (np.abs(true - other) < sigma[true]).all()
    return (folder / "lossless.jpg").stat().st_size / (plain + (folder / "raw.dng").stat().st_size), bits


@needs_raws
def test_round_trips_of_every_file(tmp_path: Path) -> None:
    """Three quarters of JPEG and DNG together, and 2.5 bits of ``near``, on the mean."""
    sizes = {}
    for path in RAWS:
        raw = paramisp.read(path)
        assert isinstance(raw, RawImage)
        folder = tmp_path / path.name
        folder.mkdir()
        sizes[path.name] = carried(middle(raw), folder)
    print(*(f"{name} {ratio:.2f} {bits:.2f}" for name, (ratio, bits) in sizes.items()), sep="\n")
    ratios, bits = zip(*sizes.values(), strict=True)
    assert np.mean(ratios) <= 0.75
    assert max(ratios) < 0.95
    assert np.mean(bits) <= 2.5
