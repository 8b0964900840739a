"""Splines per pixel: a small network that gives every place its own map from one camera's colours to another's.

The form is cmKAN's (Nikonorov et al., "Color Matching Using Hypernetwork-Based Kolmogorov-Arnold Networks", 2025):
cubic splines on five intervals from each input channel to each output channel, whose coefficients a network predicts.
Three things differ. The splines correct a closed form (``cameras.spectra.fit``) instead of doing all the work, so a
fresh network is this closed form. They act on the shares of the channels, so twice the light gives twice the values.
And the network sees colours reduced 8 times, without pooling over the picture, so it runs in strips.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.directions import Direction
from paramisp_cli.models.base import Geometry, IspModel, Params

INTERVALS, BASES = 5, 8
"""Intervals of a spline on [0, 1], and its cubic bases."""
_REDUCTION = 8
_DILATIONS = (1, 2, 4)
_LIGHTS = 11
"""Lights of the closed form (``spectra.lights("fitted")``)."""
_FLOOR, _AWAY = 1e-4, 5.0
"""Least light of a hue, and a factor of the way from the fitted lights, which is small beside the other inputs."""


class Splines(IspModel):
    """A closed form that depends on the light, and splines that correct it, place by place.

    It is for one pair of cameras: ``set_base`` takes the pair's closed form, and the checkpoint holds it. The shot's
    parameters are the first camera's; of them, the white balance counts. ``channels`` is the width of the network.
    """

    name = "splines"
    coefficients: Tensor
    neutral: Tensor
    known: Tensor
    directions = (Direction.TRANSFER,)
    geometry = Geometry(
        multiple=2 * _REDUCTION, halo=_REDUCTION * (sum(_DILATIONS) + 2) + isp.DEMOSAIC_REACH, smallest=2 * _REDUCTION
    )

    def __init__(self, direction: Direction = Direction.TRANSFER, channels: int = 24) -> None:
        super().__init__(direction)
        self.channels = int(channels)
        self.enter = nn.Conv2d(3 + 2 + 6, channels, 1)
        self.around = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=reach, dilation=reach, padding_mode="replicate")
            for reach in _DILATIONS
        )
        self.leave = nn.Conv2d(channels, 9 * BASES, 1)
        self._begin()
        identity = torch.zeros(3, 6, 6)
        identity[:, :3, 0] = torch.eye(3)
        self.register_buffer("coefficients", identity)
        self.register_buffer("neutral", torch.zeros(2, 6))
        self.register_buffer("known", torch.zeros(_LIGHTS, 2))

    def config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {"direction": str(self.direction), "channels": self.channels}

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights; the last layer begins at 0, where the network is the closed form."""
        super().initialise(generator)
        self._begin()

    def _begin(self) -> None:
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def set_base(self, coefficients: Tensor, neutral: Tensor, known: Tensor) -> None:
        """Take a closed form: ``spectra.Fit``'s three arrays, of a root-polynomial, with ``_LIGHTS`` lights."""
        for name, value in (("coefficients", coefficients), ("neutral", neutral), ("known", known)):
            own: Tensor = getattr(self, name)
            own.copy_(value.to(own.dtype))

    def peak_bytes(self, height: int, width: int, plan: str = "whole") -> int:
        """Return the size of the splines' coefficients and of the bases at full size, and some pictures."""
        return (9 * BASES + 3 * BASES + 30) * 4 * height * width

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Map a mosaic (N, 1, H, W) to the other camera's, with the same CFA."""
        return isp.mosaic(self.colours(isp.demosaic(x, params.cfa), params), params.cfa)

    def colours(self, camera: Tensor, params: Params) -> Tensor:
        """Map camera RGB (N, 3, H, W), linear, to the other camera's; H and W are multiples of 8."""
        balanced = isp.apply_gains(camera, params.wb_gains)
        terms, logs = self._light(params)
        matrix = torch.einsum("ctl,nl->nct", self.coefficients, terms)
        colours = torch.einsum("nct,nthw->nchw", matrix, _root_terms(balanced))
        away = (logs - terms[:, 1:3]) * _AWAY
        colours = colours + self._correction(balanced, torch.cat([away, terms], 1))
        ratio = torch.exp(torch.einsum("cl,nl->nc", self.neutral, terms) + logs)
        other = torch.stack([ratio[:, 0], torch.ones_like(ratio[:, 0]), ratio[:, 1]], 1)
        return isp.apply_gains(colours, other)

    def _light(self, params: Params) -> tuple[Tensor, Tensor]:
        """Return the terms (N, 6) of the nearest fitted light, and ln(R/G), ln(B/G) (N, 2) of the shot's neutral."""
        own = -torch.log(params.wb_gains[:, [0, 2]])
        start, step = self.known[:-1], self.known.diff(dim=0)
        along = ((own[:, None] - start) * step).sum(-1) / step.square().sum(-1).clamp(min=1e-12)
        feet = start + along.clamp(0, 1)[..., None] * step
        nearest = (feet - own[:, None]).square().sum(-1).argmin(1)
        u, v = feet[torch.arange(len(own), device=own.device), nearest].unbind(1)
        return torch.stack([torch.ones_like(u), u, v, u * u, u * v, v * v], 1), own

    def _correction(self, balanced: Tensor, about: Tensor) -> Tensor:
        """Return the splines' values (N, 3, H, W), in units of the light.

        ``about`` (N, 8) is the light: the way from the nearest fitted light, and that light's terms.
        """
        light = balanced.mean(1, keepdim=True).clamp(min=_FLOOR)
        shares = (balanced / (3 * light)).clamp(0, 1)
        small = F.avg_pool2d(balanced, _REDUCTION)
        dark = small.mean(1, keepdim=True).clamp(min=_FLOOR)
        hues = torch.log((small / dark).clamp(0.05, 20))
        lights = about[:, :, None, None].expand(-1, -1, *small.shape[2:])
        features = F.silu(self.enter(torch.cat([hues, lights], 1)))
        for layer in self.around:
            features = features + F.silu(layer(features))
        weights = self.leave(features)
        weights = F.interpolate(weights, scale_factor=_REDUCTION, mode="bilinear", align_corners=False)
        weights = torch.unflatten(weights, 1, (3, 3 * BASES))
        correction: Tensor = (weights * bases(shares)[:, None]).sum(2) * light
        return correction


def _root_terms(balanced: Tensor) -> Tensor:
    """Return R, G, B, √(RG), √(GB), √(RB) (N, 6, H, W), as ``spectra.root_terms``; roots with a finite slope at 0."""
    above = balanced.clamp(min=0)
    products = torch.stack([above[:, 0] * above[:, 1], above[:, 1] * above[:, 2], above[:, 0] * above[:, 2]], 1)
    return torch.cat([balanced, torch.sqrt(products.clamp(min=1e-10))], 1)


def bases(x: Tensor) -> Tensor:
    """Return the cubic bases (N, C · 8, H, W) of values (N, C, H, W) in [0, 1]; the bases of a value sum to 1."""
    place = x[:, :, None] * INTERVALS + 3 - torch.arange(BASES, device=x.device, dtype=x.dtype)[:, None, None]
    near, middle = (2 - (place - 2).abs()).clamp(min=0), (1 - (place - 2).abs()).clamp(min=0)
    return ((near**3 - 4 * middle**3) / 6).flatten(1, 2)
