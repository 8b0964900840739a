"""JPEGs with gain maps, written from the specifications (Ultra HDR 1.1, ISO 21496-1, CIPA DC-007, Apple's tags)."""

import io
import struct
from fractions import Fraction

from PIL import Image

HDRGM = "http://ns.adobe.com/hdr-gain-map/1.0/"
ISO = b"urn:iso:std:iso:ts:21496:-1\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def jpeg_bytes(pixels, quality=95, **more):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=0, **more)
    return stream.getvalue()


def segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def inserted(jpeg, *segments):
    """The JPEG with segments after its APP0."""
    at = 2 + 2 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:at] + b"".join(segments) + jpeg[at:]


def xmp(body, attributes=""):
    return segment(
        0xE1,
        XMP + (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description rdf:about="" {attributes}>{body}</rdf:Description></rdf:RDF></x:xmpmeta>'
        ).encode(),
    )  # fmt: skip


def hdrgm(values):
    """An hdrgm packet: single values as attributes, sequences as rdf:Seq."""
    attributes = f'xmlns:hdrgm="{HDRGM}" hdrgm:Version="1.0"'
    body = ""
    for name, value in values.items():
        if isinstance(value, list | tuple):
            items = "".join(f"<rdf:li>{number}</rdf:li>" for number in value)
            body += f"<hdrgm:{name}><rdf:Seq>{items}</rdf:Seq></hdrgm:{name}>"
        else:
            attributes += f' hdrgm:{name}="{value}"'
    return xmp(body, attributes)


def iso_block(channels, headrooms=(0, 3), *, common=0, flags=0x40, version=0):
    """An ISO 21496-1 segment; ``channels``: (min, max, gamma, k_base, k_hdr) each; ``common``: one denominator."""
    flags |= (0x80 if len(channels) == 3 else 0) | (0x08 if common else 0)
    data = struct.pack(">HHB", version, 0, flags)

    def fraction(value, letter):
        if common:
            return struct.pack(f">{letter}", round(value * common))
        over, under = Fraction(value).limit_denominator(1 << 20).as_integer_ratio()
        return struct.pack(f">{letter}I", over, under)

    if common:
        data += struct.pack(">I", common)
    data += b"".join(fraction(value, "I") for value in headrooms)
    for values in channels:
        data += b"".join(fraction(value, letter) for value, letter in zip(values, "iiIii", strict=True))
    return segment(0xE2, ISO + data)


def directory(length):
    namespaces = (
        f'xmlns:hdrgm="{HDRGM}" hdrgm:Version="1.0" xmlns:Container="http://ns.google.com/photos/1.0/container/" '
        'xmlns:Item="http://ns.google.com/photos/1.0/container/item/"'
    )
    items = (
        '<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary" Item:Mime="image/jpeg"/></rdf:li>'
        '<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Mime="image/jpeg" '
        f'Item:Length="{length}"/></rdf:li>'
    )
    return xmp(f"<Container:Directory><rdf:Seq>{items}</rdf:Seq></Container:Directory>", namespaces)


def joined(primary, second, *, mpf=True, size=None, offset=None):
    """The file: the primary with an MPF index (big-endian) as its last inserted segment, and the second after it."""
    if not mpf:
        return primary + second
    entries = 3

    def index(where, length):
        ifd = struct.pack(">H", entries) + struct.pack(">HHI4s", 0xB000, 7, 4, b"0100")
        ifd += struct.pack(">HHII", 0xB001, 4, 1, 2) + struct.pack(">HHII", 0xB002, 7, 32, 8 + 2 + 12 * entries + 4)
        ifd += bytes(4) + struct.pack(">IIIHH", 0x030000, length, 0, 0, 0)
        ifd += struct.pack(">IIIHH", 0, len(second) if size is None else size, where, 0, 0)
        return segment(0xE2, b"MPF\0MM\0*" + struct.pack(">I", 8) + ifd)

    whole = len(inserted(primary, index(0, 0)))
    header = inserted(primary, index(0, 0)).index(b"MPF\0MM") + 4
    return inserted(primary, index(whole - header if offset is None else offset, whole)) + second


def ultra_hdr(picture, codes, values=None, channels=None, *, mpf=True, with_directory=True, **more):
    """A picture (H, W, 3) uint8 with a map (h, w[, 3]) uint8, with XMP ``values``, ISO ``channels``, or both."""
    blocks = [hdrgm(values)] if values is not None else []
    if channels is not None:
        blocks.append(
            iso_block(channels, **{k: more.pop(k) for k in ("headrooms", "common", "flags", "version") if k in more})
        )
    second = inserted(jpeg_bytes(codes), *blocks)
    primary = jpeg_bytes(picture)
    if with_directory:
        primary = inserted(primary, directory(len(second)))
    return joined(primary, second, mpf=mpf, **more)


def apple_note(headroom, gain):
    """A MakerNote by Apple with tags 33 and 48, signed rationals."""
    values = [Fraction(value).limit_denominator(100000).as_integer_ratio() for value in (headroom, gain)]
    at = 14 + 2 + 24 + 4
    note = b"Apple iOS\0\0\1MM" + struct.pack(">H", 2)
    note += struct.pack(">HHII", 33, 10, 1, at) + struct.pack(">HHII", 48, 10, 1, at + 8) + bytes(4)
    return note + b"".join(struct.pack(">ii", *value) for value in values)


def apple(picture, codes, note=None, headroom=None):
    """A JPEG as an iPhone writes it: the old kind with a MakerNote, the new one with the headroom in the XMP."""
    import piexif

    exif = piexif.dump({"0th": {271: b"Apple", 272: b"iPhone 13"}, "Exif": {0x927C: note} if note else {}})
    attributes = (
        'xmlns:apdi="http://ns.apple.com/pixeldatainfo/1.0/" xmlns:m="http://ns.apple.com/HDRGainMap/1.0/" '
        'apdi:AuxiliaryImageType="urn:com:apple:photo:2020:aux:hdrgainmap" m:HDRGainMapVersion="65536"'
    )
    if headroom is not None:
        attributes += f' m:HDRGainMapHeadroom="{headroom}"'
    return joined(jpeg_bytes(picture, exif=exif), inserted(jpeg_bytes(codes), xmp("", attributes)))
