"""The confidence map: its calibration, its causes, its files, and the ways to ask for it."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import paramisp_cli as package
from paramisp_cli import cameras, confidence, make_raw, weights
from paramisp_cli.errors import ConfigError, FormatError, MetadataError, OutputExistsError
from paramisp_cli.formats import confidence_map, jpeg
from paramisp_cli.rendition import develop, parametric
from paramisp_cli.types import CanonicalParams, Confidence, Crop, RawImage

FAST = package.Settings(model="parametric", camera="Canon EOS 60D", iso=400, confidence=True)
CANONICAL = CanonicalParams(
    "RGGB",
    np.zeros((2, 2)),
    4095,
    np.array([0.5, 1.0, 0.65]),
    np.array([[0.67, -0.03, -0.1], [-0.43, 1.2, 0.25], [-0.1, 0.2, 0.6]]),
)


def scene(height=160, width=200, seed=0):
    """A mosaic, black 0 and white 1: soft light over patches with edges, some of them dark."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    light = 0.25 + 0.2 * np.sin(y / 31) * np.cos(x / 23)
    patches = rng.uniform(0.1, 1.4, (height // 20, width // 20)).repeat(20, 0).repeat(20, 1)
    return np.clip(light * patches * np.tile([[0.5, 1.0], [1.0, 0.65]], (height // 2, width // 2)), 0, 1)


def shown(mosaic, curve=lambda code: code):
    """The picture of a mosaic by a camera that is the parametric one but for its curve of codes."""
    raw = RawImage(np.rint(mosaic * 4095).astype(np.uint16), CANONICAL)
    codes = develop.develop(raw, parametric.ParametricRender(CANONICAL), dtype=np.float32)
    return np.rint(255 * np.clip(curve(codes), 0, 1)).astype(np.uint8)


PLAIN = confidence.Source()


def measured(pixels, source=PLAIN, level=0.9, **options):
    made = develop.expose(
        pixels, parametric.ParametricUnprocess(CANONICAL), CANONICAL, pixels.shape[:2], dtype=np.float32
    )
    return made, confidence.measure(pixels, made, CANONICAL, "parametric", source, level=level, **options).half_width


# --- calibration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bend", [0.85, 1.0, 1.15])
def test_errors_of_a_made_up_camera_lie_inside_as_often_as_stated_or_more(bend):
    """The camera's curve is the assumed one or a bent one; its RAW is known, with noise that the picture lacks."""
    noise = cameras.find_by_name("Canon EOS 60D").noise_profile(400)
    clean = scene()
    made, width = measured(shown(clean, lambda code: code**bend), confidence.Source(noise=noise))
    true = clean + np.sqrt(noise[1, 0] * clean + noise[1, 1]) * np.random.default_rng(1).normal(size=clean.shape)
    bright = made > 0.02
    gain = np.exp(np.median(np.log(np.maximum(true[bright], 1e-4) / made[bright])))
    errors = np.abs(true - gain * made) / (gain * made + confidence.FLOOR)
    inside = (errors <= width).mean()
    assert inside >= 0.85, f"{inside:.3f} of the errors lie inside"
    assert np.median(width) < 1, "wide enough for anything tells nothing"


def test_levels_are_nested():
    pixels = shown(scene())
    half, usual, most = (measured(pixels, level=level)[1] for level in confidence.LEVELS)
    assert (half < usual).all()
    assert (usual < most).all()


@pytest.fixture
def bench(monkeypatch):
    """The program that fits and measures the map."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "bench"))
    return importlib.import_module("confidence_table")


@pytest.mark.slow
def test_the_fit_finds_the_causes_and_states_true_shares(bench):
    """Made-up errors whose scale is a known budget: a fit on six cameras states the shares of a seventh."""
    rng = np.random.default_rng(3)
    truth = np.zeros(len(confidence.TERMS))
    truth[[0, 2, 3]] = 0.02, 0.6, 1.0

    def photo(camera):
        terms = rng.lognormal(-3, 1, (4000, len(truth))).astype(np.float32)
        terms[:, 0] = 1
        errors = np.abs(rng.laplace(size=4000)) * np.sqrt((terms**2) @ truth**2)
        return bench.Measured(f"{camera}", camera, "parametric", "", terms, errors, 0.0)

    found = bench.fit([photo(f"camera {number}") for number in range(4)])
    assert found.weights[[2, 3]] == pytest.approx(truth[[2, 3]], rel=0.15)
    others = np.delete(found.weights, [0, 2, 3])
    assert others.max() < 0.2
    for share, level in zip(found.shares(photo("another")), confidence.LEVELS, strict=True):
        assert share == pytest.approx(level, abs=0.03)


def test_rising_fit_is_isotonic(bench):
    assert bench.rising_fit(np.array([1.0, 3, 2, 2, 5, 4])).tolist() == pytest.approx(
        [1, 7 / 3, 7 / 3, 7 / 3, 4.5, 4.5]
    )


def test_the_shipped_numbers_rise_and_are_not_negative():
    for kind in (confidence.PARAMETRIC, confidence.KNOWN, confidence.UNKNOWN):
        own = confidence._constants()[kind]
        assert len(own["weights"]) == len(confidence.TERMS)
        assert min(own["weights"]) >= 0
        assert (np.diff(own["knots"]) > 0).all()
        for level in confidence.LEVELS:
            assert (np.diff(own["widths"][f"{level:g}"]) >= 0).all()
        assert 0 < own["scale_ev"] < 3


def test_a_network_that_never_saw_the_camera_is_less_certain():
    pixels = shown(scene())
    made, _ = measured(pixels)
    known, unknown = (
        confidence.measure(pixels, made, CANONICAL, "fast", PLAIN, known=known) for known in (True, False)
    )
    assert np.median(unknown.half_width) > np.median(known.half_width)
    assert unknown.scale_ev > known.scale_ev


def test_weights_tell_which_cameras_they_saw():
    generic = Path(__file__).parents[1] / "weights" / "fast" / "generic.unprocess.safetensors"
    own = generic.with_name("canon-eos-60d.unprocess.safetensors")
    seen, unseen = package.Camera("Canon", "Canon EOS 60D"), package.Camera("Canon", "Canon EOS 5D")
    assert weights.has_seen(generic, seen)
    assert not weights.has_seen(generic, unseen)
    assert not weights.has_seen(generic, None)
    assert weights.has_seen(own, seen)
    assert not weights.has_seen(own, unseen)


# --- causes -----------------------------------------------------------------------------------------------------------


def test_clipped_areas_are_the_least_certain():
    pixels = np.full((80, 120, 3), 150, np.uint8)
    pixels[20:60, 40:90] = 255
    _, width = measured(pixels)
    inside, outside = width[24:56, 44:86], width[:14]
    assert inside.min() > 2 * outside.max()
    red = np.full((80, 120, 3), 150, np.uint8)
    red[20:60, 40:90, 0] = 255
    _, of_red = measured(red)
    assert of_red[30, 60] > 1.5 * of_red[31, 61]  # RGGB: red is clipped, blue is not


def test_coarser_steps_and_more_noise_never_gain_confidence():
    pixels = shown(scene())
    noise = np.tile([1e-5, 1e-7], (3, 1))
    fine = measured(pixels, confidence.Source(step=1 / 65535))[1]
    for coarse in (
        confidence.Source(step=1 / 255),
        confidence.Source(step=1 / 255, tables=(200.0, 600.0)),
        confidence.Source(step=1 / 65535, noise=noise),
    ):
        other = measured(pixels, coarse)[1]
        assert (other >= fine).all()
        assert other.mean() > fine.mean()
    little, much = (measured(pixels, confidence.Source(tables=(q, 3 * q)))[1] for q in (4.0, 900.0))
    assert (much >= little).all()
    assert (much > little).mean() > 0.1


def test_a_model_that_departs_from_the_formula_in_a_place_is_less_certain_there():
    pixels = shown(scene())
    made, _ = measured(pixels)
    local = made.copy()
    local[40:80, 60:120] *= 0.6
    plain, doubted = (confidence.measure(pixels, each, CANONICAL, "fast", PLAIN).half_width for each in (made, local))
    assert (doubted[44:76, 64:116] > plain[44:76, 64:116]).mean() > 0.99
    assert doubted[:30] == pytest.approx(plain[:30], rel=0.05)


@pytest.mark.slow
def test_exposure_and_codes_change_no_confidence():
    pixels = shown(scene())
    made, width = measured(pixels)
    darker = confidence.measure(pixels, made / 2, CANONICAL, "parametric", PLAIN, exposure=1.0).half_width
    assert darker == pytest.approx(width, rel=1e-4)
    codes = np.rint(made * 4095).astype(np.uint16)
    whole = confidence.measure(pixels, codes, CANONICAL, "parametric", PLAIN).half_width
    bright = made > 0.05
    assert whole[bright] == pytest.approx(width[bright], rel=0.05)


@pytest.mark.parametrize("size", [(61, 83), (24, 24), (200, 7)])
def test_bands_and_threads_change_no_bit(monkeypatch, size):
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    padded = tuple(max(side + side % 2, 24) for side in size)
    made = rng.uniform(0, 1, padded).astype(np.float32)
    whole = confidence.measure(pixels, made, CANONICAL, "fast", PLAIN, threads=1).half_width
    monkeypatch.setattr(confidence, "_BAND", padded[1])  # two rows of 2×2
    for threads in (1, 4):
        cut = confidence.measure(pixels, made, CANONICAL, "fast", PLAIN, threads=threads).half_width
        assert np.array_equal(cut, whole)
    assert np.isfinite(whole).all()
    assert whole.min() > 0


def test_quantisation_tables_of_a_jpeg(make_jpeg, tmp_path):
    coarse, fine = (make_jpeg(tmp_path / f"{quality}.jpg", quality=quality) for quality in (40, 98))
    for path in (coarse, fine):
        with Image.open(path) as picture:
            luma, chroma = (np.mean(np.square(table)) for table in picture.quantization.values())
        assert jpeg.mean_squares(path.read_bytes()) == pytest.approx((luma, chroma))
    assert jpeg.mean_squares(b"\xff\xd8\xff\xdb\x00\x05\x00\x01\x02") is None  # cut short
    assert jpeg.mean_squares(b"no JPEG") is None


# --- the library and the files ----------------------------------------------------------------------------------------


def test_unprocess_gives_the_map_beside_the_raw(make_jpeg, tmp_path):
    path = make_jpeg(tmp_path / "photo.jpg", exif={"0th": {274: 6}})
    raw = package.unprocess(path, FAST)
    own = raw.confidence
    assert isinstance(own, package.Confidence)
    assert own.half_width.shape == raw.mosaic.shape
    assert (own.level, own.orientation, own.crop) == (0.9, 6, raw.crop)
    assert not own.half_width.flags.writeable
    assert package.unprocess(path, replace(FAST, confidence=False)).confidence is None
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    assert package.unprocess(pixels, FAST).confidence is not None


def some_map(orientation=1):
    half = np.geomspace(0.004, 3, 24 * 30).reshape(24, 30).astype(np.float32)
    return Confidence(half, 0.9, confidence.FLOOR, 0.5, "fast", orientation, Crop(0, 0, 23, 29))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_png(tmp_path, orientation):
    own = some_map(orientation)
    package.write(own, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.mode == "P"
        about = json.loads(picture.text["Description"])
        codes = np.asarray(picture)
        palette = np.array(picture.getpalette()).reshape(-1, 3)
    worst = own.half_width.reshape(12, 2, 15, 2).max((1, 3)).repeat(2, 0).repeat(2, 1)[:23, :29]
    stored = {1: worst, 3: worst[::-1, ::-1], 6: worst.T[:, ::-1]}[orientation]
    assert codes.shape == stored.shape
    assert confidence_map.widths(codes) == pytest.approx(np.clip(stored, 0.01, 1), rel=0.01)
    assert palette[0].tolist() == list(confidence_map.COLOURS[0])
    assert palette[255].tolist() == [255, 255, 255]
    assert (np.diff(palette @ [0.21, 0.72, 0.07]) > 0).mean() > 0.95  # brighter is less certain
    assert (about["code_0"], about["code_255"], about["scale_ev"]) == (0.01, 1.0, 0.5)


def test_tiff(tmp_path):
    own = some_map(6)
    package.write(own, tmp_path / "map.tif")
    with tifffile.TiffFile(tmp_path / "map.tif") as file:
        page = file.pages[0]
        assert np.array_equal(page.asarray(), own.half_width)
        about = json.loads(page.description)
        assert page.software.startswith("paramisp ")
    assert about["paramisp"] == "confidence map"
    assert (about["level"], about["model"]) == (0.9, "fast")


def test_files_are_guarded(tmp_path):
    own = some_map()
    with pytest.raises(FormatError, match=r"map\.jpg: a confidence map is written as \.png, \.tif, \.tiff"):
        package.write(own, tmp_path / "map.jpg")
    (tmp_path / "map.png").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists already"):
        package.write(own, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_text() == "mine"
    with pytest.raises(MetadataError, match=r"half_width must be \(H, W\) float32"):
        replace(own, half_width=np.zeros((4, 4)))


@pytest.mark.parametrize(("name", "value"), [("linear", True), ("kept_raw", True), ("gain_map", "linear")])
def test_settings_that_do_not_go_with_a_map(name, value):
    with pytest.raises(ConfigError, match=f"`confidence`: .*; leave out `{name}`"):
        package.Settings(confidence=True, **{name: value})


def test_a_jpeg_with_its_raw_needs_no_map(make_jpeg, tmp_path):
    plain = replace(FAST, confidence=False)
    package.write(package.unprocess(make_jpeg(tmp_path / "photo.jpg"), plain), tmp_path / "shot.dng")
    raw = package.read(tmp_path / "shot.dng")
    package.write(
        package.render(raw, package.Settings(model="parametric")), tmp_path / "carries.jpg",
        package.WriteOptions(keep_raw="lossless"), raw=raw,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="carries the camera's own RAW"):
        package.unprocess(tmp_path / "carries.jpg", package.Settings(confidence=True))
    made = package.unprocess(tmp_path / "carries.jpg", replace(FAST, kept_raw=False))
    assert made.confidence is not None


def test_a_tiny_picture_has_a_map():
    raw = package.unprocess(np.full((3, 5, 3), 90, np.uint8), FAST)
    assert raw.confidence.half_width.shape == (make_raw.SMALLEST_MOSAIC, make_raw.SMALLEST_MOSAIC)
    assert raw.confidence.crop == Crop(0, 0, 3, 5)


# --- the command line -------------------------------------------------------------------------------------------------

WORDS = ("--model", "parametric", "--camera", "Canon EOS 60D", "--iso", "400")


def test_command_line(paramisp, make_jpeg, tmp_path):
    photo = make_jpeg(tmp_path / "photo.jpg")
    code, out, _ = paramisp("unprocess", photo, *WORDS, "--confidence", tmp_path / "map.tif", "--json")
    assert code == 0
    record = json.loads(out[0])["confidence"]
    assert record["file"] == str(tmp_path / "map.tif")
    assert record["scale_ev"] > 0
    whole = package.unprocess(photo, FAST).confidence.half_width
    assert np.array_equal(tifffile.imread(tmp_path / "map.tif"), whole)
    with tifffile.TiffFile(tmp_path / "map.tif") as file:
        assert json.loads(file.pages[0].description)["scale_ev"] == record["scale_ev"]


@pytest.mark.slow
def test_a_folder_with_maps_beside_the_outputs(paramisp, make_jpeg, tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.jpg"):
        make_jpeg(folder / name)
    again = ("unprocess", folder, "-r", *WORDS, "--confidence", "png")
    assert paramisp(*again)[0] == 0
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "a.jpg", "a.dng", "a.confidence.png", "deep/b.jpg", "deep/b.dng", "deep/b.confidence.png"
    }  # fmt: skip
    assert paramisp(*again)[0] != 0  # exist already
    assert paramisp(*again, "--on-exists", "skip")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert paramisp(*again, "--on-exists", "overwrite")[0] == 0
    assert all(path.stat().st_mtime_ns > then for path, then in before.items())
    code, out, _ = paramisp(*again, "--on-exists", "rename")
    assert code == 0
    assert len(out) == 2  # the maps are no inputs
    assert (folder / "a-1.confidence.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--confidence", "map.jpg"], "--confidence map.jpg: takes png or tif, or a file that ends in .png or .tif"),
        (["--confidence", "."], "is a folder; pass png or tif"),
        (["--confidence", "png", "--patch", "32", "--format", "npy"], "leave out --patch"),
        (["--confidence", "png", "-o", "-"], "lies beside the output"),
        (["--confidence", "png", "--linear"], "--confidence: the map has one value for each site of a mosaic"),
        (["--confidence", "photo.jpg.png", "--gain-map", "linear"], "leave out --gain-map"),
    ],
)
def test_wrong_words_are_one_line(paramisp, make_jpeg, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    make_jpeg(tmp_path / "photo.jpg")
    code, out, err = paramisp("unprocess", "photo.jpg", *WORDS[2:], *words)
    assert (code, out) == (2, [])
    assert message in err[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.jpg"]


def test_one_file_for_several_photos_is_refused(paramisp, make_jpeg, tmp_path):
    photos = [make_jpeg(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    code, _, err = paramisp("unprocess", *photos, *WORDS, "--confidence", tmp_path / "map.png")
    assert code == 2
    assert "is one file for 2 inputs; pass png or tif instead" in err[-1]


def test_a_map_replaces_neither_inputs_nor_foreign_files(paramisp, make_jpeg, tmp_path):
    pixels = np.full((32, 32, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    for more in ((), ("--on-exists", "overwrite"), ("--on-exists", "overwrite", "--overwrite-foreign")):
        words = ("unprocess", tmp_path / "photo.png", *WORDS, *more)
        code, _, err = paramisp(*words, "--confidence", tmp_path / "photo.png")
        assert code == 6
        assert "read by this command" in err[-1]
    (tmp_path / "mine.png").write_bytes(before)
    for more in ((), ("--on-exists", "overwrite"), ("--on-exists", "skip")):
        code, _, err = paramisp(
            "unprocess", tmp_path / "photo.png", *WORDS, *more, "--confidence", tmp_path / "mine.png"
        )
        assert code == 6, err
    assert not (tmp_path / "photo.dng").exists()
    assert (tmp_path / "mine.png").read_bytes() == before == (tmp_path / "photo.png").read_bytes()
    code, _, err = paramisp(
        "unprocess", tmp_path / "photo.png", *WORDS, "--format", "tif", "--confidence", tmp_path / "photo.tif"
    )
    assert code == 6
    assert "is an output itself" in err[-1]


def test_no_map_without_its_output(paramisp, make_jpeg, tmp_path, monkeypatch):
    photo = make_jpeg(tmp_path / "photo.jpg")
    from paramisp_cli import formats

    plain = formats.write

    def failing(image, path, *args, **named):
        if isinstance(image, RawImage):
            raise FormatError(f"{path}: a fault of the test")
        plain(image, path, *args, **named)

    monkeypatch.setattr(formats, "write", failing)
    code, _, _ = paramisp("unprocess", photo, *WORDS, "--confidence", "png")
    assert code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_dry_run_writes_nothing(paramisp, make_jpeg, tmp_path):
    photo = make_jpeg(tmp_path / "photo.jpg")
    code, out, _ = paramisp("unprocess", photo, *WORDS, "--confidence", "tif", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out[0])["confidence"] == {"file": str(tmp_path / "photo.confidence.tif")}
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.slow
def test_to_stdout_with_a_file(paramisp, make_jpeg, tmp_path):
    import subprocess
    import sys

    photo = make_jpeg(tmp_path / "photo.jpg")
    words = ["unprocess", photo, *WORDS, "-o", "-", "--confidence", tmp_path / "map.png"]
    done = subprocess.run(
        [sys.executable, "-m", "paramisp_cli", *map(str, words)], capture_output=True, check=True, timeout=100
    )
    assert done.stdout[:4] == b"II*\0"
    assert (tmp_path / "map.png").exists()


# --- batches of training programs -------------------------------------------------------------------------------------


def test_torch():
    import torch

    from paramisp_cli.torch import Made, Shots, Synthesize, Unprocess, pack

    pixels = np.stack([shown(scene(seed=seed))[:96, :128] for seed in (1, 2)])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    shots = Shots.cat([Shots.of("Canon EOS 60D", iso=400), Shots.of("Nikon D90", iso=1600)])
    packed = Unprocess("parametric", confidence=True)(batch, shots)
    assert isinstance(packed, Made)
    assert packed.raw.shape == packed.half_width.shape == (2, 4, 48, 64)
    mosaic = Unprocess("parametric", "mosaic", confidence=True)(batch, shots)
    assert torch.equal(pack(mosaic.half_width), packed.half_width)
    assert torch.equal(mosaic.raw, Unprocess("parametric", "mosaic")(batch, shots))
    for number in (0, 1):
        alone = confidence.measure(
            pixels[number], mosaic.raw[number, 0].numpy(), shots.canonical[number], "parametric",
            confidence.Source(noise=shots.noise[number].numpy()),
        )  # fmt: skip
        assert np.array_equal(alone.half_width, mosaic.half_width[number, 0].numpy())
    floats = (batch.float() / 255).requires_grad_()
    graded = Unprocess("parametric", confidence=True)(floats, shots)
    graded.raw.sum().backward()
    assert floats.grad is not None
    assert not graded.half_width.requires_grad
    assert set(Synthesize("parametric")(batch, shots)) >= {"clean", "noisy"}
