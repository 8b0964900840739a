"""Brightness and contrast beside linear data: known ones come back from synthetic pictures."""

from __future__ import annotations

import numpy as np
import pytest

from paramisp_cli import color, look
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, Crop, RawImage

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])


def grey_raw(light: np.ndarray, cfa: str = "RGGB", crop: Crop | None = None) -> RawImage:
    """The mosaic of a grey picture: ``light`` (H, W) linear, seen through each filter's neutral."""
    neutral = np.array([0.5, 1, 0.6])
    black, white = np.array([[100, 110], [120, 130]]), 10000
    height, width = light.shape
    sites = np.array(["RGB".index(colour) for colour in cfa]).reshape(2, 2)
    per_site = np.tile(neutral[sites], (height // 2, width // 2))
    blacks = np.tile(black, (height // 2, width // 2))
    mosaic = np.rint(light * per_site * (white - blacks) + blacks).astype(np.uint16)
    return RawImage(mosaic, CanonicalParams(cfa, black, white, neutral, MATRIX), crop=crop)


def ramp(height=64, width=512):
    return np.broadcast_to(np.linspace(0.001, 0.999, width) ** 2, (height, width))


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_linear_srgb_of_grey_is_grey(cfa):
    linear = look.linear_srgb(grey_raw(np.full((8, 12), 0.3), cfa))
    assert linear.shape == (4, 6, 3)
    np.testing.assert_allclose(linear, 0.3, atol=2e-4)


@pytest.mark.parametrize("crop", [None, Crop(3, 5, 57, 501), Crop(2, 4, 60, 500)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_fitted_curve_finds_the_curve(crop, dtype):
    """A picture made through x → x^0.7 gives that curve, from (0, 0) to (1, 1) and rising."""
    light = ramp()
    raw = grey_raw(light, crop=crop)
    c = raw.crop
    shown = light[c.top : c.top + c.height, c.left : c.left + c.width]
    encoded = color.srgb_encode(shown**0.7)[..., None].repeat(3, -1)
    scale = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    pixels = (np.rint(encoded * scale) if scale > 1 else encoded).astype(dtype)
    curve = look.fitted_curve(pixels, raw)
    assert curve[0].tolist() == [0, 0]
    assert curve[-1].tolist() == [1, 1]
    assert (np.diff(curve[:, 0]) > 0).all()
    assert (np.diff(curve[:, 1]) >= 0).all()
    x = np.linspace(0.02, 0.95, 50)
    np.testing.assert_allclose(np.interp(x, *curve.T), x**0.7, atol=0.012)


def test_fitted_curve_of_a_picture_with_clipped_whites():
    """A median that all but clips would stand where the curve's end must, and no DNG could be written with it."""
    light = np.array(ramp())
    light[:, -128:] = 1
    raw = grey_raw(light)
    encoded = (color.srgb_encode(light**0.7)[..., None].repeat(3, -1) * 250).astype(np.uint8)
    curve = look.fitted_curve(encoded, raw)
    assert curve[0].tolist() == [0, 0]
    assert curve[-1].tolist() == [1, 1]
    assert (np.diff(curve[:, 0]) > 0).all()


def test_fitted_curve_of_next_to_nothing_is_none():
    raw = grey_raw(np.full((8, 12), 0.3))
    assert look.fitted_curve(np.full((8, 12, 3), 140, np.uint8), raw) is None


@pytest.mark.parametrize("ev", [-2.0, 0.0, 1.3])
def test_matched_exposure(ev):
    """A preview of the parametric rendering at a known gain asks for that gain."""
    light = ramp() / 8
    encoded = color.srgb_encode(np.clip(light * 2**ev, 0, 1))
    shown = np.rint(255 * encoded**2 * (3 - 2 * encoded)).astype(np.uint8)[..., None].repeat(3, -1)
    assert look.matched_exposure(grey_raw(light), shown) == pytest.approx(ev, abs=0.05)
    assert look.matched_exposure(grey_raw(light), shown[::7, ::5]) == pytest.approx(ev, abs=0.08)  # of any size
