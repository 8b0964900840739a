"""Colour matrices: white stays white, the matrix is neither transposed nor inverted, and known numbers come out."""

from __future__ import annotations

import numpy as np
import pytest

from paramisp_cli import cameras, color
from paramisp_cli.types import Camera

MATRICES = [facts.color_matrix for facts in cameras.all_cameras()[::40] if facts.color_matrix is not None]


def test_srgb_primaries():
    """IEC 61966-2-1: chromaticities of the primaries, and D65 at (0.3127, 0.3290)."""
    xy = color.SRGB_TO_XYZ / color.SRGB_TO_XYZ.sum(0)
    np.testing.assert_allclose(xy[:2].T, [[0.64, 0.33], [0.30, 0.60], [0.15, 0.06]], atol=1e-6)
    white = color.SRGB_TO_XYZ.sum(1)
    np.testing.assert_allclose((white / white.sum())[:2], [0.3127, 0.3290], atol=5e-5)
    np.testing.assert_allclose(color.XYZ_TO_SRGB @ color.SRGB_TO_XYZ, np.eye(3), atol=1e-12)


def test_wb_gains():
    np.testing.assert_allclose(color.wb_gains(np.array([0.5, 1, 0.25])), [2, 1, 4])
    np.testing.assert_allclose(color.wb_gains(np.array([1, 2, 0.5])), [2, 1, 4])


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("row_sum", [None, 1, 3])
def test_white_stays_white(matrix, row_sum):
    np.testing.assert_allclose(color.cam_to_srgb(matrix, row_sum) @ np.ones(3), [row_sum or 1] * 3, atol=1e-12)


@pytest.mark.parametrize("matrix", MATRICES)
def test_colours_of_a_camera_come_back(matrix):
    """Any linear sRGB colour, seen by the camera (XYZ → camera) and balanced on white, is itself again."""
    colours = np.random.default_rng(0).random((3, 20))
    camera = matrix @ color.SRGB_TO_XYZ @ colours
    neutral = matrix @ color.SRGB_TO_XYZ @ np.ones(3)
    balanced = camera / neutral[:, None]
    np.testing.assert_allclose(color.cam_to_srgb(matrix) @ balanced, colours, atol=1e-9)


def test_row_sum_of_the_published_weights():
    """The matrix that the ParamISP code holds for the Nikon D7000, whose rows sum to 3."""
    facts = cameras.find(Camera("NIKON CORPORATION", "NIKON D7000"))
    assert facts is not None
    assert facts.color_matrix is not None
    np.testing.assert_allclose(color.cam_to_srgb(facts.color_matrix, 3)[0], [3.6999, -0.5885, -0.1114], atol=2e-4)


@pytest.mark.parametrize(
    ("codes", "index"),
    [([17, 21], 1), ([21, 17], 0), ([20, 23], 0), ([None, 17], 1), ([17, None], 0), ([3], 0), ([11, 20], 0)],
)
def test_nearest_to_d65(codes, index):
    assert color.nearest_to_d65(codes) == index


def test_transfer_function():
    x = np.linspace(-1, 1, 2001)
    np.testing.assert_allclose(color.srgb_decode(color.srgb_encode(x)), x, atol=2e-5)  # the standard's own gap
    np.testing.assert_allclose(color.srgb_encode(-x), -color.srgb_encode(x), atol=1e-15)
    np.testing.assert_allclose(color.srgb_encode(np.array([0, 0.18, 1])), [0, 0.46135613, 1], atol=1e-7)
    np.testing.assert_allclose(color.srgb_decode(np.array([0.02])), [0.02 / 12.92])


def test_prophoto_has_its_primaries_and_srgb_white():
    """Adobe's DNG SDK (dng_color_space): XYZ of D50 → ProPhoto. White stays white, and sRGB lies inside."""
    to_prophoto = np.array([[1.3460, -0.2556, -0.0511], [-0.5446, 1.5082, 0.0205], [0, 0, 1.2123]])
    # sRGB → XYZ of D50, as in the sRGB profile of the ICC
    srgb_to_d50 = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
    np.testing.assert_allclose(color.SRGB_TO_PROPHOTO, to_prophoto @ srgb_to_d50, atol=4e-4)
    np.testing.assert_allclose(color.SRGB_TO_PROPHOTO.sum(1), 1, atol=1e-12)
    assert color.SRGB_TO_PROPHOTO.min() > 0
