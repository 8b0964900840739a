"""Give a RAW the colours of another camera: each sample becomes the value that the other sensor would have recorded.

Colours are compared after each camera's own white balance, where a neutral object has R = G = B in both. White
therefore stays white by construction. At every site two colours are demosaiced and the third is the recorded sample.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from paramisp_cli.mosaic import linear, sampled
from paramisp_cli.rendition.bands import Progress, in_bands
from paramisp_cli.rendition.develop import SITES, colour_planes, demosaiced, site_planes
from paramisp_cli.types import RawImage

BLACK, WHITE = 2048, 65535
"""Levels of the result. Noise around black goes below 0, so black needs room, or shadows would turn bright."""

_CLIPS = (0.97, 0.995)
"""Values between which a sample counts more and more as clipped, in units of the saturation."""
_PLATEAU = 2e-4
"""Share of all samples at the largest code from which this code is the sensor's saturation."""
_LOWEST_PLATEAU = 0.7
"""Lowest saturation, in units of the white level: no sensor saturates below it."""


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """A map from the white-balanced RGB of one camera to that of another, and both cameras' neutrals.

    coefficients  (3, 3), a matrix; or (3, 6), of the root-polynomial R, G, B, √(RG), √(GB), √(RB). Rows sum to 1: white
                  stays white. Both forms follow the exposure: twice the light gives twice the values.
    neutral_a, neutral_b  (3,) RGB of a neutral object, G = 1
    """

    coefficients: np.ndarray
    neutral_a: np.ndarray
    neutral_b: np.ndarray

    @property
    def is_identity(self) -> bool:
        """Whether it changes no value."""
        shape = self.coefficients.shape
        return np.array_equal(self.coefficients, np.eye(*shape)) and np.array_equal(self.neutral_a, self.neutral_b)

    def matrix(self) -> np.ndarray:
        """Return (3, 3) camera RGB → camera RGB near neutral colours; for a matrix, everywhere."""
        slopes = self.coefficients[:, :3].copy()
        if self.coefficients.shape[1] == 6:  # the derivative of √(RG) is 1/2 to R and to G where R = G
            for term, pair in enumerate(_PAIRS):
                slopes[:, list(pair)] += 0.5 * self.coefficients[:, 3 + term, None]
        own: np.ndarray = self.neutral_b[:, None] * slopes / self.neutral_a
        return own

    def apply(self, balanced: np.ndarray, channel: int) -> np.ndarray:
        """Map white-balanced RGB (3, …) to one white-balanced channel (…) of the other camera."""
        weights = self.coefficients[channel].astype(balanced.dtype)
        out = weights[0] * balanced[0] + weights[1] * balanced[1] + weights[2] * balanced[2]
        if len(weights) == 6:
            roots = np.sqrt(np.maximum(balanced, 0))
            for weight, (one, other) in zip(weights[3:], _PAIRS, strict=True):
                out += weight * (roots[one] * roots[other])
        return np.asarray(out)


_PAIRS = ((0, 1), (1, 2), (0, 2))
"""Channels below the roots of a root-polynomial, term by term."""


def terms(balanced: np.ndarray) -> np.ndarray:
    """Return the six terms (6, …) of the root-polynomial of RGB (3, …) ≥ 0, in the order of ``Transform``."""
    return np.concatenate([balanced, np.stack([np.sqrt(balanced[one] * balanced[other]) for one, other in _PAIRS])])


def saturation(raw: RawImage) -> float:
    """Return the value at which the sensor clips, linear, black 0: 1, or less for a plateau below the white level.

    Some files state a white level that the sensor never reaches. There many samples share the largest code.
    """
    if raw.mosaic.dtype != np.uint16:
        return 1.0
    counts = np.bincount(raw.mosaic.ravel(), minlength=2)
    top = int(np.flatnonzero(counts)[-1])
    black = float(raw.canonical.black_level.mean())
    level = (top - black) / (raw.canonical.white_level - black)
    is_plateau = counts[top] >= _PLATEAU * raw.mosaic.size and _LOWEST_PLATEAU <= level < 1
    return level if is_plateau else 1.0


def transferred(
    raw: RawImage,
    transform: Transform,
    cfa: str,
    *,
    gain: float = 1.0,
    dtype: type[np.generic] = np.uint16,
    threads: int | None = None,
    progress: Progress | None = None,
) -> RawImage:
    """Return the RAW with the other camera's samples, as large, with the filters ``cfa`` and black ``BLACK``.

    Its canonical parameters have the new levels, CFA and neutral; the caller sets the colour matrix. With ``dtype``
    float32 the samples are linear in [0, 1]. ``gain`` multiplies the light. The noise profile follows the samples.

    A clipped sample tells only that there was more light. It is raised to the mean of the pixel's other colours if that
    is more, after white balance, so that highlights stay neutral. A pixel of which all colours clip becomes white.
    """
    top = saturation(raw)
    picture = np.empty((*raw.mosaic.shape, 3), dtype) if raw.linear is not None else None
    mosaic = np.empty(raw.mosaic.shape, dtype)

    def work(first: int, last: int) -> None:
        planes = site_planes(raw, first, last, balanced=False) if raw.linear is None else []
        for y in (0, 1):
            for x in (0, 1):
                if raw.linear is None:
                    colours = demosaiced(planes, raw.canonical.cfa, y, x)
                else:
                    colours = colour_planes(raw, raw.linear[2 * first + y : 2 * last : 2, x::2], balanced=False)
                lifted, white = _without_clipping(colours, transform.neutral_a, top)
                rows, columns = slice(2 * first + y, 2 * last, 2), slice(x, None, 2)
                if picture is None:
                    channel = "RGB".index(cfa[2 * y + x])
                    mosaic[rows, columns] = _codes(transform, lifted, white, channel, gain, dtype)
                else:
                    for channel in range(3):
                        picture[rows, columns, channel] = _codes(transform, lifted, white, channel, gain, dtype)

    in_bands(work, raw.mosaic.shape[0] // 2, max(SITES // (raw.mosaic.shape[1] // 2), 1), threads, progress)
    black, level = (BLACK, WHITE) if dtype == np.uint16 else (0, 1)
    canonical = replace(
        raw.canonical, cfa=cfa, black_level=np.full((2, 2), float(black)), white_level=level,
        as_shot_neutral=transform.neutral_b,
    )  # fmt: skip
    samples = mosaic if picture is None else sampled(picture, cfa)
    noise = None if raw.noise_profile is None else noise_of(raw.noise_profile, transform, gain)
    return replace(raw, mosaic=samples, linear=picture, canonical=canonical, noise_profile=noise)


def with_samples(
    raw: RawImage, transform: Transform, light: np.ndarray, *, gain: float = 1.0, dtype: type[np.generic] = np.uint16
) -> RawImage:
    """Return the RAW with samples that a network computed (H, W), linear; levels and parameters as ``transferred``.

    A network has not learned clipping: where samples clip, ``transform`` replaces it, with a soft border.
    """
    closed = transferred(raw, transform, raw.canonical.cfa, gain=gain, dtype=np.float32)
    share = _clipped_share(raw)
    light = np.clip(light * np.float32(gain), 0 if dtype != np.uint16 else -BLACK / (WHITE - BLACK), 1)
    light = light + share * (closed.mosaic - light)
    if dtype != np.uint16:
        return replace(closed, mosaic=light.astype(dtype))
    codes = np.clip(np.rint(light * np.float32(WHITE - BLACK) + np.float32(BLACK)), 0, WHITE).astype(np.uint16)
    canonical = replace(closed.canonical, black_level=np.full((2, 2), float(BLACK)), white_level=WHITE)
    return replace(closed, mosaic=codes, canonical=canonical)


def _clipped_share(raw: RawImage) -> np.ndarray:
    """Return 1 within 4 pixels of a clipped sample, falling to 0 over 4 more: (H, W) float32."""
    samples = raw.mosaic
    if samples.dtype == np.uint16:
        samples = linear(samples, raw.canonical.black_level, raw.canonical.white_level)
    clipped = (samples > _CLIPS[0] * saturation(raw)).astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(clipped, [(6, 6) if number == axis else (0, 0) for number in (0, 1)], mode="edge")
        clipped = np.lib.stride_tricks.sliding_window_view(padded, 13, axis).max(-1)
    for axis in (0, 1):
        padded = np.pad(clipped, [(2, 2) if number == axis else (0, 0) for number in (0, 1)], mode="edge")
        clipped = np.lib.stride_tricks.sliding_window_view(padded, 5, axis).mean(-1, dtype=np.float32)
    return clipped


def _without_clipping(camera: np.ndarray, neutral: np.ndarray, top: float) -> tuple[np.ndarray, np.ndarray]:
    """Return white-balanced colours (3, …) with clipped ones raised, and the share of white (…); overwrites its input.

    ``camera`` is RGB (3, …), linear; ``top`` is the value at which the sensor clips.
    """
    low, high = (np.float32(edge * top) for edge in _CLIPS)
    clipped: np.ndarray | None = None
    if camera.max() > low:
        clipped = np.clip((camera - low) / (high - low), 0, 1)
        np.minimum(camera, np.float32(top), out=camera)  # demosaicing overshoots beside highlights
    camera /= neutral.astype(np.float32)[:, None, None]
    if clipped is None:
        return camera, np.zeros(camera.shape[1:], np.float32)
    trusted = 1 - clipped
    share = trusted.sum(0)
    mean = (trusted * camera).sum(0) / np.maximum(share, np.float32(1e-6))
    camera += clipped * np.maximum(mean - camera, 0)
    return camera, clipped.prod(0)


def _codes(
    transform: Transform, balanced: np.ndarray, white: np.ndarray, channel: int, gain: float, dtype: type[np.generic]
) -> np.ndarray:
    """Return a channel's samples (rows, columns): raw units, or linear for float32."""
    light = transform.apply(balanced, channel)
    light *= np.float32(transform.neutral_b[channel] * gain)
    light += white * np.maximum(1 - light, 0)
    if dtype != np.uint16:
        clipped: np.ndarray = np.clip(light, 0, 1).astype(dtype)
        return clipped
    light *= np.float32(WHITE - BLACK)
    light += np.float32(BLACK)
    codes: np.ndarray = np.clip(np.rint(light), 0, WHITE).astype(np.uint16)
    return codes


def noise_of(profile: np.ndarray, transform: Transform, gain: float = 1.0) -> np.ndarray:
    """Return the noise (3, 2), scale and offset, of the other camera's samples: variance = scale·x + offset.

    Variances add up through the squares of the matrix. A sample's noise depends on all three colours of its pixel, and
    DNG states it for one: the scale is that of neutral colours. Demosaicing averages, so it is an upper estimate.
    """
    squares = (gain * transform.matrix()) ** 2
    ratio = transform.neutral_a[None, :] / (gain * transform.neutral_b[:, None])
    scale = (squares * profile[:, 0] * ratio).sum(1)
    return np.stack([scale, squares @ profile[:, 1]], 1)


def with_noise(raw: RawImage, goal: np.ndarray) -> tuple[RawImage, str]:
    """Add the noise that another camera has more; return the RAW and a notice in which {name} stands for the camera.

    goal  (3, 2) scale and offset of that camera: variance = scale·x + offset for x linear in [0, 1]

    Where the RAW has more noise than ``goal``, its noise stays: nothing can take it out. Clipped samples stay clipped.
    The same samples give the same noise. The noise profile follows.
    """
    own = np.zeros((3, 2)) if raw.noise_profile is None else raw.noise_profile
    more = np.maximum(goal - own, 0)
    if not more.any():
        return raw, "has at least the noise of {name} already"
    canonical, samples = raw.canonical, raw.mosaic if raw.linear is None else raw.linear
    rng = np.random.default_rng(zlib.crc32(samples.tobytes()))
    made = np.empty_like(samples)
    black, white = canonical.black_level, canonical.white_level
    for y, x in np.ndindex(2, 2):
        sites = samples[y::2, x::2]
        variance = more["RGB".index(canonical.cfa[2 * y + x])] if raw.linear is None else more
        level, span = (black[y, x], white - black[y, x]) if samples.dtype == np.uint16 else (0, 1)
        light = (sites.astype(np.float32) - np.float32(level)) / np.float32(span)
        sigma = np.sqrt(variance[..., 0] * light.clip(0) + variance[..., 1], dtype=np.float32)
        noisy = np.where(light < 1, light + sigma * rng.standard_normal(light.shape, np.float32), light)
        if samples.dtype == np.uint16:
            made[y::2, x::2] = np.clip(np.rint(noisy * np.float32(span) + np.float32(level)), 0, white)
        else:
            made[y::2, x::2] = np.clip(noisy, None, 1)
    profile = np.maximum(own, goal)
    if raw.linear is None:
        return replace(raw, mosaic=made, noise_profile=profile), "has the noise that {name} has more"
    linear_raw = replace(raw, linear=made, mosaic=sampled(made, canonical.cfa), noise_profile=profile)
    return linear_raw, "has the noise that {name} has more"
