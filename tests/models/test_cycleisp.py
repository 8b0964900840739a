"""CycleISP: parity with the published networks, and the streamed way against the plain one."""

import peers
import pytest
import torch
import torch.nn.functional as F

from paramisp_cli import published
from paramisp_cli.directions import Direction
from paramisp_cli.errors import WeightsError
from paramisp_cli.models.base import Params
from paramisp_cli.models.cycleisp import CycleISP, streaming
from paramisp_cli.models.cycleisp import published as converter
from paramisp_cli.models.cycleisp.network import ColourBranch, GuidedRender, RawToRgb
from paramisp_cli.scratch import Scratch


def fresh(seed=0):
    model = CycleISP(Direction.UNPROCESS).eval()
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():  # what initial weights attend to is nearly constant; this makes it matter
        for group in model.net.trunk.groups:
            for block in group.blocks:
                block.spatial.weight.mul_(20)
                block.channel2.weight.mul_(20)
                block.join.weight.mul_(3)
    return model


def shot(cfa="RGGB"):
    one = torch.ones(1)
    return Params(torch.tensor([[2.1, 1.0, 1.5]]), torch.eye(3)[None], one, one, one, one, cfa=cfa)


# --- parity -----------------------------------------------------------------------------------------------------------


@peers.NO_PARITY
@pytest.mark.parametrize("seed", peers.seeds("cycleisp"))
@pytest.mark.slow
def test_parity_of_unprocessing(seed, tmp_path):
    model = peers.model(f"cycleisp_{seed}_rgb2raw", Direction.UNPROCESS, tmp_path)
    arrays = peers.stored(f"cycleisp_{seed}_unprocess")
    with torch.inference_mode():
        x = torch.from_numpy(arrays["x"])
        assert peers.error(model.net(x), arrays["rgb_before_mosaic"]) < peers.BOUND
        for key in ("", "_even"):
            x = torch.from_numpy(arrays[f"x{key}"])
            y = model(x, peers.shots(arrays, len(x)))
            assert peers.error(F.pixel_unshuffle(y, 2), arrays[f"y{key}"]) < peers.BOUND
        x = torch.from_numpy(arrays["project_x"])
        assert peers.error(model(x, peers.shots(arrays, len(x))), arrays["project_y"]) < peers.BOUND


@peers.NO_PARITY
@pytest.mark.parametrize("seed", peers.seeds("cycleisp"))
@pytest.mark.slow
def test_parity_of_guided_rendering(seed, tmp_path):
    files = [peers.checkpoint(f"cycleisp_{seed}_{part}", tmp_path) for part in ("raw2rgb", "ccm")]
    both = published.guided_render(*files)
    arrays = peers.stored(f"cycleisp_{seed}_render")
    with torch.inference_mode():
        guide = torch.from_numpy(arrays["guide_rgb"])
        assert peers.error(both.colour.blurred(guide), arrays["blurred_guide"]) < peers.BOUND
        assert peers.error(both.colour(guide), arrays["ccm_feat"]) < peers.BOUND
        for x, beside, y in (("x", "guide_rgb", "y"), ("x_even", "guide_even", "y_even")):
            factors = both.colour(torch.from_numpy(arrays[beside]))
            assert peers.error(both.render(torch.from_numpy(arrays[x]), factors), arrays[y]) < peers.BOUND
        assert peers.error(both(torch.from_numpy(arrays["project_x"]), guide), arrays["project_y"]) < peers.BOUND
    with pytest.raises(WeightsError, match="is CycleISP's colour branch, not CycleISP's RAW to RGB network"):
        published.guided_render(files[1], files[0])


# --- the networks -----------------------------------------------------------------------------------------------------


def test_parameter_counts():
    counts = [sum(p.numel() for p in net.parameters()) for net in (fresh().net, RawToRgb(), ColourBranch())]
    assert counts == [3_143_109, 3_244_110 - 18_528, 1_083_096]
    assert ColourBranch().blur.numel() == 1_323
    assert converter.names("unprocess").keys() >= {"body.2.body.5.bias", "body.4.weight"}
    assert [len(converter.names(kind)) for kind in ("unprocess", "colour", "render")] == [193, 60, 198 - 2]


def test_the_blur_is_nearly_a_box():
    kernel = ColourBranch().blur[0, 0]
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    assert (kernel[0, 0] / kernel[10, 10]).item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("plan", ["whole", "bands", "disk"])
@pytest.mark.parametrize("rows", [2, 8, 22])
@pytest.mark.slow
def test_strips_do_not_show(plan, rows, monkeypatch, tmp_path):
    """Any number of rows at a time, to a height that is no multiple of it, with attention that matters."""
    monkeypatch.setattr(streaming, "rows_of_a_strip", lambda width: rows)
    model, params = fresh(), shot("GBRG")
    x = torch.rand(1, 3, 38, 26, generator=torch.Generator().manual_seed(0))
    got, shares = torch.full((1, 1, 38, 26), torch.nan), []
    with torch.inference_mode():
        want = model(x, params)

        def sink(top, strip):
            got[:, :, top : top + strip.shape[2]] = strip

        model.stream(
            lambda first, end: x[:, :, first:end], sink, (38, 26), params,
            plan=plan, store=lambda size: Scratch(size, tmp_path), progress=shares.append,
        )  # fmt: skip
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    with pytest.raises(ValueError, match="needs a store"):
        model.stream(lambda first, end: x[:, :, first:end], sink, (38, 26), params, plan="disk")


def test_the_guide_colours_the_picture():
    both = GuidedRender().eval()
    mosaic = torch.rand(1, 1, 24, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        red, blue = (
            both(mosaic, torch.tensor(c).view(1, 3, 1, 1).expand(1, 3, 24, 28)) for c in ([1.0, 0, 0], [0, 0, 1.0])
        )
    assert red.shape == (1, 3, 24, 28)
    assert not torch.equal(red, blue)
