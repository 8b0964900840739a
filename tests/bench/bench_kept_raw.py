"""Measure JPEGs that carry their RAW: size, error and time for each RAW file, beside a DNG and JPEG XL.

    python tests/bench/bench_kept_raw.py [RAW…] [--quality 95] [--how lossless,near]

Without files, all real ones at hand are measured: about ten minutes. `--how` takes all values of `--keep-raw`, and
shares of the noise, such as 0.25.

All sizes are bits for each sample of the mosaic. "jpeg" is the picture as `paramisp render` writes it, "dng" a
lossless-JPEG DNG of the mosaic without a preview. "jxl 1" and "jxl 4" are the mosaic as lossless JPEG XL (effort 7,
without metadata), as one plane and as four planes of half the size, one for each site of the CFA; they are left out,
with a notice, if imagecodecs is not installed.

"extra" is the growth of the JPEG. "/ dng", "/ jxl 1" and "/ jxl 4" are the JPEG with its RAW over the JPEG and this
file together. "error" is the largest error in units of the noise's standard deviation at the sample's true value. Times
are seconds of processor time for keeping and for giving back.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import real_raws

import paramisp_cli as paramisp
from paramisp_cli import formats
from paramisp_cli.formats import kept
from paramisp_cli.formats.kept import levels

try:
    import imagecodecs
except ImportError:
    imagecodecs = None


def jpeg_xl(planes: list[np.ndarray]) -> int:
    """Return the bytes of planes as files of lossless JPEG XL; each is decoded, to be sure that it is lossless."""
    total = 0
    for plane in planes:
        data = imagecodecs.jpegxl_encode(plane, lossless=True, effort=7, numthreads=1)
        assert np.array_equal(imagecodecs.jpegxl_decode(data), plane)
        total += len(data)
    return total


def largest_error(raw: paramisp.RawImage, back: paramisp.RawImage) -> float:
    """Return the largest error in standard deviations of the noise at the true value."""
    bounds = levels.bounds(raw.canonical, levels.noise(raw)[0], 1.0)
    worst = 0.0
    for site, sigma in enumerate(bounds):
        true, other = (image.mosaic[site // 2 :: 2, site % 2 :: 2].astype(np.int64) for image in (raw, back))
        worst = max(worst, float((np.abs(true - other) / sigma[true]).max()))
    return worst


def measure(path: Path, quality: int, ways: list[str], folder: Path) -> dict[str, float]:
    """Measure one RAW file."""
    raw = paramisp.read(path)
    assert isinstance(raw, paramisp.RawImage)
    picture = paramisp.render(raw)
    bits = 8 / raw.mosaic.size
    formats.write(raw, folder / "raw.dng", formats.WriteOptions(embed_jpeg=False), overwrite=True)
    formats.write(picture, folder / "shot.jpg", formats.WriteOptions(quality=quality), overwrite=True)
    dng, jpeg = ((folder / name).stat().st_size * bits for name in ("raw.dng", "shot.jpg"))
    row = {"MP": raw.mosaic.size / 1e6, "iso": raw.optical.iso or 0, "jpeg": jpeg}
    others = {"dng": dng}
    if imagecodecs is not None:
        others["jxl 1"] = jpeg_xl([raw.mosaic]) * bits
        others["jxl 4"] = jpeg_xl([np.ascontiguousarray(raw.mosaic[y::2, x::2]) for y in (0, 1) for x in (0, 1)]) * bits
    row |= others
    for how in ways:
        begin = time.process_time()
        share = re.fullmatch(r"[0-9.]+", how)
        options = formats.WriteOptions(quality=quality, keep_raw="near" if share else how)
        with patch.object(kept, "NEAR", (float(how),) if share else kept.NEAR):
            formats.write(picture, folder / "kept.jpg", options, overwrite=True, raw=raw)
        middle = time.process_time()
        data = (folder / "kept.jpg").read_bytes()
        found, back = kept.find(data), kept.restore(data)
        end = time.process_time()
        assert found is not None
        assert how != "lossless" or np.array_equal(raw.mosaic, back.mosaic)
        row |= {f"{how} extra": len(data) * bits - jpeg}
        row |= {f"{how} / {name}": len(data) * bits / (jpeg + other) for name, other in others.items()}
        row |= {f"{how} error": largest_error(raw, back)}
        row |= {f"{how} s in": middle - begin, f"{how} s out": end - middle}
    return row


def main() -> None:
    """Print a line for each file, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--quality", type=int, default=95)
    parser.add_argument("--how", default="lossless,near")
    given = parser.parse_args()
    if imagecodecs is None:
        print("imagecodecs is not installed: no columns of JPEG XL", file=sys.stderr)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for path in real_raws.chosen(given.files):
            row = measure(path, given.quality, given.how.split(","), Path(folder))
            if not rows:
                print("| file | " + " | ".join(row) + " |", flush=True)
                print("|---|" + "---:|" * len(row), flush=True)
            rows.append(row)
            print(f"| {path.stem} | " + " | ".join(f"{value:.3g}" for value in row.values()) + " |", flush=True)
    if not rows:
        return
    means = [float(np.mean([row[key] for row in rows])) for key in rows[0]]
    print("| mean | " + " | ".join(f"{value:.3g}" for value in means) + " |")


if __name__ == "__main__":
    main()
