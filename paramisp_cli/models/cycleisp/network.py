"""The networks of CycleISP (Zamir et al., CVPR 2020) in plain PyTorch: RGB → RAW, RAW → RGB, and its colour branch.

All three are a first convolution, groups of residual blocks with dual attention, and last convolutions, with 96
channels throughout. One rectifier with a slope for each channel serves a whole network. A block weights its features
by a map over space and by a factor for each channel, which comes from the means over the whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp

CHANNELS = 96
_SQUEEZED = 12
_BLUR_REACH, _BLUR_SIGMA = 10, 12.0


def conv(inputs: int, outputs: int, side: int = 3, *, bias: bool = True) -> nn.Conv2d:
    """Make a convolution that keeps the size, with zeros around the picture."""
    return nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=bias)


class Block(nn.Module):
    """Residual block with dual attention; the rectifier's slopes (96) are the whole network's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(CHANNELS, CHANNELS), conv(CHANNELS, CHANNELS)
        self.spatial = conv(2, 1, bias=False)
        self.channel1, self.channel2 = conv(CHANNELS, _SQUEEZED, 1), conv(_SQUEEZED, CHANNELS, 1)
        self.join = conv(2 * CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor, slopes: Tensor) -> Tensor:
        """Map (N, 96, H, W) to the same shape."""
        residual = self.residual(x, slopes)
        gate = self.gate(residual.mean((2, 3), keepdim=True))
        return x + self.attended(residual, gate)

    def residual(self, x: Tensor, slopes: Tensor) -> Tensor:
        """Return the features before attention; reach 2 px."""
        y: Tensor = self.conv2(F.prelu(self.conv1(x).float(), slopes)).float()
        return y

    def gate(self, means: Tensor) -> Tensor:
        """Return the factors of the channels from their means (N, 96, 1, 1) over the picture."""
        return torch.sigmoid(self.channel2(F.relu(self.channel1(means))).float())

    def attended(self, residual: Tensor, gate: Tensor) -> Tensor:
        """Return the features after both attentions; reach 1 px."""
        statistics = torch.cat([residual.amax(1, keepdim=True), residual.mean(1, keepdim=True)], 1)
        where = torch.sigmoid(self.spatial(statistics).float())
        y: Tensor = self.join(torch.cat([residual * where, residual * gate], 1)).float()
        return y


class Group(nn.Module):
    """Blocks and a convolution, beside the identity."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.conv = conv(CHANNELS, CHANNELS)

    def forward(self, x: Tensor, slopes: Tensor) -> Tensor:
        """Map (N, 96, H, W) to the same shape."""
        y = x
        for block in self.blocks:
            y = block(y, slopes)
        z: Tensor = self.conv(y).float() + x
        return z


class Trunk(nn.Module):
    """First convolution, groups of ``blocks`` blocks each, and a convolution without a rectifier behind it."""

    def __init__(self, inputs: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.head = conv(inputs, CHANNELS)
        self.groups = nn.ModuleList(Group(count) for count in blocks)
        self.conv = conv(CHANNELS, CHANNELS)
        self.slopes = nn.Parameter(torch.full((CHANNELS,), 0.25))

    def body(self, x: Tensor) -> Tensor:
        """Map the first convolution's features (N, 96, H, W) to the last convolution's."""
        for group in self.groups:
            x = group(x, self.slopes)
        y: Tensor = self.conv(x).float()
        return y

    def rectified(self, x: Tensor) -> Tensor:
        """Apply the network's rectifier."""
        return F.prelu(x, self.slopes)

    def reset_parameters(self) -> None:
        """Set the slopes to their start; the convolutions have their own."""
        nn.init.constant_(self.slopes, 0.25)


class RgbToRaw(nn.Module):
    """sRGB (N, 3, H, W) → camera RGB of the same size; a mosaic takes one colour at each site. 3.14 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk(3, (5, 5, 5))
        self.tail = conv(CHANNELS, 3)

    def forward(self, srgb: Tensor) -> Tensor:
        """Run the network."""
        return self.finished(self.trunk.body(self.trunk.head(srgb).float()))

    def finished(self, x: Tensor) -> Tensor:
        """Return camera RGB from the trunk's output; reach 1 px."""
        y: Tensor = self.tail(self.trunk.rectified(x)).float()
        return y


class ColourBranch(nn.Module):
    """Guide, an sRGB picture (N, 3, H, W) of more than 10 px a side → factors (N, 96, H/2, W/2) for ``RawToRgb``."""

    blur: Tensor

    def __init__(self) -> None:
        super().__init__()
        offsets = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1, dtype=torch.float64)
        row = torch.exp(-offsets.square() / (2 * _BLUR_SIGMA**2))
        kernel = row[:, None] * row / row.sum() ** 2
        self.register_buffer("blur", kernel.float().expand(3, 1, -1, -1).clone())
        self.trunk = Trunk(3, (2, 2))
        self.tail = conv(CHANNELS, CHANNELS)

    def blurred(self, guide: Tensor) -> Tensor:
        """Blur the guide by 21 × 21 px, reflected at its border."""
        r = _BLUR_REACH
        return F.conv2d(isp.reflect_pad(guide, r, r, r, r), self.blur, groups=3)

    def forward(self, guide: Tensor) -> Tensor:
        """Run the network."""
        x = F.max_pool2d(self.trunk.head(self.blurred(guide)), 2)
        return torch.sigmoid(self.tail(self.trunk.rectified(self.trunk.body(x))))


class RawToRgb(nn.Module):
    """Mosaic packed as R, G, G, B (N, 4, H/2, W/2), and colour factors → sRGB (N, 3, H, W). 3.22 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk(4, (5, 5, 5))
        self.tail, self.tail_rgb = conv(CHANNELS, CHANNELS), conv(CHANNELS, 12, 1)

    def forward(self, packed: Tensor, factors: Tensor) -> Tensor:
        """Run the network."""
        x = self.trunk.body(self.trunk.head(packed))
        x = self.trunk.rectified(x * factors + x)
        return F.pixel_shuffle(self.tail_rgb(self.trunk.rectified(self.tail(x))), 2)


class GuidedRender(nn.Module):
    """RAW → RGB after the colours of a guide: both networks together.

    This is no ``IspModel``: besides the mosaic it needs an sRGB picture of the same shot, of the same size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.render, self.colour = RawToRgb(), ColourBranch()

    def forward(self, mosaic: Tensor, guide: Tensor) -> Tensor:
        """Render a mosaic (N, 1, H, W) that begins with red, H and W even, beside its guide (N, 3, H, W)."""
        y: Tensor = self.render(F.pixel_unshuffle(mosaic, 2), self.colour(guide))
        return y
