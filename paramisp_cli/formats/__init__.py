"""File formats: find out what a file is, read it, and write one so that nothing is ever left half done."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paramisp_cli import atomic
from paramisp_cli.errors import ConfigError, FileAccessError, FormatError, InputMissingError, OutputExistsError
from paramisp_cli.formats import dng, exif, jpeg, libraw, raster
from paramisp_cli.formats.base import Format, WriteOptions
from paramisp_cli.types import RawImage, SrgbImage

# RAW before raster: a NEF or a DNG is a TIFF too, and only its tags tell.
FORMATS: tuple[Format, ...] = (libraw.FORMAT, *raster.FORMATS, dng.FORMAT)
RAW_SUFFIXES = libraw.FORMAT.suffixes
SRGB_SUFFIXES = tuple(suffix for form in raster.FORMATS for suffix in form.suffixes)
KNOWN_UNREADABLE: dict[str, str] = {".heic": "HEIC", ".heif": "HEIC"}
SRGB_WRITE_SUFFIXES = tuple(suffix for form in raster.FORMATS if form.write for suffix in form.suffixes)

__all__ = [
    "FORMATS",
    "RAW_SUFFIXES",
    "SRGB_SUFFIXES",
    "SRGB_WRITE_SUFFIXES",
    "WriteOptions",
    "identify",
    "is_own",
    "read",
    "write",
]


@contextmanager
def _plain_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn the system's errors into ours, in words, about ``path`` whatever file the system names."""
    try:
        yield
    except FileNotFoundError as error:
        if doing == "write":
            reason = error.strerror if path.parent.is_dir() else f"there is no folder {path.parent}"
            raise FileAccessError(f"{path}: cannot write it: {reason}") from error
        raise InputMissingError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise FileAccessError(f"{path}: is a folder, not a file") from error
    except PermissionError as error:
        raise FileAccessError(f"{path}: no permission to {doing} it; check who owns the file and its folder") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FileAccessError(f"{path}: the disk is full; free some space or choose another -o") from error
        raise FileAccessError(f"{path}: cannot {doing} it: {error.strerror or error}") from error


def identify(path: Path) -> Format:
    """The format of a file, by its content and not by its name.

    Raises InputMissingError, FileAccessError, or FormatError if it is nothing that can be read.
    """
    with _plain_errors(path, "read"):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise FileAccessError(f"{path}: is a folder, not a file")
        if not stat.S_ISREG(mode):  # a pipe would be emptied by looking at its first bytes, or keep us waiting for ever
            raise FileAccessError(f"{path}: is a pipe or device, not a file; save what it gives to a file first")
        with path.open("rb") as stream:
            head = stream.read(64)
    if not head:
        raise FormatError(f"{path}: the file is empty")
    for form in FORMATS:
        if form.read and form.sniff(head) and (form is not libraw.FORMAT or libraw.is_raw(path, head)):
            return form
    raise FormatError(f"{path}: not a JPEG, PNG, TIFF or camera RAW file")


def read(path: str | Path) -> SrgbImage | RawImage:
    """Read any image file. Raises InputMissingError, FileAccessError or FormatError, always naming the file."""
    path = Path(path)
    form = identify(path)
    assert form.read is not None  # identify only returns formats that can be read
    with _plain_errors(path, "read"):
        return form.read(path)


def writer(suffix: str) -> Format | None:
    """The format that writes files with this suffix (".dng", ".jpg", …), if there is one."""
    return next((form for form in FORMATS if form.write and suffix.lower() in form.suffixes), None)


def write(
    image: SrgbImage | RawImage,
    path: str | Path,
    options: WriteOptions = WriteOptions(),
    *,
    overwrite: bool = False,
) -> None:
    """Write an image in the format its suffix names, through a temporary file in the same folder.

    What stands at ``path`` is either the old file or the whole new one. Raises OutputExistsError (unless
    ``overwrite``), FileAccessError, FormatError, always naming ``path``.
    """
    path = Path(path)
    form = writer(path.suffix)
    kind = RawImage if path.suffix.lower() in dng.FORMAT.suffixes else SrgbImage
    if form is None or not isinstance(image, kind):
        known = dng.FORMAT.suffixes if isinstance(image, RawImage) else SRGB_SUFFIXES
        what = "a RAW image" if isinstance(image, RawImage) else "an sRGB picture"
        raise FormatError(f"{path}: {what} is written as {', '.join(known)}, not {path.suffix or 'without a suffix'}")
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(f"{path}: exists already; pass --on-exists overwrite, rename or skip")
    assert form.write is not None
    with _plain_errors(path, "write"):
        try:
            with atomic.replacing(path, overwrite=overwrite) as temporary:
                form.write(image, temporary, options)
        except FileExistsError as error:
            raise OutputExistsError(f"{path}: appeared while it was being made; left as it is") from error
        except (ConfigError, FormatError) as error:
            raise type(error)(f"{path}: {error}") from error


def is_own(path: Path) -> bool:
    """Tell whether paramisp made a file: whether the Software tag (0x0131) of its EXIF or TIFF begins with its name."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            block = _exif_block(data)
            entry = exif.parse(block).ifd0.get(0x0131) if block else None
            return entry is not None and entry.text().startswith("paramisp")
    except (OSError, ValueError, FormatError):
        return False


def _exif_block(data: mmap.mmap) -> bytes | mmap.mmap | None:
    """The EXIF of a JPEG or PNG file, or a TIFF-like file as it is; None if there is none."""
    if data[:2] == b"\xff\xd8":
        return jpeg.exif_block(data)
    if data[:4] == b"\x89PNG":
        at = data[:65536].find(b"eXIf")
        length = int.from_bytes(data[at - 4 : at], "big")
        return data[at + 4 : at + 4 + length] if at > 0 else None
    return data
