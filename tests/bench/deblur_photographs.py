"""Measure how ``deblur`` changes sharp photographs: ``python tests/bench/deblur_photographs.py FILE…``.

Prints for each picture the PSNR of the result against the picture itself, of the pixels and of the written JPEG, with
the model ``--model`` for the way to RAW and back.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from paramisp_cli import formats
from paramisp_cli.apps import deblur
from paramisp_cli.formats import raster
from paramisp_cli.formats.base import WriteOptions
from paramisp_cli.settings import Settings
from paramisp_cli.training.measure.metrics import psnr


def scaled(pixels):
    full = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(pixels.dtype, 1)
    return pixels.astype(np.float64) / full


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--model")
    parser.add_argument("--quality", type=int, default=98)
    own = parser.parse_args()
    choices = deblur.Choices(weights=own.weights)
    found = []
    print(f"| photograph | pixels | worst of 100 blocks | written at quality {own.quality} |\n|---|---|---|---|")
    for path in own.files:
        image = formats.read(path)
        made = deblur.deblur(image, Settings(model=own.model), choices).image
        before, after = scaled(raster.apply_orientation(image.pixels, image.orientation)), scaled(made.pixels)
        height, width = (side // 32 * 32 for side in before.shape[:2])
        error = np.square(after - before)[:height, :width].reshape(height // 32, 32, width // 32, 32, 3).mean((1, 3, 4))
        worst = -10 * np.log10(max(np.percentile(error, 99), 1e-12))
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder, "x.jpg")
            formats.write(made, written, WriteOptions(quality=own.quality))
            again = scaled(formats.read(written).pixels)
        found.append((psnr(after, before), worst, psnr(again, before)))
        print(f"| {path.stem} | {found[-1][0]:.1f} | {worst:.1f} | {found[-1][2]:.1f} |", flush=True)
    print(f"lowest: {min(each[0] for each in found):.1f} dB")


if __name__ == "__main__":
    main()
