"""Train the network of ``deblur`` on the sRGB of one simulated camera, for comparison with RAW.

``python tests/bench/deblur_srgb.py FOLDER SCENE…``: the same network, loss, schedule and scenes as in
``deblur_train.py``; only its input and output are the camera's pictures. The result is FOLDER/checkpoint.pt.

A pair without blur keeps the picture without noise as its target: with copies of the input as such targets, as the RAW
training has them, the network learned to copy in ten core minutes.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from deblur_train import _FIRST, _PAIRS, _SIZE, _STEPS_A_PAIR

from paramisp_cli.directions import Direction
from paramisp_cli.models.deblur import Deblur
from paramisp_cli.training import restoring
from paramisp_cli.training.simulated import scenes, shaken, shots

CAMERA, LOOK = "Nikon D7000", 0
"""The camera of the training, and the seed of its look."""


class OnPictures(Deblur):
    """The network between pictures (N, 3, H, W) in [0, 1]: 12 channels at half size, and no noise plane in use."""

    def __init__(self, direction=Direction.RESTORE, **more):
        super().__init__(direction, **more)
        self.stem = torch.nn.Conv2d(13, self.width, 3, padding=1)
        self.tail = torch.nn.Conv2d(self.width, 12, 3, padding=1)
        self.to(memory_format=torch.channels_last)
        self._begin_as_no_change()

    def sharpened(self, pictures):
        packed = F.pixel_unshuffle(pictures, 2)
        change = self._change(torch.cat([packed, torch.zeros_like(packed[:, :1])], 1)).float()
        return F.pixel_shuffle(packed + change, 2)


class Training(restoring.Training):
    """The same training on pictures (H, W, 3) uint8."""

    def loss(self, pairs, rng):
        own, inputs, targets = self.schedule, [], []
        for blurred, sharp in pairs:
            top, left = (int(rng.integers(blurred.shape[i] - own.crop + 1)) for i in (0, 1))
            flips = [axis for axis in (0, 1) if rng.random() < 0.5]
            turn = rng.random() < 0.5
            for side, into in ((blurred, inputs), (sharp, targets)):
                piece = np.flip(side[top : top + own.crop, left : left + own.crop], flips)
                piece = piece.transpose(1, 0, 2) if turn else piece
                into.append(torch.from_numpy(np.ascontiguousarray(piece.transpose(2, 0, 1))).float() / 255)
        with torch.autocast("cpu", torch.bfloat16, enabled=own.bf16):
            after = self.model.sharpened(torch.stack(inputs)).float()
        wanted = torch.stack(targets)
        difference = (after - wanted) * torch.where(wanted > 0.999, own.saturated, 1.0)
        spectrum = torch.view_as_real(torch.fft.rfft2(difference, norm="ortho"))
        return difference.abs().mean() + own.frequencies * spectrum.abs().mean()


class Pairs:
    """Pairs of pictures, made as the training needs them, and stored."""

    def __init__(self, folder, sources, seed):
        self.folder, self.sources, self.seed = folder, sources, seed
        folder.mkdir(parents=True, exist_ok=True)
        self.facts = shots.pick_cameras([CAMERA])[0]
        self.pairs, self.count = [], _FIRST

    def __len__(self):
        return min(self.count, _PAIRS)

    def __getitem__(self, number):
        while len(self.pairs) <= number:
            path = self.folder / f"{len(self.pairs):05d}.npz"
            if not path.exists():
                rng = np.random.default_rng((self.seed, len(self.pairs)))
                scene = self.sources[int(rng.integers(len(self.sources)))]
                shot = shaken.take(scene, self.facts, _SIZE, shaken.draw_length(rng), rng)
                blurred, sharp = shot.pictures(LOOK)
                np.savez(path.with_suffix(".part.npz"), a=blurred, b=sharp)
                path.with_suffix(".part.npz").rename(path)
            with np.load(path) as f:
                self.pairs.append((f["a"], f["b"]))
        return self.pairs[number]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--core-minutes", type=float, default=20.0)
    own = parser.parse_args()
    torch.set_num_threads(1)
    schedule = restoring.Schedule(core_minutes=own.core_minutes)
    training = Training(own.folder, schedule, OnPictures())
    pairs = Pairs(own.folder / "pairs", [scenes.load(path) for path in scenes.find(own.scenes)], schedule.seed)
    pairs.count = _FIRST + training.step // _STEPS_A_PAIR

    def report(step, loss, minutes):
        pairs.count = _FIRST + step // _STEPS_A_PAIR
        print(f"step {step}  loss {loss:.5f}  {minutes:.1f} core minutes", flush=True)

    training.run(pairs, report)


if __name__ == "__main__":
    main()
