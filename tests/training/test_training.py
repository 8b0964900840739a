"""Recipes, the start of networks, and the training loop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError, FormatError, InputMissingError
from paramisp_cli.models.base import Geometry
from paramisp_cli.training import config, crops, loop, protocol
from paramisp_cli.training import dataset as data
from paramisp_cli.training.pairing import pairs
from paramisp_cli.types import OpticalParams

pytestmark = pytest.mark.slow

TINY = """
architecture = "paramisp"
lr = 2e-3
warmup = 2
dtype = "fp32"
evaluate_every = 4
checkpoint_every = 3
[[phases]]
steps = 3
crop = 96
batch = 2
part = "global"
[[phases]]
steps = 5
crop = 96
batch = 1
"""


@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_mixed_precision_learns_the_same(dataset: Path, tmp_path: Path, direction: Direction) -> None:
    exact = config.parse(TINY, "tiny")
    sampler = crops.Sampler(data.load(dataset))
    weights = {}
    for recipe in (exact, replace(exact, dtype="bf16")):
        made = trainer(recipe, tmp_path / recipe.dtype, direction)
        made.run(sampler, lambda progress: None, lambda t: None)
        weights[recipe.dtype] = torch.cat([p.flatten() for p in made.averaged().parameters()])
    start = torch.cat([p.flatten() for p in protocol.build(exact, direction).parameters()])
    moved, lossy = weights["fp32"] - start, weights["bf16"] - start
    assert not torch.equal(moved, lossy)
    assert torch.nn.functional.cosine_similarity(moved, lossy, dim=0) > 0.8


def test_auto_settles_on_what_the_device_does_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, cpu = config.load("camera-cpu"), torch.device("cpu")
    assert recipe.dtype == "auto"
    for able, dtype in (({"avx512_bf16": True}, "bf16"), ({"avx512_bf16": False}, "fp32"), ({}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        assert protocol.for_device(recipe, cpu).dtype == dtype
    assert protocol.for_device(recipe, torch.device("cuda")).dtype == "bf16"
    assert protocol.for_device(recipe, torch.device("mps")).dtype == "fp32"
    assert protocol.for_device(replace(recipe, dtype="bf16"), torch.device("mps")).dtype == "bf16"


def trainer(recipe: config.Recipe, folder: Path, direction=Direction.UNPROCESS) -> loop.Trainer:
    return protocol.start(recipe, direction, torch.device("cpu"), folder)


def test_crops_that_fit_no_photograph_shrink(dataset: Path) -> None:
    items = data.load(dataset)
    largest = max(map(crops.largest_side, items)) // 4 * 4
    recipe = config.parse(TINY.replace("crop = 96", "crop = 4000", 1), "big")
    fitted, changes = protocol.fitted(recipe, items)
    assert [phase.crop for phase in fitted.phases] == [largest, 96]
    assert changes == [f"crops of 4000 px fit no photograph: {largest} px instead"]
    assert crops.Sampler(items).batch(2, largest, torch.Generator().manual_seed(0)).srgb.shape[-1] == largest
    with pytest.raises(ConfigError, match="no aligned part of any photograph holds a crop of"):
        crops.Sampler(items).batch(1, largest + 4, torch.Generator())
    narrow = [replace(item, pair=replace(item.pair, regions=(data.Region(0, 0, 60, 400),))) for item in items]
    with pytest.raises(ConfigError, match="a crop of 88 px, the smallest"):
        protocol.fitted(recipe, narrow)
    both = [items[0], *(replace(n, pair=replace(n.pair, optical=OpticalParams(6400, 0.01, 4, 35))) for n in narrow)]
    isos = crops.Sampler(both).batch(20, 96, torch.Generator().manual_seed(0)).params.iso
    assert not (isos == 6400).any()  # what holds no such crop gives none


def test_crops_follow_the_geometry_of_the_network(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        geometry = Geometry(multiple=22, smallest=40)

    monkeypatch.setattr(protocol, "architecture", lambda name: Other)
    items = data.load(dataset)
    side = max(map(crops.largest_side, items)) // 22 * 22
    fitted, _ = protocol.fitted(config.parse(TINY.replace("crop = 96", "crop = 4000", 1), "big"), items)
    assert fitted.phases[0].crop == side
    assert crops.Sampler(items).batch(1, side, torch.Generator().manual_seed(0)).mosaic.shape[-1] == side


class _StopError(Exception):
    pass


@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_resuming_gives_the_same_numbers(dataset: Path, tmp_path: Path, direction: Direction) -> None:
    recipe = config.parse(TINY, "tiny")
    sampler = crops.Sampler(data.load(dataset))
    straight = trainer(recipe, tmp_path / "straight", direction)
    straight.run(sampler, lambda progress: None, lambda t: None)

    broken = trainer(recipe, tmp_path / "broken", direction)

    def stop(t: loop.Trainer) -> None:
        raise _StopError

    with pytest.raises(_StopError):
        broken.run(sampler, lambda progress: None, stop)
    resumed = trainer(recipe, tmp_path / "broken", direction)
    assert 0 < resumed.step < recipe.steps
    resumed.run(sampler, lambda progress: None, lambda t: None)
    for name, value in straight.averaged().state_dict().items():
        assert torch.equal(value, resumed.averaged().state_dict()[name]), name


def test_loss_falls(dataset: Path, tmp_path: Path) -> None:
    text = TINY.replace("steps = 3\n", "steps = 60\n", 1).replace("evaluate_every = 4", "evaluate_every = 10")
    recipe = config.parse(text, "falls")
    sampler = crops.Sampler(data.load(dataset))
    trainer(recipe, tmp_path).run(sampler, lambda progress: None, lambda t: None)
    losses = [json.loads(line)["loss"] for line in (tmp_path / loop.LOG).read_text().splitlines()]
    assert losses[-1] < 0.6 * losses[0]


def test_checkpoint_of_another_recipe_is_refused(dataset: Path, tmp_path: Path) -> None:
    trainer(config.parse(TINY, "tiny"), tmp_path).save_checkpoint()
    with pytest.raises(ConfigError, match="another recipe"):
        trainer(config.parse(TINY.replace("2e-3", "1e-3"), "tiny"), tmp_path)
    (tmp_path / loop.CHECKPOINT).write_bytes(b"nonsense")
    with pytest.raises(FormatError, match="damaged"):
        trainer(config.parse(TINY, "tiny"), tmp_path)


@pytest.mark.parametrize("name", config.names())
def test_our_recipes_are_good(name: str) -> None:
    assert config.load(name).steps > 0


def test_a_recipe_may_build_on_another() -> None:
    base, ablation = config.load("ablation"), config.load("ablation-no-paramnet")
    assert ablation.phases == base.phases
    assert dict(ablation.model) == {**base.model, "use_paramnet": False}
    model = protocol.build(ablation, Direction.RENDER)
    assert sum(p.numel() for p in model.parameters()) < 690_000  # the paper: 0.68 M without ParamNet


def test_a_direction_alone_may_have_its_own_values() -> None:
    recipe = config.parse(f"{TINY}[unprocess]\nlr = 1e-4\nseed = 5", "split")
    alone, other, joint = (recipe.of(each) for each in ([Direction.UNPROCESS], [Direction.RENDER], ISP_DIRECTIONS))
    assert (alone.lr, alone.seed) == (1e-4, 5)
    assert (other.lr, other.seed) == (joint.lr, joint.seed) == (recipe.lr, recipe.seed) != (1e-4, 5)
    assert alone.record().keys() == recipe.record().keys()  # so that checkpoints of either resume
    mine = config.parse('base = "fast-camera"\nlr = 3e-3', "mine").of([Direction.UNPROCESS])
    assert (mine.lr, mine.init) == (3e-3, "generic")  # the user's own key holds in every direction
    assert config.load("fast-camera").of([Direction.RENDER]).init == ""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("lr = ", "not TOML"),
        ("unprocess = 3", "unprocess must be a table"),
        ("[render]\nspeed = 3", "unknown speed"),
        ("[[phases]]\nsteps = 1\ncrop = 96\nbatch = 1\n[render]\nlr = -1.0", "must be positive"),
        ("speed = 3", "unknown speed"),
        ("base = 'nothing'", "no recipe 'nothing'"),
        ("base = 3", "must name another"),
        ("lr = 1e-3", "no phases"),
        ("[[phases]]\nsteps = 1\ncrop = 0\nbatch = 1", "crop"),
        (
            "architecture = 'gan'\n[[phases]]\nsteps = 1\ncrop = 96\nbatch = 1",
            "must be fast or paramisp or invisp or ciexyz or cycleisp or cameranet, got 'gan'",
        ),
        ("[[phases]]\nsteps = 1\ncrop = 96\nsize = 1", "size"),
    ],
)
def test_bad_recipes_are_named(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        config.parse(text, "bad")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("crop = 96", "crop = 30", "crop must be at least 88 px and a multiple of 4, got 30"),
        ("crop = 96", "crop = 90", "crop must be at least 88 px and a multiple of 4, got 90"),
        ('part = "global"', 'part = "head"', "part must be one of all, global, got 'head'"),
    ],
)
def test_recipes_that_do_not_suit_the_network_are_named(old: str, new: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        protocol.build(config.parse(TINY.replace(old, new, 1), "bad"), Direction.RENDER)


def test_bad_data_sets_are_named(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(InputMissingError, match="no data set"):
        data.load(tmp_path)
    with pytest.raises(ConfigError, match="no pair of Nikon"):
        data.load(dataset, "Nikon")
    with pytest.raises(InputMissingError, match="no RAW file"):
        list(pairs.make([tmp_path], tmp_path / "out"))
    (tmp_path / "index.jsonl").write_text("{]")
    with pytest.raises(FormatError, match="damaged"):
        data.load(tmp_path)
    with pytest.raises(ConfigError, match="use a smaller one"):
        crops.Sampler(data.load(dataset)).batch(1, 4096, torch.Generator())


def test_shadows_weigh_more_in_roots_and_noise_at_black_does_not_run_wild() -> None:
    light = torch.linspace(-0.01, 1, 100_001, dtype=torch.float64, requires_grad=True)
    roots = loop._root(light)
    (slope,) = torch.autograd.grad(roots.sum(), light)
    assert slope.max() <= 16
    assert slope.min() > 0.49  # rising everywhere, and a step at white counts half of its size
    assert (roots.diff() <= 16 * light.diff()).all()  # without a jump where the line begins
    torch.testing.assert_close(roots[light > 0.001], light[light > 0.001].sqrt())


def test_shadows_change_the_loss_of_unprocessing_alone(dataset: Path, tmp_path: Path) -> None:
    losses = {}
    for direction in ISP_DIRECTIONS:
        for shadows in (0.0, 1.0):
            recipe = replace(config.parse(TINY, "tiny"), shadows=shadows)
            one = trainer(recipe, tmp_path / f"{direction}{shadows}", direction)
            losses[direction, shadows] = one._one(one._draw(crops.Sampler(data.load(dataset)), 0))
    assert losses[Direction.UNPROCESS, 1.0] > losses[Direction.UNPROCESS, 0.0]
    assert losses[Direction.RENDER, 1.0] == losses[Direction.RENDER, 0.0]
    with pytest.raises(ConfigError, match="shadows must be in"):
        config.parse(f"shadows = -1\n{TINY}", "bad")
