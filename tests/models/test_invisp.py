"""InvISP: parity with the published network and training step, its inverse, and the simulated JPEG."""

import io

import numpy as np
import peers
import pytest
import torch
from PIL import Image

from paramisp_cli import isp
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.models.base import Params
from paramisp_cli.models.invisp import InvISP, jpeg, network
from paramisp_cli.models.invisp.published import NAMES
from paramisp_cli.types import CFA_PATTERNS


def fresh(direction="render", seed=0, **config):
    model = InvISP(Direction(direction), **config).eval()
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def shot(n=1, cfa="RGGB"):
    one = torch.ones(n)
    return Params(torch.tensor([[2.1, 1.0, 1.5]] * n), torch.eye(3).repeat(n, 1, 1), one, one, one, one, cfa=cfa)


# --- parity -----------------------------------------------------------------------------------------------------------


@peers.NO_PARITY
@pytest.mark.parametrize("seed", peers.seeds("invisp"))
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
@pytest.mark.slow
def test_parity_with_the_published_network(seed, direction, tmp_path):
    model = peers.model(f"invisp_{seed}", direction, tmp_path)
    arrays = peers.stored(f"invisp_{seed}_{direction}")
    with torch.inference_mode():
        for key in ("", "_odd"):
            y = model.flow(torch.from_numpy(arrays[f"x{key}"]), inverse=bool(arrays["rev"]))
            assert peers.error(y, arrays[f"y{key}"]) < peers.BOUND
        x = torch.from_numpy(arrays["project_x"])
        assert peers.error(model(x, peers.shots(arrays, len(x))), arrays["project_y"]) < peers.BOUND


@peers.NO_PARITY
@pytest.mark.slow
def test_parity_of_a_training_step(tmp_path):
    model = peers.model("invisp_seed01", Direction.RENDER, tmp_path)
    arrays = peers.stored("invisp_seed01_train")
    quality = int(arrays["quality"])
    step = network.training_step(
        model.flow,
        torch.from_numpy(arrays["input_raw"]),
        torch.from_numpy(arrays["target_rgb"]),
        lambda x: jpeg.diffjpeg(x, quality),
    )
    for got, key in zip(step[:3], ("rgb_rendered", "rgb_jpeg", "raw_back"), strict=True):
        assert peers.error(got, arrays[key]) < peers.BOUND
    assert step.rgb_loss.item() == pytest.approx(float(arrays["rgb_loss"]), abs=1e-6)
    assert step.raw_loss.item() == pytest.approx(float(arrays["raw_loss"]), abs=1e-6)
    optimizer = torch.optim.Adam(model.flow.parameters(), lr=float(arrays["lr"]))
    torch.autograd.backward(step.rgb_loss + step.raw_loss)
    ours = dict(model.named_parameters())
    grads = {key[5:]: value for key, value in arrays.items() if key.startswith("grad:")}
    assert len(grads) >= 168
    largest = max(np.abs(value).max() for value in grads.values())
    for name, value in grads.items():
        worst = peers.error(ours[NAMES[name]].grad, value)
        # Beside its own scale, a tensor of one number is as uncertain as the simulator's slope, −1 to 19, makes it.
        assert worst < 1e-3 * largest, name
        assert worst < 0.02 * np.abs(value).max(), name
    optimizer.step()
    for key, value in arrays.items():
        if key.startswith("after:") and NAMES[key[6:]] in ours:
            assert peers.error(ours[NAMES[key[6:]]], value) < 1e-6, key


@peers.NO_PARITY
def test_parity_of_diffjpeg():
    arrays = peers.stored("diffjpeg_open")
    assert len(arrays["qualities"]) >= 7
    for quality in map(int, arrays["qualities"]):
        x = torch.from_numpy(arrays["x"]).clone().requires_grad_(True)
        y = jpeg.diffjpeg(x, quality)
        assert peers.error(y, arrays[f"y_q{quality}_fourier"]) < peers.BOUND
        (y * torch.from_numpy(arrays["cotangent"])).sum().backward()
        gradient = arrays[f"grad_q{quality}_fourier"]
        assert peers.error(x.grad, gradient) < 1e-3 * np.abs(gradient).max()
        plain = jpeg.diffjpeg(x.detach(), quality, torch.round)
        assert peers.error(plain, arrays[f"y_q{quality}_round"]) < peers.BOUND
        planes = jpeg.coefficients(x.detach(), jpeg.published_coding(quality, torch.round))
        for plane, name in zip(planes, ("y", "cb", "cr"), strict=True):
            assert peers.error(plane, arrays[f"coef_{name}_q{quality}"]) == 0
    x = torch.from_numpy(arrays["round_in"]).requires_grad_(True)
    y = jpeg.soft_round(x)
    assert peers.error(y, arrays["round_out"]) < peers.BOUND
    y.sum().backward()
    assert peers.error(x.grad, arrays["round_grad"]) < 1e-3 * np.abs(arrays["round_grad"]).max()


# --- the network ------------------------------------------------------------------------------------------------------


def test_parameter_count():
    assert sum(p.numel() for p in fresh().parameters()) == 1_413_760


@pytest.mark.slow
def test_one_set_of_weights_for_both_directions():
    """The blocks invert each other; a JPEG's clipping and rounding are the only loss."""
    render = fresh()
    unprocess = render.other_way()
    assert (render.direction, unprocess.direction) == (Direction.RENDER, Direction.UNPROCESS)
    assert unprocess.flow is render.flow
    assert unprocess.other_way().config() == render.config()
    x = torch.rand(2, 3, 30, 42, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert (render.flow(render.flow(x), inverse=True) - x).abs().max() < 1e-4


def test_masked_entries_of_the_matrix_do_not_matter():
    mix = network.Mix()
    mix.draw(torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = mix.matrix(inverse=False), mix.matrix(inverse=True)
        torch.testing.assert_close(before[0] @ before[0].T, torch.eye(3), atol=1e-6, rtol=0)
        torch.testing.assert_close(before[0] @ before[1], torch.eye(3), atol=1e-6, rtol=0)
        mix.lower += 7 * torch.ones(3, 3).triu()
        mix.upper += 7 * torch.ones(3, 3).tril()
        assert all(torch.equal(a, mix.matrix(inverse=way)) for a, way in zip(before, (False, True), strict=True))


def test_pieces_do_not_show(monkeypatch):
    block = network.DenseBlock(2, 1)
    x = torch.rand(1, 2, 75, 93, generator=torch.Generator().manual_seed(0))
    want = block(x).detach()
    monkeypatch.setattr(network, "_PIECE", 18)
    with torch.inference_mode():
        torch.testing.assert_close(block(x), want, atol=1e-6, rtol=0)


def test_white_balance_is_undone():
    """The gains are at most 1; the strongest channel is untouched."""
    model, params = fresh("unprocess"), shot()
    for block in model.flow.blocks:
        for conv in [m for m in block.modules() if isinstance(m, torch.nn.Conv2d)]:
            torch.nn.init.zeros_(conv.weight)
        block.mix = network.Mix()  # the identity
    with torch.inference_mode():
        y = model(torch.full((1, 3, 6, 8), 0.5), params)
        back = model.other_way()(y, params)
    light = 0.5**2.2
    assert y[0, 0, :2, :2].flatten().tolist() == pytest.approx([light, 2.1 * light, 2.1 * light, 1.4 * light], rel=1e-5)
    torch.testing.assert_close(back, torch.full((1, 3, 6, 8), 0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_bilinear_demosaicing(cfa):
    """Exact for a plane, and by hand at one site of each colour."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(10.0), indexing="ij")
    plane = torch.stack([x, 2 * y, x + y])[None]
    got = isp.demosaic_bilinear(isp.mosaic(plane, cfa), cfa)
    torch.testing.assert_close(got[..., 1:-1, 1:-1], plane[..., 1:-1, 1:-1])
    mosaic = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    got = isp.demosaic_bilinear(mosaic, cfa)
    row, column = divmod(cfa.index("R"), 2)
    site, m = (2 + row, 2 + column), mosaic[0, 0]
    around = [m[site[0] + dy, site[1] + dx] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    assert got[0, 0, *site] == m[site]
    assert got[0, 1, *site] == pytest.approx(float(sum(around)) / 4, abs=1e-6)


# --- the simulated JPEG -----------------------------------------------------------------------------------------------


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + y / 17), np.cos(x / 13 - y / 7), np.sin(x * y / 400)]
    return np.round(127 + 90 * np.stack(waves, -1)).astype(np.uint8)


@pytest.mark.parametrize(("subsampling", "pillow"), [("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)])
@pytest.mark.parametrize("quality", [30, 75, 90])
def test_simulated_jpeg_is_a_real_one(subsampling, pillow, quality):
    """Sizes that are no multiple of 16; the difference from libjpeg's pixels is that of its integer arithmetic."""
    pixels = smooth(75, 101)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=quality, subsampling=pillow)
    real = np.asarray(Image.open(data)).astype(float)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    ours = jpeg.simulate(x, quality, subsampling)[0].permute(1, 2, 0).numpy() * 255
    loss = np.sqrt(np.mean((real - pixels) ** 2))
    assert np.sqrt(np.mean((real - ours) ** 2)) < min(0.4 * loss, 1)


def test_the_simulator_passes_gradients_and_diffjpeg_wants_whole_blocks():
    x = torch.rand(1, 3, 20, 28, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    jpeg.simulate(x, 90).sum().backward()
    assert 0.2 < x.grad.mean() < 1.2  # about that of the identity
    with pytest.raises(ValueError, match="multiples of 16"):
        jpeg.diffjpeg(x, 90)
    with pytest.raises(ValueError, match="jpeg must be one of diffjpeg, 4:4:4, 4:2:2, 4:2:0"):
        InvISP(Direction.RENDER, jpeg="4:1:1")
    with pytest.raises(ValueError, match="quality"):
        InvISP(Direction.RENDER, quality=0)


@pytest.mark.parametrize("simulator", jpeg.SIMULATORS)
@pytest.mark.slow
def test_losses_of_its_own(simulator):
    render = fresh(jpeg=simulator).train()
    raw, srgb = torch.rand(2, 1, 16, 32), torch.rand(2, 3, 16, 32)
    both = render.other_way().joint_loss(render, srgb, raw, shot(2))
    one = render.own_loss(raw, srgb, shot(2)) + render.other_way().own_loss(srgb, raw, shot(2))
    for loss in (both, one):
        grads = torch.autograd.grad(loss, list(render.flow.parameters()))
        assert all(torch.isfinite(grad).all() for grad in grads)
        assert sum(float(grad.abs().sum()) for grad in grads) > 0
