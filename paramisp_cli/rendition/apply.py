"""Apply a rendition to pixels: float32, in bands of rows, so memory beyond input and output stays small."""

from __future__ import annotations

import numpy as np

from paramisp_cli import color
from paramisp_cli.directions import Direction
from paramisp_cli.rendition.form import VIVID, Rendition, illumination, lifted_curves, near_white, white_point

_TABLE = 4096
"""Entries of a curve's table; between them it is straight. They are even in the fourth root of light."""
_FINE = 1 << 16
"""Entries of a curve's table for 8-bit codes, which needs no interpolation: neighbours differ by a hundredth of a code.
"""
_BAND = 1 << 16  # pixels at a time: the stages' arrays stay in a core's cache


class Applier:
    """A rendition made ready for many pixels. ``planes`` works on (3, n) float32 arrays, in place."""

    balanced = True

    def __init__(self, rendition: Rendition, gains: np.ndarray | None = None) -> None:
        """Make the tables; ``gains`` (3,) are those of the white balance, at which a blown white is clipped (None: 1).

        Only ``light`` needs them.
        """
        self.rendition = rendition
        self.render = rendition.direction == Direction.RENDER
        chroma = rendition.chroma
        self._chroma = np.ascontiguousarray(chroma, np.float32)
        at = np.linspace(0, 1, _TABLE)
        if self.render:
            self._matrix = (rendition.gain * rendition.correction @ rendition.matrix).astype(np.float32)
            # Light up to a little more than any pixel in [0, 1] has.
            self._top = float(np.abs(self._matrix).sum(1).max())
            table = np.minimum(lifted_curves(rendition, color.srgb_encode(at**4 * self._top)), 1)
            self._fine = np.array([np.interp(np.linspace(0, 1, _FINE), at, line) for line in table], np.float32)
        else:
            self._matrix = (np.linalg.inv(rendition.matrix) @ rendition.correction).astype(np.float32)
            self._top = float(1 + np.abs(chroma).sum(1).max())
            encoded = lifted_curves(rendition, np.linspace(0, self._top, _TABLE))
            table = color.srgb_decode(encoded) / rendition.gain
        self._table = table.astype(np.float32)
        self._step = np.diff(self._table, append=self._table[:, -1:])
        fall = illumination(rendition.vector, at).T
        self._lens = (1 / fall if self.render else fall).astype(np.float32)
        self._gains = np.ones(3, np.float32) if gains is None else gains.astype(np.float32)
        least = np.ones(3) if gains is None else gains
        self._white = None if self.render else np.maximum(white_point(rendition), least).astype(np.float32)
        self.shaded = bool(np.any(rendition.shading))

    def planes(self, pixels: np.ndarray, rho: np.ndarray | None = None) -> np.ndarray:
        """Map (3, n) float32 to (3, n) float32: sRGB in [0, 1], or white-balanced camera RGB, not below 0."""
        return self._rendered(np.clip(pixels, 0, 1), rho) if self.render else self._unprocessed(pixels, rho)

    def codes(self, camera: np.ndarray, rho: np.ndarray | None, dtype: type[np.generic]) -> np.ndarray:
        """Map (3, n) float32 camera RGB, which it overwrites, to sRGB of ``dtype``, rounded; float32: in [0, 1]."""
        colours = self._rendered(np.clip(camera, 0, 1, out=camera), rho, fine=dtype == np.uint8)
        top = {np.uint8: 255, np.uint16: 65535}.get(dtype)
        if top is not None:
            colours *= np.float32(top)
            colours += np.float32(0.5)
        return colours.astype(dtype, copy=False)

    def light(self, sites: np.ndarray, channel: int, rho: np.ndarray | None) -> np.ndarray:
        """Map sRGB (rows, columns, 3), uint8, uint16 or float32, to a channel's linear values (n,), not balanced."""
        scale = 1 if sites.dtype == np.float32 else np.iinfo(sites.dtype).max
        planes = np.ascontiguousarray(sites.reshape(-1, 3).T, np.float32)
        planes /= np.float32(scale)
        light: np.ndarray = np.clip(self._unprocessed(planes, rho)[channel] / self._gains[channel], 0, 1)
        return light

    def _looked_up(self, place: np.ndarray, out: np.ndarray) -> None:
        """Interpolate the three tables at ``place`` (3, n), in table entries; overwrites ``place``."""
        for channel in range(3):
            interpolated(self._table[channel], self._step[channel], place[channel], out[channel])

    def _turned(self, encoded: np.ndarray) -> np.ndarray:
        """Add the chroma polynomial to (3, n)."""
        red, green, blue = encoded
        terms = np.empty((9, encoded.shape[1]), np.float32)
        p, q, pm, qm, pp, pq, qq, pmm, qmm = terms
        np.subtract(red, green, out=p)
        np.subtract(blue, green, out=q)
        mean = (p + q) * np.float32(0.25)
        mean += green
        np.clip(terms[:2], -VIVID, VIVID, out=terms[:2])
        np.multiply(p, mean, out=pm)
        np.multiply(q, mean, out=qm)
        np.multiply(p, p, out=pp)
        np.multiply(p, q, out=pq)
        np.multiply(q, q, out=qq)
        np.multiply(pm, mean, out=pmm)
        np.multiply(qm, mean, out=qmm)
        out = self._chroma @ terms
        out += encoded
        return out

    def _rendered(self, camera: np.ndarray, rho: np.ndarray | None, *, fine: bool = False) -> np.ndarray:
        """Render camera RGB in [0, 1], which it overwrites; ``fine`` is enough for 8-bit codes."""
        if rho is not None:
            self._shaded(camera, rho)
        light = self._matrix @ camera
        light *= np.float32(1 / self._top)
        np.clip(light, 0, 1, out=light)
        np.sqrt(light, out=light)
        np.sqrt(light, out=light)
        encoded = camera
        if fine:
            light *= np.float32(_FINE - 1)
            light += np.float32(0.5)
            for channel, index in enumerate(light.astype(np.intp)):
                self._fine[channel].take(index, out=encoded[channel], mode="clip")
        else:
            light *= np.float32(_TABLE - 1)
            self._looked_up(light, encoded)
        out = self._turned(encoded)
        return np.clip(out, 0, 1, out=out)

    def _unprocessed(self, srgb: np.ndarray, rho: np.ndarray | None) -> np.ndarray:
        assert self._white is not None
        encoded = np.clip(srgb, 0, 1)
        turned = self._turned(encoded)
        np.maximum(turned, 0, out=turned)
        turned *= np.float32((_TABLE - 1) / self._top)
        light = np.empty_like(turned)
        self._looked_up(turned, light)
        camera = self._matrix @ light
        np.maximum(camera, 0, out=camera)
        share = near_white(encoded.T).T
        camera += share * np.maximum(self._white[:, None] - camera, 0)
        if rho is not None:
            self._shaded(camera, rho)
        result: np.ndarray = camera
        return result

    def _shaded(self, camera: np.ndarray, rho: np.ndarray) -> None:
        """Take the shading out of (3, n) camera RGB, or put it in, in place; ``rho`` (n,) is in [0, 1]."""
        place = (rho * np.float32(_TABLE - 1)).astype(np.intp)
        for channel in range(3):
            camera[channel] *= self._lens[channel].take(place, mode="clip")


def interpolated(table: np.ndarray, step: np.ndarray, place: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Interpolate a table at ``place``, in entries, not below 0; ``step`` holds the differences of entries.

    Overwrites ``place``; returns ``out``, which has its shape.
    """
    np.minimum(place, len(table) - 1, out=place)
    index = place.astype(np.int32)
    place -= index
    place *= step.take(index, mode="clip")
    table.take(index, out=out, mode="clip")
    out += place
    return out


def applied(rendition: Rendition, pixels: np.ndarray, rho: np.ndarray | None = None) -> np.ndarray:
    """Apply a rendition band by band: (H, W, 3) source → (H, W, 3) float32.

    ``render`` takes white-balanced camera RGB (green clips at 1) and gives sRGB-encoded values in [0, 1]; ``unprocess``
    takes sRGB in [0, 1] and gives white-balanced camera RGB, not below 0 (divide by the white-balance gains).
    ``rho`` (H, W) is the squared distance from the middle, if the rendition's shading is wanted.
    """
    ready = Applier(rendition)
    flat = pixels.reshape(-1, 3)
    away = None if rho is None else rho.reshape(-1)
    out = np.empty(flat.shape, np.float32)
    for start in range(0, len(flat), _BAND):
        part = slice(start, start + _BAND)
        planes = np.ascontiguousarray(flat[part].T, np.float32)
        out[part] = ready.planes(planes, None if away is None else away[part]).T
    return out.reshape(pixels.shape)
