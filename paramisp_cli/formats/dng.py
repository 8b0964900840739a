"""Write a mosaic as a DNG that every reader opens (Adobe DNG specification 1.4; classic TIFF, little-endian).

The file: header, all directories with their values, thumbnail pixels, the source's JPEG, the mosaic.

IFD0      a small RGB thumbnail, and every tag about the whole file
SubIFD 0  the mosaic, or three colours a pixel (LinearRaw): lossless JPEG in tiles, or one uncompressed strip
SubIFD 1  the source's own JPEG, byte for byte, as a preview. A JPEG that cannot be a DNG preview (progressive,
          grey, …) goes unchanged into OriginalRawFileData: readers ignore it there, and exiftool finds it
Exif, GPS the source's values, and the shot's parameters

Sizes of the directories do not depend on the mosaic's data. So they are laid out first, the mosaic is written band by
band, and then the directories are written again with the tiles' offsets.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from paramisp_cli import __version__
from paramisp_cli.color import srgb_encode
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import dng_exif, exif
from paramisp_cli.formats.base import Format, WriteOptions
from paramisp_cli.formats.jpeg import preview_frame
from paramisp_cli.formats.tiff import (
    DOUBLE,
    FLOAT,
    UNDEFINED,
    Entry,
    Ifd,
    byte,
    directory,
    long,
    rational,
    short,
    srational,
    text,
)
from paramisp_cli.formats.tiles import TILE, tile_width_for, write_even, write_mosaic
from paramisp_cli.mosaic import by_color, superpixels
from paramisp_cli.types import Metadata, Output, RawImage

_THUMBNAIL = 256  # longest side [px]

_SUBIFDS, _EXIF, _GPS, _XMP = 330, 34665, 34853, 700
_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS = 273, 279, 324, 325
# ImageDescription, DateTime, Artist, HostComputer, Copyright, Windows' XPTitle to XPSubject.
_COPIED_FROM_IFD0 = (0x010E, 0x0132, 0x013B, 0x013C, 0x8298, *range(0x9C9B, 0x9CA0))
# RawTherapee (5.9, camconst.json: masked_areas) measures the black level of these cameras in the masked border of their
# files, for any file with that Model. paramisp's DNGs have picture there, and nearly all of it would be rendered black.
# The R series is a pattern because newer versions list more of it. UniqueCameraModel has the unchanged name.
_MASKED_BORDERS = re.compile(
    r"Canon (EOS (550D|Rebel (T2i|T6i|T6s|T7i|SL2)|Kiss X(4|8i|9|9i)|5D Mark IV|5DS( R)?|6D Mark II|40D"
    r"|80D|77D|9000D|750D|760D|8000D|800D|200D|M3|M5|M6|R|RP|R\d.*)|EOS-1D X Mark III"
    r"|PowerShot (A480|G12|G1 X Mark II|G3 X|G7 X|G5 X|G7 X Mark II|G9 X Mark II|S120|SX60 HS))",
    re.IGNORECASE,
)
_LONGEST, _LARGEST = 64000, 1 << 30
_TONE_CURVE_LINEAR = ((0.0, 0.0), (1.0, 1.0))


def check_size(height: int, width: int, *, linear: bool = False) -> None:
    """Raise FormatError if a RAW of this size is too large for LibRaw, and so for most programs, as a DNG.

    LibRaw (0.22, by experiment) opens sides up to 64 000, and decodes up to 2 GiB: width × (height + 8) ≤ 2^30. Of
    three colours a pixel (``linear``) it makes four, so a quarter of the pixels fit.
    """
    largest = _LARGEST // 4 if linear else _LARGEST
    if max(height, width) > _LONGEST:
        raise FormatError(
            f"{width}×{height} is more than most programs open as a DNG ({_LONGEST} a side): resize or crop the picture"
        )
    if width * (height + 8) > largest:
        megapixels = width * height / 1e6
        raise FormatError(
            f"{width}×{height} = {megapixels:.0f} megapixels are more than most programs open as "
            f"{'a LinearRaw' if linear else 'a'} DNG ({largest / 1e6:.0f}): resize or crop the picture"
        )


def write(image: Output, path: Path, options: WriteOptions) -> None:
    """Write ``image``, a RawImage with a uint16 mosaic, to ``path`` as DNG.

    Raises FormatError for another image or one that does not fit a DNG (see also ``check_size``), ConfigError for an
    unknown option, OSError if writing fails (the caller removes the incomplete file).
    """
    if not isinstance(image, RawImage) or image.mosaic.dtype != np.uint16:
        raise FormatError("only a RAW image with a uint16 mosaic can be written as DNG")
    check_size(*image.mosaic.shape, linear=image.linear is not None)
    if options.compression not in ("lossless", "none"):
        raise ConfigError(f'DNG compression must be "lossless" or "none", got {options.compression!r}')
    if options.profile not in ("match", "linear", "adobe"):
        raise ConfigError(f'DNG profile must be "match", "linear" or "adobe", got {options.profile!r}')
    tile_width = tile_width_for(image.mosaic.shape[1]) if options.compression == "lossless" else 0
    thumbnail = _thumbnail(image, options)
    jpeg = image.metadata.jpeg if options.embed_jpeg else None
    preview = _preview_ifd(jpeg, image) if jpeg else None
    block = exif.parse(image.metadata.exif) if image.metadata.exif else None
    ifds: dict[str, Ifd] = {
        "main": _main_ifd(image, options, thumbnail, block),
        "exif": dng_exif.exif_ifd(image.optical, block),
        "gps": {tag: dng_exif.copied(entry) for tag, entry in block.gps.items() if dng_exif.is_sound(entry)}
        if block
        else {},
        "raw": _raw_ifd(image, tile_width),
        "preview": preview or {},
    }
    if jpeg and not preview:
        ifds["main"] |= _original_file(jpeg)
    with path.open("wb") as file:
        at = len(_laid_out(ifds))
        for ifd, data in ((ifds["main"], thumbnail.tobytes()), (ifds["preview"], jpeg if preview else None)):
            if data:
                ifd[_STRIP_OFFSETS] = long(at)
                at += len(data) + len(data) % 2
        file.write(_laid_out(ifds))
        write_even(file, thumbnail.tobytes())
        if preview and jpeg:
            write_even(file, jpeg)
        samples = image.mosaic if image.linear is None else image.linear
        offsets, counts, checksum = write_mosaic(file, samples, tile_width)
        if file.tell() >= 1 << 32:
            raise FormatError(f"a DNG holds at most 4 GiB; this file would have {file.tell()} bytes")
        ifds["raw"][_TILE_OFFSETS if tile_width else _STRIP_OFFSETS] = long(*offsets)
        ifds["raw"][_TILE_COUNTS if tile_width else _STRIP_COUNTS] = long(*counts)
        ifds["main"][51111] = byte(checksum)  # NewRawImageDigest
        file.seek(0)
        file.write(_laid_out(ifds))


def as_stored(raw: RawImage) -> RawImage:
    """Return a RAW with the parameters that a reader finds in a DNG of it: fractions are rounded to about 1e-8.

    Arrays hold these values, too, so that an array and a DNG of one mosaic render alike. Black levels stay, also with a
    fraction, which LibRaw cuts off. Raises FormatError for a number that a DNG cannot hold.
    """
    canonical = raw.canonical
    block = exif.parse(raw.metadata.exif) if raw.metadata.exif else None
    neutral = rational(*canonical.as_shot_neutral / canonical.as_shot_neutral.max()).values()
    return replace(
        raw,
        canonical=replace(
            canonical,
            white_level=float(math.floor(canonical.white_level + 0.5)),
            as_shot_neutral=np.array(neutral),
            color_matrix=np.reshape(srational(*canonical.color_matrix.ravel()).values(), (3, 3)),
        ),
        optical=exif.optical_params(exif.ExifBlock("<", exif=dng_exif.exif_ifd(raw.optical, block)))[0],
        baseline_exposure=float(srational(raw.baseline_exposure).values()[0]),
    )


def _main_ifd(raw: RawImage, options: WriteOptions, thumbnail: np.ndarray, block: exif.ExifBlock | None) -> Ifd:
    """Return IFD0: the thumbnail's geometry and every tag about the whole file."""
    camera, canonical = raw.camera, raw.canonical
    neutral = canonical.as_shot_neutral / canonical.as_shot_neutral.max()
    ifd = {
        254: long(1),  # NewSubFileType: reduced-size preview
        256: long(thumbnail.shape[1]),
        257: long(thumbnail.shape[0]),
        258: short(8, 8, 8),  # BitsPerSample
        259: short(1),  # Compression: none
        262: short(2),  # PhotometricInterpretation: RGB
        _STRIP_OFFSETS: long(0),
        274: short(raw.orientation),
        277: short(3),  # SamplesPerPixel
        278: long(thumbnail.shape[0]),  # RowsPerStrip
        _STRIP_COUNTS: long(thumbnail.size),
        284: short(1),  # PlanarConfiguration
        305: text(f"paramisp {__version__}"),  # Software
        50706: byte(bytes((1, 4, 0, 0))),  # DNGVersion
        50707: byte(bytes((1, 1, 0, 0))),  # DNGBackwardVersion: lossless JPEG of 16 bits changed its rules in 1.1
        50708: text(_unique_model(raw)),  # UniqueCameraModel
        50721: srational(*canonical.color_matrix.ravel()),  # ColorMatrix1
        50728: rational(*neutral),  # AsShotNeutral
        50730: srational(raw.baseline_exposure),
        50731: rational(1),  # BaselineNoise
        50732: rational(1),  # BaselineSharpness
        50734: rational(1),  # LinearResponseLimit
        50778: short(21),  # CalibrationIlluminant1: D65
        50970: long(2),  # PreviewColorSpace: sRGB
        51111: byte(bytes(16)),  # NewRawImageDigest, filled in last
    }
    if camera and camera.make:
        ifd[271] = text(camera.make)
    if camera and camera.model:
        ending = exif.FROM_JPEG if raw.colours_of is None else exif.FROM_RAW
        ifd[272] = text(camera.model + (ending if _MASKED_BORDERS.fullmatch(camera.model) else ""))
    if block:
        ifd |= {
            tag: dng_exif.copied(block.ifd0[tag]) for tag in _COPIED_FROM_IFD0 if dng_exif.is_sound(block.ifd0.get(tag))
        }
        if (private := dng_exif.private_data(block)) is not None:
            ifd[50740] = byte(private)
    if raw.metadata.xmp:
        ifd[_XMP] = byte(raw.metadata.xmp)
    if raw.metadata.source_name:
        ifd[50827] = byte(raw.metadata.source_name.encode("utf-8", "replace") + b"\0")  # OriginalRawFileName
    if options.profile != "adobe":
        curve = np.asarray(_tone_curve(raw, options), "<f4")
        ifd[50936] = text("paramisp" if options.profile == "match" else "paramisp linear")  # ProfileName
        ifd[50940] = Entry(FLOAT, curve.size, curve.tobytes())  # ProfileToneCurve
        ifd[50941] = long(0)  # ProfileEmbedPolicy: allow copying
        if options.profile == "match" and raw.profile_exposure:
            ifd[51109] = srational(raw.profile_exposure)  # BaselineExposureOffset
        if options.profile == "match" and raw.look_table is not None:
            values, hues, saturations = raw.look_table.shape[:3]
            ifd[50981] = long(hues, saturations, values)  # ProfileLookTableDims
            ifd[50982] = Entry(
                FLOAT, raw.look_table.size, raw.look_table.astype("<f4").tobytes()
            )  # ProfileLookTableData
            ifd[51108] = long(1)  # ProfileLookTableEncoding: the value is sRGB-encoded
        ifd[51110] = long(1)  # DefaultBlackRender: none, because the picture's blacks are final
    return ifd


def _unique_model(raw: RawImage) -> str:
    """Return the name of the camera whose colours the file has: readers look up profiles by it."""
    own = raw.camera.name if raw.camera and raw.camera.name else ""
    if raw.colours_of is not None:
        return f"{raw.colours_of} (from {own or 'another camera'})"
    return own or "paramisp generic"


def _raw_ifd(raw: RawImage, tile_width: int) -> Ifd:
    """Return SubIFD 0: the RAW's samples, in lossless tiles or (``tile_width`` 0) one uncompressed strip.

    Offsets are zero until they are known; they already have their final size.
    """
    height, width = raw.mosaic.shape
    canonical, crop = raw.canonical, raw.crop
    assert crop is not None  # RawImage sets it
    ifd = {
        254: long(0),  # NewSubFileType: the picture itself
        256: long(width),
        257: long(height),
        259: short(7 if tile_width else 1),  # Compression: JPEG, or none
        284: short(1),  # PlanarConfiguration
        50718: rational(1, 1),  # DefaultScale
        50719: long(crop.left, crop.top),  # DefaultCropOrigin, within ActiveArea
        50720: long(crop.width, crop.height),  # DefaultCropSize
        50738: rational(1),  # AntiAliasStrength
        50780: rational(1),  # BestQualityScale
        50829: long(0, 0, height, width),  # ActiveArea
    }
    white = math.floor(canonical.white_level + 0.5)
    if raw.linear is None:
        ifd |= {
            258: short(16),  # BitsPerSample
            262: short(32803),  # PhotometricInterpretation: CFA
            277: short(1),  # SamplesPerPixel
            33421: short(2, 2),  # CFARepeatPatternDim
            33422: byte(bytes("RGB".index(colour) for colour in canonical.cfa)),  # CFAPattern
            50710: byte(bytes((0, 1, 2))),  # CFAPlaneColor: planes are R, G, B
            50711: short(1),  # CFALayout: rectangular
            50713: short(2, 2),  # BlackLevelRepeatDim
            50714: _black_level(canonical.black_level),
            50717: long(white),  # WhiteLevel
            50733: long(0),  # BayerGreenSplit: both greens are alike
        }
    else:
        ifd |= {
            258: short(16, 16, 16),
            262: short(34892),  # PhotometricInterpretation: LinearRaw
            277: short(3),
            50713: short(1, 1),
            50714: _black_level(by_color(canonical.black_level, canonical.cfa)),
            50717: long(white, white, white),
        }
    if tile_width:
        tiles = math.ceil(height / TILE) * math.ceil(width / tile_width)
        ifd |= {322: long(tile_width), 323: long(TILE)}
        ifd |= {_TILE_OFFSETS: long(*[0] * tiles), _TILE_COUNTS: long(*[0] * tiles)}
    else:
        ifd |= {278: long(height), _STRIP_OFFSETS: long(0), _STRIP_COUNTS: long(0)}
    if raw.noise_profile is not None:
        ifd[51041] = Entry(DOUBLE, 6, raw.noise_profile.astype("<f8").tobytes())  # NoiseProfile
    return ifd


def _black_level(black: np.ndarray) -> Entry:
    """Return BlackLevel by position in the 2×2, or by colour: SHORT if exact, else RATIONAL."""
    levels = black.ravel().tolist()
    if min(levels) < 0:
        raise FormatError(f"a DNG cannot hold the negative black level {min(levels)}; add an offset to the mosaic")
    return short(*map(int, levels)) if all(level == int(level) for level in levels) else rational(*levels)


def _preview_ifd(jpeg: bytes, raw: RawImage) -> Ifd | None:
    """Return SubIFD 1: the source's JPEG as a preview; None if it cannot be a preview.

    DNG does not allow some kinds of JPEG there. A JPEG with more pixels than the mosaic is left out too: dcraw and
    RawTherapee treat the largest picture in the file as the RAW.
    """
    width, height, sampling = preview_frame(jpeg) or (0, 0, (0, 0))
    if not 0 < width * height <= raw.mosaic.size:
        return None
    return {
        254: long(1),  # NewSubFileType: preview
        256: long(width),
        257: long(height),
        258: short(8, 8, 8),
        259: short(7),  # Compression: JPEG
        262: short(6),  # PhotometricInterpretation: YCbCr
        _STRIP_OFFSETS: long(0),
        277: short(3),
        278: long(height),  # RowsPerStrip: one strip
        _STRIP_COUNTS: long(len(jpeg)),
        284: short(1),
        530: short(*sampling),  # YCbCrSubSampling
        531: short(1),  # YCbCrPositioning: centred, as JPEG does
        532: rational(0, 255, 128, 255, 128, 255),  # ReferenceBlackWhite
        50970: long(_preview_color_space(raw.metadata)),
    }


def _preview_color_space(metadata: Metadata) -> int:
    """Return PreviewColorSpace (tag 50970) of the JPEG by its ICC profile's name: 2 sRGB, 3 Adobe RGB, 0 unknown."""
    if metadata.icc is None:
        return 2
    names = {b"sRGB": 2, "sRGB".encode("utf-16-be"): 2, b"Adobe RGB": 3}
    return next((space for name, space in names.items() if name in metadata.icc), 0)


def _original_file(data: bytes) -> Ifd:
    """Return OriginalRawFileData and its digest (tags 50828, 50973): ``data`` in zlib blocks of 64 KiB, stored.

    Big-endian: length; offsets of the blocks and of their end, from the start of the tag's value; the blocks. The Mac
    resource fork, type and creator, and all four fields of a second file are empty.
    """
    blocks = [zlib.compress(data[at : at + 0x10000], level=0) for at in range(0, len(data), 0x10000)]
    offsets = np.cumsum([4 * (len(blocks) + 2), *map(len, blocks)])
    fork = struct.pack(">I", len(data)) + offsets.astype(">u4").tobytes() + b"".join(blocks) + bytes(28)
    return {50828: Entry(UNDEFINED, len(fork), fork), 50973: byte(hashlib.md5(fork, usedforsecurity=False).digest())}


# ---- TIFF -----------------------------------------------------------------------------------------------------------


def _laid_out(ifds: dict[str, Ifd]) -> bytes:
    """Return header and directories as the file's first bytes; fills in the offsets of the directories.

    Values of more than 4 bytes follow their directory, at even offsets.
    """
    main = ifds["main"]
    subs = ["raw"] + (["preview"] if ifds["preview"] else [])
    pointers = {"exif": _EXIF, "gps": _GPS}
    main |= {tag: long(0) for name, tag in pointers.items() if ifds[name]}
    main[_SUBIFDS] = long(*[0] * len(subs))
    starts, at = {}, 8
    for name, ifd in ifds.items():
        starts[name] = at
        spilt = sum(len(value.data) + len(value.data) % 2 for value in ifd.values() if len(value.data) > 4)
        at += 2 + 12 * len(ifd) + 4 + spilt if ifd else 0
    main |= {tag: long(starts[name]) for name, tag in pointers.items() if ifds[name]}
    main[_SUBIFDS] = long(*(starts[name] for name in subs))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(directory(ifd, starts[name]) for name, ifd in ifds.items() if ifd)


def _tone_curve(raw: RawImage, options: WriteOptions) -> np.ndarray:
    """Return the (N, 2) points of ProfileToneCurve."""
    use = options.profile == "match" and raw.tone_curve is not None
    curve = np.asarray(raw.tone_curve if use else _TONE_CURVE_LINEAR)
    if len(curve) < 2 or (curve[0] != 0).any() or (curve[-1] != 1).any() or (np.diff(curve[:, 0]) <= 0).any():
        raise FormatError("a tone curve must go from (0, 0) to (1, 1) with x increasing (DNG ProfileToneCurve)")
    return curve


def _thumbnail(raw: RawImage, options: WriteOptions) -> np.ndarray:
    """Return a thumbnail of the crop, (h, w, 3) uint8 sRGB, at most 256 px: each pixel averages a few 2×2 cells."""
    mosaic, canonical, crop = raw.mosaic, raw.canonical, raw.crop
    assert crop is not None  # RawImage sets it
    step = math.ceil(max(crop.height, crop.width) / (2 * _THUMBNAIL))  # cells per pixel in each direction
    span = range(0, step, max(1, step // 3))  # three of them in each direction are enough

    def cells(start: int, length: int, limit: int) -> list[np.ndarray]:
        first = start - start % 2 + 2 * step * np.arange(max(1, length // (2 * step)))
        return [np.minimum(first + 2 * offset, limit - 2) for offset in span]

    rows = cells(crop.top, crop.height, mosaic.shape[0])
    columns = cells(crop.left, crop.width, mosaic.shape[1])
    planes = []
    for (y, x), black in np.ndenumerate(canonical.black_level):
        total = np.zeros((len(rows[0]), len(columns[0])))
        for row in rows:
            for column in columns:
                total += mosaic[(row + y)[:, None], column + x]
        planes.append((total / (len(rows) * len(columns)) - black) / (canonical.white_level - black))
    rgb = superpixels(planes, canonical.cfa)
    # As in a renderer, the channel that clips first sets white.
    rgb = np.clip(rgb * (canonical.wb_gains / canonical.wb_gains.min()), 0, 1) @ canonical.cam_to_srgb().T
    offset = raw.profile_exposure if options.profile == "match" else 0.0
    rgb = np.clip(rgb * 2.0 ** (raw.baseline_exposure + offset), 0, 1)
    curve = _tone_curve(raw, options)
    codes: np.ndarray = np.rint(srgb_encode(np.interp(rgb, curve[:, 0], curve[:, 1])) * 255).astype(np.uint8)
    return codes


def _sniff(head: bytes) -> bool:
    return False  # formats.libraw reads DNG files


FORMAT = Format(name="DNG", suffixes=(".dng",), sniff=_sniff, read=None, write=write, holds=(RawImage,))
