"""The fitted form: white-balanced camera RGB ↔ sRGB in stages that each keep black, white and order.

render     light · shading → gain · matrix → sRGB encoding → one rising curve per channel → chroma polynomial
unprocess  chroma polynomial → one rising curve per channel → sRGB decoding / gain → matrix → shading

Stages after Grossberg and Nayar (a camera's response, PAMI 2004) and Kim et al. (colour correction and gamut mapping,
PAMI 2012). The chroma polynomial is zero on neutrals, so the curves alone map grey, and a curve is a
sum of rising splines with positive weights. Clipping to [0, 1] is the last step. ``Rendition`` explains the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from paramisp_cli import color
from paramisp_cli.directions import Direction

SPLINES, TOP = 16, 1.5
"""Rising splines of a curve, and the sRGB-encoded value of the last one's knot; beyond it the curve is straight."""
CHROMA, SHADING = 9, 2
"""Terms of a channel's chroma polynomial, and of its shading."""
_OFF = [(row, column) for row in range(3) for column in range(3) if row != column]
_MATRIX = slice(1, 7)
_CURVES = slice(7, 7 + 3 * SPLINES)
_CHROMA = slice(_CURVES.stop, _CURVES.stop + 3 * CHROMA)
_SHADING = slice(_CHROMA.stop, _CHROMA.stop + 3 * SHADING)
SIZE = _SHADING.stop
"""Numbers of a rendition."""
_WHITE_RAMP = 0.92
"""Share of the way to white from which a curve that would miss white is lifted to it."""
_FULL = 0.99
"""Share of the sensor's clip from which ``render`` gives white."""
NEAR_WHITE = 0.96
"""Smallest channel of an sRGB pixel from which ``unprocess`` moves to the sensor's clip."""
VIVID = 0.5
"""Difference of encoded channels from which the chroma polynomial is constant."""
LEAST_SLOPE = 0.02
"""Smallest slope of a channel's chroma stage."""


@dataclass(frozen=True, slots=True, eq=False)
class Rendition:
    """A rendition between a camera's white-balanced RGB and sRGB. ``vector`` holds ``SIZE`` numbers:

    log gain · 6 off-diagonal entries of the matrix correction (its rows sum to 0) · 3 × 16 log slopes of the curves ·
    3 × 9 chroma coefficients · 3 × 2 log relative illumination, coefficients of ρ and ρ² (``isp.shading_gain`` defines
    ρ: 0 in the middle of the picture, 1 in its corners)

    ``matrix`` (3, 3) is the camera table's white-balanced camera RGB → linear sRGB (``color.cam_to_srgb``).
    """  # fmt: skip

    direction: Direction
    matrix: np.ndarray
    vector: np.ndarray
    camera: str = ""

    def __post_init__(self) -> None:
        for name, shape in (("matrix", (3, 3)), ("vector", (SIZE,))):
            values = np.array(np.broadcast_to(np.asarray(getattr(self, name), np.float64), shape))
            if not np.isfinite(values).all():
                raise ValueError(f"{name} has a value that is not finite")
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @property
    def gain(self) -> float:
        """Linear exposure between camera RGB and sRGB before the curve."""
        return float(np.exp(self.vector[0]))

    @property
    def correction(self) -> np.ndarray:
        """(3, 3) matrix in linear sRGB, rows summing to 1."""
        return _correction(self.vector)

    @property
    def log_slopes(self) -> np.ndarray:
        """(3, 16) log weights of the rising splines of R, G and B."""
        return self.vector[_CURVES].reshape(3, SPLINES)

    @property
    def chroma(self) -> np.ndarray:
        """(3, 9) coefficients of the chroma polynomial."""
        return self.vector[_CHROMA].reshape(3, CHROMA)

    @property
    def shading(self) -> np.ndarray:
        """(3, 2) coefficients of log relative illumination."""
        return self.vector[_SHADING].reshape(3, SHADING)

    def brightened(self, gain: float) -> Rendition:
        """Return the rendition of a RAW with ``gain`` times the light."""
        vector = self.vector.copy()
        vector[0] += np.log(gain)
        return Rendition(self.direction, self.matrix, vector, self.camera)

    def record(self) -> dict[str, Any]:
        """Make a JSON-serialisable record; ``of`` reads it."""
        return {
            "direction": str(self.direction),
            "camera": self.camera,
            "matrix": self.matrix.tolist(),
            "vector": [float(f"{value:.7g}") for value in self.vector],
        }

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """Make a rendition of a ``record``; raises KeyError or ValueError for a damaged one."""
        return cls(Direction(record["direction"]), record["matrix"], record["vector"], record.get("camera", ""))


def blocks() -> dict[str, slice]:
    """Return where each part of a vector lies."""
    return {"gain": slice(0, 1), "matrix": _MATRIX, "curves": _CURVES, "chroma": _CHROMA, "shading": _SHADING}


def _correction(vector: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    for value, (row, column) in zip(vector[_MATRIX], _OFF, strict=True):
        matrix[row, column] += value
        matrix[row, row] -= value
    return matrix


def splines(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integrated hat functions (I-splines of order 2, Ramsay 1988) at ``t`` (n,): values (n, 16), slopes (n, 16).

    All are 0 at 0 and rise; the curve is straight beyond ``TOP``.
    """
    inside = np.clip(t, 0, TOP)
    knots = np.arange(SPLINES)
    away = inside[:, None] * ((SPLINES - 1) / TOP) - knots
    near = np.clip(away, -1, 1)
    risen = np.where(near < 0, 0.5 * (near + 1) ** 2, 1 - 0.5 * (1 - near) ** 2)
    risen[:, 0] -= 0.5
    slopes = np.clip(1 - np.abs(away), 0, 1)
    return risen * (TOP / (SPLINES - 1)) + (t - inside)[:, None] * slopes, slopes


def chroma_terms(encoded: np.ndarray) -> np.ndarray:
    """Compute the terms (n, 9) of encoded RGB (n, 3), all 0 for a neutral pixel.

    With the differences p = R − G and q = B − G, limited to ±½, and the mean m = (R + 2G + B)/4:
    p, q, pm, qm, p², pq, q², pm², qm².
    """
    red, green, blue = encoded.T
    m = (red + 2 * green + blue) / 4
    p, q = np.clip(red - green, -VIVID, VIVID), np.clip(blue - green, -VIVID, VIVID)
    return np.stack([p, q, p * m, q * m, p * p, p * q, q * q, p * m * m, q * m * m], -1)


def _chroma_slopes(encoded: np.ndarray) -> np.ndarray:
    """Return the derivatives (n, 9, 3) of ``chroma_terms`` by R, G and B."""
    red, green, blue = encoded.T
    p, q = red - green, blue - green
    free_p, free_q = np.abs(p) < VIVID, np.abs(q) < VIVID
    p, q = np.clip(p, -VIVID, VIVID), np.clip(q, -VIVID, VIVID)
    by_p, by_q, by_m = _partials((red + 2 * green + blue) / 4, p, q)
    return np.asarray(
        (by_p * free_p[:, None])[..., None] * _BY_P
        + (by_q * free_q[:, None])[..., None] * _BY_Q
        + by_m[..., None] * _BY_M
    )


_BY_P, _BY_Q, _BY_M = np.array([1.0, -1, 0]), np.array([0.0, -1, 1]), np.array([0.25, 0.5, 0.25])


def _partials(m: np.ndarray, p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the derivatives (n, 9) of the chroma terms by p, q and m."""
    one, none = np.ones_like(m), np.zeros_like(m)
    by_p = np.stack([one, none, m, none, 2 * p, q, none, m * m, none], -1)
    by_q = np.stack([none, one, none, m, none, p, 2 * q, none, m * m], -1)
    by_m = np.stack([none, none, p, q, none, none, none, 2 * m * p, 2 * m * q], -1)
    return by_p, by_q, by_m


def _encode_slope(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92, 1.055 / 2.4 * np.maximum(light, 0.0031308) ** (1 / 2.4 - 1))


def _decode_slope(encoded: np.ndarray) -> np.ndarray:
    return np.where(encoded <= 0.04045, 1 / 12.92, 2.4 / 1.055 * ((np.abs(encoded) + 0.055) / 1.055) ** 1.4)


def illumination(vector: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Return the relative illumination (n, 3) at ρ (n,), positive, 1 in the middle of the picture."""
    result: np.ndarray = np.exp(np.stack([rho, rho * rho], -1) @ vector[_SHADING].reshape(3, SHADING).T)
    return result


def predict(
    direction: Direction, matrix: np.ndarray, vector: np.ndarray, pixels: np.ndarray, rho: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Map pixels (n, 3) through the smooth stages → values (n, 3) and derivatives (n, 3, SIZE), float64.

    The lift to white (``lifted_curves``, ``near_white``) is not part of it, and values are not clipped at 1.
    """
    stages = _render if direction == Direction.RENDER else _unprocess
    got, slopes = stages(matrix, vector, pixels, np.stack([rho, rho * rho], -1), True)
    assert slopes is not None
    return got, slopes


def values(
    direction: Direction, matrix: np.ndarray, vector: np.ndarray, pixels: np.ndarray, rho: np.ndarray
) -> np.ndarray:
    """Compute the values (n, 3) of ``predict`` alone, in a fraction of the time."""
    stages = _render if direction == Direction.RENDER else _unprocess
    return stages(matrix, vector, pixels, np.stack([rho, rho * rho], -1), False)[0]


def _curve_values(slopes: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Curves at t (n, 3): values, slopes, and the derivatives (n, 16) by each channel's log slopes."""
    risen, rises, parts = np.empty_like(t), np.empty_like(t), []
    for channel in range(3):
        basis, slope = splines(t[:, channel])
        weights = np.exp(slopes[channel])
        risen[:, channel], rises[:, channel] = basis @ weights, slope @ weights
        parts.append(basis * weights)
    return risen, rises, parts


def _render(
    matrix: np.ndarray, vector: np.ndarray, pixels: np.ndarray, powers: np.ndarray, wanted: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    chroma = vector[_CHROMA].reshape(3, CHROMA)
    fall = np.exp(powers @ vector[_SHADING].reshape(3, SHADING).T)
    camera = np.clip(pixels, 0, 1) / fall
    plain = camera @ matrix.T * np.exp(vector[0])
    correction = _correction(vector)
    light = np.maximum(plain @ correction.T, 0)
    toned, rise, parts = _curve_values(vector[_CURVES].reshape(3, SPLINES), color.srgb_encode(light))
    seen = toned < 1
    encoded = np.minimum(toned, 1)
    rise = rise * seen * _encode_slope(light) * (light > 0)
    terms = chroma_terms(encoded)
    got = encoded + terms @ chroma.T
    if not wanted:
        return got, None
    turn = np.eye(3) + np.einsum("cf,nfj->ncj", chroma, _chroma_slopes(encoded))
    slopes = np.zeros((len(pixels), 3, SIZE))
    slopes[:, :, 0] = np.einsum("ncj,nj->nc", turn, rise * light)
    for i, (row, column) in enumerate(_OFF):
        slopes[:, :, 1 + i] = turn[:, :, row] * (rise[:, row] * (plain[:, column] - plain[:, row]))[:, None]
    to_light = correction @ matrix * np.exp(vector[0])
    for channel in range(3):
        start = _CURVES.start + channel * SPLINES
        part = parts[channel] * seen[:, channel, None]
        slopes[:, :, start : start + SPLINES] = turn[:, :, channel, None] * part[:, None, :]
        start = _CHROMA.start + channel * CHROMA
        slopes[:, channel, start : start + CHROMA] = terms
        start = _SHADING.start + channel * SHADING
        by_camera = np.einsum("ncj,nj,j->nc", turn, rise, to_light[:, channel]) * -camera[:, channel, None]
        slopes[:, :, start : start + SHADING] = by_camera[:, :, None] * powers[:, None, :]
    return got, slopes


def _unprocess(
    matrix: np.ndarray, vector: np.ndarray, pixels: np.ndarray, powers: np.ndarray, wanted: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    chroma = vector[_CHROMA].reshape(3, CHROMA)
    terms = chroma_terms(pixels)
    turned = np.maximum(pixels + terms @ chroma.T, 0)
    toned, rise, parts = _curve_values(vector[_CURVES].reshape(3, SPLINES), turned)
    rise = rise * (turned > 0)
    light = color.srgb_decode(toned) * np.exp(-vector[0])
    by_tone = _decode_slope(toned) * np.exp(-vector[0])
    inverse = np.linalg.inv(matrix)
    to_camera = inverse @ _correction(vector)
    fall = np.exp(powers @ vector[_SHADING].reshape(3, SHADING).T)
    camera = light @ to_camera.T * fall
    if not wanted:
        return camera, None
    slopes = np.zeros((len(pixels), 3, SIZE))
    slopes[:, :, 0] = -camera
    for i, (row, column) in enumerate(_OFF):
        slopes[:, :, 1 + i] = fall * inverse[:, row] * (light[:, column] - light[:, row])[:, None]
    for channel in range(3):
        by_curve = (fall * to_camera[:, channel])[:, :, None]
        start = _CURVES.start + channel * SPLINES
        part = by_tone[:, channel, None] * parts[channel]
        slopes[:, :, start : start + SPLINES] = by_curve * part[:, None, :]
        start = _CHROMA.start + channel * CHROMA
        part = (by_tone[:, channel] * rise[:, channel])[:, None] * terms
        slopes[:, :, start : start + CHROMA] = by_curve * part[:, None, :]
        start = _SHADING.start + channel * SHADING
        slopes[:, channel, start : start + SHADING] = camera[:, channel, None] * powers
    return camera, slopes


# Guarantees ----------------------------------------------------------------------------------------------------------


def lifted_curves(rendition: Rendition, t: np.ndarray) -> np.ndarray:
    """Evaluate the curves of R, G and B at t (n,): (3, n), rising, 0 at 0; for ``render`` at least 1 at the clip.

    t is an sRGB-encoded value. A curve that would end below white is lifted on the last tenth of the way.
    """
    basis, _ = splines(t)
    risen = np.exp(rendition.log_slopes) @ basis.T
    if rendition.direction == Direction.RENDER:
        end = float(color.srgb_encode(np.array(_FULL * rendition.gain)))
        at_end = np.exp(rendition.log_slopes) @ splines(np.array([end]))[0].T
        ramp = np.clip((t / end - _WHITE_RAMP) / (1 - _WHITE_RAMP), 0, 1) ** 2
        risen = risen + np.maximum(1 - at_end, 0) * ramp
    return np.asarray(risen)


def near_white(pixels: np.ndarray) -> np.ndarray:
    """Return the share (…, 1) by which ``unprocess`` moves sRGB (…, 3) to the sensor's clip; 1 for white only."""
    smallest = pixels.min(-1, keepdims=True)
    result: np.ndarray = np.clip((smallest - NEAR_WHITE) / (1 - NEAR_WHITE), 0, 1) ** 2
    return result


def white_point(rendition: Rendition) -> np.ndarray:
    """Return the white-balanced camera RGB (3,) of sRGB white: the fitted value, at least 1, where green clips."""
    encoded = lifted_curves(rendition, np.ones(1))[:, 0]
    light = color.srgb_decode(encoded) / rendition.gain
    result: np.ndarray = np.maximum(np.linalg.inv(rendition.matrix) @ rendition.correction @ light, 1.0)
    return result


def orderly(rendition: Rendition, *, strict: bool = True) -> Rendition:
    """Change a rendition no more than needed for order: each channel's chroma stage rises with the channel everywhere
    in [0, 1]³, and each channel of the result rises along neutral pixels.

    A channel's chroma coefficients shrink for the first: the slope 1 + Σ r · ∂term/∂channel is quadratic in R, G and B,
    and its smallest Bernstein coefficient bounds it below. The three curves become alike from the top down for the
    second: were the curves one, neutral pixels would stay neutral in every stage. Without ``strict`` only the second.
    """  # fmt: skip
    vector = rendition.vector.copy()
    if strict:
        vector[_CHROMA] = _rising_chroma(rendition.chroma).ravel()
    slopes = rendition.log_slopes
    common = slopes.mean(0)
    for first in range(SPLINES, -1, -1):  # from the highlights down: a curve's darker values do not change
        vector[_CURVES] = np.where(np.arange(SPLINES) < first, slopes, common).ravel()
        found = replace(rendition, vector=vector)
        if np.diff(_neutral_values(found), axis=0).min() >= 0:
            break
    return found


def chroma_bounds() -> np.ndarray:
    """Return factors (3, n, 9) of the chroma coefficients; 1 + their product bounds a chroma stage's slope below.

    The slope is a polynomial of degree 2 in m, p and q, with p and q at their limits or between them: its Bernstein
    coefficients over m in [0, 1], p and q in ±½ are at most its values.
    """
    grid = np.stack(np.meshgrid([0, 0.5, 1], *[[-VIVID, 0, VIVID]] * 2, indexing="ij"), -1).reshape(-1, 3)
    by_p, by_q, by_m = _partials(*grid.T)
    bernstein = np.array([[1, 0, 0], [-0.5, 2, -0.5], [0, 0, 1]])
    rows = []
    for channel in range(3):
        for free_p in (0, 1):
            for free_q in (0, 1):
                slope = free_p * _BY_P[channel] * by_p + free_q * _BY_Q[channel] * by_q + _BY_M[channel] * by_m
                slope = slope.reshape(3, 3, 3, CHROMA)
                rows.append(np.einsum("ai,bj,ck,ijkf->abcf", bernstein, bernstein, bernstein, slope))
    return np.reshape(rows, (3, -1, CHROMA))


def _rising_chroma(chroma: np.ndarray) -> np.ndarray:
    lowest = np.einsum("cbf,cf->cb", chroma_bounds(), chroma).min(1)
    shrink = np.where(lowest < LEAST_SLOPE - 1, (1 - LEAST_SLOPE) / np.maximum(-lowest, 1e-9), 1)
    return np.asarray(chroma * shrink[:, None])


def _neutral_values(rendition: Rendition) -> np.ndarray:
    """Compute the results (n, 3) for neutral pixels from black to white, clipped as pictures are, unshaded."""
    grey = np.linspace(0, 1, 1025) ** 2
    if rendition.direction == Direction.RENDER:
        encoded = np.minimum(lifted_curves(rendition, color.srgb_encode(grey * rendition.gain)), 1).T
        result: np.ndarray = np.clip(encoded + chroma_terms(encoded) @ rendition.chroma.T, 0, 1)
        return result
    light = color.srgb_decode(lifted_curves(rendition, np.sqrt(grey))) / rendition.gain
    return np.asarray((np.linalg.inv(rendition.matrix) @ rendition.correction @ light).T)
