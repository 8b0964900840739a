"""InvISP (Xing, Qian, Chen, CVPR 2021): one invertible network renders forwards and unprocesses backwards.

    render:    mosaic → bilinear demosaicing → gains of at most 1 → gamma 1/2.2 → eight blocks → sRGB
    unprocess: sRGB → the inverse blocks, in reverse order → gamma 2.2 → inverse gains → mosaic

A block mixes the three channels by an invertible matrix, adds to one channel a function of the two others, and scales
and shifts these by functions of the first one (affine coupling). The functions are dense blocks of five convolutions.
Every convolution pads with zeros at the picture's border. 1.41 M parameters, 1410 GMAC a megapixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.models.base import WHOLE, Geometry, IspModel, Params
from paramisp_cli.models.geometry import spans
from paramisp_cli.models.invisp import jpeg

BLOCKS = 8
_GROWTH = 32
"""Channels that each convolution of a dense block adds."""
_REACH = 5
"""Reach [px] of a dense block: one pixel for each of its convolutions."""
_LARGEST_SCALE = 0.8
"""Bound of the logarithm by which a coupling scales."""
_GAMMA = 2.2
_DARKEST = 1e-12
"""Light below which gamma is flat: its slope at 0 is infinite."""
_PIECE = 192
"""Sides of the pieces of a dense block without gradients: its 130 channels then fit a processor's cache."""


class DenseBlock(nn.Module):
    """Five 3×3 convolutions; each takes the input and the outputs of all convolutions before it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        widths = [_GROWTH] * 4 + [outputs]
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs + _GROWTH * before, width, 3, padding=1) for before, width in enumerate(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W); without gradients in pieces, to the same result."""
        height, width = x.shape[-2:]
        if torch.is_grad_enabled() or max(height, width) <= _PIECE + 2 * _REACH:
            return self._plain(x)
        rows = []
        for down in spans(height, _PIECE, 2, _REACH, 2):
            pieces = []
            for across in spans(width, _PIECE, 2, _REACH, 2):
                # A piece ends where the picture ends, so that zeros are padded there and nowhere else in the result.
                y = self._plain(x[..., down.first : down.last, across.first : across.last])
                inside = slice(across.begin - across.first, across.end - across.first)
                pieces.append(y[..., down.begin - down.first : down.end - down.first, inside])
            rows.append(torch.cat(pieces, 3))
        return torch.cat(rows, 2)

    def _plain(self, x: Tensor) -> Tensor:
        for conv in self.convs[:-1]:
            x = torch.cat([x, F.leaky_relu(conv(x).to(x.dtype), 0.2)], 1)
        y: Tensor = self.convs[-1](x).float()
        return y


class Mix(nn.Module):
    """Invertible matrix (3, 3) as permutation · lower · upper; the entries on the other side of each are ignored.

    Training changes ``lower``, ``upper`` and ``log_s``, the logarithm of the upper matrix's diagonal. The permutation
    and the signs of the diagonal stay as they were drawn.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Parameter(torch.eye(3)), nn.Parameter(torch.zeros(3, 3))
        self.log_s = nn.Parameter(torch.zeros(3))
        self.register_buffer("permutation", torch.eye(3))
        self.register_buffer("sign", torch.ones(3))

    def draw(self, generator: torch.Generator | None) -> None:
        """Begin as a random rotation or reflection."""
        with torch.no_grad():
            orthogonal = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
            permutation, lower, upper = torch.linalg.lu(orthogonal)
            diagonal = upper.diagonal()
            self.permutation.copy_(permutation)
            self.lower.copy_(lower)
            self.upper.copy_(upper.triu(1))
            self.log_s.copy_(diagonal.abs().log())
            self.sign.copy_(diagonal.sign())

    def matrix(self, inverse: bool) -> Tensor:
        """Return the matrix or its inverse, in the parameters' precision."""
        lower = self.lower.tril(-1) + torch.eye(3, dtype=self.lower.dtype, device=self.lower.device)
        upper = self.upper.triu(1) + (self.sign * self.log_s.exp()).diag()
        if not inverse:
            return self.permutation @ lower @ upper
        half = torch.linalg.solve_triangular(lower, self.permutation.T, upper=False, unitriangular=True)
        y: Tensor = torch.linalg.solve_triangular(upper, half, upper=True)
        return y


class Block(nn.Module):
    """Mixing matrix, then an additive and an affine coupling between channel 0 and channels 1 and 2."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = Mix()
        self.first, self.shift, self.scale = DenseBlock(2, 1), DenseBlock(1, 2), DenseBlock(1, 2)

    def forward(self, x: Tensor, inverse: bool) -> Tensor:
        """Map (N, 3, H, W) to the same shape."""
        matrix = self.mix.matrix(inverse).expand(len(x), 3, 3)
        x = x if inverse else isp.apply_matrix(x, matrix)
        a, b = x[:, :1], x[:, 1:]
        if inverse:
            b = (b - self.shift(a)) / self._factor(a)
            return isp.apply_matrix(torch.cat([a - self.first(b), b], 1), matrix)
        a = a + self.first(b)
        return torch.cat([a, b * self._factor(a) + self.shift(a)], 1)

    def _factor(self, a: Tensor) -> Tensor:
        y: Tensor = torch.exp(_LARGEST_SCALE * (2 * torch.sigmoid(self.scale(a)) - 1))
        return y


class Flow(nn.Module):
    """The invertible network: gamma-coded, balanced camera RGB → sRGB; both (N, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.draw(None)

    def draw(self, generator: torch.Generator | None) -> None:
        """Draw weights as the authors do: normal ones after Glorot and Bengio, no bias, random rotations."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight, generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, Mix):
                module.draw(generator)

    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        """Render, or run the exact inverse."""
        for block in reversed(self.blocks) if inverse else self.blocks:
            x = block(x, inverse)
        return x


class Step(NamedTuple):
    """A training step: the rendered picture in [0, 1], the same after the JPEG, the RAW from it, and two losses."""

    rendered: Tensor
    compressed: Tensor
    recovered: Tensor
    rgb_loss: Tensor
    raw_loss: Tensor


def training_step(flow: Flow, raw: Tensor, target: Tensor, compress: Callable[[Tensor], Tensor]) -> Step:
    """Render, compress and unprocess; the losses are mean absolute errors.

    raw       (N, 3, H, W), gamma-coded, balanced, demosaiced: input and target
    target    the camera's sRGB picture; compared with the rendered picture before ``compress``
    compress  a simulated JPEG, differentiable
    """
    rendered = flow(raw).clamp(0, 1)
    compressed = compress(rendered)
    recovered = flow(compressed, inverse=True)
    return Step(rendered, compressed, recovered, (rendered - target).abs().mean(), (recovered - raw).abs().mean())


class InvISP(IspModel):
    """See the module's docstring.

    jpeg          simulated JPEG between rendering and unprocessing in joint training (``jpeg.SIMULATORS``)
    quality       quality of this JPEG, 1 to 100; of diffjpeg 1 to 99
    lens_shading  see ``IspModel``
    """

    name = "invisp"
    serves_both = True
    geometry = Geometry(halo=2 * _REACH * BLOCKS + 2)  # 2: bilinear demosaicing, rounded up to the CFA's period
    macs = 1.41e6

    def __init__(
        self,
        direction: Direction,
        jpeg: str = "4:2:2",
        quality: int = 90,
        lens_shading: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__(direction)
        if jpeg not in SIMULATORS:
            raise ValueError(f"jpeg must be one of {', '.join(SIMULATORS)}, got {jpeg!r}")
        if not 1 <= quality <= 100:
            raise ValueError(f"quality must be in 1 to 100, got {quality}")
        if jpeg == "diffjpeg" and quality == 100:
            raise ValueError("quality 100 has no steps in diffjpeg, and gives no numbers: pass 99 or less")
        self.jpeg, self.quality, self.lens_shading = jpeg, quality, lens_shading
        self.flow = Flow()

    def config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        own = {"direction": str(self.direction), "jpeg": self.jpeg, "quality": self.quality}
        return own | self.shading_config()

    def other_way(self) -> InvISP:
        """Return the network of the other direction, with the same weights."""
        way = next(way for way in self.directions if way != self.direction)
        other = InvISP(way, self.jpeg, self.quality, self.lens_shading)
        other.flow = self.flow
        return other

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the authors' fresh weights, which are not the identity."""
        self.flow.draw(generator)

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """Return the size of some colour images, and of the features of a piece."""
        return 12 * 3 * 4 * height * width + 2 * 4 * (2 + 4 * _GROWTH) * (_PIECE + 2 * _REACH) ** 2

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Run the model in its direction; see ``IspModel``. Recovered light is clipped before white balance is undone.

        A channel whose gain is below 1 may therefore exceed 1.
        """
        if self.direction.input == Kind.RAW:
            y: Tensor = self.flow(encode(x, params))
            return y
        light = self.flow(x, inverse=True).clamp(0, 1) ** _GAMMA
        return isp.mosaic(isp.apply_gains(light, 1 / _gains(params)), params.cfa)

    def own_loss(self, x: Tensor, wanted: Tensor, params: Params, restored: Tensor | None = None) -> Tensor:
        """Return the mean absolute error of the network's own output: sRGB, or gamma-coded RAW."""
        raw, srgb = (x, wanted) if self.direction.input == Kind.RAW else (wanted, x)
        coded = encode(raw, params)
        forwards = self.direction.input == Kind.RAW
        got: Tensor = self.flow(coded) if forwards else self.flow(srgb, inverse=True)
        return (got - (srgb if forwards else coded)).abs().mean()

    def joint_loss(self, other: IspModel, srgb: Tensor, raw: Tensor, params: Params) -> Tensor:
        """Return the loss of ``training_step``, both parts with weight 1."""
        step = training_step(self.flow, encode(raw, params), srgb, lambda x: SIMULATORS[self.jpeg](x, self.quality))
        return step.rgb_loss + step.raw_loss


SIMULATORS = jpeg.SIMULATORS


def encode(mosaic: Tensor, params: Params) -> Tensor:
    """Return the RAW side of the network (N, 3, H, W): demosaiced, balanced by gains of at most 1, gamma-coded."""
    light = isp.apply_gains(isp.demosaic_bilinear(mosaic, params.cfa), _gains(params))
    return light.clamp(min=_DARKEST) ** (1 / _GAMMA)


def _gains(params: Params) -> Tensor:
    return params.wb_gains / params.wb_gains.amax(1, keepdim=True)
