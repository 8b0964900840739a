"""A file format as a record of functions, the options of writing, and the limit of reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paramisp_cli.errors import FormatError
from paramisp_cli.types import RawImage, SrgbImage

MAX_PIXELS = 250_000_000
"""Pixels that a file may claim unless the caller allows more.

The largest sensors have 150 megapixels, and shots combined by moving the sensor (pixel shift) 240. A damaged or hostile
file of a few kilobytes can claim any number, and would take the memory and the minutes of that number.
"""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How files are written.

    quality      JPEG quality 1–100
    bit_depth    8 or 16: bits a channel of PNG and TIFF (None: 8 for PNG, 16 for TIFF)
    compression  DNG mosaic: "lossless" (lossless JPEG) or "none"
    profile      DNG look: "match" (the tone curve of ``RawImage.tone_curve``), "linear" (no curve), "adobe" (no
                 profile: the reader's own look)
    embed_jpeg   whether a DNG holds the user's JPEG byte for byte
    verify       whether each file is read again and compared before it gets its name (also $PARAMISP_VERIFY=1)
    """

    quality: int = 95
    bit_depth: int | None = None
    compression: str = "lossless"
    profile: str = "match"
    embed_jpeg: bool = True
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """A file format.

    sniff looks at the file's first 64 bytes; read takes the path and the largest number of pixels, and gives the image
    (FormatError if damaged or larger); write puts an image at the path it is given (``formats.write`` makes it atomic);
    verify reads that file again, and raises FormatError if it does not hold the image.
    """

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes], bool]
    read: Callable[[Path, int], SrgbImage | RawImage] | None = None
    write: Callable[[SrgbImage | RawImage, Path, WriteOptions], None] | None = None
    verify: Callable[[SrgbImage | RawImage, Path, WriteOptions], None] | None = None


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """FormatError if a picture of this size has more than ``max_pixels``; to be called before anything is decoded."""
    if width * height > max_pixels:
        raise FormatError(
            f"{width}×{height} = {_megapixels(width * height)} megapixels, "
            f"more than the {_megapixels(max_pixels)} megapixels allowed",
            field="max_pixels",
        )


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.0f}" if pixels >= 10_000_000 else f"{pixels / 1e6:.2g}"


def one_line(error: BaseException) -> str:
    """The message of a library's error in one line; the error's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
