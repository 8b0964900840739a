"""EXIF: its IFDs, the values that paramisp reads from them, and a small clean EXIF block to write.

Two readers share the work. piexif decides the values of the tags that it knows (make, model, exposure, orientation,
colour space, …) in every block whose structure is sound. The walker in ``tiff`` decides all else:

* whether the structure is sound. piexif raises at the first damaged entry, uses the last of two equal tags, and trusts
  counts (a count of 4 billion allocates 4 GB), so it reads only blocks that the walker found complete and in bounds;
* the values in a block that is not sound, in texts without the final NUL (piexif drops their last letter), of tags
  unknown to piexif, of the types IFD (13) and UTF-8 (129), in MakerNotes, and in whole files;
* the types, counts and verbatim bytes of all entries, for copying. piexif returns only values, and must never write:
  load and dump damage the MakerNote of many real files.

On sound blocks both give the same values (a test compares them on all real files). Absurd values are left out, with a
note. Tag numbers are from Exif 2.32 and TIFF/EP, MakerNote tags from exiftool's documented tables. Floats are float64.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats.tiff import (
    ASCII,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    TYPES,
    UNDEFINED,
    UTF8,
    Entry,
    Ifd,
    Walker,
    decoded_text,
    directory,
    long,
)
from paramisp_cli.types import Camera, Notice, OpticalParams

_EXIF_PREFIX = b"Exif\0\0"
_LARGEST_BLOCK = 1 << 18  # bytes; a JPEG holds 64 kB, and larger ones are whole files
_EXIF_IFD, _GPS_IFD, _INTEROP_IFD, _MAKER_NOTE = 0x8769, 0x8825, 0xA005, 0x927C

# Tags about a picture rather than its storage: description, make, model, orientation, resolution, software, date, …
PICTURE_TAGS = (0x010E, 0x010F, 0x0110, 0x0112, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298)


@dataclass(frozen=True, slots=True)
class ExifBlock:
    """The IFDs of an EXIF block, tag number → Entry; a missing IFD is empty.

    byteorder "<" (II) or ">" (MM), of the source block
    maker     maker of a known MakerNote: "Canon", "Nikon", or ""
    standard  IFD name → tag → value from piexif; empty if the block is not sound
    """

    byteorder: str
    ifd0: Ifd = field(default_factory=dict)
    exif: Ifd = field(default_factory=dict)
    gps: Ifd = field(default_factory=dict)
    interop: Ifd = field(default_factory=dict)
    makernote: Ifd = field(default_factory=dict)
    maker: str = ""
    standard: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)

    def find(self, tag: int) -> Entry | None:
        """Return the tag from the Exif IFD, else from IFD0 (its place in TIFF/EP and some DNG files)."""
        return self.exif.get(tag) or self.ifd0.get(tag)

    def numbers(self, tag: int, ifd: str = "") -> tuple[int | float, ...]:
        """Return the elements of a tag of "exif" or "ifd0" (by default in the order of ``find``).

        Rationals are floats, nan for a zero denominator; () for text and for a missing tag.
        """
        name = ifd or ("exif" if tag in self.exif else "ifd0")
        entry = (self.exif if name == "exif" else self.ifd0).get(tag)
        value = self.standard.get(name, {}).get(tag)
        if entry is None or value is None:
            return entry.values() if entry else ()
        if entry.type in (ASCII, UTF8):
            return ()
        if entry.type in (RATIONAL, SRATIONAL):
            return tuple(n / d if d else math.nan for n, d in ((value,) if entry.count == 1 else value))
        return tuple(value) if isinstance(value, bytes | tuple) else (value,)

    def text(self, ifd: str, tag: int) -> str:
        """Return the text of a tag of "ifd0" or "interop", "" if it is missing."""
        entry = {"ifd0": self.ifd0, "interop": self.interop}[ifd].get(tag)
        value = self.standard.get(ifd, {}).get(tag)
        if entry is None or not isinstance(value, bytes) or entry.data[-1:] != b"\0":
            return entry.text() if entry else ""
        return decoded_text(value)


def parse(block: bytes | mmap.mmap) -> ExifBlock:
    """Parse an EXIF block ("II*\\0…" or "MM\\0*…", with or without "Exif\\0\\0" before it).

    Of a whole file built like TIFF (bytes or mmap), IFD0 counts. FormatError without a TIFF header; nothing else
    raises.
    """
    content = block[6:] if block[:6] == _EXIF_PREFIX else block
    walker = Walker(content)
    ifd0, following = walker.ifd(walker.first)
    exif = walker.sub(ifd0, _EXIF_IFD)
    gps = walker.sub(ifd0, _GPS_IFD)
    interop = walker.sub(exif, _INTEROP_IFD) or walker.sub(ifd0, _INTEROP_IFD)
    if following:
        walker.ifd(following)  # the thumbnail's IFD: paramisp does not need it, but piexif reads it
    standard = _by_piexif(content) if walker.sound and len(content) <= _LARGEST_BLOCK else {}
    maker, makernote = _makernote(walker, ifd0, exif)
    return ExifBlock(walker.order, ifd0, exif, gps, interop, makernote, maker, standard)


def _by_piexif(block: bytes | mmap.mmap) -> Mapping[str, Mapping[int, Any]]:
    """Return piexif's values of a sound block by IFD; an empty mapping if it refuses the block."""
    import piexif

    try:
        values = piexif.load(_EXIF_PREFIX + bytes(block))
    except Exception:  # ValueError for an unknown type; TypeError for a pointer that is a list; …
        return {}
    return {ours: values[theirs] for theirs, ours in (("0th", "ifd0"), ("Exif", "exif"), ("Interop", "interop"))}


def _makernote(walker: Walker, ifd0: Ifd, exif: Ifd) -> tuple[str, Ifd]:
    """Return (maker, entries) of the MakerNote: ("", {}) if it is unknown."""
    note = exif.get(_MAKER_NOTE)
    make = ifd0[0x010F].text().lower() if 0x010F in ifd0 else ""
    if note is None or note.count < 20:
        return "", {}
    if note.data[:6] == b"Nikon\0" and note.data[10:12] in (b"II", b"MM"):  # type 3: a TIFF structure of its own
        try:
            inner = Walker(note.data[10:])
        except FormatError:
            return "", {}
        return "Nikon", inner.ifd(inner.first)[0]
    if make.startswith("canon"):  # a bare IFD; its offsets count from the header of the whole block
        footer = note.data[-8:]
        moved = 0
        if footer[:4] in (b"II*\0", b"MM\0*"):  # position of the note in the camera's file: editors move it
            moved = note.offset - struct.unpack("<I" if footer[:1] == b"I" else ">I", footer[4:])[0]
        return "Canon", walker.ifd(note.offset, moved)[0]
    return "", {}


# Values --------------------------------------------------------------------------------------------------------------

# Bounds of plausible values: name → (lowest, highest).
_LIMITS = {
    "iso": (0.5, 1e7),
    "exposure_time": (1e-7, 86400.0),  # s
    "f_number": (0.3, 1024.0),
    "focal_length": (0.1, 10000.0),  # mm
}


def optical_params(block: ExifBlock) -> tuple[OpticalParams, list[str]]:
    """Return ISO, exposure time [s], f-number, focal length [mm], and one-line notes on unusable and derived values.

    Tags: ISO 34855, else 34866, 34867, 34865, else MakerNote; 33434 ExposureTime, else 37377 ShutterSpeedValue;
    33437 FNumber, else 37378 ApertureValue (both APEX); 37386 FocalLength. Absurd values (0, 0/0, negative,
    beyond any camera, of the wrong type) are None.
    """
    notes: list[str] = []

    def usable(name: str, label: str, tag: int) -> float | None:
        entry = block.find(tag)
        if entry is None:
            return None
        for value in block.numbers(tag):
            # 65535 in a SHORT means that the value is larger and in another tag (Exif 2.3, PhotographicSensitivity).
            if _fits(name, value) and not (entry.type == SHORT and value == 65535):
                return float(value)
        notes.append(Notice(f"{label} {entry.shown()} is not usable", f"{label} is not usable"))
        return None

    iso = None
    for tag, label in ((34855, "ISO"), (34866, "RecommendedExposureIndex"), (34867, "ISOSpeed"), (34865, "SOS")):
        iso = iso or usable("iso", label, tag)
    if iso is None:
        iso, origin = _makernote_iso(block)
        if iso is not None:
            notes.append(Notice(f"ISO {iso:g} read from the {origin}", "ISO read from the MakerNote"))

    def from_apex(name: str, label: str, tag: int, power: float) -> float | None:
        apex = next(iter(block.numbers(tag)), math.nan)
        value = 2.0 ** (power * apex) if abs(apex) < 64 else math.nan
        if not _fits(name, value):
            return None
        notes.append(Notice(f"{name} {value:.4g} derived from {label}", f"{name} derived from {label}"))
        return value

    exposure_time = usable("exposure_time", "ExposureTime", 33434)
    if exposure_time is None:
        exposure_time = from_apex("exposure_time", "ShutterSpeedValue", 37377, -1.0)
    f_number = usable("f_number", "FNumber", 33437)
    # For lenses without contacts cameras write ApertureValue 0, which would read as f/1.
    if f_number is None and any(block.numbers(37378)):
        f_number = from_apex("f_number", "ApertureValue", 37378, 0.5)
    focal_length = usable("focal_length", "FocalLength", 37386)
    return OpticalParams(iso, exposure_time, f_number, focal_length), notes


def _fits(name: str, value: float) -> bool:
    low, high = _LIMITS[name]
    return math.isfinite(value) and low <= value <= high


def _makernote_iso(block: ExifBlock) -> tuple[float | None, str]:
    """Return (ISO or None, its origin) from the MakerNote: Nikon 0x0002 or 0x0025 ISOInfo, Canon 0x0004 ShotInfo."""
    if block.maker == "Nikon":
        plain = block.makernote.get(0x0002)  # (0, ISO)
        if plain and plain.type == SHORT and plain.count == 2 and _fits("iso", plain.values()[1]):
            return float(plain.values()[1]), "MakerNote (Nikon 0x0002)"
        info = block.makernote.get(0x0025)
        if info and info.type == UNDEFINED and info.data[0]:  # twelfths of a stop
            return float(round(100 * 2.0 ** (info.data[0] / 12 - 5))), "MakerNote (Nikon 0x0025)"
    if block.maker == "Canon" and 0x0004 in block.makernote:
        entry = block.makernote[0x0004]
        shot = np.frombuffer(entry.data, "<i2") if entry.type in (SHORT, 8) else np.zeros(0)
        # ShotInfo 1: auto ISO [%], 2: base ISO, both 2^(v/32); base 100 stands for 160
        if len(shot) > 2 and shot[2] > 0:
            iso = 100 / 32 * 2.0 ** (float(shot[2]) / 32) * 2.0 ** (float(shot[1]) / 32)
            if _fits("iso", iso):
                return float(round(iso)), "MakerNote (Canon 0x0004)"
    return None, ""


FROM_JPEG, FROM_RAW = " (from JPEG)", " (from RAW)"
"""Suffix that the DNG writer appends to the model of some cameras; it does not belong to the camera's name."""


def camera(block: ExifBlock) -> Camera | None:
    """Return make (0x010F) and model (0x0110), stripped; None if the block names neither."""
    make, model = (block.text("ifd0", tag) for tag in (0x010F, 0x0110))
    model = model.removesuffix(FROM_JPEG).removesuffix(FROM_RAW)
    return Camera(make, model) if make or model else None


def taken(block: ExifBlock) -> str:
    """Return the time of the shot (DateTimeOriginal, 0x9003) as it stands in the block; "" if it is absent."""
    entry = block.exif.get(0x9003)
    return entry.text().strip() if entry else ""


def taken_of(block: bytes | None) -> str:
    """Return the time of the shot of an unparsed block; "" if it is absent or damaged."""
    try:
        return taken(parse(block)) if block else ""
    except FormatError:
        return ""


def orientation(block: ExifBlock) -> int:
    """Return the orientation (0x0112) 1–8; 1 if it is absent or absurd."""
    value = next(iter(block.numbers(0x0112, "ifd0")), 1)
    return int(value) if value in range(1, 9) else 1


def color_space(block: ExifBlock) -> str | None:
    """Return "sRGB", "Adobe RGB", or None if unknown, by ColorSpace (0xA001) and InteroperabilityIndex (0x0001).

    DCF writes Adobe RGB as ColorSpace 65535 with index "R03"; some cameras write 2.
    """
    code = next(iter(block.numbers(0xA001)), None)
    if code in (1, 2):
        return "sRGB" if code == 1 else "Adobe RGB"
    index = block.text("interop", 0x0001)
    if index == "R03":
        return "Adobe RGB"
    return "sRGB" if index == "R98" and code != 65535 else None


# Canon ColorData (0x4001): number of 16-bit words → index of WB_RGGBLevelsAsShot (exiftool's tables ColorData1–11;
# 2560 words are ColorData5, of compact cameras, whose field type is UNDEFINED).
_CANON_WB_INDEX = (
    {582: 0x19, 653: 0x22, 2560: 0x47}
    | dict.fromkeys((796, 674, 692, 702, 1227, 1250, 1251, 1337, 1338, 1346, 1273, 1275), 0x3F)
    | dict.fromkeys((1312, 1313, 1316, 1506, 1353, 1560, 1592, 1602), 0x3F)
    | dict.fromkeys((1816, 1820, 1824), 0x47)
    | dict.fromkeys((2024, 3656), 0x55)
    | dict.fromkeys((3778, 3973), 0x69)
)


def white_balance(block: ExifBlock) -> tuple[np.ndarray | None, str]:
    """Return ((3,) as-shot neutral in camera RGB with G = 1, its origin), or (None, "").

    From the MakerNote: Nikon 0x000C WB_RBLevels, Canon 0x4001 ColorData WB_RGGBLevelsAsShot.
    """
    if block.maker == "Nikon" and 0x000C in block.makernote:
        levels = block.makernote[0x000C].values()[:2]
        if len(levels) == 2:
            return _neutral(levels[0], 1.0, levels[1], "MakerNote (Nikon 0x000C)")
    if block.maker == "Canon" and 0x4001 in block.makernote:
        data = block.makernote[0x4001].data
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2")
        if block.byteorder == ">" and block.makernote[0x4001].type == UNDEFINED:
            words = words.byteswap()
        index = _CANON_WB_INDEX.get(len(words))
        if index is not None:
            red, green_r, green_b, blue = (float(word) for word in words[index : index + 4])
            return _neutral(red, (green_r + green_b) / 2, blue, "MakerNote (Canon 0x4001)")
    return None, ""


def _neutral(red: float, green: float, blue: float, origin: str) -> tuple[np.ndarray | None, str]:
    """Return the as-shot neutral from the multipliers, unless they are absurd (more than 4 stops apart)."""
    if not all(math.isfinite(level) and level > 0 for level in (red, green, blue)):
        return None, ""
    neutral = np.array([green / red, 1.0, green / blue])
    return (neutral, origin) if np.all((neutral > 1 / 16) & (neutral < 16)) else (None, "")


# Writing -------------------------------------------------------------------------------------------------------------


def ifds_bytes(ifd0: Ifd, exif: Ifd, gps: Ifd, at: int) -> bytes:
    """Return little-endian IFD0, Exif and GPS IFDs with these entries, for byte ``at`` (even) of a file.

    Pointers among the entries are replaced. MakerNote and interoperability IFD are left out: their offsets would be
    wrong in the new file.
    """
    exif = {tag: entry for tag, entry in exif.items() if tag not in (_MAKER_NOTE, _INTEROP_IFD)}
    subs = {tag: entries for tag, entries in ((_EXIF_IFD, exif), (_GPS_IFD, gps)) if entries}
    first = {tag: entry for tag, entry in ifd0.items() if tag not in (_EXIF_IFD, _GPS_IFD)}
    first |= dict.fromkeys(subs, long(0))
    end = at + len(directory(first, at))
    tail = b""
    for tag, entries in subs.items():
        first[tag] = long(end + len(tail))
        tail += directory(entries, end + len(tail))
    return directory(first, at) + tail


def build(ifd0: Ifd, exif: Ifd, gps: Ifd) -> bytes:
    """Make a little-endian EXIF block (TIFF structure, without "Exif\\0\\0") of these IFDs; see ``ifds_bytes``."""
    return b"II*\0" + struct.pack("<I", 8) + ifds_bytes(ifd0, exif, gps, 8)


# Tags copied from the source into a clean EXIF, with their type in Exif 2.32: author, dates, exposure, lens.
_COPIED_IFD0 = dict.fromkeys((0x010E, 0x0132, 0x013B, 0x8298), ASCII)  # description, date, artist, copyright
_COPIED_EXIF = (
    dict.fromkeys((0x9003, 0x9004, 0x9010, 0x9011, 0x9012, 0x9290, 0x9291, 0x9292), ASCII)  # dates and time zones
    | dict.fromkeys((0xA433, 0xA434), ASCII)  # lens make and model
    # exposure program, metering, light source, flash, exposure mode, white balance, 35 mm focal length
    | dict.fromkeys((0x8822, 0x9207, 0x9208, 0x9209, 0xA402, 0xA403, 0xA405), SHORT)
    | {0x9204: SRATIONAL, 0xA432: RATIONAL}  # exposure bias, lens specification
)
_GPS_TYPES = dict(
    enumerate((1, 2, 5, 2, 5, 1, 5, 5, 2, 2, 2, 5, 2, 5, 2, 5, 2, 5, 2, 2, 5, 2, 5, 2, 5, 2, 5, 7, 7, 2, 3, 5))
)
_MAX_COPIED = 2000  # bytes of one value: all values must fit into a JPEG segment of 64 kB


def clean_exif(
    source: bytes | mmap.mmap | None,
    *,
    optical: OpticalParams,
    camera: Camera | None,
    software: str,
    width: int,
    height: int,
    is_srgb: bool = True,
) -> bytes:
    """Make a small EXIF block for an exported picture of ``width`` × ``height`` pixels, already upright.

    It holds the camera, the optical values, ``software``, and from ``source`` (an EXIF block, TIFF structure) the
    dates, author, lens and GPS position; no MakerNote, no thumbnail. Entries of the wrong type or size are left out; a
    source that is not EXIF counts as None. Returns the TIFF structure *without* "Exif\\0\\0".
    """
    try:
        block = parse(source) if source else ExifBlock("<")
    except FormatError:
        block = ExifBlock("<")
    ifd0 = _copied(block.ifd0, _COPIED_IFD0)
    exif = _copied(block.exif, _COPIED_EXIF)

    def put(ifd: Ifd, tag: int, kind: int, *values: int) -> None:
        letter = TYPES[kind][1]
        count = len(values) // 2 if kind == RATIONAL else len(values)
        ifd[tag] = Entry(kind, count, struct.pack(f"<{len(values)}{letter}", *values))

    def put_text(ifd: Ifd, tag: int, text: str) -> None:
        data = text.encode()[:_MAX_COPIED] + b"\0"
        if len(data) > 1:
            ifd[tag] = Entry(ASCII, len(data), data)

    put_text(ifd0, 0x010F, camera.make if camera else "")
    put_text(ifd0, 0x0110, camera.model if camera else "")
    put_text(ifd0, 0x0131, software)
    put(ifd0, 0x0112, SHORT, 1)  # Orientation
    put(ifd0, 0x011A, RATIONAL, 72, 1)  # X and Y resolution, in inches: required but meaningless
    put(ifd0, 0x011B, RATIONAL, 72, 1)
    put(ifd0, 0x0128, SHORT, 2)
    put(ifd0, 0x0213, SHORT, 1)  # YCbCrPositioning: centred
    put(exif, 0x9000, UNDEFINED, *b"0232")  # ExifVersion
    put(exif, 0x9101, UNDEFINED, 1, 2, 3, 0)  # ComponentsConfiguration: Y Cb Cr
    put(exif, 0xA000, UNDEFINED, *b"0100")  # FlashpixVersion
    put(exif, 0xA001, SHORT, 1 if is_srgb else 65535)  # ColorSpace: sRGB, or uncalibrated (the ICC profile tells)
    put(exif, 0xA002, LONG, width)
    put(exif, 0xA003, LONG, height)
    for tag, value in ((0x829A, optical.exposure_time), (0x829D, optical.f_number), (0x920A, optical.focal_length)):
        if value is not None:
            put(exif, tag, RATIONAL, *_ratio(value))
    if optical.iso is not None:
        iso = max(1, min(round(optical.iso), 2**32 - 1))
        put(exif, 0x8827, SHORT, min(iso, 65535))
        if iso >= 65535:  # PhotographicSensitivity has 16 bits; ISOSpeed holds larger values (SensitivityType 3)
            put(exif, 0x8830, SHORT, 3)
            put(exif, 0x8833, LONG, iso)
    return build(ifd0, exif, _copied(block.gps, _GPS_TYPES))


def upright(block: bytes) -> bytes:
    """Return an EXIF block whose orientation, if it has one, is 1; all other bytes, the MakerNote's too, stay."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 10:
        return block
    at = struct.unpack(f"{order}I", block[4:8])[0]
    count = struct.unpack(f"{order}H", block[at : at + 2])[0] if at + 2 <= len(block) else 0
    for entry in range(at + 2, min(at + 2 + 12 * count, len(block) - 11), 12):
        if block[entry : entry + 8] == struct.pack(f"{order}HHI", 0x0112, SHORT, 1):
            block = block[: entry + 8] + struct.pack(f"{order}H", 1) + block[entry + 10 :]
    return block


def _copied(entries: Ifd, types: dict[int, int]) -> Ifd:
    """Return the entries with their specified type and a sensible size, without empty texts."""
    return {
        tag: entry
        for tag, entry in entries.items()
        if types.get(tag) == entry.type and len(entry.data) <= _MAX_COPIED and (entry.type != ASCII or entry.text())
    }


def _ratio(value: float) -> tuple[int, int]:
    """Return the value as an unsigned RATIONAL: exact for cameras' usual values (1/125, 5.6), else to about 1e-6."""
    fraction = Fraction(value).limit_denominator(1_000_000 if value < 4000 else 100)
    if fraction == 0:
        fraction = Fraction(1, max(1, min(round(1 / value), 2**32 - 1)))
    return min(fraction.numerator, 2**32 - 1), fraction.denominator
