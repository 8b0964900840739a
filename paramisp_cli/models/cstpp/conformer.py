"""Conformer: convolutions and a transformer side by side, which inform each other at every stage.

Peng et al., "Conformer: Local Features Coupling Global Representations for Visual Recognition" (ICCV 2021), without its
classifiers. The result is the vector of each patch of 16 × 16 px. Two generators share all layers except batch
normalisation, which has numbers of its own for each of the two (Chai et al., WACV 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 16
"""Side of a patch [px]."""
_MOMENTUM, _SMALL = 0.1, 1e-5
_LN_SMALL = 1e-6


class Domain(NamedTuple):
    """A generator's number, 0 or 1, and whether its statistics of batch normalisation follow the pictures."""

    number: int
    follows: bool = True


class DomainNorm(nn.Module):
    """Batch normalisation with statistics, scale and shift of its own for each of the two generators."""

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(2, channels)), nn.Parameter(torch.zeros(2, channels))
        self.register_buffer("mean", torch.zeros(2, channels))
        self.register_buffer("variance", torch.ones(2, channels))

    def reset_parameters(self) -> None:
        """Forget all statistics; scale 1, shift 0."""
        for ones in (self.weight, self.variance):
            nn.init.ones_(ones)
        for zeros in (self.bias, self.mean):
            nn.init.zeros_(zeros)

    def forward(self, x: Tensor, domain: Domain) -> Tensor:
        """Normalise (N, C, H, W): in training by the batch, else by the generator's statistics."""
        number = domain.number
        return F.batch_norm(
            x, self.mean[number], self.variance[number], self.weight[number], self.bias[number],
            self.training, _MOMENTUM if domain.follows else 0.0, _SMALL,
        )  # fmt: skip


class _Inside(nn.Module):
    """The first two convolutions of a block: 1×1 and 3×3."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        self.enter, self.enter_norm = nn.Conv2d(inputs, inner, 1, bias=False), DomainNorm(inner)
        self.around, self.around_norm = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), DomainNorm(inner)

    def forward(self, x: Tensor, domain: Domain, added: Tensor | None = None) -> Tensor:
        """Return the inner map (N, inner, …), to which ``added`` is added."""
        inner = F.relu(self.enter_norm(self.enter(x), domain))
        inner = self.around_norm(self.around(inner), domain)
        return F.relu(inner if added is None else inner + added)


class ConvBlock(nn.Module):
    """Residual block: 1×1 to a quarter of the channels, 3×3, 1×1."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        inner = outputs // 4
        self.inside = _Inside(inputs, inner, stride)
        self.leave, self.leave_norm = nn.Conv2d(inner, outputs, 1, bias=False), DomainNorm(outputs)
        self.past: nn.Conv2d | None = None
        self.past_norm: DomainNorm | None = None
        if stride > 1 or inputs != outputs:
            self.past, self.past_norm = nn.Conv2d(inputs, outputs, 1, stride, bias=False), DomainNorm(outputs)

    def forward(self, x: Tensor, domain: Domain, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the block's output, and its inner map (N, outputs / 4, …), to which ``added`` is added."""
        inner: Tensor = self.inside(x, domain, added)
        past = x if self.past is None or self.past_norm is None else self.past_norm(self.past(x), domain)
        return F.relu(past + self.leave_norm(self.leave(inner), domain)), inner


class TransformerBlock(nn.Module):
    """x + attention(LN x), then x + MLP(LN x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width, _LN_SMALL), nn.LayerNorm(width, _LN_SMALL)
        self.query_key_value, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, T, width)."""
        n, count, width = tokens.shape
        packed = self.query_key_value(self.before_attention(tokens)).view(n, count, 3, self.heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.project(seen.transpose(1, 2).reshape(n, count, width))
        out: Tensor = tokens + self.narrow(F.gelu(self.widen(self.before_mlp(tokens))))
        return out


class Coupled(nn.Module):
    """A convolution block whose inner map goes to the tokens, a transformer block, and the way back.

    ``ratio`` is the number of the map's pixels along a side of a patch. The last block ends with the tokens: nothing
    reads its map.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, ratio: int, width: int, heads: int, last: bool) -> None:
        super().__init__()
        inner = outputs // 4
        self.ratio = ratio
        self.first = _Inside(inputs, inner, stride) if last else ConvBlock(inputs, outputs, stride)
        self.down, self.down_norm = nn.Conv2d(inner, width, 1), nn.LayerNorm(width, _LN_SMALL)
        self.transformer = TransformerBlock(width, heads)
        self.back = None if last else _Back(outputs, ratio, width)

    def forward(self, x: Tensor, tokens: Tensor, domain: Domain) -> tuple[Tensor, Tensor]:
        """Map a map (N, inputs, H, W) and tokens (N, 1 + patches, width), the class token first."""
        x, inner = (x, self.first(x, domain)) if self.back is None else self.first(x, domain)
        small = F.avg_pool2d(self.down(inner), self.ratio)
        grid = small.shape[2:]
        seen = F.gelu(self.down_norm(small.flatten(2).transpose(1, 2)))
        tokens = self.transformer(torch.cat([tokens[:, :1], tokens[:, 1:] + seen], 1))
        return (x if self.back is None else self.back(x, _as_map(tokens, *grid), domain)), tokens


class _Back(nn.Module):
    """The way from the tokens to the map, inside a second convolution block."""

    def __init__(self, channels: int, ratio: int, width: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.up, self.norm = nn.Conv2d(width, channels // 4, 1), DomainNorm(channels // 4)
        self.block = ConvBlock(channels, channels)

    def forward(self, x: Tensor, tokens: Tensor, domain: Domain) -> Tensor:
        """Map a map (N, channels, H, W) and the patches' tokens (N, width, rows, columns)."""
        told = F.relu(self.norm(self.up(tokens), domain))
        out: Tensor = self.block(x, domain, F.interpolate(told, scale_factor=float(self.ratio), mode="nearest"))[0]
        return out


def _as_map(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Return the patches' tokens as (N, width, rows, columns), without the class token."""
    return torch.unflatten(tokens[:, 1:].transpose(1, 2), 2, (rows, columns))


class Conformer(nn.Module):
    """Packed RAW (N, 4, H, W), sides multiples of 16 → a vector of each patch, (N, width, H/16, W/16).

    stem      channels of the first convolution
    channels  those at 1/4, 1/8 and 1/16 of the size, multiples of 4
    width     numbers of a token, a multiple of ``heads``
    """

    def __init__(self, stem: int, channels: Sequence[int], width: int, heads: int) -> None:
        super().__init__()
        first, second, third = channels
        self.stem, self.stem_norm = nn.Conv2d(4, stem, 7, 2, 3, bias=False), DomainNorm(stem)
        self.enter, self.patches = ConvBlock(stem, first), nn.Conv2d(stem, width, 4, 4)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.transformer = TransformerBlock(width, heads)
        shapes = [(first, first, 1, 4), (first, second, 2, 2), (second, second, 1, 2), (second, third, 2, 1)]
        self.coupled = nn.ModuleList(Coupled(*shape, width, heads, last=False) for shape in shapes)
        self.coupled.append(Coupled(third, third, 1, 1, width, heads, last=True))
        self.norm = nn.LayerNorm(width, _LN_SMALL)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the class token; the layers below have a ``reset_parameters`` of their own."""
        nn.init.normal_(self.class_token, std=0.02)

    def forward(self, x: Tensor, domain: Domain) -> Tensor:
        """Return the patches' vectors."""
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem(x), domain)), 3, 2, 1)
        grid = self.patches(x)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), grid.flatten(2).transpose(1, 2)], 1)
        tokens = self.transformer(tokens)
        x, _ = self.enter(x, domain)
        for block in self.coupled:
            x, tokens = block(x, tokens, domain)
        return _as_map(self.norm(tokens), *grid.shape[2:])
