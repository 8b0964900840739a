"""Train and measure networks from one camera's RAW colours to another's, beside closed forms on the same pixels.

The data set is that of ``simulated.spectral``. Of the training scenes the last serves validation, which chooses the
weights of paired trainings; test scenes, their reflectances and their lights are never seen in training.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from paramisp_cli.errors import ConfigError
from paramisp_cli.training.transfer import cstpp, splines
from paramisp_cli.training.transfer.measure import Score, divergence, evaluate, methods, table
from paramisp_cli.training.transfer.shots import DataSet, Pixels, Progress, predicted, split
from paramisp_cli.training.transfer.shots import load as load_data
from paramisp_cli.training.transfer.splines import Schedule
from paramisp_cli.training.transfer.stored import load

__all__ = [
    "RECIPES", "DataSet", "Pixels", "Progress", "Schedule", "Score", "divergence", "evaluate", "load", "load_data",
    "methods", "predicted", "recipe", "split", "table", "train",
]  # fmt: skip

RECIPES: dict[str, Schedule | cstpp.Schedule] = {
    "splines": Schedule(),
    "cstpp": cstpp.Schedule(),
    "cstpp-unpaired": cstpp.UNPAIRED,
}
"""Every training from camera to camera, by the name of ``--recipe``."""


_DEFAULT = Schedule()


def recipe(name: str, steps: int | None = None) -> Schedule | cstpp.Schedule:
    """Return a training's schedule, with another number of steps; raises ConfigError.

    ``name`` is one of ``RECIPES``, or a TOML file with the name of one as ``base`` and other values of its fields.
    """
    changes: dict[str, Any] = {} if steps is None else {"steps": steps}
    if name.endswith(".toml"):
        name, changes = _read(Path(name), changes)
    if name not in RECIPES:
        raise ConfigError(f"--recipe {name}: of --direction transfer there are {', '.join(RECIPES)}, or a TOML file")
    return replace(RECIPES[name], **changes)


def _read(path: Path, changes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the base that a recipe file names, and its changes, which ``changes`` overrides."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    base = table.pop("base", None)
    if base not in RECIPES:
        raise ConfigError(f"{path}: base must be one of {', '.join(RECIPES)}, got {base!r}")
    known = {each.name: getattr(RECIPES[base], each.name) for each in fields(RECIPES[base])}
    for key, value in table.items():
        if key not in known or key in ("name", "paired"):
            free = ", ".join(each for each in known if each not in ("name", "paired"))
            raise ConfigError(f"{path}: {key} is no value of {base}; its values are {free}")
        fits = type(value) is type(known[key]) or (isinstance(known[key], float) and type(value) is int)
        if isinstance(known[key], tuple):
            fits = isinstance(value, list) and all(type(each) in (int, float) for each in value)
        if not fits:
            raise ConfigError(f"{path}: {key} must be like {known[key]!r}, got {value!r}")
    return str(base), {**table, **changes}


def train(
    dataset: Path | str,
    output: Path | str,
    schedule: Schedule | cstpp.Schedule = _DEFAULT,
    device: torch.device | str = "cpu",
    report: Callable[[Progress], None] = lambda progress: None,
    check: Callable[[], None] = lambda: None,
    a: str | None = None,
    b: str | None = None,
) -> Path:
    """Train a network on a data set, from camera ``a`` to ``b``, and write its weights → the file.

    Without ``a`` and ``b``, from the data set's first camera to its second. A training of CSTPP continues from the
    checkpoint in ``output``. Raises ConfigError and FormatError for an unfit data set, FileAccessError for ``output``.
    """
    data = load_data(dataset, a, b)
    if isinstance(schedule, Schedule):
        return splines.train(data, Path(output), schedule, device, report, check)
    return cstpp.train(data, Path(output), schedule, device, report, check)
