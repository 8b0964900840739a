"""Estimate the white balance of a shot whose file states none, with its uncertainty.

Gains are handled as stops: log2 of the gains of red and blue, green 1. Every estimate is a Gaussian over them:

* a prior: the camera's daylight gains, moved along the locus of daylight and black-body light to the colour temperature
  that EXIF suggests (light source, flash, brightness of the scene), wide along the locus and narrow across it;
* for a RAW file with a picture by its camera: the gains that make the picture's neutral pixels neutral, so exact that
  the prior hardly counts;
* for a RAW file without one: the shades of grey of its pixels (Finlayson, Trezzi 2004), weighed against the prior.

A JPEG is balanced already: its pixels tell nothing about the gains, so the prior alone counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from paramisp_cli import cameras, color
from paramisp_cli.cameras import CameraFacts
from paramisp_cli.errors import FormatError
from paramisp_cli.formats import exif
from paramisp_cli.rendition.look import aligned_preview
from paramisp_cli.rendition.preview import Aligned, Misfit, superpixels
from paramisp_cli.types import OpticalParams, RawImage, SrgbImage

_MISSING = "the file has none"
"""End of the origin of a white balance that stands in for a missing one (``formats.libraw``)."""

_LIGHT_SOURCE, _FLASH, _WHITE_BALANCE = 0x9208, 0x9209, 0xA403

_DAYLIGHT = 1e6 / 5500
"""Reciprocal temperature [mired] of the light of a camera's daylight preset."""
_WARMEST, _COOLEST = 1e6 / 2500, 1e6 / 9000
_BRIGHT, _DIM = 12.0, 7.0
"""Exposure values (at ISO 100) of daylight and of lamps; between them it may be either."""
_LAMPS = 230.0
"""Reciprocal temperature [mired] to which cameras balance shots in dim light, on average: lamps, windows and shade."""
_SPREAD_BRIGHT, _SPREAD_DIM, _SPREAD_STATED, _SPREAD_UNKNOWN = 22.0, 48.0, 20.0, 45.0
"""Standard deviations along the locus [mired]."""
_ACROSS, _ACROSS_COMPUTED, _ACROSS_GENERIC = 0.10, 0.20, (0.28, 0.21)
"""Standard deviations of daylight gains [stops]: a preset; computed from the matrix; of all cameras (R, B)."""

_GREY = 0.45
"""Standard deviation [stops] of shades of grey: scenes are not grey on average."""
_POWER = 6.0
"""Minkowski norm of shades of grey."""
_NEAR = 0.35
"""Distance from neutral [stops], of a picture's linear light, at which a pixel's weight falls to 0.6."""
_FLOOR = 0.08
"""Least standard deviation [stops] of gains from a picture: cameras tint neutrals on purpose."""
_TILES = 4
"""Tiles a side of a picture, of which each is left out in turn."""


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Camera RGB (3,) of a neutral object, G = 1; covariance (2, 2) of both gains [stops]; a text of their basis."""

    neutral: np.ndarray
    covariance: np.ndarray
    basis: str

    @property
    def stops(self) -> np.ndarray:
        """Gains (2,) of red and blue [stops]."""
        return _stops(self.neutral)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation (2,) of both gains [stops]."""
        deviation: np.ndarray = np.sqrt(np.diag(self.covariance))
        return deviation

    @property
    def origin(self) -> str:
        """Text of the basis and the spread."""
        red, blue = self.spread
        return f"{self.basis}; ± {red:.2f} stops (R), {blue:.2f} (B)"


def is_missing(raw: RawImage) -> bool:
    """Tell whether a RAW file states no white balance, so that its reader took the camera's daylight."""
    return raw.origin.get("wb", "").endswith(_MISSING)


def of_picture(image: SrgbImage, facts: CameraFacts | None, optical: OpticalParams) -> Estimate:
    """Estimate the gains that a picture's camera had, from the camera and EXIF."""
    return _prior(facts, None, optical, image.metadata.exif)


def of_raw(raw: RawImage, optical: OpticalParams) -> Estimate:
    """Estimate the gains of a RAW file: from a picture by the camera if it is usable, else from its pixels."""
    before = _prior(cameras.find(raw.camera), raw.canonical.color_matrix, optical, raw.metadata.exif)
    try:
        stops, covariance = _from_picture(raw, aligned_preview(raw))
        basis = "the neutral colours of the camera's picture"
    except Misfit:
        stops, covariance = _shades_of_grey(raw), np.eye(2) * _GREY**2
        basis = f"the RAW's own colours and {before.basis}"
    first, second = np.linalg.inv(before.covariance), np.linalg.inv(covariance)
    both = np.linalg.inv(first + second)  # the product of the two Gaussians
    return Estimate(_neutral(both @ (first @ before.stops + second @ stops)), both, basis)


def balanced(raw: RawImage) -> RawImage:
    """Return the RAW with estimated gains, and their origin, if its file states none; else the RAW itself."""
    if not is_missing(raw):
        return raw
    estimate = of_raw(raw, raw.optical)
    canonical = replace(raw.canonical, as_shot_neutral=estimate.neutral)
    return replace(raw, canonical=canonical, origin={**raw.origin, "wb": estimate.origin})


def _stops(neutral: np.ndarray) -> np.ndarray:
    stops: np.ndarray = np.log2(neutral[1] / neutral[[0, 2]])
    return stops


def _neutral(stops: np.ndarray) -> np.ndarray:
    return np.array([2.0 ** -stops[0], 1.0, 2.0 ** -stops[1]])


# --- the prior --------------------------------------------------------------------------------------------------------


def _prior(
    facts: CameraFacts | None, matrix: np.ndarray | None, optical: OpticalParams, block: bytes | None
) -> Estimate:
    known = facts or cameras.GENERIC
    if facts is not None and facts.color_matrix is not None:
        matrix = facts.color_matrix
    if matrix is None:
        matrix = cameras.GENERIC.color_matrix
    assert matrix is not None
    neutral, across = known.daylight_neutral, np.full(2, _ACROSS)
    if facts is None or neutral is None:
        neutral, across = cameras.GENERIC.daylight_neutral, np.array(_ACROSS_GENERIC)
    elif "matrix" in facts.daylight_origin:
        across = np.full(2, _ACROSS_COMPUTED)
    assert neutral is not None
    mired, spread, light = _light(optical, block)
    at = [_stops_of(matrix, known, place) for place in (_DAYLIGHT, mired, mired + 1)]
    along = (at[2] - at[1]) * spread
    moved = neutral / neutral[1] * _neutral(at[1] - at[0])
    whose = "an average camera" if facts is None or facts.daylight_neutral is None else f"camera table ({facts.name})"
    return Estimate(moved, np.outer(along, along) + np.diag(across**2), f"{whose}, {light}")


def _light(optical: OpticalParams, block: bytes | None) -> tuple[float, float, str]:
    """Return the likely reciprocal temperature of the light [mired], its standard deviation, and a text."""
    try:
        tags = exif.parse(block) if block else exif.ExifBlock("<")
    except FormatError:
        tags = exif.ExifBlock("<")
    source, flash, balance = (next(iter(tags.numbers(tag)), None) for tag in (_LIGHT_SOURCE, _FLASH, _WHITE_BALANCE))
    if source in color.ILLUMINANT_KELVIN:
        kelvin = color.ILLUMINANT_KELVIN[int(source)]
        return 1e6 / kelvin, _SPREAD_STATED, f"light of {kelvin} K (EXIF LightSource)"
    if flash is not None and int(flash) & 1:
        return _DAYLIGHT, _SPREAD_BRIGHT, "daylight (the flash fired)"
    if balance == 1:  # set by the photographer
        return _DAYLIGHT, _SPREAD_UNKNOWN, "daylight"
    o = optical
    if o.iso is None or o.exposure_time is None or o.f_number is None:
        return _DAYLIGHT, _SPREAD_UNKNOWN, "daylight"
    brightness = math.log2(o.f_number**2 / o.exposure_time * 100 / o.iso)
    dim = min(max((_BRIGHT - brightness) / (_BRIGHT - _DIM), 0.0), 1.0)
    mired = _DAYLIGHT + dim * (_LAMPS - _DAYLIGHT)
    variance = (1 - dim) * _SPREAD_BRIGHT**2 + dim * _SPREAD_DIM**2  # of a mixture of daylight and lamps
    spread = math.sqrt(variance + dim * (1 - dim) * (_LAMPS - _DAYLIGHT) ** 2)
    light = f"light of about {round(1e6 / mired, -2):.0f} K (EV {brightness:.1f})" if dim else "daylight"
    return mired, spread, light


def _stops_of(matrix: np.ndarray, facts: CameraFacts, mired: float) -> np.ndarray:
    """Return the gains [stops] (2,) for a light; two matrices are interpolated over mired, as in DNG."""
    mired = min(max(mired, _COOLEST), _WARMEST)
    second = facts.color_matrix_2
    kelvin = color.ILLUMINANT_KELVIN.get(facts.illuminant_2 or 0)
    if second is not None and kelvin is not None and 1e6 / kelvin > _DAYLIGHT:
        first = 1e6 / 6504
        share = min(max((mired - first) / (1e6 / kelvin - first), 0.0), 1.0)
        matrix = matrix * (1 - share) + second * share
    x, y = _chromaticity(mired)
    camera = matrix @ np.array([x / y, 1, (1 - x - y) / y])
    return _stops(np.maximum(camera, 1e-3))


def _chromaticity(mired: float) -> tuple[float, float]:
    """Return CIE x, y: of daylight from 5000 K (CIE 15), of a black body to 4000 K (Kim et al. 2002), or a mixture."""
    kelvin = 1e6 / mired
    t = 1e3 / kelvin
    body_x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    if kelvin < 2222:
        body_y = -1.1063814 * body_x**3 - 1.34811020 * body_x**2 + 2.18555832 * body_x - 0.20219683
    else:
        body_y = -0.9549476 * body_x**3 - 1.37418593 * body_x**2 + 2.09137015 * body_x - 0.16748867
    if kelvin <= 7000:
        day_x = -4.6070 * t**3 + 2.9678 * t**2 + 0.09911 * t + 0.244063
    else:
        day_x = -2.0064 * t**3 + 1.9018 * t**2 + 0.24748 * t + 0.237040
    day_y = -3.0 * day_x**2 + 2.870 * day_x - 0.275
    share = min(max((250 - mired) / 50, 0.0), 1.0)
    return body_x + share * (day_x - body_x), body_y + share * (day_y - body_y)


# --- the pixels -------------------------------------------------------------------------------------------------------


def _from_picture(raw: RawImage, aligned: Aligned) -> tuple[np.ndarray, np.ndarray]:
    """Return the gains [stops] that make the picture's neutral pixels neutral, and their covariance.

    The camera's colour ratios are fitted, linearly and robustly, to those of the picture near neutral; the value at
    neutral is the gain. Leaving out each tile of the picture in turn tells how sure it is (jackknife). Raises Misfit if
    there are too few near-neutral pixels.
    """
    light, shown = aligned.camera_rgb.astype(np.float64), aligned.srgb.astype(np.float64)
    chosen = (aligned.weight > 0) & (light.min(-1) > 1e-3) & (light.max(-1) < 0.9)
    chosen &= (shown.min(-1) > 0.1) & (shown.max(-1) < 0.95)
    rows, columns = (np.arange(size) * _TILES // size for size in chosen.shape)
    tile = (rows[:, None] * _TILES + columns)[chosen]
    linear = color.srgb_decode(shown[chosen])
    ratios = np.log2(linear[:, [0, 2]] / linear[:, 1:2])
    stops = np.log2(light[chosen][:, 1:2] / light[chosen][:, [0, 2]])
    weight = np.exp(-0.5 * (ratios**2).sum(-1) / _NEAR**2) if len(ratios) else np.zeros(0)
    if weight.sum() < 100:
        raise Misfit("its preview has too few neutral colours")
    terms = np.concatenate([np.ones((len(ratios), 1)), ratios], -1)
    for _ in range(5):
        normal, right = _sums(terms, stops, weight, tile)
        fitted = np.linalg.solve(normal.sum(0), right.sum(0))
        away = np.linalg.norm(stops - terms @ fitted, axis=-1)
        typical = max(float(np.median(away)), 0.02)
        weight = np.exp(-0.5 * (ratios**2).sum(-1) / _NEAR**2) / (1 + (away / (2 * typical)) ** 2)
    normal, right = _sums(terms, stops, weight, tile)
    whole = np.linalg.solve(normal.sum(0), right.sum(0))[0]
    rest, sides = normal.sum(0) - normal, right.sum(0) - right
    left = np.array([np.linalg.solve(*each)[0] for each in zip(rest, sides, strict=True)])
    count = _TILES * _TILES
    variance = (count - 1) / count * (left - left.mean(0)).T @ (left - left.mean(0))
    return whole + _stops(raw.canonical.as_shot_neutral), variance + np.eye(2) * _FLOOR**2


def _sums(terms: np.ndarray, stops: np.ndarray, weight: np.ndarray, tile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the normal equations of each tile: matrices (n, 3, 3) and right sides (n, 3, 2)."""
    matrices, sides = [], []
    for number in range(_TILES * _TILES):
        inside = tile == number
        scaled = terms[inside] * weight[inside, None]
        matrices.append(scaled.T @ terms[inside] + 1e-6 * np.eye(3))
        sides.append(scaled.T @ stops[inside])
    return np.array(matrices), np.array(sides)


def _shades_of_grey(raw: RawImage) -> np.ndarray:
    """Return the gains [stops] that make the Minkowski means of the RAW's unclipped colours equal."""
    plain = replace(raw, canonical=replace(raw.canonical, as_shot_neutral=np.ones(3)))
    assert raw.crop is not None
    factor = max(max(raw.crop.height, raw.crop.width) // 2 // 400, 1)
    light = superpixels(plain, factor).reshape(-1, 3).astype(np.float64)
    usable = light[(light.max(-1) < 0.9) & (light.min(-1) > 0)]
    if len(usable) < 16:
        usable = np.maximum(light, 1e-4)
    means = (usable**_POWER).mean(0) ** (1 / _POWER)
    return _stops(means)
