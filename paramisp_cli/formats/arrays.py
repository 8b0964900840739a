"""Arrays of RAW samples for training: .npy with its record beside it, .npz, TIFF and OpenEXR with the record inside.

.npy   the samples alone, as ``numpy.save`` writes them; NAME.npy.json holds the record
.npz   "raw" the samples, "max_val" their white level, further arrays of parameters, and "record", a text
.tif   the samples in one strip at byte 64, uncompressed, so that programs can map them into memory; ImageDescription
       holds the record, and the bytes before the samples tell that the TIFF is an array and no picture

.exr   floats, in ``formats.exr``

The record is that of ``formats.array_record``. Equal input gives equal bytes: no file holds a time.
"""

from __future__ import annotations

import errno
import io
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats import array_record, exr
from paramisp_cli.formats.base import MAX_PIXELS, Format, WriteOptions, check_pixels, one_line
from paramisp_cli.formats.tiff import Entry, directory, long, parse_ifds, short, text
from paramisp_cli.formats.verify import check_same
from paramisp_cli.types import Output, RawImage

BESIDE = ".json"
"""Ending of the file beside a .npy, after the whole name."""
_NPY_MAGIC, _ZIP_MAGIC = b"\x93NUMPY", b"PK\x03\x04"
_TIFF_START = 64  # bytes before the samples of a TIFF
_TIFF_MARK = b"paramisp array\0"
_NO_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold
_MOST_HEADER = 4096  # bytes of a .npy header that are read; ours have 128
_WIDTH, _HEIGHT, _BITS, _OFFSETS, _SAMPLES, _COUNTS, _DESCRIPTION, _SAMPLE_FORMAT = (
    256,
    257,
    258,
    273,
    277,
    279,
    270,
    339,
)


def beside(path: Path) -> Path:
    """Return the path of the record beside a .npy."""
    return path.with_name(path.name + BESIDE)


def _parts(image: Output, options: WriteOptions) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the samples (little-endian) and the record of a RAW; FormatError for another image."""
    if not isinstance(image, RawImage):
        raise FormatError("only a RAW image can be written as an array")
    if options.half:
        raise FormatError("`half` is for OpenEXR: leave it out, or write .exr")
    layout = array_record.layout_of(image, options.layout)
    samples = array_record.samples_of(image, layout)
    return samples.astype(samples.dtype.newbyteorder("<"), copy=False), array_record.record_of(image, samples, layout)


# --- .npy -------------------------------------------------------------------------------------------------------------


def _write_npy(image: Output, path: Path, options: WriteOptions) -> None:
    samples, _ = _parts(image, options)
    with path.open("wb") as file:
        np.lib.format.write_array(file, samples, allow_pickle=False)


def _npy_record(image: Output, name: str, options: WriteOptions) -> bytes:
    """Return the line that goes into the file beside a .npy of this name."""
    return array_record.text_of({"file": name, **_parts(image, options)[1]}).encode() + b"\n"


def _record_beside(path: Path) -> dict[str, Any]:
    place = beside(path)
    try:
        with place.open("rb") as file:
            content = file.read(array_record.LONGEST + 1)
    except FileNotFoundError as error:
        raise FormatError(
            f"{path}: has no {place.name} beside it, which holds its parameters; `unprocess` writes it, so copy both"
        ) from error
    try:
        return array_record.parsed(content)
    except FormatError as error:
        raise error.named(place) from error


def _read_npy(path: Path, max_pixels: int = MAX_PIXELS) -> RawImage:
    try:
        record = _record_beside(path)
        with path.open("rb") as file:
            samples = _read_array(file, path.stat().st_size, record, max_pixels)
        return array_record.image_of(samples, record, path.name)
    except FormatError as error:
        raise error.named(path) if beside(path).name not in str(error) else error from error


def _read_array(file: IO[bytes], size: int, record: dict[str, Any], max_pixels: int) -> np.ndarray:
    """Read an array in NumPy's format of ``size`` bytes; FormatError unless its samples are those of the record."""
    shape, is_fortran, dtype, start = _header(file)
    array_record.check_samples(record, shape, dtype)
    _check_pixels(shape, record, max_pixels)
    wanted = start + math.prod(shape) * dtype.itemsize
    if size != wanted:
        raise FormatError(f"the array has {size} of {wanted} bytes; it is damaged, or its writer was interrupted")
    samples = np.empty(math.prod(shape), dtype)
    _fill(file, samples)
    return samples.reshape(shape, order="F" if is_fortran else "C")


def _check_pixels(shape: tuple[int, ...], record: dict[str, Any], max_pixels: int) -> None:
    cell = 2 if record["layout"] == "packed" else 1
    check_pixels(cell * shape[1], cell * shape[0], max_pixels)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Read the header of NumPy's format → (shape, Fortran order, type, bytes before the samples)."""
    head = file.read(_MOST_HEADER)
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise FormatError(f"the array has the version {version} of NumPy's format; save it again with numpy.save")
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = reader(stream, max_header_size=_MOST_HEADER)
    except FormatError:
        raise
    except Exception as error:  # NumPy's parser raises errors of many kinds: ValueError, SyntaxError, TokenError, …
        raise FormatError(f"the array's header is damaged ({one_line(error)})") from error
    if any(side < 1 for side in shape):
        raise FormatError(f"the array is empty: {shape}")
    if dtype.hasobject or dtype.fields is not None:
        raise FormatError("the array holds objects, which paramisp does not read; save numbers")
    if file.seekable():
        file.seek(stream.tell())
    return shape, is_fortran, dtype, stream.tell()


def _fill(file: IO[bytes], samples: np.ndarray) -> None:
    """Read the bytes of all samples; FormatError if the file ends before."""
    view = samples.data.cast("B")
    at = 0
    while at < len(view):
        block = file.read(min(1 << 24, len(view) - at))
        if not block:
            raise FormatError(f"the array has {at} of {len(view)} bytes of samples; it is damaged")
        view[at : at + len(block)] = block
        at += len(block)


# --- .npz -------------------------------------------------------------------------------------------------------------

_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError, RuntimeError, ValueError,
)  # fmt: skip
"""Errors of zipfile for damaged archives, beside OSErrors for offsets that do not exist.

It reports an unknown compression by a kind of RuntimeError.
"""
_NUMBERS = ("black_level", "white_level", "as_shot_neutral", "wb_gains", "color_matrix")


def _write_npz(image: Output, path: Path, options: WriteOptions) -> None:
    samples, record = _parts(image, options)
    arrays: dict[str, np.ndarray] = {"raw": samples, "max_val": np.array(record["white_level"], "<f8")}
    arrays |= {name: np.array(record[name], "<f8") for name in _NUMBERS}
    arrays["record"] = np.array(array_record.text_of(record))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", _NO_TIME)
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _is_npz(head: bytes) -> bool:
    return head.startswith(_ZIP_MAGIC) and b".npy" in head[30:]


def _read_npz(path: Path, max_pixels: int = MAX_PIXELS) -> RawImage:
    try:
        with zipfile.ZipFile(path) as archive:
            record = _record_inside(archive)
            info = _member(archive, "raw")
            with archive.open(info) as member:
                samples = _read_array(member, info.file_size, record, max_pixels)
        return array_record.image_of(samples, record, path.name)
    except (OSError, *_ZIP_ERRORS) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise FormatError(f"{path}: is damaged, or its writer was interrupted ({one_line(error)})") from error
    except FormatError as error:
        raise error.named(path) from error


def _record_inside(archive: zipfile.ZipFile) -> dict[str, Any]:
    info = _member(archive, "record")
    if info.file_size > 4 * array_record.LONGEST:
        raise FormatError(f"its record has {info.file_size} bytes, more than any array needs; it is damaged")
    with archive.open(info) as member:
        shape, _, dtype, start = _header(member)
        if shape != () or dtype.kind != "U" or start + dtype.itemsize != info.file_size:
            raise FormatError("its record is not a text; it is damaged")
        content = np.frombuffer(member.read(), dtype, 1)
    return array_record.parsed(str(content[0]))


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise FormatError(f"has no array {name!r}; `unprocess` writes it, and other .npz files are not read") from error


# --- TIFF -------------------------------------------------------------------------------------------------------------


def _write_tiff(image: Output, path: Path, options: WriteOptions) -> None:
    samples, record = _parts(image, options)
    end = _TIFF_START + samples.nbytes
    if end > 2**32 - (1 << 24):
        raise FormatError(
            f"the samples have {samples.nbytes / 1e9:.1f} GB, more than a TIFF can hold (4 GB); write .npy"
        )
    height, width, *channels = samples.shape
    count = channels[0] if channels else 1
    ifd: dict[int, Entry] = {
        254: long(0),  # NewSubFileType
        _WIDTH: long(width),
        _HEIGHT: long(height),
        _BITS: short(*[8 * samples.itemsize] * count),
        259: short(1),  # Compression: none
        262: short(2 if count == 3 else 1),  # PhotometricInterpretation: RGB, or black is zero
        _DESCRIPTION: text(array_record.text_of(record)),
        _OFFSETS: long(_TIFF_START),
        _SAMPLES: short(count),
        278: long(height),  # RowsPerStrip
        _COUNTS: long(samples.nbytes),
        284: short(1),  # PlanarConfiguration: the channels of a pixel are neighbours
        305: text(record["software"]),
        _SAMPLE_FORMAT: short(*[3 if samples.dtype.kind == "f" else 1] * count),
    }
    if count == 4:
        ifd[338] = short(0, 0, 0)  # ExtraSamples: not a colour
    with path.open("wb") as file:
        file.write((b"II*\0" + struct.pack("<I", end) + _TIFF_MARK).ljust(_TIFF_START, b"\0"))
        file.write(np.ascontiguousarray(samples).data)
        file.write(directory(ifd, end))


def is_tiff(head: bytes) -> bool:
    """Tell whether a file with these first 64 bytes is a TIFF of ``unprocess``: an array and no picture."""
    return head[:4] == b"II*\0" and head[8 : 8 + len(_TIFF_MARK)] == _TIFF_MARK


def _tiff_record(path: Path) -> tuple[dict[str, Any], dict[int, Entry], int]:
    """Return the record of a TIFF, its tags, and the bytes of the file; FormatError if it is damaged."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        tags, size = (parse_ifds(data) or [{}])[0], len(data)
    if _DESCRIPTION not in tags:
        raise FormatError("its directory is missing; it is damaged, or its writer was interrupted")
    return array_record.parsed(tags[_DESCRIPTION].data.rstrip(b"\0")), tags, size


def _read_tiff(path: Path, max_pixels: int = MAX_PIXELS) -> RawImage:
    try:
        record, tags, size = _tiff_record(path)
        shape = array_record.shape_of(record)
        dtype = np.dtype({"uint16": "<u2", "float32": "<f4"}.get(str(record.get("dtype")), "u1"))
        array_record.check_samples(record, shape, dtype)
        _check_pixels(shape, record, max_pixels)
        if not _is_plain(tags, shape, dtype) or _TIFF_START + math.prod(shape) * dtype.itemsize > size:
            raise FormatError("its samples are not those of its record; it is damaged, or another program wrote it")
        samples = np.fromfile(path, dtype, math.prod(shape), offset=_TIFF_START).reshape(shape)
        return array_record.image_of(samples, record, path.name)
    except FormatError as error:
        raise error.named(path) from error


def _is_plain(tags: dict[int, Entry], shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Tell whether a TIFF's tags are those that ``_write_tiff`` writes for samples of this shape and type."""
    count = shape[2] if len(shape) == 3 else 1
    wanted = {
        _HEIGHT: (shape[0],),
        _WIDTH: (shape[1],),
        _SAMPLES: (count,),
        _BITS: (8 * dtype.itemsize,) * count,
        _OFFSETS: (_TIFF_START,),
        _COUNTS: (math.prod(shape) * dtype.itemsize,),
    }
    return all(tag in tags and tags[tag].values() == values for tag, values in wanted.items())


# --- formats ----------------------------------------------------------------------------------------------------------


def record_at(path: Path, head: bytes) -> dict[str, Any] | None:
    """Return the record of an array; ``head`` is the file's first 64 bytes. None for other files; FormatError."""
    try:
        if head.startswith(_NPY_MAGIC):
            return _record_beside(path)
        if _is_npz(head):
            with zipfile.ZipFile(path) as archive:
                return _record_inside(archive)
        if exr.is_array(head):
            return exr.record_at(path)
        return _tiff_record(path)[0] if is_tiff(head) else None
    except (OSError, *_ZIP_ERRORS) as error:
        raise FormatError(f"{path}: its record cannot be read ({one_line(error)})") from error


def is_array(head: bytes) -> bool:
    """Tell whether a file whose suffix pictures share, .tif or .exr, is an array, by its first 64 bytes."""
    return is_tiff(head) or exr.is_array(head)


def is_own(path: Path, head: bytes) -> bool:
    """Tell whether paramisp wrote an array, by its record; ``head`` is the file's first 64 bytes."""
    try:
        record = record_at(path, head)
    except FormatError:
        return False
    return record is not None and array_record.is_own(record)


def is_record(path: Path) -> bool:
    """Tell whether a file is the record of an array by paramisp, which a new one may replace."""
    try:
        with path.open("rb") as file:
            return array_record.is_own(array_record.parsed(file.read(array_record.LONGEST + 1)))
    except (OSError, FormatError):
        return False


def record(image: RawImage, options: WriteOptions) -> dict[str, Any]:
    """Return the record that a RAW gets with these options."""
    return (exr.parts if options.half else _parts)(image, options)[1]


def _check(image: Output, path: Path, options: WriteOptions, read: Callable[[Path, int], RawImage]) -> None:
    assert isinstance(image, RawImage)  # write checked it
    check_same(array_record.as_read(image), read(path, image.mosaic.size))


def _verify_npy(image: Output, path: Path, options: WriteOptions) -> None:
    """Compare a .npy with its image; the record, which has no file under the temporary name, is that to be written."""

    def read(path: Path, max_pixels: int) -> RawImage:
        inside = array_record.parsed(_npy_record(image, path.name, options))
        with path.open("rb") as file:
            samples = _read_array(file, path.stat().st_size, inside, max_pixels)
        return array_record.image_of(samples, inside, path.name)

    _check(image, path, options, read)


def _format(
    name: str,
    suffixes: tuple[str, ...],
    sniff: Callable[[bytes], bool],
    read: Callable[[Path, int], RawImage],
    write: Callable[[Output, Path, WriteOptions], None],
) -> Format:
    def verify(image: Output, path: Path, options: WriteOptions) -> None:
        _check(image, path, options, read)

    return Format(name, suffixes, sniff, read=read, write=write, verify=verify, holds=(RawImage,))


NPY = replace(
    _format("NumPy array", (".npy",), lambda head: head.startswith(_NPY_MAGIC), _read_npy, _write_npy),
    verify=_verify_npy,
    beside=_npy_record,
)
NPZ = _format("NumPy archive", (".npz",), _is_npz, _read_npz, _write_npz)
TIFF = _format("TIFF of RAW samples", (".tif", ".tiff"), is_tiff, _read_tiff, _write_tiff)
FORMATS = (NPY, NPZ, TIFF, exr.ARRAY)
