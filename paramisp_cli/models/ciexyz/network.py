"""CIE XYZ Net (Afifi et al., TPAMI 2021): local corrections, and one polynomial map of colours for the picture.

    unprocess: sRGB → − local network → global map → CIE XYZ → linear sRGB → camera RGB → inverse gains → mosaic
    render:    mosaic → bilinear demosaicing → gains → linear sRGB → CIE XYZ → global map → + local network → sRGB

The global map is a matrix (3, 6) of the colours and their squares. A small network makes it from 128 × 128 pixels that
are picked from the whole picture: they are ``Params.thumbnail`` when the picture runs in tiles. The published program
ends at CIE XYZ; the steps from there to the mosaic are linear. 1.35 M parameters a direction, 131 GMAC a megapixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.models.base import WHOLE, Geometry, IspModel, Params
from paramisp_cli.models.regions import Source

SAMPLE = 128
"""Sides of the sample of the picture."""
_REACH = 16
"""Reach [px] of the local network."""
_SLOPE = 0.01
"""Slope of the leaky rectifiers below 0."""
_XYZ_WEIGHT = 1.5
"""Weight of the error of XYZ in the authors' loss."""
_SURVEY_PIXELS = 1 << 17
"""Pixels of a strip in the survey of a picture."""
_WINDOWED = 3_000_000
"""Pixels that take the local network as much time as all windows do; larger pictures are sampled in windows."""
_BATCH = 16
"""Windows computed at a time: their features fit a core's cache."""

# CIE XYZ for the white D65 → linear sRGB. The published weights state no white; D65 is an assumption.
XYZ_TO_SRGB = (
    (3.2404541621, -1.5371385128, -0.4985314096),
    (-0.9692660305, 1.8760108454, 0.0415560175),
    (0.0556434310, -0.2040259135, 1.0572251882),
)


class LocalNet(nn.Module):
    """Sixteen 3×3 convolutions of 32 channels; the result is in ±0.25."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *[32] * 15, 3]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to the same shape."""
        for conv in self.convs[:-1]:
            x = F.leaky_relu(conv(x), _SLOPE)
        y: Tensor = torch.tanh(self.convs[-1](x).float()) * 0.25
        return y

    def centres(self, windows: Tensor, inside: Tensor) -> Tensor:
        """Return the result (N, 3) in the middle of windows (N, 3, 33, 33), as ``forward`` does for the whole picture.

        ``inside`` (N, 1, 33, 33) is 1 in the picture and 0 beyond its border, where every layer's input is 0.
        """
        x = windows
        for conv in self.convs[:-1]:
            inside = inside[..., 1:-1, 1:-1]
            x = F.leaky_relu(_unpadded(conv, x), _SLOPE) * inside
        y: Tensor = torch.tanh(_unpadded(self.convs[-1], x).float()) * 0.25
        return y.flatten(1)


def _unpadded(conv: nn.Module, x: Tensor) -> Tensor:
    """Run a convolution without its padding."""
    assert isinstance(conv, nn.Conv2d)
    return F.conv2d(x, conv.weight, conv.bias)


class GlobalNet(nn.Module):
    """Sample of a picture (N, 3, 128, 128) → matrix (N, 3, 6) of its global map."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 64, 64, 3, padding=1) for i in range(5))
        self.hidden, self.last = nn.Linear(1024, 1024), nn.Linear(1024, 18)

    def forward(self, sample: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the matrix; in training, half of the hidden numbers are left out."""
        x = sample
        for conv in self.convs:
            x = F.max_pool2d(F.leaky_relu(conv(x), _SLOPE), 2)
        hidden = self.hidden(x.flatten(1))
        if self.training:
            hidden = hidden * 2 * (torch.rand(hidden.shape, generator=generator) >= 0.5).to(hidden.device)
        y: Tensor = self.last(hidden).unflatten(1, (3, 6))
        return y


class CieXyz(IspModel):
    """See the module's docstring; ``lens_shading``: see ``IspModel``."""

    name = "ciexyz"
    geometry = Geometry(halo=_REACH + 2)  # 2: bilinear demosaicing, rounded up to the CFA's period
    macs = 1.31e5

    def __init__(self, direction: Direction, lens_shading: Sequence[Sequence[float]] | None = None) -> None:
        super().__init__(direction)
        self.lens_shading = lens_shading
        self.local, self.colour = LocalNet(), GlobalNet()
        self._draw(None)

    def config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return super().config() | self.shading_config()

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights as the authors do."""
        super().initialise(generator)  # the linear layers
        self._draw(generator)

    def _draw(self, generator: torch.Generator | None) -> None:
        """Draw the convolutions: normal numbers after He et al., no bias."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """Return the size of the features of a tile: three maps of 32 channels, and some colour images."""
        return (3 * 32 + 8 * 3) * 4 * height * width

    # --- the whole picture --------------------------------------------------------------------------------------------

    def surveyed(self, source: Source, size: tuple[int, int], params: Params) -> Params:
        """Return the parameters with the sample of the whole picture; a training samples its crops instead."""
        if self.training or params.thumbnail is not None:
            return params
        if self.direction.input == Kind.SRGB and size[0] * size[1] > _WINDOWED:
            return replace(params, thumbnail=self._sampled_in_windows(source, size, params.iso.device))
        return replace(params, thumbnail=self._sampled_in_strips(source, size, params))

    def survey_pixels(self, size: tuple[int, int]) -> float:
        """Return the pixels that ``surveyed`` computes; windows count as the pixels that take their time."""
        return min(size[0] * size[1], _WINDOWED) if self.direction.input == Kind.SRGB else 0

    def _sampled_in_strips(self, source: Source, size: tuple[int, int], params: Params) -> Tensor:
        """Compute the picture strip by strip, and return its sample: sRGB without local corrections, or XYZ."""
        height, width = size
        reach, down, across = self.geometry.halo, *(_picked(side, params.iso.device) for side in size)
        rows = max(_SURVEY_PIXELS // width // 2 * 2, 4 * reach)
        strips = []
        for first in range(0, height, rows):
            end, top = min(first + rows, height), max(first - reach, 0)
            x = source(top, min(end + reach, height))
            strip = xyz_of_mosaic(x, params) if self.direction.input == Kind.RAW else x - self.local(x)
            strips.append(strip[:, :, down[(down >= first) & (down < end)] - top][..., across])
        return torch.cat(strips, 2)

    def _sampled_in_windows(self, source: Source, size: tuple[int, int], device: torch.device) -> Tensor:
        """Return the sample of sRGB without local corrections; the local network runs only around its pixels."""
        (height, width), around = size, torch.arange(-_REACH, _REACH + 1, device=device)
        down, across = (_picked(side, device)[:, None] + around for side in size)
        in_rows, in_columns = (((at >= 0) & (at < side)).float() for at, side in ((down, height), (across, width)))
        lines = []
        for at, within in zip(down, in_rows, strict=True):
            first, last = int(at[0]), int(at[-1])
            x = source(max(first, 0), min(last + 1, height))
            x = F.pad(x, (_REACH, _REACH, max(-first, 0), max(last + 1 - height, 0)))
            windows = x[0][:, :, across + _REACH].permute(2, 0, 1, 3)
            inside = (within[:, None] * in_columns[:, None])[:, None]
            pairs = zip(torch.split(windows, _BATCH), torch.split(inside, _BATCH), strict=True)
            local = torch.cat([self.local.centres(some, mask) for some, mask in pairs])
            lines.append((windows[:, :, _REACH, _REACH] - local).T)
        return torch.stack(lines, 1)[None]

    # --- the model ----------------------------------------------------------------------------------------------------

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Run the model in its direction; see ``IspModel``."""
        if self.direction.input == Kind.RAW:
            return self.to_srgb(xyz_of_mosaic(x, params), params.thumbnail)
        return mosaic_of_xyz(self.to_xyz(x, params.thumbnail), params)

    def to_xyz(self, srgb: Tensor, sample: Tensor | None = None) -> Tensor:
        """Map sRGB to XYZ, both (N, 3, H, W), as the published network does; ``sample`` is the whole picture's."""
        plain = srgb - self.local(srgb)
        return global_map(plain, self.matrix(plain, sample))

    def to_srgb(self, xyz: Tensor, sample: Tensor | None = None) -> Tensor:
        """Map XYZ to sRGB, both (N, 3, H, W), as the published network does; ``sample`` is the whole picture's."""
        plain = global_map(xyz, self.matrix(xyz, sample))
        y: Tensor = plain + self.local(plain)
        return y

    def matrix(self, picture: Tensor, sample: Tensor | None) -> Tensor:
        """Return the matrix (N, 3, 6) of the global map, from the sample or from the whole picture."""
        with torch.autocast(picture.device.type, enabled=False):  # it acts on every pixel alike
            y: Tensor = self.colour(sampled(picture) if sample is None else sample, self.generator)
        return y

    # --- training -----------------------------------------------------------------------------------------------------

    def own_loss(self, x: Tensor, wanted: Tensor, params: Params, restored: Tensor | None = None) -> Tensor:
        """Return the sum of absolute errors of XYZ or sRGB, divided by the number of pictures."""
        if self.direction.input == Kind.RAW:
            return (self.to_srgb(xyz_of_mosaic(x, params)) - wanted).abs().sum() / len(x)
        return (self.to_xyz(x) - xyz_of_mosaic(wanted, params)).abs().sum() / len(x)

    def joint_loss(self, other: IspModel, srgb: Tensor, raw: Tensor, params: Params) -> Tensor:
        """Return the loss of ``training_step``."""
        assert isinstance(other, CieXyz)
        return training_step(self, other, srgb, xyz_of_mosaic(raw, params)).loss


class Step(NamedTuple):
    """A training step: XYZ from sRGB, sRGB from this XYZ, and the loss."""

    xyz: Tensor
    rendered: Tensor
    loss: Tensor


def training_step(unprocess: CieXyz, render: CieXyz, srgb: Tensor, xyz: Tensor) -> Step:
    """Run both directions one after the other; the loss is a sum over pixels, divided by the number of pictures."""
    predicted = unprocess.to_xyz(srgb)
    rendered = render.to_srgb(predicted)
    errors = (rendered - srgb).abs() + _XYZ_WEIGHT * (predicted - xyz).abs()
    return Step(predicted, rendered, errors.sum() / len(srgb))


def _picked(length: int, device: torch.device) -> Tensor:
    return torch.arange(SAMPLE, device=device) * length // SAMPLE


def sampled(picture: Tensor) -> Tensor:
    """Pick 128 × 128 pixels of (N, C, H, W), row ⌊i·H/128⌋ and column ⌊j·W/128⌋; small pictures repeat pixels."""
    height, width = picture.shape[-2:]
    return picture[:, :, _picked(height, picture.device)][..., _picked(width, picture.device)]


def global_map(picture: Tensor, matrix: Tensor) -> Tensor:
    """Multiply colours and their squares (N, 6) by a matrix (N, 3, 6), for every pixel of (N, 3, H, W)."""
    with torch.autocast(picture.device.type, enabled=False):
        features = torch.cat([picture, picture.square()], 1).flatten(2)
        y: Tensor = (matrix @ features).view_as(picture)
        return y


def xyz_of_mosaic(mosaic: Tensor, params: Params) -> Tensor:
    """Return CIE XYZ (N, 3, H, W) of a mosaic: demosaiced, balanced, clipped, by the camera's matrix."""
    light = isp.apply_gains(isp.demosaic_bilinear(mosaic, params.cfa), params.wb_gains).clamp(0, 1)
    return isp.apply_matrix(light, torch.linalg.inv(_xyz_to_srgb(params)) @ params.cam_to_srgb)


def mosaic_of_xyz(xyz: Tensor, params: Params) -> Tensor:
    """Return the mosaic of CIE XYZ (N, 3, H, W)."""
    light = isp.apply_matrix(xyz, torch.linalg.inv(params.cam_to_srgb) @ _xyz_to_srgb(params))
    return isp.mosaic(isp.apply_gains(light, 1 / params.wb_gains), params.cfa)


def _xyz_to_srgb(params: Params) -> Tensor:
    return params.wb_gains.new_tensor(XYZ_TO_SRGB)
