"""Convolutions of ParamISP prepared for inference: the numbers of the plain network in less time.

Images are ``Planes`` (see ``regions``). Feature maps have their channels last, so that a region of rows is a slice:

    Map     (H + 2, W + 2, 64)  x, within a ring that repeats the border: a convolution's input needs no padding
    Inner   (H, W, 64)          r, without a ring
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from paramisp_cli.models.paramisp.network import BINS, FEATURES, overexposure, soft_histogram

if TYPE_CHECKING:
    from torch import nn

    from paramisp_cli.models.paramisp.network import Block


class Conv:
    """A convolution without padding, channels last: rows (h, w, I) → (h', w', O), computed in ``dtype``."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, stride: int = 1) -> None:
        self.weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.to(dtype)
        self.dtype, self.stride = dtype, stride

    def __call__(self, rows: Tensor) -> Tensor:
        """Convolve rows of an image."""
        planes = rows[None].permute(0, 3, 1, 2)
        return self.of(planes if planes.dtype == self.dtype else planes.to(self.dtype))[0].permute(1, 2, 0)

    def of(self, planes: Tensor) -> Tensor:
        """Convolve in torch's shapes: (1, I, h, w), channels-last strides → (1, O, h', w')."""
        return torch.conv2d(planes, self.weight, self.bias, self.stride)


class Conv3:
    """A 3×3 convolution without padding, channels last: (h + 2, w + 2, I) → (h, w, O).

    On CPUs in float32 it computes four rows at a time by Winograd's F(4, 3) along the rows: sums of six rows, six 1×3
    convolutions instead of twelve, and sums of their results. The points are 0, ±1, ±3/2 and infinity: they give twice
    the rounding error of a direct convolution, and less than the usual ±2 (method: Barabasz et al., ACM TOMS 46:4,
    2020).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.direct = Conv(weight, bias, dtype)
        self.dtype, self.outputs = dtype, weight.shape[0]
        self.six: list[Conv] = []
        if weight.device.type == "cpu" and dtype == torch.float32:
            top, middle, bottom = weight.double().unbind(2)
            one, p = 2 * (1 - _POINT**2), 2 * _POINT**2 * (_POINT**2 - 1)
            ends, far = top + bottom, top + _POINT**2 * bottom
            rows = [top / _POINT**2, (ends + middle) / one, (ends - middle) / one]
            rows += [(far + _POINT * middle) / p, (far - _POINT * middle) / p, bottom]
            self.six = [Conv(row[:, :, None], bias if i == 1 else None, dtype) for i, row in enumerate(rows)]

    def __call__(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Convolve into ``out``, or into a new tensor."""
        height, width = rows.shape[0] - 2, rows.shape[1] - 2
        fours = height // 4 * 4 if self.six else 0
        if out is None:
            if not fours:
                return self.direct(rows)
            out = rows.new_empty(height, width, self.outputs)
        if fours:
            self._by_fours(rows, fours, out)
        if fours < height:
            out[fours:] = self.direct(rows[fours:])
        return out

    def _by_fours(self, rows: Tensor, height: int, out: Tensor) -> None:
        """Convolve the first ``height`` rows, a multiple of 4."""
        # Torch's shapes throughout: changing the view for each of the six would double the number of calls.
        planes, made = rows.permute(2, 0, 1)[None], out.permute(2, 0, 1)[None, :, :height]
        d0, d1, d2, d3, d4, d5 = (planes[:, :, i : i + height - 3 : 4] for i in range(6))
        zero, one, minus_one, point, minus_point, infinity = self.six
        # Each sum is convolved before the next is computed in the same memory, so the memory stays in the cache.
        even, odd, v = d4 - d2, d3 - d1, d0 - d2
        m0 = zero.of(torch.add(even, v, alpha=_POINT**2, out=v))
        m3 = point.of(torch.add(even, odd, alpha=_POINT, out=v))
        m4 = minus_point.of(torch.sub(even, odd, alpha=_POINT, out=v))
        m5 = infinity.of(torch.sub(torch.sub(d5, d3, out=v), odd, alpha=_POINT**2, out=v))
        torch.sub(d4, d2, alpha=_POINT**2, out=even)
        torch.sub(d3, d1, alpha=_POINT**2, out=odd)
        m1, m2 = one.of(torch.add(even, odd, out=v)), minus_one.of(torch.sub(even, odd, out=v))
        near, near_odd = m1 + m2, m1.sub_(m2)
        far, far_odd = torch.add(m3, m4, out=m2), m3.sub_(m4)
        torch.add(m0.add_(near), far, out=made[:, :, 0::4])
        torch.add(near_odd, far_odd, alpha=_POINT, out=made[:, :, 1::4])
        torch.add(near, far, alpha=_POINT**2, out=made[:, :, 2::4])
        torch.add(near_odd.add_(far_odd, alpha=_POINT**3), m5, out=made[:, :, 3::4])


_POINT = 1.5
"""Row polynomials are evaluated at plus and minus this point, beside 0, ±1 and infinity."""


def elu(v: Tensor, out: Tensor) -> None:
    """Write ELU of v, max(v, 0) + exp(min(v, 0)) − 1, to ``out``; twice as fast as torch's ELU; overwrites v."""
    v = v.float() if v.dtype in (torch.bfloat16, torch.float16) else v
    low = v.clamp(max=0).mul_(math.log2(math.e)).exp2_()  # exp is three times slower than exp2
    torch.sub(low.add_(v.clamp_(min=0)), 1, out=out)


# --- the first convolution, of the content features -------------------------------------------------------------------


class FirstConv:
    """GlobalNet's or LocalNet's first 3×3 convolution. Its 96 content features never exist for a whole image.

    ``table`` chooses an algorithm for CPUs, with the same numbers. For one tap and one channel, the contribution of
    value and histograms to the 64 outputs is a piecewise linear function of the value. It bends only at multiples of
    1/105 from −1/3 to 4/3. So two weighted rows of a table of its knots give it; only gradients and mask are convolved.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, *, table: bool, stride: int = 1) -> None:
        """Prepare weight (64, 96, 3, 3), in the order of ``network.features``, and bias (64,)."""
        self.stride = stride
        if not table:
            self.table = None
            self.dense = Conv(weight, bias, dtype, stride)
            return
        self.table = _table(weight)  # (27 · _KNOTS, 64)
        steps = torch.arange(27, device=weight.device).view(3, 3, 3, 1) * _KNOTS + torch.arange(2, device=weight.device)
        self.offsets = steps.flatten().int()
        sobel, mask = weight[:, 3:9], weight[:, FEATURES - 3 :]
        self.sobel = Conv(sobel, bias, weight.dtype, stride)
        self.sobel_and_mask = Conv(torch.cat([sobel, mask], 1), bias, weight.dtype, stride)

    def __call__(
        self, planes: Tensor, first: Tensor, top: int, left: int, height: int, width: int, out: Tensor | None = None
    ) -> Tensor:
        """Return (h, w, 64): a result at every ``stride``-th pixel of [top, top + height) × [left, left + width).

        ``planes`` is the image; ``first`` is the image for the over-exposure mask.
        """
        image = planes[:, top : top + height + 2, left : left + width + 2]
        mask = overexposure(first[:, top : top + height + 2, left : left + width + 2])
        sobel = _gradient(planes, top, left, height, width)
        if self.table is None:
            histograms = [soft_histogram(image[None], bins)[0] for bins in BINS]
            made = self.dense(torch.cat([image, sobel, *histograms, mask]).permute(1, 2, 0))
            return made if out is None else out.copy_(made)
        if bool(mask.any()):
            made = self.sobel_and_mask(torch.cat([sobel, mask]).permute(1, 2, 0).contiguous())
        else:
            made = self.sobel(sobel.permute(1, 2, 0).contiguous())
        return torch.add(made, self._looked_up(image).view(made.shape), out=made if out is None else out)

    def _looked_up(self, image: Tensor) -> Tensor:
        """Convolve value and histograms by the table: (3, h + 2, w + 2) → (pixels, 64)."""
        assert self.table is not None
        place = image.permute(1, 2, 0).contiguous().mul_(_GRID).add_(_BELOW)
        low = place.floor().nan_to_num_().clamp_(0, _KNOTS - 2)
        height, width = image.shape[1:]
        above = place.sub_(low)
        share = torch.view_as_real(torch.complex(1 - above, above))  # weights of the knots below and above
        number = low.long().mul_(2**32 + 1).view(torch.int32)  # eight bytes hold the knot's number twice
        h, w = (height - 3) // self.stride + 1, (width - 3) // self.stride + 1
        window = (h, w, 3, 18), (self.stride * 6 * width, self.stride * 6, 6 * width, 1)
        rows, weights = (v.as_strided(*window).reshape(-1, 54) for v in (number, share))
        return F.embedding_bag(rows.add_(self.offsets), self.table, mode="sum", per_sample_weights=weights)


_GRID = 105
"""Knots per unit: the histograms bend at multiples of 1/3, 1/7 and 1/15, so at multiples of 1/105."""
_BELOW = 36
"""Knots below 0: down to the last bend at −1/3, and one more for the straight line beyond it."""
_KNOTS = _BELOW + 140 + 2
"""Knots in total: up to the last bend at 4/3, and one more."""


def _table(weight: Tensor) -> Tensor:
    """Return (27 · _KNOTS, 64): by tap, channel and knot, the contribution of the knot's value and histograms."""
    exact = weight.double()
    value = (torch.arange(_KNOTS, device=weight.device, dtype=torch.float64) - _BELOW) / _GRID
    terms, begin = [torch.einsum("ocyx,k->yxcko", exact[:, :3], value)], 9
    for bins in BINS:
        share = soft_histogram(value.view(1, 1, 1, -1), bins)[0, :, 0]  # (bins, knots)
        of_channels = exact[:, begin : begin + 3 * bins].reshape(-1, 3, bins, 3, 3)
        terms.append(torch.einsum("ocbyx,bk->yxcko", of_channels, share))
        begin += 3 * bins
    return torch.stack(terms).sum(0).reshape(-1, weight.shape[0]).to(weight.dtype)


def _gradient(planes: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Return the gradient, (6, height + 2, width + 2), of a region of the image and a ring of one pixel.

    Outside the image the gradient of the border is repeated.
    """
    whole = planes.shape[1] - 2, planes.shape[2] - 2
    above, below = max(top - 1, 0), min(top + height + 1, whole[0])
    before, behind = max(left - 1, 0), min(left + width + 1, whole[1])
    p = planes[:, above : below + 2, before : behind + 2]
    down = p[:, :-2] + p[:, 2:] + 2 * p[:, 1:-1]
    across = p[..., :-2] + p[..., 2:] + 2 * p[..., 1:-1]
    both = torch.stack([down[..., 2:] - down[..., :-2], across[:, 2:] - across[:, :-2]], 1).flatten(0, 1).div_(8)
    ring = (before - left + 1, left + width + 1 - behind, above - top + 1, top + height + 1 - below)
    return F.pad(both[None], ring, mode="replicate")[0] if any(ring) else both


# --- the convolutions of a block --------------------------------------------------------------------------------------


class BlockConvs:
    """The prepared convolutions of one ``network.Block``."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        first, second = block.conv1, block.conv2
        assert first.bias is not None
        assert second.bias is not None
        weight, bias, bias2 = first.weight, first.bias, second.bias
        # In float32 a folded ELU saves a third of the passes over memory: conv1 gives w = s (v + 1) with s = 1 / ln 2,
        # and s (ELU(v) + 1) = min(s/e · 2^w, max(w, s)). conv2 undoes s and 1, also in the ring, which is a copy.
        weight2 = second.weight
        self.fold: Tensor | None = None
        if dtype == torch.float32:
            s = math.log2(math.e)
            weight, bias = (weight.double() * s).float(), ((bias.double() + 1) * s).float()
            bias2 = (bias2.double() - weight2.double().sum((1, 2, 3))).float()
            weight2 = (weight2.double() / s).float()
            self.fold = weight2.new_full((), s)
        self.first, self.second = Conv3(weight, bias, dtype), Conv3(weight2, bias2, dtype)
        self.spatial = block.spatial
        self.banded: Tensor | None = None
        if block.spatial.weight.device.type == "cpu":
            # One output channel leaves a convolution kernel mostly idle. Instead, seven matrix products, one per row
            # of taps, compute 16 pixels: 2 × 22 pixels times a matrix of the seven taps, shifted by one per pixel.
            banded = block.spatial.weight.new_zeros(7, 2, TOGETHER + 6, TOGETHER)
            for shift in range(TOGETHER):
                banded[:, :, shift : shift + 7, shift] = block.spatial.weight[0].transpose(0, 1)
            self.banded = banded.view(7, -1, TOGETHER)

    def elu(self, v: Tensor, out: Tensor) -> None:
        """Apply the (folded) ELU between the convolutions into ``out``; overwrites v."""
        if self.fold is None:
            elu(v, out)
            return
        torch.exp2(v, out=out).mul_(math.log2(math.e) / math.e)
        torch.clamp(v, self.fold, out, out=out)

    def places(self, where: Tensor, width: int) -> Tensor:
        """Return sigmoid(7×7 convolution): (2, n + 6, 16 k + 6), with 16 k ≥ width → (n, width, 1)."""
        if self.banded is None:
            return torch.sigmoid(F.conv2d(where[None], self.spatial.weight, self.spatial.bias))[0, 0, :, :width, None]
        assert self.spatial.bias is not None
        rows, columns = where.shape[1] - 6, (where.shape[2] - 6) // TOGETHER
        channel, row, _ = where.stride()
        near = where.as_strided(
            (rows + 6, columns, 2, TOGETHER + 6), (row, TOGETHER, channel, 1), where.storage_offset()
        ).reshape((rows + 6) * columns, -1)
        out = torch.addmm(self.spatial.bias, near[: rows * columns], self.banded[0])
        for i in range(1, 7):
            out.addmm_(near[i * columns : (i + rows) * columns], self.banded[i])
        return out.sigmoid_().view(rows, -1, 1)[:, :width]


TOGETHER = 16
"""Pixels of a row whose 7×7 convolutions are computed together."""


def first_conv(conv: nn.Conv2d, dtype: torch.dtype, stride: int = 1, more: Tensor | None = None) -> FirstConv:
    """Prepare a sub-network's first convolution for its device; ``more`` is added to its bias."""
    assert conv.bias is not None
    bias = conv.bias if more is None else conv.bias + more
    return FirstConv(conv.weight, bias, dtype, table=conv.weight.device.type == "cpu", stride=stride)
