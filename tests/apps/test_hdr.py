"""HDR results of single photographs: exposures, highlights, linear light, Ultra HDR, and the command."""

import json
import math

import gainmap_files as files
import numpy as np
import pytest

import paramisp_cli as paramisp
from paramisp_cli import color, formats
from paramisp_cli.apps import brightness, hdr
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import exif, gainmap, jpeg, provenance, radiance
from paramisp_cli.formats.gainmap.write import coded
from paramisp_cli.parameters import Settings
from paramisp_cli.types import CanonicalParams, HdrImage, LinearImage, RawImage, SrgbImage

PARAMETRIC = Settings(model="parametric")
EXIF = {
    "0th": {0x010F: b"Nikon", 0x0110: b"NIKON D90", 0x0112: 6},
    "Exif": {0x8827: 200, 0x829A: (1, 125), 0x829D: (28, 10), 0x920A: (50, 1)},
    "GPS": {1: b"N", 2: ((50, 1), (30, 1), (0, 1)), 3: b"E", 4: ((7, 1), (0, 1), (0, 1))},
}


def canonical(neutral=(0.5, 1, 0.7), cfa="RGGB"):
    matrix = np.array([[0.9, -0.3, -0.1], [-0.5, 1.3, 0.2], [-0.1, 0.2, 0.6]])
    return CanonicalParams(cfa, np.full((2, 2), 100.0), 4000.0, np.array(neutral), matrix)


def flat(codes, **more):
    """A mosaic of one value by colour."""
    c = canonical(**more)
    mosaic = np.empty((32, 32), np.uint16)
    for site, letter in enumerate(c.cfa):
        mosaic[site // 2 :: 2, site % 2 :: 2] = codes["RGB".index(letter)]
    return RawImage(mosaic, c)


def photo(size=(60, 90)):
    y, x = np.mgrid[: size[0], : size[1]]
    return (
        np.stack([40 + 150 * x / size[1], 60 + 120 * y / size[0], 200 - 120 * x / size[1]], -1).round().astype(np.uint8)
    )


# Exposures -----------------------------------------------------------------------------------------------------------


def test_an_exposure_scales_and_clips():
    raw = flat((1000, 2050, 700))
    for gain in (0.25, 1.4, 4.0):
        light = hdr.exposed(raw, gain).mosaic
        expected = np.clip(gain * (np.array([1000, 2050, 700]) - 100) / 3900, 0, 1)
        assert light.dtype == np.float32
        assert light[0, 0] == pytest.approx(expected[0])
        assert light[0, 1] == pytest.approx(expected[1])
        assert light[1, 1] == pytest.approx(expected[2])
    assert raw.mosaic[0, 0] == 1000


def test_a_darker_exposure_leaves_blown_highlights_grey():
    """Blown in all channels, the sensor's white is magenta after the gains unless it is clipped where green clips."""
    for neutral in ((0.5, 1, 0.7), (1.1, 1, 0.4)):
        raw = flat((4000, 4000, 4000), neutral=neutral)
        for of in (raw, RawImage.of_linear(np.full((32, 32, 3), 4000, np.uint16), raw.canonical)):
            dark = hdr.exposed(of, 0.1)
            balanced = np.array([dark.mosaic[0, 0], dark.mosaic[0, 1], dark.mosaic[1, 1]]) * raw.canonical.wb_gains
            assert np.ptp(balanced) < 1e-6
            picture = paramisp.render(dark, PARAMETRIC).pixels
            assert np.ptp(picture.reshape(-1, 3), axis=1).max() <= 1


def test_light_above_white_of_a_made_raw_counts():
    raw = RawImage(
        np.full((32, 32), 0.4, np.float32), canonical(neutral=(1, 1, 1)), baseline_exposure=2.0, model="parametric"
    )
    assert hdr.exposed(raw, 0.5).mosaic[0, 0] == pytest.approx(0.8)
    assert hdr.exposed(raw, 0.5).baseline_exposure == 0
    camera = RawImage(raw.mosaic, raw.canonical, baseline_exposure=2.0)  # a camera's own RAW: a wish of its maker
    assert hdr.exposed(camera, 0.5).mosaic[0, 0] == pytest.approx(0.2)


def test_one_exposure_of_gain_1_is_the_photograph():
    source = SrgbImage(photo())
    result = paramisp.hdr(source, PARAMETRIC, gains=(1.0,))
    assert np.abs(result.pixels.astype(int) - source.pixels).max() <= 2


def test_exposures_follow_their_gains():
    shown = {}
    plan = hdr.plan(SrgbImage(photo()), PARAMETRIC, hdr.Options(gains=(0.25, 1, 2)))
    hdr.run(plan, keep=lambda gain, picture: shown.update({gain: picture.pixels / 65535}))
    assert list(shown) == [0.25, 1, 2]
    assert shown[0.25].mean() < shown[1].mean() < shown[2].mean()
    # The parametric tone curve undone, the light is in proportion.
    from paramisp_cli.rendition.parametric import inverse_smoothstep

    light = {gain: color.srgb_decode(inverse_smoothstep(pixels)) for gain, pixels in shown.items()}
    inside = (light[2].max(-1) < 0.9) & (light[0.25].min(-1) > 0.002)
    assert inside.sum() > 500
    assert np.abs(light[0.25][inside] * 4 / light[1][inside] - 1).max() < 0.05
    assert np.abs(light[2][inside] / 2 / light[1][inside] - 1).max() < 0.05


def test_fusion_lifts_shadows_and_keeps_highlights():
    dark = (photo().astype(np.float32) ** 2 / 255 * 0.3).astype(np.uint8)
    dark[:, 60:] = photo()[:, 60:]
    result = paramisp.hdr(SrgbImage(dark), PARAMETRIC).pixels
    assert result[:, :50].mean() > 1.5 * dark[:, :50].mean()
    assert result[:, 65:].max() < 255


@pytest.mark.slow
def test_a_kept_raw_and_linear_settings(tmp_path):
    with pytest.raises(ConfigError, match="`linear` is no setting of hdr"):
        paramisp.hdr(SrgbImage(photo()), Settings(linear=True))
    with pytest.raises(ConfigError, match="`stop_at` is no setting of hdr"):
        paramisp.hdr(SrgbImage(photo()), Settings(stop_at="restored"))
    raw = paramisp.unprocess(SrgbImage(photo()), PARAMETRIC)
    formats.write(SrgbImage(photo()), tmp_path / "a.jpg", formats.WriteOptions(keep_raw="lossless"), raw=raw)
    plan = hdr.plan(formats.read(tmp_path / "a.jpg"), Settings(), hdr.Options(gains=(1.0,)))
    assert plan.conversion.architecture == "kept-raw"
    assert hdr.run(plan).size == (60, 90)


# Light ---------------------------------------------------------------------------------------------------------------


def test_linear_light_of_a_photograph_has_its_brightness():
    source = SrgbImage(photo())
    result = paramisp.hdr(source, PARAMETRIC, kind="linear")
    assert isinstance(result, LinearImage)
    luma = np.array([0.2126, 0.7152, 0.0722])
    own, shown = result.pixels @ luma, color.srgb_decode(source.pixels / 255) @ luma
    middle = (shown > 0.1) & (shown < 0.4)
    assert np.median(own[middle] / shown[middle]) == pytest.approx(1, abs=0.02)


def test_a_raw_gives_its_highlights():
    """Light four times as bright as the photograph's middle, below the sensor's clip, is there in proportion."""
    raw = flat((700, 1300, 940), neutral=(0.5, 1, 0.7))
    mosaic = raw.mosaic.copy()
    mosaic[:, 16:] = (mosaic[:, 16:].astype(int) - 100) * 3 + 100
    raw = RawImage(mosaic, raw.canonical)
    pixels = paramisp.hdr(raw, PARAMETRIC, kind="linear").pixels
    assert pixels[8, 26].mean() / pixels[8, 6].mean() == pytest.approx(3, rel=0.01)


def test_scale_and_map():
    rng = np.random.default_rng(1)
    scene = 2.0 ** rng.uniform(-4, 2, (10, 15)).repeat(40, 0).repeat(40, 1)[..., None] * np.ones(3)
    shown = np.where(scene < 0.4, scene, 1 - 0.6 * np.exp(-(scene - 0.4)))  # a shoulder
    codes8 = np.rint(255 * color.srgb_encode(shown)).astype(np.uint8)
    light = (scene * 0.37).astype(np.float32)
    scale = brightness.scale_between(light, codes8)
    assert scale == pytest.approx(1 / 0.37, rel=0.02)
    codes, stops = brightness.gain_map(light, codes8, scale)
    assert codes.shape == (200, 300)
    assert 1.5 < stops <= 3
    gain = stops * codes[10::20, 10::20] / 255
    truth = np.log2((scene[20::40, 20::40, 0] + 1 / 64) / (shown[20::40, 20::40, 0] + 1 / 64))
    bright = shown[20::40, 20::40, 0] > 0.6
    assert np.abs(gain - truth)[bright].mean() < 0.15
    assert gain[shown[20::40, 20::40, 0] < 0.15].max() < 0.15  # the shadows stay as they are
    assert brightness.gain_map(codes8 / np.float32(255) * 0, codes8, 1.0)[1] == 0
    below = light.copy()
    below[:20, :20] = -0.5  # a colour outside sRGB
    assert brightness.gain_map(below, codes8, scale)[1] == pytest.approx(stops, abs=0.05)


def test_ultra_hdr_of_a_photograph(tmp_path, make_jpeg, monkeypatch):
    """A RAW with light above white: the gain map leads there. The base stays, orientation and EXIF too."""
    path = make_jpeg(tmp_path / "a.jpg", photo((96, 128)), exif=EXIF)
    real = brightness.scale_between
    monkeypatch.setattr(hdr.brightness, "scale_between", lambda *both: 3 * real(*both))
    result = paramisp.hdr(path, PARAMETRIC, kind="ultra-hdr")
    assert isinstance(result, HdrImage)
    paramisp.write(result, tmp_path / "b.jpg")
    data, original = (tmp_path / "b.jpg").read_bytes(), path.read_bytes()
    assert coded(data) == coded(original)
    assert jpeg.exif_block(data) == jpeg.exif_block(original)
    assert gainmap.find(data, 10**6).pixels.shape == (48, 64)
    assert provenance.is_hdr(jpeg.xmp_packet(data))
    assert formats.is_own(tmp_path / "b.jpg")
    assert not formats.is_own(path)
    path.write_bytes(original + bytes(1000))
    assert any(
        "1000 bytes behind the picture" in note for note in paramisp.hdr(path, PARAMETRIC, kind="ultra-hdr").notes
    )


def test_ultra_hdr_refuses_nothing_and_too_much(tmp_path, make_jpeg):
    path = make_jpeg(tmp_path / "a.jpg", photo(), exif=EXIF)
    with pytest.raises(FormatError, match="no light above the photograph's white"):
        paramisp.hdr(path, PARAMETRIC, kind="ultra-hdr")
    (tmp_path / "b.jpg").write_bytes(files.ultra_hdr(photo(), photo()[..., 0], {"GainMapMax": 2, "HDRCapacityMax": 2}))
    with pytest.raises(FormatError, match="has a gain map already"):
        paramisp.hdr(tmp_path / "b.jpg", PARAMETRIC, kind="ultra-hdr")


@pytest.mark.slow
def test_the_maps_of_phones_give_highlights(tmp_path):
    """The light of a gain map shows in a dark exposure, where the picture alone is flat."""
    white = np.full((64, 64, 3), 255, np.uint8)
    codes = np.zeros((64, 64), np.uint8)
    codes[:, 32:] = 255
    (tmp_path / "a.jpg").write_bytes(files.ultra_hdr(white, codes, {"GainMapMax": 2, "HDRCapacityMax": 2}))
    spread = {}
    for gain_map in ("auto", "off"):
        plan = hdr.plan(
            formats.read(tmp_path / "a.jpg"), Settings(model="parametric", gain_map=gain_map), hdr.Options(gains=(0.1,))
        )
        hdr.run(plan, keep=lambda gain, picture, name=gain_map: spread.update({name: np.ptp(picture.pixels)}))
    assert spread["off"] < 1500
    assert spread["auto"] > 10000


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gains": ()}, "1 to 16 numbers, got 0"),
        ({"gains": (1,) * 17}, "got 17"),
        ({"gains": (0,)}, "got 0"),
        ({"gains": (math.nan,)}, "got nan"),
        ({"gains": (1, 5000)}, "got 5000"),
        ({"fusion": (1, 1)}, "three exponents"),
        ({"kind": "pq"}, "`kind` must be one of fused, linear, ultra-hdr, got 'pq'"),
    ],
)
def test_wrong_options(options, text):
    with pytest.raises(ConfigError, match=text):
        paramisp.hdr(SrgbImage(photo()), **options)


def test_white_stays_lighter_than_grey():
    """With the four gains of the paper alone, the card of code 235 comes out darker than that of code 170."""
    cards = np.full((96, 160, 3), 30.0)
    for place, code in enumerate((60, 110, 170, 235)):
        cards[16:80, 40 * place + 4 : 40 * place + 36] = code + np.array([8, 0, -12])
    noisy = np.random.default_rng(0).normal(cards, 2).clip(0, 255)  # flat grey has no contrast: all weights are equal
    for gains in (hdr.GAINS, (0.1, 1.4, 2.7, 4.0)):
        pixels = paramisp.hdr(SrgbImage(noisy.astype(np.uint8)), PARAMETRIC, gains=gains).pixels
        shown = [float(pixels[32:64, 40 * place + 12 : 40 * place + 28].mean()) for place in range(4)]
        assert (shown == sorted(shown)) == (gains == hdr.GAINS), shown


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shot(tmp_path, make_jpeg):
    return make_jpeg(tmp_path / "photo.jpg", photo(), exif=EXIF)


@pytest.mark.slow
def test_command(shot, paramisp, tmp_path):
    code, out, err = paramisp("hdr", shot, "--model", "parametric", "--keep-exposures", tmp_path / "kept")
    assert (code, out, err) == (0, [str(tmp_path / "photo-hdr.jpg")], [])
    result = formats.read(tmp_path / "photo-hdr.jpg")
    assert result.size == (90, 60)  # turned once
    assert result.orientation == 1
    assert result.camera.model == "NIKON D90"
    assert exif.parse(result.metadata.exif).gps
    assert b"computed" in result.metadata.xmp
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "photo-ev+0.5.jpg", "photo-ev+1.4.jpg", "photo-ev+2.0.jpg", "photo-ev-1.3.jpg", "photo-ev-3.3.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "name", "kind"),
    [
        (("--format", "png"), "photo-hdr.png", np.uint8),
        (("--format", "png", "--bits", "16"), "photo-hdr.png", np.uint16),
        (("--format", "tif"), "photo-hdr.tif", np.uint16),
        (("--linear",), "photo-hdr.tif", np.float32),
        (("--format", "hdr"), "photo-hdr.hdr", None),
        (("--linear", "--format", "hdr"), "photo-hdr.hdr", None),
    ],
)
@pytest.mark.slow
def test_kinds_of_outputs(shot, paramisp, tmp_path, words, name, kind):
    code, out, err = paramisp("hdr", shot, "--model", "parametric", *words)
    assert (code, out) == (0, [str(tmp_path / name)]), err
    if kind is None:
        assert radiance.read(tmp_path / name).shape == (90, 60, 3)
    elif kind is np.float32:
        import tifffile

        assert tifffile.imread(tmp_path / name).dtype == np.float32
    else:
        assert formats.read(tmp_path / name).pixels.dtype == kind


@pytest.mark.slow
def test_folders(shot, paramisp, tmp_path):
    words = ("hdr", tmp_path, "--model", "parametric", "--json")
    code, out, err = paramisp(*words)
    assert (code, len(out)) == (0, 1), err
    record = json.loads(out[0])
    assert record["status"] == "done"
    assert record["model"] == "parametric"
    code, out, _ = paramisp(*words, "--on-exists", "skip")
    assert (code, [json.loads(line)["status"] for line in out]) == (0, ["skipped"])  # its own output is no input
    assert paramisp(*words, "--on-exists", "overwrite")[0] == 0


@pytest.mark.slow
def test_a_bad_file_does_not_stop_the_others(shot, paramisp, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    code, out, err = paramisp("hdr", tmp_path, "--model", "parametric", "-o", tmp_path / "out")
    assert code == 1
    assert out == [str(tmp_path / "out" / "photo-hdr.jpg")]
    assert err[-2:] == ["1 done, 0 skipped, 1 failed", f"failed: {tmp_path / 'bad.jpg'}"]


def test_dry_run_writes_nothing(shot, paramisp, tmp_path):
    assert paramisp("hdr", shot, "--dry-run", "-o", tmp_path / "new" / "a.jpg")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--gains", "1,x"), 2, "is not a list of numbers"),
        (("--gains", "1", "--ev", "0"), 2, "pass one of them"),
        (("--ev", "20"), 2, "--ev takes values from -10 to 10, got 20"),
        (("--fusion", "1,2"), 2, "--fusion takes three exponents"),
        (("--linear", "-o", "a.png"), 2, "cannot hold them"),
        (("--ultra-hdr", "-o", "a.tif"), 2, "--ultra-hdr writes a JPEG, not .tif"),
        (("--ultra-hdr", "--linear"), 2, "leave out --linear"),
        (("--ultra-hdr", "--gains", "1"), 2, "--gains: is for fused exposures; leave out --ultra-hdr"),
        (("-o", "a.hdr", "--keep-exposures", "b"), 2, "--keep-exposures: is for fused exposures"),
        (("--bits", "12",), 2, "--bits 12"),
        (("--bits", "16"), 2, "a JPEG has 8 bits"),
        (("-o", "-"), 2, "-o -: hdr writes to files"),
        (("--stop-at", "restored"), 2, "no such option"),
        (("--ultra-hdr", "--model", "parametric"), 7, "no light above"),
        (("-o", "photo.jpg"), 6, "is the input itself"),
    ],
)  # fmt: skip
def test_one_clear_line(shot, paramisp, tmp_path, monkeypatch, words, code, text):
    monkeypatch.chdir(tmp_path)
    got, out, err = paramisp("hdr", "photo.jpg", *words)
    assert (got, out, len(err)) == (code, [], 1), err
    assert text in err[0]
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_no_input(paramisp, tmp_path):
    code, _, err = paramisp("hdr", tmp_path / "a.jpg")
    assert (code, len(err)) == (5, 1)


@pytest.mark.slow
def test_real_photographs(shared, tmp_path, paramisp):
    """A camera without weights of its own: generic ones undo a tone curve, and find light above white."""
    source = shared / "jpegs" / "Canon_PowerShot_G6_IMG_0002.JPG"
    code, out, err = paramisp("hdr", source, "--ultra-hdr", "-o", tmp_path / "a.jpg")
    assert (code, out) == (0, [str(tmp_path / "a.jpg")]), err
    assert any("headroom" in line and "not new highlights" in line for line in err)
    assert coded((tmp_path / "a.jpg").read_bytes()) == coded(source.read_bytes())
