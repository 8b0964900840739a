"""Noise of RAW samples from the fits of the camera table: variance = scale·x + offset, for x linear in [0, 1].

The table's fits were published by darktable, and describe the finest details of demosaiced pictures. Two things keep
them from being the noise of RAW samples:

* **Smoothing.** Demosaicing and the choice of the finest details leave less variance. On flat areas of four RAW files
  in which the noise of photons dominates, the samples' variance is 11.4, 9.6, 11.6 and 10.7 times the fit of green (EOS
  350D, EOS 5D Mark IV, PowerShot G10, α7R III: geometric means of three levels; tests/bench/bench_noise.py). Red and
  blue are mixed with the other colours in the fits, so that their factors are 4 to 7; on the samples all channels have
  the scale of green, since all saturate at the same number of electrons.
* **Bent lines.** A fit may have an offset below zero, or a scale of zero or less. Both are unphysical, and DNG forbids
  both (NoiseProfile, tag 51041).
"""

from __future__ import annotations

import numpy as np

SMOOTHING = 10.6
"""Variance of samples over that of the fits: within 2 % of the geometric mean of the four files above."""
SMOOTHING_OF_DERIVED = 2.3
"""The same for offsets that were derived from fits at other ISOs: masked pixels of an EOS 30D and an EOS 60D, and flat
areas of a PowerShot G10, have 1.0, 2.4 and 5 times the derived variance."""
READ_NOISE = 71.0
"""Read noise in electrons² of a camera without any usable offset: the geometric mean of 99, 55, 318 and 15 at ISO 80 to
200 (EOS 30D, EOS 60D, EOS 350D, PowerShot G10)."""


def unphysical(rows: np.ndarray) -> np.ndarray:
    """Flag the unphysical values of fitted noise.

    ``rows``: (N, 7) ISO, scale R G B, offset R G B. Returns (N, 6) bool: scale ≤ 0, offset < 0.
    """
    return np.concatenate([rows[:, 1:4] <= 0, rows[:, 4:] < 0], 1)


def of_samples(rows: np.ndarray) -> np.ndarray:
    """Return the noise of RAW samples (N, 7) for fits of demosaiced pictures (N, 7): ISO, scale R G B, offset R G B.

    * Scale: ``SMOOTHING`` times that of green, for all channels. An unphysical value is replaced first: by the median
      of scale / ISO over the camera's usable values of green, or of all channels (some fits lack a channel).
    * Offset, the variance of the read noise: ``SMOOTHING`` times the fit. An unphysical one is p + q·ISO² (noise after
      and before the amplifier), fitted to the camera's usable offsets with p, q ≥ 0, times ``SMOOTHING_OF_DERIVED``.
      Without any: ``READ_NOISE``. The offset of an unphysical scale is replaced too: both come from one fit.
    """
    flags, iso = unphysical(rows), rows[:, 0]
    usable = ~flags[:, :3]
    per_iso = rows[:, 1:4] / iso[:, None]
    chosen = usable[:, 1] if usable[:, 1].any() else usable.any(1)
    green = np.where(usable[:, 1], rows[:, 2], 0.0)
    if not usable[:, 1].all():
        values = per_iso[chosen, 1] if usable[:, 1].any() else per_iso[usable]
        green = np.where(usable[:, 1], green, (np.median(values) if len(values) else 0.0) * iso)
    scale = np.repeat(SMOOTHING * green[:, None], 3, 1)
    sound = ~(flags[:, 3:] | flags[:, :3])
    if sound.any():
        isos = np.broadcast_to(iso[:, None], sound.shape)
        after, before = _read_noise(isos[sound], rows[:, 4:][sound])
        derived = SMOOTHING_OF_DERIVED * (after + before * isos**2)
    else:
        derived = READ_NOISE * scale**2
    return np.concatenate([rows[:, :1], scale, np.where(sound, SMOOTHING * rows[:, 4:], derived)], 1)


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
