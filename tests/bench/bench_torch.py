"""Time paramisp_cli.torch on batches of 512 × 512: unprocess and noise, in megapixels a second.

    python tests/bench/bench_torch.py [--threads 2]

The best of five rounds counts. A loop that copies a batch is the floor of the same machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from paramisp_cli.torch import AddNoise, Shots, Unprocess

BATCH, SIDE, ROUNDS = 8, 512, 5


def rate(work: Callable[[], object]) -> float:
    """Return megapixels a second of the best round."""
    work()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return BATCH * SIDE**2 / 1e6 / min(times)


def main() -> None:
    """Print a row for each model and kind of noise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    pictures = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    shots = Shots.draw(BATCH, iso=(100, 6400), generator=torch.Generator().manual_seed(1))
    print("| model | unprocess | and gaussian noise | and poisson noise |\n|---|---:|---:|---:|")
    with torch.no_grad():
        for name in ("parametric", "generic"):
            unprocess = Unprocess(name)
            rates = [rate(lambda module=unprocess: module(pictures, shots))]
            for shot in ("gaussian", "poisson"):
                noise = AddNoise(shot=shot)
                rates.append(rate(lambda module=unprocess, noise=noise: noise(module(pictures, shots), shots)))
            print(f"| {name} | " + " | ".join(f"{each:.1f}" for each in rates) + " |", flush=True)
    print(f"floor: a copy of the batch as floats: {rate(lambda: pictures.float() / 255):.0f}")


if __name__ == "__main__":
    main()
