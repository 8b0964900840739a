"""A checkpoint of another program, as an architecture's converter gets it: named tensors and plain data, no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Foreign:
    """``where`` names the file in messages; ``tensors`` are read when called; ``others`` is the plain data beside them.

    A tensor raises WeightsError when it is damaged.
    """

    where: str
    tensors: Mapping[str, Callable[[], np.ndarray]]
    others: Mapping[str, object]
