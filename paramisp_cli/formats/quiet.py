"""Capture lines that C code prints to stderr, and silence prints and warnings of Python packages."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_taking = threading.Lock()


@contextmanager
def captured(lines: list[str]) -> Iterator[None]:
    """Append to ``lines`` the text that is printed to file descriptor 2 in the block.

    The descriptor belongs to the whole process, so one thread at a time is inside, and the lines of other threads are
    captured too.
    """
    with _taking, tempfile.TemporaryFile() as capture:
        try:
            stderr = os.dup(2)
        except OSError:  # closed
            yield
            return
        os.dup2(capture.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            capture.seek(0)
            lines += capture.read().decode(errors="replace").splitlines()


_printing = threading.Lock()


class _ButThis:
    """A stream that drops the text of the thread that made it, and passes everything else on to another stream."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Write the text of other threads; return its length."""
        if threading.get_ident() != self._thread:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def unprinted() -> Iterator[None]:
    """Drop the text that this thread prints to ``sys.stdout`` in the block; other threads print as before.

    It is for packages in C++ that print through Python.
    """
    with _printing:
        before = sys.stdout
        sys.stdout = _ButThis(before)
        try:
            yield
        finally:
            sys.stdout = before


_filtering = threading.Lock()


@contextmanager
def unwarned(module: str) -> Iterator[None]:
    """Ignore the UserWarnings of a package ("PIL") in the block, for work of milliseconds.

    Python's warning filters belong to the whole process. One thread at a time is inside, so that each thread restores
    the filters as they were.
    """
    with _filtering, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=rf"{module}\.")
        yield
