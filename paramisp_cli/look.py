"""Fit the look between a picture and its RAW: tone curve, look-up table, exposure. Small statistics, numpy only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from paramisp_cli import color, look_table, mosaic
from paramisp_cli.types import RawImage

_SAMPLES = 320
"""Sampled quads along the shorter side, at least: enough for statistics, and fast."""
_TABLE_SAMPLES = 40_000
"""Most samples of the look-up table's fit, which takes longer than the curve's."""


def _quads(raw: RawImage, gains: np.ndarray) -> tuple[np.ndarray, int, int, int]:
    """Sample the crop: ((h, w, 3) camera RGB of every ``step``-th 2×2, times ``gains``, in [0, 1]; top, left, step)."""
    assert raw.crop is not None
    top, left = raw.crop.top + raw.crop.top % 2, raw.crop.left + raw.crop.left % 2
    rows, columns = (raw.crop.top + raw.crop.height - top) // 2, (raw.crop.left + raw.crop.width - left) // 2
    step = max(min(rows, columns) // _SAMPLES, 1)
    inside = raw.mosaic[top : top + 2 * rows, left : left + 2 * columns]
    planes = mosaic.linear_sites(inside, raw.canonical.black_level, raw.canonical.white_level, step)
    camera = mosaic.superpixels(planes, raw.canonical.cfa)
    return np.clip(camera * gains, 0, 1), top, left, step


def linear_srgb(raw: RawImage) -> np.ndarray:
    """Return (h, w, 3) linear sRGB of a sample of the RAW's 2×2 sites, not clipped; empty for a RAW below 2×2."""
    camera, *_ = _quads(raw, raw.canonical.wb_gains)
    linear: np.ndarray = camera @ raw.canonical.cam_to_srgb().T
    return linear


def fitted_curve(pixels: np.ndarray, raw: RawImage) -> np.ndarray | None:
    """Fit the DNG's tone curve: (N, 2) points, linear light → linear light, that make ``raw`` look like ``pixels``.

    ``pixels`` is the source picture of ``raw``: (H, W, 3), sRGB encoded, aligned with the crop, uint8, uint16 or
    float32. The curve goes from (0, 0) to (1, 1) in at most 64 points; x rises strictly and y never falls. It is None
    for a picture of fewer than 64 sites.

    The curve is a weighted isotonic regression of the picture's encoded values on the RAW's, in ProPhoto, where
    ``toned`` and Adobe's programs apply it, and in sRGB, where simpler readers apply it. Near-neutral pixels, equal in
    both spaces, decide. Coloured pixels count less, because no single curve restores colours, but enough to bridge
    tones without neutral pixels. Black pixels count four times and stay black.
    """
    samples = _samples(pixels, raw)
    return None if samples is None else _curve(*samples)


def matched(pixels: np.ndarray, raw: RawImage) -> RawImage:
    """Return ``raw`` with the tone curve and the look-up table that make it look like ``pixels`` (``fitted_curve``)."""
    samples = _samples(pixels, raw)
    if samples is None:
        return raw
    curve, table = profile(*samples)
    return replace(raw, tone_curve=curve, look_table=table)


def profile(linear: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Fit a tone curve (N, 2) and a look-up table that take ``linear`` to ``shown``, both (h, w, 3) linear sRGB."""
    curve = _curve(linear, shown)
    step = int(np.ceil(np.sqrt(linear.size / 3 / _TABLE_SAMPLES)))
    # Light outside sRGB is not clipped here: a table meets it in ProPhoto.
    linear, shown = (light[::step, ::step].reshape(-1, 3) for light in (linear, shown))
    wide, target = (np.clip(light @ color.SRGB_TO_PROPHOTO.T, 0, 1) for light in (linear, shown))
    return curve, look_table.fitted(wide, through(target, curve[:, ::-1]))


def shoulder(pixels: np.ndarray, raw: RawImage) -> float:
    """Return the ``profile_exposure`` ≤ 0 [EV] that lets one tone curve show all light that ``pixels`` shows.

    A curve ends where ``baseline_exposure`` brings light to white. A picture whose shoulder shows more light than that
    below its own white would appear blown out. Arguments as for ``fitted_curve``; 0 for a picture of few sites.
    """
    samples = _samples(pixels, replace(raw, profile_exposure=0.0))
    if samples is None:
        return 0.0
    linear, shown = samples
    grey = linear[shown.max(-1) < _WHITE].max(-1)
    if grey.size < _ENOUGH or (grey > 1).mean() < _RARE:
        return 0.0
    beyond = float(np.log2(np.clip(np.quantile(grey, 1 - _RARE), 1, None)))
    return -min(beyond, max(raw.baseline_exposure, 0.0))


def _samples(pixels: np.ndarray, raw: RawImage) -> tuple[np.ndarray, np.ndarray] | None:
    """Return linear sRGB (h, w, 3) of a sample of the RAW and of the picture; None for fewer than 64 sites."""
    gains = raw.canonical.wb_gains
    camera, top, left, step = _quads(raw, gains / gains.min())  # DNG readers let the channel that clips first set white
    assert raw.crop is not None
    if camera.size < 3 * 64:
        return None
    linear = camera @ raw.canonical.cam_to_srgb().T
    linear *= 2.0 ** (raw.baseline_exposure + raw.profile_exposure)  # the reader's exposure comes before the curve
    rows, columns = linear.shape[:2]
    shown = np.zeros_like(linear)
    codes = 0 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    light = color.srgb_decode(np.arange(codes + 1) / codes) if codes else None
    for site in mosaic.sites(pixels[top - raw.crop.top :, left - raw.crop.left :], step):
        part = site[:rows, :columns]
        shown += (color.srgb_decode(part) if light is None else light[part]) / 4
    return linear, shown


def _curve(linear: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Fit the curve of ``fitted_curve`` to samples (h, w, 3)."""
    unclipped = linear.max(-1) < _CLIPPED
    linear, shown = linear[unclipped], shown[unclipped]  # (n, 3)
    wide, target = (np.clip(light @ color.SRGB_TO_PROPHOTO.T, 0, 1) for light in (linear, shown))
    target = color.srgb_encode(target)
    encoded = color.srgb_encode(shown)
    black = encoded.max(-1) <= _BLACK
    colourful = np.maximum(_saturation(color.srgb_encode(wide)), _saturation(target)) > _NEUTRAL
    weight = np.where(black, 4.0, np.where(colourful, _COLOURED, 1.0)).repeat(3)
    wide, narrow = wide.ravel(), np.clip(linear, 0, 1).ravel()
    inside = narrow > _SHADOW
    curve = _isotonic_points(
        np.concatenate([wide, narrow[inside]]),
        np.concatenate([target.ravel(), encoded.ravel()[inside]]),
        np.concatenate([weight, _SRGB * weight[inside]]),
    )
    if black.sum() >= _ENOUGH:
        floor = float(np.quantile(wide[black.repeat(3)], _BLACK_SHARE))
        curve = np.concatenate([[[floor, 0]], curve[curve[:, 0] > floor + _GAP]])
    inside = (curve[:, 0] > _GAP) & (curve[:, 0] < 1 - _GAP)
    return np.concatenate([[[0, 0]], curve[inside], [[1, 1]]])


_WHITE, _RARE = 0.95, 0.002
"""Light of the photo's brightest channel below which a pixel is not white, and the share of such pixels that may be
lost beyond the curve's end."""
_CLIPPED = 0.999
"""Linear light from which a pixel counts as clipped and is not used for the curve, which ends at (1, 1)."""
_NEUTRAL = 0.25
"""Saturation, of encoded values, up to which a pixel is near-neutral."""
_SHADOW = 0.01
"""Linear light up to which only ProPhoto counts: in sRGB, low channels of saturated colours fill the shadows."""
_COLOURED, _SRGB = 0.2, 0.6
"""Weight of a coloured pixel relative to a neutral one, and of sRGB relative to ProPhoto. They were chosen on 13 JPEGs:
in both spaces the loss against the space's own optimum is small."""
_BLACK = 2 / 255
"""Encoded value of a black pixel's brightest channel."""
_BLACK_SHARE = 0.75
"""Share of the black pixels' channel values that the curve maps to 0.

The networks' black is bluish: its red and green become 0, and most of its blue. Mapping all blue to 0 would crush grey
shadows.
"""
_ENOUGH = 32
"""Fewest values of a bin that becomes a point of the curve, and fewest black pixels that count as black."""
_BINS = 61  # with both ends and black: 64 points
_GAP = 1e-6  # between x of neighbouring points


def _saturation(encoded: np.ndarray) -> np.ndarray:
    """Return the saturation (n,) of (n, 3) encoded values, 0 to 1; small in shadows, where channels differ by noise."""
    high = encoded.max(-1)
    saturation: np.ndarray = (high - encoded.min(-1)) / (high + 0.1)
    return saturation


def _isotonic_points(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fit a rising curve to linear x and encoded y (n,); return (m, 2) points, linear, both columns strictly rising.

    The bins are of equal width in the cube root of x, which is close to equal in lightness. Bins of one fitted y become
    one point, at their mean x, so that the curve has no flat stretch.
    """
    index = np.minimum((np.cbrt(x) * _BINS).astype(int), _BINS - 1)
    usable = np.bincount(index, minlength=_BINS) >= _ENOUGH
    total = np.bincount(index, weight, _BINS)[usable]
    sum_x, sum_y = (np.bincount(index, weight * value, _BINS)[usable] for value in (x, y))
    level, group = np.unique(isotonic(sum_y / total, total), return_inverse=True)
    middle = np.bincount(group, sum_x, len(level)) / np.bincount(group, total, len(level))
    return np.stack([middle, np.clip(color.srgb_decode(level), 0, 1)], 1)


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the non-falling (n,) sequence nearest to ``values`` (n,) in weighted least squares; weights are > 0.

    Pool adjacent violators (Ayer et al., 1955): neighbours in the wrong order become their weighted mean.
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight, number of values
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, count = value, weight, 1
        while pools and pools[-1][0] >= mean:
            before, other, more = pools.pop()
            mean = (before * other + mean * total) / (other + total)
            total, count = other + total, count + more
        pools.append((mean, total, count))
    return np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])


def toned(linear: np.ndarray, curve: np.ndarray, table: np.ndarray | None = None) -> np.ndarray:
    """Apply a look-up table and a tone curve (N, 2) to linear sRGB (..., 3) as a DNG reader does → the same, in [0, 1].

    The largest and the smallest channel of linear ProPhoto RGB go through the curve; the middle one keeps its relative
    place between them, which preserves the hue (the DNG SDK's reference rendering of ProfileToneCurve).
    """
    wide = np.clip(linear @ color.SRGB_TO_PROPHOTO.T, 0, 1)
    if table is not None:
        wide = look_table.applied(wide, table)
    toned: np.ndarray = np.clip(through(wide, curve) @ color.PROPHOTO_TO_SRGB.T, 0, 1)
    return toned


def through(wide: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Take the outer channels of (..., 3) through a curve (N, 2), the middle one at its place between them."""
    low, high = wide.min(-1, keepdims=True), wide.max(-1, keepdims=True)
    place = (wide - low) / np.maximum(high - low, 1e-12)  # 0 and 1 for the two outer channels
    low, high = (np.interp(end, curve[:, 0], curve[:, 1]) for end in (low, high))
    result: np.ndarray = low + place * (high - low)
    return result


def matched_exposure(raw: RawImage, preview: np.ndarray) -> float:
    """Return the EV that makes the parametric rendering of ``raw`` as bright, on average, as its camera's own preview.

    ``preview`` (h, w, 3) uint8, any size. A bisection in ±6 EV matches the mean of the encoded green-weighted luma.
    """
    weights = np.array([0.2126, 0.7152, 0.0722])
    target = float((preview.reshape(-1, 3) @ weights).mean()) / 255
    camera, *_ = _quads(raw, raw.canonical.wb_gains)
    sample = camera[::2, ::2] if camera.shape[0] > 64 else camera
    matrix = raw.canonical.cam_to_srgb().T
    low, high = -6.0, 6.0
    for _ in range(24):
        middle = (low + high) / 2
        encoded = color.srgb_encode(np.clip(np.clip(sample * 2**middle, 0, 1) @ matrix, 0, 1))
        luma = ((encoded * encoded * (3 - 2 * encoded)) @ weights).mean()
        low, high = (middle, high) if luma < target else (low, middle)
    return round((low + high) / 2, 3)
