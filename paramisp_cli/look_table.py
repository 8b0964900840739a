"""The look-up table of a DNG profile (ProfileLookTable): fit one between a picture and its RAW, and apply it.

A tone curve restores lightness. It cannot restore the colours of a camera's look, which turns hues and raises
saturations by hue and lightness. The table does this, in readers that use DNG profiles, and does not touch the RAW.

A table is (V, H, S, 3): value (sRGB-encoded), hue and saturation of linear ProPhoto RGB as HSV; each entry shifts the
hue [°] and scales saturation and encoded value (DNG 1.4, tags 50981, 50982 and 51108).
"""

from __future__ import annotations

import numpy as np

from paramisp_cli import color

VALUES, HUES, SATURATIONS = 7, 18, 7
_SMOOTH, _IDENTITY = 2e-5, 3e-6
"""Weights of differences between neighbours of the table, and of its distance to no change, for each sample.

Smoothness fills the colours that a photo lacks, and keeps noise out of the table."""
_GREY = 0.15
"""Saturation from which a colour's differences of chroma weigh less."""
_DARK = 0.3
"""Encoded light below which a difference of chroma weighs no less: else blacks would keep a tint."""
_FEW = 256
"""Fewest samples of a fit."""
_TURN = 60.0
"""Largest shift of hue [°]."""


def fitted(wide: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """Fit the table that takes ``wide`` to ``target``, (n, 3) linear ProPhoto RGB in [0, 1], before the tone curve.

    Chroma is a complex number, saturation by hue: one factor scales and turns it. Both this factor and the scale of
    value are linear least squares over the table, which is interpolated, with a penalty of roughness. None for too few
    samples.
    """
    if len(wide) < _FEW:
        return None
    hue, saturation, value = hsv(wide)
    hue_to, saturation_to, value_to = hsv(target)
    places, weights = corners(hue, saturation, color.srgb_encode(value))
    light, light_to = color.srgb_encode(value), color.srgb_encode(value_to)
    chroma_to = saturation_to * np.exp(1j * np.pi / 3 * (hue_to - hue))
    # A difference of chroma is seen in proportion to lightness, and less in a saturated colour.
    seen = np.maximum(light, _DARK) / (saturation + _GREY)
    wanted = np.stack([chroma_to.real, chroma_to.imag], 1) * seen[:, None]
    turned = _solved(places, weights, saturation * seen, wanted, np.array([1.0, 0.0]))
    scaled = _solved(places, weights, light, light_to[:, None], np.array([1.0]))
    factor = turned[:, 0] + 1j * turned[:, 1]
    table = np.stack([np.degrees(np.angle(factor)).clip(-_TURN, _TURN), np.abs(factor), scaled[:, 0]], -1)
    table = table.reshape(VALUES, HUES, SATURATIONS, 3)
    table[..., 1:] = table[..., 1:].clip(0, 4)
    table[:, :, 0, 0], table[:, :, 0, 2] = 0, 1  # the specification demands it of greys
    return table


def applied(wide: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Apply a table to (…, 3) linear ProPhoto RGB in [0, 1], as the DNG SDK does → the same space and range."""
    flat = wide.reshape(-1, 3)
    hue, saturation, value = hsv(flat)
    encoded = color.srgb_encode(value)
    places, weights = corners(hue, saturation, encoded, table.shape[:3])
    entries = table.reshape(-1, 3)
    mean = np.zeros_like(flat)
    for corner, weight in zip(places, weights, strict=True):
        mean += weight[:, None] * entries[corner]
    return changed(hue, saturation, encoded, mean).reshape(wide.shape)


def changed(hue: np.ndarray, saturation: np.ndarray, light: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Return linear RGB (n, 3) of a hue in [0, 6), a saturation and an encoded value, changed as entries (n, 3) say."""
    hue = (hue + changes[:, 0] / 60) % 6
    saturation = np.minimum(saturation * changes[:, 1], 1)
    value = color.srgb_decode(np.clip(light * changes[:, 2], 0, 1))
    # Channel n of HSV: value · (1 − saturation · ramp), with the ramp's place by hue.
    place = (hue[:, None] + np.array([5.0, 3.0, 1.0])) % 6
    ramp = np.clip(np.minimum(place, 4 - place), 0, 1)
    rgb: np.ndarray = value[:, None] * (1 - saturation[:, None] * ramp)
    return rgb


def hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert (n, 3) RGB to hue in [0, 6), saturation in [0, 1] and value."""
    value = rgb.max(-1)
    gap = value - rgb.min(-1)
    safe = np.maximum(gap, 1e-12)
    r, g, b = rgb.T
    sides = [(g - b) / safe, 2 + (b - r) / safe, 4 + (r - g) / safe]
    hue = np.select([r == value, g == value], sides[:2], sides[2]) % 6
    return np.where(gap > 0, hue, 0), gap / np.maximum(value, 1e-12), value


def corners(
    hue: np.ndarray, saturation: np.ndarray, light: np.ndarray, shape: tuple[int, ...] = (VALUES, HUES, SATURATIONS)
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the eight entries around each sample, and their weights, both eight of (n,). The hue is periodic."""
    values, hues, saturations = shape
    v, h, s = light * (values - 1), hue * hues / 6, saturation * (saturations - 1)
    v0, h0, s0 = (np.minimum(x.astype(int), n) for x, n in ((v, values - 2), (h, hues - 1), (s, saturations - 2)))
    places, weights = [], []
    for dv in (0, 1):
        for dh in (0, 1):
            for ds in (0, 1):
                places.append(((v0 + dv) * hues + (h0 + dh) % hues) * saturations + s0 + ds)
                near = [np.abs(1 - d - (x - x0)) for d, x, x0 in ((dv, v, v0), (dh, h, h0), (ds, s, s0))]
                weights.append(near[0] * near[1] * near[2])
    return places, weights


def _solved(
    corners: list[np.ndarray], weights: list[np.ndarray], x: np.ndarray, y: np.ndarray, plain: np.ndarray
) -> np.ndarray:
    """Solve for the table t (N, k) of least (x · t − y)², x (n,) and y (n, k), smooth and near ``plain``.

    The interpolated table is linear in its entries, so that the normal matrix of each entry has 27 neighbours.
    """
    size = VALUES * HUES * SATURATIONS
    right = np.zeros((size, y.shape[1]))
    near = np.zeros(size * 27)  # of each entry, its neighbours: 3 × 3 × 3 places
    for i, (corner, weight) in enumerate(zip(corners, weights, strict=True)):
        right += np.stack([np.bincount(corner, weight * x * column, size) for column in y.T], 1)
        for j, other in enumerate(weights):
            place = sum(((j >> bit & 1) - (i >> bit & 1) + 1) * 3**bit for bit in range(3))
            near += np.bincount(corner * 27 + place, weight * other * x * x, size * 27)
    smooth, identity = _SMOOTH * len(x), _IDENTITY * len(x)
    normal = np.zeros((size, size))
    for place in range(27):
        v, h, s = (place // 3**bit % 3 - 1 for bit in (2, 1, 0))
        entry = np.flatnonzero(near[place::27])
        at = np.unravel_index(entry, (VALUES, HUES, SATURATIONS))
        neighbour = np.ravel_multi_index((at[0] + v, (at[1] + h) % HUES, at[2] + s), (VALUES, HUES, SATURATIONS))
        normal[entry, neighbour] += near[place::27][entry]
    index = np.arange(size).reshape(VALUES, HUES, SATURATIONS)
    pairs = [(index[1:], index[:-1]), (index, np.roll(index, -1, 1)), (index[:, :, 1:], index[:, :, :-1])]
    for one, two in ((a.ravel(), b.ravel()) for a, b in pairs):
        normal[one, one] += smooth
        normal[two, two] += smooth
        normal[one, two] -= smooth
        normal[two, one] -= smooth
    normal[np.arange(size), np.arange(size)] += identity
    solution: np.ndarray = np.linalg.solve(normal, right + identity * plain)
    return solution
