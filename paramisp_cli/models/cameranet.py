"""CameraNet (Liang, Cai, Cao, Zhang, IEEE TIP 2021): RAW → sRGB in two stages, for one camera.

    mosaic → packed planes, balanced → Restore-Net → linear sRGB → sRGB curve → Enhance-Net → sRGB

Restore-Net demosaics, denoises and changes the colour space; Enhance-Net sets tones and local contrast. Both are U-Nets
at half resolution whose lowest level is scaled and shifted by numbers from its means over the whole picture. Each is
trained apart against its own target first, then both together. The paper's width of 32 has 26.5 M parameters and costs
135 GMAC a megapixel. Where text and published program differ, the decision is noted beside the code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.models.base import WHOLE, Geometry, IspModel, MakeStore, Params
from paramisp_cli.models.regions import Progress, Sink, Source
from paramisp_cli.types import Direction

PARTS = ("restore", "enhance", "all")
_LEVELS = 5
_SLOPE = 0.2
_DARKEST = 1e-3
"""Added under the logarithm of the restoration loss."""


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)


class Conv(nn.Conv2d):
    """3×3 convolution that pads by reflection as far as its dilation; by repetition where the map is too small."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__(inputs, outputs, 3, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, H, W) in float32."""
        reach = self.dilation[0]
        y: Tensor = super().forward(isp.reflect_pad(x, reach, reach, reach, reach)).float()
        return y


class Block(nn.Module):
    """Two convolutions, beside the identity if ``residual``; the second rectifier may be left out."""

    def __init__(self, width: int, dilations: tuple[int, int], residual: bool, last: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(width, width, dilations[0]), Conv(width, width, dilations[1])
        self.residual, self.last = residual, last

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, H, W) to the same shape."""
        y = self.conv2(_leaky(self.conv1(x)))
        y = y + x if self.residual else y
        return y if self.last else _leaky(y)


class GlobalBranch(nn.Module):
    """Means of the lowest level over the picture → a scale and a shift for each of its channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(width, 2 * width), nn.Linear(2 * width, 2 * width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each (N, width, 1, 1)."""
        numbers = self.last(_leaky(self.hidden(x.mean((2, 3))))).float()[:, :, None, None]
        scale, shift = numbers.chunk(2, 1)
        return scale, shift


class UNet(nn.Module):
    """Five levels; ``dilations`` of the blocks on the way down, from the largest map to the smallest."""

    def __init__(self, inputs: int, width: int, dilations: Sequence[int], residual: bool) -> None:
        super().__init__()
        widths = [width << level for level in range(_LEVELS)]
        into = [inputs, *widths[:-1]]
        self.first = nn.ModuleList(Conv(a, b) for a, b in zip(into, widths, strict=True))
        self.down = nn.ModuleList(Block(w, (d, d), residual) for w, d in zip(widths[:-1], dilations[:-1], strict=True))
        self.low = Block(widths[-1], (dilations[-1], 1), residual, last=True)
        self.whole = GlobalBranch(widths[-1])
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2, bias=False) for w in widths[:-1])
        self.joined = nn.ModuleList(Conv(2 * w, w) for w in widths[:-1])
        self.up = nn.ModuleList(
            Block(w, (d, 1), residual, last=level == 0)
            for level, (w, d) in enumerate(zip(widths[:-1], dilations[:-1], strict=True))
        )
        self.end = nn.Conv2d(width, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W), H and W multiples of 16, to (N, 12, H, W)."""
        skips = []
        for first, block in zip(self.first, self.down, strict=False):
            skips.append(block(_leaky(first(x))))
            # A window of 3 begins at the pixel itself, so that the maps stay aligned.
            x = F.max_pool2d(F.pad(skips[-1], (0, 1, 0, 1), value=-torch.inf), 3, 2)
        x = _leaky(self.first[-1](x))
        scale, shift = self.whole(x)
        # The block's rectifier acts before the scale, as well as behind it.
        x = _leaky(_leaky(self.low(x)) * scale + shift)
        for level in reversed(range(_LEVELS - 1)):
            x = torch.cat([self.enlarge[level](x).float(), skips[level]], 1)
            x = self.up[level](_leaky(self.joined[level](x)))
        y: Tensor = self.end(x).float()
        return y


class CameraNet(IspModel):
    """See the module's docstring.

    width         channels of the largest maps; each of the four lower levels has twice as many as the level above
    restoration   weight of the restoration's loss beside the enhancement's when both networks train together
    lens_shading  see ``IspModel``

    White balance is given, not learned from the picture: the planes are balanced before the network. The paper's input
    of a noise level is left out, as in the published program.
    """

    name = "cameranet"
    directions = (Direction.RENDER,)
    geometry = Geometry(multiple=32, smallest=32, pooled=("means of the lowest level of both networks",))
    macs = 3.4e4

    def __init__(
        self,
        direction: Direction,
        width: int = 16,
        restoration: float = 0.1,
        lens_shading: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__(direction)
        if not 1 <= width <= 64:
            raise ValueError(f"width must be in 1 to 64, got {width}")
        if not 0 <= restoration <= 1:
            raise ValueError(f"restoration must be in [0, 1], got {restoration}")
        self.width, self.restoration, self.lens_shading, self.part = width, restoration, lens_shading, "all"
        self.restorer = UNet(4, width, (1, 1, 1, 1, 1), residual=False)
        self.enhancer = UNet(12, width, (1, 2, 2, 4, 8), residual=True)

    def config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        own = {"direction": str(self.direction), "width": self.width, "restoration": self.restoration}
        return own | self.shading_config()

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """Return the size of the maps that wait for the way up, and of those of the largest level."""
        return 9 * self.width * height * width + (64 << 20)

    # --- the model ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Run the whole image, padded by reflection so that its CFA begins with red, and cropped back."""
        height, width = x.shape[-2:]
        padded, (top, left) = self.geometry.padded, divmod(params.cfa.index("R"), 2)
        below, right = padded(height + top) - height - top, padded(width + left) - width - left
        y = self.compute(isp.reflect_pad(x, left, right, top, below), params)
        return y[..., top : top + height, left : left + width]

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Run the model on a mosaic that begins with red; see ``IspModel``."""
        return self.enhance(self.restore(x, params))

    def restore(self, mosaic: Tensor, params: Params) -> Tensor:
        """Return the restored picture (N, 3, H, W), linear sRGB, of a mosaic that begins with red."""
        gains = params.wb_gains[:, (0, 1, 1, 2)][:, :, None, None]
        return F.pixel_shuffle(self.restorer(F.pixel_unshuffle(mosaic, 2) * gains), 2)

    def enhance(self, restored: Tensor) -> Tensor:
        """Return sRGB (N, 3, H, W) of a restored picture."""
        shown = isp.srgb_encode(restored.clamp(0, 1))
        return F.pixel_shuffle(self.enhancer(F.pixel_unshuffle(shown, 2)), 2)

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
        """Run the whole picture at once; ``progress`` takes the end of each network."""
        device, told = params.iso.device, progress or (lambda share: None)
        hooks = [
            network.register_forward_hook(lambda *_, share=share: told(share))
            for network, share in ((self.restorer, 0.5), (self.enhancer, 1.0))
        ]
        try:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                sink(0, self(source(0, size[0]).to(device), params).float())
        finally:
            for hook in hooks:
                hook.remove()

    # --- training -----------------------------------------------------------------------------------------------------

    def phases(self) -> tuple[str, ...]:
        """Return the parts that train apart, and "all"."""
        return PARTS

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Choose the part of the authors' loss."""
        with super().phase(name):
            self.part = name
            try:
                yield
            finally:
                self.part = "all"

    def own_loss(self, x: Tensor, wanted: Tensor, params: Params) -> Tensor:
        """Return the authors' loss of the part in training; crops begin with red.

        Restore-Net's target is a plain rendering of the mosaic: demosaiced, balanced, in linear sRGB. Enhance-Net alone
        gets this target as its input.
        """
        target = isp.apply_matrix(isp.apply_gains(isp.demosaic(x, params.cfa), params.wb_gains), params.cam_to_srgb)
        if self.part == "enhance":
            return (self.enhance(target) - wanted).abs().mean()
        restored = self.restore(x, params)
        dark, light = (side.clamp(min=0).add(_DARKEST).log() for side in (restored, target))
        restoration = (restored - target).abs().mean() + (dark - light).abs().mean()
        if self.part == "restore":
            return restoration
        enhancement = (self.enhance(restored) - wanted).abs().mean()
        return self.restoration * restoration + (1 - self.restoration) * enhancement
