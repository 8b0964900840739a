"""``fast`` through onnxruntime: the results of PyTorch, for every CFA, size and tile, without importing it."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import paramisp_cli as paramisp
from paramisp_cli import onnx_runner, weights
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError, WeightsError
from paramisp_cli.onnx_runner import BACKEND, OnnxRunner
from paramisp_cli.runner import Runner
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, OpticalParams

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
SHOT = OpticalParams(400, 0.01, 4, None)  # one value is unknown
CPU = torch.device("cpu")
FOLDER = Path(__file__).parents[1] / "weights" / "fast"
SHADED = "canon-eos-60d"
"""A checkpoint with lens shading."""


@pytest.fixture(autouse=True)
def on_this_machine(monkeypatch):
    """Whatever GPU there may be, and whatever the user's environment."""
    monkeypatch.setattr(onnx_runner, "_may_have_gpu", lambda: False)
    monkeypatch.delenv(BACKEND, raising=False)


def canonical(cfa="RGGB"):
    """Black levels differ by site, and white has 14 bits."""
    return CanonicalParams(cfa, [[512, 511], [510, 513]], 16383, (0.5, 1, 0.6), MATRIX)


def picture(height, width):
    """(height, width, 3) uint8: patches of all colours, with noise; black and white among them."""
    rng = np.random.default_rng(height + width)
    patches = rng.choice([0, 30, 90, 140, 200, 255], (height // 8 + 1, width // 8 + 1, 3))
    noisy = patches.repeat(8, 0).repeat(8, 1)[:height, :width] + rng.normal(0, 5, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def both(camera, direction):
    path = FOLDER / f"{camera}.{direction}.safetensors"
    return Runner(weights.load_model(path), CPU), OnnxRunner(onnx_runner.load(path, direction))


def off(one, other):
    """Largest difference; the shape and the type must agree."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    return np.abs(one.astype(np.float64) - other.astype(np.float64)).max()


@pytest.mark.parametrize("size", [(2, 2), (24, 26), (75, 141), (230, 202)], ids=str)
@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("camera", ["generic", SHADED])
@pytest.mark.slow
def test_results_are_those_of_torch(camera, cfa, size, monkeypatch):
    monkeypatch.setattr(onnx_runner, "_TILE_PIXELS", 1)
    monkeypatch.setattr(onnx_runner, "_SMALLEST_TILE", 96)  # several tiles
    pixels = picture(*size)
    even = tuple(max(side + side % 2, 24) for side in size)
    slow, quick = both(camera, Direction.UNPROCESS)
    wanted, plan = slow.unprocess(pixels, canonical(cfa), SHOT, size=even)
    got, own = quick.unprocess(pixels, canonical(cfa), SHOT, size=even)
    assert off(got, wanted) <= 1
    assert np.mean(got != wanted) < 0.01
    assert own == plan
    linear = [runner.unprocess(pixels, canonical(cfa), SHOT, dtype=np.float32)[0] for runner in (slow, quick)]
    assert off(*linear) < 1e-5
    slow, quick = both(camera, Direction.RENDER)
    shown = [runner.render(wanted, canonical(cfa), SHOT, gain=1.3)[0] for runner in (slow, quick)]
    assert off(*shown) <= 1
    assert np.mean(shown[0] != shown[1]) < 0.01
    shown = [runner.render(linear[0], canonical(cfa), SHOT, dtype=np.float32)[0] for runner in (slow, quick)]
    assert off(*shown) < 1e-5


@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
@pytest.mark.slow
def test_tiles_equal_the_whole(direction, monkeypatch):
    runner, size = both(SHADED, direction)[1], (300, 418)
    mosaic = picture(*size)[..., 0].astype(np.uint16) * 64
    for cfa in ("RGGB", "GBRG"):
        results = []
        for tile in ((512, 512), (64, 80)):
            monkeypatch.setattr(onnx_runner, "_tile", lambda *_, tile=tile: tile)
            if direction == Direction.UNPROCESS:
                results.append(runner.unprocess(picture(*size), canonical(cfa), SHOT, dtype=np.float32)[0])
            else:
                results.append(runner.render(mosaic, canonical(cfa), SHOT, dtype=np.float32)[0])
        assert off(*results) < 3e-6


def test_sixteen_bits_and_the_frame():
    """A strip of a larger picture gets the shading of its place."""
    slow, quick = both(SHADED, Direction.RENDER)
    mosaic, frame = picture(64, 96)[..., 1].astype(np.uint16) * 60, (200, 40, 600, 400)
    wanted, got = (each.render(mosaic, canonical(), SHOT, dtype=np.uint16, frame=frame)[0] for each in (slow, quick))
    assert off(got, wanted) <= 1
    slow, quick = both(SHADED, Direction.UNPROCESS)
    pixels = picture(64, 96).astype(np.uint16) * 257
    wanted, got = (each.unprocess(pixels, canonical(), SHOT, frame=frame)[0] for each in (slow, quick))
    assert off(got, wanted) <= 1
    assert off(got, quick.unprocess(pixels, canonical(), SHOT)[0]) > 20


def test_progress_rises_to_one(monkeypatch):
    monkeypatch.setattr(onnx_runner, "_tile", lambda *_: (64, 64))
    shares = []
    path = FOLDER / "generic.unprocess.safetensors"
    runner = OnnxRunner(onnx_runner.load(path, Direction.UNPROCESS), progress=shares.append)
    runner.unprocess(picture(150, 100), canonical(), SHOT)
    assert len(shares) == 6
    assert all(a < b for a, b in pairwise(shares))
    assert shares[-1] == 1


@pytest.mark.parametrize("size", [(8, 8), (3000, 4000), (8192, 12288), (8, 100_000)])
@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_tiles_fit_the_memory_and_occupy_the_threads(size, count):
    rows, columns = onnx_runner._tile(size, count, 8 << 30)
    assert rows % 8 == columns % 8 == 0
    assert (rows + 128) * (columns + 128) <= onnx_runner._TILE_PIXELS
    tiles = -(-size[0] // rows) * -(-size[1] // columns)
    if size[0] * size[1] > 1e7:
        assert tiles / (-(-tiles // count) * count) > 0.9  # share of the threads' time that is used
    few = onnx_runner._tile(size, count, 300 << 20)
    assert few[0] * few[1] <= max(rows * columns, onnx_runner._SMALLEST_TILE**2)


def test_expected_time_follows_the_size():
    runner = both("generic", Direction.RENDER)[1]
    assert runner.expected_seconds((2000, 3000)) == pytest.approx(4 * runner.expected_seconds((1000, 1500)))
    assert runner.model.config.macs == 8240


# --- the choice -------------------------------------------------------------------------------------------------------

FAST = FOLDER / "generic.render.safetensors"


def test_the_choice(monkeypatch):
    assert onnx_runner.suits("fast", FAST, "auto", "auto")
    assert onnx_runner.suits("fast", FAST, "cpu", "fp32")
    for other in (("paramisp", FAST, "cpu", "auto"), ("fast", None, "cpu", "auto"), ("fast", FAST, "cuda", "auto")):
        assert not onnx_runner.suits(*other)
    assert not onnx_runner.suits("fast", FAST, "cpu", "bf16")
    assert not onnx_runner.suits("fast", Path("net.ckpt"), "cpu", "auto")
    monkeypatch.setattr(onnx_runner, "_may_have_gpu", lambda: True)
    assert not onnx_runner.suits("fast", FAST, "auto", "auto")
    assert onnx_runner.suits("fast", FAST, "cpu", "auto")
    monkeypatch.setenv(BACKEND, "onnx")
    assert onnx_runner.suits("fast", FAST, "auto", "auto")
    monkeypatch.setenv(BACKEND, "torch")
    assert not onnx_runner.suits("fast", FAST, "cpu", "auto")
    monkeypatch.setenv(BACKEND, "tensorflow")
    with pytest.raises(ConfigError, match="must be torch or onnx, got 'tensorflow'"):
        onnx_runner.suits("fast", FAST, "cpu", "auto")


def test_without_onnxruntime(monkeypatch):
    monkeypatch.setattr(onnx_runner, "runtime", lambda: None)
    assert not onnx_runner.suits("fast", FAST, "cpu", "auto")
    assert "not installed (pip install 'paramisp[onnx]')" in onnx_runner.describe()
    monkeypatch.setenv(BACKEND, "onnx")
    with pytest.raises(ConfigError, match=r"onnxruntime is not installed; pip install 'paramisp\[onnx\]'"):
        onnx_runner.suits("fast", FAST, "cpu", "auto")


def test_doctor_tells_the_use(monkeypatch):
    assert "runs `fast`" in onnx_runner.describe()
    monkeypatch.setenv(BACKEND, "torch")
    assert "$PARAMISP_BACKEND is torch" in onnx_runner.describe()


def test_the_number_of_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert onnx_runner.threads() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= onnx_runner.threads() <= 16


def test_the_library_uses_it(monkeypatch):
    """``unprocess`` and ``render`` give what the runner gives, and the same as with torch, within a code."""
    settings = paramisp.Settings(model="fast", camera="NIKON CORPORATION/NIKON D90", device="cpu")
    pixels = picture(61, 90)
    calls = []
    session = OnnxRunner._session
    monkeypatch.setattr(OnnxRunner, "_session", lambda *args: calls.append(1) or session(*args))
    raw = paramisp.unprocess(pixels, settings)
    shown = paramisp.render(raw, settings)
    assert len(calls) == 2
    monkeypatch.setenv(BACKEND, "torch")
    other = paramisp.unprocess(pixels, settings)
    assert off(raw.mosaic, other.mosaic) <= 1
    assert off(shown.pixels, paramisp.render(raw, settings).pixels) <= 1
    assert len(calls) == 2


@pytest.mark.slow
def test_whole_commands_never_import_torch(make_jpeg, tmp_path):
    photo = make_jpeg(tmp_path / "photo.jpg")
    words = [
        ["unprocess", "--model", "fast", "--device", "cpu", "--json", str(photo)],
        [
            "render",
            "--model",
            "fast",
            "--device",
            "cpu",
            str(tmp_path / "photo.dng"),
            "-o",
            str(tmp_path / "again.jpg"),
        ],
        ["weights", "export", "generic", "-o", str(tmp_path)],
    ]
    script = f"""
import sys
from paramisp_cli.cli import app
for words in {words!r}:
    sys.argv = ["paramisp", *words]
    try:
        app.main()
    except SystemExit as stop:
        assert stop.code == 0, stop.code
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"memory_plan": "whole"' in done.stdout
    assert (tmp_path / "again.jpg").exists()


def test_a_damaged_checkpoint_gets_the_same_message(tmp_path):
    path = tmp_path / "bad.render.safetensors"
    path.write_bytes(FAST.read_bytes()[:-4])
    with pytest.raises(WeightsError, match="damaged"):
        onnx_runner.load(path, Direction.RENDER)
    with pytest.raises(ConfigError, match="is for render, not for unprocess"):
        onnx_runner.load(FAST, Direction.UNPROCESS)
    header = weights.info(FAST)
    model = weights.load_model(FAST)
    del model.adjust
    bad = weights.save(model, tmp_path / "lacks.render.safetensors", camera=header["camera"])
    for load in (weights.load, lambda path: onnx_runner.load(path, Direction.RENDER)):
        with pytest.raises(WeightsError, match=r"lacks tensors of fast: adjust.bias, adjust.weight"):
            load(bad)
