"""Write a picture as JPEG, PNG or TIFF, upright, with its profile embedded: sRGB, or linear light as floats in TIFF."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats import exif
from paramisp_cli.formats import xmp as xmp_packets
from paramisp_cli.formats.base import WriteOptions
from paramisp_cli.formats.icc import linear_srgb_profile, srgb_profile
from paramisp_cli.formats.kinds import PNG_MAGIC
from paramisp_cli.formats.pixels import STRIP, apply_orientation, to_depth
from paramisp_cli.formats.tiff import UNDEFINED, Entry, byte, long, short
from paramisp_cli.types import LinearImage, Output, SrgbImage

_MOST_BYTES = 2**32 - (1 << 26)
"""Bytes of the pixels in a TIFF: its offsets have 32 bits, and metadata follow the pixels."""


def check_linear_size(height: int, width: int) -> None:
    """Raise FormatError unless a TIFF can hold a linear picture of this size."""
    if height * width * 12 > _MOST_BYTES:
        raise FormatError(
            f"a linear picture of {width}×{height} pixels has {height * width * 12 / 1e9:.1f} GB, more than a TIFF can "
            "hold (4 GB): render it without `stop_at`",
            field="stop_at",
        )


def write(image: Output, path: Path, options: WriteOptions, *, kind: str) -> None:
    """Write the picture as "jpeg", "png" or "tiff" (``kind``, not the path's suffix, decides), upright.

    8 bits for JPEG, ``options.bit_depth`` for PNG (default 8) and TIFF (default 16); EXIF as given, XMP where it fits,
    an sRGB profile. A ``LinearImage`` becomes a TIFF of 32-bit floats, with the profile of linear sRGB. FormatError if
    the format cannot hold the picture, OSError if the file cannot be written.
    """
    if isinstance(image, LinearImage):
        pixels = _floats(image, kind, options)
    elif isinstance(image, SrgbImage):
        pixels = upright(image, kind, options)
    else:
        raise FormatError(f"a RAW image cannot be written as {kind.upper()}: render it first")
    xmp = image.metadata.xmp and xmp_packets.upright(image.metadata.xmp)
    writer = {"jpeg": _write_jpeg, "png": _write_png, "tiff": _write_tiff}[kind]
    writer(pixels, image.metadata.exif and exif.upright(image.metadata.exif), xmp, path, options)


def upright(image: SrgbImage, kind: str, options: WriteOptions) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 or uint16 for a file of this kind."""
    bits = 8 if kind == "jpeg" else options.bit_depth or (16 if kind == "tiff" else 8)
    if bits not in (8, 16):
        raise FormatError(f"{kind.upper()} is written with 8 or 16 bits a channel, not {bits}")
    return np.ascontiguousarray(apply_orientation(to_depth(image.pixels, bits), image.orientation))


def _floats(image: LinearImage, kind: str, options: WriteOptions) -> np.ndarray:
    """Return the pixels of a linear picture; FormatError if a file of this kind cannot hold it."""
    if kind != "tiff":
        raise FormatError(f"a linear picture has 32-bit floats, which {kind.upper()} cannot hold: write a TIFF")
    if options.bit_depth not in (None, 32):
        raise FormatError(f"a linear picture is written with 32 bits a channel, not {options.bit_depth}")
    check_linear_size(*image.size)
    return image.pixels


def _write_jpeg(
    pixels: np.ndarray, exif_block: bytes | None, xmp: bytes | None, path: Path, options: WriteOptions
) -> None:
    from PIL import Image

    height, width = pixels.shape[:2]
    if max(height, width) > 65500:
        raise FormatError(f"{width}×{height} is more than JPEG can hold (65500): write a TIFF or PNG")
    blocks: dict[str, Any] = {}
    if exif_block and len(exif_block) < 65500:  # a segment holds no more
        blocks["exif"] = b"Exif\0\0" + exif_block
    if xmp and len(xmp) < 65400:
        blocks["xmp"] = xmp
    Image.fromarray(pixels).save(
        path,
        "JPEG",
        quality=options.quality,
        subsampling=0 if options.quality >= 90 else 2,  # 4:4:4, 4:2:0
        icc_profile=srgb_profile(),
        optimize=options.keep_raw is not None,  # slower, and 4 % smaller
        **blocks,
    )


def encode_jpeg(pixels: np.ndarray, quality: int, chroma_half: bool) -> bytes:
    """Encode uint8 pixels (H, W, 3) or grey (H, W) as a JPEG in memory, without metadata; chroma is 4:4:4 or 4:2:0."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=2 if chroma_half else 0)
    return stream.getvalue()


def _write_png(
    pixels: np.ndarray, exif_block: bytes | None, xmp: bytes | None, path: Path, options: WriteOptions
) -> None:
    """Write the chunks directly (PNG, third edition): Pillow writes no 16-bit RGB."""
    height, width = pixels.shape[:2]
    bits = 8 * pixels.itemsize
    step = 3 * pixels.itemsize
    with path.open("wb") as file:

        def chunk(kind: bytes, data: bytes) -> None:
            file.write(
                struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
            )

        file.write(PNG_MAGIC)
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
        chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(srgb_profile()))
        if exif_block:
            chunk(b"eXIf", exif_block)
        if xmp:
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        packer = zlib.compressobj(4)
        above = np.zeros((1, width * step), np.uint8)
        for top in range(0, height, STRIP):
            rows = pixels[top : top + STRIP]
            plain = rows.astype(">u2").view(np.uint8) if bits == 16 else rows
            plain = plain.reshape(len(rows), width * step)
            lines = np.empty((len(rows), 1 + width * step), np.uint8)
            lines[:, 0] = 2  # filter "up": the difference to the row above, modulo 256
            lines[:, 1:] = plain - np.concatenate([above, plain[:-1]])
            above = plain[-1:]
            data = packer.compress(lines.tobytes())
            if data:
                chunk(b"IDAT", data)
        chunk(b"IDAT", packer.flush())
        chunk(b"IEND", b"")


def _write_tiff(
    pixels: np.ndarray, exif_block: bytes | None, xmp: bytes | None, path: Path, options: WriteOptions
) -> None:
    """Write TIFF 6.0: strips, then IFD0, Exif and GPS; tifffile writes no Exif IFD.

    Integers have Deflate and predictor 2. Floats are not compressed: without a predictor Deflate saves a tenth, and the
    predictor for floats (Adobe's Technical Note 3) is unknown to many readers.
    """
    height, width = pixels.shape[:2]
    is_float = pixels.dtype == np.float32
    profile = linear_srgb_profile() if is_float else srgb_profile()
    block = exif.parse(exif_block) if exif_block else exif.ExifBlock("<")
    starts: list[int] = []
    sizes: list[int] = []
    with path.open("wb") as file:
        file.write(b"II*\0\0\0\0\0")
        for top in range(0, height, STRIP):
            strip = pixels[top : top + STRIP].astype(pixels.dtype.newbyteorder("<"))
            if not is_float:
                strip[:, 1:] -= strip[:, :-1].copy()  # the difference to the left, modulo 2^bits
            data = strip.tobytes() if is_float else zlib.compress(strip.tobytes(), 4)
            starts.append(file.tell())
            sizes.append(len(data))
            file.write(data + b"\0" * (len(data) % 2))

        bits = 8 * pixels.itemsize
        shorts = {
            0x0102: (bits, bits, bits),
            0x0103: (1 if is_float else 8,),
            0x0106: (2,),
            0x0112: (1,),
            0x0115: (3,),
            0x011C: (1,),
            **({0x0153: (3, 3, 3)} if is_float else {0x013D: (2,)}),
        }  # BitsPerSample, Compression, Photometric, Orientation, SamplesPerPixel, PlanarConfiguration, then
        # SampleFormat (IEEE floats) or Predictor
        longs = {0x0100: (width,), 0x0101: (height,), 0x0111: starts, 0x0116: (STRIP,), 0x0117: sizes}
        ifd0 = {tag: block.ifd0[tag] for tag in exif.PICTURE_TAGS if tag in block.ifd0}
        ifd0 |= {tag: short(*values) for tag, values in shorts.items()}
        ifd0 |= {tag: long(*values) for tag, values in longs.items()}
        ifd0[0x8773] = Entry(UNDEFINED, len(profile), profile)
        if xmp:
            ifd0[0x02BC] = byte(xmp)
        at = file.tell()
        file.write(exif.ifds_bytes(ifd0, block.exif, block.gps, at))
        file.seek(4)
        file.write(struct.pack("<I", at))
