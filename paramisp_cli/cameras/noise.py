"""Physical noise from fitted noise: variance = scale·x + offset, for x linear in [0, 1].

Published fits are straight lines through measured variances. If the measured points bend (photo response
non-uniformity, clipping), a line may have an offset below zero, or a scale of zero or less. Both are unphysical, and
DNG forbids both (NoiseProfile, tag 51041). The table stores the fits; this module derives values to replace them.
"""

from __future__ import annotations

import numpy as np

READ_NOISE = 53.0
"""Read noise in electrons²: the median over the table's cameras of offset / scale² (a test checks it to 10 %)."""


def unphysical(rows: np.ndarray) -> np.ndarray:
    """Flag the unphysical values of fitted noise.

    ``rows``: (N, 7) ISO, scale R G B, offset R G B. Returns (N, 6) bool: scale ≤ 0, offset < 0.
    """
    return np.concatenate([rows[:, 1:4] <= 0, rows[:, 4:] < 0], 1)


def physical(rows: np.ndarray) -> np.ndarray:
    """Return (N, 7) rows with the flagged values replaced and all others unchanged, bit for bit.

    * Scale, in proportion to ISO: the median of scale / ISO over the channel's unflagged values, or over all channels'
      unflagged values if the channel has none (some fits lack a channel: all its values are 0).
    * Offset, the variance of the read noise, equal in all channels: p + q·ISO² (noise after and before the amplifier),
      fitted to the camera's unflagged offsets with p, q ≥ 0. Without any: ``READ_NOISE`` electrons², of which
      1 / scale saturate the range. The offset of a flagged scale is replaced too: both come from one fit.

    The masked pixels of an EOS 60D and an EOS 30D, whose fits are below 0, have 1.7 and 1.8 times the derived variance.
    """
    flags = unphysical(rows)
    if not flags.any():
        return rows
    iso, scale, offset = rows[:, :1], rows[:, 1:4].copy(), rows[:, 4:].copy()
    bad_scale = flags[:, :3]
    bad_offset = flags[:, 3:] | bad_scale
    if not bad_scale.all():
        for channel in range(3):
            bad = bad_scale[:, channel]
            usable = ~bad_scale if bad.all() else ~bad_scale & (np.arange(3) == channel)
            scale[bad, channel] = np.median((rows[:, 1:4] / iso)[usable]) * iso[bad, 0]
    if (~bad_offset).any():
        after, before = _read_noise(np.broadcast_to(iso, offset.shape)[~bad_offset], offset[~bad_offset])
        np.copyto(offset, after + before * iso**2, where=bad_offset)
    else:
        np.copyto(offset, READ_NOISE * scale**2, where=bad_offset)
    return np.concatenate([iso, scale, offset], 1)


def _read_noise(iso: np.ndarray, offset: np.ndarray) -> tuple[float, float]:
    """Fit offset = p + q·ISO² by least squares with p, q ≥ 0, assuming errors in proportion to ISO."""
    terms, target = np.stack([1 / iso, iso], 1), offset / iso
    best, least = (0.0, 0.0), np.inf
    for used in ([0, 1], [0], [1]):  # the optimum lies inside, or on one of the two edges
        fit = np.zeros(2)
        fit[used] = np.linalg.lstsq(terms[:, used], target, rcond=None)[0]
        error = float(np.sum((terms @ fit - target) ** 2))
        if (fit >= 0).all() and error < least:
            best, least = (float(fit[0]), float(fit[1])), error
    return best
