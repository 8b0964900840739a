"""Generators out of a training's checkpoint, also of an unfinished one; no weights of CSTPP are published.

Discriminators, optimisers and pools stay behind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, WeightsError
from paramisp_cli.models.foreign import Foreign

LICENCE = "that of your training"
_PARTS = ("backbone.", "heads_of_ways.")


def count_known(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the tensors that belong to a training of CSTPP."""
    return sum(name.startswith(_PARTS) for name in shapes)


def convert(
    foreign: Foreign, direction: Direction | None, *, camera: str | None, row_sum: float | None
) -> dict[Direction, tuple[dict[str, object], dict[str, np.ndarray]]]:
    """Take both generators out of a checkpoint. Raises WeightsError, and ConfigError for another camera."""
    try:
        config = json.loads(str(foreign.others["config"]))
        own = config["cameras"][0]
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise WeightsError(f"{foreign.where} does not state its network; it is no checkpoint of `train`") from error
    if camera is not None and camera != own:
        raise ConfigError(f"{foreign.where} is a training from {own}; pass `camera` {own!r}, not {camera!r}")
    if direction not in (None, Direction.TRANSFER):
        raise WeightsError(f"{foreign.where} has direction {Direction.TRANSFER}, {direction} is needed")
    tensors = {name: read() for name, read in foreign.tensors.items()}
    return {Direction.TRANSFER: (config, tensors)}
