"""Blurs of still scenes: panoramas, RAW photographs and pictures seen by a turning camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from paramisp_cli import drawn, formats
from paramisp_cli import mosaic as bayer
from paramisp_cli.cameras import CameraFacts
from paramisp_cli.errors import FormatError
from paramisp_cli.formats import raster
from paramisp_cli.training.blurred import sources
from paramisp_cli.training.blurred.series import (
    BORDER,
    Series,
    Shot,
    clipped,
    noisy,
    random_of,
    unprocessed,
    white_sites,
)
from paramisp_cli.training.blurred.sources import Source
from paramisp_cli.training.simulated import camera, scenes, shake, shots
from paramisp_cli.types import CanonicalParams, OpticalParams

_TRIES = 8
"""Most views drawn until one has texture."""


def blurs(source: Source, missing: set[int], series: Series) -> Iterator[Shot | str]:
    """Yield the missing blurs of a still scene, in order."""
    if not missing:
        return
    suffix = source.path.suffix.lower()
    is_picture = suffix != sources.PANORAMA and formats.identify(source.path) in raster.FORMATS
    scene = None if is_picture else scenes.load(source.path)
    pixels = sources.picture(source.path) if is_picture else None
    for number in sorted(missing):
        rng = random_of(source, number, series)
        facts = series.cameras[int(rng.integers(len(series.cameras)))]
        iso = float(np.exp(rng.uniform(*np.log(series.iso))))
        params = drawn.canonical(facts, iso, drawn.neutral(facts, rng))
        length = float(rng.uniform(*series.length))
        if pixels is not None:
            yield _of_picture(source, pixels, params, facts, iso, length, series, rng)
        elif scene is not None:
            yield _of_scene(source, scene, params, facts, iso, length, series, rng)


def _of_scene(
    source: Source, scene: scenes.Scene, params: CanonicalParams, facts: CameraFacts, iso: float, length: float,
    series: Series, rng: np.random.Generator,
) -> Shot:  # fmt: skip
    """Take a view of a panorama or RAW photograph with a turning camera, in radiance."""
    size = series.size + 2 * BORDER
    focal = scenes.pixels_per_radian(scene) / rng.uniform(0.8, 2) if scene.panorama else size * rng.uniform(1, 4)
    path = shake.draw(length, focal, (size, size), rng)
    try:
        still = shake.still_of(scene, path, rng, tries=_TRIES)
    except ValueError as error:
        raise FormatError(f"{source.path}: {error}; use a smaller --size") from error
    inner = shake.FINE * path.reach
    view = still[:, inner:-inner:4, inner:-inner:4]
    gain = float(shots.metered(view, rng)[0].mean() / view.mean().clamp(min=1e-12))
    pair = shake.blurred_and_sharp((still * gain).clamp(0, shake.BRIGHTEST), path)
    blurred, sharp = (camera.projected(each, params, 0.6) for each in pair)
    linear = bayer.sampled(blurred.clamp(0, 1)[0].permute(1, 2, 0).numpy(), params.cfa)
    silent = bayer.sampled(sharp.clamp(0, 1)[0].permute(1, 2, 0).numpy(), params.cfa)
    seen = noisy(linear, params, facts, iso, rng) if series.noise else linear
    told = {"length": round(path.length, 2)}
    return Shot(seen, silent, params, OpticalParams(iso=iso), facts, told)


def _of_picture(
    source: Source, pixels: np.ndarray, params: CanonicalParams, facts: CameraFacts, iso: float, length: float,
    series: Series, rng: np.random.Generator,
) -> Shot:  # fmt: skip
    """Shake a whole sharp picture, in the RAW made of it: each colour plane apart, at half its size."""
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    mosaic = unprocessed(pixels[:height, :width], params, facts, series)
    planes = np.stack(bayer.sites(mosaic))
    half = (planes.shape[1], planes.shape[2])
    focal = max(half) * float(rng.uniform(1, 4))
    path = shake.draw(length / 2, focal, half, rng)
    reach = path.reach
    if min(half) < 4 * reach:
        raise FormatError(f"{source.path}: {width}×{height} px are too few for a blur of {length:.1f} px")
    lit = np.stack(bayer.sites(clipped(pixels[:height, :width])))
    white = np.stack(bayer.sites(white_sites(params, (2, 2))))
    alpha = float(rng.uniform(*series.saturation))
    path = replace(path, size=(half[0] - 2 * reach, half[1] - 2 * reach))
    fine = (shake.FINE * half[0], shake.FINE * half[1])
    enlarged = F.interpolate(torch.from_numpy(np.concatenate([planes, lit]))[None], size=fine, mode="nearest")[0]
    blurred, sharp = (each.numpy() for each in shake.blurred_and_sharp(enlarged, path))
    light = np.clip(blurred[:4] + alpha * blurred[4:] * white, 0, 1)
    linear, silent = bayer.joined(list(light)), bayer.joined(list(np.clip(sharp[:4], 0, 1)))
    seen = noisy(linear, params, facts, iso, rng) if series.noise else linear
    told = {"length": round(2 * path.length, 2), "alpha": alpha}
    return Shot(seen, silent, params, OpticalParams(iso=iso), facts, told)
