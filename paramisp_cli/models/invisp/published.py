"""Conversion of the authors' published InvISP checkpoints: 280 tensors of one network for both directions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.models.foreign import Foreign, renamed

BLOCKS = 8
_DENSE = {"F": "first", "G": "shift", "H": "scale"}
_MIX = {"lower": "lower", "log_s": "log_s", "upper": "upper", "p": "permutation", "sign_s": "sign"}


def _names() -> dict[str, str]:
    names = {}
    for block in range(BLOCKS):
        theirs, ours = f"operations.{block}", f"flow.blocks.{block}"
        for dense, name in _DENSE.items():
            for conv in range(5):
                for kind in ("weight", "bias"):
                    names[f"{theirs}.{dense}.conv{conv + 1}.{kind}"] = f"{ours}.{name}.convs.{conv}.{kind}"
        names |= {f"{theirs}.invconv.{key}": f"{ours}.mix.{name}" for key, name in _MIX.items()}
    return names


NAMES = _names()
"""Name of each published tensor → its name in ``network``."""

LICENCE = "MIT; trained on MIT-Adobe FiveK, whose licence is for research"
"""Licence of the weights that the authors published."""


def count_known(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the tensors that belong to a published InvISP checkpoint."""
    return sum(name in NAMES for name in shapes)


def convert(
    foreign: Foreign, direction: Direction | None, *, camera: str | None, row_sum: float | None
) -> dict[Direction, tuple[dict[str, object], dict[str, np.ndarray]]]:
    """Convert a checkpoint to the network of each direction, or the one for ``direction``. Raises WeightsError."""
    tensors = renamed(foreign, NAMES, "InvISP")
    ways = ISP_DIRECTIONS if direction is None else (direction,)
    return {way: ({"direction": str(way), "jpeg": "diffjpeg"}, tensors) for way in ways}
