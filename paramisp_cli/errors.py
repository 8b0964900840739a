"""Errors caused by the input or the set-up: one class per exit code of the command line.

Every message is one line: problem, place, value, remedy.
"""

from __future__ import annotations

import copy
import copyreg
import re
from typing import Any


class ParamispError(Exception):
    """Base of every error that a user can cause or correct.

    ``exit_code`` is the command line's. ``field`` names the setting that avoids the error ("iso"), if there is one. In
    the message, names of settings stand in backticks (`iso`); the command line shows their flags instead.
    """

    exit_code = 3

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        named = re.search("`([a-z_]+)`", message)
        self.field = field or (named[1] if named else "")

    def named(self, name: object) -> ParamispError:
        """Return the same error with ``name: `` before its message, unless the message begins so."""
        text = str(self)
        if text.startswith(f"{name}: "):
            return self
        named = copy.copy(self)
        named.args = (f"{name}: {text}",)
        return named

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the finished message: a subclass may make its message of other arguments."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class ConfigError(ParamispError):
    """A wrong option or combination of options (usage)."""

    exit_code = 2


class FileAccessError(ParamispError):
    """A file or folder that cannot be read or written: permissions, a full disk, a broken device."""

    exit_code = 4

    @classmethod
    def of(cls, error: OSError, path: object, task: str) -> FileAccessError:
        """Word the system's error about ``path`` as "PATH: cannot TASK: reason"; ``task`` is such as "read it"."""
        return cls(f"{path}: cannot {task}: {error.strerror or error}")


class InputMissingError(ParamispError):
    """An input path that does not exist, or a folder without fitting files."""

    exit_code = 5


class OutputExistsError(ParamispError):
    """An output that exists already, or that two inputs share."""

    exit_code = 6


class FormatError(ParamispError):
    """A damaged file, or a file of an unsupported kind."""

    exit_code = 7


class MetadataError(ParamispError):
    """Missing or absurd metadata that a conversion needs."""

    exit_code = 7


class WeightsError(ParamispError):
    """A checkpoint that is missing, damaged, of the wrong shape, or for another direction."""

    exit_code = 8
