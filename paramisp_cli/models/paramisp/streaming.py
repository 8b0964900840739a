"""ParamISP without gradients: the numbers of the plain network, for images of any size, in as much memory as there is.

GlobalNet's coefficients and the attention of every block come from statistics of the whole image, so no piece of it can
be run by itself. The network runs stage by stage instead: GlobalNet's features and first layer per region, its tone
stages per strip, LocalNet as ``localnet`` says. ``plans`` says which results stay between the stages; only rounding
differs between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from paramisp_cli import isp
from paramisp_cli.models.paramisp import globalnet, localnet
from paramisp_cli.models.paramisp.network import cano_render, cano_unprocess
from paramisp_cli.models.paramisp.plans import BAND, Schedule
from paramisp_cli.models.regions import Fetched, Picture, Whole, cut, reflecting, renew_ring, with_ring
from paramisp_cli.types import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from paramisp_cli.models.base import Params
    from paramisp_cli.models.paramisp.localnet import Rows
    from paramisp_cli.models.paramisp.network import PlainParamISP
    from paramisp_cli.models.regions import Sink, Source

_GIVEN = 256
"""Rows of the result that go to the sink at a time."""


def run(model: PlainParamISP, image: Tensor, z: Tensor | None, strip_pixels: int | None) -> Tensor:
    """Run both sub-networks: image (N, 3, H, W), padded, z (N, 64) or None → (N, 3, H, W)."""
    kind = image.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    with torch.autocast(kind, enabled=False), Schedule(image.device, dtype, strip_pixels) as schedule:
        for i in range(len(image)):  # one by one: a batch needs no more memory than its largest image
            picture = Whole(with_ring(image[i]))
            for top, rows in _subnetworks(model, schedule, picture, None if z is None else z[i : i + 1]):
                out[i, :, top : top + rows.shape[1]] = rows
    return out


def stream(
    model: PlainParamISP,
    source: Source,
    sink: Sink,
    size: tuple[int, int],
    padded: tuple[int, int],
    params: Params,
    schedule: Schedule,
) -> None:
    """Run the whole model, from rows of ``source`` to rows of ``sink`` (see ``IspModel.stream``).

    ``padded``: the size to which the image is padded, by reflection, to the right and downwards.
    """
    device, render = params.iso.device, model.direction.input == Kind.RAW
    given = reflecting(lambda first, end: source(first, end).to(device), size, padded)

    def fetch(first: int, end: int) -> Tensor:
        """Return rows as the sub-networks see them: (3, rows, W)."""
        if not render:
            return given(first, end)[0]
        # The CFA begins at even rows; rows that demosaicing needs beyond these must be there.
        low, high = max(first - isp.DEMOSAIC_REACH, 0) // 2 * 2, end + isp.DEMOSAIC_REACH + 1
        image = cano_render(given(low, min(high // 2 * 2, padded[0])), params, model.demosaic_border)
        return image[0, :, first - low : end - low]

    def give(top: int, image: Tensor) -> None:
        """Send (3, rows, W) to the sink as the model's output, without the padding."""
        for begin in range(top, min(top + image.shape[1], size[0]), _GIVEN):
            rows = image[None, :, begin - top : min(begin + _GIVEN, size[0]) - top, : size[1]]
            sink(begin, (rows if render else cano_unprocess(rows, params)).float())

    z = model.paramnet(params) if model.paramnet is not None else None
    with schedule:
        picture: Picture = Fetched(padded, fetch)
        if not schedule.plan.stored:
            planes = params.iso.new_empty(3, padded[0] + 2, padded[1] + 2)
            for first, end in cut(padded[0], BAND, 4):
                planes[:, first + 1 : end + 1, 1:-1] = fetch(first, end)
            renew_ring(planes)
            picture = Whole(planes)
        for top, rows in _subnetworks(model, schedule, picture, z):
            give(top, rows)


def _subnetworks(model: PlainParamISP, schedule: Schedule, first: Picture, z: Tensor | None) -> Iterator[Rows]:
    """Yield both sub-networks' result, top to bottom."""
    tone, local, picture = model.globalnet, model.localnet, first
    if model.direction.input == Kind.SRGB:
        if tone is not None:
            picture = globalnet.toned(schedule, tone, picture, first, z)
        if local is not None:
            yield from localnet.run(schedule, local, picture, first, z)
            return
    else:
        if local is not None:
            picture = _collected(localnet.run(schedule, local, first, first, z), first.size)
        if tone is not None:
            picture = globalnet.toned(schedule, tone, picture, first, z)
    height = first.size[0]
    for top, bottom in cut(height, BAND if schedule.plan.stored else height, 4):
        yield top, picture.rows(top, bottom)[:, 1:-1, 1:-1]


def _collected(parts: Iterator[Rows], size: tuple[int, int]) -> Picture:
    """Collect rows to a picture in memory."""
    planes: Tensor | None = None
    for top, rows in parts:
        if planes is None:
            planes = rows.new_empty(3, size[0] + 2, size[1] + 2)
        planes[:, top + 1 : top + rows.shape[1] + 1, 1:-1] = rows
    assert planes is not None
    renew_ring(planes)
    return Whole(planes)
