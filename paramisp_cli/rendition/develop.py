"""Develop a mosaic at full size with a rendition: demosaicing and colour in bands of rows, on a few threads."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from paramisp_cli.mosaic import by_color
from paramisp_cli.rendition.apply import Applier
from paramisp_cli.rendition.bands import Progress, in_bands
from paramisp_cli.rendition.form import Rendition
from paramisp_cli.types import CanonicalParams, RawImage

SITES = 1 << 16
"""2×2 sites in a band: the planes of a band stay near a core's cache."""


class Rendering(Protocol):
    """A map from camera RGB to sRGB, ready for many pixels."""

    balanced: bool
    """Whether it takes sites that are white-balanced, and clipped where green clips."""
    shaded: bool
    """Whether it depends on the place in the picture."""

    def codes(self, camera: np.ndarray, rho: np.ndarray | None, dtype: type[np.generic]) -> np.ndarray:
        """Map (3, n) float32, which it may overwrite, to (3, n) of ``dtype``; ``rho`` (n,) is the place."""


class Unprocessing(Protocol):
    """A map from sRGB to a mosaic's linear values, ready for many pixels."""

    shaded: bool
    """Whether it depends on the place in the picture."""

    def light(self, sites: np.ndarray, channel: int, rho: np.ndarray | None) -> np.ndarray:
        """Map sRGB (rows, columns, 3), uint8, uint16 or float32, to a channel's linear values (n,) in [0, 1]."""


def develop(
    raw: RawImage,
    rendering: Rendition | Rendering,
    *,
    gain: float = 1.0,
    dtype: type[np.generic] = np.uint8,
    threads: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Develop the RAW's crop to sRGB pixels (H, W, 3), as it lies (orientation not applied).

    The mosaic is white-balanced, clipped where green clips, demosaiced (Malvar, He, Cutler 2004) and rendered. A RAW
    with all three colours of each pixel (``RawImage.linear``) needs no demosaicing.

    gain      factor of linear light for a rendition, after the clipping
    dtype     uint8 or uint16: full scale 255 or 65535; float32: in [0, 1], but for ``ParametricLinear``
    threads   None takes one for each of up to four cores; the result does not depend on it
    progress  takes the finished share, 0 to 1, from any thread
    """
    assert raw.crop is not None
    height, width = raw.mosaic.shape
    out = np.empty((height, width, 3), dtype)
    ready: Rendering = (
        Applier(rendering if gain == 1 else rendering.brightened(gain))
        if isinstance(rendering, Rendition)
        else rendering
    )

    def work(first: int, last: int) -> None:
        sites = site_planes(raw, first, last, balanced=ready.balanced) if raw.linear is None else []
        columns = np.arange(width // 2, dtype=np.float32)
        for y in (0, 1):
            for x in (0, 1):
                if raw.linear is None:
                    planes = demosaiced(sites, raw.canonical.cfa, y, x)
                else:
                    planes = colour_planes(raw, raw.linear[2 * first + y : 2 * last : 2, x::2], balanced=ready.balanced)
                rho = None
                if ready.shaded:
                    rows = np.arange(first, last, dtype=np.float32)[:, None]
                    rho = _rho(raw, 2 * rows + y, 2 * columns + x).ravel()
                codes = ready.codes(planes.reshape(3, -1), rho, dtype).reshape(planes.shape)
                target = out[2 * first + y : 2 * last : 2, x::2]
                for channel in range(3):
                    target[..., channel] = codes[channel]

    in_bands(work, height // 2, max(SITES // (width // 2), 1), threads, progress)
    crop = raw.crop
    return out[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def expose(
    pixels: np.ndarray,
    unprocessing: Rendition | Unprocessing,
    canonical: CanonicalParams,
    size: tuple[int, int],
    *,
    dtype: type[np.generic] = np.uint16,
    threads: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Turn sRGB pixels (H, W, 3), uint8, uint16 or float32 in [0, 1], into a mosaic of ``size`` (see ``develop``).

    The picture is padded by reflection to ``size``, which is even. The mosaic is in raw units; with ``dtype`` float32
    it is linear, in [0, 1].
    """
    height, width = pixels.shape[:2]
    if (height, width) != size:
        pixels = np.pad(pixels, ((0, size[0] - height), (0, size[1] - width), (0, 0)), mode="reflect")
    mosaic = np.empty(size, dtype)
    ready: Unprocessing = (
        Applier(unprocessing, canonical.wb_gains) if isinstance(unprocessing, Rendition) else unprocessing
    )

    def work(first: int, last: int) -> None:
        columns = np.arange(size[1] // 2, dtype=np.float32)
        for y in (0, 1):
            for x in (0, 1):
                channel = "RGB".index(canonical.cfa[2 * y + x])
                rho = None
                if ready.shaded:
                    rows = np.arange(first, last, dtype=np.float32)[:, None]
                    rho = _rho_of((0, 0, height, width), 2 * rows + y, 2 * columns + x).ravel()
                light = ready.light(pixels[2 * first + y : 2 * last : 2, x::2], channel, rho)
                if dtype != np.float32:
                    black = canonical.black_level[y, x]
                    light *= np.float32(canonical.white_level - black)
                    light += np.float32(black)
                    np.rint(light, out=light)
                    np.clip(light, 0, np.float32(canonical.white_level), out=light)
                mosaic[2 * first + y : 2 * last : 2, x::2] = light.reshape(last - first, -1)

    in_bands(work, size[0] // 2, max(SITES // (size[1] // 2), 1), threads, progress)
    return mosaic


def _rho(raw: RawImage, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the squared distance from the middle of the crop, 1 in its corners."""
    crop = raw.crop
    assert crop is not None
    return _rho_of((crop.top, crop.left, crop.height, crop.width), rows, columns)


def _rho_of(frame: tuple[int, int, int, int], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the squared distance from the middle of a frame (top, left, height, width), 1 in its corners."""
    top, left, high, wide = frame
    y, x = rows - (top + (high - 1) / 2), columns - (left + (wide - 1) / 2)
    square: np.ndarray = np.minimum((y * y + x * x) / np.float32(high * high / 4 + wide * wide / 4), 1)
    return square


def site_planes(raw: RawImage, first: int, last: int, *, balanced: bool) -> list[np.ndarray]:
    """Return the four planes (y, x) of rows of 2×2 sites ``first`` to ``last``, linear, black 0, white 1.

    ``balanced`` multiplies them by the gains of the white balance and clips them at 1, where green clips. There is one
    site more on each side: neighbours, or at the border the reflection about the first and last pixel.
    """
    height = raw.mosaic.shape[0]
    black, white = raw.canonical.black_level, raw.canonical.white_level
    planes = []
    for y in (0, 1):
        for x in (0, 1):
            rows = 2 * np.arange(first - 1, last + 1) + y
            rows = np.where(rows < 0, -rows, np.where(rows >= height, 2 * (height - 1) - rows, rows))
            rows = np.clip(rows, y, height - 2 + y)
            gain = raw.canonical.wb_gains["RGB".index(raw.canonical.cfa[2 * y + x])] if balanced else 1.0
            low, span = (0.0, 1.0) if raw.mosaic.dtype != np.uint16 else (black[y, x], white - black[y, x])
            inner = raw.mosaic[rows, x::2] - np.float32(low)
            inner *= np.float32(gain / span)
            if balanced:
                np.minimum(inner, 1, out=inner)
            # Reflection keeps the colour: column −2 + x is column 2 − x of the same plane (x = 0), or −1 ↔ 1 (x = 1).
            left = inner[:, min(1 - x, inner.shape[1] - 1)]
            right = inner[:, max(inner.shape[1] - 1 - x, 0)]
            planes.append(np.concatenate([left[:, None], inner, right[:, None]], 1))
    return planes


def colour_planes(raw: RawImage, pixels: np.ndarray, *, balanced: bool) -> np.ndarray:
    """Return pixels (rows, columns, 3) of ``RawImage.linear`` as planes (3, rows, columns), like ``site_planes``."""
    planes = np.ascontiguousarray(np.moveaxis(pixels, 2, 0), np.float32)
    black = by_color(raw.canonical.black_level, raw.canonical.cfa)
    white, is_raw = raw.canonical.white_level, pixels.dtype == np.uint16
    for channel in range(3):
        gain = raw.canonical.wb_gains[channel] if balanced else 1.0
        low, span = (black[channel], white - black[channel]) if is_raw else (0.0, 1.0)
        planes[channel] -= np.float32(low)
        planes[channel] *= np.float32(gain / span)
    if balanced:
        np.minimum(planes, 1, out=planes)
    return planes


def demosaiced(sites: list[np.ndarray], cfa: str, y: int, x: int) -> np.ndarray:
    """Compute R, G and B at phase (y, x) of the sites, by Malvar's 5×5 filters: (3, rows, columns)."""
    rows, columns = sites[0].shape[0] - 2, sites[0].shape[1] - 2

    def at(dy: int, dx: int) -> np.ndarray:
        down, across = y + dy, x + dx
        plane = sites[2 * (down % 2) + across % 2]
        top, left = down // 2 + 1, across // 2 + 1
        return plane[top : top + rows, left : left + columns]

    out = np.empty((3, rows, columns), np.float32)
    here = "RGB".index(cfa[2 * y + x])
    middle = at(0, 0)
    out[here] = middle
    beyond_y, beyond_x = at(-2, 0) + at(2, 0), at(0, -2) + at(0, 2)
    near_y, near_x = at(-1, 0) + at(1, 0), at(0, -1) + at(0, 1)
    corners = at(-1, -1) + at(-1, 1)
    corners += at(1, -1)
    corners += at(1, 1)
    if here != 1:
        cross = beyond_y + beyond_x
        out[1] = np.float32(0.5) * middle + np.float32(0.25) * (near_y + near_x) - np.float32(0.125) * cross
        other = 2 - here
        out[other] = np.float32(0.75) * middle + np.float32(0.25) * corners - np.float32(0.1875) * cross
        return out
    in_row = "RGB".index(cfa[2 * y + 1 - x])
    for channel, near, along, aside in (
        (in_row, near_x, beyond_x, beyond_y),
        (2 - in_row, near_y, beyond_y, beyond_x),
    ):
        out[channel] = np.float32(0.625) * middle + np.float32(0.5) * near
        out[channel] -= np.float32(0.125) * (corners + along)
        out[channel] += np.float32(0.0625) * aside
    return out
