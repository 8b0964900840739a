"""unprocess and render as a library: from a file, an image, an array, a tensor or a PIL picture to an image."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from paramisp_cli import pipeline
from paramisp_cli.errors import ConfigError, FormatError, MetadataError
from paramisp_cli.formats import raster
from paramisp_cli.pipeline import Settings
from paramisp_cli.types import Camera, CanonicalParams, OpticalParams, RawImage, SrgbImage

if TYPE_CHECKING:
    import torch

_PICTURE = "a path, an SrgbImage, an array (H, W, 3), a tensor (3, H, W) or a PIL picture"
_MOSAIC = "a path, a RawImage, an array (H, W) or a tensor (1, H, W)"


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
                 a PIL picture, read as its file would be: grey becomes RGB, alpha is dropped, its ICC profile and EXIF
                 are used
    camera, optical, orientation
                 parameters of the shot, for arrays, tensors and PIL pictures, whose EXIF they override; a path and an
                 ``SrgbImage`` have their own, and ``settings`` overrides those of any source

    The result has a uint16 mosaic at full resolution, padded by reflection to even sides of at least
    ``SMALLEST_MOSAIC``; its ``crop`` is the true size. Raises MetadataError for an array of the wrong shape, type or
    range, ConfigError for wrong arguments, and otherwise a ParamispError that names the file.
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
        image = _described(SrgbImage(_picture(source)), own)
    plan = pipeline.affordable(pipeline.plan_unprocess(image, settings), settings, image.size)
    return pipeline.run_unprocess(image, plan, settings)


def render(
    source: str | os.PathLike[str] | RawImage | np.ndarray | torch.Tensor,
    settings: Settings = Settings(),
    *,
    canonical: CanonicalParams | None = None,
    camera: Camera | None = None,
    optical: OpticalParams | None = None,
    orientation: int | None = None,
) -> SrgbImage:
    """Turn a RAW into the picture its camera would have made: upright, sRGB, 8 or 16 bits.

    source       a path (DNG or camera RAW), a ``RawImage``, or a mosaic of even sides:
                 a numpy array (H, W), uint16 in raw units, or float32 or float64, linear, black 0, white 1;
                 a torch tensor (H, W), (1, H, W) or (1, 1, H, W) on any device, uint16 or floating point likewise
    canonical    CFA, levels, white balance and colour matrix of the mosaic; an array and a tensor need it
    camera, optical, orientation
                 further parameters of the shot, for arrays and tensors; a path and a ``RawImage`` have their own, and
                 ``settings`` overrides those of any source

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
        mosaic = _mosaic(source)
        if not isinstance(canonical, CanonicalParams):
            raise ConfigError("a mosaic without a file needs canonical=CanonicalParams(...): CFA, levels and colour")
        raw = _described(RawImage(mosaic, canonical), own)
    plan = pipeline.affordable(pipeline.plan_render(raw, settings), settings, raw.size)
    return pipeline.run_render(raw, plan, settings)


def _read_picture(path: Path, settings: Settings) -> SrgbImage:
    image = pipeline.read(path, settings)
    if not isinstance(image, SrgbImage):
        raise FormatError(f"{path}: is a RAW file already; `paramisp render` makes a picture of it")
    return image


def _read_raw(path: Path, settings: Settings) -> RawImage:
    image = pipeline.read(path, settings)
    if not isinstance(image, RawImage):
        raise FormatError(f"{path}: is a picture, not a RAW file; `paramisp unprocess` makes a RAW of it")
    return image


_KINDS = {"camera": Camera, "optical": OpticalParams, "orientation": int}


Image = TypeVar("Image", SrgbImage, RawImage)


def _described(image: Image, own: dict[str, Any]) -> Image:
    """The image with those of the caller's parameters that are given; ConfigError if one is of the wrong type."""
    given = {name: value for name, value in own.items() if value is not None}
    for name, value in given.items():
        if not isinstance(value, _KINDS[name]):
            raise ConfigError(f"{name}= must be of type {_KINDS[name].__name__}, got {type(value).__name__}")
    return replace(image, **given)


def _refuse(own: dict[str, Any], source: str) -> None:
    """Raise ConfigError if parameters are given beside a source that has its own."""
    given = [f"{name}=" for name, value in own.items() if value is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: for arrays and tensors; {source} has its own, which Settings overrides")


def _picture(source: object) -> np.ndarray:
    """(H, W, 3) uint8, uint16 or float32 pixels of an array or tensor; MetadataError if it is none."""
    if _is_tensor(source):
        array = _from_tensor(source, "a picture", "(3, H, W)", 3)
        if array.ndim != 3 or array.shape[0] != 3:
            _wrong_shape("a picture as a tensor must be (3, H, W) or (1, 3, H, W)", array.shape)
        array = array.transpose(1, 2, 0)
    elif isinstance(source, np.ndarray):
        array = source
        if array.ndim == 4:
            raise MetadataError(f"one picture at a time: got a batch {_shown(array.shape)}; call unprocess for each")
        if array.ndim != 3 or array.shape[2] != 3:
            _wrong_shape("a picture as an array must be (H, W, 3)", array.shape)
    else:
        raise ConfigError(f"unprocess takes {_PICTURE}, got {type(source).__name__}")
    return _numbers(array, "a picture", (np.uint8, np.uint16))


def _mosaic(source: object) -> np.ndarray:
    """(H, W) uint16 or float32 of an array or tensor; MetadataError if it is none."""
    if _is_tensor(source):
        array = _from_tensor(source, "a mosaic", "(1, H, W)", 1)
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != 2:
            _wrong_shape("a mosaic as a tensor must be (H, W), (1, H, W) or (1, 1, H, W)", array.shape)
    elif isinstance(source, np.ndarray):
        array = source
        if array.ndim != 2:
            _wrong_shape("a mosaic as an array must be (H, W), one number a site", array.shape)
    else:
        raise ConfigError(f"render takes {_MOSAIC}, got {type(source).__name__}")
    return _numbers(array, "a mosaic", (np.uint16,))


def _is_tensor(source: object) -> bool:
    """Whether it is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def _from_tensor(source: Any, noun: str, wanted: str, channels: int) -> np.ndarray:
    """The tensor on the CPU as an array, without the leading 1 of a batch of one."""
    if source.ndim == 4:
        if source.shape[0] != 1:
            raise MetadataError(
                f"{noun} at a time: got a batch {_shown(source.shape)}; loop over it and pass each {wanted}"
            )
        if source.shape[1] != channels:
            _wrong_shape(f"{noun} as a tensor must be {wanted} or (1, {wanted[1:]}", source.shape)
        source = source[0]
    source = source.detach().cpu()
    if source.is_floating_point():
        source = source.float()
    if source.is_complex() or source.layout != sys.modules["torch"].strided:
        raise MetadataError(f"{noun} as a tensor must be dense and real, got {source.dtype}, {source.layout}")
    array: np.ndarray = source.numpy()
    return array


def _numbers(array: np.ndarray, noun: str, integers: tuple[type[np.integer[Any]], ...]) -> np.ndarray:
    """The array in the machine's byte order, float64 as float32; MetadataError for another type or bad values."""
    if 0 in array.shape:
        raise MetadataError(f"{noun} must have at least one pixel, got {_shown(array.shape)}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype in (np.float32, np.float64):
        low, high = float(array.min()), float(array.max())  # NaN if any value is
        if not (low >= 0 and high <= 1):
            raise MetadataError(f"{noun} of {array.dtype} must lie in [0, 1], got {low:g} to {high:g}; scale it")
        array = array.astype(np.float32, copy=False)
    elif array.dtype not in integers:
        known = ", ".join(np.dtype(kind).name for kind in (*integers, np.float32, np.float64))
        raise MetadataError(f"{noun} must be of {known}, got {array.dtype}; convert it first")
    return np.ascontiguousarray(array)


def _wrong_shape(rule: str, shape: tuple[int, ...]) -> NoReturn:
    raise MetadataError(f"{rule}, got {_shown(shape)}")


def _shown(shape: tuple[int, ...]) -> str:
    return str(tuple(shape))
