"""Make a RAW of a picture with completed parameters: the model's mosaic, highlights of a gain map, profile, history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from paramisp_cli import carried, confidence, flat_noise, look, weights
from paramisp_cli import mosaic as bayer
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import jpeg, kept, provenance
from paramisp_cli.formats.pixels import composed
from paramisp_cli.machine import facts_of, is_free_of_torch, runner_of, stepped_down
from paramisp_cli.parameters import GAIN_MAP, KEPT_RAW, Conversion, Settings
from paramisp_cli.rendition import develop, highlights, parametric
from paramisp_cli.types import (
    CFA_PATTERNS,
    FALLBACK_OPTICAL,
    Confidence,
    Crop,
    Notice,
    RawImage,
    SrgbImage,
)

SMALLEST_MOSAIC = 24
"""Smallest side of a mosaic that ``unprocess`` makes: LibRaw opens no DNG of less than 22 pixels a side."""


def unprocessed(
    image: SrgbImage, conversion: Conversion, settings: Settings, progress: Callable[[float], None] | None
) -> RawImage:
    """Make the RAW of a picture; ``progress`` takes the finished share of the work. See ``convert.run``."""
    if conversion.architecture == KEPT_RAW:
        if settings.confidence:
            raise ConfigError(
                "carries the camera's own RAW, which needs no `confidence`; to make one, pass `--no-kept-raw` "
                "(in Python `kept_raw=False`)"
            )
        return _restored(image, conversion, settings)
    if settings.linear:
        return _linear(image, conversion, settings, progress)
    return _finished(image, _unfinished(image, conversion, settings, progress))


class _Made(NamedTuple):
    """A RAW without noise profile and look; the model's own tone curve, or None; whether it has light above white."""

    raw: RawImage
    curve: np.ndarray | None
    has_highlights: bool


def _unfinished(
    image: SrgbImage, conversion: Conversion, settings: Settings, progress: Callable[[float], None] | None
) -> _Made:
    """Make the samples of a RAW."""
    height, width = image.size
    size = max(height + height % 2, SMALLEST_MOSAIC), max(width + width % 2, SMALLEST_MOSAIC)
    exposure, canonical = settings.exposure or 0.0, conversion.canonical
    origin, notices = dict(conversion.origin), conversion.notices
    dtype: type[np.generic] = np.float32 if settings.bit_depth == 32 else np.uint16
    gain_map, stops = conversion.gain_map, 0.0
    if gain_map is not None and gain_map.has_highlights:
        stops = highlights.headroom_of(image.pixels, gain_map)
    has_highlights = stops > 0 or conversion.architecture == GAIN_MAP
    own, plan, curve, sure = None, None, None, None
    if conversion.architecture != GAIN_MAP:
        kind = np.float32 if has_highlights else dtype
        own, plan, curve = _mosaic(image, conversion, settings, size, kind, progress)
        if settings.confidence:
            sure = _confidence(image, conversion, own, exposure)
    if has_highlights:
        assert gain_map is not None
        curve = None
        if settings.levels is None:
            canonical = highlights.stretched(canonical)
            origin["white_level"] = "all 16 bits, for the light above the picture's white"
        own = highlights.with_highlights(
            image.pixels, gain_map, canonical, stops, own, size, exposure=exposure, dtype=dtype
        )
        notices = (*notices, _of_gain_map(stops))
    assert own is not None
    source = "JPEG" if image.metadata.jpeg else "picture"
    own_jpeg = None if image.metadata.jpeg is None else kept.without(image.metadata.jpeg)
    xmp, remarks = provenance.unprocessed(image.metadata.xmp, source, facts_of(conversion, exposure))
    raw = RawImage(
        mosaic=own,
        canonical=canonical,
        optical=conversion.optical,
        camera=conversion.camera,
        orientation=image.orientation,
        crop=Crop(0, 0, height, width),
        origin=origin,
        metadata=replace(image.metadata, xmp=xmp, jpeg=own_jpeg),
        baseline_exposure=exposure + stops,
        model=conversion.architecture,
        notes=notices + remarks + stepped_down(conversion, plan),
        confidence=sure,
    )
    return _Made(raw, curve, has_highlights)


def _finished(image: SrgbImage, made: _Made) -> RawImage:
    """Return the RAW with its noise profile, and the look of the picture: the model's own tone curve if it has one."""
    raw = replace(made.raw, noise_profile=flat_noise.usual(made.raw))
    if made.has_highlights:
        raw = replace(raw, profile_exposure=look.shoulder(image.pixels, raw))
    return look.matched(image.pixels, raw) if made.curve is None else replace(raw, tone_curve=made.curve)


def _mosaic(
    image: SrgbImage,
    conversion: Conversion,
    settings: Settings,
    size: tuple[int, int],
    dtype: type[np.generic],
    progress: Callable[[float], None] | None,
) -> tuple[np.ndarray, str | None, np.ndarray | None]:
    """Run the model over a picture → (mosaic of ``size``, the memory plan used, the model's own tone curve or None)."""
    canonical, exposure = conversion.canonical, settings.exposure or 0.0
    if conversion.rendition is not None:
        rendition = conversion.rendition.brightened(2.0**exposure)
        return develop.expose(image.pixels, rendition, canonical, size, dtype=dtype, progress=progress), None, None
    if is_free_of_torch(conversion, settings):
        stage = parametric.ParametricUnprocess(canonical, 2.0**exposure)
        mosaic = develop.expose(image.pixels, stage, canonical, size, dtype=dtype, progress=progress)
        return mosaic, None, parametric.tone_curve()
    runner = runner_of(conversion, settings, exposure, progress)
    mosaic, plan = runner.unprocess(image.pixels, canonical, conversion.optical, size=size, dtype=dtype)
    points = runner.model.tone_curve()
    return mosaic, plan, np.array(points) if points else None


def _confidence(image: SrgbImage, conversion: Conversion, made: np.ndarray, exposure: float) -> Confidence:
    """Return the confidence map of the model's mosaic, before any highlights of a gain map."""
    iso = conversion.optical.iso or FALLBACK_OPTICAL.iso
    assert iso is not None
    noise = conversion.facts.noise_profile(iso)
    source = confidence.Source(
        step=confidence.step_of(image.pixels.dtype),
        tables=jpeg.mean_squares(image.metadata.jpeg) if image.metadata.jpeg else None,
        noise=confidence.usual_noise(iso) if noise is None else noise,
    )
    canonical, model = conversion.canonical, conversion.architecture
    known = conversion.checkpoint is None or weights.has_seen(conversion.checkpoint, conversion.camera)
    measured = confidence.measure(image.pixels, made, canonical, model, source, known=known, exposure=exposure)
    return replace(measured, orientation=image.orientation, crop=Crop(0, 0, *image.size))


def _of_gain_map(stops: float) -> Notice:
    """Return the notice of highlights that a gain map gave."""
    source = "highlights of the gain map's HDR rendition, not sensor data"
    return Notice(f"{stops:.1f} EV above white: {source} (`gain_map` off leaves them out)", source)


def _linear(
    image: SrgbImage, conversion: Conversion, settings: Settings, progress: Callable[[float], None] | None
) -> RawImage:
    """Return a RAW of three colours a pixel: the model's mosaics for all four CFAs show each colour at every pixel.

    Every model makes mosaics for any CFA, so none needs to know of this. Green is the mean of two mosaics.
    """
    own = conversion.canonical  # its black level is the same everywhere
    made: dict[str, _Made] = {}
    for cfa in (own.cfa, *(other for other in CFA_PATTERNS if other != own.cfa)):
        before = len(made)
        canonical = replace(own, cfa=cfa)
        report = (
            None if progress is None else lambda share, before=before: progress((before + share) / len(CFA_PATTERNS))
        )
        made[cfa] = _unfinished(image, replace(conversion, canonical=canonical), settings, report)
    linear = bayer.of_mosaics({cfa: each.raw.mosaic for cfa, each in made.items()})
    return replace(_finished(image, made[own.cfa]), mosaic=bayer.sampled(linear, own.cfa), linear=linear)


def _restored(image: SrgbImage, conversion: Conversion, settings: Settings) -> RawImage:
    """Give back the RAW that a JPEG carries, with the JPEG's metadata and a look that shows the JPEG."""
    assert image.metadata.jpeg is not None
    try:
        raw = kept.restore(image.metadata.jpeg)
    except FormatError as error:
        raise FormatError(f"{error} {carried.WITHOUT_RAW}") from error
    raw = replace(
        raw,
        canonical=conversion.canonical,
        optical=conversion.optical,
        camera=conversion.camera,
        origin=conversion.origin,
        notes=conversion.notices,
        metadata=replace(raw.metadata, exif=image.metadata.exif, xmp=image.metadata.xmp),
    )
    shown = look.matched(kept.turned_back(image.pixels, raw), raw)
    # An orientation in the JPEG, which was written upright, is a turn by the user.
    shown = replace(shown, orientation=composed(raw.orientation, image.orientation))
    if settings.bit_depth != 32:
        return shown
    canonical = raw.canonical
    return replace(shown, mosaic=bayer.linear(raw.mosaic, canonical.black_level, canonical.white_level))
