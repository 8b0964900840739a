"""Libraries in C that print to stderr: their lines are taken, and given to the caller."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_taking = threading.Lock()


@contextmanager
def captured(lines: list[str]) -> Iterator[None]:
    """Append to ``lines`` the text that is printed to file descriptor 2 in the block.

    The descriptor belongs to the whole process, so one thread at a time is inside, and another thread's own lines would
    be taken too.
    """
    with _taking, tempfile.TemporaryFile() as taken:
        try:
            stderr = os.dup(2)
        except OSError:  # closed
            yield
            return
        os.dup2(taken.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            taken.seek(0)
            lines += taken.read().decode(errors="replace").splitlines()
