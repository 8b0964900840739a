"""GlobalNet over a picture of any size: its coefficients from pooled features, its tone stages strip by strip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paramisp_cli.models.geometry import cut
from paramisp_cli.models.paramisp.kernels import FirstConv, elu, first_conv
from paramisp_cli.models.paramisp.plans import BAND, Schedule
from paramisp_cli.models.regions import DEVICE_STRIP, Fetched, Picture, Region, Whole

if TYPE_CHECKING:
    from paramisp_cli.models.paramisp.network import GlobalNet

Coefficients = list[tuple[Tensor, Tensor]]
"""Weights of ``network.quadratic`` and ``network.gamma`` for each tone stage."""

_TONE_STRIP = 32768
"""Pixels of a tone-stage strip on a CPU. The stages are many small operations on three channels; below 16 thousand
pixels Python's overhead is half of the time."""


def toned(schedule: Schedule, net: GlobalNet, picture: Picture, first: Picture, z: Tensor | None) -> Picture:
    """Apply GlobalNet to a picture: at once, or when rows are fetched if the plan holds no whole image.

    ``first`` is the picture for the over-exposure mask; z is (1, 64) or None.
    """
    stages = coefficients(schedule, net, picture, first, z)
    if not schedule.plan.stored:
        return Whole(tone(schedule, net, stages, picture.rows(0, picture.size[0])))

    def fetch(first_row: int, end: int) -> Tensor:
        return tone(schedule, net, stages, picture.rows(first_row, end)[:, 1:-1, 1:-1])

    return Fetched(picture.size, fetch)


def coefficients(
    schedule: Schedule, net: GlobalNet, picture: Picture, first: Picture, z: Tensor | None
) -> Coefficients:
    """Compute the tone stages' weights for a picture; the first layer's whole output is in memory (1/16 as large)."""
    height, width = (pooled_size(size) for size in picture.size)
    conv = first_conv(net.convs[0], schedule.dtype, stride=2)
    layer = net.stage.weight.new_empty(height, width, 64)
    for begin, end in cut(height, BAND // 4 if schedule.plan.stored else height, 1):
        planes, mask_of = (each.rows(4 * begin, 4 * end + 1) for each in (picture, first))
        schedule.each(schedule.regions(end - begin, width), first_layer, conv, planes, mask_of, layer[begin:end])
    with schedule.workers.together():
        return net.coefficients(net.pool(layer.permute(2, 0, 1)[None], layers=(1, 2)), z)


def tone(schedule: Schedule, net: GlobalNet, stages: Coefficients, pixels: Tensor) -> Tensor:
    """Apply the tone stages: (3, …) → a new tensor of the same shape."""
    out = torch.empty_like(pixels, memory_format=torch.contiguous_format)
    source, target = pixels.reshape(3, -1), out.view(3, -1)
    strip = schedule.strip_pixels or (_TONE_STRIP if pixels.device.type == "cpu" else DEVICE_STRIP)

    def stage(region: Region) -> None:
        columns = slice(region.left, region.right)
        target[:, columns] = net.tone(source[None, :, columns], stages)[0]

    schedule.each([Region(0, 1, *piece, 1) for piece in cut(source.shape[1], strip, 1)], stage)
    return out


def pooled_size(size: int) -> int:
    """Return the number of rows (columns) of the first layer's output for an input of ``size``."""
    return ((size - 3) // 2 + 1) // 2


def first_layer(conv: FirstConv, planes: Tensor, first: Tensor, layer: Tensor, region: Region) -> None:
    """Write convolution, ELU and 2×2 maximum to ``layer`` (h, w, 64); the region counts the layer's pixels."""
    for begin, end in region.strips(4):  # a pixel of the layer covers 16 pixels; stride 2 looks up a quarter of them
        size = 4 * (end - begin) - 1, 4 * region.width - 1  # a pooled row reads five rows; the next begins four below
        out = conv(planes, first, 4 * begin + 1, 4 * region.left + 1, *size)
        out = torch.maximum(out[0::2], out[1::2])
        out = torch.maximum(out[:, 0::2], out[:, 1::2])
        elu(out, layer[begin:end, region.left : region.right])  # after the maximum: ELU is monotonic, and costs less
