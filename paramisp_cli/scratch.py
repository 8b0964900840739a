"""A file for what memory has no room for: tensors of which some rows are in memory at a time."""

from __future__ import annotations

import errno
import math
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from paramisp_cli import memory
from paramisp_cli.errors import ConfigError, FileAccessError

if TYPE_CHECKING:
    from torch import Tensor


class Scratch:
    """A file for what memory has no room for. It has no name, and ends with the context or the process."""

    def __init__(self, size: int, folder: Path | None = None) -> None:
        """``size`` bytes in ``folder`` (None: the system's).

        ConfigError if it lies in memory, FileAccessError if they do not fit.
        """
        self.folder, self.given = folder or Path(tempfile.gettempdir()), 0
        if _in_memory(self.folder):
            raise ConfigError(f"{self.folder} lies in memory itself; pass --scratch with a folder on a disk")
        self.size = size

    def __enter__(self) -> Scratch:
        try:
            self.file = tempfile.TemporaryFile(prefix=".paramisp-", dir=self.folder, buffering=0)
            try:
                self._reserve()
            except OSError:
                self.file.close()
                raise
        except OSError as error:
            why = f"no room for a file of {self.size / 1e9:.1f} GB: {error.strerror or error}"
            raise FileAccessError(f"{self.folder}: {why}; pass --scratch with another folder") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _reserve(self) -> None:
        """Have a full disk show now, where the system can say so, rather than in the middle of the work."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self.file.fileno(), 0, self.size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # a file system that cannot say
                    raise

    def rows(self, shape: tuple[int, ...], window: int, like: Tensor) -> ScratchRows:
        """A tensor of this shape in the next part of the file, ``window`` rows of which are in memory at a time."""
        begin = self.given
        self.given += math.prod(shape) * like.element_size()
        return ScratchRows(self, begin, shape, min(window, shape[0]), like)

    def transfer(self, rows: Tensor, place: int, *, write: bool) -> None:
        """Read or write contiguous rows at a place [bytes] in the file. FileAccessError if that fails."""
        left = rows.numpy().data.cast("B")
        try:
            self.file.seek(place)
            while left:
                done = self.file.write(left) if write else self.file.readinto(left)
                if not done:
                    raise OSError("the file ends early")
                left = left[done:]
        except OSError as error:
            raise FileAccessError(f"{self.folder}: the scratch file: {error.strerror or error}") from None

    def expect(self, place: int, size: int) -> None:
        """Have the system read ahead."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.fileno(), place, size, os.POSIX_FADV_WILLNEED)


class ScratchRows:
    """A tensor in a Scratch, of which a window of rows is in memory, and slides down over it again and again."""

    def __init__(self, scratch: Scratch, begin: int, shape: tuple[int, ...], window: int, like: Tensor) -> None:
        self.scratch, self.begin, self.count, self.window = scratch, begin, shape[0], window
        self.row = math.prod(shape[1:]) * like.element_size()
        self.room = memory.pool(window * math.prod(shape[1:]), like).view(window, *shape[1:])
        self.first = self.end = 0  # rows of the tensor in the room
        self.changed = 0, 0  # of these, those that the file does not have

    def __call__(self, first: int, end: int, *, fresh: bool = False, change: bool = False) -> Tensor:
        """Rows [first, end), a view until the next call that goes further down or back up.

        ``fresh``: whoever asks overwrites them, so that they need not be read. ``change``: what is done to them counts.
        """
        if not self.first <= first or end > self.end:
            self._slide(first, end, fresh)
        if change:
            low, high = self.changed if self.changed[0] < self.changed[1] else (first, end)
            self.changed = min(low, first), max(high, end)
        return self.room[first - self.first : end - self.first]

    def _slide(self, first: int, end: int, fresh: bool) -> None:
        ahead = self.first <= first < self.end  # else it begins anew
        start, kept = (max(end - self.window, self.first), self.end) if ahead else (first, first)
        low, high = self.changed
        if not ahead or low < start:  # those that leave
            self._transfer(low, high if not ahead else min(high, start), write=True)
            self.changed = (max(low, start), high) if ahead else (0, 0)
        if ahead and start > self.first:
            self.room[: kept - start] = self.room[start - self.first : kept - self.first].clone()
        self.first, self.end = start, end
        if not fresh:
            self._transfer(kept, end, write=False)
            following = min(end + self.window, self.count)
            self.scratch.expect(self.begin + end * self.row, (following - end) * self.row)

    def _transfer(self, first: int, end: int, *, write: bool) -> None:
        if first < end:
            place = self.room[first - self.first : end - self.first]
            self.scratch.transfer(place, self.begin + first * self.row, write=write)


_MOUNTS = Path("/proc/self/mountinfo")


def _in_memory(folder: Path) -> bool:
    """Whether a folder's files are in memory, as /tmp's are on many systems."""
    if not _MOUNTS.exists():
        return False
    kinds: dict[Path, str] = {}
    for line in _MOUNTS.read_text().splitlines():
        place, _, about = line.partition(" - ")
        mount = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), place.split()[4])  # a space is \040 there
        kinds[Path(mount)] = about.split()[0]
    folder = folder.resolve()
    return next((kinds[f] for f in (folder, *folder.parents) if f in kinds), "") in ("tmpfs", "ramfs")
