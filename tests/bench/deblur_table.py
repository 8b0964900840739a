"""Measure ``deblur`` on simulated shake: panoramas, cameras and looks that its training never saw.

``python tests/bench/deblur_table.py SCENE… --weights FILE [--srgb FOLDER] [--views N] [--crops DIR]`` prints tables in
Markdown. Rows by length of the blur:

* RAW: the noisy mosaic, and the network's, against the sharp mosaic without noise.
* sRGB by ISP: the camera's own (simulated) processing of the deblurred mosaic, and pictures deblurred by way of the RAW
  that ``generic`` or ``parametric`` make of the JPEG.
* baselines on the JPEG: nothing, unsharp mask, and Wiener's filter and Richardson–Lucy's iteration on decoded light
  with the true kernel of the middle of the picture, which no user has.
* the same network trained on the pictures of one camera (``deblur_srgb.py``), on this camera and on others.
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from paramisp_cli import color, isp
from paramisp_cli.apps import deblur
from paramisp_cli.settings import Settings
from paramisp_cli.training.measure.metrics import psnr, ssim
from paramisp_cli.training.simulated import camera, scenes, shaken, shots
from paramisp_cli.types import Camera, RawImage, SrgbImage

sys.path.insert(0, str(Path(__file__).parent))
from deblur_srgb import CAMERA, LOOK, OnPictures
from deblur_train import TEST_CAMERAS

BINS = ((0.0, 0.0), (1.0, 5.0), (5.0, 10.0), (10.0, 25.0))
_SIZE, _BORDER, _SEED, _LOOK = 288, 8, 77, 3
"""Side of a view, border that is not measured, seed of the views, and seed of the cameras' looks (training: others)."""


def name_of(low, high):
    return "0 px" if high == 0 else f"{low:.0f}–{high:.0f} px"


def kernel_of(path, size=41):
    """Return the true kernel (size, size) of the middle of a picture."""
    places = path._places()[:, 4]
    places = places[path.nearest] - places  # a view that looks further right shows things further left
    kernel = np.zeros((size, size))
    for x, y in places:
        column, row = x + size // 2, y + size // 2
        left, top = int(np.floor(column)), int(np.floor(row))
        for dy in (0, 1):
            for dx in (0, 1):
                if 0 <= top + dy < size and 0 <= left + dx < size:
                    kernel[top + dy, left + dx] += (1 - abs(row - top - dy)) * (1 - abs(column - left - dx))
    return kernel / kernel.sum()


def spectrum_of(kernel, shape):
    padded = np.zeros(shape)
    half = kernel.shape[0] // 2
    padded[: kernel.shape[0], : kernel.shape[1]] = kernel
    return np.fft.rfft2(np.roll(padded, (-half, -half), (0, 1)))


def in_light(picture, work):
    """Run a filter on the decoded light (H, W) of each channel, mirrored at the border."""
    light = color.srgb_decode(picture / 255)
    pad = 32
    wide = np.pad(light, ((pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    done = np.stack([work(wide[..., i]) for i in range(3)], -1)[pad:-pad, pad:-pad]
    return color.srgb_encode(np.clip(done, 0, 1))


def wiener(picture, kernel, constant):
    def work(light):
        h = spectrum_of(kernel, light.shape)
        return np.fft.irfft2(np.fft.rfft2(light) * h.conj() / (np.abs(h) ** 2 + constant), light.shape)

    return in_light(picture, work)


def richardson_lucy(picture, kernel, rounds):
    def work(light):
        h, guess = spectrum_of(kernel, light.shape), light.clip(1e-4)
        for _ in range(rounds):
            seen = np.fft.irfft2(np.fft.rfft2(guess) * h, light.shape).clip(1e-6)
            guess = guess * np.fft.irfft2(np.fft.rfft2(light / seen) * h.conj(), light.shape).clip(0)
        return guess

    return in_light(picture, work)


def unsharp(picture, sigma=1.5, amount=0.7):
    x = torch.tensor(picture).permute(2, 0, 1)[None].float() / 255
    y = (x + amount * (x - camera.gaussian(x, sigma))).clamp(0, 1)
    return y[0].permute(1, 2, 0).numpy()


class Table:
    """PSNR and SSIM of methods by column."""

    def __init__(self):
        self.values = defaultdict(lambda: defaultdict(list))

    def add(self, method, column, got, want):
        inner = (slice(_BORDER, -_BORDER), slice(_BORDER, -_BORDER))
        got, want = np.asarray(got, np.float64)[inner], np.asarray(want, np.float64)[inner]
        self.values[method][column].append((psnr(got, want), ssim(got, want)))

    def lines(self, columns):
        yield "| | " + " | ".join(columns) + " |"
        yield "|---|" + "---|" * len(columns)
        for method, cells in self.values.items():
            means = [np.mean(cells[column], 0) if cells[column] else None for column in columns]
            shown = ["–" if mean is None else f"{mean[0]:.2f} / {mean[1]:.3f}" for mean in means]
            yield f"| {method} | " + " | ".join(shown) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--srgb", type=Path)
    parser.add_argument("--views", type=int, default=12, help="a length")
    parser.add_argument("--crops", type=Path)
    own = parser.parse_args()
    torch.set_num_threads(1)
    choices = deblur.Choices(weights=own.weights)
    sources = [scenes.load(path) for path in scenes.find(own.scenes)]
    cameras = shots.pick_cameras(TEST_CAMERAS)
    raw, pictures, other = Table(), Table(), Table()
    model = None
    if own.srgb:
        model = OnPictures()
        state = torch.load(own.srgb / "checkpoint.pt", weights_only=True)
        model.load_state_dict(state["average"])
        model.eval()
        print(f"sRGB network: {state['step']} steps, {state['core_seconds'] / 60:.1f} core minutes\n")
    clipped, lost = [], []
    for low, high in BINS:
        column = name_of(low, high)
        for number in range(own.views):
            rng = np.random.default_rng((_SEED, number, int(10 * high)))
            scene, facts = sources[number % len(sources)], cameras[number // len(sources) % len(cameras)]
            shot = shaken.take(scene, facts, _SIZE, float(rng.uniform(low, high)), rng, tries=8)
            before, after = raw_rows(raw, column, shot, choices)
            jpeg, sharp = shot.pictures(_LOOK)
            wanted = sharp / 255
            pictures.add("blurred JPEG", column, jpeg / 255, wanted)
            pictures.add("unsharp mask", column, unsharp(jpeg), wanted)
            if high > 0:
                kernel = kernel_of(shot.path)
                best = {}
                for constant in (3e-3, 1e-2, 3e-2, 1e-1, 3e-1):
                    best[constant] = wiener(jpeg, kernel, constant)
                top = max(best, key=lambda c: psnr(best[c], wanted))
                pictures.add("Wiener, true kernel, best constant", column, best[top], wanted)
                tried = [richardson_lucy(jpeg, kernel, rounds) for rounds in (5, 15)]
                pictures.add(
                    "Richardson–Lucy, true kernel, best of 5 and 15 rounds", column,
                    max(tried, key=lambda each: psnr(each, wanted)), wanted,
                )  # fmt: skip
            look = camera.personality(shot.camera, _LOOK)
            developed = camera.develop(after, shot.canonical, shot.optical, look)
            pictures.add("RAW deblurred, the camera's own ISP", column, developed / 255, wanted)
            made = {}
            for isp_name in ("generic", "parametric"):
                settings = Settings(model="parametric") if isp_name == "parametric" else Settings(weights="generic")
                red, green, blue = (float(gain) for gain in shot.canonical.wb_gains)
                settings = replace(settings, wb=(red, green, blue), cfa="RGGB")
                exif = Camera(facts.exif_make, facts.exif_model)
                image = SrgbImage(jpeg, camera=exif, optical=shot.optical)
                made[isp_name] = deblur.deblur(image, settings, choices).image.pixels
                pictures.add(f"JPEG deblurred by way of RAW, {isp_name}", column, made[isp_name] / 255, wanted)
            if high == 0:
                results = [made[name] / 255 for name in ("generic", "parametric")]
                results += [sharpened(model, jpeg)] if model is not None else []
                lost.append([psnr(result, jpeg / 255) for result in results])
            if model is not None:
                pictures.add(f"network on sRGB of a {CAMERA}", column, sharpened(model, jpeg), wanted)
                home = shaken.take(scene, shots.pick_cameras([CAMERA])[0], _SIZE, shot.length, rng, tries=8)
                blurred, clean = home.pictures(LOOK)
                other.add(f"{CAMERA}: blurred JPEG", column, blurred / 255, clean / 255)
                other.add(f"{CAMERA}: network on its sRGB", column, sharpened(model, blurred), clean / 255)
                _, mended = raw_rows(Table(), column, home, choices)
                again = camera.develop(mended, home.canonical, home.optical, camera.personality(CAMERA, LOOK))
                other.add(f"{CAMERA}: RAW deblurred, its own ISP", column, again / 255, clean / 255)
            clipped.append(float((before >= 0.98).mean()))
            if own.crops and number < 4:
                own.crops.mkdir(parents=True, exist_ok=True)
                row = np.concatenate([jpeg, developed, made["generic"], sharp], 1)
                Image.fromarray(row).save(own.crops / f"{column.replace(' ', '')}-{number}.png")
    columns = [name_of(*each) for each in BINS]
    for title, table in (("RAW", raw), ("sRGB", pictures), ("The camera of the sRGB training", other)):
        if table.values:
            print(f"{title}: PSNR [dB] / SSIM\n")
            print("\n".join(table.lines(columns)), end="\n\n")
    print(f"{own.views} views a length; {100 * np.mean(clipped):.1f} % of the sites are clipped")
    means = np.mean(lost, 0)
    names = ("generic", "parametric", "network on sRGB")
    told = ", ".join(f"{name} {mean:.1f} dB" for name, mean in zip(names, means, strict=False))
    print(f"0 px: the JPEG's result against the JPEG itself: {told}")


def raw_rows(table, column, shot, choices):
    """Add the rows of a mosaic; return (mosaic in [0, 1], deblurred codes)."""
    seen, sharp = shot.mosaics()
    profile = shots.cameras.find_by_name(shot.camera).noise_profile(shot.optical.iso)
    image = RawImage(shot.codes, shot.canonical, shot.optical, noise_profile=profile)
    after = deblur.deblur(image, Settings(), choices).image
    c = shot.canonical
    codes = torch.from_numpy(after.mosaic.astype(np.float32))[None, None]
    linear = isp.normalise(codes, torch.tensor(c.black_level).float(), c.white_level)
    table.add("blurred, noisy", column, seen.clip(0, 1), sharp)
    table.add("deblurred", column, linear[0, 0].numpy().clip(0, 1), sharp)
    return seen, after.mosaic


@torch.inference_mode()
def sharpened(model, jpeg):
    x = torch.tensor(jpeg).permute(2, 0, 1)[None].float() / 255
    return model.sharpened(x).clamp(0, 1)[0].permute(1, 2, 0).numpy()


if __name__ == "__main__":
    main()
