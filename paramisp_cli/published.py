"""Read checkpoints published by other programs (Lightning ``.ckpt``) as models.

``torch_zip`` reads the file and runs no code in it. The tensors' names determine the architecture, and the converter in
the architecture's folder renames them. Importing this module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paramisp_cli import checkpoint
from paramisp_cli.errors import WeightsError
from paramisp_cli.models import REGISTRY, Entry
from paramisp_cli.models.foreign import Foreign
from paramisp_cli.torch_zip import Archive, TensorRef, content
from paramisp_cli.types import Direction

if TYPE_CHECKING:
    from paramisp_cli.models.base import IspModel

__all__ = ["architecture_of", "content", "read"]


def read(
    path: Path, direction: Direction | None, *, camera: str | None = None, row_sum: float | None = None
) -> dict[Direction, IspModel]:
    """Read a published checkpoint as networks by direction; a joint checkpoint as both, or the one for ``direction``.

    ``camera`` and ``row_sum`` are facts that an architecture's files lack; without ``camera``, the file's name and a
    default decide. Raises WeightsError for a bad file, ConfigError for a missing fact.
    """
    import torch

    foreign = _opened(path)
    entry = _recognised(foreign)
    converted = _converter(entry).convert(foreign, direction, camera=camera, row_sum=row_sum)
    models = {}
    for way, (config, arrays) in converted.items():
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        models[way] = checkpoint.build(str(path), entry.name, json.dumps(config), str(way), tensors)
    return models


def architecture_of(path: Path) -> str:
    """Return the name of a published checkpoint's architecture. Raises WeightsError."""
    return _recognised(_opened(path)).name


def _opened(path: Path) -> Foreign:
    """Open a file; its tensors are read on request."""
    archive = Archive(path)
    saved = archive.saved()
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise WeightsError(f"{path} has no state_dict of named tensors; it is not a published checkpoint")

    def reader(key: str, value: object) -> Callable[[], np.ndarray]:
        return partial(_array, archive, path, key, value)

    tensors = {key: reader(key, value) for key, value in state.items()}
    return Foreign(str(path), tensors, {key: value for key, value in saved.items() if key != "state_dict"})


def _array(archive: Archive, path: Path, key: str, value: object) -> np.ndarray:
    if not isinstance(value, TensorRef):
        raise WeightsError(f"{path}: {key} in state_dict is not a tensor; the file is damaged or hostile")
    return value.array(archive, f"{path}: {key}")


def _recognised(foreign: Foreign) -> Entry:
    """Return the architecture that recognises most of the tensors' names. Raises WeightsError if none does."""
    known = {entry: _converter(entry).count_known(foreign.tensors) for entry in REGISTRY if entry.published}
    best = max(known, key=lambda entry: known[entry])
    if not known[best]:
        names = ", ".join(entry.name for entry in known)
        some = ", ".join(list(foreign.tensors)[:4])
        raise WeightsError(f"{foreign.where} is of an unknown architecture (known: {names}); its tensors are {some} …")
    return best


def _converter(entry: Entry) -> Any:
    return import_module(entry.published)
