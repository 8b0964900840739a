"""Scenes for simulated cameras: radiance of panoramas (Radiance .hdr) and RAW photographs, and views of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paramisp_cli import formats
from paramisp_cli.errors import FileAccessError, FormatError, InputMissingError
from paramisp_cli.formats.radiance import read as read_hdr
from paramisp_cli.mosaic import linear_sites, superpixels
from paramisp_cli.types import RawImage

SUFFIXES = (".hdr", *formats.RAW_SUFFIXES)
_FRAME = 36.0
"""Width of the frame [mm] to which focal lengths refer."""
_WIDEST = 100.0
"""Widest view [°]: in a wider one, perspective stretches the corners."""
_COARSEST = 1.25
"""Largest number of view pixels to a panorama pixel: with more, no picture would have fine texture."""
_STEEPEST = 35.0
"""Highest and lowest view [°]: above are lamps, below is the tripod."""
_CRISP = 0.8
"""Smallest ``_detail`` of a sharp panorama. Sharp ones have 1.2 to 1.4; each doubling by interpolation halves it, and
many panoramas were enlarged."""
_SMALLEST = 1024
_TRIES = 8
_TEXTURE = 0.5
"""Standard deviation of log2 luminance from which a view is accepted at once: walls teach little."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Linear sRGB radiance (3, H, W) float32, ≥ 0, of any scale.

    A panorama covers 360° × 180° (equirectangular). One more column at each side repeats the other end: no seam.
    """

    radiance: Tensor
    panorama: bool


def find(paths: Sequence[Path | str]) -> list[Path]:
    """Find scene files among files and below folders, each once; raises InputMissingError if there is none."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputMissingError(f"{path}: no such file or folder")
        below = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        found |= dict.fromkeys(p for p in below if p.is_file())
    if not found:
        raise InputMissingError(f"{', '.join(map(str, paths))}: no .hdr panorama and no RAW file below")
    return list(found)


def load(path: Path | str) -> Scene:
    """Read a panorama (.hdr, recognised by its content) or a RAW photograph.

    Raises FormatError, FileAccessError or InputMissingError, naming the file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            panorama = file.read(2) == b"#?"
        pixels = read_hdr(path) if panorama else _read_raw(path)
    except FileNotFoundError as error:
        raise InputMissingError(f"{path}: no such file") from error
    except OSError as error:
        raise FileAccessError.of(error, path, "read it") from error
    radiance = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    if panorama:
        while radiance.shape[2] >= 2 * _SMALLEST and _detail(radiance) < _CRISP:
            radiance = F.avg_pool2d(radiance, 2)
        radiance = torch.cat([radiance[..., -1:], radiance, radiance[..., :1]], 2)
    return Scene(radiance, panorama)


def _detail(radiance: Tensor) -> float:
    """Compute the mean second difference in a row over the mean first difference: small for enlarged panoramas."""
    height = radiance.shape[1]
    luminance = radiance.mean(0)
    around = luminance[height // 3 : height * 2 // 3]  # without the stretched poles
    steps = torch.log2(around + 0.05 * luminance.mean() + 1e-9).diff(dim=1)
    return float(steps.diff(dim=1).abs().mean() / (steps.abs().mean() + 1e-9))


# RAW photographs -----------------------------------------------------------------------------------------------------


def _read_raw(path: Path) -> np.ndarray:
    """Read linear sRGB (H / 2, W / 2, 3) float32 of a RAW: each 2×2 becomes a pixel, without interpolation."""
    raw = formats.read(path)
    if not isinstance(raw, RawImage):
        raise FormatError(f"{path}: is a picture; scenes are .hdr panoramas and RAW files")
    if raw.model is not None:
        raise FormatError(f"{path}: was made by paramisp: no camera's RAW")
    raw = raw.cropped()
    c = raw.canonical
    camera = superpixels(linear_sites(raw.mosaic, c.black_level, c.white_level, dtype=np.float32), c.cfa)
    gains = c.wb_gains
    # Clip all channels at the level of the first that clips: blown highlights are white.
    balanced = np.clip(camera * gains.astype(np.float32), 0, np.float32(gains.min()))
    linear: np.ndarray = np.clip(balanced @ c.cam_to_srgb().T.astype(np.float32), 0, None)
    return linear


# Views ---------------------------------------------------------------------------------------------------------------


def view(scene: Scene, size: int, focal_length: float, rng: np.random.Generator) -> Tensor:
    """Take a random view of a panorama, or a random crop of a photograph: (3, size, size) linear sRGB.

    The focal length [mm] sets the field of view in a panorama as far as its pixels allow. The view is the first of
    several random ones with some texture, mirrored at random. Raises FormatError for a photograph smaller than
    ``size``.
    """
    for _ in range(_TRIES):
        pixels = _perspective(scene, size, focal_length, rng) if scene.panorama else _crop(scene, size, rng)
        if is_textured(pixels[:, ::4, ::4]):
            break
    return pixels.flip(2) if rng.random() < 0.5 else pixels


def is_textured(pixels: Tensor) -> bool:
    """Tell whether a view (3, H, W) has some texture."""
    luminance = pixels.mean(0)
    return float(torch.log2(luminance + 0.01 * luminance.mean() + 1e-12).std()) > _TEXTURE


def _perspective(scene: Scene, size: int, focal_length: float, rng: np.random.Generator) -> Tensor:
    """Project a random view of a panorama."""
    width = scene.radiance.shape[2] - 2
    sharpest = 360 / width * size / _COARSEST
    degrees = min(max(2 * np.degrees(np.arctan(_FRAME / 2 / focal_length)), sharpest), _WIDEST)
    yaw, pitch = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(-_STEEPEST, _STEEPEST))
    fine = 2 * size  # four samples to a pixel: a wide view reduces the panorama, and would alias
    across = (torch.arange(fine) + 0.5) / fine * 2 - 1
    x = (across * np.tan(np.radians(degrees / 2)))[None, :].expand(fine, fine)
    y = -x.T
    up = y * np.cos(pitch) + np.sin(pitch)
    ahead = np.cos(pitch) - y * np.sin(pitch)
    longitude = torch.atan2(x, ahead) + yaw
    latitude = torch.atan2(up, torch.hypot(x, ahead))
    return F.avg_pool2d(_sampled(scene, longitude, latitude), 2)[0]


def _sampled(scene: Scene, longitude: Tensor, latitude: Tensor) -> Tensor:
    """Sample a panorama at angles [radians] (H, W) → (1, 3, H, W)."""
    height, width = scene.radiance.shape[1], scene.radiance.shape[2] - 2
    column = torch.remainder(longitude / (2 * np.pi) + 0.5, 1) * width
    row = (0.5 - latitude / np.pi) * height
    grid = torch.stack([(column + 1) / (width + 2) * 2 - 1, row / height * 2 - 1], -1)
    return F.grid_sample(scene.radiance[None], grid[None].float(), padding_mode="border", align_corners=False)


def seen(scene: Scene, size: tuple[int, int], focal: float, rotation: np.ndarray) -> Tensor:
    """Return a panorama as a camera sees it: (3, H, W) linear, without antialiasing.

    size      (H, W) [px]
    focal     focal length [px]
    rotation  (3, 3) camera → panorama; the camera looks along z, x is right and y is down
    """
    height, width = size
    x = ((torch.arange(width) + 0.5 - width / 2) / focal).expand(height, width)
    y = ((torch.arange(height) + 0.5 - height / 2) / focal)[:, None].expand(height, width)
    rays = torch.stack([x, y, torch.ones_like(x)])
    right, down, ahead = torch.einsum("ij,jhw->ihw", torch.tensor(rotation, dtype=torch.float32), rays)
    return _sampled(scene, torch.atan2(right, ahead), torch.atan2(-down, torch.hypot(right, ahead)))[0]


def pixels_per_radian(scene: Scene) -> float:
    """Return the pixels of a panorama to a radian along its horizon."""
    return (scene.radiance.shape[2] - 2) / (2 * np.pi)


def _crop(scene: Scene, size: int, rng: np.random.Generator) -> Tensor:
    """Cut a random square of a photograph and reduce it."""
    height, width = scene.radiance.shape[1:]
    room = min(height, width) / size
    if room < 1:
        raise FormatError(f"its {width}×{height} pixels (half the RAW's) hold no view of {size}; use a smaller --size")
    span = int(size * min(rng.uniform(1, 3), room))
    top, left = int(rng.integers(height - span + 1)), int(rng.integers(width - span + 1))
    square = scene.radiance[None, :, top : top + span, left : left + span]
    return F.interpolate(square, size=(size, size), mode="bilinear", antialias=True)[0].clamp(min=0)
