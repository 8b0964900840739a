"""How long the main job takes beside LibRaw's postprocess, on one 12-megapixel photo: at most twice as long.

By turns, in one process, so without start-up: rawpy.imread + postprocess (its defaults: AHD, 8 bits) of the DNG, then
`unprocess --model parametric` of the JPEG (read → model → DNG written), then `render --model parametric` of the DNG
(read → model → JPEG written). The figures are medians of the rounds, and the medians of each round's ratio to the
LibRaw run just before it. Before any timing, the results must be right.
Run: python tests/bench/bench_main_job.py [--file PHOTO.jpg] [--rounds 7] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import os
import platform
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import piexif
import rawpy
from PIL import Image

from paramisp_cli import formats
from paramisp_cli.batch import find, run
from paramisp_cli.directions import Direction
from paramisp_cli.formats import WriteOptions
from paramisp_cli.parameters import Settings
from paramisp_cli.types import RawImage

LIMIT = 2.0
PARAMETRIC = Settings(model="parametric", device="cpu")


def photograph(path: Path, height: int = 3000, width: int = 4000) -> None:
    """Write a photo-like JPEG: smooth shapes, edges, texture, noise; EXIF of a camera in the table."""
    rng = np.random.default_rng(1)
    y, x = np.linspace(0, 1, height, dtype=np.float32)[:, None], np.linspace(0, 1, width, dtype=np.float32)[None]
    light = 0.25 + 0.45 * np.sin(7 * x) ** 2 * np.cos(5 * y + 2 * x) ** 2
    light = (
        light * np.where(np.sin(40 * x) + np.sin(31 * y + 9 * x) > 0.8, 0.4, 1) * (1 + 0.1 * np.sin(900 * x + 500 * y))
    )
    pixels = np.empty((height, width, 3), np.uint8)
    for channel, (tint, phase) in enumerate(((1.0, 0.0), (0.9, 1.0), (0.8, 2.0))):
        plane = light * tint * (1 + 0.25 * np.sin(9 * x + 6 * y + phase))
        plane += rng.standard_normal(plane.shape, dtype=np.float32) * 0.012
        pixels[..., channel] = np.clip(plane * 255, 0, 255)
    exif = piexif.dump(
        {
            "0th": {piexif.ImageIFD.Make: b"NIKON CORPORATION", piexif.ImageIFD.Model: b"NIKON D90"},
            "Exif": {piexif.ExifIFD.ExposureTime: (1, 125), piexif.ExifIFD.ISOSpeedRatings: 400},
        }
    )
    Image.fromarray(pixels).save(path, quality=95, subsampling=1, exif=exif)


def job(source: Path, target: Path, direction: Direction) -> None:
    """One file as the command line does it, without start-up."""
    job = find.Job(source, target)
    (outcome,) = run.run([job], direction, PARAMETRIC, WriteOptions(), run.Policy(find.OnExists.OVERWRITE))
    if outcome.status != "done":
        raise SystemExit(f"{source}: {outcome.error}")


def check(jpeg: Path, dng: Path, picture: Path) -> None:
    """The gate: the DNG holds what was quantised, and its rendering is the photo again."""
    image, raw = formats.read(jpeg), formats.read(dng)
    assert isinstance(raw, RawImage)
    with rawpy.imread(str(dng)) as file:
        np.testing.assert_array_equal(file.raw_image_visible, raw.mosaic)
    if image.orientation != 1:
        raise SystemExit("pass a photo of orientation 1")
    with Image.open(picture) as rendered:
        back = np.asarray(rendered)
    scale = 257 if image.pixels.dtype == np.uint16 else 1
    error = np.square(back.astype(np.float32) - image.pixels / np.float32(scale)).mean()
    psnr = 10 * np.log10(255**2 / error)
    print(f"gate: {back.shape[1]}×{back.shape[0]}, photo → DNG → picture {psnr:.1f} dB")
    if psnr < 28:
        raise SystemExit("gate failed: the picture is not the photo")


def timed(task: Callable[[], object]) -> float:
    """Wall time [s]."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> None:
    """Print the table; exit code 1 if over the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="a JPEG; default: one of 4000×3000 is made")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="show where the time goes instead")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jpeg, dng, picture = given.file or folder / "photo.jpg", folder / "photo.dng", folder / "back.jpg"
        if given.file is None:
            photograph(jpeg)
        job(jpeg, dng, Direction.UNPROCESS)
        job(dng, picture, Direction.RENDER)
        check(jpeg, dng, picture)

        def libraw() -> None:
            with rawpy.imread(str(dng)) as raw:
                raw.postprocess()

        tasks: dict[str, Callable[[], object]] = {
            "unprocess": lambda: job(jpeg, folder / "again.dng", Direction.UNPROCESS),
            "render": lambda: job(dng, picture, Direction.RENDER),
        }
        if given.profile:
            for label, task in tasks.items():
                print(f"== {label}")
                profile = cProfile.Profile()
                profile.runcall(task)
                pstats.Stats(profile, stream=sys.stdout).strip_dirs().sort_stats("tottime").print_stats(14)
            return
        versions = f"numpy {np.__version__}, rawpy {rawpy.__version__}"
        libraw_version = ".".join(map(str, rawpy.libraw_version))
        print(
            f"Python {platform.python_version()}, {versions}, LibRaw {libraw_version} (OpenMP {rawpy.flags['OPENMP']})"
        )
        print(f"{platform.machine()}, {os.cpu_count()} cores")
        libraw()
        times: dict[str, list[float]] = {"LibRaw": [], **{label: [] for label in tasks}}
        ratios: dict[str, list[float]] = {label: [] for label in tasks}
        for _ in range(given.rounds):
            for label, task in tasks.items():
                base = timed(libraw)
                taken = timed(task)
                times["LibRaw"].append(base)
                times[label].append(taken)
                ratios[label].append(taken / base)
        for label, found in times.items():
            line = f"{label:10} {statistics.median(found):6.2f} s ({min(found):.2f}–{max(found):.2f})"
            print(line + (f"  {statistics.median(ratios[label]):.2f} × LibRaw" if label in ratios else ""))
        over = [label for label, found in ratios.items() if statistics.median(found) > LIMIT]
        if over:
            raise SystemExit(f"over {LIMIT} × LibRaw: {', '.join(over)}")


if __name__ == "__main__":
    main()
