"""The light of simulated shots: stored, cut like the mosaic, and the target of CameraNet's restoration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_simulate import plan, room, write_hdr
from testcamera import MATRIX

from paramisp_cli import isp, models, weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import FormatError
from paramisp_cli.training import config, crops, loop, protocol
from paramisp_cli.training import dataset as data
from paramisp_cli.training.simulated import camera, shots
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams

SHADING = [[-0.3, -0.1, 0.02], [-0.2, -0.1, 0.01], [-0.4, 0.05, 0.0]]


@pytest.fixture(scope="module")
def panorama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hdr(tmp_path_factory.mktemp("scenes") / "room.hdr", room())


@pytest.fixture(scope="module")
def lit(panorama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with light."""
    where = tmp_path_factory.mktemp("lit") / "set"
    list(shots.make([panorama], where, plan(3, light=True)))
    return where


@pytest.fixture(scope="module")
def unlit(panorama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shots without light, as older data sets are."""
    where = tmp_path_factory.mktemp("unlit") / "set"
    list(shots.make([panorama], where, plan(3)))
    return where


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def plain(batch: crops.Batch) -> torch.Tensor:
    """The rendering of mosaics that is the target of photographs."""
    camera = isp.apply_gains(isp.demosaic(batch.mosaic, crops.CFA), batch.params.wb_gains)
    return isp.apply_matrix(camera, batch.params.cam_to_srgb)


def draw(items: list[data.LoadedPair], count: int = 4, **arguments: object) -> crops.Batch:
    return crops.Sampler(items, **arguments).batch(count, 64, torch.Generator().manual_seed(0))


# Stored light --------------------------------------------------------------------------------------------------------


def test_light_changes_no_pixel(lit: Path, unlit: Path) -> None:
    one, two = contents(lit), contents(unlit)
    assert one.keys() == two.keys()
    assert {name for name in one if one[name] != two[name]} == {name for name in one if name.endswith(".npz")}
    for pair in data.read_index(lit):
        for side, same in zip(data.read_arrays(lit, pair), data.read_arrays(unlit, pair), strict=True):
            np.testing.assert_array_equal(side, same)
        light = data.read_light(lit, pair)
        assert light is not None
        assert (light.shape, light.dtype) == ((96, 96, 3), np.uint16)
        assert data.read_light(unlit, pair) is None


def test_light_is_added_to_old_shots(panorama: Path, lit: Path, tmp_path: Path) -> None:
    where = tmp_path / "set"
    first, _ = shots.make([panorama], where, plan(2))
    data.write_index(where, [replace(first, reason="of an older table"), *data.read_index(where)[1:]])
    list(shots.make([panorama], where, plan(3, light=True)))
    assert contents(where) == contents(lit)
    times = {path: path.stat().st_mtime_ns for path in where.glob("*.npz")}
    for light in (False, True):  # nothing lacks now, and no light is lost
        list(shots.make([panorama], where, plan(3, light=light)))
        assert {path: path.stat().st_mtime_ns for path in where.glob("*.npz")} == times
    damaged = next(where.glob("*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:5000])
    list(shots.make([panorama], where, plan(3, light=True)))
    assert contents(where) == contents(lit)


def test_light_of_a_wrong_shape_is_damage(lit: Path, tmp_path: Path) -> None:
    pair = data.read_index(lit)[0]
    mosaic, srgb = data.read_arrays(lit, pair)
    for light in (np.zeros((96, 94, 3), np.uint16), np.zeros((96, 96, 3), np.float16)):
        data.write_arrays(tmp_path, pair.name, mosaic, srgb, light)
        with pytest.raises(FormatError, match=r"\.npz: missing or damaged \(light is ") as caught:
            data.read_light(tmp_path, pair)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_a_mosaic_without_noise_is_that_of_the_light(panorama: Path, tmp_path: Path, monkeypatch) -> None:
    """On every site and to the rounding of the codes, in clipped highlights too: a lamp is in the room."""
    sensed = camera.sensed
    monkeypatch.setattr(camera, "sensed", lambda light, params, noise, rng: sensed(light, params, 0 * noise, rng))
    list(shots.make([panorama], tmp_path / "set", plan(12, light=True)))
    items = data.load(tmp_path / "set", light=True)
    clipped = 0
    for item in items:
        assert item.light is not None
        light = torch.from_numpy(item.light.astype(np.float32) / data.LIGHT_WHITE).permute(2, 0, 1)[None]
        sites = isp.mosaic(light, item.canonical.cfa)[0, 0].numpy()
        span = item.canonical.white_level - float(item.canonical.black_level.mean())
        assert np.abs(item.sides()[0] - sites).max() < 0.51 / span + 0.51 / data.LIGHT_WHITE
        clipped += int((sites == 1).sum())
    assert clipped > 20


@pytest.mark.slow
def test_a_plain_rendering_is_near_the_target_without_noise(tmp_path: Path, monkeypatch) -> None:
    """Of smooth scenes: there demosaicing loses nothing, so noise alone is between the two."""
    height, width = 128, 256
    across, down = np.arange(width)[None, :, None] / width, np.arange(height)[:, None, None] / height
    colours = 1 + 0.5 * np.cos(2 * np.pi * across + np.array([0, 1, 2])) * np.sin(np.pi * down)
    smooth = write_hdr(tmp_path / "smooth.hdr", 0.5 * colours)
    sensed = camera.sensed
    errors = []
    for strength in (0, 1, 4):  # of the noise's variance
        monkeypatch.setattr(
            camera, "sensed", lambda light, params, noise, rng, by=strength: sensed(light, params, by * noise, rng)
        )
        where = tmp_path / f"set{strength}"
        list(shots.make([smooth], where, plan(6, light=True)))
        batch = draw(data.load(where, light=True), 12)
        assert batch.restored is not None
        errors.append(float((plain(batch) - batch.restored).abs().mean()))
    assert errors[0] < 3e-4
    assert errors[1] > 10 * errors[0]
    assert errors[2] == pytest.approx(2 * errors[1], rel=0.1)


# Crops ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("shading", [None, SHADING], ids=["plain", "shading"])
@pytest.mark.parametrize("side", ["whole", "train", "test"])
def test_light_is_cut_like_the_mosaic(cfa: str, shading: list | None, side: str) -> None:
    light = np.random.default_rng(0).integers(0, 65536, (42, 130, 3)).astype(np.uint16)  # no two places are alike
    sites = isp.mosaic(torch.from_numpy(light.astype(np.float32).transpose(2, 0, 1).copy())[None], cfa)[0, 0].numpy()
    params = CanonicalParams(cfa, 0, 65535, np.ones(3), MATRIX)
    srgb = (light // 256).astype(np.uint8)
    pair = data.Pair("x", "", data.SIMULATED, "pair", "", canonical=params, size=(42, 130))
    if side == "whole":
        pair = replace(pair, regions=(data.Region(0, 0, 40, 128, 1, 2),))
    else:
        pair = replace(pair, regions=(data.Region(0, 0, 42, 130),))
    item = data.LoadedPair(pair, sites.astype(np.uint16), srgb, light=light)
    if side != "whole":
        item = data.split(item, side)
    for orientation in (1, 2, 3, 4):
        arguments = (item, item.pair.regions[0], (3, 5), 24, orientation, shading)
        cut = crops.cut_light(*arguments)
        assert cut is not None
        assert (cut.shape, cut.dtype) == ((3, 24, 24), np.float32)
        seen = isp.mosaic(torch.from_numpy(cut)[None], crops.CFA)[0].numpy()
        np.testing.assert_allclose(seen, crops.cut(*arguments)[1], 1e-6)
        assert crops.cut_light(replace(item, light=None), *arguments[1:]) is None


def test_a_batch_has_the_light_of_its_crops(lit: Path) -> None:
    items = data.load(lit, light=True)
    batch = draw(items)
    assert batch.restored is not None
    assert batch.restored.shape == (4, 3, 64, 64)
    camera = isp.apply_matrix(batch.restored, torch.linalg.inv(batch.params.cam_to_srgb))
    sites = isp.mosaic(isp.apply_gains(camera, 1 / batch.params.wb_gains), crops.CFA)
    errors = (sites - batch.mosaic).abs()
    assert float(errors.mean()) < 0.02  # noise alone
    for shifted in (sites.flip(2), sites.flip(3), sites.roll(2, 2), sites.roll(2, 3)):
        assert float((shifted - batch.mosaic).abs().mean()) > 3 * float(errors.mean())


def test_random_balance_changes_no_target(lit: Path) -> None:
    items = data.load(lit, light=True)
    one, other = draw(items), draw(items, random_balance=0.3)
    assert not torch.allclose(one.params.wb_gains, other.params.wb_gains, rtol=0.02)
    torch.testing.assert_close(one.restored, other.restored, atol=1e-5, rtol=1e-5)


def test_a_batch_without_light_has_no_target(lit: Path, unlit: Path) -> None:
    assert draw(data.load(unlit, light=True)).restored is None
    assert draw(data.load(lit)).restored is None


def test_photographs_beside_light_have_a_plain_rendering(dataset: Path, lit: Path) -> None:
    pairs = [*data.load(dataset), *data.load(lit, light=True)]
    batch = draw(pairs, 12, simulated=0.5)
    assert batch.restored is not None
    errors = (plain(batch) - batch.restored).abs().amax((1, 2, 3))
    photographs = batch.params.iso == data.load(dataset)[0].pair.optical.iso
    assert 0 < int(photographs.sum()) < 12
    assert float(errors[photographs].max()) < 1e-6
    assert float(errors[~photographs].min()) > 1e-3


# Training ------------------------------------------------------------------------------------------------------------

RECIPE = """
architecture = "cameranet"
loss = "own"
lr = 1e-3
warmup = 1
dtype = "fp32"
ema = 0.5
noise = 0.0
lens_shading = "none"
evaluate_every = 1
checkpoint_every = 1
model = { width = 4 }
"""


def recipe(*parts: str, **more: object) -> config.Recipe:
    phases = "".join(f'[[phases]]\nsteps = 2\ncrop = 64\nbatch = 2\npart = "{part}"\n' for part in parts)
    return config.parse(RECIPE + "".join(f"{key} = {value}\n" for key, value in more.items()) + phases, "tiny")


class _StopError(Exception):
    pass


def trained(what: config.Recipe, pairs: list[data.LoadedPair], folder: Path, evaluate=lambda t: None) -> loop.Trainer:
    made = protocol.start(what, Direction.RENDER, torch.device("cpu"), folder)
    made.run(protocol.sampler(made, pairs), lambda progress: None, evaluate)
    return made


def numbers(trainer: loop.Trainer, name: str = "") -> torch.Tensor:
    return torch.cat([p.flatten() for key, p in trainer.all.named_parameters() if name in key])


@pytest.mark.parametrize("part", ["restore", "enhance", "all"])
@pytest.mark.slow
def test_training_uses_the_light(lit: Path, unlit: Path, tmp_path: Path, part: str) -> None:
    bright = trained(recipe(part), data.load(lit, light=True), tmp_path / "lit")
    dark = trained(recipe(part), data.load(unlit, light=True), tmp_path / "unlit")
    again = trained(recipe(part), data.load(lit), tmp_path / "again")  # with light that was not loaded
    assert torch.equal(numbers(dark), numbers(again))
    stage = "restore" if part == "all" else part
    assert not torch.equal(numbers(dark, f"{stage}."), numbers(bright, f"{stage}."))


@pytest.mark.parametrize("part", ["restore", "enhance", "all"])
def test_a_plain_rendering_as_the_target_is_the_loss_without_one(unlit: Path, part: str) -> None:
    batch = draw(data.load(unlit))
    model = models.architecture("cameranet")(Direction.RENDER, width=4)
    with torch.no_grad(), model.phase(part):
        without = model.own_loss(batch.mosaic, batch.srgb, batch.params)
        same = model.own_loss(batch.mosaic, batch.srgb, batch.params, plain(batch))
        other = model.own_loss(batch.mosaic, batch.srgb, batch.params, plain(batch) + 0.1)
    assert torch.equal(without, same)
    assert not torch.equal(without, other)


@pytest.mark.slow
def test_resuming_gives_the_same_numbers(lit: Path, tmp_path: Path) -> None:
    pairs, what = data.load(lit, light=True), recipe("restore", "all")
    straight = trained(what, pairs, tmp_path / "straight")

    def stop(t: loop.Trainer) -> None:
        raise _StopError

    for _ in range(3):
        with pytest.raises(_StopError):
            trained(what, pairs, tmp_path / "broken", stop)
    resumed = trained(what, pairs, tmp_path / "broken")
    assert resumed.step == straight.step == 4
    assert torch.equal(numbers(straight), numbers(resumed))


@pytest.mark.parametrize(
    ("architecture", "direction"),
    [(name, way) for name in ("invisp", "ciexyz", "cycleisp") for way in models.entry(name).directions],
)
def test_other_networks_ignore_it(lit: Path, architecture: str, direction: Direction) -> None:
    assert not protocol.takes_light(replace(recipe("all"), architecture=architecture))
    batch = crops.Sampler(data.load(lit, light=True)).batch(1, 32, torch.Generator().manual_seed(0))
    model = models.architecture(architecture)(direction)
    model.initialise(torch.Generator().manual_seed(0))
    model.eval()
    sides = (batch.srgb, batch.mosaic) if direction == Direction.UNPROCESS else (batch.mosaic, batch.srgb)
    with torch.no_grad():
        assert torch.equal(model.own_loss(*sides, batch.params), model.own_loss(*sides, batch.params, batch.restored))


# The commands --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_commands(paramisp, panorama: Path, tmp_path: Path) -> None:
    """An old data set trains with one notice; made again with light, it trains without."""
    text = RECIPE + '[[phases]]\nsteps = 1\ncrop = 64\nbatch = 1\npart = "restore"\n'
    (tmp_path / "tiny.toml").write_text(text)
    simulate = ("simulate", panorama, "-o", tmp_path / "set", "--count", 2, "--size", 96, "--camera", "eos 60d")
    train = ("train", tmp_path / "set", "--direction", "render", "--recipe", tmp_path / "tiny.toml")
    cards = []
    for light, notices in (((), 1), (("--with-light",), 0)):
        assert paramisp(*simulate, *light)[0] == 0
        code, out, notes = paramisp(*train, "-o", tmp_path / f"run{notices}")
        assert code == 0
        assert sum("2 of 2 simulated shots have no light stored" in line for line in notes) == notices
        cards.append(weights.verify(Path(out[-1]))["training"])
    assert "2 simulated shots (0 with their light)" in str(cards[0])
    assert "2 simulated shots (2 with their light)" in str(cards[1])
