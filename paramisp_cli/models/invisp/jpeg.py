"""Simulated JPEG compression, differentiable: DiffJPEG as InvISP was trained with it, and a simulator closer to files.

Both transform a picture (N, 3, H, W) in [0, 1] to YCbCr, reduce the chroma, round the coefficients of the discrete
cosine transform of 8 × 8 blocks to multiples of a table's steps, and go back.

``diffjpeg`` has the peculiarities of its origin: a transposed luma table, steps that are not whole numbers, and a
Fourier series in place of rounding, whose slope is −1 to 19. ``simulate`` rounds exactly and passes gradients straight
through; steps, subsampling and the interpolation of chroma are those of libjpeg.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from paramisp_cli import isp

# ITU-T T.81, Annex K: row by vertical frequency, column by horizontal frequency.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
_TERMS = 9
"""Terms of the Fourier series of ``soft_round``."""


def soft_round(x: Tensor) -> Tensor:
    """Return a smooth approximation of rounding: x less nine terms of the Fourier series of the sawtooth."""
    y = x
    for n in range(1, _TERMS + 1):
        y = y + (-1) ** n / (math.pi * n) * torch.sin(2 * math.pi * n * x)
    return y


def straight_round(x: Tensor) -> Tensor:
    """Round to the nearest whole number; the gradient is that of the identity."""
    return x + (x.round() - x).detach()


def _straight_floor(x: Tensor, first: float, second: float) -> Tensor:
    """Return ⌊x + bias⌋, with two biases in turn for the samples of a row; the gradient is that of the identity."""
    bias = x.new_tensor([first, second]).repeat(-(-x.shape[-1] // 2))[: x.shape[-1]]
    return x + ((x + bias).floor() - x).detach()


@dataclass(frozen=True, slots=True)
class Coding:
    """Choices of a simulated JPEG.

    luma, chroma  steps (8, 8) by vertical and horizontal frequency
    across, down  pixels of luma for one of chroma
    rounded       rounding of the coefficients
    whole         as libjpeg, which interpolates chroma, and whose samples are whole numbers before and behind the
                  transform; otherwise chroma is repeated, and nothing but coefficients is rounded
    """

    luma: Tensor
    chroma: Tensor
    across: int
    down: int
    rounded: Callable[[Tensor], Tensor]
    whole: bool


def published_coding(quality: float, rounded: Callable[[Tensor], Tensor] = soft_round) -> Coding:
    """Return DiffJPEG's coding; quality 100 has steps of 0 and gives no numbers, as there."""
    factor = (200 - 2 * quality) / 100 if quality >= 50 else 50 / quality
    luma, chroma = (torch.tensor(table, dtype=torch.float32) for table in (_LUMA, _CHROMA))
    return Coding(luma.T * factor, chroma * factor, 2, 2, rounded, whole=False)


_SUBSAMPLING = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}


def coding(quality: int, subsampling: str) -> Coding:
    """Return libjpeg's coding for a quality of 1 to 100; subsampling is 4:4:4, 4:2:2 or 4:2:0."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma, chroma = (((torch.tensor(table) * scale + 50) // 100).clamp(1, 255).float() for table in (_LUMA, _CHROMA))
    return Coding(luma, chroma, *_SUBSAMPLING[subsampling], straight_round, whole=True)


def diffjpeg(x: Tensor, quality: float, rounded: Callable[[Tensor], Tensor] = soft_round) -> Tensor:
    """Compress (N, 3, H, W) in [0, 1], H and W multiples of 16, as the published training does."""
    if x.shape[-2] % 16 or x.shape[-1] % 16:
        raise ValueError(f"diffjpeg needs sides that are multiples of 16, got {tuple(x.shape)}")
    return _run(x, published_coding(quality, rounded))


def simulate(x: Tensor, quality: int, subsampling: str = "4:2:2") -> Tensor:
    """Compress (N, 3, H, W) in [0, 1], of any size, as libjpeg does a file of 8 bits; straight-through gradients."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
    codes = straight_round(padded.clamp(0, 1) * 255) / 255
    y = _run(codes, coding(quality, subsampling))[..., :height, :width]
    return straight_round(y * 255) / 255


def coefficients(x: Tensor, how: Coding) -> list[Tensor]:
    """Return the rounded coefficients of Y, Cb and Cr, each (N, blocks, 8, 8) with the blocks row by row."""
    ycc = isp.apply_matrix(x * 255, _matrix(_TO_YCC, x)) + x.new_tensor([0.0, 128, 128])[:, None, None]
    if how.whole:
        ycc = straight_round(ycc)
    small = F.avg_pool2d(ycc[:, 1:], (how.down, how.across))
    if how.whole and how.across * how.down > 1:  # means are rounded down and up in turn
        small = _straight_floor(small, *((0.25, 0.5) if how.down > 1 else (0.0, 0.5)))
    planes = [ycc[:, :1], small[:, :1], small[:, 1:]]
    dct, tables = _dct(x), (how.luma, how.chroma, how.chroma)
    rounded = []
    for plane, table in zip(planes, tables, strict=True):
        columns = F.unfold(plane - 128, 8, stride=8).transpose(1, 2)
        blocks = columns.reshape(len(x), -1, 8, 8)
        rounded.append(how.rounded(dct @ blocks @ dct.T / table.to(x.device)))
    return rounded


def _run(x: Tensor, how: Coding) -> Tensor:
    height, width = x.shape[-2:]
    dct, planes = _dct(x), []
    for number, (rounded, table) in enumerate(
        zip(coefficients(x, how), (how.luma, how.chroma, how.chroma), strict=True)
    ):
        across, down = (how.across, how.down) if number else (1, 1)
        blocks = dct.T @ (rounded * table.to(x.device)) @ dct + 128
        plane = F.fold(blocks.flatten(2).transpose(1, 2), (height // down, width // across), 8, stride=8)
        plane = straight_round(plane).clamp(0, 255) if how.whole else plane
        planes.append(_interpolated(plane, across, down) if how.whole else _repeated(plane, across, down))
    ycc = torch.cat(planes, 1) - x.new_tensor([0.0, 128, 128])[:, None, None]
    return isp.apply_matrix(ycc, _matrix(_TO_RGB, x)).clamp(0, 255) / 255


def _repeated(plane: Tensor, across: int, down: int) -> Tensor:
    """Enlarge a plane (N, 1, H, W) by repetition."""
    return plane.repeat_interleave(across, 3).repeat_interleave(down, 2)


def _interpolated(plane: Tensor, across: int, down: int) -> Tensor:
    """Enlarge a plane (N, 1, H, W): 3/4 of the nearest and 1/4 of the next sample, rounded up and down in turn."""
    for dim, factor in ((2, down), (3, across)):
        if factor > 1:
            count = plane.shape[dim]
            before = torch.cat([plane.narrow(dim, 0, 1), plane.narrow(dim, 0, count - 1)], dim)
            after = torch.cat([plane.narrow(dim, 1, count - 1), plane.narrow(dim, count - 1, 1)], dim)
            pair = torch.stack([(3 * plane + before) / 4, (3 * plane + after) / 4], dim + 1)
            plane = pair.flatten(dim, dim + 1)
    if across * down == 1:
        return plane
    return _straight_floor(plane, *((8 / 16, 7 / 16) if down > 1 else (1 / 4, 2 / 4)))


def _dct(like: Tensor) -> Tensor:
    """Return the orthonormal discrete cosine transform (8, 8): row by frequency, column by position."""
    frequency, position = torch.arange(8.0)[:, None], torch.arange(8.0)
    matrix = 0.5 * torch.cos((2 * position + 1) * frequency * math.pi / 16)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like)


def _matrix(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    return like.new_tensor(rows).expand(len(like), 3, 3)


def _of_any_size(x: Tensor, quality: int) -> Tensor:
    """Run ``diffjpeg`` on a picture of any size, padded by its edges."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
    return diffjpeg(padded, quality)[..., :height, :width]


SIMULATORS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "diffjpeg": _of_any_size,
    **{name: partial(simulate, subsampling=name) for name in _SUBSAMPLING},
}
"""Simulators by name: DiffJPEG, or the better simulator by its subsampling; each takes a picture and a quality."""
