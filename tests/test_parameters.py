"""unprocess and render as a library: where every value comes from, and the way there and back."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import piexif
import pytest
from PIL import Image, ImageCms

import paramisp_cli as paramisp
from paramisp_cli import cameras, convert, formats, parameters, sources, weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FormatError, InputMissingError, OutputExistsError, WeightsError
from paramisp_cli.formats import raster
from paramisp_cli.types import CFA_PATTERNS, Camera, CanonicalParams, OpticalParams, RawImage, SrgbImage

PARAMETRIC = paramisp.Settings(model="parametric")
MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
KNOWN = Camera("Canon", "Canon EOS 60D")


def scene(height: int = 96, width: int = 128) -> np.ndarray:
    """A smooth picture with soft patches of many colours, none of them near clipping: (H, W, 3) uint8."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [0.45 + 0.22 * np.sin(2.1 * x + phase) * np.cos(1.7 * y + 2 * phase) for phase in (0.3, 0.7, 1.2)]
    for number, (cy, cx) in enumerate(((0.2, 0.25), (0.5, 0.7), (0.35, 0.5))):
        patch = 0.15 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 0.01)
        planes[number] = planes[number] + patch
    return np.rint(255 * np.stack(planes, -1)).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray, peak: float = 255.0) -> float:
    return float(10 * np.log10(peak**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path):
    """The choice of a model is tested with weights put there for it, not with those that happen to be installed."""
    monkeypatch.setattr(weights, "places", lambda: [("a test", tmp_path / "no weights")])
    sources._references.cache_clear()


def picture(pixels=None, camera=KNOWN, **more) -> SrgbImage:
    return SrgbImage(scene() if pixels is None else pixels, camera, **more)


@pytest.fixture
def like(tmp_path) -> Path:
    """A RAW file for --like, every value of it unlike any table's."""
    canonical = CanonicalParams("GBRG", [[100, 101], [102, 103]], 4000, (0.4, 1, 0.8), MATRIX)
    raw = RawImage(
        np.full((24, 24), 700, np.uint16), canonical, OpticalParams(320, 1 / 50, 4, 35), Camera("Like", "L1"), origin={}
    )
    formats.write(raw, tmp_path / "like.dng")
    return tmp_path / "like.dng"


# Where values come from ----------------------------------------------------------------------------------------------


def test_optical_precedence(like):
    """Flag › EXIF › --like, each value for itself."""
    own = picture(optical=OpticalParams(iso=200, f_number=8))
    plan = parameters.complete(own, replace(PARAMETRIC, like=like, iso=1600))
    assert plan.optical == OpticalParams(1600, 1 / 50, 8, 35)
    expected = {
        "iso": "flag",
        "exposure_time": "--like like.dng",
        "f_number": "EXIF",
        "focal_length": "--like like.dng",
    }
    assert {key: plan.origin[key] for key in expected} == expected
    plan = parameters.complete(own, PARAMETRIC)
    assert plan.optical == OpticalParams(200, None, 8, None)
    assert plan.origin["exposure_time"] == "unknown"


def test_canonical_precedence(like):
    """Flag › --like RAW › MakerNote › camera table › average camera."""
    facts = cameras.find(KNOWN)
    note = np.array([0.33, 1, 0.77])
    image = picture(as_shot_neutral=note)

    flags = replace(PARAMETRIC, like=like, wb=(2, 1, 4), cfa="BGGR")
    plan = parameters.complete(image, flags)
    np.testing.assert_allclose(plan.canonical.wb_gains, [2, 1, 4])
    assert plan.canonical.cfa == "BGGR"
    assert (plan.origin["wb"], plan.origin["cfa"]) == ("flag", "flag")

    plan = parameters.complete(image, replace(PARAMETRIC, like=like))
    np.testing.assert_allclose(plan.canonical.as_shot_neutral, [0.4, 1, 0.8], atol=1e-6)
    np.testing.assert_allclose(plan.canonical.color_matrix, MATRIX, atol=1e-4)
    np.testing.assert_array_equal(plan.canonical.black_level, [[100, 101], [102, 103]])
    assert (plan.canonical.cfa, plan.canonical.white_level) == ("GBRG", 4000)
    for key in ("wb", "cfa", "black_level", "white_level", "color_matrix"):
        assert plan.origin[key] == "--like like.dng"

    plan = parameters.complete(image, PARAMETRIC)
    np.testing.assert_allclose(plan.canonical.as_shot_neutral, note)
    assert plan.origin["wb"] == "MakerNote, as shot"
    np.testing.assert_array_equal(plan.canonical.color_matrix, facts.color_matrix)
    assert plan.origin["color_matrix"] == "camera table (Canon EOS 60D)"

    plan = parameters.complete(picture(), PARAMETRIC)
    np.testing.assert_array_equal(plan.canonical.as_shot_neutral, facts.daylight_neutral)
    assert plan.origin["wb"] == "camera table (Canon EOS 60D), daylight; ± 0.22 stops (R), 0.26 (B)"
    assert plan.canonical.cfa == facts.cfa
    black, white = facts.levels(None)
    assert (plan.canonical.black_level == black).all()
    assert plan.canonical.white_level == white
    assert plan.notices == ()

    for camera, named in ((Camera("Zenit", "Z9000"), "Zenit Z9000"), (None, "EXIF names no camera")):
        plan = parameters.complete(picture(camera=camera), PARAMETRIC)
        np.testing.assert_array_equal(plan.canonical.color_matrix, cameras.GENERIC.color_matrix)
        np.testing.assert_array_equal(plan.canonical.as_shot_neutral, cameras.GENERIC.daylight_neutral)
        assert all("an average camera" in plan.origin[key] for key in ("wb", "color_matrix", "black_level", "cfa"))
        assert [notice for notice in plan.notices if notice.startswith(named) and "`camera`" in notice] == [
            *plan.notices
        ]


def test_levels_follow_iso():
    """The table has other levels for some ISO values; the flag's ISO counts too."""
    facts = next(f for f in cameras.all_cameras() if len({f.levels(iso) for iso in (None, 100, 160, 320, 1250)}) > 1)
    camera = Camera(facts.exif_make, facts.exif_model)
    for iso in (100, 160, 320, 1250):
        plan = parameters.complete(picture(camera=camera), replace(PARAMETRIC, iso=iso))
        assert (plan.canonical.black_level[0, 0], plan.canonical.white_level) == facts.levels(iso)


def test_camera_precedence(like):
    """--camera › EXIF › --like."""
    plan = parameters.complete(picture(), replace(PARAMETRIC, camera="nikon d90", like=like))
    assert (plan.camera.model, plan.origin["camera"]) == ("NIKON D90", "--camera")
    plan = parameters.complete(picture(), replace(PARAMETRIC, like=like))
    assert (plan.camera, plan.origin["camera"]) == (KNOWN, "EXIF")
    plan = parameters.complete(picture(camera=None), replace(PARAMETRIC, like=like))
    assert (plan.camera, plan.origin["camera"]) == (Camera("Like", "L1"), "--like like.dng")
    plan = parameters.complete(picture(camera=None), PARAMETRIC)
    assert (plan.camera, plan.origin["camera"]) == (None, "unknown")
    plan = parameters.complete(picture(), replace(PARAMETRIC, camera="Own Make / X1"))
    assert plan.camera == Camera("Own Make", "X1")
    with pytest.raises(ConfigError, match="did you mean"):
        parameters.complete(picture(), replace(PARAMETRIC, camera="canon 60d eos"))


def test_render_precedence(like):
    """A RAW's own values, unless a flag or --like says otherwise; levels are always the file's own."""
    raw = paramisp.unprocess(picture(optical=OpticalParams(iso=100)), PARAMETRIC)
    plan = parameters.complete(raw, PARAMETRIC)
    assert plan.canonical == raw.canonical
    assert plan.optical == raw.optical
    plan = parameters.complete(raw, replace(PARAMETRIC, like=like))
    np.testing.assert_allclose(plan.canonical.as_shot_neutral, [0.4, 1, 0.8], atol=1e-6)
    assert plan.canonical.white_level == raw.canonical.white_level
    assert plan.canonical.cfa == raw.canonical.cfa
    assert plan.optical == OpticalParams(100, 1 / 50, 4, 35)
    plan = parameters.complete(raw, replace(PARAMETRIC, wb=(3, 1, 2), cfa="BGGR", iso=50))
    np.testing.assert_allclose(plan.canonical.wb_gains, [3, 1, 2])
    assert (plan.canonical.cfa, plan.optical.iso) == ("BGGR", 50)
    assert {plan.origin[key] for key in ("wb", "cfa", "iso")} == {"flag"}


def test_which_model(monkeypatch, tmp_path, no_weights):
    """The camera's checkpoint, else the generic one, else parametric; each fallback said."""
    assert parameters.complete(picture(), PARAMETRIC).notices == ()
    plan = parameters.complete(picture())
    assert (plan.architecture, plan.checkpoint) == ("parametric", None)
    assert plan.notices == ("no trained weights for Canon EOS 60D and no generic ones: used the parametric model",)
    with pytest.raises(WeightsError, match="no paramisp weights for Canon EOS 60D"):
        parameters.complete(picture(), paramisp.Settings(model="paramisp"))

    generic, own = tmp_path / "generic.unprocess.safetensors", tmp_path / "canon-eos-60d.unprocess.safetensors"
    monkeypatch.setattr(weights, "info", lambda path: {"architecture": "paramisp"})
    monkeypatch.setattr(weights, "find", lambda *a: weights.Found(generic, "generic", "a test"))
    plan = parameters.complete(picture(optical=OpticalParams(iso=100, f_number=4)))
    assert (plan.architecture, plan.checkpoint) == ("paramisp", generic)
    assert plan.notices == (
        "no weights for Canon EOS 60D: used the generic ones",
        "has no ExposureTime, FocalLength; used 1/125 s, 80 mm (pass `exposure_time`, `focal_length` or `like` RAW)",
    )
    monkeypatch.setattr(weights, "find", lambda *a: weights.Found(own, "canon-eos-60d", "a test"))
    whole = OpticalParams(100, 1 / 60, 4, 50)
    assert parameters.complete(picture(optical=whole)).notices == ()
    with pytest.raises(ConfigError, match="`exposure`"):
        parameters.complete(picture(), paramisp.Settings(exposure=1))


def test_plan_is_json():
    plan = parameters.complete(picture(), PARAMETRIC)
    record = json.loads(json.dumps(plan.describe(), allow_nan=False))
    assert record["camera"] == "Canon EOS 60D"
    assert record["cfa"] == plan.canonical.cfa
    assert set(record["origin"]) >= {
        "camera",
        "iso",
        "exposure_time",
        "f_number",
        "focal_length",
        "wb",
        "cfa",
        "color_matrix",
    }


@pytest.mark.parametrize(
    "values",
    [
        {"iso": -1}, {"exposure_time": float("nan")}, {"wb": (1, 2, 0)}, {"cfa": "XYZW"}, {"exposure": 11},
        {"exposure": float("nan")}, {"dtype": "fp8"}, {"model": "gan"}, {"bit_depth": 12},
    ],
)  # fmt: skip
def test_settings_refuse(values):
    """The error names the setting, as text and as its field."""
    (name,) = values
    with pytest.raises(ConfigError, match=f"^`{name}` ?") as caught:
        paramisp.Settings(**values)
    assert caught.value.field == name
    assert caught.value.named("x.jpg").field == name


def test_check_before_work(like, tmp_path):
    convert.check(paramisp.Settings(), Direction.RENDER)
    convert.check(replace(PARAMETRIC, like=like, camera="Canon EOS 60D", device="cpu"), Direction.UNPROCESS)
    with pytest.raises(ConfigError, match="camera table"):
        convert.check(paramisp.Settings(camera="nothing"), Direction.RENDER)
    with pytest.raises(WeightsError, match="does not exist"):
        convert.check(paramisp.Settings(weights=tmp_path / "no.safetensors"), Direction.RENDER)
    with pytest.raises(ConfigError, match="cuda:99"):
        convert.check(paramisp.Settings(device="cuda:99"), Direction.RENDER)
    with pytest.raises(InputMissingError):
        convert.check(paramisp.Settings(like=tmp_path / "no.dng"), Direction.RENDER)


# There and back ------------------------------------------------------------------------------------------------------


def test_the_readme_way(make_jpeg, tmp_path, monkeypatch):
    """As the design says it, with paths as plain text."""
    monkeypatch.chdir(tmp_path)
    make_jpeg("photo.jpg", scene(), exif={"0th": {0x010F: b"Canon", 0x0110: b"Canon EOS 60D"}, "Exif": {0x8827: 200}})
    raw = paramisp.unprocess("photo.jpg")
    paramisp.write(raw, "photo.dng")
    picture = paramisp.render("photo.dng")
    assert isinstance(raw, paramisp.RawImage)
    assert raw.mosaic.dtype == np.uint16
    assert raw.model == "parametric"
    assert raw.metadata.jpeg == Path("photo.jpg").read_bytes()
    assert isinstance(picture, paramisp.SrgbImage)
    assert picture.optical.iso == 200
    assert picture.camera == KNOWN
    assert psnr(picture.pixels, raster.read(Path("photo.jpg")).pixels) > 43
    back = paramisp.read("photo.dng")
    np.testing.assert_array_equal(back.mosaic, raw.mosaic)
    np.testing.assert_allclose(back.canonical.as_shot_neutral, raw.canonical.as_shot_neutral, atol=1e-6)
    paramisp.write(picture, "back.png")
    np.testing.assert_array_equal(np.asarray(Image.open("back.png")), picture.pixels)
    with pytest.raises(OutputExistsError):
        paramisp.write(picture, "back.png")
    with pytest.raises(FormatError, match=r"is written as \.dng"):
        paramisp.write(raw, "raw.jpg")
    with pytest.raises(FormatError, match="paramisp render"):
        paramisp.unprocess("photo.dng")
    with pytest.raises(FormatError, match="paramisp unprocess"):
        paramisp.render("photo.jpg")


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("size", [(96, 128), (97, 131)])
def test_round_trip(cfa, size, tmp_path):
    """Every CFA, even and odd sizes: the picture comes back, of exactly its size, from the file too."""
    pixels = scene(*size)
    raw = paramisp.unprocess(picture(pixels), replace(PARAMETRIC, cfa=cfa))
    assert raw.canonical.cfa == cfa
    assert raw.size == size
    assert raw.mosaic.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    out = paramisp.render(raw, PARAMETRIC)
    assert out.pixels.shape == (*size, 3)
    assert psnr(out.pixels, pixels) > 45
    paramisp.write(raw, tmp_path / "a.dng")
    np.testing.assert_array_equal(paramisp.render(tmp_path / "a.dng", PARAMETRIC).pixels, out.pixels)


@pytest.mark.parametrize("flag", ["wb", "camera"])
def test_the_colour_depends_on_nothing_but_the_picture(flag):
    """Whatever balance and camera are assumed, what is taken out is put back."""
    more = {"wb": (3.1, 1, 1.2)} if flag == "wb" else {"camera": "Nikon D90"}
    raw = paramisp.unprocess(picture(), replace(PARAMETRIC, **more))
    assert psnr(paramisp.render(raw, PARAMETRIC).pixels, scene()) > 44


def test_mosaic_is_the_model_of_a_camera():
    """A neutral grey gives the as-shot neutral at the sites, above black: not balanced, not clipped."""
    grey = np.full((24, 24, 3), 128, np.uint8)
    raw = paramisp.unprocess(picture(grey), replace(PARAMETRIC, wb=(2, 1, 4), cfa="GRBG"))
    c = raw.canonical
    linear = (raw.mosaic - np.tile(c.black_level, (12, 12))) / (c.white_level - np.tile(c.black_level, (12, 12)))
    green, red, blue, green2 = linear[0, 0], linear[0, 1], linear[1, 0], linear[1, 1]
    np.testing.assert_allclose([red / green, blue / green, green2 / green], [0.5, 0.25, 1], atol=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation, suffix, tmp_path):
    """A photo stored in any of eight ways comes back upright, and nothing turns it a second time."""
    upright = scene(64, 96)
    stored = next(
        candidate
        for turns in range(4)
        for candidate in (np.rot90(upright, turns), np.rot90(upright[:, ::-1], turns))
        if np.array_equal(raster.apply_orientation(candidate, orientation), upright)
    )
    raw = paramisp.unprocess(picture(np.ascontiguousarray(stored), orientation=orientation), PARAMETRIC)
    assert raw.orientation == orientation
    assert raw.size == stored.shape[:2]
    paramisp.write(raw, tmp_path / "a.dng")
    out = paramisp.render(tmp_path / "a.dng", PARAMETRIC)
    assert out.orientation == 1
    paramisp.write(out, tmp_path / f"a{suffix}")
    back = paramisp.read(tmp_path / f"a{suffix}")
    assert back.orientation == 1
    assert back.pixels.shape == upright.shape
    assert psnr(raster.to_depth(back.pixels, 8), upright) > 38


@pytest.mark.parametrize(
    ("suffix", "bits", "dtype"),
    [(".jpg", 8, np.uint8), (".png", 8, np.uint8), (".png", 16, np.uint16), (".tif", 16, np.uint16)],
)
def test_written_pictures(suffix, bits, dtype, tmp_path):
    """Depth, EXIF and sRGB profile of what is written."""
    exif = piexif.dump({"0th": {0x010F: b"Canon", 0x0110: b"Canon EOS 60D"}, "Exif": {0x9003: b"2020:02:03 04:05:06"}})
    image = picture(optical=OpticalParams(200, 1 / 60, 5.6, 85), metadata=paramisp.SrgbImage(scene()).metadata)
    image = replace(image, metadata=replace(image.metadata, exif=exif.removeprefix(b"Exif\0\0"), source_name="a.jpg"))
    raw = paramisp.unprocess(image, PARAMETRIC)
    paramisp.write(raw, tmp_path / "a.dng")
    out = paramisp.render(tmp_path / "a.dng", replace(PARAMETRIC, bit_depth=bits))
    assert out.pixels.dtype == dtype
    path = tmp_path / f"b{suffix}"
    paramisp.write(out, path, paramisp.WriteOptions(bit_depth=bits))
    back = paramisp.read(path)
    assert back.pixels.dtype == dtype
    assert back.optical == OpticalParams(200, 1 / 60, 5.6, 85)
    assert back.camera == KNOWN
    with Image.open(path) as shown:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(shown.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)
        ifd = shown.getexif().get_ifd(0x8769)
        assert ifd[0x9003] == "2020:02:03 04:05:06"
        assert float(ifd[0x829A]) == pytest.approx(1 / 60)
    if bits == 16:  # finer than 8 bits
        assert len(np.unique(out.pixels)) > 3000


def test_16_bit_input_keeps_its_bits():
    fine = (scene().astype(np.uint16) * 257) + np.arange(128, dtype=np.uint16)[None, :, None]
    rough = paramisp.unprocess(picture(scene()), PARAMETRIC).mosaic
    assert (paramisp.unprocess(picture(fine), PARAMETRIC).mosaic != rough).mean() > 0.1
    as_float = paramisp.unprocess(picture((scene() / 255).astype(np.float32)), PARAMETRIC).mosaic
    assert np.abs(as_float.astype(int) - rough).max() <= 1
    out = paramisp.render(paramisp.unprocess(picture(fine), PARAMETRIC), replace(PARAMETRIC, bit_depth=16))
    assert psnr(out.pixels, fine, 65535) > 45


def test_exposure():
    """unprocess darkens and says so, so that render brings it back; render's flag adds to it."""
    plain = paramisp.unprocess(picture(), PARAMETRIC)
    dark = paramisp.unprocess(picture(), replace(PARAMETRIC, exposure=1))
    assert (plain.baseline_exposure, dark.baseline_exposure) == (0, 1)
    black = plain.canonical.black_level[0, 0]
    ratio = (dark.mosaic.astype(float) - black).mean() / (plain.mosaic.astype(float) - black).mean()
    assert 0.45 < ratio < 0.55
    assert psnr(paramisp.render(dark, PARAMETRIC).pixels, scene()) > 44
    means = [paramisp.render(plain, replace(PARAMETRIC, exposure=ev)).pixels.mean() for ev in (-1, 0, 1)]
    assert means[0] < means[1] < means[2]


def test_clipping_is_bounded():
    """White stays white and black black."""
    for value in (0, 255):
        flat = np.full((24, 24, 3), value, np.uint8)
        out = paramisp.render(paramisp.unprocess(picture(flat), PARAMETRIC), PARAMETRIC)
        assert np.abs(out.pixels.astype(int) - value).max() <= 1


def test_tone_curve_takes_the_linear_data_back_to_the_photo():
    """The DNG profile's curve over plainly developed data gives the photo: what other readers show."""
    from paramisp_cli import color, look

    raw = paramisp.unprocess(picture(), PARAMETRIC)
    curve = raw.tone_curve
    assert curve[0].tolist() == [0, 0]
    assert curve[-1].tolist() == [1, 1]
    shown = color.srgb_encode(np.interp(look.linear_srgb(raw).clip(0, 1), *curve.T))
    small = scene().reshape(48, 2, 64, 2, 3).mean((1, 3)) / 255
    assert np.abs(shown - small).mean() < 0.01
