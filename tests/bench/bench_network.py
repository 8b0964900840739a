"""ParamISP's inference against the plain whole-image forward, or one large image with its memory.

    python tests/bench/bench_network.py                            ratios at 1 megapixel, paired A B C A B C
    python tests/bench/bench_network.py --megapixels 12 --memory   seconds and peak memory of one streamed image

The plain way is run as a user would find it, and again with an allocator that keeps its memory (see PERFORMANCE:
page faults are half of the published network's time), each in a process of its own. Correctness is checked before any
clock.
"""

import argparse
import ctypes
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext

import torch

from paramisp_cli import memory
from paramisp_cli.models import Params
from paramisp_cli.models.paramisp import ParamISP


def shot() -> Params:
    """One shot's parameters."""
    one = torch.ones(1)
    gains = torch.tensor([[2.1, 1.0, 1.5]])
    return Params(gains, torch.eye(3)[None], 160 * one, one / 125, 2.8 * one, 80 * one)


def picture(direction: str, megapixels: float) -> torch.Tensor:
    """A 4:3 image of noise, sides multiples of 4."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5 / 4) * 4
    width = round(megapixels * 1e6 / height / 4) * 4
    return torch.rand(1, 3 if direction == "unprocess" else 1, height, width)


def seconds(call) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def keep_memory() -> None:
    """Tell glibc's allocator to keep what it has been given (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD)."""
    libc = ctypes.CDLL(None)
    for option, value in ((-3, 1 << 30), (-1, 2**31 - 1), (-2, 256 << 20)):
        libc.mallopt(option, value)


WAYS = ("as shipped", "tuned allocator", "ours")


def serve(way: str, direction: str, megapixels: float) -> None:
    """One way of running the network, in a process of its own: a run and its seconds for every line on stdin."""
    model, params, x = ParamISP(direction).eval(), shot(), picture(direction, megapixels)
    if way == "tuned allocator":
        keep_memory()
    if way != "ours":  # the differentiable way without its graph: the network written the straightforward way
        model.training = True
    with torch.inference_mode(), memory.kept() if way == "ours" else nullcontext():  # as a batch does
        for line in sys.stdin:
            spent = seconds(lambda: model(x, params))
            if line.strip() == "save":
                torch.save(model(x, params), sys.argv[-1])
            print(spent, flush=True)


def compare(args: argparse.Namespace) -> None:
    """Paired ratios of the plain whole-image network to ours, each in a process of its own, in turns."""
    begin = [sys.executable, *sys.argv, "--serve"]
    with tempfile.TemporaryDirectory() as folder:
        files = {way: f"{folder}/{number}" for number, way in enumerate(WAYS)}
        there = {
            way: subprocess.Popen([*begin, way, files[way]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for way in WAYS
        }

        def ask(way: str, what: str = "") -> float:
            child = there[way]
            child.stdin.write(f"{what}\n")
            child.stdin.flush()
            return float(child.stdout.readline())

        for way in WAYS:
            ask(way, "save")  # warm-up
        results = {way: torch.load(path) for way, path in files.items()}
        error = (results["ours"] - results["as shipped"]).abs().max().item()
        assert error < args.bound, f"ours differs from the plain way by {error}"
        times = [{way: ask(way) for way in WAYS} for _ in range(args.pairs)]
        for child in there.values():
            child.stdin.close()
            child.wait()
    size = results["ours"].shape[-2] * results["ours"].shape[-1] / 1e6
    print(f"{args.direction}, {size:.2f} MP, largest difference {error:.1e}")
    for way in WAYS:
        ratio = statistics.median(t[way] / t["ours"] for t in times)
        each = statistics.median(t[way] for t in times) / size
        print(f"  {way:16} {each:6.2f} s/MP, {ratio:.2f} × ours (median of {args.pairs} paired ratios)")


def alone(direction: str, megapixels: float) -> None:
    """One streamed image in this process: seconds, peak resident memory and the estimate."""
    model, params, x = ParamISP(direction).eval(), shot(), picture(direction, megapixels)
    height, width = x.shape[2:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    with torch.inference_mode():
        spent = seconds(lambda: model(x, params))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size, estimate = height * width / 1e6, model.peak_bytes(height, width) / 1e9
    print(
        f"{direction} {width}×{height}, {size:.2f} MP, cold: {spent:.1f} s, {spent / size:.2f} s/MP; "
        f"peak {peak:.2f} GB, of which {before:.2f} before; estimate of the rest {estimate:.2f}"
    )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=1.0)
    parser.add_argument("--direction", choices=["unprocess", "render"], default="unprocess")
    parser.add_argument("--memory", action="store_true", help="one image, in a process of its own")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bound", type=float, default=1e-5, help="largest difference allowed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.serve:
        serve(args.serve[0], args.direction, args.megapixels)
    elif args.memory and not args.child:
        subprocess.run([sys.executable, *sys.argv, "--child"], check=True)
    elif args.child:
        alone(args.direction, args.megapixels)
    else:
        load = os.getloadavg()[0]
        print(f"torch {torch.__version__}, {args.threads} threads, {platform.processor()}, load {load:.1f} before")
        compare(args)


if __name__ == "__main__":
    main()
