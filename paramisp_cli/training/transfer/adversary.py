"""Discriminators of an unpaired training, and its losses: CycleGAN's (Zhu et al., ICCV 2017), as CSTPP uses them."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CYCLE, IDENTITY = 10.0, 5.0
"""Weights of the cycle and of the identity beside the adversary."""
_SLOPE = 0.2
_OLD = 50
"""Pictures of a pool."""


class Discriminator(nn.Module):
    """Tell pictures of a camera from generated ones, by patches of 70 × 70 px (PatchGAN).

    ``width`` is the number of channels after the first layer.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        channels = [4, width, 2 * width, 4 * width, 8 * width, 1]
        self.layers = nn.ModuleList(
            nn.Conv2d(one, other, 4, 2 if number < 3 else 1, 1)
            for number, (one, other) in enumerate(pairwise(channels))
        )

    def forward(self, packed: Tensor) -> Tensor:
        """Return a number for each patch (N, 1, …), 1 for pictures of the camera; ``packed`` is (N, 4, H, W)."""
        x = F.leaky_relu(self.layers[0](packed), _SLOPE)
        for layer in list(self.layers)[1:-1]:
            x = F.leaky_relu(F.instance_norm(layer(x)), _SLOPE)
        out: Tensor = self.layers[-1](x)
        return out


class Pool:
    """The last generated pictures; the discriminator learns from these and from new ones alike."""

    def __init__(self) -> None:
        self.pictures: list[Tensor] = []

    def exchanged(self, fresh: Tensor, generator: torch.Generator) -> Tensor:
        """Take pictures (N, 4, H, W) → as many; half of them are old ones, once the pool is full."""
        out = []
        for picture in fresh.detach():
            if len(self.pictures) < _OLD:
                self.pictures.append(picture)
                out.append(picture)
            elif torch.rand((), generator=generator) < 0.5:
                number = int(torch.randint(len(self.pictures), (), generator=generator))
                out.append(self.pictures[number])
                self.pictures[number] = picture
            else:
                out.append(picture)
        return torch.stack(out)


def real(verdict: Tensor) -> Tensor:
    """Return the least-squares loss of a verdict that should be 1."""
    return (1 - verdict).square().mean()


def false(verdict: Tensor) -> Tensor:
    """Return the least-squares loss of a verdict that should be 0."""
    return verdict.square().mean()
