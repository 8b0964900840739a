"""The camera's look fitted to a RAW file's own preview, beside what other programs make of the same file.

PSNR to the camera's preview, each picture registered by shift, scale and lens warp: at 240 px width (colour and tone
alone) and at the preview's own size, up to 1600 px. darktable-cli and rawtherapee-cli run with their defaults where
they are installed. Then the processor and wall-clock seconds of the fit and of the full-size development.
Run: python tests/bench/bench_camera_look.py RAW… [--no-programs]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import rawpy

from paramisp_cli import formats
from paramisp_cli.formats import raster
from paramisp_cli.rendition import preview
from paramisp_cli.rendition.develop import develop
from paramisp_cli.rendition.look import camera_look
from paramisp_cli.types import RawImage, SrgbImage


def reduced(picture: np.ndarray, longest: int) -> np.ndarray:
    return preview._reduced(picture, -(-max(picture.shape[:2]) // longest)) / np.float32(255)


def likeness(picture: np.ndarray, shown: np.ndarray, longest: int) -> float:
    """PSNR of a program's picture (H, W, 3) uint8 to the preview, at about ``longest`` px of the longer side.

    Registered at 800 px or the preview's size, then both are reduced: the registration is the same for all sizes.
    """
    target = reduced(shown, 800)
    factor = max(max(picture.shape[:2]) // max(target.shape[:2]), 1)
    placed = preview._Placement(preview._reduced(picture, factor) / np.float32(255), target.shape[:2])
    placed.shift(preview._edges(target[..., 1]))
    for _ in range(3):
        placed.refine(preview._edges(target[..., 1]))
    if longest > 800:
        target = reduced(shown, longest)
        factor = max(max(picture.shape[:2]) // max(target.shape[:2]), 1)
        fine = preview._Placement(preview._reduced(picture, factor) / np.float32(255), target.shape[:2])
        fine.warp = placed.warp * (max(fine.shape) / max(placed.shape))
        fine.refine(preview._edges(target[..., 1]))
        placed = fine
    got, inside = placed.sampled()
    step = max(max(target.shape[:2]) // longest, 1)
    off = preview._reduced((got - target) * inside[..., None], step)
    share = preview._reduced(inside.astype(np.float32), step)
    return float(-10 * np.log10((off[share == 1] ** 2).mean()))


def by_program(path: Path, folder: Path, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    commands = {
        "RawTherapee": ["rawtherapee-cli", "-o", str(folder / "rt.tif"), "-t", "-b8", "-Y", "-d", "-c", str(path)],
        "darktable": ["darktable-cli", str(path), str(folder / "dt.tif"), "--core", "--configdir", str(folder / "dt")],
    }
    made = {}
    for name, command in commands.items():
        if shutil.which(command[0]) is None:
            continue
        subprocess.run(command, capture_output=True, check=False, timeout=300)
        for found in folder.glob("rt.tif" if name == "RawTherapee" else "dt.tif"):
            picture = formats.read(found)
            if isinstance(picture, SrgbImage):
                made[name] = raster.to_depth(picture.pixels, 8)
    with rawpy.imread(str(path)) as raw:
        made["LibRaw"] = raw.postprocess(use_camera_wb=True, user_flip=0)
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--no-programs", action="store_true")
    chosen = parser.parse_args()
    for path in chosen.files:
        raw = formats.read(path)
        if not isinstance(raw, RawImage) or raw.metadata.jpeg is None:
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        fitted, report = camera_look(raw)
        spent = [(time.perf_counter() - wall, time.process_time() - cpu)]
        if fitted is None:
            print(f"{path.name}: {report.reason}", flush=True)
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        ours = develop(raw, fitted.rendition)
        spent.append((time.perf_counter() - wall, time.process_time() - cpu))
        shown = raster.read_bytes(raw.metadata.jpeg, path).pixels
        shown = raster.apply_orientation(shown, 1)
        pictures = {"ours": ours}
        if not chosen.no_programs:
            with tempfile.TemporaryDirectory() as folder:
                pictures |= by_program(path, Path(folder), ours.shape[:2])
        figures = "  ".join(
            f"{name} {likeness(picture, shown, 240):.1f}/{likeness(picture, shown, 1600):.1f}"
            for name, picture in pictures.items()
        )
        times = ", ".join(f"{w:.2f} s ({c:.2f} s of a core)" for w, c in spent)
        print(
            f"{path.name} ({ours.shape[0] * ours.shape[1] / 1e6:.1f} MP): {figures}; fit, development: {times}",
            flush=True,
        )


if __name__ == "__main__":
    main()
