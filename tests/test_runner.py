"""Tiles give what the whole gives, each row once, and a model that does not fit is refused before it runs."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from paramisp_cli import devices, memory, runner, weights
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError, WeightsError
from paramisp_cli.models import geometry
from paramisp_cli.models.base import Geometry, IspModel, Params
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.models.paramisp import ParamISP
from paramisp_cli.types import CanonicalParams, OpticalParams

CPU = torch.device("cpu")
MATRIX = np.array([[0.7, -0.1, -0.1], [-0.4, 1.2, 0.2], [-0.1, 0.2, 0.6]])


def params(cfa="GRBG"):
    return Params.of(CanonicalParams(cfa, 0, 1, (0.5, 1, 0.7), MATRIX), OpticalParams())


def run(model, x, channels, tile=None, frame=None, **options):
    """The result for a whole tensor, and the rows in the order in which they came."""
    height, width = x.shape[2:]
    out, rows = torch.full((1, channels, height, width), torch.nan), []

    def sink(top, strip):
        assert strip.device == CPU
        assert strip.dtype == torch.float32
        out[:, :, top : top + strip.shape[2]] = strip
        rows.extend(range(top, top + strip.shape[2]))

    machine = runner.Runner(model, CPU, **options)
    machine.run(params(), (height, width), lambda a, b: x[:, :, a:b].clone(), sink, tile=tile, frame=frame)
    assert rows == list(range(height))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
@pytest.mark.parametrize("size", [(2, 2), (26, 40), (64, 6), (50, 134)])
def test_strips_equal_the_whole(direction, size):
    inputs, outputs = direction.input.channels, direction.output.channels
    x = torch.rand(1, inputs, *size, generator=torch.Generator().manual_seed(0))
    model = Parametric(direction)
    with torch.inference_mode():
        whole = model(x, params())
    for tile in ((2, 1000), (4, 6), (16, 2), (48, 34), (1000, 1000), None):
        torch.testing.assert_close(run(model, x, outputs, tile=tile), whole, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_strips_are_small():
    """However large the picture, a strip has about _STRIP_PIXELS pixels: memory does not grow with it."""
    asked = []
    x = torch.zeros(1, 1, 4, 4000)

    def source(first, end):
        asked.append(end - first)
        return x[:, :, :1].expand(1, 1, end - first, 4000)

    runner.Runner(Parametric(Direction.RENDER), CPU).run(params(), (3000, 4000), source, lambda *_: None)
    assert max(asked) * 4000 <= 2 * runner._STRIP_PIXELS
    assert len(asked) > 20


class Strided(IspModel):
    """A U-Net of period 8: three halvings and three doublings, with convolutions between them."""

    name = "strided"
    geometry = Geometry(multiple=8, halo=24, smallest=40)

    def __init__(self, direction):
        super().__init__(direction)
        torch.manual_seed(0)
        self.down = torch.nn.ModuleList(torch.nn.Conv2d(c, 8, 4, 2, 1) for c in (direction.input.channels, 8, 8))
        self.up = torch.nn.ModuleList(torch.nn.ConvTranspose2d(8, c, 2, 2) for c in (8, 8, direction.output.channels))

    def compute(self, x, params):
        assert min(x.shape[2:]) >= 40
        assert x.shape[2] % 8 == x.shape[3] % 8 == 0
        for layer in self.down:
            x = torch.sin(3 * layer(x))
        for layer in self.up:
            x = torch.sin(3 * layer(x))
        return x


@pytest.mark.slow
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
@pytest.mark.parametrize("size", [(130, 86), (2, 150), (44, 46), (202, 34)])
def test_tiles_of_a_strided_network_equal_the_whole(direction, size):
    """At sizes and tiles that are no multiple of 8: cut at other rows, this network gives another picture."""
    x = torch.rand(1, direction.input.channels, *size, generator=torch.Generator().manual_seed(0))
    model = Strided(direction).eval()
    with torch.inference_mode():
        whole = model(x, params())
    assert whole.std() > 0.1
    for tile in ((2, 1000), (12, 1000), (50, 1000), (12, 30), (90, 22), (1000, 2), None):
        torch.testing.assert_close(run(model, x, direction.output.channels, tile=tile), whole, atol=1e-6, rtol=0)


def test_the_geometry_is_needed():
    """The test above can fail: the same network stated with multiple 2 is cut at rows where it gives something else."""
    x = torch.rand(1, 3, 136, 88, generator=torch.Generator().manual_seed(0))
    model = Strided(Direction.UNPROCESS).eval()
    with torch.inference_mode():
        whole = model(x, params())
    model.geometry = Geometry(multiple=2, halo=24)
    model.compute = lambda x, params: Strided.compute(model, torch.nn.functional.pad(x, _to_8(x)), params)[
        :, :, : x.shape[2], : x.shape[3]
    ]
    assert (run(model, x, 1, tile=(50, 1000)) - whole).abs().max() > 0.01


def _to_8(x):
    """Right and lower padding to multiples of 8, at least 40, as a network that pads by itself would choose it."""
    height, width = (Strided.geometry.padded(side) for side in x.shape[2:])
    return 0, width - x.shape[3], 0, height - x.shape[2]


def test_narrow_tiles_where_memory_is_short():
    """Whole rows where memory allows; else narrower tiles, with the same result."""
    model, seen = Strided(Direction.UNPROCESS).eval(), []
    real = model.compute
    model.compute = lambda x, params: seen.append(tuple(x.shape[2:])) or real(x, params)
    x = torch.rand(1, 3, 96, 1200, generator=torch.Generator().manual_seed(0))
    ample, short = (run(model, x, 1, max_memory=limit) for limit in (1 << 40, 1))
    assert seen[0][1] == 1200
    assert seen[-1][1] <= 128 + 48
    torch.testing.assert_close(short, ample, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "length"), [(2, 50), (100, 12), (101, 13), (64, 8), (1000, 128), (39, 8)])
@pytest.mark.parametrize(("multiple", "halo", "smallest"), [(2, 2, 2), (8, 24, 40), (4, 0, 85), (6, 5, 7)])
def test_spans_obey_the_geometry(size, length, multiple, halo, smallest):
    found = geometry.spans(size, length, multiple, halo, smallest)
    padded = Geometry(multiple, halo, smallest).padded(size)
    assert [n for span in found for n in range(span.begin, span.end)] == list(range(size))
    for begin, end, first, last in found:
        assert begin % multiple == first % multiple == last % multiple == 0
        assert 0 <= first <= max(begin - halo, 0)
        assert min(end + halo, padded) <= last <= padded
        assert last - first >= smallest


@pytest.mark.parametrize("bad", [{"multiple": 3}, {"multiple": 0}, {"halo": -1}, {"smallest": 0}])
def test_impossible_geometry(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Geometry(**bad)


class Pooling(IspModel):
    """Takes the whole image's mean away, so it cannot be cut into tiles."""

    name = "pooling"
    geometry = Geometry(pooled=("mean",))

    def compute(self, x, params):
        return x - x.mean((2, 3), keepdim=True)

    def peak_bytes(self, height, width, plan=None):
        return 1000 * height * width


def test_a_pooling_model_sees_the_whole():
    x = torch.rand(1, 1, 40, 6, generator=torch.Generator().manual_seed(0))
    out = run(Pooling(Direction.RENDER), x, 1, tile=(4, 4))
    torch.testing.assert_close(out, x - x.mean())


def test_memory_is_checked_before_work():
    x = torch.zeros(1, 1, 100, 100)
    run(Pooling(Direction.RENDER), x, 1, max_memory=10_000_000)
    with pytest.raises(
        ConfigError, match=r"pooling needs about 0\.0 GB for 0\.0 megapixels .*`max_memory`.*parametric"
    ):
        run(Pooling(Direction.RENDER), x, 1, max_memory=9_999_999)
    run(Parametric(Direction.RENDER), x, 3, max_memory=1)  # tiles need next to nothing


def test_free_memory_is_looked_at(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 5)
    with pytest.raises(ConfigError, match="free now"):
        runner.Runner(Pooling(Direction.RENDER), CPU).choose_plan((10, 10))
    assert runner.Runner(Pooling(Direction.RENDER), CPU, max_memory=1_000_000).choose_plan((10, 10)) == "whole"


def test_lower_precision_runs_in_autocast():
    seen = []

    class Probe(Pooling):
        def compute(self, x, params):
            seen.append(torch.is_autocast_enabled("cpu"))
            return x

    run(Probe(Direction.RENDER), torch.zeros(1, 1, 4, 4), 1, dtype=torch.bfloat16)
    run(Probe(Direction.RENDER), torch.zeros(1, 1, 4, 4), 1)
    assert seen == [True, False]


def test_devices():
    assert devices.describe()[0].startswith("cpu: ")


def test_threads_of_torch_are_as_before_also_after_a_failure() -> None:
    before = torch.get_num_threads()
    x = torch.rand(1, 1, 64, 64)
    model = Parametric(Direction.RENDER)
    seen = []
    machine = runner.Runner(model, CPU)
    machine.run(params(), (64, 64), lambda a, b: x[:, :, a:b], lambda top, _: seen.append(top), tile=(2, 64))
    assert seen == list(range(0, 64, 2))
    assert torch.get_num_threads() == before

    def full(top: int, rows: torch.Tensor) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        machine.run(params(), (64, 64), lambda a, b: x[:, :, a:b], full, tile=(2, 64))
    assert torch.get_num_threads() == before


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space are Linux's")
def test_torch_is_understood_when_memory_is_short():
    """In its own words of today, not in ours of them: a process that may have 3 GB asks for more."""
    code = (
        "import resource, torch; from paramisp_cli import devices\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))\n"
        "for ask in (lambda: torch.empty(1 << 32), lambda: torch.zeros(1 << 32), lambda: bytearray(1 << 34)):\n"
        "    try:\n        ask()\n        print('had it')\n"
        "    except (MemoryError, RuntimeError) as error:\n        print(devices.is_out_of_memory(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


def test_a_replaced_checkpoint_is_loaded_anew(tmp_path):
    """A model stays loaded from picture to picture, until its file changes."""
    path = tmp_path / "generic.render.safetensors"
    for seed in (1, 2):
        torch.manual_seed(seed)
        weights.save(ParamISP("render"), path, camera="generic")
        os.utime(path, ns=(seed, seed))
        model = runner.load(path, Direction.RENDER, CPU)
        assert runner.load(path, Direction.RENDER, CPU) is model
        saved = weights.load(path)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), saved.parameters(), strict=True))
    with pytest.raises(WeightsError, match="has direction render, unprocess is needed"):
        runner.load(path, Direction.UNPROCESS, CPU)


class Surveying(Parametric):
    """A model that notes whether a survey of the picture would hold its features for gradients."""

    gradients = True

    def surveyed(self, source, size, params):
        self.gradients = torch.is_grad_enabled()
        return params


def test_a_survey_holds_no_features():
    model = Surveying(Direction.UNPROCESS)
    run(model, torch.rand(1, 3, 64, 64), 1)
    assert not model.gradients
