"""The refined table of a profile: less error on colours of its own, and on colours that the fit has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from paramisp_cli import color, look, look_refined, look_table


def deep_blue(count: int, seed: int) -> np.ndarray:
    """Return linear sRGB (count, 3) of a stage in blue light: most colours lie outside sRGB."""
    rng = np.random.default_rng(seed)
    wide = np.stack([rng.random(count) ** 2 * 0.2, rng.random(count) ** 2 * 0.3, rng.random(count) ** 2], 1)
    return (wide + rng.random((count, 1)) ** 3 * 0.3) @ color.PROPHOTO_TO_SRGB.T


def shown(linear: np.ndarray) -> np.ndarray:
    """Return a look: mixed channels, a power, and blue that loses saturation as it gets lighter."""
    inside = np.clip(linear, 0, 1)
    grey = inside.mean(1, keepdims=True)
    mixed = inside * (1 - 0.4 * grey) + 0.4 * grey * grey
    return np.clip(mixed @ np.array([[0.9, 0.1, 0], [0.05, 0.9, 0.05], [0, 0.2, 0.8]]).T, 0, 1) ** 0.8


def error(linear: np.ndarray, curve: np.ndarray, table: np.ndarray | None) -> float:
    made, true = (color.srgb_to_lab(light) for light in (look.toned(linear, curve, table), shown(linear)))
    return float(np.median(color.ciede2000(true, made)))


@pytest.mark.slow
def test_less_error_on_colours_of_another_draw() -> None:
    linear, other = deep_blue(12000, 1), deep_blue(4000, 2)
    assert (linear.min(1) < 0).mean() > 0.5
    curve, table = look.profile(linear[:, None], shown(linear)[:, None])
    assert table is not None
    before = table.copy()
    assert error(linear, curve, table) < 1  # fitted at the colours outside sRGB where they lie, not clipped
    better = look_refined.refined(linear, shown(linear), np.ones(len(linear)), curve, table)
    np.testing.assert_array_equal(table, before)
    assert better.shape == (look_table.VALUES, look_table.HUES, look_table.SATURATIONS, 3)
    assert error(linear, curve, better) < 0.85 * error(linear, curve, table)
    assert error(other, curve, better) < 0.85 * error(other, curve, table)
    assert (better[:, :, 0, 0] == table[:, :, 0, 0]).all()  # greys keep hue and value
    assert (better[:, :, 0, 2] == 1).all()
    assert np.isfinite(better).all()
    assert np.abs(better[..., 0]).max() <= 60


@pytest.mark.slow
def test_a_table_that_fits_stays_good() -> None:
    """Where nothing is to gain, nothing is lost: the look is a table's own."""
    linear = np.random.default_rng(3).random((6000, 3)) ** 2
    curve = np.array([[0, 0], [1, 1]])
    table = np.ones((look_table.VALUES, look_table.HUES, look_table.SATURATIONS, 3))
    table[..., 0] = 0
    table[:, :, 1:, 1] = 0.9
    true = look.toned(linear, curve, table)
    better = look_refined.refined(linear, true, np.ones(len(linear)), curve, table)
    off = color.ciede2000(color.srgb_to_lab(true), color.srgb_to_lab(look.toned(linear, curve, better)))
    assert np.quantile(off, 0.95) < 0.1


@pytest.mark.slow
def test_samples_without_weight_do_not_count() -> None:
    linear = deep_blue(8000, 4)
    true = shown(linear)
    curve, table = look.profile(linear[:, None], true[:, None])
    assert table is not None
    wrong = true.copy()
    wrong[::2] = true[::2, ::-1]
    weight = np.ones(len(linear))
    weight[::2] = 0
    better = look_refined.refined(linear, wrong, weight, curve, table)
    assert error(linear[1::2], curve, better) < 0.8 * error(linear[1::2], curve, table)
