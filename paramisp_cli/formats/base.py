"""What a file format is to the rest: a record of functions, and the options of writing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paramisp_cli.types import RawImage, SrgbImage


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How files are written.

    quality      JPEG quality 1–100
    bit_depth    8 or 16: bits a channel of PNG and TIFF (None: 8 for PNG, 16 for TIFF)
    compression  DNG mosaic: "lossless" (lossless JPEG) or "none"
    profile      DNG look: "match" (the tone curve of ``RawImage.tone_curve``), "linear" (no curve), "adobe" (no
                 profile: the reader's own look)
    embed_jpeg   whether a DNG holds the user's JPEG byte for byte
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

    sniff looks at the file's first 64 bytes; read gives the image (FormatError if damaged); write puts an image at
    the path it is given, which does not exist yet (atomicity is ``formats.write``'s business).
    """

    name: str
    suffixes: tuple[str, ...]
    sniff: Callable[[bytes], bool]
    read: Callable[[Path], SrgbImage | RawImage] | None = None
    write: Callable[[SrgbImage | RawImage, Path, WriteOptions], None] | None = None
