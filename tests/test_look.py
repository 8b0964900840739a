"""Tone curve and exposure between a picture and its RAW: known ones come back from synthetic pictures."""

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


def colour_raw(linear: np.ndarray) -> RawImage:
    """The mosaic of a picture (H, W, 3) of linear sRGB, every 2×2 of one colour, within the camera's range."""
    canonical = CanonicalParams("RGGB", np.zeros((2, 2)), 60000, np.array([0.5, 1, 0.6]), MATRIX)
    camera = linear @ np.linalg.inv(canonical.cam_to_srgb()).T / canonical.wb_gains
    mosaic = np.empty(linear.shape[:2])
    for position, channel in enumerate("RGGB"):
        y, x = divmod(position, 2)
        mosaic[y::2, x::2] = camera[y::2, x::2, "RGB".index(channel)]
    return RawImage(np.rint(np.clip(mosaic, 0, 1) * 60000).astype(np.uint16), canonical)


def shadows_and_colours() -> tuple[np.ndarray, np.ndarray]:
    """(linear RAW, linear picture), each (64, 256, 3): a grey ramp through x → x^0.7, and saturated colours.

    The colours' weakest channel is nearly 0 in the RAW and 60 codes in the picture, as where a gamut was compressed.
    """
    raw = np.repeat((np.linspace(0.02, 0.95, 128) ** 2)[None, :, None], 64, 0).repeat(3, -1)
    shown = raw**0.7
    vivid, gentle = np.full((64, 128, 3), 0.004), np.full((64, 128, 3), color.srgb_decode(np.array(60 / 255)))
    for channel in range(3):
        vivid[:, channel::3, channel] = gentle[:, channel::3, channel] = 0.3
    pair = (np.concatenate(both, 1).repeat(2, 0).repeat(2, 1) for both in ((raw, vivid), (shown, gentle)))
    first, second = pair
    return first, second


def encoded(linear: np.ndarray) -> np.ndarray:
    return np.rint(color.srgb_encode(linear) * 255).astype(np.uint8)


def test_saturated_colours_do_not_lift_the_shadows():
    linear, shown = shadows_and_colours()
    curve = look.fitted_curve(encoded(shown), colour_raw(linear))
    x = np.geomspace(0.001, 0.8, 40)
    codes = 255 * color.srgb_encode(np.stack([np.interp(x, *curve.T), x**0.7]))
    assert np.abs(codes[0] - codes[1]).max() < 13  # 19 with a running maximum


def test_black_stays_black():
    """Where the RAW's black is above 0, and that of blue highest, as a network leaves it."""
    linear, shown = (image[:, :256].copy() for image in shadows_and_colours())
    linear = 0.008 + 0.992 * linear
    linear[:, :40], shown[:, :40] = [0.008, 0.008, 0.014], 0
    curve = look.fitted_curve(encoded(shown), colour_raw(linear))
    black = color.srgb_encode(look.toned(np.array([0.008, 0.008, 0.014]), curve)) * 255
    assert black[:2].max() < 2
    assert black[2] < 30  # a grey of this light is at 46


def test_a_picture_without_a_neutral_pixel_has_a_curve():
    rng = np.random.default_rng(1)
    light = rng.uniform(0.02, 1, (64, 64, 1)) ** 2 * np.array([0.9, 0.35, 0.15])
    light = light.repeat(2, 0).repeat(2, 1)
    curve = look.fitted_curve(encoded(light**0.7), colour_raw(light))
    x = np.linspace(0.05, 0.6, 20)
    np.testing.assert_allclose(np.interp(x, *curve.T), x**0.7, atol=0.06)


def test_a_curve_has_few_points_and_can_be_written():
    """At most 64, x rising strictly as the DNG's float32 too, for noise of every tone and for a picture of one tone."""
    rng = np.random.default_rng(2)
    noise = np.repeat(rng.uniform(0, 1, (256, 256, 1)) ** 3, 3, -1).repeat(2, 0).repeat(2, 1)
    for light in (noise, np.full((64, 64, 3), 0.2), np.zeros((64, 64, 3)), np.ones((64, 64, 3))):
        for shown in (light, 1 - light):
            curve = look.fitted_curve(encoded(shown), colour_raw(light)).astype(np.float32)
            assert len(curve) <= 64
            assert curve[0].tolist() == [0, 0]
            assert curve[-1].tolist() == [1, 1]
            assert (np.diff(curve[:, 0]) > 0).all()
            assert (np.diff(curve[:, 1]) >= 0).all()
            assert curve.min() == 0
            assert curve.max() == 1


def test_isotonic_is_the_optimum():
    """The minimax formula: each value is the largest, over its left, of the smallest mean over its right."""
    rng = np.random.default_rng(3)
    for size in (1, 2, 5, 17):
        values, weights = rng.normal(size=size), rng.uniform(0.1, 5, size)
        values[size // 2 :: 3] = values[0]  # ties

        def mean(first: int, last: int, v: np.ndarray = values, w: np.ndarray = weights) -> float:
            return float((v[first : last + 1] * w[first : last + 1]).sum() / w[first : last + 1].sum())

        wanted = [
            max(min(mean(first, last) for last in range(place, size)) for first in range(place + 1))
            for place in range(size)
        ]
        np.testing.assert_allclose(look.isotonic(values, weights), wanted, atol=1e-12)


def test_toned_preserves_the_hue():
    """The hue of ProPhoto RGB, as the place of the middle channel between the others; grey stays grey; order too."""
    rng = np.random.default_rng(4)
    wide = rng.uniform(0.02, 0.98, (500, 3))
    linear = wide @ color.PROPHOTO_TO_SRGB.T
    curve = np.array([[0, 0], [0.1, 0.02], [0.4, 0.5], [1, 1]])
    inside = (linear.min(-1) > 0.1) & (linear.max(-1) < 0.9)
    after = look.toned(linear[inside], curve) @ color.SRGB_TO_PROPHOTO.T
    before = wide[inside]
    fits = np.interp(before, *curve.T)
    np.testing.assert_allclose(after.max(-1), fits.max(-1), atol=1e-9)
    np.testing.assert_allclose(after.min(-1), fits.min(-1), atol=1e-9)

    def place(rgb: np.ndarray) -> np.ndarray:
        low, middle, high = np.sort(rgb, -1).T
        return (middle - low) / (high - low)

    np.testing.assert_allclose(place(after), place(before), atol=1e-9)
    assert (after.argsort(-1) == before.argsort(-1)).all()
    grey = look.toned(np.full((1, 3), 0.3), curve)
    np.testing.assert_allclose(grey, np.interp(0.3, *curve.T), atol=1e-9)


@pytest.mark.parametrize("ev", [-2.0, 0.0, 1.3])
def test_matched_exposure(ev):
    """A preview of the parametric rendering at a known gain asks for that gain."""
    light = ramp() / 8
    encoded = color.srgb_encode(np.clip(light * 2**ev, 0, 1))
    shown = np.rint(255 * encoded**2 * (3 - 2 * encoded)).astype(np.uint8)[..., None].repeat(3, -1)
    assert look.matched_exposure(grey_raw(light), shown) == pytest.approx(ev, abs=0.05)
    assert look.matched_exposure(grey_raw(light), shown[::7, ::5]) == pytest.approx(ev, abs=0.08)  # of any size
