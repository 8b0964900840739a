"""The Exif part of a DNG: the source's values with the shot's parameters, and its MakerNote as private data."""

from __future__ import annotations

import math
import struct

from paramisp_cli.formats import exif
from paramisp_cli.formats.tiff import (
    ASCII,
    LONG,
    RATIONAL,
    SHORT,
    TYPES,
    UNDEFINED,
    UTF8,
    Entry,
    Ifd,
    long,
    rational,
    short,
)  # fmt: skip
from paramisp_cli.types import OpticalParams

_EXIF, _GPS = 34665, 34853
# Tags of the source's Exif IFD that are not copied: offsets, MakerNote (it moves to DNGPrivateData), and tags about the
# JPEG's pixels: ComponentsConfiguration, CompressedBitsPerPixel, FlashpixVersion, ColorSpace, PixelXDimension,
# PixelYDimension, RelatedSoundFile, interoperability, CFAPattern (the DNG has its own), Gamma, Microsoft's padding.
_NOT_COPIED = {
    0x927C, 0x9101, 0x9102, 0xA000, 0xA001, 0xA002, 0xA003, 0xA004, 0xA005, 0xA302, 0xA500,
    0xEA1C, 0xEA1D, _EXIF, _GPS,
}  # fmt: skip
_MAKER_NOTE = 0x927C
_SMALLEST_IFD = 18  # bytes; exiftool fails on the MakerNotes of a few letters that some cameras write


def exif_ifd(optical: OpticalParams, block: exif.ExifBlock | None) -> Ifd:
    """Return the Exif IFD: the source's, with ``optical`` where the source has no value or a different value."""
    source = block.exif if block else {}
    ifd = {tag: copied(entry) for tag, entry in source.items() if tag not in _NOT_COPIED and is_sound(entry)}
    ifd.setdefault(0x9000, Entry(UNDEFINED, 4, b"0230"))  # ExifVersion
    # Tag of each value, and the tags that would contradict a new one (APEX, or the 35 mm equivalent).
    rationals = ((optical.exposure_time, 0x829A, 0x9201), (optical.f_number, 0x829D, 0x9202))
    for value, tag, rival in (*rationals, (optical.focal_length, 0x920A, 0xA405)):
        if value is not None and not _equals(ifd.get(tag), value):
            ifd[tag] = rational(value)
            ifd.pop(rival, None)
    if optical.iso is not None:
        iso = max(1, math.floor(optical.iso + 0.5))
        if not any(_equals(ifd.get(tag), iso) for tag in (0x8827, 0x8831, 0x8832, 0x8833)):
            for tag in range(0x8830, 0x8836):  # SensitivityType and the speeds that it names
                ifd.pop(tag, None)
            if iso > 0xFFFF:
                ifd |= {0x8830: short(2), 0x8832: long(iso)}  # RecommendedExposureIndex
        if not _equals(ifd.get(0x8827), iso):
            ifd[0x8827] = short(min(iso, 0xFFFF))  # PhotographicSensitivity; 65535 refers to the other tags (Exif 2.3)
    _mend(ifd)
    return ifd


def _mend(ifd: Ifd) -> None:
    """Correct mistakes of real cameras that the Adobe SDK reports; the embedded JPEG is unchanged."""
    lens, comment, f_number = ifd.get(0xA432), ifd.get(0x9286), _number(ifd.get(0x829D))
    if lens and lens.type == RATIONAL:  # LensSpecification: unknown is 0/0, not 0
        pairs = struct.iter_unpack("<4s4s", lens.data)
        data = b"".join(bytes(8) if over == bytes(4) else over + under for over, under in pairs)
        ifd[0xA432] = Entry(RATIONAL, lens.count, data)
    if comment and not comment.data[:8].strip(b"\0") and not comment.data[8:].strip(b"\0 "):
        del ifd[0x9286]  # a UserComment of blanks, in no encoding
    if f_number:  # APEX: ApertureValue must equal FNumber, and MaxApertureValue must not be narrower
        apex = 2 * math.log2(f_number)
        if abs((_number(ifd.get(0x9202)) or apex) - apex) > 0.2:
            ifd.pop(0x9202, None)
        if (_number(ifd.get(0x9205)) or 0) > apex + 0.2:
            ifd.pop(0x9205, None)


def _number(value: Entry | None) -> float | None:
    """Return the first number of ``value``, if it has one."""
    if value is None or value.count < 1:
        return None
    if value.type == RATIONAL:
        over, under = struct.unpack("<II", value.data[:8])
        return over / under if under else None
    if value.type in (SHORT, LONG):
        return int.from_bytes(value.data[: TYPES[value.type][0]], "little")
    return None


def _equals(value: Entry | None, number: float) -> bool:
    """Tell whether ``value`` equals ``number`` to 0.1 %."""
    first = _number(value)
    return first is not None and math.isclose(first, number, rel_tol=1e-3)


def private_data(block: exif.ExifBlock) -> bytes | None:
    """Return DNGPrivateData (tag 50740) with the MakerNote, in the form of Adobe's converter; None without one.

    It records the MakerNote's position in its file and its byte order: offsets in the MakerNote depend on them.
    """
    note = block.exif.get(_MAKER_NOTE)
    if note is None or not is_sound(note) or note.count < _SMALLEST_IFD:
        return None
    record = (b"II" if block.byteorder == "<" else b"MM") + struct.pack(">I", note.offset) + note.data
    return b"Adobe\0MakN" + struct.pack(">I", len(record)) + record + bytes(len(record) % 2)


def is_sound(entry: Entry | None) -> bool:
    """Tell whether a source's entry has the size that it claims, and is not a directory's offset (type 13)."""
    return entry is not None and entry.type != 13 and entry.is_sound


def copied(entry: Entry) -> Entry:
    """Return a source's entry as a DNG holds it: no DNG reader knows the type UTF-8."""
    return Entry(ASCII if entry.type == UTF8 else entry.type, entry.count, entry.data)
