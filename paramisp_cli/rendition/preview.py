"""Lay a RAW file over the camera's own preview of it: orientation, scale, shift and lens correction, all measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paramisp_cli.formats.raster import apply_orientation
from paramisp_cli.rendition.bands import in_bands, in_threads
from paramisp_cli.types import RawImage

_LONGEST, _FINEST, _PIXELS = 800, 1800, 400_000
"""Longer side [px] of the grids on which both are aligned and their colours compared, and pixels that are compared.

A rendition is fitted to noise and edges, too: on a coarser grid they average out, and the fit is worse.
"""
_SMALLEST = 96
"""Pixels of a preview's shorter side below which its colours are not trusted to lie on the RAW's."""
_SHAPE = 0.04
"""Share by which the shapes of preview and RAW may differ."""
_GOOD, _SAME = 0.5, 0.25
"""Normalised correlation of edges from which a window's shift, and the whole picture's, is believed."""
_ROUNDS = 3
_BAND = 1 << 16
"""Pixels at a time."""
_BAR = 20
"""Code of the brightest pixel of a row that is a black bar."""


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """Pixels of both on one grid: camera_rgb, srgb (h, w, 3), weight, rho (h, w); and how sure the alignment is.

    ``camera_rgb`` is white-balanced and linear, green clipping at 1; ``weight`` is 0 where nothing lies
    under a pixel; of a large preview every few pixels are here.
    windows, agree: textured windows, and the share of them that lie within a pixel of the fitted position.
    size: (height, width) of the preview.
    """

    camera_rgb: np.ndarray
    srgb: np.ndarray
    weight: np.ndarray
    rho: np.ndarray
    orientation: int
    windows: int
    agree: float
    size: tuple[int, int]


class Misfit(ValueError):  # noqa: N818 - a finding, not a fault
    """A preview cannot be laid over its RAW; the text is the reason."""


def superpixels(raw: RawImage, factor: int = 1) -> np.ndarray:
    """Compute white-balanced camera RGB (h, w, 3) float32: means over ``factor`` × ``factor`` of the crop's 2×2 sites.

    Sites clip where green clips (1): no camera's picture shows more.
    """
    assert raw.crop is not None
    top, left = raw.crop.top + raw.crop.top % 2, raw.crop.left + raw.crop.left % 2
    rows = (raw.crop.top + raw.crop.height - top) // (2 * factor)
    columns = (raw.crop.left + raw.crop.width - left) // (2 * factor)
    out = np.zeros((rows, columns, 3), np.float32)
    black, white = raw.canonical.black_level, raw.canonical.white_level
    normalised = raw.mosaic.dtype != np.uint16
    sites = raw.mosaic[top : top + 2 * factor * rows, left : left + 2 * factor * columns]

    def work(first: int, last: int) -> None:
        for y in (0, 1):
            for x in (0, 1):
                channel = "RGB".index(raw.canonical.cfa[2 * y + x])
                plane = sites[2 * factor * first + y : 2 * factor * last : 2, x::2]
                gain = float(raw.canonical.wb_gains[channel])
                low, span = (0.0, 1.0) if normalised else (float(black[y, x]), float(white - black[y, x]))
                plane = np.minimum((plane - np.float32(low)) * np.float32(gain / span), 1)
                mean = plane if factor == 1 else _mean(plane, factor)
                out[first:last, :, channel] += mean * np.float32(0.5 if channel == 1 else 1)

    in_bands(work, rows, _BAND // max(columns * factor**2, 1))
    return out


def _reduced(image: np.ndarray, factor: int) -> np.ndarray:
    """Average (H, W, …) over factor × factor; a rest at the end is left out."""
    if factor == 1:
        return image
    rows, columns = image.shape[0] // factor, image.shape[1] // factor
    out = np.empty((rows, columns, *image.shape[2:]), np.float32)

    def work(first: int, last: int) -> None:
        out[first:last] = _mean(image[factor * first : factor * last, : factor * columns], factor)

    in_bands(work, rows, _BAND // max(columns * factor**2, 1))
    return out


def _mean(image: np.ndarray, factor: int) -> np.ndarray:
    """Average (H, W, …) over factor × factor, which divides both sides."""
    whole = image.reshape(image.shape[0] // factor, factor, image.shape[1] // factor, factor, *image.shape[2:])
    kind = np.uint16 if image.dtype == np.uint8 and factor <= 16 else np.float32  # both hold the sum exactly
    lines = whole.sum(1, dtype=kind)
    total = np.empty((*lines.shape[:2], *image.shape[2:]), kind)
    for channel in np.ndindex(image.shape[2:]):  # short inner loops are slow
        plane = total[(..., *channel)]
        plane[...] = lines[(slice(None), slice(None), 0, *channel)]
        for place in range(1, factor):
            plane += lines[(slice(None), slice(None), place, *channel)]
    return np.asarray(total / np.float32(factor * factor))


def align(raw: RawImage, preview: np.ndarray) -> Aligned:
    """Lay ``raw`` over its preview (H, W, 3) uint8; raises Misfit with the reason if that cannot be done surely."""
    shown = _without_bars(preview)
    if min(shown.shape[:2]) < _SMALLEST:
        raise Misfit(f"its preview has only {preview.shape[1]}×{preview.shape[0]} pixels")
    assert raw.crop is not None
    most = min(_FINEST, max(raw.crop.height, raw.crop.width) // 2 * 1.05)  # no finer than the RAW's 2×2 sites
    finest = _reduced(shown, int(np.ceil(max(shown.shape[:2]) / most))) / np.float32(255)
    sites = superpixels(raw, max(int(max(raw.crop.height, raw.crop.width) / 2 / max(finest.shape[:2]) + 0.1), 1))
    srgb = _reduced(finest, -(-max(finest.shape[:2]) // _LONGEST))
    camera = _reduced(sites, max(int(max(sites.shape[:2]) / max(srgb.shape[:2]) + 0.1), 1))
    luma, best = _edges(srgb[..., 1]), None
    for orientation in dict.fromkeys((1, raw.orientation)):
        turned = apply_orientation(camera, orientation)
        ratio = turned.shape[0] * srgb.shape[1] / (turned.shape[1] * srgb.shape[0])
        if abs(ratio - 1) > _SHAPE:
            continue
        tried = _Placement(turned, srgb.shape[:2])
        score = tried.shift(luma)
        if best is None or score > best[0]:
            best = score, tried, orientation
    if best is None:
        size = f"{preview.shape[1]}×{preview.shape[0]}"
        raise Misfit(f"its preview ({size}) has another shape than the RAW picture: it is cropped, or not the camera's")
    score, placement, orientation = best
    count, agree = 0, 0.0
    for _ in range(_ROUNDS):
        count, agree = placement.refine(luma)
        if agree >= 0.95:
            break
    if score < _SAME and (count < 8 or agree < 0.6):
        raise Misfit(f"its preview does not look like the RAW picture (correlation {score:.2f}): edited or another")
    if count >= 6 and agree < 0.5:
        raise Misfit(f"its preview is warped: of {count} parts only {agree:.0%} lie where a lens correction puts them")
    fine = _Placement(apply_orientation(sites, orientation), finest.shape[:2])
    fine.warp = placement.warp * (max(fine.shape) / max(placement.shape))
    if fine.shape != placement.shape:
        fine.refine(_edges(finest[..., 1]))
    fine.step = max(int(np.sqrt(finest[..., 0].size / _PIXELS) + 0.99), 1)
    sampled, inside = fine.sampled()
    return Aligned(
        sampled, finest[:: fine.step, :: fine.step], inside, fine.rho(), orientation, count, agree, preview.shape[:2]
    )


def _without_bars(preview: np.ndarray) -> np.ndarray:
    """Return the preview without black rows and columns at its sides: some cameras frame another shape so."""
    for axis in (0, 1):
        lines = np.moveaxis(preview, axis, 0)
        first = _dark(lines)
        if 2 < first < len(lines):
            last = len(lines) - _dark(lines[::-1])
            if abs(first - (len(lines) - last)) <= 2:  # as wide on both sides
                preview = preview[first + 1 : last - 1] if axis == 0 else preview[:, first + 1 : last - 1]
    return preview


def _dark(lines: np.ndarray) -> int:
    """Count the black lines before the first bright one, all if there is none."""
    return next((number for number, line in enumerate(lines) if line.max() > _BAR), len(lines))


def _box(x: np.ndarray, radius: int) -> np.ndarray:
    """Mean over (2·radius + 1)², the border repeated."""
    size, (high, wide) = 2 * radius + 1, x.shape
    out = np.empty((2, high, wide), np.float32)

    def down(first: int, last: int) -> None:
        sums = np.cumsum(np.pad(x[:, first:last], ((radius + 1, radius), (0, 0)), mode="edge"), 0, dtype=np.float64)
        out[0, :, first:last] = (sums[size:] - sums[:-size]) / size

    def across(first: int, last: int) -> None:
        sums = np.cumsum(np.pad(out[0, first:last], ((0, 0), (radius + 1, radius)), mode="edge"), 1, dtype=np.float64)
        out[1, first:last] = (sums[:, size:] - sums[:, :-size]) / size

    in_bands(down, wide, _BAND // high)
    in_bands(across, high, _BAND // wide)
    boxed: np.ndarray = out[1]
    return boxed


def _edges(image: np.ndarray) -> np.ndarray:
    """Take the local mean out of (H, W) and even the contrast: tone, balance and vignetting drop out."""
    x = image - _box(image, 6)
    contrast = _box(x * x, 24)
    np.sqrt(contrast, out=contrast)
    contrast += np.float32(1e-3)
    return np.asarray(np.divide(x, contrast, out=x))


def _best_shift(part: np.ndarray, whole: np.ndarray) -> tuple[float, float, float]:
    """Find the smaller ``part`` in ``whole`` → (y, x, score), by normalised correlation, to a fraction of a pixel."""
    part = part - part.mean()
    high, wide = whole.shape[0] - part.shape[0] + 1, whole.shape[1] - part.shape[1] + 1
    spectrum = np.fft.rfft2(whole) * np.conj(np.fft.rfft2(part, whole.shape))
    cross = np.fft.irfft2(spectrum, whole.shape)[:high, :wide]
    sums = [np.pad((whole.astype(np.float64) ** power).cumsum(0).cumsum(1), ((1, 0), (1, 0))) for power in (1, 2)]
    h, w = part.shape
    one, two = (s[h:, w:] - s[:-h, w:] - s[h:, :-w] + s[:-h, :-w] for s in sums)
    score = cross / np.sqrt(np.maximum(two - one * one / part.size, 1e-6) * max(float((part * part).sum()), 1e-6))
    y, x = np.unravel_index(int(score.argmax()), score.shape)
    return y + vertex(score[:, x], int(y)), x + vertex(score[y], int(x)), float(score[y, x])


def vertex(line: np.ndarray, at: int) -> float:
    """Return the distance from sample ``at`` to the top of the parabola through it and its neighbours, in [−½, ½]."""
    if not 0 < at < len(line) - 1:
        return 0.0
    left, here, right = (float(v) for v in line[at - 1 : at + 2])
    bend = left - 2 * here + right
    return float(np.clip((left - right) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0


def _median(values: np.ndarray) -> float:
    """Return the median of (n,); ``np.median`` loads numpy.ma, which takes 60 ms."""
    ordered = np.sort(values)
    return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)


class _Placement:
    """Position of a RAW's reduced picture under a preview's grid: displacement from "same frame", smooth over it.

    ``warp`` (2, 5) holds, for y and x [grid px], coefficients of 1, y, x, y·r², x·r² (y, x, r from the middle; r = 1 in
    the corners): shift, scale, turn, and the main term of a lens's distortion.
    """

    def __init__(self, camera: np.ndarray, shape: tuple[int, int]) -> None:
        self.camera, self.shape, self.step = camera, shape, 1
        self.warp = np.zeros((2, 5))
        self.half = np.hypot(*shape) / 2

    def _terms(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        v, u = (y - (self.shape[0] - 1) / 2) / self.half, (x - (self.shape[1] - 1) / 2) / self.half
        v, u = np.broadcast_arrays(v, u)
        square = v * v + u * u
        return np.stack([np.ones_like(v), v, u, v * square, u * square], -1)

    def _size(self) -> tuple[int, int]:
        """Return the height and width of every ``step``-th grid pixel."""
        return -(-self.shape[0] // self.step), -(-self.shape[1] // self.step)

    def _places(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows and columns (h, w) of the reduced RAW picture under rows of every ``step``-th grid pixel."""
        y = np.arange(first * self.step, min(last * self.step, self.shape[0]), self.step, dtype=np.float32)[:, None]
        x = np.arange(0, self.shape[1], self.step, dtype=np.float32)
        off = self._terms(y, x) @ self.warp.T.astype(np.float32)
        rows, columns = self.camera.shape[0] / self.shape[0], self.camera.shape[1] / self.shape[1]
        return (y + 0.5 + off[..., 0]) * rows - 0.5, (x + 0.5 + off[..., 1]) * columns - 0.5

    def sampled(self, channels: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Sample the RAW picture on the preview's grid (h, w, c), bilinear; (h, w) tells whether it is there."""
        high, wide = self.camera.shape[:2]
        source = self.camera[..., channels].reshape(high * wide, -1)
        out = np.empty((*self._size(), source.shape[1]), np.float32)
        one = source.shape[1] == 1
        source, target = (np.ascontiguousarray(source[:, 0]), out[..., 0]) if one else (source, out)
        there = np.empty(self._size(), bool)

        def work(first: int, last: int) -> None:
            rows, columns = self._places(first, last)
            there[first:last] = (rows > -0.5) & (columns > -0.5) & (rows < high - 0.5) & (columns < wide - 0.5)
            rows, columns = np.clip(rows, 0, high - 1.001), np.clip(columns, 0, wide - 1.001)
            y, x = rows.astype(np.int32), columns.astype(np.int32)
            v, u = (rows - y).astype(np.float32), (columns - x).astype(np.float32)
            if not one:
                v, u = v[..., None], u[..., None]
            at = y * wide + x
            upper = source.take(at, 0) * (1 - u) + source.take(at + 1, 0) * u
            lower = source.take(at + wide, 0) * (1 - u) + source.take(at + wide + 1, 0) * u
            target[first:last] = upper * (1 - v) + lower * v

        in_bands(work, len(out), _BAND // out.shape[1])
        return out, there

    def rho(self) -> np.ndarray:
        """Return the squared distance (h, w) from the middle of the RAW picture, 1 in its corners."""
        high, wide = self.camera.shape[:2]
        share = np.empty(self._size())

        def work(first: int, last: int) -> None:
            rows, columns = self._places(first, last)
            square = (rows - (high - 1) / 2) ** 2 + (columns - (wide - 1) / 2) ** 2
            share[first:last] = square / (high * high / 4 + wide * wide / 4)

        in_bands(work, len(share), _BAND // share.shape[1])
        return share

    def _edges(self) -> np.ndarray:
        green = self.sampled(slice(1, 2))[0][..., 0]
        return _edges(np.clip(green, 0, None) ** np.float32(1 / 2.2))

    def shift(self, luma: np.ndarray) -> float:
        """Find the shift of the whole; returns the correlation there."""
        margin_y, margin_x = self.shape[0] // 10, self.shape[1] // 10
        y, x, score = _best_shift(luma[margin_y:-margin_y, margin_x:-margin_x], self._edges())
        self.warp[:, 0] = y - margin_y, x - margin_x
        return score

    def refine(self, luma: np.ndarray) -> tuple[int, float]:
        """Fit the warp to the shifts of textured windows; (windows, share of them within a pixel before that)."""
        edges = self._edges()
        size = max(min(self.shape) // 6, 32)
        reach = max(size // 6, 8)
        corners = [
            (int(top), int(left))
            for top in np.linspace(reach, self.shape[0] - size - reach, max(self.shape[0] // size, 2))
            for left in np.linspace(reach, self.shape[1] - size - reach, max(self.shape[1] // size, 2))
        ]

        def window(corner: tuple[int, int]) -> tuple[float, float, float, float] | None:
            top, left = corner
            part = luma[top : top + size, left : left + size]
            area = edges[top - reach : top + size + reach, left - reach : left + size + reach]
            if part.std() < 0.2 or area.std() < 0.2:
                return None
            y, x, score = _best_shift(part, area)
            return (top + size / 2, left + size / 2, y - reach, x - reach) if score >= _GOOD else None

        found = [each for each in in_threads(window, corners) if each is not None]
        if len(found) < 3:
            return len(found), 0.0
        middle_y, middle_x, off_y, off_x = np.array(found).T
        off = np.stack([off_y, off_x], -1)
        agree = float((np.abs(off).max(-1) <= 1).mean())
        terms = self._terms(middle_y, middle_x)[:, : 5 if len(found) >= 15 else 3 if len(found) >= 6 else 1]
        weight = np.ones(len(off))
        for _ in range(8):  # iteratively reweighted: a window on the wrong match is far off
            scaled = terms * weight[:, None]
            normal = terms.T @ scaled + 1e-3 * np.eye(terms.shape[1])
            change = np.linalg.solve(normal, scaled.T @ off)
            away = np.linalg.norm(off - terms @ change, axis=-1)
            weight = 1 / (1 + (away / max(_median(away), 0.2)) ** 2)
        self.warp[:, : terms.shape[1]] += change.T
        return len(found), agree
