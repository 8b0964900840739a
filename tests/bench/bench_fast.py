"""Time the networks beside each other: seconds and CPU seconds a megapixel of ``fast`` and ``paramisp``.

Run: python tests/bench/bench_fast.py [--megapixels 3]. The models take turns in one process; the ratio is the CPU time
of ``paramisp`` over that of ``fast``. Weights are the generic ones of the checkout.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from paramisp_cli import memory, weights
from paramisp_cli.runner import Runner
from paramisp_cli.types import CanonicalParams, Direction, OpticalParams

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
CANONICAL = CanonicalParams("RGGB", 0, 1023, (0.5, 1, 0.6), MATRIX)


def main() -> None:
    """Parse, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=3)
    megapixels = parser.parse_args().megapixels
    memory.keep_freed()
    height = int((megapixels * 1e6 * 3 / 4) ** 0.5) // 2 * 2
    width = int(megapixels * 1e6 / height) // 2 * 2
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    mosaic = picture[..., 0].astype(np.uint16) * 4
    print(f"{height * width / 1e6:.1f} megapixels, {torch.get_num_threads()} threads")
    for direction in (Direction.UNPROCESS, Direction.RENDER):
        spent: dict[str, list[float]] = {}
        for name in ("fast", "paramisp", "fast", "paramisp"):
            machine = Runner(weights.load_model("generic", direction, architecture=name), torch.device("cpu"))
            wall, cpu = time.perf_counter(), time.process_time()
            if direction == Direction.UNPROCESS:
                machine.unprocess(picture, CANONICAL, OpticalParams())
            else:
                machine.render(mosaic, CANONICAL, OpticalParams())
            took = time.perf_counter() - wall, time.process_time() - cpu
            best = spent.get(name)
            spent[name] = [min(pair) for pair in zip(took, best or took, strict=True)]
        for name, (wall, cpu) in spent.items():
            print(f"{direction} {name}: {wall / megapixels:.2f} s and {cpu / megapixels:.2f} CPU s a megapixel")
        print(f"{direction}: CPU ratio {spent['paramisp'][1] / spent['fast'][1]:.1f}")


if __name__ == "__main__":
    main()
