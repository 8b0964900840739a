"""ParamISP's inference against the plain whole-image forward, or one large image with its memory.

    python tests/bench/bench_network.py                            ratios at 1 megapixel, paired A B C A B C
    python tests/bench/bench_network.py --brought                  ... and with one measure at a time left out
    python tests/bench/bench_network.py --megapixels 12            large ones: a process at a time, one run in each
    python tests/bench/bench_network.py --megapixels 12 --memory   seconds and peak memory of two images in turn
    python tests/bench/bench_network.py --device cuda --dtype fp16 --megapixels 24   on a GPU: ours alone, its ceilings
    python tests/bench/bench_network.py --dry-run --megapixels 0.1   the same on the CPU, to see that it runs

The plain way is run as a user would find it, and again with an allocator that keeps its memory (page faults are half of
the published network's time), each in a process of its own. Before any clock, all are compared with the plain way in
float64, which is taken for the truth; both ways in float32 must be as close to it as the bound says.
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
from dataclasses import fields

import torch

from paramisp_cli import devices, memory, weights
from paramisp_cli.models import regions
from paramisp_cli.models.base import Params
from paramisp_cli.models.paramisp import globalnet, kernels, localnet, plans
from paramisp_cli.parameters import DTYPES


def network(direction: str) -> torch.nn.Module:
    """The trained weights for cameras without their own: what random ones give is five times as far from 0 as white."""
    return weights.load(weights.find("generic", direction).path).eval()


def shot() -> Params:
    """One shot's parameters."""
    one = torch.ones(1)
    gains = torch.tensor([[2.1, 1.0, 1.5]])
    return Params(gains, torch.eye(3)[None], 160 * one, one / 125, 2.8 * one, 80 * one)


def picture(direction: str, megapixels: float) -> torch.Tensor:
    """A 4:3 image, sides multiples of 4: areas of black, white and all between, edges, a little noise."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5 / 4) * 4
    width = round(megapixels * 1e6 / height / 4) * 4
    colors = 3 if direction == "unprocess" else 1
    areas = torch.rand(1, colors, height // 32 + 1, width // 32 + 1) * 1.6 - 0.3
    smooth = torch.nn.functional.interpolate(areas, size=(height, width), mode="bicubic")
    edges = 0.2 * (torch.arange(width) // 97 % 2)
    return (smooth + edges + 0.02 * torch.randn(1, colors, height, width)).clamp(0, 1)


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


_LARGE = 4
"""Megapixels from which three processes at a time would not fit a small machine's memory."""
WAYS = ("as shipped", "tuned allocator", "ours")


def after_init(owner: type, name: str, value: object) -> None:
    """Every new object's attribute, which must be there."""
    real = owner.__init__

    def init(self, *args, **more):
        real(self, *args, **more)
        assert hasattr(self, name), name
        setattr(self, name, value)

    owner.__init__ = init


def set_to(owner: object, name: str, value: object) -> None:
    """An attribute that must be there."""
    assert hasattr(owner, name), name
    setattr(owner, name, value)


def dense(conv, dtype, stride=1, more=None):
    """``kernels.first_conv`` without its table."""
    bias = conv.bias if more is None else conv.bias + more
    return kernels.FirstConv(conv.weight, bias, dtype, table=False, stride=stride)


LEFT_OUT = {
    "without F(4, 3)": lambda: after_init(kernels.Conv3, "six", []),
    "without the table": lambda: [set_to(module, "first_conv", dense) for module in (globalnet, localnet)],
    "without 16 places at once": lambda: after_init(kernels.BlockConvs, "banded", None),
    "without strips": lambda: set_to(plans, "CPU_STRIP", 1 << 18),
    "without regions": lambda: set_to(regions.Workers, "__enter__", lambda self: (memory.keep_freed(), self)[1]),
    "without kept memory": lambda: set_to(memory, "_back", lambda mapping: None),
}
"""Ours with one measure left out."""


def serve(way: str, direction: str, megapixels: float) -> None:
    """One way of running the network, in a process of its own: a run and its seconds for every line on stdin."""
    model, params, x = network(direction), shot(), picture(direction, megapixels)
    if way == "tuned allocator":
        keep_memory()
    if way in LEFT_OUT:
        LEFT_OUT[way]()
    plain = way in ("as shipped", "tuned allocator", "float64")
    if plain:  # the differentiable way without its graph: the network written the straightforward way
        model.training = True
    if way == "float64":
        model, x = model.double(), x.double()
        numbers = {field.name: getattr(params, field.name) for field in fields(params)}
        params = Params(**{k: v.double() if torch.is_tensor(v) else v for k, v in numbers.items()})
    if megapixels > _LARGE:  # one that does not fit says so, instead of taking the machine with it
        resource.setrlimit(resource.RLIMIT_DATA, (memory.free(), memory.free()))
    with torch.inference_mode(), nullcontext() if plain else memory.kept():  # as a batch does
        for line in sys.stdin:
            begin = time.perf_counter()
            try:
                result = model(x, params)
            except RuntimeError as error:
                if devices.is_out_of_memory(error):
                    return
                raise
            spent = time.perf_counter() - begin
            if line.strip():
                torch.save(result, sys.argv[-1])
            print(spent, flush=True)


def compare(args: argparse.Namespace) -> None:
    """Paired ratios of the plain whole-image network to ours, each in a process of its own, in turns."""
    begin = [sys.executable, *sys.argv, "--serve"]
    ways = (*WAYS, *LEFT_OUT) if args.brought else WAYS
    with tempfile.TemporaryDirectory() as folder:

        def start(way: str) -> subprocess.Popen:
            return subprocess.Popen(
                [*begin, way, f"{folder}/{way}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )

        def ask(child: subprocess.Popen, what: str = "") -> float:
            child.stdin.write(f"{what}\n")
            child.stdin.flush()
            return float(child.stdout.readline())

        if args.megapixels > _LARGE:
            first, spent = None, {way: [] for way in WAYS}
            for way in WAYS * args.pairs:
                with start(way) as child:
                    child.stdin.write("keep\n")
                    child.stdin.flush()
                    answer = child.stdout.readline()
                    child.stdin.close()
                if child.returncode:
                    sys.exit(f"{way} failed")
                if not answer:
                    print(f"  {way:26} more memory than the {memory.free() / 1e9:.0f} GB that are free", flush=True)
                    continue
                result = torch.load(f"{folder}/{way}")
                first = result if first is None else first
                apart = (result - first).abs().max().item()
                assert apart < 2 * args.bound, apart
                spent[way].append(float(answer))
                print(f"  {way:26} {spent[way][-1]:6.1f} s, cold; {apart:.1e} from the first", flush=True)
            size, ours = first.shape[-2] * first.shape[-1] / 1e6, statistics.median(spent["ours"])
            for way, each in spent.items():
                if each:
                    middle = statistics.median(each)
                    print(f"  {way:26} {middle / size:6.2f} s/MP, {middle / ours:5.2f} × ours (medians)")
            return
        if not args.no_truth:
            with start("float64") as child:
                ask(child, "save")
                child.stdin.close()
        there = {way: start(way) for way in ways}
        for child in there.values():
            ask(child, "save")  # warm-up
        results = {way: torch.load(f"{folder}/{way}") for way in ways}
        truth = results["as shipped"] if args.no_truth else torch.load(f"{folder}/float64")
        errors = {way: (result - truth).abs().max().item() for way, result in results.items()}
        assert max(errors.values()) < args.bound, errors
        apart = (results["ours"] - results["as shipped"]).abs().max().item()
        times = [{way: ask(child) for way, child in there.items()} for _ in range(args.pairs)]
        for child in there.values():
            child.stdin.close()
            child.wait()
    size = results["ours"].shape[-2] * results["ours"].shape[-1] / 1e6
    print(f"{args.direction}, {size:.2f} MP, float32; median of {args.pairs} paired ratios; ", end="")
    print(f"ours and the plain way at most {apart:.1e} apart")
    for way in ways:
        ratio = statistics.median(t[way] / t["ours"] for t in times)
        each = statistics.median(t[way] for t in times) / size
        print(f"  {way:26} {each:6.2f} s/MP, {ratio:5.2f} × ours, error {errors[way]:.1e}")


def on_device(args: argparse.Namespace) -> None:
    """Ours on a GPU: time of the network, image there and result there, beside what the chip can do at most."""
    device, dtype = torch.device(args.device), getattr(torch, DTYPES[args.dtype])
    dry = device.type == "cpu"
    side, length = (512, 1 << 22) if dry else (8192, 1 << 30)
    model, params = network(args.direction).to(device), shot().to(device)
    x = picture(args.direction, args.megapixels).to(device)
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    def once() -> None:
        with torch.inference_mode(), autocast:
            model(x, params)
        wait()

    def wait() -> None:
        if not dry:
            torch.cuda.synchronize(device)

    for _ in range(3):
        once()
    spent = statistics.median(seconds(once) for _ in range(max(args.pairs, 5)))
    one = torch.rand(side, side, device=device).to(dtype)
    big, copy = (torch.empty(length, dtype=torch.uint8, device=device) for _ in range(2))

    def product() -> None:
        one @ one
        wait()

    def traffic() -> None:
        copy.copy_(big)
        wait()

    product(), traffic()
    ceiling = 2 * side**3 / min(seconds(product) for _ in range(10))
    width = 2 * length / min(seconds(traffic) for _ in range(10))
    pixels = x.shape[-1] * x.shape[-2]
    work, bytes_ = 543e3 * pixels / spent, 3200 * pixels / spent  # operations and bytes a pixel of the dense network
    name = "dry run on the CPU" if dry else torch.cuda.get_device_name(device)
    print(f"{name}, {args.dtype}, {pixels / 1e6:.1f} MP: {spent * 1000:.0f} ms")
    print(f"  {work / 1e12:.1f} TFLOP/s of {ceiling / 1e12:.1f} that a product reaches ({100 * work / ceiling:.0f} %)")
    print(f"  {bytes_ / 1e9:.0f} GB/s of {width / 1e9:.0f} that a copy reaches ({100 * bytes_ / width:.0f} %)")


def alone(direction: str, megapixels: float) -> None:
    """One streamed image in this process: seconds, peak resident memory and the estimate."""
    model, params, x = network(direction), shot(), picture(direction, megapixels)
    height, width = x.shape[2:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    with torch.inference_mode(), memory.kept():
        spent = seconds(lambda: model(x, params))
        again = seconds(lambda: model(x, params))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size, estimate = height * width / 1e6, model.peak_bytes(height, width) / 1e9
    print(
        f"{direction} {width}×{height}, {size:.2f} MP, cold: {spent:.1f} s, {spent / size:.2f} s/MP, "
        f"the next one {again:.1f} s, {again / size:.2f} s/MP; "
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
    parser.add_argument("--bound", type=float, default=5e-6, help="largest difference from float64 allowed")
    parser.add_argument("--no-truth", action="store_true", help="compare with the plain way: less memory")
    parser.add_argument("--brought", action="store_true", help="also with one measure at a time left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dry-run", action="store_true", help="what --device cuda does, on the CPU")
    parser.add_argument("--dtype", choices=["fp32", "bf16", "fp16"], default="fp32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.serve:
        serve(args.serve[0], args.direction, args.megapixels)
    elif args.device != "cpu" or args.dry_run:
        on_device(args)
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
