"""ParamISP: Kim et al., "ParamISP: Learned Forward and Inverse ISPs using Camera Parameters" (CVPR 2024).

One network per direction, 710 973 parameters. This file defines it completely, in plain PyTorch.

    unprocess: sRGB   → GlobalNet → LocalNet → inverse CanoNet → mosaic
    render:    mosaic → CanoNet   → LocalNet → GlobalNet       → sRGB

``ParamNet`` turns the camera parameters of a shot into 64 numbers that steer both sub-networks. Where the paper and the
authors' published weights differ, this file follows the weights, so that they give the results their users know; the
docstrings name each difference. ``model.ParamISP`` adds inference in little memory, with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.models.base import Geometry, IspModel, Params
from paramisp_cli.models.optics import EQUALISATION, equalise
from paramisp_cli.models.paramisp.attention import attended
from paramisp_cli.types import CanonicalParams, OpticalParams

WIDTH = 64
"""Channels of z, of GlobalNet and of LocalNet between its blocks."""
BINS = (4, 8, 16)
"""Bins of the three soft histograms among the content features."""
FEATURES = 3 + 6 + 3 * sum(BINS) + 3
"""96 content features: image, gradient, histograms, over-exposure mask."""
STAGES = 4
"""Tone stages of GlobalNet, each a quadratic and a gamma."""

_Net = TypeVar("_Net", bound=nn.Module)


def _listed(modules: Iterable[_Net]) -> Sequence[_Net]:
    """Make an nn.ModuleList whose element type is known to type checkers."""
    return cast("Sequence[_Net]", nn.ModuleList(modules))


def overexposure(image: Tensor) -> Tensor:
    """Return the over-exposure mask of (N, 3, H, W): 0 up to 0.95, then rising by 1 per 0.05, not bounded above."""
    return (image - 0.95).clamp(min=0) / 0.05


def gradient(image: Tensor) -> Tensor:
    """Return the gradient of (N, 3, H, W) as (N, 6, H, W).

    Per channel d/dx (right), then d/dy (down); Sobel / 8, replicated border.
    """
    dx = image.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    kernel = torch.stack([dx, dx.T]).repeat(3, 1, 1)[:, None]  # (6, 1, 3, 3)
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)


def soft_histogram(image: Tensor, bins: int) -> Tensor:
    """Return soft histograms of (N, 3, H, W) as (N, 3·bins, H, W).

    Per channel, bin i = relu(1 − |x − i/(bins−1)|·(bins−1)).
    """
    i = torch.arange(bins, dtype=image.dtype, device=image.device)[:, None, None]
    return F.relu(1 - (image[:, :, None] * (bins - 1) - i).abs()).flatten(1, 2)


def features(image: Tensor, mask: Tensor) -> Tensor:
    """Compute the content features (paper, section 3.2): image, mask (N, 3, H, W) → (N, 96, H, W).

    ``image`` is the input of the sub-network. ``mask`` is the over-exposure mask of the first sub-network's input:
    the published weights compute it once.
    """
    return torch.cat([image, gradient(image), *(soft_histogram(image, b) for b in BINS), mask], dim=1)


def quadratic(x: Tensor, weight: Tensor) -> Tensor:
    """Return x + Wᵀ·(rr, rg, rb, r, gg, gb, g, bb, b, 1): pixels x (N, 3, P), weight W (N, 10, 3) → (N, 3, P)."""
    r, g, b = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    q = torch.cat([r * x, r, g * x[:, 1:], g, b * b, b, torch.ones_like(r)], dim=1)  # (N, 10, P)
    return x + weight.transpose(1, 2) @ q


def gamma(y: Tensor, weight: Tensor) -> Tensor:
    """Apply a power curve per channel with f(0) = 0, f(1) = 1: pixels (N, 3, P), weight (N, 3, 3) → (N, 3, P).

    The rows of ``weight`` give the exponent exp(w0), the offset |w1| and the scale exp(w2) before the power.
    """

    def power(v: Tensor) -> Tensor:
        return v.sign() * (v.abs() + 1e-12) ** exponent

    log_exponent, offset, log_scale = weight[:, :, :, None].unbind(1)  # (N, 3, 1) each
    exponent, offset, scale = log_exponent.exp(), offset.abs(), log_scale.exp()
    low = power(offset)
    return (power(scale * y + offset) - low) / (power(scale + offset) - low)


class ParamNet(nn.Module):
    """Network from camera parameters to the vector z (N, 64) that steers LocalNet and GlobalNet (paper, section 3.1).

    ``optical`` names the optical parameters that enter. ``equalised=False`` feeds each as a bare number (the paper's
    table 1: training then diverges).
    """

    def __init__(self, optical: Sequence[str], equalised: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.equalised, self.dropout = equalised, dropout
        self.color = nn.Linear(24, WIDTH)
        self.optical = nn.ModuleDict({name: nn.Linear(15 if equalised else 1, WIDTH) for name in optical})
        self.mlp = nn.Sequential(
            nn.ELU(), nn.Linear(WIDTH, WIDTH), nn.ELU(), nn.Linear(WIDTH, WIDTH), nn.ELU(), nn.Linear(WIDTH, WIDTH)
        )

    def forward(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        """Return z (N, 64). In training each equalised vector is zeroed with probability ``dropout``, per sample."""
        gains, matrix = params.wb_gains, params.cam_to_srgb
        color = torch.cat([gains, 1 / gains, matrix.flatten(1), torch.linalg.inv(matrix).flatten(1)], dim=1)
        z = self.color(color)
        for name, embed in self.optical.items():
            value = getattr(params, name)
            vector = equalise(name, value) if self.equalised else value[:, None]
            if self.training and self.dropout > 0:
                device = generator.device if generator is not None else value.device
                draw = torch.rand(len(value), 1, generator=generator, device=device)
                vector = vector * (draw >= self.dropout).to(vector)
            z = z + embed(vector)
        return cast("Tensor", self.mlp(z))


class Block(nn.Module):
    """Residual block with channel and spatial attention (CBAM, Woo et al. 2018); x (N, 64, H, W) → the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, 32, 3, padding=1, padding_mode="replicate")
        self.conv2 = nn.Conv2d(32, WIDTH, 3, padding=1, padding_mode="replicate")
        self.channel1 = nn.Conv2d(WIDTH, 32, 1)
        self.channel2 = nn.Conv2d(32, WIDTH, 1)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, padding_mode="replicate")

    def channel_scale(self, mean: Tensor, peak: Tensor) -> Tensor:
        """Return the factor per channel, in (0, 1), from mean and maximum over the image, (N, 64, 1, 1) each."""
        mean, peak = (self.channel2(F.elu(self.channel1(v))) for v in (mean, peak))
        return torch.sigmoid(mean + peak)

    def forward(self, x: Tensor) -> Tensor:
        """Add the weighted residual. Its weights depend on the whole image, so a tile alone gives another result."""
        r = self.conv2(F.elu(self.conv1(x)))
        if torch.is_grad_enabled():
            small = (*self.channel1.parameters(), *self.channel2.parameters(), *self.spatial.parameters())
            return attended(x, r, self._scales, self._places, small)
        return self.attend(x, r)

    def attend(self, x: Tensor, r: Tensor) -> Tensor:
        """Return x plus the residual r, weighted by channel and by place; ``attention.attended`` is the fast form."""
        r = r * self.channel_scale(r.mean((2, 3), keepdim=True), r.amax((2, 3), keepdim=True))
        where = torch.cat([r.mean(1, keepdim=True), r.amax(1, keepdim=True)], dim=1)
        return x + r * self._places(where)

    def _scales(self, mean: Tensor, peak: Tensor) -> Tensor:
        return self.channel_scale(mean[..., None, None], peak[..., None, None])[..., 0, 0]

    def _places(self, where: Tensor) -> Tensor:
        return torch.sigmoid(self.spatial(where))


class LocalNet(nn.Module):
    """U-Net of ten blocks that adds a residual to the image (paper, section 3.2); H and W multiples of 4."""

    def __init__(self, conditioned: bool = True) -> None:
        super().__init__()
        self.head = nn.Conv2d(FEATURES, WIDTH, 3, padding=1, padding_mode="replicate")
        self.condition = nn.Linear(WIDTH, WIDTH) if conditioned else None
        self.blocks = _listed(Block() for _ in range(10))  # two at each of the five levels, in order of use
        self.down = _listed(nn.Conv2d(WIDTH, WIDTH, 2, stride=2) for _ in range(2))
        self.up = _listed(nn.ConvTranspose2d(WIDTH, WIDTH, 2, stride=2) for _ in range(2))
        self.tail = nn.Conv2d(WIDTH, 3, 3, padding=1, padding_mode="replicate")

    def forward(self, image: Tensor, mask: Tensor, z: Tensor | None) -> Tensor:
        """Return image plus residual: image, mask (N, 3, H, W), z (N, 64) or None → (N, 3, H, W)."""
        b = self.blocks
        x = self.head(features(image, mask))
        if self.condition is not None and z is not None:
            x = x + self.condition(z)[:, :, None, None]
        skip0 = b[1](b[0](x))  # (N, 64, H, W)
        skip1 = b[3](b[2](self.down[0](skip0)))  # (N, 64, H/2, W/2)
        x = b[5](b[4](self.down[1](skip1)))  # (N, 64, H/4, W/4)
        x = b[7](b[6](self.up[0](x) + skip1))
        x = b[9](b[8](self.up[1](x) + skip0))
        return image + cast("Tensor", self.tail(x))


class GlobalNet(nn.Module):
    """Four stages of tone mapping whose coefficients depend on the whole image (paper, section 3.2)."""

    def __init__(self, conditioned: bool = True) -> None:
        super().__init__()
        self.convs = _listed(nn.Conv2d(c, WIDTH, 3, stride=2) for c in (FEATURES, WIDTH, WIDTH))
        self.condition = nn.Linear(WIDTH, WIDTH) if conditioned else None
        self.stage = nn.Linear(STAGES, WIDTH)
        self.hidden = _listed(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.last = _listed(nn.Linear(WIDTH, 39) for _ in range(STAGES))

    def pool(self, x: Tensor, layers: Sequence[int] = (0, 1, 2)) -> Tensor:
        """Apply convolution, ELU and 2×2 maximum, once per layer: (N, 96, H, W) → (N, 64, ≈H/64, ≈W/64)."""
        for i in layers:
            x = F.max_pool2d(F.elu(self.convs[i](x)), 2)
        return x

    def coefficients(self, pooled: Tensor, z: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """Return each stage's weights of ``quadratic`` and ``gamma``, from ``pool``'s result and z (N, 64) or None."""
        g = pooled.mean((2, 3))
        if self.condition is not None and z is not None:
            g = g + F.elu(self.condition(z))
        stages = []
        for i, last in enumerate(self.last):
            h = g + F.elu(self.stage.weight[:, i] + self.stage.bias)  # the linear layer of a one-hot i
            for hidden in self.hidden:
                h = F.elu(hidden(h))
            w = F.elu(last(h))
            stages.append((w[:, :30].reshape(-1, 10, 3), w[:, 30:].reshape(-1, 3, 3)))
        return stages

    @staticmethod
    def tone(pixels: Tensor, stages: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Apply every stage to pixels (N, 3, P)."""
        for quadratic_weight, gamma_weight in stages:
            pixels = gamma(quadratic(pixels, quadratic_weight), gamma_weight)
        return pixels

    def forward(self, image: Tensor, mask: Tensor, z: Tensor | None) -> Tensor:
        """Map the tones: image, mask (N, 3, H, W), at least 85×85, z (N, 64) or None → (N, 3, H, W)."""
        stages = self.coefficients(self.pool(features(image, mask)), z)
        return self.tone(image.flatten(2), stages).view_as(image)


def cano_render(mosaic: Tensor, params: Params, border: str = "reflect") -> Tensor:
    """Apply CanoNet, mosaic (N, 1, H, W) → linear sRGB (N, 3, H, W): demosaic, gains, clipping to [0, 1], matrix."""
    r = isp.DEMOSAIC_REACH
    if border == "replicate":
        rgb = isp.demosaic_interior(F.pad(mosaic, (r, r, r, r), mode="replicate"), params.cfa)
    else:
        rgb = isp.demosaic(mosaic, params.cfa)
    return isp.apply_matrix(isp.apply_gains(rgb, params.wb_gains).clamp(0, 1), params.cam_to_srgb)


def cano_unprocess(linear: Tensor, params: Params) -> Tensor:
    """Apply the inverse of CanoNet: linear sRGB (N, 3, H, W) → mosaic (N, 1, H, W), not clipped."""
    camera = isp.apply_matrix(linear, torch.linalg.inv(params.cam_to_srgb))
    return isp.mosaic(isp.apply_gains(camera, 1 / params.wb_gains), params.cfa)


_LAST = ("localnet.tail", "globalnet.last")
_DISPLAY_GAMMA = {Kind.SRGB: math.log(2.2), Kind.RAW: math.log(1 - math.log(2.2))}
"""b with exp(ELU(b)) = 2.2 to take a display's gamma out of sRGB, and 1 / 2.2 to put it in, by kind of input."""


class PlainParamISP(IspModel):
    """The network of the paper's figure. Checkpoints store its arguments; the paper's ablations change them.

    color_matrix_row_sum  rule by which ``Params.cam_to_srgb`` is scaled for these weights (``color.cam_to_srgb``)
    use_paramnet          False: no z at all (table 1, first row; 0.68 M parameters)
    equalise              False: optical values enter as bare numbers (table 1, second row)
    optical_dropout       probability [0, 1) with which training drops an optical parameter (table 1, third row: 0);
                          the published code draws this mask but never applies it: its weights were trained without
    without               optical parameters to leave out (table 2): "iso", "exposure_time", "f_number", "focal_length"
    use_local, use_global False: leave the sub-network out
    demosaic_border       "reflect" preserves the CFA's phase. The published weights were trained with "replicate" and
                          reproduce their results only with it: it makes false colour in the outermost two pixels,
                          which the pooled statistics spread over the whole picture (0.01 at 96×128)
    lens_shading          see ``IspModel``

    The image is padded to multiples of 4 and at least 85 px, and the output is cropped back; an image that needs no
    padding gives exactly the published network's result. Padded pixels count in the statistics that GlobalNet and the
    attention pool: in a photograph two mirrored columns are negligible, but the network gets a tiny image as a tiling
    of its mirror images.
    """

    name = "paramisp"
    geometry = Geometry(
        multiple=4,  # LocalNet halves twice
        smallest=85,  # GlobalNet's three strided convolutions and poolings
        pooled=("features of GlobalNet", "channel statistics of every block"),
    )
    macs = 65e3  # 271e3 in plain arithmetic; the convolutions of its inference take about a quarter

    def __init__(
        self,
        direction: Direction,
        *,
        color_matrix_row_sum: float | None = None,
        use_paramnet: bool = True,
        equalise: bool = True,
        optical_dropout: float = 0.2,
        without: Sequence[str] = (),
        use_local: bool = True,
        use_global: bool = True,
        demosaic_border: str = "reflect",
        lens_shading: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__(direction)
        if lens_shading is not None and [len(row) for row in lens_shading] != [3, 3, 3]:
            raise ValueError("lens_shading must be 3×3: (R, G, B) × (k1, k2, k3)")
        if demosaic_border not in ("reflect", "replicate"):
            raise ValueError(f'demosaic_border must be "reflect" or "replicate", got {demosaic_border!r}')
        if unknown := set(without) - set(EQUALISATION):
            raise ValueError(f"without names {sorted(unknown)}; the optical parameters are {', '.join(EQUALISATION)}")
        if not 0 <= optical_dropout < 1:
            raise ValueError(f"optical_dropout must be in [0, 1), got {optical_dropout}")
        self.color_matrix_row_sum = None if color_matrix_row_sum is None else float(color_matrix_row_sum)
        self.demosaic_border = demosaic_border
        self.lens_shading = lens_shading
        self._config: dict[str, object] = {
            "direction": str(self.direction),
            "color_matrix_row_sum": self.color_matrix_row_sum,
            "use_paramnet": use_paramnet,
            "equalise": equalise,
            "optical_dropout": optical_dropout,
            "without": sorted(without),
            "use_local": use_local,
            "use_global": use_global,
            "demosaic_border": demosaic_border,
        }
        optical = [name for name in EQUALISATION if name not in without]
        self.paramnet = ParamNet(optical, equalise, optical_dropout) if use_paramnet else None
        self.globalnet = GlobalNet(use_paramnet) if use_global else None
        self.localnet = LocalNet(use_paramnet) if use_local else None

    def params_of(self, canonical: CanonicalParams, optical: OpticalParams) -> Params:
        """Make the parameters of one shot by the row sum of these weights."""
        return Params.of(canonical, optical, self.color_matrix_row_sum)

    def facts(self) -> dict[str, str]:
        """Return the row sum for a checkpoint's header."""
        row_sum = self.color_matrix_row_sum
        return {"color_matrix_row_sum": "" if row_sum is None else f"{row_sum:g}"}

    def config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {**self._config, "lens_shading": self.lens_shading}

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Run the network in its direction: sRGB (N, 3, H, W) → mosaic (N, 1, H, W), or back; see ``IspModel``."""
        image = cano_render(x, params, self.demosaic_border) if self.direction.input == Kind.RAW else x
        with torch.autocast(x.device.type, enabled=False):  # full precision: z's few numbers steer the whole picture
            z = self.paramnet(params, self.generator) if self.paramnet is not None else None
        image = self.subnetworks(image, z)
        return cano_unprocess(image.to(x.dtype), params) if self.direction.output == Kind.RAW else image

    def subnetworks(self, image: Tensor, z: Tensor | None) -> Tensor:
        """Run both sub-networks in the direction's order: (N, 3, H, W), padded → the same shape."""
        mask = overexposure(image)
        nets = (self.globalnet, self.localnet)
        for net in nets if self.direction.input == Kind.SRGB else nets[::-1]:
            if net is not None:
                image = net(image, mask, z)
        return image

    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights with which the network applies little more than a display's gamma: training starts fastest."""
        super().initialise(generator)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith(_LAST):  # residual and tone stages
                    parameter.mul_(0.1 if "weight" in name else 0.0)
            if self.globalnet is not None:
                # Numbers 30 to 32 of the first stage's 39 are ELU(b) = log γ for R, G and B.
                self.globalnet.last[0].bias[30:33] = _DISPLAY_GAMMA[self.direction.input]

    def phases(self) -> tuple[str, ...]:
        """Return the phases "all" and, if there is a GlobalNet, "global".

        "global" leaves LocalNet out, at a twentieth of the cost; LocalNet then starts from a picture of the right
        tones.
        """
        return ("all",) if self.globalnet is None else ("all", "global")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Leave LocalNet out in the phase "global"."""
        with super().phase(name):
            local = self.localnet
            if name == "global":
                self.localnet = None
            try:
                yield
            finally:
                self.localnet = local
