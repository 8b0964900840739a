"""A checkpoint of another program for an architecture's converter: named tensors and plain data, no file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from paramisp_cli.errors import WeightsError

_SHOWN = 60
"""Letters of a name in a message."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Tensors and other data of a checkpoint.

    ``where`` names the file in messages. Calling an item of ``tensors`` reads it; raises WeightsError if it is damaged.
    ``others`` is the plain data beside the tensors. ``shapes`` are the tensors' shapes as the file claims them.
    """

    where: str
    tensors: Mapping[str, Callable[[], np.ndarray]]
    others: Mapping[str, object]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def cut(text: object) -> str:
    """Return a file's own text for a message, cut to a readable length."""
    shown = str(text)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def listed(names: Collection[str]) -> str:
    """Return the first names for a message, each cut to a readable length."""
    return ", ".join(map(cut, sorted(names)[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def renamed(foreign: Foreign, names: Mapping[str, str], title: str) -> dict[str, np.ndarray]:
    """Read all tensors, under our names; raises WeightsError unless they are exactly those of ``names``.

    ``title`` names the network in messages.
    """
    if missing := names.keys() - foreign.tensors.keys():
        raise WeightsError(f"{foreign.where} lacks {len(missing)} of the tensors of {title}: {listed(missing)}")
    if unknown := foreign.tensors.keys() - names.keys():
        raise WeightsError(f"{foreign.where} has tensors that {title} does not have: {listed(unknown)}")
    return {ours: foreign.tensors[theirs]() for theirs, ours in names.items()}
