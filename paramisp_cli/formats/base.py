"""A file format as a record of functions, the options for writing, and the size limit for reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paramisp_cli.errors import FormatError
from paramisp_cli.types import LinearImage, Output, RawImage, SrgbImage

MAX_PIXELS = 250_000_000
"""Most pixels that a file may claim unless the caller allows more.

The largest sensors have 150 megapixels; shots combined by moving the sensor (pixel shift) have 240. A damaged or
hostile file of a few kilobytes can claim any number, and decoding it would take memory and time in proportion.
"""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Options for writing files.

    quality      JPEG quality 1–100
    bit_depth    8 or 16: bits a channel of PNG and TIFF (None: 8 for PNG, 16 for TIFF); a ``LinearImage`` has 32
    compression  DNG mosaic: "lossless" (lossless JPEG) or "none"
    profile      DNG look: "match" (the tone curve of ``RawImage.tone_curve``), "linear" (no curve), "adobe" (no
                 profile: the reader's default look)
    embed_jpeg   whether a DNG holds the user's JPEG byte for byte
    layout       samples of an array: "mosaic" (H, W), "packed" (H/2, W/2, 4: R, Gr, Gb, B) or "rgb" (H, W, 3); None:
                 "rgb" for a RAW of three colours a pixel, else "mosaic"
    half         whether an OpenEXR array has floats of 16 bits, which are rounded to 11 significant bits
    keep_raw     the RAW that a JPEG carries: "lossless", "near" or the file's size, such as "2MB"; see ``kept.keep``
    verify       whether each file is read again and compared before it gets its name (also $PARAMISP_VERIFY=1)
    """

    quality: int = 95
    bit_depth: int | None = None
    compression: str = "lossless"
    profile: str = "match"
    embed_jpeg: bool = True
    layout: str | None = None
    half: bool = False
    keep_raw: str | None = None
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """A file format.

    sniff   tells by a file's first 64 bytes whether it has the format
    read    returns the image at a path; FormatError if it is damaged or has more pixels than the given limit
    write   writes an image to a path (``formats.write`` makes it atomic)
    verify  reads the written file again; FormatError if it does not hold the image
    holds   kinds of images that it writes
    beside  returns the content of a second file, NAME.json beside the file NAME; None: it has none
    """

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes], bool]
    read: Callable[[Path, int], SrgbImage | RawImage] | None = None
    write: Callable[[Output, Path, WriteOptions], None] | None = None
    verify: Callable[[Output, Path, WriteOptions], None] | None = None
    holds: tuple[type[Output], ...] = (RawImage, SrgbImage, LinearImage)
    beside: Callable[[Output, str, WriteOptions], bytes] | None = None


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise FormatError if a picture of this size has more than ``max_pixels``; call it before decoding."""
    if width * height > max_pixels:
        raise FormatError(
            f"{width}×{height} = {_megapixels(width * height)} megapixels, "
            f"more than the {_megapixels(max_pixels)} megapixels allowed",
            field="max_pixels",
        )


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.0f}" if pixels >= 10_000_000 else f"{pixels / 1e6:.2g}"


def one_line(error: BaseException) -> str:
    """Return the message of a library's error in one line; without a message, the error's name."""
    return " ".join(str(error).split()) or type(error).__name__
