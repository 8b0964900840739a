"""ParamISP: parity with the published network, the formulas by hand, and the streamed way against the plain one."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from paramisp_cli import weights
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError
from paramisp_cli.models import optics, regions
from paramisp_cli.models.base import Params, tensor_names
from paramisp_cli.models.paramisp import ParamISP, globalnet, kernels, plans, streaming
from paramisp_cli.models.paramisp import network as paramisp
from paramisp_cli.models.paramisp.network import Block
from paramisp_cli.scratch import HostMemory, Scratch

PARITY = Path(__file__).resolve().parents[3] / "shared" / "data" / "parity"
CHECKPOINTS = sorted(PARITY.glob("*.ckpt"))
NO_PARITY = pytest.mark.skipif(not CHECKPOINTS, reason=f"no stored outputs of the published network at {PARITY}")


def shot(**other):
    values = {"iso": 160.0, "exposure_time": 1 / 125, "f_number": 2.8, "focal_length": 80.0} | other
    matrix = torch.tensor([[[1.7, -0.6, -0.1], [-0.2, 1.5, -0.3], [0.0, -0.5, 1.5]]])
    tensors = {name: torch.tensor([value]) for name, value in values.items()}
    return Params(torch.tensor([[2.1, 1.0, 1.5]]), matrix, **tensors)


def network(direction="unprocess", seed=0, **config):
    torch.manual_seed(seed)
    return ParamISP(direction, **config).eval()


# --- parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@NO_PARITY
@pytest.mark.parametrize("path", CHECKPOINTS or [Path("none")], ids=lambda p: p.stem)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_parity_with_the_published_network(path, streamed):
    stored = np.load(path.with_suffix(".npz"))
    model = weights.load_model(path)
    assert model.direction == str(stored["direction"])
    optical = {n: torch.tensor([float(stored[n])]) for n in ("iso", "exposure_time", "f_number", "focal_length")}
    matrices = (torch.from_numpy(stored[n])[None] for n in ("wb_gains", "cam_to_srgb"))
    with torch.inference_mode(streamed):
        y = model(torch.from_numpy(stored["x"])[None], Params(*matrices, **optical, cfa=str(stored["cfa"])))
    error = np.abs(y[0].detach().numpy() - stored["y"])
    # Up to the border, because imported weights keep the published demosaicing's border.
    assert error.max() < 2e-5


# --- the pieces by hand -----------------------------------------------------------------------------------------------


def test_parameter_count():
    count = sum(p.numel() for p in network().parameters())
    idle = 16 * 64 + 64  # the published embed_id, which is multiplied by zero and which we do not build
    assert count + idle == 710_973
    assert sum(p.numel() for p in network(use_paramnet=False).parameters()) == pytest.approx(0.68e6, rel=0.01)


@pytest.mark.parametrize(
    ("name", "value"), [("iso", 800.0), ("f_number", 2.0), ("exposure_time", 0.01), ("focal_length", 50.0)]
)
def test_equalisation_by_hand(name, value):
    (hi, lo), (p, q), c = optics.EQUALISATION[name]
    u, w, log = value / hi, value / lo, math.log2(value)
    want = [u, u**0.5, u**0.25, 1 / w, w**-0.5, w**-0.25, (log - p) / q, math.sin(log), math.cos(log)]
    want += [f(value / ci) for ci in c for f in (math.sin, math.cos)]
    got = optics.equalise(name, torch.tensor([value]))
    assert got.shape == (1, 15)
    torch.testing.assert_close(got[0], torch.tensor(want), atol=1e-5, rtol=1e-5)


def test_equalisation_of_known_values():
    iso = optics.equalise("iso", torch.tensor([64.0, 8000.0]))
    assert iso[0, 3:7].tolist() == pytest.approx([1, 1, 1, 0])
    assert iso[1, :3].tolist() == pytest.approx([1, 1, 1])
    assert optics.equalise("exposure_time", torch.tensor([1.0]))[0, 6].item() == pytest.approx(0.75)


def test_gradient_sign_and_scale():
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    image = torch.stack([2 * x, 3 * y, 0 * x])[None]
    g = paramisp.gradient(image)[0]
    assert g[:, 2, 2].tolist() == [2, 0, 0, 3, 0, 0]  # R dx, R dy, G dx, G dy, B dx, B dy; per pixel, right and down
    assert g[0, 2, 0].item() == 1  # replicated border: half the slope
    assert g[3, 0, 3].item() == 1.5


def test_histogram_and_mask():
    image = torch.tensor([0.0, 0.5, 1.0])[None, :, None, None]
    h = paramisp.soft_histogram(image, 4)[0, :, 0, 0].view(3, 4)
    torch.testing.assert_close(h, torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]))
    mask = paramisp.overexposure(torch.tensor([0.9, 0.95, 0.975, 1.0, 1.2])[None, None, None])
    torch.testing.assert_close(mask.flatten(), torch.tensor([0, 0, 0.5, 1, 5]), atol=1e-5, rtol=0)
    assert paramisp.features(torch.rand(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)).shape == (1, 96, 8, 8)


def test_tone_stage_by_hand():
    x = torch.rand(1, 3, 20) * 2 - 0.5
    torch.testing.assert_close(paramisp.quadratic(x, torch.zeros(1, 10, 3)), x)
    torch.testing.assert_close(paramisp.gamma(x, torch.zeros(1, 3, 3)), x)
    weight = torch.zeros(1, 10, 3)
    weight[0, 2, 1] = 0.5  # red · blue into green
    weight[0, 9, 0] = 0.25  # a constant into red
    y = paramisp.quadratic(x, weight)
    torch.testing.assert_close(y[:, 1], x[:, 1] + 0.5 * x[:, 0] * x[:, 2])
    torch.testing.assert_close(y[:, 0], x[:, 0] + 0.25)
    w = torch.tensor([[[math.log(2), 0, 0], [0.0, -0.5, 0], [0, 0, math.log(3)]]])
    y = paramisp.gamma(x, w)
    torch.testing.assert_close(y[:, 0], x[:, 0] * x[:, 0].abs())  # exponent 2, odd
    torch.testing.assert_close(y[:, 1:], x[:, 1:], atol=1e-6, rtol=1e-5)  # exponent 1: offset and scale cancel
    ends = paramisp.gamma(torch.tensor([0.0, 1.0]).expand(1, 3, 2), torch.randn(1, 3, 3))
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0]).expand(1, 3, 2), atol=1e-6, rtol=0)


def test_mask_is_of_the_first_image():
    """With GlobalNet darkening everything, LocalNet still sees what was over-exposed before."""
    model, seen = network(), []
    assert model.localnet is not None
    model.localnet.register_forward_pre_hook(lambda _, args: seen.append(args))
    x = torch.ones(1, 3, 88, 88)
    model(x, shot())
    image, mask, _ = seen[0]
    assert not torch.equal(image, x)
    torch.testing.assert_close(mask, torch.ones_like(mask), atol=1e-5, rtol=0)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_fresh_weights_do_little_but_a_displays_gamma(direction):
    model = network(direction)
    model.initialise(torch.Generator().manual_seed(0))
    image = torch.rand(1, 3, 88, 88)
    wanted = image ** (2.2 if direction == Direction.UNPROCESS else 1 / 2.2)
    with torch.no_grad():
        made = model.subnetworks(image, model.paramnet(shot()))
        assert (made - wanted).abs().mean() < 0.05 < (made - image).abs().mean()


def test_the_phase_global_leaves_localnet_out():
    model, x = network(), torch.rand(1, 3, 88, 88)
    local, without = model.localnet, network(use_local=False)
    without.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("localnet.")})
    with model.phase("global"):
        assert torch.equal(model(x, shot()), without(x, shot()))
    assert model.localnet is local
    with pytest.raises(KeyError), model.phase("global"):
        raise KeyError
    assert model.localnet is local
    assert network(use_global=False).phases() == ("all",)


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"use_paramnet": False},
        {"equalise": False},
        {"use_local": False},
        {"use_global": False},
        {"without": ("iso", "f_number")},
        {"use_local": False, "use_global": False},
        {"demosaic_border": "replicate"},
    ],
    ids=str,
)
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_ablations_run_both_ways(config, direction, tmp_path):
    model = network(direction, **config)
    x = torch.rand(1, 3 if direction == Direction.UNPROCESS else 1, 88, 90)
    # Bare numbers of the usual size blow an untrained network up (as the paper says of training); ones do not.
    params = shot() if config.get("equalise", True) else shot(iso=1.0, f_number=1.0, focal_length=1.0)
    plain = model(x, params).detach()
    with torch.no_grad():
        torch.testing.assert_close(model(x, params), plain, atol=2e-5, rtol=1e-5)
    again = weights.load(weights.save(model, tmp_path / "a.safetensors", camera="x"))
    assert again.config() == model.config()
    with torch.no_grad():
        torch.testing.assert_close(again(x, params), plain, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
def test_without_a_parameter_its_value_does_not_matter():
    model, x = network(without=["iso"]), torch.rand(1, 3, 88, 88)
    with torch.no_grad():
        assert torch.equal(model(x, shot(iso=100.0)), model(x, shot(iso=6400.0)))
        assert not torch.equal(model(x, shot(f_number=2.0)), model(x, shot(f_number=8.0)))


@pytest.mark.parametrize("bad", [{"without": ["shutter"]}, {"optical_dropout": 1.0}, {"demosaic_border": "zero"}])
def test_bad_configuration(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ParamISP("unprocess", **bad)


def test_dropout_is_per_parameter_and_sample_and_from_its_generator():
    net = network().paramnet
    assert net is not None
    many = Params.cat([shot()] * 400)

    def draw(seed):
        return net(many, torch.Generator().manual_seed(seed))

    still = net(many)
    assert torch.allclose(still, still[:1].expand_as(still), atol=1e-6)  # eval: nothing dropped
    net.train()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    kept = (draw(1) - still).abs().amax(1) < 1e-6
    assert kept.float().mean().item() == pytest.approx(0.8**4, abs=0.08)
    distinct = torch.unique((draw(1) * 1e4).round(), dim=0)
    assert len(distinct) >= 9  # of the 16 ways to drop four parameters


def test_odd_sizes_are_refused():
    with pytest.raises(ConfigError, match="even"):
        network()(torch.rand(1, 3, 87, 88), shot())


# --- the streamed way -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
@pytest.mark.parametrize(("size", "rows"), [((88, 88), 0), ((92, 100), 12), ((150, 96), 40), ((92, 100), 200)], ids=str)
def test_streamed_equals_plain_at_any_strip_height(direction, size, rows):
    model = network(direction)
    assert model.localnet is not None
    with torch.no_grad():
        for block in model.localnet.blocks:  # initial attention is nearly constant; this makes it matter
            block.spatial.weight.mul_(20)
            block.channel2.weight.mul_(5)
    x = torch.rand(1, 3 if direction == Direction.UNPROCESS else 1, *size)
    plain = model(x, shot()).detach()
    model.strip_pixels = max(rows * size[1], 1)
    with torch.inference_mode():
        torch.testing.assert_close(model(x, shot()), plain, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
@pytest.mark.parametrize("plan", ["whole", "bands", "disk", "host"])
def test_every_memory_plan_gives_the_whole(direction, plan, monkeypatch):
    """Bands much smaller than the image, so that most of them touch no border."""
    kind = plans.PLANS[plan]
    monkeypatch.setitem(plans.PLANS, plan, replace(kind, band=kind.band and 40))
    for module in (globalnet, streaming):
        monkeypatch.setattr(module, "BAND", 24)
    model = network(direction)
    with torch.no_grad():
        for block in model.localnet.blocks:
            block.spatial.weight.mul_(20)
            block.channel2.weight.mul_(5)
    size = 374, 86
    x = torch.rand(1, 3 if direction == Direction.UNPROCESS else 1, *size)
    want, asked, got = model(x, shot()).detach(), [], []

    def source(first, end):
        asked.append(end - first)
        return x[:, :, first:end]

    store = HostMemory if plan == "host" else Scratch
    with torch.inference_mode():
        model.stream(source, lambda top, rows: got.append((top, rows)), size, shot(), plan=plan, store=store)
    assert [top for top, _ in got] == list(np.cumsum([0] + [rows.shape[2] for _, rows in got])[:-1])
    torch.testing.assert_close(torch.cat([rows for _, rows in got], 2), want, atol=2e-5, rtol=1e-5)


def test_plans_need_less_and_less():
    for device in (torch.device("cpu"), torch.device("cuda")):
        needs = [network().peak_bytes(6000, 4000, plan) for plan in network().plans(device)]
        assert needs[0] > 4 * needs[2]
        assert needs == sorted(needs, reverse=True)
    assert network().plans(torch.device("cuda")) == ("whole", "bands", "host")


def test_a_plan_with_a_store_needs_one():
    with pytest.raises(ValueError, match="'disk' needs a store"):
        network().stream(lambda *_: None, lambda *_: None, (88, 88), shot(), plan="disk")


@pytest.mark.slow
def test_a_store_holds_as_much_as_it_says(monkeypatch):
    asked = []

    def make(size):
        asked.append(size)
        return HostMemory(size)

    model, x = network(), torch.rand(1, 3, 150, 202)
    with torch.inference_mode():
        model.stream(lambda a, b: x[:, :, a:b], lambda *_: None, (150, 202), shot(), plan="host", store=make)
    assert asked == [model.store_bytes(150, 202)]


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_first_convolution_is_that_of_the_features(table, stride):
    """Values far outside [0, 1], where the table goes on straight, and parts at and off the border."""
    image, first = torch.randn(2, 1, 3, 24, 18).mul(0.8).unbind()
    conv = torch.nn.Conv2d(paramisp.FEATURES, 64, 3)
    features = paramisp.features(image, paramisp.overexposure(first))
    with torch.no_grad():
        want = F.conv2d(F.pad(features, (1, 1, 1, 1), mode="replicate"), conv.weight, conv.bias)[0].permute(1, 2, 0)
        got = kernels.FirstConv(conv.weight, conv.bias, torch.float32, table=table, stride=stride)
        planes = [regions.with_ring(v[0]) for v in (image, first)]
        for top, left, height, width in ((0, 0, 24, 18), (0, 5, 7, 13), (3, 0, 21, 4), (10, 9, 1, 1)):
            part = want[top : top + height : stride, left : left + width : stride]
            torch.testing.assert_close(got(*planes, top, left, height, width), part, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_is_not_a_number_stays_one(broken):
    """A network that has come apart gives no numbers, and no crash in the table of its first convolution."""
    model, x = network(), torch.rand(1, 3, 88, 88)
    x[0, 1, 40, 40] = broken
    with torch.inference_mode():
        assert not torch.isfinite(model(x, shot())).all()


@pytest.mark.slow
def test_float64_is_the_truth_of_float32():
    model, x = network(), torch.rand(1, 3, 88, 88)
    with torch.no_grad():
        single = model(x, shot())
        p = shot()
        double = Params(*(getattr(p, name).double() for name in tensor_names()))
        truth = model.double()(x.double(), double)
    torch.testing.assert_close(single.double(), truth, atol=2e-5, rtol=0)


def test_training_mode_stays_plain_without_gradients(monkeypatch):
    monkeypatch.setattr(streaming, "run", lambda *_: pytest.fail("streamed in training"))
    with torch.no_grad():
        network(optical_dropout=0.0).train()(torch.rand(1, 3, 88, 88), shot())


def test_written_out_gradient_of_attention_is_the_gradient():
    """Output and every gradient of a block equal autograd's of the plain form, in float64."""
    torch.manual_seed(0)
    block = Block().double()
    x = torch.randn(2, 64, 12, 10, dtype=torch.double, requires_grad=True)
    upstream = torch.randn(2, 64, 12, 10, dtype=torch.double)
    leaves = [x, *block.parameters()]
    fast = block(x)
    plain = block.attend(x, block.conv2(torch.nn.functional.elu(block.conv1(x))))
    torch.testing.assert_close(fast, plain)
    for got, wanted in zip(
        torch.autograd.grad(fast, leaves, upstream), torch.autograd.grad(plain, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
