"""Conversion of the authors' published CycleISP checkpoints: one file for each of its three networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, WeightsError
from paramisp_cli.models.foreign import Foreign, renamed

_SLOPES = "trunk.slopes"
_UNUSED = ("conv1x1.0.weight", "conv1x1.0.bias")
"""Tensors of the RAW → RGB file that its program never uses."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One of the networks: its name in messages, the blocks of its groups, other tensors, a tensor that only it has."""

    title: str
    blocks: Sequence[int]
    others: Mapping[str, str]
    mark: str = ""


def _both(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}


KINDS = {
    "colour": _Kind("CycleISP's colour branch", (2, 2), {"blur.weight": "blur"}, "blur.weight"),
    "render": _Kind(
        "CycleISP's RAW to RGB network",
        (5, 5, 5),
        {**_both("tail_rgb.0", "tail_rgb"), "tail.1.weight": _SLOPES},
        "tail_rgb.0.weight",
    ),
    "unprocess": _Kind("CycleISP's RGB to RAW network", (5, 5, 5), {}),
}


def names(kind: str) -> dict[str, str]:
    """Map each published tensor to its name in ``network``; many map to the slopes, which the network has once."""
    blocks = KINDS[kind].blocks
    found = {**_both("head.0", "trunk.head"), **_both("tail.0", "tail"), **KINDS[kind].others}
    for group, count in enumerate(blocks):
        theirs, ours = f"body.{group}.body", f"trunk.groups.{group}"
        for block in range(count):
            a, b = f"{theirs}.{block}", f"{ours}.blocks.{block}"
            found |= {f"{a}.SA.spatial.conv.weight": f"{b}.spatial.weight", f"{a}.body.1.weight": _SLOPES}
            found |= _both(f"{a}.CA.conv_du.0", f"{b}.channel1") | _both(f"{a}.CA.conv_du.2", f"{b}.channel2")
            found |= _both(f"{a}.body.0", f"{b}.conv1") | _both(f"{a}.body.2", f"{b}.conv2")
            found |= _both(f"{a}.conv1x1", f"{b}.join")
        found |= _both(f"{theirs}.{count}", f"{ours}.conv")
    return found | _both(f"body.{len(blocks)}", "trunk.conv") | {f"body.{len(blocks) + 1}.weight": _SLOPES}


LICENCE = "Academic Public License: not for commercial use"
"""Licence of the weights that the authors published."""


def count_known(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the tensors that belong to a published CycleISP checkpoint, if its first convolution is CycleISP's."""
    if shapes.get("head.0.weight", ())[:1] != (96,):
        return 0
    return sum(name in names(_kind(shapes)) for name in shapes)


def _kind(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return next((kind for kind, each in KINDS.items() if each.mark in shapes), "unprocess")


def kind_of(foreign: Foreign) -> str:
    """Return the name of the network in a checkpoint."""
    return KINDS[_kind(foreign.shapes)].title


def tensors_of(foreign: Foreign, kind: str) -> dict[str, np.ndarray]:
    """Return the tensors of a network ("unprocess", "render" or "colour") under our names. Raises WeightsError."""
    title = KINDS[kind].title
    if (found := _kind(foreign.shapes)) != kind:
        raise WeightsError(f"{foreign.where} is {KINDS[found].title}, not {title}")
    wanted = names(kind)
    used = {key: read for key, read in foreign.tensors.items() if kind != "render" or key not in _UNUSED}
    repeated = [key for key, ours in wanted.items() if ours == _SLOPES]
    distinct = {theirs: f"{ours} {theirs}" if ours == _SLOPES else ours for theirs, ours in wanted.items()}
    tensors = renamed(Foreign(foreign.where, used, {}), distinct, title)
    slopes = [tensors.pop(f"{_SLOPES} {key}") for key in repeated]
    for key, each in zip(repeated, slopes, strict=True):
        if not np.array_equal(each, slopes[0]):
            raise WeightsError(f"{foreign.where}: {key} differs from {repeated[0]}, which it should repeat")
    return tensors | {_SLOPES: slopes[0]}


def convert(
    foreign: Foreign, direction: Direction | None, *, camera: str | None, row_sum: float | None
) -> dict[Direction, tuple[dict[str, object], dict[str, np.ndarray]]]:
    """Convert the RGB → RAW network; raises WeightsError for the others, which cannot run from a RAW alone."""
    if (kind := _kind(foreign.shapes)) != "unprocess":
        raise WeightsError(
            f"{foreign.where} is {KINDS[kind].title}, which renders only beside an sRGB picture of the same shot; "
            "import the RGB to RAW network"
        )
    if direction not in (None, Direction.UNPROCESS):
        raise ConfigError(f"{foreign.where} is {KINDS[kind].title}; it has no direction {direction}")
    tensors = {f"net.{name}": array for name, array in tensors_of(foreign, kind).items()}
    return {Direction.UNPROCESS: ({"direction": "unprocess"}, tensors)}
