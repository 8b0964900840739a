"""Files of a data set that are cut short or damaged, and files whose writing failed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paramisp_cli.errors import FormatError
from paramisp_cli.training import dataset as data
from paramisp_cli.types import Camera, CanonicalParams, OpticalParams

CANONICAL = CanonicalParams("GBRG", [[1, 2], [3, 4]], 4095, np.array([0.5, 1, 0.7]), np.eye(3))
PAIR = data.Pair(
    "a-000000", "a.dng", "a.jpg", "pair", "constant", Camera("Test", "Cam"), OpticalParams(100, 0.01, 4, 35), CANONICAL,
    offset=(1.5, -2.0), regions=(data.Region(0, 0, 32, 48),), size=(32, 48),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    data.write_index(tmp_path, [PAIR, PAIR])
    data.write_arrays(
        tmp_path,
        PAIR.name,
        rng.integers(0, 4096, (32, 48)).astype(np.uint16),
        rng.integers(0, 256, (32, 48, 3)).astype(np.uint8),
    )
    return tmp_path


def test_files_are_read_back(folder: Path) -> None:
    assert [pair.record() for pair in data.read_index(folder)] == [PAIR.record()] * 2
    mosaic, srgb = data.read_arrays(folder, PAIR)
    assert (mosaic.shape, mosaic.dtype, srgb.shape, srgb.dtype) == ((32, 48), np.uint16, (32, 48, 3), np.uint8)
    assert sorted(path.name for path in folder.iterdir()) == [f"{PAIR.name}.npz", data.INDEX]


@pytest.mark.parametrize("share", [0.55, 0.7, 0.9, 0.99])
def test_index_cut_short(folder: Path, share: float) -> None:
    path = folder / data.INDEX
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(FormatError, match=r"index\.jsonl: line 2 is damaged \(.*; make the data set again") as caught:
        data.load(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "line",
    [b"{]", b"3", b"[]", b'"text"', b"null", b"{}", b"\xff\xfe{", b'{"name": "x"}', b'{"camera": 3}'],
    ids=repr,
)
def test_index_damaged(folder: Path, line: bytes) -> None:
    with (folder / data.INDEX).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(FormatError, match="line 3 is damaged") as caught:
        data.read_index(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("key", ["camera", "optical", "canonical", "regions", "offset", "size"])
def test_index_with_wrong_values(folder: Path, key: str) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        data.Pair.of({**PAIR.record(), key: 3})


@pytest.mark.parametrize("share", [0, 0.3, 0.7, 0.99])
def test_arrays_cut_short(folder: Path, share: float) -> None:
    path = data.arrays_path(folder, PAIR.name)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(FormatError, match=r"a-000000\.npz: missing or damaged") as caught:
        data.load(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_arrays_damaged_in_the_middle(folder: Path) -> None:
    path = data.arrays_path(folder, PAIR.name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(FormatError, match="missing or damaged"):
        data.load(folder)


def test_a_failed_write_leaves_the_old_index(folder: Path) -> None:
    def pairs():
        yield PAIR
        raise OSError(28, "No space left on device")

    before = (folder / data.INDEX).read_bytes()
    with pytest.raises(OSError, match="No space"):
        data.write_index(folder, pairs())
    assert (folder / data.INDEX).read_bytes() == before
