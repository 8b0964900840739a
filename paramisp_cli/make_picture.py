"""Make a picture of a RAW with completed parameters: a look, the parametric model or a network; exposure, history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from paramisp_cli import look, onnx_runner
from paramisp_cli import mosaic as bayer
from paramisp_cli.errors import FormatError
from paramisp_cli.formats import exif, provenance, raster
from paramisp_cli.machine import facts_of, is_free_of_torch, runner_of, stepped_down
from paramisp_cli.parameters import Conversion, Settings
from paramisp_cli.rendition import develop, parametric
from paramisp_cli.types import LinearImage, Metadata, Notice, RawImage, SrgbImage

PIXEL_TYPES: dict[int, type[np.generic]] = {8: np.uint8, 16: np.uint16, 32: np.float32}


def rendered(
    raw: RawImage, conversion: Conversion, settings: Settings, progress: Callable[[float], None] | None
) -> SrgbImage | LinearImage:
    """Make the picture of a RAW; ``progress`` takes the finished share of the work. See ``convert.run``."""
    canonical, optical, camera = conversion.canonical, conversion.optical, conversion.camera
    raw = replace(raw, canonical=canonical, optical=optical, camera=camera).cropped()
    crop = raw.crop
    assert crop is not None
    dtype, plan = PIXEL_TYPES[settings.bit_depth], None
    exposure, notices = render_exposure(raw, conversion, settings)
    if raw.linear is not None and conversion.checkpoint is not None:
        text = "has three colours a pixel, of which a network sees one (`model` parametric uses all three)"
        notices = (*notices, text)
    if conversion.stop_at is not None:
        shown, plan = _stopped(raw, conversion, settings, 2.0**exposure, progress)
    elif conversion.rendition is not None:
        shown = develop.develop(raw, conversion.rendition, gain=2.0**exposure, dtype=dtype, progress=progress)
    elif _is_numpys(raw, conversion, settings):
        shown = develop.develop(
            raw, parametric.ParametricRender(canonical, 2.0**exposure), dtype=dtype, progress=progress
        )
    else:
        pixels, plan = runner_of(conversion, settings, exposure, progress).render(
            _at_baseline(raw),
            raw.canonical,
            optical,
            gain=1.0 if conversion.architecture == "parametric" else 2.0**exposure,
            dtype=dtype,
        )
        shown = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    upright = raster.apply_orientation(shown, raw.orientation)
    block = exif.clean_exif(
        raw.metadata.exif,
        optical=optical,
        camera=camera,
        software=f"paramisp {conversion.architecture}",
        width=upright.shape[1],
        height=upright.shape[0],
        is_srgb=conversion.stop_at is None,
    )
    kind = SrgbImage if conversion.stop_at is None else LinearImage
    return kind(
        pixels=upright,
        camera=camera,
        optical=optical,
        metadata=Metadata(
            exif=block,
            xmp=provenance.rendered(raw.metadata.xmp, facts_of(conversion, exposure)),
            source_name=raw.metadata.source_name,
        ),
        notes=conversion.notices + notices + stepped_down(conversion, plan),
    )


def _at_baseline(raw: RawImage) -> np.ndarray:
    """Return the mosaic that a network gets.

    Networks have learned a brightness, so a camera's BaselineExposure does not count. A RAW that a model made of a
    picture is darkened by it, for the light above white: there it counts, and this light is clipped.
    """
    if raw.model is None or raw.baseline_exposure <= 0:
        return raw.mosaic
    light = raw.mosaic
    if light.dtype == np.uint16:
        light = bayer.linear(light, raw.canonical.black_level, raw.canonical.white_level)
    clipped: np.ndarray = np.minimum(light * np.float32(2.0**raw.baseline_exposure), 1)
    return clipped


def _is_numpys(raw: RawImage, conversion: Conversion, settings: Settings) -> bool:
    """Tell whether numpy renders a RAW, on any device if it has three colours a pixel: torch's models take mosaics."""
    of_three = raw.linear is not None and conversion.architecture == "parametric"
    return of_three or is_free_of_torch(conversion, settings)


def _stopped(
    raw: RawImage,
    conversion: Conversion,
    settings: Settings,
    gain: float,
    progress: Callable[[float], None] | None,
) -> tuple[np.ndarray, str | None]:
    """Return the crop's linear sRGB (H, W, 3) float32 at the stage ``stop_at``, × ``gain``, and the memory plan."""
    canonical, crop = raw.canonical, raw.crop
    assert crop is not None
    if _is_numpys(raw, conversion, settings):
        stage = parametric.ParametricLinear(canonical, gain)
        return develop.develop(raw, stage, dtype=np.float32, progress=progress), None
    runner = runner_of(conversion, settings, progress=progress)
    assert not isinstance(runner, onnx_runner.OnnxRunner)  # its network has no stages
    pixels, plan = runner.restore(raw.mosaic, canonical, conversion.optical, gain=gain)
    return pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width], plan


def render_exposure(
    raw: RawImage, conversion: Conversion, settings: Settings
) -> tuple[float, tuple[str, ...]]:  # fmt: skip
    """Return the digital gain [EV] and notices.

    A trained network has learned its camera's brightness. The parametric model has not, and cameras leave different
    headroom above their metering, so without ``exposure`` the brightness is matched to the RAW's own camera JPEG. A
    linear picture has no look: the RAW's own baseline exposure applies.
    """
    if conversion.architecture != "parametric":
        return settings.exposure or 0.0, ()
    chosen = settings.exposure is not None or conversion.stop_at is not None
    if chosen or raw.model is not None or raw.metadata.jpeg is None:
        return raw.baseline_exposure + (settings.exposure or 0.0), ()
    try:
        preview = raster.decode_small(raw.metadata.jpeg, 512)
    except FormatError:
        return raw.baseline_exposure, ()
    exposure = look.matched_exposure(raw, preview)
    text = f"brightness matched to the embedded JPEG: {exposure:+.2f} EV (pass `exposure` to set it)"
    return exposure, (Notice(text, "brightness matched to the embedded JPEG (pass `exposure` to set it)"),)
