"""Predictors of one side of a pair from the other, and networks as predictors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from paramisp_cli import mosaic
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.models.base import IspModel
from paramisp_cli.runner import Runner
from paramisp_cli.training.dataset import LoadedPair

Predictor = Callable[[LoadedPair], np.ndarray]
"""Pair → its other side, float32 in [0, 1]: mosaic (H, W) or picture (H, W, 3), aligned with the side of the pair."""


def target(item: LoadedPair, direction: Direction) -> np.ndarray:
    """Return the side of a pair that a predictor of this direction is to give."""
    raw, picture = item.sides()
    return raw if direction.output == Kind.RAW else picture


def network(model: IspModel, device: torch.device) -> Predictor:
    """Make a predictor of a model, run as the command line runs it."""

    def predict(item: LoadedPair) -> np.ndarray:
        raw, picture = item.sides()
        machine = Runner(model, device)
        run, source = (machine.unprocess, picture) if model.direction.input == Kind.SRGB else (machine.render, raw)
        return run(source, item.canonical, item.pair.optical, dtype=np.float32, frame=item.frame)[0]

    return predict


def there_and_back(unprocess: Predictor, render: Predictor) -> Predictor:
    """Make a predictor of the picture: ``render`` of the raw codes that ``unprocess`` gives."""

    def predict(item: LoadedPair) -> np.ndarray:
        black = mosaic.repeated(item.canonical.black_level, item.mosaic.shape)
        codes = unprocess(item) * (item.canonical.white_level - black) + black
        return render(replace(item, mosaic=codes.round().astype(np.uint16)))

    return predict
