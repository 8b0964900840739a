"""Train the network ``splines`` on pairs of shots; the best validation's weights are the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paramisp_cli.errors import ConfigError
from paramisp_cli.models.splines import Splines
from paramisp_cli.training.transfer import stored
from paramisp_cli.training.transfer.shots import (
    VALIDATED,
    DataSet,
    Progress,
    base,
    cropped,
    noisy,
    of_validation,
    predicted,
    psnr,
    split,
    turned,
)  # fmt: skip

_EXACT = 1e-7
"""Mean squared error below which a training gains little: 70 dB."""
_CROP = 64
"""Largest side of the squares that a training sees [px]."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps, shots in a batch, the first and last learning rate of a cosine, and the random seed."""

    steps: int = 3000
    batch: int = 8
    lr: float = 2e-3
    last_lr: float = 2e-5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"--steps must be at least 1, not {self.steps}")
        if self.batch < 1 or self.seed < 0 or not all(0 < rate < math.inf for rate in (self.lr, self.last_lr)):
            raise ConfigError("recipe splines: batch must be at least 1, seed not negative, learning rates above 0")


def train(
    data: DataSet,
    output: Path,
    schedule: Schedule,
    device: torch.device | str,
    report: Callable[[Progress], None],
    check: Callable[[], None],
) -> Path:
    """Train a network on a data set, and write the weights of the best validation → the file.

    Raises ConfigError and FormatError for an unfit data set, FileAccessError for ``output``.
    """
    learned, validated, _ = split(data.shots)
    seen, held = data.pixels(learned), data.pixels(of_validation(validated))
    generator = torch.Generator().manual_seed(schedule.seed)
    model = Splines()
    model.initialise(generator)
    fit = base(data.series)
    model.set_base(
        *(torch.from_numpy(np.ascontiguousarray(each)) for each in (fit.coefficients, fit.neutral, fit.known))
    )
    model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), schedule.lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.steps, schedule.last_lr)
    best, kept, losses = psnr(predicted(model, held, device), held.b), _copy(model), []
    report(Progress(0, schedule.steps, 0.0, best, best))
    for step in range(1, schedule.steps + 1):
        check()
        chosen = torch.randint(len(learned), (schedule.batch,), generator=generator)
        a, b = cropped(seen.a[chosen], seen.b[chosen], _CROP, generator)
        a, b = turned(a, b, generator)
        if step % 4 == 0:
            a = noisy(a, generator)
        shown = model.colours(a.to(device), seen.params(chosen).to(device))
        # The mean PSNR itself: under L1, shots in odd light would outweigh all that are nearly right already.
        loss = torch.log10((shown - b.to(device)).square().flatten(1).mean(1) + _EXACT).mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
        losses.append(loss.item())
        if step % VALIDATED == 0 or step == schedule.steps:
            score = psnr(predicted(model, held, device), held.b)
            if score > best:
                best, kept = score, _copy(model)
            report(Progress(step, schedule.steps, float(np.mean(losses)), score, best))
            losses = []
    model.load_state_dict(kept)
    facts = {"steps": schedule.steps, "batch": schedule.batch}
    return stored.save(model, output, data, facts, {"validation_psnr": round(best, 3)}, "splines")


def _copy(model: Splines) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
