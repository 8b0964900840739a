"""Gain maps in JPEGs, HEIC and AVIF: the light above white that a phone stores. Reading checks every bound.

A gain map is a second, small JPEG in the same file. It tells how much brighter than the picture each place of the HDR
rendition is. Three kinds of metadata describe it, all read here:

* Adobe's and Google's XMP (Ultra HDR Image Format 1.1, namespace hdrgm);
* the binary block of ISO 21496-1 in an APP2 segment, which counts if both are there;
* Apple's XMP (HDRGainMap), whose older version leaves the headroom to two tags of the MakerNote.

The second JPEG is found by the index of CIPA DC-007 (MPF), or by the lengths in Container:Directory of the picture's
XMP, never by a search for markers: thumbnails look alike.

In HEIC and AVIF the map is an item of the file. An item of the type "tmap" joins it with the picture and has the block
of ISO 21496-1, or the map is an auxiliary picture with Apple's name.

The HDR rendition of the first two: H = (S + k_base) · 2^(g^(1/gamma) · (max − min) + min) − k_hdr; of Apple's:
H = S · (1 + (headroom − 1) · decoded(g)). S and H are linear light, the picture's white is 1, g is the map in [0, 1].
"""

from __future__ import annotations

import math
import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats import icc, items
from paramisp_cli.formats.gainmap import numbers
from paramisp_cli.formats.jpeg import exif_block, frame_size, placed_segments, segments
from paramisp_cli.formats.kinds import JPEG_MAGIC
from paramisp_cli.formats.raster_read import decode_item, decode_plain
from paramisp_cli.formats.tiff import Walker

_APP1, _APP2 = 0xE1, 0xE2
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MPF = b"MPF\0"
_ISO = b"urn:iso:std:iso:ts:21496:-1\0"
_ICC = b"ICC_PROFILE\0"
_CONTAINER = "{http://ns.google.com/photos/1.0/container/}"
_ITEM = "{http://ns.google.com/photos/1.0/container/item/}"
_MOST_PICTURES = 64
"""Most pictures of an index that are read; real files have up to five."""
_LEAST = 0.01
"""Headroom [EV] below which a map holds no highlights."""
_FINE = 16
"""Entries of the table of gains between two codes of the map: at 8 EV a step is 0.002 EV."""


@dataclass(frozen=True, slots=True, eq=False)
class GainMap:
    """A gain map, decoded: the brightness of the HDR rendition beside the picture.

    kind         the metadata it was read by: "Ultra HDR (XMP)", "Ultra HDR (XMP, ISO 21496-1)", "ISO 21496-1", "Apple"
    pixels       (h, w) or (h, w, 3) uint8, orientation as the picture's
    table        (1 or 3, 4081) float32: linear gain by code, in sixteenths of a code
    offsets      (2, 1 or 3): k_base and k_hdr
    headroom     EV between the picture's white and the brightest white of the HDR rendition; 0: no highlights
    to_srgb      (3, 3) linear RGB in which the gains apply → linear sRGB
    """

    kind: str
    pixels: np.ndarray
    table: np.ndarray
    offsets: np.ndarray
    headroom: float
    to_srgb: np.ndarray

    @property
    def channels(self) -> int:
        """Number of different channels: 1 or 3."""
        return 1 if self.pixels.ndim == 2 and len(self.table) == 1 else 3

    @property
    def has_highlights(self) -> bool:
        """Tell whether the map holds light above the picture's white."""
        return self.headroom >= _LEAST

    def __str__(self) -> str:
        height, width = self.pixels.shape[:2]
        plural = "s" if self.channels > 1 else ""
        return f"{self.kind}, {width} × {height}, {self.channels} channel{plural}, {self.headroom:.2g} EV"

    def gain(self, rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return the linear gains (r, c), or (r, c, 3) of three channels, at rows (r,) and columns (c,) of the picture.

        ``size`` is the picture's (height, width). Codes are interpolated bilinearly between the centres of the map's
        pixels, before the table, as the formats prescribe.
        """
        height, width = self.pixels.shape[:2]
        (top, below, y), (left, right, x) = _between(rows, size[0], height), _between(columns, size[1], width)
        if self.pixels.ndim == 3:
            x = x[:, None]
        y = y.reshape(-1, *(1,) * (self.pixels.ndim - 1))
        lines = []
        for row in (top, below):
            line = self.pixels[row].astype(np.float32)
            lines.append(line[:, left] * (1 - x) + line[:, right] * x)
        codes = lines[0] * (1 - y) + lines[1] * y
        codes *= np.float32(_FINE)
        index = np.rint(codes).astype(np.intp)
        if self.channels == 1:
            gains: np.ndarray = self.table[0].take(index)
            return gains
        if index.ndim == 2:  # one map, and numbers for each channel
            index = np.repeat(index[..., None], 3, axis=2)
        tables = np.broadcast_to(self.table, (3, self.table.shape[1]))
        return np.stack([tables[channel].take(index[..., channel]) for channel in range(3)], -1)

    def light(self, linear: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return the HDR rendition (r, c, 3) float32, linear sRGB, white of the picture 1, not below 0.

        ``linear`` (r, c, 3) float32 is the picture's linear sRGB in [0, 1] at these rows and columns.
        """
        gains = self.gain(rows, columns, size)
        base, hdr = self.offsets.astype(np.float32)
        if self.channels == 1:  # a matrix that keeps white commutes with one gain for all channels
            light = (linear + base) * gains[..., None] - hdr
        else:
            matrix = self.to_srgb.astype(np.float32)
            light = (linear @ np.linalg.inv(matrix).T + base) * gains - hdr
            light = light @ matrix.T
        brighter: np.ndarray = np.maximum(light, 0)
        return brighter


def _between(positions: np.ndarray, size: int, small: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two neighbours in a map of ``small`` pixels of positions among ``size``, and the second's weight."""
    place = np.clip((positions + 0.5) * (small / size) - 0.5, 0, small - 1)
    first = place.astype(np.intp)
    return first, np.minimum(first + 1, small - 1), (place - first).astype(np.float32)


def find(data: bytes, max_pixels: int) -> GainMap | None:
    """Return the gain map in a JPEG, HEIC or AVIF file; None if the file has none.

    FormatError if the file announces a gain map that is missing, damaged, absurd, larger than the picture or than
    ``max_pixels``, or of a kind that paramisp does not know.
    """
    return _find_behind(data, max_pixels) if data[:3] == JPEG_MAGIC else _find_item(data, max_pixels)


def _find_behind(jpeg: bytes, max_pixels: int) -> GainMap | None:
    announced, starts = _index(jpeg)
    reason = "it is missing: a program that edited or sent the picture removed it"
    for start, end in starts:
        second = jpeg[start:end]
        if second[:3] != b"\xff\xd8\xff":
            reason = f"there is no JPEG at byte {start}, where it should begin"
            continue
        blocks = _blocks(second)
        facts = numbers.found(blocks, exif_block(jpeg))
        if facts is None:
            continue  # a preview, a depth map, the other eye
        if end > len(jpeg):
            raise FormatError(f"the file ends at byte {len(jpeg)}, the gain map at byte {end}: the file is cut short")
        most = min(max_pixels, math.prod(frame_size(jpeg) or (0, 0)))
        height, width = frame_size(second) or (0, 0)
        if height * width > most:
            raise FormatError(f"it claims {width}×{height} pixels, more than the picture has")
        try:
            pixels = decode_plain(second, most)
        except FormatError as error:
            raise FormatError(f"its pixels cannot be read: {error}") from error
        return _made(facts, pixels, _space(jpeg, second, facts))
    if announced:
        raise FormatError(reason)
    return None


_MOST_METADATA = 1 << 20
"""Most bytes of the metadata of a map."""
_MOST_EXIF = 1 << 26


def _find_item(data: bytes, max_pixels: int) -> GainMap | None:
    file = items.parse(data)
    picture = file.items[file.primary]
    joining = [each for each in file.referring(b"dimg", file.primary) if file.items[each].kind == items.TONE_MAP]
    if joining:
        number, item = joining[0], file.items[joining[0]]
        inputs = item.targets[b"dimg"]
        if len(inputs) != 2 or inputs[0] != file.primary or inputs[1] == file.primary:
            raise FormatError(f"its tone-mapping item joins the items {', '.join(map(str, inputs))}, not two pictures")
        facts, second = numbers.of_tone_map(file.content(number, _MOST_METADATA)), inputs[1]
        profile, codes = (item if facts.own_space else picture).colour
    else:
        others = file.referring(b"auxl", file.primary)
        named = [each for each in others if file.items[each].is_apples_map]
        if not named:
            return None
        second = named[0]
        facts = numbers.of_apple_item(_packet(file, second), _exif(file))
        profile, codes = picture.colour
    _check_item(file, second, min(max_pixels, math.prod(picture.size)))
    try:
        pixels = decode_item(file, second, max_pixels)
    except FormatError as error:
        raise FormatError(f"its pixels cannot be read: {error}") from error
    space = icc.to_srgb_matrix(profile) if profile else icc.codes_to_srgb_matrix(codes[0] if codes else 1)
    return _made(facts, pixels, space)


def _check_item(file: items.Items, number: int, most: int) -> None:
    """Raise FormatError unless an item is a coded picture, or a grid of coded pictures, of at most ``most`` pixels."""
    item = file.items.get(number)
    if item is None:
        raise FormatError(f"it is item {number}, which is missing: a program that edited the picture removed it")
    tiles = item.targets.get(b"dimg", ()) if item.kind == items.GRID else (number,)
    for tile in tiles:
        if tile not in file.items or file.items[tile].kind not in items.CODED:
            raise FormatError(f"item {tile} of the map is no coded picture")
    height, width = item.size
    if not 0 < height * width <= most:
        raise FormatError(f"it claims {width}×{height} pixels, more than the picture has or none")


def _packet(file: items.Items, number: int) -> bytes:
    """Return the XMP of an item, empty without one."""
    found = [each for each in file.referring(b"cdsc", number) if file.items[each].mime == b"application/rdf+xml"]
    return file.content(found[0], _MOST_METADATA) if found else b""


def _exif(file: items.Items) -> bytes | None:
    """Return the EXIF block of the picture: an offset, then bytes that hold the block (23008-12, annex A)."""
    found = [each for each in file.referring(b"cdsc", file.primary) if file.items[each].kind == b"Exif"]
    content = file.content(found[0], _MOST_EXIF) if found else b""
    return content[4 + int.from_bytes(content[:4], "big") :] or None


# Finding -------------------------------------------------------------------------------------------------------------


def _index(jpeg: bytes) -> tuple[bool, list[tuple[int, int]]]:
    """Return (whether the picture announces a gain map, the places (start, end) of the further pictures, best first).

    A place lies inside the file, but its end may not.
    """
    announced = False
    by_index: list[tuple[int, int]] = []
    by_directory: list[tuple[int, int]] = []
    for marker, at, content in placed_segments(jpeg):
        if marker == _APP2 and content.startswith(_ISO):
            announced = True
        elif marker == _APP2 and content.startswith(_MPF):
            by_index += _by_index(content[4:], at + 4)
        elif marker == _APP1 and content.startswith(_XMP):
            try:
                root = numbers.parsed(content[len(_XMP) :])
            except FormatError:
                continue  # the XMP of a picture may be anything
            announced = announced or f"{numbers.HDRGM}Version" in numbers.values_of(root)
            places = list(_by_directory(root, len(jpeg)))
            announced = announced or bool(places)
            by_directory += places
    inside = [(start, end) for start, end in (*by_index, *by_directory) if 0 < start < len(jpeg) and end > start]
    return announced, list(dict.fromkeys(inside))


def _by_index(block: bytes, at: int) -> list[tuple[int, int]]:
    """Return the places of the further pictures in a Multi-Picture index (CIPA DC-007, 5.2.3); ``at`` is its place."""
    try:
        walker = Walker(block)
    except FormatError:
        return []
    entry = walker.ifd(walker.first)[0].get(0xB002)
    if entry is None:
        return []
    records = entry.data[16 : 16 * _MOST_PICTURES]  # the first is the picture itself
    order = walker.order
    places = []
    for _, size, offset, *_ in struct.iter_unpack(f"{order}IIIHH", records[: len(records) // 16 * 16]):
        places.append((at + offset, at + offset + size))
    return places


def _by_directory(root: ET.Element, length: int) -> Iterator[tuple[int, int]]:
    """Yield the places of gain maps by the lengths in Container:Directory; the last item ends where the file ends."""

    def property_of(element: ET.Element, name: str) -> str | None:
        child = element.find(_ITEM + name)
        return element.get(_ITEM + name) or (child.text if child is not None else None)

    items = []
    for element in root.iter():
        semantic = property_of(element, "Semantic") if element.tag.startswith(_CONTAINER) else None
        if semantic:
            items.append((semantic, _whole(property_of(element, "Length")), _whole(property_of(element, "Padding"))))
    end = length
    for semantic, size, padding in reversed(items[:_MOST_PICTURES]):
        end -= size + padding
        if semantic == "GainMap":
            yield end, end + size


def _whole(text: str | None) -> int:
    """Return a whole number of at most 12 digits, else 0."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= 12 else 0


def _blocks(second: bytes) -> dict[str, bytes]:
    """Return the blocks of a second JPEG: "iso", "xmp" and "icc" (of one segment)."""
    blocks: dict[str, bytes] = {}
    for marker, content in segments(second):
        if marker == _APP2 and content.startswith(_ISO):
            blocks.setdefault("iso", content[len(_ISO) :])
        elif marker == _APP2 and content.startswith(_ICC):
            blocks.setdefault("icc", content[len(_ICC) + 2 :])
        elif marker == _APP1 and content.startswith(_XMP):
            blocks.setdefault("xmp", content[len(_XMP) :])
    return blocks


def _space(jpeg: bytes, second: bytes, facts: numbers.Numbers) -> np.ndarray:
    """Return (3, 3) linear RGB in which the gains apply → linear sRGB: the picture's space, or the map's own."""
    return icc.to_srgb_matrix(_blocks(second if facts.own_space else jpeg).get("icc"))


def _made(facts: numbers.Numbers, pixels: np.ndarray, to_srgb: np.ndarray) -> GainMap:
    """Make the map from checked numbers and decoded pixels."""
    if pixels.ndim == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., 0]  # a grey map in three channels
    code = np.linspace(0, 1, 255 * _FINE + 1)
    if facts.apple:
        decoded = np.where(code < 0.081, code / 4.5, ((code + 0.099) / 1.099) ** (1 / 0.45))  # Rec. 709
        table = (1 + (2.0 ** facts.high[0] - 1) * decoded)[None]
    else:
        triples = zip(*np.broadcast_arrays(facts.low, facts.high, facts.gamma), strict=True)
        table = np.array([2.0 ** (code ** (1 / gamma) * (high - low) + low) for low, high, gamma in triples])
    offsets = np.array(np.broadcast_arrays(facts.base, facts.hdr))
    if (table == table[:1]).all() and (offsets == offsets[:, :1]).all():
        table, offsets = table[:1], offsets[:, :1]  # equal numbers for all channels
    headroom = min(facts.stops[1] - facts.stops[0], max(facts.high))
    return GainMap(
        facts.kind, np.ascontiguousarray(pixels), table.astype(np.float32), offsets, max(headroom, 0.0), to_srgb
    )
