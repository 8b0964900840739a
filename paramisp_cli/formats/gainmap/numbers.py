"""The numbers of a gain map: read from Adobe's XMP, from the block of ISO 21496-1 or from Apple's tags, and checked."""

from __future__ import annotations

import math
import struct
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats import exif
from paramisp_cli.formats.tiff import SRATIONAL, Walker

HDRGM = "{http://ns.adobe.com/hdr-gain-map/1.0/}"
MOST_STOPS = 8.0
"""Most EV of a gain and of a headroom: displays and phones reach 6, and more would leave the picture too few codes."""
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_APPLE_TYPE = "urn:com:apple:photo:2020:aux:hdrgainmap"


def parsed(xmp: bytes) -> ET.Element:
    """Parse an XMP packet; FormatError if it is damaged, or defines entities (which can grow without bounds)."""
    if b"<!" in xmp.replace(b"<!--", b""):
        raise FormatError("its XMP has a document type or CDATA, which XMP does not allow")
    try:
        return ET.fromstring(xmp.strip(b"\0 \r\n\t"))
    except (ET.ParseError, ValueError, LookupError) as error:
        raise FormatError(f"its XMP is damaged ({error})") from error


def values_of(root: ET.Element) -> dict[str, list[str]]:
    """Return the texts of all properties by qualified name: attributes, and elements with their lists (rdf:Seq)."""
    values: dict[str, list[str]] = {}
    for element in root.iter():
        for name, text in element.attrib.items():
            values.setdefault(name, [text])
        items = [item.text or "" for item in element.iter(f"{_RDF}li")]
        values.setdefault(element.tag, items or [element.text or ""])
    return values


@dataclass(frozen=True, slots=True)
class Numbers:
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


def found(blocks: dict[str, bytes], exif_block: bytes | None) -> Numbers | None:
    """Return the metadata of a second JPEG, None if it is no gain map; FormatError for absurd numbers.

    ``exif_block`` is the picture's.
    """
    xmp = None
    if "xmp" in blocks:
        try:
            xmp = values_of(parsed(blocks["xmp"]))
        except FormatError:
            if "iso" not in blocks and b"hdr-gain-map" in blocks["xmp"]:
                raise
    adobe = xmp is not None and f"{HDRGM}Version" in xmp
    if len(blocks.get("iso", b"")) > 4:  # the picture's own has versions alone
        return _checked(_of_iso(blocks["iso"], "Ultra HDR (XMP, ISO 21496-1)" if adobe else "ISO 21496-1"))
    if xmp is None:
        return None
    if adobe:
        return _checked(_of_xmp(xmp))
    if [_APPLE_TYPE] in xmp.values():
        return _checked(_of_apple(xmp, exif_block))
    return None


def of_tone_map(content: bytes) -> Numbers:
    """Return the metadata in a tone-mapping item of a HEIF file: a version, and the block of ISO 21496-1."""
    if not content or content[0]:
        raise FormatError(f"its tone-mapping item has the version {content[0] if content else 'none'}, not 0")
    return _checked(_of_iso(content[1:], "ISO 21496-1"))


def of_apple_item(packet: bytes, exif_block: bytes | None) -> Numbers:
    """Return the metadata of Apple's auxiliary picture: from its XMP, or from the MakerNote of the picture."""
    return _checked(_of_apple(values_of(parsed(packet)) if packet else {}, exif_block))


def _of_xmp(values: dict[str, list[str]]) -> Numbers:
    """Read Adobe's XMP (Ultra HDR Image Format 1.1, "HDR gain map metadata")."""

    def numbers(name: str, default: float | None) -> tuple[float, ...]:
        texts = values.get(HDRGM + name)
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

    if values.get(f"{HDRGM}BaseRenditionIsHDR", [""])[0].strip().lower() == "true":
        raise FormatError("the picture itself is the HDR rendition, which paramisp does not read")
    return Numbers(
        "Ultra HDR (XMP)",
        numbers("GainMapMin", 0.0),
        numbers("GainMapMax", None),
        numbers("Gamma", 1.0),
        numbers("OffsetSDR", 1 / 64),
        numbers("OffsetHDR", 1 / 64),
        (numbers("HDRCapacityMin", 0.0)[0], numbers("HDRCapacityMax", None)[0]),
    )


_THREE, _BASE_SPACE, _BASE_IS_HDR, _ONE_DENOMINATOR = 0x80, 0x40, 0x04, 0x08


def _of_iso(block: bytes, kind: str) -> Numbers:
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
    return Numbers(kind, low, high, gamma, base, hdr, stops, own_space=not flags & _BASE_SPACE)


def _of_apple(values: dict[str, list[str]], exif_block: bytes | None) -> Numbers:
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
        stops = apple_stops(exif_block)
    return Numbers("Apple", high=(stops,), base=(0.0,), hdr=(0.0,), stops=(0.0, stops), apple=True)


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


def _checked(numbers: Numbers) -> Numbers:
    """Return the numbers; FormatError if they make no sense."""
    names = {"low": "least gain", "high": "greatest gain", "gamma": "gamma", "base": "offset", "hdr": "offset"}
    for name, label in names.items():
        for value in getattr(numbers, name):
            if not math.isfinite(value):
                raise FormatError(f"its {label} is {value:g}, not a number that can be used")
    for label, value in zip(("headroom of the picture", "headroom"), numbers.stops, strict=True):
        if not math.isfinite(value) or not 0 <= value <= MOST_STOPS:
            raise FormatError(f"its {label} is {value:g} EV, not between 0 and {MOST_STOPS:g}")
    if numbers.stops[0] > numbers.stops[1]:
        raise FormatError("the picture itself is the HDR rendition, which paramisp does not read")
    if max(map(abs, (*numbers.low, *numbers.high))) > MOST_STOPS:
        raise FormatError(f"its gains reach {max(numbers.high):g} EV, more than the {MOST_STOPS:g} of any display")
    if min(numbers.gamma) < 1e-3 or max(numbers.gamma) > 1e3:
        raise FormatError(f"its gamma is {min(numbers.gamma):g}, not between 0.001 and 1000")
    if max(map(abs, (*numbers.base, *numbers.hdr))) > 1:
        raise FormatError("its offsets are above 1, the picture's white")
    lows, highs = (np.broadcast_to(np.asarray(values), 3) for values in (numbers.low, numbers.high))
    if (lows > highs).any():
        raise FormatError(f"its least gain, {max(numbers.low):g} EV, is above its greatest, {min(numbers.high):g} EV")
    return numbers
