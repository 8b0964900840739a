"""The U-Net of both stages: five levels, a global branch at the smallest, exact in tiles once its mean is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp

LEVELS = 5
_SLOPE = 0.2
"""Slope of the rectifiers for negative values."""
_GLOBAL = 1024
"""Hidden numbers of the global branch at 32 channels of level 1; other widths scale it."""


class Conv(nn.Conv2d):
    """3×3 convolution that pads by reflection as far as its dilation, in images of any size."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__(inputs, outputs, 3, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        reach = int(self.dilation[0])
        return super().forward(isp.reflect_pad(x, reach, reach, reach, reach))


class Block(nn.Module):
    """Two convolutions, a rectifier between them and, unless ``last``, behind them; ``residual`` adds the input."""

    def __init__(self, width: int, dilations: tuple[int, int], residual: bool, last: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(width, width, dilations[0]), Conv(width, width, dilations[1])
        self.residual, self.last = residual, last

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, H, W) to the same shape."""
        y: Tensor = self.conv2(_rectified(self.conv1(x)))
        y = y + x if self.residual else y
        return y if self.last else _rectified(y)


class UNet(nn.Module):
    """See the module's docstring.

    inputs, outputs   channels at the largest level
    width             channels of level 1; each next level has twice as many
    dilations         of the convolutions of levels 1 to 5
    residual          blocks add their input
    """

    def __init__(self, inputs: int, outputs: int, width: int, dilations: Sequence[int], residual: bool) -> None:
        super().__init__()
        widths = [width << level for level in range(LEVELS)]
        deepest, hidden = widths[-1], _GLOBAL * width // 32
        self.heads = nn.ModuleList(
            Conv(before, after) for before, after in zip([inputs, *widths], widths, strict=False)
        )
        self.down = nn.ModuleList(
            Block(widths[level], (dilations[level],) * 2, residual) for level in range(LEVELS - 1)
        )
        self.local = Block(deepest, (dilations[-1], 1), residual)
        self.hidden, self.modulation = nn.Linear(deepest, hidden), nn.Linear(hidden, 2 * deepest)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(widths[level + 1], widths[level], 2, stride=2, bias=False) for level in range(LEVELS - 1)
        )
        self.merge = nn.ModuleList(Conv(2 * widths[level], widths[level]) for level in range(LEVELS - 1))
        self.blocks = nn.ModuleList(
            Block(widths[level], (dilations[level], 1), residual, last=level == 0) for level in range(LEVELS - 1)
        )
        self.end = nn.Conv2d(width, outputs, 1)

    def deepest(self, x: Tensor, skips: list[Tensor] | None = None) -> Tensor:
        """Return the maps of level 5 before its branches, (N, 16·width, H/16, W/16); ``skips`` gets the others."""
        for level in range(LEVELS - 1):
            x = self.down[level](_rectified(self.heads[level](x)))
            if skips is not None:
                skips.append(x)
            # Windows begin at even samples and reach one beyond their two: a padding on both sides would shift them.
            x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)
        return _rectified(self.heads[-1](x))

    def forward(self, x: Tensor, mean: Tensor | None = None) -> Tensor:
        """Map (N, inputs, H, W), H and W multiples of 16, to (N, outputs, H, W).

        ``mean`` (N, 16·width) is the mean over the whole picture of ``deepest``; None: x is the whole picture.
        """
        skips: list[Tensor] = []
        deep = self.deepest(x, skips)
        pooled = deep.mean((2, 3)) if mean is None else mean
        scale, shift = self.modulation(_rectified(self.hidden(pooled)))[:, :, None, None].chunk(2, 1)
        y = _rectified(torch.addcmul(shift, self.local(deep), scale))
        for level in reversed(range(LEVELS - 1)):
            joined = torch.cat([self.up[level](y), skips[level]], 1)
            y = self.blocks[level](_rectified(self.merge[level](joined)))
        out: Tensor = self.end(y)
        return out


def reach(dilations: Sequence[int]) -> tuple[int, int]:
    """Return the reach [samples] of ``deepest`` and of the output, to either side of the 16 samples they lie in."""
    down = sum((1 + 2 * dilations[level] + 2) << level for level in range(LEVELS - 1))
    deepest = down + (1 << (LEVELS - 1))
    local = (dilations[-1] + 1) << (LEVELS - 1)
    up = sum((1 + dilations[level] + 1) << level for level in range(LEVELS - 1))
    return deepest, deepest + local + up


def _rectified(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)
