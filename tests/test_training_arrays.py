"""Arrays and patches of the commands: `unprocess --format npy`, `render` of arrays, folders, what exists already."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import paramisp_cli as paramisp
from paramisp_cli import formats, patches
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, Crop, RawImage

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
D90 = {
    "0th": {0x010F: b"NIKON CORPORATION", 0x0110: b"NIKON D90"},
    "Exif": {0x829A: (1, 125), 0x829D: (28, 10), 0x8827: 400, 0x920A: (35, 1)},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, make_jpeg):
    """A working folder with photo.jpg, 101×75, and photos/: a.jpg 101×75, b.jpg 40×30."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name, size in (("photo", (75, 101)), ("photos/a", (75, 101)), ("photos/b", (30, 40))):
        pixels = np.clip(rng.normal(110, 45, (*size, 3)), 0, 255).astype(np.uint8)
        make_jpeg(tmp_path / f"{name}.jpg", pixels, exif=D90)
    return tmp_path


Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(paramisp) -> Run:
    """Run the command line, check its exit code, and return stdout and stderr."""

    def call(*words: object, code: int = 0) -> SimpleNamespace:
        got, out, err = paramisp(*words)
        assert got == code, err
        return SimpleNamespace(stdout="\n".join(out), stderr="\n".join(err))

    return call


@pytest.fixture
def unprocess(run) -> Run:
    """Run `unprocess` with a model that needs no weights."""
    return lambda *words, code=0: run("unprocess", *words, "--model", "parametric", code=code)


def pixels_of(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def names(place: str, ending: str = "") -> list[str]:
    return sorted(path.name for path in Path(place).iterdir() if path.name.endswith(ending))


# --- one file ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", ["parametric", "fast"])
def test_an_array_renders_as_the_dng_of_its_mosaic_does(unprocess, run, model):
    for cfa in ("BGGR", "GRBG"):
        unprocess("photo.jpg", "-o", "x.dng", "--cfa", cfa, "--on-exists", "overwrite")
        run("render", "x.dng", "-o", f"{cfa}.png", "--model", model)
        for suffix in ("npy", "npz", "tif"):
            for layout in ("mosaic", "packed"):
                path = f"{cfa}-{layout}.{suffix}"
                unprocess("photo.jpg", "-o", path, "--cfa", cfa, "--layout", layout)
                run("render", path, "-o", f"{path}.png", "--model", model)
                np.testing.assert_array_equal(pixels_of(f"{path}.png"), pixels_of(f"{cfa}.png"), path)


@pytest.mark.slow
def test_three_colours_render_as_the_linear_dng_does(unprocess, run):
    unprocess("photo.jpg", "-o", "x.dng", "--linear")
    run("render", "x.dng", "-o", "x.png", "--model", "parametric")
    for suffix in ("npy", "npz", "tif"):
        unprocess("photo.jpg", "-o", f"x.{suffix}", "--layout", "rgb")
        run("render", f"x.{suffix}", "-o", f"{suffix}.png", "--model", "parametric")
        np.testing.assert_array_equal(pixels_of(f"{suffix}.png"), pixels_of("x.png"))


@pytest.mark.parametrize("values", [{}, {"iso": 3201, "exposure_time": 1 / 3, "f_number": 1.7, "focal_length": 4.38}])
def test_parameters_of_an_array_are_those_of_the_dng(values):
    """Bit for bit, in the library: also where the settings replace EXIF's."""
    settings = paramisp.Settings(model="parametric", wb=(2.123456, 1, 1.654321), exposure=0.7, **values)
    raw = paramisp.unprocess("photo.jpg", settings)
    paramisp.write(raw, "x.dng")
    paramisp.write(raw, "x.npy")
    dng, array = paramisp.read("x.dng"), paramisp.read("x.npy")
    assert isinstance(dng, RawImage)
    assert isinstance(array, RawImage)
    for name in ("cfa", "white_level"):
        assert getattr(array.canonical, name) == getattr(dng.canonical, name)
    for name in ("black_level", "as_shot_neutral", "color_matrix"):
        np.testing.assert_array_equal(getattr(array.canonical, name), getattr(dng.canonical, name))
    for name in ("optical", "camera", "orientation", "baseline_exposure", "model"):
        assert getattr(array, name) == getattr(dng, name), name
    np.testing.assert_array_equal(array.noise_profile, dng.noise_profile)


@pytest.mark.slow
def test_any_parameters_of_an_array_are_those_of_the_dng():
    rng = np.random.default_rng(0)
    raw = paramisp.unprocess(np.full((24, 24, 3), 90, np.uint8), paramisp.Settings(model="parametric"))
    for _ in range(40):
        numbers = 10 ** rng.uniform((1, -5, -0.3, 0), (6, 2.5, 1.7, 3.2))
        optical = paramisp.OpticalParams(*(float(n) if rng.random() < 0.8 else None for n in numbers))
        black, white = rng.integers(0, 2000, (2, 2)).astype(float), float(rng.uniform(3000, 65535))
        neutral = rng.uniform(0.2, 1, 3) * 10 ** rng.uniform(-3, 3)
        canonical = CanonicalParams("GRBG", black, white, neutral, MATRIX * rng.uniform(0.7, 1.3, (3, 3)))
        shot = replace(raw, optical=optical, canonical=canonical, baseline_exposure=float(rng.uniform(-4, 4)))
        for name in ("any.dng", "any.npz"):
            paramisp.write(shot, name, overwrite=True)
        one, other = paramisp.read("any.dng"), paramisp.read("any.npz")
        assert isinstance(one, RawImage)
        assert isinstance(other, RawImage)
        assert (one.optical, one.baseline_exposure) == (other.optical, other.baseline_exposure)
        for name in ("black_level", "white_level", "as_shot_neutral", "color_matrix"):
            np.testing.assert_array_equal(getattr(one.canonical, name), getattr(other.canonical, name))


def test_the_record_of_a_made_raw_tells_its_origin_and_nothing_private(make_jpeg, tmp_path):
    exif = {**D90, "GPS": {1: b"N", 2: ((48, 1), (51, 1), (0, 1))}}
    exif["0th"] = {**D90["0th"], 0x013B: b"Jane Doe"}
    make_jpeg(tmp_path / "private.jpg", exif=exif)
    raw = paramisp.unprocess("private.jpg", paramisp.Settings(model="parametric"))
    for suffix in ("npy", "npz", "tif"):
        paramisp.write(raw, f"x.{suffix}")
        back = paramisp.read(f"x.{suffix}")
        assert isinstance(back, RawImage)
        assert formats.provenance.made_by(back.metadata.xmp) == formats.provenance.made_by(raw.metadata.xmp)
        assert formats.xmp.read(back.metadata.xmp).source_types == [formats.provenance.ALTERED]
    files = [path.read_bytes() for path in tmp_path.glob("x.*")]
    assert len(files) == 4
    assert not any(b"Jane" in data or "Jane".encode("utf-32-le") in data for data in files)
    picture = paramisp.render("x.npz", paramisp.Settings(model="parametric"))
    assert b"unprocess" in picture.metadata.xmp
    assert b"render" in picture.metadata.xmp


def test_floats_have_black_zero_and_white_one(unprocess):
    settings = paramisp.Settings(model="parametric", bit_depth=32)
    raw = paramisp.unprocess("photo.jpg", settings)
    unprocess("photo.jpg", "-o", "x.npy", "--bits", "32")
    array = np.load("x.npy")
    np.testing.assert_array_equal(array, raw.cropped().mosaic)
    assert array.dtype == np.float32
    whole = paramisp.unprocess("photo.jpg", paramisp.Settings(model="parametric"))
    codes = (
        array * (whole.canonical.white_level - whole.canonical.black_level[0, 0]) + whole.canonical.black_level[0, 0]
    )
    assert np.abs(codes - whole.cropped().mosaic).max() <= 0.51


def test_levels_and_hashes(unprocess):
    unprocess("photo.jpg", "-o", "x.npz", "--layout", "packed", "--levels", "64,1023", "--cfa", "RGGB")
    with np.load("x.npz") as found:
        assert found["raw"].shape == (38, 51, 4)
        assert found["max_val"] == 1023
        assert found["black_level"].tolist() == [64] * 4
        assert 64 <= found["raw"].min() < found["raw"].max() <= 1023
        record = json.loads(str(found["record"]))
    assert record["source_sha256"] == hashlib.sha256(Path("photo.jpg").read_bytes()).hexdigest()
    assert record["source"] == "photo.jpg"
    assert record["origin"]["black_level"] == "flag"
    unprocess("photo.jpg", "-o", "y.npy", "--layout", "rgb", "--levels", "0,4095")
    assert json.loads(Path("y.npy.json").read_text())["white_level"] == 4095
    raw = paramisp.read("x.npz")
    with pytest.raises(ConfigError, match="`levels` is for `unprocess`"):
        paramisp.render(raw, paramisp.Settings(levels=(0, 4095)))
    for levels in ((5, 5), (-1, 5), (0, 65536), (float("nan"), 5), (0, float("inf")), (0.5, 9), (1, 2, 3)):
        with pytest.raises(ConfigError, match="`levels` takes whole numbers"):
            paramisp.Settings(levels=levels)


@pytest.mark.slow
def test_small_pictures(unprocess, make_jpeg, tmp_path):
    """An array holds the picture, rounded up to even sides; a DNG would be padded."""
    for size in ((1, 1), (1, 7), (3, 2)):
        make_jpeg(tmp_path / "small.jpg", np.full((*size, 3), 100, np.uint8))
        for layout in ("mosaic", "packed", "rgb"):
            unprocess("small.jpg", "-o", "small.npy", "--layout", layout, "--on-exists", "overwrite")
            back = paramisp.read("small.npy")
            assert isinstance(back, RawImage)
            assert back.size == size
            assert back.mosaic.shape == tuple(side + side % 2 for side in size)
            picture = paramisp.render("small.npy", paramisp.Settings(model="parametric"))
            assert picture.pixels.shape == (*size, 3)


def test_an_orientation_is_recorded_and_not_applied(unprocess, make_jpeg, tmp_path):
    make_jpeg(tmp_path / "turned.jpg", exif={"0th": {0x0112: 6}})
    unprocess("turned.jpg", "--format", "npy")
    assert np.load("turned.npy").shape == (48, 64)
    assert json.loads(Path("turned.npy.json").read_text())["orientation"] == 6
    assert paramisp.render("turned.npy", paramisp.Settings(model="parametric")).pixels.shape == (64, 48, 3)


@pytest.mark.slow
def test_stdout_takes_an_archive():
    with Path("x.npz").open("wb") as file:
        words = [sys.executable, "-m", "paramisp_cli", "unprocess", "photo.jpg", "-o", "-", "--format", "npz"]
        subprocess.run([*words, "--model", "parametric"], stdout=file, check=True, stderr=subprocess.PIPE)
    assert isinstance(paramisp.read("x.npz"), RawImage)


def test_inspect_shows_an_array(unprocess, run):
    unprocess("photo.jpg", "--format", "npy")
    shown = run("inspect", "photo.npy").stdout
    assert "RAW, 101 × 75" in shown
    assert "NIKON D90" in shown
    assert "the record of the array" in shown


# --- wrong usage, bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--layout", "packed"), "--layout packed is for an array, not for a DNG"),
        (("--bits", "32"), "--bits 32 is for an array, not for a DNG"),
        (("--format", "npy", "--bits", "8"), "--bits takes 16 or 32, not 8"),
        (("--format", "npy", "--linear", "--layout", "packed"), "--linear is --layout rgb"),
        (("--format", "npy", "--profile", "linear"), "are for a DNG"),
        (("--format", "npy", "--compression", "none"), "are for a DNG"),
        (("--format", "npy", "--no-embed-jpeg"), "are for a DNG"),
        (("--format", "npy", "--layout", "rgb", "--cfa", "RGGB"), "--linear: a RAW of three colours"),
        (("--stride", "8"), "--stride is the step between patches; pass --patch"),
        (("--format", "npy", "--patch", "0"), "--patch must be at least 1, got 0"),
        (("--format", "npy", "--patch", "31"), "--patch must be even"),
        (("--format", "npy", "--patch", "32", "--stride", "5"), "--stride must be even"),
        (("--format", "npy", "-o", "-"), "-o -: stdout holds one file"),
        (("--format", "npz", "-o", "x.npy"), "-o x.npy contradicts --format npz"),
        (("--format", "npy", "-o", "x.jpg"), "unprocess writes .dng, .npy"),
        (("--format", "npy", "--camera", "Nonesuch"), "not in the camera table"),
        (("--levels", "9"), "is not two levels BLACK,WHITE"),
        (("--levels", "9,8"), "--levels takes whole numbers"),
    ],
)  # fmt: skip
def test_wrong_usage(unprocess, words, reason):
    done = unprocess("photo.jpg", *words, code=2)
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert names(".") == ["photo.jpg", "photos"]


def test_bad_arrays_give_one_line_and_code_seven(unprocess, run):
    unprocess("photo.jpg", "-o", "x.npy")
    data = Path("x.npy").read_bytes()
    Path("x.npy").write_bytes(data[: len(data) // 2])
    done = run("render", "x.npy", code=7)
    count = f"the array has {len(data) // 2} of {len(data)} bytes"
    assert done.stderr.strip() == f"paramisp: x.npy: {count}; it is damaged, or its writer was interrupted"
    np.save("y.npy", np.zeros((4, 4), np.uint16))
    assert "y.npy: has no y.npy.json beside it" in run("render", "y.npy", code=7).stderr
    Path("x.npy").write_bytes(data)
    assert "is a RAW file; `paramisp render` converts it" in unprocess("x.npy", "-o", "z.dng", code=7).stderr
    assert names(".") == ["photo.jpg", "photos", "x.npy", "x.npy.json", "y.npy"]


# --- patches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_patches_are_those_of_the_picture(cfa):
    """Of any crop: each patch is the picture's at its place, with its CFA and levels."""
    rng = np.random.default_rng(3)
    canonical = CanonicalParams(cfa, [[1, 2], [3, 4]], 999, (0.5, 1, 0.6), MATRIX)
    for crop in (None, Crop(1, 3, 39, 44), Crop(2, 1, 31, 33), Crop(9, 9, 31, 35)):
        raw = RawImage(rng.integers(0, 999, (40, 60)).astype(np.uint16), canonical, crop=crop)
        grid = patches.Grid(8, 6)
        own, (height, width) = raw.cropped(), patches.size_of(raw)
        found = list(patches.cut(raw, grid))[::-1]
        assert [each.patch.number for each in found] == list(range(len(found)))
        assert len(found) == ((height - 8) // 6 + 1) * ((width - 8) // 6 + 1)
        down, right = own.crop.top + own.crop.top % 2, own.crop.left + own.crop.left % 2
        for each in found:
            top, left = each.patch.top + down, each.patch.left + right
            np.testing.assert_array_equal(each.mosaic, own.mosaic[top : top + 8, left : left + 8])
            assert each.canonical.cfa == own.canonical.cfa
            np.testing.assert_array_equal(each.canonical.black_level, own.canonical.black_level)
            assert each.crop == Crop(0, 0, 8, 8)
            assert each.patch.count == len(found)
            assert top + 8 <= own.crop.top + own.crop.height
            assert left + 8 <= own.crop.left + own.crop.width
        rows, columns = grid.unused(height, width)
        assert 0 <= rows < 6
        assert 0 <= columns < 6


def test_a_picture_smaller_than_a_patch():
    with pytest.raises(FormatError, match=r"its 60×40 pixels hold no patch of 64×64: pass a smaller `patch`"):
        patches.Grid(32, 32, 2).check(40, 60)


def test_a_folder_in_patches(unprocess, run):
    done = unprocess("photos", "-o", "set", "--format", "npy", "--layout", "packed", "--patch", "16", "--json", code=1)
    assert "photos/b.jpg: its 40×30 pixels hold no patch of 32×32: pass a smaller --patch" in done.stderr
    assert names("set", ".npy") == [f"a_{number:03d}.npy" for number in range(6)]
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert second["status"] == "failed"
    assert first["notices"][-1] == "6 patches; dropped 5 columns at the right and 11 rows at the bottom"
    assert [each["file"] for each in first["files"]] == [f"set/a_{number:03d}.npy" for number in range(6)]
    whole = paramisp.unprocess("photos/a.jpg", paramisp.Settings(model="parametric"))
    for each in first["files"]:
        array, place = np.load(each["file"]), each["patch"]
        assert array.shape == (16, 16, 4)
        assert each["sha256"] == hashlib.sha256(array.tobytes()).hexdigest()
        record = json.loads(Path(f"{each['file']}.json").read_text())
        assert record["patch"] == place
        assert record["source"] == "a.jpg"
        top, left = place["top"], place["left"]
        back = paramisp.read(each["file"])
        assert isinstance(back, RawImage)
        np.testing.assert_array_equal(back.mosaic, whole.mosaic[top : top + 32, left : left + 32])
    rendered = run("render", "set", "-o", "back", "--format", "png", "--model", "parametric")
    assert names("back") == [f"a_{number:03d}.png" for number in range(6)]
    assert "left out" not in rendered.stderr  # the records


@pytest.mark.slow
def test_folders_of_tiffs_are_sorted_out(unprocess, run):
    """A TIFF is rendered if it is an array, and unprocessed if it is a picture."""
    unprocess("photos", "-o", "set", "--format", "tif")
    run("render", "photo.jpg", code=7)
    Image.fromarray(np.full((30, 30, 3), 99, np.uint8)).save("set/picture.tif")
    assert sorted(names("set")) == ["a.tif", "b.tif", "picture.tif"]
    assert run("render", "set", "-o", "back", "--model", "parametric").stdout.split() == ["back/a.jpg", "back/b.jpg"]
    done = unprocess("set", "-o", "raws")
    assert done.stdout.split() == ["raws/picture.dng"]
    assert "left out 2 files: 2 RAW (`paramisp render` converts them)" in done.stderr


@pytest.mark.slow
def test_patches_that_exist(unprocess, tmp_path):
    words = ("photo.jpg", "-o", "set", "--format", "npz", "--patch", "32")
    unprocess(*words)
    before = {path: path.stat().st_mtime_ns for path in Path("set").iterdir()}
    assert len(before) == 6
    assert "photo_000.npz: exists already" in unprocess(*words, code=6).stderr
    unprocess(*words, "--on-exists", "skip")
    assert {path: path.stat().st_mtime_ns for path in Path("set").iterdir()} == before
    # An interrupted run leaves the last patches without the first: the picture is done again.
    Path("set/photo_000.npz").unlink()
    assert "exists already; pass --on-exists skip or overwrite" in unprocess(*words, code=6).stderr
    unprocess(*words, "--on-exists", "skip")
    assert len(names("set")) == 6
    # Larger patches are fewer: none of the smaller ones stays. A foreign file and another picture's do.
    np.savez("set/photo_007.npz", raw=np.zeros(3))
    Path("set/photo_5.npz").write_bytes(b"x")
    unprocess("photo.jpg", "-o", "set/photo_009.npz")
    unprocess(*words[:-1], "48", "--on-exists", "overwrite")
    assert names("set") == ["photo_000.npz", "photo_001.npz", "photo_007.npz", "photo_009.npz", "photo_5.npz"]
    np.savez("set/photo_001.npz", raw=np.zeros(3))
    assert "photo_001.npz: was not made by paramisp" in unprocess(*words, "--on-exists", "overwrite", code=6).stderr
    unprocess(*words, "--on-exists", "overwrite", "--overwrite-foreign")
    assert len(names("set")) == 9
    unprocess(*words, "--on-exists", "rename")
    assert "photo-1_005.npz" in names("set")


@pytest.mark.slow
def test_patches_as_dng(unprocess):
    unprocess("photo.jpg", "-o", "set", "--patch", "32")
    raw = paramisp.read("set/photo_005.dng")
    assert isinstance(raw, RawImage)
    assert raw.size == (32, 32)
    assert raw.metadata.jpeg is None or len(raw.metadata.jpeg) < 2000  # the photo is not in each of its patches
    unprocess("photo.jpg", "-o", "set", "--patch", "32", "--on-exists", "skip")
    unprocess("photo.jpg", "-o", "set", "--patch", "32", "--on-exists", "overwrite")
    assert len(names("set")) == 6


def test_a_dry_run_writes_nothing(unprocess):
    done = unprocess("photos", "-o", "set", "--format", "npy", "--patch", "32", "--dry-run", code=1)
    assert "b.jpg: its 40×30 pixels hold no patch" in done.stderr
    assert done.stdout == "set/a_000.npy"
    assert not Path("set").exists()


def test_untrusted_arrays_are_read_in_a_process_of_their_own():
    raw = paramisp.unprocess("photo.jpg", paramisp.Settings(model="parametric"))
    (patch, *_) = patches.cut(raw, patches.Grid(32, 32))
    paramisp.write(patch, "x.tif")
    back = formats.read("x.tif", isolate=True)
    assert isinstance(back, RawImage)
    assert back.patch == patch.patch
    np.testing.assert_array_equal(back.mosaic, patch.mosaic)


@pytest.mark.slow
def test_a_raw_that_a_jpeg_carries_becomes_an_array(unprocess, run):
    """Its levels are its own, and so is its size; other levels make a new RAW of the picture."""
    unprocess("photo.jpg", "-o", "x.dng")
    run("render", "x.dng", "-o", "carrying.jpg", "--keep-raw", "lossless", "--model", "parametric")
    run("unprocess", "carrying.jpg", "-o", "back.npy")
    original, back = paramisp.read("x.dng"), paramisp.read("back.npy")
    assert isinstance(original, RawImage)
    assert isinstance(back, RawImage)
    np.testing.assert_array_equal(back.mosaic, original.cropped().mosaic)
    record = json.loads(Path("back.npy.json").read_text())
    assert record["source_sha256"] == hashlib.sha256(Path("carrying.jpg").read_bytes()).hexdigest()
    run("unprocess", "carrying.jpg", "-o", "set", "--format", "npz", "--patch", "32")
    assert len(names("set")) == 6
    done = run("unprocess", "carrying.jpg", "-o", "other.npy", "--levels", "0,4095")
    assert "carries its RAW, which was not used because of --levels" in done.stderr
    assert (
        "--levels: the RAW in a JPEG has its own"
        in run("unprocess", "carrying.jpg", "-o", "y.npy", "--levels", "0,4095", "--kept-raw", code=2).stderr
    )
