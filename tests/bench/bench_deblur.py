"""Time the network of ``deblur`` on a mosaic of 12 megapixels: ``python tests/bench/bench_deblur.py [--runs N]``.

Prints seconds on the clock and of the processor, for the network alone, in float32 and bfloat16.
"""

import argparse
import resource
import time

import numpy as np
import torch

from paramisp_cli.models.deblur import Deblur
from paramisp_cli.runner import Runner
from paramisp_cli.types import CanonicalParams, OpticalParams

_SIZE = (3000, 4000)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=2)
    own = parser.parse_args()
    mosaic = np.random.default_rng(0).random(_SIZE, np.float32)
    canonical = CanonicalParams("RGGB", 0, 1, [0.5, 1, 0.7], np.eye(3))
    for dtype in (torch.float32, torch.bfloat16):
        runner = Runner(Deblur().eval(), torch.device("cpu"), dtype)
        for _ in range(own.runs):
            wall, cores = time.perf_counter(), time.process_time()
            runner.repair(mosaic, canonical, OpticalParams())
            took = time.perf_counter() - wall, time.process_time() - cores
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            print(f"{dtype}: {took[0]:.1f} s, {took[1]:.1f} core seconds, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
