"""Camera profiles in files: their tags as others read them, and curves that DNG does not allow."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from paramisp_cli import cameras, color, look_table
from paramisp_cli.errors import FormatError
from paramisp_cli.formats import dcp, tiff

MATRIX = cameras.find_by_name("Canon EOS 60D").color_matrix
CURVE = np.array([[0, 0], [0.2, 0.3], [1, 1]])


def data() -> bytes:
    rng = np.random.default_rng(0)
    table = rng.uniform(0.5, 1.5, (look_table.VALUES, look_table.HUES, look_table.SATURATIONS, 3))
    table[:, :, 0, 2] = 1  # DNG asks for it where the saturation is 0
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


def test_the_adobe_sdk_reads_it(tmp_path: Path) -> None:
    """The SDK opens DNGs alone: it reads the profile's tags in one, and writes them again as it understood them."""
    pytest.importorskip("dngpy")
    (profile,) = tiff.parse_ifds(b"II*\0" + data()[4:])
    # Types of TIFF: 1 byte, 2 text, 3 short, 4 long, 5 rational, 10 signed rational, 11 float.
    more = [(254, 4, 1, 0, True)]
    for code, entry in profile.items():
        is_rational = entry.type == 10
        value = struct.unpack(f"<{2 * entry.count}i", entry.data) if is_rational else entry.data
        more.append((code, entry.type, entry.count, value, True))
    more += [(33421, 3, 2, (2, 2), True), (33422, 1, 4, b"\0\1\1\2", True), (50706, 1, 4, b"\1\4\0\0", True)]
    more += [(50714, 4, 1, 64, True), (50717, 4, 1, 4095, True), (50728, 5, 3, (1, 2, 1, 1, 2, 3), True)]
    codes = np.full((64, 64), 1000, np.uint16)
    tifffile.imwrite(tmp_path / "a.dng", codes, photometric=32803, metadata=None, extratags=sorted(more), software="")
    code = "import dngpy, sys; dngpy.Dng(sys.argv[1]).save(sys.argv[2])"  # the SDK prints
    words = [sys.executable, "-c", code, tmp_path / "a.dng", tmp_path / "b.dng"]
    subprocess.run(words, capture_output=True, check=True, timeout=60)
    again = tiff.parse_ifds((tmp_path / "b.dng").read_bytes())[0]
    assert again[50936].text() == "a look"
    for code in (50721, 50778, 50940, 50964, 50981, 50982, 51109, 51110):
        assert again[code].values() == pytest.approx(profile[code].values(), abs=1e-4), code  # it rounds matrices


@pytest.mark.parametrize("curve", [[[0, 0]], [[0, 0.1], [1, 1]], [[0, 0], [0.5, 1]], [[0, 0], [0, 0.5], [1, 1]]])
def test_curves_that_dng_forbids(curve: list[list[float]]) -> None:
    with pytest.raises(FormatError, match="tone curve"):
        dcp.profile("a", "b", MATRIX, color.cam_to_srgb(MATRIX), np.array(curve))
