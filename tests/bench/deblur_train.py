"""Train the weights of ``deblur`` on simulated shake: ``python tests/bench/deblur_train.py FOLDER SCENE…``.

SCENE are panoramas (.hdr) and RAW photographs, or folders of them. A stopped training goes on from FOLDER. The result
is FOLDER/generic.restore.safetensors.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch

from paramisp_cli import weights
from paramisp_cli.training import restoring
from paramisp_cli.training.simulated import scenes, shots

TEST_CAMERAS = ("Canon EOS 60D", "Canon PowerShot G10", "Nikon D90", "Sony ILCE-7RM3")
"""Simulated cameras that the training never sees."""
_SIZE = 256
_FIRST, _PAIRS, _STEPS_A_PAIR = 200, 2400, 2
"""Pairs before the first step, in all, and steps until one more is there: training need not wait for all."""


class Pairs:
    """Pairs made as the training needs them, and stored."""

    def __init__(self, folder, sources, schedule):
        self.folder, self.sources, self.schedule = folder, sources, schedule
        folder.mkdir(parents=True, exist_ok=True)
        self.cameras = [each for each in shots.pick_cameras(()) if each.name not in TEST_CAMERAS]
        self.pairs, self.count = [], _FIRST

    def __len__(self):
        return min(self.count, _PAIRS)

    def __getitem__(self, number):
        while len(self.pairs) <= number:
            self.pairs.append(self._stored(len(self.pairs)))
        return self.pairs[number]

    def _stored(self, number):
        path = self.folder / f"{number:05d}.npz"
        if not path.exists():
            pair = restoring.make_pair(number, self.sources, self.cameras, _SIZE, self.schedule)
            facts = {"noise": pair.noise, "length": pair.length, "neutral": pair.canonical.as_shot_neutral}
            np.savez(path.with_suffix(".part.npz"), a=pair.blurred, b=pair.sharp, **facts)
            path.with_suffix(".part.npz").rename(path)
            return pair
        with np.load(path) as f:
            # Levels and matrix do not enter the network.
            canonical = restoring.CanonicalParams("RGGB", 0, 1, f["neutral"], np.eye(3))
            return restoring.Pair(f["a"], f["b"], float(f["noise"]), float(f["length"]), canonical)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--core-minutes", type=float, default=30.0)
    own = parser.parse_args()
    torch.set_num_threads(1)
    schedule = restoring.Schedule(core_minutes=own.core_minutes)
    files = scenes.find(own.scenes)
    training = restoring.Training(own.folder, schedule)
    pairs = Pairs(own.folder / "pairs", [scenes.load(path) for path in files], schedule)
    pairs.count = _FIRST + training.step // _STEPS_A_PAIR

    def report(step, loss, minutes):
        pairs.count = _FIRST + step // _STEPS_A_PAIR
        print(f"step {step}  loss {loss:.5f}  {minutes:.1f} core minutes  {len(pairs)} pairs", flush=True)

    training.run(pairs, report)
    facts = {
        "schedule": dataclasses.asdict(schedule),
        "scenes": [path.stem for path in files],
        "pairs": len(pairs),
        "steps": training.step,
        "left_out_cameras": TEST_CAMERAS,
    }
    path = weights.save(
        training.averaged(),
        own.folder / "generic.restore.safetensors",
        camera="generic",
        recipe="deblur-cpu",
        training=json.loads(json.dumps(facts)),
        licence="MIT",
        half=True,
    )
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
