"""Write an Ultra HDR JPEG: a picture's JPEG, its coded pixels unchanged, and behind it the JPEG of a gain map.

Both kinds of metadata are written, for old and new readers: the XMP of the Ultra HDR Image Format 1.1 and the block of
ISO 21496-1. The picture's XMP names the second JPEG by its length (Container:Directory), and an index of CIPA DC-007
(MPF) names it by its place.
"""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats import gainmap, raster_write, xmp
from paramisp_cli.formats.base import WriteOptions
from paramisp_cli.formats.gainmap.numbers import HDRGM
from paramisp_cli.formats.jpeg import end_of_picture, frame_components, placed_segments
from paramisp_cli.formats.pixels import apply_orientation
from paramisp_cli.types import HdrImage, SrgbImage

OFFSET = Fraction(1, 64)
"""Offset of both renditions, which bounds the gain where the picture is black."""
_APP0, _APP1, _APP2 = 0xE0, 0xE1, 0xE2
_XMP, _MPF, _ISO = b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0", b"urn:iso:std:iso:ts:21496:-1\0"
_CONTAINER = "http://ns.google.com/photos/1.0/container/"
_MOST_XMP = 65502
"""Bytes of a packet in one segment (XMP, part 3)."""
_QUALITY = 90
_ALIKE = 4.0
"""Mean difference of codes up to which a map read back is the one that was written."""
_SPACE_OF_BASE = 0x40
"""Flag of ISO 21496-1: the gains apply in the picture's colour space."""


def write(image: HdrImage, path: Path, options: WriteOptions) -> None:
    """Write an Ultra HDR JPEG: around the picture's own JPEG, else around a new one of ``options.quality``, upright."""
    base, codes, packet = image.base, image.codes, image.metadata.xmp
    jpeg = base.metadata.jpeg
    if jpeg is None:
        plain = replace(base, metadata=replace(base.metadata, xmp=None))
        raster_write.write(plain, path, options, kind="jpeg")
        jpeg = path.read_bytes()
        codes = np.ascontiguousarray(apply_orientation(codes, base.orientation))
        packet = packet and xmp.upright(packet)
    path.write_bytes(assembled(jpeg, codes, image.stops, packet)[0])


def verify(image: HdrImage, path: Path, back: SrgbImage) -> None:
    """Raise FormatError unless the written file reads back alike: coded pixels, size and map; ``back`` is its picture.

    The map is a JPEG: its codes may differ by noise of the coding.
    """
    data = path.read_bytes()
    found = gainmap.find(data, back.pixels.size)
    own = image.metadata.jpeg
    codes = image.codes if own is not None else apply_orientation(image.codes, image.base.orientation)
    alike = (
        found is not None
        and found.pixels.shape == codes.shape
        and abs(found.headroom - image.stops) < 1e-3
        and float(np.abs(found.pixels.astype(np.float32) - codes).mean()) < _ALIKE
    )
    if not alike or (own is not None and coded(own) != coded(data)):
        raise FormatError(f"{path}: its gain map or its picture does not read back alike")


def coded(jpeg: bytes) -> bytes:
    """Return the picture of a JPEG without its APP segments and comments: tables, frame and scans, to the first EOI."""
    end = end_of_picture(jpeg) or len(jpeg)
    at, tables = 2, b""
    for marker, content_at, content in placed_segments(jpeg):
        at = content_at + len(content)
        if not (_APP0 <= marker <= 0xEF or marker == 0xFE):
            tables += _segment(marker, content)
    return tables + jpeg[at:end]


def assembled(jpeg: bytes, codes: np.ndarray, stops: float, packet: bytes | None) -> tuple[bytes, tuple[str, ...]]:
    """Return (the file's bytes, notices) of a picture's JPEG with a gain map.

    jpeg    bytes of the picture's JPEG: of its segments only XMP, MPF and ISO 21496-1 are replaced; bytes behind the
            picture are left out
    codes   (h, w) uint8, stops: EV of the code 255, as in ``HdrImage``
    packet  XMP for the picture, or None

    Raises FormatError for a JPEG that is cut short or not in colour.
    """
    end = end_of_picture(jpeg)
    if end is None:
        raise FormatError("its JPEG has no end: the file is cut short, and an Ultra HDR file needs all of it")
    if frame_components(jpeg) != 3:
        raise FormatError("its JPEG is not of three colours, as Ultra HDR needs: save it in RGB first")
    stops_ratio = Fraction(stops).limit_denominator(10_000)
    second = _inserted(
        raster_write.encode_jpeg(codes, _QUALITY, False),
        [_segment(_APP1, _XMP + _map_packet(stops_ratio)), _segment(_APP2, _ISO + _iso_block(stops_ratio))],
    )
    notices = []
    if (behind := len(jpeg) - end) > 64:
        notices.append(f"{behind} bytes behind the picture were left out: a file has one list of its parts")
    if packet is not None and re.search(rb"ns\.google\.com/photos/1\.0/(container|camera)", packet):
        packet = None
        notices.append("its XMP lists parts behind the picture and was left out")
    described = _described(packet, len(second))
    if described is None:
        described = _described(None, len(second))
        notices.append("its XMP leaves no room for the gain map's and was left out")
    assert described is not None
    version = _segment(_APP2, _ISO + bytes(4))
    head = [_segment(_APP1, _XMP + described), version]
    first = _inserted(jpeg[:end], head)
    at, index = _place_of_index(first), _segment(_APP2, _MPF + _index(0, 0, 0))
    header = at + 4 + len(_MPF)  # offsets of the index count from here
    length = len(first) + len(index)
    index = _segment(_APP2, _MPF + _index(length, len(second), length - header))
    return first[:at] + index + first[at:] + second, tuple(notices)


def _described(packet: bytes | None, length: int) -> bytes | None:
    """Return the picture's XMP with the version and the directory of the file's parts; None if there is no room."""
    items = "".join(
        f'<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="{semantic}" Item:Mime="image/jpeg"{more}/>'
        "</rdf:li>"
        for semantic, more in (("Primary", ""), ("GainMap", f' Item:Length="{length}"'))
    )
    properties = (
        f"<hdrgm:Version>1.0</hdrgm:Version>\n<Container:Directory><rdf:Seq>{items}</rdf:Seq></Container:Directory>\n"
    )
    spaces = {"hdrgm": HDRGM.strip("{}"), "Container": _CONTAINER, "Item": f"{_CONTAINER}item/"}
    try:
        described = xmp.with_properties(packet, spaces, properties)
    except FormatError:
        return None
    return described if len(described) <= _MOST_XMP else None


def _map_packet(stops: Fraction) -> bytes:
    """Return the XMP of the map's JPEG."""
    values = {
        "Version": "1.0",
        "GainMapMin": "0",
        "GainMapMax": f"{float(stops):.6g}",
        "Gamma": "1",
        "OffsetSDR": f"{float(OFFSET):g}",
        "OffsetHDR": f"{float(OFFSET):g}",
        "HDRCapacityMin": "0",
        "HDRCapacityMax": f"{float(stops):.6g}",
        "BaseRenditionIsHDR": "False",
    }
    properties = "".join(f' hdrgm:{name}="{value}"' for name, value in values.items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:hdrgm="{HDRGM.strip("{}")}"{properties}/></rdf:RDF></x:xmpmeta>'
    ).encode()


def _iso_block(stops: Fraction) -> bytes:
    """Return the metadata block of ISO 21496-1 (big-endian): headrooms, then one channel."""
    block = struct.pack(">HHB", 0, 0, _SPACE_OF_BASE)
    for headroom in (Fraction(0), stops):
        block += struct.pack(">II", *headroom.as_integer_ratio())
    for value, letter in zip((Fraction(0), stops, Fraction(1), OFFSET, OFFSET), "iiIii", strict=True):
        block += struct.pack(f">{letter}I", *value.as_integer_ratio())
    return block


def _index(first_length: int, second_length: int, offset: int) -> bytes:
    """Return the Multi-Picture index (CIPA DC-007, 5.2) of two pictures; ``offset`` of the second is from its start."""
    entries = ((0xB000, 7, 4, b"0100"), (0xB001, 4, 1, struct.pack(">I", 2)), (0xB002, 7, 32, struct.pack(">I", 50)))
    ifd = b"MM\0*" + struct.pack(">IH", 8, len(entries))
    ifd += b"".join(struct.pack(">HHI", tag, kind, count) + value for tag, kind, count, value in entries) + bytes(4)
    first = struct.pack(">IIIHH", 0x030000, first_length, 0, 0, 0)  # the primary picture
    return ifd + first + struct.pack(">IIIHH", 0, second_length, offset, 0, 0)


# Segments ------------------------------------------------------------------------------------------------------------


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _replaced(marker: int, content: bytes) -> bool:
    """Tell whether a segment of the picture gives way to a new one."""
    return (marker == _APP1 and content.startswith(_XMP)) or (marker == _APP2 and content.startswith((_MPF, _ISO)))


def _inserted(jpeg: bytes, segments: list[bytes]) -> bytes:
    """Return the JPEG with segments after its leading APP0 and EXIF, and without those that they replace."""
    kept: list[bytes] = []
    place, at = 0, 2
    leading = True
    for marker, content_at, content in placed_segments(jpeg):
        at = content_at + len(content)
        if _replaced(marker, content):
            continue
        leading = leading and (marker == _APP0 or (marker == _APP1 and content.startswith(b"Exif\0\0")))
        kept.append(_segment(marker, content))
        if leading:
            place = len(kept)
    return jpeg[:2] + b"".join(kept[:place] + segments + kept[place:]) + jpeg[at:]


def _place_of_index(jpeg: bytes) -> int:
    """Return the place after the block of ISO 21496-1, where the index goes: it is last of the inserted segments."""
    for marker, at, content in placed_segments(jpeg):
        if marker == _APP2 and content.startswith(_ISO):
            return at + len(content)
    raise AssertionError("the segment was just inserted")
