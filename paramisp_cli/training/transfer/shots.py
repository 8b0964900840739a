"""Shots of two cameras in memory: their split, random crops, noise, and the closed form of the pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from paramisp_cli.cameras import spectra
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import Params
from paramisp_cli.training.simulated import spectral

VALIDATED = 200
"""Steps between two validations."""
_VALIDATION = 40
"""Largest number of shots of a validation."""
_NOISE = (4e-4, 2e-6)
"""Scale and offset of the noise that a part of the training and of the measuring adds: a camera at about ISO 1600."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a training: step, steps, mean loss since the last report, and PSNR [dB] on the validation scene."""

    step: int
    steps: int
    loss: float
    psnr: float
    best: float


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """Shots of one size: both cameras' RGB (n, 3, H, W) and neutrals (n, 3), float32."""

    shots: tuple[spectral.Shot, ...]
    a: Tensor
    b: Tensor
    neutral_a: Tensor
    neutral_b: Tensor

    def params(self, which: slice | Tensor = slice(None)) -> Params:
        """Return the first camera's parameters of some of the shots."""
        neutral = self.neutral_a[which]
        n = len(neutral)
        return Params(
            wb_gains=1 / neutral, cam_to_srgb=torch.eye(3).repeat(n, 1, 1), iso=torch.full((n,), 100.0),
            exposure_time=torch.full((n,), 0.01), f_number=torch.full((n,), 4.0), focal_length=torch.full((n,), 50.0),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of two cameras: its folder, its cameras, all shots, and whether they are read in reverse."""

    folder: Path
    series: spectral.Series
    shots: tuple[spectral.Shot, ...]
    reverse: bool = False

    def pixels(self, shots: Sequence[spectral.Shot]) -> Pixels:
        """Read some of the shots; raises FormatError for a damaged file."""
        return pixels(self.folder, shots, reverse=self.reverse)


def load(folder: Path | str, a: str | None = None, b: str | None = None) -> DataSet:
    """Return the data set in a folder, from camera ``a`` to ``b``, in either order; None: as the data set has them.

    Raises ConfigError if the folder holds no data set, or one of other cameras.
    """
    series, shots = spectral.load(folder)
    own = [spectral.sensor(name).name for name in (series.a, series.b)]
    wanted = [None if name is None else spectral.sensor(name).name for name in (a, b)]
    fits = [all(name in (None, known) for name, known in zip(wanted, pair, strict=True)) for pair in (own, own[::-1])]
    if not any(fits):
        raise ConfigError(f"{folder} is of {' and '.join(own)}, not from {a or 'either'} to {b or 'the other'}")
    if fits[0]:
        return DataSet(Path(folder), series, tuple(shots))
    turned = tuple(replace(shot, neutral_a=shot.neutral_b, neutral_b=shot.neutral_a) for shot in shots)
    return DataSet(Path(folder), replace(series, a=series.b, b=series.a), turned, reverse=True)


def pixels(dataset: Path | str, shots: Sequence[spectral.Shot], *, reverse: bool = False) -> Pixels:
    """Read shots, the second camera first with ``reverse``; raises FormatError for a damaged file."""
    pairs = [spectral.read(dataset, shot)[:: -1 if reverse else 1] for shot in shots]
    a, b = (torch.from_numpy(np.stack(each).transpose(0, 3, 1, 2).copy()) for each in zip(*pairs, strict=True))
    neutrals = (torch.tensor([getattr(shot, name) for shot in shots]) for name in ("neutral_a", "neutral_b"))
    return Pixels(tuple(shots), a, b, *neutrals)


def split(
    shots: Sequence[spectral.Shot],
) -> tuple[list[spectral.Shot], list[spectral.Shot], list[spectral.Shot]]:
    """Return the shots for training, validation (the last training scene) and test; raises ConfigError if one lacks."""
    seen = list(dict.fromkeys(shot.scene for shot in shots if not shot.test))
    parts = (
        [shot for shot in shots if not shot.test and shot.scene != seen[-1]],
        [shot for shot in shots if not shot.test and shot.scene == seen[-1]],
        [shot for shot in shots if shot.test],
    )
    if not all(parts):
        raise ConfigError("a data set of transfers needs 4 scenes or more: training, validation and test share none")
    return parts


def of_validation(shots: Sequence[spectral.Shot]) -> Sequence[spectral.Shot]:
    """Return some of the validation's shots, over all its lights."""
    return shots[:: -(-len(shots) // _VALIDATION)]


def base(series: spectral.Series) -> spectra.Fit:
    """Return the closed form of the two cameras, fitted to the reflectances that the test shots do not have."""
    a, b = (spectral.sensor(name).sensitivity for name in (series.a, series.b))
    return spectra.fit(a, b, spectra.reflectances()[::2], list(spectra.lights("fitted").values()))


def cropped(a: Tensor, b: Tensor, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut the same square of at most ``side`` pixels a side from both pictures."""
    side = min(side, *a.shape[2:])
    top, left = (int(torch.randint(length - side + 1, (1,), generator=generator)) for length in a.shape[2:])
    return tuple(each[..., top : top + side, left : left + side] for each in (a, b))  # type: ignore[return-value]


def turned(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror and turn both pictures alike, at random, and darken both by up to 2 EV."""
    turns, mirror = (int(torch.randint(4, (1,), generator=generator)) for _ in range(2))
    gain = 2 ** (-2 * torch.rand(len(a), 1, 1, 1, generator=generator))
    both = [torch.rot90(each, turns, (2, 3)) * gain for each in (a, b)]
    both = [each.flip(3) for each in both] if mirror % 2 else both
    return both[0], both[1]


def noisy(a: Tensor, generator: torch.Generator) -> Tensor:
    """Add the noise of a camera at about ISO 1600."""
    scale, offset = _NOISE
    return a + torch.randn(a.shape, generator=generator) * (scale * a + offset).sqrt()


class Network(Protocol):
    """A network from one camera's colours to another's."""

    training: bool

    def colours(self, camera: Tensor, params: Params) -> Tensor:
        """Map camera RGB (N, 3, H, W), linear."""

    def train(self, mode: bool = True) -> object:
        """Set the mode."""

    def eval(self) -> object:
        """Set the mode for inference."""


def predicted(model: Network, shown: Pixels, device: torch.device | str = "cpu") -> Tensor:
    """Return the second camera's colours (n, 3, H, W) that a network predicts."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        parts = [
            model.colours(shown.a[at : at + 8].to(device), shown.params(slice(at, at + 8)).to(device)).cpu()
            for at in range(0, len(shown.a), 8)
        ]
    model.train(training)
    return torch.cat(parts).clone()


def psnr(shown: Tensor, wanted: Tensor) -> float:
    """Return the mean PSNR [dB] of pictures (n, 3, H, W)."""
    errors = (shown - wanted).double().square().flatten(1).mean(1)
    return float((-10 * torch.log10(errors.clamp(min=1e-12))).mean())
