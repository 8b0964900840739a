"""ParamISP's inference against the plain whole-image forward, or one large image with its memory.

    python tests/bench/bench_network.py                            ratio at 1 megapixel, paired A B A B
    python tests/bench/bench_network.py --megapixels 12 --memory   seconds and peak memory of one streamed image

The plain way is run as a user would find it, and again with an allocator that keeps its memory (see PERFORMANCE:
page faults are half of the published network's time). Correctness is checked before any clock.

On a busy machine set OMP_WAIT_POLICY=passive: the streamed way has many short parallel regions, and threads that spin
at their ends while another process holds a core made it four times slower (44 instead of 9.5 s/MP at load 5).
"""

import argparse
import ctypes
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch

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


def compare(direction: str, megapixels: float, pairs: int) -> None:
    """Paired ratio of the plain to the streamed way, as shipped and with the tuned allocator."""
    model, params, x = ParamISP(direction).eval(), shot(), picture(direction, megapixels)
    size = x.shape[2] * x.shape[3] / 1e6

    def streamed() -> torch.Tensor:
        with torch.no_grad():
            return model(x, params)

    def plain() -> torch.Tensor:
        with torch.no_grad():  # the differentiable way without its graph, so that only the evaluation differs
            run, model.training = model.training, True
            model.paramnet.eval()
            try:
                return model(x, params)
            finally:
                model.training = run

    error = (streamed() - plain()).abs().max().item()
    assert error < 2e-5, f"the two ways differ by {error}"
    print(f"{direction}, {size:.2f} MP, largest difference {error:.1e}")
    for name in ("as shipped", "tuned allocator"):
        if name != "as shipped":
            keep_memory()
        seconds(plain), seconds(streamed)  # warm-up
        times = [(seconds(plain), seconds(streamed)) for _ in range(pairs)]
        ratio = statistics.median(a / b for a, b in times)
        a, b = (statistics.median(column) / size for column in zip(*times, strict=True))
        print(f"  {name:16} plain {a:.2f} s/MP, streamed {b:.2f} s/MP, median of paired ratios {ratio:.2f}")


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
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.memory and not args.child:
        subprocess.run([sys.executable, *sys.argv, "--child"], check=True)
    elif args.child:
        alone(args.direction, args.megapixels)
    else:
        load = os.getloadavg()[0]
        print(f"torch {torch.__version__}, {args.threads} threads, {platform.processor()}, load {load:.1f} before")
        compare(args.direction, args.megapixels, args.pairs)


if __name__ == "__main__":
    main()
