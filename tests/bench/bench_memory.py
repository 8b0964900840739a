"""The network on large pictures in little memory: seconds, peak memory and difference for every limit.

    python tests/bench/bench_memory.py                                   24 megapixels: free memory, then 11 GB
    python tests/bench/bench_memory.py --megapixels 8 --limits 0 4       8 megapixels; 0: free memory
    python tests/bench/bench_memory.py --limits 0 4 --scratch DIR        with a file for maps that memory cannot hold
    python tests/bench/bench_memory.py --megapixels 100 --limits 8 --scratch DIR      100 megapixels in 8 GB

Each limit has a process of its own. Differences are in codes of 16383, to the first limit's result. A limit that no
plan fits prints the reason.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import Params
from paramisp_cli.models.paramisp import ParamISP
from paramisp_cli.runner import Runner

WHITE = 16383


def picture(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: gradients, noise and hard edges."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    tile = rng.integers(0, 60, (512, 512, 3), np.uint8)
    noise = np.tile(tile, (height // 512 + 1, width // 512 + 1, 1))[:height, :width]
    ramp = ((x / width * 120) + (y / height * 60) + 40 * ((x // 97 + y // 61) % 2)).astype(np.uint8)
    return noise + ramp[..., None]


def child(height: int, width: int, limit: int, path: str, scratch: Path | None) -> None:
    """Run once; print plan, seconds and gigabytes, and save the mosaic."""
    torch.manual_seed(0)
    model = ParamISP("unprocess").eval()
    one = torch.ones(1)
    params = Params(torch.tensor([[2.1, 1.0, 1.5]]), torch.eye(3)[None], 160 * one, one / 125, 2.8 * one, 80 * one)
    pixels, out = picture(height, width), np.empty((height, width), np.uint16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def source(first: int, end: int) -> torch.Tensor:
        return torch.from_numpy(pixels[first:end].astype(np.float32)).permute(2, 0, 1)[None].contiguous().div_(255)

    def sink(top: int, rows: torch.Tensor) -> None:
        out[top : top + rows.shape[2]] = (rows[0, 0].clamp(0, 1) * WHITE).round().numpy().astype(np.uint16)

    device, begin = torch.device("cpu"), time.perf_counter()
    try:
        machine = Runner(model, device, max_memory=limit or None, scratch=scratch)
        plan = machine.run(params, (height, width), source, sink)
    except ConfigError as error:
        print(f"none: {error}")
        return
    spent = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.save(path, out)
    print(f"{plan} {spent} {peak / 1e6} {before / 1e6}")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=24)
    parser.add_argument("--limits", type=float, nargs="+", default=[0, 11], help="gigabytes; 0: free memory")
    parser.add_argument("--scratch", type=Path, help="a folder on a disk")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        height, width, limit, path = args.child
        child(int(height), int(width), int(float(limit)), path, args.scratch)
        return
    height = round((args.megapixels * 1e6 * 2 / 3) ** 0.5 / 2) * 2
    width = round(args.megapixels * 1e6 / height / 2) * 2
    print(f"{width}×{height}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        first = None
        for number, limit in enumerate(args.limits):
            path = Path(folder) / f"{number}.npy"
            words = [sys.executable, __file__, "--child", str(height), str(width), str(limit * 1e9), str(path)]
            words += ["--scratch", str(args.scratch)] if args.scratch else []
            told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
            shown = f"{limit:g} GB" if limit else "free memory"
            if told.startswith("none"):
                print(f"  {shown:13} no plan: {told.removeprefix('none: ').strip()}")
                continue
            plan, *numbers = told.split()
            spent, peak, before = map(float, numbers)
            made = np.load(path).astype(np.int32)
            first = made if first is None else first
            each = spent / height / width * 1e6
            print(
                f"  {shown:13} plan {plan:8} {spent:6.0f} s, {each:.2f} s/MP, peak {peak:.1f} GB "
                f"({before:.1f} before), largest difference {np.abs(made - first).max()} of {WHITE}"
            )


if __name__ == "__main__":
    main()
