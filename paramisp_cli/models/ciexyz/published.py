"""Conversion of the authors' published CIE XYZ Net: one file with the networks of both directions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paramisp_cli.directions import Direction
from paramisp_cli.models.foreign import Foreign, renamed

_PREFIXES = {Direction.UNPROCESS: "srgb2xyz", Direction.RENDER: "xyz2srgb"}


def _names(direction: Direction) -> dict[str, str]:
    theirs = _PREFIXES[direction]
    modules = {f"{theirs}_local_net.net.conv{i}": f"local.convs.{i}" for i in range(16)}
    modules |= {f"{theirs}_globa_net.net.conv{i}": f"colour.convs.{i}" for i in range(5)}  # the real name
    modules |= {f"{theirs}_globa_net.net.fc1": "colour.hidden", f"{theirs}_globa_net.net.out": "colour.last"}
    return {f"{a}.{kind}": f"{b}.{kind}" for a, b in modules.items() for kind in ("weight", "bias")}


NAMES = {direction: _names(direction) for direction in _PREFIXES}
"""Name of each published tensor → its name in the network of a direction."""

LICENCE = "MIT; trained on MIT-Adobe FiveK, whose licence is for research"
"""Licence of the weights that the authors published."""


def count_known(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the tensors that belong to a published CIE XYZ Net."""
    return sum(name in names for names in NAMES.values() for name in shapes)


def convert(
    foreign: Foreign, direction: Direction | None, *, camera: str | None, row_sum: float | None
) -> dict[Direction, tuple[dict[str, object], dict[str, np.ndarray]]]:
    """Convert a checkpoint to the network of each direction, or the one for ``direction``. Raises WeightsError."""
    every = {theirs: f"{way}.{ours}" for way, names in NAMES.items() for theirs, ours in names.items()}
    tensors = renamed(foreign, every, "CIE XYZ Net")
    return {
        way: ({"direction": str(way)}, {name: tensors[f"{way}.{name}"] for name in names.values()})
        for way, names in NAMES.items()
        if direction in (None, way)
    }
