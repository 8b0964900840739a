"""Write files atomically: a reader sees the old file or the complete new file, and leftovers of writers are removed.

A file is written under a temporary name in its own folder, locked, and renamed. `sweep` removes temporary files of
ended writers. Temporary names contain the machine's identity: a free lock on the writer's machine proves that the
writer has ended, a free lock across a network proves nothing.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX, _SUFFIX = ".paramisp-", ".part"
_YOUNG = 60
"""Seconds since the last write during which another machine's temporary file counts as being written."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success give that file the name ``path``, on failure remove it.

    Raises FileExistsError if ``path`` exists and ``overwrite`` is False, also when it appears during the writing.
    Other OSErrors pass through.
    """
    if not overwrite and os.path.lexists(path):
        raise FileExistsError(f"{path}: exists already")
    # The name does not contain the output's name, which may already have the greatest possible length.
    temporary = path.with_name(f"{_PREFIX}{_machine()}-{secrets.token_hex(6)}{_SUFFIX}")
    with _locked(temporary):
        try:
            yield temporary
            if overwrite:
                temporary.replace(path)
            else:
                _publish(temporary, path)
        finally:
            with suppress(OSError):  # renamed, or its folder is gone: the first error counts
                temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` and to the disk; an old file is replaced. Raises OSError."""
    with replacing(path, overwrite=True) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def stamp(path: Path) -> tuple[int, int]:
    """Return size [bytes] and time of change [ns] of a file, as a cache key that changes with the file.

    (0, 0) if the system refuses them: the reader of the file reports the error.
    """
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def sweep(folder: Path) -> None:
    """Remove temporary files of ended writers from ``folder``; do nothing if the folder cannot be read."""
    leftovers: list[Path] = []
    if fcntl is not None:
        with suppress(OSError):  # the later write reports a missing or unreadable folder
            leftovers = [Path(entry.path) for entry in os.scandir(folder) if _is_temporary(entry.name)]
    for path in leftovers:
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while a writer holds it
            age = time.time() - os.fstat(file.fileno()).st_mtime
            if path.name.startswith(f"{_PREFIX}{_machine()}-") or age > _YOUNG:
                path.unlink()


def _is_temporary(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


@cache
def _machine() -> str:
    """Return eight hexadecimal digits that identify the running kernel: within it, file locks are reliable."""
    try:
        identity = _BOOT_ID.read_text("ascii")
    except (OSError, ValueError):
        identity = platform.node()
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


@contextmanager
def _locked(temporary: Path) -> Iterator[None]:
    """Create the temporary file and hold a lock on it, so that `sweep` leaves it alone."""
    if fcntl is None:
        yield
        return
    while True:
        with temporary.open("xb") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if not os.path.lexists(temporary):  # a sweep came between the creation and the lock
                continue
            yield
            return


def _publish(temporary: Path, path: Path) -> None:
    """Rename without replacing a file: another worker may have been faster. Raises FileExistsError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system (FAT, some network shares)
        if os.path.lexists(path):
            raise FileExistsError(f"{path}: exists already") from None
        temporary.rename(path)
