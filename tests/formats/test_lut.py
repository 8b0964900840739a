"""Tables of colour: the text of a .cube file, the order of a HaldCLUT, interpolation, sizes."""

from __future__ import annotations

import numpy as np
import pytest

from paramisp_cli.errors import ConfigError
from paramisp_cli.formats import lut


def table(size: int) -> np.ndarray:
    """Return a table that swaps nothing and bends each channel differently."""
    return (lut.nodes(size) ** [1.0, 2.0, 0.5]).reshape(size, size, size, 3)


def test_cube_is_read_back_by_its_specification() -> None:
    lines = lut.cube(table(4), 'a "name" é', ("remark",)).decode("ascii").splitlines()
    assert lines[0] == "TITLE \"a 'name' ?\""
    assert "LUT_3D_SIZE 4" in lines
    rows = np.array([[float(word) for word in line.split()] for line in lines if line[0].isdigit()])
    assert len(rows) == 64
    red, green, blue = rows[1], rows[4], rows[16]  # the first entries after a step of one channel
    assert red == pytest.approx([1 / 3, 0, 0], abs=1e-6)
    assert green == pytest.approx([0, 1 / 9, 0], abs=1e-6)
    assert blue == pytest.approx([0, 0, 3**-0.5], abs=1e-6)


def test_hald_of_level_3() -> None:
    """Pixel n, in reading order, has red n mod 9, green n / 9 mod 9, blue n / 81."""
    pixels = lut.hald(lut.nodes(9).reshape(9, 9, 9, 3)).reshape(-1, 3)
    n = np.arange(729)
    truth = np.stack([n % 9, n // 9 % 9, n // 81], -1) / 8 * 65535
    assert lut.hald(table(9)).shape == (27, 27, 3)
    assert np.abs(pixels - truth).max() <= 0.5


def test_interpolation_is_exact_for_linear_tables() -> None:
    colours = np.random.default_rng(0).uniform(-0.1, 1.1, (500, 3))
    plain = lut.nodes(5).reshape(5, 5, 5, 3)
    assert lut.applied(plain, colours) == pytest.approx(np.clip(colours, 0, 1), abs=1e-12)
    assert lut.applied(plain[..., ::-1], colours) == pytest.approx(np.clip(colours, 0, 1)[:, ::-1], abs=1e-12)


@pytest.mark.parametrize(("size", "suffix"), [(1, ".cube"), (130, ".cube"), (33, ".png"), (4096, ".png")])
def test_sizes_that_a_format_lacks(size: int, suffix: str) -> None:
    with pytest.raises(ConfigError, match=f"`size` {size}"):
        lut.check_size(size, suffix)


def test_sizes_that_it_has() -> None:
    for size, suffix in ((2, ".cube"), (129, ".cube"), (4, ".png"), (144, ".png")):
        lut.check_size(size, suffix)
