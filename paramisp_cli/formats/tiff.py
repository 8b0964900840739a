"""The TIFF core: entries, a tolerant walk through any file built like TIFF, and the bytes of directories to write.

A walk never fails on a damaged entry: cameras, phones and editors write many kinds of broken tags, and the photograph
is still usable.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from paramisp_cli.errors import FormatError

# TIFF 6.0 field types: element size in bytes, struct letter; rationals are pairs of the letter (129: UTF-8, Exif 3.0).
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SLONG, SRATIONAL, FLOAT, DOUBLE = 1, 2, 3, 4, 5, 7, 9, 10, 11, 12
UTF8 = 129
TYPES = {
    1: (1, "B"), 2: (1, "s"), 3: (2, "H"), 4: (4, "I"), 5: (8, "I"), 6: (1, "b"), 7: (1, "B"), 8: (2, "h"),
    9: (4, "i"), 10: (8, "i"), 11: (4, "f"), 12: (8, "d"), 13: (4, "I"), 129: (1, "s"),
}  # fmt: skip
# 42 is TIFF; the others are Olympus ORF ("RO", "RS") and Panasonic RW2, which differ from TIFF only in this number.
_MAGICS = (42, 0x4F52, 0x5352, 0x0055)
_MAX_ENTRIES = 4096  # in an IFD; real ones have fewer than 200
_MAX_IFDS = 256
_SUB_IFDS = 0x014A


@dataclass(frozen=True, slots=True)
class Entry:
    """The value of one tag of an IFD.

    type   TIFF field type 1–13 (or 129, UTF-8)
    count  number of elements
    data   the elements, little-endian for any byte order of the file; element size × count bytes
    offset position of the value in the block, in bytes from its TIFF header
    """

    type: int
    count: int
    data: bytes
    offset: int = 0

    @property
    def is_sound(self) -> bool:
        """True if the data have the size that type and count claim."""
        return self.count > 0 and self.type in TYPES and len(self.data) == self.count * TYPES[self.type][0]

    def values(self) -> tuple[int | float, ...]:
        """Return the elements as numbers: rationals as floats, nan where the denominator is 0; () for text."""
        letter = TYPES[self.type][1]
        if letter == "s":
            return ()
        if self.type in (RATIONAL, SRATIONAL):
            return tuple(n / d if d else math.nan for n, d in self.fractions())
        return struct.unpack(f"<{self.count}{letter}", self.data)

    def fractions(self) -> tuple[tuple[int, int], ...]:
        """Return (numerator, denominator) of each element of a RATIONAL or SRATIONAL; () for other types."""
        if self.type not in (RATIONAL, SRATIONAL):
            return ()
        flat = struct.unpack(f"<{2 * self.count}{TYPES[self.type][1]}", self.data)
        return tuple(zip(flat[::2], flat[1::2], strict=True))

    def text(self) -> str:
        """Return the value as text up to the first NUL, UTF-8 or else Latin-1, without outer white space."""
        return decoded_text(self.data)

    def shown(self) -> str:
        """Format the value for messages ("1/125", "0/0", "100, 0"), shortened."""
        if TYPES[self.type][1] == "s":
            return repr(self.text()[:40])
        shown = [f"{n}/{d}" for n, d in self.fractions()] or [f"{value:g}" for value in self.values()[:5]]
        return ", ".join(shown[:4]) + (", …" if self.count > 4 else "")


def decoded_text(data: bytes) -> str:
    """Decode bytes up to the first NUL: UTF-8 or else Latin-1, without outer white space."""
    raw = data.split(b"\0", 1)[0]
    try:
        return raw.decode().strip()
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip()


Ifd = dict[int, Entry]
"""Tag number → value."""


# Walking -------------------------------------------------------------------------------------------------------------


class Walker:
    """A reader of the IFDs of one block. It visits each IFD once and copies a bounded number of bytes.

    sound  False after it skipped an IFD or an entry that is damaged, repeated or out of bounds
    """

    def __init__(self, block: Any) -> None:
        head = bytes(block[:8])
        self.block = block
        self.order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        if len(head) < 8 or not self.order or struct.unpack(self.order + "H", head[2:4])[0] not in _MAGICS:
            raise FormatError(f"no TIFF header: the block begins with {head!r}")
        self.first = struct.unpack(self.order + "I", head[4:8])[0]
        self.seen: set[int] = set()
        self.sound = True
        self.left = 2 * len(block) + 65536  # bytes of values that may still be copied

    def ifd(self, at: int, base: int = 0) -> tuple[Ifd, int]:
        """Read the IFD at byte ``at``: (entries, offset of the next IFD or 0); value offsets count from ``base``."""
        entries: Ifd = {}
        sound, self.sound = self.sound, False  # until this IFD has been read to its end
        if at in self.seen or not 0 < at <= len(self.block) - 2 or len(self.seen) >= _MAX_IFDS:
            return entries, 0
        self.seen.add(at)
        count = struct.unpack(self.order + "H", self.block[at : at + 2])[0]
        if count > _MAX_ENTRIES:
            return entries, 0
        for start in range(at + 2, at + 2 + 12 * count, 12):
            raw = bytes(self.block[start : start + 12])
            if len(raw) < 12:
                return entries, 0
            tag, entry = self.entry(raw, start, base)
            if entry and tag not in entries:  # the first of two equal tags wins, as in most readers
                entries[tag] = entry
            else:
                sound = False
        end = bytes(self.block[at + 2 + 12 * count : at + 6 + 12 * count])
        if len(end) < 4:
            return entries, 0
        self.sound = sound
        return entries, struct.unpack(self.order + "I", end)[0]

    def entry(self, raw: bytes, start: int, base: int) -> tuple[int, Entry | None]:
        """Return (tag, value) of the entry in these 12 bytes at position ``start``; None if it is damaged."""
        tag, kind, count = struct.unpack(self.order + "HHI", raw[:8])
        if kind not in TYPES or not count:
            return tag, None
        size, letter = TYPES[kind]
        length = size * count
        offset = start + 8
        if length > 4:
            offset = base + struct.unpack(self.order + "I", raw[8:])[0]
        if offset < 0 or offset + length > len(self.block) or length > self.left:
            return tag, None
        self.left -= length
        data = bytes(self.block[offset : offset + length])
        unit = struct.calcsize(letter)
        if self.order == ">" and unit > 1:
            data = np.frombuffer(data, f">u{unit}").astype(f"<u{unit}").tobytes()
        return tag, Entry(kind, count, data, offset)

    def sub(self, parent: Ifd, tag: int) -> Ifd:
        """Return the entries of the IFD to which ``tag`` of ``parent`` points, {} if it points nowhere."""
        offsets = pointers(parent.get(tag))
        if not offsets:
            self.sound = self.sound and tag not in parent
            return {}
        return self.ifd(offsets[0])[0]


def pointers(entry: Entry | None) -> list[int]:
    """Return the IFD offsets in an entry; none if it has more than any real file."""
    if entry is None or entry.type not in (SHORT, LONG, 13) or entry.count > _MAX_IFDS:
        return []
    return [int(value) for value in entry.values()]


def parse_ifds(block: bytes | mmap.mmap) -> list[Ifd]:
    """Return every image IFD of a TIFF-like file (DNG, NEF, CR2, ARW, ORF, RW2…; bytes or mmap).

    The chain of IFDs from IFD0 on, each followed by its SubIFDs (tag 0x014A). FormatError without a TIFF header.
    """
    walker = Walker(block)
    ifds: list[Ifd] = []
    waiting = [walker.first]
    while waiting:
        entries, following = walker.ifd(waiting.pop())
        if entries:
            ifds.append(entries)
            waiting += [following, *reversed(pointers(entries.get(_SUB_IFDS)))]  # the last one is next
    return ifds


# Writing -------------------------------------------------------------------------------------------------------------


def byte(data: bytes) -> Entry:
    """Make a BYTE value."""
    return Entry(BYTE, len(data), data)


def text(characters: str) -> Entry:
    """Make an ASCII value: "?" replaces other characters; a NUL ends it."""
    data = characters.encode("ascii", "replace") + b"\0"
    return Entry(ASCII, len(data), data)


def short(*numbers: int) -> Entry:
    """Make a SHORT value."""
    return Entry(SHORT, len(numbers), struct.pack(f"<{len(numbers)}H", *numbers))


def long(*numbers: int) -> Entry:
    """Make a LONG value."""
    return Entry(LONG, len(numbers), struct.pack(f"<{len(numbers)}I", *numbers))


def rational(*numbers: float) -> Entry:
    """Make a RATIONAL value of the shortest fractions; FormatError if a number is too large."""
    fractions = [term for number in numbers for term in _fraction(number)]
    return Entry(RATIONAL, len(numbers), struct.pack(f"<{len(fractions)}I", *fractions))


def srational(*numbers: float) -> Entry:
    """Make an SRATIONAL value of the shortest fractions; FormatError if a number is too large."""
    fractions = [term for number in numbers for term in _fraction(number)]
    return Entry(SRATIONAL, len(numbers), struct.pack(f"<{len(fractions)}i", *fractions))


def _fraction(number: float) -> tuple[int, int]:
    """Return the shortest fraction within about 1e-8 of ``number``, numerator and denominator within 31 bits."""
    largest = (1 << 31) - 1
    if abs(number) > largest:
        raise FormatError(f"{number} is too large for a DNG")
    limit = max(1, int(min(1e8, largest / max(abs(number), 1e-9) - 1)))
    return Fraction(float(number)).limit_denominator(limit).as_integer_ratio()


def directory(ifd: Ifd, start: int) -> bytes:
    """Return the bytes of one directory at offset ``start`` and of its values; the next directory's offset is 0."""
    entries, values = struct.pack("<H", len(ifd)), b""
    at = start + 2 + 12 * len(ifd) + 4
    for tag, value in sorted(ifd.items()):
        inline = len(value.data) <= 4
        field = value.data.ljust(4, b"\0") if inline else struct.pack("<I", at + len(values))
        entries += struct.pack("<HHI", tag, value.type, value.count) + field
        if not inline:
            values += value.data + bytes(len(value.data) % 2)
    return entries + bytes(4) + values
