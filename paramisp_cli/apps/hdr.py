"""HDR from one photograph: fused exposures of its RAW, its linear light, or an Ultra HDR JPEG around it.

After ParamISP (CVPR 2024, section 5): the picture becomes a RAW, the RAW is scaled by several gains and clipped as a
sensor clips, each result is rendered with the parameters of the shot, and the pictures are fused. This is local tone
mapping through the look of the camera. Blown highlights of a JPEG stay blown: at every gain they are flat. A RAW file
is not unprocessed: its highlights are its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli import cameras, convert, machine, make_picture, parameters, sources, weights
from paramisp_cli import mosaic as bayer
from paramisp_cli.apps import brightness, fusion
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import provenance, raster
from paramisp_cli.formats.gainmap import write as gainmap_write
from paramisp_cli.parameters import CAMERA_LOOK, GAIN_MAP, KEPT_RAW, Conversion, Settings
from paramisp_cli.rendition import look
from paramisp_cli.types import HdrImage, LinearImage, RawImage, SrgbImage

GAINS = (0.1, 0.4, 1.4, 2.7, 4.0)
"""Gains of the exposures: those of the paper, and 0.4, without which white comes out darker than light grey."""
KINDS = ("fused", "linear", "ultra-hdr")
"""Kinds of results: see ``Options``."""
_MOST_EXPOSURES = 16
_MOST_GAIN = 1024.0
_FUSION_SHARE = 0.5
"""Time of the fusion in units of one exposure, for the progress."""

Progress = Callable[[float], None]
Keep = Callable[[float, SrgbImage], None]
"""Function that takes each exposure: its gain and its picture, upright."""


@dataclass(frozen=True, slots=True)
class Options:
    """Choices for the result; raises ConfigError for values out of range.

    kind    "fused": a picture of fused exposures; "linear": linear light of the scene, the picture's middle tones at
            the picture's brightness; "ultra-hdr": the photograph with a gain map to this light
    gains   factors of the RAW's light, one for each exposure
    fusion  exponents of contrast, saturation and well-exposedness
    """

    kind: str = "fused"
    gains: tuple[float, ...] = GAINS
    fusion: tuple[float, float, float] = fusion.EXPONENTS

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"`kind` must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 1 <= len(self.gains) <= _MOST_EXPOSURES:
            raise ConfigError(f"`gains` takes 1 to {_MOST_EXPOSURES} numbers, got {len(self.gains)}")
        for gain in self.gains:
            if not (np.isfinite(gain) and 1 / _MOST_GAIN <= gain <= _MOST_GAIN):
                raise ConfigError(f"`gains` must lie between 1/{_MOST_GAIN:.0f} and {_MOST_GAIN:.0f}, got {gain:g}")
        fusion.check_exponents(self.fusion)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A photograph, and how it is converted: a picture to a RAW, or a RAW to pictures."""

    image: SrgbImage | RawImage
    conversion: Conversion
    settings: Settings
    options: Options

    @property
    def runs(self) -> int:
        """Number of runs of a model."""
        renders = len(self.options.gains) if self.options.kind == "fused" else int(isinstance(self.image, RawImage))
        return renders + isinstance(self.image, SrgbImage)

    def expected_seconds(self) -> float:
        """Estimate the time of the networks within a factor of two; 0 without a network."""
        return self.runs * convert.expected_seconds(self.conversion, self.settings, self.image.size)


def hdr(
    source: str | os.PathLike[str] | SrgbImage | RawImage,
    settings: Settings = Settings(),
    *,
    kind: str = "fused",
    gains: Sequence[float] = GAINS,
    fusion: tuple[float, float, float] = fusion.EXPONENTS,
) -> SrgbImage | LinearImage | HdrImage:
    """Make an HDR result of one photograph, a picture or a RAW: no new highlights, if it is a picture.

    source  a path (JPEG, PNG, TIFF, DNG, camera RAW), an ``SrgbImage`` or a ``RawImage``
    kind    "fused": the exposures of ``gains``, fused → an upright ``SrgbImage`` of ``bit_depth``;
            "linear": linear light, 1 is the white of the photograph → an upright ``LinearImage`` for .exr, .hdr, .tif;
            "ultra-hdr": → an ``HdrImage`` for .jpg; a JPEG's coded pixels stay byte for byte
    gains   factors of the RAW's light
    fusion  exponents of contrast, saturation and well-exposedness

    Without ``model`` and ``weights`` in the settings a camera without weights of its own gets the parametric model for
    "fused", and generic weights for the other kinds.
    Raises ConfigError for wrong arguments, and otherwise a ParamispError that names the file.
    """
    options = Options(kind, tuple(gains), fusion)
    image = source if isinstance(source, SrgbImage | RawImage) else parameters.read(Path(source), settings)
    return run(plan(image, settings, options))


def plan(image: SrgbImage | RawImage, settings: Settings, options: Options) -> Plan:
    """Complete the parameters of a photograph and pick its model. Raises the errors of ``parameters.complete``."""
    if settings.stop_at is not None or settings.linear:
        raise ConfigError(f"`{'linear' if settings.linear else 'stop_at'}` is no setting of hdr: leave it out")
    if isinstance(image, SrgbImage):
        if options.kind == "ultra-hdr":
            _refuse_map(image, settings)
        own = replace(settings, exposure=None)  # the exposure counts for the rendering
        conversion = _own_model(image, parameters.complete(image, own), own, options)
        if conversion.architecture in ("parametric", CAMERA_LOOK, GAIN_MAP) and own.cfa is None and not own.kept_raw:
            # Three colours a pixel: a mosaic would cost detail, and no network needs one.
            full = replace(own, linear=True, kept_raw=False)
            if conversion.architecture == "parametric":
                full = replace(full, model="parametric", weights=None)
            conversion = replace(parameters.complete(image, full), notices=conversion.notices, origin=conversion.origin)
            return Plan(image, conversion, replace(full, exposure=settings.exposure), options)
        return Plan(image, conversion, settings, options)
    return Plan(image, _own_model(image, parameters.complete(image, settings), settings, options), settings, options)


def run(plan: Plan, progress: Progress | None = None, keep: Keep | None = None) -> SrgbImage | LinearImage | HdrImage:
    """Convert a planned photograph; ``progress`` takes the finished share, 0 to 1, ``keep`` each exposure."""
    steps = _Steps(plan, progress)
    if isinstance(plan.image, SrgbImage):
        prepared = convert.prepare(plan.image, plan.conversion, plan.settings)
        deep = replace(plan.settings, bit_depth=8 if prepared.architecture == KEPT_RAW else 32, exposure=None)
        raw = convert.run(plan.image, prepared, deep, steps.next())
        assert isinstance(raw, RawImage)
        rendering, settings = _rendering_of(raw, prepared, plan)
    else:
        raw, settings = plan.image, plan.settings
        rendering = convert.prepare(raw, plan.conversion, settings)
        prepared = rendering
    facts = _facts(plan, prepared, rendering)
    if plan.options.kind == "fused":
        pictures, like = _pictures(raw, rendering, settings, plan, steps, keep)
        packet, remarks = provenance.hdr(raw.metadata.xmp, facts)
        del raw  # the fusion needs the memory
        dtype = make_picture.PIXEL_TYPES[plan.settings.bit_depth]
        pixels = fusion.fused(pictures, plan.options.fusion, dtype=dtype, progress=steps.next())
        notices = tuple(dict.fromkeys((*plan.conversion.notices, *like.notes, *remarks)))
        return replace(like, pixels=pixels, metadata=replace(like.metadata, xmp=packet), notes=notices)
    return _beyond_white(raw, rendering, settings, plan, facts, steps)


class _Steps:
    """Progress of several steps of equal length, and of the fusion."""

    def __init__(self, plan: Plan, progress: Progress | None) -> None:
        self.total = plan.runs + _FUSION_SHARE
        self.done, self.progress = 0, progress

    def next(self) -> Progress | None:
        """Return the progress of the next step."""
        done, progress = self.done, self.progress
        self.done += 1
        if progress is None:
            return None
        return lambda share: progress(min((done + share) / self.total, 1.0))


# The model -----------------------------------------------------------------------------------------------------------


def _own_model(image: SrgbImage | RawImage, conversion: Conversion, settings: Settings, options: Options) -> Conversion:
    """Return the conversion, for fused exposures by the parametric model if the camera has no weights of its own.

    Its two directions are exact inverses, and it is fast. But its tone curve compresses no highlights, so that it finds
    no light above white: for the other kinds generic weights count, which have learned a mean of many curves.
    """
    chosen = settings.model is not None or settings.weights is not None or options.kind != "fused"
    if chosen or conversion.checkpoint is None:
        return conversion
    names = parameters.known_as(conversion.camera, cameras.find(conversion.camera))
    if weights.find(names, conversion.direction, generic=False) is not None:
        return conversion
    plain = parameters.complete(image, replace(settings, model="parametric"))
    return replace(plain, origin={**plain.origin, "model": "no weights of the camera's own"})


def _rendering_of(raw: RawImage, made: Conversion, plan: Plan) -> tuple[Conversion, Settings]:
    """Return the conversion that renders a RAW made of a picture, and its settings: the same look the other way."""
    settings = replace(
        plan.settings, like=None, wb=None, cfa=None, camera=None, look=None, linear=False, kept_raw=None,
        gain_map="auto", iso=None, exposure_time=None, f_number=None, focal_length=None,
    )  # fmt: skip
    if made.architecture == KEPT_RAW:
        return convert.prepare(raw, parameters.complete(raw, settings), settings), settings
    if made.checkpoint is None:
        settings = replace(settings, model="parametric", weights=None)
    rendering = parameters.complete(raw, settings)
    if made.architecture == CAMERA_LOOK:
        rendering = _look_of_like(rendering, plan)
    return convert.prepare(raw, rendering, settings) if rendering.rendition is None else rendering, settings


def _look_of_like(rendering: Conversion, plan: Plan) -> Conversion:
    """Return the rendering with the look of the JPEG inside the RAW file of ``like`` that stands for the shot.

    If it does not fit, the next file's counts; without any the parametric model renders.
    """
    found = sources.references(plan.settings)
    nearest = sources.nearest(plan.image, found)
    first = [] if nearest is None else [nearest.path]
    for path in dict.fromkeys([*first, *(each.path for each in found.files)]):
        fitted, _ = look.camera_look(sources.read_like(path, replace(plan.settings, like=None, wb=None, cfa=None)))
        if fitted is not None:
            return replace(rendering, architecture=CAMERA_LOOK, rendition=fitted.rendition)
    return rendering


# Exposures -----------------------------------------------------------------------------------------------------------


def exposed(raw: RawImage, gain: float) -> RawImage:
    """Return the RAW as the sensor would have seen it with ``gain`` times the light: float32, clipped at 1.

    The light above the white of a RAW that a model made of a picture counts. In a darker exposure, channels are first
    clipped where green clips: a blown highlight is grey there, and not magenta.
    """
    black, white, cfa = raw.canonical.black_level, raw.canonical.white_level, raw.canonical.cfa
    brighter = 2.0**raw.baseline_exposure if raw.model is not None else 1.0
    gains = raw.canonical.wb_gains
    if raw.linear is not None:
        light = _light(raw.linear, bayer.by_color(black, cfa), white)
        bayer.expose(light, None, gains, gain * brighter)
        return replace(raw, mosaic=bayer.sampled(light, cfa), linear=light, baseline_exposure=0.0)
    light = bayer.linear(raw.mosaic, black, white) if raw.mosaic.dtype == np.uint16 else raw.mosaic.copy()
    bayer.expose(light, cfa, gains, gain * brighter)
    return replace(raw, mosaic=light, baseline_exposure=0.0)


def _light(linear: np.ndarray, black: np.ndarray, white: float) -> np.ndarray:
    """Return three colours a pixel as new float32, black 0, white 1."""
    if linear.dtype != np.uint16:
        return linear.copy()
    low = black.astype(np.float32)
    light: np.ndarray = (linear - low) / (np.float32(white) - low)
    return light


def _exposures(
    raw: RawImage, rendering: Conversion, settings: Settings, gains: Sequence[float], steps: _Steps
) -> Iterator[SrgbImage]:
    """Yield the upright picture, 16 bits a channel, of each exposure."""
    base, notices = make_picture.render_exposure(raw, rendering, settings)
    if raw.model is not None and rendering.architecture == "parametric":
        base -= raw.baseline_exposure  # ``exposed`` has it
    deep = replace(settings, bit_depth=16, exposure=base)
    rendering = replace(rendering, notices=(*rendering.notices, *notices))
    for gain in gains:
        picture = convert.run(exposed(raw, gain), rendering, deep, steps.next())
        assert isinstance(picture, SrgbImage)
        yield picture


# Results -------------------------------------------------------------------------------------------------------------


def _pictures(
    raw: RawImage, rendering: Conversion, settings: Settings, plan: Plan, steps: _Steps, keep: Keep | None
) -> tuple[list[np.ndarray], SrgbImage]:
    """Return the pixels of all exposures, and an image of one pixel with the metadata of each."""
    pictures: list[np.ndarray] = []
    gains = plan.options.gains
    for gain, picture in zip(gains, _exposures(raw, rendering, settings, gains, steps), strict=True):
        if keep is not None:
            keep(gain, picture)
        pictures.append(picture.pixels)
    return pictures, replace(picture, pixels=picture.pixels[:1, :1].copy())


def _beyond_white(
    raw: RawImage,
    rendering: Conversion,
    settings: Settings,
    plan: Plan,
    facts: dict[str, Any],
    steps: _Steps,
) -> LinearImage | HdrImage:
    """Return the linear light of the scene, or the photograph with a gain map to it."""
    image = plan.image
    notices = list(plan.conversion.notices)
    lying = replace(raw, orientation=1)  # pixels as stored: those of the photograph's file
    if isinstance(image, SrgbImage):
        shown = image
    else:
        (rendered,) = _exposures(lying, rendering, settings, (1.0,), steps)
        shown = rendered
        notices += rendered.notes
    stage = Settings(stop_at="restored", bit_depth=32, device=settings.device, max_memory=settings.max_memory)
    linear = convert.run(lying, parameters.complete(lying, stage), stage)
    assert isinstance(linear, LinearImage)
    scale = brightness.scale_between(linear.pixels, shown.pixels)
    if plan.options.kind == "linear":
        pixels = linear.pixels * np.float32(scale)
        headroom = float(np.log2(max(float(np.percentile(pixels[::4, ::4].max(-1), 99.9)), 1e-6)))
        notices.append(f"brightest light: {headroom:+.1f} EV beside the photograph's white")
        packet, remarks = provenance.hdr(raw.metadata.xmp, facts)
        upright = raster.apply_orientation(pixels, raw.orientation)
        return replace(
            linear, pixels=np.ascontiguousarray(upright), metadata=replace(linear.metadata, xmp=packet),
            notes=tuple(dict.fromkeys((*notices, *remarks))),
        )  # fmt: skip
    codes, stops = brightness.gain_map(linear.pixels, shown.pixels, scale)
    if not stops:
        raise FormatError(
            "its RAW has no light above the photograph's white, so that a gain map would be empty; "
            "try other weights, or the RAW file itself"
        )
    notices.append(f"headroom {stops:.1f} EV: light that the tone curve had compressed, not new highlights")
    packet, remarks = provenance.hdr(image.metadata.xmp, facts)
    if isinstance(image, SrgbImage):
        base = replace(image, metadata=replace(image.metadata, xmp=packet))
        if image.metadata.jpeg is not None:  # the bytes and the XMP that the file will lack
            remarks += gainmap_write.assembled(image.metadata.jpeg, codes, stops, packet)[1]
    else:
        base = replace(shown, orientation=raw.orientation, metadata=replace(shown.metadata, xmp=packet, jpeg=None))
    return HdrImage(base, codes, stops, tuple(dict.fromkeys((*notices, *remarks))))


def _facts(plan: Plan, made: Conversion, rendering: Conversion) -> dict[str, Any]:
    """Return the facts of the work for the history in the result's XMP."""
    exposure = plan.settings.exposure or 0.0
    raw = plan.conversion.direction == Direction.RENDER
    facts: dict[str, Any] = {"source": "RAW" if raw else "picture", "kind": plan.options.kind}
    if plan.options.kind == "fused":
        facts |= {"gains": list(plan.options.gains), "fusion": list(plan.options.fusion)}
    if not raw:
        facts["unprocess"] = machine.facts_of(made, 0.0)
    return facts | {"render": machine.facts_of(rendering, exposure)}


def _refuse_map(image: SrgbImage, settings: Settings) -> None:
    """Raise FormatError for a JPEG that has a gain map already; of a HEIC or AVIF file, a new JPEG is made."""
    from paramisp_cli.carried import gain_map

    if image.metadata.jpeg is None:
        return
    found, _ = gain_map(image, replace(settings, gain_map="auto"))
    if found is not None:
        raise FormatError(f"has a gain map already ({found}): an Ultra HDR file has one")
