"""Every real RAW file there is, carried by its JPEG without loss and below the noise, and given back."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import paramisp_cli as paramisp
from paramisp_cli import formats
from paramisp_cli.formats import WriteOptions, kept
from paramisp_cli.formats.kept import levels

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


@dataclass
class Sizes:
    """Bytes of the plain JPEG and the DNG together, and of the JPEG that carries the RAW; bits a sample of ``near``."""

    apart: int
    together: int
    near: float = 0.0


SIZES: dict[str, Sizes] = {}


@needs_raws
@pytest.mark.parametrize("path", RAWS, ids=lambda path: path.name)
def test_round_trips(path: Path, tmp_path: Path) -> None:
    raw = paramisp.read(path)
    assert isinstance(raw, paramisp.RawImage)
    picture = paramisp.render(raw)
    formats.write(picture, tmp_path / "plain.jpg")
    formats.write(raw, tmp_path / "raw.dng", WriteOptions(embed_jpeg=False))
    plain = (tmp_path / "plain.jpg").stat().st_size

    formats.write(picture, tmp_path / "lossless.jpg", WriteOptions(keep_raw="lossless"), raw=raw)
    back = paramisp.unprocess(tmp_path / "lossless.jpg")
    np.testing.assert_array_equal(back.mosaic, raw.mosaic)
    np.testing.assert_array_equal(back.canonical.color_matrix, raw.canonical.color_matrix)
    np.testing.assert_array_equal(back.canonical.as_shot_neutral, raw.canonical.as_shot_neutral)
    together = (tmp_path / "lossless.jpg").stat().st_size
    SIZES[path.name] = Sizes(plain + (tmp_path / "raw.dng").stat().st_size, together)

    formats.write(picture, tmp_path / "near.jpg", WriteOptions(keep_raw="near"), raw=raw)
    data = (tmp_path / "near.jpg").read_bytes()
    bits = 8 * (len(data) - plain) / raw.mosaic.size
    found = kept.find(data)
    assert found is not None
    # Where the noise is less than a raw unit, samples must stay exact, and no error below the noise saves bits.
    assert bits <= 2.5 or found.share == 1
    SIZES[path.name] = replace(SIZES[path.name], near=bits)
    back = kept.restore(data)
    for site, sigma in enumerate(levels.bounds(raw.canonical, levels.noise(raw)[0], 1.0)):
        true, other = (image.mosaic[site // 2 :: 2, site % 2 :: 2].astype(np.int64) for image in (raw, back))
        assert (np.abs(true - other) < sigma[true]).all()


@needs_raws
def test_means() -> None:
    """Runs after the round trips: three quarters of JPEG and DNG together, and 2.5 bits of ``near``, on the mean."""
    if not SIZES:
        pytest.skip("the round trips were not run")
    ratios = [sizes.together / sizes.apart for sizes in SIZES.values()]
    assert float(np.mean(ratios)) <= 0.75
    assert max(ratios) < 0.95
    assert float(np.mean([sizes.near for sizes in SIZES.values()])) <= 2.5
