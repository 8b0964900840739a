"""Folders of trainings and data sets: one process at a time, and files that are never half written.

The lock ends with the process, even with a killed one.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from paramisp_cli import atomic
from paramisp_cli.errors import ConfigError, FileAccessError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".paramisp.lock"
"""File of the lock, which stays in the folder; it holds the number of the last process that had the lock."""


class FolderLock:
    """A held lock, released by ``release``, with the last reference to it, or by the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._close = weakref.finalize(self, os.close, descriptor)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        self._close()


_held: weakref.WeakValueDictionary[Path, FolderLock] = weakref.WeakValueDictionary()


def hold(folder: Path, remedy: str) -> FolderLock:
    """Create a folder, lock it against other processes, and remove files that a killed process left half written.

    A process that has the lock already gets the same lock again: it may resume a training of its own. Without
    ``fcntl`` (Windows) and on file systems without locks nothing is locked. Raises ConfigError, which ends with
    ``remedy``, if another process has the lock, and FileAccessError if the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.resolve()
        known = _held.get(place)
        if known is not None and known._close.alive:
            return known
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise FileAccessError.of(error, folder, "write to it") from error
    lock = FolderLock(descriptor)
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                number = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                lock.release()
                process = f"process {number}" if number.isdigit() else "another process"
                raise ConfigError(f"{folder}: {process} is working in it; wait for its end, or {remedy}") from error
        else:
            atomic.sweep(folder)
    with suppress(OSError):  # the number is only a hint; a later write reports a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    _held[place] = lock
    return lock


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file, and give it the name ``path`` when it is complete; raises OSError."""
    with atomic.replacing(path, overwrite=True) as temporary, temporary.open("wb") as file:
        write(file)


def write_state(path: Path, state: object) -> None:
    """Write the state of a training by ``torch.save``, all of it or nothing; raises FileAccessError.

    After an exception in ``write``, such as an interrupt or a full disk, torch raises an error of its own, which tells
    of positions in the file. Here the exception itself is raised.
    """
    import torch

    failed: list[BaseException] = []
    try:
        try:
            write_whole(path, lambda file: torch.save(state, _Remembering(file, failed)))  # type: ignore[arg-type]
        except RuntimeError:
            if failed:
                raise failed[0] from None
            raise
    except OSError as error:
        raise FileAccessError.of(error, path, "write it") from error


class _Remembering:
    """A file that adds the exceptions of ``write`` to a list."""

    def __init__(self, file: BinaryIO, failed: list[BaseException]) -> None:
        self.file, self.failed = file, failed

    def write(self, data: bytes) -> int:
        """Write data; return the number of bytes."""
        try:
            return self.file.write(data)
        except BaseException as error:
            self.failed.append(error)
            raise

    def flush(self) -> None:
        """Hand buffered bytes to the system."""
        self.file.flush()
