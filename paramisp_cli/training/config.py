"""Recipes: frozen records, read from TOML, of everything that decides a training; an unknown key is an error."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from paramisp_cli import models
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Phase:
    """A number of steps with crops of one size: ``batch`` crops of ``crop`` × ``crop`` px.

    ``part`` names a training phase of the model (``IspModel.phases``); "all" trains the whole network.
    """

    steps: int
    crop: int
    batch: int
    part: str = "all"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.crop < 2:
            raise ConfigError(f"a phase needs steps ≥ 1, batch ≥ 1 and crop ≥ 2, got {self}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training of a network.

    phases          in their order; one schedule of the learning rate spans all of them
    core_minutes    end the training after this much processor time, all threads together; the learning rate then falls
                    by this time, so that a resumed training gives slightly other numbers. 0: end after the phases
    lr, lr_end      learning rate of AdamW at the start and at the end
    schedule        "cosine", or "step": × ``step_factor`` every ``step_every`` steps (as in the paper)
    warmup          steps in which the rate rises from 0
    ema             decay of the averaged weights, which are the result; 0: no averaging
    grad_clip       largest norm of the gradient
    noise           σ of the dequantisation noise, in codes of the input (paper: 0.4)
    dtype           "bf16" or "fp32": precision of the convolutions; "auto": bf16 where the device computes it fast
    init            "" for random weights, or the name ("generic"), file or folder of a checkpoint to start from
    evaluate_every, checkpoint_every   steps between log lines with previews, and between checkpoints
    simulated       share of the crops, 0 to below 1, from simulated pairs, if the data set has photographs too
    random_balance  σ of log gains that change red and blue sites of a crop and its white balance alike: both sides of
                    the pair still match, and the network learns to follow the white balance
    shadows         weight of a second term of the loss of unprocessing, on square roots of light: dark tones hardly
                    count in linear light, and blacks would have a tint
    rmse            weight of a further term of the loss, the root of the mean square error of each crop
    edits           weight of a further term of the loss of unprocessing, on √ of light after a random exposure of −1 to
                    +2 EV and clipping: errors that an edit of the RAW shows
    loss            "common" to all networks, with the terms above; "own": that of the network's authors, without them;
                    the optimiser is the same, AdamW with betas of 0.9 and 0.99
    extremes        share of the crops, 0 to 1, that are the one of four with most clipped whites and deep blacks
    exposures       share of the simulated crops, 0 to below 1, from computed exposures of −3.5 to 2 EV, if the data set
                    has them (``simulate --with-exposures``): the network learns to render a RAW that was made darker
                    or brighter, as ``hdr`` does
    lens_shading    "auto": measured on the photographs of one camera, and taken out if that helps; "none"
    architecture    name of the network (``models.names``)
    model           arguments of the network (ablations)
    overrides       direction → keys with other values where it is trained alone; in TOML the tables ``[unprocess]``
                    and ``[render]``
    """

    name: str
    phases: tuple[Phase, ...]
    core_minutes: float = 0.0
    lr: float = 6e-4
    lr_end: float = 1e-6
    schedule: str = "cosine"
    step_factor: float = 0.8
    step_every: int = 10_000
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.999
    grad_clip: float = 1.0
    noise: float = 0.4
    dtype: str = "bf16"
    init: str = ""
    seed: int = 0
    evaluate_every: int = 1000
    checkpoint_every: int = 200
    simulated: float = 0.0
    random_balance: float = 0.0
    shadows: float = 0.0
    rmse: float = 0.0
    edits: float = 0.0
    loss: str = "common"
    extremes: float = 0.0
    exposures: float = 0.0
    lens_shading: str = "auto"
    architecture: str = models.names(needs_weights=True)[0]
    model: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError(f"recipe {self.name}: has no phases")
        choices = {
            "schedule": ("cosine", "step"),
            "dtype": ("auto", "bf16", "fp32"),
            "loss": ("common", "own"),
            "lens_shading": ("auto", "none"),
            "architecture": models.names(needs_weights=True),
        }
        for key, allowed in choices.items():
            if (value := getattr(self, key)) not in allowed:
                raise ConfigError(f"recipe {self.name}: {key} must be {' or '.join(allowed)}, got {value!r}")
        if not 0 <= self.simulated < 1:
            raise ConfigError(f"recipe {self.name}: simulated must be in [0, 1), got {self.simulated}")
        if not 0 <= self.exposures < 1:
            raise ConfigError(f"recipe {self.name}: exposures must be in [0, 1), got {self.exposures}")
        for key, highest in {"random_balance": 1, "shadows": 10, "rmse": 10, "edits": 10, "extremes": 1}.items():
            if not 0 <= (value := getattr(self, key)) <= highest:
                raise ConfigError(f"recipe {self.name}: {key} must be in [0, {highest}], got {value}")
        if self.core_minutes < 0:
            raise ConfigError(f"recipe {self.name}: core_minutes must not be negative, got {self.core_minutes}")
        if self.lr <= 0 or not 0 <= self.ema < 1 or self.grad_clip <= 0:
            raise ConfigError(f"recipe {self.name}: lr and grad_clip must be positive and ema in [0, 1)")

    @property
    def steps(self) -> int:
        """Number of steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """Return the phase of a step, counted from 0."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def of(self, directions: Sequence[Direction]) -> Recipe:
        """Return the recipe for a training of these directions."""
        own = self.overrides.get(str(directions[0]), {}) if len(directions) == 1 else {}
        return replace(self, overrides={}, **own)

    def record(self) -> dict[str, Any]:
        """Return plain values, for the header of a checkpoint; without ``overrides``, which ``of`` has resolved."""
        plain = asdict(self) | {"model": dict(self.model)}
        del plain["overrides"]
        return plain


def parse(text: str, name: str) -> Recipe:
    """Make a recipe of TOML; ``base = "NAME"`` takes the keys of another recipe for those that are missing.

    Raises ConfigError for bad TOML, unknown keys and values out of range.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {name}: not TOML ({error})") from error
    known = {f.name for f in fields(Recipe)} - {"name", "overrides"}
    overrides = {str(each): table.pop(str(each)) for each in ISP_DIRECTIONS if str(each) in table}
    for each, values in overrides.items():
        if not isinstance(values, dict) or "phases" in values:
            raise ConfigError(f"recipe {name}: {each} must be a table of keys other than phases")
    if (base := table.pop("base", None)) is not None:
        if name == base or not isinstance(base, str):
            raise ConfigError(f"recipe {name}: base must name another recipe, got {base!r}")
        parent = load(base)
        inherited = {key: value for key, value in parent.record().items() if key != "name"}
        for each, values in parent.overrides.items():  # a key that the recipe itself gives holds for all directions
            overrides[each] = {key: values[key] for key in values if key not in table} | overrides.get(each, {})
        table = {**inherited, **table, "model": {**inherited["model"], **table.get("model", {})}}
    if unknown := set(table).union(*overrides.values()) - known:
        raise ConfigError(f"recipe {name}: unknown {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}")
    try:
        phases = tuple(Phase(**phase) for phase in table.pop("phases", ()))
        recipe = Recipe(name=name, phases=phases, overrides=overrides, **table)
        for each in ISP_DIRECTIONS:
            recipe.of([each])  # finds values out of range
    except TypeError as error:
        raise ConfigError(f"recipe {name}: {error}") from error
    return recipe


def load(name_or_path: str) -> Recipe:
    """Load a recipe of the package by name ("camera-cpu"), or a TOML file; raises ConfigError."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ConfigError(f"{path}: no such recipe file")
        return parse(path.read_text("utf-8"), path.stem)
    resource = resources.files(__package__).joinpath("recipes", f"{name_or_path}.toml")
    if not resource.is_file():
        raise ConfigError(f"there is no recipe {name_or_path!r}; choose {', '.join(names())}, or a .toml file")
    return parse(resource.read_text("utf-8"), name_or_path)


def names() -> list[str]:
    """Return the names of the recipes of the package."""
    folder = resources.files(__package__).joinpath("recipes")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
