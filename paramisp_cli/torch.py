"""RAW training data from batches of pictures, as torch modules: unprocess, add noise, render, cut and turn.

    from paramisp_cli.torch import Synthesize
    make = Synthesize(cameras=["Nikon D90", "Canon EOS 60D"], iso=(100, 6400))
    batch = make(pictures)         # (N, 3, H, W) uint8, or float in [0, 1]
    batch["noisy"], batch["clean"], batch["variance"]   # (N, 4, H/2, W/2): R, Gr, Gb, B

RAW is linear, black 0, white 1, not white-balanced. A "mosaic" is (N, 1, H, W); "packed" is (N, 4, H/2, W/2) with the
planes R, Gr (green in red's rows), Gb, B for every CFA. All modules run on any device, in the workers of a
DataLoader and under ``torch.compile``. Random numbers come from a ``torch.Generator`` on the pixels' device, or from
torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import cameras as table
from paramisp_cli import drawn, weights
from paramisp_cli.cameras import CameraFacts
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import IspModel, Params
from paramisp_cli.rendition import develop, parametric
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, Direction, OpticalParams

__all__ = ["AddNoise", "Noisy", "Render", "Shots", "Synthesize", "Unprocess", "augment", "pack", "unpack"]

MOSAIC, PACKED = "mosaic", "packed"
_CHANNELS = {MOSAIC: 1, PACKED: 4}


_Call = TypeVar("_Call", bound=Callable[..., object])


def _untraced(function: _Call) -> _Call:
    """Keep ``torch.compile`` out of a function that makes tensors of Python objects."""
    return cast(_Call, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


# Layouts -------------------------------------------------------------------------------------------------------------


def _planes(cfa: str) -> list[int]:
    """Return the sites of a CFA's 2×2, row-major, in the order R, Gr, Gb, B."""
    red = cfa.index("R")
    return [red, red ^ 1, red ^ 2, red ^ 3]


def pack(mosaic: Tensor, cfa: str = "RGGB") -> Tensor:
    """Take a mosaic (N, 1, H, W) apart: (N, 4, H/2, W/2), R, Gr, Gb, B. Raises ConfigError for another shape."""
    if mosaic.ndim != 4 or mosaic.shape[1] != 1 or mosaic.shape[2] % 2 or mosaic.shape[3] % 2:
        raise ConfigError(f"a mosaic must be (N, 1, H, W) with even H and W, got {tuple(mosaic.shape)}")
    return F.pixel_unshuffle(mosaic, 2)[:, _planes(_known(cfa))]


def unpack(packed: Tensor, cfa: str = "RGGB") -> Tensor:
    """Put the planes R, Gr, Gb, B (N, 4, h, w) together to a mosaic (N, 1, 2h, 2w)."""
    if packed.ndim != 4 or packed.shape[1] != 4:
        raise ConfigError(f"a packed RAW must be (N, 4, H, W), got {tuple(packed.shape)}")
    return F.pixel_shuffle(packed[:, np.argsort(_planes(_known(cfa))).tolist()], 2)


def _known(cfa: str) -> str:
    if cfa not in CFA_PATTERNS:
        raise ConfigError(f"cfa must be one of {', '.join(CFA_PATTERNS)}, got {cfa!r}")
    return cfa


# Shots ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shots:
    """Cameras and settings of N shots; ``draw`` makes them at random, ``of`` makes one.

    camera     names of the cameras
    canonical  CFA (one for all shots), levels, white balance and colour matrix of each shot
    optical    ISO, exposure time, f-number and focal length of each shot
    noise      (N, 3, 2) float32: variance = scale·x + offset for R, G, B, x in [0, 1]
    exposure   (N,) [EV]: brightness of the RAW relative to the picture's; −2 is a RAW two stops darker
    headroom   (N,) [EV]: distance of the picture's white from the RAW's; ``Render`` undoes it
    """

    camera: tuple[str, ...]
    canonical: tuple[CanonicalParams, ...]
    optical: tuple[OpticalParams, ...]
    noise: Tensor
    exposure: Tensor
    headroom: Tensor

    def __len__(self) -> int:
        """Count the shots."""
        return len(self.camera)

    @property
    def cfa(self) -> str:
        """CFA of the batch."""
        return self.canonical[0].cfa

    @classmethod
    def draw(
        cls,
        count: int,
        *,
        cameras: Sequence[str] | None = None,
        iso: tuple[float, float] | None = None,
        exposure: tuple[float, float] = (0, 0),
        headroom: tuple[float, float] = (0, 0),
        cfa: str = "RGGB",
        generator: torch.Generator | None = None,
    ) -> Shots:
        """Draw shots at random, on the CPU; the same generator gives the same shots.

        cameras   names of the camera table; None takes every camera with colour matrix, daylight, noise and CFA
        iso       least and greatest ISO; None takes those at which the camera's noise is known
        exposure, headroom  least and greatest [EV]
        cfa       CFA of all RAWs, in place of the cameras' own

        Light is daylight, warmer or cooler, as ``simulate`` draws it. Raises ConfigError for an unknown camera, one
        that lacks a fact, and an ISO range that is empty.
        """
        known = chosen(cameras)
        for name, (low, high) in (("iso", iso or (1, 1)), ("exposure", exposure), ("headroom", headroom)):
            if not low <= high or (name == "iso" and low <= 0):
                raise ConfigError(f"{name} must be (least, greatest), got ({low:g}, {high:g})")
        device = generator.device if generator is not None else "cpu"
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        rng = np.random.default_rng(seed)
        shots = []
        for _ in range(count):
            facts = known[int(rng.integers(len(known)))]
            optical = drawn.optical(facts, rng, iso)
            shots.append(
                _shot(facts, optical, drawn.neutral(facts, rng), cfa, rng.uniform(*exposure), rng.uniform(*headroom))
            )
        return cls.cat(shots)

    @classmethod
    def of(
        cls,
        camera: str,
        *,
        iso: float,
        exposure_time: float = 1 / 125,
        f_number: float = 4.0,
        focal_length: float = 50.0,
        neutral: Sequence[float] | None = None,
        exposure: float = 0.0,
        headroom: float = 0.0,
        cfa: str = "RGGB",
    ) -> Shots:
        """Make one shot of a camera of the table; ``neutral`` (3,) is its RGB of grey, None: in daylight."""
        facts = chosen([camera])[0]
        light = facts.daylight_neutral if neutral is None else np.array(neutral, np.float64)
        assert light is not None
        optical = OpticalParams(iso, exposure_time, f_number, focal_length)
        return _shot(facts, optical, light, cfa, exposure, headroom)

    @classmethod
    def cat(cls, several: Sequence[Shots]) -> Shots:
        """Join shots of one CFA to a batch."""
        if len({shots.cfa for shots in several}) != 1:
            raise ConfigError(f"a batch has one cfa, got {sorted({shots.cfa for shots in several})}")
        return cls(
            tuple(name for shots in several for name in shots.camera),
            tuple(each for shots in several for each in shots.canonical),
            tuple(each for shots in several for each in shots.optical),
            torch.cat([shots.noise for shots in several]),
            torch.cat([shots.exposure for shots in several]),
            torch.cat([shots.headroom for shots in several]),
        )

    def to(self, device: torch.device | str) -> Shots:
        """Return the shots with their tensors on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("noise", "exposure", "headroom")}
        return replace(self, **moved)

    @_untraced
    def params(self, model: IspModel | None = None) -> Params:
        """Return the parameters as a network takes them; without a model, with the colour matrix of DNG readers."""
        of = Params.of if model is None else model.params_of
        return Params.cat([of(*pair) for pair in zip(self.canonical, self.optical, strict=True)]).to(self.noise.device)

    @_untraced
    def levels(self) -> tuple[Tensor, Tensor]:
        """Return the black level, and the span from black to white, in raw units: (N,) each."""
        black = torch.tensor([float(shot.black_level.mean()) for shot in self.canonical])
        return black, torch.tensor([float(shot.white_level) for shot in self.canonical]) - black

    def tensors(self) -> dict[str, Tensor]:
        """Return all parameters as tensors with N rows, which a DataLoader can collate."""
        params, (black, span) = self.params(), self.levels()
        names = ("wb_gains", "cam_to_srgb", "iso", "exposure_time", "f_number", "focal_length")
        made = {name: getattr(params, name) for name in names}
        made |= {"black_level": black.to(self.noise.device), "white_level": (black + span).to(self.noise.device)}
        return made | {"noise": self.noise, "exposure": self.exposure, "headroom": self.headroom}


def chosen(names: Sequence[str] | None) -> list[CameraFacts]:
    """Return the cameras with these names, or all that lack nothing. Raises ConfigError for others."""
    if names is None:
        return [facts for facts in table.all_cameras() if drawn.lacks(facts) is None]
    found = []
    for name in names:
        facts = table.find_by_name(name)
        if facts is None:
            close = table.close_names(name)
            raise ConfigError(
                f"no camera {name!r} in the table" + (f"; did you mean {', '.join(close)}?" if close else "")
            )
        if lacking := drawn.lacks(facts):
            raise ConfigError(f"{facts.name}: the camera table lacks its {lacking}; choose another camera")
        found.append(facts)
    if not found:
        raise ConfigError("cameras: name at least one camera, or pass None for all")
    return found


def _shot(
    facts: CameraFacts, optical: OpticalParams, neutral: np.ndarray, cfa: str, exposure: float, headroom: float
) -> Shots:
    assert optical.iso is not None
    canonical = replace(drawn.canonical(facts, optical.iso, neutral), cfa=_known(cfa))
    noise = torch.tensor(facts.noise_profile(optical.iso), dtype=torch.float32)[None]
    ev = (torch.tensor([value], dtype=torch.float32) for value in (exposure, headroom))
    return Shots((facts.name,), (canonical,), (optical,), noise, *ev)


# Modules -------------------------------------------------------------------------------------------------------------


def _model(model: str | Path | IspModel, direction: Direction) -> IspModel:
    """Return a frozen model in evaluation mode: gradients flow through it to the pixels, not to its weights."""
    loaded = model if isinstance(model, IspModel) else weights.load_model(model, direction)
    if loaded.direction != direction:
        raise ConfigError(f"{loaded.name} is a model for {loaded.direction}; pass one for {direction}")
    return loaded.eval().requires_grad_(requires_grad=False)


def _layout(layout: str) -> str:
    if layout not in _CHANNELS:
        raise ConfigError(f"layout must be {' or '.join(_CHANNELS)}, got {layout!r}")
    return layout


def _matching(x: Tensor, shots: Shots) -> Shots:
    """Return the shots on the pixels' device. Raises ConfigError for another number of shots."""
    if x.ndim != 4 or len(shots) != x.shape[0]:
        raise ConfigError(f"{len(shots)} shots need a batch of {len(shots)} images, got {tuple(x.shape)}")
    return shots if shots.noise.device == x.device else shots.to(x.device)


def _gain(stops: Tensor) -> Tensor:
    return torch.exp2(stops)[:, None, None, None]


class Unprocess(nn.Module):
    """Pictures (N, 3, H, W), uint8 or float in [0, 1] → clean RAW in [0, 1]; H and W even.

    model   name or file of a checkpoint, "parametric", or a model. "generic" is the fast network for any camera
    layout  "packed" or "mosaic"

    Values beyond the RAW's white are clipped, as a sensor clips. Differentiable in the pixels (float input).
    """

    def __init__(self, model: str | Path | IspModel = "generic", layout: str = PACKED) -> None:
        super().__init__()
        self.model, self.layout = _model(model, Direction.UNPROCESS), _layout(layout)

    def forward(self, pictures: Tensor, shots: Shots) -> Tensor:
        """Unprocess a batch with its shots. Raises ConfigError for other shapes and types."""
        shots = _matching(pictures, shots)
        if pictures.dtype == torch.uint8 and pictures.device.type == "cpu" and self.model.name == "parametric":
            mosaic = _by_table(pictures, shots)
        else:
            pixels = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures
            mosaic = self.model(pixels, shots.params(self.model))
        stops = shots.exposure - shots.headroom
        if bool(stops.any()):
            mosaic = mosaic * _gain(stops)
        mosaic = mosaic.clamp(0, 1)
        return pack(mosaic, shots.cfa) if self.layout == PACKED else mosaic


def _by_table(pictures: Tensor, shots: Shots) -> Tensor:
    """Unprocess 8-bit pictures with the parametric model by its table of codes, ten times as fast as in floats."""
    size = (pictures.shape[2], pictures.shape[3])
    if size[0] % 2 or size[1] % 2 or not all(size):
        raise ConfigError(f"height and width must be even and at least 2, got {size[0]}×{size[1]}")
    made = np.empty((len(shots), 1, *size), np.float32)
    for each, picture, canonical in zip(made, pictures.permute(0, 2, 3, 1).numpy(), shots.canonical, strict=True):
        stage = parametric.ParametricUnprocess(canonical)
        each[0] = develop.expose(picture, stage, canonical, size, dtype=np.float32, threads=torch.get_num_threads())
    return torch.from_numpy(made)


class Noisy(NamedTuple):
    """A RAW with noise, and the variance of its noise, both of the clean RAW's shape."""

    noisy: Tensor
    variance: Tensor


class AddNoise(nn.Module):
    """Add a camera's noise to a clean RAW, mosaic or packed, in [0, 1].

    shot       "poisson": whole electrons; "gaussian": the normal distribution of the same variance, ten times as fast
    read       whether to add read noise
    row        noise common to each row of the mosaic, in units of the read noise's standard deviation
    quantise   whether to round to the camera's raw units
    clip       "raw": between the raw values 0 and white, so that noise falls below black, as in RAW files; "black":
               between black and white; "none"
    subtract   whether to leave out the noise that is in the picture already: measured in its smooth blocks, a share of the
               camera's variance in each channel

    The variance that ``forward`` returns is that of all noise in the result before clipping, the picture's included.
    Gradients pass to the clean RAW as if the noise were a constant.
    """

    def __init__(
        self,
        *,
        shot: str = "poisson",
        read: bool = True,
        row: float = 0.0,
        quantise: bool = True,
        clip: str = "raw",
        subtract: bool = False,
    ) -> None:
        super().__init__()
        for name, value, values in (("shot", shot, ("poisson", "gaussian")), ("clip", clip, ("raw", "black", "none"))):
            if value not in values:
                raise ConfigError(f"{name} must be one of {', '.join(values)}, got {value!r}")
        if not (math.isfinite(row) and row >= 0):
            raise ConfigError(f"row must be 0 or more, got {row}")
        self.shot, self.read, self.row = shot, read, row
        self.quantise, self.clip, self.subtract = quantise, clip, subtract

    def forward(self, raw: Tensor, shots: Shots, generator: torch.Generator | None = None) -> Noisy:
        """Return the noisy RAW and the variance. Raises ConfigError for other shapes and types."""
        shots = _matching(raw, shots)
        if raw.shape[1] not in _CHANNELS.values() or not raw.is_floating_point():
            raise ConfigError(f"a RAW must be (N, 1, H, W) or (N, 4, H/2, W/2) of floats, got {tuple(raw.shape)}")
        with torch.no_grad():
            noise, variance, low, high = self._noise(raw.detach().float(), shots, generator)
        noisy = raw + noise
        return Noisy(noisy if self.clip == "none" else torch.maximum(torch.minimum(noisy, high), low), variance)

    def _noise(
        self, raw: Tensor, shots: Shots, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (noise, variance, least value, greatest value)."""
        black, span = (each[:, None, None, None].to(raw) for each in shots.levels())
        scale, offset = (self._sites(shots.noise[:, :, each], raw, shots.cfa) for each in (0, 1))
        light = raw.clamp(min=0)
        offset = offset if self.read else torch.zeros_like(offset)
        share = self._left(raw, shots, scale, offset) if self.subtract else None
        own = 1.0 if share is None else (1 - share).clamp(min=0)
        variance = scale * light + offset
        if self.shot == "poisson":
            noise = (scale * torch.poisson(light / scale, generator=generator) - light) * own**0.5
            noise += (offset * own).sqrt() * self._normal(raw.shape, raw, generator)
        else:
            noise = (variance * own).sqrt() * self._normal(raw.shape, raw, generator)
        if self.row:
            strength = self.row**2 * shots.noise[:, 1, 1]
            rows = self._normal((raw.shape[0], 1, raw.shape[2] * (2 if raw.shape[1] == 4 else 1), 1), raw, generator)
            rows = rows * strength.sqrt()[:, None, None, None]
            if raw.shape[1] == 4:
                sites = _planes(shots.cfa)
                rows = torch.cat([rows[:, :, site // 2 :: 2] for site in sites], 1)
            noise = noise + rows
            variance = variance + strength[:, None, None, None]
        if self.quantise:
            noise = ((raw + noise) * span + black).round().sub(black).div(span) - raw
            variance = variance + 1 / (12 * span.square())
        if share is not None:
            variance = torch.maximum(variance, (scale * light + offset) * share)
        return noise, variance, -black / span if self.clip == "raw" else torch.zeros_like(span), torch.ones_like(span)

    @staticmethod
    def _normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.randn(tuple(shape), generator=generator, device=like.device, dtype=like.dtype)

    @staticmethod
    def _sites(values: Tensor, raw: Tensor, cfa: str) -> Tensor:
        """Spread values (N, 3) of R, G, B over a RAW: (N, 4, 1, 1), or (N, 1, H, W) for a mosaic."""
        if raw.shape[1] == 4:
            return values[:, [0, 1, 1, 2], None, None].to(raw)
        sites = values[:, ["RGB".index(letter) for letter in cfa]].to(raw).view(-1, 1, 2, 2)
        return sites.repeat(1, 1, raw.shape[2] // 2, raw.shape[3] // 2)

    @staticmethod
    def _left(raw: Tensor, shots: Shots, scale: Tensor, offset: Tensor) -> Tensor:
        """Measure the share of the camera's variance that each plane of the clean RAW has in its smooth blocks.

        As in ``flat_noise``: diagonal differences in blocks of 8×8, of which the lower quartile counts.
        """
        mosaic = raw.shape[1] == 1
        packed = pack(raw, shots.cfa) if mosaic else raw
        scale, offset = (pack(each, shots.cfa)[..., :1, :1] if mosaic else each for each in (scale, offset))
        rows, columns = packed.shape[2] // 8 * 8, packed.shape[3] // 8 * 8
        if not rows or not columns:
            return torch.zeros_like(raw[:, :, :1, :1])
        inside = packed[..., :rows, :columns]
        rough = inside[..., ::2, ::2] - inside[..., 1::2, ::2] - inside[..., ::2, 1::2] + inside[..., 1::2, 1::2]
        found = F.avg_pool2d(rough.square() / 4, 4) / (scale * F.avg_pool2d(inside, 8).clamp(min=0) + offset + 1e-12)
        share = torch.quantile(found.flatten(2), 0.25, dim=2)[..., None, None] / 0.745
        return unpack(share, shots.cfa).repeat(1, 1, *(size // 2 for size in raw.shape[2:])) if mosaic else share


class Render(nn.Module):
    """RAW, mosaic or packed, in [0, 1] → pictures (N, 3, H, W) in [0, 1], not rounded.

    ``model``: name or file of a checkpoint, "parametric", or a model. Differentiable in the RAW.
    """

    def __init__(self, model: str | Path | IspModel = "generic") -> None:
        super().__init__()
        self.model = _model(model, Direction.RENDER)

    def forward(self, raw: Tensor, shots: Shots) -> Tensor:
        """Render a batch with its shots. Raises ConfigError for other shapes and types."""
        shots = _matching(raw, shots)
        mosaic = unpack(raw, shots.cfa) if raw.shape[1] == 4 else raw
        if bool(shots.headroom.any()):
            mosaic = (mosaic * _gain(shots.headroom)).clamp(max=1)
        picture: Tensor = self.model(mosaic, shots.params(self.model))
        return picture.clamp(0, 1)


class Synthesize(nn.Module):
    """Pictures → training pairs of clean and noisy RAW: draws shots, unprocesses and adds noise.

    Takes (3, H, W) too, and then returns everything without the batch's dimension: a transform for a data set. Returns
    a dictionary of tensors: "clean", "noisy", "variance", and the parameters of ``Shots.tensors``.

    model, layout                           see ``Unprocess``
    cameras, iso, exposure, headroom, cfa   see ``Shots.draw``
    noise                                   the module that adds noise; None: ``AddNoise()``
    """

    def __init__(
        self,
        model: str | Path | IspModel = "generic",
        layout: str = PACKED,
        *,
        cameras: Sequence[str] | None = None,
        iso: tuple[float, float] | None = None,
        exposure: tuple[float, float] = (0, 0),
        headroom: tuple[float, float] = (0, 0),
        cfa: str = "RGGB",
        noise: AddNoise | None = None,
    ) -> None:
        super().__init__()
        self.unprocess, self.noise = Unprocess(model, layout), AddNoise() if noise is None else noise
        chosen(cameras)  # a wrong name fails here, not in a worker
        self.cameras, self.iso, self.exposure, self.headroom, self.cfa = cameras, iso, exposure, headroom, _known(cfa)

    def forward(
        self, pictures: Tensor, shots: Shots | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Make the RAWs of pictures, with these shots, or with shots drawn at random."""
        one = pictures.ndim == 3
        batch = pictures[None] if one else pictures
        if batch.ndim != 4 or batch.shape[1] != 3:
            raise ConfigError(f"pictures must be (3, H, W) or (N, 3, H, W), got {tuple(pictures.shape)}")
        if shots is None:
            shots = Shots.draw(
                batch.shape[0],
                cameras=self.cameras,
                iso=self.iso,
                exposure=self.exposure,
                headroom=self.headroom,
                cfa=self.cfa,
                generator=generator,
            )
        shots = _matching(batch, shots)
        with torch.no_grad():
            clean = self.unprocess(batch, shots)
            noisy, variance = self.noise(clean, shots, generator)
        made = {"clean": clean, "noisy": noisy, "variance": variance} | shots.tensors()
        return {name: value[0] for name, value in made.items()} if one else made


# Augmentation --------------------------------------------------------------------------------------------------------


def augment(
    *raws: Tensor,
    size: int | None = None,
    cfa: str = "RGGB",
    turns: bool = True,
    flips: bool = True,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    """Cut, turn and flip RAWs of one batch at random, all alike, and return them with the same CFA.

    A turned mosaic has another CFA at its corner; two more rows and columns are cut off to restore the CFA.

    raws   (N, 1, H, W) or (N, 4, H/2, W/2): noisy, clean, variance …
    size   side of the square to cut out, in samples of the mosaic, even; None: all of the largest square
    turns, flips  whether to turn by quarters, and to mirror

    Raises ConfigError for RAWs of different sizes, and for a size that does not fit.
    """
    mosaics = [unpack(raw, cfa) if raw.shape[1] == 4 else raw for raw in raws]
    if not mosaics or len({tuple(mosaic.shape[2:]) for mosaic in mosaics}) != 1:
        raise ConfigError(f"augment takes RAWs of one size, got {[tuple(raw.shape) for raw in raws]}")
    height, width = mosaics[0].shape[2:]
    side = min(height, width) // 2 * 2 - 2 if size is None else size
    if side < 2 or side % 2 or side + 2 > min(height, width):
        raise ConfigError(f"size must be even, from 2 to {min(height, width) // 2 * 2 - 2}, got {side}")

    def pick(count: int) -> int:
        device = generator.device if generator is not None else "cpu"
        return int(torch.randint(count, (), generator=generator, device=device))

    top, left = 2 * pick((height - side) // 2), 2 * pick((width - side) // 2)
    quarter, mirror = pick(4) if turns else 0, bool(pick(2)) if flips else False
    results = []
    for raw, mosaic in zip(raws, mosaics, strict=True):
        moved = _moved(mosaic[..., top : top + side + 2, left : left + side + 2], quarter, mirror=mirror)
        pattern = _moved(torch.tensor([ord(letter) for letter in _known(cfa)]).view(1, 1, 2, 2), quarter, mirror=mirror)
        down, right = _shift([chr(code) for code in pattern.flatten().tolist()], cfa)
        cut = moved[..., down : down + side, right : right + side]
        results.append(pack(cut, cfa) if raw.shape[1] == 4 else cut.contiguous())
    return tuple(results)


def _moved(x: Tensor, quarter: int, *, mirror: bool) -> Tensor:
    x = torch.rot90(x, quarter, (-2, -1))
    return x.flip(-1) if mirror else x


def _shift(pattern: Sequence[str], cfa: str) -> tuple[int, int]:
    """Return the rows and columns to cut off, so that a CFA with this 2×2 begins with ``cfa``."""
    for down in (0, 1):
        for right in (0, 1):
            if "".join(pattern[2 * ((y + down) % 2) + (x + right) % 2] for y in (0, 1) for x in (0, 1)) == cfa:
                return down, right
    raise AssertionError(pattern)
