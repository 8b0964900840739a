"""The values refuse what makes no sense, do not change, and move the CFA with the crop."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramisp_cli.errors import MetadataError
from paramisp_cli.types import CFA_PATTERNS, Camera, CanonicalParams, Crop, OpticalParams, RawImage, SrgbImage

MATRIX = np.array([[0.7, -0.1, -0.1], [-0.4, 1.2, 0.2], [-0.1, 0.2, 0.6]])
BLACK = np.array([[1.0, 2.0], [3.0, 4.0]])


def canonical(cfa="RGGB", black=BLACK, white=1000.0, neutral=(0.5, 1, 0.6), matrix=MATRIX):
    return CanonicalParams(cfa, black, white, neutral, matrix)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cfa": "RGBG"}, "RGGB, GRBG, GBRG, BGGR"),
        ({"cfa": "rggb"}, "cfa"),
        ({"white": 4.0}, "white_level"),
        ({"white": float("nan")}, "white_level"),
        ({"black": float("inf")}, "black_level"),
        ({"black": [1, 2, 3]}, "black_level"),
        ({"neutral": (0, 1, 1)}, "as_shot_neutral"),
        ({"neutral": (1, -1, 1)}, "as_shot_neutral"),
        ({"neutral": (1, 1, float("nan"))}, "as_shot_neutral"),
        ({"matrix": np.ones((3, 3))}, "color_matrix cannot be inverted"),
        ({"matrix": np.ones((3, 2))}, "color_matrix"),
        ({"matrix": "none"}, "color_matrix"),
    ],
)
def test_canonical_refuses(values, said):
    with pytest.raises(MetadataError, match=said):
        canonical(**values)


@pytest.mark.parametrize("name", ["iso", "exposure_time", "f_number", "focal_length"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_optical_refuses(name, value):
    with pytest.raises(MetadataError, match=name):
        OpticalParams(**{name: value})


def test_unknown_is_none():
    optical = OpticalParams()
    assert (optical.iso, optical.exposure_time, optical.f_number, optical.focal_length) == (None,) * 4


def test_frozen():
    params = canonical(black=64)
    np.testing.assert_array_equal(params.black_level, np.full((2, 2), 64))
    with pytest.raises(ValueError, match="read-only"):
        params.color_matrix[0, 0] = 1
    with pytest.raises(FrozenInstanceError):
        params.cfa = "BGGR"
    own = np.array(MATRIX)
    params = canonical(matrix=own)
    own[0, 0] = 9
    assert params.color_matrix[0, 0] == 0.7
    mosaic = np.zeros((4, 4), np.uint16)
    raw = RawImage(mosaic, params, origin={"wb": "flag"})
    with pytest.raises(ValueError, match="read-only"):
        raw.mosaic[0, 0] = 1
    with pytest.raises(TypeError):
        raw.origin["wb"] = "x"
    mosaic[0, 0] = 1  # the caller's own array is not locked


@pytest.mark.parametrize(
    ("make", "model", "name"),
    [
        ("NIKON CORPORATION", "NIKON D90", "NIKON D90"),
        ("Canon", "Canon EOS 60D", "Canon EOS 60D"),
        ("GoPro", "HERO7 Black", "GoPro HERO7 Black"),
        ("", "X100", "X100"),
        ("Maker", "", "Maker"),
    ],
)
def test_camera_name(make, model, name):
    assert Camera(make, model).name == name


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("rows", range(3))
@pytest.mark.parametrize("columns", range(3))
def test_shifted(cfa, rows, columns):
    """By the plain definition: what stands at (y, x) of the moved grid stood at (y + rows, x + columns)."""
    moved = canonical(cfa).shifted(rows, columns)
    for y in (0, 1):
        for x in (0, 1):
            old_y, old_x = (y + rows) % 2, (x + columns) % 2
            assert moved.cfa[2 * y + x] == cfa[2 * old_y + old_x]
            assert moved.black_level[y, x] == BLACK[old_y, old_x]


@given(
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    data=st.data(),
    cfa=st.sampled_from(CFA_PATTERNS),
)
def test_cropped(size, data, cfa):
    """The same picture, every site with its colour and black level, in the smallest even mosaic."""
    height, width = 2 * size[0], 2 * size[1]
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    crop = Crop(top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    mosaic = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    raw = RawImage(mosaic, canonical(cfa), crop=crop)
    small = raw.cropped()
    assert small.size == raw.size == (crop.height, crop.width)
    assert small.mosaic.shape == (crop.height + crop.height % 2, crop.width + crop.width % 2)
    for y in (0, crop.height - 1):
        for x in (0, crop.width - 1):
            at, before = (small.crop.top + y, small.crop.left + x), (crop.top + y, crop.left + x)
            assert small.mosaic[at] == mosaic[before]
            old, new = ((before[0] % 2, before[1] % 2), (at[0] % 2, at[1] % 2))
            assert small.canonical.cfa[2 * new[0] + new[1]] == cfa[2 * old[0] + old[1]]
            assert small.canonical.black_level[new] == BLACK[old]


def test_raw_image_refuses():
    mosaic = np.zeros((4, 6), np.uint16)
    assert RawImage(mosaic, canonical()).crop == Crop(0, 0, 4, 6)
    for bad in (
        np.zeros((3, 4), np.uint16),
        np.zeros((4, 4)),
        np.zeros((0, 4), np.uint16),
        np.zeros((2, 2, 1), np.uint16),
    ):
        with pytest.raises(MetadataError, match="mosaic"):
            RawImage(bad, canonical())
    for crop in (Crop(0, 0, 5, 6), Crop(-1, 0, 2, 2), Crop(0, 0, 0, 2), Crop(3, 5, 1, 2)):
        with pytest.raises(MetadataError, match="crop"):
            RawImage(mosaic, canonical(), crop=crop)
    for orientation in (0, 9, -1):
        with pytest.raises(MetadataError, match="orientation"):
            RawImage(mosaic, canonical(), orientation=orientation)
    with pytest.raises(MetadataError, match="noise_profile"):
        RawImage(mosaic, canonical(), noise_profile=np.zeros(4))


def test_srgb_image_refuses():
    pixels = np.zeros((2, 3, 3), np.uint8)
    assert SrgbImage(pixels).size == (2, 3)
    for bad in (
        np.zeros((2, 3), np.uint8),
        np.zeros((2, 3, 4), np.uint8),
        np.zeros((2, 3, 3)),
        np.zeros((0, 3, 3), np.uint8),
    ):
        with pytest.raises(MetadataError, match="sRGB pixels"):
            SrgbImage(bad)
    with pytest.raises(MetadataError, match="orientation"):
        replace(SrgbImage(pixels), orientation=0)
