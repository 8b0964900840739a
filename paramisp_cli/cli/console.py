"""Streams and signals of every command: messages on stderr, results on stdout, one line for an error."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from paramisp_cli.errors import ConfigError, FileAccessError, ParamispError

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

# C0, DEL and C1 controls; line and paragraph separators; marks and overrides of writing direction.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    r"""Escape control characters and direction marks (\n, \x1b, \u202e): a file's name must not control a terminal."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def open_streams() -> None:
    """Open missing streams 0 to 2: the next file would get a closed stream's number, and the stream's text with it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # prints a name that is not UTF-8 unchanged
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


def terminal() -> Console:
    """Return stderr as a rich console; plain if it is not a terminal or NO_COLOR is set."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a message on stderr; a closed stderr is not an error."""
    if sys.stderr is not None:  # None if it was closed from the start: print would then use stdout
        with suppress(OSError):
            print(escaped(text), file=sys.stderr, flush=True)


def hint(*words: object) -> None:
    """Suggest the next command on a terminal; scripts and logs get none."""
    if sys.stderr is not None and sys.stderr.isatty():
        say(f"next: {shlex.join(map(str, words))}")


def result(text: str) -> None:
    """Print a line of result on stdout."""
    _out(escaped(text))


def result_path(path: object) -> None:
    """Print a file's path on stdout: unchanged for another program, escaped on a terminal."""
    _out(escaped(str(path)) if sys.stdout is not None and sys.stdout.isatty() else str(path))


def _out(text: str) -> None:
    """Print to stdout; work continues after the reader has closed it (`paramisp … | head -1`)."""
    if sys.stdout is None:
        return
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try again on exit
        raise FileAccessError.of(error, "stdout", "write to it") from error


_SETTING = re.compile("`([a-z_]+)`")
"""Name of a setting in a text of the library."""


def with_flags(text: str) -> str:
    """Replace the names of settings in a text of the library by the flags of the command line."""
    return _SETTING.sub(lambda match: _flag(match[1]), text)


def in_flags(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record for ``--json`` whose notices and error name flags."""
    changed: dict[str, Any] = {key: with_flags(record[key]) for key in ("error",) if key in record}
    if "notices" in record:
        changed["notices"] = [with_flags(notice) for notice in record["notices"]]
    return record | changed


def _flag(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def worded(error: ParamispError | None) -> str:
    """Return an error's text for the command line: its message with flags, and its setting's flag if it names none."""
    text = str(error)
    if error is not None and error.field and not _SETTING.search(text):
        text = f"{text} ({_flag(error.field)})"
    return f"paramisp: {with_flags(text)}"


def fail(error: ParamispError) -> NoReturn:
    """Print the error and end with its exit code."""
    say(worded(error))
    raise typer.Exit(error.exit_code)


def fail_usage(message: str) -> NoReturn:
    """Print a usage error and end with its exit code."""
    fail(ConfigError(message))


def one_of(flag: str, value: str, allowed: Sequence[str]) -> None:
    """End with a usage error unless the value is allowed."""
    if value not in allowed:
        fail_usage(f"{flag} must be one of {', '.join(allowed)}, not {value!r}")


def or_fail(work: Callable[[], T]) -> T:
    """Return the result of ``work``; for a user's error, print one line and end with its exit code."""
    try:
        return work()
    except ParamispError as error:
        fail(error)


class Interrupts:
    """The signals that end the program; a call is a check for them."""

    def __init__(self) -> None:
        self.arrived = self.waits = False

    def __call__(self) -> None:
        """Raise KeyboardInterrupt if a signal arrived."""
        if self.arrived:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a first signal wait for the next call, so that a report comes to its end; a second one does not wait."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False

    def arrive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        first, self.arrived = not self.arrived, True
        if not (self.waits and first):
            signal.default_int_handler(number, frame)


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Make Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt; yield a check that raises it again if it was lost.

    Python drops an exception raised in a destructor or in a callback from C, and an interrupt may arrive there, so
    call the check at every place where the work can stop. C code may also turn the interrupt into an error of its own,
    as torch does while it writes a checkpoint; then KeyboardInterrupt takes the place of this error. A signal ignored
    from outside (``nohup``) stays ignored.
    """
    interrupts = Interrupts()
    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in signals}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, interrupts.arrive)
    try:
        yield interrupts
    except (RuntimeError, SystemError) as error:
        if interrupts.arrived:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number in heeded:
            signal.signal(number, before[number])
