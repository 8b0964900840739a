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
from paramisp_cli.types import Crop, RawImage, SrgbImage

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


LOSSLESS, NEAR = 512, 1024
"""Sides of the middle of each RAW that is carried: whole files take minutes (tests/bench/bench_kept_raw.py)."""


@pytest.fixture(scope="module")
def large() -> list[tuple[str, RawImage]]:
    """Name and largest middle of every RAW."""
    found = []
    for path in RAWS:
        raw = paramisp.read(path)
        assert isinstance(raw, RawImage)
        found.append((path.name, middle(raw, NEAR)))
    return found


def middle(raw: RawImage, side: int) -> RawImage:
    """Return the middle of a RAW; its corner is on the same site of the CFA."""
    top, left = (max(length - side, 0) // 4 * 2 for length in raw.mosaic.shape)
    mosaic = raw.mosaic[top : top + side, left : left + side].copy()
    return replace(raw, mosaic=mosaic, crop=Crop(0, 0, *mosaic.shape))


def shown(raw: RawImage) -> SrgbImage:
    return paramisp.render(raw, paramisp.Settings(model="parametric"))


@pytest.fixture(autouse=True)
def not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read each file once: the tests themselves compare all of it."""
    monkeypatch.delenv("PARAMISP_VERIFY")


def size_of(image: RawImage | SrgbImage, path: Path, options: WriteOptions, raw: RawImage | None = None) -> int:
    formats.write(image, path, options, raw=raw)
    return path.stat().st_size


@needs_raws
def test_lossless_is_the_same_mosaic(large: list[tuple[str, RawImage]], tmp_path: Path) -> None:
    """Bit for bit, in three quarters of JPEG and DNG together, on the mean."""
    ratios = {}
    for name, larger in large:
        raw = middle(larger, LOSSLESS)
        picture = shown(raw)
        plain = size_of(picture, tmp_path / f"{name}.plain.jpg", WriteOptions())
        dng = size_of(raw, tmp_path / f"{name}.dng", WriteOptions(embed_jpeg=False))
        carrier = tmp_path / f"{name}.jpg"
        ratios[name] = size_of(picture, carrier, WriteOptions(keep_raw="lossless"), raw) / (plain + dng)
        back = paramisp.unprocess(carrier)
        np.testing.assert_array_equal(back.mosaic, raw.mosaic, name)
        np.testing.assert_array_equal(back.canonical.color_matrix, raw.canonical.color_matrix)
        np.testing.assert_array_equal(back.canonical.as_shot_neutral, raw.canonical.as_shot_neutral)
    assert np.mean(list(ratios.values())) <= 0.75, ratios
    assert max(ratios.values()) < 0.95, ratios


@needs_raws
def test_near_is_below_the_noise(large: list[tuple[str, RawImage]], tmp_path: Path) -> None:
    """At most 2.5 bits a sample, with every error below the noise."""
    bits = {}
    for name, raw in large:
        picture = shown(raw)
        plain = size_of(picture, tmp_path / f"{name}.plain.jpg", WriteOptions())
        carrier = tmp_path / f"{name}.jpg"
        bits[name] = 8 * (size_of(picture, carrier, WriteOptions(keep_raw="near"), raw) - plain) / raw.mosaic.size
        data = carrier.read_bytes()
        found = kept.find(data)
        assert found is not None
        # Where the noise is less than a raw unit, samples must stay exact, and no error below the noise saves bits.
        assert bits[name] <= 2.5 or found.share == 1, bits
        back = kept.restore(data)
        for site, sigma in enumerate(levels.bounds(raw.canonical, levels.noise(raw)[0], 1.0)):
            true, other = (image.mosaic[site // 2 :: 2, site % 2 :: 2].astype(np.int64) for image in (raw, back))
            assert (np.abs(true - other) < sigma[true]).all(), name
    assert np.mean(list(bits.values())) <= 2.5, bits
