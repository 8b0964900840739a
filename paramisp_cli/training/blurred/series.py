"""The choices for a data set of blurred pictures, and the sensor and the ISP of its pairs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from paramisp_cli import convert
from paramisp_cli import mosaic as bayer
from paramisp_cli.cameras import CameraFacts
from paramisp_cli.errors import ConfigError
from paramisp_cli.settings import Settings
from paramisp_cli.training.blurred.sources import Source
from paramisp_cli.types import Camera, CanonicalParams, OpticalParams, SrgbImage

_CLIPPED = 254
"""Code of a picture from which it counts as clipped."""
_VERSION = 1
"""Version of the pairs, in their names: raise it when the same numbers give other pixels."""
BORDER = 4
"""Pixels cut from every side: demosaicing knows less there."""
_SIDES = (64, 8192)


@dataclass(frozen=True, slots=True)
class Series:
    """Everything that decides a data set; raises ConfigError for values out of range.

    cameras     drawn for each clip and each still
    model       the ISP: "parametric", or one that has weights
    count       pairs in all; a clip ends earlier
    frames      least and most frames of a blur, both odd
    exposure    exposure time of a blur [s], instead of ``frames``; needs the rate of the frames
    rate        frames a second at which clips were taken (None: as the video says)
    stride      frames between the first frames of two blurs (None: no frame is used twice)
    most_step   largest motion [px] between two frames: faster ones would leave ghosts
    length      least and most blur of a still [px]
    size        side of the pictures of a panorama or RAW photograph [px]
    iso         least and most ISO
    saturation  least and most light added where frames were clipped
    noise       whether blurred pictures have noise
    raw         whether to store mosaics, too
    test_share  share of the sources whose pairs are for testing
    kernels     whether single pictures are still scenes
    """

    cameras: tuple[CameraFacts, ...] = field(repr=False)
    model: str = "parametric"
    count: int = 200
    frames: tuple[int, int] = (7, 13)
    exposure: float | None = None
    rate: float | None = None
    stride: int | None = None
    most_step: float = 3.0
    length: tuple[float, float] = (0.0, 25.0)
    size: int = 512
    iso: tuple[float, float] = (100.0, 1600.0)
    saturation: tuple[float, float] = (0.25, 1.75)
    noise: bool = True
    raw: bool = False
    test_share: float = 0.1
    seed: int = 0
    kernels: bool = False

    def __post_init__(self) -> None:
        low, high = self.frames
        if not 3 <= low <= high or low % 2 == 0 or high % 2 == 0:
            raise ConfigError(f"--frames must be odd, at least 3 and rising, such as 7-13, not {low}-{high}")
        for name, least, (first, last) in (
            ("--length", 0, self.length),
            ("--iso", 1, self.iso),
            ("--saturation", 0, self.saturation),
        ):
            if not least <= first <= last:
                raise ConfigError(f"{name} must rise from at least {least}, not {first:g}-{last:g}")
        if self.length[1] > 100:
            raise ConfigError(f"--length must be at most 100 px, not {self.length[1]:g}")
        if self.count < 1 or self.seed < 0 or (self.stride is not None and self.stride < 1):
            raise ConfigError("--count and --stride must be at least 1, and --seed not negative")
        if self.size % 2 or not _SIDES[0] <= self.size <= _SIDES[1]:
            raise ConfigError(f"--size must be even and {_SIDES[0]} to {_SIDES[1]}, not {self.size}")
        if not 0 <= self.test_share <= 1:
            raise ConfigError(f"--test-share must be in 0 to 1, not {self.test_share:g}")
        if not self.most_step > 0 or (self.exposure is not None and not self.exposure > 0):
            raise ConfigError("--max-step and --exposure must be above 0")
        if self.rate is not None and not self.rate > 0:
            raise ConfigError(f"--fps must be above 0, not {self.rate:g}")

    def decisive(self) -> list[Any]:
        """Return the values on which the pixels of a pair depend, besides its source and number."""
        return [
            _VERSION, self.seed, self.model, [facts.name for facts in self.cameras], self.frames, self.exposure,
            self.rate, self.stride, self.length, self.size, self.iso, self.saturation, self.noise,
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shot:
    """A blurred mosaic and the sharp one, linear, with the camera that took them, and facts for the index."""

    blurred: np.ndarray
    sharp: np.ndarray
    canonical: CanonicalParams
    optical: OpticalParams
    facts: CameraFacts
    told: dict[str, Any]


def random_of(source: Source, number: int, series: Series) -> np.random.Generator:
    """Return the random numbers of a pair: they follow from seed, source and number alone."""
    digest = hashlib.sha256(f"{source.path.name} {number}".encode()).digest()
    return np.random.default_rng([_VERSION, series.seed, *np.frombuffer(digest, np.uint32)])


def unprocessed(pixels: np.ndarray, params: CanonicalParams, facts: CameraFacts, series: Series) -> np.ndarray:
    """Return the linear mosaic (H, W) float32 of a picture (H, W, 3) uint8 with even sides.

    No site exceeds its white (``white_sites``), so that sums of light stay neutral: models bring the white of a picture
    to the sensor's full scale in all channels. No rendering shows the difference.
    """
    red, green, blue = (float(gain) for gain in params.wb_gains)
    settings = replace(settings_of(series, facts), wb=(red, green, blue), cfa=params.cfa, bit_depth=32)
    raw = convert.unprocess(SrgbImage(pixels, camera=camera_of(facts)), settings)
    height, width = pixels.shape[:2]
    mosaic: np.ndarray = np.minimum(raw.mosaic[:height, :width], white_sites(params, (height, width)))
    return mosaic


def white_sites(params: CanonicalParams, size: tuple[int, int]) -> np.ndarray:
    """Return the light (H, W) float32 of a neutral white at each site: 1 at green ones."""
    whites: np.ndarray = bayer.repeated(bayer.by_site(1 / params.wb_gains, params.cfa), size).astype(np.float32)
    return np.asarray(np.minimum(whites, 1))


def clipped(pixels: np.ndarray) -> np.ndarray:
    """Return where all channels of a picture (H, W, 3) uint8 are clipped: (H, W) float32, 0 or 1.

    Light that is added to single channels would tint edges, and demosaicing would turn the tint into a pattern.
    """
    white: np.ndarray = (pixels.min(-1) >= _CLIPPED).astype(np.float32)
    return white


def noisy(
    linear: np.ndarray, params: CanonicalParams, facts: CameraFacts, iso: float, rng: np.random.Generator
) -> np.ndarray:
    """Return a linear mosaic with the noise of a camera at an ISO, clipped to [0, 1] above only."""
    profile = facts.noise_profile(iso)
    assert profile is not None
    by_site = profile[["RGB".index(letter) for letter in params.cfa]]
    scale, offset = (bayer.repeated(by_site[:, i].reshape(2, 2), linear.shape) for i in (0, 1))
    sigma = np.sqrt(scale * np.clip(linear, 0, 1) + offset)
    result: np.ndarray = np.minimum(linear + sigma * rng.standard_normal(linear.shape, np.float32), 1)
    return result.astype(np.float32)


def camera_of(facts: CameraFacts) -> Camera:
    """Return make and model as in EXIF."""
    return Camera(facts.exif_make, facts.exif_model)


def settings_of(series: Series, facts: CameraFacts) -> Settings:
    """Return the settings of a series' ISP for a camera."""
    return Settings(model=series.model, camera=facts.name)


def codes_of(linear: np.ndarray, params: CanonicalParams) -> np.ndarray:
    """Return codes (H, W) uint16 of the camera's levels."""
    black = bayer.repeated(params.black_level, linear.shape)
    codes: np.ndarray = np.clip(np.rint(linear * (params.white_level - black) + black), 0, params.white_level)
    return codes.astype(np.uint16)
