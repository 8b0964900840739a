"""What every command says and how it fails: people's words on stderr, results on stdout, one line for an error."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

from paramisp_cli.errors import ConfigError, FileAccessError, ParamispError

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def terminal() -> Console:
    """stderr, for people; plain when it is no terminal or NO_COLOR is set (rich looks at both)."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line for people on stderr; nothing is amiss if they have closed it."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def result(text: str) -> None:
    """A line of result on stdout; the work goes on when nobody reads it any more (`paramisp … | head -1`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try again on its way out
        raise FileAccessError(f"stdout: cannot write to it: {error.strerror or error}") from error


def fail(error: ParamispError) -> NoReturn:
    """Say it and end with its exit code."""
    say(f"paramisp: {error}")
    raise typer.Exit(error.exit_code)


def fail_usage(message: str) -> NoReturn:
    """End for an option that makes no sense."""
    fail(ConfigError(message))


def one_of(flag: str, value: str, allowed: Sequence[str]) -> None:
    """End with a usage error unless the value is an allowed one."""
    if value not in allowed:
        fail_usage(f"{flag} must be one of {', '.join(allowed)}, not {value!r}")


def or_fail(work: Callable[[], T]) -> T:
    """What ``work`` gives; an error of the user's is said in one line and ends with its exit code."""
    try:
        return work()
    except ParamispError as error:
        fail(error)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Ctrl-C and a polite kill (SIGTERM) raise KeyboardInterrupt inside; what is yielded raises it if one was lost.

    Python forgets an exception raised in a destructor or in a callback from C, and an interrupt may arrive there: call
    what is yielded wherever the work can stop. What was ignored from outside (``nohup``) stays ignored.
    """
    seen = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen = True
        signal.default_int_handler(number, frame)

    def check() -> None:
        if seen:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, interrupt)
    try:
        yield check
    finally:
        for number in heeded:
            signal.signal(number, before[number])
