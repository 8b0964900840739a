"""Shots: cameras and settings of a batch, given or drawn at random."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import cameras as table
from paramisp_cli import drawn
from paramisp_cli.cameras import CameraFacts
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import IspModel, Params
from paramisp_cli.torch.layouts import known as known_cfa
from paramisp_cli.types import CanonicalParams, OpticalParams

_Call = TypeVar("_Call", bound=Callable[..., object])


def untraced(function: _Call) -> _Call:
    """Keep ``torch.compile`` out of a function that makes tensors of Python objects."""
    disabled: Callable[..., object] | None = None

    @wraps(function)
    def call(*arguments: object, **named: object) -> object:
        nonlocal disabled
        if disabled is None:
            if "torch._dynamo" not in sys.modules:  # importing it takes as long as torch, and nothing is compiled yet
                return function(*arguments, **named)
            disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
        return disabled(*arguments, **named)

    return cast(_Call, call)


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
    @untraced
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
    @untraced
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
    @untraced
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

    @untraced
    def params(self, model: IspModel | None = None) -> Params:
        """Return the parameters as a network takes them; without a model, with the colour matrix of DNG readers."""
        of = Params.of if model is None else model.params_of
        return Params.cat([of(*pair) for pair in zip(self.canonical, self.optical, strict=True)]).to(self.noise.device)

    @untraced
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
    canonical = replace(drawn.canonical(facts, optical.iso, neutral), cfa=known_cfa(cfa))
    noise = torch.tensor(facts.noise_profile(optical.iso), dtype=torch.float32)[None]
    ev = (torch.tensor([value], dtype=torch.float32) for value in (exposure, headroom))
    return Shots((facts.name,), (canonical,), (optical,), noise, *ev)


def matching(x: Tensor, shots: Shots) -> Shots:
    """Return the shots on the pixels' device. Raises ConfigError for another number of shots."""
    if x.ndim != 4 or len(shots) != x.shape[0]:
        raise ConfigError(f"{len(shots)} shots need a batch of {len(shots)} images, got {tuple(x.shape)}")
    return shots if shots.noise.device == x.device else shots.to(x.device)
