"""The bytes of a RAW's samples in a DNG: one plain strip or lossless JPEG tiles, and their digest.

Samples are a mosaic (H, W), or three colours a pixel (H, W, 3).
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import numpy as np

from paramisp_cli.formats import ljpeg

TILE = 256  # side of tiles, of digest blocks (fixed by the specification) and of bands
WORKERS = min(4, os.cpu_count() or 1)
_SAMPLED_TILES = 24  # number of tiles from which the Huffman code is made


def digest(mosaic: np.ndarray) -> bytes:
    """Return NewRawImageDigest (tag 51111) of uint16 samples: the MD5 of the MD5s of their 256×256 blocks.

    Blocks are in row order and clipped at the right and bottom edges, samples little-endian, colours plane by plane (as
    in the Adobe SDK).
    """
    bands = (mosaic[top : top + TILE] for top in range(0, mosaic.shape[0], TILE))
    return hashlib.md5(b"".join(_band_digests(band) for band in bands), usedforsecurity=False).digest()


# ---- the directories ------------------------------------------------------------------------------------------------


def write_even(file: BinaryIO, data: bytes) -> None:
    """Write data, padded to an even position: TIFF's offsets are even."""
    file.write(data)
    file.write(bytes(len(data) % 2))


# ---- pixels ---------------------------------------------------------------------------------------------------------


def tile_width_for(width: int) -> int:
    """Return the width of a mosaic's lossless tiles, a multiple of 16; 0 (uncompressed) if it is too narrow for tiles.

    LibRaw silently garbles tiles wider than the mosaic and tiles of exactly half its width.
    """
    return TILE - 16 if width == 2 * TILE else min(TILE, width - width % 16)


def write_mosaic(file: BinaryIO, mosaic: np.ndarray, tile_width: int) -> tuple[list[int], list[int], bytes]:
    """Write the mosaic at the file's position; return offsets and byte counts of its tiles (or strip), and its digest.

    Threads encode bands of 256 rows, only a few ahead of the file, so memory does not grow with the picture.
    """
    book = _codebook(mosaic) if tile_width else None
    offsets, counts, digests = [], [], b""
    for band_digests, pieces in _bands(mosaic, tile_width, book):
        digests += band_digests
        for piece in pieces:
            offsets.append(file.tell())
            counts.append(len(piece))
            write_even(file, piece)
    if not tile_width:
        offsets, counts = offsets[:1], [mosaic.nbytes]
    return offsets, counts, hashlib.md5(digests, usedforsecurity=False).digest()


def _bands(mosaic: np.ndarray, tile_width: int, book: ljpeg.Codebook | None) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield (digests, pieces) of every 256-row band, in order: encoded tiles, or without ``book`` the plain band."""
    waiting: deque[Future[tuple[bytes, list[bytes]]]] = deque()
    with ThreadPoolExecutor(WORKERS) as threads:
        for top in range(0, mosaic.shape[0], TILE):
            waiting.append(threads.submit(_band, mosaic[top : top + TILE], tile_width, book))
            if len(waiting) > 2 * WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _band(band: np.ndarray, tile_width: int, book: ljpeg.Codebook | None) -> tuple[bytes, list[bytes]]:
    digests = _band_digests(band)
    if book is None:
        return digests, [band.astype("<u2", copy=False).tobytes()]
    tiles = (_padded(band[:, left : left + tile_width], tile_width) for left in range(0, band.shape[1], tile_width))
    return digests, [ljpeg.encode(tile, book=book) for tile in tiles]


def _band_digests(band: np.ndarray) -> bytes:
    """Return the concatenated MD5s of a band's 256-column blocks."""
    planes = band if band.ndim == 2 else np.moveaxis(band, 2, 0)
    blocks = (np.ascontiguousarray(planes[..., left : left + TILE], "<u2") for left in range(0, band.shape[1], TILE))
    return b"".join(hashlib.md5(block.data, usedforsecurity=False).digest() for block in blocks)


def _padded(tile: np.ndarray, width: int) -> np.ndarray:
    """Pad a tile at the right or bottom edge: repeat its last columns and rows in pairs, to continue the CFA."""
    height, inner = tile.shape[:2]
    if (height, inner) == (TILE, width):
        return tile
    rows, columns = np.arange(TILE), np.arange(width)
    rows = np.where(rows < height, rows, height - 2 + rows % 2)
    columns = np.where(columns < inner, columns, inner - 2 + columns % 2)
    return tile[rows[:, None], columns]


def _codebook(mosaic: np.ndarray) -> ljpeg.Codebook:
    """Return one Huffman code for the picture, from tiles spread over it."""
    height, width = mosaic.shape[:2]
    corners = [(top, left) for top in range(0, height, TILE) for left in range(0, width, TILE)]
    chosen = corners[:: max(1, len(corners) // _SAMPLED_TILES)]
    tiles = (mosaic[top : top + TILE, left : left + TILE] for top, left in chosen)
    return ljpeg.codebook(np.sum([ljpeg.histogram(tile) for tile in tiles], axis=0))
