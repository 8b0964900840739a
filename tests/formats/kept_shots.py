"""Synthetic shots, with noise, and their pictures, for the tests of JPEGs that carry their RAW."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from paramisp_cli.formats import raster
from paramisp_cli.types import Camera, CanonicalParams, Crop, Metadata, OpticalParams, RawImage

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
NOISE = np.array([[2e-4, 2e-7], [1e-4, 1e-7], [3e-4, 4e-7]])


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) in [0, 1]: soft colours, edges, a clipped corner."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / rng.uniform(3, 30) + x / rng.uniform(3, 30) + k) for k in range(3)]
    light = 0.3 + 0.2 * np.stack(waves, -1) + 0.2 * ((x // 20 + y // 16) % 2)[..., None]
    light[: height // 8, : width // 8] = 2
    return light.clip(0, 1)


def shot(
    height: int = 96, width: int = 128, *, cfa: str = "RGGB", orientation: int = 1, crop: Crop | None = None,
    black: float = 256, white: float = 4095, sparse: int = 1, noisy: bool = True,
) -> tuple[RawImage, np.ndarray]:  # fmt: skip
    """A RAW with noise, and its picture: upright pixels of its crop."""
    light = scene(height, width)
    rng = np.random.default_rng(1)
    linear = light**2.2
    site = np.array(["RGB".index(c) for c in cfa]).reshape(2, 2)
    channel = np.tile(site, (height // 2, width // 2))
    signal = np.take_along_axis(linear, channel[..., None], 2)[..., 0]
    sigma = np.sqrt(NOISE[channel, 0] * signal + NOISE[channel, 1]) * noisy
    codes = np.rint((signal + sigma * rng.standard_normal(signal.shape)) * (white - black) / sparse) * sparse + black
    raw = RawImage(
        codes.clip(0, white).astype(np.uint16),
        CanonicalParams(cfa, np.full((2, 2), black), white, np.array([0.5, 1.0, 0.6]), MATRIX),
        OpticalParams(400, 1 / 125, 2.8, 50.0),
        Camera("Test", "Camera One"),
        orientation=orientation,
        crop=crop,
        noise_profile=NOISE,
        baseline_exposure=0.25,
        metadata=Metadata(xmp=b"<x:xmpmeta/>", source_name="shot.nef"),
    )
    area = raw.crop
    assert area is not None
    pixels = (light * 255).round().astype(np.uint8)
    pixels = pixels[area.top : area.top + area.height, area.left : area.left + area.width]
    return raw, np.ascontiguousarray(raster.apply_orientation(pixels, orientation))


def jpeg_of(pixels: np.ndarray, quality: int = 92, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, **options)
    return stream.getvalue()
