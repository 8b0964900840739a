"""The look-up table of a DNG's profile: its HSV, its interpolation, and colours restored."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import paramisp_cli as paramisp
from paramisp_cli import color, formats, look, look_table
from paramisp_cli.formats.base import WriteOptions
from paramisp_cli.types import CanonicalParams, RawImage


def colours(count: int = 4000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3)) ** 2


def plain() -> np.ndarray:
    table = np.ones((7, 18, 7, 3))
    table[..., 0] = 0
    return table


def test_a_table_of_no_change_changes_nothing() -> None:
    edges = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0.2, 0.2, 0.2]])
    for rgb in (colours(), edges, colours().reshape(40, 100, 3)):
        np.testing.assert_allclose(look_table.applied(rgb, plain()), rgb, atol=1e-9)


def test_it_shifts_hue_and_scales_saturation_and_encoded_value() -> None:
    """Against Python's own HSV, for one entry everywhere."""
    table = plain()
    table[...] = (25.0, 0.8, 0.9)
    rgb = colours(50)
    for before, after in zip(rgb, look_table.applied(rgb, table), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        value = float(color.srgb_decode(color.srgb_encode(np.array(value)) * 0.9))
        assert after == pytest.approx(colorsys.hsv_to_rgb((hue + 25 / 360) % 1, saturation * 0.8, value), abs=1e-9)


def test_entries_lie_where_the_specification_puts_them() -> None:
    """The entry of the third of 18 hues (40°), full saturation and full value alone is changed."""
    table = plain()
    table[-1, 2, -1] = (0, 0.5, 1)
    at, before, beyond = (np.array([colorsys.hsv_to_rgb(degrees / 360, 1, 1)]) for degrees in (40, 20, 60))
    np.testing.assert_allclose(look_table.applied(at, table)[0], [1, 0.5 + 1 / 3, 0.5], atol=1e-9)
    for other in (before, beyond):
        np.testing.assert_allclose(look_table.applied(other, table), other, atol=1e-9)


def test_a_fit_finds_a_smooth_table() -> None:
    wanted = plain()
    wanted[..., 0] = 15 * np.sin(np.arange(18) / 18 * 2 * np.pi)[None, :, None]
    wanted[..., 1] = 0.9
    wanted[:, :, 1:, 2] = 0.95
    wide = colours(20000)
    found = look_table.fitted(wide, look_table.applied(wide, wanted))
    assert found is not None
    assert (found[:, :, 0, 0] == 0).all()
    assert (found[:, :, 0, 2] == 1).all()
    fresh = colours(2000, seed=1)
    off = np.abs(look_table.applied(fresh, found) - look_table.applied(fresh, wanted))
    assert off.mean() < 0.01
    assert np.abs(look_table.applied(fresh, wanted) - fresh).mean() > 0.03


def test_noise_of_greys_and_few_samples_change_nothing() -> None:
    rng = np.random.default_rng(3)
    grey = np.clip(np.linspace(0.05, 0.9, 5000)[:, None] + rng.normal(0, 0.01, (5000, 3)), 0, 1)
    found = look_table.fitted(grey, grey)
    assert found is not None
    np.testing.assert_allclose(look_table.applied(colours(), found), colours(), atol=0.02)
    assert look_table.fitted(grey[:200], grey[:200]) is None


def chart() -> tuple[np.ndarray, RawImage]:
    """A picture of colours, and a RAW whose colours are duller and turned."""
    rng = np.random.default_rng(5)
    patches = rng.uniform(0.05, 0.6, (12, 12, 3))
    picture = np.kron(patches, np.ones((40, 40, 1)))
    matrix = np.array([[0.8, 0.15, 0.05], [0.1, 0.75, 0.15], [0.0, 0.2, 0.8]])
    linear = picture @ matrix.T * 0.5
    mosaic = np.zeros(picture.shape[:2])
    for position, channel in enumerate((0, 1, 1, 2)):
        y, x = divmod(position, 2)
        mosaic[y::2, x::2] = linear[y::2, x::2, channel]
    canonical = CanonicalParams("RGGB", np.zeros((2, 2)), 65535, np.ones(3), color.XYZ_TO_SRGB)
    codes = np.rint(color.srgb_encode(picture) * 255).astype(np.uint8)
    return codes, RawImage((mosaic * 65535).astype(np.uint16), canonical)


@pytest.mark.slow
def test_a_matched_look_restores_colours(tmp_path: Path) -> None:
    """Read back from the DNG: with the table the colours are the picture's, with the curve alone they are not."""
    picture, raw = chart()
    made = look.matched(picture, raw)
    np.testing.assert_array_equal(made.mosaic, raw.mosaic)
    assert made.tone_curve is not None
    np.testing.assert_array_equal(made.tone_curve, look.fitted_curve(picture, raw))
    paramisp.write(made, tmp_path / "made.dng")
    with tifffile.TiffFile(tmp_path / "made.dng") as file:
        tags = file.pages[0].tags
        hues, saturations, values = tags[50981].value
        table = np.reshape(tags[50982].value, (values, hues, saturations, 3))
        assert tags[51108].value == 1
    assert made.look_table is not None
    np.testing.assert_array_equal(table, made.look_table.astype(np.float32))
    linear = look.linear_srgb(raw)
    truth = color.srgb_to_lab(color.srgb_decode(picture[::2, ::2] / 255))
    without, restored = (
        color.ciede2000(color.srgb_to_lab(look.toned(linear, made.tone_curve, each)), truth).mean()
        for each in (None, table)
    )
    assert restored < 2
    assert without > 3 * restored


@pytest.mark.parametrize("profile", ["linear", "adobe"])
def test_only_a_matching_profile_has_a_table(tmp_path: Path, profile: str) -> None:
    picture, raw = chart()
    formats.write(look.matched(picture, raw), tmp_path / "made.dng", WriteOptions(profile=profile))
    with tifffile.TiffFile(tmp_path / "made.dng") as file:
        assert not {50981, 50982, 51108} & {tag.code for tag in file.pages[0].tags}
