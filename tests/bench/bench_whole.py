"""How long the commands without a network take for a 12-megapixel photograph, as a user feels it: whole processes.

`unprocess --model parametric` of a JPEG, `render --model parametric` of its DNG, and `render` of a camera's RAW file by
the look of the JPEG inside, beside LibRaw's postprocess (rawpy, in a process of its own) and, where it is installed,
dcraw of the same file, by turns. For each the least wall time and the least processor time (user + system, with its
children) of the rounds, the ratio to LibRaw's, and the peak memory of its largest process.
Run: python tests/bench/bench_whole.py [--photo JPEG] [--raw RAW…] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import rawpy

LIMIT, MEMORY = 2.0, 1.5
"""Most wall time [s] of a command for 12 megapixels on two quiet cores, and most memory [GB]."""
_LIBRAW = "import sys, rawpy; rawpy.imread(sys.argv[1]).postprocess()"


@dataclass(slots=True)
class Task:
    """A command, the size of its picture, and the runs so far: wall, processor time [s] and memory [GB] of each."""

    label: str
    words: list[str]
    beside: str = ""
    runs: list[tuple[float, float, float]] = field(default_factory=list)

    def run(self) -> None:
        """Run the command, which must succeed, and note what it took."""
        start = time.perf_counter()
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - os.devnull is no Path
            actions = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1), (os.POSIX_SPAWN_DUP2, nowhere.fileno(), 2)]
            child = os.posix_spawnp(self.words[0], self.words, os.environ, file_actions=actions)
        _, status, used = os.wait4(child, 0)
        if status:
            raise SystemExit(f"{' '.join(self.words)}: failed")
        self.runs.append((time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20))

    def least(self) -> tuple[float, float, float]:
        """Return the least wall and processor time, and the most memory."""
        wall, cpu, memory = zip(*self.runs, strict=True)
        return min(wall), min(cpu), max(memory)


def tasks_of(raw: Path, label: str, words: list[str]) -> list[Task]:
    """Return a rendering of a RAW file, and those of LibRaw and dcraw."""
    name = f"LibRaw, {raw.name}"
    others = [Task(name, [sys.executable, "-c", _LIBRAW, str(raw)])]
    if shutil.which("dcraw"):
        others.append(Task(f"dcraw, {raw.name}", ["dcraw", "-c", str(raw)], name))
    return [*others, Task(label, words, name)]


def main() -> None:
    """Print the table; exit code 1 if a command of a picture up to 12 megapixels is over the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", type=Path, help="a JPEG; default: one of 4000×3000 is made")
    parser.add_argument("--raw", type=Path, nargs="*", default=[], help="RAW files with their camera's JPEG inside")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo, dng = given.photo or folder / "photo.jpg", folder / "photo.dng"
        if given.photo is None:
            # In a process of its own: a child's peak memory counts from its parent's, and this one is to stay small.
            script = (
                "import sys; from pathlib import Path; from bench_main_job import photograph as p; p(Path(sys.argv[1]))"
            )
            subprocess.run([sys.executable, "-c", script, str(photo)], check=True, cwd=Path(__file__).parent)
        program = [sys.executable, "-m", "paramisp_cli"]
        more = ["--on-exists", "overwrite", "-o"]
        parametric = ["--model", "parametric"]
        unprocess = Task("unprocess, parametric", [*program, "unprocess", str(photo), *parametric, *more, str(dng)])
        unprocess.run()
        unprocess.runs.clear()
        picture = str(folder / "picture.jpg")
        tasks = tasks_of(dng, "render, parametric", [*program, "render", str(dng), *parametric, *more, picture])
        unprocess.beside = tasks[0].label
        tasks.append(unprocess)
        for raw in given.raw:
            words = [*program, "render", str(raw), "--look", "camera", *more, picture]
            tasks += tasks_of(raw, f"render, {raw.name}", words)
        for _ in range(given.rounds):
            for task in tasks:
                task.run()
        libraw = ".".join(map(str, rawpy.libraw_version))
        print(f"Python {platform.python_version()}, LibRaw {libraw}, {platform.machine()}, {os.cpu_count()} cores")
        report(tasks, {str(raw): megapixels(raw) for raw in (dng, *given.raw)})


def megapixels(raw: Path) -> float:
    """Return the size of a RAW file's picture."""
    with rawpy.imread(str(raw)) as file:
        return float(file.sizes.height * file.sizes.width / 1e6)


def report(tasks: list[Task], sizes: dict[str, float]) -> None:
    """Print the table; exit code 1 if a command is over the limits."""
    found = {task.label: task.least() for task in tasks}
    over = []
    for task in tasks:
        wall, cpu, memory = found[task.label]
        size = next((size for raw, size in sizes.items() if raw in task.words), next(iter(sizes.values())))
        line = f"{task.label:34} {size:5.1f} MP {wall:6.2f} s, {cpu:5.2f} s of a core, {memory:.2f} GB"
        if task.beside:
            base = found[task.beside]
            line += f"; {wall / base[0]:.2f} and {cpu / base[1]:.2f} × LibRaw"
        print(line)
        ours = "paramisp_cli" in task.words
        if ours and (wall > LIMIT * max(size / 12, 1) or memory > MEMORY):
            over.append(task.label)
    if over:
        raise SystemExit(f"over {LIMIT} s for 12 megapixels, or {MEMORY} GB: {', '.join(over)}")


if __name__ == "__main__":
    main()
