"""Pixel operations of an image signal processor, on tensors of any device; all differentiable.

Mosaics are (N, 1, H, W) with even H and W; colour images (N, 3, H, W). A CFA is named by its top-left 2×2, row-major.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from paramisp_cli.mosaic import channel_of, packed_demosaic_kernel

DEMOSAIC_REACH = 2
"""Reach [px] of demosaicing: a result depends on sites up to this far away."""


@lru_cache(maxsize=32)
def _packed_demosaic_kernel(cfa: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return ``mosaic.packed_demosaic_kernel`` on a device."""
    kernel = torch.from_numpy(packed_demosaic_kernel(cfa))
    # The kernel is cached: a tensor made in inference mode could never be used in training.
    with torch.inference_mode(False):
        return kernel.to(device, dtype, copy=True)


def reflect_index(size: int, before: int, after: int, device: torch.device | str = "cpu") -> Tensor:
    """Return indices that extend [0, size) by reflection about its first and last sample (−k ↔ k), by any amount.

    Reflection about a sample preserves the CFA phase, also when a tiny image is reflected many times.
    """
    period = max(2 * (size - 1), 1)
    index = torch.arange(-before, size + after, device=device) % period
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)


def reflect_pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Extend the last two dimensions by reflection; unlike ``F.pad``, also by more than the image's size."""
    height, width = x.shape[-2:]
    if max(left, right) < width and max(top, bottom) < height:
        return F.pad(x, (left, right, top, bottom), mode="reflect") if left or right or top or bottom else x
    x = x.index_select(-2, reflect_index(height, top, bottom, x.device))
    return x.index_select(-1, reflect_index(width, left, right, x.device))


def demosaic(mosaic: Tensor, cfa: str) -> Tensor:
    """Demosaic (N, 1, H, W) → (N, 3, H, W) by Malvar, He and Cutler (2004); a reflected border preserves the phase."""
    r = DEMOSAIC_REACH
    return demosaic_interior(reflect_pad(mosaic, r, r, r, r), cfa)


def demosaic_interior(mosaic: Tensor, cfa: str) -> Tensor:
    """Demosaic as ``demosaic``, with the caller's border of two pixels: (N, 1, H + 4, W + 4) → (N, 3, H, W).

    ``cfa`` begins at the input's corner; the result's corner has the same phase.
    """
    packed = _unshuffle(mosaic)
    with torch.autocast(packed.device.type, enabled=False):  # only networks may run at lower precision
        return _shuffle(F.conv2d(packed, _packed_demosaic_kernel(cfa, packed.device, packed.dtype)))


@lru_cache(maxsize=32)
def _bilinear_kernel(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return (3, 1, 3, 3): the means of the neighbouring sites of red, green and blue, on planes with zeros between."""
    color, green = [[1, 2, 1], [2, 4, 2], [1, 2, 1]], [[0, 1, 0], [1, 4, 1], [0, 1, 0]]
    with torch.inference_mode(False):  # as above
        return torch.tensor([color, green, color], dtype=dtype, device=device)[:, None] / 4


def demosaic_bilinear(mosaic: Tensor, cfa: str) -> Tensor:
    """Demosaic (N, 1, H, W) → (N, 3, H, W) by the mean of the nearest sites of each colour, with a reflected border."""
    padded = reflect_pad(mosaic, 1, 1, 1, 1)
    planes = padded.new_zeros(padded.shape[0], 3, *padded.shape[2:])
    for row in (0, 1):
        for column in (0, 1):  # the border of one pixel moves the CFA by one row and one column
            sites = planes[:, channel_of(cfa, row + 1, column + 1), row::2, column::2]
            sites.copy_(padded[:, 0, row::2, column::2])
    with torch.autocast(planes.device.type, enabled=False):
        return F.conv2d(planes, _bilinear_kernel(planes.device, planes.dtype), groups=3)


def _in_pairs(x: Tensor) -> bool:
    """Tell whether two neighbours in a row can be viewed as one complex number: ten times faster than single values."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
    return plain and x.is_contiguous() and x.storage_offset() % 2 == 0


def _unshuffle(mosaic: Tensor) -> Tensor:
    """Return ``F.pixel_unshuffle(mosaic, 2)`` of (N, 1, H, W)."""
    if not _in_pairs(mosaic):
        return F.pixel_unshuffle(mosaic, 2)
    pairs = torch.unflatten(mosaic.view(torch.complex64)[:, 0], 1, (-1, 2))  # (N, H/2, 2, W/2)
    return torch.stack([plane for row in pairs.unbind(2) for plane in (row.real, row.imag)], 1)


def _shuffle(packed: Tensor) -> Tensor:
    """Return ``F.pixel_shuffle(packed, 2)`` of (N, 4·C, H, W)."""
    if not _in_pairs(packed):
        return F.pixel_shuffle(packed, 2)
    count, _, height, width = packed.shape
    phases = packed.view(count, -1, 2, 2, height, width)
    out = packed.new_empty(count, phases.shape[1], 2 * height, 2 * width)
    pairs = torch.unflatten(out.view(torch.complex64), 2, (height, 2))
    for row in (0, 1):
        torch.complex(phases[:, :, row, 0], phases[:, :, row, 1], out=pairs[:, :, :, row])
    return out


def mosaic(rgb: Tensor, cfa: str) -> Tensor:
    """Keep at each site the colour that its filter passes: (N, 3, H, W) → (N, 1, H, W)."""
    out = rgb.new_empty(rgb.shape[0], 1, *rgb.shape[2:])
    for row in (0, 1):
        for column in (0, 1):
            out[:, 0, row::2, column::2] = rgb[:, channel_of(cfa, row, column), row::2, column::2]
    return out


def apply_matrix(rgb: Tensor, matrix: Tensor) -> Tensor:
    """Multiply pixels (N, 3, H, W), as columns, by matrices (N, 3, 3)."""
    with torch.autocast(rgb.device.type, enabled=False):
        return torch.baddbmm(rgb.new_zeros(()), matrix.to(rgb.dtype), rgb.flatten(2), beta=0).view_as(rgb)


def apply_gains(rgb: Tensor, gains: Tensor) -> Tensor:
    """Multiply pixels (N, 3, H, W) by a gain per channel (N, 3)."""
    return rgb * gains[:, :, None, None]


def balanced_srgb(camera: Tensor, gains: Tensor, matrix: Tensor) -> Tensor:
    """Map camera RGB (N, 3, H, W) to linear, white-balanced sRGB, not clipped; gains (N, 3), matrices (N, 3, 3)."""
    return apply_matrix(apply_gains(camera, gains), matrix)


def srgb_encode(linear: Tensor) -> Tensor:
    """Encode linear light in [0, 1] by the sRGB transfer function (IEC 61966-2-1); negatives are encoded linearly."""
    powers = _power(linear.clamp(min=0.0031308), 1 / 2.4).mul_(1.055).sub_(0.055)
    return torch.where(linear <= 0.0031308, linear * 12.92, powers)


def srgb_decode(encoded: Tensor) -> Tensor:
    """Decode the sRGB transfer function to linear light; negatives are decoded linearly."""
    powers = _power(encoded.clamp(min=0.04045).add_(0.055).div_(1.055), 2.4)
    return torch.where(encoded <= 0.04045, encoded / 12.92, powers)


def _power(base: Tensor, exponent: float) -> Tensor:
    """Return base ** exponent for a positive base, which is overwritten; binary logarithms halve the time."""
    return base**exponent if base.requires_grad else base.log2_().mul_(exponent).exp2_()


def smoothstep(x: Tensor) -> Tensor:
    """Return 3x² − 2x³ on [0, 1]: the tone curve of Brooks et al. (CVPR 2019)."""
    return x * x * (3 - 2 * x)


def inverse_smoothstep(y: Tensor) -> Tensor:
    """Return the x in [0, 1] with 3x² − 2x³ = y, for y in [0, 1]."""
    return 0.5 - torch.sin(torch.asin((1 - 2 * y).clamp(-1, 1)) / 3)


def _level_map(black_level: Tensor, height: int, width: int) -> Tensor:
    """Repeat (2, 2) black levels to (1, 1, H, W), or return (1, 1, 1, 1) if they are equal."""
    if bool((black_level == black_level[0, 0]).all()):
        return black_level[:1, :1].view(1, 1, 1, 1)
    rows = black_level.repeat(1, (width + 1) // 2)[:, :width]
    return rows.repeat((height + 1) // 2, 1)[:height].view(1, 1, height, width)


def normalise(raw: Tensor, black_level: Tensor, white_level: float) -> Tensor:
    """Scale raw units (N, 1, H, W) to linear, black 0, white 1, not clipped; ``black_level`` (2, 2) by position."""
    black = _level_map(black_level, *raw.shape[-2:])
    return (raw - black) / (white_level - black)


def quantise(linear: Tensor, black_level: Tensor, white_level: float) -> Tensor:
    """Invert ``normalise``, round half to even and clip to [0, white_level]; float values."""
    black = _level_map(black_level, *linear.shape[-2:])
    return (linear * (white_level - black) + black).round_().clamp_(0, white_level)


def shading_gain(
    coefficients: Sequence[Sequence[float]],
    cfa: str,
    span: tuple[int, int],
    frame: tuple[int, int, int, int],
    width: int,
) -> Tensor:
    """Return the factors that undo the lens's fall-off of light in a mosaic's rows: (1, 1, rows, width), float32.

    coefficients  (R, G, B) × (k1, k2, k3): 1 + k1·ρ + k2·ρ² + k3·ρ³ is the fraction of light that arrives; ρ is the
                  squared distance from the picture's centre, 1 at its corners
    span          first row and end row of the result, in a mosaic ``width`` px wide with the CFA ``cfa``
    frame         (top, left, height, width): position of the mosaic's corner in the whole picture, and its size
    """
    top, left, high, wide = frame
    y = torch.arange(span[0], span[1], dtype=torch.float32)[:, None] + (top + 0.5 - high / 2)
    x = torch.arange(width, dtype=torch.float32) + (left + 0.5 - wide / 2)
    rho = (y.square() + x.square()) / (high * high / 4 + wide * wide / 4)
    gain = torch.empty_like(rho)
    for row in (0, 1):
        for column in (0, 1):
            k1, k2, k3 = coefficients[channel_of(cfa, span[0] + row, column)]
            r = rho[row::2, column::2]
            gain[row::2, column::2] = 1 / (1 + r * (k1 + r * (k2 + r * k3)))
    return gain[None, None]
