"""HEIC: pictures of phones in HEVC, decoded by the package pi-heif (libheif), an optional extra."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats.base import check_pixels, one_line


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture, upright: libheif applies the rotation and the mirroring of the file.

    pixels  (H, W), (H, W, 3) or (H, W, 4), uint8, or uint16 over the range of its type
    count   number of pictures in the file, without thumbnails and auxiliary pictures
    """

    pixels: np.ndarray
    exif: bytes | None
    xmp: bytes | None
    count: int


def decode(data: bytes, max_pixels: int) -> Picture:
    """Decode the primary picture of a HEIC file.

    FormatError if the package is missing, or the file is damaged or larger than ``max_pixels``.
    """
    if importlib.util.find_spec("pi_heif") is None:
        raise FormatError(
            "is HEIC, which needs the package pi-heif: `pip install 'paramisp[heic]'`, or convert it to JPEG first"
        )
    import pi_heif

    try:
        file = pi_heif.HeifFile(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
        image = file[file.primary_index]
        check_pixels(image.size[0], image.size[1], max_pixels)
        pixels = np.array(image)  # a copy: the memory is libheif's, and ends with the file
        bits = int(image.info["bit_depth"])
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # libheif's errors arrive as ValueError, RuntimeError, EOFError, IndexError, …
        raise FormatError(f"the picture is damaged ({_reason(error)}); copy it from the phone again") from error
    if bits > 8:
        pixels = np.rint(np.minimum(pixels, (1 << bits) - 1) * (65535 / ((1 << bits) - 1))).astype(np.uint16)
    block = image.info.get("exif") or b""
    return Picture(pixels, block.removeprefix(b"Exif\0\0") or None, image.info.get("xmp") or None, len(file))


def _reason(error: Exception) -> str:
    """Return the reason that libheif gives, in one line."""
    return one_line(error).rstrip(".")
