"""File formats: identify a file by its content, read it, and write files atomically."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from paramisp_cli import atomic
from paramisp_cli.errors import (
    ConfigError,
    FileAccessError,
    FormatError,
    InputMissingError,
    MetadataError,
    OutputExistsError,
)
from paramisp_cli.formats import (
    arrays,
    confidence_map,
    dng,
    exif,
    exr,
    isolated,
    jpeg,
    kept,
    libraw,
    provenance,
    radiance,
    raster,
)
from paramisp_cli.formats.base import MAX_PIXELS, Format, WriteOptions
from paramisp_cli.formats.kinds import KNOWN_UNREADABLE, unreadable
from paramisp_cli.formats.verify import check_raw
from paramisp_cli.types import Confidence, HdrImage, LinearImage, Output, RawImage, SrgbImage


def _verify_dng(image: Output, path: Path, options: WriteOptions) -> None:
    """Read the DNG through LibRaw, as other programs do, and compare."""
    assert isinstance(image, RawImage)  # dng.write checked it
    check_raw(image, libraw.read(path, image.mosaic.size))


# Arrays before RAW before raster: a NEF, a DNG or an array may be a TIFF too.
FORMATS: tuple[Format, ...] = (*arrays.FORMATS, libraw.FORMAT, *raster.FORMATS, replace(dng.FORMAT, verify=_verify_dng))
RAW_SUFFIXES = libraw.FORMAT.suffixes
ARRAY_SUFFIXES = (*arrays.NPY.suffixes, *arrays.NPZ.suffixes)
"""Suffixes of arrays alone; a .tif or .exr is an array or a picture, which its first bytes tell (``is_array``)."""
SRGB_SUFFIXES = tuple(suffix for form in raster.FORMATS for suffix in form.suffixes)
SRGB_WRITE_SUFFIXES = tuple(suffix for form in raster.FORMATS if form.write for suffix in form.suffixes)
"""Suffixes of pictures that paramisp reads, and suffixes of pictures that it also writes."""

LINEAR_FORMATS = (exr.FORMAT, radiance.FORMAT)
"""Formats of linear pictures alone, which paramisp writes and does not read as pictures."""
LINEAR_WRITE_SUFFIXES = (*raster.TIFF.suffixes, *(suffix for form in LINEAR_FORMATS for suffix in form.suffixes))
"""Suffixes of linear pictures."""
CONFIDENCE_SUFFIXES = confidence_map.SUFFIXES
"""Suffixes of confidence maps."""
RAW_WRITE_SUFFIXES = tuple(s for form in (dng.FORMAT, *arrays.FORMATS) for s in form.suffixes)
"""Suffixes of RAW images that paramisp writes."""
_WRITTEN: dict[type[Output], tuple[str, tuple[str, ...]]] = {
    RawImage: ("a RAW image", RAW_WRITE_SUFFIXES),
    SrgbImage: ("an sRGB picture", SRGB_WRITE_SUFFIXES),
    LinearImage: ("a linear picture", LINEAR_WRITE_SUFFIXES),
    HdrImage: ("an Ultra HDR picture", raster.JPEG.suffixes),
}
"""Kind of an image → its name in messages, the suffixes of its files."""

__all__ = [
    "ARRAY_SUFFIXES",
    "CONFIDENCE_SUFFIXES",
    "FORMATS",
    "KNOWN_UNREADABLE",
    "LINEAR_FORMATS",
    "LINEAR_WRITE_SUFFIXES",
    "MAX_PIXELS",
    "RAW_SUFFIXES",
    "RAW_WRITE_SUFFIXES",
    "SRGB_SUFFIXES",
    "SRGB_WRITE_SUFFIXES",
    "WriteOptions",
    "beside",
    "check_confidence",
    "identify",
    "is_array",
    "is_own",
    "is_patch_of",
    "read",
    "record_of",
    "write",
    "writer",
]


@contextmanager
def _plain_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn the system's errors into ParamispErrors about ``path``; the system may name a temporary file instead."""
    try:
        yield
    except FileNotFoundError as error:
        if doing == "write":
            has_folder = os.path.isdir(path.parent)  # noqa: PTH112 – False for names too long, where Path raises
            reason = error.strerror if has_folder else f"there is no folder {path.parent}"
            raise FileAccessError(f"{path}: cannot write it: {reason}") from error
        raise InputMissingError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise FileAccessError(f"{path}: is a folder, not a file") from error
    except PermissionError as error:
        raise FileAccessError(f"{path}: no permission to {doing} it; check the owner of file and folder") from error
    except ValueError as error:
        if "\0" not in str(path):
            raise
        raise FileAccessError(f"{str(path)!r}: cannot {doing} it: a name cannot hold a NUL character") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FileAccessError(f"{path}: the disk is full; free some space or choose another -o") from error
        raise FileAccessError.of(error, path, f"{doing} it") from error


def identify(path: str | Path) -> Format:
    """Return the format of a file, by its content and not by its name.

    Raises InputMissingError, FileAccessError, or FormatError for a file that is not readable as an image.
    """
    path = Path(path)
    head = _head(path)
    for form in FORMATS:
        if form.read and form.sniff(head) and (form is not libraw.FORMAT or libraw.is_raw(path, head)):
            return form
    raise FormatError(f"{path}: {_refusal(unreadable(head))}")


def _head(path: Path) -> bytes:
    """Return the first 64 bytes of a file; raises InputMissingError, FileAccessError, or FormatError if it is empty."""
    with _plain_errors(path, "read"):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise FileAccessError(f"{path}: is a folder, not a file")
        if not stat.S_ISREG(mode):  # reading a pipe's first bytes would consume them, or block
            raise FileAccessError(f"{path}: is a pipe or device, not a file; save its content to a file first")
        with path.open("rb") as stream:
            head = stream.read(64)
    if not head:
        raise FormatError(f"{path}: the file is empty")
    return head


def _refusal(kind: str | None) -> str:
    """Return the reason why a file of this kind is not read, and the remedy."""
    if kind is None:
        return "not a JPEG, PNG, TIFF, WebP, AVIF, HEIC or camera RAW file"
    if kind == "video":
        return "is a video, which paramisp cannot read; save a picture of it as JPEG or PNG first"
    return f"is {kind}, which paramisp cannot read; convert it to JPEG, PNG or TIFF first"


def read(path: str | Path, *, max_pixels: int = MAX_PIXELS, isolate: bool = False) -> SrgbImage | RawImage:
    """Read any image file that claims at most ``max_pixels``.

    ``isolate`` reads RAW files and TIFFs in a process of their own (``isolated``), so that a decoder's crash or hang
    becomes a FormatError. Raises InputMissingError, FileAccessError or FormatError, always naming the file.
    """
    path = Path(path)
    if isolate and libraw.FORMAT.sniff(_head(path)):
        with _plain_errors(path, "read"):
            return isolated.read(path, max_pixels)
    form = identify(path)
    assert form.read is not None  # identify only returns formats that can be read
    with _plain_errors(path, "read"):
        return form.read(path, max_pixels)


def writer(suffix: str) -> Format | None:
    """Return the format that writes files with this suffix (".dng", ".jpg", …), or None; a .tif is a picture's."""
    forms = [form for form in (*FORMATS, *LINEAR_FORMATS) if form.write and suffix.lower() in form.suffixes]
    return next((form for form in forms if SrgbImage in form.holds), forms[0] if forms else None)


def is_array(path: Path) -> bool:
    """Tell by the first bytes whether a TIFF or OpenEXR file is an array of ``unprocess``; False if unreadable."""
    try:
        with path.open("rb") as stream:
            return arrays.is_array(stream.read(64))
    except OSError:
        return False


def is_patch_of(path: Path, source: str) -> bool:
    """Tell whether a file is an array that paramisp cut from the picture of this file name."""
    try:
        record = arrays.record_at(path, _head(path))
    except (FormatError, FileAccessError, InputMissingError):
        return False
    return record is not None and record.get("patch") is not None and record.get("source") == source


def beside(path: Path) -> Path | None:
    """Return the second file that belongs to an output, the record of a .npy; None for other outputs."""
    return arrays.beside(path) if path.suffix.lower() in arrays.NPY.suffixes else None


def record_of(image: RawImage, options: WriteOptions = WriteOptions()) -> dict[str, Any]:
    """Return the record of an array as ``write`` writes it, for JSON: every parameter, the source, and digests."""
    return arrays.record(dng.as_stored(image), options)


def check_confidence(path: Path) -> None:
    """Raise FormatError unless the name of a confidence map's file ends in one of ``CONFIDENCE_SUFFIXES``."""
    confidence_map.check_suffix(path)


def write(
    image: Output | Confidence,
    path: str | Path,
    options: WriteOptions = WriteOptions(),
    *,
    overwrite: bool = False,
    raw: RawImage | None = None,
) -> None:
    """Write an image in the format of the path's suffix, through a temporary file in the same folder.

    ``raw`` is the RAW that the picture was rendered from: with ``options.keep_raw`` the JPEG carries it. A confidence
    map is written as PNG or TIFF, see ``formats.confidence_map``; it has no options.

    At any time ``path`` is the old file or the complete new file. With ``options.verify`` (or the environment variable
    PARAMISP_VERIFY=1) the new file is read again and compared before it gets its name. Raises OutputExistsError
    (unless ``overwrite``), FileAccessError, FormatError, always naming ``path``.
    """
    path = Path(path)
    if isinstance(image, Confidence):
        _write_confidence(image, path, overwrite)
        return
    form = writer(path.suffix)
    if isinstance(image, (RawImage, LinearImage)) and form is not None and type(image) not in form.holds:
        sharing = [each for each in (*FORMATS, *LINEAR_FORMATS) if each.write and path.suffix.lower() in each.suffixes]
        form = next((each for each in sharing if type(image) in each.holds), form)
    noun, known = next((names for kind, names in _WRITTEN.items() if isinstance(image, kind)), ("", ()))
    if not noun:
        raise FormatError(
            f"{path}: write takes a RawImage, SrgbImage, LinearImage or HdrImage, got {type(image).__name__}"
        )
    if form is None or path.suffix.lower() not in known:
        raise FormatError(f"{path}: {noun} is written as {', '.join(known)}, not {path.suffix or 'without a suffix'}")
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(f"{path}: exists already; pass `on_exists` overwrite, rename or skip")
    assert form.write is not None
    second = path.with_name(f"{path.name}.json") if form.beside else None
    if second is not None and not overwrite and os.path.lexists(second) and not arrays.is_record(second):
        raise OutputExistsError(f"{second}: exists already, and is not by paramisp; pass another -o")
    if isinstance(image, RawImage) and path.suffix.lower() not in dng.FORMAT.suffixes:
        image = dng.as_stored(image)
    if options.keep_raw is not None:
        kept.check(options.keep_raw)
        if path.suffix.lower() not in raster.JPEG.suffixes or raw is None:
            raise ConfigError(f"{path}: `keep_raw`: only a JPEG carries a RAW, and only the RAW it was rendered from")
    with _plain_errors(path, "write"):
        try:
            with atomic.replacing(path, overwrite=overwrite) as temporary:
                form.write(image, temporary, options)
                if options.keep_raw is not None and raw is not None:
                    temporary.write_bytes(kept.keep(temporary.read_bytes(), raw, options.keep_raw))
                if form.verify and (options.verify or os.environ.get("PARAMISP_VERIFY") == "1"):
                    _verify(form.verify, image, temporary, options)
                    if options.keep_raw is not None:
                        kept.restore(temporary.read_bytes())  # checks the samples' digest
                if second is not None and form.beside is not None:  # before the array: an array always has its record
                    atomic.write_bytes(second, form.beside(image, path.name, options))
        except FileExistsError as error:
            raise OutputExistsError(f"{path}: appeared while paramisp was writing; it was not replaced") from error
        except (ConfigError, FormatError) as error:
            raise error.named(path) from error


def _write_confidence(confidence: Confidence, path: Path, overwrite: bool) -> None:
    confidence_map.check_suffix(path)
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(f"{path}: exists already; pass `on_exists` overwrite, rename or skip")
    kind = "png" if path.suffix.lower() == ".png" else "tiff"
    with _plain_errors(path, "write"):
        try:
            with atomic.replacing(path, overwrite=overwrite) as temporary:
                confidence_map.write(confidence, temporary, kind)
        except FileExistsError as error:
            raise OutputExistsError(f"{path}: appeared while paramisp was writing; it was not replaced") from error
        except FormatError as error:
            raise error.named(path) from error


def write_bytes(data: bytes, path: Path, *, overwrite: bool = False) -> None:
    """Write a file that is no image, as ``write`` does. Raises OutputExistsError, FileAccessError, naming ``path``."""
    with _plain_errors(path, "write"):
        try:
            with atomic.replacing(path, overwrite=overwrite) as temporary:
                temporary.write_bytes(data)
        except FileExistsError as error:
            raise OutputExistsError(f"{path}: exists already; pass `on_exists` overwrite") from error


def _verify(
    verify: Callable[[Output, Path, WriteOptions], None],
    image: Output,
    temporary: Path,
    options: WriteOptions,
) -> None:
    """Read the written file again and compare; FormatError if it cannot be read or differs."""
    try:
        verify(image, temporary, options)
    except (FormatError, MetadataError) as error:
        raise FormatError(str(error).replace(f"{temporary}: ", "the written file does not read back: ")) from error


def is_own(path: Path) -> bool:
    """Tell whether paramisp made a file: the Software tag (0x0131) of its EXIF or TIFF begins with "paramisp".

    An array's record names the software; an Ultra HDR JPEG has the photograph's EXIF, and the history in its XMP tells.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
        if any(form.sniff(head) for form in arrays.FORMATS):
            return arrays.is_own(path, head)
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:2] == b"\xff\xd8" and provenance.is_hdr(jpeg.xmp_packet(data)):
                return True
            block = _exif_block(data)
            entry = exif.parse(block).ifd0.get(0x0131) if block else None
            return entry is not None and entry.text().startswith("paramisp")
    except (OSError, ValueError, FormatError):
        return False


def _exif_block(data: mmap.mmap) -> bytes | mmap.mmap | None:
    """Return the EXIF block of a JPEG or PNG file, or a whole TIFF-like file; None without EXIF."""
    if data[:2] == b"\xff\xd8":
        return jpeg.exif_block(data)
    if data[:4] == b"\x89PNG":
        at = data[:65536].find(b"eXIf")
        length = int.from_bytes(data[at - 4 : at], "big")
        return data[at + 4 : at + 4 + length] if at > 0 else None
    return data
