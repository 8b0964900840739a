"""File formats: find out what a file is, read it, and write one so that nothing is ever left half done."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paramisp_cli.errors import ConfigError, FileAccessError, FormatError, InputMissingError, OutputExistsError
from paramisp_cli.formats import dng, isolated, libraw, raster
from paramisp_cli.formats.base import Format, WriteOptions
from paramisp_cli.types import RawImage, SrgbImage

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# RAW before raster: a NEF or a DNG is a TIFF too, and only its tags tell.
FORMATS: tuple[Format, ...] = (libraw.FORMAT, *raster.FORMATS, dng.FORMAT)
RAW_SUFFIXES = libraw.FORMAT.suffixes
SRGB_SUFFIXES = tuple(suffix for form in raster.FORMATS for suffix in form.suffixes)

__all__ = ["FORMATS", "RAW_SUFFIXES", "SRGB_SUFFIXES", "WriteOptions", "identify", "read", "sweep", "write"]


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
    head = _head(path)
    for form in FORMATS:
        if form.read and form.sniff(head) and (form is not libraw.FORMAT or libraw.is_raw(path, head)):
            return form
    raise FormatError(f"{path}: not a JPEG, PNG, TIFF or camera RAW file")


def _head(path: Path) -> bytes:
    """The first 64 bytes of a file; raises InputMissingError, FileAccessError, or FormatError if there are none."""
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
    return head


def read(path: str | Path, *, isolate: bool = False) -> SrgbImage | RawImage:
    """Read any image file. Raises InputMissingError, FileAccessError or FormatError, always naming the file.

    ``isolate`` reads RAW files, and TIFFs, in a process of their own (``isolated``): a decoder that crashes or hangs
    ends in a FormatError.
    """
    path = Path(path)
    if isolate and libraw.FORMAT.sniff(_head(path)):
        with _plain_errors(path, "read"):
            return isolated.read(path)
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
    # Not made of the output's name, which may be as long as names can be.
    temporary = path.with_name(f"{_PART[0]}{secrets.token_hex(6)}{_PART[1]}")
    with _plain_errors(path, "write"), _held(temporary):
        try:
            form.write(image, temporary, options)
            if not overwrite:
                _publish(temporary, path)
            else:
                temporary.replace(path)
        except (ConfigError, FormatError) as error:
            raise type(error)(f"{path}: {error}") from error
        finally:
            with suppress(OSError):  # as where its folder is no folder: what went wrong has been said
                temporary.unlink()


_PART = ".paramisp-", ".part"
"""How names of files that are being written begin and end."""
_YOUNG = 60
"""Seconds since the last writing in which it may be another machine's, where locks are not told across a network."""


@contextmanager
def _held(temporary: Path) -> Iterator[None]:
    """Make a file that is to be written, and hold it, so that nobody takes it for one that was left behind."""
    if fcntl is None:
        yield
        return
    with temporary.open("xb") as file:
        with suppress(OSError):  # no locks on this file system
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def sweep(folder: Path) -> None:
    """Take away what programs that were killed have left of files that they were writing."""
    found: list[Path] = []
    if fcntl is not None:
        with suppress(OSError):  # no such folder, or none to be looked into: that is for who writes there to say
            found = list(folder.glob(f"{_PART[0]}*{_PART[1]}"))
    for path in found:
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while it is held, on this or another machine
            if time.time() - os.fstat(file.fileno()).st_mtime > _YOUNG:
                path.unlink()


def _publish(temporary: Path, path: Path) -> None:
    """Give the finished file its name, but never over another one (a second worker may have been faster)."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise OutputExistsError(f"{path}: appeared while it was being made; left as it is") from error
    except OSError:  # no hard links on this file system (FAT, some network shares)
        if os.path.lexists(path):
            raise OutputExistsError(f"{path}: appeared while it was being made; left as it is") from None
        temporary.rename(path)
