"""The one interface of every network: what it takes, what it gives, and what it says of its own geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from paramisp_cli.errors import ConfigError
from paramisp_cli.scratch import Scratch
from paramisp_cli.types import CFA_PATTERNS, FALLBACK_OPTICAL, CanonicalParams, Direction, OpticalParams


@dataclass(frozen=True, slots=True)
class Params:
    """The parameters of N shots as float32 tensors.

    ``Params.of`` makes those of one shot, ``Params.cat`` a batch. Raises ConfigError for wrong shapes and types.

    wb_gains (N, 3), G = 1 · cam_to_srgb (N, 3, 3), white-balanced camera RGB → linear sRGB, rows scaled as the
    checkpoint wants · iso, exposure_time [s], f_number, focal_length [mm], each (N,) · cfa, one for the batch.
    """

    wb_gains: Tensor
    cam_to_srgb: Tensor
    iso: Tensor
    exposure_time: Tensor
    f_number: Tensor
    focal_length: Tensor
    cfa: str = "RGGB"

    def __post_init__(self) -> None:
        if self.cfa not in CFA_PATTERNS:
            raise ConfigError(f"cfa must be one of {', '.join(CFA_PATTERNS)}, got {self.cfa!r}")
        for name in tensor_names():
            value = getattr(self, name)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                got = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise ConfigError(f"Params: {name} must be a tensor of floating point, got {got}")
        n = len(self)
        shapes = {"wb_gains": (n, 3), "cam_to_srgb": (n, 3, 3)}
        for name in tensor_names():
            value = getattr(self, name)
            if tuple(value.shape) != shapes.get(name, (n,)):
                raise ConfigError(f"Params: {name} must be {shapes.get(name, (n,))}, got {tuple(value.shape)}")

    def __len__(self) -> int:
        """Count the shots."""
        return self.wb_gains.shape[0] if self.wb_gains.ndim else 1

    @classmethod
    def of(cls, canonical: CanonicalParams, optical: OpticalParams, row_sum: float | None = None) -> Params:
        """One shot's parameters (N = 1); unknown optical values are replaced by ``FALLBACK_OPTICAL``.

        ``row_sum``: the model's ``color_matrix_row_sum`` (see ``color.cam_to_srgb``).
        """

        def scalar(name: str) -> Tensor:
            value = getattr(optical, name)
            return torch.tensor([getattr(FALLBACK_OPTICAL, name) if value is None else value], dtype=torch.float32)

        return cls(
            wb_gains=torch.tensor(canonical.wb_gains, dtype=torch.float32)[None],
            cam_to_srgb=torch.tensor(canonical.cam_to_srgb(row_sum), dtype=torch.float32)[None],
            iso=scalar("iso"),
            exposure_time=scalar("exposure_time"),
            f_number=scalar("f_number"),
            focal_length=scalar("focal_length"),
            cfa=canonical.cfa,
        )

    @classmethod
    def cat(cls, several: Sequence[Params]) -> Params:
        """Stack shots that share one CFA into a batch."""
        if len({p.cfa for p in several}) != 1:
            raise ConfigError(f"a batch has one cfa, got {sorted({p.cfa for p in several})}")
        joined = {name: torch.cat([getattr(p, name) for p in several]) for name in tensor_names()}
        return cls(**joined, cfa=several[0].cfa)

    def to(self, device: torch.device | str) -> Params:
        """The same parameters on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in tensor_names()})


def tensor_names() -> list[str]:
    """Names of the tensor fields of ``Params``, in order."""
    return [f.name for f in fields(Params) if f.name != "cfa"]


WHOLE = "whole"
"""The plan of memory that every model has: everything at once."""
DISK = "disk"
"""The plan, of models that have it, that keeps in a file what it has no memory for."""

Source = Callable[[int, int], Tensor]
"""(first row, end row) → (1, C, rows, W) float32, on the CPU or on the device that computes."""
Sink = Callable[[int, Tensor], None]
"""(first row, (1, C, rows, W)) → nothing: keeps the rows."""

MakeScratch = Callable[[int], Scratch]
"""bytes → a file of that size, for what memory has no room for."""


class IspModel(nn.Module):
    """A network for one direction: ``y = model(x, params)``.

    sRGB is (N, 3, H, W) in [0, 1], display-referred; RAW is a mosaic (N, 1, H, W), linear, black 0, white 1, not
    white-balanced, top-left colour as ``params.cfa`` says. H and W are even, of any size from 2×2: a network that
    needs more pads inside, by reflection, and returns exactly the input's size. Outputs are not clipped. ``params`` has
    one shot for each of the N images. The call raises ConfigError for an input of another shape or type, and for
    another number of shots; values are not looked at.
    """

    name: ClassVar[str]
    """What ``--model`` and the checkpoint header call the architecture."""
    directions: ClassVar[tuple[Direction, ...]] = (Direction.UNPROCESS, Direction.RENDER)
    needs_weights: ClassVar[bool] = True
    color_matrix_row_sum: float | None = None
    """The rule by which ``Params.cam_to_srgb`` is made for these weights: ``color.cam_to_srgb``'s second argument."""
    lens_shading: Sequence[Sequence[float]] | None = None
    """The camera's lens shading, which its JPEGs have corrected: ``isp.shading_gain``'s coefficients, (3, 3), or None.

    The network's own mosaics, going in and coming out, are free of it: ``tiling.run``, which knows where in the picture
    a strip lies, takes it out before rendering and puts it back after unprocessing.
    """
    halo: ClassVar[int | None] = None
    """Reach [px, even] of the output on the input, if the model may be run on tiles; None: it pools over the image."""

    generator: torch.Generator | None
    """Where training's randomness (dropout) comes from; None: torch's default."""

    def __init__(self, direction: Direction) -> None:
        super().__init__()
        self.generator = None
        if direction not in self.directions:
            raise ValueError(f"{self.name} has no direction {direction!r}; it has {', '.join(self.directions)}")
        self.direction = Direction(direction)

    def __call__(self, x: Tensor, params: Params) -> Tensor:
        """Check the shapes, and run ``forward``."""
        self._check(x, params)
        y: Tensor = super().__call__(x, params)
        return y

    def _check(self, x: object, params: object) -> None:
        """Raise ConfigError, in one sentence, for an input that this model does not take."""
        channels, noun = (3, "an sRGB picture") if self.direction == Direction.UNPROCESS else (1, "a mosaic")
        rule = f"{self.direction} takes {noun} (N, {channels}, H, W) of floating point"
        if not isinstance(x, Tensor):
            raise ConfigError(f"{rule} as a tensor, got {type(x).__name__}")
        shape = tuple(x.shape)
        if not x.is_floating_point():
            raise ConfigError(f"{rule}, got {x.dtype}; scale it to [0, 1] first")
        if x.ndim != 4 or x.shape[1] != channels or x.shape[0] == 0:
            raise ConfigError(f"{rule}, got {shape}")
        if x.shape[2] % 2 or x.shape[3] % 2 or 0 in shape:
            raise ConfigError(f"height and width must be even and at least 2, got {shape[2]}×{shape[3]}")
        if not isinstance(params, Params):
            raise ConfigError(f"{self.direction} needs Params beside the pixels, got {type(params).__name__}")
        if len(params) != x.shape[0]:
            raise ConfigError(
                f"{x.shape[0]} images need the Params of {x.shape[0]} shots, got {len(params)}; Params.cat stacks them"
            )
        if params.iso.device != x.device:
            raise ConfigError(f"the images are on {x.device} and the Params on {params.iso.device}; use params.to(...)")

    def config(self) -> dict[str, object]:
        """What, besides the tensors, is needed to build the model again: keyword arguments of the class, as JSON."""
        return {"direction": str(self.direction)}

    def tone_curve(self) -> list[tuple[float, float]] | None:
        """The global curve, linear light → linear light, that the model's unprocessing takes out; None if it has none.

        Points (x, y) from (0, 0) to (1, 1). A DNG profile puts it back, so that any reader shows the photo's look.
        """
        return None

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """An upper estimate of the memory [bytes] that ``stream`` needs, on top of source and sink."""
        return 64 * 4 * height * width

    def plans(self) -> Sequence[str]:
        """The ways in which ``stream`` can use memory, the fastest and hungriest first."""
        return (WHOLE,)

    def stream(
        self,
        source: Source,
        sink: Sink,
        size: tuple[int, int],
        params: Params,
        *,
        dtype: torch.dtype = torch.float32,
        plan: str = WHOLE,
        scratch: MakeScratch | None = None,
    ) -> None:
        """Inference from rows to rows, on the device of ``params``: what ``forward`` gives for an image of ``size``.

        ``sink`` gets every row once, top to bottom, on that device; ``source`` may be asked for rows more than once.
        ``dtype`` is that of the convolutions; the result depends on ``plan`` by no more than rounding. ``scratch``
        makes the file for the plan ``DISK``, which is for CPUs; None: in the system's folder for such.
        """
        device = params.iso.device
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            sink(0, self(source(0, size[0]).to(device), params).float())

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Run the whole image; differentiable."""
        raise TypeError(f"{type(self).__name__} has no forward")
