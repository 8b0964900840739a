"""JPEG, PNG, TIFF, WebP, AVIF and HEIC as file formats, and functions on pictures for other packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paramisp_cli.formats.base import Format, WriteOptions
from paramisp_cli.formats.gainmap import write as gainmap_write
from paramisp_cli.formats.icc import srgb_profile
from paramisp_cli.formats.kinds import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGICS, is_avif, is_heic, is_webp
from paramisp_cli.formats.pixels import apply_orientation, to_depth
from paramisp_cli.formats.raster_read import decode_small, from_pillow, is_pillow, read, read_bytes
from paramisp_cli.formats.raster_tiff import read_floats
from paramisp_cli.formats.raster_write import check_linear_size, encode_jpeg, upright, write
from paramisp_cli.formats.verify import check_linear, check_picture
from paramisp_cli.types import HdrImage, LinearImage, Output, SrgbImage

__all__ = [
    "FORMATS",
    "apply_orientation",
    "check_linear_size",
    "decode_small",
    "encode_jpeg",
    "from_pillow",
    "is_pillow",
    "read",
    "read_bytes",
    "srgb_profile",
    "to_depth",
    "write",
]


def _format(name: str, suffixes: tuple[str, ...], sniff: Callable[[bytes], bool], kind: str | None = None) -> Format:
    def put(image: Output, path: Path, options: WriteOptions) -> None:
        if isinstance(image, HdrImage):
            return gainmap_write.write(image, path, options)
        return write(image, path, options, kind=kind or "")

    def check(image: Output, path: Path, options: WriteOptions) -> None:
        if isinstance(image, HdrImage):
            return gainmap_write.verify(image, path, read(path, image.base.pixels.size))
        if isinstance(image, LinearImage):
            return check_linear(image.pixels, read_floats(path))
        assert isinstance(image, SrgbImage)  # write checked it
        pixels = upright(image, kind or "", options)
        return check_picture(pixels, read(path, image.pixels.size), lossless=kind != "jpeg")

    holds = (SrgbImage, LinearImage) if kind == "tiff" else (SrgbImage,)
    return Format(
        name, suffixes, sniff, read, write=put if kind else None, verify=check if kind else None, holds=holds
    )  # fmt: skip


JPEG = _format("JPEG", (".jpg", ".jpeg"), lambda head: head.startswith(JPEG_MAGIC), "jpeg")
PNG = _format("PNG", (".png",), lambda head: head.startswith(PNG_MAGIC), "png")
TIFF = _format("TIFF", (".tif", ".tiff"), lambda head: head.startswith(TIFF_MAGICS), "tiff")
WEBP = _format("WebP", (".webp",), is_webp)
AVIF = _format("AVIF", (".avif",), is_avif)
HEIC = _format("HEIC", (".heic", ".heif", ".hif"), is_heic)
FORMATS = (JPEG, PNG, TIFF, WEBP, AVIF, HEIC)
