"""Camera profiles in files: their tags as others read them, and curves that DNG does not allow."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from paramisp_cli import cameras, color, look_table
from paramisp_cli.errors import FormatError
from paramisp_cli.formats import dcp, tiff

MATRIX = cameras.find_by_name("Canon EOS 60D").color_matrix
CURVE = np.array([[0, 0], [0.2, 0.3], [1, 1]])


def data() -> bytes:
    rng = np.random.default_rng(0)
    table = rng.uniform(0.5, 1.5, (look_table.VALUES, look_table.HUES, look_table.SATURATIONS, 3))
    return dcp.profile("Canon EOS 60D", "a look", MATRIX, color.cam_to_srgb(MATRIX), CURVE, table, exposure=-0.5)


def test_tags() -> None:
    block = data()
    assert block[:4] == b"IIRC"
    (tags,) = tiff.parse_ifds(b"II*\0" + block[4:])
    assert tags[50708].text() == "Canon EOS 60D"
    assert tags[50721].values() == pytest.approx(MATRIX.ravel(), abs=1e-6)
    assert tags[50940].values() == pytest.approx(CURVE.ravel(), abs=1e-6)
    assert tags[50981].values() == (look_table.HUES, look_table.SATURATIONS, look_table.VALUES)
    assert tags[51109].values() == (-0.5,)


def test_the_forward_matrix_takes_white_to_d50() -> None:
    (tags,) = tiff.parse_ifds(b"II*\0" + data()[4:])
    forward = np.reshape(tags[50964].values(), (3, 3))
    assert forward.sum(1) == pytest.approx([0.9642, 1, 0.8252], abs=1e-3)
    # Saturated green of the camera: the way through sRGB, D65, and back by Bradford's adaptation to D50.
    cone = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    xyz = color.SRGB_TO_XYZ @ color.cam_to_srgb(MATRIX) @ [0.2, 0.8, 0.3]
    whites = cone @ [0.9642, 1, 0.8252], cone @ color.SRGB_TO_XYZ.sum(1)
    adapted = np.linalg.inv(cone) @ ((cone @ xyz) * whites[0] / whites[1])
    assert forward @ [0.2, 0.8, 0.3] == pytest.approx(adapted, abs=2e-3)


def test_exiftool_reads_it(tmp_path: Path) -> None:
    if not shutil.which("exiftool"):
        pytest.skip("exiftool is not installed")
    (tmp_path / "a.dcp").write_bytes(data())
    words = ["exiftool", "-j", "-n", tmp_path / "a.dcp"]
    (tags,) = json.loads(subprocess.run(words, capture_output=True, check=True, timeout=60).stdout)
    assert tags["FileType"] == "DCP"
    assert (tags["UniqueCameraModel"], tags["ProfileName"]) == ("Canon EOS 60D", "a look")
    assert tags["ProfileLookTableDims"] == f"{look_table.HUES} {look_table.SATURATIONS} {look_table.VALUES}"
    assert tags["BaselineExposureOffset"] == -0.5


@pytest.mark.parametrize("curve", [[[0, 0]], [[0, 0.1], [1, 1]], [[0, 0], [0.5, 1]], [[0, 0], [0, 0.5], [1, 1]]])
def test_curves_that_dng_forbids(curve: list[list[float]]) -> None:
    with pytest.raises(FormatError, match="tone curve"):
        dcp.profile("a", "b", MATRIX, color.cam_to_srgb(MATRIX), np.array(curve))
