"""Gain maps in JPEGs: the light above white that a phone stores behind the picture. Read-only, every bound checked.

A gain map is a second, small JPEG in the same file. It tells how much brighter than the picture each place of the HDR
rendition is. Three kinds of metadata describe it, all read here:

* Adobe's and Google's XMP (Ultra HDR Image Format 1.1, namespace hdrgm);
* the binary block of ISO 21496-1 in an APP2 segment, which counts if both are there;
* Apple's XMP (HDRGainMap), whose older version leaves the headroom to two tags of the MakerNote.

The second JPEG is found by the index of CIPA DC-007 (MPF), or by the lengths in Container:Directory of the picture's
XMP, never by a search for markers: thumbnails look alike.

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
from paramisp_cli.formats import exif, icc
from paramisp_cli.formats.jpeg import exif_block, frame_size, placed_segments, segments
from paramisp_cli.formats.raster_read import decode_plain
from paramisp_cli.formats.tiff import SRATIONAL, Walker

_APP1, _APP2 = 0xE1, 0xE2
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MPF = b"MPF\0"
_ISO = b"urn:iso:std:iso:ts:21496:-1\0"
_ICC = b"ICC_PROFILE\0"
_HDRGM = "{http://ns.adobe.com/hdr-gain-map/1.0/}"
_CONTAINER = "{http://ns.google.com/photos/1.0/container/}"
_ITEM = "{http://ns.google.com/photos/1.0/container/item/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_APPLE_TYPE = "urn:com:apple:photo:2020:aux:hdrgainmap"
_MOST_PICTURES = 64
"""Most pictures of an index that are read; real files have up to five."""
_MOST_STOPS = 8.0
"""Most EV of a gain and of a headroom: displays and phones reach 6, and more would leave the picture too few codes."""
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


def find(jpeg: bytes, max_pixels: int) -> GainMap | None:
    """Return the gain map behind a JPEG; None if the file has none.

    FormatError if the file announces a gain map that is missing, damaged, absurd, larger than the picture or than
    ``max_pixels``, or of a kind that paramisp does not know.
    """
    announced, starts = _index(jpeg)
    reason = "it is missing: a program that edited or sent the picture removed it"
    for start, end in starts:
        second = jpeg[start:end]
        if second[:3] != b"\xff\xd8\xff":
            reason = f"there is no JPEG at byte {start}, where it should begin"
            continue
        blocks = _blocks(second)
        numbers = _numbers(blocks, jpeg)
        if numbers is None:
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
        return _made(numbers, pixels, _space(jpeg, second, numbers))
    if announced:
        raise FormatError(reason)
    return None


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
                root = _parsed(content[len(_XMP) :])
            except FormatError:
                continue  # the XMP of a picture may be anything
            announced = announced or f"{_HDRGM}Version" in _values(root)
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


def _parsed(xmp: bytes) -> ET.Element:
    """Parse an XMP packet; FormatError if it is damaged, or defines entities (which can grow without bounds)."""
    if b"<!" in xmp.replace(b"<!--", b""):
        raise FormatError("its XMP has a document type or CDATA, which XMP does not allow")
    try:
        return ET.fromstring(xmp.strip(b"\0 \r\n\t"))
    except (ET.ParseError, ValueError, LookupError) as error:
        raise FormatError(f"its XMP is damaged ({error})") from error


def _values(root: ET.Element) -> dict[str, list[str]]:
    """Return the texts of all properties by qualified name: attributes, and elements with their lists (rdf:Seq)."""
    values: dict[str, list[str]] = {}
    for element in root.iter():
        for name, text in element.attrib.items():
            values.setdefault(name, [text])
        items = [item.text or "" for item in element.iter(f"{_RDF}li")]
        values.setdefault(element.tag, items or [element.text or ""])
    return values


# Numbers -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The metadata of a map: one value, or three, for each field of ``channels`` (log2, gamma, offsets)."""

    kind: str
    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (1.0,)
    gamma: tuple[float, ...] = (1.0,)
    base: tuple[float, ...] = (1 / 64,)
    hdr: tuple[float, ...] = (1 / 64,)
    stops: tuple[float, float] = (0.0, 1.0)
    """Headrooms [EV] of the picture and of the HDR rendition."""
    own_space: bool = False
    """Whether the gains apply in the colour space of the map's own profile."""
    apple: bool = False


def _numbers(blocks: dict[str, bytes], jpeg: bytes) -> _Numbers | None:
    """Return the metadata of a second JPEG, None if it is no gain map; FormatError for absurd numbers."""
    xmp = None
    if "xmp" in blocks:
        try:
            xmp = _values(_parsed(blocks["xmp"]))
        except FormatError:
            if "iso" not in blocks and b"hdr-gain-map" in blocks["xmp"]:
                raise
    adobe = xmp is not None and f"{_HDRGM}Version" in xmp
    if len(blocks.get("iso", b"")) > 4:  # the picture's own has versions alone
        return _checked(_of_iso(blocks["iso"], "Ultra HDR (XMP, ISO 21496-1)" if adobe else "ISO 21496-1"))
    if xmp is None:
        return None
    if adobe:
        return _checked(_of_xmp(xmp))
    if [_APPLE_TYPE] in xmp.values():
        return _checked(_of_apple(xmp, jpeg))
    return None


def _of_xmp(values: dict[str, list[str]]) -> _Numbers:
    """Read Adobe's XMP (Ultra HDR Image Format 1.1, "HDR gain map metadata")."""

    def numbers(name: str, default: float | None) -> tuple[float, ...]:
        texts = values.get(_HDRGM + name)
        if texts is None:
            if default is None:
                raise FormatError(f"its XMP has no hdrgm:{name}")
            return (default,)
        try:
            found = tuple(float(text) for text in texts)
        except ValueError as error:
            raise FormatError(f"hdrgm:{name} is {', '.join(texts)[:40]!r}, not a number") from error
        if len(found) not in (1, 3):
            raise FormatError(f"hdrgm:{name} has {len(found)} numbers instead of 1 or 3")
        return found

    if values.get(f"{_HDRGM}BaseRenditionIsHDR", [""])[0].strip().lower() == "true":
        raise FormatError("the picture itself is the HDR rendition, which paramisp does not read")
    return _Numbers(
        "Ultra HDR (XMP)",
        numbers("GainMapMin", 0.0),
        numbers("GainMapMax", None),
        numbers("Gamma", 1.0),
        numbers("OffsetSDR", 1 / 64),
        numbers("OffsetHDR", 1 / 64),
        (numbers("HDRCapacityMin", 0.0)[0], numbers("HDRCapacityMax", None)[0]),
    )


_THREE, _BASE_SPACE, _BASE_IS_HDR, _ONE_DENOMINATOR = 0x80, 0x40, 0x04, 0x08


def _of_iso(block: bytes, kind: str) -> _Numbers:
    """Read the binary block of ISO 21496-1 (big-endian)."""
    try:
        version, _, flags = struct.unpack(">HHB", block[:5])
        if version:
            raise FormatError(f"it needs a reader of version {version} of ISO 21496-1; paramisp reads version 0")
        if flags & _BASE_IS_HDR:
            raise FormatError("the picture itself is the HDR rendition, which paramisp does not read")
        at, common = 5, 0
        if flags & _ONE_DENOMINATOR:
            (common,) = struct.unpack(">I", block[5:9])
            at = 9

        def fraction(letter: str) -> float:
            nonlocal at
            size = 4 if common else 8
            over, under = (*struct.unpack(f">{letter}", block[at : at + 4]), common)
            if not flags & _ONE_DENOMINATOR:
                over, under = struct.unpack(f">{letter}I", block[at : at + 8])
            at += size
            return over / under if under else math.nan

        if flags & _ONE_DENOMINATOR and not common:
            raise FormatError("its ISO 21496-1 block has the denominator 0")
        stops = fraction("I"), fraction("I")
        channels = [tuple(fraction(letter) for letter in "iiIii") for _ in range(3 if flags & _THREE else 1)]
    except struct.error as error:
        raise FormatError(f"its ISO 21496-1 block of {len(block)} bytes is cut short") from error
    low, high, gamma, base, hdr = zip(*channels, strict=True)
    return _Numbers(kind, low, high, gamma, base, hdr, stops, own_space=not flags & _BASE_SPACE)


def _of_apple(values: dict[str, list[str]], jpeg: bytes) -> _Numbers:
    """Read Apple's XMP, and the MakerNote of the picture if the XMP tells no headroom."""
    texts = next((texts for name, texts in values.items() if name.endswith("}HDRGainMapHeadroom")), None)
    if texts is not None:
        try:
            headroom = float(texts[0])
        except ValueError as error:
            raise FormatError(f"HDRGainMapHeadroom is {texts[0][:40]!r}, not a number") from error
        if not (math.isfinite(headroom) and headroom > 0):
            raise FormatError(f"HDRGainMapHeadroom is {headroom:g}, not a positive number")
        stops = max(math.log2(headroom), 0.0)
    else:
        stops = apple_stops(exif_block(jpeg))
    return _Numbers("Apple", high=(stops,), base=(0.0,), hdr=(0.0,), stops=(0.0, stops), apple=True)


def apple_stops(block: bytes | None) -> float:
    """Return the headroom [EV] by the tags 33 (HDRHeadroom) and 48 (HDRGain) of Apple's MakerNote in an EXIF block.

    The formula is Apple's ("Applying Apple HDR effect to your photos"). FormatError without the tags.
    """
    try:
        note = exif.parse(block or b"").exif.get(0x927C)
    except FormatError:
        note = None
    if note is None or not note.data.startswith(b"Apple iOS\0"):
        raise FormatError("its headroom is unknown: the picture has no MakerNote by Apple")
    # A header of TIFF in place of the first letters: offsets count from the beginning of the note.
    entries = Walker(b"MM\0*" + struct.pack(">I", 14) + note.data[8:]).ifd(14)[0]
    found = []
    for tag in (33, 48):
        entry = entries.get(tag)
        value = entry.values()[0] if entry is not None and entry.type == SRATIONAL else math.nan
        if not math.isfinite(value):
            raise FormatError(f"its headroom is unknown: tag {tag} of Apple's MakerNote is missing or no number")
        found.append(float(value))
    headroom, gain = found
    if headroom < 1:
        stops = 1.8 - 20 * gain if gain <= 0.01 else 1.601 - 0.101 * gain
    else:
        stops = 3.0 - 70 * gain if gain <= 0.01 else 2.303 - 0.303 * gain
    return max(stops, 0.0)


def _checked(numbers: _Numbers) -> _Numbers:
    """Return the numbers; FormatError if they make no sense."""
    names = {"low": "least gain", "high": "greatest gain", "gamma": "gamma", "base": "offset", "hdr": "offset"}
    for name, label in names.items():
        for value in getattr(numbers, name):
            if not math.isfinite(value):
                raise FormatError(f"its {label} is {value:g}, not a number that can be used")
    for label, value in zip(("headroom of the picture", "headroom"), numbers.stops, strict=True):
        if not math.isfinite(value) or not 0 <= value <= _MOST_STOPS:
            raise FormatError(f"its {label} is {value:g} EV, not between 0 and {_MOST_STOPS:g}")
    if max(map(abs, (*numbers.low, *numbers.high))) > _MOST_STOPS:
        raise FormatError(f"its gains reach {max(numbers.high):g} EV, more than the {_MOST_STOPS:g} of any display")
    if min(numbers.gamma) < 1e-3 or max(numbers.gamma) > 1e3:
        raise FormatError(f"its gamma is {min(numbers.gamma):g}, not between 0.001 and 1000")
    if max(map(abs, (*numbers.base, *numbers.hdr))) > 1:
        raise FormatError("its offsets are above 1, the picture's white")
    lows, highs = (np.broadcast_to(np.asarray(values), 3) for values in (numbers.low, numbers.high))
    if (lows > highs).any():
        raise FormatError(f"its least gain, {max(numbers.low):g} EV, is above its greatest, {min(numbers.high):g} EV")
    return numbers


def _space(jpeg: bytes, second: bytes, numbers: _Numbers) -> np.ndarray:
    """Return (3, 3) linear RGB in which the gains apply → linear sRGB: the picture's space, or the map's own."""
    return icc.to_srgb_matrix(_blocks(second if numbers.own_space else jpeg).get("icc"))


def _made(numbers: _Numbers, pixels: np.ndarray, to_srgb: np.ndarray) -> GainMap:
    """Make the map from checked numbers and decoded pixels."""
    if pixels.ndim == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., 0]  # a grey map in three channels
    code = np.linspace(0, 1, 255 * _FINE + 1)
    if numbers.apple:
        decoded = np.where(code < 0.081, code / 4.5, ((code + 0.099) / 1.099) ** (1 / 0.45))  # Rec. 709
        table = (1 + (2.0 ** numbers.high[0] - 1) * decoded)[None]
    else:
        triples = zip(*np.broadcast_arrays(numbers.low, numbers.high, numbers.gamma), strict=True)
        table = np.array([2.0 ** (code ** (1 / gamma) * (high - low) + low) for low, high, gamma in triples])
    offsets = np.array(np.broadcast_arrays(numbers.base, numbers.hdr))
    if (table == table[:1]).all() and (offsets == offsets[:, :1]).all():
        table, offsets = table[:1], offsets[:, :1]  # equal numbers for all channels
    headroom = min(numbers.stops[1] - numbers.stops[0], max(numbers.high))
    return GainMap(
        numbers.kind, np.ascontiguousarray(pixels), table.astype(np.float32), offsets, max(headroom, 0.0), to_srgb
    )
