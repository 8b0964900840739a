"""Highlights of a gain map in the RAW: their light, the picture's brightness, and files that lie."""

import json

import gainmap_files as files
import numpy as np
import pytest

import paramisp_cli as paramisp
from paramisp_cli import color, look, mosaic
from paramisp_cli.formats import libraw, raster

HEADROOM = 3


def scene(height=96, width=128):
    """(height, width, 3) linear light up to 8 times white, equal in each 2×2, with hues, dark on the left."""
    y, x = np.mgrid[:height, :width] // 2 * 2
    light = 0.02 * 2 ** (8.64 * x / x.max())
    return np.stack([light, light * (0.8 + 0.2 * y / height), light * 0.8], -1)


def phone(light, shoulder=False):
    """A JPEG with a gain map at half size of a scene; ``shoulder``: the picture compresses what it cannot hold."""
    shown = light / (1 + light) * 9 / 8 if shoulder else np.clip(light, 0, 1)
    picture = np.rint(color.srgb_encode(np.clip(shown, 0, 1)) * 255).astype(np.uint8)
    decoded = color.srgb_decode(picture / 255)
    stops = np.log2((light.max(-1) + 1 / 64) / (decoded.max(-1) + 1 / 64))
    small = stops.reshape(len(stops) // 2, 2, -1, 2).mean((1, 3))
    codes = np.rint(np.clip(small / HEADROOM, 0, 1) * 255).astype(np.uint8)
    return files.ultra_hdr(picture, codes, {"GainMapMax": HEADROOM, "HDRCapacityMax": HEADROOM})


@pytest.fixture
def make_phone(tmp_path):
    def make(light=None, name="phone.jpg", **how):
        path = tmp_path / name
        path.write_bytes(phone(scene() if light is None else light, **how))
        return path

    return make


def settings(gain_map="auto", **more):
    if gain_map != "linear":
        more.setdefault("model", "parametric")
    return paramisp.Settings(gain_map=gain_map, camera="Canon EOS 60D", **more)


def developed(path):
    """A DNG's linear sRGB of its 2×2 sites through LibRaw, times 2^BaselineExposure, and the DNG."""
    raw = libraw.read(path, 10**8)
    planes = mosaic.linear_sites(raw.mosaic, raw.canonical.black_level, raw.canonical.white_level)
    camera = mosaic.superpixels(planes, raw.canonical.cfa) * raw.canonical.wb_gains
    return camera @ raw.canonical.cam_to_srgb().T * 2**raw.baseline_exposure, raw


@pytest.mark.parametrize("shoulder", [False, True])
@pytest.mark.parametrize("gain_map", ["auto", "linear"])
def test_light_above_white_is_the_scenes(make_phone, tmp_path, gain_map, shoulder):
    light = scene()
    raw = paramisp.unprocess(make_phone(shoulder=shoulder), settings(gain_map))
    paramisp.write(raw, tmp_path / "phone.dng")
    got, read = developed(tmp_path / "phone.dng")
    assert read.baseline_exposure == pytest.approx(HEADROOM, abs=0.1)
    truth = light.reshape(48, 2, 64, 2, 3).mean((1, 3))
    bright = (truth.max(-1) > 1) & (truth.max(-1) < 7.5)
    assert bright.mean() > 0.2
    error = np.log2(got[bright].max(-1) / truth[bright].max(-1))  # one channel brings no clipped colour back
    assert np.median(np.abs(error)) < 0.05
    assert np.percentile(np.abs(error), 95) < 0.15
    assert "sensor data" in " ".join(raw.notes)


@pytest.mark.parametrize("shoulder", [False, True])
@pytest.mark.parametrize("gain_map", ["auto", "linear"])
def test_readers_show_the_photo(make_phone, gain_map, shoulder):
    path = make_phone(shoulder=shoulder)
    raw = paramisp.unprocess(path, settings(gain_map))
    linear = look.linear_srgb(raw) * 2 ** (raw.baseline_exposure + raw.profile_exposure)
    shown = color.srgb_encode(look.toned(np.clip(linear, 0, 1), raw.tone_curve, raw.look_table))
    photo = paramisp.read(path).pixels.reshape(48, 2, 64, 2, 3).mean((1, 3)) / 255
    assert np.median(np.abs(shown - photo)) < 2 / 255
    assert np.percentile(np.abs(shown - photo), 95) < 8 / 255
    assert (raw.profile_exposure < -1) == shoulder  # the curve must reach beyond the picture's white


def test_grey_highlights_stay_grey(make_phone):
    """A mosaic of white, full to the brim in every channel, must not turn magenta when it is scaled down."""
    bars = 0.02 * 2 ** (8.64 * (np.arange(128) // 16) / 7)
    raw = paramisp.unprocess(make_phone(np.tile(bars[None, :, None], (96, 1, 3))), settings())
    linear = look.linear_srgb(raw)[:, 4::8] * 2**raw.baseline_exposure  # the middles of the bars
    assert (np.ptp(linear, axis=-1) / linear.max(-1))[linear.max(-1) > 0.1].max() < 0.02
    assert linear[:, -3:].mean((0, 2)) == pytest.approx(bars[4::16][-3:], rel=0.03)


def test_shadows_are_the_models(make_phone):
    path = make_phone()
    plain, bright = (paramisp.unprocess(path, settings(gain_map, bit_depth=32)) for gain_map in ("off", "auto"))
    dark = scene().max(-1) < 0.4
    with_map = bright.mosaic * 2**bright.baseline_exposure
    assert with_map[dark] == pytest.approx(plain.mosaic[dark], rel=0.02, abs=1e-4)
    assert plain.baseline_exposure == 0
    assert bright.canonical.white_level == 65535


def test_levels_that_the_user_sets_stay(make_phone):
    path = make_phone()
    floats, codes = (paramisp.unprocess(path, settings(levels=(64, 4095), bit_depth=bits)) for bits in (32, 8))
    assert codes.canonical.white_level == 4095
    assert (codes.canonical.black_level == 64).all()
    assert codes.origin["white_level"] == "flag"
    assert codes.mosaic.max() <= 4095
    assert np.abs(codes.mosaic - (64 + floats.mosaic * (4095 - 64))).max() <= 0.51


def test_exposure_adds_to_the_headroom(make_phone):
    one = paramisp.unprocess(make_phone(), settings(bit_depth=32))
    other = paramisp.unprocess(make_phone(), settings(bit_depth=32, exposure=1))
    assert other.baseline_exposure == pytest.approx(one.baseline_exposure + 1)
    assert other.mosaic == pytest.approx(one.mosaic / 2, rel=1e-3, abs=1e-5)
    assert other.profile_exposure == pytest.approx(one.profile_exposure, abs=1e-6)


@pytest.mark.parametrize("size", [(97, 131), (9, 11)])
def test_odd_and_small_pictures(tmp_path, size):
    light = scene(*size)
    picture = np.rint(color.srgb_encode(np.clip(light, 0, 1)) * 255).astype(np.uint8)
    codes = np.rint(np.clip(np.log2(np.maximum(light.max(-1), 1)) / 3, 0, 1) * 255).astype(np.uint8)[::2, ::2]
    path = tmp_path / "odd.jpg"
    path.write_bytes(
        files.ultra_hdr(picture, codes, {"GainMapMax": 3, "HDRCapacityMax": 3, "OffsetSDR": 0, "OffsetHDR": 0})
    )
    raw = paramisp.unprocess(path, settings("linear"))
    assert raw.size == size
    paramisp.write(raw, tmp_path / "odd.dng")
    assert raw.baseline_exposure == pytest.approx(3, abs=0.15)


def test_a_map_without_headroom_changes_nothing(tmp_path):
    picture = np.rint(color.srgb_encode(np.clip(scene(), 0, 1)) * 255).astype(np.uint8)
    codes = np.full((48, 64), 255, np.uint8)
    path = tmp_path / "flat.jpg"
    path.write_bytes(files.ultra_hdr(picture, codes, {"GainMapMax": 0, "HDRCapacityMax": 0}))
    raw, off = (paramisp.unprocess(path, settings(gain_map)) for gain_map in ("auto", "off"))
    assert (raw.mosaic == off.mosaic).all()
    assert raw.baseline_exposure == 0
    linear = paramisp.unprocess(path, settings("linear"))
    assert linear.baseline_exposure == 0
    assert linear.model == "gain-map"


@pytest.mark.slow
def test_a_network_renders_it_at_the_photos_brightness(make_phone, tmp_path):
    """Rendering the DNG with the weights gives about the picture, not one darker by the headroom."""
    path = make_phone(np.minimum(scene(), 4) / 2)
    shown = []
    for gain_map in ("off", "auto"):
        raw = paramisp.unprocess(path, settings(gain_map, model="fast"))
        target = tmp_path / f"{gain_map}.dng"
        paramisp.write(raw, target)
        shown.append(paramisp.render(target, paramisp.Settings(model="fast")).pixels.astype(float))
    assert abs(shown[1].mean() - shown[0].mean()) < 8


BROKEN = {"GainMapMax": "nan", "HDRCapacityMax": 3}


def test_a_broken_map_costs_a_notice(paramisp, tmp_path):
    picture = np.rint(color.srgb_encode(np.clip(scene(), 0, 1)) * 255).astype(np.uint8)
    path = tmp_path / "broken.jpg"
    path.write_bytes(files.ultra_hdr(picture, np.zeros((48, 64), np.uint8), BROKEN))
    code, _, err = paramisp("unprocess", path, "--model", "parametric")
    assert code == 0
    assert [
        line for line in err if "gain map cannot be used: its greatest gain is nan" in line and "left it out" in line
    ]
    code, _, err = paramisp("unprocess", path, "--model", "parametric", "--gain-map", "off", "-o", tmp_path / "off.dng")
    assert code == 0
    assert not any("gain map" in line for line in err)
    assert (libraw.read(tmp_path / "off.dng", 10**8).mosaic == libraw.read(tmp_path / "broken.dng", 10**8).mosaic).all()
    code, _, err = paramisp("unprocess", path, "--gain-map", "linear", "-o", tmp_path / "linear.dng")
    assert code == 7
    assert len(err) == 1
    assert "gain map cannot be used: its greatest gain is nan" in err[0]
    assert not (tmp_path / "linear.dng").exists()


def test_linear_needs_a_map_and_no_model(paramisp, make_jpeg, make_phone, tmp_path):
    code, _, err = paramisp("unprocess", make_jpeg(tmp_path / "plain.jpg"), "--gain-map", "linear")
    assert (code, len(err)) == (7, 1)
    assert "has no gain map, which --gain-map linear needs" in err[0]
    code, _, err = paramisp("unprocess", make_phone(), "--gain-map", "linear", "--model", "fast")
    assert code == 2
    assert "leave out --model" in err[0]


def test_inspect_shows_the_map(paramisp, make_phone, make_jpeg, tmp_path):
    code, out, _ = paramisp("inspect", make_phone())
    assert code == 0
    assert any(line.split(None, 1) == ["gain_map", "Ultra HDR (XMP), 64 × 48, 1 channel, 3 EV"] for line in out)
    code, out, _ = paramisp("inspect", "--json", make_phone(), make_jpeg(tmp_path / "plain.jpg"))
    assert [json.loads(line)["gain_map"] for line in out] == ["Ultra HDR (XMP), 64 × 48, 1 channel, 3 EV", None]


@pytest.mark.slow
def test_a_real_photo(shared, tmp_path):
    """An iPhone's photo: highlights about one stop above white, and the photo itself, map included, in the DNG."""
    path = shared / "jpegs" / "Apple_iPhone_13_Pro_IMG_8568.JPG"
    raw = paramisp.unprocess(path, paramisp.Settings(gain_map="linear"))
    assert raw.baseline_exposure == pytest.approx(1.11, abs=0.05)
    paramisp.write(raw, tmp_path / "photo.dng")
    assert path.read_bytes() in (tmp_path / "photo.dng").read_bytes()
    linear = look.linear_srgb(raw) * 2 ** (raw.baseline_exposure + raw.profile_exposure)
    shown = color.srgb_encode(look.toned(np.clip(linear, 0, 1), raw.tone_curve, raw.look_table)).mean()
    photo = raster.read(path).pixels[::4, ::4].mean() / 65535
    assert shown == pytest.approx(photo, abs=0.02)
