"""CycleISP (Zamir et al., CVPR 2020): sRGB → RAW. 3.14 M parameters, 3102 GMAC a megapixel.

Every block needs the means of its features over the whole picture, so a picture runs block by block: each block passes
over all rows twice, once for the means and once to add its result. Rendering is left out: it needs an sRGB picture of
the same shot as a guide (``network.GuidedRender``), and ``IspModel`` gets the mosaic alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paramisp_cli import isp
from paramisp_cli.directions import Direction
from paramisp_cli.models.base import BANDS, DISK, HOST, WHOLE, Geometry, IspModel, MakeStore, Params
from paramisp_cli.models.cycleisp import streaming
from paramisp_cli.models.cycleisp.network import CHANNELS, RgbToRaw
from paramisp_cli.models.regions import Progress, Sink, Source

_DARKEST = 1e-3
"""Least light under the logarithm of the loss."""


class CycleISP(IspModel):
    """See the module's docstring; ``lens_shading``: see ``IspModel``.

    A mosaic takes the colours of any CFA from the network's picture, because the network does not know the CFA.
    """

    name = "cycleisp"
    directions = (Direction.UNPROCESS,)
    geometry = Geometry(pooled=("means of the features of each block",))
    macs = 3.1e6

    def __init__(self, direction: Direction, lens_shading: Sequence[Sequence[float]] | None = None) -> None:
        super().__init__(direction)
        self.lens_shading = lens_shading
        self.net = RgbToRaw()

    def config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return super().config() | self.shading_config()

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Run the model; see ``IspModel``."""
        return isp.mosaic(self.net(x), params.cfa)

    def own_loss(self, x: Tensor, wanted: Tensor, params: Params, restored: Tensor | None = None) -> Tensor:
        """Return the mean absolute error of light and of its logarithm.

        The authors published no training; this is the loss as their paper states it.
        """
        y = self(x, params)
        dark, light = (side.clamp(min=_DARKEST).log() for side in (y, wanted))
        return (y - wanted).abs().mean() + (dark - light).abs().mean()

    # --- inference ----------------------------------------------------------------------------------------------------

    def plans(self, device: torch.device) -> tuple[str, ...]:
        """Return the plans: with features before attention in memory, without them, and with all maps in a store."""
        return WHOLE, BANDS, DISK if device.type == "cpu" else HOST

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """Return the size of the maps in memory, and of those of a strip."""
        maps = {WHOLE: 3, BANDS: 2}.get(plan, 0)
        strip = (streaming.rows_of_a_strip(width) + 2 * streaming.REACH) * width
        return 4 * CHANNELS * (maps * height * width + 12 * strip)

    def store_bytes(self, height: int, width: int) -> int:
        """Return the size of two maps."""
        return 2 * 4 * CHANNELS * height * width

    def stream(
        self,
        source: Source,
        sink: Sink,
        size: tuple[int, int],
        params: Params,
        *,
        dtype: torch.dtype = torch.float32,
        plan: str = WHOLE,
        store: MakeStore | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Run block by block, in strips; see ``IspModel.stream``."""

        def mosaicked(top: int, rows: Tensor) -> None:
            sink(top, isp.mosaic(rows, params.cfa))  # strips begin at even rows

        device = params.iso.device
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if plan in (WHOLE, BANDS):
                maps = [streaming.InMemory(size, device) for _ in range(2)]
                streaming.run(self.net, source, mosaicked, size, maps, plan == WHOLE, progress)
                return
            if store is None:
                raise ValueError(f"the memory plan {plan!r} needs a store")
            with store(self.store_bytes(*size)) as opened:
                stored = [streaming.InStore(size, device, opened) for _ in range(2)]
                streaming.run(self.net, source, mosaicked, size, stored, False, progress)
