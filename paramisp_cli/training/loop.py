"""The training loop: plain PyTorch, resumable to the same numbers, one log line an evaluation."""

from __future__ import annotations

import json
import math
import pickle
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import memory, weights
from paramisp_cli.cameras import slug
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.models import architecture
from paramisp_cli.models.base import IspModel
from paramisp_cli.training.config import Recipe
from paramisp_cli.training.data import CFA, Batch, Loaded, Sampler, cut, largest_crop
from paramisp_cli.training.dataset import Region
from paramisp_cli.training.evaluate import Score, error_map, network, table, target
from paramisp_cli.training.folder import hold, write_whole
from paramisp_cli.types import Direction

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands: step of steps, running loss, seconds left."""

    step: int
    steps: int
    loss: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class _Draw:
    """What a step is made of: crops, and for every direction the noise (σ = 1) on what goes in."""

    batch: Batch
    noise: dict[Direction, Tensor]


def build(recipe: Recipe, direction: Direction) -> IspModel:
    """Make the network to train: from ``recipe.init``, or with fresh weights. Raises ConfigError."""
    if recipe.init:
        model = _start(recipe.init, direction)
        if model.name != recipe.architecture:
            raise ConfigError(f"recipe {recipe.name}: is for {recipe.architecture}, and {recipe.init} is {model.name}")
        wanted = {**model.config(), **recipe.model}
        if wanted != model.config():
            raise ConfigError(f"recipe {recipe.name}: its [model] differs from that of {recipe.init}")
    else:
        model = architecture(recipe.architecture)(direction, **recipe.model)
        model.initialise(torch.Generator().manual_seed(recipe.seed))
    _check_phases(recipe, model)
    return model


def _check_phases(recipe: Recipe, model: IspModel) -> None:
    """Raise ConfigError for a phase that the model does not offer and for crops that its geometry does not allow."""
    multiple, smallest = model.geometry.multiple, model.geometry.padded(2)
    for phase in recipe.phases:
        if phase.part not in model.phases():
            known = ", ".join(model.phases())
            raise ConfigError(f"recipe {recipe.name}: part must be one of {known}, got {phase.part!r}")
        if phase.crop < smallest or phase.crop % multiple:
            raise ConfigError(
                f"recipe {recipe.name}: crop must be at least {smallest} px and a multiple of {multiple}, "
                f"got {phase.crop}"
            )


def _start(init: str, direction: Direction) -> IspModel:
    """A checkpoint to start from: a name, a file, or the folder of an earlier training, with one of this direction."""
    if not Path(init).is_dir():
        return weights.load_model(init, direction)
    found = sorted(Path(init).glob(f"*.{direction}.safetensors"))
    if len(found) != 1:
        raise ConfigError(f"{init}: holds {len(found)} checkpoints for {direction}, and one is needed to start from")
    return weights.load_model(found[0], direction)


def for_device(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with dtype "auto" settled: bf16 on GPUs and on processors with arithmetic for it, else fp32."""
    if recipe.dtype != "auto":
        return recipe
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # newer than the oldest torch that will do
    fast = device.type == "cuda" or (device.type == "cpu" and (able.get("avx512_bf16") or able.get("amx_bf16")))
    return replace(recipe, dtype="bf16" if fast else "fp32")


def fitted(recipe: Recipe, loaded: Sequence[Loaded]) -> tuple[Recipe, list[str]]:
    """The recipe with crops that at least one photograph holds, and in words what was changed.

    Raises ConfigError if not even the smallest crop of a phase fits.
    """
    geometry = architecture(recipe.architecture).geometry
    smallest, largest = geometry.padded(2), max(map(largest_crop, loaded), default=0)
    largest = largest // geometry.multiple * geometry.multiple
    if largest < smallest:
        raise ConfigError(f"no aligned part of any photograph holds a crop of {smallest} px, the smallest to train on")
    said = [f"crops of {p.crop} px fit no photograph: {largest} px instead" for p in recipe.phases if p.crop > largest]
    phases = tuple(replace(phase, crop=min(phase.crop, largest)) for phase in recipe.phases)
    return replace(recipe, phases=phases), list(dict.fromkeys(said))


def _root(linear: Tensor) -> Tensor:
    """√ of linear light; a straight line from 1/1000 down, below 0 too, or noise near black would count most."""
    return torch.where(
        linear > _STRAIGHT, linear.clamp(min=_STRAIGHT).sqrt(), linear / (2 * _STRAIGHT**0.5) + _STRAIGHT**0.5 / 2
    )


_STRAIGHT = 1e-3


class Trainer:
    """The network of a direction or of both, its optimiser and averaged weights, and the step it is at.

    Both directions together are trained on ‖unprocess(s) − r‖₁ + ‖render(r) − s‖₁ + ‖render(unprocess(s)) − s‖₁, the
    paper's joint fine-tuning.
    """

    def __init__(
        self,
        recipe: Recipe,
        directions: Direction | Sequence[Direction],
        device: torch.device,
        folder: Path | str,
        lens_shading: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Lock ``folder``, and go on from the checkpoint in it if it has one.

        ``lens_shading`` is the camera's, which the network is not asked to make; see ``IspModel``. Raises ConfigError
        if another process trains in the folder, or the checkpoint belongs to another recipe.
        """
        folder = Path(folder)
        recipe = for_device(recipe, device)
        self.recipe, self.device, self.folder = recipe, device, folder
        if device.type == "cpu":
            memory.keep_freed()
        self.dropout = torch.Generator()
        self.models: dict[Direction, IspModel] = {}
        for direction in (directions,) if isinstance(directions, Direction) else directions:
            model = build(recipe, direction).to(device).train()
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            model.lens_shading, model.generator = lens_shading, self.dropout
            self.models[direction] = model
        sums = {model.color_matrix_row_sum for model in self.models.values()}
        if len(sums) > 1:
            raise ConfigError(f"recipe {recipe.name}: the two directions' weights take different colour matrices")
        (self.color_matrix_row_sum,) = sums
        self.all = torch.nn.ModuleDict({str(direction): model for direction, model in self.models.items()})
        self.average = {name: p.detach().clone() for name, p in self.all.named_parameters()} if recipe.ema else {}
        self.optimizer = torch.optim.AdamW(
            self.all.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
        )
        self.step = 0
        self.seconds = 0.0  # of all runs together
        self.lock = hold(folder, "choose another -o")  # until the trainer is gone, so that ``keep`` is covered too
        if (folder / CHECKPOINT).exists():
            self._resume()

    def run(
        self,
        sampler: Sampler,
        report: Callable[[Progress], None],
        evaluate: Callable[[Trainer], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Train to the end, writing checkpoints; an interrupt (Ctrl-C) writes one too and goes up.

        ``check`` is called after every step; what it raises ends the run the same way.
        """
        recipe = self.recipe
        loss_sum, since, begin, first, earlier = 0.0, 0, time.monotonic(), self.step, self.seconds
        ahead = ThreadPoolExecutor(1)  # the crops of the next step, while this one is computed
        try:
            drawn = ahead.submit(self._draw, sampler, self.step)
            while self.step < recipe.steps:
                draw = drawn.result()
                if self.step + 1 < recipe.steps:
                    drawn = ahead.submit(self._draw, sampler, self.step + 1)
                loss_sum += self._one(draw)
                since += 1
                self.step += 1
                self.seconds = earlier + time.monotonic() - begin
                if self.step % 20 == 0 or self.step == recipe.steps:
                    rate = (time.monotonic() - begin) / (self.step - first)
                    report(Progress(self.step, recipe.steps, loss_sum / since, rate * (recipe.steps - self.step)))
                if self.step % recipe.checkpoint_every == 0:
                    self.save_checkpoint()
                if self.step % recipe.evaluate_every == 0 or self.step == recipe.steps:
                    self._log({"step": self.step, "loss": loss_sum / since, "lr": self._rate(self.step)})
                    loss_sum, since = 0.0, 0
                    evaluate(self)
                check()
        finally:
            ahead.shutdown()
            self.save_checkpoint()

    def _draw(self, sampler: Sampler, step: int) -> _Draw:
        """A step's crops; everything random in it follows from the seed and its number, so resuming is exact."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        phase = recipe.phase_at(step)
        batch = sampler.batch(phase.batch, phase.crop, generator)
        noise = {
            direction: torch.randn(
                (batch.srgb if direction == Direction.UNPROCESS else batch.mosaic).shape, generator=generator
            )
            for direction in self.models
        }
        if self.device.type == "cuda":
            pinned = replace(batch, srgb=batch.srgb.pin_memory(), mosaic=batch.mosaic.pin_memory())
            return _Draw(pinned, {direction: each.pin_memory() for direction, each in noise.items()})
        return _Draw(batch, noise)

    def _one(self, draw: _Draw) -> float:
        """One step; its dropout, too, follows from its number."""
        recipe = self.recipe
        self.dropout.manual_seed(recipe.seed * 1_000_003 + self.step)
        phase = recipe.phase_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(draw, phase.part)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.all.parameters(), recipe.grad_clip)
        self.optimizer.step()
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, p in self.all.named_parameters():
                if self.average:
                    self.average[name].lerp_(p, 1 - decay)
        return float(loss.detach())

    def _loss(self, draw: _Draw, phase: str) -> Tensor:
        """Mean absolute error, of every direction, and of there and back again if there are both."""
        batch, params = draw.batch, draw.batch.params.to(self.device)
        srgb, mosaic = (side.to(self.device, non_blocking=True) for side in (batch.srgb, batch.mosaic))
        sides = {Direction.UNPROCESS: (srgb, mosaic), Direction.RENDER: (mosaic, srgb)}
        bits = {Direction.UNPROCESS: torch.full_like(batch.bit, 1 / 255), Direction.RENDER: batch.bit}
        outs = {}

        def run(direction: Direction, x: Tensor) -> Tensor:
            model = self.models[direction]
            low = torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.dtype == "bf16")
            with low, model.phase(phase):
                return model(x, params).float()

        loss = torch.zeros((), device=self.device)
        for direction in self.models:
            source, wanted = sides[direction]
            noise = draw.noise[direction].to(self.device, non_blocking=True) * self.recipe.noise  # dequantisation
            source = source + noise * bits[direction].to(self.device)[:, None, None, None]
            outs[direction] = run(direction, source.contiguous(memory_format=torch.channels_last))
            loss = loss + (outs[direction] - wanted).abs().mean()
            if direction == Direction.UNPROCESS and self.recipe.shadows:
                roots = _root(outs[direction]) - _root(wanted)
                loss = loss + self.recipe.shadows * roots.abs().mean()
        if len(self.models) == 2:
            again = run(Direction.RENDER, outs[Direction.UNPROCESS])
            loss = loss + (again - srgb).abs().mean()
        return loss

    def _rate(self, step: int) -> float:
        """The learning rate at a step."""
        recipe = self.recipe
        if step < recipe.warmup:
            return recipe.lr * (step + 1) / recipe.warmup
        if recipe.schedule == "step":
            return max(recipe.lr * recipe.step_factor ** (step // recipe.step_every), recipe.lr_end)
        through = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
        return recipe.lr_end + (recipe.lr - recipe.lr_end) * (1 + math.cos(math.pi * min(through, 1))) / 2

    def averaged(self, direction: Direction | None = None) -> IspModel:
        """A copy of a direction's network (None: of the only one) with averaged weights: to evaluate and keep."""
        if direction is None:
            (direction,) = self.models
        model = self.models[direction]
        config: dict[str, Any] = model.config()
        copy = architecture(model.name)(**config)
        copy.load_state_dict(model.state_dict())
        with torch.no_grad():
            for name, p in copy.named_parameters():
                if self.average:
                    p.copy_(self.average[f"{direction}.{name}"])
        return copy.to(self.device).eval()

    def save_checkpoint(self) -> None:
        """Write everything needed to go on, under a temporary name that is then renamed."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "recipe": json.dumps(self.recipe.record()),
            "direction": "+".join(self.models),
            "model": self.all.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        write_whole(self.folder / CHECKPOINT, lambda file: torch.save(state, file))

    def _resume(self) -> None:
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

    def _log(self, record: dict[str, float]) -> None:
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")


def preview(trainer: Trainer, direction: Direction, item: Loaded, path: Path | str) -> None:
    """Prediction, truth and error of the middle of a training photograph, as a PNG to look at."""
    region = max(item.pair.regions, key=lambda r: r.height * r.width)
    side = min(512, region.height // 4 * 4 - 4, region.width // 4 * 4 - 4)
    spot = (region.height - side) // 4, (region.width - side) // 4
    averaged = trainer.averaged(direction)
    srgb, mosaic, _ = cut(item, region, spot, side, 1, averaged.lens_shading)
    averaged.lens_shading = None  # this crop comes without
    height, width = mosaic.shape[1:]
    canonical = item.pair.canonical
    assert canonical is not None
    white = replace(canonical, cfa=CFA, black_level=np.zeros((2, 2)), white_level=65535.0)
    pair = replace(item.pair, canonical=white, regions=(Region(0, 0, height, width),), size=(height, width))
    small = Loaded(
        pair,
        (np.clip(mosaic[0], 0, 1) * 65535).round().astype(np.uint16),
        (srgb.transpose(1, 2, 0) * 255).round().astype(np.uint8),
    )
    predict = network(averaged, trainer.device)
    error_map(target(small, direction), predict(small), path)


def keep(
    trainer: Trainer,
    direction: Direction,
    *,
    camera: str,
    photographs: Sequence[str],
    cameras: Sequence[str],
    scores: Sequence[Score],
) -> Path:
    """Write the averaged weights as a checkpoint, with all that is known of them, and a card for people beside it.

    ``camera`` names the file; ``photographs`` and ``cameras`` are what it was trained on; ``scores`` were measured on
    photographs that training never saw, or on parts that it never saw of photographs that it was trained on.
    """
    device = trainer.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    training = {
        "photographs": list(photographs),
        "cameras": list(cameras),
        "recipe": trainer.recipe.record(),
        "steps": trainer.step,
        "minutes": round(trainer.seconds / 60, 1),
        "machine": f"{machine}, {torch.get_num_threads()} threads",
    }
    whole = [score for score in scores if not score.part]
    parts = [score for score in scores if score.part]
    metrics = {"photographs never seen": [score.record() for score in whole]}
    if parts:
        metrics["regions never seen"] = [score.record() for score in parts]
    path = weights.save(
        trainer.averaged(direction).cpu(),
        trainer.folder / f"{slug(camera)}.{direction}.safetensors",
        camera=camera,
        recipe=trainer.recipe.name,
        training=training,
        metrics=metrics,
        licence="MIT",
        half=True,
    )
    phases = "; ".join(f"{p.steps} steps of {p.batch} × {p.crop}² ({p.part})" for p in trainer.recipe.phases)
    said = "Measured on photographs that training never saw"
    blocks = [f"## {said}\n\n{table(whole)}"] if whole else []
    if parts:
        told = ", ".join(dict.fromkeys(score.photo for score in parts))
        said = "Measured on a part that training never saw of photographs that it was trained on"
        blocks.append(
            f"## {said}\n\n{table(parts)}\nThat is {told}: weaker evidence than whole photographs, for the light and "
            "the settings are the same.\n"
        )
    if not scores:
        blocks.append(f"## {said}\n\nNothing: every photograph was used for training.\n")
    path.with_suffix(".md").write_text(
        f"# {camera}, {direction}\n\n"
        f"* Trained on {', '.join(photographs)}, of {', '.join(cameras)}.\n"
        f"* Started from: {trainer.recipe.init or 'nothing (random numbers)'}.\n"
        f"* Recipe: {trainer.recipe.name}: {phases}; learning rate {trainer.recipe.lr:g}, {trainer.recipe.dtype}.\n"
        f"* Time and machine: {training['minutes']} minutes on {training['machine']}.\n"
        "* Licence: MIT.\n\n" + "\n".join(blocks),
        "utf-8",
    )
    return path
