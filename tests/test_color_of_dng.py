"""The colours of a picture made RAW are those of the picture, in LibRaw as in our own rendering.

tests/formats/test_dng.py holds the file format to account, with a mosaic made by hand; this, what unprocess puts in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rawpy

import paramisp_cli as paramisp
from paramisp_cli import color
from paramisp_cli.types import CanonicalParams

PATCH = 24  # side [px]
CAMERAS = ("NIKON CORPORATION/NIKON D90", "Canon/Canon PowerShot G6", "SONY/SLT-A57", None)
TOLERANCE = 1.0  # codes of 255


def chart() -> np.ndarray:
    """(8 patches, 8 patches, 3) uint8: greys, and colours to the edge of sRGB, where a wrong matrix shows most."""
    rng = np.random.default_rng(5)
    colours = rng.uniform(25, 205, (64, 3))
    colours[:8] = np.linspace(20, 200, 8)[:, None]
    colours[8:16] = np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]] * 150 + 40
    colours[16:24] = (1 - np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]]) * 130 + 40
    return np.rint(colours).astype(np.uint8).reshape(8, 8, 3)


def through_libraw(path: Path, raw: paramisp.RawImage) -> np.ndarray:
    """(8, 8, 3) sRGB in codes: each patch's middle, with the DNG's tone curve put on LibRaw's linear light."""
    with rawpy.imread(str(path)) as file:
        linear = file.postprocess(
            use_camera_wb=True, no_auto_bright=True, gamma=(1, 1), output_bps=16, output_color=rawpy.ColorSpace.sRGB
        )
    assert raw.tone_curve is not None
    toned = np.interp(linear / 65535, raw.tone_curve[:, 0], raw.tone_curve[:, 1])
    middle = color.srgb_encode(toned).reshape(8, PATCH, 8, PATCH, 3)[:, 8:-8, :, 8:-8]
    return middle.mean((1, 3)) * 255


def made(camera: str | None, cfa: str | None = None) -> paramisp.RawImage:
    pixels = np.kron(chart(), np.ones((PATCH, PATCH, 1), np.uint8))
    return paramisp.unprocess(paramisp.SrgbImage(pixels), paramisp.Settings(model="parametric", camera=camera, cfa=cfa))


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("cfa", ["RGGB", "GBRG"])
def test_libraw_shows_the_chart(tmp_path: Path, camera: str | None, cfa: str) -> None:
    raw = made(camera, cfa)
    paramisp.write(raw, tmp_path / "chart.dng")
    assert np.abs(through_libraw(tmp_path / "chart.dng", raw) - chart()).max() < TOLERANCE


@pytest.mark.parametrize("camera", CAMERAS)
def test_so_do_we(camera: str | None) -> None:
    back = paramisp.render(made(camera), paramisp.Settings(model="parametric")).pixels
    middle = back.reshape(8, PATCH, 8, PATCH, 3)[:, 8:-8, :, 8:-8].mean((1, 3))
    assert np.abs(middle - chart()).max() < TOLERANCE


def test_the_networks_rule_for_the_matrix_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows scaled instead of the camera's channels: greys stay, saturated colours turn."""
    with monkeypatch.context() as patch:
        patch.setattr(CanonicalParams, "cam_to_srgb", lambda own: color.cam_to_srgb(own.color_matrix, 1.0))
        raw = made(CAMERAS[1])
    paramisp.write(raw, tmp_path / "chart.dng")
    off = np.abs(through_libraw(tmp_path / "chart.dng", raw) - chart())
    assert off[0].max() < TOLERANCE
    assert off.max() > 10 * TOLERANCE
