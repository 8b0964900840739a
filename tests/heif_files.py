"""HEIC and AVIF files with gain maps, written from the specifications: ISO/IEC 14496-12 and 23008-12, ISO 21496-1.

Pillow and x265 (in PyAV) code the pictures; the boxes around them are written here.
"""

import io
import struct
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from PIL import Image

APPLE = "urn:com:apple:photo:2020:aux:hdrgainmap"


def box(kind, *parts):
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind.encode()) + content


def full(kind, *parts, version=0, flags=0):
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


@dataclass
class Item:
    """An item: its type of four letters, its bytes, its properties (boxes), and references {type: numbers of items}."""

    kind: str
    data: bytes
    properties: list = field(default_factory=list)
    references: dict = field(default_factory=dict)
    mime: str = ""
    hidden: bool = False


def written(items, brands, *, primary=1, groups=b"", in_idat=(), long_ids=False):
    """The file of items {number: Item}."""
    infos, associations, properties, references = b"", b"", [], b""
    number = ">I" if long_ids else ">H"
    for own, item in items.items():
        more = item.mime.encode() + b"\0" if item.kind == "mime" else b""
        version = 3 if long_ids else 2
        flags = int(item.hidden)
        infos += full(
            "infe", struct.pack(number, own) + struct.pack(">H4s", 0, item.kind.encode()) + b"\0" + more,
            version=version, flags=flags,
        )  # fmt: skip
        if item.properties:
            places = b""
            for content in item.properties:
                if content not in properties:
                    properties.append(content)
                essential = 0x80 if content[4:8] in (b"hvcC", b"av1C", b"irot", b"imir") else 0
                places += bytes([essential | (properties.index(content) + 1)])
            associations += struct.pack(number, own) + bytes([len(places)]) + places
        for kind, targets in item.references.items():
            references += box(
                kind, struct.pack(number, own), struct.pack(">H", len(targets)),
                b"".join(struct.pack(number, each) for each in targets),
            )  # fmt: skip
    counted = sum(bool(item.properties) for item in items.values())
    idat = b"".join(items[own].data for own in in_idat)

    def meta(start):
        places, inside = b"", 0
        for own, item in items.items():
            method = int(own in in_idat)
            places += struct.pack(number, own) + struct.pack(">HHH", method, 0, 1)
            places += struct.pack(">II", inside if method else start, len(item.data))
            if method:
                inside += len(item.data)
            else:
                start += len(item.data)
        return full(
            "meta",
            full("hdlr", bytes(4), b"pict", bytes(13)),
            full("pitm", struct.pack(number, primary), version=int(long_ids)),
            full("iloc", b"\x44\0", struct.pack(number, len(items)), places, version=2 if long_ids else 1),
            full("iinf", struct.pack(">H", len(items)), infos),
            full("iref", references, version=int(long_ids)) if references else b"",
            box("iprp", box("ipco", *properties),
                full("ipma", struct.pack(">I", counted), associations, version=int(long_ids))),
            box("idat", idat) if idat else b"",
            groups,
        )  # fmt: skip

    head = box("ftyp", brands[0].encode(), bytes(4), "".join(brands).encode())
    content = b"".join(item.data for own, item in items.items() if own not in in_idat)
    return head + meta(len(head) + len(meta(0)) + 8) + box("mdat", content)


# Properties -----------------------------------------------------------------------------------------------------------


def size(pixels):
    return full("ispe", struct.pack(">II", pixels.shape[1], pixels.shape[0]))


def depths(pixels, bits=8):
    channels = 3 if pixels.ndim == 3 else 1
    return full("pixi", bytes([channels] + [bits] * channels))


def codes(primaries=1, transfer=13, matrix=1, full_range=True):
    return box("colr", b"nclx", struct.pack(">HHHB", primaries, transfer, matrix, 0x80 * full_range))


def profile(icc):
    return box("colr", b"prof", icc)


def turned(quarters):
    """Rotation by quarters of a turn, anticlockwise."""
    return box("irot", bytes([quarters]))


def mirrored(axis):
    return box("imir", bytes([axis]))


def auxiliary(name):
    return full("auxC", name.encode() + b"\0")


# Coded pictures -------------------------------------------------------------------------------------------------------


def hevc_item(pixels, *, bits=8, full_range=True, colour=None, more=(), **facts):
    """A HEVC picture (H, W, 3) or (H, W), coded without loss but for the conversion to YCbCr (Rec. 709)."""
    import av

    grey = pixels.ndim == 2
    form = "gray" if grey else "yuv444p"
    if bits == 10:
        form += "10le"
    source = ("gray" if grey else "rgb24") if pixels.dtype == np.uint8 else ("gray16le" if grey else "rgb48le")
    stream = io.BytesIO()
    with av.open(stream, "w", format="hevc") as container:
        coder = container.add_stream("libx265", rate=1)
        coder.height, coder.width = pixels.shape[:2]
        coder.pix_fmt = form
        coder.options = {
            "x265-params": f"log-level=none:lossless=1:keyint=1:info=0:range={'full' if full_range else 'limited'}",
            "preset": "ultrafast",
        }
        frame = av.VideoFrame.from_ndarray(pixels, format=source)
        if not grey:
            colours = {"dst_colorspace": "ITU709", "dst_color_range": "JPEG" if full_range else "MPEG"}
            frame = frame.reformat(format=form, **colours)
        elif form != source:
            frame = frame.reformat(format=form)
        for packet in [*coder.encode(frame), *coder.encode()]:
            container.mux(packet)
    stream = stream.getvalue().replace(b"\0\0\0\1", b"\0\0\1")
    units = [unit for unit in stream.split(b"\0\0\1") if unit]
    heads = [unit for unit in units if unit[0] >> 1 in (32, 33, 34)]  # parameter sets: VPS, SPS, PPS
    slices = [unit for unit in units if unit[0] >> 1 < 32]
    arrays = b"".join(bytes([0x80 | unit[0] >> 1]) + struct.pack(">HH", 1, len(unit)) + unit for unit in heads)
    sps = next(unit for unit in heads if unit[0] >> 1 == 33)
    level = bytes([1]) + sps[3:15].replace(b"\0\0\3", b"\0\0")[:12].ljust(12, b"\0")
    config = level + struct.pack(">HBBBBHBB", 0xF000, 0xFC, 0xFC | (0 if grey else 3), 0xF8 | bits - 8,
                                 0xF8 | bits - 8, 0, 0x0F, len(heads)) + arrays  # fmt: skip
    data = b"".join(struct.pack(">I", len(unit)) + unit for unit in slices)
    colour = codes(full_range=full_range) if colour is None else colour
    return Item("hvc1", data, [box("hvcC", config), size(pixels), depths(pixels, bits), colour, *more], **facts)


def av1_item(pixels, *, colour=None, more=(), **facts):
    """An AV1 picture (H, W, 3) or (H, W) uint8, coded by Pillow at the highest quality."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "AVIF", quality=100, subsampling="4:4:4", speed=8)
    data = stream.getvalue()
    found = {kind: data.index(kind.encode()) for kind in ("av1C", "mdat", "pixi", "colr")}
    parts = {kind: data[at - 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")] for kind, at in found.items()}
    own = parts["colr"] if colour is None else colour
    return Item("av01", parts["mdat"][8:], [parts["av1C"], size(pixels), parts["pixi"], own, *more], **facts)


CODERS = {"heic": hevc_item, "avif": av1_item}
BRANDS = {"heic": ("heic", "mif1", "heic"), "avif": ("avif", "mif1", "miaf", "avif")}


# Gain maps ------------------------------------------------------------------------------------------------------------


def iso_metadata(channels, headrooms=(0, 3), *, flags=0x40, version=0, writer=0, first=0):
    """The content of a tone-mapping item: a version, then the block; ``channels``: (min, max, γ, k_base, k_hdr)."""
    data = struct.pack(">BHHB", first, version, writer, flags | (0x80 if len(channels) == 3 else 0))

    def fraction(value, letter):
        if isinstance(value, tuple):  # numerator and denominator as they are
            return struct.pack(f">{letter}I", *value)
        return struct.pack(f">{letter}I", *Fraction(value).limit_denominator(1 << 20).as_integer_ratio())

    data += b"".join(fraction(value, "I") for value in headrooms)
    for values in channels:
        data += b"".join(fraction(value, letter) for value, letter in zip(values, "iiIii", strict=True))
    return data


def tone_mapped(
    kind, picture, map_codes, channels, *, turn=(), map_turn=None, colour=None, hdr_colour=None, more=None,
    metadata=None, inputs=(1, 2), **facts,
):  # fmt: skip
    """A file of ``kind`` with a picture (1), a gain map (2) and the item that joins them (3), as ISO 21496-1 says.

    ``more`` are further items; of ``facts``, some are those of ``iso_metadata``, and some those of ``written``.
    """
    coder = CODERS[kind]
    layout = {name: facts.pop(name) for name in ("long_ids", "in_idat", "primary") if name in facts}
    block = iso_metadata(channels, **facts) if metadata is None else metadata
    items = {
        1: coder(picture, colour=colour, more=turn),
        2: coder(map_codes, more=turn if map_turn is None else map_turn, hidden=True),
        3: Item("tmap", block, [size(picture), depths(picture), hdr_colour or codes(1, 16, 0)],
                {"dimg": list(inputs)}),
        **(more or {}),
    }  # fmt: skip
    group = box("grpl", full("altr", struct.pack(">IIII", 9, 2, 3, 1)))
    return written(items, (*BRANDS[kind], "tmap"), groups=group, **layout)


def apple(picture, map_codes, *, headroom=None, note=None, turn=(), make="Apple", aux=APPLE, colour=None, more=None):
    """A HEIC as an iPhone writes it: the map is an auxiliary picture, and XMP or the MakerNote has the headroom."""
    import piexif

    tags = {"0th": {271: make, 272: "iPhone 13", 274: 6 if turn else 1}, "Exif": {33434: (1, 50), 34855: 64}}
    if note:
        tags["Exif"][0x927C] = note
    exif = struct.pack(">I", 6) + piexif.dump(tags)  # the offset of the TIFF header, behind "Exif\0\0"
    new = "" if headroom is None else f' m:HDRGainMapHeadroom="{headroom}"'
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:m="http://ns.apple.com/HDRGainMap/1.0/" '
        f'm:HDRGainMapVersion="{65536 if headroom is None else 131072}"{new}/></rdf:RDF></x:xmpmeta>'
    )
    items = {
        1: hevc_item(picture, more=turn, colour=colour),
        2: hevc_item(map_codes, more=[auxiliary(aux), *turn], references={"auxl": [1]}, hidden=True),
        3: Item("Exif", exif, references={"cdsc": [1]}, hidden=True),
        4: Item("mime", packet.encode(), references={"cdsc": [2]}, mime="application/rdf+xml", hidden=True),
        **(more or {}),
    }
    return written(items, BRANDS["heic"])
