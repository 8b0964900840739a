"""Time ``fast`` beside itself and ``paramisp``: onnxruntime and torch, one and two threads, lower precision, programs.

Run: python tests/bench/bench_fast.py [--megapixels 3] [--photo 12] [--skip networks precision programs]

networks   seconds and CPU seconds a megapixel, in turns in one process for each number of threads
precision  bf16 beside float32 in torch: decibels between the results, and the ratio of their times
programs   whole commands on one photo of ``--photo`` megapixels: wall time, CPU time, peak memory, in turns

Weights are the generic ones of the checkout. Timings on a shared machine compare only with those of the same run.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
TURNS = 2


def picture(megapixels: float) -> np.ndarray:
    """Make a smooth picture (H, W, 3) with noise."""
    height = int((megapixels * 1e6 * 3 / 4) ** 0.5) // 2 * 2
    width = int(megapixels * 1e6 / height) // 2 * 2
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 97
    planes = np.stack([np.sin(y) * np.cos(x), np.sin(x + 1), np.cos(y + x)], -1) * 100 + 128
    return np.clip(planes + rng.normal(0, 3, planes.shape), 0, 255).astype(np.uint8)


def networks(megapixels: float, threads: int) -> None:
    """Time each network on arrays, with ``threads`` threads."""
    import torch

    from paramisp_cli import memory, onnx_runner, runner, weights
    from paramisp_cli.directions import Direction
    from paramisp_cli.types import CanonicalParams, OpticalParams

    torch.set_num_threads(threads)
    memory.keep_freed()
    runner._STRIP_THREADS = threads
    onnx_runner.threads = lambda: threads
    canonical = CanonicalParams("RGGB", 0, 1023, (0.5, 1, 0.6), MATRIX)
    pixels = picture(megapixels)
    mosaic, size = pixels[..., 0].astype(np.uint16) * 4, pixels.shape[0] * pixels.shape[1] / 1e6

    def through_torch(name: str, direction: Direction) -> runner.Runner:
        model = weights.load_model("generic", direction, architecture=name)
        return runner.Runner(model, torch.device("cpu"))

    def through_onnx(direction: Direction) -> onnx_runner.OnnxRunner:
        found = weights.find(None, direction, "fast")
        assert found is not None
        return onnx_runner.OnnxRunner(onnx_runner.load(found.path, direction))

    for direction in (Direction.UNPROCESS, Direction.RENDER):
        machines = {"fast, torch": through_torch("fast", direction)}
        if onnx_runner.runtime() is not None:
            machines["fast, onnxruntime"] = through_onnx(direction)
        machines["paramisp, torch"] = through_torch("paramisp", direction)
        for name, machine in machines.items():
            best = (float("inf"), float("inf"))
            for _ in range(1 if name.startswith("paramisp") else TURNS):
                wall, cpu = time.perf_counter(), time.process_time()
                if direction == Direction.UNPROCESS:
                    machine.unprocess(pixels, canonical, OpticalParams())
                else:
                    machine.render(mosaic, canonical, OpticalParams())
                best = min(best[0], time.perf_counter() - wall), min(best[1], time.process_time() - cpu)
            shown = f"{best[0] / size:.2f} s and {best[1] / size:.2f} CPU s a megapixel"
            print(f"{direction}, {threads} threads, {name}: {shown}", flush=True)


def precision(megapixels: float) -> None:
    """Compare bf16 with float32 in torch."""
    import torch

    from paramisp_cli import runner, weights
    from paramisp_cli.directions import Direction
    from paramisp_cli.types import CanonicalParams, OpticalParams

    canonical = CanonicalParams("RGGB", 0, 1023, (0.5, 1, 0.6), MATRIX)
    pixels = picture(megapixels)
    for direction in (Direction.UNPROCESS, Direction.RENDER):
        results, spent = [], []
        for dtype in (torch.float32, torch.bfloat16):
            model = weights.load_model("generic", direction, architecture="fast")
            machine = runner.Runner(model, torch.device("cpu"), dtype)
            begin = time.process_time()
            if direction == Direction.UNPROCESS:
                results.append(machine.unprocess(pixels, canonical, OpticalParams(), dtype=np.float32)[0])
            else:
                linear = np.float32(pixels[..., 0] / 255)
                results.append(machine.render(linear, canonical, OpticalParams(), dtype=np.float32)[0])
            spent.append(time.process_time() - begin)
        psnr = -10 * np.log10(np.mean(np.square(results[0] - results[1], dtype=np.float64)))
        print(f"{direction}: bf16 is {psnr:.1f} dB from float32, in {spent[1] / spent[0]:.2f} of its CPU time")


def programs(megapixels: float) -> None:
    """Time whole commands on one photo."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        photo, raw = Path(folder, "photo.jpg"), Path(folder, "photo.dng")
        Image.fromarray(picture(megapixels)).save(photo, quality=92)
        best: dict[str, tuple[float, ...]] = {}
        for backend in ("torch", "onnx") * TURNS:
            for words in (["unprocess", photo, "-o", raw], ["render", raw, "-o", Path(folder, "again.jpg")]):
                Path(words[-1]).unlink(missing_ok=True)
                command = [sys.executable, "-m", "paramisp_cli", *map(str, words), "--model", "fast", "-q"]
                spent = _measured(lambda c=command, b=backend: _run(c, b))
                key = f"{words[0]}, {backend}"
                best[key] = tuple(min(pair) for pair in zip(spent, best.get(key, spent), strict=True))
        for name, (wall, cpu, peak) in best.items():
            print(f"{megapixels:g} megapixels, {name}: {wall:.1f} s, {cpu:.1f} CPU s, {peak / 1e9:.2f} GB")


def _run(command: list[str], backend: str) -> int:
    """Run a command and return the peak of its memory [kB]."""
    environment = {**os.environ, "PARAMISP_BACKEND": backend}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss


def _measured(work: Callable[[], int]) -> tuple[float, float, float]:
    """Return wall time [s], CPU time of ended children [s] and the peak [bytes]."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    peak = work()
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, peak * 1024.0


def main() -> None:
    """Parse, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=3)
    parser.add_argument("--photo", type=float, default=12)
    parser.add_argument("--skip", nargs="*", default=[], choices=["networks", "precision", "programs"])
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.threads:
        networks(chosen.megapixels, chosen.threads)
        return
    if "networks" not in chosen.skip:
        for threads in (1, 2):
            words = [sys.executable, __file__, "--megapixels", str(chosen.megapixels), "--threads", str(threads)]
            subprocess.run(words, check=True)
    if "precision" not in chosen.skip:
        precision(chosen.megapixels)
    if "programs" not in chosen.skip:
        programs(chosen.photo)


if __name__ == "__main__":
    main()
