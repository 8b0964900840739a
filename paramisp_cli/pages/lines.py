"""JSON lines as a report reads them: one object a line, each damaged line named by its number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paramisp_cli.errors import FileAccessError, FormatError, InputMissingError

Record = dict[str, Any]


def read_bytes(path: Path) -> bytes:
    """Read a file; raises InputMissingError or FileAccessError."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputMissingError(f"{path}: no such file") from error
    except OSError as error:
        raise FileAccessError.of(error, path, "read it") from error


def read(path: Path) -> list[Record]:
    """Read a file of one JSON object a line; raises FormatError, which names a damaged line, or as ``read_bytes``."""
    records = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = str(error).split(":")[0]
            raise FormatError(f"{path}: line {number} is damaged ({reason}); repair or remove the line") from error
        if not isinstance(record, dict):
            raise FormatError(f"{path}: line {number} is no JSON object; repair or remove the line")
        records.append(record)
    return records


def real(record: Mapping[str, Any], key: str) -> float | None:
    """Return a number of a record; None for a missing value and for one that is no number."""
    value = record.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) <= 1e300 else math.nan  # a whole number of JSON may exceed every float


def listed(record: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list of a record; an empty one for anything else."""
    value = record.get(key)
    return value if isinstance(value, list) else []


def table_of(text: object) -> Record:
    """Return the JSON object in a string of a header; an empty one if there is none."""
    try:
        value = json.loads(str(text or "{}"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
