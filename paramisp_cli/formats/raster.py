"""JPEG, PNG and TIFF: the only door to Pillow (and, for TIFF pixels, to tifffile).

What is read comes back as sRGB whatever the file's colour space was, and what had to be changed is said in ``notes``.
What is written is sRGB, upright, with the profile embedded.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli import color
from paramisp_cli.errors import FormatError
from paramisp_cli.formats import exif
from paramisp_cli.formats.base import Format, WriteOptions
from paramisp_cli.types import Metadata, RawImage, SrgbImage

_MAX_PIXELS = 400_000_000  # beyond any camera: a file that claims more is damaged or means harm
_STRIP = 256  # rows worked on at a time, so that float copies stay small
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
_TIFF_MAGICS = (b"II*\0", b"MM\0*")


# Reading -------------------------------------------------------------------------------------------------------------


def read(path: Path) -> SrgbImage:
    """The picture in a JPEG, PNG or TIFF file as sRGB pixels (H, W, 3) uint8 or uint16, orientation not applied.

    Grey and palette pictures become RGB, an alpha channel is dropped, other RGB colour spaces are converted: ``notes``
    tells. FormatError if it is damaged, CMYK, a camera RAW file, or no picture at all; OSError if it cannot be read.
    """
    return read_bytes(path.read_bytes(), path)


def read_bytes(data: bytes, path: Path) -> SrgbImage:
    """As ``read``, of a file's content; ``path`` is what errors call it."""
    if not data:
        raise FormatError(f"{path}: the file is empty")
    reader = {_JPEG_MAGIC: _read_pillow, _PNG_MAGIC[:3]: _read_pillow}.get(data[:3])
    if data[:4] in _TIFF_MAGICS:
        reader = _read_tiff
    if reader is None:
        raise FormatError(f"{path}: not a JPEG, PNG or TIFF file")
    try:
        pixels, blocks, notes = reader(data)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they stumble over: OSError, SyntaxError, struct.error, …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FormatError(f"{path}: the picture is damaged ({reason}); copy it from the camera again") from error
    block = None
    if blocks["exif"]:
        try:
            block = exif.parse(blocks["exif"])
        except FormatError:
            notes.append("the EXIF block is damaged and was ignored")
            blocks["exif"] = None
    block = block or exif.ExifBlock("<")
    pixels, color_notes = _to_srgb(pixels, blocks["icc"], exif.color_space(block))
    optical, exif_notes = exif.optical_params(block)
    return SrgbImage(
        pixels,
        camera=exif.camera(block),
        optical=optical,
        orientation=exif.orientation(block),
        metadata=Metadata(**blocks, jpeg=data if data[:3] == _JPEG_MAGIC else None, source_name=path.name),
        as_shot_neutral=exif.white_balance(block)[0],
        notes=(*notes, *color_notes, *exif_notes),
    )


def decode_small(jpeg: bytes, longest: int) -> np.ndarray:
    """A JPEG's picture (H, W, 3) uint8, reduced to at most ``longest`` pixels a side, as stored and in its own colour
    space; made for thumbnails and statistics, so only as much as needed is decoded. FormatError if it is damaged.
    """  # fmt: skip
    from PIL import Image, JpegImagePlugin

    try:
        image: Any = JpegImagePlugin.JpegImageFile(io.BytesIO(jpeg))
        _check_size(*image.size)
        image.draft("RGB", (longest, longest))  # libjpeg decodes 1/2, 1/4 or 1/8 of the size at little cost
        image.thumbnail((longest, longest), Image.Resampling.BOX)
        return np.asarray(image.convert("RGB"))
    except FormatError:
        raise
    except Exception as error:  # see read
        raise FormatError(f"the embedded JPEG is damaged: {error}") from error


_Decoded = tuple[np.ndarray, dict[str, bytes | None], list[str]]


def _read_pillow(data: bytes) -> _Decoded:
    """(pixels (H, W, 3) uint8 or uint16, {"exif", "xmp", "icc"}, notes) of a JPEG or PNG."""
    from PIL import JpegImagePlugin, PngImagePlugin

    # The plugin's class, not Image.open: the first picture of a multi-picture file, and no global pixel limit.
    is_jpeg = data[:3] == _JPEG_MAGIC
    plugin: Any = JpegImagePlugin.JpegImageFile if is_jpeg else PngImagePlugin.PngImageFile
    try:
        image = plugin(io.BytesIO(data))
    except SyntaxError as error:
        raise FormatError("no picture can be found in it; it is damaged") from error
    pixels, notes = _pillow_pixels(plugin, data, "JPEG" if is_jpeg else "PNG")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    blocks = {
        "exif": image.info.get("exif", b"").removeprefix(b"Exif\0\0") or None,
        "xmp": xmp.encode() if isinstance(xmp, str) else xmp,
        "icc": image.info.get("icc_profile") or None,
    }
    return pixels, blocks, notes


def _pillow_pixels(plugin: Any, data: bytes, name: str) -> tuple[np.ndarray, list[str]]:
    """(RGB pixels, notes) of the picture that a Pillow plugin class finds in ``data``."""
    image = plugin(io.BytesIO(data))
    _check_size(*image.size)
    if image.mode in ("CMYK", "LAB"):
        raise FormatError(f"is a {image.mode} {name}: convert it to RGB first")
    plain = {"P": "RGBA", "PA": "RGBA", "YCbCr": "RGB"}.get(image.mode)
    pixels = np.asarray(image.convert(plain) if plain else image)
    if pixels.dtype == bool:
        pixels = pixels * np.uint8(255)
    if image.mode in ("RGB", "RGBA"):
        # Pillow keeps 8 of 16 bits: it takes the high byte of each pair. Told that the bytes stand the other way
        # round, the same decoder takes the low one.
        other = plugin(io.BytesIO(data))
        swapped = [_swapped_tile(tile) for tile in other.tile]
        if all(swapped):
            other.tile = swapped
            pixels = pixels.astype(np.uint16) << 8 | np.asarray(other)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise FormatError(f"has {pixels.dtype} pixels of mode {image.mode}, which paramisp does not read")
    pixels, notes = _as_rgb(pixels)
    if image.mode in ("P", "PA"):
        notes.insert(0, "palette colours were expanded to RGB")
        if "transparency" not in image.info:
            notes.remove("the alpha channel was dropped")
    return pixels, notes


def _swapped_tile(tile: Any) -> Any:
    """The tile with the byte order of its 16-bit raw mode reversed; None if it has none."""
    codec, extents, offset, args = tile
    mode = args if isinstance(args, str) else args[0]
    if not isinstance(mode, str) or mode[-4:] not in (";16B", ";16L", ";16N") or mode.startswith("L"):
        return None
    mode = mode[:-1] + ("L" if mode.endswith("B") else "B")  # 16N, of libtiff: little-endian on all our machines
    swapped = mode if isinstance(args, str) else (mode, *args[1:])
    # a plain tuple until Pillow 11
    return tile._replace(args=swapped) if hasattr(tile, "_replace") else (codec, extents, offset, swapped)


def _as_rgb(pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """((H, W, 3), notes) of pixels (H, W) or (H, W, 1–4): grey, grey + alpha, RGB, RGB + alpha."""
    notes = []
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
        notes.append("the alpha channel was dropped")
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
        notes.append("the picture is grey: the same values were used for R, G and B")
    return np.ascontiguousarray(pixels), notes


def _check_size(width: int, height: int) -> None:
    if width * height > _MAX_PIXELS:
        raise FormatError(f"{width}×{height} pixels are more than the {_MAX_PIXELS // 10**6} million paramisp reads")


def _read_tiff(data: bytes) -> _Decoded:
    """Like _read_pillow, of the first page of a TIFF file; FormatError if it is a camera RAW file."""
    import tifffile
    from PIL import TiffImagePlugin

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            photometric = int(page.tags["PhotometricInterpretation"].value)
            if photometric in (32803, 34892) or "DNGVersion" in page.tags:
                raise FormatError("is a RAW file of a kind that is not supported (a mosaic inside a TIFF)")
            if photometric not in (0, 1, 2, 3, 6):
                raise FormatError(f"is a TIFF of colour type {page.photometric.name}: convert it to RGB first")
            _check_size(page.imagewidth, page.imagelength)
            pixels = np.zeros(0)
            if photometric in (0, 1, 2):
                try:
                    pixels = _tiff_pixels(page)
                except (KeyError, ValueError) as error:
                    if "imagecodecs" not in str(error):  # a compression that Pillow may know
                        raise
            icc = page.tags.get("InterColorProfile")
            xmp = page.tags.get("XMP")
            blocks: dict[str, bytes | None] = {
                "icc": bytes(icc.value) if icc else None,
                "xmp": bytes(xmp.value) if xmp and not isinstance(xmp.value, str) else None,
                "exif": _tiff_exif(data),
            }
    except (tifffile.TiffFileError, IndexError, KeyError) as error:
        raise FormatError(f"no picture can be found in it; it is damaged ({error})") from error
    if pixels.size:
        pixels, notes = _as_rgb(pixels)
    else:
        pixels, notes = _pillow_pixels(TiffImagePlugin.TiffImageFile, data, "TIFF")
    return pixels, blocks, notes


def _tiff_pixels(page: Any) -> np.ndarray:
    """(H, W) or (H, W, C) uint8 or uint16 of a grey or RGB TIFF page."""
    pixels = page.asarray()
    if page.planarconfig == 2 and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype == bool:
        pixels = pixels * np.uint8(255)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3) or pixels.shape[2:] > (4,):
        raise FormatError(f"has {pixels.dtype} pixels in {pixels.shape}: save it with 8 or 16 bits a channel, in RGB")
    if page.photometric == 0:  # white is zero
        pixels = np.iinfo(pixels.dtype).max - pixels
    return pixels


# What describes a picture and not its storage: description, make, model, orientation, resolution, software, date, …
_TIFF_TAGS = (0x010E, 0x010F, 0x0110, 0x0112, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298)


def _tiff_exif(data: bytes) -> bytes | None:
    """A small EXIF block of what a TIFF file's first IFD, Exif IFD and GPS IFD say."""
    block = exif.parse(data)
    ifd0 = {tag: block.ifd0[tag] for tag in _TIFF_TAGS if tag in block.ifd0}
    return exif.build(ifd0, block.exif, block.gps) if ifd0 or block.exif or block.gps else None


# Colour --------------------------------------------------------------------------------------------------------------

# Bradford adaptation from the D50 of ICC's connection space to D65 (Lindbloom; ICC.1:2010 annex E, inverted).
_D50_TO_D65 = np.array(
    [
        [0.9555766, -0.0230393, 0.0631636],
        [-0.0282895, 1.0099416, 0.0210077],
        [0.0122982, -0.0204830, 1.3299098],
    ]
)
# Adobe RGB (1998) 4.3.5.3: linear RGB → XYZ, D65; its transfer function is the power 563/256.
_ADOBE_TO_XYZ = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
_ADOBE_GAMMA = 563 / 256


def _to_srgb(pixels: np.ndarray, icc: bytes | None, exif_space: str | None) -> tuple[np.ndarray, list[str]]:
    """(pixels in sRGB, notes): uint16 where a conversion was made, untouched where none was needed."""
    if icc is None:
        if exif_space != "Adobe RGB":
            return pixels, []
        axis = np.linspace(0, 1, np.iinfo(pixels.dtype).max + 1)
        return _convert(pixels, [axis**_ADOBE_GAMMA] * 3, color.XYZ_TO_SRGB @ _ADOBE_TO_XYZ, "Adobe RGB (from EXIF)")
    try:
        tags = _icc_tags(icc)
        name = _icc_name(tags) or "an unnamed profile"
        if icc[16:20] != b"RGB ":
            if icc[16:20] == b"GRAY":  # a grey picture: only its tone curve could differ, and it hardly does
                return pixels, []
            return pixels, [f"the embedded profile ({name}) is not for RGB and was ignored; the pixels count as sRGB"]
        if not {b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"} <= tags.keys():
            return _convert_lut(pixels, icc, name)
        axis = np.linspace(0, 1, np.iinfo(pixels.dtype).max + 1)
        curves = [_icc_curve(tags[tag], axis) for tag in (b"rTRC", b"gTRC", b"bTRC")]
        colorants = np.column_stack([_icc_xyz(tags[tag]) for tag in (b"rXYZ", b"gXYZ", b"bXYZ")])
        matrix = color.XYZ_TO_SRGB @ _D50_TO_D65 @ colorants
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-3 or (matrix.sum(1) <= 0.1).any():
            raise ValueError("its primaries make no sense")
    except Exception as error:  # a profile is a file format of its own, and can be damaged in as many ways
        return pixels, [f"the embedded colour profile cannot be used ({error}); the pixels count as sRGB"]
    # sRGB by measure, not by name: primaries and tone curve within what 8 bits can show
    same_curve = max(float(np.abs(color.srgb_encode(curve) - axis).max()) for curve in curves) < 0.006
    if same_curve and np.abs(matrix - np.eye(3)).max() < 0.005:
        return pixels, []
    return _convert(pixels, curves, matrix, name)


def _convert(
    pixels: np.ndarray, curves: list[np.ndarray], matrix: np.ndarray, name: str
) -> tuple[np.ndarray, list[str]]:
    """((H, W, 3) uint16 sRGB, note) of pixels through a decoding table per channel and linear RGB → linear sRGB."""
    # white is white in both spaces; the profile's rounded numbers must not tint it
    matrix = (matrix / matrix.sum(1, keepdims=True)).T.astype(np.float32)
    tables = [curve.astype(np.float32) for curve in curves]
    # encoding by table over the square root of light: there the sRGB curve is nowhere steep, so 16 bits of index do
    root = np.linspace(0, 1, 65536)
    encode = np.rint(color.srgb_encode(root**2) * 65535).astype(np.uint16)
    out = np.empty(pixels.shape, np.uint16)
    outside = 0
    for top in range(0, len(pixels), _STRIP):
        strip = pixels[top : top + _STRIP]
        linear = np.stack([table[strip[..., i]] for i, table in enumerate(tables)], -1) @ matrix
        # half an 8-bit code beyond either end
        outside += int(np.count_nonzero(((linear < -1.5e-4) | (linear > 1.0045)).any(-1)))
        index = np.sqrt(np.clip(linear, 0, 1)) * np.float32(65535) + np.float32(0.5)
        out[top : top + _STRIP] = encode[index.astype(np.uint16)]
    note = f"converted from {name} to sRGB"
    if outside:
        share = 100 * outside / (pixels.shape[0] * pixels.shape[1])
        note += f"; {max(share, 0.01):.2g} % of the pixels were outside sRGB and were clipped"
    return out, [note]


def _convert_lut(pixels: np.ndarray, icc: bytes, name: str) -> tuple[np.ndarray, list[str]]:
    """(uint8 pixels in sRGB, note) through a profile made of tables, by LittleCMS."""
    from PIL import Image, ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    image = Image.fromarray(_to_depth(pixels, 8))
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    assert converted is not None
    return np.asarray(converted), [f"converted from {name} to sRGB, in 8 bits (the profile is made of tables)"]


def _icc_tags(icc: bytes) -> dict[bytes, bytes]:
    """Tag signature → data of an ICC profile (ICC.1:2010, 7.3)."""
    count = struct.unpack(">I", icc[128:132])[0]
    entries = [struct.unpack(">4sII", icc[at : at + 12]) for at in range(132, 132 + 12 * min(count, 256), 12)]
    return {signature: icc[offset : offset + size] for signature, offset, size in entries}


def _icc_name(tags: dict[bytes, bytes]) -> str:
    """The profile's description: textDescription (version 2) or the first of multiLocalizedUnicode (version 4)."""
    data = tags.get(b"desc", b"")
    if data[:4] == b"mluc" and len(data) >= 28:
        length, offset = struct.unpack(">II", data[20:28])
        return data[offset : offset + length].decode("utf-16-be", "replace").strip("\0 ")
    length = struct.unpack(">I", data[8:12])[0] if data[:4] == b"desc" else 0
    return data[12 : 12 + length].decode("latin-1").strip("\0 ")


def _icc_xyz(data: bytes) -> np.ndarray:
    """(3,) of an XYZType."""
    return np.array(struct.unpack(">3i", data[8:20])) / 65536


def _icc_curve(data: bytes, axis: np.ndarray) -> np.ndarray:
    """Linear light at each encoded value of ``axis`` (0–1) by a curveType or parametricCurveType (ICC.1:2010, 10.5,
    10.15)."""  # fmt: skip
    if data[:4] == b"curv":
        count = struct.unpack(">I", data[8:12])[0]
        if count == 0:
            return axis
        points = np.frombuffer(data, ">u2", count, 12).astype(np.float64)
        if count == 1:
            return axis ** (points[0] / 256)
        return np.interp(axis, np.linspace(0, 1, count), points / 65535)
    if data[:4] != b"para":
        raise ValueError(f"tone curve of type {data[:4]!r}")
    kind = struct.unpack(">H", data[8:10])[0]
    given = np.frombuffer(data, ">i4", (1, 3, 4, 5, 7)[kind], 12) / 65536
    g, a, b, c, d, e, f = (float(value) for value in (*given, *(0.0,) * (7 - len(given))))
    if kind == 0:
        a, d = 1.0, 0.0
    elif kind <= 2:  # above −b/a the power, below it a constant
        d, e, f, c = -b / a, c, c, 0.0
    return np.clip(np.where(axis >= d, np.maximum(a * axis + b, 0) ** g + e, c * axis + f), 0, 1)


# Orientation ---------------------------------------------------------------------------------------------------------


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, …) turned upright by their EXIF orientation 1–8 (tag 0x0112); a view, H and W swapped for 5–8.

    2 and 4 are mirrored (left-right, top-bottom), 3 upside down, 5 transposed, 6 needs a quarter turn clockwise, 7 is
    transposed over the other diagonal, 8 needs a quarter turn counter-clockwise.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = {
        1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1),
    }[orientation]  # fmt: skip
    return pixels[::rows, ::columns]


# Writing -------------------------------------------------------------------------------------------------------------


def write(image: SrgbImage | RawImage, path: Path, options: WriteOptions, *, kind: str) -> None:
    """Write the picture as "jpeg", "png" or "tiff" (``kind``; the path's suffix plays no part), upright, sRGB.

    8 bits for JPEG, ``options.bit_depth`` for PNG (default 8) and TIFF (default 16); EXIF as given, XMP where it fits,
    an sRGB profile. FormatError if the format cannot hold the picture, OSError if the file cannot be written.
    """
    if not isinstance(image, SrgbImage):
        raise FormatError(f"a RAW image cannot be written as {kind.upper()}: render it first")
    bits = 8 if kind == "jpeg" else options.bit_depth or (16 if kind == "tiff" else 8)
    if bits not in (8, 16):
        raise FormatError(f"{kind.upper()} is written with 8 or 16 bits a channel, not {bits}")
    pixels = np.ascontiguousarray(apply_orientation(_to_depth(image.pixels, bits), image.orientation))
    xmp = image.metadata.xmp and re.sub(rb"(tiff:Orientation(?:=[\"']|>)\s*)[1-8]", rb"\g<1>1", image.metadata.xmp)
    writer = {"jpeg": _write_jpeg, "png": _write_png, "tiff": _write_tiff}[kind]
    writer(pixels, image.metadata.exif, xmp, path, options)


def _to_depth(pixels: np.ndarray, bits: int) -> np.ndarray:
    """(H, W, 3) uint8 or uint16, rounded to the nearest: v·257 and back between integers, floats in [0, 1] scaled."""
    kind: Any = np.uint8 if bits == 8 else np.uint16
    if pixels.dtype == kind:
        return pixels
    if pixels.dtype == np.uint8:
        return pixels * np.uint16(257)
    out = np.empty(pixels.shape, kind)
    for top in range(0, len(pixels), _STRIP):
        strip = pixels[top : top + _STRIP]
        if strip.dtype == np.uint16:
            out[top : top + _STRIP] = (strip.astype(np.uint32) + 128) // 257
        else:
            scaled = np.nan_to_num(strip).clip(0, 1).astype(np.float64) * (2**bits - 1)
            out[top : top + _STRIP] = np.rint(scaled)
    return out


@cache
def srgb_profile() -> bytes:
    """An sRGB ICC profile, the same bytes every time."""
    from PIL import ImageCms

    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[24:36] = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)  # its date of making is the clock's
    return bytes(data)


def _write_jpeg(
    pixels: np.ndarray, exif_block: bytes | None, xmp: bytes | None, path: Path, options: WriteOptions
) -> None:
    from PIL import Image

    height, width = pixels.shape[:2]
    if max(height, width) > 65500:
        raise FormatError(f"{width}×{height} is more than JPEG can hold (65500): write a TIFF or PNG")
    more: dict[str, Any] = {}
    if exif_block and len(exif_block) < 65500:  # a segment holds no more
        more["exif"] = b"Exif\0\0" + exif_block
    if xmp and len(xmp) < 65400:
        more["xmp"] = xmp
    Image.fromarray(pixels).save(
        path,
        "JPEG",
        quality=options.quality,
        subsampling=0 if options.quality >= 90 else 2,  # 4:4:4, 4:2:0
        icc_profile=srgb_profile(),
        **more,
    )


def encode_jpeg(pixels: np.ndarray, quality: int, chroma_half: bool) -> bytes:
    """A JPEG without metadata of (H, W, 3) uint8 pixels, 4:2:0 if ``chroma_half``, else 4:4:4; for use in memory."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=2 if chroma_half else 0)
    return stream.getvalue()


def _write_png(
    pixels: np.ndarray, exif_block: bytes | None, xmp: bytes | None, path: Path, options: WriteOptions
) -> None:
    """Chunks by hand (PNG, third edition): Pillow writes no 16-bit RGB."""
    height, width = pixels.shape[:2]
    bits = 8 * pixels.itemsize
    step = 3 * pixels.itemsize
    with path.open("wb") as file:

        def chunk(kind: bytes, data: bytes) -> None:
            file.write(
                struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
            )

        file.write(_PNG_MAGIC)
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
        chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(srgb_profile()))
        if exif_block:
            chunk(b"eXIf", exif_block)
        if xmp:
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
        packer = zlib.compressobj(4)
        above = np.zeros((1, width * step), np.uint8)
        for top in range(0, height, _STRIP):
            rows = pixels[top : top + _STRIP]
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
    """TIFF 6.0 by hand: strips with Deflate and predictor 2, then IFD0, Exif and GPS; tifffile writes no Exif IFD."""
    height, width = pixels.shape[:2]
    block = exif.parse(exif_block) if exif_block else exif.ExifBlock("<")
    starts: list[int] = []
    sizes: list[int] = []
    with path.open("wb") as file:
        file.write(b"II*\0\0\0\0\0")
        for top in range(0, height, _STRIP):
            strip = pixels[top : top + _STRIP].astype(pixels.dtype.newbyteorder("<"))
            strip[:, 1:] -= strip[:, :-1].copy()  # the difference to the left, modulo 2^bits
            data = zlib.compress(strip.tobytes(), 4)
            starts.append(file.tell())
            sizes.append(len(data))
            file.write(data + b"\0" * (len(data) % 2))

        def entry(tag: int, kind: int, *values: int) -> exif.Entry:
            letter = {exif.SHORT: "H", exif.LONG: "I"}[kind]
            return exif.Entry(tag, kind, len(values), struct.pack(f"<{len(values)}{letter}", *values), 0)

        bits = 8 * pixels.itemsize
        shorts = {
            0x0102: (bits, bits, bits),
            0x0103: (8,),
            0x0106: (2,),
            0x0112: (1,),
            0x0115: (3,),
            0x011C: (1,),
            0x013D: (2,),
        }  # BitsPerSample, Compression, Photometric, Orientation, SamplesPerPixel, PlanarConfiguration, Predictor
        longs = {0x0100: (width,), 0x0101: (height,), 0x0111: starts, 0x0116: (_STRIP,), 0x0117: sizes}
        ifd0 = {tag: block.ifd0[tag] for tag in _TIFF_TAGS if tag in block.ifd0}
        ifd0 |= {tag: entry(tag, exif.SHORT, *values) for tag, values in shorts.items()}
        ifd0 |= {tag: entry(tag, exif.LONG, *values) for tag, values in longs.items()}
        ifd0[0x8773] = exif.Entry(0x8773, exif.UNDEFINED, len(srgb_profile()), srgb_profile(), 0)
        if xmp:
            ifd0[0x02BC] = exif.Entry(0x02BC, exif.BYTE, len(xmp), xmp, 0)
        at = file.tell()
        file.write(exif.ifds_bytes(ifd0, block.exif, block.gps, at))
        file.seek(4)
        file.write(struct.pack("<I", at))


def _format(name: str, suffixes: tuple[str, ...], magics: tuple[bytes, ...], kind: str) -> Format:
    return Format(
        name,
        suffixes,
        sniff=lambda head: head.startswith(magics),
        read=read,
        write=lambda image, path, options: write(image, path, options, kind=kind),
    )


JPEG = _format("JPEG", (".jpg", ".jpeg"), (_JPEG_MAGIC,), "jpeg")
PNG = _format("PNG", (".png",), (_PNG_MAGIC,), "png")
TIFF = _format("TIFF", (".tif", ".tiff"), _TIFF_MAGICS, "tiff")
FORMATS = (JPEG, PNG, TIFF)


# Pictures in memory ---------------------------------------------------------------------------------------------------


def is_pillow(source: object) -> bool:
    """Whether it is a PIL picture; Pillow is not imported to find out."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(source, module.Image)


def from_pillow(picture: Any) -> SrgbImage:
    """Take the picture, EXIF and ICC profile of a PIL picture, as ``read`` takes a file's; orientation not applied.

    Raises FormatError for a mode that is no RGB, grey or palette picture, such as CMYK.
    """
    _check_size(*picture.size)
    plain = {"P": "RGBA", "PA": "RGBA", "YCbCr": "RGB"}.get(picture.mode)
    pixels = np.asarray(picture.convert(plain) if plain else picture)
    if pixels.dtype == bool:
        pixels = pixels * np.uint8(255)
    if picture.mode in ("CMYK", "LAB", "HSV") or pixels.dtype not in (np.uint8, np.uint16):
        raise FormatError(f"a PIL picture of mode {picture.mode} is not read; convert it to RGB first")
    pixels, notes = _as_rgb(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))
    if picture.mode in ("P", "PA"):
        notes.insert(0, "palette colours were expanded to RGB")
        if "transparency" not in picture.info:
            notes.remove("the alpha channel was dropped")
    raw, icc = picture.info.get("exif") or picture.getexif().tobytes(), picture.info.get("icc_profile") or None
    raw = raw.removeprefix(b"Exif\0\0")
    block = exif.ExifBlock("<")
    try:
        block = exif.parse(raw) if raw else block
    except FormatError:
        notes.append("the EXIF block is damaged and was ignored")
        raw = b""
    pixels, color_notes = _to_srgb(pixels, icc, exif.color_space(block))
    optical, exif_notes = exif.optical_params(block)
    name = Path(getattr(picture, "filename", "") or "").name or None
    return SrgbImage(
        pixels,
        camera=exif.camera(block),
        optical=optical,
        orientation=exif.orientation(block),
        metadata=Metadata(exif=raw or None, icc=icc, source_name=name),
        as_shot_neutral=exif.white_balance(block)[0],
        notes=(*notes, *color_notes, *exif_notes),
    )
