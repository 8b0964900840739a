"""Parametric ISP: no weights, any camera with a matrix and a white balance.

A baseline of networks, and the way to run the model on a GPU; pictures on a CPU go through ``rendition.parametric``.
After Brooks et al., "Unprocessing images for learned raw denoising" (CVPR 2019); the UPI row of ParamISP's tables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramisp_cli import isp
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.models.base import WHOLE, Geometry, IspModel, Params
from paramisp_cli.rendition import parametric


class Parametric(IspModel):
    """Tone curve (smoothstep), sRGB transfer function, colour matrix and white-balance gains, all without learning.

    ``digital_gain`` multiplies linear light when rendering and divides it when unprocessing.
    """

    name = "parametric"
    needs_weights = False
    stages = ("restored",)
    geometry = Geometry(halo=isp.DEMOSAIC_REACH)

    def __init__(self, direction: Direction, digital_gain: float = 1.0) -> None:
        super().__init__(direction)
        if not digital_gain > 0:
            raise ValueError(f"digital_gain must be positive, got {digital_gain}")
        self.digital_gain = float(digital_gain)

    def config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {"direction": str(self.direction), "digital_gain": self.digital_gain}

    def tone_curve(self) -> list[tuple[float, float]]:
        """Return smoothstep, which acts on sRGB-encoded values, as a curve of linear light, with finer steps near 0."""
        return [(float(x), float(y)) for x, y in parametric.tone_curve()]

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """Return the size of five colour images."""
        return 5 * 3 * 4 * height * width

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Run the model in its direction: sRGB (N, 3, H, W) → mosaic (N, 1, H, W), or back; see ``IspModel``."""
        return self._unprocess(x, params) if self.direction.input == Kind.SRGB else self._render(x, params)

    def _unprocess(self, srgb: Tensor, params: Params) -> Tensor:
        camera = isp.apply_matrix(self._linear(srgb), torch.linalg.inv(params.cam_to_srgb))
        grey = camera.mean(1, keepdim=True)
        bend = ((grey - parametric.INFLECTION) / (1 - parametric.INFLECTION)).clamp(min=0).square()
        inverse = (1 / params.wb_gains)[:, :, None, None]
        gains = torch.addcmul(inverse, (1 - inverse).clamp(min=0), bend)  # towards 1, never below the inverse gain
        return isp.mosaic((camera * gains).clamp(0, 1), params.cfa)

    def _linear(self, srgb: Tensor) -> Tensor:
        """Return linear light before tone curve and digital gain; an 8-bit picture uses a table of 256 values."""

        def linear(values: Tensor) -> Tensor:
            return isp.srgb_decode(isp.inverse_smoothstep(values.clamp(0, 1))) / self.digital_gain

        if not torch.is_grad_enabled() and srgb.device.type == "cpu" and srgb.numel() > 1 << 12:
            levels = srgb * 255
            codes = levels.round()
            if torch.equal(codes / 255, srgb) and codes.min() >= 0 and codes.max() <= 255:
                table = linear(torch.arange(256, device=srgb.device) / 255)
                return table.index_select(0, codes.int().flatten()).view(srgb.shape)
        return linear(srgb)

    def _render(self, mosaic: Tensor, params: Params) -> Tensor:
        colours = isp.demosaic(mosaic, params.cfa)
        if self.stop_at == "restored":  # clipped where green clips, for any gain
            white = isp.apply_gains(colours, params.wb_gains).clamp_(0, 1)
            return isp.apply_matrix(white, params.cam_to_srgb * self.digital_gain)
        camera = isp.apply_gains(colours, params.wb_gains * self.digital_gain).clamp_(0, 1)
        linear = isp.apply_matrix(camera, params.cam_to_srgb).clamp_(0, 1)
        return isp.smoothstep(isp.srgb_encode(linear).clamp_(0, 1))
