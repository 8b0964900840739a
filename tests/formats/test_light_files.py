"""Linear pictures as Radiance .hdr and OpenEXR, read by independent readers where there are any."""

import sys

import numpy as np
import pytest

from paramisp_cli import formats
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import exr, radiance
from paramisp_cli.types import Camera, LinearImage, Metadata, OpticalParams, SrgbImage


def light(height=21, width=40):
    """Light over 30 EV, a black pixel, a colour below 0, and long runs of one value."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([2.0 ** (x / 2 - 10), 2.0 ** (y - 8) * (1 + x % 3), np.full(x.shape, 0.3)], -1).astype(np.float32)
    pixels[3:9] = 0.25
    pixels[0, 0] = 0
    pixels[0, 1, 0] = -0.5
    return pixels


@pytest.mark.parametrize("width", [5, 8, 40, 700])
def test_radiance(tmp_path, width):
    pixels = light(width=width) if width < 100 else np.tile(light(), (1, 20, 1))[:, :width]
    path = tmp_path / "a.hdr"
    formats.write(LinearImage(pixels), path)
    back = radiance.read(path)
    tolerance = pixels.max(-1, keepdims=True) / 256  # half a step of the brightest channel's mantissa
    assert (np.abs(back - np.clip(pixels, 0, None)) <= tolerance + 1e-30).all()
    assert (back[0, 0] == 0).all()


def test_radiance_by_another_reader(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    formats.write(LinearImage(light()), tmp_path / "a.hdr")
    decoded = imagecodecs.rgbe_decode((tmp_path / "a.hdr").read_bytes())
    own = radiance.read(tmp_path / "a.hdr")
    # That reader adds half a step to each mantissa.
    assert np.allclose(decoded, own, atol=light().max(-1, keepdims=True) / 128)
    assert decoded.shape == own.shape


def test_radiance_packs_runs(tmp_path):
    formats.write(LinearImage(np.full((20, 1000, 3), 0.5, np.float32)), tmp_path / "a.hdr")
    assert (tmp_path / "a.hdr").stat().st_size < 3000


def test_mantissas_do_not_overflow():
    top = np.nextafter(np.float32(1), np.float32(0))
    for value in (top, 1.0, 255.4 / 256, 255.6 / 256, 1e-38, 1e37):
        pixels = np.full((1, 1, 3), value, np.float32)
        assert radiance.decoded(radiance.encoded(pixels)).max() == pytest.approx(value, rel=1 / 256, abs=1e-32)


def test_exr(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    image = LinearImage(
        light(), Camera("Nikon", "D90"), OpticalParams(iso=200, f_number=2.8), Metadata(xmp=b"<x>\xc3\xa9</x>")
    )
    formats.write(image, tmp_path / "a.exr")
    with openexr.File(str(tmp_path / "a.exr"), separate_channels=True) as file:
        header = file.header()
        assert header["xmp"] == "<x>é</x>"
        assert header["isoSpeed"] == 200
        for number, name in enumerate("RGB"):
            pixels = file.channels()[name].pixels
            assert pixels.dtype == np.float32
            assert np.array_equal(pixels, image.pixels[..., number])


def test_exr_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"a\.exr: OpenEXR needs the package openexr: .*paramisp\[exr\]"):
        formats.write(LinearImage(light()), tmp_path / "a.exr")
    with pytest.raises(ConfigError, match="openexr"):
        exr.check()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".exr", ".hdr"])
def test_display_pictures_are_refused(tmp_path, suffix):
    with pytest.raises(FormatError, match="an sRGB picture is written as"):
        formats.write(SrgbImage(np.zeros((4, 4, 3), np.uint8)), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())
