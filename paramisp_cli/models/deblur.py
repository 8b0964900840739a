"""Deblur: take mild camera shake out of a mosaic, of any camera: RAW → RAW.

    mosaic → R, G, G, B at half size × white balance, clipped, √ → network → change of the roots → mosaic

The network works on square roots, because networks learn linear light badly, and adds to them: light that it does not
change comes out bit for bit. Its blocks are those of NAFNet (Chen et al., "Simple Baselines for Image Restoration",
ECCV 2022) without the channel attention: a mean over the picture differs between the small crops of a training and a
photograph, and between a tile and the whole. So the network sees no further than its halo, and a picture runs tile by
tile with the same result. 0.36 M parameters, 4.4 GMAC a megapixel of mosaic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.directions import Direction
from paramisp_cli.models.base import WHOLE, Geometry, IspModel, Params

_FLOOR = 1e-4
"""Added to light below the root, whose slope has no end at 0."""

_NOISE_SCALE = 10.0
"""Factor of the plane of noise, whose σ is about 0.01."""


def root(x: Tensor, params: Params) -> Tensor:
    """Return the square roots (N, 4, H/2, W/2) of a mosaic's light, white-balanced and clipped at white."""
    return (F.pixel_unshuffle(x, 2) * _site_gains(params)).clamp(0, 1).add(_FLOOR).sqrt()


def _site_gains(params: Params) -> Tensor:
    """Return the gains (N, 4, 1, 1) of the sites R, G, G, B."""
    return params.wb_gains[:, (0, 1, 1, 2)][:, :, None, None]


class _Block(nn.Module):
    """Two residual steps: 1×1, depthwise 3×3, gate, 1×1; then 1×1, gate, 1×1. A gate multiplies the two halves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.widen1, self.widen2 = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, 2 * width, 1)
        self.spread = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.narrow1, self.narrow2 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.scale1, self.scale2 = (nn.Parameter(torch.empty(1, width, 1, 1)) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scales of the two steps to 0.1: a deep network starts near no change."""
        for scale in (self.scale1, self.scale2):
            nn.init.constant_(scale, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x (N, width, H, W)."""
        x = torch.addcmul(x, self.narrow1(_gated(self.spread(self.widen1(_normalised(x, self.norm1))))), self.scale1)
        return torch.addcmul(x, self.narrow2(_gated(self.widen2(_normalised(x, self.norm2)))), self.scale2)


def _normalised(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Normalise the channels of each pixel."""
    return F.layer_norm(x.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias).permute(0, 3, 1, 2)


def _gated(x: Tensor) -> Tensor:
    """Multiply the two halves of the channels."""
    first, second = x.chunk(2, 1)
    return first * second


class Deblur(IspModel):
    """See the module's docstring.

    width   channels at half the mosaic's size; doubled at each level
    down    blocks of the levels on the way down, and as many levels; ``middle`` and ``up`` are the other blocks
    noise_share  share of the noise's σ in the plane of noise: below 1 for weights whose training had too little noise
    """

    name = "deblur"
    directions = (Direction.RESTORE,)

    def __init__(
        self,
        direction: Direction = Direction.RESTORE,
        width: int = 16,
        down: Sequence[int] = (1, 1, 1),
        middle: int = 2,
        up: Sequence[int] = (1, 1, 1),
        noise_share: float = 1.0,
    ) -> None:
        super().__init__(direction)
        self.noise_share = noise_share
        if width < 1 or middle < 1 or len(down) != len(up) or not down or min(*down, *up) < 1:
            raise ValueError(f"deblur needs positive numbers of channels and blocks, got {width, down, middle, up}")
        self.width, self.blocks = width, (tuple(down), middle, tuple(up))
        levels = len(down)
        widths = [width << level for level in range(levels + 1)]
        self.stem = nn.Conv2d(5, width, 3, padding=1)
        self.tail = nn.Conv2d(width, 4, 3, padding=1)
        self.encoders = nn.ModuleList(_several(wide, count) for wide, count in zip(widths, down, strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(wide, 2 * wide, 2, stride=2) for wide in widths[:-1])
        self.middle = _several(widths[-1], middle)
        self.ups = nn.ModuleList(nn.Conv2d(wide, 2 * wide, 1, bias=False) for wide in widths[:0:-1])
        self.decoders = nn.ModuleList(_several(wide, count) for wide, count in zip(widths[-2::-1], up, strict=True))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        counts = [*(down[level] + up[levels - 1 - level] for level in range(levels)), middle]
        reach = sum(count << level + 1 for level, count in enumerate(counts)) + 2 + 2  # blocks, stem and tail, in px
        self.geometry = Geometry(multiple=2 << levels, halo=reach)
        self.macs = self._macs(widths, counts)
        self._begin_as_no_change()

    @staticmethod
    def _macs(widths: Sequence[int], counts: Sequence[int]) -> float:
        """Count the multiply-accumulates to a pixel of the mosaic."""
        total = (5 + 4) * 9 * widths[0] / 4
        for level, (wide, count) in enumerate(zip(widths, counts, strict=True)):
            total += count * (6 * wide**2 + 18 * wide) / 4 ** (level + 1)
            if level:
                total += (2 * wide**2 + 2 * wide**2) / 4 ** (level + 1)  # down and up
        return total

    geometry = Geometry(multiple=16, halo=64)

    def config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        down, middle, up = self.blocks
        return {
            "direction": str(self.direction),
            "width": self.width,
            "down": list(down),
            "middle": middle,
            "up": list(up),
            "noise_share": self.noise_share,
        }

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights; the last layer starts at zero, so that the model starts as no change."""
        super().initialise(generator)
        self._begin_as_no_change()

    def _begin_as_no_change(self) -> None:
        for tensor in self.tail.parameters():
            nn.init.zeros_(tensor)

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """Return the size of the maps of a tile: some seven of ``width`` channels, and smaller ones."""
        return 2 * self.width * 4 * height * width

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Run the whole image, padded by reflection so that its CFA begins with red, and cropped back."""
        height, width = x.shape[-2:]
        multiple, padded = self.geometry.multiple, self.geometry.padded
        x = isp.reflect_pad(x, 0, padded(width) - width, 0, padded(height) - height)
        top, left = divmod(params.cfa.index("R"), 2)
        x = isp.reflect_pad(x, left, left and multiple - left, top, top and multiple - top)
        return self.compute(x, params)[..., top : top + height, left : left + width]

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Return the mosaic (N, 1, H, W) without blur, for one whose CFA begins with red; see ``IspModel``."""
        before, after = self.roots(x, params)
        gains = _site_gains(params)
        return x + F.pixel_shuffle((after - before) * (after + before) / gains, 2)

    def roots(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Return ``root`` of a mosaic (N, 1, H, W) whose CFA begins with red, and the same without blur."""
        before = root(x, params)
        noise = params.iso.new_zeros(len(params)) if params.noise is None else params.noise
        plane = self.noise_share * noise[:, None, None, None].expand(-1, 1, *before.shape[2:]).to(before.dtype)
        change = self._change(torch.cat([before, _NOISE_SCALE * plane], 1)).float()
        return before, (before + change).clamp(min=_FLOOR**0.5)

    def _change(self, x: Tensor) -> Tensor:
        """Run the network on (N, 5, H, W), H and W multiples of the levels' sizes → (N, 4, H, W)."""
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for encode, halve in zip(self.encoders, self.downs, strict=True):
            x = encode(x)
            skips.append(x)
            x = halve(x)
        x = self.middle(x)
        for double, decode in zip(self.ups, self.decoders, strict=True):
            x = decode(F.pixel_shuffle(double(x), 2) + skips.pop())
        y: Tensor = self.tail(x)
        return y


def _several(width: int, count: int) -> nn.Sequential:
    """Return blocks one after the other."""
    return nn.Sequential(*(_Block(width) for _ in range(count)))
