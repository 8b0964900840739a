"""Spectra: sensitivities of cameras, reflectances, lights, and the map between two cameras that they give.

``spectra.npz`` holds facts of rawtoaces-data (Academy Software Foundation, Apache License 2.0; the notice is in
``spectra-NOTICE.txt``); ``tests/cameras/build_spectra.py`` writes it. Lights come from formulas. Every spectrum has 81
values, from 380 to 780 nm in steps of 5 nm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

import numpy as np

WAVELENGTHS = np.arange(380.0, 781.0, 5.0)
"""Wavelengths [nm] of every spectrum."""


@dataclass(frozen=True, slots=True, eq=False)
class Sensor:
    """A camera's spectral sensitivity (81, 3), relative, and the laboratory that measured it."""

    name: str
    laboratory: str
    sensitivity: np.ndarray


@cache
def _file() -> dict[str, np.ndarray]:
    with resources.files(__package__).joinpath("spectra.npz").open("rb") as file, np.load(file) as stored:
        return {name: stored[name] for name in stored.files}


@cache
def sensors() -> tuple[Sensor, ...]:
    """Return all cameras whose sensitivity is known."""
    file = _file()
    return tuple(
        Sensor(str(name), str(laboratory), _fixed(codes / 65535))
        for name, laboratory, codes in zip(file["names"], file["laboratories"], file["sensitivities"], strict=True)
    )


@cache
def reflectances() -> np.ndarray:
    """Return (190, 81) reflectances of natural and artificial surfaces, 0 to 1."""
    return _fixed(_file()["reflectances"] / 65535)


@cache
def observer() -> np.ndarray:
    """Return the colour-matching functions (81, 3) of the CIE 1931 standard observer."""
    return _fixed(_file()["observer"] / 65535 * 2)


def _fixed(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    values.setflags(write=False)
    return values


def find(names: Sequence[str]) -> Sensor | None:
    """Return the sensor of a camera with one of these names; None if its sensitivity is not known."""
    keys = {_key(name) for name in names}
    return next((sensor for sensor in sensors() if _key(sensor.name) in keys), None)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9+*]", "", name.lower())


# Lights ---------------------------------------------------------------------------------------------------------------

# CIE 15: mean daylight S0 and its first two components S1, S2, in steps of 10 nm from 380 to 780 nm.
_S0 = (
    63.4, 65.8, 94.8, 104.8, 105.9, 96.8, 113.9, 125.6, 125.5, 121.3, 121.3, 113.5, 113.1, 110.8, 106.5, 108.8, 105.3,
    104.4, 100.0, 96.0, 95.1, 89.1, 90.5, 90.3, 88.4, 84.0, 85.1, 81.9, 82.6, 84.9, 81.3, 71.9, 74.3, 76.4, 63.3, 71.7,
    77.0, 65.2, 47.7, 68.6, 65.0,
)  # fmt: skip
_S1 = (
    38.5, 35.0, 43.4, 46.3, 43.9, 37.1, 36.7, 35.9, 32.6, 27.9, 24.3, 20.1, 16.2, 13.2, 8.6, 6.1, 4.2, 1.9, 0.0, -1.6,
    -3.5, -3.5, -5.8, -7.2, -8.6, -9.5, -10.9, -10.7, -12.0, -14.0, -13.6, -12.0, -13.3, -12.9, -10.6, -11.6, -12.2,
    -10.2, -7.8, -11.2, -10.4,
)  # fmt: skip
_S2 = (
    3.0, 1.2, -1.1, -0.5, -0.7, -1.2, -2.6, -2.9, -2.8, -2.6, -2.6, -1.8, -1.5, -1.3, -1.2, -1.0, -0.5, -0.3, 0.0, 0.2,
    0.5, 2.1, 3.2, 4.1, 4.7, 5.1, 6.7, 7.3, 8.6, 9.8, 10.2, 8.3, 9.6, 8.5, 7.0, 7.6, 8.0, 6.7, 5.2, 7.4, 6.8,
)  # fmt: skip


def black_body(kelvin: float) -> np.ndarray:
    """Return the light (81,) of a black body by Planck's law; a bulb's is close to it. Its maximum is 1."""
    metres = WAVELENGTHS * 1e-9
    light = metres**-5 / np.expm1(1.438776877e-2 / (metres * kelvin))
    return _scaled(light)


def daylight(kelvin: float) -> np.ndarray:
    """Return daylight (81,) of a correlated colour temperature of 4000 to 25 000 K (CIE 15). Its maximum is 1."""
    t = 1e3 / kelvin
    if kelvin <= 7000:
        x = 0.244063 + 0.09911 * t + 2.9678 * t**2 - 4.6070 * t**3
    else:
        x = 0.237040 + 0.24748 * t + 1.9018 * t**2 - 2.0064 * t**3
    y = -3.000 * x * x + 2.870 * x - 0.275
    under = 0.0241 + 0.2562 * x - 0.7341 * y
    first, second = (-1.3515 - 1.7703 * x + 5.9114 * y) / under, (0.0300 - 31.4424 * x + 30.0717 * y) / under
    basis = np.array([np.interp(WAVELENGTHS, WAVELENGTHS[::2], row) for row in (_S0, _S1, _S2)])
    return _scaled(basis[0] + first * basis[1] + second * basis[2])


def peaks(*each: tuple[float, float, float]) -> np.ndarray:
    """Return a light (81,) that is a sum of bells: (centre [nm], σ [nm], height). Its maximum is 1.

    A line of mercury is a narrow bell: 5 nm are the resolution of the spectra.
    """
    light = np.zeros_like(WAVELENGTHS)
    for centre, sigma, height in each:
        light += height * np.exp(-0.5 * ((WAVELENGTHS - centre) / sigma) ** 2)
    return _scaled(light)


def _scaled(light: np.ndarray) -> np.ndarray:
    return _fixed(light / light.max())


_MERCURY = ((405.0, 2.5, 0.25), (436.0, 2.5, 0.7), (546.0, 2.5, 0.6), (578.0, 3.0, 0.2))


@cache
def lights(kind: str) -> dict[str, np.ndarray]:
    """Return named lights (81,) of a kind.

    "fitted"       black bodies from 2300 to 4000 K and daylight from 4000 to 10 000 K: the lights of a fit
    "held-out"     others between them
    "fluorescent"  models of lamps: broad phosphors with mercury's lines, and a lamp of three narrow bands
    "led"          models of LEDs: blue with a yellow phosphor, cool to warm; violet with phosphors; red, green and blue
    """
    if kind == "fitted":
        bulbs = {f"{k} K bulb": black_body(k) for k in (2300, 2700, 3100, 3500, 4000)}
        return bulbs | {f"{k} K daylight": daylight(k) for k in (4000, 4700, 5500, 6500, 8000, 10000)}
    if kind == "held-out":
        bulbs = {f"{k} K bulb": black_body(k) for k in (2400, 2550, 2856, 3300, 3800)}
        return bulbs | {f"{k} K daylight": daylight(k) for k in (4300, 5000, 6000, 7000, 7500, 9000)}
    if kind == "fluorescent":
        return {
            "halophosphate, cool white": peaks(*_MERCURY, (482, 34, 0.25), (583, 38, 1.0)),
            "halophosphate, daylight": peaks(*_MERCURY, (480, 38, 0.75), (585, 42, 0.8)),
            "three bands, 4000 K": peaks(
                (405, 2.5, 0.08), (436, 2.5, 0.35), (453, 18, 0.12), (488, 5, 0.25), (544, 4, 1.0), (586, 5, 0.3),
                (611, 4, 0.95), (630, 5, 0.15),
            ),
        }  # fmt: skip
    if kind == "led":
        return {
            "blue with phosphor, cool": peaks((452, 10, 1.0), (556, 48, 0.62)),
            "blue with phosphor, warm": peaks((454, 10, 0.4), (598, 52, 1.0)),
            "violet with phosphors": peaks((415, 8, 0.5), (460, 25, 0.5), (535, 40, 0.8), (625, 42, 1.0)),
            "red, green and blue": peaks((465, 11, 0.8), (525, 16, 0.7), (630, 9, 1.0)),
        }
    raise ValueError(f"no kind of light: {kind}")


# Responses and fits ---------------------------------------------------------------------------------------------------


def response(spectra: np.ndarray, sensitivity: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Return camera RGB (…, 3) of reflectances (…, 81) under a light (81,), scaled so that white has G = 1."""
    weights = sensitivity * light[:, None]
    rgb: np.ndarray = spectra @ (weights / weights[:, 1].sum())
    return rgb


def neutral(sensitivity: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Return camera RGB (3,) of white under a light, G = 1."""
    weights = sensitivity * light[:, None]
    own: np.ndarray = weights.sum(0) / weights[:, 1].sum()
    return own


_PAIRS = ((0, 1), (1, 2), (0, 2))


def root_terms(balanced: np.ndarray) -> np.ndarray:
    """Return R, G, B, √(RG), √(GB), √(RB) (…, 6) of RGB (…, 3): they follow the exposure, as products do not.

    Finlayson, Mackiewicz and Hurlbert, "Color correction using root-polynomial regression" (IEEE TIP 2015).
    """
    above = np.maximum(balanced, 0)
    roots = [np.sqrt(above[..., one] * above[..., other]) for one, other in _PAIRS]
    return np.concatenate([balanced, np.stack(roots, -1)], -1)


def light_terms(neutral: np.ndarray) -> np.ndarray:
    """Return six numbers of a light by its neutral (3,): 1, u, v, u², uv, v² of u = ln(R/G), v = ln(B/G)."""
    u, v = np.log(neutral[0] / neutral[1]), np.log(neutral[2] / neutral[1])
    return np.array([1, u, v, u * u, u * v, v * v])


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A map from one camera to another that depends on the light, and knows the light by the first camera's neutral.

    coefficients  (3, terms, 6): channel, term of the colours (3 of a matrix, or 6), term of the light
    neutral       (2, 6): ln of the ratio of the second camera's R/G (B/G) to the first one's, by term of the light
    known         (n, 2): ln(R/G), ln(B/G) of the lights of the fit
    """

    coefficients: np.ndarray
    neutral: np.ndarray
    known: np.ndarray

    def at(self, neutral: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return coefficients (3, terms), the second camera's neutral (3,), and whether the light is a known kind.

        The nearest point of the line through the fitted lights stands for the light: polynomials do not extrapolate.
        """
        own = np.log([neutral[0] / neutral[1], neutral[2] / neutral[1]])
        nearest = _nearest(self.known, own)
        inside = float(np.abs(nearest - own).max()) <= _FAR
        terms = light_terms(np.exp([nearest[0], 0, nearest[1]]))
        red, blue = np.exp(self.neutral @ terms)
        other = np.array([neutral[0] / neutral[1] * red, 1, neutral[2] / neutral[1] * blue])
        return self.coefficients @ terms, other, inside


_FAR = 0.12
"""Distance [ln] from the line through the fitted lights at which a light counts as another kind."""


def _nearest(line: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return the point of a polyline (n, 2) nearest to a point (2,)."""
    start, step = line[:-1], np.diff(line, axis=0)
    along = ((point - start) * step).sum(1) / np.maximum((step**2).sum(1), 1e-12)
    feet = start + np.clip(along, 0, 1)[:, None] * step
    nearest: np.ndarray = feet[((feet - point) ** 2).sum(1).argmin()]
    return nearest


@lru_cache(maxsize=64)
def fitted(a: str, b: str) -> Fit:
    """Fit the map from one camera to another, by name, to all reflectances under the fitted lights; takes 20 ms."""
    one, other = (next(sensor.sensitivity for sensor in sensors() if sensor.name == name) for name in (a, b))
    return fit(one, other, reflectances(), list(lights("fitted").values()))


def fit(a: np.ndarray, b: np.ndarray, spectra: np.ndarray, under: Sequence[np.ndarray], *, roots: bool = True) -> Fit:
    """Fit a map between two sensitivities (81, 3) by least squares over reflectances (n, 81) and lights.

    Colours are white-balanced on both sides, and white maps to white exactly: the coefficients of each row sum to 1
    for every light. ``roots``: a root-polynomial, else a matrix.
    """
    rows: list[list[np.ndarray]] = [[], [], []]
    targets: list[list[np.ndarray]] = [[], [], []]
    known, ratios = [], []
    for light in under:
        white_a, white_b = neutral(a, light), neutral(b, light)
        balanced = response(spectra, a, light) / white_a
        wanted = response(spectra, b, light) / white_b
        colours = root_terms(balanced) if roots else balanced
        differences = colours[:, 1:] - colours[:, :1]  # the rows' sum is 1: the first term takes the rest
        terms = light_terms(white_a)
        products = (differences[:, :, None] * terms).reshape(len(spectra), -1)
        for channel in range(3):
            rows[channel].append(products * white_b[channel])
            targets[channel].append((wanted[:, channel] - colours[:, 0]) * white_b[channel])
        known.append(np.log(white_a[[0, 2]]))
        ratios.append(np.log((white_b / white_a)[[0, 2]]))
    count = 6 if roots else 3
    coefficients = np.zeros((3, count, 6))
    for channel in range(3):
        matrix, target = np.concatenate(rows[channel]), np.concatenate(targets[channel])
        found = _ridge(matrix, target).reshape(count - 1, 6)
        coefficients[channel, 1:] = found
        coefficients[channel, 0] = -found.sum(0)
        coefficients[channel, 0, 0] += 1
    line = np.array(known)
    designs = np.array([light_terms(np.exp([u, 0, v])) for u, v in line])
    ratio = np.stack([_ridge(designs, column) for column in np.array(ratios).T])
    return Fit(coefficients, ratio, line[line[:, 0].argsort()])


def _ridge(matrix: np.ndarray, target: np.ndarray, share: float = 1e-9) -> np.ndarray:
    """Solve least squares with a weak pull to 0: lights on one line leave some terms open."""
    scale = np.sqrt((matrix**2).mean(0))
    scaled = matrix / scale
    normal = scaled.T @ scaled
    normal[np.diag_indices_from(normal)] += share * len(matrix)
    solved: np.ndarray = np.linalg.solve(normal, scaled.T @ target) / scale
    return solved
