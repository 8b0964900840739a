"""Draw plausible shots at random: settings, light and camera parameters for simulated and synthetic RAW data."""

from __future__ import annotations

from functools import partial

import numpy as np

from paramisp_cli.cameras import CameraFacts
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, OpticalParams

_ISOS = np.array(
    [50, 64, 80, 100, 125, 160, 200, 250, 320, 400, 500, 640, 800, 1000, 1250, 1600, 2000, 2500, 3200, 4000, 5000, 6400,
     8000, 10000, 12800, 16000, 20000, 25600]
)  # fmt: skip
_TIMES = 1 / np.array(
    [4000, 3200, 2500, 2000, 1600, 1250, 1000, 800, 640, 500, 400, 320, 250, 200, 160, 125, 100, 80, 60, 50, 40, 30, 25,
     20, 15, 13, 10, 8, 6, 5, 4]
)  # fmt: skip
_F_NUMBERS = np.array([1.8, 2, 2.2, 2.5, 2.8, 3.2, 3.5, 4, 4.5, 5, 5.6, 6.3, 7.1, 8, 9, 10, 11, 13, 14, 16])
_FOCAL_LENGTHS = (18, 200)
_EV100 = (4.0, 15.0)
"""Brightness of scenes, from a dim room to open sunlight, in EV at ISO 100."""


def lacks(facts: CameraFacts) -> str | None:
    """Name the facts that a simulation needs and the camera table lacks; None if the camera can be simulated."""
    needs = {
        "colour matrix": facts.color_matrix is None,
        "daylight white balance": facts.daylight_neutral is None,
        "noise": facts.noise_rows is None,
        "Bayer pattern": facts.cfa not in CFA_PATTERNS,
    }
    missing = [name for name, lacking in needs.items() if lacking]
    return " and ".join(missing) if missing else None


def canonical(facts: CameraFacts, iso: float, neutral: np.ndarray) -> CanonicalParams:
    """Make the parameters of a shot with a camera that ``lacks`` nothing."""
    assert facts.cfa is not None
    assert facts.color_matrix is not None
    black, white = facts.levels(iso)
    return CanonicalParams(facts.cfa, np.full((2, 2), black), white, neutral, facts.color_matrix)


def speeds(facts: CameraFacts) -> tuple[float, float]:
    """Return the least and the greatest ISO at which the camera's noise is known."""
    assert facts.noise_rows is not None
    low, high = facts.noise_rows[0, 0], facts.noise_rows[-1, 0]
    if high < 4 * low:  # measured at hardly more than one speed: the noise profile extrapolates in proportion
        low, high = min(low, 100), max(high, 1600)
    return float(low), float(high)


def optical(facts: CameraFacts, rng: np.random.Generator, isos: tuple[float, float] | None = None) -> OpticalParams:
    """Draw settings for a scene between a dim room and sunlight, at ISO speeds of the camera, or at ``isos``."""
    low, high = isos or speeds(facts)
    within = _ISOS[(low * 0.9 <= _ISOS) & (high * 1.1 >= _ISOS)]
    pick = partial(rng.integers, 0)
    iso = float(within[pick(len(within))]) if len(within) else float(low)
    while True:  # two of three draws are accepted
        f_number, time = float(_F_NUMBERS[pick(len(_F_NUMBERS))]), float(_TIMES[pick(len(_TIMES))])
        if _EV100[0] <= np.log2(f_number**2 / time * 100 / iso) <= _EV100[1]:
            break
    shortest, longest = np.log(_FOCAL_LENGTHS)
    return OpticalParams(iso, time, f_number, float(round(np.exp(rng.uniform(shortest, longest)))))


def neutral(facts: CameraFacts, rng: np.random.Generator) -> np.ndarray:
    """Draw an as-shot neutral (3,), G = 1: daylight, warmer (down to lamps) or cooler (shade) light, with an error."""
    assert facts.daylight_neutral is not None
    kind = rng.random()
    warmth = rng.normal(0, 0.05) if kind < 0.5 else rng.uniform(0.05, 0.4) if kind < 0.85 else rng.uniform(-0.15, -0.05)
    off = rng.normal(0, 0.03, 2)
    shift = np.exp([warmth + off[0], 0, -1.2 * warmth + off[1]])
    # A neutral above 1 would clip red or blue before green, and tint highlights: cameras avoid it.
    found: np.ndarray = np.minimum(facts.daylight_neutral / facts.daylight_neutral[1] * shift, [0.95, 1, 0.95])
    return found
