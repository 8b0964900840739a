"""CameraNet against the numbers of its paper and the geometry that its docstrings state."""

import pytest
import torch
from test_contract import params

from paramisp_cli.directions import Direction
from paramisp_cli.models.cameranet import CameraNet, network, unet
from paramisp_cli.types import CFA_PATTERNS


def small(**arguments):
    torch.manual_seed(0)
    return CameraNet(Direction.RENDER, width=4, **arguments).eval()


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("width", "numbers"), [(32, 26_527_640), (16, 6_636_504), (8, 1_661_432)])
def test_as_many_parameters_as_the_paper(width, numbers):
    assert count(CameraNet(Direction.RENDER, width=width)) == numbers


def test_the_stages_have_their_shares():
    model = CameraNet(Direction.RENDER, width=32)
    assert (count(model.restore), count(model.enhance)) == (13_262_668, 13_264_972)


def test_unprocess_is_refused():
    with pytest.raises(ValueError, match="cameranet has no direction"):
        CameraNet(Direction.UNPROCESS)


@pytest.mark.parametrize("arguments", [{"width": 0}, {"balance": "guessed"}, {"restoration": 2}], ids=str)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        CameraNet(Direction.RENDER, **arguments)


def test_a_shifted_mosaic_of_another_cfa_gives_the_shifted_picture():
    """Away from the border, where the paddings differ; the mean over the picture is given."""
    model, whole = small(), torch.rand(1, 1, 898, 36)
    seen = []
    for net in (model.restore, model.enhance):  # the same mean for every CFA
        real = net.forward
        mean = torch.full((1, 64), 0.1)
        net.forward = lambda x, _=None, real=real, mean=mean: real(x, mean)
    with torch.inference_mode():
        for cfa in CFA_PATTERNS:
            top, left = divmod(cfa.index("R"), 2)
            part = whole[:, :, top : 896 + top, left : 34 + left]
            picture = model(part, params(cfa=cfa))
            seen.append(picture[:, :, 420 - top : 460 - top])
    # The picture is narrow, so every column sees the left border, which differs when red is in the second column.
    for cfa, picture in zip(CFA_PATTERNS, seen, strict=True):
        if cfa.index("R") % 2 == 0:
            torch.testing.assert_close(picture, seen[CFA_PATTERNS.index("RGGB")], atol=1e-5, rtol=0)


def test_the_pool_moves_with_the_picture():
    """An impulse 32 pixels further moves the answer by 32 pixels: no padding shifts a level."""
    model = small()
    mean = torch.zeros(1, 64)

    def answer(row):
        x = torch.zeros(1, 4, 512, 16)
        x[:, :, row] = 1
        with torch.inference_mode():
            return model.restore(x, mean)[0, :, :, 8]

    torch.testing.assert_close(answer(256)[:, 232:296], answer(272)[:, 248:312], atol=1e-6, rtol=0)


@pytest.mark.parametrize("stage", ["restore", "enhance"])
def test_the_reach_is_as_stated(stage):
    """No sample beyond the reach changes an output; the deepest maps' reach likewise."""
    net = getattr(small(), stage)
    near, far = unet.reach(network._DILATIONS[stage])
    x = torch.rand(1, 4 if stage == "restore" else 12, 1024, 16, requires_grad=True)
    net(x, torch.zeros(1, 64))[0, :, 512].sum().backward()
    rows = x.grad.abs().amax((0, 1, 3)).nonzero()[:, 0]
    assert 512 - far - 16 <= rows.min() < rows.max() <= 512 + far + 16
    x.grad = None
    net.deepest(x)[0, :, 32].sum().backward()
    rows = x.grad.abs().amax((0, 1, 3)).nonzero()[:, 0]
    assert 512 - near - 16 <= rows.min() < rows.max() <= 512 + near + 16


@pytest.mark.slow
def test_bands_equal_the_whole(monkeypatch):
    monkeypatch.setattr(network, "_BAND", 832)
    model, x = small(), torch.rand(1, 1, 2410, 34)
    got = torch.empty(1, 3, 2410, 34)
    shares = []
    with torch.inference_mode():
        want = model(x, params(cfa="GBRG"))
        model.stream(
            lambda first, last: x[:, :, first:last],
            lambda top, rows: got[:, :, top : top + rows.shape[2]].copy_(rows),
            (2410, 34),
            params(cfa="GBRG"),
            plan="bands",
            progress=shares.append,
        )
    torch.testing.assert_close(got, want, atol=2e-6, rtol=0)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_restored_picture_is_as_large_as_the_mosaic():
    with torch.inference_mode():
        assert small().restored(torch.rand(1, 1, 34, 50), params(cfa="BGGR")).shape == (1, 3, 34, 50)


def test_the_balance_is_given_or_learned():
    given, learned = small(), small(balance="learned")
    x = torch.rand(1, 1, 32, 32)
    ratio = given.packed(x, params())[0, :, 0, 0] / learned.packed(x, params())[0, :, 0, 0]
    torch.testing.assert_close(ratio, torch.tensor([2.0, 1, 1, 1.5]))


def test_each_stage_trains_itself():
    model = small().train()
    x, wanted = torch.rand(1, 1, 32, 64), torch.rand(1, 3, 32, 64)
    losses = {}
    for part, trained in (("restore", model.restore), ("enhance", model.enhance), ("all", model)):
        model.zero_grad(set_to_none=True)
        with model.phase(part):
            losses[part] = model.own_loss(x, wanted, params())
        losses[part].backward()
        assert all(p.grad is not None for p in trained.parameters())
        assert sum(p.grad is not None for p in model.parameters()) == len(list(trained.parameters()))
    assert model.part == "all"
    with torch.no_grad():
        end = (model(x, params()) - wanted).abs().mean()
    assert losses["all"].item() == pytest.approx(0.1 * losses["restore"].item() + 0.9 * end.item(), rel=1e-5)
