"""Measure how often `hdr` turns light and dark around: a place that the photograph shows lighter comes out darker.

    python tests/bench/hdr_order.py PHOTO… [--gains 0.1,1.4,2.7,4 --gains 0.25,1,2.7 …] [--model parametric]

Photographs are reduced to 800 pixels. The picture and its result are averaged in 32 × 32 fields. Of the pairs of fields
that differ by more than 10 L* in the photograph, those count whose order is reversed by more than 2 L* in the result.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import paramisp_cli as paramisp
from paramisp_cli import color

SIDE, FIELDS = 800, 32
APART, REVERSED = 10.0, 2.0
"""L* by which fields differ in the photograph, and by which a reversed order counts."""
SETS = ("0.1,1.4,2.7,4", "0.1,0.4,1.4,2.7,4", "0.25,1,2.7")


def reduced(photo: Path, folder: Path) -> Path:
    """Write a photograph of at most ``SIDE`` pixels a side, with its EXIF, into a folder."""
    small = folder / f"{photo.stem}.jpg"
    with Image.open(photo) as image:
        exif = image.info.get("exif", b"")
        image.thumbnail((SIDE, SIDE))
        image.save(small, quality=95, exif=exif)
    return small


def lightness(picture: Image.Image) -> np.ndarray:
    """Return L* of the fields of an upright sRGB picture: (FIELDS²,)."""
    fields = np.asarray(picture.convert("RGB").resize((FIELDS, FIELDS), Image.Resampling.BOX), np.float32) / 255
    return color.srgb_to_lab(color.srgb_decode(fields))[..., 0].ravel()


def reversed_share(before: np.ndarray, after: np.ndarray) -> float:
    """Return the share of the pairs, lighter by ``APART`` before, that are darker by ``REVERSED`` after."""
    far = before[:, None] - before > APART
    return float((after[:, None] - after < -REVERSED)[far].mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--gains", action="append")
    parser.add_argument("--model", default="parametric")
    chosen = parser.parse_args()
    print("| gains | reversed pairs, mean | worst photograph |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        small = [reduced(photo, Path(folder)) for photo in chosen.photos]
        shown = [lightness(ImageOps.exif_transpose(Image.open(photo))) for photo in small]
        for gains in chosen.gains or SETS:
            factors = [float(each) for each in gains.split(",")]
            shares = []
            for photo, before in zip(small, shown, strict=True):
                fused = paramisp.hdr(photo, paramisp.Settings(model=chosen.model), gains=factors)
                shares.append(reversed_share(before, lightness(Image.fromarray(fused.pixels))))
            worst = small[int(np.argmax(shares))].stem
            print(f"| {gains} | {np.mean(shares):.2%} | {max(shares):.1%} ({worst}) |", flush=True)


if __name__ == "__main__":
    main()
