"""The confidence map of a made RAW: for each site, the expected error beside the sample of the camera's own RAW.

A budget of independent causes gives each site one number: b² = Σ (weight · term)², over the ``TERMS``. A table turns it
into half-widths that hold a stated share of the errors. Weights and tables were fitted to photographs with known RAW
(tests/bench/confidence_table.py) and lie in confidence.json. No weight is negative and the tables rise, so more of any
cause never gives a smaller half-width.

An error is relative: |true − g · made| / (g · made + ``FLOOR``), black 0, white 1. The factor g is one number for the
whole picture, its unknown brightness, which no map of sites can tell; ``scale_ev`` states its uncertainty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from paramisp_cli import color
from paramisp_cli import mosaic as bayer
from paramisp_cli.rendition import parametric
from paramisp_cli.rendition.bands import in_bands
from paramisp_cli.types import CanonicalParams, Confidence

TERMS = (
    "base",  # every site
    "quantisation",  # steps of the codes and of the JPEG's tables, through the slope of the inverse tone curve
    "contrast",  # deviation of the channel in 5×5 pixels, through the same slope: edges, demosaicing, sharpening
    "noise",  # noise of the camera, which the picture does not show
    "correction",  # distance of the model's value from the parametric one, beside the picture's usual distance
    "tone",  # distance in light from the picture's middle: an error of the tone curve grows with it
    "saturation",  # distance of the colour from grey
    "clipped",  # the channel's code is at or near its end
    "headroom",  # light that may lie above a clipped code
    "near_clipped",  # any channel within 2 pixels is at or near its end
    "dark",  # share of the floor in the value
)
"""Causes of errors, in the order of the weights."""
FLOOR = 1 / 512
"""Share of white that is added to every value, so that black has a finite relative error."""
LEVELS = (0.5, 0.68, 0.9)
"""Shares of errors that half-widths exist for."""
PARAMETRIC, KNOWN, UNKNOWN = "parametric", "known", "unknown"
"""Kinds of models with numbers of their own: the formula; a model that learned the look of the picture's camera: a
network, or a look fitted to the camera's files; a network that did not learn it."""

_REACH = 2
_BAND = 1 << 15  # 2×2 sites in a band: its planes stay near a core's cache
_SURVEYED = 1 << 16  # most 2×2 sites in the medians of a picture
_CLIPPED = 249 / 255
"""Code from which a channel counts as partly clipped: a JPEG blurs and rings around its white."""


@dataclass(frozen=True, slots=True)
class Source:
    """Facts of a picture that the map needs beside its pixels.

    step      step of the codes, 1 is white: 1/255 of an 8-bit picture
    tables    mean square of the JPEG's quantisation tables of luma and chroma, in codes of 8 bits; None: no JPEG
    noise     (3, 2) variance of R, G, B of the camera: scale · x + offset; None: noise is unknown
    """

    step: float = 1 / 255
    tables: tuple[float, float] | None = None
    noise: np.ndarray | None = None


def kind_of(model: str, known: bool) -> str:
    """Return the kind of an architecture; ``known`` tells whether it learned the look of the picture's camera."""
    return PARAMETRIC if model == "parametric" else KNOWN if known else UNKNOWN


def step_of(dtype: np.dtype[Any]) -> float:
    """Return the step of the codes of a picture's type; floats count as 16 bits."""
    return 1 / 255 if dtype == np.uint8 else 1 / 65535


def usual_noise(iso: float) -> np.ndarray:
    """Return the noise (3, 2) of a camera that the table does not know: the median of its cameras at this ISO."""
    per_iso, per_square = _constants()["noise"]
    return np.array([[per_iso * iso, per_square * iso**2]] * 3)


def measure(
    pixels: np.ndarray,
    made: np.ndarray,
    canonical: CanonicalParams,
    model: str,
    source: Source,
    *,
    known: bool = False,
    exposure: float = 0.0,
    level: float = 0.9,
    threads: int | None = None,
) -> Confidence:
    """Return the map of a made RAW.

    pixels     (H, W, 3) uint8, uint16 or float32 in [0, 1]: the sRGB picture
    made       the mosaic of the picture, H and W or more, even: uint16 in raw units, or float32, black 0 and white 1
    canonical  parameters of the mosaic
    model      name of the architecture that made it
    known      whether the model learned the look of the picture's camera
    exposure   EV by which the mosaic was darkened
    level      share of errors that the half-widths hold, one of ``LEVELS``
    threads    None takes one for each of up to four cores; the result does not depend on it
    """
    kind = kind_of(model, known)
    weights = np.array(_constants()[kind]["weights"], np.float32) ** 2
    knots, widths = (np.array(each) for each in _table(kind, level))
    ready = _Ready(pixels, made, canonical, source, exposure)
    out = np.empty(made.shape, np.float32)

    def work(first: int, last: int) -> None:
        for y, x, terms in ready.phases(first, last):
            budget = np.zeros(terms[0].shape, np.float32)
            for weight, term in zip(weights, terms, strict=True):
                if weight > 0:
                    budget += weight * (term * term)
            out[2 * first + y : 2 * last : 2, x::2] = _width(budget, knots, widths)

    in_bands(work, made.shape[0] // 2, max(_BAND // (made.shape[1] // 2), 1), threads)
    return Confidence(out, level, FLOOR, _constants()[kind]["scale_ev"], model)


def terms(
    pixels: np.ndarray, made: np.ndarray, canonical: CanonicalParams, source: Source, exposure: float = 0.0
) -> np.ndarray:
    """Return all terms of all sites, (``TERMS``, H, W) float32, for fits; see ``measure``."""
    ready = _Ready(pixels, made, canonical, source, exposure)
    out = np.empty((len(TERMS), *made.shape), np.float32)

    def work(first: int, last: int) -> None:
        for y, x, values in ready.phases(first, last):
            out[:, 2 * first + y : 2 * last : 2, x::2] = values

    in_bands(work, made.shape[0] // 2, max(_BAND // (made.shape[1] // 2), 1))
    return out


def _width(square: np.ndarray, knots: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Map squares of budgets to half-widths: straight in logarithms between the knots, in proportion beyond them."""
    budget = np.log(np.maximum(square, 1e-12)) / 2
    inside = np.clip(budget, knots[0], knots[-1])
    result: np.ndarray = np.exp(np.interp(inside, knots, widths) + budget - inside)
    return result


class _Ready:
    """A picture and its mosaic, surveyed, that give their terms band by band."""

    def __init__(
        self, pixels: np.ndarray, made: np.ndarray, canonical: CanonicalParams, source: Source, exposure: float
    ) -> None:
        self.pixels, self.made, self.canonical, self.source = pixels, made, canonical, source
        height, width = pixels.shape[:2]
        rows, columns = made.shape
        self.rows = bayer.reflect_index(height, _REACH, rows - height + _REACH)
        self.columns = bayer.reflect_index(width, _REACH, columns - width + _REACH)
        self.scale = np.float32(1 if pixels.dtype.kind == "f" else 1 / np.iinfo(pixels.dtype).max)
        self.gain = np.float32(2.0**exposure)
        self.stage = parametric.ParametricUnprocess(canonical)
        self.slope, self.rounding = _slope(), np.float32(source.step**2 / 12)
        self.usual = self._survey()

    def _survey(self) -> np.ndarray:
        """Return, for R, G and B, the medians of ln(made / parametric) and of ln(made): (3, 2)."""
        rows, columns = (side // 2 for side in self.made.shape)
        step = int(np.ceil(np.sqrt(max(rows * columns / _SURVEYED, 1))))
        down, across = np.arange(0, rows, step), np.arange(0, columns, step)
        found: list[list[np.ndarray]] = [[], [], []]
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            channel = bayer.channel_of(self.canonical.cfa, y, x)
            codes = self.pixels[np.ix_(self.rows[_REACH + 2 * down + y], self.columns[_REACH + 2 * across + x])]
            made = self._linear(self.made[np.ix_(2 * down + y, 2 * across + x)], y, x)
            found[channel].append(np.stack([self._correction(codes, made, channel), np.log(made + FLOOR)]))
        return np.array([np.median(np.concatenate(each, 1).reshape(2, -1), 1) for each in map(_flat, found)])

    def _linear(self, made: np.ndarray, y: int, x: int) -> np.ndarray:
        """Return sites of the mosaic, black 0 and white 1, before the exposure."""
        light = made.astype(np.float32)
        if made.dtype != np.float32:
            black = np.float32(self.canonical.black_level[y, x])
            light -= black
            light /= np.float32(self.canonical.white_level) - black
        light *= self.gain
        return np.maximum(light, 0, out=light)

    def _correction(self, codes: np.ndarray, made: np.ndarray, channel: int) -> np.ndarray:
        base = self.stage.light(np.ascontiguousarray(codes), channel, None).reshape(made.shape)
        result: np.ndarray = np.log((made + np.float32(FLOOR)) / (base + np.float32(FLOOR)))
        return result

    def phases(self, first: int, last: int) -> Iterator[tuple[int, int, list[np.ndarray]]]:
        """Yield (row, column) in the 2×2, and the terms of its sites, of rows of 2×2 sites ``first`` to ``last``."""
        codes = self.pixels[self.rows[2 * first : 2 * last + 2 * _REACH]][:, self.columns]
        plain = codes.astype(np.float32)
        plain *= self.scale
        np.clip(plain, 0, 1, out=plain)
        planes = [np.ascontiguousarray(plain[..., channel]) for channel in range(3)]
        spread = [np.maximum(_mean(plane * plane) - np.square(_mean(plane)), 0) for plane in planes]
        near = _most(_ramp(plain.max(-1)))
        codes = codes[_REACH:-_REACH, _REACH:-_REACH]
        plain = plain[_REACH:-_REACH, _REACH:-_REACH]
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            channel = bayer.channel_of(self.canonical.cfa, y, x)
            made = self._linear(self.made[2 * first + y : 2 * last : 2, x::2], y, x)
            floored = made + np.float32(FLOOR)
            colour, variance = plain[y::2, x::2], spread[channel][y::2, x::2]
            own = colour[..., channel]
            slope = self.slope.take((own * np.float32(len(self.slope) - 1) + np.float32(0.5)).astype(np.intp))
            clipped = _ramp(own)
            usual = self.usual[channel].astype(np.float32)
            yield (
                y,
                x,
                [
                    np.ones_like(made),
                    np.sqrt(self._code_error(variance, channel)) * slope,
                    np.sqrt(variance) * slope,
                    self._noise(made, channel) / floored,
                    np.abs(self._correction(codes[y::2, x::2], made, channel) - usual[0]),
                    np.abs(np.log(floored) - usual[1]),
                    colour.max(-1) - colour.min(-1),
                    clipped,
                    clipped * np.maximum(1 - made, 0) / floored,
                    near[y::2, x::2],
                    np.float32(FLOOR) / floored,
                ],
            )

    def _code_error(self, variance: np.ndarray, channel: int) -> np.ndarray:
        """Return the expected square error of the codes: rounding, and the JPEG's tables where there is detail.

        A coefficient below half a step becomes 0, so that its error is no larger than the detail itself.
        """
        if self.source.tables is None:
            return np.full(variance.shape, self.rounding)
        luma, chroma = self.source.tables
        share = (luma + (1.402**2, 0.0, 1.772**2)[channel] * chroma) / (12 * 255**2)  # JFIF: YCbCr → R, G, B
        result: np.ndarray = self.rounding + np.minimum(np.float32(share), variance)
        return result

    def _noise(self, made: np.ndarray, channel: int) -> np.ndarray:
        if self.source.noise is None:
            return np.zeros_like(made)
        scale, offset = map(np.float32, self.source.noise[channel])
        result: np.ndarray = np.sqrt(np.maximum(scale * made + offset, 0))
        return result


def _flat(parts: list[np.ndarray]) -> list[np.ndarray]:
    return [part.reshape(2, -1) for part in parts]


@cache
def _slope() -> np.ndarray:
    """Return d ln(light) / d code of a typical inverse tone curve, for codes even in [0, 1]."""
    codes = np.linspace(0, 1, 1025)
    light = color.srgb_decode(parametric.inverse_smoothstep(codes))
    slope: np.ndarray = (np.gradient(light, codes) / (light + FLOOR)).astype(np.float32)
    return slope


def _mean(plane: np.ndarray) -> np.ndarray:
    """Return means of 5×5, without the border of 2: sums in a fixed order, so that no cut changes a bit."""
    rows, columns = plane.shape
    down = plane[: rows - 4] + plane[1 : rows - 3] + plane[2 : rows - 2] + plane[3 : rows - 1] + plane[4:]
    both: np.ndarray = down[:, : columns - 4] + down[:, 1 : columns - 3] + down[:, 2 : columns - 2]
    both += down[:, 3 : columns - 1]
    both += down[:, 4:]
    both *= np.float32(1 / 25)
    return both


def _most(plane: np.ndarray) -> np.ndarray:
    """Return the largest of 5×5, without the border of 2."""
    rows, columns = plane.shape
    down: np.ndarray = np.maximum.reduce([plane[k : rows - 4 + k] for k in range(5)])
    most: np.ndarray = np.maximum.reduce([down[:, k : columns - 4 + k] for k in range(5)])
    return most


def _ramp(codes: np.ndarray) -> np.ndarray:
    """Return 0 for codes of at most ``_CLIPPED``, 1 for white, straight between them."""
    ramp: np.ndarray = np.clip((codes - np.float32(_CLIPPED)) / np.float32(1 - _CLIPPED), 0, 1)
    return ramp


@cache
def _constants() -> dict[str, Any]:
    """Return the fitted numbers."""
    text = resources.files("paramisp_cli").joinpath("confidence.json").read_text("utf-8")
    constants: dict[str, Any] = json.loads(text)
    return constants


def _table(kind: str, level: float) -> tuple[list[float], list[float]]:
    """Return ln(budget) and ln(half-width) of a kind of model at a level."""
    own = _constants()[kind]
    return own["knots"], own["widths"][f"{level:g}"]
