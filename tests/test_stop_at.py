"""``render`` with ``stop_at``: linear pictures of both models, the TIFF of floats, and the command line."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import piexif
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

import paramisp_cli as paramisp
from paramisp_cli import color, convert, formats, isp, parameters, weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FormatError, MetadataError
from paramisp_cli.formats import exif, icc, raster, raster_write
from paramisp_cli.models.base import BANDS, WHOLE, IspModel
from paramisp_cli.models.cameranet import CameraNet, network
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.rendition.develop import develop
from paramisp_cli.rendition.parametric import ParametricLinear
from paramisp_cli.runner import Runner
from paramisp_cli.types import (
    CFA_PATTERNS,
    Camera,
    CanonicalParams,
    Crop,
    LinearImage,
    Metadata,
    OpticalParams,
    RawImage,
)

RESTORED = paramisp.Settings(stop_at="restored")
MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
OPTICAL = OpticalParams(iso=400, exposure_time=0.01, f_number=4, focal_length=35)
SRGB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
"""Linear sRGB → XYZ, as IEC 61966-2-1 prints it."""


def canonical(cfa: str = "GBRG", neutral: tuple[float, float, float] = (0.5, 1, 0.6)) -> CanonicalParams:
    return CanonicalParams(cfa, np.array([[64, 66], [62, 65]]), 1023, np.array(neutral), MATRIX)


def raw_of(mosaic: np.ndarray, cfa: str = "GBRG", **more: object) -> RawImage:
    """A RAW of linear values (H, W) in [0, 1]."""
    c = canonical(cfa)
    black = np.tile(c.black_level, (mosaic.shape[0] // 2, mosaic.shape[1] // 2))
    codes = np.rint(black + mosaic * (c.white_level - black)).astype(np.uint16)
    return RawImage(codes, c, OPTICAL, Camera("Canon", "Canon EOS 60D"), **more)  # type: ignore[arg-type]


def flat(camera: tuple[float, float, float], size: tuple[int, int] = (24, 32), cfa: str = "GBRG") -> np.ndarray:
    cell = np.array([camera["RGB".index(letter)] for letter in cfa]).reshape(2, 2)
    return np.tile(cell, (size[0] // 2, size[1] // 2))


def noise(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (height, width)) ** 2


def linear(height: int = 30, width: int = 44, **more: object) -> LinearImage:
    pixels = np.random.default_rng(1).normal(0.4, 0.6, (height, width, 3)).astype(np.float32)
    return LinearImage(pixels, **more)  # type: ignore[arg-type]


def restored(source: RawImage | Path, settings: paramisp.Settings = RESTORED) -> LinearImage:
    result = paramisp.render(source, settings)
    assert isinstance(result, LinearImage)
    return result


# --- pixels of the parametric model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("colour", [(0.2, 0.4, 0.1), (0.05, 0.1, 0.06), (0.4, 0.15, 0.02), (0.01, 0.3, 0.5)])
def test_a_flat_mosaic_gives_the_product_of_its_matrices(cfa: str, colour: tuple[float, float, float]) -> None:
    """The rule of DNG readers by hand: balance the channels, and let the matrix keep white."""
    srgb_to_cam = MATRIX @ SRGB
    balanced = np.array(colour) / np.array([0.5, 1, 0.6])
    expected = np.linalg.solve(srgb_to_cam, srgb_to_cam.sum(1) * balanced)
    shown = restored(raw_of(flat(colour, cfa=cfa), cfa)).pixels
    assert shown.shape == (24, 32, 3)
    np.testing.assert_allclose(shown, np.broadcast_to(expected, shown.shape), atol=3e-3)


def test_colours_outside_srgb_stay() -> None:
    assert restored(raw_of(flat((0.01, 0.3, 0.5)))).pixels.min() < -0.1


@pytest.mark.parametrize("exposure", [-1.0, 0.0, 1.5])
@pytest.mark.parametrize("baseline", [0.0, -0.5])
def test_exposure_scales_and_a_blown_highlight_is_white(exposure: float, baseline: float) -> None:
    """Above white 1 too: nothing is clipped after the matrix, and no channel before green."""
    blown = raw_of(flat((1, 1, 1)), baseline_exposure=baseline)
    shown = restored(blown, replace(RESTORED, exposure=exposure)).pixels
    np.testing.assert_allclose(shown, 2 ** (exposure + baseline), rtol=1e-5)
    scene = raw_of(noise(), baseline_exposure=baseline)
    plain, scaled = restored(scene), restored(scene, replace(RESTORED, exposure=exposure))
    np.testing.assert_allclose(scaled.pixels, plain.pixels * 2**exposure, rtol=1e-4, atol=1e-6)


def test_render_goes_on_from_the_linear_picture() -> None:
    raw = raw_of(noise(60, 90), crop=Crop(3, 5, 51, 77), orientation=6)
    stopped = restored(raw).pixels
    shown = paramisp.render(raw, paramisp.Settings(model="parametric")).pixels
    assert stopped.shape == shown.shape == (77, 51, 3)
    assert np.abs(_finished(stopped) - shown).max() <= 1


def _finished(light: np.ndarray) -> np.ndarray:
    """The rest of the parametric model, by its definition: clip, sRGB curve, smoothstep, 8 bits."""
    light = light.astype(np.float64).clip(0, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    return np.rint(255 * (3 * encoded**2 - 2 * encoded**3))


@pytest.mark.parametrize("name", ["IMG_0848.CR2", "GOPR8508.DNG", "leica_m9.dng", "sony_ilce-7rm3.ARW"])
def test_a_real_raw(real_raws: dict[str, Path], name: str) -> None:
    """A part of it: no brightness is matched to its JPEG, and the rest of ``render`` follows from it."""
    if name not in real_raws:
        pytest.skip(f"no {name}")
    whole = formats.read(real_raws[name])
    assert isinstance(whole, RawImage)
    top, left = whole.mosaic.shape[0] // 4 * 2, whole.mosaic.shape[1] // 4 * 2
    raw = replace(whole, crop=Crop(top, left, 401, 603)).cropped()
    even = -raw.baseline_exposure
    stopped = restored(raw, replace(RESTORED, exposure=even))
    assert not [note for note in stopped.notes if "brightness" in note or "JPEG" in note]
    shown = paramisp.render(raw, paramisp.Settings(model="parametric", exposure=even))
    assert np.abs(_finished(stopped.pixels) - shown.pixels).max() <= 1
    np.testing.assert_allclose(restored(raw).pixels * 2**even, stopped.pixels, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_numpy_and_torch_agree(cfa: str, kind: type[np.generic]) -> None:
    raw = raw_of(noise(50, 70) * 1.1 - 0.05 if kind == np.float32 else noise(50, 70), cfa)
    if kind == np.float32:
        raw = replace(raw, mosaic=(noise(50, 70) * 1.2 - 0.1).astype(np.float32))
    model = Parametric(Direction.RENDER).stopping_at("restored")
    for gain in (1.0, 0.6, 3.0):
        by_torch, _ = Runner(model, torch.device("cpu")).restore(raw.mosaic, raw.canonical, OPTICAL, gain=gain)
        by_numpy = develop(raw, ParametricLinear(raw.canonical, gain), dtype=np.float32)
        np.testing.assert_allclose(by_torch, by_numpy, atol=3e-5)
        again, _ = Runner(Parametric(Direction.RENDER, gain).stopping_at("restored"), torch.device("cpu")).restore(
            raw.mosaic, raw.canonical, OPTICAL
        )
        np.testing.assert_allclose(again, by_numpy, atol=3e-5)


def test_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        develop(raw_of(noise()), ParametricLinear(canonical()), dtype=np.uint8)


# --- CameraNet --------------------------------------------------------------------------------------------------------

SHADING = [[-0.3, 0.05, 0.0], [-0.25, 0.04, 0.0], [-0.2, 0.02, 0.0]]


@pytest.fixture
def net(tmp_path: Path) -> tuple[CameraNet, Path]:
    torch.manual_seed(0)
    model = CameraNet(Direction.RENDER, width=4, lens_shading=SHADING).eval()
    path = weights.save(model, tmp_path / "net.render.safetensors", camera="Canon Canon EOS 60D")
    return model, path


def test_cameranet_gives_its_first_stage(net: tuple[CameraNet, Path]) -> None:
    """Through files' own path: levels, lens shading, crop, orientation, exposure."""
    model, path = net
    raw = raw_of(noise(46, 70), "BGGR", orientation=3)
    settings = replace(RESTORED, weights=path, exposure=1.0, device="cpu")
    got = restored(raw, settings)
    c = raw.canonical
    black = np.tile(c.black_level, (23, 35))
    x = torch.from_numpy(((raw.mosaic - black) / (c.white_level - black)).astype(np.float32))[None, None]
    x = x * isp.shading_gain(SHADING, "BGGR", (0, 46), (0, 0, 46, 70), 70)
    with torch.inference_mode():
        want = 2 * model.restored(x, model.params_of(c, OPTICAL))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got.pixels, want[::-1, ::-1], atol=2e-5)
    assert b"paramisp cameranet" in (got.metadata.exif or b"")
    assert (got.pixels < 0).any() or (got.pixels > 1).any()  # not clipped


@pytest.mark.parametrize("cfa", ["GBRG", "RGGB"])
def test_cameranet_in_bands(net: tuple[CameraNet, Path], cfa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first two of four passes, and the same picture."""
    monkeypatch.setattr(network, "_BAND", 256)
    mosaic, c = noise(1250, 34).astype(np.float32), canonical(cfa)
    model = net[0].stopping_at("restored")
    monkeypatch.setattr(model.enhance, "forward", None)  # a call would fail
    pictures = {}
    for plan in (WHOLE, BANDS):
        shares: list[float] = []
        runner = Runner(model, torch.device("cpu"), memory_plan=plan, progress=shares.append)
        pictures[plan], used = runner.restore(mosaic, c, OPTICAL)
        assert used == plan
        assert shares == sorted(shares)
        assert shares[-1] == 1
    assert len(shares) == 5
    np.testing.assert_allclose(pictures[BANDS], pictures[WHOLE], atol=2e-5)
    x = torch.from_numpy(mosaic)[None, None] * isp.shading_gain(SHADING, cfa, (0, 1250), (0, 0, 1250, 34), 34)
    with torch.inference_mode():
        want = net[0].restored(x, model.params_of(c, OPTICAL))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(pictures[WHOLE], want, atol=1e-6)


def test_a_model_that_stops_leaves_the_other_as_it_is(net: tuple[CameraNet, Path]) -> None:
    """Loaded models are shared by all pictures of a batch."""
    model, path = net
    raw = raw_of(noise())
    settings = paramisp.Settings(weights=path, device="cpu")
    before = paramisp.render(raw, settings).pixels
    restored(raw, replace(settings, stop_at="restored"))
    np.testing.assert_array_equal(paramisp.render(raw, settings).pixels, before)
    stopping = model.stopping_at("restored")
    assert (model.stop_at, stopping.stop_at, stopping.macs) == (None, "restored", model.macs / 2)
    assert all(one is other for one, other in zip(model.parameters(), stopping.parameters(), strict=True))
    assert stopping.config() == model.config()


def test_a_model_without_the_stage() -> None:
    from paramisp_cli.models.paramisp import ParamISP

    for model, stage in ((ParamISP(Direction.RENDER), "restored"), (Parametric(Direction.RENDER), "enhanced")):
        assert isinstance(model, IspModel)
        with pytest.raises(ConfigError, match=f"{model.name} has no stage '{stage}'; it has"):
            model.stopping_at(stage)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stop_at": "enhanced"}, "`stop_at` must be one of restored, got enhanced"),
        ({"model": "fast"}, "fast has no such stage; the models that have it are parametric, cameranet"),
        ({"look": "camera"}, "leave out `look`"),
        ({"look": "weights"}, "leave out `look`"),
        ({"look_from": "x.jpg"}, "leave out `look_from`"),
        ({"bit_depth": 16}, "leave out `bit_depth`"),
    ],
)
def test_settings_that_do_not_go_together(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        paramisp.Settings(**{"stop_at": "restored"} | values)  # type: ignore[arg-type]
    assert caught.value.field == "stop_at"


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    from paramisp_cli.models.fast import Fast

    path = weights.save(Fast(Direction.RENDER), tmp_path / "fast.render.safetensors", camera="Test")
    settings = replace(RESTORED, weights=path)
    with pytest.raises(ConfigError, match="fast has no such stage; the models that have it are parametric, cameranet"):
        convert.check(settings, Direction.RENDER)
    with pytest.raises(ConfigError, match="fast has no such stage"):
        paramisp.render(raw_of(noise()), settings)


def test_unprocess_refuses() -> None:
    with pytest.raises(ConfigError, match="`stop_at` is for `render`"):
        paramisp.unprocess(np.full((30, 40, 3), 99, np.uint8), RESTORED)
    with pytest.raises(ConfigError, match="`stop_at` is for `render`"):
        convert.check(RESTORED, Direction.UNPROCESS)


def test_the_look_of_the_jpeg_inside_is_left_alone() -> None:
    """A RAW whose JPEG shows a look: the parametric model runs, by its own brightness."""
    jpeg = raster.encode_jpeg(np.full((480, 640, 3), 200, np.uint8), 90, False)
    raw = raw_of(noise(480, 640) * 0.1, metadata=Metadata(jpeg=jpeg))
    assert parameters.complete(raw).architecture == parameters.CAMERA_LOOK
    conversion = parameters.complete(raw, RESTORED)
    assert (conversion.architecture, conversion.checkpoint) == ("parametric", None)
    assert conversion.describe()["stop_at"] == "restored"
    assert conversion.origin["model"] == "--stop-at"
    bare = replace(raw, metadata=Metadata())
    np.testing.assert_array_equal(restored(raw).pixels, restored(bare).pixels)


def test_the_image_checks_itself() -> None:
    assert linear(30, 44).size == (30, 44)
    assert not linear().pixels.flags.writeable
    for wrong in (np.zeros((3, 4), np.float32), np.zeros((3, 4, 4), np.float32), np.zeros((3, 4, 3))):
        with pytest.raises(MetadataError, match="linear pixels must be"):
            LinearImage(wrong)


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(1, 1), (30, 44), (513, 7), (256, 5)])
def test_the_tiff_reads_back(height: int, width: int, tmp_path: Path) -> None:
    source = piexif.dump({"0th": {0x013B: b"A. Author"}}).removeprefix(b"Exif\0\0")
    block = exif.clean_exif(
        source, optical=OPTICAL, camera=Camera("Canon", "Canon EOS 60D"), software="paramisp parametric",
        width=width, height=height, is_srgb=False,
    )  # fmt: skip
    xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
    image, path = linear(height, width, metadata=Metadata(exif=block, xmp=xmp)), tmp_path / "a.tif"
    formats.write(image, path)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        tags = {tag.code: tag.value for tag in page.tags}
        np.testing.assert_array_equal(page.asarray(), image.pixels)
        assert page.asarray().dtype == np.float32
    assert tags[258] == (32, 32, 32)
    assert tags[339] == (3, 3, 3)
    assert (tags[259], tags[262], tags[274], tags[277], tags[284]) == (1, 2, 1, 3, 1)
    assert 317 not in tags  # no predictor
    assert tags[34675] == icc.linear_srgb_profile()
    assert (tags[271], tags[305], tags[315]) == ("Canon", "paramisp parametric", "A. Author")
    assert bytes(tags[700]) == xmp.replace(b"6", b"1")
    parsed = exif.parse(path.read_bytes())
    assert parsed.numbers(0xA001) == (65535,)
    assert exif.optical_params(parsed)[0] == OPTICAL
    assert exif.color_space(parsed) is None
    assert formats.is_own(path)
    with pytest.raises(FormatError, match=r"has 3 channels of 32 bits \(float\): save it with 8 or 16 bits"):
        formats.read(path)


@pytest.mark.skipif(not shutil.which("exiftool"), reason="no exiftool")
def test_exiftool_finds_no_fault(tmp_path: Path) -> None:
    shot = restored(raw_of(noise()))
    formats.write(shot, tmp_path / "a.tif")
    words = ["exiftool", "-j", "-n", "-validate", "-warning", "-a", "-SampleFormat", "-ColorSpace", "-Software",
             "-ProfileDescription", "-ISO", str(tmp_path / "a.tif")]  # fmt: skip
    found = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)[0]
    assert found["SampleFormat"] == "3 3 3"
    assert (found["ColorSpace"], found["ISO"]) == (65535, 400)
    assert (found["Software"], found["ProfileDescription"]) == ("paramisp parametric", "Linear sRGB")
    errors, warnings, minor = map(int, found["Validate"].split())  # minor: EXIF's own tags of a JPEG
    assert errors == 0
    assert warnings == minor


def test_the_profile_is_linear_srgb() -> None:
    """By LittleCMS, by our own reader, and beside LittleCMS's sRGB profile."""
    profile = icc.linear_srgb_profile()
    assert len(profile) == int.from_bytes(profile[:4], "big")
    assert profile == icc.linear_srgb_profile.__wrapped__()
    codes = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    shown = ImageCms.profileToProfile(
        Image.fromarray(codes), ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    assert shown is not None
    expected = 255 * color.srgb_encode(codes / 255)
    assert np.abs(np.asarray(shown) - expected).max() <= 1
    fine = np.random.default_rng(1).integers(0, 65536, (40, 50, 3), np.uint16)
    ours, notes = icc.to_srgb(fine, profile, None)
    assert np.abs(color.srgb_decode(ours / 65535) - fine / 65535).max() < 5e-4  # LittleCMS's own profile: as near
    assert notes[0].startswith("converted from Linear sRGB to sRGB")
    own, theirs = icc._tags(profile), icc._tags(icc.srgb_profile())
    colorants = {tag: icc._icc_xyz(own[tag]) for tag in (b"rXYZ", b"gXYZ", b"bXYZ")}
    for tag, value in colorants.items():
        np.testing.assert_allclose(value, icc._icc_xyz(theirs[tag]), atol=2e-4)
    np.testing.assert_array_equal(sum(colorants.values()), icc._icc_xyz(own[b"wtpt"]))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.dng", "a"])
def test_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"a linear picture is written as \.tif, \.tiff, \.exr, \.hdr, not"):
        formats.write(linear(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="with 32 bits a channel, not 16"):
        formats.write(linear(), tmp_path / "a.tif", formats.WriteOptions(bit_depth=16))
    huge = LinearImage(np.broadcast_to(np.float32(0), (20000, 20000, 3)))
    with pytest.raises(FormatError, match=r"20000×20000 pixels has 4\.8 GB, more than a TIFF can hold \(4 GB\)"):
        formats.write(huge, tmp_path / "a.tif")
    with pytest.raises(FormatError, match="takes a RawImage, SrgbImage, LinearImage or HdrImage, got ndarray"):
        formats.write(np.zeros((3, 3, 3)), tmp_path / "a.tif")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="JPEG cannot hold"):
        raster_write.write(linear(), tmp_path / "a.jpg", formats.WriteOptions(), kind="jpeg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["bit", "short"])
def test_verify_compares_every_bit(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = raster_write._write_tiff

    def damaged(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        path = arguments[3]
        assert isinstance(path, Path)
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data if damage == "bit" else data[:2000])

    monkeypatch.setattr(raster_write, "_write_tiff", damaged)
    with pytest.raises(FormatError, match="read back"):
        formats.write(linear(), tmp_path / "a.tif", formats.WriteOptions(verify=True))
    assert not list(tmp_path.iterdir())


def test_nan_is_written_and_compared(tmp_path: Path) -> None:
    pixels = linear().pixels.copy()
    pixels[3, 4] = np.nan
    formats.write(LinearImage(pixels), tmp_path / "a.tif", formats.WriteOptions(verify=True))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), pixels)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, name in enumerate(("a.dng", "b.dng")):
        formats.write(raw_of(noise(seed=seed)), folder / name)
    return folder


def test_one_file_and_a_folder(paramisp, shots, tmp_path):
    stop = ("--stop-at", "restored")
    assert paramisp("render", shots / "a.dng", *stop) == (0, [str(shots / "a.tif")], [])
    np.testing.assert_array_equal(tifffile.imread(shots / "a.tif"), restored(shots / "a.dng").pixels)
    code, out, _ = paramisp("render", shots, *stop, "-o", tmp_path / "out", "--format", "tiff")
    assert (code, out) == (0, [str(tmp_path / "out" / name) for name in ("a.tiff", "b.tiff")])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "b.tiff"), restored(shots / "b.dng").pixels)
    code, out, err = paramisp("unprocess", shots / "a.tif", "-o", tmp_path / "again.dng")
    assert (code, out) == (7, [])
    assert err == [f"paramisp: {shots / 'a.tif'}: has 3 channels of 32 bits (float): save it with 8 or 16 bits, in RGB"]


def test_existing_files(paramisp, shots):
    words = ("render", shots / "a.dng", "--stop-at", "restored", "-o", shots / "x.tif")
    assert paramisp(*words)[0] == 0
    code, _, err = paramisp(*words)
    assert code == 6
    assert "exists already" in err[0]
    assert paramisp(*words, "--on-exists", "overwrite", "--exposure", "1")[:2] == (0, [str(shots / "x.tif")])
    np.testing.assert_allclose(tifffile.imread(shots / "x.tif"), 2 * restored(shots / "a.dng").pixels, rtol=1e-5)
    assert paramisp(*words, "--on-exists", "rename")[1] == [str(shots / "x-1.tif")]


def test_plan_and_json(paramisp, shots):
    words = ("render", shots / "a.dng", "--stop-at", "restored")
    assert paramisp(*words, "--dry-run")[:2] == (0, [str(shots / "a.tif")])
    assert not (shots / "a.tif").exists()
    code, out, _ = paramisp(*words, "--json", "--verify")
    record = json.loads(out[0])
    assert (code, record["stop_at"], record["model"]) == (0, "restored", "parametric")
    assert record["output"] == str(shots / "a.tif")
    assert "stop_at" not in json.loads(paramisp("render", shots / "a.dng", "--json")[1][0])


@pytest.mark.slow
def test_stdout(shots: Path) -> None:
    words = [sys.executable, "-m", "paramisp_cli", "render", str(shots / "a.dng"), "--stop-at", "restored", "-o", "-"]
    done = subprocess.run(words, capture_output=True, check=True, timeout=100)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(done.stdout)), restored(shots / "a.dng").pixels)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "jpg"), "leave out --format jpg, or pass --format tif"),
        (("--format", "png"), "leave out --format png"),
        (("-o", "x.jpg"), "-o x.jpg must end in .tif"),
        (("-o", "x.PNG"), "-o x.PNG must end in .tif"),
        (("--bits", "16"), "leave out --bits"),
        (("--bits", "8"), "leave out --bits"),
        (("--keep-raw", "near"), "leave out --keep-raw"),
        (("--look", "camera"), "--stop-at restored: this picture has no look yet; leave out --look"),
        (("--model", "fast"), "--stop-at restored: fast has no such stage; the models that have it are parametric"),
    ],
)
def test_usage(paramisp, shots, words, message):
    code, out, err = paramisp("render", shots / "a.dng", "--stop-at", "restored", *words)
    assert (code, out) == (2, [])
    assert len(err) == 1
    assert message in err[0]
    assert sorted(path.name for path in shots.iterdir()) == ["a.dng", "b.dng"]


def test_unprocess_and_unknown_stages(paramisp, shots):
    code, _, err = paramisp("unprocess", shots / "a.dng", "--stop-at", "restored")
    assert code == 2
    assert "--stop-at" in err[0]
    code, _, err = paramisp("render", shots / "a.dng", "--stop-at", "enhanced")
    assert code == 2
    assert "restored" in err[0]


def test_a_picture_that_no_tiff_holds_is_refused_before_the_work(paramisp, shots, monkeypatch):
    monkeypatch.setattr(raster_write, "_MOST_BYTES", 1000)
    monkeypatch.setattr(convert, "run", None)  # a call would be an internal error
    code, out, err = paramisp("render", shots / "a.dng", "--stop-at", "restored")
    assert (code, out) == (7, [])
    assert "a.dng: a linear picture of 60×40 pixels has 0.0 GB, more than a TIFF can hold" in err[0]
    assert "render it without --stop-at" in err[0]
