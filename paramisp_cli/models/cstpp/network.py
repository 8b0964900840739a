"""CSTPP: the RAW of one camera of a pair in the colours of the other, both ways, by a polynomial for each patch.

    mosaic → packed R Gr Gb B → reduced view → Conformer → patches' vectors → MLP → polynomials' coefficients
    mosaic → packed R Gr Gb B → polynomial with coefficients between the patches' centres → mosaic

"Generalizing ISP Model by Unsupervised Raw-to-raw Mapping" (ACM MM 2024). The view is the whole picture, reduced by
area averages to at most 1024 px a side, and the network sees it once; only the polynomial touches full resolution,
strip by strip. Values are not white-balanced. A fresh network changes nothing. Twice the light does not give twice the
values, because the polynomial has squares. Noise is not mapped.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.directions import Direction
from paramisp_cli.models.base import WHOLE, Geometry, IspModel, MakeStore, Params
from paramisp_cli.models.cstpp import polynomial
from paramisp_cli.models.cstpp.conformer import PATCH, Conformer, Domain
from paramisp_cli.models.geometry import round_up
from paramisp_cli.models.regions import Progress, Sink, Source, reflecting

_STRIP_PIXELS = 1 << 18
"""Packed pixels of a strip, about."""
_STRIP_FLOATS, _VIEW_FLOATS = 3 * polynomial.TERMS * polynomial.CHANNELS, 120
"""Numbers a packed pixel of a strip, and a pixel of the view."""
_READ, _SEEN = 0.3, 0.7
"""Shares of the work after which the view is complete, and the network has seen it."""


class Cstpp(IspModel):
    """See the module's docstring.

    stem, channels, width, heads  sizes of the network (``Conformer``); the paper's are the defaults
    view      largest side of the network's view of a picture [packed px]
    cameras   names of the first and the second camera, or none
    """

    name = "cstpp"
    directions = (Direction.TRANSFER,)
    both_ways = True
    geometry = Geometry(multiple=2 * PATCH, halo=2 * PATCH, smallest=2 * PATCH, pooled=("attention over the view",))
    macs = 6e3

    def __init__(
        self,
        direction: Direction = Direction.TRANSFER,
        stem: int = 32,
        channels: Sequence[int] = (64, 128, 256),
        width: int = 256,
        heads: int = 4,
        view: int = 1024,
        cameras: Sequence[str] = (),
    ) -> None:
        super().__init__(direction)
        if len(channels) != 3 or any(each < 4 or each % 4 for each in channels):
            raise ValueError(f"channels must be three multiples of 4, got {list(channels)}")
        if stem < 1 or heads < 1 or width < heads or width % heads:
            raise ValueError(f"stem and heads must be at least 1, width a multiple of heads, got {stem, heads, width}")
        if view < PATCH or view % PATCH:
            raise ValueError(f"view must be a multiple of {PATCH}, got {view}")
        if len(cameras) not in (0, 2) or not all(isinstance(each, str) for each in cameras):
            raise ValueError(f"cameras must be two names or none, got {list(cameras)}")
        self.stem, self.channels, self.width, self.heads = stem, tuple(channels), width, heads
        self.view, self.cameras = view, tuple(cameras)
        self.way = 0
        self.backbone = Conformer(stem, channels, width, heads)
        outputs = polynomial.TERMS * polynomial.CHANNELS
        self.heads_of_ways = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.Conv2d(width, outputs, 1)) for _ in range(2)
        )
        self._begin_as_no_change()

    def config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {
            "direction": str(self.direction), "stem": self.stem, "channels": list(self.channels), "width": self.width,
            "heads": self.heads, "view": self.view, "cameras": list(self.cameras),
        }  # fmt: skip

    def facts(self) -> dict[str, str]:
        """Return the second camera's name; the header's camera is the first."""
        return {"to": self.cameras[1]} if self.cameras else {}

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights; the last layer begins at 0, where the polynomial changes nothing."""
        super().initialise(generator)
        self._begin_as_no_change()

    def _begin_as_no_change(self) -> None:
        for head in self.heads_of_ways:
            assert isinstance(head, nn.Sequential)
            for parameter in head[-1].parameters():
                nn.init.zeros_(parameter)

    def backwards(self) -> Self:
        """Return this network from the second camera to the first; both share their weights."""
        other = copy.copy(self)
        other.way = 1 - self.way
        return other

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """Return the size of the network's maps of the view, and of a strip."""
        height, width = height // 2, width // 2
        reduction = self._reduction(height, width)
        strip = max(_STRIP_PIXELS, PATCH * reduction * width)
        return 4 * (
            _VIEW_FLOATS * max(height // reduction, PATCH) * max(width // reduction, PATCH)
            + _STRIP_FLOATS * min(strip, height * width)
        )

    # --- a packed picture ---------------------------------------------------------------------------------------------

    def _reduction(self, height: int, width: int) -> int:
        """Return the factor by which a packed picture is reduced for the view."""
        return max(-(-max(height, width) // self.view), 1)

    def coefficients(self, view: Tensor, domain: Domain) -> Tensor:
        """Return the polynomials' coefficients (N, 56, H/16, W/16) of the patches of a view (N, 4, H, W)."""
        change: Tensor = self.heads_of_ways[domain.number](self.backbone(view, domain)).float()
        return change + polynomial.identity(change)[:, None, None]

    def mapped(self, packed: Tensor, domain: Domain | None = None) -> Tensor:
        """Map packed RAW (N, 4, H, W), linear, sides multiples of 16, to the other camera's.

        ``domain`` is the generator, which training names; None: this network's own.
        """
        domain = Domain(self.way) if domain is None else domain
        height, width = packed.shape[2:]
        reduction = self._reduction(height, width)
        side = PATCH * reduction
        whole = isp.reflect_pad(packed, 0, round_up(width, side) - width, 0, round_up(height, side) - height)
        grid = self.coefficients(F.avg_pool2d(whole, reduction) if reduction > 1 else whole, domain)
        with torch.autocast(packed.device.type, enabled=False):  # the polynomial's colours are those of the result
            at = polynomial.between(grid, 0, grid.shape[2], side)[:, :, :height, :width]
            return polynomial.apply(packed, at)

    def colours(self, camera: Tensor, params: Params) -> Tensor:
        """Map camera RGB (N, 3, H, W), linear, to the other camera's; H and W are multiples of 16.

        Both greens of a packed pixel are its G, and the result's G is their mean. Of ``params``, nothing enters.
        """
        out = self.mapped(four(camera))
        return three(out)

    # --- a mosaic -----------------------------------------------------------------------------------------------------

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Map a mosaic (N, 1, H, W) to the other camera's, with the same CFA."""
        return unpacked(self.mapped(packed(x, params.cfa)), params.cfa)

    def stream(
        self,
        source: Source,
        sink: Sink,
        size: tuple[int, int],
        params: Params,
        *,
        dtype: torch.dtype = torch.float32,
        plan: str = WHOLE,
        store: MakeStore | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Run from rows to rows; see ``IspModel``. It reads the picture twice: for the view, and for the polynomial."""
        device, report = params.iso.device, progress or _ignore
        padded = (self.geometry.padded(size[0]), self.geometry.padded(size[1]))
        mosaic, inner = reflecting(source, size, padded), (padded[0] // 2, padded[1] // 2)
        reduction = self._reduction(*inner)
        side = PATCH * reduction
        outer = (round_up(inner[0], side), round_up(inner[1], side))

        def planes(first: int, end: int) -> Tensor:
            return packed(mosaic(2 * first, 2 * end).to(device), params.cfa)

        rows = reflecting(planes, inner, outer)  # of packed pixels, as ``mapped`` pads them
        count = max(_STRIP_PIXELS // (outer[1] * side), 1)  # patches' rows of a strip
        strips = [(at, min(at + count, outer[0] // side)) for at in range(0, outer[0] // side, count)]
        parts = []
        for first, last in strips:
            strip = rows(side * first, side * last)
            parts.append(F.avg_pool2d(strip, reduction) if reduction > 1 else strip)
            report(_READ * last / strips[-1][1])
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            grid = self.coefficients(torch.cat(parts, 2), Domain(self.way))
        del parts
        report(_SEEN)
        for first, last in strips:
            top, below = 2 * side * first, min(2 * side * last, size[0])
            if top >= below:
                break
            strip = rows(side * first, side * last)
            shown = polynomial.apply(strip, polynomial.between(grid, first, last, side))
            sink(top, unpacked(shown, params.cfa)[:, :, : below - top, : size[1]])
            report(_SEEN + (1 - _SEEN) * below / size[0])


def _ignore(share: float) -> None:
    """Take a share of the work, for a caller that does not ask."""


def _order(cfa: str) -> list[int]:
    """Return the positions in the 2×2 (row-major) of R, the green in R's row, the green in B's row, and B."""
    red = cfa.index("R")
    return [red, red ^ 1, (3 - red) ^ 1, 3 - red]


def packed(mosaic: Tensor, cfa: str) -> Tensor:
    """Return a mosaic (N, 1, H, W) as R, Gr, Gb, B (N, 4, H/2, W/2)."""
    return F.pixel_unshuffle(mosaic, 2)[:, _order(cfa)]


def unpacked(planes: Tensor, cfa: str) -> Tensor:
    """Return R, Gr, Gb, B (N, 4, H/2, W/2) as a mosaic (N, 1, H, W)."""
    order = _order(cfa)
    return F.pixel_shuffle(planes[:, [order.index(place) for place in range(4)]], 2)


def four(camera: Tensor) -> Tensor:
    """Return camera RGB (N, 3, H, W) as packed pixels (N, 4, H, W) whose greens are both G."""
    return camera[:, [0, 1, 1, 2]]


def three(planes: Tensor) -> Tensor:
    """Return packed pixels (N, 4, H, W) as RGB (N, 3, H, W), with the mean of both greens."""
    return torch.stack([planes[:, 0], planes[:, 1:3].mean(1), planes[:, 3]], 1)
