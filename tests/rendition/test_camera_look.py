"""The camera's look from its own preview: alignment, refusals, and full-size development beside torch's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from paramisp_cli import color, isp
from paramisp_cli.directions import Direction
from paramisp_cli.formats import raster
from paramisp_cli.rendition import form, prior
from paramisp_cli.rendition.apply import applied
from paramisp_cli.rendition.develop import develop
from paramisp_cli.rendition.look import camera_look
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, Crop, Metadata, RawImage

pytestmark = pytest.mark.slow

MATRIX = np.array([[0.8, -0.1, -0.1], [-0.4, 1.2, 0.2], [0.0, 0.15, 0.55]])
BLACK, WHITE = 256, 4095


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) smooth white-balanced camera RGB with shapes and texture that can be found again."""
    rng = np.random.default_rng(seed)
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    light = np.zeros((height, width, 3))
    for _ in range(40):
        cy, cx, reach, tint = rng.random(), rng.random(), rng.uniform(0.03, 0.2), rng.uniform(0.05, 1, 3)
        inside = 1 / (1 + np.exp(np.clip(((y - cy) ** 2 + (x - cx) ** 2 - reach**2) * 4000, -50, 50)))
        light = light * (1 - inside[..., None]) + tint * rng.uniform(0.1, 0.9) * inside[..., None]
    return np.clip(0.02 + light * (0.9 + 0.1 * np.sin(60 * x + 40 * y))[..., None], 0, 0.95)


def raw_of(light: np.ndarray, cfa: str = "RGGB") -> RawImage:
    canonical = CanonicalParams(cfa, np.full((2, 2), BLACK), WHITE, np.array([0.5, 1, 0.6]), MATRIX)
    linear = light / canonical.wb_gains
    mosaic = np.zeros(light.shape[:2])
    for y in (0, 1):
        for x in (0, 1):
            mosaic[y::2, x::2] = linear[y::2, x::2, "RGB".index(cfa[2 * y + x])]
    return RawImage((mosaic * (WHITE - BLACK) + BLACK).round().astype(np.uint16), canonical)


def own_look(matrix: np.ndarray) -> form.Rendition:
    p = prior.vague(Direction.RENDER)
    rng = np.random.default_rng(11)
    vector = p.mean + 0.5 * np.linalg.cholesky(p.covariance) @ rng.standard_normal(form.SIZE)
    vector[form.blocks()["shading"]] = np.tile([-0.2, -0.1], 3)
    return form.orderly(form.Rendition(Direction.RENDER, matrix, vector))


def photographed(light: np.ndarray, factor: int = 2, shift: int = 0, cfa: str = "RGGB") -> tuple[RawImage, np.ndarray]:
    """(a RAW with the preview of ``own_look`` inside, reduced and moved; what its pixels are at that size)."""
    raw = raw_of(light, cfa)
    high, wide = light.shape[:2]
    y, x = np.arange(high)[:, None] + 0.5 - high / 2, np.arange(wide) + 0.5 - wide / 2
    shown = applied(own_look(raw.canonical.cam_to_srgb()), light, (y * y + x * x) / (high**2 / 4 + wide**2 / 4))
    shown = shown[shift : high - shift or None, shift : wide - shift or None]
    rows, columns = shown.shape[0] // factor, shown.shape[1] // factor
    shown = shown[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, 3).mean((1, 3))
    codes = np.round(shown * 255).astype(np.uint8)
    return replace(raw, metadata=Metadata(jpeg=raster.encode_jpeg(codes, 97, False))), codes


@pytest.mark.parametrize(("factor", "shift"), [(2, 0), (2, 8), (3, 0), (1, 0)])
def test_the_look_of_the_preview_is_found(factor: int, shift: int) -> None:
    raw, codes = photographed(scene(600, 800), factor, shift)
    fitted, report = camera_look(raw)
    assert fitted is not None, report.reason
    assert report.size == codes.shape[:2]
    assert report.agree > 0.8
    assert report.explained > 0.98
    out = develop(raw, fitted.rendition)
    out = out[shift : 600 - shift or None, shift : 800 - shift or None]
    rows, columns = codes.shape[:2]
    small = out[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, 3).mean((1, 3))
    green = codes[..., 1].astype(float)
    smooth = np.zeros(green.shape, bool)  # off the edges: demosaicing is not measured here
    smooth[1:-1, 1:-1] = (np.abs(green[2:, 1:-1] - green[:-2, 1:-1]) + np.abs(green[1:-1, 2:] - green[1:-1, :-2])) < 10
    error = (small - codes)[smooth] / 255
    assert -10 * np.log10((error**2).mean()) > 34


def test_a_look_is_the_same_on_every_run() -> None:
    raw, _ = photographed(scene(400, 600))
    first, second = (camera_look(raw)[0] for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.rendition.vector.tolist() == second.rendition.vector.tolist()


def test_refusals_say_why() -> None:
    raw, codes = photographed(scene(600, 800))

    def said(codes: np.ndarray) -> str:
        fitted, report = camera_look(replace(raw, metadata=Metadata(jpeg=raster.encode_jpeg(codes, 95, False))))
        assert fitted is None
        return report.reason

    assert "no preview" in camera_look(replace(raw, metadata=Metadata()))[1].reason
    assert "cannot be read" in camera_look(replace(raw, metadata=Metadata(jpeg=b"\xff\xd8nothing")))[1].reason
    assert "Other" in camera_look(replace(raw, origin={"jpeg": "rendered by Other"}))[1].reason
    assert "only 80×60" in said(codes[::5, ::5])
    assert "shape" in said(codes[:, : codes.shape[1] // 2])
    other = np.round(scene(300, 400, seed=9) * 255).astype(np.uint8)
    assert "look like" in said(other)
    posterised = codes.copy()  # one half painted over
    posterised[:, 200:] = 255 - posterised[:, 200:]
    assert said(posterised)


def test_black_bars_are_no_picture() -> None:
    raw, codes = photographed(scene(600, 800))
    framed = np.pad(codes, ((50, 50), (0, 0), (0, 0)))
    fitted, report = camera_look(replace(raw, metadata=Metadata(jpeg=raster.encode_jpeg(framed, 97, False))))
    assert fitted is not None, report.reason


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_preview_may_be_upright(orientation: int) -> None:
    raw, codes = photographed(scene(600, 800))
    upright = np.ascontiguousarray(raster.apply_orientation(codes, orientation))
    raw = replace(raw, orientation=orientation, metadata=Metadata(jpeg=raster.encode_jpeg(upright, 97, False)))
    fitted, report = camera_look(raw)
    assert fitted is not None, report.reason
    assert report.orientation == orientation


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_development_is_that_of_torch(cfa: str) -> None:
    """Balanced, clipped, demosaiced by ``isp.demosaic``, rendered: within a code, border included."""
    raw = raw_of(scene(70, 90), cfa)
    one = replace(own_look(raw.canonical.cam_to_srgb()))
    vector = one.vector.copy()
    vector[form.blocks()["shading"]] = 0
    one = replace(one, vector=vector)
    gains = np.empty((2, 2))
    for y in (0, 1):
        for x in (0, 1):
            gains[y, x] = raw.canonical.wb_gains["RGB".index(cfa[2 * y + x])]
    linear = (raw.mosaic.astype(np.float64) - BLACK) / (WHITE - BLACK) * np.tile(gains, (35, 45))
    balanced = torch.from_numpy(np.minimum(linear, 1))[None, None].float()
    expected = applied(one, isp.demosaic(balanced, cfa)[0].permute(1, 2, 0).numpy()) * 255
    got = develop(raw, one, threads=1)
    assert np.abs(got - expected).max() <= 0.51
    assert (develop(raw, one, threads=3) == got).all()


def test_development_has_the_crop() -> None:
    raw = raw_of(scene(64, 96))
    one = own_look(raw.canonical.cam_to_srgb())
    cropped = replace(raw, crop=Crop(3, 5, 40, 50))
    assert develop(cropped, one).shape == (40, 50, 3)


def test_the_smallest_mosaic() -> None:
    raw = raw_of(scene(2, 2))
    assert develop(raw, own_look(color.cam_to_srgb(MATRIX))).shape == (2, 2, 3)
