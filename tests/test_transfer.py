"""Another camera's RAW: identity, white, highlights, noise, CFAs, the way back, the DNG in other programs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import paramisp_cli as paramisp
from paramisp_cli import cameras, color, convert, make_transfer, mosaic, target
from paramisp_cli.cameras import spectra
from paramisp_cli.formats import provenance, xmp
from paramisp_cli.parameters import Settings
from paramisp_cli.rendition import transfer
from paramisp_cli.types import CFA_PATTERNS, Camera, CanonicalParams, OpticalParams, RawImage

CANON = cameras.find_by_name("Canon EOS 5D Mark IV")
NIKON = cameras.find_by_name("Nikon D850")
A, B = "Canon EOS 5D Mark IV", "Nikon D850"
CANONICAL = CanonicalParams("RGGB", np.full((2, 2), 512.0), 15871, np.array([0.48, 1, 0.66]), CANON.color_matrix)


def flat(colours: np.ndarray, cfa: str = "RGGB", side: int = 16, canonical: CanonicalParams = CANONICAL) -> RawImage:
    """Return a RAW of patches: (rows, columns, 3) of linear camera RGB, each ``side`` pixels wide."""
    image = np.kron(colours, np.ones((side, side, 1)))
    codes = np.rint(image * (canonical.white_level - 512) + 512).astype(np.uint16)
    return RawImage(mosaic.sampled(codes, cfa), replace(canonical, cfa=cfa), camera=Camera("Canon", A))


def patches(raw: RawImage, side: int = 16) -> np.ndarray:
    """Return the linear camera RGB (rows, columns, 3) in the middle of each patch."""
    planes = mosaic.linear_sites(raw.mosaic, raw.canonical.black_level, raw.canonical.white_level)
    rgb = mosaic.superpixels(planes, raw.canonical.cfa)
    half = side // 2
    rows, columns = rgb.shape[0] // half, rgb.shape[1] // half
    return rgb.reshape(rows, half, columns, half, 3)[:, 2:-2, :, 2:-2].mean((1, 3))


def transferred(raw: RawImage, to: str = B, **settings: object) -> RawImage:
    chosen = Settings(to=to, **settings)
    return convert.run(raw, make_transfer.complete(raw, chosen), chosen)


def colours(count: int = 36) -> np.ndarray:
    """Return (6, 6, 3) camera RGB of real surfaces on camera A in daylight, none clipped in A or B."""
    own = spectra.find([A])
    rgb = spectra.response(spectra.reflectances()[::5][:count], own.sensitivity, spectra.daylight(5500))
    return (rgb * 0.6).reshape(6, 6, 3)


def test_to_itself_nothing_changes() -> None:
    rng = np.random.default_rng(0)
    raw = replace(flat(colours()), mosaic=rng.integers(0, 16383, (96, 96)).astype(np.uint16))
    for name in (A, "Canon/EOS 5D Mark IV"):
        same = transferred(raw, name)
        assert np.array_equal(same.mosaic, raw.mosaic)
        for field in ("black_level", "as_shot_neutral", "color_matrix"):
            assert np.array_equal(getattr(same.canonical, field), getattr(raw.canonical, field))
        assert same.colours_of is None


def test_to_itself_by_every_method_and_in_a_file(tmp_path: Path) -> None:
    raw = flat(colours())
    paramisp.write(raw, tmp_path / "a.dng")
    for method in ("matrix", "conditioned"):
        same = transferred(paramisp.read(tmp_path / "a.dng"), A, method=method)
        paramisp.write(same, tmp_path / f"{method}.dng")
        assert np.array_equal(paramisp.read(tmp_path / f"{method}.dng").mosaic, raw.mosaic)


@pytest.mark.parametrize("method", ["matrix", "conditioned"])
@pytest.mark.parametrize("neutral", [(0.48, 1, 0.66), (0.62, 1, 0.5), (0.42, 1, 0.78)])
def test_white_stays_white(method: str, neutral: tuple[float, ...]) -> None:
    """A grey of any brightness is neutral to 0.1 % by the new file's own white balance."""
    canonical = replace(CANONICAL, as_shot_neutral=np.array(neutral))
    greys = np.linspace(0.1, 0.9, 9).reshape(3, 3, 1) * np.array(neutral)
    new = transferred(flat(greys, canonical=canonical), method=method)
    balanced = patches(new) * new.canonical.wb_gains
    assert np.abs(balanced / balanced[..., 1:2] - 1).max() < 1e-3
    assert np.allclose(balanced[..., 1], greys[..., 1], rtol=1e-3)  # the exposure of green stays


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_patches_get_the_matrix(cfa: str) -> None:
    """Flat colours follow the matrix that color.py states, for every CFA, and A's neutral goes to B by the DNG rule."""
    raw = flat(colours(), cfa)
    new = transferred(raw)
    neutral = color.neutral_of_other(CANONICAL.as_shot_neutral, CANON.color_matrix, NIKON.color_matrix)
    assert np.allclose(new.canonical.as_shot_neutral, neutral)
    matrix = neutral[:, None] * color.cam_to_cam(CANON.color_matrix, NIKON.color_matrix) / CANONICAL.as_shot_neutral
    assert np.abs(patches(new) - patches(raw) @ matrix.T).max() < 1e-4
    assert new.canonical.cfa == cfa
    assert np.array_equal(new.canonical.color_matrix, NIKON.color_matrix)
    assert np.abs(patches(new) - patches(raw)).max() > 0.02


def test_there_and_back() -> None:
    raw = flat(colours())
    there = transferred(raw)
    back = transferred(replace(there, camera=Camera("Nikon", B)), A)
    assert np.abs(patches(back) - patches(raw)).max() < 1e-4
    assert np.allclose(back.canonical.as_shot_neutral, CANONICAL.as_shot_neutral, rtol=1e-9)


@pytest.mark.parametrize("method", ["matrix", "conditioned"])
def test_twice_the_light_gives_twice_the_values(method: str) -> None:
    once, twice = (patches(transferred(flat(colours() * gain), method=method)) for gain in (0.5, 1.0))
    assert np.abs(twice - 2 * once).max() < 3e-4


def test_the_target_cfa_at_the_pictures_corner() -> None:
    assert NIKON.cfa == "RGGB"
    raw = replace(flat(colours(), "BGGR"), crop=paramisp.Crop(1, 0, 90, 90))
    new = transferred(raw, target_cfa=True)
    assert mosaic.named(mosaic.shifted(mosaic.pattern(new.canonical.cfa), 1, 0)) == "RGGB"
    keep = transferred(raw)
    assert np.abs(patches(new) - patches(keep)).max() < 1e-4
    odd = transferred(raw, A, target_cfa=True)  # to itself, with other filters
    assert np.abs(patches(odd) - patches(raw)).max() < 1e-4
    assert odd.canonical.cfa != "BGGR"


def test_highlights_stay_neutral() -> None:
    """A grey ramp through the clipping of green, then red and blue, is neutral after each file's own balance."""
    levels = np.linspace(0.5, 3.5, 36).reshape(6, 6, 1)
    raw = flat(np.minimum(levels * CANONICAL.as_shot_neutral, 1))
    new = transferred(raw)
    balanced = np.minimum(patches(new) * new.canonical.wb_gains, 1)
    assert np.abs(balanced - np.minimum(levels, 1)).max() < 0.01
    assert patches(new)[-1, -1].min() > 0.999  # light that clips everything in A is full white in B
    naive = patches(raw) / CANONICAL.as_shot_neutral @ color.cam_to_cam(CANON.color_matrix, NIKON.color_matrix).T
    assert np.abs(np.minimum(naive, 1) - np.minimum(levels, 1)).max() > 0.05  # without the rule: coloured


def test_a_plateau_below_the_white_level_is_clipping() -> None:
    levels = np.linspace(0.5, 3.5, 36).reshape(6, 6, 1)
    clipped = np.minimum(levels * CANONICAL.as_shot_neutral, 0.9)
    raw = flat(clipped)
    assert abs(transfer.saturation(raw) - 0.9) < 1e-3
    assert transfer.saturation(flat(colours())) == 1
    balanced = np.minimum(patches(transferred(raw))[2:] / transferred(raw).canonical.as_shot_neutral, 0.9)
    assert np.abs(balanced / balanced[..., 1:2] - 1).max() < 0.01


def test_noise_is_that_of_the_new_samples() -> None:
    """The stated noise of a grey area agrees with the measured noise, within the smoothing by the demosaicing."""
    profile = np.array([[2e-4, 1e-6], [1.5e-4, 1e-6], [3e-4, 2e-6]])
    rng = np.random.default_rng(1)
    grey = 0.4 * CANONICAL.as_shot_neutral
    image = np.tile(grey, (256, 256, 1))
    image += rng.normal(size=image.shape) * np.sqrt(profile[:, 0] * image + profile[:, 1])
    codes = np.rint(np.clip(image, 0, 1) * 65535).astype(np.uint16)
    canonical = replace(CANONICAL, black_level=np.zeros((2, 2)), white_level=65535)
    raw = RawImage.of_linear(codes, canonical, camera=Camera("Canon", A), noise_profile=profile)
    new = transferred(raw)
    light = (new.linear.astype(float) - transfer.BLACK) / (transfer.WHITE - transfer.BLACK)
    stated = new.noise_profile[:, 0] * light.mean((0, 1)) + new.noise_profile[:, 1]
    assert np.allclose(light.var((0, 1)), stated, rtol=0.03)
    assert not np.allclose(new.noise_profile, profile, rtol=0.1)


@pytest.mark.parametrize("linear", [False, True])
def test_the_other_cameras_noise(linear: bool) -> None:
    """Flat samples get the variance that the other camera has more, clipped ones stay, and the profile states both."""
    goal = NIKON.noise_profile(6400)
    assert goal is not None
    own = np.array([[1e-6, 2.0], [1e-6, 0], [1e-6, 0]]) * [1, 1e-3]  # red's offset is above the goal's
    steps = np.repeat([0.0, 0.05, 0.4, 1.0], 128)[None].repeat(256, 0)
    codes = np.rint(steps * (15871 - 512) + 512).astype(np.uint16)
    raw = RawImage(codes, CANONICAL, OpticalParams(iso=6400), Camera("Canon", A), noise_profile=own)
    if linear:
        raw = replace(RawImage.of_linear(codes[..., None].repeat(3, -1), CANONICAL), noise_profile=own)
    made, notice = transfer.with_noise(raw, goal)
    assert "more" in notice
    for channel, sites in enumerate((np.s_[::2, ::2], np.s_[1::2, ::2], np.s_[1::2, 1::2])):
        samples = (made.mosaic if not linear else made.linear[..., channel])[sites].astype(float)
        for number, level in enumerate((0.0, 0.05, 0.4, 1.0)):
            flat_part = (samples[:, number * 64 : number * 64 + 64] - 512) / (15871 - 512)
            more = np.maximum(goal - own, 0)[channel] @ [level, 1]
            if level == 1:
                assert flat_part.std() == 0
            else:
                assert flat_part.var() == pytest.approx(more, rel=0.05, abs=1e-9)
                assert flat_part.mean() == pytest.approx(level, abs=5e-4)
    assert np.array_equal(made.noise_profile, np.maximum(own, goal))
    again, _ = transfer.with_noise(raw, goal)
    assert np.array_equal(again.mosaic, made.mosaic)
    same, notice = transfer.with_noise(made, goal)
    assert np.array_equal(same.mosaic, made.mosaic)
    assert "already" in notice


def test_matched_noise_in_a_transfer() -> None:
    raw = replace(flat(colours()), optical=OpticalParams(iso=6400), noise_profile=np.full((3, 2), 1e-9))
    plain, matched = (transferred(raw, match_noise=each) for each in (False, True))
    goal = NIKON.noise_profile(6400)
    assert np.all(matched.noise_profile >= goal)
    assert (matched.mosaic.astype(float) - plain.mosaic).std() > 10
    assert '"match_noise": true' in xmp.read(matched.metadata.xmp).events[-1].parameters
    with pytest.raises(paramisp.MetadataError, match="ISO"):
        transferred(flat(colours()), match_noise=True)


def test_shadows_are_not_lifted() -> None:
    rng = np.random.default_rng(2)
    codes = np.rint(512 + rng.normal(0, 20, (256, 256))).astype(np.uint16)
    new = transferred(RawImage(codes, CANONICAL, camera=Camera("Canon", A)))
    light = (new.mosaic - float(transfer.BLACK)) / (transfer.WHITE - transfer.BLACK)
    assert abs(light.mean()) < 5e-5


def test_exposure_is_a_gain() -> None:
    plain, brighter = (patches(transferred(flat(colours() * 0.5), exposure=ev)) for ev in (None, 1.0))
    assert np.abs(brighter - 2 * plain).max() < 1e-4


def test_three_colours_a_pixel() -> None:
    image = np.kron(colours(), np.ones((4, 4, 1)))
    codes = np.rint(image * 15359 + 512).astype(np.uint16)
    raw = RawImage.of_linear(codes, CANONICAL, camera=Camera("Canon", A))
    new = transferred(raw)
    light = (new.linear.astype(float) - transfer.BLACK) / (transfer.WHITE - transfer.BLACK)
    target_neutral = new.canonical.as_shot_neutral
    matrix = target_neutral[:, None] * color.cam_to_cam(CANON.color_matrix, NIKON.color_matrix) / [0.48, 1, 0.66]
    assert np.abs(light - image @ matrix.T).max() < 1e-4


def test_the_library(tmp_path: Path) -> None:
    raw = flat(colours())
    paramisp.write(raw, tmp_path / "a.dng")
    settings = Settings(to=B)
    one = paramisp.transfer(tmp_path / "a.dng", settings)
    assert np.array_equal(one.mosaic, transferred(paramisp.read(tmp_path / "a.dng")).mosaic)
    assert np.array_equal(one.mosaic, paramisp.transfer(raw, settings).mosaic)
    with pytest.raises(paramisp.ConfigError, match="needs `to`"):
        paramisp.transfer(raw, Settings())
    with pytest.raises(paramisp.ConfigError, match="got ndarray"):
        paramisp.transfer(raw.mosaic, settings)


# --- the methods on spectra -------------------------------------------------------------------------------------------


def test_spectra_are_those_of_the_standards() -> None:
    assert len(spectra.sensors()) == 52
    assert spectra.reflectances().shape == (190, 81)
    for light, x, y in ((spectra.daylight(6504), 0.3127, 0.3290), (spectra.black_body(2856), 0.4476, 0.4074)):
        xyz = light @ spectra.observer()
        assert np.allclose(xyz[:2] / xyz.sum(), (x, y), atol=3e-4)
    with pytest.raises(ValueError, match="no kind of light"):
        spectra.lights("moon")


@pytest.mark.slow
def test_the_methods_reach_their_numbers() -> None:
    """Closed forms on held-out reflectances and lights, every 60th pair of one laboratory; docs/transfer.md has all."""
    sys.path.insert(0, str(Path(__file__).parent / "bench"))
    try:
        import transfer_table
    finally:
        sys.path.pop(0)
    found = transfer_table.measure(transfer_table.pairs(60))
    mean = {name.strip("*").split("*")[0].strip(" ,"): kinds["held-out"][:, 0].mean() for name, kinds in found.items()}
    assert mean["nothing"] < 36 < mean["diagonal, both neutrals known"] < 46
    assert mean["matrix route"] >= 50
    assert mean["root-polynomial that depends on A's neutral"] >= 55


def test_conditioned_coefficients_preserve_white_for_any_light() -> None:
    fit = spectra.fitted(A, B)
    for light in [*spectra.lights("held-out").values(), *spectra.lights("fluorescent").values()]:
        coefficients, neutral, _ = fit.at(spectra.neutral(spectra.find([A]).sensitivity, light))
        assert np.allclose(coefficients.sum(1), 1, atol=1e-9)
        assert neutral.min() > 0


def test_a_strange_light_is_told() -> None:
    raw = flat(colours(), canonical=replace(CANONICAL, as_shot_neutral=np.array([0.9, 1, 0.9])))
    assert any("the light is none" in note for note in transferred(raw, method="conditioned").notes)
    assert not any("the light is none" in note for note in transferred(flat(colours()), method="conditioned").notes)
    mixed = transferred(flat(colours()), "Nikon D700", method="conditioned")
    assert any("two laboratories" in note for note in mixed.notes)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_dng_says_where_it_comes_from(tmp_path: Path) -> None:
    raw = replace(flat(colours()), optical=OpticalParams(100, 0.01, 4, 50))
    paramisp.write(transferred(raw), tmp_path / "b.dng", paramisp.WriteOptions(profile="adobe"))
    back = paramisp.read(tmp_path / "b.dng")
    assert back.camera == Camera("Canon", A)  # it took the picture
    packet = xmp.read(back.metadata.xmp)
    assert packet.source_types == [provenance.ALTERED]
    facts = json.loads(packet.events[-1].parameters)
    assert (facts["operation"], facts["to"], facts["source"]) == ("transfer", B, "RAW")
    made = provenance.made_by(back.metadata.xmp)
    assert (made.source, made.model, back.model) == ("RAW", "matrix", "matrix")
    if shutil.which("exiftool"):
        words = ["exiftool", "-s3", "-UniqueCameraModel", "-Model", "-validate", "-a", str(tmp_path / "b.dng")]
        lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        assert lines[:2] == [f"{B} (from {A})", f"{A} (from RAW)"]  # RawTherapee has a black border for the plain name
        assert lines[2] == "OK"


def test_a_transferred_file_is_the_other_cameras(tmp_path: Path) -> None:
    """Read again, it goes back to the first camera and not to itself, and is rendered by the other camera's weights."""
    raw = flat(colours())
    paramisp.write(transferred(raw), tmp_path / "b.dng", paramisp.WriteOptions(profile="adobe"))
    seen = paramisp.read(tmp_path / "b.dng")
    assert (seen.colours_of, seen.camera) == (B, Camera("Canon", A))
    assert np.array_equal(transferred(seen, B).mosaic, seen.mosaic)
    back = transferred(seen, A)
    assert np.abs(patches(back) - patches(raw)).max() < 1e-4
    assert back.colours_of is None
    assert np.allclose(back.canonical.color_matrix, CANON.color_matrix)
    third = transferred(seen, "Canon EOS 60D")
    assert third.colours_of == "Canon EOS 60D"
    conversion = make_transfer.complete(third, Settings())
    assert conversion.checkpoint.name == "canon-eos-60d.render.safetensors"
    assert conversion.camera == Camera("Canon", A)


def test_a_made_up_raw_stays_made_up(make_jpeg, tmp_path: Path) -> None:
    """A RAW of a picture that is transferred still tells of the picture."""
    photo = make_jpeg(tmp_path / "photo.jpg")
    raw = paramisp.unprocess(photo, Settings(model="parametric", camera=A))
    new = transferred(raw)
    assert provenance.made_by(new.metadata.xmp).source == "JPEG"
    assert [json.loads(e.parameters)["operation"] for e in xmp.read(new.metadata.xmp).events] == [
        "unprocess", "transfer",
    ]  # fmt: skip


def libraw(path: Path) -> np.ndarray:
    """Return LibRaw's linear sRGB."""
    import rawpy

    with rawpy.imread(str(path)) as file:
        return file.postprocess(
            use_camera_wb=True, no_auto_bright=True, gamma=(1, 1), output_bps=16, output_color=rawpy.ColorSpace.sRGB
        )


def difference(one: np.ndarray, other: np.ndarray, side: int = 16) -> np.ndarray:
    """Return ΔE2000 of the patches' means of two linear sRGB pictures in [0, 1]."""
    means = [
        each.reshape(each.shape[0] // side, side, -1, side, 3)[:, 4:-4, :, 4:-4].mean((1, 3)) for each in (one, other)
    ]
    return color.ciede2000(*(color.srgb_to_lab(each) for each in means))


def both(tmp_path: Path, **settings: object) -> list[Path]:
    """Write the patches as camera A's DNG and as camera B's."""
    raw = flat(colours())
    paths = [tmp_path / "a.dng", tmp_path / "b.dng"]
    for each, path in zip((raw, transferred(raw, **settings)), paths, strict=True):
        paramisp.write(each, path, paramisp.WriteOptions(profile="adobe"))
    return paths


def test_libraw_shows_both_alike(tmp_path: Path) -> None:
    one, other = (libraw(path) / 65535 for path in both(tmp_path))
    assert difference(one, other).max() < 0.5


def test_a_transposed_matrix_would_be_seen(tmp_path: Path) -> None:
    paths = both(tmp_path)
    wrong = paramisp.read(paths[1])
    transposed = replace(wrong.canonical, color_matrix=wrong.canonical.color_matrix.T)
    paramisp.write(replace(wrong, canonical=transposed), tmp_path / "c.dng", paramisp.WriteOptions(profile="adobe"))
    assert difference(libraw(paths[0]) / 65535, libraw(tmp_path / "c.dng") / 65535).max() > 3


@pytest.mark.slow
def test_darktable_shows_both_alike(tmp_path: Path) -> None:
    if not shutil.which("darktable-cli"):
        pytest.skip("darktable is not installed")
    shown = []
    for path in both(tmp_path):
        out = path.with_suffix(".png")
        folder = tmp_path / f"settings-{path.stem}"
        subprocess.run(
            ["darktable-cli", path, out, "--apply-custom-presets", "false", "--core", "--configdir", folder,
             "--library", ":memory:", "--conf", "plugins/darkroom/workflow=none"],
            capture_output=True, check=True, timeout=120,
        )  # fmt: skip
        shown.append(paramisp.read(out).pixels)
    one, other = (color.srgb_decode(pixels / np.iinfo(pixels.dtype).max) for pixels in shown)
    assert difference(one, other).max() < 1


# --- real files, the command line and errors --------------------------------------------------------------------------


@pytest.mark.slow
def test_real_raws(real_raws) -> None:
    """Every real RAW, cropped for speed: white, and the same picture by each camera's own matrix."""
    if not real_raws:
        pytest.skip("no real RAW files")
    for path in real_raws.values():
        raw = paramisp.read(path)
        top, left = (side // 4 * 2 for side in raw.size)
        area = paramisp.Crop(raw.crop.top + top // 2 * 2, raw.crop.left + left // 2 * 2, 640, 640)
        raw = replace(raw, crop=area).cropped()
        if not target.has_own_matrix(raw.origin["color_matrix"]):
            continue
        new = transferred(raw)
        assert new.mosaic.shape == raw.mosaic.shape
        pictures = [
            convert.render(replace(each, model="x", baseline_exposure=0), Settings(model="parametric", exposure=0.0))
            for each in (raw, new)
        ]
        cut = [each.pixels[: each.size[0] // 16 * 16, : each.size[1] // 16 * 16] / 255 for each in pictures]
        delta = difference(*(color.srgb_decode(each) for each in cut))
        assert np.median(delta) < 1, path.name
        assert (delta > 3).mean() < 0.02, path.name


@pytest.mark.slow
def test_the_command(tmp_path: Path, completed) -> None:
    (tmp_path / "raws" / "sub").mkdir(parents=True)
    for name in ("raws/one.dng", "raws/sub/two.dng"):
        paramisp.write(flat(colours()), tmp_path / name)
    (tmp_path / "raws" / "bad.dng").write_bytes(b"II*\0no")
    done = completed("transfer", tmp_path / "raws", "-r", "--to", "nikon d850", "--json")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["failed", "done", "done"]
    assert lines[1]["to"] == B
    assert (tmp_path / "raws" / "sub" / "two-nikon-d850.dng").exists()
    one = tmp_path / "raws" / "one.dng"
    again = completed("transfer", one, "--to", one.with_name("one-nikon-d850.dng"), "-o", tmp_path / "x.dng")
    assert again.returncode == 0, again.stderr  # a file that holds A's camera: to itself
    assert np.array_equal(paramisp.read(tmp_path / "x.dng").mosaic, flat(colours()).mosaic)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("shot.dng", "--to", "Nikon D8500"), 2, "neither a camera of the table"),
        (("shot.dng",), 2, "--to"),
        (("shot.dng", "--to", "photo.png"), 2, "is a picture"),
        (("shot.dng", "photo.png", "--to", B), 2, "separately"),
        (("shot.dng", "--to", B, "-o", "shot.jpg"), 2, "transfer writes .dng"),
        (("shot.dng", "--to", "Nikon D90", "--method", "conditioned"), 7, "no spectral sensitivities of Nikon D90"),
        (("missing.dng", "--to", B), 5, "no such file"),
        (("photo.png", "--to", B), 8, "no render weights for Nikon D850"),
        (("photo.png", "--to", "Canon EOS 60D", "--exposure", "1"), 2, "for RAW files"),
        (("shot.dng", "--to", "Nokia XR20"), 2, "--to"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input(
    tmp_path: Path, make_png, monkeypatch, completed, words: tuple[str, ...], code: int, text: str
) -> None:
    make_png(tmp_path / "photo.png")
    paramisp.write(flat(colours()), tmp_path / "shot.dng")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARAMISP_WEIGHTS", "")
    done = completed("transfer", *words)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*-*.dng"))


def test_a_camera_without_a_matrix() -> None:
    raw = replace(flat(colours()), camera=Camera("Acme", "One"),
                  origin={"color_matrix": "an average camera (the camera is unknown)"})  # fmt: skip
    with pytest.raises(paramisp.MetadataError, match="no colour matrix of Acme One is known"):
        transferred(raw)
    without = next(facts for facts in cameras.all_cameras() if facts.color_matrix is None)
    with pytest.raises(paramisp.ConfigError, match="no colour matrix of it"):
        target.of(Settings(to=without.name))


def test_a_light_that_the_target_cannot_meet() -> None:
    raw = flat(colours(), canonical=replace(CANONICAL, as_shot_neutral=np.array([1, 0.02, 1])))
    with pytest.raises(paramisp.MetadataError, match="pass `wb`"):
        transferred(raw)


def test_neutrals_follow_the_daylight() -> None:
    """Warmer light on A is warmer light on B."""
    neutrals = [np.array([0.42, 1, 0.78]), np.array([0.48, 1, 0.66]), np.array([0.62, 1, 0.5])]
    others = [color.neutral_of_other(each, CANON.color_matrix, NIKON.color_matrix) for each in neutrals]
    assert all(one[0] < two[0] and one[2] > two[2] for one, two in pairwise(others))


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_picture_has_the_other_cameras_look(make_jpeg, tmp_path: Path) -> None:
    """Its pixels are those of the three steps; its EXIF is that of the shot; the history tells all steps."""
    own = {"0th": {0x010F: "NIKON CORPORATION", 0x0110: "NIKON D90"}, "Exif": {0x8827: 200}}
    photo = make_jpeg(tmp_path / "photo.jpg", exif=own)
    settings = Settings(to="Canon EOS 60D")
    image = paramisp.read(photo)
    conversion = make_transfer.complete(image, settings)
    assert conversion.rendering.name == "canon-eos-60d.render.safetensors"
    shown = convert.run(image, conversion, settings)
    assert shown.pixels.shape == image.pixels.shape
    raw = paramisp.unprocess(photo, Settings(bit_depth=32))
    new = transferred(raw, "Canon EOS 60D", bit_depth=32, target_cfa=True)
    wanted = paramisp.render(replace(new, camera=Camera("Canon", "Canon EOS 60D")), Settings(weights="canon-eos-60d"))
    assert np.array_equal(shown.pixels, wanted.pixels)
    paramisp.write(shown, tmp_path / "shown.jpg")
    back = paramisp.read(tmp_path / "shown.jpg")
    assert back.camera == Camera("NIKON CORPORATION", "NIKON D90")
    assert back.optical.iso == 200
    operations = [json.loads(event.parameters)["operation"] for event in xmp.read(back.metadata.xmp).events]
    assert operations == ["unprocess", "transfer", "render"]
