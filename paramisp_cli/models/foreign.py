"""A checkpoint of another program for an architecture's converter: named tensors and plain data, no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Foreign:
    """Tensors and other data of a checkpoint.

    ``where`` names the file in messages. Calling an item of ``tensors`` reads it; raises WeightsError if it is damaged.
    ``others`` is the plain data beside the tensors.
    """

    where: str
    tensors: Mapping[str, Callable[[], np.ndarray]]
    others: Mapping[str, object]
