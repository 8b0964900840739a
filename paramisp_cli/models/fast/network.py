"""Fast: our own model. A closed-form rendition does colour and tone; a small network makes local corrections.

    unprocess: sRGB   → rendition → sites of the mosaic, √ → + network → square → mosaic
    render:    mosaic → white balance, demosaicing → rendition → + network → sRGB

The rendition (``rendition``) is a monotone map of one pixel's colour, fitted to photographs, never trained. The network
is a U-Net at half resolution that sees no further than its halo, so a picture runs tile by tile with the same result.
Optical parameters and a thumbnail of the whole picture steer the network and the rendition's gains. The network starts
as "no change", and its correction fades where the rendition extrapolates. 0.23 M parameters, 8 GMAC a megapixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.models.base import WHOLE, IspModel, Params
from paramisp_cli.models.fast.rendition import Rendition
from paramisp_cli.models.fast.spec import FLOOR, GEOMETRY, MOST_ADJUSTED, STEERING, THUMBNAIL, Config
from paramisp_cli.models.geometry import cut
from paramisp_cli.models.optics import EQUALISATION, equalise
from paramisp_cli.models.regions import Source
from paramisp_cli.rendition import prior
from paramisp_cli.rendition.fit import Cells, fit
from paramisp_cli.rendition.form import illumination

_SURVEY_ROWS = 512
"""Rows of the picture that enter the thumbnail at a time."""


class Block(nn.Module):
    """Residual block, 3×3 – ReLU – 3×3, whose hidden channels are scaled and shifted by the steering numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.steer = nn.Linear(STEERING, 2 * width)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the block's output for x (N, width, H, W) and the steering z (N, 32)."""
        scale, shift = self.steer(z)[:, :, None, None].chunk(2, 1)
        hidden = torch.addcmul(shift, self.conv1(x).float(), 1 + scale)  # sums stay in float32 under autocast
        y: Tensor = x + self.conv2(F.relu(hidden)).float()
        return y


class UNet(nn.Module):
    """Three levels: two blocks at each size, and one more at the smallest; strided 2×2 down, repeated samples up.

    A transposed convolution in their place draws a grid into flat colours, and is no better elsewhere.
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Conv2d(inputs, first, 3, padding=1)
        self.down1 = nn.Conv2d(first, second, 2, stride=2)
        self.down2 = nn.Conv2d(second, third, 2, stride=2)
        self.up2, self.up1 = nn.Conv2d(third, second, 1), nn.Conv2d(second, first, 1)
        self.blocks = nn.ModuleList(Block(width) for width in (first, second, third, third, second, first))
        self.tail = nn.Conv2d(first, outputs, 3, padding=1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Map (N, inputs, H, W), H and W multiples of 4, to (N, outputs, H, W)."""
        level1 = self.blocks[0](F.relu(self.stem(x)).float(), z)
        level2 = self.blocks[1](F.relu(self.down1(level1)).float(), z)
        level3 = self.blocks[3](self.blocks[2](F.relu(self.down2(level2)).float(), z), z)
        level2 = self.blocks[4](level2 + _doubled(self.up2(level3).float()), z)
        level1 = self.blocks[5](level1 + _doubled(self.up1(level2).float()), z)
        y: Tensor = self.tail(level1).float()
        return y


def _doubled(x: Tensor) -> Tensor:
    """Repeat every sample in 2×2."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Steering(nn.Module):
    """Optical parameters (the paper's equalisation), white balance and thumbnail → (N, 32).

    In training, each optical parameter and the thumbnail are left out with probability ``dropout``, per sample.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.optical = nn.ModuleDict({name: nn.Linear(15, STEERING) for name in EQUALISATION})
        self.balance = nn.Linear(2, STEERING)
        self.look = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.statistics = nn.Linear(32 + 12, STEERING)
        self.mlp = nn.Sequential(nn.ReLU(), nn.Linear(STEERING, STEERING), nn.ReLU())

    def forward(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        """Return the steering numbers; ``params.thumbnail`` must be there."""
        thumbnail = params.thumbnail
        assert thumbnail is not None
        n = len(thumbnail)

        def kept(vector: Tensor) -> Tensor:
            if not self.training or not self.dropout:
                return vector
            draw = torch.rand(n, 1, generator=generator).to(vector.device)
            return vector * (draw >= self.dropout)

        flat = thumbnail.flatten(2)
        spread = [flat.mean(2), flat.std(2), flat.amax(2), flat.amin(2)]
        z = self.balance(params.wb_gains[:, 0::2].log2())
        z = z + kept(self.statistics(torch.cat([self.look(thumbnail).flatten(1), *spread], 1)))
        for name, linear in self.optical.items():
            z = z + kept(linear(equalise(name, getattr(params, name))))
        out: Tensor = self.mlp(z)
        return out


class Fast(IspModel):
    """See the module's docstring.

    widths           channels at 1/2, 1/4 and 1/8 of the picture's size
    optical_dropout  probability with which training leaves out an optical parameter, or the thumbnail
    lens_shading     see ``IspModel``
    full_white       the rendition sends sRGB white to the clip of all channels, as blown skies are; otherwise to a
                     neutral at the clip of green, and the network knows better
    """

    name = "fast"
    geometry = GEOMETRY

    def __init__(
        self,
        direction: Direction,
        widths: Sequence[int] = (16, 32, 64),
        optical_dropout: float = 0.2,
        lens_shading: Sequence[Sequence[float]] | None = None,
        full_white: bool = False,
    ) -> None:
        super().__init__(direction)
        self.macs = Config(direction, widths, optical_dropout).macs  # checks the arguments
        self.widths, self.optical_dropout, self.lens_shading = tuple(widths), optical_dropout, lens_shading
        self.full_white = full_white
        self.rendition = Rendition(self.direction)
        self.steering = Steering(optical_dropout)
        self.adjust = nn.Linear(STEERING, 3)
        self.net = UNet(16, 4 if self.direction.output == Kind.RAW else 12, widths)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._begin_as_no_change()

    def config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {
            "direction": str(self.direction),
            "widths": list(self.widths),
            "optical_dropout": self.optical_dropout,
            "full_white": self.full_white,
            **self.shading_config(),
        }

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights; the last layer starts at zero, so that the model starts as its rendition."""
        super().initialise(generator)
        self._begin_as_no_change()

    fits_colours = True

    def fit_colours(self, photographs: Sequence[Cells]) -> None:
        """Fit the rendition, under its prior, and start again as no change beside it."""
        fitted = fit(photographs, prior.shipped(self.direction))
        self.rendition.take(fitted)
        if np.abs(fitted.rendition.shading).max() > _NO_SHADING:
            self.lens_shading = _cubic(fitted.rendition.vector)
        self._begin_as_no_change()

    def trust_colours(self) -> None:
        """Send whites to the clip of all channels: no network corrects them."""
        self.full_white = True

    def _begin_as_no_change(self) -> None:
        for tensor in (*self.net.tail.parameters(), *self.adjust.parameters()):
            nn.init.zeros_(tensor)

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """Return the size of the maps of a tile: some 80 numbers a pixel."""
        return 80 * 4 * height * width

    # --- the whole picture --------------------------------------------------------------------------------------------

    def surveyed(self, source: Source, size: tuple[int, int], params: Params) -> Params:
        """Return the parameters with the picture's thumbnail: means of √ of balanced light, or of sRGB."""
        if params.thumbnail is not None:
            return params
        height, width = size[0] // 2, size[1] // 2
        down, across = _averaging(height, params.iso), _averaging(width, params.iso)
        total = params.iso.new_zeros(len(params), 3, THUMBNAIL, THUMBNAIL)
        for first, end in cut(height, _SURVEY_ROWS, 1):
            small = self._halved(source(2 * first, 2 * end), params)
            total = total + torch.einsum("ir,ncrw,jw->ncij", down[:, first:end], small, across)
        return replace(params, thumbnail=total)

    def _halved(self, x: Tensor, params: Params) -> Tensor:
        """Return half-size colours (N, 3, H/2, W/2): means of sRGB, or √ of the mosaic's balanced 2×2."""
        if self.direction.input == Kind.SRGB:
            return F.avg_pool2d(x, 2)
        packed = F.pixel_unshuffle(x, 2)
        red, green, blue = _sites(params.cfa)
        planes = [packed[:, red], packed[:, green].mean(1, keepdim=True), packed[:, blue]]
        return isp.apply_gains(torch.cat(planes, 1), params.wb_gains).clamp(0, 1).sqrt()

    # --- the model ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Run the whole image, padded by reflection so that its CFA begins with red, and cropped back."""
        params = self.surveyed(lambda first, end: x[:, :, first:end], (x.shape[2], x.shape[3]), params)
        height, width = x.shape[-2:]
        multiple, padded = self.geometry.multiple, self.geometry.padded
        x = isp.reflect_pad(x, 0, padded(width) - width, 0, padded(height) - height)  # as callers pad a picture's tiles
        top, left = divmod(params.cfa.index("R"), 2)
        x = isp.reflect_pad(x, left, left and multiple - left, top, top and multiple - top)
        return self.compute(x, params)[..., top : top + height, left : left + width]

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Compute the output for an input whose CFA begins with red; see ``IspModel``."""
        with torch.autocast(x.device.type, enabled=False):  # a gain acts on every pixel alike
            z = self.steering(params, self.generator)
            adjust = MOST_ADJUSTED * torch.tanh(self.adjust(z))
        gains = params.wb_gains[:, (0, 1, 1, 2)][:, :, None, None]
        if self.direction.input == Kind.SRGB:
            white = params.wb_gains if self.full_white else None
            light = self._rendered(x, params, adjust, white)
            root = F.pixel_unshuffle(isp.mosaic(light, "RGGB"), 2).add(FLOOR).sqrt()
            colours = F.pixel_unshuffle(x, 2)
            change = self._change(torch.cat([colours, root], 1), z)
            root = (root + change * self.rendition.trust(torch.unflatten(colours, 1, (3, 4)).mean(2))).clamp(min=0)
            return F.pixel_shuffle((root.square() - FLOOR) / gains, 2)
        light = isp.apply_gains(isp.demosaic(x, "RGGB"), params.wb_gains)
        shown = F.pixel_unshuffle(self._rendered(light, params, adjust, None), 2)
        sites = F.pixel_unshuffle(x, 2) * gains
        change = self._change(torch.cat([sites.clamp(min=0).add(FLOOR).sqrt(), shown], 1), z)
        small = torch.stack([sites[:, 0], (sites[:, 1] + sites[:, 2]) / 2, sites[:, 3]], 1)
        return F.pixel_shuffle(shown + change * self.rendition.trust(small), 2)

    def _rendered(self, x: Tensor, params: Params, adjust: Tensor, white: Tensor | None) -> Tensor:
        """Run the rendition, always in float32: its colours are those of the result."""
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = self.rendition(x, params.cam_to_srgb, adjust, white)
        return y

    def _change(self, x: Tensor, z: Tensor) -> Tensor:
        """Run the network; its convolutions are a fifth faster with the channels last."""
        y: Tensor = self.net(x.contiguous(memory_format=torch.channels_last), z)
        return y


_NO_SHADING = 1e-3
"""Largest coefficient of log illumination that counts as none."""


def _cubic(vector: np.ndarray) -> list[list[float]]:
    """Return a rendition's relative illumination for ``isp.shading_gain``: R, G, B × (k1, k2, k3)."""
    rho = np.linspace(0, 1, 33)
    powers = np.stack([rho, rho**2, rho**3], -1)
    solution: list[list[float]] = np.linalg.lstsq(powers, illumination(vector, rho) - 1, rcond=None)[0].T.tolist()
    return solution


def _sites(cfa: str) -> tuple[list[int], list[int], list[int]]:
    """Return the positions in the 2×2 (row-major) of red, green and blue."""
    red, green, blue = ([i for i in range(4) if cfa[i] == colour] for colour in "RGB")
    return red, green, blue


def _averaging(length: int, like: Tensor) -> Tensor:
    """Return the (16, length) matrix whose rows are means of neighbouring samples, as adaptive pooling takes them."""
    index = torch.arange(length, device=like.device)
    cell = torch.arange(THUMBNAIL, device=like.device)[:, None]
    begin, end = cell * length // THUMBNAIL, -(-(cell + 1) * length // THUMBNAIL)
    inside = ((index >= begin) & (index < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)
