"""Values and indices: the mosaic's values as a list a plane, all of them or cells of them no wider than the noise.

``lossless`` lists the values that occur, if they are sparse (some cameras compress tones), else all between the least
and the greatest. ``near`` lists cells of neighbouring values: a value v becomes the middle of its cell, which lies
within share · σ(v) of it, where σ is the noise's standard deviation at v.
"""

from __future__ import annotations

import numpy as np

from paramisp_cli import cameras, flat_noise
from paramisp_cli.errors import FormatError
from paramisp_cli.types import CanonicalParams, RawImage

_SPARSE = 0.7
"""Share of the values in a plane's range, from which all are listed."""
_MIDTONE, _CLEARLY, _ENOUGH = np.array([0.1, 1.0]), 0.2, 4
"""Level, as factors of scale and offset, at which noise is compared; share of the variance that is clearly less;
levels that must be measured in every channel.

The measured variance is half of the true one at least.
"""


def exact(plane: np.ndarray) -> np.ndarray:
    """Return the values of a plane, ascending, int64."""
    seen = np.flatnonzero(np.bincount(plane.ravel(), minlength=1))
    least, greatest = int(seen[0]), int(seen[-1])
    return seen if len(seen) < _SPARSE * (greatest - least + 1) else np.arange(least, greatest + 1)


def cells(plane: np.ndarray, bound: np.ndarray, white: float) -> np.ndarray:
    """Return the middles, ascending, of the fewest cells that hold a plane's values within ``bound`` (65536,).

    The bound is a value's largest error and must not fall. Values from ``white`` on do not change: clipped samples must
    remain recognisable.
    """
    reach = np.floor(bound).clip(0, 1 << 16).astype(np.int64)
    seen = np.flatnonzero(np.bincount(plane.ravel(), minlength=1))
    clipped = seen[seen >= white]
    seen = seen[seen < white]
    middles, at = [], 0
    while at < len(seen):
        least = int(seen[at])
        middle = min(least + int(reach[least]), int(seen[-1]))
        at = int(np.searchsorted(seen, middle + int(reach[middle]), side="right"))  # the bound does not fall
        middles.append(middle)
    return np.array([*middles, *clipped.tolist()])


def indices(plane: np.ndarray, values: np.ndarray, white: float) -> np.ndarray:
    """Return the index, uint16, of the nearest listed value of each sample; both or none are ``white`` or more."""
    table: np.ndarray = np.searchsorted((values[1:] + values[:-1]) / 2, np.arange(1 << 16), side="right")
    below = int(np.searchsorted(values, white))
    if below:
        table[: int(np.ceil(white))] = np.minimum(table[: int(np.ceil(white))], below - 1)
    found: np.ndarray = table.astype(np.uint16)[plane]
    return found


def bounds(canonical: CanonicalParams, profile: np.ndarray, share: float) -> list[np.ndarray]:
    """Return for each site of the 2×2 the largest error allowed by value, (65536,): share · σ, rising."""
    found = []
    for site in range(4):
        black = float(canonical.black_level[site // 2, site % 2])
        span = canonical.white_level - black
        scale, offset = profile["RGB".index(canonical.cfa[site])]
        light = np.maximum((np.arange(1 << 16) - black) / span, 0)
        sigma = np.sqrt(scale * light + offset) * span
        # Strictly below the noise, also where share is 1.
        found.append(np.nextafter(share * sigma, 0))
    return found


def noise(raw: RawImage) -> tuple[np.ndarray, str]:
    """Return the noise (3, 2) of a shot, as ``RawImage.noise_profile``, and its origin.

    It is the file's own, or the camera table's at the shot's ISO. It is measured in the shot if both are missing, or if
    the shot has clearly less noise (some cameras filter it out of their RAW).
    """
    facts, (found, levels) = cameras.find(raw.camera), flat_noise.smoothest(raw)
    if raw.noise_profile is not None and _is_sound(raw.noise_profile):
        profile, origin = raw.noise_profile, "the RAW file"
    elif facts is not None and (of_table := facts.noise_profile(raw.optical.iso)) is not None:
        profile, origin = of_table, f"camera table ({facts.name}, ISO {raw.optical.iso:g})"
    else:
        return found, "measured in the shot"
    if levels >= _ENOUGH and (found @ _MIDTONE).sum() < _CLEARLY * (profile @ _MIDTONE).sum():
        return found, f"measured in the shot, which has less noise than {origin}"
    return profile, origin


def _is_sound(profile: np.ndarray) -> bool:
    """Tell whether a file's noise can be true: no channel without any, none whose variance exceeds that of white."""
    return bool(((profile >= 0) & (profile <= 1)).all() and (profile.sum(1) > 0).all())


def check(values: np.ndarray) -> None:
    """Raise FormatError unless values read from a file ascend within 16 bits."""
    if not len(values) or values[0] < 0 or values[-1] > 0xFFFF or (np.diff(values) <= 0).any():
        raise FormatError("its tables are damaged")
