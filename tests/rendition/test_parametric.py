"""The parametric model in numpy gives the codes of the torch model, and a CPU's conversions load no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_camera_look import photographed, scene

import paramisp_cli as paramisp
from paramisp_cli import convert, formats, machine, parameters, runner
from paramisp_cli.directions import Direction
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.rendition.develop import develop, expose
from paramisp_cli.rendition.parametric import ParametricRender, ParametricUnprocess
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, OpticalParams, RawImage, SrgbImage

CPU = torch.device("cpu")
PARAMETRIC = paramisp.Settings(model="parametric", gain_map="off")


def canonical(cfa: str, gains: tuple[float, float, float] = (2.1, 1.0, 1.6), white: float = 16383.0) -> CanonicalParams:
    matrix = np.array([[0.6719, -0.0994, -0.0925], [-0.4408, 1.2426, 0.2211], [-0.0887, 0.2129, 0.6051]])
    black = np.array([[128.0, 131.0], [127.0, 129.0]])
    return CanonicalParams(cfa, black, white, 1 / np.array(gains), matrix)


def picture(height: int, width: int, dtype: type[np.generic] = np.uint8) -> np.ndarray:
    """Shapes, noise, black, and blown highlights of all colours: all stages of the model, and their limits."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 17 + k) * np.cos(y / 23 - k) for k in range(3)]
    shown = np.stack(waves, -1) * 0.7 + 0.5 + np.random.default_rng(7).normal(0, 0.05, (height, width, 3))
    shown = np.clip(shown, 0, 1)
    if dtype == np.float32:
        return shown.astype(np.float32)
    top = np.iinfo(dtype).max
    codes: np.ndarray = np.rint(shown * top).astype(dtype)
    return codes


def exposed_by_torch(
    pixels: np.ndarray, c: CanonicalParams, size: tuple[int, int], dtype: type[np.generic], gain: float
) -> np.ndarray:
    model = Parametric(Direction.UNPROCESS, gain)
    return runner.Runner(model, CPU).unprocess(pixels, c, OpticalParams(), size=size, dtype=dtype)[0]


def developed_by_torch(raw: RawImage, dtype: type[np.generic], gain: float) -> np.ndarray:
    model, raw = Parametric(Direction.RENDER, gain), raw.cropped()
    pixels, _ = runner.Runner(model, CPU).render(raw.mosaic, raw.canonical, OpticalParams(), dtype=dtype)
    crop = raw.crop
    assert crop is not None
    return pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def farthest(one: np.ndarray, other: np.ndarray) -> float:
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_unprocess_is_the_torch_model(cfa: str, dtype: type[np.generic]) -> None:
    """Every CFA, odd and tiny sizes, digital gains, gains of the white balance on both sides of 1, all types."""
    for height, width, gain, gains, white in (
        (203, 331, 1.0, (2.1, 1.0, 1.6), 16383.0),
        (130, 24, 0.7, (0.8, 1.0, 2.4), 65535.0),
        (9, 7, 2.0, (1.9, 1.0, 0.9), 4095.0),
        (1, 1, 1.0, (2.1, 1.0, 1.6), 16383.0),
    ):
        pixels, c = picture(height, width, dtype), canonical(cfa, gains, white)
        size = max(height + height % 2, 24), max(width + width % 2, 24)
        ready = ParametricUnprocess(c, gain)
        codes = expose(pixels, ready, c, size)
        assert farthest(codes, exposed_by_torch(pixels, c, size, np.uint16, gain)) <= 1
        exact = expose(pixels, ready, c, size, dtype=np.float32)
        assert farthest(exact, exposed_by_torch(pixels, c, size, np.float32, gain)) <= 0.5 / 16383


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_render_is_the_torch_model(cfa: str, kind: type[np.generic]) -> None:
    """Every CFA, small mosaics, values below black and above white, digital gains, all types of result."""
    for height, width, gain in ((202, 330, 1.0), (130, 24, 2.3), (4, 2, 0.6), (2, 6, 1.0)):
        c, rng = canonical(cfa), np.random.default_rng(3)
        smooth = picture(height, width, np.float32)[..., 1] ** 2.2 * 1.2 - 0.02
        mosaic = smooth + rng.normal(0, 0.01, smooth.shape)
        if kind == np.uint16:
            mosaic = np.clip(np.rint(mosaic * 16255 + 128), 0, 65535)
        raw = RawImage(mosaic.astype(kind), c).cropped()
        for dtype, most in ((np.uint8, 1.0), (np.uint16, 2.0), (np.float32, 2 / 65535)):
            got = develop(raw, ParametricRender(c, gain), dtype=dtype)
            assert farthest(got, developed_by_torch(raw, dtype, gain)) <= most, dtype


@pytest.mark.slow
def test_real_photographs_give_the_codes_of_the_torch_model(shared: Path, real_raws: dict[str, Path]) -> None:
    """Whole conversions with the files' own parameters, forced through torch and not; most codes are equal."""
    for path in sorted((shared / "jpegs").glob("*.JPG"))[::3]:
        image = formats.read(path)
        assert isinstance(image, SrgbImage)
        raw = paramisp.unprocess(image, PARAMETRIC)
        expected = exposed_by_torch(image.pixels, raw.canonical, raw.mosaic.shape, np.uint16, 1.0)  # type: ignore[arg-type]
        assert farthest(raw.mosaic, expected) <= 1, path
        assert (raw.mosaic == expected).mean() > 0.99, path
    for name in ("CRW_0101.CRW", "IMG_0848.CR2", "GOPR8508.DNG"):
        if name not in real_raws:
            continue
        raw_image = formats.read(real_raws[name])
        assert isinstance(raw_image, RawImage)
        shown = develop(raw_image.cropped(), ParametricRender(raw_image.canonical))
        by_torch = developed_by_torch(raw_image, np.uint8, 1.0)
        assert farthest(shown, by_torch) <= 1, name
        assert (shown == by_torch).mean() > 0.97, name


def test_the_result_depends_neither_on_threads_nor_on_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    c, pixels = canonical("GBRG"), picture(90, 70)
    mosaic = expose(pixels, ParametricUnprocess(c), c, (90, 70), threads=1)
    raw = RawImage(mosaic, c).cropped()
    shown = develop(raw, ParametricRender(c), threads=1)
    monkeypatch.setattr("paramisp_cli.rendition.develop.SITES", 35 * 4)
    np.testing.assert_array_equal(expose(pixels, ParametricUnprocess(c), c, (90, 70), threads=3), mosaic)
    np.testing.assert_array_equal(develop(raw, ParametricRender(c), threads=3), shown)


def test_settings_reach_the_numpy_model() -> None:
    """Exposure, bit depth, dtype and device of the library, from an array and back; progress ends at 1."""
    pixels, camera = picture(61, 83), paramisp.Camera("Canon", "Canon EOS 60D")
    for wish in (
        PARAMETRIC,
        replace(PARAMETRIC, exposure=-0.7),
        replace(PARAMETRIC, dtype="bf16", device="cpu"),
        replace(PARAMETRIC, bit_depth=32),
    ):
        raw, shares = paramisp.unprocess(pixels, wish, camera=camera), []
        assert raw.crop is not None
        assert (raw.crop.height, raw.crop.width, raw.mosaic.shape) == (61, 83, (62, 84))
        kind, gain = (np.float32 if wish.bit_depth == 32 else np.uint16), 2.0 ** (wish.exposure or 0)
        expected = exposed_by_torch(pixels, raw.canonical, (62, 84), kind, gain)
        assert farthest(raw.mosaic, expected) <= (0.5 / 16383 if kind == np.float32 else 1)
        conversion = parameters.complete(raw, wish)
        back = convert.run(raw, conversion, wish, shares.append)
        assert isinstance(back, SrgbImage)
        assert shares == sorted(shares)
        assert shares[-1] == 1
        undone = raw.baseline_exposure + (wish.exposure or 0)
        most = 1 if wish.bit_depth == 8 else 2 / 65535
        assert farthest(back.pixels, developed_by_torch(raw, back.pixels.dtype.type, 2.0**undone)) <= most


def test_a_gpu_that_was_asked_for_goes_through_torch() -> None:
    conversion = parameters.complete(SrgbImage(picture(30, 40)), PARAMETRIC)
    assert machine.is_free_of_torch(conversion, PARAMETRIC)
    assert machine.is_free_of_torch(conversion, replace(PARAMETRIC, device="cpu"))
    assert not machine.is_free_of_torch(conversion, replace(PARAMETRIC, device="cuda:1"))
    assert not machine.is_free_of_torch(replace(conversion, checkpoint=Path("x")), PARAMETRIC)


@pytest.mark.slow
def test_conversions_without_a_network_load_no_torch(tmp_path: Path) -> None:
    """Through the command and the library: parametric both ways, and the look of the JPEG inside a RAW."""
    raw, shown = photographed(scene(400, 560), factor=1)
    raw = replace(raw, camera=paramisp.Camera("Canon", "Canon EOS 60D"))
    formats.write(SrgbImage(shown), tmp_path / "photo.jpg")
    c = raw.canonical
    levels = {"black": c.black_level, "white": c.white_level, "neutral": c.as_shot_neutral, "matrix": c.color_matrix}
    np.savez(tmp_path / "shot.npz", mosaic=raw.mosaic, **levels)
    (tmp_path / "preview.jpg").write_bytes(raw.metadata.jpeg or b"")
    script = f"""
import sys
from pathlib import Path
import numpy as np
import paramisp_cli as p
from paramisp_cli import parameters
from paramisp_cli.cli import app
folder = {str(tmp_path)!r}
def run(*words):
    sys.argv = ['paramisp', *words, '-q']
    try:
        app.main()
    except SystemExit as stop:
        assert stop.code == 0, stop.code
run('unprocess', f'{{folder}}/photo.jpg', '--model', 'parametric', '--camera', 'Canon EOS 60D')
run('render', f'{{folder}}/photo.dng', '--model', 'parametric', '-o', f'{{folder}}/again.jpg')
run('render', f'{{folder}}/photo.dng', '--stop-at', 'restored', '-o', f'{{folder}}/linear.tif')
parametric = p.Settings(model='parametric')
raw = p.unprocess(np.full((30, 44, 3), 90, np.uint8), parametric)
p.render(raw, parametric)
p.render(raw.mosaic, parametric, canonical=raw.canonical)
stored, jpeg = np.load(f'{{folder}}/shot.npz'), Path(folder, 'preview.jpg').read_bytes()
levels = [stored[name] for name in ('black', 'white', 'neutral', 'matrix')]
levels[1] = float(levels[1])
shot = p.RawImage(stored['mosaic'], p.CanonicalParams({c.cfa!r}, *levels), metadata=p.Metadata(jpeg=jpeg))
assert parameters.CAMERA_LOOK in p.render(shot).metadata.exif.decode('latin-1')
assert 'torch' not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
