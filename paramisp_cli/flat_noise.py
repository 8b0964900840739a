"""Measure the noise of a mosaic in its smooth blocks: variance = scale·x + offset, for x linear in [0, 1].

In blocks of 8×8 samples of a plane, the difference of the two diagonals of each 2×2 keeps the noise's variance and
removes slopes. A block has 16 of them: the block variances of independent Gaussian noise follow the chi-squared
distribution of 16 degrees. Texture only adds variance, so a low quantile of each level's blocks counts.
"""

from __future__ import annotations

import numpy as np

from paramisp_cli.types import RawImage

_BLOCK, _LEVELS, _FEWEST = 8, np.arange(0, 0.9, 0.02), 40
_QUARTILE = 0.745
"""Lower quartile of the chi-squared distribution of 16 degrees, over its mean."""


def smoothest(raw: RawImage) -> tuple[np.ndarray, int]:
    """Return the least noise (3, 2) of a RAW, and the least number of levels with enough blocks of any channel.

    Of each level's blocks the 5 % quantile counts: half the variance if all blocks are smooth.
    """
    return _measured(raw, 0.05, 1)


def usual(raw: RawImage, blocks: int = 1 << 14) -> np.ndarray | None:
    """Return the noise (3, 2) of a RAW, scale > 0 and offset ≥ 0 as DNG's NoiseProfile asks; None if it is too small.

    Of each level's blocks the lower quartile counts, corrected as if all blocks were smooth: 1.3 times the variance if
    half of them are texture. A large RAW is sampled: about ``blocks`` blocks of each plane.
    """
    of_plane = raw.mosaic.size // (4 * _BLOCK**2)
    noise, levels = _measured(raw, 0.25, max(1, round((of_plane / blocks) ** 0.5)))
    if not levels:
        return None
    noise /= _QUARTILE
    noise[:, 0] = noise[:, 0].clip(1e-8)
    return noise


def _measured(raw: RawImage, quantile: float, step: int) -> tuple[np.ndarray, int]:
    """Return the noise (3, 2) from every ``step``-th block in each direction, and the least number of levels."""
    found, levels, white = np.zeros((3, 2)), 1 << 16, raw.canonical.white_level
    in_codes = np.issubdtype(raw.mosaic.dtype, np.integer)  # else it is linear, in [0, 1]
    least = 1 / (12 * white * white) if in_codes else 0.0  # rounding to whole numbers
    for channel in range(3):
        points: list[tuple[float, float, float]] = []
        for site in (site for site in range(4) if raw.canonical.cfa[site] == "RGB"[channel]):
            black = float(raw.canonical.black_level[site // 2, site % 2])
            plane = raw.mosaic[site // 2 :: 2, site % 2 :: 2]
            rows, columns = (n // _BLOCK * _BLOCK for n in plane.shape)
            if not rows or not columns:
                continue  # no block: no level
            blocks = plane[:rows, :columns].reshape(rows // _BLOCK, _BLOCK, columns // _BLOCK, _BLOCK)
            blocks = blocks[::step, :, ::step].astype(np.float32)
            if in_codes:
                blocks = (blocks - np.float32(black)) / np.float32(white - black)
            even, odd = blocks[:, ::2], blocks[:, 1::2]
            rough = (even[..., ::2] - odd[..., ::2] - even[..., 1::2] + odd[..., 1::2]) / 2
            variance, level = (rough**2).mean((1, 3)).ravel(), blocks.mean((1, 3)).ravel()
            for low in _LEVELS:
                inside = variance[(level >= low) & (level < low + 0.02)]
                if len(inside) >= _FEWEST:
                    points.append((low + 0.01, float(np.quantile(inside, quantile)), float(len(inside))))
        found[channel] = _line(points, least)
        levels = min(levels, len(points))
    return found, levels


def _line(points: list[tuple[float, float, float]], least: float) -> tuple[float, float]:
    """Fit variance = scale·level + offset, both ≥ 0, to (level, variance, number); offset ≥ ``least``."""
    if not points:
        return 0.0, least
    level, variance, number = np.array(points).T
    weight = np.sqrt(number) / np.maximum(variance, max(least, 1e-12))
    for used in ([0, 1], [0], [1]):
        terms = np.stack([level, np.ones_like(level)], 1)[:, used]
        fit = np.zeros(2)
        fit[used] = np.linalg.lstsq(terms * weight[:, None], variance * weight, rcond=None)[0]
        if (fit >= 0).all():
            break
    return float(fit[0]), max(float(fit[1]), least)
