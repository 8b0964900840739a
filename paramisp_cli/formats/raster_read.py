"""Read a picture from a JPEG, PNG or TIFF file.

It comes back as sRGB whatever the file's colour space was; ``notes`` tell what was changed.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats import exif
from paramisp_cli.formats.icc import to_srgb
from paramisp_cli.formats.kinds import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGICS
from paramisp_cli.types import Metadata, SrgbImage

_MAX_PIXELS = 400_000_000  # beyond any camera: a file that claims more is damaged or means harm


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
    reader = {JPEG_MAGIC: _read_pillow, PNG_MAGIC[:3]: _read_pillow}.get(data[:3])
    if data[:4] in TIFF_MAGICS:
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
    pixels, color_notes = to_srgb(pixels, blocks["icc"], exif.color_space(block))
    optical, exif_notes = exif.optical_params(block)
    return SrgbImage(
        pixels,
        camera=exif.camera(block),
        optical=optical,
        orientation=exif.orientation(block),
        metadata=Metadata(**blocks, jpeg=data if data[:3] == JPEG_MAGIC else None, source_name=path.name),
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
    is_jpeg = data[:3] == JPEG_MAGIC
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


def _tiff_exif(data: bytes) -> bytes | None:
    """A small EXIF block of what a TIFF file's first IFD, Exif IFD and GPS IFD say."""
    block = exif.parse(data)
    ifd0 = {tag: block.ifd0[tag] for tag in exif.PICTURE_TAGS if tag in block.ifd0}
    return exif.build(ifd0, block.exif, block.gps) if ifd0 or block.exif or block.gps else None
