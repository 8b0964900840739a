"""The fast model: its rendition in tensors is the one in numpy, it starts as that, and tiles give the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from paramisp_cli import isp
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.models.base import Params
from paramisp_cli.models.fast import Fast
from paramisp_cli.models.fast.network import THUMBNAIL
from paramisp_cli.rendition import prior
from paramisp_cli.rendition.apply import applied
from paramisp_cli.rendition.fit import cells, fit
from paramisp_cli.rendition.form import Rendition
from paramisp_cli.runner import Runner
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, OpticalParams

CPU = torch.device("cpu")
MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
SHOT = OpticalParams(400, 0.01, 4, 35)


def canonical(cfa: str = "RGGB") -> CanonicalParams:
    return CanonicalParams(cfa, 0, 1, (0.5, 1, 0.7), MATRIX)


def shot(cfa: str = "RGGB") -> Params:
    return Params.of(canonical(cfa), SHOT)


def trained(direction: Direction) -> Fast:
    """A model whose last layers are not zero, as after training."""
    torch.manual_seed(1)
    model = Fast(direction).eval()
    for layer in (model.net.tail, model.adjust):
        nn.init.normal_(layer.weight, std=0.05)
    return model


def smooth(height: int, width: int) -> np.ndarray:
    """A picture (H, W, 3) of all colours, black and white among them."""
    y, x = np.mgrid[:height, :width]
    planes = [y / (height - 1), x / (width - 1), (np.sin(y / 9) * np.cos(x / 7) + 1) / 2]
    return np.stack(planes, -1).astype(np.float32)


@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_the_rendition_is_that_of_numpy(direction: Direction) -> None:
    model = Fast(direction)
    generator = np.random.default_rng(0)
    spread = np.sqrt(np.diag(prior.shipped(direction).covariance))
    vector = prior.shipped(direction).mean + 0.3 * spread * generator.standard_normal(len(spread))
    matrix = canonical().cam_to_srgb()
    made = Rendition(direction, matrix, vector)
    model.rendition.vector.copy_(torch.tensor(made.vector))
    source = smooth(40, 50)
    x = torch.from_numpy(source.transpose(2, 0, 1).copy())[None]
    got = model.rendition(x, shot().cam_to_srgb, torch.zeros(1, 3))[0].permute(1, 2, 0).numpy()
    assert np.abs(got - applied(made, source)).max() < 2e-3  # the tables of both are straight between their points


@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_it_starts_as_its_rendition(direction: Direction) -> None:
    model, x = Fast(direction).eval(), torch.rand(1, 3, 32, 48)
    zero, params = torch.zeros(1, 3), shot()
    gains = params.wb_gains
    with torch.inference_mode():
        if direction == Direction.UNPROCESS:
            light = model.rendition(x, params.cam_to_srgb, zero)
            expected = isp.mosaic(isp.apply_gains(light, 1 / gains), "RGGB")
        else:
            x = isp.mosaic(x, "RGGB")
            light = isp.apply_gains(isp.demosaic(x, "RGGB"), gains)
            expected = model.rendition(light, params.cam_to_srgb, zero)
        torch.testing.assert_close(model(x, params)[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4], atol=2e-5, rtol=0)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_tiles_equal_the_whole(direction: Direction, cfa: str) -> None:
    model, size = trained(direction), (230, 202)
    x = torch.rand(1, 3 if direction == Direction.UNPROCESS else 1, *size)
    with torch.inference_mode():
        whole = model(x, shot(cfa))
    got = torch.full_like(whole, torch.nan)

    def sink(top: int, rows: torch.Tensor) -> None:
        got[:, :, top : top + rows.shape[2]] = rows

    Runner(model, CPU).run(shot(cfa), size, lambda a, b: x[:, :, a:b], sink, tile=(50, 70))
    torch.testing.assert_close(got, whole, atol=2e-6, rtol=1e-5)


def test_the_thumbnail_follows_the_whole_picture() -> None:
    model, x = Fast(Direction.RENDER), torch.rand(1, 1, 150, 90)
    strips = model.surveyed(lambda a, b: x[:, :, a:b], (150, 90), shot("GBRG")).thumbnail
    assert strips is not None
    assert strips.shape == (1, 3, THUMBNAIL, THUMBNAIL)
    moved = x.clone()
    moved[..., 100:, :] = 0
    other = model.surveyed(lambda a, b: moved[:, :, a:b], (150, 90), shot("GBRG")).thumbnail
    assert other is not None
    torch.testing.assert_close(other[:, :, :10], strips[:, :, :10])
    assert other[:, :, 12:].abs().max() < 1e-6


def test_cost() -> None:
    """At most 20 GMAC a megapixel in both directions, counted layer by layer; 0.25 M parameters."""
    for direction in ISP_DIRECTIONS:
        model, total = Fast(direction).eval(), 0

        def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            nonlocal total
            weight = layer.weight
            total += weight.numel() * output.shape[2] * output.shape[3]

        for layer in model.net.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(count)
        x = torch.rand(1, 3 if direction == Direction.UNPROCESS else 1, 256, 256)
        with torch.inference_mode():
            model(x, shot())
        assert total / 256**2 == model.macs < 9e3
        assert 0.2e6 < sum(p.numel() for p in model.parameters()) < 0.3e6


@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_a_flat_colour_stays_flat(direction: Direction) -> None:
    """The way up draws no grid: away from the border, every site of a colour has one value."""
    model = trained(direction)
    channels = 3 if direction == Direction.UNPROCESS else 1
    colour = torch.tensor([0.1, 0.6, 0.3])[:channels, None, None]
    with torch.inference_mode():
        y = model(colour.expand(1, channels, 192, 192).contiguous(), shot())[0, :, 72:120, 72:120]
    for plane in y:
        for row in (0, 1):
            for column in (0, 1):
                site = plane[row::2, column::2]
                assert site.max() - site.min() < 1e-5


def test_a_fit_is_taken_and_steers_the_trust() -> None:
    """A camera's colours are fitted from pixels; where they lie, the network is trusted, elsewhere less."""
    model, generator = trained(Direction.RENDER), np.random.default_rng(3)
    shown = generator.uniform(0.2, 0.5, (4000, 3))
    light = np.clip(shown, 0, 1) ** 2
    matrix, gains = canonical().cam_to_srgb(), canonical().wb_gains
    gathered = cells(Direction.RENDER, light @ np.linalg.inv(matrix).T, shown, matrix, gains)
    model.fit_colours([gathered])
    assert not any(tensor.any() for tensor in (*model.net.tail.parameters(), *model.adjust.parameters()))
    inside = torch.full((1, 3, 1, 1), 0.12)
    outside = torch.tensor([1.0, 0.0, 0.9]).view(1, 3, 1, 1)
    assert model.rendition.trust(inside) > 1.5 * model.rendition.trust(outside)
    expected = fit(
        [cells(Direction.RENDER, light @ np.linalg.inv(matrix).T, shown, matrix, gains)],
        prior.shipped(Direction.RENDER),
    )
    np.testing.assert_allclose(model.rendition.vector.numpy(), expected.rendition.vector, rtol=1e-5, atol=1e-5)


def test_black_stays_black_and_white_reaches_the_clip() -> None:
    model, size = Fast(Direction.UNPROCESS).eval(), (32, 32)
    with torch.inference_mode():
        black = model(torch.zeros(1, 3, *size), shot())
        white = model(torch.ones(1, 3, *size), shot())
    assert black.abs().max() < 1e-4
    balanced = white * isp.mosaic(shot().wb_gains[:, :, None, None].expand(1, 3, *size), "RGGB")
    assert balanced.min() > 0.999
