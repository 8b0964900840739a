"""Radiance .hdr: linear pictures with three mantissas of 8 bits and one exponent (Ward, "Real Pixels", Graphics Gems).

The format holds neither values below 0 nor metadata, and its steps are up to 1 %.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats.base import Format, WriteOptions
from paramisp_cli.formats.pixels import STRIP
from paramisp_cli.types import LinearImage, Output

_MAX_PIXELS = 200_000_000  # a panorama of 20 000 × 10 000; a larger claim is damage or an attack
_LEAST, _MOST = 1e-32, 1e38
"""Light below which a pixel is black, and the brightest light."""
_WIDTHS = (8, 32767)
"""Widths that the run-length encoding holds; others are written flat."""
_RUN = 127
"""Bytes of a literal run at most 128, and of a repetition at most 127."""


def _write(image: Output, path: Path, options: WriteOptions) -> None:
    if not isinstance(image, LinearImage):
        raise FormatError("Radiance .hdr holds linear pictures alone")
    height, width = image.size
    with path.open("wb") as file:
        file.write(b"#?RADIANCE\nSOFTWARE=paramisp\nFORMAT=32-bit_rle_rgbe\n")
        file.write(b"PRIMARIES=0.6400 0.3300 0.3000 0.6000 0.1500 0.0600 0.3127 0.3290\n\n")
        file.write(f"-Y {height} +X {width}\n".encode())
        for top in range(0, height, STRIP):
            for row in encoded(image.pixels[top : top + STRIP]):
                if _WIDTHS[0] <= width <= _WIDTHS[1]:
                    file.write(bytes((2, 2, width >> 8, width & 255)))
                    file.write(b"".join(_packed(row[:, plane]) for plane in range(4)))
                else:
                    file.write(row.tobytes())


def encoded(pixels: np.ndarray) -> np.ndarray:
    """Return (…, 3) float32 as (…, 4) uint8: mantissas, rounded, and the exponent of the brightest channel."""
    light = np.clip(pixels, 0, _MOST)
    top = light.max(-1)
    mantissa, exponent = np.frexp(top)
    # A mantissa that would round up to 256 takes the next exponent.
    visible = top >= _LEAST
    exponent = np.where(visible, exponent + (mantissa * 256 >= 255.5), 0).astype(np.int32)
    out = np.zeros((*top.shape, 4), np.uint8)
    scale = np.where(visible, np.ldexp(np.float32(1), 8 - exponent), 0).astype(np.float32)
    out[..., :3] = np.rint(light * scale[..., None])
    out[..., 3] = np.where(visible, exponent + 128, 0)
    return out


def _packed(values: np.ndarray) -> bytes:
    """Encode runs of (n,) uint8: a count above 128 repeats one byte, a smaller count precedes literal bytes."""
    starts = np.flatnonzero(np.diff(values, prepend=int(values[0]) ^ 1))
    lengths = np.diff(starts, append=len(values))
    long = lengths >= 4  # a shorter run costs more than it saves
    out = bytearray()
    done = 0
    for start, length in zip(starts[long].tolist(), lengths[long].tolist(), strict=True):
        _literal(values[done:start], out)
        value = int(values[start])
        for _ in range(length // _RUN):
            out += bytes((128 + _RUN, value))
        if length % _RUN:
            out += bytes((128 + length % _RUN, value))
        done = start + length
    _literal(values[done:], out)
    return bytes(out)


def _literal(values: np.ndarray, out: bytearray) -> None:
    data = values.tobytes()
    for first in range(0, len(data), 128):
        piece = data[first : first + 128]
        out.append(len(piece))
        out += piece


# Reading -------------------------------------------------------------------------------------------------------------


def read(path: Path) -> np.ndarray:
    """Read linear RGB (H, W, 3) float32, ≥ 0, of a Radiance picture, flat or run-length encoded, without scaling.

    Raises FormatError if it is damaged, XYZ, or not stored in rows from the top left; OSError if it cannot be read.
    """
    data = path.read_bytes()
    try:
        height, width, start = _header(data)
        rgbe = _rows(memoryview(data)[start:], height, width)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    return decoded(rgbe)


def decoded(rgbe: np.ndarray) -> np.ndarray:
    """Return light (…, 3) float32 of (…, 4) uint8: the inverse of ``encoded``."""
    scale = np.ldexp(np.float32(1), rgbe[..., 3].astype(np.int32) - 136)  # exponent + 128, mantissa of 8 bits
    scale[rgbe[..., 3] == 0] = 0
    light: np.ndarray = rgbe[..., :3] * scale[..., None]
    return light


def _header(data: bytes) -> tuple[int, int, int]:
    """Parse (height, width, offset of the first row)."""
    end = data.find(b"\n\n")
    if not data.startswith(b"#?") or end < 0:
        raise FormatError("not a Radiance .hdr picture, or its header is damaged")
    kinds = [line.removeprefix(b"FORMAT=") for line in data[:end].splitlines() if line.startswith(b"FORMAT=")]
    if kinds and kinds[-1].strip() != b"32-bit_rle_rgbe":
        raise FormatError(f"holds {kinds[-1].decode('ascii', 'replace')[:40]}; only 32-bit_rle_rgbe is read")
    line = data[end + 2 : end + 102].split(b"\n")[0]
    words = line.split()
    if len(words) != 4 or words[0] != b"-Y" or words[2] != b"+X" or not (words[1].isdigit() and words[3].isdigit()):
        raise FormatError(f"its size reads {line.decode('ascii', 'replace')[:40]!r} and not '-Y height +X width'")
    height, width = int(words[1]), int(words[3])
    if not 0 < height * width <= _MAX_PIXELS:
        raise FormatError(f"claims {width}×{height} pixels; the largest size is {_MAX_PIXELS} pixels")
    return height, width, end + 2 + len(line) + 1


def _rows(data: memoryview, height: int, width: int) -> np.ndarray:
    """Decode (H, W, 4) uint8: a row is flat, or its four planes are run-length encoded one after the other."""
    mark = bytes((2, 2, width >> 8 & 255, width & 255))
    rows, at = np.empty((height, 4 * width), np.uint8), 0
    for row in rows:
        if 8 <= width < 32768 and data[at : at + 4] == mark:
            planes, at = _planes(data, at + 4, 4 * width)
            row[:] = np.frombuffer(planes, np.uint8).reshape(4, width).T.ravel()
            continue
        if at + 4 * width > len(data):
            raise FormatError("the file is cut short, or damaged")
        row[:] = data[at : at + 4 * width]
        at += 4 * width
    return rows.reshape(height, width, 4)


def _planes(data: memoryview, at: int, length: int) -> tuple[bytearray, int]:
    """Unpack ``length`` bytes → (bytes, offset of the end): a count > 128 repeats a byte, else count bytes follow."""
    out = bytearray()
    try:
        while len(out) < length:
            count = data[at]
            if count > 128:
                out += bytes((data[at + 1],)) * (count - 128)
                at += 2
            else:
                out += data[at + 1 : at + 1 + count]
                at += 1 + count
                if count == 0:
                    raise FormatError("its run-length encoding is damaged")
    except IndexError:
        raise FormatError("the file is cut short, or damaged") from None
    if len(out) > length or at > len(data):
        raise FormatError("its run-length encoding is damaged")
    return out, at


def _verify(image: Output, path: Path, options: WriteOptions) -> None:
    """Read the file again and compare it with the rounded values."""
    assert isinstance(image, LinearImage)
    if not np.array_equal(read(path), decoded(encoded(image.pixels))):
        raise FormatError(f"{path}: does not read back as it was written")


FORMAT = Format(
    "Radiance", (".hdr",), sniff=lambda head: head.startswith(b"#?RADIANCE"), read=None, write=_write, verify=_verify
)
