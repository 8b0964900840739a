"""Measure the noise of RAW files in their flat windows, beside the camera table's noise.

    python tests/bench/bench_noise.py [RAW…]

A window has 8×8 blocks, a block 8×8 samples of one of the four planes. The difference of the two diagonals of each 2×2
keeps the noise's variance and removes slopes; a block has 16 of them. In a flat window with independent Gaussian noise
the blocks' variances follow the chi-squared distribution of 16 degrees. Windows with other 5 %, 50 % and 95 % quantiles
do not count. Of each level's windows the lower quartile counts: texture only adds variance. On a smooth synthetic ramp
this finds 0.93 of the true variance, at the darkest level 0.75.

A row for each channel: "electrons" at saturation are 1 / scale of a line through the levels, "times" are the measured
variance over the table's at the lowest level, the middle one and the highest. Compressed RAW may have fewer values than
noise; then these numbers mean nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import real_raws

import paramisp_cli as paramisp
from paramisp_cli import cameras

BLOCK, WINDOW = 8, 8
CHI_SQUARED = np.array([0.498, 0.959, 1.644])
"""Quantiles of chi-squared of 16 degrees, over its mean, and how far a window of 64 blocks may lie from them."""
TOLERANCE = np.array([0.12, 0.04, 0.25])
LEVELS = 8


def flat_windows(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (level, variance) of the flat windows of a plane (h, w) of light in [0, 1]."""
    side = BLOCK * WINDOW
    rows, columns = (n // side for n in plane.shape)
    plane = plane[: rows * side, : columns * side]
    rough = (plane[::2, ::2] - plane[1::2, ::2] - plane[::2, 1::2] + plane[1::2, 1::2]) / 2
    half = BLOCK // 2
    variance = (rough**2).reshape(rows, WINDOW, half, columns, WINDOW, half).mean((2, 5))
    variance = variance.swapaxes(1, 2).reshape(rows * columns, WINDOW * WINDOW)
    level = plane.reshape(rows, side, columns, side).mean((1, 3)).ravel()
    mean = variance.mean(1)
    quantiles = np.quantile(variance, [0.05, 0.5, 0.95], axis=1).T
    flat = (np.abs(quantiles - CHI_SQUARED * mean[:, None]) < TOLERANCE * mean[:, None]).all(1)
    flat &= (level > 0.003) & (level < 0.85)
    return level[flat], mean[flat]


def by_level(level: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return (n, 2) levels, each of an equal number of windows, and the lower quartile of their variances."""
    order = np.argsort(level)
    return np.array(
        [
            (level[some].mean(), np.quantile(variance[some], 0.25))
            for some in np.array_split(order, min(LEVELS, len(order) // 6))
        ]
    )


def line(points: np.ndarray) -> tuple[float, float]:
    """Fit variance = scale·level + offset, with errors in proportion to the variance."""
    terms = np.stack([points[:, 0], np.ones(len(points))], 1)
    scale, offset = np.linalg.lstsq(terms / points[:, 1:], np.ones(len(points)), rcond=None)[0]
    return float(scale), float(offset)


def main() -> None:
    """Print a row for each channel of each file."""
    print("| file | ISO | channel | windows | levels | scale | offset | electrons | table: scale | offset | times |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for path in real_raws.chosen([Path(name) for name in sys.argv[1:]]):
        raw = paramisp.read(path)
        assert isinstance(raw, paramisp.RawImage)
        facts, canonical = cameras.find(raw.camera), raw.canonical
        table = facts.noise_profile(raw.optical.iso) if facts else None
        for channel, name in enumerate("RGB"):
            found = []
            for site in (site for site in range(4) if canonical.cfa[site] == name):
                y, x = divmod(site, 2)
                black = canonical.black_level[y, x]
                found.append(flat_windows((raw.mosaic[y::2, x::2] - black) / (canonical.white_level - black)))
            level, variance = map(np.concatenate, zip(*found, strict=True))
            row = [path.stem, f"{raw.optical.iso or 0:g}", name, str(len(level))]
            if len(level) < 24:
                row += ["too few"] + [""] * 6
            else:
                points = by_level(level, variance)
                scale, offset = line(points)
                row += [f"{points[0, 0]:.3f}–{points[-1, 0]:.3f}", f"{scale:.3g}", f"{offset:.2g}", f"{1 / scale:.0f}"]
                if table is None:
                    row += [""] * 3
                else:
                    times = points[:, 1] / (table[channel, 0] * points[:, 0] + table[channel, 1])
                    shown = (times[0], times[len(times) // 2], times[-1])
                    row += [
                        f"{table[channel, 0]:.3g}",
                        f"{table[channel, 1]:.2g}",
                        ", ".join(f"{t:.1f}" for t in shown),
                    ]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
