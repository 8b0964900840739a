"""Mutators that know nothing of the format: bits, runs, lengths, splices, tokens. Each takes bytes and gives bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

INTEGERS = (
    0, 1, 2, 3, 7, 8, 16, 31, 32, 64, 127, 128, 255, 256, 1000, 4096, 32767, 32768, 65000, 65534, 65535, 65536,
    1 << 20, (1 << 24) - 1, 1 << 24, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1,
)  # fmt: skip
"""Values at which fields overflow, wrap or become absurd."""

TOKENS = (
    b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0",
    b"MPF\0", b"ICC_PROFILE\0\x01\x01", b"JFIF\0\x01\x01", b"JFXX\0\x10", b"Adobe\0d\0\0\0\0\0", b"Nikon\0\x02\x10\0\0",
    b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xda", b"\xff\xe1", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xdb",
    b"\x89PNG\r\n\x1a\n", b"IHDR", b"IDAT", b"IEND", b"eXIf", b"iCCP", b"acTL", b"PK\x03\x04", b"PK\x01\x02",
    b"PK\x05\x06", b"HEAPCCDR", b"FUJIFILMCCD-RAW", b"FOVb", b"IIRO", b"IIU\0", b"ftypcrx ", b"ftypheic", b"\0MRM",
    b"\x1b[2J", b"\x9b31m", b"\xe2\x80\xae", b"\r\n\r\n", b"%s%n%x", b"../../../../tmp/x", b"NaN", b"-1", b"1e999",
)  # fmt: skip

EVIL_TEXTS = (
    "\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "\x9b2Jclear", "line\nbreak", "carriage\rreturn", "bell\x07", "\x00nul",
    "\u202eright to left", "\u2066isolate", "\u200fmark", "\u2028line separator", "\x85next", "\x7fdelete", "tab\there",
    "\ufeffbom", "a/b", "../../etc/passwd", "..", ".", " ", "", "%s%n", "{0}", "[red]markup[/red]", "\\x1b", "💥" * 8,
    "é" * 300, "A" * 255, "A" * 256, "A" * 4096, "A" * 60000, "Canon", "NIKON CORPORATION", "\ud800",
)  # fmt: skip
"""Texts that a terminal, a file system or a formatter takes amiss."""


def evil_text(rng: Random) -> str:
    """A text to put where a camera writes a name."""
    text = rng.choice(EVIL_TEXTS)
    return rng.choice((text, f"Canon {text}", text + rng.choice(EVIL_TEXTS)))


def evil_bytes(rng: Random) -> bytes:
    """The same as bytes: UTF-8, Latin-1 or UTF-16."""
    text = evil_text(rng)
    return rng.choice(
        (text.encode("utf-8", "replace"), text.encode("latin-1", "replace"), text.encode("utf-16", "replace"))
    )


def _place(data: bytes, rng: Random) -> int:
    """A position, as often as not among the first bytes, where headers are."""
    end = max(len(data), 1)
    return rng.randrange(min(end, rng.choice((64, 512, 4096, end))))


def flip_bits(data: bytes, rng: Random) -> bytes:
    """Flip one to sixteen bits."""
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        out[_place(out, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def set_bytes(data: bytes, rng: Random) -> bytes:
    """Set some single bytes to any value."""
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 2, 4, 8, 64))):
        out[_place(out, rng)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(out)


def fill_run(data: bytes, rng: Random) -> bytes:
    """Overwrite a run with one byte, or with noise."""
    at, length = _place(data, rng), rng.randrange(1, max(len(data) // 4, 2))
    run = rng.randbytes(length) if rng.random() < 0.3 else bytes([rng.choice((0, 255, rng.randrange(256)))]) * length
    return (data[:at] + run + data[at + length :])[: len(data)]


def truncate(data: bytes, rng: Random) -> bytes:
    """Cut the end off."""
    return data[
        : rng.choice((_place(data, rng), rng.randrange(len(data) + 1), max(len(data) - rng.randrange(1, 64), 0)))
    ]


def extend(data: bytes, rng: Random) -> bytes:
    """Add zeros, noise or a repetition at the end."""
    return data + rng.choice((bytes(rng.randrange(1, 5000)), rng.randbytes(rng.randrange(1, 500)), data[-200:]))


def duplicate(data: bytes, rng: Random) -> bytes:
    """Repeat a block."""
    at, length = _place(data, rng), rng.randrange(1, 2048)
    return data[: at + length] + data[at : at + length] * rng.choice((1, 1, 2, 20)) + data[at + length :]


def remove(data: bytes, rng: Random) -> bytes:
    """Take a block away."""
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 4, 12, 100, 1000)) :]


def swap(data: bytes, rng: Random) -> bytes:
    """Exchange two blocks."""
    length = rng.choice((1, 2, 4, 12, 64, 512))
    a, b = sorted((_place(data, rng), _place(data, rng)))
    if b - a < length:
        return data[::-1] if rng.random() < 0.02 else data[:a] + data[b:] + data[a:b]
    return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]


def attack_length(data: bytes, rng: Random) -> bytes:
    """Write an extreme integer of two, four or eight bytes, in either byte order, or add a little to the one there."""
    out = bytearray(data if len(data) >= 8 else data + bytes(8))
    letter = rng.choice(("H", "I", "I", "Q"))
    order = rng.choice("<>")
    size = struct.calcsize(letter)
    at = min(_place(out, rng), len(out) - size)
    old = struct.unpack_from(order + letter, out, at)[0]
    new = rng.choice((rng.choice(INTEGERS), old + rng.randrange(-8, 9), old * 2, len(out), len(out) - at))
    struct.pack_into(order + letter, out, at, new % (1 << 8 * size))
    return bytes(out)


def put_token(data: bytes, rng: Random) -> bytes:
    """Overwrite with a token, or insert it."""
    token, at = rng.choice((*TOKENS, evil_bytes(rng))), _place(data, rng)
    return data[:at] + token + data[at + (len(token) if rng.random() < 0.5 else 0) :]


MUTATORS: tuple[Callable[[bytes, Random], bytes], ...] = (
    flip_bits, set_bytes, fill_run, truncate, extend, duplicate, remove, swap, attack_length, attack_length, put_token,
)  # fmt: skip


def splice(data: bytes, other: bytes, rng: Random) -> bytes:
    """The beginning of one file and the end of another, or a block of one inside the other."""
    if rng.random() < 0.5:
        return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
    at, start = _place(data, rng), _place(other, rng)
    block = other[start : start + rng.choice((16, 256, 4096))]
    return data[:at] + block + data[at + (len(block) if rng.random() < 0.5 else 0) :]


def mutate(data: bytes, rng: Random) -> bytes:
    """Apply one mutator, seldom more."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(MUTATORS)(data, rng)
    return data


def evil_unicode(rng: Random) -> str:
    """An evil text without lone surrogates, as JSON and command lines take it."""
    return evil_text(rng).encode("utf-8", "replace").decode()
