"""The segments of a JPEG (ITU-T T.81), its EXIF block, and its fitness as a DNG preview."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator

XMP = b"http://ns.adobe.com/xap/1.0/\0"
"""Beginning of a segment with an XMP packet."""
_SOI = b"\xff\xd8"
_APP1, _APP14, _SOF0, _DQT, _SOS, _EOI = 0xE1, 0xEE, 0xC0, 0xDB, 0xDA, 0xD9
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)  # among 0xC0–0xCF: Huffman tables, reserved, arithmetic conditioning


def segments(jpeg: bytes | mmap.mmap) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, content) of each segment before the first scan, in order.

    The iteration ends without an error where the data end or are not segments; the last content may be cut short.
    """
    for marker, _, content in placed_segments(jpeg):
        yield marker, content


def placed_segments(jpeg: bytes | mmap.mmap) -> Iterator[tuple[int, int, bytes]]:
    """Yield (marker, position of the content, content) as ``segments`` does."""
    at = 2
    while jpeg[:2] == _SOI and at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in (_SOS, _EOI) or length < 2:
            return
        yield marker, at + 4, jpeg[at + 4 : at + 2 + length]
        at += 2 + length


AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A marker that ends the coded data of a scan: neither a stuffed byte nor a restart marker.

Fill bytes before it are not in the match: a pattern with a run of them takes time in the square of the run.
"""


def end_of_picture(jpeg: bytes) -> int | None:
    """Return the place after the first picture's EOI marker, None if it has none; further pictures may follow."""
    at = 2
    while jpeg[:2] == _SOI and at + 2 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _EOI:
            return at + 2
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == _SOS:
            found = AFTER_SCAN.search(jpeg, at)
            if found is None:
                return None
            at = found.start()
    return None


def exif_block(jpeg: bytes | mmap.mmap) -> bytes | None:
    """Return the EXIF block (TIFF structure) of a JPEG, None if it has none."""
    contents = (content for marker, content in segments(jpeg) if marker == _APP1)
    return next((content[6:] for content in contents if content[:6] == b"Exif\0\0"), None)


def xmp_packet(jpeg: bytes | mmap.mmap) -> bytes | None:
    """Return the XMP packet of a JPEG, None if it has none."""
    contents = (content for marker, content in segments(jpeg) if marker == _APP1)
    return next((content[len(XMP) :] for content in contents if content.startswith(XMP)), None)


def frame_size(jpeg: bytes | mmap.mmap) -> tuple[int, int] | None:
    """Return the size (height, width) of a JPEG, None if it has no frame or no pixels."""
    for marker, content in segments(jpeg):
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES and len(content) >= 5:
            height, width = struct.unpack(">HH", content[1:5])
            return (height, width) if height and width else None
    return None


def frame_components(jpeg: bytes | mmap.mmap) -> int | None:
    """Return the number of colour components of a JPEG, None if it has no frame."""
    for marker, content in segments(jpeg):
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES and len(content) >= 6:
            return content[5]
    return None


def preview_frame(jpeg: bytes) -> tuple[int, int, tuple[int, int]] | None:
    """Return (width, height, (horizontal, vertical) chroma subsampling) of a possible DNG preview, else None.

    DNG allows a baseline JPEG (SOF0) of three components, 8 bits, in YCbCr with both chroma planes sampled alike.
    """
    transform = 1
    for marker, content in segments(jpeg):
        if marker == _APP14 and content[:5] == b"Adobe" and len(content) >= 12:
            transform = content[11]
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            return _frame_of(content) if marker == _SOF0 and transform == 1 else None
    return None


def _frame_of(segment: bytes) -> tuple[int, int, tuple[int, int]] | None:
    """Return the result of ``preview_frame`` from the content of the SOF0 segment (T.81 B.2.2)."""
    if len(segment) < 15 or segment[0] != 8 or segment[5] != 3 or segment[6:15:3] == b"RGB":
        return None
    height, width = struct.unpack(">HH", segment[1:5])
    factors = [(s >> 4, s & 15) for s in segment[7:15:3]]
    (h, v), chroma = factors[0], set(factors[1:])
    sampling = (h // factors[1][0], v // factors[1][1]) if factors[1][0] and factors[1][1] else (0, 0)
    alike = len(chroma) == 1 and (sampling[0] * factors[1][0], sampling[1] * factors[1][1]) == (h, v)
    allowed = alike and set(sampling) <= {1, 2, 4}
    return (width, height, sampling) if allowed and width and height else None


def mean_squares(jpeg: bytes | mmap.mmap) -> tuple[float, float] | None:
    """Return the mean square of the quantisation tables of luma and chroma, in codes; None without one (T.81 B.2.4.1).

    A JPEG of one table has one for both.
    """
    found: dict[int, float] = {}
    for marker, content in segments(jpeg):
        at = 0
        while marker == _DQT and at < len(content):
            wide, number = content[at] >> 4, content[at] & 15
            steps = content[at + 1 : at + 1 + 64 * (1 + min(wide, 1))]
            if len(steps) < 64 * (1 + min(wide, 1)):
                break
            values = struct.unpack(">64H" if wide else ">64B", steps)
            found[number] = sum(value * value for value in values) / 64
            at += 1 + len(steps)
    if not found:
        return None
    luma = found.get(0, next(iter(found.values())))
    return luma, found.get(1, luma)
