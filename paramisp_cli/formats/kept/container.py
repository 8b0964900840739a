"""The place of a RAW in a JPEG file: a comment in the head, a trailer after the picture (`docs/raw-in-jpeg.md`).

The trailer: magic, version, lengths, digest of the picture, digest of the content, then the content in two parts. Every
length is checked against the file and against a limit before anything of that length is read or made.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from paramisp_cli.errors import FormatError
from paramisp_cli.formats.jpeg import AFTER_SCAN, placed_segments

MAGIC = b"paramisp RAW\r\n\x1a\n"
"""Line ends and an end-of-file character: a transfer as text changes them."""
VERSION = 1
_HEAD = struct.Struct("<16sHHIQ32s32s")  # magic, version, zero, lengths of record and body, both digests
_MOST_RECORD, _MOST_BODY = 8 << 20, 1 << 32
_COMMENT = b"paramisp RAW: "
_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_ALONE = {0x01, *range(0xD0, 0xD8)}
"""Markers without a length: TEM and RST0 to RST7."""
_OF_PICTURE = {*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, 0xEE}
"""Segments that decide how the picture is decoded: frames, tables, scans, restart interval, Adobe's transform."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Parts of a JPEG: end of the head's first segments, end of the picture (None if it is cut short), its digest."""

    head: int
    end: int | None
    digest: bytes
    comment: str | None


def layout(jpeg: bytes) -> Layout:
    """Walk through a JPEG's segments and scans; a file that is no JPEG has no end."""
    at, digest, head, comment = 2, hashlib.sha256(), 2, None
    while jpeg[:2] == b"\xff\xd8" and at + 2 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == _EOI:
            return Layout(head, at + 2, digest.digest(), comment)
        if marker in _ALONE or marker == _SOI:
            at += 2
            continue
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(jpeg):
            break
        end = at + 2 + length
        if marker == _COM and jpeg[at + 4 : at + 4 + len(_COMMENT)] == _COMMENT:
            comment = jpeg[at + 4 : end].decode("ascii", "replace")
        if head == at and marker in (0xE0, 0xE1):
            head = end
        if marker == _SOS:
            found = AFTER_SCAN.search(jpeg, end)
            if found is None:
                break
            end = found.start()
        if marker in _OF_PICTURE:
            digest.update(jpeg[at:end])
        at = end
    return Layout(head, None, b"", comment)


def attach(jpeg: bytes, record: bytes, body: bytes, about: str) -> bytes:
    """Return the JPEG with a comment ``about`` its RAW, and the trailer; FormatError if it is no JPEG."""
    place = layout(jpeg)
    if place.end is None:
        raise FormatError("no complete JPEG")
    if len(record) > _MOST_RECORD or len(body) > _MOST_BODY:
        raise FormatError("the RAW is too large for a JPEG to carry")
    text = _COMMENT + about.encode("ascii", "replace")
    comment = b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text
    content = hashlib.sha256(record + body).digest()
    head = _HEAD.pack(MAGIC, VERSION, 0, len(record), len(body), place.digest, content)
    return jpeg[: place.head] + comment + jpeg[place.head : place.end] + head + record + body + jpeg[place.end :]


@dataclass(frozen=True, slots=True)
class Trailer:
    """A found trailer: its content's parts, where it begins, and the end of its data."""

    record: bytes
    body: bytes
    begin: int
    end: int


def find(jpeg: bytes) -> Trailer | None:
    """Return the trailer with the RAW; None without one.

    Raises FormatError with the reason if there is one and it cannot be trusted: the file is cut short, the picture or
    the trailer was altered, or a newer version wrote it.
    """
    if jpeg[:2] != b"\xff\xd8":
        return None
    place = layout(jpeg)
    begin = jpeg.find(MAGIC, place.end or 2)
    if begin < 0:
        if place.end is None and place.comment:
            raise FormatError("the file is cut short: the RAW inside and a part of the picture are lost")
        if place.end is not None and place.comment and _resembles(jpeg[place.end : place.end + len(MAGIC)]):
            raise FormatError("the RAW inside is damaged: its first bytes were altered or cut off")
        return None
    if begin + _HEAD.size > len(jpeg):
        raise FormatError("the file is cut short: the RAW inside is lost")
    _, version, zero, record, body, picture, content = _HEAD.unpack_from(jpeg, begin)
    if version != VERSION:
        raise FormatError(f"the RAW inside has version {version}, this paramisp reads version {VERSION}: update it")
    if zero:
        raise FormatError("the RAW inside is damaged: a field of its head is not zero")
    if record > _MOST_RECORD or body > _MOST_BODY:
        raise FormatError("the RAW inside is damaged: its length is beyond all limits")
    middle = begin + _HEAD.size + record
    end = middle + body
    if end > len(jpeg):
        raise FormatError(f"the file is cut short: {end - len(jpeg)} bytes of the RAW inside are missing")
    if place.end is None or place.digest != picture:
        raise FormatError("the picture was altered, and the RAW inside needs its exact pixels")
    found = Trailer(jpeg[begin + _HEAD.size : middle], jpeg[middle:end], begin, end)
    if hashlib.sha256(found.record + found.body).digest() != content:
        raise FormatError("the RAW inside is damaged: its digest differs")
    return found


def _resembles(begin: bytes) -> bool:
    """Tell whether the first bytes after a picture are a trailer's with errors, or the first few of them."""
    same = sum(a == b for a, b in zip(begin, MAGIC, strict=False))
    return bool(begin) and same >= max(len(begin) // 2, 1)


def lost(jpeg: bytes) -> bool:
    """Tell whether the comment on a RAW inside is there and its trailer is not."""
    return layout(jpeg).comment is not None and jpeg.find(MAGIC) < 0


def plain(jpeg: bytes) -> bytes:
    """Return the JPEG without its trailer and comment. Other trailers stay, but for those behind a damaged one."""
    if MAGIC in jpeg and (begin := jpeg.find(MAGIC, layout(jpeg).end or 2)) >= 0:
        try:
            found = find(jpeg)
        except FormatError:
            found = None
        jpeg = jpeg[:begin] + (jpeg[found.end :] if found else b"")
    for marker, at, content in placed_segments(jpeg):
        if marker == _COM and content.startswith(_COMMENT):
            return jpeg[: at - 4] + jpeg[at + len(content) :]
    return jpeg
