"""Pairs of mosaics by simulated cameras: with camera shake and noise, and sharp without noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import drawn, isp
from paramisp_cli.cameras import CameraFacts
from paramisp_cli.rendition import develop, parametric
from paramisp_cli.training.simulated import camera, scenes, shake, shots
from paramisp_cli.types import CanonicalParams, OpticalParams

CFA = "RGGB"
"""CFA of every pair: moving a mosaic by a pixel turns any other into it."""
GREY = 0.18
"""Light at which the noise of a mosaic is stated."""
_SOFTEST = 1.6
"""Largest σ [px] of the lens: a picture may be soft without shake, and stays so."""
_SHARPNESS = (0.75, 2.2)
"""Least and most pixels of a panorama to a pixel of the view: more give finer detail."""
_LONGEST = 16.0
_STILL = 0.2
"""Share of the pairs with next to no shake."""
STILLEST = 0.7
"""Largest blur [px] of these."""


@dataclass(frozen=True, slots=True)
class Shaken:
    """A pair: the light on a sensor with shake, and without.

    blurred, sharp  light on the sensor (1, 3, H, W) as ``camera.projected`` returns it, not clipped
    codes           (H, W) uint16: the sensor's mosaic of ``blurred``, with noise
    noise           σ at ``GREY``
    length          blur [px] of ``path``
    """

    blurred: Tensor
    sharp: Tensor
    codes: np.ndarray
    canonical: CanonicalParams
    optical: OpticalParams
    noise: float
    length: float
    camera: str
    path: shake.Shake

    def mosaics(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mosaics (H, W) float32, linear, black 0, white 1: with shake and noise, and sharp without."""
        c = self.canonical
        raw = torch.from_numpy(self.codes.astype(np.float32))[None, None]
        linear = isp.normalise(raw, torch.tensor(c.black_level, dtype=torch.float32), c.white_level)
        return linear[0, 0].numpy(), isp.mosaic(self.sharp.clamp(0, 1), c.cfa)[0, 0].numpy()

    def pictures(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the camera's pictures (H, W, 3) uint8: its JPEG with shake and noise, and a sharp one without."""
        own = camera.personality(self.camera, seed)
        finest = replace(own, quality=100, chroma_half=False)
        silent = camera.sensed(self.sharp, self.canonical, np.zeros((3, 2)), np.random.default_rng(0))
        c, o = self.canonical, self.optical
        return camera.develop(self.codes, c, o, own), camera.develop(silent, c, o, finest)


def draw_length(rng: np.random.Generator) -> float:
    """Draw a blur [px]: next to none, or up to 16, short ones more often."""
    if rng.random() < _STILL:
        return float(rng.uniform(0, STILLEST))
    return float(1 + (_LONGEST - 1) * rng.random() ** 1.3)


def take(
    scene: scenes.Scene, facts: CameraFacts, size: int, length: float, rng: np.random.Generator, *, tries: int = 1
) -> Shaken:
    """Take a scene of ``size`` × ``size`` px with a shaken camera. Raises ValueError for a photograph too small."""
    optical = drawn.optical(facts, rng)
    assert optical.iso is not None
    draw = rng.uniform
    focal = scenes.pixels_per_radian(scene) / draw(*_SHARPNESS) if scene.panorama else size * draw(1, 4)
    path = shake.draw(length, focal, (size, size), rng)
    still = shake.still_of(scene, path, rng, tries=tries)
    inner = shake.FINE * path.reach
    view = still[:, inner:-inner:3, inner:-inner:3]
    gain = float(shots.metered(view, rng)[0].mean() / view.mean().clamp(min=1e-12))
    params = replace(drawn.canonical(facts, optical.iso, drawn.neutral(facts, rng)), cfa=CFA)
    noise = facts.noise_profile(optical.iso)
    assert noise is not None
    exposed = (still * gain).clamp(0, shake.BRIGHTEST)
    soft = float(rng.uniform(0.4, _SOFTEST))
    blurred, sharp = (camera.projected(each, params, soft) for each in shake.blurred_and_sharp(exposed, path))
    codes = camera.sensed(blurred, params, noise, rng)
    sigma = float(np.sqrt(noise[1, 0] * GREY + noise[1, 1]))
    return Shaken(blurred, sharp, codes, params, optical, sigma, path.length, facts.name, path)


def unprocessed(picture: np.ndarray, params: CanonicalParams) -> np.ndarray:
    """Return the mosaic (H, W) float32 that the parametric model makes of a picture (H, W, 3)."""
    stage = parametric.ParametricUnprocess(params)
    size = (picture.shape[0], picture.shape[1])
    return develop.expose(picture, stage, params, size, dtype=np.float32, threads=1)
