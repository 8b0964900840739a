"""Crops: CFA, alignment, and their shares."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from testcamera import MATRIX

from paramisp_cli import isp
from paramisp_cli.errors import ConfigError
from paramisp_cli.training import config, crops
from paramisp_cli.training import dataset as data
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, OpticalParams


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_crops_keep_cfa_and_alignment(cfa: str, orientation: int) -> None:
    rgb = np.random.default_rng(0).random((40, 48, 3)).astype(np.float32)
    flat = isp.mosaic(torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None], cfa)[0, 0].numpy()
    params = CanonicalParams(cfa, 0, 65535, np.ones(3), MATRIX)
    pair = data.Pair("x", "", "", "pair", "", canonical=params, regions=(data.Region(0, 0, 40, 48),), size=(40, 48))
    item = data.LoadedPair(pair, (flat * 65535).round().astype(np.uint16), (rgb * 255).round().astype(np.uint8))
    srgb, mosaic = crops.cut(item, pair.regions[0], (3, 5), 24, orientation)
    again = isp.mosaic(torch.from_numpy(srgb)[None], crops.CFA)[0].numpy()
    assert np.abs(again - mosaic).max() < 0.01  # the mosaic is the picture's own, seen through RGGB


@pytest.mark.slow
def test_simulated_pairs_give_their_share(dataset: Path, tmp_path: Path) -> None:
    real = data.load(dataset)[0]
    pair = replace(real.pair, jpeg=data.SIMULATED, optical=OpticalParams(6400, 0.01, 4, 35))
    both = [real, replace(real, pair=pair)]
    for share, low, high in ((0.0, 0, 0), (0.6, 80, 160)):
        sampler = crops.Sampler(both, simulated=share)
        isos = sampler.batch(200, 96, torch.Generator().manual_seed(0)).params.iso
        assert low <= int((isos == 6400).sum()) <= high
    (tmp_path / data.INDEX).write_text("".join(json.dumps(item.pair.record()) + "\n" for item in both))
    (tmp_path / f"{real.pair.name}.npz").write_bytes((dataset / f"{real.pair.name}.npz").read_bytes())
    assert [item.pair.is_simulated for item in data.load(tmp_path)] == [False]
    assert [item.pair.is_simulated for item in data.load(tmp_path, simulated=True)] == [False, True]


def test_random_balance_changes_only_the_sensor(dataset: Path) -> None:
    items = data.load(dataset)
    plain = crops.Sampler(items).batch(1, 96, torch.Generator().manual_seed(0))
    other = crops.Sampler(items, random_balance=0.3).batch(1, 96, torch.Generator().manual_seed(0))
    assert torch.equal(plain.srgb, other.srgb)
    assert not torch.allclose(plain.mosaic, other.mosaic, rtol=0.02)
    same = [isp.apply_gains(isp.demosaic(b.mosaic, crops.CFA), b.params.wb_gains) for b in (plain, other)]
    assert torch.allclose(*same, atol=0.05)  # demosaicing mixes the channels a little at edges
    assert float((same[0] - same[1]).abs().mean()) < 2e-3
    with pytest.raises(ConfigError, match="random_balance must be in"):
        config.parse("random_balance = -1\n[[phases]]\nsteps = 1\ncrop = 96\nbatch = 1", "bad")
