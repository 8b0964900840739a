"""What can go wrong because of the input or the set-up: one class per exit code of the command line.

Every message is one line that says what, where, the value, and the remedy.
"""

from __future__ import annotations

import re


class ParamispError(Exception):
    """Base of every error that a user can cause or mend.

    ``exit_code`` is the command line's. ``field`` names the setting that mends the error, where one does ("iso"). In
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
        return self if text.startswith(f"{name}: ") else type(self)(f"{name}: {text}", self.field)


class ConfigError(ParamispError):
    """An option or a combination of options makes no sense (usage)."""

    exit_code = 2


class FileAccessError(ParamispError):
    """A file or folder cannot be read or written: permissions, a full disk, a broken device."""

    exit_code = 4


class InputMissingError(ParamispError):
    """The input path does not exist, or a folder holds nothing to work on."""

    exit_code = 5


class OutputExistsError(ParamispError):
    """The output is already there, or two inputs would be written to the same output."""

    exit_code = 6


class FormatError(ParamispError):
    """The file is damaged, or of a kind that cannot be handled."""

    exit_code = 7


class MetadataError(ParamispError):
    """Metadata that the job cannot do without is missing or absurd."""

    exit_code = 7


class WeightsError(ParamispError):
    """A checkpoint is missing, damaged, of the wrong shape, or for another direction."""

    exit_code = 8
