"""The gate sees what it should: a changed byte, a changed network, a changed word, a missing file; and no more."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

sys.path.insert(0, str(Path(__file__).parent))
import gate


@pytest.fixture
def records(tmp_path):
    """Two equal records of few files."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 65535, (40, 50, 3)).astype(np.uint16)
    for name in ("a", "b"):
        for part in ("txt", "out", "network"):
            (tmp_path / name / part).mkdir(parents=True)
        (tmp_path / name / "txt" / "up.txt").write_text(f'exit 0\n{{"seconds": {ord(name)}, "iso": 100}}\n')
        (tmp_path / name / "out" / "x.dng").write_bytes(b"mosaic")
        tifffile.imwrite(tmp_path / name / "network" / "x.tif", picture)
    return tmp_path / "a", tmp_path / "b", picture


def test_equal_records(records):
    assert gate.diff(*records[:2]) == []


def test_a_byte(records):
    (records[1] / "out" / "x.dng").write_bytes(b"mosaik")
    assert gate.diff(*records[:2]) == ["out/x.dng: bytes differ"]


def test_a_word(records):
    (records[1] / "txt" / "up.txt").write_text('exit 0\n{"seconds": 1, "iso": 200}\n')
    (line,) = gate.diff(*records[:2])
    assert line.startswith("txt/up.txt: ")


@pytest.mark.parametrize(("code", "count", "differs"), [(1, 1, False), (2, 1, True), (1, 100, True)])
def test_a_network(records, code, count, differs):
    """One code in one of 6000 values is rounding; two codes, or one code in many, are not."""
    changed = records[2].copy()
    changed.ravel()[:count] = np.clip(changed.ravel()[:count].astype(int) - code, 0, 65535)
    tifffile.imwrite(records[1] / "network" / "x.tif", changed)
    assert bool(gate.diff(*records[:2])) is differs


def test_a_file(records):
    (records[1] / "out" / "more.dng").write_bytes(b"")
    assert gate.diff(*records[:2]) == ["out/more.dng: only in the second"]
