"""A "camera" for tests: scenes, and RAW files with the JPEG of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import paramisp_cli as paramisp
from paramisp_cli import formats
from paramisp_cli.types import Camera, OpticalParams, SrgbImage

MATRIX = np.array([[0.6719, -0.0994, -0.0925], [-0.4408, 1.2426, 0.2211], [-0.0887, 0.2129, 0.6051]])


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) in [0.05, 0.9]: soft colours with texture everywhere, so that offsets can be found."""
    generator = np.random.default_rng(seed)
    out = np.zeros((height, width, 3))
    for cells, weight in ((4, 0.5), (24, 0.3), (96, 0.2)):
        noise = torch.from_numpy(generator.random((1, 3, cells, cells)))
        up = torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic", align_corners=True)
        out += weight * up[0].permute(1, 2, 0).numpy().clip(0, 1)
    return 0.05 + 0.85 * (out - out.min()) / (out.max() - out.min())


def shoot(folder: Path, name: str, *, size=(640, 800), offset=(6, 10), cfa="GBRG", orientation=1, seed=0) -> Path:
    """A "camera": a larger scene as a DNG, and a JPEG of a part of it beside it. RAW(y + dy, x + dx) ↔ JPEG(y, x)."""
    folder.mkdir(parents=True, exist_ok=True)
    dy, dx = offset
    whole = scene(size[0] + 16, size[1] + 20, seed)
    picture = (whole * 255).round().astype(np.uint8)
    raw = paramisp.unprocess(
        SrgbImage(picture, camera=Camera("Test", "Cam"), optical=OpticalParams(100, 0.01, 4, 35)),
        paramisp.Settings(model="parametric", cfa=cfa),
    )
    path = folder / f"{name}.dng"
    formats.write(replace(raw, orientation=orientation, model=None), path)
    jpeg = np.ascontiguousarray(picture[dy : dy + size[0], dx : dx + size[1]])
    formats.write(SrgbImage(jpeg), folder / f"{name}.jpg", formats.WriteOptions(quality=97))
    return path


def unsign(path: Path) -> None:
    """Take our name out of the DNG's Software tag: pairs refuses what paramisp itself has made."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"paramisp", b"testcamr"))
