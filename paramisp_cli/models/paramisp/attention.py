"""The attention of a ParamISP block with its gradient written out: training in a third of the passes over memory.

The plain form (``Block.attend``) makes a dozen whole-image temporaries. Autograd stores most of them, and its gradient
of a maximum compares every value with the maximum. Here the gradient goes only to the place of the maximum (the first
of equals), and values that are cheap to compute again are not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor


class _Attended(torch.autograd.Function):
    """x + r·s·a; s: factors per channel from r's means and maxima over the image, a: factors per pixel from r·s."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        r: Tensor,
        channels: Callable[[Tensor, Tensor], Tensor],
        pixels: Callable[[Tensor], Tensor],
        *parameters: Tensor,
    ) -> Tensor:
        n, c, h, w = r.shape
        rows = _rows(r)
        mean, (peak, place) = rows.mean(1), rows.max(1)
        s = channels(mean, peak)  # (N, C)
        scaled = rows * s[:, None]
        top, channel = scaled.max(2)
        where = torch.stack([scaled.mean(2), top], 1).view(n, 2, h, w)
        a = pixels(where)  # (N, 1, H, W)
        ctx.save_for_backward(r, s, a, mean, peak, place, where, channel)
        ctx.channels, ctx.pixels, ctx.parameters = channels, pixels, parameters
        ctx.autocast = _autocast_like_now(r.device.type)
        y = torch.addcmul(_rows(x), scaled, a.view(n, h * w, 1))
        return y.view(n, h, w, c).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        r, s, a, mean, peak, place, where, channel = ctx.saved_tensors
        n, c, h, w = r.shape
        rows, g = _rows(r), _rows(grad)
        # Autograd differentiates the small functions.
        grad_a = (g * rows * s[:, None]).sum(2)
        with torch.enable_grad(), ctx.autocast():
            where = where.detach().requires_grad_()
            again = ctx.pixels(where)
        of_pixels = torch.autograd.grad(again, [where, *ctx.parameters], grad_a.view_as(a), allow_unused=True)
        grad_where = of_pixels[0].view(n, 2, h * w, 1)
        grad_scaled = torch.addcmul(grad_where[:, 0] / c, g, a.view(n, h * w, 1))
        grad_scaled.scatter_add_(2, channel[..., None], grad_where[:, 1])
        grad_s = (grad_scaled * rows).sum(1)
        with torch.enable_grad(), ctx.autocast():
            mean, peak = mean.detach().requires_grad_(), peak.detach().requires_grad_()
            again = ctx.channels(mean, peak)
        of_channels = torch.autograd.grad(again, [mean, peak, *ctx.parameters], grad_s, allow_unused=True)
        grad_rows = torch.addcmul((of_channels[0] / (h * w))[:, None], grad_scaled, s[:, None])
        grad_rows.scatter_add_(1, place[:, None], of_channels[1][:, None])
        of_parameters = (_sum(p, q) for p, q in zip(of_pixels[1:], of_channels[2:], strict=True))
        return grad, grad_rows.view(n, h, w, c).permute(0, 3, 1, 2), None, None, *of_parameters


def _autocast_like_now(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """Return a context with the current mixed precision for the gradient: autograd would run it without."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return partial(torch.autocast, device, dtype, enabled)


def _rows(x: Tensor) -> Tensor:
    """Reshape (N, C, H, W) → (N, H·W, C): a view if the memory format is channels-last."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, h * w, c)


def _sum(p: Tensor | None, q: Tensor | None) -> Tensor | None:
    return q if p is None else p if q is None else p + q


def attended(
    x: Tensor,
    r: Tensor,
    channels: Callable[[Tensor, Tensor], Tensor],
    pixels: Callable[[Tensor], Tensor],
    parameters: tuple[Tensor, ...],
) -> Tensor:
    """Return x + r·s·a for x, r (N, C, H, W), in the memory format channels-last.

    ``channels`` maps means and maxima of r over the image, (N, C) each, to s (N, C). ``pixels`` maps mean and maximum
    of r·s over the channels, (N, 2, H, W), to a (N, 1, H, W). Both are differentiable functions of their arguments and
    of ``parameters``.
    """
    function: Any = _Attended
    return cast("Tensor", function.apply(x, r, channels, pixels, *parameters))
