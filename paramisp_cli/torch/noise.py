"""Camera noise for batches of RAW."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli.errors import ConfigError
from paramisp_cli.torch.layouts import CHANNELS, pack, planes, unpack
from paramisp_cli.torch.shots import Shots, matching, untraced

_BLOCK = 1 << 17
"""Poisson numbers that a thread draws at a time."""


class Noisy(NamedTuple):
    """A RAW with noise, and the variance of its noise, both of the clean RAW's shape."""

    noisy: Tensor
    variance: Tensor


class AddNoise(nn.Module):
    """Add a camera's noise to a clean RAW, mosaic or packed, in [0, 1].

    shot       "poisson": whole electrons; "gaussian": the normal distribution of the same variance, three times as fast
    read       whether to add read noise
    row        noise common to each row of the mosaic, in units of the read noise's standard deviation
    quantise   whether to round to the camera's raw units
    clip       "raw": between the raw values 0 and white, so that noise falls below black, as in RAW files; "black":
               between black and white; "none"
    subtract   whether to leave out the noise that is in the picture already: a share of the camera's variance in each
               channel, measured in smooth blocks

    The variance that ``forward`` returns is that of all noise in the result before clipping, the picture's included.
    Gradients pass to the clean RAW as if the noise were a constant.
    """

    def __init__(
        self,
        *,
        shot: str = "poisson",
        read: bool = True,
        row: float = 0.0,
        quantise: bool = True,
        clip: str = "raw",
        subtract: bool = False,
    ) -> None:
        super().__init__()
        for name, value, values in (("shot", shot, ("poisson", "gaussian")), ("clip", clip, ("raw", "black", "none"))):
            if value not in values:
                raise ConfigError(f"{name} must be one of {', '.join(values)}, got {value!r}")
        if not (math.isfinite(row) and row >= 0):
            raise ConfigError(f"row must be 0 or more, got {row}")
        self.shot, self.read, self.row = shot, read, row
        self.quantise, self.clip, self.subtract = quantise, clip, subtract

    def forward(self, raw: Tensor, shots: Shots, generator: torch.Generator | None = None) -> Noisy:
        """Return the noisy RAW and the variance. Raises ConfigError for other shapes and types."""
        shots = matching(raw, shots)
        if raw.shape[1] not in CHANNELS.values() or not raw.is_floating_point():
            raise ConfigError(f"a RAW must be (N, 1, H, W) or (N, 4, H/2, W/2) of floats, got {tuple(raw.shape)}")
        with torch.no_grad():
            noise, variance, low, high = self._noise(raw.detach().float(), shots, generator)
        noisy = raw + noise
        return Noisy(noisy if self.clip == "none" else torch.maximum(torch.minimum(noisy, high), low), variance)

    def _noise(
        self, raw: Tensor, shots: Shots, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (noise, variance, least value, greatest value)."""
        black, span = (each[:, None, None, None].to(raw) for each in shots.levels())
        scale, offset = (self._sites(shots.noise[:, :, each], raw, shots.cfa) for each in (0, 1))
        light = raw.clamp(min=0)
        offset = offset if self.read else torch.zeros_like(offset)
        share = self._left(raw, shots, scale, offset) if self.subtract else None
        own = 1.0 if share is None else (1 - share).clamp(min=0)
        variance = scale * light + offset
        if self.shot == "poisson":
            noise = (scale * _poisson(light / scale, generator) - light) * own**0.5
            noise += (offset * own).sqrt() * self._normal(raw.shape, raw, generator)
        else:
            noise = (variance * own).sqrt() * self._normal(raw.shape, raw, generator)
        if self.row:
            strength = self.row**2 * shots.noise[:, 1, 1]
            rows = self._normal((raw.shape[0], 1, raw.shape[2] * (2 if raw.shape[1] == 4 else 1), 1), raw, generator)
            rows = rows * strength.sqrt()[:, None, None, None]
            if raw.shape[1] == 4:
                sites = planes(shots.cfa)
                rows = torch.cat([rows[:, :, site // 2 :: 2] for site in sites], 1)
            noise = noise + rows
            variance = variance + strength[:, None, None, None]
        if self.quantise:
            noise = ((raw + noise) * span + black).round().sub(black).div(span) - raw
            variance = variance + 1 / (12 * span.square())
        if share is not None:
            variance = torch.maximum(variance, (scale * light + offset) * share)
        return noise, variance, -black / span if self.clip == "raw" else torch.zeros_like(span), torch.ones_like(span)

    @staticmethod
    def _normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.randn(tuple(shape), generator=generator, device=like.device, dtype=like.dtype)

    @staticmethod
    def _sites(values: Tensor, raw: Tensor, cfa: str) -> Tensor:
        """Spread values (N, 3) of R, G, B over a RAW: (N, 4, 1, 1), or (N, 1, H, W) for a mosaic."""
        if raw.shape[1] == 4:
            return values[:, [0, 1, 1, 2], None, None].to(raw)
        sites = values[:, ["RGB".index(letter) for letter in cfa]].to(raw).view(-1, 1, 2, 2)
        return sites.repeat(1, 1, raw.shape[2] // 2, raw.shape[3] // 2)

    @staticmethod
    def _left(raw: Tensor, shots: Shots, scale: Tensor, offset: Tensor) -> Tensor:
        """Measure the share of the camera's variance that each plane of the clean RAW has in its smooth blocks.

        As in ``flat_noise``: diagonal differences in blocks of 8×8, of which the lower quartile counts.
        """
        mosaic = raw.shape[1] == 1
        packed = pack(raw, shots.cfa) if mosaic else raw
        scale, offset = (pack(each, shots.cfa)[..., :1, :1] if mosaic else each for each in (scale, offset))
        rows, columns = packed.shape[2] // 8 * 8, packed.shape[3] // 8 * 8
        if not rows or not columns:
            return torch.zeros_like(raw[:, :, :1, :1])
        inside = packed[..., :rows, :columns]
        rough = inside[..., ::2, ::2] - inside[..., 1::2, ::2] - inside[..., ::2, 1::2] + inside[..., 1::2, 1::2]
        found = F.avg_pool2d(rough.square() / 4, 4) / (scale * F.avg_pool2d(inside, 8).clamp(min=0) + offset + 1e-12)
        share = torch.quantile(found.flatten(2), 0.25, dim=2)[..., None, None] / 0.745
        return unpack(share, shots.cfa).repeat(1, 1, *(size // 2 for size in raw.shape[2:])) if mosaic else share


@untraced
def _poisson(rates: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw Poisson numbers. On a CPU each block has a seed of its own: the numbers do not depend on the threads."""
    if rates.device.type != "cpu" or rates.numel() <= _BLOCK:
        return torch.poisson(rates, generator=generator)
    blocks = torch.split(rates.reshape(-1), _BLOCK)
    seeds = torch.randint(2**62, (len(blocks),), generator=generator).tolist()

    def draw(block: Tensor, seed: int) -> Tensor:
        return torch.poisson(block, generator=torch.Generator().manual_seed(seed))

    threads = min(torch.get_num_threads(), len(blocks))
    if threads == 1:
        return torch.cat(list(map(draw, blocks, seeds))).view_as(rates)
    with ThreadPoolExecutor(threads) as pool:  # PyTorch draws with one thread, and without Python's lock
        return torch.cat(list(pool.map(draw, blocks, seeds))).view_as(rates)
