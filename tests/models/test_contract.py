"""Contract of every architecture (models/base.py), over the registry, both directions, all CFAs and odd sizes."""

import pytest
import torch

from paramisp_cli import weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError
from paramisp_cli.models import REGISTRY, architecture, names
from paramisp_cli.models.base import WHOLE, Params, tensor_names
from paramisp_cli.runner import Runner
from paramisp_cli.types import CFA_PATTERNS

STAGES = [(architecture(entry.name), stage) for entry in REGISTRY for stage in entry.stages]
CASES = [(architecture(entry.name), direction) for entry in REGISTRY for direction in entry.directions]
IDS = [f"{kind.name}-{direction}" for kind, direction in CASES]
SIZES = [(2, 2), (2, 6), (34, 50), (86, 90), (110, 154)]


def params(n=1, cfa="RGGB"):
    """n shots, each with other parameters."""
    ramp = torch.linspace(0, 1, n) if n > 1 else torch.zeros(1)
    matrix = torch.tensor([[1.7, -0.6, -0.1], [-0.2, 1.5, -0.3], [0.0, -0.5, 1.5]])
    return Params(
        wb_gains=torch.stack([2 - 0.3 * ramp, torch.ones(n), 1.5 + 0.2 * ramp], 1),
        cam_to_srgb=matrix.repeat(n, 1, 1),
        iso=100 + 700 * ramp,
        exposure_time=0.004 + 0.1 * ramp,
        f_number=2.8 + 5 * ramp,
        focal_length=35 + 50 * ramp,
        cfa=cfa,
    )


def picture(direction, n, height, width, seed=0):
    return torch.rand(n, direction.input.channels, height, width, generator=torch.Generator().manual_seed(seed))


def build(kind, direction):
    torch.manual_seed(0)
    return kind(direction).eval()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "direction"), CASES, ids=IDS)
@pytest.mark.parametrize(
    ("size", "cfa"), [*((s, "GBRG") for s in SIZES), *(((6, 34), c) for c in CFA_PATTERNS)], ids=str
)
def test_shape_and_finite(kind, direction, size, cfa):
    x = picture(direction, 1, *size)
    with torch.inference_mode():
        y = build(kind, direction)(x, params(cfa=cfa))
    assert y.shape == (1, direction.output.channels, *size)
    assert y.dtype == torch.float32
    assert torch.isfinite(y).all()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "direction"), CASES, ids=IDS)
@pytest.mark.parametrize("grad", [False, True])
def test_a_batch_is_its_images(kind, direction, grad):
    model, both = build(kind, direction), params(2)
    x = picture(direction, 2, 34, 50)
    with torch.set_grad_enabled(grad):
        batch = model(x, both)
        for i in range(2):
            one = Params(*(getattr(both, name)[i : i + 1] for name in tensor_names()))
            torch.testing.assert_close(model(x[i : i + 1], one), batch[i : i + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "direction"), CASES, ids=IDS)
@pytest.mark.slow
def test_gradients_flow_and_inference_agrees(kind, direction):
    model = build(kind, direction)
    x = picture(direction, 1, 34, 50).requires_grad_(True)
    y = model(x, params())
    (y if not kind.both_ways else y + model.backwards()(x, params())).square().mean().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    with torch.inference_mode():
        torch.testing.assert_close(model(x.detach(), params()), y.detach(), atol=2e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "direction"), CASES, ids=IDS)
def test_config_builds_it_again(kind, direction, tmp_path):
    model = build(kind, direction)
    assert kind(**model.config()).config() == model.config()
    path = weights.save(model, tmp_path / "w.safetensors", camera="Test")
    again = weights.load(path)
    assert type(again) is kind
    assert again.config() == model.config()
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("kind", "direction"), CASES, ids=IDS)
def test_says_what_it_is(kind, direction):
    model = build(kind, direction)
    assert architecture(kind.name) is kind
    assert model.direction == direction
    assert model.peak_bytes(4000, 3000) > model.peak_bytes(400, 300) > 0
    assert kind.needs_weights == bool(list(model.parameters()))
    assert model.plans(torch.device("cpu"))[0] == WHOLE
    moved = params().to("meta")
    assert moved.iso.device.type == "meta"
    assert moved.cfa == "RGGB"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stage"), STAGES, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_a_stage_is_linear_srgb_of_any_size(kind, stage, cfa):
    """A runner's tiles, bands or whole picture give the call's numbers; the model itself goes on to its end."""
    whole = build(kind, Direction.RENDER)
    model = whole.stopping_at(stage)
    for height, width in SIZES:
        x, seen = picture(Direction.RENDER, 1, height, width), torch.zeros(1, 3, height, width)
        with torch.inference_mode():
            want = model(x, params(cfa=cfa))
        assert want.shape == seen.shape
        assert torch.isfinite(want).all()
        for plan in model.plans(torch.device("cpu")):
            Runner(model, torch.device("cpu"), memory_plan=plan).run(
                params(cfa=cfa),
                (height, width),
                lambda first, end, x=x: x[:, :, first:end],
                lambda top, rows, seen=seen: seen[:, :, top : top + rows.shape[2]].copy_(rows),
                tile=(16, 16),
            )
            torch.testing.assert_close(seen, want, atol=2e-5, rtol=0)
    with torch.inference_mode():
        assert not torch.equal(whole(x, params(cfa=cfa)), want)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ConfigError, match=", ".join(names())):
        architecture("dcraw")


def test_an_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="direction"):
        architecture("paramisp")("sideways")


@pytest.mark.parametrize(("kind", "direction"), CASES, ids=IDS)
def test_takes_the_sizes_that_its_geometry_states(kind, direction):
    """The smallest size of the geometry reaches ``compute`` unpadded; odd sides are refused."""
    model, seen = build(kind, direction), []
    real = model.compute
    model.compute = lambda x, shot: seen.append(tuple(x.shape[2:])) or real(x, shot)
    side = model.geometry.padded(2)
    with torch.inference_mode():
        for size in ((2, 2), (side, side), (side + 2, side)):
            assert model(picture(direction, 1, *size), params()).shape[2:] == size
    assert seen == [(side, side), (side, side), (model.geometry.padded(side + 2), side)]
    with pytest.raises(ConfigError, match="even"):
        model(picture(direction, 1, side + 1, side), params())


@pytest.mark.parametrize(("kind", "direction"), CASES, ids=IDS)
def test_initialises_itself_from_a_generator(kind, direction):
    """The same seed gives the same weights, whatever they were; torch's own generator is not touched."""
    model, state = build(kind, direction), torch.get_rng_state()
    draws = []
    for seed in (3, 3, 4):
        model.initialise(torch.Generator().manual_seed(seed))
        draws.append(torch.cat([p.flatten().clone() for p in model.parameters()] or [torch.zeros(0)]).detach())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(draws[0], draws[1])
    assert kind.needs_weights != torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(("kind", "direction"), CASES, ids=IDS)
def test_every_training_phase_runs(kind, direction):
    model = build(kind, direction)
    side = model.geometry.padded(2)
    assert "all" in model.phases()
    for name in model.phases():
        with model.phase(name):
            assert torch.isfinite(model(picture(direction, 1, side, side), params())).all()
    with pytest.raises(ValueError, match="no training phase 'head'"), model.phase("head"):
        pass
