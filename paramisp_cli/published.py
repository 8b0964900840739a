"""Read checkpoints published by other programs (``.ckpt``, ``.pth``, ``.pt``) as models.

``torch_zip`` and ``torch_legacy`` read the file and run no code in it. The tensors' names and shapes determine the
architecture, and the converter in the architecture's folder renames them. Importing this module does not import torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paramisp_cli import checkpoint, torch_legacy, torch_zip
from paramisp_cli.directions import Direction
from paramisp_cli.errors import WeightsError
from paramisp_cli.models import REGISTRY, Entry
from paramisp_cli.models.foreign import Foreign, cut
from paramisp_cli.torch_pickle import MAX_DIMENSIONS, Container, TensorRef, content

if TYPE_CHECKING:
    from paramisp_cli.models.base import IspModel
    from paramisp_cli.models.cycleisp import GuidedRender

__all__ = ["SUFFIXES", "architecture_of", "content", "guided_render", "licence_of", "read", "recognise"]

SUFFIXES = checkpoint.PUBLISHED_SUFFIXES
_SHOWN = 4
"""Tensors that a message about an unknown architecture names."""


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


def guided_render(render: Path, colour: Path) -> GuidedRender:
    """Read CycleISP's files RAW to RGB and colour branch as a network that renders after a guide. Raises WeightsError.

    ``network(mosaic, guide)`` takes a mosaic that begins with red, and an sRGB picture of the same shot and size.
    """
    import torch

    from paramisp_cli.models import cycleisp

    network = cycleisp.GuidedRender()
    for part, kind, path in ((network.render, "render", render), (network.colour, "colour", colour)):
        arrays = cycleisp.tensors_of(_opened(path), kind)
        try:
            part.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
        except RuntimeError as error:
            raise WeightsError(f"{path} does not fit: {' '.join(str(error).split())[:200]}") from error
    return network.eval()


def architecture_of(path: Path) -> str:
    """Return the name of a published checkpoint's architecture. Raises WeightsError."""
    return _recognised(_opened(path)).name


def recognise(path: Path) -> str:
    """Return a sentence on a published checkpoint: its architecture, and its tensors. Raises WeightsError."""
    foreign = _opened(path)
    entry = _recognised(foreign)
    numbers = sum(math.prod(shape) for shape in foreign.shapes.values())
    converter = _converter(entry)
    kind = converter.kind_of(foreign) if hasattr(converter, "kind_of") else entry.name
    return f"{path} is a checkpoint of {kind}: {len(foreign.tensors)} tensors, {numbers / 1e6:.2f} million numbers"


def licence_of(architecture: str) -> str:
    """Return the licence of the weights that the authors of an architecture published."""
    licence: str = _converter(next(entry for entry in REGISTRY if entry.name == architecture)).LICENCE
    return licence


def _container(path: Path) -> Container:
    """Open a file of ``torch.save`` in the container that its first bytes tell. Raises WeightsError."""
    head = content(path, len(torch_legacy.MAGIC))
    if head.startswith(torch_zip.MAGIC):
        return torch_zip.Archive(path)
    if head == torch_legacy.MAGIC:
        return torch_legacy.Archive(path)
    for magic, tool in ((b"BZh", "bunzip2"), (b"\x1f\x8b", "gunzip"), (b"\xfd7zXZ", "unxz")):
        if head.startswith(magic):
            raise WeightsError(f"{path} is compressed: run {tool} first")
    raise WeightsError(f"{path} is not a file of torch.save: it begins with {head[:4].hex(' ') or 'nothing'}")


def _opened(path: Path) -> Foreign:
    """Open a file; its tensors are read on request."""
    archive = _container(path)
    saved = archive.saved()
    name, state = _state(saved)
    if state is None:
        keys = [cut(key) for key in saved][:4] if isinstance(saved, dict) else []
        has = f"its keys are {', '.join(keys)}" if keys else "it is no dictionary"
        raise WeightsError(f"{path} has no state_dict of named tensors: {has}")
    if state and all(key.startswith(_PARALLEL) for key in state):  # saved from torch's DataParallel
        state = {key.removeprefix(_PARALLEL): value for key, value in state.items()}

    def reader(key: str, value: object) -> Callable[[], np.ndarray]:
        return partial(_array, archive, path, key, value)

    tensors = {key: reader(key, value) for key, value in state.items()}
    shapes = {key: _shape(value) for key, value in state.items() if isinstance(value, TensorRef)}
    others = {key: value for key, value in saved.items() if key != name and key not in state}
    return Foreign(str(path), tensors, others, shapes)


_PARALLEL = "module."


def _state(saved: object) -> tuple[str | None, dict[str, object] | None]:
    """Return the table of named tensors in a saved object, and its key there; (None, None) without one.

    It is ``state_dict``, or the tensors among the object's own values, or the only table of tensors in it.
    """
    if not isinstance(saved, dict):
        return None, None

    def is_table(value: object) -> bool:
        return isinstance(value, dict) and bool(value) and all(isinstance(each, TensorRef) for each in value.values())

    state, key = saved.get("state_dict"), "state_dict"
    tables = [name for name, value in saved.items() if isinstance(name, str) and is_table(value)]
    if not isinstance(state, dict):
        key, state = "", {name: value for name, value in saved.items() if isinstance(value, TensorRef)}
    if not state and len(tables) == 1:
        key, state = tables[0], saved[tables[0]]
    if (not state and key != "state_dict") or not all(isinstance(name, str) for name in state):
        return None, None
    return key, state


def _shape(tensor: TensorRef) -> tuple[int, ...]:
    """Return the shape that the file claims; () if it is no shape."""
    shape = tensor.shape
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        return ()
    return shape if all(type(v) is int and 0 <= v < 1 << 40 for v in shape) else ()


def _array(archive: Container, path: Path, key: str, value: object) -> np.ndarray:
    if not isinstance(value, TensorRef):
        raise WeightsError(f"{path}: {key} in state_dict is not a tensor; the file is damaged or hostile")
    return value.array(archive, f"{path}: {key}")


def _recognised(foreign: Foreign) -> Entry:
    """Return the architecture that knows most of the tensors' names. Raises WeightsError if none knows any."""
    known = {entry: _converter(entry).count_known(foreign.shapes) for entry in REGISTRY if entry.published}
    best = max(known, key=lambda entry: known[entry])
    if not known[best]:
        names = ", ".join(entry.name for entry in known)
        shown = [cut(f"{key} {foreign.shapes.get(key, ())}") for key in list(foreign.tensors)[:_SHOWN]]
        if len(foreign.tensors) > _SHOWN:
            shown.append(f"and {len(foreign.tensors) - _SHOWN} more")
        have = f"its tensors are {', '.join(shown)}"
        raise WeightsError(f"{foreign.where} is of an unknown architecture (known: {names}); {have}")
    return best


def _converter(entry: Entry) -> Any:
    return import_module(entry.published)
