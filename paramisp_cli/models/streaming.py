"""ParamISP without the gradients: the same numbers, whole image, in strips, with two feature maps in memory.

The image goes through in strips of rows that fit the caches; what two strips share (the last two rows between a
block's convolutions) is carried over, so nothing is computed twice and nothing depends on the height of a strip.

    GlobalNet  features and first layer per strip; its output (1/16 of the pixels) whole; the tone stages per strip
    LocalNet   head per strip, from features that exist only for the strip
    block      A, per strip: r = conv2(ELU(conv1 x)), with each channel's sum and maximum
               barrier: the channel scales, which need the whole image
               B, per strip: mean and maximum over channels, 7×7 convolution, x += r · scale · sigmoid

Memory: x and r, 64 channels each, are 512 bytes a pixel in float32. x at full size is its own skip connection: the
decoder adds to it in place. The lower levels live inside r's memory, which is free while they are at work.

Layouts (rows first, so that a strip is a slice):
    Planes  (3, H + 2, W + 2)   images, with a ring that repeats the border (replicate padding)
    Map     (H + 2, W + 2, 64)  x, channels last, with the same ring: a convolution's input is a slice, never a copy
    Inner   (H, W, 64)          r, without ring
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from paramisp_cli.models.paramisp import Block, GlobalNet, LocalNet, ParamISP

CPU_STRIP, DEVICE_STRIP = 32768, 1 << 22
"""Pixels a strip: on a CPU what its caches hold, elsewhere enough to fill the device."""
_HEAD_ROOM = 384 << 20


def peak_bytes(height: int, width: int, strip_pixels: int | None = None) -> int:
    """An upper estimate [bytes] of ``run`` in float32 for one padded image, the input not counted.

    x and r with ring 512 B a pixel; the image, its first version, the result and the maps of a block 56 B; per pixel
    of a strip about 2 kB (features, both convolutions with their workspaces); and a fixed part.
    """
    strip = max(strip_pixels or CPU_STRIP, 12 * width)
    return (height + 2) * (width + 2) * (512 + 56) + 2048 * strip + _HEAD_ROOM


def run(model: ParamISP, image: Tensor, z: Tensor | None) -> Tensor:
    """Both sub-networks in the direction's order: image (N, 3, H, W), padded, z (N, 64) or None → (N, 3, H, W)."""
    pixels = model.strip_pixels or (CPU_STRIP if image.device.type == "cpu" else DEVICE_STRIP)
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    for i in range(len(image)):  # one by one: a batch needs no more memory than its largest image
        first = _planes(image[i])
        planes, zi = first, None if z is None else z[i : i + 1]
        if model.direction == "unprocess" and model.globalnet is not None:
            planes = tone(model.globalnet, planes, tone_stages(model.globalnet, planes, first, zi, pixels), pixels)
        if model.localnet is not None:
            planes = local(model.localnet, planes, first, zi, pixels)
        if model.direction == "render" and model.globalnet is not None:
            planes = tone(model.globalnet, planes, tone_stages(model.globalnet, planes, first, zi, pixels), pixels)
        out[i] = planes[:, 1:-1, 1:-1]
    return out


# --- helpers ----------------------------------------------------------------------------------------------------------


def _rows(pixels: int, width: int) -> int:
    """Rows a strip, a multiple of 4."""
    return max(pixels // width // 4 * 4, 4)


def _strips(height: int, rows: int) -> list[tuple[int, int]]:
    """[0, height) cut into (begin, end)."""
    return [(y, min(y + rows, height)) for y in range(0, height, rows)]


def _planes(image: Tensor) -> Tensor:
    """(3, H, W) → Planes."""
    return F.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]


def _nchw(rows: Tensor) -> Tensor:
    """(h, w, c) rows → (1, c, h, w) in channels-last memory, as convolutions want it; a view."""
    return rows[None].permute(0, 3, 1, 2)


def _hwc(x: Tensor) -> Tensor:
    """(1, c, h, w) → (h, w, c); a view."""
    return x[0].permute(1, 2, 0)


def _pool(count: int, like: Tensor) -> Tensor:
    """(count,) uninitialised numbers, on 2-MB pages where the system has them (first touch of 4-kB pages is 1 s/GB)."""
    size = count * like.element_size()
    if like.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE") or size < 8 << 20:
        return torch.empty(count, dtype=like.dtype, device=like.device)
    memory = mmap.mmap(-1, size)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=like.dtype)  # keeps the mapping alive, and unmaps it with the last view


def _take(pool: Tensor, offset: int, *shape: int) -> tuple[Tensor, int]:
    """A tensor of that shape from the pool, and the offset behind it."""
    end = offset + shape[0] * shape[1] * shape[2]
    return pool[offset:end].view(shape), end


# --- content features -------------------------------------------------------------------------------------------------


class Features:
    """Content features of strips, channels last, in an order of our own: image, d/dx, d/dy, mask, histograms.

    The first twelve are computed as planes; one product with a 12×96 matrix copies them to their channels and gives
    the histograms' arguments x·(bins − 1) − i to the others.
    """

    def __init__(self, planes: Tensor, first: Tensor, rows: int) -> None:
        from paramisp_cli.models.paramisp import BINS, FEATURES

        self.planes, self.first, self.one = planes, first, planes.new_ones(())
        width = planes.shape[2]
        self.base = planes.new_empty(12, rows + 2, width)
        self.buffer = planes.new_empty(rows + 2, width, FEATURES)
        self.matrix, self.bias = planes.new_zeros(12, FEATURES), planes.new_zeros(FEATURES)
        self.matrix[range(12), range(12)] = 1
        at, order = 12, [0, 1, 2, 3, 5, 7, 4, 6, 8, *range(FEATURES - 3, FEATURES)]
        for bins in BINS:
            for channel in range(3):
                self.matrix[channel, at : at + bins] = bins - 1
                self.bias[at : at + bins] = -torch.arange(bins)
                at += bins
        self.order = torch.tensor([*order, *range(9, FEATURES - 3)], device=planes.device)

    def weight(self, weight: Tensor) -> Tensor:
        """A convolution's weight (64, 96, 3, 3) with its input channels in this order."""
        return weight[:, self.order].contiguous(memory_format=torch.channels_last)

    def __call__(self, begin: int, end: int) -> Tensor:
        """Features of the image rows begin − 1 to end (inclusive) with ring: (end − begin + 2, W + 2, 96), reused."""
        height = self.planes.shape[1] - 2
        x = self.planes[:, begin : end + 2]
        base = self.base[:, : end - begin + 2]
        base[:3] = x
        torch.sub(self.first[:, begin : end + 2], 0.95, out=base[9:]).clamp_(min=0).div_(0.05)
        # Gradients need a row more on each side, but at the border the ring's own gradient is the border's, repeated.
        top, bottom = max(begin - 1, 0), min(end + 1, height)
        p = self.planes[:, top : bottom + 2]
        inside = base[:, top - begin + 1 : bottom - begin + 1]
        down = p[:, :-2] + p[:, 2:] + 2 * p[:, 1:-1]
        across = p[..., :-2] + p[..., 2:] + 2 * p[..., 1:-1]
        torch.sub(down[..., 2:], down[..., :-2], out=inside[3:6, :, 1:-1]).div_(8)
        torch.sub(across[:, 2:], across[:, :-2], out=inside[6:9, :, 1:-1]).div_(8)
        ring = base[3:9]
        ring[..., 0], ring[..., -1] = ring[..., 1], ring[..., -2]
        if begin == 0:
            ring[:, 0] = ring[:, 1]
        if end == height:
            ring[:, -1] = ring[:, -2]
        out = self.buffer[: end - begin + 2]
        flat = out.view(-1, out.shape[2])
        torch.addmm(self.bias, base.reshape(12, -1).t(), self.matrix, out=flat)
        histograms = flat[:, 12:]
        torch.sub(self.one, histograms.abs_(), out=histograms).clamp_(min=0)
        return out


# --- GlobalNet --------------------------------------------------------------------------------------------------------


def tone_stages(
    net: GlobalNet, planes: Tensor, first: Tensor, z: Tensor | None, pixels: int
) -> list[tuple[Tensor, Tensor]]:
    """GlobalNet's coefficients for the image: its first layer in strips of whole pooled rows, the rest at once."""
    height, width = planes.shape[1] - 2, planes.shape[2] - 2
    pooled_rows = ((height - 3) // 2 + 1) // 2
    rows = _rows(pixels, width)
    features = Features(planes, first, rows + 1)
    weight, bias = features.weight(net.convs[0].weight), net.convs[0].bias
    layer = []
    for begin, end in _strips(pooled_rows, rows // 4):
        strip = features(4 * begin, 4 * end + 1)  # a pooled row looks at five rows, four apart
        conv = F.conv2d(_nchw(strip[1:-1, 1:-1]), weight, bias, stride=2)
        layer.append(F.max_pool2d(F.elu(conv, inplace=True), 2))
    return net.coefficients(net.pool(torch.cat(layer, dim=2), layers=(1, 2)), z)


def tone(net: GlobalNet, planes: Tensor, stages: list[tuple[Tensor, Tensor]], pixels: int) -> Tensor:
    """Planes through the tone stages, ring and all → new Planes."""
    out = torch.empty_like(planes)
    source, target = planes.view(1, 3, -1), out.view(1, 3, -1)
    for begin, end in _strips(source.shape[2], pixels):
        target[..., begin:end] = net.tone(source[..., begin:end], stages)
    return out


# --- LocalNet ---------------------------------------------------------------------------------------------------------


def local(net: LocalNet, planes: Tensor, first: Tensor, z: Tensor | None, pixels: int) -> Tensor:
    """LocalNet: Planes → Planes; height and width multiples of 4."""
    height, width = planes.shape[1] - 2, planes.shape[2] - 2
    sizes = [(height >> level, width >> level) for level in range(3)]
    big = _pool((height + 2) * (width + 2) * 64, planes)
    small = _pool(max(height * width, _lower_pixels(sizes)) * 64, planes)
    x = [_take(big, 0, height + 2, width + 2, 64)[0]]
    r = [_take(small, 0, height, width, 64)[0]]
    offset = 0
    for h, w in sizes[1:]:
        lower, offset = _take(small, offset, h + 2, w + 2, 64)
        inner, offset = _take(small, offset, h, w, 64)
        x.append(lower)
        r.append(inner)
    rows = [_rows(pixels, w) for _, w in sizes]

    def blocks(level: int, *numbers: int) -> None:
        for number in numbers:
            block = net.blocks[number]
            scale = block_a(block, x[level], r[level], rows[level])
            block_b(block, x[level], r[level], scale, rows[level])

    head(net, Features(planes, first, rows[0]), z, x[0], rows[0])
    blocks(0, 0, 1)
    down(net, 0, x[0], x[1], rows[1])
    blocks(1, 2, 3)
    down(net, 1, x[1], x[2], rows[2])
    blocks(2, 4, 5)
    up(net, 0, x[2], x[1], rows[2])
    blocks(1, 6, 7)
    up(net, 1, x[1], x[0], rows[1])
    blocks(0, 8, 9)
    return tail(net, x[0], planes, rows[0])


def _lower_pixels(sizes: list[tuple[int, int]]) -> int:
    """Pixels that x and r of the lower levels occupy."""
    return sum((h + 2) * (w + 2) + h * w for h, w in sizes[1:])


def head(net: LocalNet, features: Features, z: Tensor | None, x: Tensor, rows: int) -> None:
    """Features and first convolution → x; z enters once, in the bias."""
    weight, bias = features.weight(net.head.weight), net.head.bias
    if net.condition is not None and z is not None:
        bias = bias + net.condition(z)[0]
    for begin, end in _strips(x.shape[0] - 2, rows):
        _store(x, begin, end, _hwc(F.conv2d(_nchw(features(begin, end)), weight, bias)))


def _store(x: Tensor, begin: int, end: int, rows: Tensor) -> None:
    """Image rows [begin, end) of the Map x := rows (h, W, 64), and its ring."""
    x[begin + 1 : end + 1, 1:-1] = rows
    _ring(x, begin, end)


def _ring(x: Tensor, begin: int, end: int) -> None:
    """Make x's ring around the image rows [begin, end), just written, true again."""
    written = x[begin + 1 : end + 1]
    written[:, 0], written[:, -1] = written[:, 1], written[:, -2]
    if begin == 0:
        x[0] = x[1]
    if end == x.shape[0] - 2:
        x[-1] = x[-2]


def block_a(block: Block, x: Tensor, r: Tensor, rows: int) -> Tensor:
    """r := conv2(ELU(conv1 x)) → the channel scales (64,); sums in float64, so that no strip height shows."""
    height, width = r.shape[:2]
    weight1 = block.conv1.weight.contiguous(memory_format=torch.channels_last)
    weight2 = block.conv2.weight.contiguous(memory_format=torch.channels_last)
    inner = r.new_empty(rows + 2, width + 2, 32)  # ELU(conv1 x): row i is image row begin − 1 + i
    total = torch.zeros(64, dtype=torch.float64, device=r.device)
    peak = r.new_full((64,), -torch.inf)
    for begin, end in _strips(height, rows):
        n = end - begin
        # Rows begin − 1 and begin are there from the strip before.
        start, stop = begin + 1 if begin else 0, min(end + 1, height)
        if stop > start:
            new = F.elu(F.conv2d(_nchw(x[start : stop + 2]), weight1, block.conv1.bias), inplace=True)
            inner[start - begin + 1 : stop - begin + 1, 1:-1] = _hwc(new)
        # Replicate padding repeats conv1's *output*: its ring is a copy, not conv1 of an extended x.
        inner[:, 0], inner[:, -1] = inner[:, 1], inner[:, -2]
        if begin == 0:
            inner[0] = inner[1]
        if end == height:
            inner[n + 1] = inner[n]
        out = _hwc(F.conv2d(_nchw(inner[: n + 2]), weight2, block.conv2.bias))
        r[begin:end] = out
        pixels = out.reshape(-1, 64)
        total += pixels.sum(0).double()
        peak = torch.maximum(peak, pixels.amax(0))
        inner[:2] = inner[n : n + 2].clone()
    mean = (total / (height * width)).to(r.dtype)
    return block.channel_scale(mean.view(1, 64, 1, 1), peak.view(1, 64, 1, 1)).view(64)


def block_b(block: Block, x: Tensor, r: Tensor, scale: Tensor, rows: int) -> None:
    """x += r · scale · sigmoid(7×7 convolution of the mean and the maximum of r · scale over channels)."""
    height, width = r.shape[:2]
    where = r.new_empty(2, height + 6, width + 6)  # with the 7×7's ring of 3
    done = 0  # rows of ``where``, which runs three rows ahead
    for begin, end in _strips(height, rows):
        ahead = min(end + 3, height)
        scaled = r[done:ahead] * scale
        torch.mean(scaled, 2, out=where[0, done + 3 : ahead + 3, 3:-3])
        torch.amax(scaled, 2, out=where[1, done + 3 : ahead + 3, 3:-3])
        new = where[:, done + 3 : ahead + 3]
        new[..., :3], new[..., -3:] = new[..., 3:4], new[..., -4:-3]
        if done == 0:
            where[:, :3] = where[:, 3:4]
        if ahead == height:
            where[:, -3:] = where[:, -4:-3]
        done = ahead
        attention = torch.sigmoid(F.conv2d(where[None, :, begin : end + 6], block.spatial.weight, block.spatial.bias))
        x[begin + 1 : end + 1, 1:-1].addcmul_(r[begin:end] * scale, attention[0, 0, :, :, None])
        _ring(x, begin, end)


def down(net: LocalNet, level: int, x: Tensor, half: Tensor, rows: int) -> None:
    """half := 2×2 convolution of x with stride 2; ``rows`` are half's."""
    conv = net.down[level]
    for begin, end in _strips(half.shape[0] - 2, rows):
        strip = x[2 * begin + 1 : 2 * end + 1, 1:-1]
        _store(half, begin, end, _hwc(F.conv2d(_nchw(strip), conv.weight, conv.bias, stride=2)))


def up(net: LocalNet, level: int, half: Tensor, x: Tensor, rows: int) -> None:
    """x += 2×2 transposed convolution of half with stride 2: x is its own skip connection; ``rows`` are half's."""
    conv = net.up[level]
    for begin, end in _strips(half.shape[0] - 2, rows):
        strip = half[begin + 1 : end + 1, 1:-1]
        x[2 * begin + 1 : 2 * end + 1, 1:-1] += _hwc(F.conv_transpose2d(_nchw(strip), conv.weight, conv.bias, stride=2))
        _ring(x, 2 * begin, 2 * end)


def tail(net: LocalNet, x: Tensor, planes: Tensor, rows: int) -> Tensor:
    """Planes + last convolution of x → new Planes."""
    height, width = x.shape[0] - 2, x.shape[1] - 2
    out = torch.empty_like(planes)
    # Three output channels would leave a convolution kernel mostly idle: nine taps × three channels as one product.
    weight = net.tail.weight.permute(2, 3, 0, 1).reshape(27, 64)
    assert net.tail.bias is not None
    bias = net.tail.bias[:, None, None]
    for begin, end in _strips(height, rows):
        n = end - begin
        taps = (weight @ x[begin : end + 2].reshape(-1, 64).t()).view(3, 3, 3, n + 2, width + 2)
        inside = out[:, begin + 1 : end + 1, 1:-1]
        torch.add(planes[:, begin + 1 : end + 1, 1:-1], bias, out=inside)
        for dy in range(3):
            for dx in range(3):
                inside += taps[dy, dx, :, dy : dy + n, dx : dx + width]
    out[:, 0], out[:, -1] = out[:, 1], out[:, -2]
    out[..., 0], out[..., -1] = out[..., 1], out[..., -2]
    return out
