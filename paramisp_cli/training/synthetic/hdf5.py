"""Shards of synthetic RAW as HDF5 files: ``clean`` and ``noisy``, arrays (N, …), and ``meta``, N lines of JSON.

A file depends on its arrays and lines alone: it has no times, and nothing of variable length.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli import atomic
from paramisp_cli.errors import ConfigError, FormatError

SUFFIX = ".h5"
META = "meta"


def check() -> None:
    """Raise ConfigError without the package that reads and writes HDF5."""
    if importlib.util.find_spec("h5py") is None:
        raise ConfigError("HDF5 needs the package h5py: `pip install 'paramisp[hdf5]'`, or choose tar or npy")


def write(path: Path, arrays: Mapping[str, Sequence[np.ndarray]], lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a shard atomically. ``arrays`` has a list of equally shaped arrays for each name, ``lines`` as many lines.

    Raises ConfigError without h5py, and OSError.
    """
    check()
    import h5py

    texts = [json.dumps(line).encode() for line in lines]
    stream = io.BytesIO()  # HDF5 locks its files itself, which the lock of an atomic file prevents
    # One version of the format: the bytes do not change with the newest that the library knows.
    with h5py.File(stream, "w", libver=("earliest", "v108")) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=np.stack(values), track_times=False)
        file.create_dataset(META, data=np.array(texts, dtype=np.bytes_), track_times=False)
    atomic.write_bytes(path, stream.getvalue())


def names(path: Path) -> list[str]:
    """Return the names of the RAWs in a shard; raises FormatError for a damaged file, ConfigError without h5py."""
    return [str(line.get("name")) for line in _lines(path)]


def read(path: Path, wanted: Collection[int], kinds: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Read RAWs by their numbers in a shard: for each, name of a data set → array; a missing data set is left out.

    Raises FormatError for a damaged file, ConfigError without h5py.
    """
    check()
    import h5py

    try:
        with h5py.File(path) as file:
            return [{kind: np.asarray(file[kind][at]) for kind in kinds if kind in file} for at in wanted]
    except (OSError, KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _lines(path: Path) -> list[dict[str, Any]]:
    check()
    import h5py

    try:
        with h5py.File(path) as file:
            return [dict(json.loads(text)) for text in file[META][()]]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> FormatError:
    text = " ".join(str(error).split())
    return FormatError(f"{path}: damaged ({text}); remove it with its index, and `paramisp synth` makes it")
