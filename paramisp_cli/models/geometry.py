"""A network's sizes, reach and memory plans, and the pieces into which a picture is cut for it; no PyTorch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

WHOLE, BANDS, DISK, HOST = "whole", "bands", "disk", "host"
"""Memory plans: all feature maps in memory · some recomputed band by band · the rest in a file · in host memory."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Input sizes of a network and reach of its output, stated by the model and obeyed by every caller.

    multiple  sides of the input, and the corner of a tile cut from a picture, are multiples of it [px, even]
    halo      reach of an output pixel on the input, beyond the multiple in which it lies [px]
    smallest  smallest side of the input [px]
    pooled    names of the statistics pooled over the whole picture; empty: tiles give the same result as the whole
    """

    multiple: int = 2
    halo: int = 0
    smallest: int = 2
    pooled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.multiple < 2 or self.multiple % 2:
            raise ValueError(f"multiple must be even and at least 2 (the CFA's period), got {self.multiple}")
        if self.halo < 0 or self.smallest < 1:
            raise ValueError(f"halo must be at least 0 and smallest at least 1, got {self}")

    def padded(self, side: int) -> int:
        """Return the side [px] of the network's input for a picture's side [px]."""
        return round_up(max(side, self.smallest), self.multiple)


class Span(NamedTuple):
    """One dimension of a tile: [begin, end) is its result, [first, last) the network's input."""

    begin: int
    end: int
    first: int
    last: int


def round_up(size: int, multiple: int) -> int:
    """Return the smallest multiple that is at least ``size``."""
    return -(-size // multiple) * multiple


def spans(size: int, length: int, multiple: int, halo: int, smallest: int) -> list[Span]:
    """Cut [0, size) into pieces of ``length``, rounded up to ``multiple``, each with its surroundings.

    ``first`` and ``last`` are multiples of ``multiple``, at least ``halo`` from the piece unless the picture ends
    there, and at least ``smallest`` apart. ``last`` may lie beyond ``size``: the picture is padded to a multiple.
    """
    length, need = round_up(max(length, 1), multiple), round_up(smallest, multiple)
    padded = max(round_up(size, multiple), need)
    pieces = []
    for begin in range(0, size, length):
        end = min(begin + length, size)
        last = min(round_up(end + halo, multiple), padded)
        first = max(min(max(begin - halo, 0) // multiple * multiple, last - need), 0)
        pieces.append(Span(begin, end, first, max(last, first + need)))
    return pieces


def cut(size: int, length: int, multiple: int) -> list[tuple[int, int]]:
    """Cut [0, size) into equal pieces of about ``length``; all except the last are multiples of ``multiple``."""
    count = max(round(size / length), 1)
    step = max(-(-size // count) + multiple - 1, multiple) // multiple * multiple
    return [(begin, min(begin + step, size)) for begin in range(0, size, step)]
