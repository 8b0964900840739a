"""CameraNet: render a RAW in two stages, each a U-Net with a target of its own.

    mosaic → white balance → Restore-Net → linear sRGB → sRGB curve → Enhance-Net → sRGB

Liang, Cai, Cao, Zhang, "CameraNet: A Two-Stage Framework for Effective Camera ISP Learning" (IEEE TIP 30, 2021).
Restore-Net demosaics, denoises and maps the camera's colours; Enhance-Net changes tones and style. The weights are one
camera's: the optical parameters do not enter. Here the sRGB curve stands between the stages, where the paper's program
has a power of 1/2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from paramisp_cli import isp
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import BANDS, WHOLE, Geometry, IspModel, MakeStore, Params
from paramisp_cli.models.cameranet.unet import UNet, reach
from paramisp_cli.models.geometry import round_up
from paramisp_cli.models.regions import Progress, Sink, Source

MULTIPLE = 32
"""Sides of the network's input [px]: two pixels a packed sample, and four halvings."""
_DILATIONS = {"restore": (1, 1, 1, 1, 1), "enhance": (1, 2, 2, 4, 8)}
_BAND = 1024
"""Rows of a band, without the rows around it."""
_FLOATS = 170
"""Numbers a mosaic pixel that the larger stage holds at the width 32, with those of one convolution."""
_MACS = 134.5e3
"""Multiply-accumulates a pixel at the width 32."""
PARTS = ("restore", "enhance", "all")
_DARKEST = 1e-3
"""Light added under the logarithm of the first stage's loss."""
BALANCES = ("given", "learned")


class CameraNet(IspModel):
    """See the module's docstring.

    width         channels of level 1: 32 in the paper, 16 and 8 for computers without a GPU
    balance       "given": the shot's gains balance the mosaic; "learned": the network does it, as in the paper
    restoration   weight of the first stage's loss beside the second's when both train together
    lens_shading  see ``IspModel``
    """

    name = "cameranet"
    directions = (Direction.RENDER,)
    stages = ("restored",)
    geometry = Geometry(
        multiple=MULTIPLE, halo=2 * sum(reach(d)[1] for d in _DILATIONS.values()), smallest=MULTIPLE,
        pooled=("mean of level 5, in both stages",),
    )  # fmt: skip

    def __init__(
        self,
        direction: Direction,
        width: int = 16,
        balance: str = "given",
        restoration: float = 0.1,
        lens_shading: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__(direction)
        if not 1 <= width <= 64:
            raise ValueError(f"width must be in 1 to 64, got {width}")
        if not 0 <= restoration <= 1:
            raise ValueError(f"restoration must be in [0, 1], got {restoration}")
        if balance not in BALANCES:
            raise ValueError(f"balance must be one of {', '.join(BALANCES)}, got {balance!r}")
        self.width, self.balance, self.restoration, self.lens_shading = width, balance, restoration, lens_shading
        self.part = "all"
        self.macs = _MACS * (width / 32) ** 2
        self.restore = UNet(4, 12, width, _DILATIONS["restore"], residual=False)
        self.enhance = UNet(12, 12, width, _DILATIONS["enhance"], residual=True)

    def stopping_at(self, stage: str) -> Self:
        """Return the model without its second stage; see ``IspModel``."""
        stopping = super().stopping_at(stage)
        stopping.macs = self.macs / 2
        return stopping

    def config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        own = {
            "direction": str(self.direction), "width": self.width, "balance": self.balance,
            "restoration": self.restoration,
        }  # fmt: skip
        return own | self.shading_config()

    def plans(self, device: torch.device) -> tuple[str, ...]:
        """Return the memory plans: the whole picture, or bands of rows in four passes."""
        return (WHOLE, BANDS)

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """Return the size of the maps of one stage, and of the restored picture."""
        rows = height if plan == WHOLE else min(_BAND + 2 * reach(_DILATIONS["enhance"])[1] * 2, height)
        return 4 * width * (int(_FLOATS * max(self.width, 4) / 32 + 12) * rows + 6 * height)

    # --- the two stages -----------------------------------------------------------------------------------------------

    def packed(self, mosaic: Tensor, params: Params) -> Tensor:
        """Return the four planes (N, 4, H/2, W/2) of a mosaic whose CFA begins with red."""
        planes = F.pixel_unshuffle(mosaic, 2)
        if self.balance == "learned":
            return planes
        return planes * params.wb_gains[:, (0, 1, 1, 2)][:, :, None, None]

    def restored(self, mosaic: Tensor, params: Params) -> Tensor:
        """Return the first stage's picture: white-balanced linear sRGB (N, 3, H, W), as large as the mosaic."""
        return self._padded(mosaic, params, lambda x: self._restored(x, params))

    def enhanced(self, restored: Tensor) -> Tensor:
        """Return the second stage's picture for a restored one (N, 3, H, W), H and W multiples of 32."""
        return F.pixel_shuffle(self.enhance(_encoded(restored)), 2)

    def _restored(self, x: Tensor, params: Params) -> Tensor:
        return F.pixel_shuffle(self.restore(self.packed(x, params)), 2)

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Run the whole image, padded by reflection so that its CFA begins with red, and cropped back."""
        return self._padded(x, params, lambda padded: self.compute(padded, params))

    def compute(self, x: Tensor, params: Params, report: Progress | None = None) -> Tensor:
        """Compute the output for an input whose CFA begins with red; see ``IspModel``."""
        restored = self._restored(x, params)
        if self.stop_at == "restored":
            return restored
        if report is not None:
            report(0.5)
        return self.enhanced(restored)

    def _padded(self, x: Tensor, params: Params, run: Callable[[Tensor], Tensor]) -> Tensor:
        height, width = x.shape[-2:]
        top, left, below, right = _margins(height, width, params.cfa)
        return run(isp.reflect_pad(x, left, right, top, below))[..., top : top + height, left : left + width]

    # --- training -----------------------------------------------------------------------------------------------------

    def phases(self) -> tuple[str, ...]:
        """Return the stages that train apart, and "all"."""
        return PARTS

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Choose the stage whose loss ``own_loss`` returns."""
        with super().phase(name):
            self.part = name
            try:
                yield
            finally:
                self.part = "all"

    takes_restored = True

    def own_loss(self, x: Tensor, wanted: Tensor, params: Params, restored: Tensor | None = None) -> Tensor:
        """Return the authors' loss of the stage in training; crops begin with red.

        The first stage's target is ``restored``; without it, a plain rendering of the mosaic: demosaiced, balanced, in
        linear sRGB. The second stage alone gets this target as its input.
        """
        target = restored
        if target is None:
            target = isp.balanced_srgb(isp.demosaic(x, params.cfa), params.wb_gains, params.cam_to_srgb)
        if self.part == "enhance":
            return (self.enhanced(target) - wanted).abs().mean()
        result = self._restored(x, params)
        dark, light = (side.clamp(min=0).add(_DARKEST).log() for side in (result, target))
        restoration = (result - target).abs().mean() + (dark - light).abs().mean()
        if self.part == "restore":
            return restoration
        enhancement = (self.enhanced(result) - wanted).abs().mean()
        return self.restoration * restoration + (1 - self.restoration) * enhancement

    # --- bands --------------------------------------------------------------------------------------------------------

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
        """Run from rows to rows; see ``IspModel``.

        ``BANDS`` takes four passes: the mean of the first stage, the first stage, and the same of the second. The
        restored picture stays in memory. A model that stops at it takes the first two.
        """
        if plan not in (WHOLE, BANDS):
            raise ConfigError(f"{self.name} has no memory plan {plan!r}")
        device, (height, width) = params.iso.device, size
        report = progress or _ignore
        if plan == WHOLE:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                x = source(0, height).to(device)
                sink(0, self._padded(x, params, lambda padded: self.compute(padded, params, report)).float())
            report(1.0)
            return
        top, left, below, right = _margins(height, width, params.cfa)
        rows = isp.reflect_index(height, top, below)
        total, lower = len(rows), dtype != torch.float32

        def mosaic(first: int, last: int) -> Tensor:
            wanted = rows[first:last]
            begin = int(wanted.min())
            strip = source(begin, int(wanted.max()) + 1).to(device).index_select(2, (wanted - begin).to(device))
            return self.packed(isp.reflect_pad(strip, left, right, 0, 0), params)

        def cropped(begin: int, band: Tensor) -> None:
            skipped, place = max(top - begin, 0), max(begin - top, 0)
            inside = band[:, :, skipped : skipped + height - place, left : left + width]
            if inside.shape[2]:
                sink(place, inside)

        with torch.autocast(device.type, dtype, enabled=lower):
            stops = self.stop_at == "restored"
            mean = _mean(self.restore, mosaic, total, "restore")
            restored = torch.empty(1, 3, 0 if stops else total, left + width + right, device=device)
            for begin, first, strip in _bands(mosaic, total, reach(_DILATIONS["restore"])[1]):
                out = F.pixel_shuffle(self.restore(strip, mean), 2).float()[:, :, begin - first :][:, :, :_BAND]
                if stops:
                    cropped(begin, out)
                else:
                    restored[:, :, begin : begin + _BAND] = out
                report((1.0 if stops else 0.5) * min(begin + _BAND, total) / total)
            if stops:
                return

            def picture(first: int, last: int) -> Tensor:
                return _encoded(restored[:, :, first:last])

            mean = _mean(self.enhance, picture, total, "enhance")
            for begin, first, strip in _bands(picture, total, reach(_DILATIONS["enhance"])[1]):
                shown = F.pixel_shuffle(self.enhance(strip, mean), 2).float()[:, :, begin - first :][:, :, :_BAND]
                cropped(begin, shown)
                report(0.5 + 0.5 * min(begin + _BAND, total) / total)


def _ignore(share: float) -> None:
    """Take a share of the work, for a caller that does not ask."""


def _margins(height: int, width: int, cfa: str) -> tuple[int, int, int, int]:
    """Return the padding (top, left, below, right) after which the CFA begins with red and sides fit the network."""
    top, left = divmod(cfa.index("R"), 2)
    below, right = (
        round_up(side + before, MULTIPLE) - side - before for side, before in ((height, top), (width, left))
    )
    return top, left, below, right


def _encoded(restored: Tensor) -> Tensor:
    """Return the second stage's input (N, 12, H/2, W/2): the restored picture, clipped and sRGB-encoded."""
    with torch.autocast(restored.device.type, enabled=False):
        return F.pixel_unshuffle(isp.srgb_encode(restored.float().clamp(0, 1)), 2)


def _bands(read: Source, total: int, around: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (first row of a band, first row of its input, input); ``around`` is in packed samples."""
    halo = round_up(2 * around, MULTIPLE)
    for begin in range(0, total, _BAND):
        first, last = max(begin - halo, 0), min(begin + _BAND + halo, total)
        yield begin, first, read(first, last)


def _mean(net: UNet, read: Source, total: int, stage: str) -> Tensor:
    """Return the mean of ``net.deepest`` over the whole picture, band by band."""
    summed, count = None, 0
    for begin, first, strip in _bands(read, total, reach(_DILATIONS[stage])[0]):
        deep = net.deepest(strip)[:, :, (begin - first) // MULTIPLE :][:, :, : _BAND // MULTIPLE].double()
        part = deep.sum((2, 3))
        summed = part if summed is None else summed + part
        count += deep.shape[2] * deep.shape[3]
    assert summed is not None
    return (summed / count).float()
