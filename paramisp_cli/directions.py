"""The tasks of models, and the kinds of their inputs and outputs."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """The kind of a model's input or output."""

    SRGB = "sRGB"
    RAW = "RAW"

    @property
    def channels(self) -> int:
        """Channels of a tensor of this kind: 3 for sRGB, 1 for a mosaic."""
        return 3 if self == Kind.SRGB else 1


class Direction(StrEnum):
    """The task of a model; it determines the kinds of input and output."""

    UNPROCESS = "unprocess"
    RENDER = "render"
    TRANSFER = "transfer"
    RESTORE = "restore"

    @property
    def input(self) -> Kind:
        """Kind of the input."""
        return _KINDS[self][0]

    @property
    def output(self) -> Kind:
        """Kind of the output."""
        return _KINDS[self][1]


_KINDS = {
    Direction.UNPROCESS: (Kind.SRGB, Kind.RAW),
    Direction.RENDER: (Kind.RAW, Kind.SRGB),
    Direction.TRANSFER: (Kind.RAW, Kind.RAW),
    Direction.RESTORE: (Kind.RAW, Kind.RAW),
}

ISP_DIRECTIONS = (Direction.UNPROCESS, Direction.RENDER)
"""The two directions between a camera's RAW and its pictures."""
