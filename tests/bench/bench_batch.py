"""A folder of pictures through `parametric`, beside LibRaw on the same files with the same threads, in files a second.

    python tests/bench/bench_batch.py                     12 pictures of 12 megapixels, 2 threads
    python tests/bench/bench_batch.py --files 40 --model paramisp --device cuda     a folder through a network

By turns: LibRaw (rawpy.imread + postprocess with its defaults: AHD, 8 bits, nothing written), as many files at a time
as there are threads; then our batch, read to written. For a network, its wall time, and the share of it that the
device works, as nvidia-smi sees it.
"""

import argparse
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rawpy
import torch
from bench_main_job import photograph

from paramisp_cli import batch
from paramisp_cli.directions import Direction
from paramisp_cli.formats import WriteOptions
from paramisp_cli.parameters import Settings


def convert(sources: list[Path], folder: Path, direction: Direction, settings: Settings) -> float:
    """Seconds that the batch takes; every file must be done."""
    suffix = ".dng" if direction == Direction.UNPROCESS else ".jpg"
    jobs = [batch.Job(source, folder / f"{source.stem}{suffix}") for source in sources]
    begin = time.perf_counter()
    for outcome in batch.run(jobs, direction, settings, WriteOptions(), batch.OnExists.OVERWRITE):
        if outcome.status != "done":
            raise SystemExit(f"{outcome.job.source}: {outcome.error}")
    return time.perf_counter() - begin


def libraw(sources: list[Path], threads: int) -> float:
    """Seconds that LibRaw takes for all of them."""

    def one(path: Path) -> tuple[int, ...]:
        with rawpy.imread(str(path)) as raw:
            return raw.postprocess().shape

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, sources))
    return time.perf_counter() - begin


class Utilisation:
    """How busy an NVIDIA device is [%], looked at five times a second."""

    def __enter__(self) -> "Utilisation":
        self.seen: list[float] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _look(self) -> None:
        words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while shutil.which(words[0]) and not self.over.wait(0.2):
            said = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
            self.seen += [float(word) for word in said]


def main() -> None:
    """Make the pictures, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="parametric")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = Settings(model=args.model, device=args.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        height = round((args.megapixels * 1e6 * 3 / 4) ** 0.5 / 4) * 4
        photograph(folder / "0.jpg", height, height * 4 // 3)
        jpegs = [folder / f"{number}.jpg" for number in range(args.files)]
        for jpeg in jpegs[1:]:
            shutil.copy(jpegs[0], jpeg)
        (folder / "back").mkdir()
        dngs = [jpeg.with_suffix(".dng") for jpeg in jpegs]
        ours = {
            "unprocess": lambda: convert(jpegs, folder, Direction.UNPROCESS, settings),
            "render": lambda: convert(dngs, folder / "back", Direction.RENDER, settings),
        }
        print(f"{args.files} files of {args.megapixels:g} megapixels, {args.threads} threads, {args.device}")
        if args.model != "parametric":
            for label, task in ours.items():
                task()  # warm-up
                with Utilisation() as busy:
                    spent = task()
                share = f", device busy {statistics.mean(busy.seen):.0f} %" if busy.seen else ""
                print(f"{label:10} {args.files / spent:6.2f} files a second{share}")
            return
        for task in ours.values():
            task()
        libraw(dngs, args.threads)
        times = {label: [] for label in ours}
        for _ in range(args.rounds):
            for label, task in ours.items():
                times[label].append((libraw(dngs, args.threads), task()))
        for label, pairs in times.items():
            base, taken = (args.files / statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(own / other for other, own in pairs)
            print(f"{label:10} {taken:6.2f} files a second, LibRaw {base:.2f}: {ratio:.2f} × its time")


if __name__ == "__main__":
    main()
