"""LinearRaw DNGs: three colours a pixel, written, read, rendered, and refused where only a mosaic will do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import paramisp_cli as paramisp
from paramisp_cli import mosaic as mosaics
from paramisp_cli import parameters
from paramisp_cli.cli.app import app
from paramisp_cli.errors import ConfigError, FormatError, MetadataError
from paramisp_cli.formats import libraw, verify
from paramisp_cli.types import CFA_PATTERNS, Camera, CanonicalParams, Crop, OpticalParams, RawImage, SrgbImage

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
NEUTRAL = np.array([0.5, 1.0, 0.625])
LINEAR = paramisp.Settings(model="parametric", linear=True)
PARAMETRIC = paramisp.Settings(model="parametric")


def canonical(black: object = 0.0, white: float = 65535, cfa: str = "RGGB") -> CanonicalParams:
    return CanonicalParams(cfa, np.array(black), white, NEUTRAL, MATRIX)


def light(height: int, width: int, dtype: type = np.uint16) -> np.ndarray:
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 65536, (height, width, 3)).astype(dtype)


def picture(height: int = 61, width: int = 83) -> SrgbImage:
    """Noise of all colours at every pixel, which no demosaicing restores; odd sides, turned."""
    pixels = np.random.default_rng(3).integers(30, 200, (height, width, 3)).astype(np.uint8)
    return SrgbImage(pixels, Camera("Canon", "Canon EOS 60D"), OpticalParams(200, 0.01, 4, 35), orientation=6)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


@pytest.mark.parametrize("compression", ["lossless", "none"])
@pytest.mark.parametrize("size", [(22, 22), (258, 386), (300, 512), (24, 1024), (600, 272)])
@pytest.mark.slow
def test_it_reads_back(tmp_path: Path, size: tuple[int, int], compression: str) -> None:
    """Sizes with clipped tiles, one tile, and twice a tile's width, where LibRaw garbles some mosaics."""
    raw = RawImage.of_linear(light(*size), canonical([[500, 512], [520, 530.5]], 65000, cfa="GBRG"), orientation=6)
    path = tmp_path / "a.dng"
    paramisp.write(raw, path, paramisp.WriteOptions(compression=compression, verify=True))
    back = paramisp.read(path, isolate=True)
    assert isinstance(back, RawImage)
    np.testing.assert_array_equal(back.linear, raw.linear)
    np.testing.assert_array_equal(back.mosaic, mosaics.sampled(light(*size), "RGGB"))
    assert back.notes == ()
    levels = mosaics.by_color(back.canonical.black_level, back.canonical.cfa)
    np.testing.assert_allclose(levels, [520, (500 + 530.5) / 2, 512])  # GBRG: green at both ends
    assert back.canonical.white_level == 65000
    assert back.orientation == 6
    with tifffile.TiffFile(path) as tiff:
        tags = {tag.code: tag.value for tag in tiff.pages[0].pages[0].tags}
    assert (tags[262], tags[277], tags[258], tags[259]) == (
        34892,
        3,
        (16, 16, 16),
        7 if compression == "lossless" else 1,
    )
    assert not {33421, 33422, 50710, 50711, 50733} & set(tags)


@pytest.mark.slow
def test_other_programs_open_it(tmp_path: Path) -> None:
    path = tmp_path / "a.dng"
    raw = RawImage.of_linear(light(258, 386), canonical(), crop=Crop(2, 4, 251, 379))
    paramisp.write(raw, path)
    if exiftool := shutil.which("exiftool"):
        said = subprocess.run(
            [exiftool, "-T", "-validate", "-warning", "-a", path], capture_output=True, text=True, check=True
        )
        assert said.stdout.split() == ["OK", "-"]
    if dcraw := shutil.which("dcraw"):
        words = [dcraw, "-v", "-i", path]
        said = subprocess.run(words, capture_output=True, text=True, check=True)
        assert "Raw colors: 3" in said.stdout
    dngpy = pytest.importorskip("dngpy")
    code = "import dngpy, sys; dngpy.Dng(sys.argv[1]).raw_pixels"
    said = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "Error" not in said.stdout + said.stderr  # it checks the digest, in which colours lie plane by plane
    np.testing.assert_array_equal(dngpy.Dng(str(path)).raw_pixels, raw.linear)  # the Adobe SDK


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.dng"
    raw = RawImage.of_linear(light(64, 64), canonical())
    paramisp.write(raw, path, paramisp.WriteOptions(compression="none"))
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    back = libraw.read(path)
    assert any("damaged" in note for note in back.notes)
    with pytest.raises(FormatError, match="colours"):
        verify.check_raw(raw, back)
    flat = replace(raw, linear=None)
    with pytest.raises(FormatError, match="mosaic"):
        verify.check_raw(flat, replace(raw))


def test_a_linear_dng_by_another_writer(tmp_path: Path) -> None:
    """Black levels by site and colour, a white level per colour, and no digest, as phones write them."""
    path, wanted = tmp_path / "phone.dng", light(64, 96) >> 4
    ratios = [v for x in MATRIX.ravel() for v in (round(x * 10000), 10000)]
    black = [100, 200, 300, 102, 202, 302]  # two columns
    tags = [
        (50706, 1, 4, bytes((1, 4, 0, 0)), True),
        (50707, 1, 4, bytes((1, 1, 0, 0)), True),
        (50708, 2, 0, "Phone", True),
        (50713, 3, 2, (1, 2), True),
        (50714, 3, 6, black, True),
        (50717, 4, 3, (4095, 4095, 4095), True),
        (50721, 10, 9, ratios, True),
        (50728, 5, 3, (1, 2, 1, 1, 5, 8), True),
        (50778, 3, 1, 21, True),
    ]
    tifffile.imwrite(path, wanted, photometric=34892, planarconfig=1, extratags=tags, metadata=None)
    raw = paramisp.read(path)
    assert isinstance(raw, RawImage)
    np.testing.assert_array_equal(raw.linear, wanted)
    np.testing.assert_allclose(mosaics.by_color(raw.canonical.black_level, raw.canonical.cfa), [101, 201, 301])
    assert raw.canonical.white_level == 4095
    np.testing.assert_allclose(raw.canonical.wb_gains, [2, 1, 1.6])
    assert raw.model is None
    assert paramisp.render(raw, PARAMETRIC).size == (64, 96)
    tifffile.imwrite(path, wanted[..., 0], photometric="minisblack", extratags=tags[:3], metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[262].overwrite(34892)
    with pytest.raises(FormatError, match="not a Bayer file"):
        paramisp.read(path)  # monochrome


def test_nothing_is_lost_to_a_mosaic(tmp_path: Path) -> None:
    image, path = picture(), tmp_path / "a.dng"
    upright = np.rot90(image.pixels, -1)
    raw = paramisp.unprocess(image, LINEAR)
    paramisp.write(raw, path, paramisp.WriteOptions(verify=True))
    back = paramisp.render(path, PARAMETRIC)
    assert psnr(back.pixels, upright) > 65
    assert psnr(paramisp.render(paramisp.unprocess(image, PARAMETRIC), PARAMETRIC).pixels, upright) < 30
    odd = replace(raw, crop=Crop(3, 5, 40, 31))  # a crop of another phase
    cut = paramisp.render(odd, PARAMETRIC).pixels
    assert psnr(cut, np.rot90(image.pixels[3:43, 5:36], -1)) > 65
    exact = paramisp.render(paramisp.unprocess(image, replace(LINEAR, bit_depth=32)), PARAMETRIC)
    assert psnr(exact.pixels, upright) > 65
    stopped = paramisp.render(path, replace(PARAMETRIC, stop_at="restored"))
    assert stopped.pixels.dtype == np.float32
    assert stopped.size == back.size


@pytest.mark.parametrize("model", ["parametric", "fast"])
@pytest.mark.slow
def test_every_colour_is_the_models_own(model: str) -> None:
    """At each site the colours are those of the mosaics with that colour there; green is the mean of two."""
    image = picture(30, 46)
    done: list[float] = []
    settings = paramisp.Settings(model=model, linear=True, bit_depth=32, wb=(2, 1, 1.5))
    from paramisp_cli import convert

    conversion = parameters.complete(image, settings)
    raw = convert.run(image, convert.prepare(image, conversion, settings), settings, done.append)
    assert isinstance(raw, RawImage)
    assert raw.linear is not None
    assert done == sorted(done)
    assert done[-1] == 1
    assert raw.model == model
    green = []
    for cfa in CFA_PATTERNS:
        alone = paramisp.unprocess(image, replace(settings, linear=False, cfa=cfa)).mosaic
        for site, plane, letter in zip(mosaics.sites(raw.linear), mosaics.sites(alone), cfa, strict=True):
            if letter != "G":
                np.testing.assert_allclose(site[..., "RGB".index(letter)], plane, atol=1e-6)
        green.append(np.where(mosaics.repeated(mosaics.pattern(cfa), alone.shape) == "G", alone, 0))
    np.testing.assert_allclose(raw.linear[..., 1], sum(green) / 2, atol=1e-6)
    np.testing.assert_array_equal(raw.mosaic, mosaics.sampled(raw.linear, raw.canonical.cfa))


def test_the_mean_of_whole_numbers_fits_their_type() -> None:
    full = {cfa: np.full((2, 2), 65535 - (cfa == "BGGR"), np.uint16) for cfa in CFA_PATTERNS}
    green = mosaics.of_mosaics(full)[..., 1]
    assert green.min() >= 65534
    assert green.max() == 65535


def test_a_network_says_that_it_sees_a_mosaic() -> None:
    raw = paramisp.unprocess(picture(), LINEAR)
    assert any("three colours a pixel" in note for note in paramisp.render(raw, paramisp.Settings(model="fast")).notes)
    assert not any("three colours" in note for note in paramisp.render(raw, PARAMETRIC).notes)


def test_a_linear_raw_lends_its_values(tmp_path: Path) -> None:
    """--like takes one: a mosaic gets its colours, a LinearRaw all sixteen bits."""
    path = tmp_path / "like.dng"
    paramisp.write(RawImage.of_linear(light(64, 64), canonical([[64]], 4095)), path)
    like = replace(PARAMETRIC, like=path)
    flat, full = paramisp.unprocess(picture(), like), paramisp.unprocess(picture(), replace(like, linear=True))
    assert flat.linear is None
    assert (flat.canonical.white_level, flat.canonical.black_level[0, 0]) == (4095, 64)
    assert (full.canonical.white_level, full.canonical.black_level.max()) == (65535, 0)
    np.testing.assert_allclose(full.canonical.as_shot_neutral, NEUTRAL)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    raw = paramisp.unprocess(picture(), LINEAR)
    for more, word in (({"cfa": "RGGB"}, "cfa"), ({"kept_raw": True}, "kept_raw")):
        with pytest.raises(ConfigError, match=word):
            paramisp.Settings(linear=True, **more)
    with pytest.raises(ConfigError, match="unprocess"):
        paramisp.render(raw, LINEAR)
    with pytest.raises(ConfigError, match="cfa"):
        paramisp.render(raw, replace(PARAMETRIC, cfa="GRBG"))
    with pytest.raises(FormatError, match="keep_raw"):
        paramisp.write(
            paramisp.render(raw, PARAMETRIC), tmp_path / "a.jpg", paramisp.WriteOptions(keep_raw="lossless"), raw=raw
        )
    assert not (tmp_path / "a.jpg").exists()
    with pytest.raises(MetadataError, match="of_linear"):
        RawImage(raw.mosaic, raw.canonical, linear=raw.mosaic)
    for shape in ((4, 4), (4, 5, 3), (3, 4, 3), (4, 4, 4)):
        with pytest.raises(MetadataError, match="linear must be"):
            RawImage.of_linear(np.zeros(shape, np.uint16), raw.canonical)


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, make_jpeg: Callable[..., Path]) -> None:
    source, program = make_jpeg(tmp_path / "a.jpg", picture().pixels), CliRunner()
    done = program.invoke(app, ["unprocess", str(source), "--linear", "--model", "parametric", "--verify", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["white_level"] == 65535
    shown = program.invoke(app, ["inspect", str(tmp_path / "a.dng")]).stdout
    assert "RAW of three colours a pixel (LinearRaw), 83 × 61" in shown
    assert json.loads(program.invoke(app, ["inspect", "--json", str(tmp_path / "a.dng")]).stdout)["linear"] is True
    wrong = program.invoke(app, ["unprocess", str(source), "--linear", "--cfa", "RGGB", "-o", str(tmp_path / "b.dng")])
    assert wrong.exit_code == 2
    assert "--cfa" in wrong.output
    carried = ["render", str(tmp_path / "a.dng"), "--keep-raw", "lossless", "--model", "parametric"]
    refused = program.invoke(app, [*carried, "-o", str(tmp_path / "c.jpg")])
    assert "--keep-raw" in refused.output
    assert not (tmp_path / "c.jpg").exists()
