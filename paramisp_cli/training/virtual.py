"""Simulated cameras: a sensor with a real camera's colours, levels and noise, and an invented picture processing.

The processing is that of an adaptive ISP: how much it denoises, sharpens, brightens and so on are smooth functions of
ISO, exposure time, f-number and focal length. What kind of functions is common to all cameras (more denoising at high
ISO, …), their size is each camera's own: ``Personality``. A network that is told the settings can follow them, one that
is not has to guess.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paramisp_cli import isp
from paramisp_cli.cameras import CameraFacts
from paramisp_cli.formats import raster
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, OpticalParams

_ADAPTS = 1.0
"""How strongly the processing follows the settings: 0 not at all, 1 visibly."""

# Middle and reach of log2 of each setting: ISO 100 … 6400, 1/4000 … 1/4 s, f/1.8 … f/16, 18 … 200 mm are −1 … 1.
_SETTINGS = {
    "iso": (np.log2(800), 3.0),
    "exposure_time": (np.log2(1 / 32), 5.0),
    "f_number": (np.log2(5.4), 1.6),
    "focal_length": (np.log2(60), 1.75),
}


@dataclass(frozen=True, slots=True)
class _Control:
    """A control's value in the middle of all settings, how much cameras differ in it, and its slopes."""

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
    """What is a simulated camera's own: its controls (see ``settings``), tone curve, chroma and JPEG.

    shoulder: how early highlights bend, and with it how much darker tones are lifted; chroma (2, 2): a small twist and
    stretch of (Cb, Cr); hue: how far the tone curve keeps the ratios of the channels, 0–1; quality and chroma_half: of
    the JPEG, 4:2:0 or 4:4:4.
    """

    controls: dict[str, _Control]
    shoulder: float
    chroma: np.ndarray
    hue: float
    quality: int
    chroma_half: bool

    def settings(self, optical: OpticalParams) -> dict[str, float]:
        """The value of every control for a shot; every optical parameter must be known."""
        reach = {}
        for name, (middle, width) in _SETTINGS.items():
            # Bent gently, so that what lies far outside does no more than twice what the ends do.
            reach[name] = 2 * np.tanh((np.log2(getattr(optical, name)) - middle) / width / 2)
        values = {}
        for name, control in self.controls.items():
            follows = sum(getattr(control, setting) * at for setting, at in reach.items())
            values[name] = max(float(control.base + _ADAPTS * follows), control.low)
        return values


def personality(camera: str, seed: int) -> Personality:
    """The processing of the camera of this name: the same for the same name and seed, on every machine."""
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


def lacks(facts: CameraFacts) -> str | None:
    """What of a camera the table does not know and a simulation needs, in words; None if it can be simulated."""
    needs = {
        "colour matrix": facts.color_matrix is None,
        "daylight white balance": facts.daylight_neutral is None,
        "noise": facts.noise_rows is None,
        "Bayer pattern": facts.cfa not in CFA_PATTERNS,
    }
    missing = [name for name, lacking in needs.items() if lacking]
    return " and ".join(missing) if missing else None


def canonical(facts: CameraFacts, iso: float, neutral: np.ndarray) -> CanonicalParams:
    """The parameters of a shot with a camera that ``lacks`` nothing."""
    assert facts.cfa is not None
    assert facts.color_matrix is not None
    black, white = facts.levels(iso)
    return CanonicalParams(facts.cfa, np.full((2, 2), black), white, neutral, facts.color_matrix)


def expose(
    scene: Tensor, params: CanonicalParams, noise: np.ndarray, blur: float, rng: np.random.Generator
) -> np.ndarray:
    """(H, W) uint16 mosaic of the scene (3, H, W), linear sRGB in which white just clips the sensor's green.

    ``noise`` (3, 2) is the camera's profile at the ISO, ``blur`` the lens's σ [px]. Light beyond clipping is clipped.
    """
    light = gaussian(scene.clamp(0, 30)[None], blur)  # a bare lamp would shine through the whole blur
    balanced = isp.apply_matrix(light, _tensor(np.linalg.inv(params.cam_to_srgb()))).clamp(min=0)
    linear = isp.mosaic(isp.apply_gains(balanced, _tensor(1 / params.wb_gains)), params.cfa)
    height, width = linear.shape[-2:]
    profile = torch.from_numpy(np.array([noise["RGB".index(c)] for c in params.cfa]).reshape(2, 2, 2)).float()
    scale, offset = (profile[..., i].repeat(height // 2, width // 2)[None, None] for i in (0, 1))
    sigma = (scale * linear.clamp(0, 1) + offset).sqrt()
    noisy = linear + sigma * torch.from_numpy(rng.standard_normal((1, 1, height, width), np.float32))
    codes = isp.quantise(noisy, _tensor(params.black_level)[0], params.white_level)
    return codes[0, 0].numpy().astype(np.uint16)


# The picture ---------------------------------------------------------------------------------------------------------

_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""RGB → Y, Cb, Cr (JFIF)."""
_FROM_YCC = torch.linalg.inv(_TO_YCC)
_PIVOT = 0.42
"""Encoded value that contrast leaves where it is: a little below middle grey."""


def develop(mosaic: np.ndarray, params: CanonicalParams, optical: OpticalParams, own: Personality) -> np.ndarray:
    """(H, W, 3) uint8 sRGB: the mosaic (H, W) uint16 as the camera's own processing and JPEG would show it."""
    set_to = own.settings(optical)
    raw = torch.from_numpy(mosaic.astype(np.float32))[None, None]
    linear = isp.normalise(raw, _tensor(params.black_level)[0], params.white_level)
    camera = isp.apply_gains(isp.demosaic(linear, params.cfa), _tensor(params.wb_gains)).clamp(0, 1)
    light = isp.apply_matrix(camera, _tensor(params.cam_to_srgb())).clamp(0, 1)
    light = _denoised(light, set_to["luma_noise"], set_to["chroma_blur"])
    encoded = _toned(light, set_to, own)
    y, chroma = _split(encoded)
    y = y + set_to["sharpening"] * (y - gaussian(y, 1.0))
    y = y + set_to["local_contrast"] * (y - _wide(y))
    twist = torch.from_numpy(own.chroma).float() * set_to["saturation"]
    chroma = torch.einsum("ij,njhw->nihw", twist, chroma)
    pixels = _joined(y, chroma).clamp(0, 1)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
    jpeg = raster.encode_jpeg(pixels, own.quality, own.chroma_half)
    return raster.read_bytes(jpeg, Path("simulated.jpg")).pixels


def _denoised(light: Tensor, sigma: float, chroma_blur: float) -> Tensor:
    """Linear (1, 3, H, W): fine structure of luma below about σ smoothed (a guided filter), chroma blurred."""
    y, chroma = _split(isp.srgb_encode(light))
    mean = F.avg_pool2d(_mirrored(y, 2), 5, 1)
    variance = (F.avg_pool2d(_mirrored(y * y, 2), 5, 1) - mean * mean).clamp(min=0)
    keep = variance / (variance + sigma**2)
    keep, mean = (F.avg_pool2d(_mirrored(x, 2), 5, 1) for x in (keep, mean - keep * mean))
    return isp.srgb_decode(_joined(keep * y + mean, gaussian(chroma, chroma_blur)).clamp(0, 1))


def _toned(light: Tensor, set_to: dict[str, float], own: Personality) -> Tensor:
    """Linear → sRGB-encoded values through the camera's tone curve, on channels and on luminance, mixed by ``hue``."""
    light = light * 2 ** set_to["brightness"]
    luminance = light.mean(1, keepdim=True).clamp(1e-4, 1)
    ratio = isp.srgb_decode(_curve(luminance, set_to, own)) / luminance
    return torch.lerp(_curve(light, set_to, own), isp.srgb_encode((light * ratio).clamp(0, 1)), own.hue)


def _curve(light: Tensor, set_to: dict[str, float], own: Personality) -> Tensor:
    """Linear → encoded, rising, 0 → 0: a shoulder that lifts what is dark, then contrast about the pivot."""
    k = own.shoulder
    encoded = isp.srgb_encode(((1 - torch.exp(-k * light)) / (1 - np.exp(-k))).clamp(0, 1))
    encoded = encoded + set_to["shadows"] * encoded * (1 - encoded) ** 3
    odds = (encoded / (1 - encoded).clamp(min=1e-6)) * ((1 - _PIVOT) / _PIVOT)
    odds = odds.clamp(1e-6) ** set_to["contrast"] * (_PIVOT / (1 - _PIVOT))
    return odds / (1 + odds)


def _wide(y: Tensor) -> Tensor:
    """(1, 1, H, W) blurred with a σ of about a 24th of the height, by way of a smaller copy."""
    step = max(y.shape[2] // 64, 1)
    small = F.avg_pool2d(y, step, ceil_mode=True, count_include_pad=False)
    return F.interpolate(gaussian(small, 2.5), size=y.shape[2:], mode="bilinear")


def _split(rgb: Tensor) -> tuple[Tensor, Tensor]:
    ycc = torch.einsum("ij,njhw->nihw", _TO_YCC, rgb)
    return ycc[:, :1], ycc[:, 1:]


def _joined(y: Tensor, chroma: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", _FROM_YCC, torch.cat([y, chroma], 1))


def _mirrored(x: Tensor, by: int) -> Tensor:
    return isp.reflect_pad(x, by, by, by, by)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """(N, C, H, W) blurred with σ [px], the border mirrored; as it is for σ below 0.05."""
    if sigma < 0.05:
        return x
    reach = max(int(np.ceil(3 * sigma)), 1)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).repeat(x.shape[1], 1, 1, 1)
    x = F.conv2d(_mirrored(x, reach), taps, groups=x.shape[1])
    return F.conv2d(x, taps.transpose(2, 3), groups=x.shape[1])


def _tensor(values: np.ndarray) -> Tensor:
    """A batch of one, float32; a copy, for parameters are read-only and torch knows no such thing."""
    return torch.tensor(values, dtype=torch.float32)[None]
