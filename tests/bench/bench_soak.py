"""A batch of many files: is memory flat, is everything there, and does a killed one go on where it was?

    python tests/bench/bench_soak.py                        2000 small pictures, 20 of 24 megapixels, 5 damaged ones
    python tests/bench/bench_soak.py --small 200 --large 2

The pictures are made here. One run is left alone, its memory looked at ten times a second; a second one is killed
(SIGKILL) in the middle and started again with ``--on-exists skip``. Both must give the same files.
"""

import argparse
import hashlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

COMMAND = [sys.executable, "-m", "paramisp_cli", "unprocess", "--camera", "Nikon D90", "--on-exists", "skip", "--json"]


def make(folder: Path, small: int, large: int, damaged: int) -> None:
    """The pictures, large ones and damaged ones among the small ones in random order."""
    rng, kinds = np.random.default_rng(0), ["small"] * small + ["large"] * large + ["damaged"] * damaged
    random.Random(0).shuffle(kinds)
    ramp = np.linspace(0, 255, 6000).astype(np.uint8)
    for number, kind in enumerate(kinds):
        path = folder / f"{number:05d}-{kind}.jpg"
        if kind == "large":
            pixels = np.broadcast_to(np.roll(ramp, number)[None, :, None], (4000, 6000, 3))
            Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=90)
        else:
            Image.fromarray(rng.integers(0, 256, (120, 160, 3), np.uint8)).save(path, quality=90)
        if kind == "damaged":
            path.write_bytes(path.read_bytes()[:300])


def resident(pid: int) -> float:
    """Megabytes of main memory that a process has."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def run(
    source: Path, out: Path, options: list[str], kill_after: int | None = None
) -> tuple[int, list[tuple[int, float]]]:
    """Exit code, and (files finished, megabytes) ten times a second; killed when so many files are there."""
    with subprocess.Popen(
        [*COMMAND, *options, str(source), "-o", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        seen = []
        while child.poll() is None:
            done = len(list(out.glob("*.dng"))) if out.exists() else 0
            seen.append((done, resident(child.pid)))
            if kill_after is not None and done >= kill_after:
                child.send_signal(signal.SIGKILL)
                break
            time.sleep(0.1)
    return child.returncode, seen


def digests(folder: Path) -> dict[str, str]:
    """Name → hash of every output."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.dng"))}


def main() -> None:
    """Make, run, kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=2000)
    parser.add_argument("--large", type=int, default=20)
    parser.add_argument("--damaged", type=int, default=5)
    parser.add_argument("--model", default="parametric")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, good = Path(name), args.small + args.large
        (folder / "in").mkdir()
        make(folder / "in", args.small, args.large, args.damaged)
        options = ["--model", args.model]
        begin = time.monotonic()
        code, seen = run(folder / "in", folder / "whole", options)
        spent = time.monotonic() - begin
        assert code == 1, f"exit code {code}, and 1 is what damaged files give"
        whole = digests(folder / "whole")
        assert len(whole) == good, f"{len(whole)} outputs of {good}"
        thirds = [[mb for done, mb in seen if done >= good * part / 3 and mb] for part in (1, 2)]
        early, late = max(mb for done, mb in seen if done < good * 2 / 3), max(thirds[1])
        print(f"{good} files and {args.damaged} damaged ones: {spent:.0f} s, {good / spent:.1f} files a second")
        print(f"memory: at most {early:.0f} MB in the first two thirds, {late:.0f} MB in the last;", end=" ")
        print(f"median {statistics.median(thirds[0]):.0f} MB")
        code, _ = run(folder / "in", folder / "killed", options, kill_after=good // 2)
        there = len(digests(folder / "killed"))
        assert code == -signal.SIGKILL
        code, _ = run(folder / "in", folder / "killed", options)
        assert code == 1
        assert digests(folder / "killed") == whole, "the files of the killed and resumed run differ"
        print(f"killed with {there} files there, resumed: the same {len(whole)} files, bit for bit")


if __name__ == "__main__":
    main()
