"""Train the network that takes shake out of mosaics, on pairs of simulated cameras (``simulated.shaken``)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paramisp_cli.cameras import CameraFacts
from paramisp_cli.models.base import Params
from paramisp_cli.models.deblur import Deblur, root
from paramisp_cli.training.folder import hold, write_state
from paramisp_cli.training.simulated import scenes, shaken
from paramisp_cli.types import CanonicalParams, OpticalParams

CHECKPOINT = "checkpoint.pt"
_WHITE = 0.999
"""Root of light from which a pixel counts as clipped."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that decides a training, besides its pairs.

    core_minutes  processor time, all threads together; the learning rate falls by it
    pictures      share of the pairs whose mosaics are made of the camera's JPEG
    frequencies   weight of the mean absolute error of Fourier coefficients
    saturated     weight of pixels whose sharp light is clipped
    """

    core_minutes: float = 45.0
    batch: int = 8
    crop: int = 224
    lr: float = 1.5e-3
    lr_end: float = 1e-6
    warmup: int = 50
    weight_decay: float = 1e-3
    ema: float = 0.998
    pictures: float = 0.35
    frequencies: float = 0.1
    saturated: float = 0.1
    seed: int = 0
    bf16: bool = True


@dataclass(frozen=True, slots=True)
class Pair:
    """Mosaics (H, W) float16, linear, "RGGB": the input and the target; the σ of noise (0: of a picture), the shot."""

    blurred: np.ndarray
    sharp: np.ndarray
    noise: float
    length: float
    canonical: CanonicalParams


def make_pair(
    number: int, sources: Sequence[scenes.Scene], cameras: Sequence[CameraFacts], size: int, schedule: Schedule
) -> Pair:
    """Make a pair; it follows from its number and the seed.

    Where the camera's own JPEG is the source and there is next to no shake, the target is the input itself: a sharp
    photograph does not change, nor does its grain.
    """
    rng = np.random.default_rng((schedule.seed, number))
    scene = sources[int(rng.integers(len(sources)))]
    facts = cameras[int(rng.integers(len(cameras)))]
    shot = shaken.take(scene, facts, size, shaken.draw_length(rng), rng)
    noise = shot.noise
    blurred, sharp = shot.mosaics()
    if rng.random() < schedule.pictures:
        noise = 0.0
        blurred, sharp = (shaken.unprocessed(each, shot.canonical) for each in shot.pictures(int(rng.integers(1000))))
        if shot.length < shaken.STILLEST:
            sharp = blurred
    return Pair(blurred.astype(np.float16), sharp.astype(np.float16), noise, shot.length, shot.canonical)


def batch_of(pairs: Sequence[Pair], crop: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Params]:
    """Cut a crop of each pair, mirrored and transposed at random → (blurred, sharp (N, 1, H, W), parameters).

    A mirrored mosaic begins one pixel further in, so that its CFA still begins with red.
    """
    inputs: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    params = []
    for pair in pairs:
        room = (pair.blurred.shape[0] - crop - 2) // 2 + 1
        top, left = (2 * int(rng.integers(room)) for _ in range(2))
        down, across, diagonal = rng.random(3) < 0.5
        for side, into in ((pair.blurred, inputs), (pair.sharp, targets)):
            piece = side[top : top + crop + 2 * down, left : left + crop + 2 * across]
            piece = piece[::-1][1:-1] if down else piece
            piece = piece[:, ::-1][:, 1:-1] if across else piece
            into.append(np.ascontiguousarray(piece.T if diagonal else piece, dtype=np.float32)[None])
        shot = Params.of(pair.canonical, OpticalParams())
        params.append(replace(shot, noise=torch.tensor([pair.noise], dtype=torch.float32)))
    return torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(targets)), Params.cat(params)


def loss_of(model: Deblur, blurred: Tensor, sharp: Tensor, params: Params, schedule: Schedule) -> Tensor:
    """Return the loss: mean absolute errors of roots of light and of their Fourier coefficients."""
    with torch.autocast("cpu", torch.bfloat16, enabled=schedule.bf16):
        _, after = model.roots(blurred, params)
    wanted = root(sharp, params)
    weight = torch.where(wanted > _WHITE, schedule.saturated, 1.0)
    difference = (after.float() - wanted) * weight
    spectrum = torch.view_as_real(torch.fft.rfft2(difference, norm="ortho"))
    return difference.abs().mean() + schedule.frequencies * spectrum.abs().mean()


class Training:
    """A network in training, resumable from its folder."""

    def __init__(self, folder: Path, schedule: Schedule, model: Deblur | None = None) -> None:
        """Lock ``folder`` and continue from its checkpoint, if there is one."""
        self.folder, self.schedule = folder, schedule
        self.model = model or Deblur()
        self.model.initialise(torch.Generator().manual_seed(schedule.seed))
        self.model.train()
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay, betas=(0.9, 0.99)
        )
        self.step, self.core_seconds = 0, 0.0
        self.lock = hold(folder, "choose another folder")
        if (folder / CHECKPOINT).exists():
            state = torch.load(folder / CHECKPOINT, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step, self.core_seconds = state["average"], state["step"], state["core_seconds"]

    def run(self, pairs: Sequence[Pair], report: Callable[[int, float, float], None], every: int = 100) -> None:
        """Train until the processor time is spent, with a checkpoint every ``every`` steps and at an interrupt.

        ``report`` takes the step, the mean loss since the last report and the core minutes.
        """
        total = 0.0
        try:
            while not self.finished:
                total += self._one(pairs)
                if self.step % every == 0 or self.finished:
                    report(self.step, total / every, self.core_seconds / 60)
                    total = 0.0
                    self.save()
        finally:
            self.save()

    @property
    def finished(self) -> bool:
        """Whether the processor time is spent."""
        return self.core_seconds >= 60 * self.schedule.core_minutes

    def _one(self, pairs: Sequence[Pair]) -> float:
        """Train one step and return its loss."""
        own, begin = self.schedule, time.process_time()
        rng = np.random.default_rng((own.seed, 7, self.step))
        picked = [pairs[int(each)] for each in rng.integers(len(pairs), size=own.batch)]
        through = min(self.core_seconds / (60 * own.core_minutes), 1.0)
        rate = own.lr_end + (own.lr - own.lr_end) * (1 + math.cos(math.pi * through)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min((self.step + 1) / own.warmup, 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(picked, rng)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        decay = min(own.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                self.average[name].lerp_(p, 1 - decay)
        self.step += 1
        self.core_seconds += time.process_time() - begin
        return float(loss.detach())

    def loss(self, pairs: Sequence[Pair], rng: np.random.Generator) -> Tensor:
        """Return the loss of a batch of pairs."""
        blurred, sharp, params = batch_of(pairs, self.schedule.crop, rng)
        return loss_of(self.model, blurred, sharp, params, self.schedule)

    def averaged(self) -> Deblur:
        """Return a copy of the network with its averaged weights."""
        copy = type(self.model)(**self.model.config())  # type: ignore[arg-type]
        copy.load_state_dict(self.average)
        return copy.eval()

    def save(self) -> None:
        """Write all that resuming needs; raises FileAccessError."""
        state = {
            "step": self.step,
            "core_seconds": self.core_seconds,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        write_state(self.folder / CHECKPOINT, state)
