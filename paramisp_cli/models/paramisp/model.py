"""ParamISP for callers: the plain network, with inference that fits the memory at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from paramisp_cli.models.base import WHOLE
from paramisp_cli.models.paramisp import plans, streaming
from paramisp_cli.models.paramisp.network import PlainParamISP

if TYPE_CHECKING:
    from torch import Tensor

    from paramisp_cli.models.base import MakeStore, Params
    from paramisp_cli.models.regions import Progress, Sink, Source


class ParamISP(PlainParamISP):
    """ParamISP: ``PlainParamISP`` in training, ``streaming`` without gradients and in ``eval`` mode; equal results.

    ``strip_pixels`` is the number of pixels that inference works on at a time (None: chosen for the device); it changes
    speed and memory, not the result.
    """

    strip_pixels: int | None = None

    def subnetworks(self, image: Tensor, z: Tensor | None) -> Tensor:
        """Run both sub-networks: plainly for training, else by ``streaming`` (equal to 2e-5)."""
        if torch.is_grad_enabled() or self.training:
            return super().subnetworks(image, z)
        return streaming.run(self, image, z, self.strip_pixels)

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """Return the memory [bytes] of ``stream`` in float32; the plain, differentiable network needs far more."""
        return plans.peak_bytes(self.geometry.padded(height), self.geometry.padded(width), plan)

    def store_bytes(self, height: int, width: int) -> int:
        """Return the size [bytes] of the feature maps at all three levels."""
        return plans.store_bytes(self.geometry.padded(height), self.geometry.padded(width))

    def plans(self, device: torch.device) -> tuple[str, ...]:
        """Return the plans whole, bands and disk; on a GPU the plan host replaces disk (see ``plans.names``)."""
        return plans.names(device) if self.localnet is not None else (WHOLE,)

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
        """Run in one of ``plans``; see ``IspModel.stream``."""
        padded = self.geometry.padded(size[0]), self.geometry.padded(size[1])
        schedule = plans.Schedule(
            params.iso.device, dtype, self.strip_pixels, plan, store, progress, padded[0] * padded[1]
        )
        streaming.stream(self, source, sink, size, padded, params, schedule)
