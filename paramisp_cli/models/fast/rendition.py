"""The closed-form rendition in PyTorch: white-balanced camera RGB ↔ sRGB, pixel by pixel, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.types import Direction, Kind

_TABLE = 1025
"""Points of a curve's table."""


class Rendition(nn.Module):
    """Matrix, monotone curves and chroma terms of one direction: (N, 3, H, W) → (N, 3, H, W).

    mixing  (3, 3), times the camera's matrix: rows sum to 1
    curves  (3, table) values at encoded 0 to 1
    chroma  (3, 7) weights of the chroma terms
    """

    mixing: Tensor
    curves: Tensor
    chroma: Tensor

    def __init__(self, direction: Direction) -> None:
        super().__init__()
        self.inverse = direction.output == Kind.RAW
        self.register_buffer("mixing", torch.eye(3))
        self.register_buffer("curves", torch.linspace(0, 1, _TABLE).repeat(3, 1))
        self.register_buffer("chroma", torch.zeros(3, 7))

    def forward(self, x: Tensor, cam_to_srgb: Tensor) -> Tensor:
        """Map sRGB to white-balanced linear light, or back; ``cam_to_srgb`` (N, 3, 3)."""
        if self.inverse:
            light = isp.srgb_decode(self._toned(x + self._chroma_of(x)))
            return isp.apply_matrix(light, torch.linalg.inv(cam_to_srgb) @ self.mixing)
        linear = isp.apply_matrix(x.clamp(0, 1), self.mixing @ cam_to_srgb)
        encoded = self._toned(isp.srgb_encode(linear))
        return encoded + self._chroma_of(encoded)

    def trust(self, x: Tensor) -> Tensor:
        """Return how far the network may correct each value, 0 to 1."""
        return torch.ones_like(x)

    def _toned(self, encoded: Tensor) -> Tensor:
        """Look the curves up, linearly between and beyond their points."""
        place = encoded * (_TABLE - 1)
        index = place.detach().clamp(0, _TABLE - 2).long()
        channels = torch.arange(3, device=encoded.device)[:, None, None]
        low = self.curves[channels, index]
        return low + (place - index) * (self.curves[channels, index + 1] - low)

    def _chroma_of(self, e: Tensor) -> Tensor:
        """Return what the chroma terms add; nothing to greys."""
        red, green, blue = e.unbind(1)
        d1, d2, m = red - green, blue - green, (red + 2 * green + blue) / 4
        terms = torch.stack([d1, d2, d1 * m, d2 * m, d1 * d1, d1 * d2, d2 * d2], 1)
        return torch.einsum("ck,nkhw->nchw", self.chroma, terms)
