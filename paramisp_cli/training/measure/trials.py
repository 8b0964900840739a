"""Evaluations: the photographs to measure on, the pairs to fit baselines on, and the models to compare."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from paramisp_cli import cameras, parameters, weights
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.errors import ConfigError, ParamispError
from paramisp_cli.training import dataset
from paramisp_cli.training.dataset import LoadedPair
from paramisp_cli.training.measure import baselines
from paramisp_cli.training.measure.libraw import gain_fitted, libraw
from paramisp_cli.training.measure.predictors import Predictor, network
from paramisp_cli.training.measure.scores import Score, score
from paramisp_cli.types import Camera

AUTO = "auto"
"""Word of ``--weights`` for the weights that ``unprocess`` and ``render`` would pick."""
BASELINES = ("parametric", "parametric, gain fitted", "regression", "LibRaw", "LibRaw, gain fitted")
"""Names of the baselines in the table."""
_PARAMETRIC, _FITTED, _REGRESSION, _LIBRAW, _LIBRAW_FITTED = BASELINES
_SMALLEST = 22
"""Smallest side [px] of an area to measure: SSIM compares windows of 11 sites of one colour."""
_SINGLE, _FOLDS = 8, 4
"""Photographs of a camera up to which each has its own baselines; number of groups into which more are divided."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A photograph, or an area of one, to measure on, and the pairs of the same camera to fit the baselines on."""

    item: LoadedPair
    fitting: tuple[LoadedPair, ...]

    @property
    def fitted_on_itself(self) -> bool:
        """Whether the baselines are fitted on the photograph that they are measured on."""
        return self.item in self.fitting


def with_shuffled_optics(pairs: Sequence[LoadedPair]) -> list[LoadedPair]:
    """Give each photograph the optical parameters of the next one, and the last one those of the first.

    Raises ConfigError for a single photograph.
    """
    if len(pairs) < 2:
        raise ConfigError("--shuffle-optics needs two photographs or more: one has no other to take the EXIF of")
    return [
        replace(item, pair=replace(item.pair, optical=following.pair.optical))
        for item, following in zip(pairs, [*pairs[1:], pairs[0]], strict=True)
    ]


def arrange(pairs: Sequence[LoadedPair], test: Sequence[str] = (), hold_out: float | None = None) -> list[Trial]:
    """Arrange the trials, camera by camera.

    Photographs whose name contains a word of ``test`` are measured whole; the baselines are fitted on the others of the
    camera. With ``hold_out`` (0 to 1) the others are split (``dataset.split``): fitted on the left, measured on the
    right. With neither, each photograph is measured with baselines fitted on the others of the camera (of more than
    eight, on the three quarters that do not contain it). The only photograph of a camera is fitted on itself. Raises
    ConfigError for a fraction that leaves an area empty, and if no name contains a word of ``test``.
    """
    if test and not any(word in item.pair.name for item in pairs for word in test):
        raise ConfigError(f"--test {', '.join(test)}: no pair's name contains it")
    groups: dict[str, list[LoadedPair]] = {}
    for item in pairs:
        groups.setdefault(item.camera, []).append(item)
    trials = []
    for group in groups.values():
        named = [item for item in group if any(word in item.pair.name for word in test)]
        others = [item for item in group if item not in named]
        if hold_out is not None and others:
            left = tuple(dataset.split(item, "train", hold_out) for item in others)
            measured = [*named, *(dataset.split(item, "test", hold_out) for item in others)]
            trials += [Trial(item, left) for item in measured]
        elif test:
            trials += [Trial(item, tuple(others or group)) for item in named]
        else:
            folds = len(group) if len(group) <= _SINGLE else _FOLDS
            for fold in range(folds):
                rest = tuple(other for number, other in enumerate(group) if number % folds != fold)
                trials += [Trial(item, rest or (item,)) for item in group[fold::folds]]
    for trial in trials:
        height, width = trial.item.mosaic.shape
        if min(height, width) < _SMALLEST:
            remedy = "; hold out more" if hold_out is not None else ""
            needs = f"a side of {_SMALLEST} pixels{remedy}"
            raise ConfigError(
                f"{trial.item.name}: an area of {width}×{height} is too small to measure; it needs {needs}"
            )
    return trials


class Checkpoints:
    """The checkpoints to measure, loaded once: files, and with "auto" those of each camera.

    Raises WeightsError for a missing or bad one.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.auto = AUTO in names
        self.device = device
        files = [path for name in names if name != AUTO for path in weights.locate(name)]
        self.headers = {path: weights.info(path) for path in files}
        self.loaded: dict[tuple[Path, Direction], Predictor] = {}

    def of(self, camera: Camera | None, direction: Direction) -> dict[str, Path]:
        """Return the checkpoints for a camera and direction, by the names of their lines in the table."""
        files = [path for path, header in self.headers.items() if direction in weights.directions(header)]
        if self.auto and (found := picked(camera, direction)) is not None and found not in files:
            files.append(found)
        return labelled(files)

    def unused(self, directions: Sequence[Direction]) -> list[Path]:
        """Return the files that serve none of these directions."""
        return [path for path, header in self.headers.items() if not {*directions} & {*weights.directions(header)}]

    def predictor(self, path: Path, direction: Direction) -> Predictor:
        """Return the network of a checkpoint for a direction."""
        if (path, direction) not in self.loaded:
            self.loaded[path, direction] = network(weights.load(path, self.device, direction), self.device)
        return self.loaded[path, direction]


def labelled(files: Sequence[Path]) -> dict[str, Path]:
    """Return files by the shortest end of their path, without suffix, that no other file and no baseline has."""
    whole = {path: path.absolute().with_suffix("").parts for path in files}
    names = {}
    for path, parts in whole.items():
        others = [other for each, other in whole.items() if each != path]
        ends = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
        free = (end for count, end in enumerate(ends, 1) if ["/".join(o[-count:]) for o in others].count(end) == 0)
        names[next((end for end in free if end not in BASELINES), str(path))] = path
    return names


def picked(camera: Camera | None, direction: Direction) -> Path | None:
    """Return the checkpoint that ``unprocess`` and ``render`` would pick for a camera; None for ``parametric``."""
    found = weights.find(parameters.known_as(camera, cameras.find(camera)), direction)
    return None if found is None else found.path


def run(
    trials: Sequence[Trial],
    directions: Sequence[Direction],
    checkpoints: Checkpoints,
    pictures: Path | str | None,
    say: Callable[[str], None],
) -> Iterator[Score]:
    """Measure every model on every trial, one score at a time.

    ``say`` takes sentences about baselines that are left out, and about weights that were trained on the photograph.
    """
    fitted: dict[tuple[Direction, tuple[LoadedPair, ...]], dict[str, Predictor]] = {}
    noted = set()
    for direction in directions:
        plain = network(weights.load_model("parametric", direction), checkpoints.device)
        for trial in trials:
            item = trial.item
            if (key := (direction, trial.fitting)) not in fitted:
                fitted[key] = {
                    _FITTED: baselines.fitted_parametric(trial.fitting, direction),
                    _REGRESSION: baselines.regression(trial.fitting, direction),
                }
            predictors = {_PARAMETRIC: plain, **fitted[key]}
            if direction.output == Kind.SRGB:
                predictors |= _libraw(item, say)
            for name, path in checkpoints.of(item.pair.camera, direction).items():
                predictors[name] = checkpoints.predictor(path, direction)
                if (path, item.name) not in noted and _was_trained_on(weights.info(path), item):
                    say(f"note: {name} was trained on a photograph called {item.pair.name}: no test of its quality")
                    noted.add((path, item.name))
            for name, predict in predictors.items():
                yield score(item, direction, name, predict, pictures)


def _libraw(item: LoadedPair, say: Callable[[str], None]) -> dict[str, Predictor]:
    """Return the baselines of LibRaw; none, with a sentence, if it cannot render the file in the frame of the pair."""
    predict = lru_cache(maxsize=1)(libraw)  # shared by the two baselines
    try:
        predict(item)
    except ParamispError as error:
        say(f"LibRaw left out for {item.name}: {error}")
        return {}
    return {_LIBRAW: predict, _LIBRAW_FITTED: gain_fitted(predict)}


def _was_trained_on(header: dict[str, str], item: LoadedPair) -> bool:
    """Tell whether weights were trained on these pixels, judged by names without the hash of the path at their end."""
    try:
        photographs = json.loads(header.get("training") or "{}").get("photographs", [])
    except (ValueError, AttributeError):
        return False
    if not isinstance(photographs, list):
        return False
    right = re.search(r"right (\d+) %", item.area)
    for photograph in photographs:
        name, _, area = str(photograph).partition(" (")
        left = re.search(r"left (\d+) %", area)
        apart = left and right and int(left[1]) + int(right[1]) <= 100
        if _stem(name) == _stem(item.pair.name) and not apart:
            return True
    return False


def _stem(name: str) -> str:
    """Return the name of a pair without the hash of its path."""
    return re.sub(r"-[0-9a-f]{6}$", "", name)
