"""Strips give what the whole gives, each row once, and a model that does not fit is refused before it runs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from paramisp_cli import memory, tiling
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import IspModel, Params
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.types import CanonicalParams, Direction, OpticalParams

CPU = torch.device("cpu")
MATRIX = np.array([[0.7, -0.1, -0.1], [-0.4, 1.2, 0.2], [-0.1, 0.2, 0.6]])


def params(cfa="GRBG"):
    return Params.of(CanonicalParams(cfa, 0, 1, (0.5, 1, 0.7), MATRIX), OpticalParams())


def run(model, x, channels, **options):
    """The result for a whole tensor, and the rows in the order in which they came."""
    height, width = x.shape[2:]
    out, rows = torch.full((1, channels, height, width), torch.nan), []

    def sink(top, strip):
        assert strip.device == CPU
        assert strip.dtype == torch.float32
        out[:, :, top : top + strip.shape[2]] = strip
        rows.extend(range(top, top + strip.shape[2]))

    tiling.run(model, params(), (height, width), lambda a, b: x[:, :, a:b].clone(), sink, device=CPU, **options)
    assert rows == list(range(height))
    return out


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("size", [(2, 2), (26, 40), (64, 6), (50, 134)])
def test_strips_equal_the_whole(direction, size):
    inputs, outputs = (3, 1) if direction == Direction.UNPROCESS else (1, 3)
    x = torch.rand(1, inputs, *size, generator=torch.Generator().manual_seed(0))
    model = Parametric(direction)
    with torch.inference_mode():
        whole = model(x, params())
    for strip_rows in (2, 4, 16, 48, 1000, None):
        torch.testing.assert_close(run(model, x, outputs, strip_rows=strip_rows), whole, atol=1e-6, rtol=0)


def test_strips_are_small():
    """However large the picture, a strip has about _STRIP_PIXELS pixels: memory does not grow with it."""
    asked = []
    x = torch.zeros(1, 1, 4, 4000)

    def source(first, end):
        asked.append(end - first)
        return x[:, :, :1].expand(1, 1, end - first, 4000)

    tiling.run(Parametric(Direction.RENDER), params(), (3000, 4000), source, lambda *_: None, device=CPU)
    assert max(asked) * 4000 <= 2 * tiling._STRIP_PIXELS
    assert len(asked) > 20


class Pooling(IspModel):
    """Takes the whole image's mean away, so it cannot be cut into strips."""

    name = "pooling"

    def forward(self, x, params):
        return x - x.mean((2, 3), keepdim=True)

    def peak_bytes(self, height, width, plan=None):
        return 1000 * height * width


def test_a_pooling_model_sees_the_whole():
    x = torch.rand(1, 1, 40, 6, generator=torch.Generator().manual_seed(0))
    out = run(Pooling(Direction.RENDER), x, 1, strip_rows=4)
    torch.testing.assert_close(out, x - x.mean())


def test_memory_is_checked_before_work():
    x = torch.zeros(1, 1, 100, 100)
    run(Pooling(Direction.RENDER), x, 1, max_memory=10_000_000)
    with pytest.raises(
        ConfigError, match=r"pooling needs about 0\.0 GB for these 0\.0 megapixels .*--max-memory.*parametric"
    ):
        run(Pooling(Direction.RENDER), x, 1, max_memory=9_999_999)
    run(Parametric(Direction.RENDER), x, 3, max_memory=1)  # strips need next to nothing


def test_free_memory_is_looked_at(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 5)
    with pytest.raises(ConfigError, match="free now"):
        tiling.choose_plan(Pooling(Direction.RENDER), 10, 10, CPU, None)
    assert tiling.choose_plan(Pooling(Direction.RENDER), 10, 10, CPU, 1_000_000) == "whole"


def test_lower_precision_runs_in_autocast():
    seen = []

    class Probe(Pooling):
        def forward(self, x, params):
            seen.append(torch.is_autocast_enabled("cpu"))
            return x

    run(Probe(Direction.RENDER), torch.zeros(1, 1, 4, 4), 1, dtype=torch.bfloat16)
    run(Probe(Direction.RENDER), torch.zeros(1, 1, 4, 4), 1)
    assert seen == [True, False]


def test_devices():
    assert tiling.devices()[0].startswith("cpu: ")


def test_threads_of_torch_are_as_before_also_after_a_failure() -> None:
    before = torch.get_num_threads()
    x = torch.rand(1, 1, 64, 64)
    model = Parametric(Direction.RENDER)
    seen = []
    tiling.run(
        model, params(), (64, 64), lambda a, b: x[:, :, a:b], lambda top, _: seen.append(top), device=CPU, strip_rows=2
    )
    assert seen == list(range(0, 64, 2))
    assert torch.get_num_threads() == before

    def full(top: int, rows: torch.Tensor) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        tiling.run(model, params(), (64, 64), lambda a, b: x[:, :, a:b], full, device=CPU, strip_rows=2)
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space are Linux's")
def test_torch_is_understood_when_memory_is_short():
    """In its own words of today, not in ours of them: a process that may have 3 GB asks for more."""
    code = (
        "import resource, torch; from paramisp_cli import tiling\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))\n"
        "for ask in (lambda: torch.empty(1 << 32), lambda: torch.zeros(1 << 32), lambda: bytearray(1 << 34)):\n"
        "    try:\n        ask()\n        print('had it')\n"
        "    except (MemoryError, RuntimeError) as error:\n        print(tiling.is_out_of_memory(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3
