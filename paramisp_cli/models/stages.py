"""The stages of ParamISP's inference, each on a region of an image, with the numbers of the plain forward pass.

Layouts (rows first, so that a region is a slice):
    Planes  (3, H + 2, W + 2)   images, with a ring that repeats the border (replicate padding)
    Map     (H + 2, W + 2, 64)  x, channels last, with the same ring: a convolution's input is a slice, never padded
    Inner   (H, W, 64)          r, without ring

A stage works its region off in strips of a few thousand pixels, so that what it makes on the way stays in a core's
cache, and what two strips share is carried over. Regions of one stage do not depend on each other: threads may take
one each. Two of them compute the few rows and columns between them twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from paramisp_cli.models.paramisp import Block, GlobalNet


@dataclass(frozen=True, slots=True)
class Region:
    """Rows [top, bottom) and columns [left, right), worked off ``rows`` at a time."""

    top: int
    bottom: int
    left: int
    right: int
    rows: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    def strips(self, pixels: int = 1) -> Iterator[tuple[int, int]]:
        """(begin, end) of its strips, fewer rows at a time where each of its pixels stands for several."""
        rows = max(self.rows // pixels, 1)
        for begin in range(self.top, self.bottom, rows):
            yield begin, min(begin + rows, self.bottom)


class Conv:
    """A convolution without padding, channels last: rows (h, w, I) → (h', w', O), computed in ``dtype``."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, stride: int = 1) -> None:
        self.weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.to(dtype)
        self.dtype, self.stride = dtype, stride

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows of an image, or of a part of one with what lies around it → rows."""
        planes = rows[None].permute(0, 3, 1, 2)
        return self.of(planes if planes.dtype == self.dtype else planes.to(self.dtype))[0].permute(1, 2, 0)

    def of(self, planes: Tensor) -> Tensor:
        """The same in the shapes of a convolution, (1, I, h, w) with strides of channels last → (1, O, h', w')."""
        return torch.conv2d(planes, self.weight, self.bias, self.stride)


class Conv3:
    """A 3×3 convolution without padding, channels last: (h + 2, w + 2, I) → (h, w, O).

    On CPUs in float32 four rows at a time, by Winograd's F(4, 3) along the rows: sums of six rows, six 1×3 convolutions
    instead of twelve, and sums of their results. The points are 0, ±1, ±3/2 and infinity: with them rounding is twice
    that of the direct way, and less than with the usual ±2 (Barabasz et al., ACM TOMS 46:4, 2020, has the method).
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
        """→ ``out``, or a new tensor."""
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
        """The first ``height`` rows, a multiple of 4."""
        # In a convolution's shapes throughout: half as many calls as with a view to and fro for each of the six.
        planes, made = rows.permute(2, 0, 1)[None], out.permute(2, 0, 1)[None, :, :height]
        d0, d1, d2, d3, d4, d5 = (planes[:, :, i : i + height - 3 : 4] for i in range(6))
        zero, one, minus_one, point, minus_point, infinity = self.six
        # Each sum goes through its convolution before the next is made, in the same memory: so they stay in the cache.
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
"""Where the row polynomials are taken, beside 0, ±1 and infinity."""


def _elu(v: Tensor, out: Tensor) -> None:
    """ELU of v, which is used up, into ``out``: max(v, 0) + exp(min(v, 0)) − 1, in half the time of torch's own."""
    v = v.float() if v.dtype in (torch.bfloat16, torch.float16) else v
    low = v.clamp(max=0).mul_(math.log2(math.e)).exp2_()  # exp is three times slower than exp2
    torch.sub(low.add_(v.clamp_(min=0)), 1, out=out)


# --- images -----------------------------------------------------------------------------------------------------------


def planes_of(image: Tensor) -> Tensor:
    """(3, H, W) → Planes."""
    return F.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]


def ring_of_planes(planes: Tensor) -> None:
    """Make the ring true again."""
    planes[:, 0], planes[:, -1] = planes[:, 1], planes[:, -2]
    planes[..., 0], planes[..., -1] = planes[..., 1], planes[..., -2]


def tone(
    net: GlobalNet, coefficients: list[tuple[Tensor, Tensor]], source: Tensor, target: Tensor, region: Region
) -> None:
    """Pixels (3, P) through the tone stages into ``target``, of the same shape; the region's columns are pixels."""
    columns = slice(region.left, region.right)
    target[:, columns] = net.tone(source[None, :, columns], coefficients)[0]


# --- content features and what looks at them --------------------------------------------------------------------------


class FirstConv:
    """The first 3×3 convolution of the 96 content features, which are never made for the whole image.

    __call__ gives it where a Region is, for Planes of the image and of the one that the mask is of. Of two ways to the
    same numbers, ``table`` takes the one that suits caches: for a tap and a channel, value and histograms together are
    a piecewise linear function of one number into 64, which bends at multiples of 1/105 from −1/3 to 4/3 only. A table
    of its bends gives it by two rows and their weights; only gradients and mask are convolved.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, *, table: bool, stride: int = 1) -> None:
        """weight (64, 96, 3, 3), bias (64,): for the features' own order."""
        from paramisp_cli.models.paramisp import FEATURES

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
        """(h, w, 64): one result for each ``stride`` of the pixels [top, top + height) × [left, left + width)."""
        from paramisp_cli.models.paramisp import BINS, overexposure, soft_histogram

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
        """Value and histograms of (3, h + 2, w + 2) → (pixels, 64)."""
        assert self.table is not None
        place = image.permute(1, 2, 0).contiguous().mul_(_GRID).add_(_BELOW)
        low = place.floor().nan_to_num_().clamp_(0, _KNOTS - 2)
        height, width = image.shape[1:]
        above = place.sub_(low)
        share = torch.view_as_real(torch.complex(1 - above, above))  # of the bend below and of the one above
        number = low.long().mul_(2**32 + 1).view(torch.int32)  # twice in its eight bytes
        h, w = (height - 3) // self.stride + 1, (width - 3) // self.stride + 1
        window = (h, w, 3, 18), (self.stride * 6 * width, self.stride * 6, 6 * width, 1)
        rows, weights = (v.as_strided(*window).reshape(-1, 54) for v in (number, share))
        return F.embedding_bag(rows.add_(self.offsets), self.table, mode="sum", per_sample_weights=weights)


_GRID = 105
"""Bends lie at multiples of 1/3, 1/7 and 1/15, so at multiples of 1/105."""
_BELOW = 36
"""Steps below 0 where the table begins: one more than the last bend at −1/3, for the straight line beyond."""
_KNOTS = _BELOW + 140 + 2
"""Up to one more than the last bend at 4/3."""


def _table(weight: Tensor) -> Tensor:
    """(27 · _KNOTS, 64), by tap, channel and bend: what a value there adds, by itself and by its histograms."""
    from paramisp_cli.models.paramisp import BINS, soft_histogram

    exact = weight.double()
    value = (torch.arange(_KNOTS, device=weight.device, dtype=torch.float64) - _BELOW) / _GRID
    parts, begin = [torch.einsum("ocyx,k->yxcko", exact[:, :3], value)], 9
    for bins in BINS:
        share = soft_histogram(value.view(1, 1, 1, -1), bins)[0, :, 0]  # (bins, knots)
        of_channels = exact[:, begin : begin + 3 * bins].unflatten(1, (3, bins))
        parts.append(torch.einsum("ocbyx,bk->yxcko", of_channels, share))
        begin += 3 * bins
    return torch.stack(parts).sum(0).reshape(-1, weight.shape[0]).to(weight.dtype)


def _gradient(planes: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Gradient features, (6, height + 2, width + 2), around a part of the image, the image's border ones repeated."""
    whole = planes.shape[1] - 2, planes.shape[2] - 2
    above, below = max(top - 1, 0), min(top + height + 1, whole[0])
    before, behind = max(left - 1, 0), min(left + width + 1, whole[1])
    p = planes[:, above : below + 2, before : behind + 2]
    down = p[:, :-2] + p[:, 2:] + 2 * p[:, 1:-1]
    across = p[..., :-2] + p[..., 2:] + 2 * p[..., 1:-1]
    both = torch.stack([down[..., 2:] - down[..., :-2], across[:, 2:] - across[:, :-2]], 1).flatten(0, 1).div_(8)
    ring = (before - left + 1, left + width + 1 - behind, above - top + 1, top + height + 1 - below)
    return F.pad(both[None], ring, mode="replicate")[0] if any(ring) else both


def pooled_size(size: int) -> int:
    """How many rows (columns) GlobalNet's first layer makes of so many."""
    return ((size - 3) // 2 + 1) // 2


def first_layer(conv: FirstConv, planes: Tensor, first: Tensor, layer: Tensor, region: Region) -> None:
    """GlobalNet's first convolution, ELU and 2×2 maximum into ``layer`` (h, w, 64); the region is the layer's."""
    for begin, end in region.strips(4):  # of 16 pixels each, a quarter of which is looked up
        size = 4 * (end - begin) - 1, 4 * region.width - 1  # a pooled row looks at five rows, four apart
        out = conv(planes, first, 4 * begin + 1, 4 * region.left + 1, *size)
        out = torch.maximum(out[0::2], out[1::2])
        out = torch.maximum(out[:, 0::2], out[:, 1::2])
        _elu(out, layer[begin:end, region.left : region.right])  # ELU only rises: a quarter as many, after the maximum


# --- LocalNet ---------------------------------------------------------------------------------------------------------


def head(conv: FirstConv, planes: Tensor, first: Tensor, x: Tensor, region: Region) -> None:
    """Features and first convolution → x."""
    for begin, end in region.strips():
        target = x[begin + 1 : end + 1, region.left + 1 : region.right + 1]
        conv(planes, first, begin, region.left, end - begin, region.width, target)
    ring(x, region)


def ring(x: Tensor, region: Region) -> None:
    """Make the Map's ring beside the region, just written, true again."""
    height, width = x.shape[0] - 2, x.shape[1] - 2
    rows, columns = slice(region.top + 1, region.bottom + 1), slice(region.left + 1, region.right + 1)
    if region.left == 0:
        x[rows, 0] = x[rows, 1]
        columns = slice(0, columns.stop)
    if region.right == width:
        x[rows, -1] = x[rows, -2]
        columns = slice(columns.start, width + 2)
    if region.top == 0:
        x[0, columns] = x[1, columns]
    if region.bottom == height:
        x[-1, columns] = x[-2, columns]


class Convs:
    """A block's convolutions, prepared."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        first, second = block.conv1, block.conv2
        assert first.bias is not None
        assert second.bias is not None
        weight, bias, bias2 = first.weight, first.bias, second.bias
        # In float32, ELU in two thirds of its passes over the memory: conv1 gives w = s (v + 1) with s = 1 / ln 2, and
        # s (ELU(v) + 1) = min(s/e · 2^w, max(w, s)). conv2 undoes s and 1 (in the ring, too: it is a copy).
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
            # One output channel leaves a convolution kernel mostly idle: 16 pixels of a row as a product for each of
            # seven rows, with 2 × 22 pixels of it, in which the seven taps stand shifted by a pixel for each.
            banded = block.spatial.weight.new_zeros(7, 2, _TOGETHER + 6, _TOGETHER)
            for shift in range(_TOGETHER):
                banded[:, :, shift : shift + 7, shift] = block.spatial.weight[0].transpose(0, 1)
            self.banded = banded.view(7, -1, _TOGETHER)

    def elu(self, v: Tensor, out: Tensor) -> None:
        """What lies between the convolutions, of v, which is used up, into ``out``."""
        if self.fold is None:
            _elu(v, out)
            return
        torch.exp2(v, out=out).mul_(math.log2(math.e) / math.e)
        torch.clamp(v, self.fold, out, out=out)

    def places(self, where: Tensor, width: int) -> Tensor:
        """sigmoid(7×7 convolution): (2, n + 6, ≥ width + 6 and a multiple of 16, plus 6) → (n, width, 1)."""
        if self.banded is None:
            return torch.sigmoid(F.conv2d(where[None], self.spatial.weight, self.spatial.bias))[0, 0, :, :width, None]
        assert self.spatial.bias is not None
        rows, columns = where.shape[1] - 6, (where.shape[2] - 6) // _TOGETHER
        channel, row, _ = where.stride()
        near = where.as_strided(
            (rows + 6, columns, 2, _TOGETHER + 6), (row, _TOGETHER, channel, 1), where.storage_offset()
        ).reshape((rows + 6) * columns, -1)
        out = torch.addmm(self.spatial.bias, near[: rows * columns], self.banded[0])
        for i in range(1, 7):
            out.addmm_(near[i * columns : (i + rows) * columns], self.banded[i])
        return out.sigmoid_().view(rows, -1, 1)[:, :width]


_TOGETHER = 16
"""Pixels of a row whose 7×7 convolutions are one row of seven products."""


def block_a(convs: Convs, x: Tensor, r: Tensor | None, region: Region) -> tuple[Tensor, Tensor]:
    """r := conv2(ELU(conv1 x)), None: not kept → each channel's sum (64,), float64, and maximum over the region."""
    height, width = x.shape[0] - 2, x.shape[1] - 2
    passing = x.new_empty(region.rows if r is None else 0, region.width, 64)
    left, right = max(region.left - 1, 0), min(region.right + 1, width)
    # Of ELU(conv1 x), row i is image row begin − 1 + i, column j is image column region.left − 1 + j.
    inner = torch.empty(region.rows + 2, region.width + 2, 32, dtype=convs.second.dtype, device=x.device)
    columns = slice(left - region.left + 1, right - region.left + 1)
    total = torch.zeros(64, dtype=torch.float64, device=x.device)
    peak = x.new_full((64,), -torch.inf)
    for begin, end in region.strips():
        n = end - begin
        # Rows begin − 1 and begin are there from the strip before.
        start, stop = begin + 1 if begin > region.top else max(begin - 1, 0), min(end + 1, height)
        if stop > start:
            rows = convs.first(x[start : stop + 2, left : right + 2])
            convs.elu(rows, inner[start - begin + 1 : stop - begin + 1, columns])
        # Replicate padding repeats conv1's *output*: its ring is a copy, not conv1 of an extended x.
        if left == region.left:
            inner[:, 0] = inner[:, 1]
        if right == region.right:
            inner[:, -1] = inner[:, -2]
        if begin == 0:
            inner[0] = inner[1]
        if end == height:
            inner[n + 1] = inner[n]
        target = passing[:n] if r is None else r[begin:end, region.left : region.right]
        out = convs.second(inner[: n + 2], target)
        row = out.flatten(1)  # rows first: (0, 1) at once would be ten times slower where columns are cut
        total += row.sum(0).view(-1, 64).sum(0).double()
        peak = torch.maximum(peak, row.amax(0).view(-1, 64).amax(0))
        inner[:2] = inner[n : n + 2].clone()
    return total, peak


def channel_scale(block: Block, parts: list[tuple[Tensor, Tensor]], pixels: int) -> Tensor:
    """The factor (64,) of each channel from what ``block_a`` gave for all regions of an image of so many pixels."""
    peak = torch.stack([peak for _, peak in parts]).amax(0)
    mean = (torch.stack([total for total, _ in parts]).sum(0) / pixels).to(peak.dtype)
    return block.channel_scale(mean.view(1, 64, 1, 1), peak.view(1, 64, 1, 1)).view(64)


def block_b(convs: Convs, scale: Tensor, x: Tensor, r: Tensor, region: Region) -> None:
    """x += r · scale · sigmoid(7×7 convolution of the mean and the maximum of r · scale over channels)."""
    height, width = r.shape[:2]
    left, right = max(region.left - 3, 0), min(region.right + 3, width)
    before, behind = left - (region.left - 3), region.right + 3 - right
    # Mean and maximum with the 7×7's ring of 3: row i is image row region.top − 3 + i, and columns likewise.
    full = -(-region.width // _TOGETHER) * _TOGETHER + 6
    padded = r.new_zeros(2, region.bottom - region.top + 6, full)
    where = padded[..., : region.width + 6]
    scaled = r.new_empty(region.rows + 6, right - left, 64)  # row i is image row begin − 3 + i
    done = max(region.top - 3, 0)
    for begin, end in region.strips():
        n, ahead = end - begin, min(end + 3, height)
        rows = torch.mul(r[done:ahead, left:right], scale, out=scaled[done - begin + 3 : ahead - begin + 3])
        new = where[:, done - region.top + 3 : ahead - region.top + 3]
        torch.mean(rows, 2, out=new[0, :, before : new.shape[2] - behind])
        torch.amax(rows, 2, out=new[1, :, before : new.shape[2] - behind])
        if before:
            new[..., :before] = new[..., before : before + 1]
        if behind:
            new[..., -behind:] = new[..., -behind - 1 : -behind]
        if done == 0:
            where[:, : 3 - region.top] = where[:, 3 - region.top, None]
        if ahead == height:
            last = height - region.top + 2
            where[:, last + 1 :] = where[:, last, None]
        done = ahead
        attention = convs.places(padded[:, begin - region.top : end - region.top + 6], region.width)
        rows = scaled[3 : n + 3, region.left - left : region.right - left]
        x[begin + 1 : end + 1, region.left + 1 : region.right + 1].addcmul_(rows, attention)
        scaled[3:6] = scaled[n + 3 : n + 6].clone()
    ring(x, region)


def down(conv: Conv, x: Tensor, half: Tensor, region: Region) -> None:
    """half := 2×2 convolution of x with stride 2; the region is half's."""
    for begin, end in region.strips(4):
        rows = conv(x[2 * begin + 1 : 2 * end + 1, 2 * region.left + 1 : 2 * region.right + 1])
        half[begin + 1 : end + 1, region.left + 1 : region.right + 1] = rows
    ring(half, region)


def up(conv: nn.ConvTranspose2d, half: Tensor, x: Tensor, region: Region) -> None:
    """x += 2×2 transposed convolution of half with stride 2: x is its own skip connection; the region is half's."""
    assert conv.bias is not None
    # Strides of 2 do not overlap: for the upper two of the four results, and for the lower two, a product with
    # (64, 2 · 64), added where they lie side by side.
    weight, bias = conv.weight.permute(2, 0, 3, 1).reshape(2, 64, 128), conv.bias.repeat(2)
    for begin, end in region.strips(4):
        rows = half[begin + 1 : end + 1, region.left + 1 : region.right + 1]
        target = x[2 * begin + 1 : 2 * end + 1, 2 * region.left + 1 : 2 * region.right + 1]
        for lower in range(2):
            pairs = target[lower::2].unflatten(1, (-1, 2)).flatten(2)
            pairs.add_(bias).baddbmm_(rows, weight[lower].expand(len(rows), -1, -1))
    ring(x, Region(2 * region.top, 2 * region.bottom, 2 * region.left, 2 * region.right, 1))


def tail(conv: nn.Conv2d, x: Tensor, planes: Tensor, out: Tensor, region: Region) -> None:
    """out := planes + last convolution of x; without ``out``'s ring."""
    # Three output channels would leave a convolution kernel mostly idle: nine taps × three channels as one product.
    weight = conv.weight.permute(2, 3, 0, 1).reshape(27, 64)
    assert conv.bias is not None
    width, bias = region.width, conv.bias[:, None, None]
    for begin, end in region.strips():
        n = end - begin
        rows = x[begin : end + 2, region.left : region.right + 2]
        taps = (weight @ rows.transpose(1, 2)).view(n + 2, 3, 3, 3, width + 2).permute(1, 2, 3, 0, 4)
        inside = (slice(None), slice(begin + 1, end + 1), slice(region.left + 1, region.right + 1))
        torch.add(planes[inside], bias, out=out[inside])
        for dy in range(3):
            for dx in range(3):
                out[inside] += taps[dy, dx, :, dy : dy + n, dx : dx + width]
