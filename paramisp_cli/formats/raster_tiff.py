"""The pixels of a TIFF page, uncompressed or with Deflate, decoded strip by strip within the bounds of its geometry.

tifffile reads the structure. Its decoder is not used: it fills missing strips with black, and inflates a strip without
a size limit. libtiff (through Pillow) decodes other compressions and stops at the geometry.
"""

from __future__ import annotations

import io
import logging
import math
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats.base import check_pixels, one_line

# Tags (TIFF 6.0).
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES = 256, 257, 258, 259, 262, 266, 277
_ROWS_PER_STRIP, _PLANAR, _PREDICTOR, _SAMPLE_FORMAT = 278, 284, 317, 339
_STRIP_OFFSETS, _STRIP_COUNTS = 273, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_ICC, _XMP, _DNG_VERSION = 34675, 700, 50706

_NONE, _OLD_JPEG, _DEFLATE = 1, 6, (8, 32946)
_RAW, _DECODED, _PALETTE, _YCBCR = (32803, 34892), (0, 1, 2), 3, 6
_LARGEST_TILE = 4096 * 4096  # most pixels of a tile that is larger than its picture


@dataclass(frozen=True, slots=True)
class Page:
    """The first page of a TIFF file: its colour profile, its XMP packet, and its pixels if this module decodes them.

    pixels (H, W, C) uint8 or uint16, C from 1 to 4; None if libtiff must decode them
    """

    pixels: np.ndarray | None
    icc: bytes | None
    xmp: bytes | None


def read(data: bytes, max_pixels: int) -> Page:
    """Read the first page of a TIFF file. FormatError if it is damaged, too large, or a camera RAW file."""
    import tifffile

    try:
        with _unlogged(), tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            tags = {tag.code: tag.value for tag in page.tags if tag.code in _WANTED}
            icc, xmp = tags.get(_ICC), tags.get(_XMP)
            photometric = _number(tags, _PHOTOMETRIC)
            if photometric in _RAW or _DNG_VERSION in tags:
                raise FormatError("is a RAW file of a kind that is not supported (a mosaic inside a TIFF)")
            if photometric not in (*_DECODED, _PALETTE, _YCBCR):
                raise FormatError(f"is a TIFF of colour type {page.photometric.name}: convert it to RGB first")
            pixels = _pixels(data, tags, file.byteorder, max_pixels)
    except (tifffile.TiffFileError, IndexError, KeyError) as error:
        raise FormatError(f"there is no picture in it; it is damaged ({error})") from error
    return Page(pixels, _bytes(icc), _bytes(xmp))


def read_floats(path: Path) -> np.ndarray:
    """Return the pixels of an uncompressed TIFF file of our own, (H, W, 3) float32; FormatError if it is damaged."""
    import tifffile

    try:
        with _unlogged(), tifffile.TiffFile(path) as file:
            return np.asarray(file.pages[0].asarray())
    except (tifffile.TiffFileError, IndexError, KeyError, ValueError) as error:
        raise FormatError(f"{path}: is damaged: {one_line(error)}") from error


_WANTED = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _ROWS_PER_STRIP, _PLANAR, _PREDICTOR,
    _SAMPLE_FORMAT, _STRIP_OFFSETS, _STRIP_COUNTS, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _ICC, _XMP,
    _DNG_VERSION,
}  # fmt: skip


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None


def _numbers(tags: dict[int, Any], tag: int) -> tuple[int, ...]:
    """Return the value of a tag as integers; KeyError if the tag is missing."""
    value = tags[tag]
    return tuple(int(each) for each in value) if isinstance(value, tuple | list) else (int(value),)


def _number(tags: dict[int, Any], tag: int, default: int | None = None) -> int:
    return default if default is not None and tag not in tags else _numbers(tags, tag)[0]


@dataclass(frozen=True, slots=True)
class _Layout:
    """The layout of a page's pixels: strips or tiles ("segments") of ``rows`` × ``columns`` pixels, row by row."""

    name: str  # "strip" or "tile"
    rows: int
    columns: int
    across: int
    down: int
    planes: int  # 1 if the channels are interleaved, else one for each channel
    offsets: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def segments(self) -> int:
        return self.across * self.down * self.planes


def _layout(tags: dict[int, Any], width: int, height: int, samples: int) -> _Layout:
    """Return the layout from the tags; FormatError if its numbers make no sense."""
    planes = samples if _number(tags, _PLANAR, 1) == 2 else 1
    if _TILE_WIDTH in tags:
        columns, rows = _number(tags, _TILE_WIDTH), _number(tags, _TILE_HEIGHT)
        if columns < 1 or rows < 1 or columns * rows > max(width * height, _LARGEST_TILE):
            raise FormatError(f"its tiles are {columns}×{rows} pixels; it is damaged")
        name, places, lengths = "tile", _TILE_OFFSETS, _TILE_COUNTS
    else:
        columns, rows = width, min(_number(tags, _ROWS_PER_STRIP, height), height)
        if rows < 1:
            raise FormatError("its strips have no rows; it is damaged")
        name, places, lengths = "strip", _STRIP_OFFSETS, _STRIP_COUNTS
    across, down = math.ceil(width / columns), math.ceil(height / rows)
    return _Layout(name, rows, columns, across, down, planes, _numbers(tags, places), _numbers(tags, lengths))


def _check(layout: _Layout, length: int, compression: int) -> None:
    """Raise FormatError unless a file of ``length`` bytes has every segment.

    The length of an uncompressed segment is checked when it is decoded.
    """
    present = min(len(layout.offsets), len(layout.counts))
    if present < layout.segments:
        raise FormatError(f"has {present} of the {layout.segments} {layout.name}s that its size needs; it is damaged")
    for index in range(layout.segments):
        offset, count = layout.offsets[index], layout.counts[index]
        if offset < 1 or count < 1:
            raise FormatError(f"{layout.name} {index + 1} of {layout.segments} is missing; it is damaged")
        if offset >= length or (compression != _NONE and offset + count > length):
            raise FormatError(
                f"{layout.name} {index + 1} of {layout.segments} lies beyond the end of the file; it is damaged"
            )


def _pixels(data: bytes, tags: dict[int, Any], order: str, max_pixels: int) -> np.ndarray | None:
    """Decode an uncompressed or deflated page: (H, W, C) uint8 or uint16, None for libtiff; FormatError if damaged."""
    width, height, samples = _number(tags, _WIDTH), _number(tags, _HEIGHT), _number(tags, _SAMPLES, 1)
    if width < 1 or height < 1:
        raise FormatError(f"its size is {width}×{height}; it is damaged")
    check_pixels(width, height, max_pixels)
    depths = set(_numbers(tags, _BITS)) if _BITS in tags else {1}
    kinds = set(_numbers(tags, _SAMPLE_FORMAT)) if _SAMPLE_FORMAT in tags else {1}
    if len(depths) > 1 or not depths <= {1, 2, 4, 8, 16} or not kinds <= {1, 4} or not 1 <= samples <= 4:
        kind = "/".join({2: "signed", 3: "float"}.get(kind, "unsigned") for kind in sorted(kinds))
        deep = "/".join(map(str, sorted(depths)))
        raise FormatError(f"has {samples} channels of {deep} bits ({kind}): save it with 8 or 16 bits, in RGB")
    compression, depth = _number(tags, _COMPRESSION, 1), depths.pop()
    if compression == _OLD_JPEG:  # its data may lie outside the strips
        return None
    layout = _layout(tags, width, height, samples)
    _check(layout, len(data), compression)
    photometric = _number(tags, _PHOTOMETRIC)
    plain = compression in (_NONE, *_DEFLATE) and depth in (8, 16) and _number(tags, _FILL_ORDER, 1) == 1
    if not plain or photometric not in _DECODED:
        return None
    predictor = _number(tags, _PREDICTOR, 1)
    if predictor not in (1, 2):
        raise FormatError(f"has the predictor {predictor}, which is not for integers; it is damaged")
    dtype = np.dtype(f"{order}u{depth // 8}")
    out = np.empty((height, width, samples), dtype.newbyteorder("="))
    for index in range(layout.segments):
        _decode_segment(data, layout, index, dtype, out, deflated=compression != _NONE, differences=predictor == 2)
    return np.iinfo(out.dtype).max - out if photometric == 0 else out  # 0: white is zero


def _decode_segment(
    data: bytes, layout: _Layout, index: int, dtype: np.dtype, out: np.ndarray, *, deflated: bool, differences: bool
) -> None:
    """Decode one strip or tile into its place in ``out``, without decoding bytes beyond its size."""
    plane, place = divmod(index, layout.across * layout.down)
    top, left = place // layout.across * layout.rows, place % layout.across * layout.columns
    channel = slice(None) if layout.planes == 1 else slice(plane, plane + 1)
    target = out[top : top + layout.rows, left : left + layout.columns, channel]
    rows = layout.rows if layout.name == "tile" else len(target)  # the last strip ends with the picture
    size = rows * layout.columns * target.shape[2] * dtype.itemsize
    stored = memoryview(data)[layout.offsets[index] : layout.offsets[index] + layout.counts[index]]
    decoded = zlib.decompressobj().decompress(stored, size) if deflated else stored[:size]
    if len(decoded) < size:
        raise FormatError(
            f"{layout.name} {index + 1} of {layout.segments} has {len(decoded)} of {size} bytes; it is damaged"
        )
    block = np.frombuffer(decoded, dtype).reshape(rows, layout.columns, target.shape[2])
    if differences:
        block = np.cumsum(block, axis=1, dtype=out.dtype)
    target[...] = block[: target.shape[0], : target.shape[1]]


_reading = threading.local()


def _is_foreign(record: logging.LogRecord) -> bool:
    """Tell whether a log line of tifffile is about a file that the program around paramisp reads."""
    return not getattr(_reading, "on", False)


logging.getLogger("tifffile").addFilter(_is_foreign)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Drop tifffile's log lines on damaged files in this thread: the errors have the same information."""
    _reading.on = True
    try:
        yield
    finally:
        _reading.on = False
