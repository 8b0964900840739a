"""``paramisp fit``: weights of both directions from the JPEGs inside RAW files, and the errors of files without any."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import paramisp_cli as paramisp
from paramisp_cli import formats, weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.training.fit import fit
from paramisp_cli.types import Camera, Metadata

sys.path.insert(0, str(Path(__file__).parents[1] / "rendition"))
from test_camera_look import photographed, scene

pytestmark = pytest.mark.slow

CAMERA = Camera("Canon", "Canon EOS 60D")


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "places", lambda: [("a test", tmp_path / "no weights")])


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two RAW files of a camera and a picture that is none."""
    folder = tmp_path_factory.mktemp("shots")
    for number in (0, 1):
        raw, _ = photographed(scene(300, 420, seed=number), factor=1)
        formats.write(replace(raw, camera=CAMERA), folder / f"{number}.dng")
    return folder


def test_weights_of_both_directions(shots: Path, tmp_path: Path) -> None:
    paths = fit([shots], tmp_path / "weights")
    assert [path.name for path in paths] == [
        "canon-eos-60d.unprocess.safetensors",
        "canon-eos-60d.render.safetensors",
    ]
    for path, direction in zip(paths, (Direction.UNPROCESS, Direction.RENDER), strict=True):
        header = weights.verify(path)
        assert (header["architecture"], header["direction"], header["recipe"]) == ("fast", direction, "fit")
        assert weights.load(path).lens_shading is not None  # the preview's corners are brighter than the RAW's
    raw, shown = photographed(scene(300, 420), factor=1)

    def codes_off(wish: paramisp.Settings) -> float:
        picture = paramisp.render(replace(raw, camera=CAMERA), wish)
        return float(np.sqrt(np.mean((picture.pixels.astype(float) - shown) ** 2)))

    assert codes_off(paramisp.Settings(weights=tmp_path / "weights")) < 10
    assert codes_off(paramisp.Settings(model="parametric")) > 20
    made = paramisp.unprocess(shown, paramisp.Settings(weights=tmp_path / "weights"), camera=CAMERA)
    assert made.model == "fast"


def test_files_of_no_use(shots: Path, tmp_path: Path) -> None:
    """A file without a JPEG is told and left out; two cameras, or no usable file, are errors and write nothing."""
    raw, _ = photographed(scene(300, 420, seed=3), factor=1)
    bare = tmp_path / "bare.dng"
    formats.write(replace(raw, camera=CAMERA, metadata=Metadata()), bare)
    lines: list[str] = []
    with pytest.raises(FormatError, match="no RAW file holds a JPEG"):
        fit([bare, tmp_path / "gone.dng"], tmp_path / "out", tell=lines.append)
    assert [line.split(": ")[0] for line in lines] == [str(bare), str(tmp_path / "gone.dng")]
    other = tmp_path / "other.dng"
    formats.write(replace(raw, camera=Camera("NIKON CORPORATION", "NIKON D90")), other)
    with pytest.raises(ConfigError, match=r"2 cameras: Canon EOS 60D, Nikon D90; pass `camera`"):
        fit([shots, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert fit([shots, other], tmp_path / "out", camera="d90")[0].name == "nikon-d90.unprocess.safetensors"
