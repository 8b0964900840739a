"""The main job on real photographs: JPEG → DNG → every other reader, and back; RAW → picture beside its camera's JPEG.

The photographs lie outside the project (../shared/data, and $PARAMISP_SAMPLES for what fetch_samples.py gets); without
them the tests are skipped. The round-trip table: pytest -s tests/test_real_files.py -k what_the_round_trip_costs
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rawpy
import tifffile
import torch
from PIL import Image, ImageOps

import paramisp_cli as paramisp
from paramisp_cli import color, isp
from paramisp_cli.directions import Direction
from paramisp_cli.models.base import Params
from paramisp_cli.models.parametric import Parametric

pytestmark = pytest.mark.slow

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SAMPLES = Path(os.environ.get("PARAMISP_SAMPLES", "/nonexistent"))
JPEGS = sorted((SHARED / "jpegs").glob("*.JPG"))
RAWS = [
    path
    for folder in (SHARED, SAMPLES)
    for path in sorted(folder.rglob("*"))
    if path.suffix.lower() in (".dng", ".cr2", ".crw", ".arw")
]
PARAMETRIC = paramisp.Settings(model="parametric")
ALONE = replace(PARAMETRIC, gain_map="off")
"""Without the highlights of a gain map: dcraw and darktable ignore the BaselineExposure that goes with them."""

no_jpegs = pytest.mark.skipif(not JPEGS, reason=f"no photographs in {SHARED}")
no_raws = pytest.mark.skipif(not RAWS, reason=f"no RAW files in {SHARED} or $PARAMISP_SAMPLES")


def need(tool: str) -> str:
    """The path of a program; without it the test is skipped, but on CI it fails."""
    found = shutil.which(tool)
    if not found and os.environ.get("CI") == "true":
        pytest.fail(f"{tool} is not installed, and CI must not skip what it checks")
    if not found:
        pytest.skip(f"{tool} is not installed")
    return found


def run(*command: object) -> str:
    """stdout and stderr of a command that must succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---- JPEG → DNG ----------------------------------------------------------------------------------------------------


@dataclass
class Converted:
    """A JPEG, its pixels, and the RAW and DNG made of them."""

    source: Path
    dng: Path
    image: paramisp.SrgbImage
    raw: paramisp.RawImage

    @property
    def upright(self) -> np.ndarray:
        """(H, W, 3) uint8: the pixels in sRGB, turned as Pillow turns the JPEG."""
        pixels = self.image.pixels
        if pixels.dtype == np.uint16:
            pixels = np.rint(pixels / 257).astype(np.uint8)
        turned = Image.fromarray(pixels)
        with Image.open(self.source) as jpeg:
            turned.getexif()[0x0112] = jpeg.getexif().get(0x0112, 1)
        return np.asarray(ImageOps.exif_transpose(turned))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Converted]:
    """Every JPEG as a DNG, as `paramisp unprocess jpegs -o out` makes it, by the JPEG's name without suffix."""
    folder = tmp_path_factory.mktemp("real")
    made = {}
    for path in JPEGS:
        image = paramisp.read(path)
        assert isinstance(image, paramisp.SrgbImage)
        raw = paramisp.unprocess(image, ALONE)
        dng = folder / f"{path.stem}.dng"
        paramisp.write(raw, dng)
        made[path.stem] = Converted(path, dng, image, raw)
    return made


@no_jpegs
def test_all_thirteen_are_there(converted: dict[str, Converted]) -> None:
    assert len(converted) == 13
    assert all(one.raw.size == one.image.size for one in converted.values())


@no_jpegs
def test_pixels_are_those_that_pillow_decodes(converted: dict[str, Converted]) -> None:
    """Ties the reference of all that follows to an independent reader, for the files whose pixels are sRGB already."""
    checked = 0
    for one in converted.values():
        if not any("converted from" in note for note in one.image.notes):
            with Image.open(one.source) as jpeg:
                expected = np.asarray(ImageOps.exif_transpose(jpeg).convert("RGB"))
            np.testing.assert_array_equal(one.upright, expected)
            checked += 1
    assert checked >= 8


@no_jpegs
def test_libraw_reads_the_mosaic_bit_for_bit(converted: dict[str, Converted]) -> None:
    for name, one in converted.items():
        with rawpy.imread(str(one.dng)) as raw:
            np.testing.assert_array_equal(raw.raw_image_visible, one.raw.mosaic, err_msg=name)
            assert raw.white_level == one.raw.canonical.white_level, name


@no_jpegs
def test_the_mosaic_is_what_the_model_gives_quantised(converted: dict[str, Converted]) -> None:
    """Strips, padding and levels of the pipeline, against the model run once over a whole small picture."""
    for one in [c for c in converted.values() if c.raw.mosaic.size < 2e6]:
        canonical, pixels = one.raw.canonical, one.image.pixels
        x = torch.from_numpy(pixels / np.float32(255 if pixels.dtype == np.uint8 else 65535)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            y = Parametric(Direction.UNPROCESS)(x, Params.of(canonical, one.raw.optical))[0, 0].double().numpy()
        black = np.tile(canonical.black_level, (y.shape[0] // 2, y.shape[1] // 2))
        expected = np.clip(np.rint(y * (canonical.white_level - black) + black), 0, canonical.white_level)
        off = np.abs(expected - one.raw.mosaic)
        assert off.max() <= 1, one.source.name  # float32 may round a tie the other way
        assert (off > 0).mean() < 0.005, one.source.name


@no_jpegs
def test_the_adobe_sdk_has_nothing_to_say(converted: dict[str, Converted]) -> None:
    if os.environ.get("CI") != "true":
        pytest.importorskip("dngpy")
    code = "import dngpy, sys\nfor path in sys.argv[1:]: print(path, flush=True); dngpy.Dng(path).raw_pixels"
    said = run(sys.executable, "-c", code, *(one.dng for one in converted.values())).splitlines()
    # Masked borders are for sensors that have them.
    words = [line for line in said if "Too little padding" not in line and "Digest time" not in line]
    assert words == [str(one.dng) for one in converted.values()]


def _exiftool_says(paths: list[Path]) -> list[tuple[str, set[str]]]:
    """(verdict, warnings) for each file."""
    said = run(need("exiftool"), "-q", "-T", "-sep", "|", "-validate", "-warning", "-a", *paths)
    verdicts = []
    for line in said.splitlines():
        verdict, *warnings = line.split("\t")
        verdicts.append((verdict, {word for field in warnings for word in field.split("|")} - {"-"}))
    assert len(verdicts) == len(paths)
    return verdicts


@no_jpegs
def test_exiftool_says_ok(converted: dict[str, Converted]) -> None:
    """OK, or no more than it says of the maker's own note in the JPEG, which is carried over as it is."""
    found = _exiftool_says([one.dng for one in converted.values()])
    sources = _exiftool_says([one.source for one in converted.values()])
    for one, (verdict, warnings), (_, known) in zip(converted.values(), found, sources, strict=True):
        assert warnings <= {word for word in known if "MakerNote" in word}, one.dng.name
        assert verdict == "OK" or (warnings and "minor" in verdict), one.dng.name
    assert sum(verdict == "OK" for verdict, _ in found) >= 11


@no_jpegs
def test_the_jpeg_comes_out_of_the_dng_as_it_went_in(converted: dict[str, Converted]) -> None:
    exiftool = need("exiftool")
    for one in converted.values():
        for tag in (
            "-SubIFD1:PreviewImage",
            "-OriginalRawImage",
        ):  # the second for those that cannot be a DNG's preview
            done = subprocess.run([exiftool, "-b", tag, one.dng], capture_output=True, check=True)
            if done.stdout:
                break
        assert done.stdout == one.source.read_bytes(), one.source.name


# ---- other readers: upright, of the right size, of the right colours ------------------------------------------------


class Developed(NamedTuple):
    """A program's picture: codes (H, W, 3) uint16, upright, and linear sRGB (65536,) in [0, 1] of each code."""

    codes: np.ndarray
    light: np.ndarray


Reader = Callable[[Path, Path], Developed]
"""(DNG, folder to work in) → the picture as that program develops it."""

LINEAR = np.arange(65536) / 65535


def dcraw(dng: Path, folder: Path) -> Developed:
    done = subprocess.run([need("dcraw"), "-w", "-o", "1", "-4", "-T", "-c", dng], capture_output=True, check=True)
    return Developed(tifffile.imread(io.BytesIO(done.stdout)), LINEAR)


def darktable(dng: Path, folder: Path) -> Developed:
    out = folder / f"{dng.stem}.darktable.tif"
    core = ["--configdir", folder / "darktable", "--library", ":memory:", "--conf", "plugins/darkroom/workflow=none"]
    bits = ["--conf", "plugins/imageio/format/tiff/bpp=16"]
    run(need("darktable-cli"), dng, out, "--icc-type", "LIN_REC709", "--core", *core, *bits)
    return Developed(tifffile.imread(out), LINEAR)


def rawtherapee(dng: Path, folder: Path) -> Developed:
    out, profile = folder / f"{dng.stem}.rawtherapee.tif", folder / "neutral.pp3"
    profile.write_text("[Version]\nAppVersion=5.9\nVersion=349\n\n[RAW Bayer]\nBorder=0\n")  # by default it cuts 4 px
    run(need("rawtherapee-cli"), "-Y", "-t", "-b16", "-o", out, "-p", profile, "-c", dng)
    return Developed(tifffile.imread(out), color.srgb_decode(LINEAR))


def with_tone(linear: np.ndarray) -> np.ndarray:
    """What the DNG's ProfileToneCurve makes of linear light, sRGB-encoded: none of these programs applies it."""
    encoded = color.srgb_encode(np.clip(linear, 0, 1))
    return encoded * encoded * (3 - 2 * encoded)


def coarse(picture: np.ndarray, cells: int = 24) -> np.ndarray:
    """(cells, cells, 3) means."""
    height, width = picture.shape[0] // cells, picture.shape[1] // cells
    cut = picture[: cells * height, : cells * width]
    return cut.reshape(cells, height, cells, width, 3).mean((1, 3), dtype=np.float64)


def differences(developed: Developed, upright: np.ndarray) -> np.ndarray:
    """Absolute differences of the means of 24×24 cells, in codes of 8 bits."""
    shown = (255 * with_tone(developed.light)).astype(np.float32)[developed.codes]
    return np.abs(coarse(shown) - coarse(upright))


def same_colours(developed: Developed, upright: np.ndarray) -> bool:
    """Mean within 1 code, 98 % of the cells within 4."""
    off = differences(developed, upright)
    return bool(off.mean() < MEAN_TOLERANCE and np.percentile(off, 98) < CELL_TOLERANCE)


MEAN_TOLERANCE, CELL_TOLERANCE = 1.0, 4.0
CHART = "Canon_PowerShot_G6_IMG_0002"  # a ColorChecker
UNKNOWN = "Nikon_CoolPix_S3100_DSCN0137"  # a camera in nobody's table


@no_jpegs
@pytest.mark.parametrize("name", [path.stem for path in JPEGS])
def test_dcraw_shows_the_photo(converted: dict[str, Converted], tmp_path: Path, name: str) -> None:
    _shows_the_photo(dcraw, converted[name], tmp_path)


LARGE = 6_000_000
"""Pixels of a photo from which darktable and RawTherapee, which take seconds a file, get its DNG at half the size."""


@pytest.fixture(scope="module")
def moderate(converted: dict[str, Converted], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Converted]:
    """The same, large ones reduced by half: colours are compared as means of cells, and dcraw opens the full size."""
    folder, made = tmp_path_factory.mktemp("moderate"), dict(converted)
    for name, one in converted.items():
        if one.raw.mosaic.size > LARGE:
            height, width = (side // 2 for side in one.image.size)
            fours = one.image.pixels[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
            pixels = np.rint(fours.mean((1, 3), dtype=np.float32)).astype(fours.dtype)
            image = replace(one.image, pixels=pixels, metadata=replace(one.image.metadata, jpeg=None))
            raw = paramisp.unprocess(image, ALONE)
            paramisp.write(raw, folder / one.dng.name)
            made[name] = Converted(one.source, folder / one.dng.name, image, raw)
    return made


@no_jpegs
@pytest.mark.parametrize("name", [path.stem for path in JPEGS])
@pytest.mark.parametrize("reader", [darktable, rawtherapee])
def test_others_show_the_photo(moderate: dict[str, Converted], tmp_path: Path, reader: Reader, name: str) -> None:
    one = moderate[name]
    if (reader, name) == (rawtherapee, "Nikon_D3100_DSC_0008"):
        # It has a matrix of its own for the D3100, farther from the camera table's than for any other of these.
        off = differences(reader(one.dng, tmp_path), one.upright)
        assert off.mean() < 1.3
        assert np.percentile(off, 98) < 8
        return
    _shows_the_photo(reader, one, tmp_path)


def _shows_the_photo(reader: Reader, one: Converted, folder: Path) -> None:
    developed, upright = reader(one.dng, folder), one.upright
    assert developed.codes.shape == upright.shape
    off = differences(developed, upright)
    print(f"{reader.__name__} {one.source.stem}: mean {off.mean():.2f}, 98 % {np.percentile(off, 98):.2f} codes")
    assert same_colours(developed, upright)


@no_jpegs
@pytest.mark.parametrize("name", ["Nikon_D3100_DSC_0008", "Nikon_D90_DSC_0003"])
def test_rawtherapee_applies_the_look_table(tmp_path: Path, name: str) -> None:
    """A program of others reads the profile in the DNG, curve and look-up table, and shows the photo's colours."""
    photo = paramisp.read(SHARED / "jpegs" / f"{name}.JPG")
    assert isinstance(photo, paramisp.SrgbImage)
    pixels = photo.pixels[: photo.size[0] // 6 * 6, : photo.size[1] // 6 * 6]
    pixels = pixels.reshape(pixels.shape[0] // 3, 3, -1, 3, 3).mean((1, 3)).round().astype(np.uint8)
    small = replace(photo, pixels=pixels, orientation=1, metadata=replace(photo.metadata, jpeg=None))
    raw = paramisp.unprocess(small)  # a network: only its DNGs have a table
    assert raw.look_table is not None
    paramisp.write(raw, tmp_path / "photo.dng")
    true, errors = color.srgb_to_lab(color.srgb_decode(coarse(pixels, 60) / 255)), {}
    for table in (False, True):
        shown = tmp_path / f"{table}.tif"
        (tmp_path / "profile.pp3").write_text(
            "[Version]\nAppVersion=5.9\nVersion=349\n\n[RAW Bayer]\nBorder=0\n\n[Color Management]\n"
            f"InputProfile=file:{tmp_path / 'photo.dng'}\nToneCurve=true\nApplyLookTable={str(table).lower()}\n"
        )
        run(
            need("rawtherapee-cli"), "-Y", "-t", "-b16", "-o", shown, "-p", tmp_path / "profile.pp3",
            "-c", tmp_path / "photo.dng",
        )  # fmt: skip
        made = color.srgb_to_lab(color.srgb_decode(coarse(tifffile.imread(shown) / 65535, 60)))
        errors[table] = float(color.ciede2000(true, made).mean())
    print(f"{name}: ΔE2000 {errors[False]:.2f} by the curve, {errors[True]:.2f} with the table")
    assert errors[True] < 1.5
    assert errors[True] < 0.5 * errors[False]


MUTANTS = {
    "matrix transposed": lambda c: replace(c, color_matrix=c.color_matrix.T),
    "matrix inverted": lambda c: replace(c, color_matrix=np.linalg.inv(c.color_matrix)),
    "another camera's matrix": lambda c: replace(c, color_matrix=c.color_matrix[[0, 2, 1]]),
    "CFA one column on": lambda c: c.shifted(0, 1),
    "CFA one row on": lambda c: c.shifted(1, 0),
    "CFA both on": lambda c: c.shifted(1, 1),
    "neutral inverted": lambda c: replace(c, as_shot_neutral=1 / c.as_shot_neutral),
    "neutral 5 % off": lambda c: replace(c, as_shot_neutral=c.as_shot_neutral * [1.05, 1, 1]),
    "black 1 % too low": lambda c: replace(c, black_level=c.black_level * 0, white_level=c.white_level * 1.05),
}


@no_jpegs
@pytest.mark.parametrize(
    ("reader", "name", "mutant"),
    # dcraw and RawTherapee take their own matrix for the cameras they know, and the DNG's for the others.
    [
        *((dcraw, UNKNOWN, mutant) for mutant in MUTANTS),
        *((darktable, CHART, mutant) for mutant in ("matrix transposed", "CFA one row on", "neutral 5 % off")),
        *((rawtherapee, UNKNOWN, mutant) for mutant in ("matrix transposed", "CFA one row on", "neutral 5 % off")),
    ],
)
def test_wrong_colours_are_noticed(
    converted: dict[str, Converted], tmp_path: Path, reader: Reader, name: str, mutant: str
) -> None:
    one = converted[name]
    wrong = replace(one.raw, canonical=MUTANTS[mutant](one.raw.canonical))
    paramisp.write(wrong, tmp_path / "wrong.dng")
    off = differences(reader(tmp_path / "wrong.dng", tmp_path), one.upright)
    print(f"{reader.__name__} {mutant}: mean {off.mean():.2f}, 98 % {np.percentile(off, 98):.2f} codes")
    assert off.mean() > MEAN_TOLERANCE


@no_jpegs
@pytest.mark.parametrize("orientation", [1, 3, 8])
def test_wrong_orientation_is_noticed(converted: dict[str, Converted], tmp_path: Path, orientation: int) -> None:
    one = converted["Canon_Powershot_SX150IS_IMG_1037"]
    assert one.raw.orientation == 6
    paramisp.write(replace(one.raw, orientation=orientation), tmp_path / "wrong.dng")
    developed = dcraw(tmp_path / "wrong.dng", tmp_path)
    assert developed.codes.shape != one.upright.shape or not same_colours(developed, one.upright)


# ---- and back ------------------------------------------------------------------------------------------------------


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """[dB] of uint8 pictures; infinite if they are equal."""
    error = np.square(a.astype(np.float32) - b).mean(dtype=np.float64)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def without_demosaicing(
    pixels: np.ndarray, raw: paramisp.RawImage, monkeypatch: pytest.MonkeyPatch
) -> tuple[np.ndarray, np.ndarray]:
    """((H, W, 3) uint8, (H, W) bool): the round trip with all three colours kept everywhere, and what is too bright.

    Too bright: outside what white-balanced camera RGB can hold, or of a grey above 0.9, where Brooks et al. bend the
    gains so that white stays white.
    """
    params = Params.of(raw.canonical, raw.optical)
    x = torch.from_numpy(pixels / np.float32(255 if pixels.dtype == np.uint8 else 65535)).permute(2, 0, 1)[None]
    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(isp, "mosaic", lambda rgb, cfa: rgb)
        patch.setattr(isp, "demosaic", lambda rgb, cfa: rgb)
        back = Parametric(Direction.RENDER).compute(Parametric(Direction.UNPROCESS).compute(x, params), params)
        linear = isp.srgb_decode(isp.inverse_smoothstep(x))
        camera = isp.apply_matrix(linear, torch.linalg.inv(params.cam_to_srgb))
    bright = ((camera < -1e-6) | (camera > 1 + 1e-6)).any(1) | (camera.mean(1) > 0.9)
    return (back[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy(), bright[0].numpy()


@no_jpegs
def test_what_the_round_trip_costs(converted: dict[str, Converted], monkeypatch: pytest.MonkeyPatch) -> None:
    """render(unprocess(photo)) against the photo: what is lost is lost to demosaicing and clipping alone.

    The columns: the whole round trip; without demosaicing (a sample of the rows); how many of those pixels are too
    bright to be kept, and how many of them come back changed at all.
    """
    print(f"\n{'photo':44} {'PSNR [dB]':>9} {'no mosaic':>9} {'bright':>8} {'changed':>8}")
    for name, one in converted.items():
        picture = paramisp.render(one.dng, PARAMETRIC)
        assert picture.pixels.shape == one.upright.shape, name
        full = psnr(picture.pixels, one.upright)
        sample = one.image.pixels[:: max(1, one.raw.mosaic.size // 500_000)]
        stored = np.rint(sample / 257).astype(np.uint8) if sample.dtype == np.uint16 else sample
        back, bright = without_demosaicing(sample, one.raw, monkeypatch)
        changed = (back != stored).any(2)
        alone = psnr(back, stored)
        print(f"{name:44} {full:9.1f} {alone:9.1f} {bright.mean():8.2%} {changed.mean():8.2%}")
        assert full > LEAST_PSNR, name
        assert alone > 60, name
        off = np.abs(back.astype(int) - stored)[~bright]
        assert off.max() <= 1, name  # a tie of 16-bit pixels may be rounded the other way
        assert (off > 0).mean() < 1e-3, name


LEAST_PSNR = 28.0


# ---- RAW → picture beside the camera's own JPEG ---------------------------------------------------------------------


def camera_jpeg(path: Path, raw: paramisp.RawImage) -> Image.Image | None:
    """The JPEG of the same shot, upright: the file beside the RAW, else the one inside."""
    beside = path.with_suffix(".JPG")
    if beside.exists():
        with Image.open(beside) as jpeg:
            return ImageOps.exif_transpose(jpeg).convert("RGB")
    if raw.metadata.jpeg is None:
        return None
    jpeg = Image.open(io.BytesIO(raw.metadata.jpeg))
    if 0x0112 not in jpeg.getexif():
        jpeg.getexif()[0x0112] = raw.orientation
    return ImageOps.exif_transpose(jpeg).convert("RGB")


FULL_SIZE = {"GOPR8508", "GOPR8513", "canon_eos_60d", "canon_powershot_g10", "canon_eos_5d_mark_iv"}


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image with an EXIF orientation applied."""
    image = image.copy()
    image.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(image)


def likeness(a: Image.Image, b: Image.Image) -> float:
    """Correlation of small grey versions, stretched to one shape."""
    small = [np.asarray(image.convert("L").resize((96, 64), Image.Resampling.BOX), np.float64) for image in (a, b)]
    return float(np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1])


@no_raws
@pytest.mark.parametrize("path", RAWS, ids=lambda path: path.stem)
def test_a_raw_comes_out_as_its_camera_jpeg_lies(path: Path) -> None:
    raw = paramisp.read(path)
    assert isinstance(raw, paramisp.RawImage)
    jpeg = camera_jpeg(path, raw)
    if jpeg is None:
        pytest.skip("no JPEG of the same shot")
    picture = paramisp.render(raw, PARAMETRIC)
    rendered = Image.fromarray(picture.pixels)
    if path.stem in FULL_SIZE:
        assert rendered.size == jpeg.size
    else:
        assert rendered.size[0] / rendered.size[1] == pytest.approx(jpeg.size[0] / jpeg.size[1], rel=0.02)
    alike = [likeness(turned(rendered, orientation), jpeg) for orientation in range(1, 9)]
    print(path.stem, rendered.size, jpeg.size, np.round(alike, 3))
    assert int(np.argmax(alike)) == 0
    assert alike[0] > 0.9


@no_raws
def test_the_mirrored_raw_is_mirrored() -> None:
    """HERO7: the DNG's pixels lie mirrored (Orientation 2); shown as they lie, they fit the JPEG worse."""
    path = SHARED / "gopro_hero7_black" / "GOPR8508.DNG"
    if not path.exists():
        pytest.skip("GOPR8508.DNG is not there")
    raw = paramisp.read(path)
    assert isinstance(raw, paramisp.RawImage)
    assert raw.orientation == 2
    wrong = Image.fromarray(paramisp.render(replace(raw, orientation=1), PARAMETRIC).pixels)
    jpeg = camera_jpeg(path, raw)
    assert jpeg is not None
    assert likeness(turned(wrong, 2), jpeg) > likeness(wrong, jpeg) + 0.1
