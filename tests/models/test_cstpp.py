"""CSTPP's network: its size, its polynomial, both ways, the view, strips, and sizes of any kind."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from paramisp_cli import weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import WeightsError
from paramisp_cli.models.base import Params
from paramisp_cli.models.cstpp import Cstpp, polynomial
from paramisp_cli.models.cstpp.conformer import Conformer, Domain, DomainNorm
from paramisp_cli.models.cstpp.network import four, packed, three, unpacked
from paramisp_cli.runner import Runner
from paramisp_cli.types import CFA_PATTERNS

TINY = {"stem": 4, "channels": (4, 8, 8), "width": 8, "heads": 2}


def params(n: int = 1, cfa: str = "RGGB") -> Params:
    one = torch.ones(n)
    gains = torch.tensor([[2.0, 1.0, 1.5]]).repeat(n, 1)
    return Params(gains, torch.eye(3).repeat(n, 1, 1), 100 * one, 0.01 * one, 4 * one, 50 * one, cfa)


def tiny(**changes: object) -> Cstpp:
    """Return a small network that changes colours, by much and by place."""
    torch.manual_seed(0)
    model = Cstpp(**{**TINY, **changes})
    for head in model.heads_of_ways:
        nn.init.normal_(head[-1].weight, std=0.3)
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, DomainNorm)):
            norm.mean.normal_(0, 0.1)
            norm.bias.normal_(0, 0.1)
    return model.eval()


def mosaic(height: int, width: int, n: int = 1) -> torch.Tensor:
    return torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(0))


def of_one_domain(net: nn.Module) -> int:
    """Count the parameters of one generator: those that both share, and its half of the normalisations."""
    norms = sum(p.numel() for m in net.modules() if isinstance(m, DomainNorm) for p in m.parameters())
    return sum(p.numel() for p in net.parameters()) - norms // 2


@pytest.mark.parametrize(("channels", "published"), [((64, 128, 256), 5.39e6), ((32, 64, 128), 5.04e6)])
def test_the_size_is_the_papers(channels: tuple[int, ...], published: float) -> None:
    """5.39 M with the last map, which nothing reads: the end of its block, the way from the tokens, and a block."""
    _, _, last = channels
    inner = last // 4
    back = 256 * inner + inner + last * inner + 9 * inner**2 + 2 * inner * last + 2 * (3 * inner + 2 * last)
    backbone = Conformer(32, channels, 256, 4)
    assert abs(of_one_domain(backbone) + back - published) < 0.01e6
    assert of_one_domain(backbone) < published


def test_the_head_is_an_mlp_of_56_outputs() -> None:
    model = Cstpp()
    assert sum(p.numel() for p in model.heads_of_ways[0].parameters()) == 256 * 256 + 256 + 256 * 56 + 56


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("back", [False, True])
def test_a_fresh_network_changes_nothing(cfa: str, back: bool) -> None:
    model = Cstpp(**TINY)
    model.initialise(torch.Generator().manual_seed(2))
    x = mosaic(34, 70)
    with torch.inference_mode():
        y = (model.backwards() if back else model).eval()(x, params(cfa=cfa))
    assert torch.equal(y, x)


def test_terms_and_coefficients_are_a_polynomial() -> None:
    """By hand for one pixel: 4 squares, 6 products, 4 linear terms, each with a weight for each output."""
    x = torch.tensor([0.2, 0.3, 0.5, 0.7])[None, :, None, None]
    wanted = [0.04, 0.09, 0.25, 0.49, 0.06, 0.10, 0.14, 0.15, 0.21, 0.35, 0.2, 0.3, 0.5, 0.7]
    terms = polynomial.terms(x)[0, :, 0, 0]
    assert torch.allclose(terms, torch.tensor(wanted))
    table = torch.rand(14, 4, generator=torch.Generator().manual_seed(1))
    y = polynomial.apply(x, table.flatten()[None, :, None, None])
    assert torch.allclose(y[0, :, 0, 0], terms @ table)


def test_coefficients_are_bilinear_between_centres() -> None:
    """A patch's own coefficients stand at its centre; beyond the outer centres they are constant."""
    grid = torch.zeros(1, 56, 2, 3)
    grid[:, :, :, 1], grid[:, :, :, 2] = 1, 3
    row = polynomial.between(grid, 0, 2, 16)[0, 0, 5]
    assert row.shape == (48,)
    assert torch.equal(row[:8], torch.zeros(8))
    assert torch.allclose(row[[23, 24]], torch.tensor([1 - 0.5 / 16, 1 + 2 * 0.5 / 16]))
    assert torch.allclose(row[8:24].diff(), torch.tensor(1 / 16))
    assert torch.equal(row[40:], 3 * torch.ones(8))
    both = [polynomial.between(grid, first, first + 1, 16) for first in (0, 1)]
    assert torch.equal(torch.cat(both, 2), polynomial.between(grid, 0, 2, 16))


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_packing_sorts_the_sites(cfa: str) -> None:
    """R, the green in R's row, the green in B's row, B."""
    x = torch.zeros(1, 1, 4, 4)
    for number, name in enumerate(cfa):
        beside_red = number // 2 == cfa.index("R") // 2
        x[0, 0, number // 2 :: 2, number % 2 :: 2] = {"R": 1, "G": 2 if beside_red else 3, "B": 4}[name]
    planes = packed(x, cfa)
    assert [plane.unique().tolist() for plane in planes[0]] == [[1], [2], [3], [4]]
    assert torch.equal(unpacked(planes, cfa), x)
    assert torch.equal(three(four(x.expand(1, 3, 4, 4))), x.expand(1, 3, 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("size", [(2, 2), (30, 46), (66, 130), (194, 98), (258, 322)])
@pytest.mark.parametrize("view", [32, 1024])
def test_strips_are_the_whole(cfa: str, size: tuple[int, int], view: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In strips of one row of patches, at any reduction of the view, and for sizes below a patch."""
    monkeypatch.setattr("paramisp_cli.models.cstpp.network._STRIP_PIXELS", 1)
    model, x = tiny(view=view), mosaic(*size)
    seen, tops = torch.zeros_like(x), []

    def sink(top: int, rows: torch.Tensor) -> None:
        tops.append(top)
        seen[:, :, top : top + rows.shape[2]] = rows

    with torch.inference_mode():
        wanted = model(x, params(cfa=cfa))
    Runner(model, torch.device("cpu")).run(params(cfa=cfa), size, lambda first, end: x[:, :, first:end], sink)
    torch.testing.assert_close(seen, wanted, atol=2e-5, rtol=0)
    assert (wanted - x).abs().max() > 0.01
    assert tops == sorted(set(tops))
    if size[0] > 100:
        assert len(tops) > 1


def test_the_view_is_an_area_average() -> None:
    """A picture of doubled pixels, reduced by two, gives the same polynomials as the small picture."""
    small = torch.rand(1, 4, 32, 48, generator=torch.Generator().manual_seed(1))
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    model, seen = tiny(view=48), []
    real = model.coefficients
    model.coefficients = lambda view, domain: seen.append(view) or real(view, domain)  # type: ignore[method-assign]
    with torch.inference_mode():
        model.mapped(small)
        model.mapped(large)
    torch.testing.assert_close(seen[0], seen[1])


def test_attention_sees_the_whole_picture() -> None:
    """A change in one corner changes the colours in the other."""
    model, x = tiny(), mosaic(256, 256)
    changed = x.clone()
    changed[..., :64, :64] = 0
    with torch.inference_mode():
        one, other = (model(each, params())[..., 200:, 200:] for each in (x, changed))
    assert (one - other).abs().max() > 1e-5


def test_generators_share_all_but_norms_and_heads() -> None:
    model = tiny()
    back = model.backwards()
    assert (model.way, back.way, back.backwards().way) == (0, 1, 0)
    assert all(one is other for one, other in zip(model.parameters(), back.parameters(), strict=True))
    x = mosaic(64, 64)
    with torch.inference_mode():
        assert not torch.allclose(model(x, params()), back(x, params()), atol=1e-3)
    model.mapped(packed(x, "RGGB"), Domain(0)).sum().backward()
    norms = [name for name, module in model.named_modules() if isinstance(module, DomainNorm)]
    own = {f"{name}.{part}" for name in norms for part in ("weight", "bias")}
    for name, parameter in model.named_parameters():
        if name in own:
            assert parameter.grad is not None
            assert not parameter.grad[1].any()
        assert (parameter.grad is None) == name.startswith("heads_of_ways.1"), name


def test_statistics_follow_the_pictures_that_they_should() -> None:
    model = Cstpp(**TINY).train()
    x = torch.rand(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    norm = model.backbone.stem_norm
    model.mapped(x, Domain(0, follows=False))
    assert not norm.mean.any()
    model.mapped(x, Domain(1))
    assert not norm.mean[0].any()
    assert norm.mean[1].any()
    assert not torch.equal(norm.variance[1], torch.ones_like(norm.variance[1]))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"channels": (4, 8)}, "three multiples of 4"),
        ({"channels": (4, 8, 10)}, "three multiples of 4"),
        ({"width": 9}, "multiple of heads"),
        ({"view": 40}, "multiple of 16"),
        ({"cameras": ("one",)}, "two names or none"),
    ],
)
def test_bad_arguments(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Cstpp(**{**TINY, **changes})


def test_a_file_holds_both_ways(tmp_path) -> None:
    model = tiny(cameras=("Camera A", "Camera B"))
    path = weights.save(model, tmp_path / "w.safetensors", camera="Camera A")
    header = weights.verify(path)
    assert (header["architecture"], header["to"]) == ("cstpp", "Camera B")
    again, x = weights.load(path), mosaic(48, 34)
    assert isinstance(again, Cstpp)
    with torch.inference_mode():
        assert torch.equal(again(x, params()), model(x, params()))
        assert torch.equal(again.backwards()(x, params()), model.backwards()(x, params()))


@pytest.mark.slow
def test_a_training_s_checkpoint_is_imported(tmp_path) -> None:
    """Of ``train``'s checkpoint the generators alone; of another camera, or without its network, a refusal."""
    model = tiny(cameras=("Camera A", "Camera B"))
    state = {"state_dict": model.state_dict(), "config": json.dumps(model.config()), "critics": {}, "pools": [[], []]}
    torch.save(state, tmp_path / "checkpoint.pt")
    assert "checkpoint of cstpp" in weights.recognise(tmp_path / "checkpoint.pt")
    (path,) = weights.import_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "store", camera="Camera A")
    assert path == tmp_path / "store" / "cstpp" / "camera-a.transfer.safetensors"
    again = weights.load(path, direction=Direction.TRANSFER)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert weights.info(path)["to"] == "Camera B"
    with pytest.raises(Exception, match="is a training from Camera A; pass `camera` 'Camera A'"):
        weights.import_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "other", camera="Camera B")
    with pytest.raises(WeightsError, match="direction"):
        weights.import_checkpoint(tmp_path / "checkpoint.pt", tmp_path / "o", camera="Camera A", direction="render")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "bare.pt")
    with pytest.raises(WeightsError, match="does not state its network"):
        weights.import_checkpoint(tmp_path / "bare.pt", tmp_path / "other", camera="Camera A")
