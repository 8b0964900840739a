"""Deblurring of RAW files and pictures: untouched light stays, the result tells its history, mistakes cost one line."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from paramisp_cli import formats, mosaic, weights
from paramisp_cli.apps import deblur
from paramisp_cli.errors import ConfigError, FormatError, WeightsError
from paramisp_cli.formats import provenance, raster, xmp
from paramisp_cli.models.deblur import Deblur
from paramisp_cli.settings import Settings
from paramisp_cli.types import Camera, CanonicalParams, Crop, OpticalParams, RawImage, SrgbImage

PARAMETRIC = Settings(model="parametric", camera="Nikon D90")
MATRIX = np.linalg.inv([[0.9, 0.2, 0], [0.3, 0.9, 0.1], [0, 0.1, 0.9]])
LEVELS = CanonicalParams("GRBG", 64, 4095, [0.5, 1, 0.7], MATRIX)


def saved(path, strength):
    """Weights that change a picture, or with a strength of 0 do not."""
    model = Deblur()
    model.initialise(torch.Generator().manual_seed(1))
    if strength:
        torch.nn.init.normal_(model.tail.weight, std=strength, generator=torch.Generator().manual_seed(2))
    weights.save(model, path, camera="generic")
    return path


@pytest.fixture(scope="module")
def changing(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("weights") / "generic.restore.safetensors", 0.03)


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("weights") / "generic.restore.safetensors", 0)


def pixels(height=80, width=112):
    small = np.random.default_rng(0).integers(20, 200, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def shot(**more):
    light = mosaic.sampled(pixels().astype(np.float32) / 400, "GRBG")
    codes = np.rint(light * (4095 - 64) + 64).astype(np.uint16)
    optical = OpticalParams(iso=400, exposure_time=1 / 15, f_number=4, focal_length=50)
    return RawImage(codes, LEVELS, optical, Camera("NIKON CORPORATION", "NIKON D90"), crop=Crop(2, 3, 74, 104), **more)


def test_light_that_is_not_changed_is_the_same(silent):
    choices = deblur.Choices(weights=silent)
    made = deblur.deblur(shot(), Settings(), choices)
    assert np.array_equal(made.image.mosaic, shot().mosaic)
    assert made.change == 0
    for orientation in (1, 6):
        image = SrgbImage(pixels(), orientation=orientation)
        made = deblur.deblur(image, PARAMETRIC, choices)
        assert np.array_equal(made.image.pixels, raster.apply_orientation(pixels(), orientation))
        assert made.image.orientation == 1


def test_a_raw_stays_a_raw_of_its_camera(changing):
    raw = shot(orientation=8)
    made = deblur.deblur(raw, Settings(), deblur.Choices(weights=changing)).image
    assert isinstance(made, RawImage)
    assert (made.canonical.cfa, made.canonical.white_level, made.crop, made.orientation) == ("GRBG", 4095, raw.crop, 8)
    assert made.mosaic.dtype == np.uint16
    assert 1 < np.abs(made.mosaic.astype(int) - raw.mosaic).mean() < 500
    assert made.camera == raw.camera
    assert made.optical == raw.optical


def test_strength_blends_in_raw(changing):
    none, half, full = (
        deblur.deblur(replace(shot(), mosaic=mosaic.linear(shot().mosaic, LEVELS.black_level, 4095)), Settings(),
                      deblur.Choices(strength, False, changing)).image.mosaic
        for strength in (0.0, 0.5, 1.0)
    )  # fmt: skip
    assert np.array_equal(none, mosaic.linear(shot().mosaic, LEVELS.black_level, 4095))
    np.testing.assert_allclose(half, (none + full) / 2, atol=1e-6)
    assert np.abs(full - none).max() > 0.01


def test_noise_of_the_file_reaches_the_network(changing):
    choices = deblur.Choices(weights=changing)
    quiet, loud = (
        deblur.deblur(shot(noise_profile=np.array([[scale, 1e-6]] * 3)), Settings(), choices).image.mosaic
        for scale in (1e-6, 1e-2)
    )
    assert not np.array_equal(quiet, loud)


def test_clipped_light_and_its_surroundings_stay(changing):
    codes = shot().mosaic.copy()
    codes[30:36, 40:50] = 4095
    raw = replace(shot(), mosaic=codes)
    masked, free = (
        deblur.deblur(raw, Settings(), deblur.Choices(1.0, mask, changing)).image.mosaic for mask in (True, False)
    )
    assert np.array_equal(masked[26:40, 36:54], codes[26:40, 36:54])
    assert not np.array_equal(free[26:40, 36:54], codes[26:40, 36:54])
    assert not np.array_equal(masked[:12, :12], codes[:12, :12])
    assert np.array_equal(masked[:12, :12], free[:12, :12])


def test_the_change_of_a_picture_is_that_of_its_renderings(changing):
    """Output − input follows from the two mosaics alone, so errors of the ISP's round trip do not enter."""
    image = SrgbImage(pixels())
    made = deblur.deblur(image, PARAMETRIC, deblur.Choices(weights=changing)).image
    assert made.pixels.dtype == np.uint8
    difference = made.pixels.astype(float) - pixels()
    assert 0.5 < np.abs(difference).mean() < 30
    fine = deblur.deblur(SrgbImage(pixels().astype(np.float32) / 255), PARAMETRIC, deblur.Choices(weights=changing))
    assert np.abs(fine.image.pixels * 255 - made.pixels).max() <= 0.51
    half = deblur.deblur(image, PARAMETRIC, deblur.Choices(0.5, weights=changing)).image.pixels - pixels().astype(float)
    assert np.abs(half).mean() < 0.7 * np.abs(difference).mean()


def test_the_history_tells(changing, tmp_path):
    for image, ending in ((shot(), "dng"), (SrgbImage(pixels()), "jpg")):
        made = deblur.deblur(image, replace(PARAMETRIC, camera=None), deblur.Choices(weights=changing)).image
        path = tmp_path / f"out.{ending}"
        formats.write(made, path)
        read = xmp.read(formats.read(path).metadata.xmp)
        assert read.source_types == [provenance.ALTERED]
        event = read.events[-1]
        assert '"operation": "restore"' in event.parameters
        assert '"model": "deblur"' in event.parameters
        assert '"strength": 1.0' in event.parameters
        assert formats.is_own(path)
    again = deblur.deblur(formats.read(tmp_path / "out.dng"), Settings(), deblur.Choices(weights=changing)).image
    assert len(xmp.read(again.metadata.xmp).events) == 2


def test_the_preview_that_shows_the_shake_is_left_out(changing, make_jpeg, tmp_path):
    jpeg = make_jpeg(tmp_path / "preview.jpg", pixels()).read_bytes()
    raw = shot()
    made = deblur.deblur(
        replace(raw, metadata=replace(raw.metadata, jpeg=jpeg)), Settings(), deblur.Choices(weights=changing)
    ).image
    assert made.metadata.jpeg is None
    assert made.tone_curve is not None  # the look of the preview stays


def test_three_colours_a_pixel_are_refused(changing):
    raw = RawImage.of_linear(np.full((40, 40, 3), 900, np.uint16), LEVELS)
    with pytest.raises(FormatError, match="LinearRaw"):
        deblur.deblur(raw, Settings(), deblur.Choices(weights=changing))


def test_wrong_choices(changing, tmp_path):
    with pytest.raises(ConfigError, match="strength"):
        deblur.Choices(1.5)
    with pytest.raises(WeightsError, match="does not exist"):
        deblur.network(deblur.Choices(weights=tmp_path / "no.safetensors"))
    render = weights.save(Deblur(), tmp_path / "x.safetensors", camera="generic")
    assert deblur.network(deblur.Choices(weights=render)) == render


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(make_jpeg, tmp_path):
    """A folder with a picture, a RAW file and a damaged picture."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    make_jpeg(folder / "a.jpg", pixels())
    formats.write(shot(), folder / "deep" / "b.dng")
    return folder


def command(changing, *words):
    return ("deblur", *words, "--deblur-weights", changing, "--model", "parametric")


def test_outputs_lie_beside_the_inputs(paramisp, files, changing):
    code, out, _ = paramisp(*command(changing, files / "a.jpg"))
    assert (code, out) == (0, [str(files / "a-deblurred.jpg")])
    assert Image.open(files / "a-deblurred.jpg").size == (112, 80)
    code, out, _ = paramisp(*command(changing, files / "deep" / "b.dng"))
    assert (code, out) == (0, [str(files / "deep" / "b-deblurred.dng")])
    assert formats.read(out[0]).canonical.cfa == "GRBG"


def test_a_folder_with_a_bad_file(paramisp, files, changing, tmp_path):
    (files / "bad.jpg").write_bytes(b"\xff\xd8\xff no")
    code, out, err = paramisp(*command(changing, files, "-r", "-o", tmp_path / "out"))
    assert code == 1
    assert sorted(out) == [str(tmp_path / "out" / name) for name in ("a-deblurred.jpg", "deep/b-deblurred.dng")]
    assert any("bad.jpg" in line for line in err)
    assert "2 done, 0 skipped, 1 failed" in err[-2]
    assert "bad.jpg" in err[-1]
    code, out, err = paramisp(*command(changing, files, "-r", "-o", tmp_path / "out", "--on-exists", "skip"))
    assert "0 done, 2 skipped, 1 failed" in err[-2]


def test_outputs_of_an_earlier_run_are_no_inputs(paramisp, files, changing):
    for _ in range(2):
        code, out, _ = paramisp(*command(changing, files, "-r", "--on-exists", "overwrite"))
        assert (code, len(out)) == (0, 2)
    assert len(list(files.rglob("*-deblurred*"))) == 2


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("nowhere.jpg",), 5, "no such file"),
        (("{in}/a.jpg", "--strength", "2"), 2, "strength"),
        (("{in}/a.jpg", "-o", "x.dng"), 2, "of a picture"),
        (("{in}/deep/b.dng", "-o", "x.jpg"), 2, "of a RAW file"),
        (("{in}/a.jpg", "-o", "{in}/a.jpg"), 6, "is the input"),
        (("{in}/a.jpg", "-o", "-"), 2, "writes files"),
        (("{in}/a.jpg", "--exposure", "1"), 2, "paramisp render"),
        (("{in}/text.jpg",), 7, "not a JPEG"),
        (("{in}/linear.dng",), 7, "LinearRaw"),
    ],
)
def test_mistakes_cost_one_line(paramisp, files, changing, tmp_path, monkeypatch, words, code, text):
    monkeypatch.chdir(tmp_path)
    (files / "text.jpg").write_text("hello")
    formats.write(RawImage.of_linear(np.full((40, 40, 3), 900, np.uint16), LEVELS), files / "linear.dng")
    before = sorted(path for path in tmp_path.rglob("*"))
    got, out, err = paramisp(*command(changing, *(word.replace("{in}", str(files)) for word in words)))
    assert (got, out, len(err)) == (code, [], 1)
    assert text in err[0]
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_an_existing_output_is_not_replaced(paramisp, files, changing):
    target = files / "a-deblurred.jpg"
    target.write_bytes(b"mine")
    for more, code in (((), 6), (("--on-exists", "overwrite"), 6), (("--on-exists", "skip"), 0)):
        got, *_ = paramisp(*command(changing, files / "a.jpg", *more))
        assert (got, target.read_bytes()) == (code, b"mine")
    got, out, _ = paramisp(*command(changing, files / "a.jpg", "--on-exists", "rename"))
    assert (got, out) == (0, [str(files / "a-deblurred-1.jpg")])


def test_a_dry_run_writes_nothing(paramisp, files, changing):
    code, out, _ = paramisp(*command(changing, files / "a.jpg", "--dry-run"))
    assert (code, out) == (0, [str(files / "a-deblurred.jpg")])
    assert not (files / "a-deblurred.jpg").exists()


# The shipped weights --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shipped_weights_bring_a_shaken_mosaic_nearer_to_the_sharp_one():
    from paramisp_cli.training.measure.metrics import psnr
    from paramisp_cli.training.simulated import scenes, shaken, shots

    grain = torch.rand(3, 90, 110, generator=torch.Generator().manual_seed(0)) ** 2
    smooth = torch.nn.functional.interpolate(grain[None], scale_factor=4, mode="bicubic")[0].clamp(0)
    scene = scenes.Scene(smooth, False)
    facts = shots.pick_cameras(["Nikon D90"])[0]
    gains = []
    for seed in range(4):
        taken = shaken.take(scene, facts, 128, 3.0, np.random.default_rng(seed))
        seen, sharp = taken.mosaics()
        profile = facts.noise_profile(taken.optical.iso)
        raw = RawImage(np.ascontiguousarray(seen), taken.canonical, taken.optical, noise_profile=profile)
        made = deblur.deblur(raw, Settings(), deblur.Choices(mask_saturated=False)).image.mosaic
        gains.append(psnr(made.clip(0, 1), sharp) - psnr(seen.clip(0, 1), sharp))
    assert min(gains) > 0
    assert np.mean(gains) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Canon_PowerShot_G6_IMG_0002.JPG", "Olympus_C-3000_PA250003.JPG"])
def test_a_sharp_photograph_is_unharmed(shared, name, tmp_path):
    image = formats.read(shared / "jpegs" / name)
    made = deblur.deblur(image, Settings(model="parametric")).image
    formats.write(made, tmp_path / "out.jpg", formats.WriteOptions(quality=98))
    for after in (made.pixels, formats.read(tmp_path / "out.jpg").pixels):
        error = np.mean(np.square(after - image.pixels.astype(float)))
        assert 10 * np.log10(255**2 / error) > 45
