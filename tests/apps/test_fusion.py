"""Exposure fusion against OpenCV: its numbers, stored, and OpenCV itself where it is installed."""

import numpy as np
import pytest

from paramisp_cli.apps import fusion
from paramisp_cli.errors import ConfigError

# createMergeMertens(*exponents).process(pictures())[4::12, 7::16] of OpenCV 5.0.0, which takes the order R, G, B.
STORED = {
    (1, 1, 1): [
        0.3623, 0.5716, 0.5451, 0.8896, 0.3023, 0.7351, 0.8482, 0.5825, 0.798, 0.2341, 0.1506, 0.5055, 0.8347,
        0.671, 0.6642, 0.7364, 0.8273, 0.7365, 0.072, 0.4847, 0.6499, 0.7354, 0.8385, 0.8116, 0.6047, 0.2396,
        0.9096,
    ],
    (1, 1, 0): [
        0.4563, 0.6814, 0.6512, 0.9373, 0.3637, 0.8779, 0.9577, 0.7061, 0.9312, 0.3328, 0.2505, 0.5956, 0.9372,
        0.8017, 0.7958, 0.8483, 0.9767, 0.8482, 0.1085, 0.5879, 0.7719, 0.8611, 0.974, 0.9532, 0.7672, 0.3338,
        0.9963,
    ],
}  # fmt: skip


def pictures(height=33, width=46):
    """Four exposures, the same on every machine: whole codes, no random numbers."""
    y, x = np.mgrid[:height, :width]
    light = np.stack([(x * y) % 97 / 97, (x * x + 3 * y) % 89 / 89, (5 * x + y * y) % 83 / 83], -1)
    light = light * (0.1 + x / 46)[..., None]
    return [np.rint(255 * np.clip(light * gain, 0, 1) ** (1 / 2.2)).astype(np.uint8) for gain in (0.1, 1.4, 2.7, 4.0)]


@pytest.mark.parametrize("exponents", STORED)
@pytest.mark.slow
def test_equals_stored_numbers_of_opencv(exponents):
    expected = np.clip(STORED[exponents], 0, 1)  # OpenCV does not clip
    own = fusion.fused(pictures(), exponents, dtype=np.float32)[4::12, 7::16].ravel()
    assert np.abs(own - expected).max() < 2e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(97, 131), (64, 64), (5, 9), (1, 7)])
@pytest.mark.parametrize("exponents", [(1, 1, 1), (1, 1, 0), (0.5, 2, 1)])
def test_equals_opencv(size, exponents):
    cv2 = pytest.importorskip("cv2")
    shots = pictures(*size)
    expected = np.clip(cv2.createMergeMertens(*exponents).process(shots), 0, 1)
    assert np.abs(fusion.fused(shots, exponents, dtype=np.float32) - expected).max() < 0.01


@pytest.mark.slow
def test_bands_do_not_show(monkeypatch):
    shots = pictures(150, 64)
    whole = fusion.fused(shots, dtype=np.float32)
    monkeypatch.setattr(fusion, "_BAND", 700)
    assert np.array_equal(fusion.fused(shots, dtype=np.float32), whole)


def test_one_picture_comes_back():
    only = pictures()[2]
    assert np.array_equal(fusion.fused([only]), only)
    assert np.array_equal(fusion.fused([only] * 3), only)


@pytest.mark.slow
def test_types_agree():
    shots = pictures()
    deep = [shot.astype(np.uint16) * 257 for shot in shots]
    floats = [(shot / 255).astype(np.float32) for shot in shots]
    result = fusion.fused(shots, dtype=np.float32)
    assert np.abs(fusion.fused(deep, dtype=np.float32) - result).max() < 1e-4
    assert np.abs(fusion.fused(floats, dtype=np.float32) - result).max() < 1e-4
    assert np.abs(fusion.fused(deep, dtype=np.uint16) / 65535 - result).max() < 1e-4
    assert floats[0].max() <= 1  # the input is not changed
    assert np.array_equal(floats[1], (shots[1] / 255).astype(np.float32))


def test_flat_grey_takes_the_mean():
    codes = np.array([20, 120, 160])
    grey = [np.full((16, 16, 3), code, np.uint8) for code in codes]
    assert (
        np.abs(fusion.fused(grey, (1, 1, 1)).astype(int) - 100).max() <= 1
    )  # contrast and saturation are 0 everywhere
    weights = np.exp(-3 * (codes / 255 - 0.5) ** 2 / (2 * 0.2**2))
    expected = (weights * codes).sum() / weights.sum()
    assert np.abs(fusion.fused(grey, (0, 0, 1)).astype(int) - expected).max() <= 1


def test_wrong_pictures_and_exponents():
    with pytest.raises(ConfigError, match="one size"):
        fusion.fused([])
    with pytest.raises(ConfigError, match="one size"):
        fusion.fused([pictures()[0], pictures(10, 10)[0]])
    for exponents in ((1, 1), (1, 1, -1), (1, 1, float("nan"))):
        with pytest.raises(ConfigError, match="three exponents"):
            fusion.fused(pictures(), exponents)
