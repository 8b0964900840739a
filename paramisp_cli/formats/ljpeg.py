"""Lossless JPEG (ITU-T T.81, process 14, SOF3) as DNG stores RAWs, with predictor 1.

A mosaic is two components of half width: samples of even columns are one component and samples of odd columns the
other, so that each sample is predicted from the nearest sample of its own colour. A picture of three colours a pixel is
three components. A difference (mod 2^16) is written as the Huffman code of its category (the bit
length of its magnitude), followed by that many bits (T.81 H.1.2.2). One code serves all components, and one
``Codebook`` may serve all tiles of an image: then each sample costs one look-up in a 65536-entry table, and numpy packs
the bits into 64-bit words. numpy releases the interpreter's lock, so threads can encode tiles in parallel.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass

import numpy as np

CATEGORIES = 17  # bit lengths 0 to 16 of a difference
# Codes of at most 11 bits: 11 + 15 bits a sample leave 5 bits of a 32-bit table entry for the length, and two samples
# fit a 64-bit word. T.81 allows 16 bits; only rare categories would use them, without a measurable difference.
_LONGEST_CODE = 11
_LENGTH_BITS = 5


@dataclass(frozen=True, slots=True)
class Codebook:
    """A Huffman code of the 17 difference categories, and its table by difference.

    lengths  (17,) bits of each category's code, 1 to 11
    order    categories in the order of their codes: by length, then by category (T.81 C.2)
    entries  (65536,) uint32 by difference mod 2^16: (code and extra bits) << 5 | number of bits
    """

    lengths: np.ndarray
    order: tuple[int, ...]
    entries: np.ndarray


def codebook(histogram: np.ndarray) -> Codebook:
    """Return the best code for ``histogram`` (17,), the counts of the categories; each gets a code, even at count 0."""
    # T.81 (C.2) forbids the code of all ones. A further symbol, the rarest of all, takes this code and is dropped.
    counts = [*np.maximum(histogram, 1).tolist(), 0]
    lengths = np.array(_code_lengths(counts, _LONGEST_CODE)[:CATEGORIES])
    order = tuple(np.argsort(lengths, kind="stable").tolist())
    codes = np.zeros(CATEGORIES, np.uint32)
    code, previous = 0, 0
    for category in order:
        code <<= int(lengths[category]) - previous
        previous = int(lengths[category])
        codes[category] = code
        code += 1
    bits = np.where(_CATEGORY == 16, 0, _CATEGORY).astype(np.uint32)  # 32768 is alone in its category: no bits follow
    value = (codes[_CATEGORY] << bits) | _EXTRA
    entries = (value << np.uint32(_LENGTH_BITS)) | (lengths.astype(np.uint32)[_CATEGORY] + bits)
    return Codebook(lengths, order, entries)


def histogram(tile: np.ndarray, bits: int = 16) -> np.ndarray:
    """Count each category (17,) among the differences of a tile; see ``encode``."""
    return np.bincount(_CATEGORY[_differences(*_lines(tile), bits)].ravel(), minlength=CATEGORIES)


def encode(tile: np.ndarray, bits: int = 16, book: Codebook | None = None) -> bytes:
    """Encode a tile as a JPEG stream, SOI to EOI: (H, W) uint16 with W even, two components, or (H, W, 3), three.

    Samples are < 2^``bits``, the sides of a component at most 65535; of three components H · W is even. ``book`` is the
    code to use; without it, the best code for this tile is made, which doubles the time. Raises ValueError for a tile
    of another shape or type.
    """
    is_mosaic = tile.ndim == 2 and tile.shape[1] % 2 == 0
    is_rgb = tile.ndim == 3 and tile.shape[2] == 3 and tile.size % 2 == 0
    if not (is_mosaic or is_rgb) or tile.dtype != np.uint16 or 0 in tile.shape:
        raise ValueError(f"a tile must be (H, W) or (H, W, 3) uint16 with even W, got {tile.shape} {tile.dtype}")
    lines, components = _lines(tile)
    height, width = lines.shape[0], lines.shape[1] // components
    if max(height, width) > 0xFFFF or not 2 <= bits <= 16:
        raise ValueError(f"a tile of {tile.shape[1]}×{height} with {bits} bits does not fit a JPEG")
    book = book or codebook(histogram(tile, bits))
    counts = [int((book.lengths == length).sum()) for length in range(1, 17)]
    header = struct.pack(">HHHBHHB", 0xFFD8, 0xFFC3, 8 + 3 * components, bits, height, width, components)
    # Each component: identifier, 1×1 sampling, no quantisation table.
    header += b"".join(bytes((number, 0x11, 0)) for number in range(components))
    header += struct.pack(">HHB", 0xFFC4, 19 + CATEGORIES, 0) + bytes(counts) + bytes(book.order)
    header += struct.pack(">HHB", 0xFFDA, 6 + 2 * components, components)
    header += b"".join(bytes((number, 0)) for number in range(components))  # all components use table 0
    header += bytes((1, 0, 0))  # predictor 1, the left neighbour; no point transform
    return header + _pack(lines, components, bits, book.entries).replace(b"\xff", b"\xff\x00") + b"\xff\xd9"


def _lines(tile: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the tile's lines of interleaved samples, 2-D, and the number of its components."""
    return (tile, 2) if tile.ndim == 2 else (tile.reshape(len(tile), -1), 3)


def _category_tables() -> tuple[np.ndarray, np.ndarray]:
    """Return (65536,) category and (65536,) bits after the code, both by difference mod 2^16."""
    difference = np.arange(1 << 16).astype(np.uint16).view(np.int16).astype(np.int64)
    category = np.ceil(np.log2(np.abs(difference) + 1)).astype(np.uint8)
    extra = np.where(difference < 0, difference - 1, difference) & ((1 << category.astype(np.int64)) - 1)
    return category, np.where(category == 16, 0, extra).astype(np.uint32)


_CATEGORY, _EXTRA = _category_tables()


def _code_lengths(counts: list[int], longest: int) -> list[int]:
    """Return the code lengths [bits] of the best prefix code for symbol counts, each at most ``longest``.

    Package-merge (Larmore and Hirschberg, J. ACM 37, 1990); a package is its count and its symbols.
    """
    leaves: list[tuple[int, tuple[int, ...]]] = sorted((count, (symbol,)) for symbol, count in enumerate(counts))
    packages = leaves
    for _ in range(longest - 1):
        pairs = zip(packages[0::2], packages[1::2], strict=False)  # drops the last of an odd number
        packages = sorted(leaves + [(a[0] + b[0], a[1] + b[1]) for a, b in pairs], key=lambda package: package[0])
    chosen = [symbol for _, symbols in packages[: 2 * len(counts) - 2] for symbol in symbols]
    return [chosen.count(symbol) for symbol in range(len(counts))]


class _Scratch(threading.local):
    """Buffers of each thread, reused for every tile: fresh memory from the system costs more than the arithmetic."""

    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}

    def get(self, name: str, dtype: type, size: int) -> np.ndarray:
        buffer = self.buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self.buffers[name] = np.empty(size, dtype)
        return buffer[:size]


_scratch = _Scratch()


def _differences(lines: np.ndarray, components: int, bits: int) -> np.ndarray:
    """Return sample minus prediction, (H, columns) uint16, mod 2^16.

    The prediction is the component's sample to the left; in its first column, the sample above; for its first sample,
    2^(bits − 1) (T.81 H.1.2.1).
    """
    n = components
    difference = _scratch.get("difference", np.uint16, lines.size).reshape(lines.shape)
    np.subtract(lines[:, n:], lines[:, :-n], out=difference[:, n:])
    np.subtract(lines[1:, :n], lines[:-1, :n], out=difference[1:, :n])
    np.subtract(lines[0, :n], np.uint16(1 << (bits - 1)), out=difference[0, :n])
    return difference


def _pack(lines: np.ndarray, components: int, bits: int, entries: np.ndarray) -> bytes:
    """Return the entropy-coded bits, padded with ones to a whole byte (T.81 F.1.2.3), not yet stuffed."""
    size, pairs = lines.size, lines.size // 2
    index = _scratch.get("index", np.intp, size)
    np.copyto(index.reshape(lines.shape), _differences(lines, components, bits))
    coded, lengths = _scratch.get("coded", np.uint32, size), _scratch.get("lengths", np.uint32, size)
    np.take(entries, index, out=coded, mode="wrap")  # nothing wraps, but "raise" would buffer the output
    np.bitwise_and(coded, np.uint32((1 << _LENGTH_BITS) - 1), out=lengths)
    np.right_shift(coded, np.uint32(_LENGTH_BITS), out=coded)

    # Two samples become one value of at most 52 bits.
    value, length = _scratch.get("value", np.uint64, pairs), _scratch.get("length", np.uint64, pairs)
    np.copyto(value, coded[0::2])
    np.copyto(length, lengths[1::2])
    np.left_shift(value, length, out=value)
    np.bitwise_or(value, coded[1::2], out=value)
    np.add(length, lengths[0::2], out=length)

    # End of each pair in the stream, and first bit of the 64-bit word in which the pair starts.
    end, word = _scratch.get("end", np.uint64, pairs), _scratch.get("word", np.uint64, pairs)
    np.cumsum(length, out=end)
    total = int(end[-1])
    np.subtract(end, length, out=word)
    np.bitwise_and(word, np.uint64(2**64 - 64), out=word)
    # A pair is shorter than a word: a pair starts in every word, and only the last pair of a word can cross its end.
    last = np.append(np.flatnonzero(word[1:] != word[:-1]), pairs - 1)
    np.subtract(end, word, out=end)
    over = np.maximum(end[last], 64) - np.uint64(64)
    rest = np.where(over > 0, value[last] << (np.uint64(64) - over), 0)
    value[last] >>= over
    np.minimum(end, 64, out=end)
    np.subtract(np.uint64(64), end, out=end)
    np.left_shift(value, end, out=value)

    # The pairs in a word share no bit, so their sum is their union; a running sum (mod 2^64) gives all the sums.
    np.cumsum(value, out=value)
    words = np.zeros(len(last) + 1, np.uint64)
    words[:-1] = np.diff(value[last], prepend=np.uint64(0))
    words[1:] |= rest
    packed = words.astype(">u8").view(np.uint8)[: (total + 7) // 8]
    packed[-1] |= (1 << (-total % 8)) - 1
    return packed.tobytes()
