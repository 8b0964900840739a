"""Computed exposures of simulated shots: their light, their pictures, and their share of a training's crops."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from paramisp_cli import mosaic as bayer
from paramisp_cli.errors import ConfigError
from paramisp_cli.formats import radiance
from paramisp_cli.formats.base import WriteOptions
from paramisp_cli.training import config, crops
from paramisp_cli.training import dataset as data
from paramisp_cli.training.simulated import camera, shots
from paramisp_cli.types import LinearImage


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set of four shots and their exposures, and its series."""
    folder = tmp_path_factory.mktemp("exposures")
    rng = np.random.default_rng(5)
    tiles = rng.uniform(0.05, 1, (16, 32, 3)).repeat(8, 0).repeat(8, 1) * np.linspace(0.3, 2, 256)[None, :, None]
    radiance.FORMAT.write(LinearImage(tiles.astype(np.float32)), folder / "room.hdr", WriteOptions())
    series = shots.Series(4, 96, 3, shots.pick_cameras(["Nikon D90", "Canon EOS 60D"]), exposures=True)
    return folder / "set", series, list(shots.make([folder / "room.hdr"], folder / "set", series)), folder / "room.hdr"


def test_every_shot_has_an_exposure(made):
    folder, series, pairs, scene = made
    assert [pair.is_exposed for pair in pairs] == [False, True] * 4
    assert [pair.name for pair in pairs[1::2]] == [f"{pair.name}-exposed" for pair in pairs[::2]]
    gains = [pair.gain for pair in pairs[1::2]]
    assert len(set(gains)) == 4
    assert all(2**-3.5 <= gain <= 4 for gain in gains)
    assert [pair.record() for pair in data.read_index(folder)] == [pair.record() for pair in pairs]
    before = {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("*.npz")}
    again = list(shots.make([scene], folder, series))
    assert [pair.record() for pair in again] == [pair.record() for pair in pairs]
    assert {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("*.npz")} == before


def test_its_light_is_the_shots(made):
    folder, series, pairs, _ = made
    for shot, bent in zip(pairs[::2], pairs[1::2], strict=True):
        mosaic, _ = data.read_arrays(folder, shot)
        codes, srgb = data.read_arrays(folder, bent)
        light = bayer.linear(mosaic, shot.canonical.black_level, shot.canonical.white_level)
        gains = shot.canonical.wb_gains
        caps = bayer.by_site(gains.min() / gains if bent.gain < 1 else np.ones(3), shot.canonical.cfa)
        expected = np.clip(np.clip(light, 0, bayer.repeated(caps, light.shape)) * bent.gain, 0, 1)
        assert np.abs(codes / 65535 - expected).max() < 1e-5
        name = {"NIKON D90": "Nikon D90", "Canon EOS 60D": "Canon EOS 60D"}[shot.camera.model]
        own = camera.personality(name, series.seed)
        assert np.array_equal(srgb, camera.develop(codes, bent.canonical, shot.optical, own))


def test_loaded_on_request_alone(made):
    folder, *_ = made
    assert not any(item.pair.is_exposed for item in data.load(folder))
    assert sum(item.pair.is_exposed for item in data.load(folder, exposures=True)) == 4


def test_an_old_index_has_no_gain(made):
    _, _, pairs, _ = made
    record = pairs[0].record()
    del record["gain"]
    assert data.Pair.of(record).record() == pairs[0].record()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_share_of_the_crops(made, share):
    folder, *_ = made
    sampler = crops.Sampler(data.load(folder, exposures=True), exposures=share)
    batch = sampler.batch(200, 16, torch.Generator().manual_seed(0))
    exposed = (batch.code < 1 / 60000).float().mean()  # 16 bits; cameras have 12 or 14
    assert abs(float(exposed) - share) < 0.1


def test_no_exposures_no_other_numbers(made):
    folder, *_ = made
    plain = data.load(folder)
    one, two = (
        crops.Sampler(plain, exposures=share).batch(4, 16, torch.Generator().manual_seed(1)) for share in (0.0, 0.5)
    )
    assert torch.equal(one.mosaic, two.mosaic)


def test_recipe():
    recipe = config.load("fast-camera")
    assert recipe.exposures == 0
    assert replace(recipe, exposures=0.3).record()["exposures"] == 0.3
    for wrong in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="exposures must be in"):
            replace(recipe, exposures=wrong)
