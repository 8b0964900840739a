"""The items of a HEIC or AVIF file (HEIF, ISO/IEC 23008-12): pictures, metadata, and their references.

The boxes are those of ISO/IEC 14496-12. Lengths, offsets and counts of a hostile file may be anything: every one is
checked against the bytes that are there and against a limit. Boxes are read at fixed levels, so no nesting is followed,
and references are looked up once and never walked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from paramisp_cli.errors import FormatError

CODED = (b"hvc1", b"av01")
"""Types of items that are one coded picture."""
GRID = b"grid"
"""Type of an item whose picture is a grid of coded pictures."""
TONE_MAP = b"tmap"
"""Type of an item that joins a picture and a gain map (23008-12, amendment 1; ISO 21496-1)."""
APPLE_MAP = b"urn:com:apple:photo:2020:aux:hdrgainmap"
"""Type of an auxiliary picture: Apple's gain map."""
_MOST_BOXES = 10_000
"""Most boxes on one level, items, references and associations: a phone's picture of 48 megapixels has 300."""
_MOST_EXTENTS = 64
_MOST_BYTES = 1 << 26
"""Most bytes of the box with all descriptions."""
_Box = tuple[bytes, int, int]


@dataclass(slots=True)
class Item:
    """An item: its type, properties [(type, content)], places in the file [(start, end)], and targets of references.

    mime    content type of an item of the type "mime"
    flags   place of the byte with the mark "hidden"
    name    place of the type
    inside  whether the places count from the box idat
    """

    kind: bytes
    mime: bytes = b""
    flags: int = 0
    name: int = 0
    inside: bool = False
    places: list[tuple[int, int]] = field(default_factory=list)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    targets: dict[bytes, tuple[int, ...]] = field(default_factory=dict)

    def fact(self, kind: bytes) -> bytes | None:
        """Return the content of the first property of this type."""
        return next((content for each, content in self.properties if each == kind), None)

    @property
    def is_apples_map(self) -> bool:
        """Whether it is an auxiliary picture with the name of Apple's gain map."""
        return (self.fact(b"auxC") or b"")[4:].split(b"\0")[0] == APPLE_MAP

    @property
    def size(self) -> tuple[int, int]:
        """Height and width by the property ispe; (0, 0) without one."""
        content = self.fact(b"ispe") or b""
        if len(content) < 12:
            return 0, 0
        width, height = struct.unpack(">II", content[4:12])
        return height, width

    @property
    def colour(self) -> tuple[bytes | None, tuple[int, int] | None]:
        """ICC profile, and codes of primaries and transfer (ITU-T H.273), of the properties colr."""
        profile, codes = None, None
        for kind, content in self.properties:
            if kind == b"colr" and content[:4] in (b"prof", b"rICC"):
                profile = profile or content[4:]
            elif kind == b"colr" and content[:4] == b"nclx" and len(content) >= 8:
                codes = codes or struct.unpack(">HH", content[4:8])
        return profile, codes

    @property
    def orientation(self) -> int:
        """EXIF orientation 1–8 that the properties irot and imir make, in their order."""
        turned = 1
        for kind, content in self.properties:
            if kind == b"irot" and content:
                for _ in range(content[0] & 3):
                    turned = _ANTICLOCKWISE[turned]
            elif kind == b"imir" and content:
                turned = (_LEFT_RIGHT if content[0] & 1 else _TOP_BOTTOM)[turned]
        return turned


_ANTICLOCKWISE = {1: 8, 8: 3, 3: 6, 6: 1, 2: 5, 5: 4, 4: 7, 7: 2}
_LEFT_RIGHT = {1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5, 7: 8, 8: 7}
_TOP_BOTTOM = {1: 4, 4: 1, 2: 3, 3: 2, 5: 8, 8: 5, 6: 7, 7: 6}
"""Orientation → orientation after a further turn by a quarter, or after an exchange of left and right, top and bottom.

The turn applies to the upright picture: irot and imir act on the result of the properties before them.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The items of a file by number.

    primary       number of the item that is the picture
    primary_at    place and width [bytes] of this number in the file
    references    (type, from, place of the type in the file) of every reference
    """

    data: bytes
    primary: int
    primary_at: tuple[int, int]
    items: dict[int, Item]
    references: list[tuple[bytes, int, int]]
    idat: tuple[int, int]

    def content(self, number: int, most: int) -> bytes:
        """Return the bytes of an item; FormatError if there are more than ``most``, or fewer than it claims."""
        item = self.items[number]
        start, end = self.idat if item.inside else (0, len(self.data))
        if sum(last - first for first, last in item.places) > most:
            raise FormatError(f"item {number} has more than {most} bytes")
        if any(start + last > end for _, last in item.places):
            raise FormatError(f"item {number} lies outside the file: it is cut short or damaged")
        return b"".join(self.data[start + first : start + last] for first, last in item.places)

    @property
    def may_have_gain_map(self) -> bool:
        """Whether the file has a tone-mapping item, or an auxiliary picture that is Apple's gain map."""
        return any(item.kind == TONE_MAP or item.is_apples_map for item in self.items.values())

    def referring(self, kind: bytes, number: int) -> list[int]:
        """Return the numbers of items with a reference of this type to an item."""
        return [own for own, item in self.items.items() if number in item.targets.get(kind, ())]

    def without_tone_maps(self) -> bytes:
        """Return the file with its tone-mapping items and their brand renamed.

        A decoder then sees the pictures alone: libavif refuses a picture because of the metadata of its map.
        """
        maps = [item for item in self.items.values() if item.kind == TONE_MAP]
        if not maps:
            return self.data
        data = bytearray(self.data)
        for item in maps:
            data[item.name : item.name + 4] = b"skip"
        for at in range(8, min(int.from_bytes(data[:4], "big"), 256) - 3, 4):
            if data[at : at + 4] == TONE_MAP:
                data[at : at + 4] = b"mif1"
        return bytes(data)

    def with_primary(self, number: int) -> bytes:
        """Return the file whose picture is another item, not hidden and not auxiliary, for a decoder of pictures."""
        at, width = self.primary_at
        data = bytearray(self.without_tone_maps())
        if number >= 1 << 8 * width:
            raise FormatError(f"item {number} has a number of more than {8 * width} bits")
        data[at : at + width] = number.to_bytes(width, "big")
        data[self.items[number].flags] &= 0xFE
        for kind, own, place in self.references:
            if kind == b"auxl" and own == number:
                data[place : place + 4] = b"cdsc"  # a reference that describes: no decoder follows it
        return bytes(data)


def parse(data: bytes) -> Items:
    """Read the descriptions of all items; FormatError if they are missing, damaged or too many."""
    try:
        return _parsed(data)
    except (struct.error, IndexError) as error:
        raise FormatError("the descriptions of its pictures are cut short") from error


def _boxes(data: bytes, start: int, end: int) -> Iterator[_Box]:
    """Yield (type, start, end) of the content of each box between two places."""
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            return
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        head = 8
        if length == 1:
            (length,) = struct.unpack(">Q", data[start + 8 : start + 16])
            head = 16
        elif length == 0:
            length = end - start
        if not head <= length <= end - start:
            raise FormatError(f"the box at byte {start} has {length} bytes, of which {end - start} are there")
        yield kind, start + head, start + length
        start += length
    raise FormatError(f"it has more than {_MOST_BOXES} boxes")


def _parsed(data: bytes) -> Items:
    meta = next(((start, end) for kind, start, end in _boxes(data, 0, len(data)) if kind == b"meta"), None)
    if meta is None:
        raise FormatError("it has no box meta, which describes its pictures")
    if meta[1] - meta[0] > _MOST_BYTES:
        raise FormatError(f"its box meta has {meta[1] - meta[0]} bytes")
    found: dict[bytes, tuple[int, int]] = {}
    for kind, start, end in _boxes(data, meta[0] + 4, meta[1]):
        found.setdefault(kind, (start, end))
    for name in (b"pitm", b"iinf", b"iloc", b"iprp"):
        if name not in found:
            raise FormatError(f"it has no box {name.decode()}")
    at = found[b"pitm"][0]
    width = 4 if data[at] else 2
    primary = _number(data, at + 4, width)
    items = dict(_infos(data, *found[b"iinf"]))
    _put_places(data, *found[b"iloc"], items)
    _put_properties(data, *found[b"iprp"], items)
    references = list(_references(data, *found[b"iref"], items)) if b"iref" in found else []
    if primary not in items:
        raise FormatError(f"its picture is item {primary}, which is missing")
    return Items(data, primary, (at + 4, width), items, references, found.get(b"idat", (0, 0)))


def _number(data: bytes, at: int, width: int) -> int:
    """Return a number of ``width`` bytes; IndexError if they are not there."""
    if at + width > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + width], "big")


def _counted(count: int, name: str) -> range:
    if count > _MOST_BOXES:
        raise FormatError(f"it has {count} {name}, more than any picture")
    return range(count)


def _infos(data: bytes, start: int, end: int) -> Iterator[tuple[int, Item]]:
    """Yield (number, item) of the box iinf; versions of infe before 2 have no types, and are left out."""
    first = start + (8 if data[start] else 6)
    for kind, at, stop in _boxes(data, first, end):
        version = data[at]
        if kind != b"infe" or version < 2:
            continue
        width = 2 if version == 2 else 4
        number, after = _number(data, at + 4, width), at + 4 + width + 2
        mime = b""
        if data[after : after + 4] == b"mime":
            mime = data[after + 4 : stop].split(b"\0")[1:2][0] if b"\0" in data[after + 4 : stop] else b""
        yield number, Item(data[after : after + 4], mime, at + 3, after)


def _put_places(data: bytes, start: int, end: int, items: dict[int, Item]) -> None:
    """Read the box iloc (14496-12, 8.11.3)."""
    version = data[start]
    if version > 2:
        raise FormatError(f"its box iloc has the version {version}")
    offset_size, length_size = data[start + 4] >> 4, data[start + 4] & 15
    base_size, index_size = data[start + 5] >> 4, data[start + 5] & 15 if version else 0
    if not {offset_size, length_size, base_size, index_size} <= {0, 4, 8}:
        raise FormatError("its box iloc has numbers of odd sizes")
    wide = 4 if version == 2 else 2
    at = start + 6 + wide
    for _ in _counted(_number(data, start + 6, wide), "items"):
        number, at = _number(data, at, wide), at + wide
        method = 0
        if version:
            method, at = _number(data, at, 2) & 15, at + 2
        base, at = _number(data, at + 2, base_size), at + 2 + base_size
        count, at = _number(data, at, 2), at + 2
        if count > _MOST_EXTENTS:
            raise FormatError(f"item {number} has {count} pieces")
        places = []
        for _ in range(count):
            at += index_size
            offset, at = base + _number(data, at, offset_size), at + offset_size
            length, at = _number(data, at, length_size), at + length_size
            places.append((offset, offset + length if length else len(data)))
        if at > end:
            raise FormatError("its box iloc is cut short")
        if number in items and method < 2:  # 2: inside another item, which no camera writes
            items[number].inside, items[number].places = method == 1, places


def _put_properties(data: bytes, start: int, end: int, items: dict[int, Item]) -> None:
    """Read the box iprp (23008-12, 9.3): properties, and the associations of items with them."""
    kinds: dict[bytes, list[tuple[int, int]]] = {}
    for kind, first, last in _boxes(data, start, end):
        kinds.setdefault(kind, []).append((first, last))
    properties: list[tuple[bytes, bytes]] = []
    for first, last in kinds.get(b"ipco", [])[:1]:
        properties = [(kind, data[inner:stop]) for kind, inner, stop in _boxes(data, first, last)]
    left = _MOST_BOXES
    for first, last in kinds.get(b"ipma", []):
        long_number, long_index = data[first], data[first + 3] & 1
        at = first + 8
        for _ in _counted(_number(data, first + 4, 4), "items with properties"):
            width = 4 if long_number else 2
            number, count, at = _number(data, at, width), _number(data, at + width, 1), at + width + 1
            left -= count
            if left < 0 or at > last:
                raise FormatError("its box ipma is cut short, or has too many entries")
            for _ in range(count):
                step = 2 if long_index else 1
                index, at = _number(data, at, step) & (0x7FFF if long_index else 0x7F), at + step
                if number in items and 1 <= index <= len(properties):
                    items[number].properties.append(properties[index - 1])


def _references(data: bytes, start: int, end: int, items: dict[int, Item]) -> Iterator[tuple[bytes, int, int]]:
    """Read the box iref (14496-12, 8.11.12): put the targets into the items, yield (type, from, place of the type)."""
    width = 4 if data[start] else 2
    left = _MOST_BOXES
    for kind, at, stop in _boxes(data, start + 4, end):
        own, count = _number(data, at, width), _number(data, at + width, 2)
        left -= count
        if left < 0 or at + width * (count + 1) + 2 > stop:
            raise FormatError("its box iref is cut short, or has too many references")
        first = at + width + 2
        targets = tuple(_number(data, first + width * index, width) for index in range(count))
        if own in items:
            items[own].targets[kind] = items[own].targets.get(kind, ()) + targets
        yield kind, own, at - 4
