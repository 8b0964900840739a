"""Metrics between a prediction and the truth: PSNR, SSIM and ΔE2000; whole pictures, and the protocol of the paper."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paramisp_cli import color, mosaic

BORDER = 2
"""Pixels at the edge of a crop that the protocol of the paper ignores."""


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the PSNR [dB] of values in [0, 1]."""
    return float(-10 * np.log10(max(float(np.mean((a.astype(np.float64) - b) ** 2)), 1e-12)))


def psnr_crops(a: np.ndarray, b: np.ndarray, size: int = 1024) -> float:
    """Compute the PSNR [dB] of the paper: five crops (centre and corners) without a 2-px border, one MSE over all."""
    height, width = a.shape[:2]
    high, wide = min(size, height), min(size, width)
    corners = [(0, 0), (0, width - wide), (height - high, 0), (height - high, width - wide)]
    errors = []
    for top, left in [*corners, ((height - high) // 2, (width - wide) // 2)]:
        crop = np.s_[top + BORDER : top + high - BORDER, left + BORDER : left + wide - BORDER]
        errors.append(float(np.mean((a[crop].astype(np.float64) - b[crop]) ** 2)))
    return float(-10 * np.log10(max(float(np.mean(errors)), 1e-12)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the mean structural similarity (Wang et al. 2004): 11×11 Gaussian window, σ = 1.5, per channel, range 1.

    A mosaic is compared plane by plane, so that the pattern of the CFA does not count as structure.
    """
    if a.ndim == 2:
        a, b = (np.stack(mosaic.sites(x), -1) for x in (a, b))
    x, y = (torch.from_numpy(np.ascontiguousarray(v.transpose(2, 0, 1)))[:, None].double() for v in (a, b))
    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def blur(v: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(v, taps.view(1, 1, 11, 1)), taps.view(1, 1, 1, 11))

    values = []
    for p, q in zip(torch.split(x, 1), torch.split(y, 1), strict=True):
        mp, mq = blur(p), blur(q)
        spread_p, spread_q, both = blur(p * p) - mp * mp, blur(q * q) - mq * mq, blur(p * q) - mp * mq
        s = (2 * mp * mq + 1e-4) * (2 * both + 9e-4) / ((mp * mp + mq * mq + 1e-4) * (spread_p + spread_q + 9e-4))
        values.append(float(s.mean()))
    return float(np.mean(values))


def delta_e(a: np.ndarray, b: np.ndarray, patch: int = 16) -> float:
    """Compute the median ΔE2000 of two sRGB pictures (H, W, 3), over means of patches of ``patch`` px: no detail."""
    small = []
    for x in (a, b):
        h, w = x.shape[0] // patch * patch, x.shape[1] // patch * patch
        linear = color.srgb_decode(x[:h, :w]).reshape(h // patch, patch, w // patch, patch, 3).mean((1, 3))
        small.append(color.srgb_to_lab(linear.reshape(-1, 3)))
    return float(np.median(color.ciede2000(*small)))
