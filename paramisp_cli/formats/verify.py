"""Compare a written file, read again, with its image in memory."""

from __future__ import annotations

import math

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.mosaic import by_color
from paramisp_cli.types import RawImage, SrgbImage

_FRACTION = 2e-8
"""Relative error of a fraction in a DNG; LibRaw's black level is a whole number."""


def check_raw(written: RawImage, back: RawImage) -> None:
    """Raise FormatError unless a DNG read back alike: mosaic and whole levels exactly, fractions within precision."""
    black, levels = written.canonical.black_level, back.canonical.black_level
    if written.linear is not None:  # the mosaic is a sample, of any CFA
        black, levels = (by_color(raw.canonical.black_level, raw.canonical.cfa) for raw in (written, back))
        same = {"colours": back.linear is not None and np.array_equal(written.linear, back.linear)}
    else:
        same = {
            "mosaic": back.linear is None and np.array_equal(written.mosaic, back.mosaic),
            "CFA": written.canonical.cfa == back.canonical.cfa,
        }
    neutral, again = (raw.canonical.as_shot_neutral / raw.canonical.as_shot_neutral.max() for raw in (written, back))
    same |= {
        "crop": written.crop == back.crop,
        "orientation": written.orientation == back.orientation,
        "black level": bool((np.abs(black - levels) <= np.where(black % 1 == 0, 0, 1)).all()),
        "white level": math.floor(written.canonical.white_level + 0.5) == back.canonical.white_level,
        "colour matrix": np.allclose(
            written.canonical.color_matrix, back.canonical.color_matrix, rtol=_FRACTION, atol=_FRACTION
        ),
        "as-shot neutral": np.allclose(neutral, again, rtol=_FRACTION, atol=_FRACTION),
        "data (the reader calls them damaged)": not any("damaged" in note for note in back.notes),
    }
    _tell([name for name, is_same in same.items() if not is_same])


def check_same(written: RawImage, back: RawImage) -> None:
    """Raise FormatError unless an array read back as it was written, bit for bit: its samples, and all parameters.

    ``written`` is the image as the array holds it: cropped, three colours a pixel with the CFA of the reader.
    """
    one, other = written.canonical, back.canonical
    same = {
        "samples": _equal(written.mosaic, back.mosaic) and _equal(written.linear, back.linear),
        "CFA": one.cfa == other.cfa,
        "noise profile": _equal(written.noise_profile, back.noise_profile),
    }
    for name in ("black_level", "white_level", "as_shot_neutral", "color_matrix"):
        same[name] = np.array_equal(getattr(one, name), getattr(other, name))
    for name in ("optical", "camera", "orientation", "crop", "patch", "baseline_exposure", "model"):
        same[name] = getattr(written, name) == getattr(back, name)
    _tell([name for name, is_same in same.items() if not is_same])


def _equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Tell whether two arrays, either may be missing, are of one type and have the same values."""
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and np.array_equal(one, other)


def check_picture(pixels: np.ndarray, back: SrgbImage, *, lossless: bool) -> None:
    """Raise FormatError unless a picture read back alike: its size, and its pixels if the format is ``lossless``."""
    if back.size != pixels.shape[:2]:
        _tell(["size"])
    _tell(["pixels"] if lossless and not np.array_equal(pixels, back.pixels) else [])


def check_linear(pixels: np.ndarray, back: np.ndarray) -> None:
    """Raise FormatError unless linear pixels (H, W, 3) float32 read back with the same bits."""
    same = back.dtype == np.float32 and back.shape == pixels.shape
    same = same and np.array_equal(back.view(np.uint32), np.ascontiguousarray(pixels).view(np.uint32))
    _tell([] if same else ["pixels"])


def _tell(differing: list[str]) -> None:
    if differing:
        raise FormatError(
            f"the file did not read back as it was written (other {', '.join(differing)}); it was removed: "
            "check the disk and try again, or report it"
        )
