"""Cut a RAW into patches of equal size for training, every one with the picture's CFA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.types import Patch, RawImage


@dataclass(frozen=True, slots=True)
class Grid:
    """Patches of one size in equal steps, in samples of an array: of a packed mosaic a sample is 2×2 pixels.

    size    samples of a side
    stride  samples from one patch to the next; less than ``size``: patches overlap
    cell    pixels of a sample's side: 2 for a packed mosaic, else 1

    Raises ConfigError for sizes below 1, and for odd ones where a step of one pixel would shift the CFA.
    """

    size: int
    stride: int
    cell: int = 1

    def __post_init__(self) -> None:
        for name, value in (("patch", self.size), ("stride", self.stride)):
            if value < 1:
                raise ConfigError(f"`{name}` must be at least 1, got {value}")
            if value * self.cell % 2:
                raise ConfigError(f"`{name}` must be even, so that every patch has the same CFA, got {value}")

    @property
    def pixels(self) -> int:
        """Pixels of a patch's side."""
        return self.size * self.cell

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """List the corners (top, left) [pixels] of all patches that fit into a picture, row by row."""
        step = self.stride * self.cell
        tops, lefts = (range(0, side - self.pixels + 1, step) for side in (height, width))
        return [(top, left) for top in tops for left in lefts]

    def unused(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows at the bottom and the columns at the right that lie in no patch; the picture holds one."""
        top, left = self.corners(height, width)[-1]
        return height - top - self.pixels, width - left - self.pixels

    def check(self, height: int, width: int) -> None:
        """Raise FormatError if no patch fits into a picture of this size."""
        if min(height, width) < self.pixels:
            raise FormatError(
                f"its {width}×{height} pixels hold no patch of {self.pixels}×{self.pixels}: pass a smaller `patch`"
            )


def size_of(raw: RawImage) -> tuple[int, int]:
    """Return the size (height, width) of the area that patches are cut from: the crop, from the first whole 2×2."""
    crop = raw.cropped().crop
    assert crop is not None  # RawImage sets it
    return crop.height - crop.top % 2, crop.width - crop.left % 2


def cut(raw: RawImage, grid: Grid) -> Iterator[RawImage]:
    """Yield the patches of a RAW from the last to the first, each with its place; FormatError if none fits.

    A patch has all parameters of the RAW, and neither its JPEG nor padding. Once the first patch is stored, all are.
    """
    height, width = size_of(raw)
    grid.check(height, width)
    raw = raw.cropped()
    assert raw.crop is not None
    down, right = raw.crop.top + raw.crop.top % 2, raw.crop.left + raw.crop.left % 2
    corners = grid.corners(height, width)
    about = replace(raw.metadata, jpeg=None, jpeg_beside=None)
    for number, (top, left) in reversed(list(enumerate(corners))):
        rows = slice(down + top, down + top + grid.pixels)
        columns = slice(right + left, right + left + grid.pixels)
        yield replace(
            raw,
            mosaic=raw.mosaic[rows, columns],
            linear=None if raw.linear is None else raw.linear[rows, columns],
            crop=None,
            metadata=about,
            patch=Patch(number, len(corners), top, left, height, width),
        )
