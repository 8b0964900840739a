"""Read a picture from a JPEG, PNG, TIFF, WebP, AVIF or HEIC file.

Pixels are converted to sRGB from the file's colour space; ``notes`` lists the changes.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats import exif, heic, items, raster_tiff, xmp
from paramisp_cli.formats.base import MAX_PIXELS, check_pixels, one_line
from paramisp_cli.formats.icc import codes_to_srgb, to_srgb
from paramisp_cli.formats.kinds import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGICS, is_avif, is_heic, is_webp
from paramisp_cli.formats.pixels import apply_orientation, to_depth
from paramisp_cli.formats.quiet import captured, unwarned
from paramisp_cli.types import Metadata, SrgbImage

_MAX_PIXELS = 400_000_000  # beyond any camera: a file that claims more is damaged or hostile


def read(path: Path, max_pixels: int = MAX_PIXELS) -> SrgbImage:
    """Read a JPEG, PNG, TIFF, WebP, AVIF or HEIC file as sRGB pixels (H, W, 3), orientation not applied.

    uint8 or uint16, as in the file. Grey and palette pictures become RGB, an alpha channel is dropped, other RGB colour
    spaces are converted, and only the first of several pictures is read; ``notes`` lists these changes. A HEIC file is
    decoded upright. FormatError if the file is damaged, larger than ``max_pixels``, CMYK, a camera RAW file, or no
    picture at all; OSError if it cannot be read.
    """
    return read_bytes(path.read_bytes(), path, max_pixels)


def read_bytes(data: bytes, path: Path, max_pixels: int = MAX_PIXELS) -> SrgbImage:
    """Read a file's content as ``read`` reads a file; ``path`` is its name in errors."""
    if not data:
        raise FormatError(f"{path}: the file is empty")
    try:
        decoded = _decoded(data, max_pixels)
    except FormatError as error:
        raise error.named(path) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds of errors: OSError, SyntaxError, struct.error, …
        reason = one_line(error)
        raise FormatError(f"{path}: the picture is damaged ({reason}); copy it from the camera again") from error
    return _image(decoded, data if data[:3] == JPEG_MAGIC else None, path.name)


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    """A decoded picture.

    pixels       (H, W, 3) uint8 or uint16
    blocks       {"exif", "xmp", "icc"}
    codes        numbers of primaries and transfer (ITU-T H.273), if no profile tells the colours
    orientation  1–8, if not the EXIF tells it
    heif         the file's bytes, if it is a HEIC or AVIF file with a gain map
    """

    pixels: np.ndarray
    blocks: dict[str, bytes | None]
    notes: list[str]
    codes: tuple[int, int] | None = None
    orientation: int | None = None
    heif: bytes | None = None


def _image(decoded: _Decoded, jpeg: bytes | None, name: str | None) -> SrgbImage:
    """Build the image from decoded pixels and metadata blocks: convert to sRGB, read the EXIF."""
    pixels, blocks, notes = decoded.pixels, decoded.blocks, decoded.notes
    block = None
    if blocks["exif"]:
        try:
            block = exif.parse(blocks["exif"])
        except FormatError:
            notes.append("the EXIF block is damaged and was ignored")
            blocks["exif"] = None
    block = block or exif.ExifBlock("<")
    if blocks["icc"] is None and decoded.codes is not None:
        pixels, color_notes = codes_to_srgb(pixels, *decoded.codes)
    else:
        pixels, color_notes = to_srgb(pixels, blocks["icc"], exif.color_space(block))
    optical, exif_notes = exif.optical_params(block)
    return SrgbImage(
        pixels,
        camera=exif.camera(block),
        optical=optical,
        orientation=exif.orientation(block) if decoded.orientation is None else decoded.orientation,
        metadata=Metadata(blocks["exif"], blocks["xmp"], blocks["icc"], jpeg=jpeg, source_name=name, heif=decoded.heif),
        as_shot_neutral=exif.white_balance(block)[0],
        notes=(*notes, *color_notes, *exif_notes),
    )


def decode_small(jpeg: bytes, longest: int) -> np.ndarray:
    """Decode a JPEG, reduced to at most ``longest`` pixels a side: (H, W, 3) uint8, as stored, in its own colour space.

    It is for thumbnails and statistics: the decoder works at the reduced size. FormatError if the JPEG is damaged.
    """
    from PIL import Image, JpegImagePlugin

    try:
        image: Any = _opened(JpegImagePlugin.JpegImageFile, jpeg)
        check_pixels(image.width, image.height, MAX_PIXELS)
        image.draft("RGB", (longest, longest))  # libjpeg decodes 1/2, 1/4 or 1/8 of the size at little cost
        image.thumbnail((longest, longest), Image.Resampling.BOX)
        return np.asarray(image.convert("RGB"))
    except FormatError:
        raise
    except Exception as error:  # see read
        raise FormatError(f"the embedded JPEG is damaged: {one_line(error)}") from error


def decode_plain(jpeg: bytes, max_pixels: int) -> np.ndarray:
    """Decode a JPEG of numbers rather than colours, such as a gain map: (H, W) or (H, W, 3) uint8, as stored.

    FormatError if it is damaged, cut short, larger than ``max_pixels``, or has other than one or three channels.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        image = _opened(JpegImageFile, jpeg)
        check_pixels(image.width, image.height, max_pixels)
        if image.mode not in ("L", "RGB"):
            raise FormatError(f"is a JPEG of mode {image.mode}, not grey or RGB")
        return np.asarray(image)
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # see read_bytes
        raise FormatError(f"the JPEG is damaged ({one_line(error)})") from error


def decode_item(file: items.Items, number: int, max_pixels: int) -> np.ndarray:
    """Decode an item of a HEIC or AVIF file that holds numbers, such as a gain map: (H, W[, 3]) uint8.

    The orientation is that of the picture's pixels as ``read`` gives them. FormatError if it is damaged or larger than
    ``max_pixels``.
    """
    alone = file.with_primary(number)
    if is_heic(alone[:64]):
        pixels = heic.decode(alone, max_pixels).pixels  # upright, as the picture
        pixels = to_depth(pixels, 8) if pixels.dtype == np.uint16 else pixels
        return pixels if pixels.ndim == 2 else pixels[..., :3]
    from PIL.AvifImagePlugin import AvifImageFile

    try:
        image = _opened(AvifImageFile, alone)
        check_pixels(image.width, image.height, max_pixels)
        pixels = np.asarray(image)
        pixels = pixels if pixels.ndim == 2 else pixels[..., :3]
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # see read_bytes
        raise FormatError(f"the picture is damaged ({one_line(error)})") from error
    own, wanted = file.items[number].orientation, file.items[file.primary].orientation
    if own == wanted:
        return pixels
    upright = apply_orientation(pixels, own)
    return np.ascontiguousarray(apply_orientation(upright, {6: 8, 8: 6}.get(wanted, wanted)))


def _decoded(data: bytes, max_pixels: int) -> _Decoded:
    """Decode a file, by its first bytes."""
    head = data[:64]
    if head.startswith(TIFF_MAGICS):
        return _tiff(data, max_pixels)
    if head.startswith(JPEG_MAGIC):
        from PIL.JpegImagePlugin import JpegImageFile

        return _by_pillow(JpegImageFile, data, "JPEG", max_pixels)
    if head.startswith(PNG_MAGIC[:3]):
        from PIL.PngImagePlugin import PngImageFile

        return _by_pillow(PngImageFile, data, "PNG", max_pixels)
    if is_webp(head):
        _need("webp", "WebP", "Pillow with libwebp")
        from PIL.WebPImagePlugin import WebPImageFile

        return _by_pillow(WebPImageFile, data, "WebP", max_pixels)
    if is_avif(head):
        _need("avif", "AVIF", "Pillow 11.3 or later")
        from PIL.AvifImagePlugin import AvifImageFile

        _, codes, heif, plain = _container(data)
        return replace(_by_pillow(AvifImageFile, plain, "AVIF", max_pixels), codes=codes, heif=heif)
    if is_heic(head):
        return _heic(data, max_pixels)
    raise FormatError("not a JPEG, PNG, TIFF, WebP, AVIF or HEIC file")


def _need(module: str, name: str, remedy: str) -> None:
    """Raise FormatError if this Pillow was built without a decoder."""
    from PIL import features

    if module not in features.get_supported_modules():
        raise FormatError(f"is {name}, which this Pillow cannot decode; install {remedy}, or convert it to JPEG")


def _opened(plugin: Any, data: bytes) -> Any:
    """Return the picture that a Pillow plugin class finds in ``data``, not decoded yet.

    On opening, Pillow reads the EXIF and warns of damage in it. paramisp reads the EXIF itself and notes the damage.
    """
    with unwarned("PIL"):
        return plugin(io.BytesIO(data))


def _by_pillow(plugin: Any, data: bytes, name: str, max_pixels: int) -> _Decoded:
    """Decode the picture that a Pillow plugin class finds in ``data``.

    The class, unlike ``Image.open``, reads the first picture of a multi-picture file and has no pixel limit.
    """
    try:
        image = _opened(plugin, data)
    except SyntaxError as error:
        raise FormatError("there is no picture in it; it is damaged") from error
    pixels, notes = _pillow_pixels(plugin, data, name, max_pixels)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the file has {frames} pictures: the first one was read")
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    blocks = {
        "exif": image.info.get("exif", b"").removeprefix(b"Exif\0\0") or None,
        "xmp": packet.encode() if isinstance(packet, str) else packet,
        "icc": image.info.get("icc_profile") or None,
    }
    return _Decoded(pixels, blocks, notes)


def _container(data: bytes) -> tuple[bytes | None, tuple[int, int] | None, bytes | None, bytes]:
    """Return facts of a HEIC or AVIF file.

    They are the ICC profile and the colour codes of its picture, the file's bytes if it has a gain map, and its bytes
    for a decoder.
    """
    try:
        file = items.parse(data)
    except FormatError:  # the decoder, which has read the picture, is more tolerant
        return None, None, None, data
    profile, codes = file.items[file.primary].colour
    return profile, codes, data if file.may_have_gain_map else None, file.without_tone_maps()


def _heic(data: bytes, max_pixels: int) -> _Decoded:
    """Decode a HEIC file."""
    profile, codes, heif, plain = _container(data)
    picture = heic.decode(plain, max_pixels)
    pixels, notes = _as_rgb(picture.pixels)
    if picture.count > 1:
        notes.append(f"the file has {picture.count} pictures: the main one was read")
    # The pixels are upright, so the orientation in EXIF and XMP must not count again.
    block, packet = picture.exif and exif.upright(picture.exif), picture.xmp and xmp.upright(picture.xmp)
    blocks = {"exif": block, "xmp": packet, "icc": profile}
    return _Decoded(pixels, blocks, notes, codes, orientation=1, heif=heif)


def _pillow_pixels(plugin: Any, data: bytes, name: str, max_pixels: int) -> tuple[np.ndarray, list[str]]:
    """Return (RGB pixels, notes) of the picture that a Pillow plugin class finds in ``data``."""
    image = _opened(plugin, data)
    check_pixels(image.width, image.height, max_pixels)
    if image.mode in ("CMYK", "LAB"):
        raise FormatError(f"is a {image.mode} {name}: convert it to RGB first")
    pixels = _plain_pixels(image)
    if image.mode in ("RGB", "RGBA") and name in ("PNG", "TIFF"):
        # Of 16 bits Pillow decodes 8, the high byte of each pair. With the byte order reversed in the tile, the same
        # decoder returns the low byte.
        other = _opened(plugin, data)
        swapped = [_swapped_tile(tile) for tile in other.tile]
        if all(swapped):
            other.tile = swapped
            pixels = pixels.astype(np.uint16) << 8 | np.asarray(other)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise FormatError(f"has {pixels.dtype} pixels of mode {image.mode}, which paramisp does not read")
    return _expanded(image, pixels)


def _plain_pixels(image: Any) -> np.ndarray:
    """Return the pixels of a Pillow image in its own mode, or in RGB for palette and YCbCr pictures."""
    plain = {"P": "RGBA", "PA": "RGBA", "YCbCr": "RGB", "RGBX": "RGB"}.get(image.mode)
    pixels = np.asarray(image.convert(plain) if plain else image)
    return pixels * np.uint8(255) if pixels.dtype == bool else pixels


def _expanded(image: Any, pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return ((H, W, 3), notes) of a Pillow image's pixels."""
    pixels, notes = _as_rgb(pixels)
    if image.mode in ("P", "PA"):
        notes.insert(0, "palette colours were expanded to RGB")
        if "transparency" not in image.info:
            notes.remove("the alpha channel was dropped")
    return pixels, notes


def _swapped_tile(tile: Any) -> Any:
    """Return the tile with the byte order of its 16-bit raw mode reversed; None for other raw modes."""
    codec, extents, offset, args = tile
    mode = args if isinstance(args, str) else args[0]
    if not isinstance(mode, str) or mode[-4:] not in (";16B", ";16L", ";16N") or mode.startswith("L"):
        return None
    mode = mode[:-1] + ("L" if mode.endswith("B") else "B")  # 16N (libtiff): little-endian on supported machines
    swapped = mode if isinstance(args, str) else (mode, *args[1:])
    # a plain tuple until Pillow 11
    return tile._replace(args=swapped) if hasattr(tile, "_replace") else (codec, extents, offset, swapped)


def _as_rgb(pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return ((H, W, 3), notes) of pixels (H, W) or (H, W, 1–4): grey, grey + alpha, RGB, RGB + alpha."""
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


def _tiff(data: bytes, max_pixels: int) -> _Decoded:
    """Decode the first page of a TIFF file; FormatError if it is a camera RAW file."""
    page = raster_tiff.read(data, max_pixels)
    blocks = {"icc": page.icc, "xmp": page.xmp, "exif": _tiff_exif(data)}
    if page.pixels is not None:
        pixels, notes = _as_rgb(page.pixels)
        return _Decoded(pixels, blocks, notes)
    from PIL.TiffImagePlugin import TiffImageFile

    lines: list[str] = []
    with captured(lines):  # libtiff prints warnings and errors; Pillow raises on errors, except on errors in JPEG data
        pixels, notes = _pillow_pixels(TiffImageFile, data, "TIFF", max_pixels)
    if damage := next((line for line in lines if line.startswith("JPEGLib: ")), None):
        damage = damage.removeprefix("JPEGLib: ").rstrip(".")
        notes.append(f"the picture is damaged ({damage}): a part of it may be wrong")
    return _Decoded(pixels, blocks, notes)


def _tiff_exif(data: bytes) -> bytes | None:
    """Make a small EXIF block from a TIFF file's first IFD, Exif IFD and GPS IFD."""
    block = exif.parse(data)
    ifd0 = {tag: block.ifd0[tag] for tag in exif.PICTURE_TAGS if tag in block.ifd0}
    return exif.build(ifd0, block.exif, block.gps) if ifd0 or block.exif or block.gps else None


# Pictures in memory ---------------------------------------------------------------------------------------------------


def is_pillow(source: object) -> bool:
    """Tell whether an object is a PIL picture, without importing Pillow."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(source, module.Image)


def from_pillow(picture: Any) -> SrgbImage:
    """Convert a PIL picture with its EXIF and ICC profile, as ``read`` converts a file; orientation not applied.

    Raises FormatError for a mode that is not RGB, grey or palette, such as CMYK.
    """
    check_pixels(picture.width, picture.height, MAX_PIXELS)
    pixels = _plain_pixels(picture)
    if picture.mode in ("CMYK", "LAB", "HSV") or pixels.dtype not in (np.uint8, np.uint16):
        raise FormatError(f"a PIL picture of mode {picture.mode} is not read; convert it to RGB first")
    pixels, notes = _expanded(picture, pixels.astype(pixels.dtype.newbyteorder("="), copy=False))
    block = picture.info.get("exif") or picture.getexif().tobytes()
    blocks = {
        "exif": block.removeprefix(b"Exif\0\0") or None,
        "xmp": None,
        "icc": picture.info.get("icc_profile") or None,
    }
    return _image(_Decoded(pixels, blocks, notes), None, Path(getattr(picture, "filename", "") or "").name or None)


def decode_ycc(jpeg: bytes) -> np.ndarray:
    """Decode a JPEG to (H, W, 3) uint8 in YCbCr, as stored: no conversion of colour, no orientation.

    Chroma is interpolated as libjpeg-turbo does. FormatError if the JPEG is damaged, or has other than three channels.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        image: Any = _opened(JpegImageFile, jpeg)
        check_pixels(image.width, image.height, _MAX_PIXELS)
        image.draft("YCbCr", None)
        if image.mode != "YCbCr":
            raise FormatError(f"is a JPEG of mode {image.mode}, not YCbCr")
        return np.asarray(image)
    except FormatError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # see read_bytes
        raise FormatError(f"the JPEG is damaged: {one_line(error)}") from error
