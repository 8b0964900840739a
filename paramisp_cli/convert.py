"""The library's ``unprocess``, ``render`` and ``transfer``, from a file, image, array, tensor or PIL picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from paramisp_cli import arrays, make_picture, make_raw, make_transfer, parameters, sources
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FormatError, MetadataError, ParamispError
from paramisp_cli.formats import raster
from paramisp_cli.machine import runner_of, runs_on_onnx
from paramisp_cli.parameters import CAMERA_LOOK, Conversion, Settings
from paramisp_cli.rendition import look as rendition_look
from paramisp_cli.rendition.form import Rendition
from paramisp_cli.rendition.pool import Pool
from paramisp_cli.rendition.preview import Misfit
from paramisp_cli.types import (
    CFA_PATTERNS,
    Camera,
    CanonicalParams,
    LinearImage,
    Notice,
    OpticalParams,
    Output,
    RawImage,
    SrgbImage,
)

if TYPE_CHECKING:
    import torch


def unprocess(
    source: str | os.PathLike[str] | SrgbImage | np.ndarray | torch.Tensor | Any,
    settings: Settings = Settings(),
    *,
    camera: Camera | None = None,
    optical: OpticalParams | None = None,
    orientation: int | None = None,
) -> RawImage:
    """Estimate the RAW behind an sRGB picture.

    source       a path (JPEG, PNG, TIFF), an ``SrgbImage``, or sRGB-encoded pixels of any size, as stored:
                 a numpy array (H, W, 3), uint8 (0–255), uint16 (0–65535), float32 or float64 (0–1);
                 a torch tensor (3, H, W) or (1, 3, H, W) on any device, uint8 (0–255) or floating point (0–1);
                 a PIL picture, converted like a file: grey becomes RGB, alpha is dropped, its ICC profile and EXIF are
                 used
    camera, optical, orientation
                 parameters of the shot, for arrays, tensors and PIL pictures (they override its EXIF); a path and an
                 ``SrgbImage`` have their own, and ``settings`` overrides the parameters of any source

    The result has a uint16 mosaic (float32 with a ``bit_depth`` of 32) at full resolution, padded by reflection to even
    sides of at least ``make_raw.SMALLEST_MOSAIC``; its ``crop`` is the true size. Raises MetadataError for an array of
    the wrong shape, type or range, ConfigError for wrong arguments, and otherwise a ParamispError that names the file.
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
    assert isinstance(result, SrgbImage | LinearImage)
    return result


def transfer(source: str | os.PathLike[str] | RawImage | SrgbImage, settings: Settings) -> RawImage | SrgbImage:
    """Turn a RAW into the RAW that the camera ``settings.to`` would have recorded, or a picture into its picture.

    source       a path, a ``RawImage`` or an ``SrgbImage``

    The result of a RAW has the other camera's colour matrix and neutral, and the settings and the camera of the shot;
    ``colours_of`` names the other camera. Raises ConfigError without ``to`` or for one that is not known, WeightsError
    for the picture of a camera without render weights, and otherwise a ParamispError that names the file.
    """
    if settings.to is None:
        raise ConfigError("transfer needs `to`, the other camera")
    if isinstance(source, RawImage | SrgbImage):
        return _transferred(source, settings)
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(f"transfer takes a path, a RawImage or an SrgbImage, got {type(source).__name__}")
    image = parameters.read(Path(source), settings)
    try:
        return _transferred(image, settings)
    except ParamispError as error:
        raise error.named(source) from error


def _transferred(image: RawImage | SrgbImage, settings: Settings) -> RawImage | SrgbImage:
    result = run(image, make_transfer.complete(image, settings), settings)
    assert isinstance(result, RawImage | SrgbImage)
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
        return replace(conversion, memory_plan=runner_of(conversion, settings).choose_plan(size))
    from paramisp_cli.runner import NotEnoughMemoryError

    try:
        return replace(conversion, memory_plan=runner_of(conversion, settings).choose_plan(size))
    except NotEnoughMemoryError as error:
        if settings.model is not None or settings.weights is not None:
            raise
        hint = f" (for the network pass {error.remedy})" if error.remedy else ""
        return conversion.without_network(f"{error.need}: used the parametric model{hint}")


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
    return 0.0 if conversion.checkpoint is None else runs * runner_of(conversion, settings).expected_seconds(size)


def run(
    image: SrgbImage | RawImage,
    conversion: Conversion,
    settings: Settings,
    progress: Callable[[float], None] | None = None,
) -> Output:
    """Convert an image with completed parameters: a picture to a RAW, a RAW to a picture or a linear one.

    ``progress`` takes the finished share of the pixel work, 0 to 1, from any thread.
    """
    if conversion.target is not None:
        if isinstance(image, RawImage):
            return make_transfer.of_raw(image, conversion, settings, progress)
        return make_transfer.of_picture(image, conversion, settings, progress)
    if isinstance(image, RawImage):
        return make_picture.rendered(image, conversion, settings, progress)
    return make_raw.unprocessed(image, conversion, settings, progress)


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
