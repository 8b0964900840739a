"""Training of the networks for comparison: losses of their own, shared weights, equal time, and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paramisp_cli import models, weights
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.invisp import jpeg
from paramisp_cli.training import config, loop, protocol
from paramisp_cli.training import dataset as data

pytestmark = pytest.mark.slow

BOTH = ISP_DIRECTIONS
CASES = [
    ("invisp", "own", BOTH),
    ("invisp", "common", BOTH),
    ("invisp", "own", BOTH[:1]),
    ("ciexyz", "own", BOTH),
    ("ciexyz", "own", BOTH[1:]),
    ("cycleisp", "own", BOTH[:1]),
    ("cameranet", "own", BOTH[1:]),
    ("cycleisp", "common", BOTH[:1]),
]


def recipe(architecture: str, loss: str = "own", **more: object) -> config.Recipe:
    lines = [f"{key} = {value}" for key, value in more.items()]
    text = (
        f'architecture = "{architecture}"\nloss = "{loss}"\nlr = 1e-3\nwarmup = 1\ndtype = "fp32"\nema = 0.5\n'
        "evaluate_every = 1\ncheckpoint_every = 1\n"
        + "\n".join(lines)
        + f"\n[[phases]]\nsteps = 2\ncrop = {32 if architecture == 'cameranet' else 16}\nbatch = 1\n"
    )
    return config.parse(text, "tiny")


def trainer(recipe: config.Recipe, directions: tuple[Direction, ...], folder: Path) -> loop.Trainer:
    return protocol.start(recipe, directions, torch.device("cpu"), folder)


class _StopError(Exception):
    pass


@pytest.mark.parametrize(("architecture", "loss", "directions"), CASES, ids=str)
def test_resuming_gives_the_same_numbers(
    dataset: Path, tmp_path: Path, architecture: str, loss: str, directions: tuple[Direction, ...]
) -> None:
    tiny, pairs = recipe(architecture, loss), data.load(dataset)

    def run(folder: str, evaluate: object = lambda t: None) -> loop.Trainer:
        made = trainer(tiny, directions, tmp_path / folder)
        made.run(protocol.sampler(made, pairs), lambda progress: None, evaluate)
        return made

    def stop(t: loop.Trainer) -> None:
        raise _StopError

    start = {
        key: value.clone() for key, value in trainer(tiny, directions, tmp_path / "start").all.state_dict().items()
    }
    straight = run("straight")
    with pytest.raises(_StopError):
        run("broken", stop)
    resumed = run("broken")
    assert resumed.step == straight.step == 2
    for key, value in straight.all.state_dict().items():
        assert torch.equal(value, resumed.all.state_dict()[key]), key
    assert any(not torch.equal(value, start[key]) for key, value in straight.all.state_dict().items())
    for direction in directions:
        one, two = straight.averaged(direction), resumed.averaged(direction)
        assert one.direction == direction
        assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())


def test_one_network_for_both_directions_is_one_file(dataset: Path, tmp_path: Path) -> None:
    pairs = data.load(dataset)
    made = trainer(recipe("invisp"), BOTH, tmp_path)
    assert made.models[Direction.UNPROCESS].flow is made.models[Direction.RENDER].flow
    assert len(made.average) == len(list(made.models[Direction.RENDER].parameters()))
    made.run(protocol.sampler(made, pairs), lambda progress: None, lambda t: None)
    (path,) = protocol.write_weights(made, pairs, {each: [] for each in BOTH})
    assert path.name.endswith(".both.safetensors")
    assert weights.directions(weights.verify(path)) == BOTH
    assert "both directions" in path.with_suffix(".md").read_text()
    one, two = (weights.load_model(path, each).state_dict() for each in BOTH)
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    again = protocol.build(
        config.parse(
            'init = "' + str(tmp_path) + '"\narchitecture = "invisp"\n[[phases]]\nsteps = 1\ncrop = 16\nbatch = 1',
            "next",
        ),
        BOTH[1],
    )
    assert all(torch.equal(value, one[key]) for key, value in again.state_dict().items())


def test_processor_time_ends_a_training(dataset: Path, tmp_path: Path) -> None:
    pairs, short = data.load(dataset), recipe("ciexyz", core_minutes=1e-6)
    made, seen = trainer(short, BOTH[:1], tmp_path), []
    made.run(protocol.sampler(made, pairs), seen.append, lambda t: None)
    assert (made.step, made.finished) == (1, True)
    assert [(each.step, each.steps, each.seconds_left) for each in seen] == [(1, 1, 0)]
    assert made.core_seconds > 0
    again = trainer(short, BOTH[:1], tmp_path)
    assert (again.finished, again.core_seconds) == (True, made.core_seconds)
    long = trainer(recipe("ciexyz", core_minutes=10), BOTH[:1], tmp_path / "long")
    before = long._rate(1)
    long.core_seconds = 300.0
    assert long._rate(1) < before


def test_a_network_without_a_loss_of_its_own_says_so(dataset: Path, tmp_path: Path) -> None:
    wrong = config.parse(
        'architecture = "fast"\nloss = "own"\ndtype = "fp32"\n[[phases]]\nsteps = 1\ncrop = 64\nbatch = 1', "wrong"
    )
    made = trainer(wrong, BOTH[:1], tmp_path)
    with pytest.raises(ConfigError, match="fast has no loss of its own"):
        made.run(protocol.sampler(made, data.load(dataset)), lambda progress: None, lambda t: None)


def test_wrong_networks_are_refused_in_one_line(tmp_path: Path) -> None:
    for name, way in (("cameranet", "unprocess"), ("cycleisp", "render")):
        with pytest.raises(ConfigError, match=f"{name} has no direction {way}; pass `direction` "):
            trainer(recipe(name), (Direction(way),), tmp_path / "run")
    for words, message in (
        ('jpeg = "foo"', r"tiny: \[model\]: jpeg must be one of"),
        ("width = 3", r"tiny: \[model\]: .*unexpected keyword argument 'width'"),
        ('jpeg = "diffjpeg"\nquality = 100', r"tiny: \[model\]: quality 100 has no steps"),
    ):
        text = f'architecture = "invisp"\n[[phases]]\nsteps = 2\ncrop = 16\nbatch = 1\n[model]\n{words}\n'
        with pytest.raises(ConfigError, match=message):
            trainer(config.parse(text, "tiny"), BOTH, tmp_path / "run")


def test_a_training_that_diverges_ends_with_the_last_good_weights(dataset: Path, tmp_path: Path) -> None:
    made = trainer(recipe("invisp"), BOTH, tmp_path / "run")
    broken = made._loss
    made._loss = lambda *args: broken(*args) * (float("nan") if made.step else 1)  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"tiny: the loss of step 2 is not finite: the training diverged"):
        made.run(protocol.sampler(made, data.load(dataset)), lambda progress: None, lambda t: None)
    assert made.step == 1
    assert all(torch.isfinite(value).all() for model in made.models.values() for value in model.state_dict().values())


def test_diffjpeg_takes_any_crop() -> None:
    x = torch.rand(1, 3, 20, 36, generator=torch.Generator().manual_seed(0))
    simulate = jpeg.SIMULATORS["diffjpeg"]
    assert simulate(x, 90).shape == x.shape
    whole = x[..., :16, :32].contiguous()
    torch.testing.assert_close(simulate(whole, 90), jpeg.diffjpeg(whole, 90))


@pytest.mark.parametrize("name", [name for name in config.names() if name.startswith("peer-")])
def test_recipes_for_comparison_take_equal_time(name: str) -> None:
    peer = config.load(name)
    assert peer.core_minutes == (60 if name == "peer-invisp" else 30)
    assert (peer.init, peer.dtype) == ("", "fp32")
    protocol.build(peer, models.entry(peer.architecture).directions[0])
