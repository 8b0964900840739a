"""A checkpoint of another program for an architecture's converter: named tensors and plain data, no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from paramisp_cli.errors import WeightsError


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


def renamed(foreign: Foreign, names: Mapping[str, str], kind: str) -> dict[str, np.ndarray]:
    """Read all tensors, under our names; raises WeightsError unless they are exactly those of ``names``.

    ``kind`` names the network in messages.
    """
    for problem, found in (
        ("lacks", names.keys() - foreign.tensors.keys()),
        ("has unknown", foreign.tensors.keys() - names.keys()),
    ):
        if found:
            some = ", ".join(sorted(found)[:4]) + (" …" if len(found) > 4 else "")
            raise WeightsError(f"{foreign.where} {problem} {len(found)} of the tensors of {kind}: {some}")
    return {ours: foreign.tensors[theirs]() for theirs, ours in names.items()}
