"""How long the command takes to say something: `paramisp --help` under 0.5 s, and `paramisp inspect` of a small JPEG.

Whole processes, by turns with `python -c pass`; medians of the rounds. Run: python tests/bench/bench_start.py [ROUNDS]
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

LIMIT = 0.5  # seconds, for --help


def seconds(*words: str) -> float:
    """Wall time of `python WORDS`, which must succeed."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print the table; exit code 1 if over the limit."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder, "photo.jpg")
        Image.linear_gradient("L").convert("RGB").save(photo)
        commands = {
            "python -c pass": ("-c", "pass"),
            "paramisp --help": ("-m", "paramisp_cli", "--help"),
            "paramisp inspect photo.jpg": ("-m", "paramisp_cli", "inspect", str(photo)),
        }
        times: dict[str, list[float]] = {label: [] for label in commands}
        for words in commands.values():
            seconds(*words)
        for _ in range(rounds):
            for label, words in commands.items():
                times[label].append(seconds(*words))
    print(f"Python {platform.python_version()}, {rounds} rounds")
    for label, found in times.items():
        print(f"{label:28} {statistics.median(found):.3f} s ({min(found):.3f}–{max(found):.3f})")
    if statistics.median(times["paramisp --help"]) > LIMIT:
        raise SystemExit(f"paramisp --help takes over {LIMIT} s")


if __name__ == "__main__":
    main()
