"""ParamISP without the gradients: the same numbers, of images of any size, in as much memory as there is.

GlobalNet's coefficients and the attention of every block come from statistics of the whole image, so no part of it can
be run by itself. Stage by stage instead:

    GlobalNet  features and first layer per region; its output (1/16 of the pixels) whole; the tone stages per strip
    LocalNet   head per region, from features that exist only for a strip
    block      A, per region: r = conv2(ELU(conv1 x)), with each channel's sum and maximum
               barrier: the channel scales, which need the whole image
               B, per region: mean and maximum over channels, 7×7 convolution, x += r · scale · sigmoid

What lives between the stages is the plan's to say (``PLANS``). "whole" keeps x and r, 64 channels each, at full size:
512 bytes a pixel in float32, and the least arithmetic. "bands" keeps x alone, of every size, and makes r twice: for the
statistics, and again some rows at a time where it is added to x. "disk" does so too, with x in a file. "half" and
"quarter" keep x and r only from the half-size or the quarter-size level on, 128 and 32 bytes a pixel, and make what
lies above anew, tile by tile, every time that a statistic, the level below or the result needs it: with all scales that
are known so far, and with a margin around the tile as wide as the stages see. Nothing but rounding differs.

On a CPU every thread takes regions of its own, with single-threaded operations on strips that its cache holds: torch's
own way, all threads on one operation, has them wait for each other thousands of times an image, and every operation
on the whole image goes through main memory. Elsewhere the image is one region. ``stages`` has the arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paramisp_cli import isp
from paramisp_cli.models import stages
from paramisp_cli.models.engine import BAND, Engine, Fetched, Picture, Whole, Workers, cut
from paramisp_cli.models.local import LocalRun, Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from paramisp_cli.models.base import MakeScratch, Params, Sink, Source
    from paramisp_cli.models.paramisp import GlobalNet, ParamISP

_GIVEN = 256
"""Rows of the result that are finished at a time."""


def run(model: ParamISP, image: Tensor, z: Tensor | None) -> Tensor:
    """Both sub-networks in the direction's order: image (N, 3, H, W), padded, z (N, 64) or None → (N, 3, H, W)."""
    kind = image.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    with torch.autocast(kind, enabled=False), Workers(image.device) as workers:
        engine = Engine(workers, dtype, model.strip_pixels)
        for i in range(len(image)):  # one by one: a batch needs no more memory than its largest image
            picture: Picture = Whole(stages.planes_of(image[i]))
            zi = None if z is None else z[i : i + 1]
            for (top, bottom, left, right), part in through(model, engine, picture, zi):
                out[i, :, top:bottom, left:right] = part
    return out


def stream(
    model: ParamISP,
    source: Source,
    sink: Sink,
    size: tuple[int, int],
    padded: tuple[int, int],
    params: Params,
    dtype: torch.dtype,
    plan: str,
    scratch: MakeScratch | None = None,
) -> None:
    """The whole model, from rows of ``source`` to rows of ``sink`` (see ``IspModel.stream``).

    ``padded``: the size that the image is padded to, by reflection, to the right and downwards.
    """
    from paramisp_cli.models.paramisp import cano_render, cano_unprocess

    device, render = params.iso.device, model.direction == "render"
    reflected = isp.reflect_index(size[0], 0, padded[0] - size[0])

    def rows(first: int, end: int) -> Tensor:
        """(1, C, rows, W) of the padded image."""
        if end <= size[0]:
            taken = source(first, end)
        else:
            wanted = reflected[first:end]
            low = int(wanted.min())
            taken = source(low, int(wanted.max()) + 1)[:, :, wanted - low]
        return isp.reflect_pad(taken.to(device), 0, padded[1] - size[1], 0, 0)

    def fetch(first: int, end: int) -> Tensor:
        """(3, rows, W): what the sub-networks see."""
        if not render:
            return rows(first, end)[0]
        # The CFA begins at even rows; what demosaicing looks at beyond these rows must be there.
        low, high = max(first - isp.DEMOSAIC_REACH, 0) // 2 * 2, end + isp.DEMOSAIC_REACH + 1
        image = cano_render(rows(low, min(high // 2 * 2, padded[0])), params, model.demosaic_border)
        return image[0, :, first - low : end - low]

    def give(top: int, image: Tensor) -> None:
        """(3, rows, W) as the model's output, without the padding."""
        for begin in range(top, min(top + image.shape[1], size[0]), _GIVEN):
            part = image[None, :, begin - top : min(begin + _GIVEN, size[0]) - top, : size[1]]
            sink(begin, (part if render else cano_unprocess(part, params)).float())

    z = model.paramnet(params) if model.paramnet is not None else None
    with Workers(device) as workers:
        engine = Engine(workers, dtype, model.strip_pixels, plan, scratch)
        picture: Picture = Fetched(padded, fetch)
        if not engine.in_rows:
            planes = params.iso.new_empty(3, padded[0] + 2, padded[1] + 2)
            for first, end in cut(padded[0], BAND, 4):
                planes[:, first + 1 : end + 1, 1:-1] = fetch(first, end)
            stages.ring_of_planes(planes)
            picture = Whole(planes)
        band = torch.empty(0)
        for (top, bottom, left, right), part in through(model, engine, picture, z):
            if right - left == padded[1]:
                give(top, part)
                continue
            if left == 0:
                band = part.new_empty(3, bottom - top, padded[1])
            band[:, :, left:right] = part
            if right == padded[1]:
                give(top, band)


def through(model: ParamISP, engine: Engine, first: Picture, z: Tensor | None) -> Iterator[Part]:
    """Both sub-networks over a picture, tile by tile, row by row: ((top, bottom, left, right), (3, …))."""
    tone, local, picture = model.globalnet, model.localnet, first
    if model.direction == "unprocess":
        if tone is not None:
            picture = _toned(engine, tone, engine.coefficients(tone, first, first, z), first)
        if local is not None:
            yield from LocalRun(engine, local, picture, first, z).run()
            return
    else:
        if local is not None:
            height, width = first.size
            planes: Tensor | None = None
            for (top, bottom, left, right), part in LocalRun(engine, local, first, first, z).run():
                if planes is None:
                    planes = part.new_empty(3, height + 2, width + 2)
                planes[:, top + 1 : bottom + 1, left + 1 : right + 1] = part
            assert planes is not None
            stages.ring_of_planes(planes)
            picture = Whole(planes)
        if tone is not None:
            picture = _toned(engine, tone, engine.coefficients(tone, picture, first, z), picture)
    height, width = first.size
    for top, bottom in cut(height, BAND if engine.in_rows else height, 4):
        yield (top, bottom, 0, width), picture.window(top, bottom, 0, width)[:, 1:-1, 1:-1]


def _toned(engine: Engine, net: GlobalNet, coefficients: list[tuple[Tensor, Tensor]], picture: Picture) -> Picture:
    """The picture through the tone stages: at once, or row by row where the plan is not to keep it."""
    if not engine.in_rows:
        height, width = picture.size
        return Whole(engine.tone(net, coefficients, picture.window(0, height, 0, width)))

    def fetch(first: int, end: int) -> Tensor:
        return engine.tone(net, coefficients, picture.window(first, end, 0, picture.size[1])[:, 1:-1, 1:-1])

    return Fetched(picture.size, fetch)
