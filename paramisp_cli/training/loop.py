"""The training loop: plain PyTorch, resumable to the same numbers, with one log line for each evaluation."""

from __future__ import annotations

import json
import math
import pickle
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paramisp_cli import memory
from paramisp_cli.directions import ISP_DIRECTIONS, Direction, Kind
from paramisp_cli.errors import ConfigError, FileAccessError, FormatError
from paramisp_cli.models import architecture
from paramisp_cli.models.base import IspModel, Params
from paramisp_cli.training.config import Recipe
from paramisp_cli.training.crops import Batch, Sampler
from paramisp_cli.training.folder import hold, write_state

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
_STRAIGHT = 1e-3
"""Linear light below which ``_root`` is a straight line."""
_LEAST_SQUARE = 1e-8
"""Added to a mean square error, whose root has no slope at 0."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Position of a training: step, number of steps, mean loss since the last log line, seconds left."""

    step: int
    steps: int
    loss: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class _Draw:
    """Random input of a step: crops, noise of σ = 1 for the input of each direction, and a gain for each crop."""

    batch: Batch
    noise: dict[Direction, Tensor]
    gain: Tensor


class Trainer:
    """Networks in training, one for each direction, with optimiser, averaged weights and the number of steps done.

    The common loss is the mean absolute error; a recipe may ask for that of the network's authors. Both directions
    together are trained on ‖unprocess(s) − r‖₁ + ‖render(r) − s‖₁ + ‖render(unprocess(s)) − s‖₁, the joint fine-tuning
    of the paper.
    """

    def __init__(
        self, recipe: Recipe, models: Mapping[Direction, IspModel], device: torch.device, folder: Path
    ) -> None:
        """Lock ``folder``, and continue from the checkpoint in it, if there is one.

        Raises ConfigError if another process trains in the folder or the checkpoint belongs to another recipe, and
        FormatError for a damaged checkpoint.
        """
        self.recipe, self.device, self.folder = recipe, device, folder
        if device.type == "cpu":
            memory.keep_freed()
        self.dropout = torch.Generator()
        self.models = dict(models)
        for model in self.models.values():
            model.to(device).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            model.generator = self.dropout
        self.all = torch.nn.ModuleDict({str(direction): model for direction, model in self.models.items()})
        self.average = {name: p.detach().clone() for name, p in self.all.named_parameters()} if recipe.ema else {}
        self.optimizer = torch.optim.AdamW(
            self.all.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
        )
        self.step = 0
        self.seconds = 0.0  # of all runs together
        self.core_seconds = 0.0  # processor time of the steps
        self.lock = hold(folder, "choose another -o")  # for the trainer's life: the weights are written after ``run``
        if (folder / CHECKPOINT).exists():
            self._resume()

    def run(
        self,
        sampler: Sampler,
        report: Callable[[Progress], None],
        evaluate: Callable[[Trainer], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Train to the end, with a checkpoint every few steps and at an exception such as an interrupt (Ctrl-C).

        ``report`` is called every 20 steps, ``evaluate`` after every log line, ``check`` after every step.
        """
        recipe = self.recipe
        loss_sum, loss_count, begin, first, earlier = 0.0, 0, time.monotonic(), self.step, self.seconds
        ahead = ThreadPoolExecutor(1)  # draws the crops of the next step during this step
        try:
            drawn = ahead.submit(self._draw, sampler, self.step)
            while not self.finished:
                draw, working = drawn.result(), time.process_time()
                if self.step + 1 < recipe.steps:
                    drawn = ahead.submit(self._draw, sampler, self.step + 1)
                loss_sum += self._one(draw)
                loss_count += 1
                self.step += 1
                self.seconds = earlier + time.monotonic() - begin
                self.core_seconds += time.process_time() - working
                if self.step % 20 == 0 or self.finished:
                    rate = (time.monotonic() - begin) / (self.step - first)
                    steps = self._steps_expected()
                    report(Progress(self.step, steps, loss_sum / loss_count, rate * (steps - self.step)))
                if self.step % recipe.checkpoint_every == 0:
                    self.save_checkpoint()
                if self.step % recipe.evaluate_every == 0 or self.finished:
                    self._log({"step": self.step, "loss": loss_sum / loss_count, "lr": self._rate(self.step)})
                    loss_sum, loss_count = 0.0, 0
                    evaluate(self)
                check()
        finally:
            ahead.shutdown()
            self.save_checkpoint()

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the recipe's processor time is spent."""
        limit = 60 * self.recipe.core_minutes
        return self.step >= self.recipe.steps or 0 < limit <= self.core_seconds

    def _steps_expected(self) -> int:
        """Estimate the number of steps at the end."""
        if not self.recipe.core_minutes:
            return self.recipe.steps
        by_time = self.step * 60 * self.recipe.core_minutes / max(self.core_seconds, 1e-9)
        return self.step if self.finished else min(self.recipe.steps, max(round(by_time), self.step))

    def _draw(self, sampler: Sampler, step: int) -> _Draw:
        """Draw the input of a step; it follows from the seed and the number of the step, so resuming is exact."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        phase = recipe.phase_at(step)
        batch = sampler.batch(phase.batch, phase.crop, generator)
        sides = {Kind.SRGB: batch.srgb, Kind.RAW: batch.mosaic}
        noise = {each: torch.randn(sides[each.input].shape, generator=generator) for each in self.models}
        gain = torch.exp2(3 * torch.rand(len(batch.code), generator=generator) - 1)
        if self.device.type == "cuda":
            restored = None if batch.restored is None else batch.restored.pin_memory()
            pinned = replace(batch, srgb=batch.srgb.pin_memory(), mosaic=batch.mosaic.pin_memory(), restored=restored)
            return _Draw(pinned, {direction: each.pin_memory() for direction, each in noise.items()}, gain)
        return _Draw(batch, noise, gain)

    def _one(self, draw: _Draw) -> float:
        """Train one step and return its loss; its dropout follows from the number of the step, too.

        Raises ConfigError for a loss that is not finite.
        """
        recipe = self.recipe
        self.dropout.manual_seed(recipe.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(draw, recipe.phase_at(self.step).part)
        if not math.isfinite(float(loss.detach())):  # before it reaches the weights, which are the last good ones
            text = f"the loss of step {self.step + 1} is not finite: the training diverged; take a lower lr"
            raise ConfigError(f"recipe {recipe.name}: {text}")
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.all.parameters(), recipe.grad_clip)
        self.optimizer.step()
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, p in self.all.named_parameters() if self.average else ():
                self.average[name].lerp_(p, 1 - decay)
        return float(loss.detach())

    def _loss(self, draw: _Draw, phase: str) -> Tensor:
        """Compute the loss of all directions, in a training phase of the model."""
        batch, params = draw.batch, draw.batch.params.to(self.device)
        srgb, raw = (side.to(self.device, non_blocking=True) for side in (batch.srgb, batch.mosaic))
        sides = {Kind.SRGB: srgb, Kind.RAW: raw}
        codes = {Kind.SRGB: torch.full_like(batch.code, 1 / 255), Kind.RAW: batch.code}
        outputs = {}

        def run(direction: Direction, x: Tensor) -> Tensor:
            model = self.models[direction]
            thumbnail = batch.thumbnails.get(direction.input)
            shots = params if thumbnail is None else replace(params, thumbnail=thumbnail.to(self.device))
            low = torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.dtype == "bf16")
            with low, model.phase(phase):
                return model(x, shots).float()

        def noisy(direction: Direction) -> Tensor:
            noise = draw.noise[direction].to(self.device, non_blocking=True) * self.recipe.noise  # dequantisation
            return sides[direction.input] + noise * codes[direction.input].to(self.device)[:, None, None, None]

        if self.recipe.loss == "own":
            low = torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.dtype == "bf16")
            restored = None if batch.restored is None else batch.restored.to(self.device, non_blocking=True)
            with low, next(iter(self.models.values())).phase(phase):
                return self._own_loss({each: noisy(each) for each in self.models}, sides, params, restored)
        loss = torch.zeros((), device=self.device)
        for direction in self.models:
            source, wanted = noisy(direction), sides[direction.output]
            output = outputs[direction] = run(direction, source.contiguous(memory_format=torch.channels_last))
            loss = loss + (output - wanted).abs().mean()
            if direction == Direction.UNPROCESS and self.recipe.shadows:
                loss = loss + self.recipe.shadows * (_root(output) - _root(wanted)).abs().mean()
            if self.recipe.rmse:
                square = (output - wanted).square().mean((1, 2, 3))
                loss = loss + self.recipe.rmse * (square + _LEAST_SQUARE).sqrt().mean()
            if direction == Direction.UNPROCESS and self.recipe.edits:
                gain = draw.gain.to(self.device)[:, None, None, None]
                edited, true = ((gain * side).clamp(max=1) for side in (output, wanted))
                loss = loss + self.recipe.edits * (_root(edited) - _root(true)).abs().mean()
        if len(self.models) == 2:
            again = run(Direction.RENDER, outputs[Direction.UNPROCESS])
            loss = loss + (again - srgb).abs().mean()
        return loss

    def _own_loss(
        self,
        sources: Mapping[Direction, Tensor],
        sides: Mapping[Kind, Tensor],
        params: Params,
        restored: Tensor | None,
    ) -> Tensor:
        """Compute the loss of the network's authors. Raises ConfigError if the network has none."""
        if len(self.models) == 2:
            unprocess, render = (self.models[each] for each in ISP_DIRECTIONS)
            srgb, raw = (sources[each] for each in ISP_DIRECTIONS)
            loss = unprocess.joint_loss(render, srgb, raw, params)
        else:
            ((direction, model),) = self.models.items()
            loss = model.own_loss(sources[direction], sides[direction.output], params, restored)
        if loss is None:
            raise ConfigError(f"recipe {self.recipe.name}: {self.recipe.architecture} has no loss of its own for this")
        return loss

    def _rate(self, step: int) -> float:
        """Compute the learning rate of a step."""
        recipe = self.recipe
        if step < recipe.warmup:
            return recipe.lr * (step + 1) / recipe.warmup
        if recipe.schedule == "step":
            return max(recipe.lr * recipe.step_factor ** (step // recipe.step_every), recipe.lr_end)
        through = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
        if recipe.core_minutes:
            through = max(through, self.core_seconds / (60 * recipe.core_minutes))
        return recipe.lr_end + (recipe.lr - recipe.lr_end) * (1 + math.cos(math.pi * min(through, 1))) / 2

    def averaged(self, direction: Direction | None = None) -> IspModel:
        """Copy the network of a direction (None: the only one) with its averaged weights, for evaluation."""
        if direction is None:
            (direction,) = self.models
        model = self.models[direction]
        config: dict[str, Any] = model.config()
        copy = architecture(model.name)(**config)
        copy.load_state_dict(model.state_dict())
        with torch.no_grad():
            for name, p in copy.named_parameters() if self.average else ():
                # Networks that share their weights have them once, under the name of the first direction.
                p.copy_(
                    next(
                        self.average[k] for each in (direction, *self.models) if (k := f"{each}.{name}") in self.average
                    )
                )
        return copy.to(self.device).eval()

    def save_checkpoint(self) -> None:
        """Write everything that resuming needs; raises FileAccessError."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "core_seconds": self.core_seconds,
            "recipe": json.dumps(self.recipe.record()),
            "direction": "+".join(self.models),
            "model": self.all.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        write_state(self.folder / CHECKPOINT, state)

    def _resume(self) -> None:
        """Take the state of the checkpoint in the folder."""
        path = self.folder / CHECKPOINT
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            same = state["recipe"] == json.dumps(self.recipe.record()) and state["direction"] == "+".join(self.models)
        except (RuntimeError, KeyError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise FormatError(f"{path}: damaged ({type(error).__name__}); delete it to start again") from error
        if not same:
            raise ConfigError(f"{path} belongs to another recipe or direction; choose another -o, or delete it")
        self.all.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state.get("seconds", 0.0)
        self.core_seconds = state.get("core_seconds", 0.0)

    def _log(self, record: dict[str, float]) -> None:
        path = self.folder / LOG
        try:
            with path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
        except OSError as error:
            raise FileAccessError.of(error, path, "write it") from error


def _root(linear: Tensor) -> Tensor:
    """Compute √ of linear light, and a straight line below 1/1000: otherwise noise near black would count most."""
    return torch.where(
        linear > _STRAIGHT, linear.clamp(min=_STRAIGHT).sqrt(), linear / (2 * _STRAIGHT**0.5) + _STRAIGHT**0.5 / 2
    )
