"""Lens shading: found where it is, not where it is not, taken out for the network and put back for the DNG."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from testcamera import MATRIX, scene

from paramisp_cli import isp
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.models.base import Params
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.runner import Runner
from paramisp_cli.training import crops
from paramisp_cli.training import dataset as data
from paramisp_cli.training.dataset import Pair, Region
from paramisp_cli.training.measure import shading
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, OpticalParams

TRUE = [[-0.1, -0.3, 0.1], [-0.1, -0.3, 0.1], [-0.05, -0.25, 0.05]]
SIZE = (240, 320)


def shot(coefficients: list[list[float]] | None, seed: int, cfa: str = "RGGB") -> data.LoadedPair:
    """A picture of its own tones, and the mosaic it came from, darker towards the corners."""
    canonical = CanonicalParams(cfa, 0, 65535, np.array([0.5, 1.0, 0.66]), MATRIX)
    rgb = scene(*SIZE, seed)
    linear = torch.from_numpy((0.8 * rgb**2).transpose(2, 0, 1).copy())[None].float()
    mosaic = isp.mosaic(linear, cfa)
    if coefficients is not None:
        mosaic = mosaic / isp.shading_gain(coefficients, cfa, (0, SIZE[0]), (0, 0, *SIZE), SIZE[1])
    pair = Pair(
        f"shot{seed}", "", "", "pair", "", canonical=canonical, optical=OpticalParams(100, 0.01, 4, 35),
        regions=(Region(0, 0, *SIZE),), size=SIZE,
    )  # fmt: skip
    codes = (mosaic[0, 0].numpy() * 65535).round().astype(np.uint16)
    return data.LoadedPair(pair, codes, (rgb * 255).round().astype(np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_shading_is_measured(count: int) -> None:
    found = shading.measure([shot(TRUE, seed) for seed in range(count)])
    assert found is not None
    rho = np.linspace(0, 1, 11)
    powers = np.stack([rho, rho**2, rho**3])
    np.testing.assert_allclose(1 + np.array(found) @ powers, 1 + np.array(TRUE) @ powers, atol=0.03)


def test_no_shading_is_found_where_there_is_none() -> None:
    assert shading.measure([shot(None, seed) for seed in range(2)]) is None
    assert shading.measure([]) is None


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_a_part_has_the_gains_of_its_place(cfa: str) -> None:
    whole = isp.shading_gain(TRUE, cfa, (0, 40), (0, 0, 40, 60), 60)
    assert whole[0, 0, 0, 0] == pytest.approx(
        1 / (1 + sum(k * (1 - 2 / 60) ** (i + 1) for i, k in enumerate(TRUE["RGB".index(cfa[0])]))), abs=0.01
    )
    part = isp.shading_gain(TRUE, cfa, (4, 20), (6, 8, 40, 60), 30)
    torch.testing.assert_close(part, whole[..., 10:26, 8:38])


@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_strips_take_shading_out_and_put_it_back(direction: Direction) -> None:
    item = shot(None, 0)
    assert item.pair.canonical is not None
    params = Params.of(item.pair.canonical, item.pair.optical)
    channels = 3 if direction == Direction.UNPROCESS else 1
    x = torch.rand(1, channels, *SIZE, generator=torch.Generator().manual_seed(0))
    plain, shaded = Parametric(direction), Parametric(direction)
    shaded.lens_shading = TRUE
    gain = isp.shading_gain(TRUE, "RGGB", (0, SIZE[0]), (0, 0, *SIZE), SIZE[1])
    with torch.inference_mode():
        expected = plain(x, params) / gain if direction == Direction.UNPROCESS else plain(x * gain, params)
    rows = []
    source, sink = lambda a, b: x[:, :, a:b], lambda top, y: rows.append(y)
    Runner(shaded, torch.device("cpu")).run(params, SIZE, source, sink, tile=(32, SIZE[1]))
    torch.testing.assert_close(torch.cat(rows, 2), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_crops_come_without_shading(orientation: int) -> None:
    clean, dark = shot(None, 0, "GBRG"), shot(TRUE, 0, "GBRG")
    region = dark.pair.regions[0]
    wanted = crops.cut(clean, region, (10, 30), 96, orientation)[1]
    np.testing.assert_allclose(crops.cut(dark, region, (10, 30), 96, orientation, TRUE)[1], wanted, atol=5e-5)
    assert np.abs(crops.cut(dark, region, (10, 30), 96, orientation)[1] - wanted).max() > 0.01
