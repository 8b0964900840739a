"""An evaluation as a whole: what is measured on what, fitted on what, with which models beside each other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from paramisp_cli import cameras, parameters, weights
from paramisp_cli.errors import ConfigError, ParamispError
from paramisp_cli.training import baselines, chart, data
from paramisp_cli.training.baselines import Predictor
from paramisp_cli.training.data import Loaded
from paramisp_cli.training.evaluate import Score, measure
from paramisp_cli.types import Camera, Direction

AUTO = "auto"
"""What ``--weights`` calls the weights that the command line picks by itself."""

_SINGLY, _FOLDS = 8, 4
"""Photographs of a camera up to which every one has baselines of its own, and how many parts more are cut into."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A photograph (or a part of it) to measure on, and those to fit the baselines on; all of one camera."""

    item: Loaded
    fitting: tuple[Loaded, ...]

    @property
    def fitted_on_itself(self) -> bool:
        """Whether the baselines have seen what they are measured on."""
        return any(item is self.item for item in self.fitting)


def with_others_optics(loaded: Sequence[Loaded]) -> list[Loaded]:
    """Each photograph with the optical parameters of the next one, the last with the first one's.

    Raises ConfigError for a single photograph, which has no other.
    """
    if len(loaded) < 2:
        raise ConfigError("--shuffle-optics needs two photographs or more: there is no other one's EXIF to give")
    others = [*loaded[1:], loaded[0]]
    return [
        replace(item, pair=replace(item.pair, optical=other.pair.optical))
        for item, other in zip(loaded, others, strict=True)
    ]


def plan(loaded: Sequence[Loaded], test: Sequence[str] = (), hold_out: float | None = None) -> list[Trial]:
    """What to measure, camera by camera.

    Photographs whose name contains a word of ``test`` are measured whole; the baselines are fitted on the camera's
    others. With ``hold_out`` (0 to 1) those others are split (``data.split``): fitted on the left, measured on the
    right. With neither, each photograph is measured with what was fitted on the camera's others (of more than eight,
    with what was fitted on three quarters that it is not among). A camera's only photograph is fitted on itself.
    Raises ConfigError for a fraction that leaves nothing, and for words of ``test`` that no name contains.
    """
    if test and not any(word in item.pair.name for item in loaded for word in test):
        raise ConfigError(f"--test {', '.join(test)}: no pair's name contains it")
    groups: dict[str, list[Loaded]] = {}
    for item in loaded:
        groups.setdefault(item.camera, []).append(item)
    trials = []
    for group in groups.values():
        named = [item for item in group if any(word in item.pair.name for word in test)]
        others = [item for item in group if not any(item is one for one in named)]
        if hold_out is not None and others:
            left = tuple(data.split(item, "train", hold_out) for item in others)
            measured = [*named, *(data.split(item, "test", hold_out) for item in others)]
            trials += [Trial(item, left) for item in measured]
        elif test:
            trials += [Trial(item, tuple(others or group)) for item in named]
        else:
            folds = len(group) if len(group) <= _SINGLY else _FOLDS
            for fold in range(folds):
                rest = tuple(other for number, other in enumerate(group) if number % folds != fold)
                trials += [Trial(item, rest or (item,)) for item in group[fold::folds]]
    return trials


class Weights:
    """The checkpoints to measure: files, and with "auto" each camera's own; loaded once.

    Raises WeightsError for one that is missing or bad.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.auto = AUTO in names
        self.device = device
        self.files = [Path(name) for name in names if name != AUTO]
        self.headers = {path: weights.info(path) for path in self.files}
        self.loaded: dict[Path, Predictor] = {}

    def of(self, camera: Camera | None, direction: Direction) -> dict[str, Path]:
        """Name of the row → checkpoint, for a camera and direction."""
        files = [path for path in self.files if self.headers[path]["direction"] == direction]
        if self.auto and (found := own(camera, direction)) is not None and found not in files:
            files.append(found)
        names: dict[str, Path] = {}
        for path in files:  # two runs may have given their files the same name
            name = path.stem if path.stem not in names else f"{path.parent.name}/{path.stem}"
            names[name] = path
        return names

    def predictor(self, path: Path) -> Predictor:
        """The network of a checkpoint."""
        if path not in self.loaded:
            self.loaded[path] = baselines.network(weights.load(path, self.device), self.device)
        return self.loaded[path]


def own(camera: Camera | None, direction: Direction) -> Path | None:
    """The checkpoint that ``unprocess`` and ``render`` would pick for a camera; None where that is ``parametric``."""
    found = weights.find(parameters.known_as(camera, cameras.find(camera)), direction)
    return None if found is None else found.path


def run(
    trials: Sequence[Trial],
    ways: Sequence[Direction],
    chosen: Weights,
    pictures: Path | str | None,
    say: Callable[[str], None],
) -> Iterator[Score]:
    """Every model on every trial, a score at a time; ``say`` takes a line about what was left out or is no test."""
    fitted: dict[tuple[object, ...], dict[str, Predictor]] = {}
    told = set()
    for way in ways:
        plain = baselines.network(weights.load_model("parametric", way), chosen.device)
        for trial in trials:
            item = trial.item
            key = (way, *(id(one) for one in trial.fitting))
            if key not in fitted:
                fitted[key] = {
                    "parametric, gain fitted": baselines.fitted_parametric(trial.fitting, way),
                    "regression": baselines.regression(trial.fitting, way),
                }
            predictors = {"parametric": plain, **fitted[key]}
            if way == Direction.RENDER:
                predictors |= _libraw(item, say)
            for name, path in chosen.of(item.pair.camera, way).items():
                predictors[name] = chosen.predictor(path)
                if (path, item.name) not in told and _has_seen(weights.info(path), item):
                    say(f"note: {name} was trained on a photograph called {item.pair.name}: there it is no test")
                    told.add((path, item.name))
            found = chart.find(item.srgb) if way == Direction.RENDER else None
            for name, predict in predictors.items():
                yield measure(item, way, name, predict, pictures, partial(_known, found))


def _known(found: chart.Chart | None, picture: np.ndarray) -> chart.Chart | None:
    """What was found in the picture already."""
    return found


def _libraw(item: Loaded, say: Callable[[str], None]) -> dict[str, Predictor]:
    """LibRaw's rows; none, and a line of why, where its picture cannot be had or laid on the pair."""
    predict = baselines.remembered(baselines.libraw)
    try:
        predict(item)
    except ParamispError as error:
        say(f"LibRaw left out for {item.name}: {error}")
        return {}
    return {"LibRaw": predict, "LibRaw, gain fitted": baselines.gain_fitted(predict)}


def _has_seen(header: dict[str, str], item: Loaded) -> bool:
    """Whether weights were trained on these pixels, as far as names tell: those of pairs end in a hash of the path."""
    try:
        photographs = json.loads(header.get("training") or "{}").get("photographs", [])
    except (ValueError, AttributeError):
        return False
    right = re.search(r"right (\d+) %", item.part)
    for photograph in photographs:
        name, _, part = str(photograph).partition(" (")
        left = re.search(r"left (\d+) %", part)
        apart = left and right and int(left[1]) + int(right[1]) <= 100
        if _stem(name) == _stem(item.pair.name) and not apart:
            return True
    return False


def _stem(name: str) -> str:
    return re.sub(r"-[0-9a-f]{6}$", "", name)
