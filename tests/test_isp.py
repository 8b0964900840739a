"""Pixel operations: inverses are inverses, mosaics keep their colours, and demosaicing is exact where it can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paramisp_cli import color, isp
from paramisp_cli.types import CFA_PATTERNS


def image(height=12, width=16, n=1, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_mosaic(cfa):
    rgb = image()
    mosaic = isp.mosaic(rgb, cfa)
    assert mosaic.shape == (1, 1, 12, 16)
    for y in range(4):
        for x in range(4):
            assert mosaic[0, 0, y, x] == rgb[0, "RGB".index(cfa[2 * (y % 2) + x % 2]), y, x]


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("size", [(2, 2), (2, 8), (6, 4), (12, 16)])
def test_demosaic_keeps_what_was_measured(cfa, size):
    measured = isp.mosaic(image(*size, n=2), cfa)
    assert torch.equal(isp.mosaic(isp.demosaic(measured, cfa), cfa), measured)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_demosaic_is_exact_on_ramps(cfa):
    """Malvar's kernels are exact where all channels rise alike in a plane; the border is a reflection and is not."""
    y, x = torch.meshgrid(torch.arange(14.0), torch.arange(18.0), indexing="ij")
    ramp = (0.1 + 0.02 * y + 0.03 * x).expand(1, 3, -1, -1)
    out = isp.demosaic(isp.mosaic(ramp, cfa), cfa)
    torch.testing.assert_close(out[..., 2:-2, 2:-2], ramp[..., 2:-2, 2:-2], atol=1e-6, rtol=0)
    flat = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 8, 10)
    torch.testing.assert_close(isp.demosaic(isp.mosaic(flat, cfa), cfa), flat, atol=1e-6, rtol=0)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_demosaic_by_the_paper(cfa):
    """A dense filter with the four kernels of the paper, in plain loops, gives the same."""
    mosaic = isp.mosaic(image(8, 10), cfa)
    padded = isp.reflect_pad(mosaic, 2, 2, 2, 2)[0, 0].double().numpy()
    green = np.array([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]) / 8
    in_row = (
        np.array([[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]) / 8
    )
    across = (
        np.array([[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]) / 8
    )
    here = np.zeros((5, 5))
    here[2, 2] = 1
    out = isp.demosaic(mosaic, cfa)[0].numpy()
    for y in range(8):
        for x in range(10):
            own, beside = (isp.channel_of(cfa, y, x + step) for step in (0, 1))
            for want in range(3):
                if want == own:
                    kernel = here
                elif want == 1:
                    kernel = green
                elif own != 1:
                    kernel = across
                else:
                    kernel = in_row if beside == want else in_row.T
                assert abs((padded[y : y + 5, x : x + 5] * kernel).sum() - out[want, y, x]) < 1e-6


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("offset", [0, 1, 2])
def test_demosaic_with_and_without_gradients(cfa, offset):
    """Without, neighbours go in pairs where memory allows: not from an odd place on, and not in float64."""
    x = torch.rand(3 * 1 * 12 * 16 + offset)[offset:].view(3, 1, 12, 16)
    want = isp.demosaic_interior(x.double().requires_grad_(), cfa).detach()
    with torch.inference_mode():
        torch.testing.assert_close(isp.demosaic_interior(x, cfa).double(), want, atol=1e-6, rtol=0)
        assert torch.equal(isp.demosaic_interior(x.double(), cfa), want)


def test_demosaic_interior_is_a_part_of_the_whole():
    mosaic = isp.mosaic(image(20, 24), "GRBG")
    whole = isp.demosaic(mosaic, "GRBG")
    part = isp.demosaic_interior(mosaic[..., 4:14, 6:18], "GRBG")
    assert torch.equal(part, whole[..., 6:12, 8:16])


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_demosaic_moves_with_the_phase(cfa):
    """The mosaic that begins a row and a column further in, with its CFA moved, gives the same colours."""
    mosaic = isp.mosaic(image(14, 18), cfa)
    for rows, columns in ((0, 1), (1, 0), (1, 1)):
        moved = "".join(cfa[2 * ((y + rows) % 2) + (x + columns) % 2] for y in (0, 1) for x in (0, 1))
        inner = isp.demosaic_interior(mosaic[..., rows : 12 + rows, columns : 16 + columns], moved)
        outer = isp.demosaic(mosaic, cfa)[..., rows + 2 : rows + 10, columns + 2 : columns + 14]
        torch.testing.assert_close(inner, outer, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "before", "after"), [(1, 3, 3), (2, 5, 5), (3, 0, 7), (8, 2, 2), (5, 11, 0)])
def test_reflect_index(size, before, after):
    padded = np.pad(np.arange(size), (before, after), mode="reflect") if size > 1 else np.zeros(1 + before + after)
    np.testing.assert_array_equal(isp.reflect_index(size, before, after).numpy(), padded)


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (2, 2, 2, 2), (0, 1, 0, 1), (9, 3, 0, 20)])
def test_reflect_pad(pads):
    left, right, top, bottom = pads
    x = image(5, 6)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)), mode="reflect")
    np.testing.assert_array_equal(isp.reflect_pad(x, *pads).numpy(), expected)


def test_normalise_and_quantise():
    black = torch.tensor([[60.0, 64.0], [70.0, 50.0]])
    codes = torch.randint(0, 16384, (1, 1, 6, 8), generator=torch.Generator().manual_seed(1)).float()
    codes[0, 0, :2, :2] = torch.tensor([[0.0, 16383.0], [70.0, 51.0]])
    linear = isp.normalise(codes, black, 16383)
    assert linear[0, 0, 1, 0] == 0
    assert linear[0, 0, 0, 1] == 1
    assert linear[0, 0, 0, 0] == pytest.approx(-60 / (16383 - 60))
    assert torch.equal(isp.quantise(linear, black, 16383), codes)
    far = torch.tensor([[-9.0, 9.0], [0.0, 1.0]])[None, None]
    assert isp.quantise(far, black, 16383)[0, 0].tolist() == [[0, 16383], [70, 16383]]
    between = isp.quantise(torch.tensor([[0.0124, 0.0126]])[None, None], torch.zeros(2, 2), 1000)
    assert between.flatten().tolist() == [12, 13]  # to the nearest
    assert torch.equal(isp.normalise(codes[..., :5, :7], black, 16383), linear[..., :5, :7])  # odd sizes too


def test_smoothstep():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    y = isp.smoothstep(x)
    assert y[[0, 500, 1000]].tolist() == pytest.approx([0, 0.5, 1])
    torch.testing.assert_close(isp.inverse_smoothstep(y), x, atol=1e-7, rtol=0)
    torch.testing.assert_close(y, 3 * x**2 - 2 * x**3)


def test_srgb_pair():
    x = torch.linspace(-0.1, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(isp.srgb_decode(isp.srgb_encode(x)), x, atol=2e-5, rtol=0)
    inside = x[x >= 0]
    np.testing.assert_allclose(isp.srgb_encode(inside).numpy(), color.srgb_encode(inside.numpy()), atol=1e-12)
    np.testing.assert_allclose(isp.srgb_decode(inside).numpy(), color.srgb_decode(inside.numpy()), atol=1e-12)


def test_srgb_is_the_same_without_gradients():
    x = torch.linspace(-0.2, 1.2, 100_001)
    for curve in (isp.srgb_encode, isp.srgb_decode):
        want = curve(x.double().requires_grad_()).detach()
        kept = x.clone()
        torch.testing.assert_close(curve(x).double(), want, atol=4e-7, rtol=0)
        assert torch.equal(x, kept)


def test_srgb_gradients_are_finite():
    x = torch.tensor([-0.1, 0.0, 0.002, 0.04, 0.5, 1.0], requires_grad=True)
    for function in (isp.srgb_encode, isp.srgb_decode):
        (gradient,) = torch.autograd.grad(function(x).sum(), x)
        assert torch.isfinite(gradient).all()
        assert (gradient > 0).all()


def test_matrix_and_gains():
    rgb = image(n=2)
    matrices = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(3))
    expected = torch.einsum("nij,njhw->nihw", matrices, rgb)
    torch.testing.assert_close(isp.apply_matrix(rgb, matrices), expected)
    gains = torch.tensor([[2.0, 1.0, 3.0], [1.0, 0.5, 1.0]])
    out = isp.apply_gains(rgb, gains)
    assert torch.equal(out[0, 2], rgb[0, 2] * 3)
    assert torch.equal(out[1, 1], rgb[1, 1] * 0.5)
