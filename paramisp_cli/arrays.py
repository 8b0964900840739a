"""Check the library's inputs, numpy arrays and torch tensors, and convert them to one form."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import numpy as np

from paramisp_cli.errors import ConfigError, MetadataError

_PICTURE = "a path, an SrgbImage, an array (H, W, 3), a tensor (3, H, W) or a PIL picture"
_MOSAIC = "a path, a RawImage, an array (H, W) or a tensor (1, H, W)"


def picture(source: object) -> np.ndarray:
    """Return (H, W, 3) uint8, uint16 or float32 pixels from an array or tensor.

    Raises MetadataError for a wrong shape, type or range, ConfigError for any other object.
    """
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


def mosaic(source: object) -> np.ndarray:
    """Return a mosaic (H, W) uint16 or float32 from an array or tensor. Raises the errors of ``picture``."""
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
    """Tell whether an object is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def _from_tensor(source: Any, noun: str, wanted: str, channels: int) -> np.ndarray:
    """Return the tensor on the CPU as an array, without the leading 1 of a batch of one."""
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
    """Return the array in native byte order, float64 as float32; MetadataError for another type or bad values."""
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
