"""CameraNet: the paper's number of parameters, alignment of its maps, CFAs, and its training in parts."""

import pytest
import torch

from paramisp_cli import isp
from paramisp_cli.models.base import Params
from paramisp_cli.models.cameranet import CameraNet, UNet
from paramisp_cli.types import CFA_PATTERNS, Direction


def fresh(width=4, **config):
    model = CameraNet(Direction.RENDER, width, **config).eval()
    model.initialise(torch.Generator().manual_seed(0))
    return model


def shot(cfa="RGGB", n=1):
    one = torch.ones(n)
    matrix = torch.tensor([[1.7, -0.6, -0.1], [-0.2, 1.5, -0.3], [0.0, -0.5, 1.5]])
    return Params(torch.tensor([[2.1, 1.0, 1.5]] * n), matrix.repeat(n, 1, 1), one, one, one, one, cfa=cfa)


@pytest.mark.parametrize(("width", "count"), [(32, 26_527_640), (16, 6_636_504), (8, 1_661_432)])
def test_parameter_count(width, count):
    with torch.device("meta"):
        model = CameraNet(Direction.RENDER, width)
    assert sum(p.numel() for p in model.parameters()) == count
    parts = [sum(p.numel() for p in net.parameters()) for net in (model.restorer, model.enhancer)]
    assert width != 32 or parts == [13_262_668, 13_264_972]


def test_maps_are_aligned():
    """An input moved by 16 packed pixels moves the output by as much, away from the border."""
    torch.manual_seed(0)
    net = UNet(4, 4, (1, 1, 1, 1, 1), residual=False).eval()
    x = torch.zeros(1, 4, 288, 288)
    x[..., 136:140, 136:140] = torch.rand(1, 4, 4, 4)
    with torch.inference_mode():
        y, moved = net(x), net(x.roll((16, 16), (2, 3)))
    assert y.std() > 0
    torch.testing.assert_close(moved[..., 112:208, 112:208], y[..., 96:192, 96:192], atol=1e-6, rtol=0)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_a_shifted_cfa_gives_the_shifted_picture(cfa):
    model = fresh()
    mosaic = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    top, left = divmod(cfa.index("R"), 2)
    cut = mosaic[..., 2 - top : 66 - top, 2 - left : 66 - left]  # its first red site is that of (2, 2)
    with torch.inference_mode():
        begins_with_red = isp.reflect_pad(cut, left, 32 - left if left else 0, top, 32 - top if top else 0)
        want = model.compute(begins_with_red, shot())[..., top : top + 64, left : left + 64]
        torch.testing.assert_close(model(cut, shot(cfa)), want, atol=1e-6, rtol=0)


def test_each_part_trains_itself():
    model = fresh().train()
    x, wanted = torch.rand(1, 1, 32, 64), torch.rand(1, 3, 32, 64)
    losses = {}
    for part, trained in (("restore", model.restorer), ("enhance", model.enhancer), ("all", model)):
        model.zero_grad(set_to_none=True)
        with model.phase(part):
            losses[part] = model.own_loss(x, wanted, shot())
        torch.autograd.backward(losses[part])
        assert all(p.grad is not None for p in trained.parameters())
        assert sum(p.grad is not None for p in model.parameters()) == len(list(trained.parameters()))
    assert model.part == "all"
    with torch.no_grad():
        end = (model(x, shot()) - wanted).abs().mean()
    assert losses["all"].item() == pytest.approx(0.1 * losses["restore"].item() + 0.9 * end.item(), rel=1e-5)
    for config in ({"width": 0}, {"restoration": 2}):
        with pytest.raises(ValueError, match="must be in"):
            CameraNet(Direction.RENDER, **config)
