"""Simulated cameras: a sensor with the colours, levels and noise of a real camera, and an invented processing.

The processing is an adaptive ISP: its denoising, sharpening, brightness and other controls are smooth functions of ISO,
exposure time, f-number and focal length. The directions are common to all cameras (more denoising at high ISO, …); the
slopes are each camera's own (``Personality``). A network that gets the settings can follow them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paramisp_cli import isp, mosaic
from paramisp_cli.formats import raster
from paramisp_cli.types import CanonicalParams, OpticalParams

_ADAPTS = 1.0
"""Strength with which the processing follows the settings: 0 not at all, 1 visibly."""

# Middle and half-width of log2 of each setting: ISO 100 … 6400, 1/4000 … 1/4 s, f/1.8 … f/16, 18 … 200 mm are −1 … 1.
_SETTINGS = {
    "iso": (np.log2(800), 3.0),
    "exposure_time": (np.log2(1 / 32), 5.0),
    "f_number": (np.log2(5.4), 1.6),
    "focal_length": (np.log2(60), 1.75),
}


@dataclass(frozen=True, slots=True)
class _Control:
    """A control: its value in the middle of all settings, the spread between cameras, slopes, lower bound."""

    base: float
    spread: float
    iso: float = 0.0
    exposure_time: float = 0.0
    f_number: float = 0.0
    focal_length: float = 0.0
    low: float = -np.inf


_CONTROLS = {
    "brightness": _Control(0.0, 0.12, exposure_time=-0.30, f_number=0.08),  # EV: long exposures keep the night dark
    "contrast": _Control(1.25, 0.10, iso=-0.18, focal_length=0.05, low=0.8),  # slope at the pivot of the tone curve
    "shadows": _Control(0.0, 0.06, f_number=0.20, iso=-0.08),  # lift (or, below 0, depth) of dark tones
    "saturation": _Control(1.08, 0.08, iso=-0.20, exposure_time=0.05, low=0.3),
    "luma_noise": _Control(0.025, 0.005, iso=0.023, low=0.002),  # σ, in encoded values, that smoothing takes for noise
    "chroma_blur": _Control(1.0, 0.1, iso=0.9, low=0.0),  # σ [px]
    "sharpening": _Control(0.55, 0.10, iso=-0.45, f_number=0.12, low=0.0),
    "local_contrast": _Control(0.12, 0.04, focal_length=0.18),
}


@dataclass(frozen=True, slots=True)
class Personality:
    """The processing of one simulated camera.

    controls     see ``settings``
    shoulder     bend of the highlights; a larger value lifts darker tones more
    chroma       (2, 2) small rotation and stretch of (Cb, Cr)
    hue          share (0–1) of a tone curve on luminance, which preserves the ratios of the channels
    quality      of the JPEG
    chroma_half  whether the JPEG halves the chroma (4:2:0) or not (4:4:4)
    """

    controls: dict[str, _Control]
    shoulder: float
    chroma: np.ndarray
    hue: float
    quality: int
    chroma_half: bool

    def settings(self, optical: OpticalParams) -> dict[str, float]:
        """Compute the value of every control for a shot; every optical parameter must be known."""
        positions = {}
        for name, (middle, width) in _SETTINGS.items():
            # A gentle bend: the most extreme setting has no more than twice the effect of the ends.
            positions[name] = 2 * np.tanh((np.log2(getattr(optical, name)) - middle) / width / 2)
        values = {}
        for name, control in self.controls.items():
            follows = sum(getattr(control, setting) * position for setting, position in positions.items())
            values[name] = max(float(control.base + _ADAPTS * follows), control.low)
        return values


def personality(camera: str, seed: int) -> Personality:
    """Make the processing of a camera: the same for the same name and seed, on every machine."""
    digest = hashlib.sha256(f"{seed} {camera}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    controls = {}
    for name, c in _CONTROLS.items():
        slopes = {s: float(getattr(c, s) * rng.uniform(0.7, 1.3)) for s in _SETTINGS}
        controls[name] = _Control(float(c.base + c.spread * rng.uniform(-1, 1)), 0.0, **slopes, low=c.low)
    turn, stretch = rng.uniform(-0.07, 0.07), rng.uniform(0.94, 1.06, 2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return Personality(
        controls,
        shoulder=float(rng.uniform(0.8, 1.8)),
        chroma=rotation * stretch[:, None],
        hue=float(rng.uniform(0.0, 0.5)),
        quality=int(rng.integers(88, 99)),
        chroma_half=bool(rng.random() < 0.5),
    )


# The sensor ----------------------------------------------------------------------------------------------------------


def expose(
    scene: Tensor, params: CanonicalParams, noise: np.ndarray, blur: float, rng: np.random.Generator
) -> np.ndarray:
    """Expose a scene (3, H, W) → mosaic (H, W) uint16: ``sensed`` of ``projected``."""
    return sensed(projected(scene, params, blur), params, noise, rng)


def projected(scene: Tensor, params: CanonicalParams, blur: float) -> Tensor:
    """Return the light of a scene (3, H, W) behind lens and colour filters: R, G and B everywhere, (1, 3, H, W), ≥ 0.

    It is linear, and the sensor clips it at 1: linear sRGB 1 just clips green. ``blur`` is the σ [px] of the lens.
    """
    light = gaussian(scene.clamp(0, 30)[None], blur)  # a bare lamp would outshine everything within the blur
    balanced = isp.apply_matrix(light, _tensor(np.linalg.inv(params.cam_to_srgb()))).clamp(min=0)
    return isp.apply_gains(balanced, _tensor(1 / params.wb_gains))


def sensed(light: Tensor, params: CanonicalParams, noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the sensor's mosaic (H, W) uint16 of light as ``projected`` returns it.

    ``noise`` (3, 2) is the profile of the camera at the ISO.
    """
    linear = isp.mosaic(light, params.cfa)
    by_site = noise[["RGB".index(letter) for letter in params.cfa]].reshape(2, 2, 2).astype(np.float32)
    size = tuple(linear.shape[-2:])
    scale, offset = (torch.from_numpy(mosaic.repeated(by_site[..., i], size)) for i in (0, 1))
    sigma = (scale * linear.clamp(0, 1) + offset).sqrt()
    noisy = linear + sigma * torch.from_numpy(rng.standard_normal((1, 1, *size), np.float32))
    codes = isp.quantise(noisy, _tensor(params.black_level)[0], params.white_level)
    return codes[0, 0].numpy().astype(np.uint16)


# The picture ---------------------------------------------------------------------------------------------------------

_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""RGB → Y, Cb, Cr (JFIF)."""
_FROM_YCC = torch.linalg.inv(_TO_YCC)
_PIVOT = 0.42
"""Encoded value that contrast does not change: a little below middle grey."""


def develop(codes: np.ndarray, params: CanonicalParams, optical: OpticalParams, own: Personality) -> np.ndarray:
    """Process a mosaic (H, W) uint16 as the camera would, JPEG included → sRGB (H, W, 3) uint8."""
    controls = own.settings(optical)
    raw = torch.from_numpy(codes.astype(np.float32))[None, None]
    linear = isp.normalise(raw, _tensor(params.black_level)[0], params.white_level)
    camera = isp.apply_gains(isp.demosaic(linear, params.cfa), _tensor(params.wb_gains)).clamp(0, 1)
    light = isp.apply_matrix(camera, _tensor(params.cam_to_srgb())).clamp(0, 1)
    light = _denoised(light, controls["luma_noise"], controls["chroma_blur"])
    encoded = _toned(light, controls, own)
    y, chroma = _split(encoded)
    y = y + controls["sharpening"] * (y - gaussian(y, 1.0))
    y = y + controls["local_contrast"] * (y - _wide(y))
    twist = torch.from_numpy(own.chroma).float() * controls["saturation"]
    chroma = torch.einsum("ij,njhw->nihw", twist, chroma)
    pixels = _joined(y, chroma).clamp(0, 1)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
    jpeg = raster.encode_jpeg(pixels, own.quality, own.chroma_half)
    return raster.read_bytes(jpeg, Path("simulated.jpg")).pixels


def _denoised(light: Tensor, sigma: float, chroma_blur: float) -> Tensor:
    """Smooth the luma of linear (1, 3, H, W) where its contrast is below about σ (a guided filter); blur the chroma."""
    y, chroma = _split(isp.srgb_encode(light))
    mean = F.avg_pool2d(_mirrored(y, 2), 5, 1)
    variance = (F.avg_pool2d(_mirrored(y * y, 2), 5, 1) - mean * mean).clamp(min=0)
    keep = variance / (variance + sigma**2)
    keep, mean = (F.avg_pool2d(_mirrored(x, 2), 5, 1) for x in (keep, mean - keep * mean))
    return isp.srgb_decode(_joined(keep * y + mean, gaussian(chroma, chroma_blur)).clamp(0, 1))


def _toned(light: Tensor, controls: dict[str, float], own: Personality) -> Tensor:
    """Apply the tone curve to channels and to luminance, mixed by ``hue``: linear → sRGB-encoded values."""
    light = light * 2 ** controls["brightness"]
    luminance = light.mean(1, keepdim=True).clamp(1e-4, 1)
    ratio = isp.srgb_decode(_curve(luminance, controls, own)) / luminance
    return torch.lerp(_curve(light, controls, own), isp.srgb_encode((light * ratio).clamp(0, 1)), own.hue)


def _curve(light: Tensor, controls: dict[str, float], own: Personality) -> Tensor:
    """Apply the shoulder, which lifts dark tones, and the contrast about the pivot: linear → encoded, rising, 0 → 0."""
    k = own.shoulder
    encoded = isp.srgb_encode(((1 - torch.exp(-k * light)) / (1 - np.exp(-k))).clamp(0, 1))
    encoded = encoded + controls["shadows"] * encoded * (1 - encoded) ** 3
    odds = (encoded / (1 - encoded).clamp(min=1e-6)) * ((1 - _PIVOT) / _PIVOT)
    odds = odds.clamp(1e-6) ** controls["contrast"] * (_PIVOT / (1 - _PIVOT))
    return odds / (1 + odds)


def _wide(y: Tensor) -> Tensor:
    """Blur (1, 1, H, W) with a σ of about a 24th of the height, by means of a smaller copy."""
    step = max(y.shape[2] // 64, 1)
    small = F.avg_pool2d(y, step, ceil_mode=True, count_include_pad=False)
    return F.interpolate(gaussian(small, 2.5), size=y.shape[2:], mode="bilinear")


def _split(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Return (luma (N, 1, H, W), chroma (N, 2, H, W)) of RGB."""
    ycc = torch.einsum("ij,njhw->nihw", _TO_YCC, rgb)
    return ycc[:, :1], ycc[:, 1:]


def _joined(y: Tensor, chroma: Tensor) -> Tensor:
    """Return RGB of luma and chroma: the inverse of ``_split``."""
    return torch.einsum("ij,njhw->nihw", _FROM_YCC, torch.cat([y, chroma], 1))


def _mirrored(x: Tensor, by: int) -> Tensor:
    return isp.reflect_pad(x, by, by, by, by)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Blur (N, C, H, W) with σ [px] and a mirrored border; return it unchanged for σ below 0.05."""
    if sigma < 0.05:
        return x
    reach = max(int(np.ceil(3 * sigma)), 1)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).repeat(x.shape[1], 1, 1, 1)
    x = F.conv2d(_mirrored(x, reach), taps, groups=x.shape[1])
    return F.conv2d(x, taps.transpose(2, 3), groups=x.shape[1])


def _tensor(values: np.ndarray) -> Tensor:
    """Return a batch of one, float32; a copy, because torch has no read-only tensors."""
    return torch.tensor(values, dtype=torch.float32)[None]
