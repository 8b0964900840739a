"""Measure how networks render a RAW that was made darker or brighter, and how well light is recovered from a JPEG.

    python tests/bench/bench_hdr.py PANORAMA… [--camera "Canon EOS 60D"] [--seed 11] [--count 9] [--size 256]
        [--model parametric] [--unprocess WEIGHTS] [--render WEIGHTS]

Simulated shots of panoramas: the same mosaic times a gain, developed by the simulated camera itself, is the truth. Take
panoramas that the training never saw, and for weights of one simulated camera the seed of its data set.

1. PSNR [dB] in sRGB at each gain of render(unprocess(JPEG) × gain), of render(true RAW × gain) and of the JPEG itself,
   decoded, multiplied by the gain and encoded again.
2. Linear light beside the light on the sensor, in EV after one fitted scale for each shot, of pixels whose light is
   above a two-hundredth of the sensor's white. Pixels that the sensor clipped stand apart: no method recovers them.
   "Regression" is a curve from the JPEG's luma to light, fitted on the other shots.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import paramisp_cli as paramisp
from paramisp_cli import color
from paramisp_cli import mosaic as bayer
from paramisp_cli.apps import hdr
from paramisp_cli.cameras import CameraFacts
from paramisp_cli.training.measure.metrics import psnr
from paramisp_cli.training.simulated import camera, scenes, shots
from paramisp_cli.types import Camera, CanonicalParams, OpticalParams, RawImage, SrgbImage

GAINS = (0.1, 0.35, 1.0, 1.4, 2.7, 4.0)
LUMA = np.array([0.2126, 0.7152, 0.0722])
FLOOR = 0.005
"""Light below which noise decides."""


@dataclass(frozen=True)
class Shot:
    """A simulated shot: its RAW, its JPEG's pixels, the light on the sensor (H, W, 3), not clipped."""

    name: str
    raw: RawImage
    picture: SrgbImage
    light: np.ndarray
    own: camera.Personality

    def developed(self, gain: float) -> np.ndarray:
        """Return the camera's own picture of the RAW times a gain, without its JPEG's EXIF: (H, W, 3) uint8."""
        c = self.raw.canonical
        light = bayer.linear(self.raw.mosaic, c.black_level, c.white_level)
        bayer.expose(light, c.cfa, c.wb_gains, gain)
        plain = replace(c, black_level=np.zeros((2, 2)), white_level=65535.0)
        return camera.develop(np.rint(light * 65535).astype(np.uint16), plain, self.raw.optical, self.own)

    def luminance(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (luminance of the light in linear sRGB (H, W), whether the sensor clipped the pixel)."""
        c: CanonicalParams = self.raw.canonical
        linear = (self.light * c.wb_gains) @ c.cam_to_srgb().T
        return np.maximum(linear @ LUMA, 1e-6), self.light.max(-1) >= 1


def take(paths: list[Path], facts: CameraFacts, seed: int, count: int, size: int) -> Iterator[Shot]:
    """Take shots like ``shots.shoot``, and keep the light above the sensor's white."""
    loaded = {path: scenes.load(path) for path in paths}
    own = camera.personality(facts.name, seed)
    for number in range(count):
        path = paths[number % len(paths)]
        rng = np.random.default_rng((1, 977, number))
        optical: OpticalParams = shots.draw_optical(facts, rng)
        view = scenes.view(loaded[path], size, optical.focal_length, rng)
        params = camera.canonical(facts, optical.iso, shots.draw_neutral(facts, rng))
        view, _ = shots.metered(view, rng)
        light = camera.projected(view, params, 0.7)
        mosaic = camera.sensed(light, params, facts.noise_profile(optical.iso), rng)
        body = Camera(facts.exif_make, facts.exif_model)
        raw = RawImage(mosaic, params, optical, body)
        pixels = camera.develop(mosaic, params, optical, own)
        picture = SrgbImage(pixels, body, optical, as_shot_neutral=params.as_shot_neutral)
        yield Shot(f"{path.stem} {number}", raw, picture, light[0].permute(1, 2, 0).numpy().astype(np.float64), own)


def exposures(taken: list[Shot], inverse: paramisp.Settings, forward: paramisp.Settings) -> None:
    """Print the table of gains: means, and the worst shot in brackets."""
    rows: dict[str, dict[float, list[float]]] = {}
    for shot in taken:
        made = paramisp.unprocess(shot.picture, replace(inverse, bit_depth=32))
        encoded = shot.picture.pixels / 255
        for gain in GAINS:
            truth = shot.developed(gain)
            simple = color.srgb_encode(np.clip(color.srgb_decode(encoded) * gain, 0, 1))
            results = {
                "render(unprocess(JPEG) × gain)": paramisp.render(hdr.exposed(made, gain), forward).pixels,
                "render(true RAW × gain)": paramisp.render(hdr.exposed(shot.raw, gain), forward).pixels,
                "JPEG, decoded × gain": np.rint(simple * 255).astype(np.uint8),
            }
            for name, pixels in results.items():
                rows.setdefault(name, {}).setdefault(gain, []).append(psnr(pixels / 255, truth / 255))
    print("| gain | " + " | ".join(f"{gain:g}" for gain in GAINS) + " |")
    print("|---" * (len(GAINS) + 1) + "|")
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{np.mean(v):.1f} ({np.min(v):.1f})" for v in values.values()) + " |")


def regression(taken: list[Shot], left_out: int) -> np.ndarray:
    """Return log2 of light for each of 256 luma codes, from the shots but one; gaps are filled between neighbours."""
    codes, logs = [], []
    for number, shot in enumerate(taken):
        if number != left_out:
            luminance, clipped = shot.luminance()
            use = ~clipped & (luminance > FLOOR)
            codes.append(np.rint(shot.picture.pixels[use] @ LUMA).astype(int))
            logs.append(np.log2(luminance[use]))
    code, log = np.concatenate(codes), np.concatenate(logs)
    count = np.bincount(code, minlength=256)
    mean = np.bincount(code, log, 256) / np.maximum(count, 1)
    known = np.flatnonzero(count >= 20)
    return np.interp(np.arange(256), known, mean[known])


def recovered(taken: list[Shot], settings: paramisp.Settings) -> None:
    """Print the table of linear light."""
    errors: dict[str, list[tuple[float, ...]]] = {}
    share = []
    for number, shot in enumerate(taken):
        luminance, clipped = shot.luminance()
        share.append(clipped.mean())
        inside = ~clipped & (luminance > FLOOR)
        encoded = shot.picture.pixels / 255
        curve = regression(taken, number)
        estimates = {
            "network": paramisp.hdr(shot.picture, settings, kind="linear").pixels @ LUMA,
            "parametric": paramisp.hdr(shot.picture, replace(settings, model="parametric", weights=None), kind="linear")
            .pixels @ LUMA,
            "JPEG, decoded": color.srgb_decode(encoded) @ LUMA,
            "regression": 2 ** curve[np.rint(shot.picture.pixels @ LUMA).astype(int)],
            "true RAW": paramisp.hdr(shot.raw, replace(settings, model="parametric", weights=None), kind="linear")
            .pixels @ LUMA,
        }  # fmt: skip
        for name, estimate in estimates.items():
            off = np.log2(np.maximum(estimate, 1e-4) / luminance)
            off -= np.median(off[inside])
            size = np.abs(off)
            beyond = float(off[clipped].mean()) if clipped.any() else np.nan
            errors.setdefault(name, []).append((size[inside].mean(), np.percentile(size[inside], 95), beyond))
    print(f"\nClipped by the sensor: {np.mean(share):.1%} of the pixels.\n")
    print("| light from | mean error, EV | 95th percentile | mean signed error of clipped pixels, EV |")
    print("|---|---|---|---|")
    for name, values in errors.items():
        mean, high, beyond = np.nanmean(values, 0)
        print(f"| {name} | {mean:.2f} | {high:.2f} | {beyond:+.2f} |")


def main() -> None:
    """Take the shots and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("panoramas", nargs="+", type=Path)
    parser.add_argument("--camera", default="Canon EOS 60D")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--count", type=int, default=9)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--model")
    parser.add_argument("--unprocess", metavar="WEIGHTS")
    parser.add_argument("--render", metavar="WEIGHTS")
    options = parser.parse_args()
    torch.set_num_threads(1)
    (facts,) = shots.pick_cameras([options.camera])
    taken = list(take(scenes.find(options.panoramas), facts, options.seed, options.count, options.size))
    inverse = paramisp.Settings(model=options.model, weights=options.unprocess)
    exposures(taken, inverse, paramisp.Settings(model=options.model, weights=options.render, look="weights"))
    if options.model != "parametric":
        recovered(taken, inverse)


if __name__ == "__main__":
    main()
