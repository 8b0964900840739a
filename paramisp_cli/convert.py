"""The library's ``unprocess`` and ``render``, from a file, image, array, tensor or PIL picture to an image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from paramisp_cli import arrays, atomic, look, models, onnx_runner, parameters, sources
from paramisp_cli import mosaic as bayer
from paramisp_cli.errors import ConfigError, FormatError, MetadataError
from paramisp_cli.formats import exif, kept, provenance, raster
from paramisp_cli.parameters import CAMERA_LOOK, DTYPES, GAIN_MAP, KEPT_RAW, Conversion, Settings
from paramisp_cli.rendition import develop, highlights, parametric
from paramisp_cli.rendition import look as rendition_look
from paramisp_cli.rendition.form import Rendition
from paramisp_cli.rendition.pool import Pool
from paramisp_cli.rendition.preview import Misfit
from paramisp_cli.types import (
    CFA_PATTERNS,
    Camera,
    CanonicalParams,
    Crop,
    Direction,
    LinearImage,
    Metadata,
    Notice,
    OpticalParams,
    Output,
    RawImage,
    SrgbImage,
)

if TYPE_CHECKING:
    import torch

    from paramisp_cli.onnx_runner import OnnxRunner
    from paramisp_cli.runner import Runner

SMALLEST_MOSAIC = 24
"""Smallest side of a mosaic that ``unprocess`` makes: LibRaw opens no DNG of less than 22 pixels a side."""

_PIXEL_TYPES: dict[int, type[np.generic]] = {8: np.uint8, 16: np.uint16, 32: np.float32}


def unprocess(
    source: str | os.PathLike[str] | SrgbImage | np.ndarray | torch.Tensor | Any,
    settings: Settings = Settings(),
    *,
    camera: Camera | None = None,
    optical: OpticalParams | None = None,
    orientation: int | None = None,
) -> RawImage:
    """Turn an sRGB picture into the RAW its camera must have seen.

    source       a path (JPEG, PNG, TIFF), an ``SrgbImage``, or sRGB-encoded pixels of any size, as stored:
                 a numpy array (H, W, 3), uint8 (0–255), uint16 (0–65535), float32 or float64 (0–1);
                 a torch tensor (3, H, W) or (1, 3, H, W) on any device, uint8 (0–255) or floating point (0–1);
                 a PIL picture, converted like a file: grey becomes RGB, alpha is dropped, its ICC profile and EXIF are
                 used
    camera, optical, orientation
                 parameters of the shot, for arrays, tensors and PIL pictures (they override its EXIF); a path and an
                 ``SrgbImage`` have their own, and ``settings`` overrides the parameters of any source

    The result has a uint16 mosaic (float32 with a ``bit_depth`` of 32) at full resolution, padded by reflection to even
    sides of at least ``SMALLEST_MOSAIC``; its ``crop`` is the true size. Raises MetadataError for an array of the wrong
    shape, type or range, ConfigError for wrong arguments, and otherwise a ParamispError that names the file.
    """
    own = {"camera": camera, "optical": optical, "orientation": orientation}
    if isinstance(source, SrgbImage):
        _refuse(own, "an SrgbImage")
        image = source
    elif isinstance(source, str | os.PathLike):
        _refuse(own, "a file")
        image = _read_picture(Path(source), settings)
    elif raster.is_pillow(source):
        image = _described(raster.from_pillow(source), own)
    else:
        image = _described(SrgbImage(arrays.picture(source)), own)
    result = run(image, prepare(image, parameters.complete(image, settings), settings), settings)
    assert isinstance(result, RawImage)
    return result


def render(
    source: str | os.PathLike[str] | RawImage | np.ndarray | torch.Tensor,
    settings: Settings = Settings(),
    *,
    canonical: CanonicalParams | None = None,
    camera: Camera | None = None,
    optical: OpticalParams | None = None,
    orientation: int | None = None,
) -> SrgbImage | LinearImage:
    """Turn a RAW into the picture its camera would have made: upright, sRGB, of ``bit_depth``.

    With ``stop_at`` "restored" in the settings, the result is a ``LinearImage`` instead: float32, linear sRGB, neither
    clipped nor changed by a look.

    source       a path (DNG or camera RAW), a ``RawImage``, or a mosaic of even sides:
                 a numpy array (H, W), uint16 in raw units, or float32 or float64, linear, black 0, white 1;
                 a torch tensor (H, W), (1, H, W) or (1, 1, H, W) on any device, uint16 or floating point
    canonical    CFA, levels, white balance and colour matrix of the mosaic, required for an array or a tensor
    camera, optical, orientation
                 further parameters of the shot, for arrays and tensors; a path and a ``RawImage`` have their own, and
                 ``settings`` overrides the parameters of any source

    Raises MetadataError for an array of the wrong shape, type or range, ConfigError for wrong arguments, and otherwise
    a ParamispError that names the file.
    """
    own = {"camera": camera, "optical": optical, "orientation": orientation}
    if isinstance(source, RawImage):
        _refuse({"canonical": canonical, **own}, "a RawImage")
        raw = source
    elif isinstance(source, str | os.PathLike):
        _refuse({"canonical": canonical, **own}, "a file")
        raw = _read_raw(Path(source), settings)
    else:
        mosaic = arrays.mosaic(source)
        if not isinstance(canonical, CanonicalParams):
            raise ConfigError("a mosaic without a file needs canonical=CanonicalParams(...): CFA, levels and colour")
        raw = _described(RawImage(mosaic, canonical), own)
    result = run(raw, prepare(raw, parameters.complete(raw, settings), settings), settings)
    assert not isinstance(result, RawImage)
    return result


# --- conversion -------------------------------------------------------------------------------------------------------


def check(settings: Settings, direction: Direction) -> None:
    """Find mistakes in the settings, including the device, before any file is read; see ``parameters.check``."""
    parameters.check(settings, direction)
    if settings.device not in ("auto", "cpu"):  # these always exist: do not import torch to check them
        from paramisp_cli import devices

        devices.pick(settings.device)


def affordable(conversion: Conversion, settings: Settings, size: tuple[int, int]) -> Conversion:
    """Return the conversion with a memory plan for a picture of ``size``.

    If no plan fits, fall back to the parametric model with a notice, or raise ConfigError if the user requested the
    network.
    """
    if conversion.checkpoint is None:
        return conversion  # without importing torch
    if runs_on_onnx(conversion, settings):
        return replace(conversion, memory_plan=_runner(conversion, settings).choose_plan(size))
    from paramisp_cli.runner import NotEnoughMemoryError

    try:
        return replace(conversion, memory_plan=_runner(conversion, settings).choose_plan(size))
    except NotEnoughMemoryError as error:
        if settings.model is not None or settings.weights is not None:
            raise
        hint = f" (for the network pass {error.remedy})" if error.remedy else ""
        return conversion.without_network(f"{error.need}: used the parametric model{hint}")


def runs_on_onnx(conversion: Conversion, settings: Settings) -> bool:
    """Tell whether onnxruntime runs the conversion's network; importing torch takes seconds."""
    return onnx_runner.suits(conversion.architecture, conversion.checkpoint, settings.device, settings.dtype)


def prepare(
    image: SrgbImage | RawImage, conversion: Conversion, settings: Settings, pool: Pool | None = None
) -> Conversion:
    """Return the conversion of an image ready to run: its look fitted, or its memory plan chosen.

    If the JPEG that shows a RAW file's look does not fit, the conversion falls back to weights, with a notice. With a
    ``pool``, other RAW files of the camera lend their look first. Raises ConfigError if the memory does not suffice,
    FormatError for ``look_from`` that does not fit, Deferred of the pool, and the errors of reading ``like``.
    """
    if conversion.architecture == CAMERA_LOOK or (pool is not None and borrows_look(image, settings)):
        try:
            return _fitted_look(image, conversion, settings, pool)
        except Misfit as misfit:
            if settings.look_from is not None:
                raise FormatError(f"{misfit}; give the JPEG that shows this very shot") from misfit
            if conversion.architecture != CAMERA_LOOK:
                return affordable(conversion, settings, image.size)
            notice = Notice(f"{misfit}: used weights instead of its look", "the JPEG inside does not fit: used weights")
        conversion = parameters.complete(image, replace(settings, look="weights"))
        conversion = replace(conversion, notices=(*conversion.notices, notice))
    return affordable(conversion, settings, image.size)


def borrows_look(image: SrgbImage | RawImage, settings: Settings) -> bool:
    """Tell whether a RAW file without a usable preview takes the look of other files of its camera."""
    alone = settings.look_from is not None  # the user's choice
    return isinstance(image, RawImage) and not alone and parameters.wants_camera_look(image, settings)


def _fitted_look(
    image: SrgbImage | RawImage, conversion: Conversion, settings: Settings, pool: Pool | None
) -> Conversion:
    """Fit the look of the JPEG of a RAW file, or of the files of ``like``; raises Misfit, and Deferred of the pool."""
    if isinstance(image, RawImage):
        raw = replace(image, canonical=conversion.canonical, camera=conversion.camera)
        if pool is None:
            fitted, report = rendition_look.camera_look(raw)
            if fitted is None:
                raise Misfit(report.reason)
            return replace(conversion, rendition=fitted.rendition)
        shown = pool.fit(raw)
        if not shown.origin:
            return replace(conversion, rendition=shown.rendition)
        earlier = conversion.notices if conversion.architecture == CAMERA_LOOK else image.notes
        return replace(
            conversion, architecture=CAMERA_LOOK, checkpoint=None, rendition=shown.rendition,
            origin={**conversion.origin, "model": shown.origin}, notices=(*earlier, *shown.notices),
        )  # fmt: skip
    files = sources.stamps(sources.like_files(settings))
    rendition, reasons = _inverse_look(files, replace(settings, wb=None, cfa=None, like=None))
    notices = tuple(f"`like` {reason}: left out of the look" for reason in reasons)
    return replace(conversion, rendition=rendition, notices=(*conversion.notices, *notices))


@lru_cache(maxsize=4)
def _inverse_look(files: sources.Stamps, settings: Settings) -> tuple[Rendition, tuple[str, ...]]:
    """Fit the inverse look of RAW files, once for all pictures of a batch → (look, reasons why files are left out)."""

    def raws() -> Iterator[RawImage]:
        for path, _ in files:
            with suppress(FormatError, MetadataError):  # `parameters.complete` has a notice of it
                yield sources.read_like(path, settings)

    fitted, reasons = rendition_look.inverse_look(raws())
    return fitted.rendition, reasons


def expected_seconds(conversion: Conversion, settings: Settings, size: tuple[int, int]) -> float:
    """Estimate the time of a network for a picture of ``size``, within a factor of two; 0 without a network."""
    runs = len(CFA_PATTERNS) if settings.linear else 1
    return 0.0 if conversion.checkpoint is None else runs * _runner(conversion, settings).expected_seconds(size)


def run(
    image: SrgbImage | RawImage,
    conversion: Conversion,
    settings: Settings,
    progress: Callable[[float], None] | None = None,
) -> Output:
    """Convert an image with completed parameters: a picture to a RAW, a RAW to a picture or a linear one.

    ``progress`` takes the finished share of the pixel work, 0 to 1, from any thread.
    """
    if isinstance(image, RawImage):
        return _render(image, conversion, settings, progress)
    return _unprocess(image, conversion, settings, progress)


def is_free_of_torch(conversion: Conversion, settings: Settings) -> bool:
    """Tell whether a conversion runs in numpy: a look, a RAW given back, a gain map, the parametric model on a CPU."""
    if conversion.rendition is not None or conversion.kept_raw is not None:
        return True
    if conversion.architecture == GAIN_MAP:
        return True
    parametric = conversion.architecture == "parametric" and conversion.checkpoint is None
    return parametric and settings.device in ("auto", "cpu")


def _unprocess(
    image: SrgbImage, conversion: Conversion, settings: Settings, progress: Callable[[float], None] | None
) -> RawImage:
    if conversion.architecture == KEPT_RAW:
        return _restored(image, conversion)
    if settings.linear:
        return _linear(image, conversion, replace(settings, linear=False), progress)
    height, width = image.size
    size = max(height + height % 2, SMALLEST_MOSAIC), max(width + width % 2, SMALLEST_MOSAIC)
    exposure, canonical = settings.exposure or 0.0, conversion.canonical
    origin, notices = dict(conversion.origin), conversion.notices
    dtype: type[np.generic] = np.float32 if settings.bit_depth == 32 else np.uint16
    gain_map, stops = conversion.gain_map, 0.0
    if gain_map is not None and gain_map.has_highlights:
        stops = highlights.headroom_of(image.pixels, gain_map)
    has_highlights = stops > 0 or conversion.architecture == GAIN_MAP
    own, plan, curve = None, None, None
    if conversion.architecture != GAIN_MAP:
        kind = np.float32 if has_highlights else dtype
        own, plan, curve = _mosaic(image, conversion, settings, size, kind, progress)
    noise = conversion.facts.noise_profile(conversion.optical.iso)
    if has_highlights:
        assert gain_map is not None
        canonical, curve = highlights.stretched(canonical), None
        own = highlights.with_highlights(
            image.pixels, gain_map, canonical, stops, own, size, exposure=exposure, dtype=dtype
        )
        noise = None if noise is None else noise / 2.0 ** (stops * np.array([1, 2]))
        origin["white_level"] = "all 16 bits, for the light above the picture's white"
        notices = (*notices, _of_gain_map(stops))
    assert own is not None
    source = "JPEG" if image.metadata.jpeg else "picture"
    xmp, remarks = provenance.unprocessed(image.metadata.xmp, source, _how(conversion, exposure))
    raw = RawImage(
        mosaic=own,
        canonical=canonical,
        optical=conversion.optical,
        camera=conversion.camera,
        orientation=image.orientation,
        crop=Crop(0, 0, height, width),
        origin=origin,
        metadata=replace(image.metadata, xmp=xmp),
        baseline_exposure=exposure + stops,
        noise_profile=noise,
        model=conversion.architecture,
        notes=notices + remarks + _stepped_down(conversion, plan),
    )
    if has_highlights:
        raw = replace(raw, profile_exposure=look.shoulder(image.pixels, raw))
    return look.matched(image.pixels, raw) if curve is None else replace(raw, tone_curve=curve)


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
    runner = _runner(conversion, settings, exposure, progress)
    mosaic, plan = runner.unprocess(image.pixels, canonical, conversion.optical, size=size, dtype=dtype)
    points = runner.model.tone_curve()
    return mosaic, plan, np.array(points) if points else None


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
    runs: dict[str, RawImage] = {}
    for cfa in (own.cfa, *(other for other in CFA_PATTERNS if other != own.cfa)):
        before = len(runs)
        canonical = replace(own, cfa=cfa)
        part = None if progress is None else lambda share, before=before: progress((before + share) / len(CFA_PATTERNS))
        runs[cfa] = _unprocess(image, replace(conversion, canonical=canonical), settings, part)
    linear = bayer.of_mosaics({cfa: raw.mosaic for cfa, raw in runs.items()})
    raw = runs[own.cfa]
    return replace(raw, mosaic=bayer.sampled(linear, own.cfa), linear=linear)


def _how(conversion: Conversion, exposure: float) -> dict[str, Any]:
    """Return the facts of a conversion for the history in its result's XMP: the same for the same input."""
    checkpoint = conversion.checkpoint
    weights = {
        "weights": checkpoint.name if checkpoint else None,
        "weights_sha256": _sha256(checkpoint, atomic.stamp(checkpoint)) if checkpoint else None,
    }
    return {"model": conversion.architecture, **weights, "exposure": exposure, "origin": conversion.origin}


@lru_cache(maxsize=16)
def _sha256(path: Path, stamp: tuple[int, int]) -> str:
    """Return the SHA-256 of a file of weights, once for all pictures of a batch."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _restored(image: SrgbImage, conversion: Conversion) -> RawImage:
    """Give back the RAW that a JPEG carries; without a tone curve of its own it gets one that shows the JPEG."""
    assert image.metadata.jpeg is not None
    raw = replace(
        kept.restore(image.metadata.jpeg),
        canonical=conversion.canonical,
        optical=conversion.optical,
        camera=conversion.camera,
        origin=conversion.origin,
        notes=conversion.notices,
    )
    if raw.tone_curve is not None or raw.orientation != image.orientation:
        return raw
    return look.matched(image.pixels, raw)


def _render(
    raw: RawImage, conversion: Conversion, settings: Settings, progress: Callable[[float], None] | None
) -> SrgbImage | LinearImage:
    canonical, optical, camera = conversion.canonical, conversion.optical, conversion.camera
    raw = replace(raw, canonical=canonical, optical=optical, camera=camera).cropped()
    crop = raw.crop
    assert crop is not None
    dtype, plan = _PIXEL_TYPES[settings.bit_depth], None
    exposure, notices = _render_exposure(raw, conversion, settings)
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
        pixels, plan = _runner(conversion, settings, exposure, progress).render(
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
            xmp=provenance.rendered(raw.metadata.xmp, _how(conversion, exposure)),
            source_name=raw.metadata.source_name,
        ),
        notes=conversion.notices + notices + _stepped_down(conversion, plan),
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
    runner = _runner(conversion, settings, progress=progress)
    assert not isinstance(runner, onnx_runner.OnnxRunner)  # its network has no stages
    pixels, plan = runner.restore(raw.mosaic, canonical, conversion.optical, gain=gain)
    return pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width], plan


def _runner(
    conversion: Conversion,
    settings: Settings,
    exposure: float = 0.0,
    progress: Callable[[float], None] | None = None,
) -> Runner | OnnxRunner:
    """Build the model of a conversion on its device."""
    if conversion.checkpoint is not None and runs_on_onnx(conversion, settings):
        fast = onnx_runner.load(conversion.checkpoint, conversion.direction)
        return onnx_runner.OnnxRunner(fast, settings.max_memory, progress)
    import torch

    from paramisp_cli import devices, runner

    device = devices.pick(settings.device)
    if conversion.checkpoint is None:
        gain = {"digital_gain": 2.0**exposure} if conversion.architecture == "parametric" else {}
        model = models.architecture(conversion.architecture)(conversion.direction, **gain)
    else:
        model = runner.load(conversion.checkpoint, conversion.direction, device)
    if conversion.stop_at is not None:
        model = model.stopping_at(conversion.stop_at)
    dtype = getattr(torch, DTYPES[settings.dtype])
    return runner.Runner(
        model, device, dtype, settings.max_memory, settings.scratch_path, conversion.memory_plan, progress
    )


def _stepped_down(conversion: Conversion, used: str | None) -> tuple[str, ...]:
    """Return a notice if memory ran out during the work."""
    if conversion.memory_plan in (None, used):
        return ()
    return (f"memory ran out: continued with the memory plan {used!r}, which needs less and takes longer",)


def _render_exposure(
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


# --- sources --------------------------------------------------------------------------------------------------------


def _read_picture(path: Path, settings: Settings) -> SrgbImage:
    image = parameters.read(path, settings)
    if not isinstance(image, SrgbImage):
        raise FormatError(f"{path}: is a RAW file already; `paramisp render` makes a picture of it")
    return image


def _read_raw(path: Path, settings: Settings) -> RawImage:
    image = parameters.read(path, settings)
    if not isinstance(image, RawImage):
        raise FormatError(f"{path}: is a picture, not a RAW file; `paramisp unprocess` makes a RAW of it")
    return image


_KINDS = {"camera": Camera, "optical": OpticalParams, "orientation": int}


Image = TypeVar("Image", SrgbImage, RawImage)


def _described(image: Image, own: dict[str, Any]) -> Image:
    """Return the image with the caller's parameters that are not None; ConfigError for a wrong type."""
    values = {name: value for name, value in own.items() if value is not None}
    for name, value in values.items():
        if not isinstance(value, _KINDS[name]):
            raise ConfigError(f"{name}= must be of type {_KINDS[name].__name__}, got {type(value).__name__}")
    return replace(image, **values)


def _refuse(own: dict[str, Any], source: str) -> None:
    """Raise ConfigError for parameters passed with a source that has its own."""
    names = [f"{name}=" for name, value in own.items() if value is not None]
    if names:
        raise ConfigError(f"{', '.join(names)}: for arrays and tensors; {source} has its own; Settings overrides it")
