"""Files of confidence maps: PNG for the eye, TIFF of 32-bit floats for programs; both have a record in JSON.

.png    the picture upright, one pixel each; the worst of the four sites of each 2×2 of the mosaic. Its codes are
        logarithmic: half-width = ``LEAST`` · (``MOST`` / ``LEAST``)^(code / 255); a palette of five colours shows them
.tif    one value for each site of the mosaic, as stored, in one strip without compression
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli import __version__
from paramisp_cli.errors import FormatError
from paramisp_cli.formats import exif
from paramisp_cli.formats.kinds import PNG_MAGIC
from paramisp_cli.formats.pixels import STRIP, apply_orientation
from paramisp_cli.formats.tiff import directory, long, short, text
from paramisp_cli.types import Confidence, Crop

SUFFIXES = (".png", ".tif", ".tiff")
"""Suffixes of the files of maps."""
LEAST, MOST = 0.01, 1.0
"""Half-widths of the first and the last code of a PNG; values beyond them get these codes."""
COLOURS = ((10, 22, 92), (24, 118, 160), (96, 176, 104), (250, 206, 52), (255, 255, 255))
"""Colours of the half-widths 1 %, 3.2 %, 10 %, 32 % and 100 %: brighter is less certain."""
_SOFTWARE = f"paramisp {__version__}"
_START = 64  # bytes before the samples of a TIFF
_MOST_BYTES = 2**32 - (1 << 20)


def check_suffix(path: Path) -> None:
    """Raise FormatError unless the name of a map's file ends in one of ``SUFFIXES``."""
    if path.suffix.lower() not in SUFFIXES:
        raise FormatError(
            f"{path}: a confidence map is written as {', '.join(SUFFIXES)}, not {path.suffix or 'without a suffix'}"
        )


def codes(half_width: np.ndarray) -> np.ndarray:
    """Return the codes of half-widths, uint8: even steps of their logarithm from ``LEAST`` to ``MOST``."""
    place = np.log(np.clip(half_width, LEAST, MOST) / np.float32(LEAST)) * np.float32(255 / np.log(MOST / LEAST))
    return np.asarray(np.rint(place), np.uint8)


def widths(code: np.ndarray) -> np.ndarray:
    """Return the half-widths of codes of a PNG, float32."""
    return np.float32(LEAST) * np.float32(MOST / LEAST) ** (np.asarray(code, np.float32) / np.float32(255))


def palette() -> np.ndarray:
    """Return the colours of the 256 codes, (256, 3) uint8."""
    at = np.linspace(0, 255, len(COLOURS))
    lines = [np.interp(np.arange(256), at, [colour[channel] for colour in COLOURS]) for channel in range(3)]
    return np.rint(np.stack(lines, 1)).astype(np.uint8)


def record(confidence: Confidence, kind: str) -> dict[str, Any]:
    """Return the record of a map in a file of a kind, "png" or "tiff": plain values for JSON."""
    meaning = f"{100 * confidence.level:g} % of errors: |true - g * made| <= half_width * (g * made + floor)"
    scale = {"code_0": LEAST, "code_255": MOST, "spacing": "logarithmic"} if kind == "png" else {}
    return {"paramisp": "confidence map", "meaning": meaning, **confidence.describe(), **scale, "software": _SOFTWARE}


def write(confidence: Confidence, path: Path, kind: str) -> None:
    """Write a map as "png" or "tiff". Raises FormatError for one that is too large for a TIFF, OSError."""
    (_write_png if kind == "png" else _write_tiff)(confidence, path, json.dumps(record(confidence, kind)))


def _shown(confidence: Confidence) -> np.ndarray:
    """Return the codes of the picture, upright (H, W) uint8: each 2×2 of the mosaic shows its worst site."""
    height, width = confidence.half_width.shape
    out = np.empty((height, width), np.uint8)
    for top in range(0, height, STRIP + STRIP % 2):
        rows = codes(confidence.half_width[top : top + STRIP + STRIP % 2])
        odd = np.pad(rows, ((0, len(rows) % 2), (0, width % 2)), mode="edge")
        worst = odd.reshape(odd.shape[0] // 2, 2, -1, 2).max((1, 3))
        out[top : top + len(rows)] = worst.repeat(2, 0).repeat(2, 1)[: len(rows), :width]
    crop = confidence.crop or Crop(0, 0, height, width)
    inner = out[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return np.ascontiguousarray(apply_orientation(inner[..., None], confidence.orientation)[..., 0])


def _write_png(confidence: Confidence, path: Path, about: str) -> None:
    pixels = _shown(confidence)
    height, width = pixels.shape
    with path.open("wb") as file:

        def chunk(kind: bytes, data: bytes) -> None:
            file.write(
                struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
            )

        file.write(PNG_MAGIC)
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        chunk(b"PLTE", palette().tobytes())
        chunk(b"eXIf", exif.build({305: text(_SOFTWARE)}, {}, {}))
        chunk(b"tEXt", b"Description\0" + about.encode("latin-1"))
        packer = zlib.compressobj(6)
        for top in range(0, height, STRIP):
            rows = pixels[top : top + STRIP]
            lines = np.zeros((len(rows), 1 + width), np.uint8)  # filter 0: palette codes
            lines[:, 1:] = rows
            if data := packer.compress(lines.tobytes()):
                chunk(b"IDAT", data)
        chunk(b"IDAT", packer.flush())
        chunk(b"IEND", b"")


def _write_tiff(confidence: Confidence, path: Path, about: str) -> None:
    samples = np.ascontiguousarray(confidence.half_width, "<f4")
    height, width = samples.shape
    end = _START + samples.nbytes
    if end > _MOST_BYTES:
        raise FormatError(f"the map has {samples.nbytes / 1e9:.1f} GB, more than a TIFF can hold (4 GB); write a .png")
    ifd = {
        254: long(0),  # NewSubFileType
        256: long(width),
        257: long(height),
        258: short(32),
        259: short(1),  # Compression: none
        262: short(1),  # PhotometricInterpretation: black is zero
        270: text(about),
        273: long(_START),
        277: short(1),
        278: long(height),  # RowsPerStrip
        279: long(samples.nbytes),
        284: short(1),
        305: text(_SOFTWARE),
        339: short(3),  # SampleFormat: floats
    }
    with path.open("wb") as file:
        file.write((b"II*\0" + struct.pack("<I", end)).ljust(_START, b"\0"))
        file.write(samples.data)
        file.write(directory(ifd, end))
