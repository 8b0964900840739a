"""The noise that is measured in a mosaic's smooth blocks, and the NoiseProfile of RAW files made from pictures."""

from dataclasses import replace

import numpy as np
import pytest

import paramisp_cli as paramisp
from paramisp_cli import flat_noise
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, RawImage


def ramp(cfa, noise, rng, size=(768, 768)):
    """A slope of light with Gaussian noise of this profile (3, 2) for each channel."""
    light = np.linspace(0.05, 0.7, size[1])[None].repeat(size[0], 0)
    mosaic = np.empty(size)
    for site, channel in enumerate(cfa):
        rows = slice(site // 2, None, 2), slice(site % 2, None, 2)
        scale, offset = noise["RGB".index(channel)]
        mosaic[rows] = light[rows] + rng.normal(0, np.sqrt(scale * light[rows] + offset))
    canonical = CanonicalParams(cfa, np.full((2, 2), 256), 16383, np.ones(3) / [2, 1, 1.5], np.eye(3))
    return RawImage((mosaic * (16383 - 256) + 256).round().clip(0, 65535).astype(np.uint16), canonical)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_noise_of_smooth_areas_is_found(cfa):
    noise = np.array([[4e-4, 1e-6], [2e-4, 2e-6], [1e-4, 4e-6]])
    raw = ramp(cfa, noise, np.random.default_rng(3))
    middle = np.array([0.3, 1])
    np.testing.assert_allclose(flat_noise.usual(raw) @ middle, noise @ middle, rtol=0.1)
    least, levels = flat_noise.smoothest(raw)
    assert levels > 20
    np.testing.assert_allclose(least @ middle, noise @ middle / 2, rtol=0.2)


def test_a_quarter_of_the_blocks_suffices():
    noise, middle = np.array([[2e-4, 1e-6]] * 3), np.array([0.3, 1])
    raw = ramp("RGGB", noise, np.random.default_rng(8), (1536, 1536))
    np.testing.assert_allclose(flat_noise.usual(raw, 2400) @ middle, noise @ middle, rtol=0.1)


def test_texture_hides_no_noise():
    """The error stays below a third to a half where half of the blocks are texture."""
    noise = np.array([[2e-4, 1e-6]] * 3)
    raw = ramp("RGGB", noise, np.random.default_rng(4))
    mosaic = raw.mosaic.copy()
    mosaic[:256] = np.random.default_rng(5).integers(256, 16383, mosaic[:256].shape)  # half of it is texture
    found = flat_noise.usual(replace(raw, mosaic=mosaic))
    assert (found @ [0.3, 1] / (noise @ [0.3, 1]) > 0.9).all()
    assert (found @ [0.3, 1] / (noise @ [0.3, 1]) < 1.6).all()


def test_floats_are_measured_as_codes():
    raw = ramp("RGGB", np.array([[2e-4, 1e-6]] * 3), np.random.default_rng(9))
    light = ((raw.mosaic - 256) / np.float32(16383 - 256)).clip(0, 1).astype(np.float32)
    np.testing.assert_allclose(flat_noise.usual(replace(raw, mosaic=light)), flat_noise.usual(raw), rtol=1e-2)


def test_a_small_mosaic_tells_no_noise():
    raw = ramp("RGGB", np.array([[2e-4, 1e-6]] * 3), np.random.default_rng(7), (48, 64))
    assert flat_noise.usual(raw) is None


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_a_made_raw_states_the_noise_that_it_holds(sigma):
    """The NoiseProfile follows the picture's noise, whatever the ISO."""
    smooth = np.linspace(40, 200, 512)[None, :, None].repeat(384, 0).repeat(3, 2)
    noisy = (smooth + np.random.default_rng(6).normal(0, sigma, smooth.shape)).round().astype(np.uint8)
    settings = paramisp.Settings(model="parametric", camera="Nikon D90", iso=3200)
    raw, truth = (paramisp.unprocess(pixels, settings) for pixels in (noisy, smooth.round().astype(np.uint8)))
    assert raw.noise_profile is not None
    assert (raw.noise_profile[:, 0] > 0).all()
    assert (raw.noise_profile[:, 1] >= 0).all()
    span = raw.canonical.white_level - raw.canonical.black_level.mean()
    for site, channel in enumerate(raw.canonical.cfa):
        plane = np.s_[site // 2 :: 2, site % 2 :: 2]
        light = (truth.mosaic[plane].astype(float) - raw.canonical.black_level.mean()) / span
        error = ((raw.mosaic[plane].astype(float) - truth.mosaic[plane]) / span)[:, 64:192]
        stated = raw.noise_profile["RGB".index(channel)] @ [light[:, 64:192].mean(), 1]
        if sigma:
            assert 0.6 < stated / error.var() < 1.6
        else:
            assert stated < 3e-6  # rounding to 8 bits, and no noise of ISO 3200
