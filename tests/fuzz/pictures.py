"""JPEG segments and PNG chunks: taken apart, mutated one by one, put together again with right lengths and CRCs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from random import Random

from fuzz import plain, tiff

EXIF, XMP, XMP_MORE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
MPF, ICC = b"MPF\0", b"ICC_PROFILE\0"
_MOST = 65533

Segment = tuple[int, bytes]


def split_jpeg(data: bytes) -> tuple[list[Segment], bytes]:
    """(marker, payload) of each segment before the first scan, and the rest of the file from SOS on."""
    segments, at = [], 2
    while data[at : at + 1] == b"\xff" and len(data) >= at + 4 and data[at + 1] != 0xDA:
        length = struct.unpack_from(">H", data, at + 2)[0]
        segments.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + max(length, 2)
    return segments, data[at:]


def join_jpeg(segments: list[Segment], rest: bytes) -> bytes:
    """The file again; payloads too long for a segment are cut."""
    packed = (bytes((0xFF, marker)) + struct.pack(">H", len(p[:_MOST]) + 2) + p[:_MOST] for marker, p in segments)
    return b"\xff\xd8" + b"".join(packed) + rest


def mpf(rng: Random, length: int) -> bytes:
    """An MPF block: version, number of pictures, their table, with extremes."""
    count = rng.choice((1, 2, 3, rng.choice(plain.INTEGERS)))
    row = b"".join(
        struct.pack("<IIIHH", *(rng.choice((0, length, rng.choice(plain.INTEGERS))) for _ in range(3)), 0, 0)
        for _ in range(min(count, 8))
    )
    ifd = {0xB000: (7, b"0100"), 0xB001: (4, [count]), 0xB002: (7, row)}
    block = tiff.build([ifd], rng.choice("<>"))
    return MPF + (tiff.mutate(block, rng) if rng.random() < 0.5 else block)


def xmp(rng: Random) -> bytes:
    """An XMP packet with something amiss: evil text, entities within entities, depth, wrong numbers."""
    inside = rng.choice(
        (
            f'<rdf:Description tiff:Make="{plain.evil_text(rng)}" tiff:Model="{plain.evil_text(rng)}"/>',
            '<rdf:Description exif:FNumber="0/0" exif:ISOSpeedRatings="-1" tiff:Orientation="99"/>',
            "<a>" * rng.choice((10, 1000, 10000)),
            '<rdf:Description crs:Version="1" crs:Exposure2012="1e999" crs:WhiteBalance="As Shot"/>',
        )
    )
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10 if i else "ha"}">' for i in range(9))
    head = rng.choice(("", f"<!DOCTYPE x [{entities}]>", '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'))
    tail = rng.choice(("", "&a8;", "&e;"))
    text = f'{head}<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{inside}{tail}</rdf:RDF></x:xmpmeta>'
    return text.encode(rng.choice(("utf-8", "utf-16", "latin-1")), "replace")


def icc(rng: Random, profile: bytes) -> bytes:
    """An ICC profile, mutated."""
    return plain.mutate(profile or bytes(132), rng)


def _inserted(rng: Random, profile: bytes, length: int) -> Segment:
    """A new segment."""
    kind = rng.randrange(9)
    if kind == 0:
        return 0xE2, mpf(rng, length)
    if kind == 1:
        return 0xE1, XMP + xmp(rng)
    if kind == 2:
        return 0xE1, XMP_MORE + rng.randbytes(32) + struct.pack(">II", rng.choice(plain.INTEGERS), 0) + xmp(rng)
    if kind == 3:
        numbers = bytes((rng.choice((0, 1, 2, 255)), rng.choice((0, 1, 2, 255))))
        return 0xE2, ICC + numbers + icc(rng, profile)
    if kind == 4:
        return 0xEE, b"Adobe\0d\0\0\0\0" + bytes([rng.randrange(4)])
    if kind == 5:
        return 0xFE, plain.evil_bytes(rng)
    if kind == 6:
        return 0xE1, EXIF + rng.choice((b"", b"II*\0", plain.mutate(b"II*\0\x08\0\0\0\x01\0" + bytes(16), rng)))
    if kind == 7:
        return rng.choice((0xDD, 0xDC, 0xDB, 0xC4, 0xCC, 0xE0, 0xED)), rng.randbytes(rng.choice((0, 2, 4, 65, 132)))
    return rng.randrange(0xC0, 0xFF), plain.evil_bytes(rng)


def _frame(payload: bytes, rng: Random) -> bytes:
    """SOF: precision, height, width, components and their sampling."""
    out = bytearray(payload.ljust(6, b"\0"))
    what = rng.randrange(5)
    if what == 0:
        out[0] = rng.choice((0, 1, 12, 16, 255))
    elif what in (1, 2):
        value = rng.choice((0, 1, 2, 3, 9, 65500, 65535, rng.randrange(1, 300)))
        out[2 * what - 1 : 2 * what + 1] = struct.pack(">H", value)
    elif what == 3:
        out[5] = rng.choice((0, 1, 2, 4, 255))
    else:
        out = bytearray(plain.mutate(payload, rng))
    return bytes(out)


def mutate_jpeg(data: bytes, rng: Random) -> bytes:
    """Change segments of a JPEG."""
    segments, rest = split_jpeg(data)
    profile = next((p[14:] for m, p in segments if m == 0xE2 and p.startswith(ICC)), b"")
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not segments:
            break
        how, at = rng.randrange(12), rng.randrange(len(segments))
        exifs = [i for i, (marker, p) in enumerate(segments) if marker == 0xE1 and p.startswith(EXIF)]
        frames = [i for i, (marker, _) in enumerate(segments) if marker in (0xC0, 0xC1, 0xC2)]
        marker, payload = segments[at]
        if how <= 3 and exifs:
            at = exifs[0]
            segments[at] = (0xE1, EXIF + tiff.mutate(segments[at][1][6:], rng))
        elif how == 4:
            segments[at] = (marker, plain.mutate(payload, rng))
        elif how == 5 and frames:
            marker, payload = segments[frames[0]]
            segments[frames[0]] = (rng.choice((marker, marker, 0xC0, 0xC1, 0xC2, 0xC3, 0xC9)), _frame(payload, rng))
        elif how in (6, 7, 8):
            segments.insert(at, _inserted(rng, profile, len(data)))
        elif how == 9:
            segments.insert(rng.randrange(len(segments) + 1), segments[at])
        elif how == 10:
            segments.pop(at)
        else:
            rest = plain.mutate(rest, rng)
    out = join_jpeg(segments, rest)
    return plain.attack_length(out, rng) if rng.random() < 0.05 else out


def mutate_jpeg_text(data: bytes, rng: Random) -> bytes:
    """Evil texts in a JPEG's EXIF, comment and XMP."""
    segments, rest = split_jpeg(data)
    for at, (marker, payload) in enumerate(segments):
        if marker == 0xE1 and payload.startswith(EXIF):
            segments[at] = (0xE1, EXIF + tiff.mutate_text(payload[6:], rng))
    extra = rng.choice((None, (0xFE, plain.evil_bytes(rng)), (0xE1, XMP + xmp(rng))))
    return join_jpeg(segments + ([extra] if extra else []), rest)


Chunk = tuple[bytes, bytes]


def split_png(data: bytes) -> list[Chunk]:
    """(type, payload) of each chunk."""
    chunks, at = [], 8
    while len(data) >= at + 8:
        length = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def join_png(chunks: list[Chunk], wrong: int = -1) -> bytes:
    """The file again, with right CRCs but for chunk number ``wrong``."""
    out = bytearray(b"\x89PNG\r\n\x1a\n")
    for number, (kind, payload) in enumerate(chunks):
        crc = zlib.crc32(kind + payload) ^ (number == wrong)
        out += struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", crc)
    return bytes(out)


def _header(payload: bytes, rng: Random) -> bytes:
    """IHDR: sides, depth, colour type, interlacing."""
    width, height, *others = struct.unpack(">IIBBBBB", payload.ljust(13, b"\0")[:13])
    what = rng.randrange(4)
    if what == 0:
        width = rng.choice((*plain.INTEGERS, width + 1))
    elif what == 1:
        height = rng.choice((*plain.INTEGERS, height + 1))
    elif what == 2:
        width = height = rng.choice((20000, 30000, 65535))
    else:
        others[rng.randrange(5)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    return struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, *others)


def _pixels(payload: bytes, rng: Random) -> bytes:
    """IDAT: too few rows, too many, wrong filters, or a bad stream."""
    try:
        rows = zlib.decompress(payload)
    except zlib.error:
        return plain.mutate(payload, rng)
    how = rng.randrange(4)
    if how == 0:
        return zlib.compress(rows[: rng.randrange(len(rows) + 1)])
    if how == 1:
        return zlib.compress(plain.mutate(rows, rng))
    if how == 2:
        return zlib.compress(rows + bytes(rng.choice((1, 1000, 20_000_000))))
    return plain.mutate(payload, rng)


def _new_chunk(rng: Random, exif: bytes) -> Chunk:
    """A chunk to add."""
    bomb = zlib.compress(bytes(rng.choice((10, 100_000, 50_000_000))))
    text = plain.evil_bytes(rng)
    return rng.choice(
        (
            (b"iCCP", b"name\0\0" + bomb),
            (b"iCCP", text[:200] + b"\0\0" + zlib.compress(rng.randbytes(200))),
            (b"zTXt", b"Comment\0\0" + bomb),
            (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(rng)),
            (b"tEXt", b"Make\0" + text),
            (b"tEXt", text),
            (b"eXIf", tiff.mutate(exif, rng) if exif else rng.randbytes(30)),
            (b"PLTE", rng.randbytes(rng.choice((0, 3, 5, 768, 771)))),
            (b"tRNS", rng.randbytes(rng.choice((0, 1, 2, 6, 256, 300)))),
            (b"gAMA", struct.pack(">I", rng.choice(plain.INTEGERS))),
            (b"cHRM", rng.randbytes(32)),
            (b"acTL", struct.pack(">II", rng.choice(plain.INTEGERS), 0)),
            (b"fcTL", rng.randbytes(26)),
            (bytes(rng.choice(b"abcXYZ\x1b\xff") for _ in range(4)), text),
        )
    )


def mutate_png(data: bytes, rng: Random) -> bytes:
    """Change chunks of a PNG."""
    chunks = split_png(data)
    exif = next((p for kind, p in chunks if kind == b"eXIf"), b"")
    change: dict[bytes, Callable[[bytes, Random], bytes]] = {
        b"IHDR": _header, b"IDAT": _pixels, b"eXIf": tiff.mutate,
    }  # fmt: skip
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not chunks:
            break
        how, at = rng.randrange(10), rng.randrange(len(chunks))
        kind, payload = chunks[at]
        if how <= 4:
            chunks[at] = (kind, change.get(kind, plain.mutate)(payload, rng))
        elif how <= 6:
            chunks.insert(rng.randrange(len(chunks) + 1), _new_chunk(rng, exif))
        elif how == 7:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
        elif how == 8:
            chunks.pop(at)
        else:
            rng.shuffle(chunks)
    return join_png(chunks, rng.choice((-1,) * 8 + (rng.randrange(len(chunks) + 1), 0)))


_BOXES = (
    b"ftyp", b"meta", b"hdlr", b"pitm", b"iloc", b"iinf", b"infe", b"iref", b"iprp", b"ipco", b"ipma", b"ispe", b"irot",
    b"imir", b"colr", b"pixi", b"auxC", b"auxl", b"dimg", b"cdsc", b"idat", b"grpl", b"tmap", b"grid", b"hvcC", b"av1C",
    b"mdat", b"clap", b"iden",
)  # fmt: skip


def mutate_heif(data: bytes, rng: Random) -> bytes:
    """Change lengths, numbers and types of boxes of HEIC or AVIF: most of them lie before the coded pictures."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = [at for name in _BOXES for at in [out.find(name)] if at >= 4]
        if not places:
            break
        at, how = rng.choice(places), rng.randrange(6)
        if how == 0:
            out[at - 4 : at] = struct.pack(">I", rng.choice(plain.INTEGERS))
        elif how == 1:
            out[at : at + 4] = rng.choice(_BOXES)
        elif how == 2:  # a field of its content
            place, width = at + 4 + rng.randrange(24), rng.choice((1, 2, 4))
            out[place : place + width] = (rng.choice(plain.INTEGERS) & ((1 << 8 * width) - 1)).to_bytes(width, "big")
        elif how == 3:  # a box of twice its content, or none
            length = min(int.from_bytes(out[at - 4 : at], "big"), 400)
            out[at - 4 : at - 4] = out[at - 4 : at - 4 + length]
        elif how == 4:
            out[at + 4 : at + 4] = rng.randbytes(rng.choice((1, 2, 4, 8)))
        else:
            del out[at + 4 : at + 4 + rng.choice((1, 2, 4, 8))]
    return bytes(out)
