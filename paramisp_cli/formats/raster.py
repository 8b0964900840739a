"""JPEG, PNG and TIFF as file formats, and the functions on pictures that other packages use."""

from __future__ import annotations

from paramisp_cli.formats.base import Format
from paramisp_cli.formats.icc import srgb_profile
from paramisp_cli.formats.kinds import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGICS
from paramisp_cli.formats.pixels import apply_orientation, to_depth
from paramisp_cli.formats.raster_read import decode_small, read, read_bytes
from paramisp_cli.formats.raster_write import encode_jpeg, write

__all__ = [
    "FORMATS",
    "apply_orientation",
    "decode_small",
    "encode_jpeg",
    "read",
    "read_bytes",
    "srgb_profile",
    "to_depth",
    "write",
]


def _format(name: str, suffixes: tuple[str, ...], magics: tuple[bytes, ...], kind: str) -> Format:
    return Format(
        name,
        suffixes,
        sniff=lambda head: head.startswith(magics),
        read=read,
        write=lambda image, path, options: write(image, path, options, kind=kind),
    )


JPEG = _format("JPEG", (".jpg", ".jpeg"), (JPEG_MAGIC,), "jpeg")
PNG = _format("PNG", (".png",), (PNG_MAGIC,), "png")
TIFF = _format("TIFF", (".tif", ".tiff"), TIFF_MAGICS, "tiff")
FORMATS = (JPEG, PNG, TIFF)
