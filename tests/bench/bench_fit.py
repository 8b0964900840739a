"""The closed form of `paramisp fit` and `--like`, across photographs of one camera, beside the polynomial regression.

Every photograph of the camera alone is fitted and measured on each other one; then those named by ``--train`` together,
measured on ``--test``. PSNR [dB] of whole photographs. DATASET is a data set of `paramisp pairs`.
Run: python tests/bench/bench_fit.py DATASET --camera S40 [--train CRW_0101 CRW_0113 --test CRW_0104 CRW_0105]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch

from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.models.fast.network import Fast
from paramisp_cli.training import colours, dataset
from paramisp_cli.training.dataset import LoadedPair
from paramisp_cli.training.measure import baselines, shading
from paramisp_cli.training.measure.metrics import psnr
from paramisp_cli.training.measure.predictors import Predictor, network, target


def closed_form(train: Sequence[LoadedPair], direction: Direction) -> Predictor:
    model = Fast(direction).eval()
    if all(item.pair.status == "pair" for item in train):  # full size: the lens shading shows
        model.lens_shading = shading.measure(train)
    model.fit_colours([colours.cells_of(item, direction, model.lens_shading) for item in train])
    return network(model, torch.device("cpu"))


def line(label: str, scores: Sequence[float]) -> str:
    return f"{label:44s} mean {np.mean(scores):6.2f}  worst {min(scores):6.2f}   {len(scores)} measured"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--camera", default="")
    parser.add_argument("--train", nargs="*", default=[])
    parser.add_argument("--test", nargs="*", default=[])
    chosen = parser.parse_args()
    if chosen.dataset is None:
        print("needs a data set of `paramisp pairs`: nothing measured")
        return
    items = [item for item in dataset.whole(dataset.load(chosen.dataset)) if chosen.camera in item.camera]

    def named(words: Sequence[str]) -> list[LoadedPair]:
        return [item for item in items if any(word in item.name for word in words)]

    for direction in ISP_DIRECTIONS:
        for label, make in (("closed form", closed_form), ("regression", baselines.regression)):
            alone = [
                psnr(predict(other), target(other, direction))
                for item in items
                for predict in [make([item], direction)]
                for other in items
                if other is not item
            ]
            if alone:
                print(line(f"{direction}, one photograph, {label}", alone), flush=True)
            if chosen.train and chosen.test:
                predict = make(named(chosen.train), direction)
                scores = [psnr(predict(item), target(item, direction)) for item in named(chosen.test)]
                print(line(f"{direction}, {' + '.join(chosen.train)}, {label}", scores), flush=True)


if __name__ == "__main__":
    sys.exit(main())
