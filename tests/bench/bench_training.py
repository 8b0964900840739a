"""Training's speed, and what each measure brought: megapixels a second through forward, backward and the optimiser.

    python tests/bench/bench_training.py                           crops of 128 px, four a step, two threads
    python tests/bench/bench_training.py --crop 384 --batch 2
    python tests/bench/bench_training.py --pairs FOLDER            also how long a step waits for its crops
    python tests/bench/bench_training.py --device cuda

Every way has a process of its own, and they take turns. Each has the measures of those above it.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from paramisp_cli import memory
from paramisp_cli.models.base import Params
from paramisp_cli.models.paramisp import ParamISP
from paramisp_cli.models.paramisp.network import Block

WAYS = (
    "written plainly, float32",
    "+ the allocator keeps its memory",
    "+ channels last",
    "+ the attention's gradient written out",
    "+ bf16 convolutions",
)


def serve(way: int, args: argparse.Namespace) -> None:
    """A step and its seconds for every line on stdin."""
    device = torch.device(args.device)
    model = ParamISP(args.direction).to(device).train()
    if way >= 1 and device.type == "cpu":
        memory.keep_freed()
    if way >= 2:
        model.to(memory_format=torch.channels_last)
    if way < 3:
        Block.forward = lambda self, x: self.attend(x, self.conv2(torch.nn.functional.elu(self.conv1(x))))
    one = torch.ones(args.batch)
    gains = torch.tensor([[2.1, 1.0, 1.5]]).repeat(args.batch, 1)
    params = Params(gains, torch.eye(3).repeat(args.batch, 1, 1), 160 * one, one / 125, 2.8 * one, 80 * one).to(device)
    srgb = torch.rand(args.batch, 3, args.crop, args.crop, device=device)
    mosaic = torch.rand(args.batch, 1, args.crop, args.crop, device=device)
    x, wanted = (srgb, mosaic) if args.direction == "unprocess" else (mosaic, srgb)
    if way >= 2:
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for _ in sys.stdin:
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=way >= 4):
            out = model(x, params).float()
        (out - wanted).abs().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        print(time.perf_counter() - begin, flush=True)


def data(args: argparse.Namespace) -> float:
    """Seconds that a batch of crops takes from the pairs in a folder."""
    from paramisp_cli.training.crops import Sampler
    from paramisp_cli.training.dataset import load

    sampler = Sampler(load(args.pairs))
    times = []
    for seed in range(20):
        begin = time.perf_counter()
        sampler.batch(args.batch, args.crop, torch.Generator().manual_seed(seed))
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--direction", choices=["unprocess", "render"], default="render")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.serve is not None:
        serve(args.serve, args)
        return
    begin = [sys.executable, *sys.argv, "--serve"]
    there = [
        subprocess.Popen([*begin, str(way)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for way in range(len(WAYS))
    ]

    def step(way: int) -> float:
        there[way].stdin.write("\n")
        there[way].stdin.flush()
        return float(there[way].stdout.readline())

    for way in range(len(WAYS)):
        step(way), step(way)  # warm-up
    times = [[step(way) for way in range(len(WAYS))] for _ in range(args.steps)]
    for child in there:
        child.stdin.close()
        child.wait()
    pixels = args.batch * args.crop**2 / 1e6
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, {args.direction}, ", end="")
    print(f"{args.batch} crops of {args.crop} px a step, median of {args.steps} paired steps")
    for way, name in enumerate(WAYS):
        each = statistics.median(row[way] for row in times)
        ratio = statistics.median(row[0] / row[way] for row in times)
        print(f"  {name:40} {pixels / each:6.3f} MP/s, {ratio:5.2f} × the plain way")
    if args.pairs:
        last = statistics.median(row[-1] for row in times)
        spent = data(args)
        print(f"  crops for a step: {1000 * spent:.1f} ms, {100 * spent / (spent + last):.1f} % of it")


if __name__ == "__main__":
    main()
