"""Estimated white balance: from EXIF, the camera's picture, the RAW's own pixels; and how honest its spread is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import piexif
import pytest

import paramisp_cli as paramisp
from paramisp_cli import cameras, parameters, sources, weights, white_balance
from paramisp_cli.formats import raster
from paramisp_cli.types import Camera, Metadata, OpticalParams, RawImage, SrgbImage

sys.path.insert(0, str(Path(__file__).parent / "rendition"))
from test_camera_look import photographed, scene

KNOWN = Camera("Canon", "Canon EOS 60D")
UNKNOWN = OpticalParams()
SUNNY = OpticalParams(iso=100, exposure_time=1 / 400, f_number=8)
LAMPS = OpticalParams(iso=1600, exposure_time=1 / 30, f_number=2.8)
MISSING = {"wb": "camera table (Canon EOS 60D), daylight: the file has none"}


def _exif(tags: dict) -> bytes:
    """Return an EXIF block, TIFF structure."""
    return piexif.dump(tags).removeprefix(b"Exif\0\0")


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "places", lambda: [("a test", tmp_path / "no weights")])


def picture(optical: OpticalParams = UNKNOWN, camera: Camera | None = KNOWN, **tags: int) -> SrgbImage:
    numbers = {"source": 0x9208, "flash": 0x9209, "balance": 0xA403}
    block = _exif({"Exif": {numbers[name]: value for name, value in tags.items()}}) if tags else None
    return SrgbImage(np.full((8, 8, 3), 90, np.uint8), camera, optical, metadata=Metadata(exif=block))


def of(image: SrgbImage) -> white_balance.Estimate:
    return white_balance.of_picture(image, cameras.find(image.camera), image.optical)


# --- from EXIF --------------------------------------------------------------------------------------------------------


def test_without_hints_the_light_is_daylight() -> None:
    facts = cameras.find(KNOWN)
    assert facts is not None
    for image in (picture(), picture(SUNNY), picture(LAMPS, balance=1), picture(LAMPS, flash=1)):
        np.testing.assert_array_equal(of(image).neutral, facts.daylight_neutral)
    assert (of(picture(SUNNY)).spread < of(picture()).spread).all()
    assert (of(picture(LAMPS, flash=1)).spread < of(picture(LAMPS, balance=1)).spread).all()
    unknown = of(picture(camera=None))
    np.testing.assert_array_equal(unknown.neutral, cameras.GENERIC.daylight_neutral)
    assert (unknown.spread > of(picture()).spread).all()


def test_dim_light_is_warm() -> None:
    """Lamps hold more red and less blue than daylight: the gain of red is smaller, that of blue larger."""
    sunny, dim, between = of(picture(SUNNY)), of(picture(LAMPS)), of(picture(replace(SUNNY, exposure_time=1 / 30)))
    assert dim.stops[0] < between.stops[0] < sunny.stops[0]
    assert dim.stops[1] > between.stops[1] > sunny.stops[1]
    assert (dim.spread > sunny.spread).all()
    assert "light of about" in dim.basis
    assert "EV 3.9" in dim.basis


def test_a_stated_light_source_counts() -> None:
    tungsten, shade = of(picture(SUNNY, source=3)), of(picture(LAMPS, source=11))
    assert tungsten.stops[0] < of(picture(LAMPS)).stops[0]
    assert shade.stops[0] > of(picture(SUNNY)).stops[0]
    assert "light of 2850 K (EXIF LightSource)" in tungsten.origin
    for strange in (0, 255):
        assert of(picture(SUNNY, source=strange)).stops.tolist() == of(picture(SUNNY)).stops.tolist()
    garbage = replace(picture(SUNNY), metadata=Metadata(exif=b"nonsense"))
    assert of(garbage).stops.tolist() == of(picture(SUNNY)).stops.tolist()


@pytest.mark.parametrize("mired", [110, 143, 182, 200, 225, 250, 300, 400])
def test_the_locus_is_that_of_daylight_and_black_bodies(mired: float) -> None:
    """Every camera of the table: redder light, smaller gain of red; no jump between the two loci."""
    x, y = white_balance._chromaticity(mired)
    warmer = white_balance._chromaticity(mired + 0.5)
    assert 0 < warmer[0] - x < 2e-3
    assert abs(warmer[1] - y) < 2e-3
    known = {182: (0.3324, 0.3475), 400: (0.4770, 0.4137)}  # D55, a black body of 2500 K
    if mired in known:
        assert (x, y) == pytest.approx(known[int(mired)], abs=2e-3)


def test_every_camera_has_an_estimate() -> None:
    for facts in cameras.all_cameras()[::20]:
        image = picture(LAMPS, Camera(facts.exif_make, facts.exif_model))
        estimate = white_balance.of_picture(image, facts, image.optical)
        assert np.isfinite(estimate.neutral).all()
        assert (estimate.neutral > 0).all()
        assert (estimate.spread > 0.05).all()
        assert (estimate.spread < 1).all()


def test_the_origin_has_the_spread() -> None:
    plan = parameters.complete(picture(LAMPS), paramisp.Settings(model="parametric"))
    red, blue = of(picture(LAMPS)).spread
    assert plan.origin["wb"].startswith("camera table (Canon EOS 60D), light of about ")
    assert plan.origin["wb"].endswith(f"; ± {red:.2f} stops (R), {blue:.2f} (B)")
    stated = replace(picture(LAMPS), as_shot_neutral=np.array([0.5, 1, 0.5]))
    assert parameters.complete(stated).origin["wb"] == "MakerNote, as shot"
    assert parameters.complete(picture(LAMPS), paramisp.Settings(wb=(2, 1, 2))).origin["wb"] == "flag"


# --- from pixels ------------------------------------------------------------------------------------------------------


def tinted(stops: tuple[float, float]) -> tuple[RawImage, np.ndarray]:
    """Return a RAW with its camera's preview, with gains off by these stops, and its true gains [stops]."""
    light = scene(400, 560)
    light = 0.5 * light + 0.5 * light.mean(-1, keepdims=True)  # enough colours near neutral
    raw, _ = photographed(light, factor=1)
    true = raw.canonical.wb_gains[[0, 2]]
    off = np.array([2.0 ** stops[0], 1, 2.0 ** stops[1]])
    canonical = replace(raw.canonical, as_shot_neutral=raw.canonical.as_shot_neutral * off)
    return replace(raw, canonical=canonical, camera=KNOWN, origin=MISSING), np.log2(true)


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(0, 0), (0.8, -0.7), (-0.6, 0.5)])
def test_the_preview_shows_the_gains(stops: tuple[float, float]) -> None:
    """Whatever stands in for the missing gains, the estimate is the same."""
    raw, true = tinted(stops)
    estimate = white_balance.of_raw(raw, raw.optical)
    assert estimate.basis == "the neutral colours of the camera's picture"
    assert np.abs(estimate.stops - true).max() < 0.15
    assert (estimate.spread < 0.2).all()
    plan = parameters.complete(raw)
    assert plan.origin["wb"] == estimate.origin
    np.testing.assert_array_equal(plan.canonical.as_shot_neutral, estimate.neutral)
    assert parameters.complete(raw, paramisp.Settings(wb=(2, 1, 2))).origin["wb"] == "flag"
    stated = replace(raw, origin={"wb": "the RAW file, as shot"})
    assert parameters.complete(stated).canonical == stated.canonical
    assert white_balance.balanced(stated) is stated
    assert white_balance.balanced(raw).origin["wb"] == estimate.origin


@pytest.mark.slow
def test_without_a_preview_the_pixels_count_a_little() -> None:
    """Shades of grey move the prior, within its spread; a black RAW and a preview without neutrals do no harm."""
    raw, _ = tinted((0, 0))
    bare = replace(raw, metadata=Metadata())
    prior = white_balance._prior(cameras.find(KNOWN), None, raw.optical, None)
    estimate = white_balance.of_raw(bare, raw.optical)
    assert "the RAW's own colours and camera table (Canon EOS 60D), daylight" in estimate.origin
    assert (estimate.spread < prior.spread).all()
    grey = white_balance._shades_of_grey(bare)
    assert np.abs(estimate.stops - prior.stops).max() > 0.01
    assert np.linalg.norm(estimate.stops - prior.stops) < np.linalg.norm(grey - prior.stops)
    for mosaic in (np.zeros_like(raw.mosaic), np.full_like(raw.mosaic, 4095)):
        flat = white_balance.of_raw(replace(bare, mosaic=mosaic), raw.optical)
        assert np.isfinite(flat.neutral).all()
        assert np.abs(flat.stops - prior.stops).max() < 1.5
    red = raster.encode_jpeg(np.full((400, 560, 3), (200, 20, 20), np.uint8), 90, False)
    assert "own colours" in white_balance.of_raw(replace(raw, metadata=Metadata(jpeg=red)), raw.optical).basis


# --- real files -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_spread_is_honest(real_raws: dict[str, Path]) -> None:
    """Estimates of gains that real files state, the statement left out: errors, in units of the stated spread."""
    pictures, pixels = [], []
    for path in real_raws.values():
        raw = sources.read(path)
        if not isinstance(raw, RawImage) or white_balance.is_missing(raw):
            continue
        true = white_balance._stops(raw.canonical.as_shot_neutral)
        facts = cameras.find(raw.camera)
        neutral = facts.daylight_neutral if facts else cameras.GENERIC.daylight_neutral
        unstated = replace(raw, canonical=replace(raw.canonical, as_shot_neutral=neutral))
        estimate = white_balance.of_raw(unstated, raw.optical)
        if "neutral colours" in estimate.basis:
            pictures.append((estimate.stops - true, estimate.spread))
        unstated = replace(unstated, metadata=replace(raw.metadata, jpeg=None, jpeg_beside=None))
        estimate = white_balance.of_raw(unstated, raw.optical)
        pixels.append((estimate.stops - true, estimate.spread))
    if len(pictures) < 6:
        pytest.skip("too few real RAW files")
    for found, worst in ((pictures, 0.2), (pixels, 0.5)):
        error, spread = (np.array(values) for values in zip(*found, strict=True))
        assert np.abs(error).max() < worst
        assert 0.4 < (np.abs(error) <= spread).mean() < 0.95
        assert (np.abs(error) <= 3 * spread).all()


@pytest.mark.slow
def test_a_file_without_gains(real_raws: dict[str, Path]) -> None:
    """The EOS D30's CRW states none: its picture, by lamplight, shows them."""
    if "CRW.CRW" not in real_raws:
        pytest.skip("no photograph of the EOS D30")
    raw = paramisp.read(real_raws["CRW.CRW"])
    assert isinstance(raw, RawImage)
    assert white_balance.is_missing(raw)
    plan = parameters.complete(raw)
    assert "neutral colours" in plan.origin["wb"]
    red, _, blue = plan.canonical.wb_gains
    assert red == pytest.approx(1.10, rel=0.05)
    assert blue == pytest.approx(1.92, rel=0.05)
