"""ParamISP without gradients: the numbers of the plain network, for images of any size, in the memory at hand.

GlobalNet's coefficients and the attention of every block come from statistics of the whole image, so no tile can be
computed alone. The network runs stage by stage instead: GlobalNet's features and first layer per region, its tone
stages per strip, LocalNet as described in ``localnet``. ``plans`` defines which results stay between the stages; the
plans' results differ only by rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from paramisp_cli import isp
from paramisp_cli.directions import Kind
from paramisp_cli.models.geometry import cut
from paramisp_cli.models.paramisp import globalnet, localnet
from paramisp_cli.models.paramisp.network import cano_render, cano_unprocess
from paramisp_cli.models.paramisp.plans import BAND, Schedule
from paramisp_cli.models.regions import Fetched, Picture, Whole, reflecting, renew_ring, with_ring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from paramisp_cli.models.base import Params
    from paramisp_cli.models.paramisp.localnet import Rows
    from paramisp_cli.models.paramisp.network import PlainParamISP
    from paramisp_cli.models.regions import Sink, Source

_GIVEN = 256
"""Number of rows that the sink receives at a time."""


def run(model: PlainParamISP, image: Tensor, z: Tensor | None, strip_pixels: int | None) -> Tensor:
    """Run both sub-networks: image (N, 3, H, W), padded, z (N, 64) or None → (N, 3, H, W)."""
    kind = image.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    with torch.autocast(kind, enabled=False), Schedule(image.device, dtype, strip_pixels) as schedule:
        for i in range(len(image)):  # one by one: a batch then needs no more memory than one image
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

    ``padded`` is the image's size after padding by reflection, to the right and downwards.
    """
    device, render = params.iso.device, model.direction.input == Kind.RAW
    padded_source = reflecting(lambda first, end: source(first, end).to(device), size, padded)

    def fetch(first: int, end: int) -> Tensor:
        """Return rows of the sub-networks' input: (3, rows, W)."""
        if not render:
            return padded_source(first, end)[0]
        # Begin at an even row, where the CFA begins, and include the rows around these that demosaicing reads.
        low, high = max(first - isp.DEMOSAIC_REACH, 0) // 2 * 2, end + isp.DEMOSAIC_REACH + 1
        image = cano_render(padded_source(low, min(high // 2 * 2, padded[0])), params, model.demosaic_border)
        return image[0, :, first - low : end - low]

    def give(top: int, image: Tensor) -> None:
        """Turn (3, rows, W) into the model's output, without padding, and send it to the sink."""
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


def _collected(result: Iterator[Rows], size: tuple[int, int]) -> Picture:
    """Collect rows into a picture in memory."""
    planes: Tensor | None = None
    for top, rows in result:
        if planes is None:
            planes = rows.new_empty(3, size[0] + 2, size[1] + 2)
        planes[:, top + 1 : top + rows.shape[1] + 1, 1:-1] = rows
    assert planes is not None
    renew_ring(planes)
    return Whole(planes)
