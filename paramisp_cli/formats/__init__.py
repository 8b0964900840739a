"""File formats: identify a file by its content, read it, and write files atomically."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from paramisp_cli.errors import (
    ConfigError,
    FileAccessError,
    FormatError,
    InputMissingError,
    MetadataError,
    OutputExistsError,
)
from paramisp_cli.formats import dng, libraw, raster
from paramisp_cli.formats.base import MAX_PIXELS, Format, WriteOptions
from paramisp_cli.formats.kinds import KNOWN_UNREADABLE, unreadable
from paramisp_cli.formats.verify import check_raw
from paramisp_cli.types import RawImage, SrgbImage

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def _verify_dng(image: SrgbImage | RawImage, path: Path, options: WriteOptions) -> None:
    """Open the DNG as other programs do, through LibRaw, and compare."""
    assert isinstance(image, RawImage)  # dng.write has seen to it
    check_raw(image, libraw.read(path, image.mosaic.size))


# RAW before raster: a NEF or a DNG is a TIFF too, and only its tags tell.
FORMATS: tuple[Format, ...] = (libraw.FORMAT, *raster.FORMATS, replace(dng.FORMAT, verify=_verify_dng))
RAW_SUFFIXES = libraw.FORMAT.suffixes
SRGB_SUFFIXES = tuple(suffix for form in raster.FORMATS for suffix in form.suffixes)
SRGB_WRITE_SUFFIXES = tuple(suffix for form in raster.FORMATS if form.write for suffix in form.suffixes)
"""Suffixes of pictures that are read, and of those among them that are written."""

__all__ = [
    "FORMATS",
    "KNOWN_UNREADABLE",
    "MAX_PIXELS",
    "RAW_SUFFIXES",
    "SRGB_SUFFIXES",
    "SRGB_WRITE_SUFFIXES",
    "WriteOptions",
    "identify",
    "read",
    "sweep",
    "write",
    "writer",
]


@contextmanager
def _plain_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn the system's errors into ParamispErrors about ``path``, whichever file the system names."""
    try:
        yield
    except FileNotFoundError as error:
        if doing == "write":
            there = os.path.isdir(path.parent)  # noqa: PTH112 – says no to names too long, where Path raises
            reason = error.strerror if there else f"there is no folder {path.parent}"
            raise FileAccessError(f"{path}: cannot write it: {reason}") from error
        raise InputMissingError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise FileAccessError(f"{path}: is a folder, not a file") from error
    except PermissionError as error:
        raise FileAccessError(f"{path}: no permission to {doing} it; check who owns the file and its folder") from error
    except ValueError as error:
        if "\0" not in str(path):
            raise
        raise FileAccessError(f"{str(path)!r}: cannot {doing} it: a name cannot hold a NUL character") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FileAccessError(f"{path}: the disk is full; free some space or choose another -o") from error
        raise FileAccessError(f"{path}: cannot {doing} it: {error.strerror or error}") from error


def identify(path: str | Path) -> Format:
    """The format of a file, by its content and not by its name.

    Raises InputMissingError, FileAccessError, or FormatError for a file that is not readable as an image.
    """
    path = Path(path)
    with _plain_errors(path, "read"):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise FileAccessError(f"{path}: is a folder, not a file")
        if not stat.S_ISREG(mode):  # looking at a pipe's first bytes would take them away, or wait for ever
            raise FileAccessError(f"{path}: is a pipe or device, not a file; save its content to a file first")
        with path.open("rb") as stream:
            head = stream.read(64)
        if not head:
            raise FormatError(f"{path}: the file is empty")
        for form in FORMATS:
            if form.read and form.sniff(head) and (form is not libraw.FORMAT or libraw.is_raw(path, head)):
                return form
    raise FormatError(f"{path}: {_refusal(unreadable(head))}")


def _refusal(kind: str | None) -> str:
    """The reason why a file of this kind is not read, and the remedy."""
    if kind is None:
        return "not a JPEG, PNG, TIFF, WebP, AVIF or camera RAW file"
    if kind == "HEIC":
        return (
            "is HEIC, which paramisp cannot read yet; convert it to JPEG first "
            "(for example with `heif-convert photo.heic photo.jpg`)"
        )
    if kind == "video":
        return "is a video, which paramisp cannot read; save a picture of it as JPEG or PNG first"
    return f"is {kind}, which paramisp cannot read; convert it to JPEG, PNG or TIFF first"


def read(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> SrgbImage | RawImage:
    """Read any image file that claims at most ``max_pixels``.

    Raises InputMissingError, FileAccessError or FormatError, always naming the file.
    """
    path = Path(path)
    form = identify(path)
    assert form.read is not None  # identify only returns formats that can be read
    with _plain_errors(path, "read"):
        return form.read(path, max_pixels)


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

    At any time ``path`` is the old file or the whole new one. With ``options.verify`` (or the environment variable
    PARAMISP_VERIFY=1) the new file is read again and compared before it gets its name. Raises OutputExistsError
    (unless ``overwrite``), FileAccessError, FormatError, always naming ``path``.
    """
    path = Path(path)
    form = writer(path.suffix)
    kind = RawImage if path.suffix.lower() in dng.FORMAT.suffixes else SrgbImage
    if form is None or not isinstance(image, kind):
        known = dng.FORMAT.suffixes if isinstance(image, RawImage) else SRGB_WRITE_SUFFIXES
        what = "a RAW image" if isinstance(image, RawImage) else "an sRGB picture"
        raise FormatError(f"{path}: {what} is written as {', '.join(known)}, not {path.suffix or 'without a suffix'}")
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(f"{path}: exists already; pass --on-exists overwrite, rename or skip")
    assert form.write is not None
    # Not derived from the output's name, which may have the greatest length that names can have.
    temporary = path.with_name(f"{_PART[0]}{secrets.token_hex(6)}{_PART[1]}")
    with _plain_errors(path, "write"), _held(temporary):
        try:
            form.write(image, temporary, options)
            if form.verify and (options.verify or os.environ.get("PARAMISP_VERIFY") == "1"):
                _verify(form.verify, image, temporary, options)
            if not overwrite:
                _publish(temporary, path)
            else:
                temporary.replace(path)
        except (ConfigError, FormatError) as error:
            raise type(error)(f"{path}: {error}") from error
        finally:
            with suppress(OSError):  # the folder may be no folder: an error has been raised already
                temporary.unlink()


def _verify(
    verify: Callable[[SrgbImage | RawImage, Path, WriteOptions], None],
    image: SrgbImage | RawImage,
    temporary: Path,
    options: WriteOptions,
) -> None:
    """Read the written file again and compare; FormatError if it cannot be read or differs."""
    try:
        verify(image, temporary, options)
    except (FormatError, MetadataError) as error:
        raise FormatError(str(error).replace(f"{temporary}: ", "the written file does not read back: ")) from error


_PART = ".paramisp-", ".part"
"""Beginning and end of the names of files that are being written."""
_YOUNG = 60
"""Seconds after the last write during which another machine may own the file: not all networks share locks."""


@contextmanager
def _held(temporary: Path) -> Iterator[None]:
    """Create a file to be written and lock it, so that ``sweep`` does not take it for a leftover."""
    if fcntl is None:
        yield
        return
    with temporary.open("xb") as file:
        with suppress(OSError):  # no locks on this file system
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def sweep(folder: Path) -> None:
    """Remove half-written files that killed programs left in a folder."""
    found: list[Path] = []
    if fcntl is not None:
        with suppress(OSError):  # no such folder, or no permission: ignore; the later write reports it
            found = list(folder.glob(f"{_PART[0]}*{_PART[1]}"))
    for path in found:
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while it is held, on this or another machine
            if time.time() - os.fstat(file.fileno()).st_mtime > _YOUNG:
                path.unlink()


def _publish(temporary: Path, path: Path) -> None:
    """Give the finished file its name, but never over another file (a second worker may have been faster)."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise OutputExistsError(f"{path}: appeared while it was being made; left as it is") from error
    except OSError:  # no hard links on this file system (FAT, some network shares)
        if os.path.lexists(path):
            raise OutputExistsError(f"{path}: appeared while it was being made; left as it is") from None
        temporary.rename(path)
