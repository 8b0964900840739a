"""Interface of every network: its input, its output, its geometry, its memory plans and its training phases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.geometry import BANDS, DISK, HOST, WHOLE, Geometry
from paramisp_cli.models.regions import Progress, Sink, Source
from paramisp_cli.rendition.fit import Cells
from paramisp_cli.types import CFA_PATTERNS, FALLBACK_OPTICAL, CanonicalParams, OpticalParams

__all__ = [
    "BANDS", "DISK", "HOST", "WHOLE", "Geometry", "IspModel", "MakeStore", "Params", "Store", "StoredRows",
    "tensor_names",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Params:
    """The parameters of N shots as float32 tensors.

    ``Params.of`` makes one shot's parameters, ``Params.cat`` a batch. Raises ConfigError for wrong shapes and types.

    wb_gains (N, 3), G = 1 · cam_to_srgb (N, 3, 3), white-balanced camera RGB → linear sRGB, rows scaled as the
    checkpoint expects · iso, exposure_time [s], f_number, focal_length [mm], each (N,) · cfa, one for the batch ·
    thumbnail (N, 3, side, side) of each whole picture, for models that look at one; None: the image is the picture ·
    noise (N,), the σ of the mosaic's noise at middle grey, for models that restore; None: a mosaic made of a picture.
    """

    wb_gains: Tensor
    cam_to_srgb: Tensor
    iso: Tensor
    exposure_time: Tensor
    f_number: Tensor
    focal_length: Tensor
    cfa: str = "RGGB"
    thumbnail: Tensor | None = None
    noise: Tensor | None = None

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
        """Make the parameters of one shot (N = 1); ``FALLBACK_OPTICAL`` replaces unknown optical values.

        ``row_sum`` is the rule of the colour matrix (``color.cam_to_srgb``); ``IspModel.params_of`` passes it.
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
        thumbnails = [p.thumbnail for p in several if p.thumbnail is not None]
        if len(thumbnails) not in (0, len(several)):
            raise ConfigError("a batch has a thumbnail for each of its shots, or for none")
        noises = [p.noise for p in several if p.noise is not None]
        if len(noises) not in (0, len(several)):
            raise ConfigError("a batch has the noise of each of its shots, or of none")
        return cls(
            **joined,
            cfa=several[0].cfa,
            thumbnail=torch.cat(thumbnails) if thumbnails else None,
            noise=torch.cat(noises) if noises else None,
        )

    def to(self, device: torch.device | str) -> Params:
        """Return the parameters on another device."""
        thumbnail = None if self.thumbnail is None else self.thumbnail.to(device)
        moved = {name: getattr(self, name).to(device) for name in tensor_names()}
        return replace(self, **moved, thumbnail=thumbnail, noise=None if self.noise is None else self.noise.to(device))


def tensor_names() -> list[str]:
    """Return the names of the fields of ``Params`` that always hold a tensor, in order."""
    return [f.name for f in fields(Params) if f.name not in ("cfa", "thumbnail", "noise")]


class StoredRows(Protocol):
    """A tensor in a store, with a window of its rows in memory."""

    def __call__(self, first: int, end: int, *, fresh: bool = False, change: bool = False) -> Tensor:
        """Return rows [first, end), valid until the next call.

        ``fresh``: the caller overwrites the rows, so they are not read. ``change``: the rows are written back.
        """


class Store(Protocol):
    """Storage outside the computing device's memory: a file, or host memory beside a GPU."""

    def rows(self, shape: tuple[int, ...], window: int, like: Tensor) -> StoredRows:
        """Reserve a tensor of this shape; ``window`` rows of it are in memory at a time, on the device of ``like``."""


MakeStore = Callable[[int], AbstractContextManager[Store]]
"""Function that makes a store of a size [bytes]."""


class IspModel(nn.Module):
    """A network for one direction: ``y = model(x, params)``.

    sRGB is (N, 3, H, W) in [0, 1], display-referred; RAW is a mosaic (N, 1, H, W), linear, black 0, white 1, not
    white-balanced, with the CFA ``params.cfa``. H and W are even, of any size from 2×2. Outputs are not clipped.
    ``params`` has one shot for each of the N images. The call raises ConfigError for an input of another shape or type,
    and for another number of shots; it does not check values. A subclass states its ``geometry`` and implements
    ``compute``, whose inputs always have sizes that the geometry allows.
    """

    name: ClassVar[str]
    """Name in ``--model`` and in checkpoint headers."""
    directions: ClassVar[tuple[Direction, ...]] = (Direction.UNPROCESS, Direction.RENDER)
    needs_weights: ClassVar[bool] = True
    serves_both: ClassVar[bool] = False
    """Whether one set of weights serves both directions: a file may hold it for both."""
    both_ways: ClassVar[bool] = False
    """Whether a network for a pair of cameras maps the second's RAW to the first's, too (``backwards``)."""
    stages: ClassVar[tuple[str, ...]] = ()
    """Stages at which rendering can stop; each gives linear sRGB (N, 3, H, W), white 1, not clipped."""
    stop_at: str | None = None
    """Stage whose result is the output; None: the last. ``stopping_at`` sets it, ``compute`` and ``stream`` obey it."""
    geometry: Geometry
    macs: float = 0.0
    """Multiply-accumulates of convolutions a pixel."""
    lens_shading: Sequence[Sequence[float]] | None = None
    """Lens shading that the camera corrects in its JPEGs: ``isp.shading_gain``'s coefficients, (3, 3), or None.

    The network's mosaics, input and output, are free of shading. ``Runner.run``, which knows where in the picture a
    strip lies, removes it before rendering and adds it after unprocessing.
    """

    generator: torch.Generator | None
    """Random generator for training (dropout); None: torch's default."""

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
        """Raise ConfigError, in one sentence, for an input that this model does not accept."""
        channels = self.direction.input.channels
        noun = "an sRGB picture" if channels == 3 else "a mosaic"
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

    def stopping_at(self, stage: str) -> Self:
        """Return this model with the result of a stage as its output; both share their weights.

        Raises ConfigError for a stage that the model does not have.
        """
        if stage not in self.stages:
            raise ConfigError(f"{self.name} has no stage {stage!r}; it has {', '.join(self.stages) or 'none'}")
        stopping = copy.copy(self)  # not deep: tensors and layers are the same objects
        stopping.stop_at = stage
        return stopping

    def config(self) -> dict[str, object]:
        """Return the keyword arguments of the class that rebuild this model, as JSON; without tensors."""
        return {"direction": str(self.direction)}

    def shading_config(self) -> dict[str, object]:
        """Return the argument ``lens_shading`` for ``config``, of models that take it; without shading, none."""
        if self.lens_shading is None:
            return {}
        return {"lens_shading": [list(row) for row in self.lens_shading]}

    def facts(self) -> dict[str, str]:
        """Return additional strings for a checkpoint's header."""
        return {}

    def params_of(self, canonical: CanonicalParams, optical: OpticalParams) -> Params:
        """Make the parameters of one shot, with this model's rule for the colour matrix."""
        return Params.of(canonical, optical)

    def surveyed(self, source: Source, size: tuple[int, int], params: Params) -> Params:
        """Return the parameters with the thumbnail of the whole picture, if the model needs it.

        Callers that cut a picture into tiles call this once, on the device of ``params``. The default adds nothing.
        """
        return params

    def survey_pixels(self, size: tuple[int, int]) -> float:
        """Return the work of ``surveyed`` for a picture of ``size``, in pixels of ``compute``; 0: next to none."""
        return 0.0

    def tone_curve(self) -> list[tuple[float, float]] | None:
        """Return the global curve, linear light → linear light, that unprocessing removes; None if there is none.

        Points (x, y) from (0, 0) to (1, 1). A DNG profile applies it again, so that any reader shows the photo's look.
        """
        return None

    # --- training -----------------------------------------------------------------------------------------------------

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights to start training from; the default is every layer's own initialisation."""
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(generator.get_state())
            for module in self.modules():
                if callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
            generator.set_state(torch.get_rng_state())

    def other_way(self) -> IspModel:
        """Return this network for its other direction, with the same weights; only where ``serves_both``."""
        raise TypeError(f"{self.name} has weights of its own for each direction")

    def backwards(self) -> Self:
        """Return this network from its second camera to its first, with the same weights; only where ``both_ways``."""
        raise TypeError(f"{self.name} maps one camera to another, and not back")

    takes_restored: ClassVar[bool] = False
    """Whether ``own_loss`` uses ``restored``."""

    def own_loss(self, x: Tensor, wanted: Tensor, params: Params, restored: Tensor | None = None) -> Tensor | None:
        """Return the loss with which its authors train the network for one direction; None: the common one.

        ``restored`` (N, 3, H, W) is the picture before any tone: linear, white-balanced sRGB, as large as the mosaic
        and clipped only where the sensor clips. Of simulated shots it has no noise. None: it is not known.
        """
        return None

    def joint_loss(self, other: IspModel, srgb: Tensor, raw: Tensor, params: Params) -> Tensor | None:
        """Return its authors' loss of both directions together; None: the common one.

        This network unprocesses, and ``other`` renders.
        """
        return None

    fits_colours: ClassVar[bool] = False
    """Whether ``fit_colours`` does anything."""

    def fit_colours(self, photographs: Sequence[Cells]) -> None:
        """Fit the colours in closed form to pixels of one camera's photographs; the default does nothing."""

    def trust_colours(self) -> None:
        """Rely on the fitted colours alone: no training of the network will follow. The default does nothing."""

    def phases(self) -> tuple[str, ...]:
        """Return the names of the training phases that the model offers; "all" trains everything."""
        return ("all",)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Set the model up for a training phase; raises ValueError for a phase that the model does not offer."""
        if name not in self.phases():
            raise ValueError(f"{self.name} has no training phase {name!r}; it has {', '.join(self.phases())}")
        yield

    # --- inference ----------------------------------------------------------------------------------------------------

    def peak_bytes(self, height: int, width: int, plan: str = WHOLE) -> int:
        """Return an upper estimate of the memory [bytes] of ``stream``, without source, sink and store."""
        return 64 * 4 * height * width

    def store_bytes(self, height: int, width: int) -> int:
        """Return the size of the store [bytes] in the plans ``DISK`` and ``HOST``."""
        return 0

    def plans(self, device: torch.device) -> tuple[str, ...]:
        """Return the memory plans of ``stream`` on a device, the fastest and largest first."""
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
        store: MakeStore | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Run the model from rows to rows, on the device of ``params``, as ``forward`` does for an image of ``size``.

        ``sink`` gets every row once, top to bottom, on the same device; ``source`` may be called more than once for a
        row. ``dtype`` is the type of the convolutions. Results of different plans differ only by rounding. ``store``
        makes the store for the plans ``DISK`` and ``HOST``. ``progress`` takes the finished
        share of the work.
        """
        device = params.iso.device
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            sink(0, self(source(0, size[0]).to(device), params).float())

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Run the whole image, padded by reflection to the geometry and cropped back; differentiable."""
        height, width = x.shape[-2:]
        right, below = self.geometry.padded(width) - width, self.geometry.padded(height) - height
        y = self.compute(isp.reflect_pad(x, 0, right, 0, below), params)
        return y[..., :height, :width] if right or below else y

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Compute the output, of the same height and width, for an input whose sides the geometry allows."""
        raise TypeError(f"{type(self).__name__} has no compute")
