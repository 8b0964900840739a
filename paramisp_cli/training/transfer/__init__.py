"""Train and measure networks from one camera's RAW colours to another's, beside closed forms on the same pixels.

The data set is that of ``simulated.spectral``. Of the training scenes the last serves validation, which chooses the
weights of paired trainings; test scenes, their reflectances and their lights are never seen in training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
    """Return a training's schedule by its name, with another number of steps; raises ConfigError."""
    if name not in RECIPES:
        raise ConfigError(f"--recipe {name}: of --direction transfer there are {', '.join(RECIPES)}")
    return RECIPES[name] if steps is None else replace(RECIPES[name], steps=steps)


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
