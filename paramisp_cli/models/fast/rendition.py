"""The closed-form rendition in PyTorch: white-balanced camera RGB ↔ sRGB, pixel by pixel.

``paramisp_cli.rendition`` fits it and explains its numbers. Here the same stages run on tensors, with per-channel gains
that the network may adjust, and with a table of how far the network may correct a colour.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.models.fast.spec import GRID, TABLE
from paramisp_cli.rendition import form, prior
from paramisp_cli.rendition.fit import Fitted

_SURE = {Direction.UNPROCESS: 0.01, Direction.RENDER: 0.02}
"""Standard deviation of the fit at which the network's correction is halved."""


class Rendition(nn.Module):
    """Rendition of one direction: (N, 3, H, W) → (N, 3, H, W).

    vector   (form.SIZE,) numbers of ``rendition.form.Rendition``; the prior's mean until ``take``
    trusted  (9, 9, 9) by encoded B, G and R of the input: share of its correction that the network may apply
    """

    vector: Tensor
    trusted: Tensor

    def __init__(self, direction: Direction) -> None:
        super().__init__()
        self.direction = direction
        self.inverse = direction.output == Kind.RAW
        self.register_buffer("vector", torch.tensor(prior.shipped(direction).mean, dtype=torch.float32))
        self.register_buffer("trusted", torch.ones(GRID, GRID, GRID))
        self._made: tuple[object, ...] = ()
        self._tables: tuple[Tensor, ...] = ()

    def take(self, fitted: Fitted) -> None:
        """Take the numbers of a fit, and its uncertainty as trust."""
        self.vector.copy_(torch.tensor(fitted.rendition.vector))
        steps = np.linspace(0, 1, GRID)
        blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
        encoded = np.stack([red, green, blue], -1).reshape(-1, 3)
        spread = fitted.spread(encoded if self.inverse else encoded**2).max(-1)
        trusted = 1 / (1 + (spread / _SURE[self.direction]) ** 2)
        self.trusted.copy_(torch.as_tensor(trusted.reshape(GRID, GRID, GRID)))

    def forward(self, x: Tensor, cam_to_srgb: Tensor, adjust: Tensor, white: Tensor | None = None) -> Tensor:
        """Map sRGB to white-balanced camera RGB (≥ 0), or back (in [0, 1]).

        cam_to_srgb (N, 3, 3) · adjust (N, 3): log gains of linear sRGB, added to the rendition's own · white (N, 3):
        least camera RGB of sRGB white; None: 1, where green clips
        """
        mixing, curves, chroma, gain = self._ready(x.device)
        light_gain = (adjust.exp() * gain)[:, :, None, None]
        if self.inverse:
            encoded = x.clamp(0, 1)
            light = isp.srgb_decode(_curved(curves, _turned(chroma, encoded).clamp(min=0))) / light_gain
            to_camera = torch.linalg.inv(cam_to_srgb) @ mixing
            camera = isp.apply_matrix(light, to_camera).clamp(min=0)
            top = isp.srgb_decode(_curved(curves, x.new_ones(1, 3, 1, 1))) / light_gain
            least = torch.ones_like(adjust) if white is None else white
            whitest = torch.maximum(isp.apply_matrix(top, to_camera), least[:, :, None, None])
            near = ((encoded.amin(1, keepdim=True) - form.NEAR_WHITE) / (1 - form.NEAR_WHITE)).clamp(0, 1).square()
            return camera + near * (whitest - camera).clamp(min=0)
        light = isp.apply_matrix(x.clamp(0, 1), mixing @ cam_to_srgb) * light_gain
        encoded = _curved(curves, isp.srgb_encode(light.clamp(min=0))).clamp(max=1)
        return _turned(chroma, encoded).clamp(0, 1)

    def trust(self, small: Tensor) -> Tensor:
        """Return the share of its correction that the network may apply: (N, 3, h, w) input colours → (N, 1, h, w)."""
        encoded = small.clamp(0, 1) if self.inverse else small.clamp(0, 1).sqrt()
        place = encoded.permute(0, 2, 3, 1)[:, None] * 2 - 1  # (N, 1, h, w, 3): red is the last dimension of the table
        table = self.trusted[None, None].expand(len(small), -1, -1, -1, -1)
        return F.grid_sample(table, place, align_corners=True, padding_mode="border")[:, :, 0]

    def _ready(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return (mixing, curves, chroma, gain), made again when the vector has changed."""
        version = 0 if self.vector.is_inference() else self.vector._version
        now = (self.vector.data_ptr(), version, device)
        if now != self._made:
            made = form.Rendition(self.direction, np.eye(3), self.vector.detach().cpu().double().numpy())
            curves = form.lifted_curves(made, np.linspace(0, form.TOP, TABLE + 1))
            with torch.inference_mode(False):
                self._tables = tuple(
                    torch.tensor(values, dtype=torch.float32, device=device)
                    for values in (made.correction, curves, made.chroma, made.gain)
                )
            self._made = now
        return self._tables


def _curved(curves: Tensor, encoded: Tensor) -> Tensor:
    """Look up one curve a channel at encoded values ≥ 0; beyond the table the curves are straight."""
    place = encoded * (TABLE / form.TOP)
    index = place.detach().clamp(max=TABLE - 1).int()
    out = torch.empty_like(place)
    for channel in range(3):
        low = curves[channel].take(index[:, channel].long())
        step = curves[channel].diff().take(index[:, channel].long())
        out[:, channel] = low + (place[:, channel] - index[:, channel]) * step
    return out


def _turned(chroma: Tensor, encoded: Tensor) -> Tensor:
    """Add the chroma polynomial, which is 0 for greys."""
    red, green, blue = encoded.unbind(1)
    p, q = red - green, blue - green
    m = green + 0.25 * (p + q)
    p, q = p.clamp(-form.VIVID, form.VIVID), q.clamp(-form.VIVID, form.VIVID)
    pm, qm = p * m, q * m
    terms = torch.stack([p, q, pm, qm, p * p, p * q, q * q, pm * m, qm * m], 1)
    with torch.autocast(encoded.device.type, enabled=False):
        return encoded + torch.matmul(chroma, terms.flatten(2)).view_as(encoded)
