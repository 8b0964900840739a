"""How fast mosaics are written as DNG, in MB of mosaic (16 bits a sample) a second.

A 24-megapixel mosaic with the noise of a photograph (14 bits, ISO 400 or so), written to a temporary folder in both
encodings by turns; medians of the rounds. "plain write" is the same bytes through file.write, for the disk's share.
Run: python tests/bench/bench_dng_write.py [FOLDER]
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from paramisp_cli.formats import dng, ljpeg
from paramisp_cli.formats.base import WriteOptions
from paramisp_cli.types import Camera, CanonicalParams, OpticalParams, RawImage

MATRIX = [[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]]
ROUNDS = 7


def photograph(height: int, width: int) -> np.ndarray:
    """(H, W) uint16 RGGB mosaic: smooth shapes, edges and a little texture, shot and read noise, black 512."""
    rng = np.random.default_rng(1)
    y, x = np.linspace(0, 1, height, dtype=np.float32)[:, None], np.linspace(0, 1, width, dtype=np.float32)[None]
    light = 300 + 6000 * np.sin(7 * x) ** 2 * np.cos(5 * y + 2 * x) ** 2
    light *= np.where((np.sin(40 * x) + np.sin(31 * y + 9 * x)) > 0.8, 0.3, 1)  # edges
    light *= 1 + 0.1 * np.sin(900 * x + 500 * y)  # texture
    light[0::2, 0::2] *= 0.5
    light[1::2, 1::2] *= 0.6
    light += rng.standard_normal(light.shape, dtype=np.float32) * np.sqrt(0.6 * light + 30)
    return np.clip(light + 512, 0, 16383).astype(np.uint16)


def seconds(task: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    mosaic = photograph(4000, 6000)
    canonical = CanonicalParams("RGGB", np.array(512), 16383, np.array([0.5, 1, 0.6]), np.array(MATRIX))
    raw = RawImage(mosaic, canonical, OpticalParams(400, 1 / 125, 2.8, 50), Camera("Maker", "Maker M1"))
    megabytes = mosaic.nbytes / 1e6
    tiles = [mosaic[top : top + 256, left : left + 256] for top in range(0, 3840, 256) for left in range(0, 5888, 256)]
    book = ljpeg.codebook(ljpeg.histogram(tiles[17]))
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}, {tiles.WORKERS} threads")
    print(f"{mosaic.shape[1]}×{mosaic.shape[0]}, {megabytes:.0f} MB of mosaic, {ROUNDS} rounds")
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        paths = {name: Path(folder, f"{name}.dng") for name in ("lossless", "none")}
        tasks: dict[str, Callable[[], object]] = {
            name: lambda name=name: dng.write(raw, paths[name], WriteOptions(compression=name))  # type: ignore[misc]
            for name in paths
        }
        tasks["plain write"] = lambda: Path(folder, "plain").write_bytes(mosaic.data)
        tasks["digest alone"] = lambda: tiles.digest(mosaic)
        tasks["tile encoder alone, 1 thread"] = lambda: [ljpeg.encode(tile, book=book) for tile in tiles]
        sizes = {"tile encoder alone, 1 thread": len(tiles) * 256 * 256 * 2 / 1e6}
        for task in tasks.values():
            task()
        times = {name: [] for name in tasks}
        for _ in range(ROUNDS):
            for name, task in tasks.items():
                times[name].append(seconds(task))
        for name, found in times.items():
            size, median = sizes.get(name, megabytes), statistics.median(found)
            spread = f"{size / max(found):.0f}–{size / min(found):.0f}"
            print(f"{name:30} {median:.3f} s  {size / median:6.0f} MB/s ({spread})  {median / size * 2:.4f} s/MP")
        bits = {name: path.stat().st_size * 8 / mosaic.size for name, path in paths.items()}
        print("bits a sample: " + ", ".join(f"{name} {value:.2f}" for name, value in bits.items()))


if __name__ == "__main__":
    main()
