"""``render --look camera`` and ``unprocess --like``: the look of the JPEG inside a RAW, through command and library."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_camera_look import photographed, scene

import paramisp_cli as paramisp
from paramisp_cli import convert, formats, parameters, weights
from paramisp_cli.directions import Direction
from paramisp_cli.formats import raster
from paramisp_cli.rendition import form, prior
from paramisp_cli.rendition.develop import develop, expose
from paramisp_cli.types import Camera, Metadata, RawImage

pytestmark = pytest.mark.slow

CAMERA = Camera("Canon", "Canon EOS 60D")


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((one.astype(float) / 255 - other.astype(float) / 255) ** 2)))


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "places", lambda: [("a test", tmp_path / "no weights")])


@pytest.fixture(scope="module")
def shot() -> tuple[RawImage, np.ndarray]:
    """A RAW as from a camera, and its preview's pixels at full size."""
    raw, shown = photographed(scene(400, 560), factor=1)
    return replace(raw, camera=CAMERA), shown


def test_a_raw_with_a_preview_takes_its_look(shot: tuple[RawImage, np.ndarray]) -> None:
    raw, shown = shot
    conversion = parameters.complete(raw)
    assert conversion.architecture == parameters.CAMERA_LOOK
    assert conversion.origin["model"] == "the JPEG inside the file"
    picture = paramisp.render(raw)
    assert psnr(picture.pixels, shown) > 32
    assert psnr(paramisp.render(raw, paramisp.Settings(look="neutral")).pixels, shown) < 25
    for chosen in ({"look": "neutral"}, {"model": "parametric"}):
        assert parameters.complete(raw, paramisp.Settings(**chosen)).architecture == "parametric"
    fine, exact = (paramisp.render(raw, paramisp.Settings(bit_depth=bits)).pixels for bits in (16, 32))
    assert (fine.dtype, exact.dtype) == (np.uint16, np.float32)
    assert np.abs(fine / 65535 - exact).max() < 1e-5
    assert np.abs(picture.pixels / 255 - exact).max() < 0.51 / 255
    brighter = paramisp.render(raw, paramisp.Settings(exposure=1)).pixels
    assert brighter.mean() > 1.15 * picture.pixels.mean()


def test_a_foreign_preview_is_told_and_left(shot: tuple[RawImage, np.ndarray]) -> None:
    raw, _ = shot
    other = photographed(scene(400, 560, seed=5), factor=1)[1]
    wrong = replace(raw, metadata=Metadata(jpeg=raster.encode_jpeg(other, 95, False)))
    picture = paramisp.render(wrong)
    assert any("does not look like the RAW" in note for note in picture.notes)
    bare = replace(raw, metadata=Metadata())
    assert not any("JPEG inside" in note for note in paramisp.render(bare).notes)
    assert any("no JPEG inside" in note for note in paramisp.render(bare, paramisp.Settings(look="camera")).notes)


def test_unprocess_like_inverts_the_look(shot: tuple[RawImage, np.ndarray], tmp_path: Path) -> None:
    """The picture of the RAW itself comes back to its mosaic; another scene comes nearer than by a formula."""
    raw, own = shot
    formats.write(raw, tmp_path / "like.dng")
    truth, shown = photographed(scene(300, 420, seed=2), factor=1)
    wish = paramisp.Settings(like=tmp_path / "like.dng", look="camera")
    got = paramisp.unprocess(shown, wish, camera=CAMERA)
    plain = paramisp.unprocess(shown, replace(wish, look=None, model="parametric"), camera=CAMERA)
    black, white = truth.canonical.black_level[0, 0], truth.canonical.white_level

    def decibels(made: RawImage, true: RawImage) -> float:
        off = made.mosaic.astype(float) - true.mosaic
        return float(-20 * np.log10(np.sqrt(np.mean(off**2)) / (white - black)))

    assert got.canonical.cfa == truth.canonical.cfa
    assert decibels(paramisp.unprocess(own, wish, camera=CAMERA), raw) > 29
    assert decibels(got, truth) > decibels(plain, truth) + 3
    assert got.model == parameters.CAMERA_LOOK
    exact = paramisp.unprocess(shown, replace(wish, bit_depth=32), camera=CAMERA)
    assert np.abs(exact.mosaic * (white - black) + black - got.mosaic).max() <= 0.51


def test_odd_pictures_and_threads(shot: tuple[RawImage, np.ndarray]) -> None:
    """Padding repeats the picture's border, and the number of threads changes nothing."""
    raw, shown = shot
    rendition = convert.prepare(raw, parameters.complete(raw), paramisp.Settings()).rendition
    assert rendition is not None
    assert np.array_equal(develop(raw, rendition, threads=1), develop(raw, rendition, threads=3))
    inverse = form.Rendition(Direction.UNPROCESS, rendition.matrix, prior.vague(Direction.UNPROCESS).mean)
    odd = shown[:41, :53]
    padded = expose(odd, inverse, raw.canonical, (44, 54), threads=2)
    assert np.array_equal(padded[:40, :52], expose(odd[:40, :52], inverse, raw.canonical, (40, 52)))


def test_the_command_needs_no_torch(shot: tuple[RawImage, np.ndarray], tmp_path: Path) -> None:
    raw, shown = shot
    formats.write(raw, tmp_path / "shot.dng")
    script = (
        "import sys\nfrom paramisp_cli.cli import app\n"
        f"sys.argv = ['paramisp', 'render', {str(tmp_path / 'shot.dng')!r}, '--look', 'camera', '--json']\n"
        "try:\n    app.main()\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    record = json.loads(done.stdout)
    assert record["model"] == "camera-look"
    with Image.open(tmp_path / "shot.jpg") as picture:
        assert psnr(np.asarray(picture), shown) > 32
