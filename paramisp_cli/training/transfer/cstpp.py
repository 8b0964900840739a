"""Train CSTPP on the spectral data sets: from pairs of shots, or from shots without partners, as its authors do.

Both trainings make both generators, from the first camera to the second and back. They resume to the same numbers: all
that is random in a step follows from the seed and the number of the step. The discriminators are in the training's
checkpoint alone.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.models.cstpp import Cstpp
from paramisp_cli.models.cstpp.conformer import PATCH, Domain
from paramisp_cli.models.cstpp.network import four
from paramisp_cli.training.folder import hold, write_state
from paramisp_cli.training.transfer import stored
from paramisp_cli.training.transfer.adversary import CYCLE, IDENTITY, Discriminator, Pool, false, real
from paramisp_cli.training.transfer.shots import (
    VALIDATED,
    DataSet,
    Pixels,
    Progress,
    cropped,
    noisy,
    of_validation,
    predicted,
    psnr,
    split,
    turned,
)  # fmt: skip

CHECKPOINT = "checkpoint.pt"
_SAVED = 500
"""Steps between two checkpoints."""
_SMALLEST = 2 * PATCH
"""Smallest crop: the discriminators, and batch normalisation, need more than one patch."""
_SIZES = ("stem", "channels", "width", "heads", "view")
"""Arguments of the network that a recipe may set."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A training of CSTPP.

    name      of the recipe
    paired    from pairs of shots, by L1; else the cycle, the identity and two discriminators
    steps, batch  number of steps, and of shots in a step
    crop      largest side of the squares that a step sees [packed px]
    lr, last_lr   first and last learning rate of a cosine
    critic_lr     learning rate of the discriminators, which falls alike
    betas     decay of Adam's means
    model     arguments of the network; critic: channels of a discriminator's first layer
    """

    name: str = "cstpp"
    paired: bool = True
    steps: int = 3000
    batch: int = 4
    crop: int = 256
    lr: float = 3e-4
    last_lr: float = 3e-6
    critic_lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    seed: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    critic: int = 64

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"--steps must be at least 1, not {self.steps}")
        if self.batch < 1 or self.crop < _SMALLEST or self.critic < 1 or self.seed < 0:
            raise ConfigError(
                f"recipe {self.name}: batch and critic must be at least 1, crop at least {_SMALLEST}, seed not negative"
            )
        rates = (self.lr, self.last_lr, *(() if self.paired else (self.critic_lr,)))
        if not all(0 < rate < math.inf for rate in rates):
            raise ConfigError(f"recipe {self.name}: learning rates must be above 0, got {rates}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"recipe {self.name}: betas must be two numbers in [0, 1), got {self.betas}")
        if unknown := self.model.keys() - _SIZES:
            raise ConfigError(
                f"recipe {self.name}: model has no {', '.join(sorted(unknown))}; it has {', '.join(_SIZES)}"
            )
        try:
            Cstpp(**self.model) if self.model else None
        except (TypeError, ValueError) as error:
            raise ConfigError(f"recipe {self.name}: model: {error}") from error


UNPAIRED = Schedule(
    name="cstpp-unpaired", paired=False, steps=2500, lr=1e-5, last_lr=1e-5, critic_lr=2e-5, betas=(0.5, 0.999)
)
"""The authors' training: 2500 steps of 4 are 50 epochs of 200 shots."""


def train(
    data: DataSet,
    output: Path,
    schedule: Schedule,
    device: torch.device | str,
    report: Callable[[Progress], None],
    check: Callable[[], None],
) -> Path:
    """Train both generators, and write their weights → the file; a checkpoint in ``output`` is continued.

    Of a paired training, the weights are those of the best validation, over both ways; of an unpaired one the last.
    Raises ConfigError and FormatError for an unfit data set or checkpoint, FileAccessError for ``output``.
    """
    trainer = Trainer(data, output, schedule, torch.device(device))
    trainer.run(report, check)
    return trainer.write_weights()


class Trainer:
    """A network in training, its optimisers, its discriminators if it has no pairs, and the number of steps done."""

    def __init__(self, data: DataSet, folder: Path, schedule: Schedule, device: torch.device) -> None:
        """Lock ``folder``, and continue from the checkpoint in it, if there is one. Raises as ``train`` does."""
        self.data, self.folder, self.schedule, self.device = data, folder, schedule, device
        learned, validated, _ = split(data.shots)
        self.seen, self.held = data.pixels(learned), data.pixels(of_validation(validated))
        self.side = min(schedule.crop, *self.seen.a.shape[2:]) // PATCH * PATCH
        self.lock = hold(folder, "choose another -o")
        self.cameras = stored.names(data.series)
        self.model = Cstpp(**schedule.model, cameras=self.cameras)
        generator = torch.Generator().manual_seed(schedule.seed)
        self.model.initialise(generator)
        self.model.to(device).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), schedule.lr, schedule.betas)
        self.critics, self.critic_optimizer = nn.ModuleList(), None
        if not schedule.paired:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(schedule.seed)
                self.critics = nn.ModuleList(Discriminator(schedule.critic) for _ in range(2)).to(device).train()
            self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), schedule.critic_lr, schedule.betas)
        self.pools = (Pool(), Pool())
        order = torch.randperm(len(learned), generator=generator)
        self.apart = order[0::2], order[1::2]  # of an unpaired training: the shots that each camera has
        self.step, self.losses = 0, [0.0, 0.0]  # sum and number since the last report
        self.best, self.best_state = -1.0, self._copy()
        if (folder / CHECKPOINT).exists():
            self._resume()

    def run(self, report: Callable[[Progress], None], check: Callable[[], None] = lambda: None) -> None:
        """Train to the end, with a checkpoint every few steps and at an exception such as an interrupt (Ctrl-C)."""
        steps = self.schedule.steps
        if self.step == 0:
            self._validate(report)
        try:
            while self.step < steps:
                check()
                self.losses[0] += self._one()
                self.losses[1] += 1
                self.step += 1
                if self.step % VALIDATED == 0 or self.step == steps:
                    self._validate(report)
                if self.step % _SAVED == 0 and self.step < steps:
                    self.save_checkpoint()
        finally:
            self.save_checkpoint()

    def write_weights(self) -> Path:
        """Write the weights of both generators → the file."""
        model, schedule = Cstpp(**self.schedule.model, cameras=self.cameras), self.schedule
        model.load_state_dict(self.best_state)
        there, back = self._scores(model.to(self.device))
        facts = {
            "steps": self.step, "batch": schedule.batch, "crop": self.side, "lr": schedule.lr,
            "paired": schedule.paired,
        }  # fmt: skip
        metrics = {"validation_psnr": round(there, 3), "validation_psnr_back": round(back, 3)}
        return stored.save(model, self.folder, self.data, facts, metrics, schedule.name)

    # --- a step -------------------------------------------------------------------------------------------------------

    def _one(self) -> float:
        """Train one step and return the generators' loss."""
        schedule = self.schedule
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + self.step)
        through = (1 + math.cos(math.pi * self.step / schedule.steps)) / 2
        lr = schedule.last_lr + (schedule.lr - schedule.last_lr) * through
        for optimizer, first in ((self.optimizer, schedule.lr), (self.critic_optimizer, schedule.critic_lr)):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = first * lr / schedule.lr
        return self._paired(generator) if schedule.paired else self._unpaired(generator)

    def _paired(self, generator: torch.Generator) -> float:
        """Train both generators on pairs, by L1; every fourth step has noise."""
        chosen = torch.randint(len(self.seen.shots), (self.schedule.batch,), generator=generator)
        a, b = cropped(self.seen.a[chosen], self.seen.b[chosen], self.side, generator)
        a, b = turned(a, b, generator)
        shown = [noisy(each, generator) for each in (a, b)] if self.step % 4 == 3 else [a, b]
        real_a, real_b, shown_a, shown_b = (four(each).to(self.device) for each in (a, b, *shown))
        to_b, to_a = self._generated(shown_a, 0), self._generated(shown_b, 1)
        loss = (to_b - real_b).abs().mean() + (to_a - real_a).abs().mean()
        self._descend(self.optimizer, loss)
        return float(loss.detach())

    def _unpaired(self, generator: torch.Generator) -> float:
        """Train generators, then discriminators. The cameras share no shot (``apart``)."""
        assert self.critic_optimizer is not None
        sides = zip((self.seen.a, self.seen.b), self.apart, strict=True)
        a, b = (four(self._drawn(*side, generator)).to(self.device) for side in sides)
        of_a, of_b = self.critics
        self.critics.requires_grad_(False)
        to_b, to_a = self._generated(a, 0), self._generated(b, 1)
        cycle = (self._generated(to_b, 1, False) - a).abs().mean() + (self._generated(to_a, 0, False) - b).abs().mean()
        same = (self._generated(a, 1, False) - a).abs().mean() + (self._generated(b, 0, False) - b).abs().mean()
        loss = CYCLE * cycle + IDENTITY * same + real(of_b(to_b)) + real(of_a(to_a))
        self._descend(self.optimizer, loss)
        self.critics.requires_grad_(True)
        old_b, old_a = (pool.exchanged(each, generator) for pool, each in zip(self.pools, (to_b, to_a), strict=True))
        verdict = false(of_b(old_b)) + false(of_a(old_a)) + real(of_b(b)) + real(of_a(a))
        self._descend(self.critic_optimizer, verdict)
        return float(loss.detach())

    def _drawn(self, pictures: Tensor, which: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a batch of squares of some of one camera's pictures, each mirrored and turned at random."""
        chosen = pictures[which[torch.randint(len(which), (self.schedule.batch,), generator=generator)]]
        squares, _ = cropped(chosen, chosen, self.side, generator)
        out = []
        for square in squares:
            turns, mirror = (int(torch.randint(count, (), generator=generator)) for count in (4, 2))
            rotated = torch.rot90(square, turns, (1, 2))
            out.append(rotated.flip(2) if mirror else rotated)
        return torch.stack(out)

    def _generated(self, packed: Tensor, way: Literal[0, 1], follows: bool = True) -> Tensor:
        """Run a generator. Its statistics follow the pictures of its own camera, not generated or foreign ones."""
        return self.model.mapped(packed, Domain(way, follows))

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()

    # --- validation and state -----------------------------------------------------------------------------------------

    def _scores(self, model: Cstpp) -> tuple[float, float]:
        """Return the PSNR [dB] on the validation scene, from the first camera to the second and back."""
        held = self.held
        turned_round = Pixels(held.shots, held.b, held.a, held.neutral_b, held.neutral_a)
        there = psnr(predicted(model, held, self.device), held.b)
        return there, psnr(predicted(model.backwards(), turned_round, self.device), held.a)

    def _validate(self, report: Callable[[Progress], None]) -> None:
        """Measure, store the weights of the best mean of both ways (of an unpaired training, the last), and report."""
        score = sum(self._scores(self.model)) / 2
        self.model.train()
        if not math.isfinite(score + self.losses[0]):
            raise ConfigError(
                f"the training diverged before step {self.step}; lower lr in a TOML file, and choose another -o"
            )
        if score > self.best or not self.schedule.paired:
            self.best, self.best_state = score, self._copy()
        total, count = self.losses
        self.losses = [0.0, 0.0]
        report(Progress(self.step, self.schedule.steps, total / max(count, 1), score, self.best))

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _record(self) -> str:
        """Return all that must be the same for a training to continue."""
        return json.dumps([asdict(self.schedule), self.cameras, stored.fingerprint(self.data)])

    def save_checkpoint(self) -> None:
        """Write everything that resuming needs; raises FileAccessError."""
        state = {
            "state_dict": self.model.state_dict(),
            "config": json.dumps(self.model.config()),
            "record": self._record(),
            "step": self.step,
            "losses": self.losses,
            "best": self.best,
            "best_state": self.best_state,
            "optimizer": self.optimizer.state_dict(),
            "critics": self.critics.state_dict(),
            "critic_optimizer": None if self.critic_optimizer is None else self.critic_optimizer.state_dict(),
            "pools": [pool.pictures for pool in self.pools],
        }
        write_state(self.folder / CHECKPOINT, state)

    def _resume(self) -> None:
        """Take the state of the checkpoint in the folder."""
        path = self.folder / CHECKPOINT
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            same = state["record"] == self._record()
        except (RuntimeError, KeyError, TypeError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise FormatError(f"{path}: damaged ({type(error).__name__}); delete it to start again") from error
        if not same:
            raise ConfigError(f"{path} belongs to another recipe or data set; choose another -o, or delete it")
        self.model.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.critics.load_state_dict(state["critics"])
        if self.critic_optimizer is not None:
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        for pool, pictures in zip(self.pools, state["pools"], strict=True):
            pool.pictures = list(pictures)
        self.step, self.losses = state["step"], state["losses"]
        self.best, self.best_state = state["best"], state["best_state"]
