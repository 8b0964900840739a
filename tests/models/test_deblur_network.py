"""The network against shake: begins as no change, knows no CFA, and sees no further than its halo."""

import pytest
import torch

from paramisp_cli.directions import Direction
from paramisp_cli.models.base import Params
from paramisp_cli.models.deblur import Deblur
from paramisp_cli.runner import Runner
from paramisp_cli.types import CFA_PATTERNS


def shot(cfa="RGGB", noise=None):
    one = torch.ones(1)
    gains = torch.tensor([[2.1, 1.0, 1.5]])
    return Params(gains, torch.eye(3)[None], 200 * one, one / 60, 4 * one, 50 * one, cfa=cfa, noise=noise)


def changing(seed=0):
    """A network whose last layer changes the picture."""
    model = Deblur()
    model.initialise(torch.Generator().manual_seed(seed))
    torch.nn.init.normal_(model.tail.weight, std=0.1, generator=torch.Generator().manual_seed(seed))
    return model.eval()


def test_size_and_cost():
    model = Deblur()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(0.364e6, rel=0.01)
    assert model.macs == pytest.approx(4434, rel=0.01)
    assert model.geometry == Deblur.geometry


def test_begins_as_no_change_bit_for_bit():
    x = 1.2 * torch.rand(1, 1, 50, 70) - 0.02  # noise below black, light above white
    for cfa in CFA_PATTERNS:
        assert torch.equal(Deblur().eval()(x, shot(cfa)), x)


@torch.inference_mode()
def test_every_cfa_is_the_same_picture():
    """A mosaic that begins a pixel later has another CFA and the same result, away from the border."""
    model, x = changing(), torch.rand(1, 1, 240, 240)
    whole = model(x, shot("RGGB"))
    assert float((whole - x).abs().mean()) > 0.01
    for cfa, (top, left) in {"GRBG": (0, 1), "GBRG": (1, 0), "BGGR": (1, 1)}.items():
        part = x[
            ..., 16 + top : 238 + top, 16 + left : 238 + left
        ]  # 16 px keep the levels of the network on the same samples
        got = model(part, shot(cfa))
        inner = slice(90, 120)
        want = whole[..., 16 + top : 238 + top, 16 + left : 238 + left]
        torch.testing.assert_close(got[..., inner, inner], want[..., inner, inner], atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("cfa", ["RGGB", "GBRG"])
def test_tiles_give_the_whole(cfa):
    model, x = changing(), torch.rand(1, 1, 230, 262)
    whole, tiled = model(x, shot(cfa)), torch.zeros_like(x)
    Runner(model, torch.device("cpu")).run(
        shot(cfa),
        (230, 262),
        lambda first, end: x[:, :, first:end],
        lambda top, rows: tiled[:, :, top : top + rows.shape[2]].copy_(rows),
        tile=(48, 80),
    )
    torch.testing.assert_close(tiled, whole, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_noise_is_an_input_and_absent_noise_is_zero():
    model, x = changing(), torch.rand(1, 1, 64, 64)
    silent, zero = model(x, shot()), model(x, shot(noise=torch.zeros(1)))
    assert torch.equal(silent, zero)
    assert not torch.equal(silent, model(x, shot(noise=torch.tensor([0.05]))))


def test_a_batch_has_the_noise_of_all_or_none():
    both = Params.cat([shot(noise=torch.tensor([0.1])), shot(noise=torch.tensor([0.2]))])
    assert both.noise.tolist() == pytest.approx([0.1, 0.2])
    assert both.to("meta").noise.device.type == "meta"
    with pytest.raises(Exception, match="noise"):
        Params.cat([shot(), shot(noise=torch.tensor([0.1]))])


def test_only_restores():
    with pytest.raises(ValueError, match="direction"):
        Deblur(Direction.RENDER)
    with pytest.raises(ValueError, match="positive"):
        Deblur(width=0)
