"""The process that runs cases through the real command line, and judges each: it may crash, and only it then."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from pathlib import Path

from fuzz import cases, seeds
from fuzz.seeds import Pool

ALLOWED = (0, 1, 2, 4, 5, 6, 7, 8)
"""Exit codes that are documented; 3 is an internal error."""
FORBIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What must not reach a terminal: control characters, ESC, C1, bidirectional marks, separators of lines."""
MEMORY = 1 << 30
"""Bytes by which a case may raise the worker's peak memory, if not told otherwise."""


@dataclass(frozen=True)
class Finding:
    """A rule broken: which, where or how (to group by), and the details of this case."""

    rule: str
    where: str
    detail: str = ""


@dataclass(frozen=True)
class Ran:
    """What a command did: exit code, or the traceback of an exception that came through; its output; seconds."""

    code: int | None
    out: str
    err: str
    trace: str = ""
    seconds: float = 0.0


def place_of(trace: str) -> str:
    """The deepest line of the package in a traceback, and the exception's name."""
    frames = re.findall(r'File "[^"]*?(paramisp_cli/[^"]+)", line (\d+), in (\S+)', trace)
    last = trace.strip().splitlines()[-1].split(":")[0] if trace.strip() else "?"
    return f"{last} at {frames[-1][0]}:{frames[-1][1]} in {frames[-1][2]}" if frames else last


@contextmanager
def _streams(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Point file descriptors 1 and 2, and sys.stdout and sys.stderr, to two files."""
    paths = folder / "stdout", folder / "stderr"
    before, kept = (sys.stdout, sys.stderr), [os.dup(1), os.dup(2)]
    files = [path.open("wb") for path in paths]
    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (TextIOWrapper(os.fdopen(os.dup(n), "wb", 0), "utf-8", write_through=True) for n in (1, 2))
    sys.stderr.reconfigure(errors="backslashreplace")
    try:
        yield paths
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.close()
        sys.stdout, sys.stderr = before
        for number, (old, file) in enumerate(zip(kept, files, strict=True), 1):
            os.dup2(old, number)
            os.close(old)
            file.close()


def run(words: list[str], folder: Path) -> Ran:
    """Run one command line in this process."""
    from paramisp_cli.cli import app

    sys.argv = ["paramisp", *words]
    handlers = list(logging.getLogger().handlers)
    code, trace, begun = None, "", time.monotonic()
    with _streams(folder) as (out, err):
        try:
            app.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        except BaseException:
            trace = traceback.format_exc()
    logging.getLogger().handlers[:] = handlers
    texts = [path.read_text("utf-8", "surrogateescape") for path in (out, err)]
    return Ran(code, *texts, trace, time.monotonic() - begun)


def judge(ran: Ran, command: str, named: str = "") -> Iterator[Finding]:
    """The rules on exit code and output; ``named``: what an error of the file's must name."""
    if ran.trace:
        yield Finding("exception", f"{command}: {place_of(ran.trace)}", ran.trace[-1500:])
        return
    if ran.code == 3 and "\nTraceback " in f"\n{ran.err}":  # a batch goes on after an internal error
        yield Finding("internal error", f"{command}: {place_of(ran.err.split('paramisp: ')[0])}", ran.err[-1500:])
    elif ran.code == 3:
        said = re.search(r"internal error: [A-Za-z]+", ran.err)
        yield Finding("internal error", f"{command}: {said[0] if said else '?'}", ran.err[-1500:])
    elif ran.code not in ALLOWED:
        yield Finding("exit code", f"{command}: {ran.code}", ran.err[-500:])
    elif ran.code and len(ran.err.splitlines()) != 1:
        lines = ran.err.splitlines()
        whose = "paramisp's own line is broken" if lines and lines[0].startswith("paramisp: ") else "a library's lines"
        yield Finding("one line", f"{command}: {whose if lines else 'no line'}, exit {ran.code}", ran.err[-500:])
    elif ran.code in (4, 7) and named not in ran.err:
        yield Finding("file not named", f"{command}: exit {ran.code}", ran.err[-500:])
    elif ran.code and ran.out and not all(line.startswith("{") for line in ran.out.splitlines()):  # of --json
        yield Finding("stdout on failure", command, ran.out[-500:])
    for name, text in (("stdout", ran.out), ("stderr", ran.err)):
        if found := FORBIDDEN.search(text):
            around = text[max(found.start() - 60, 0) : found.end() + 60]
            yield Finding("control character", f"{command}: on {name}", repr(around))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir()}


def _opens(path: Path) -> str:
    """Why an output cannot be opened; nothing if it can."""
    import rawpy
    from PIL import Image

    try:
        if path.suffix == ".dng":
            with rawpy.imread(str(path)) as raw:
                assert raw.raw_image.size
        elif path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "np") as file:
                assert list(file.keys())
        else:
            with Image.open(path) as image:
                image.load()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Worker:
    """A place to run cases in, below ``folder``."""

    def __init__(self, pool: Pool, folder: Path, slow: float, memory: int = MEMORY) -> None:
        self.pool, self.folder, self.slow, self.memory = pool, folder, slow, memory
        self.peak = _peak()
        self.last = Ran(None, "", "")

    def case(self, case: cases.Case) -> list[Finding]:
        """Run a case's commands → rules that were broken."""
        findings: list[Finding] = []
        seeds.clear(self.folder)
        inside, out, temporary = (self.folder / name for name in ("in", "out", "tmp"))
        source = inside / case.name
        for each in (inside, out, temporary):
            each.mkdir()
        source.write_bytes(case.data)
        tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
        guarded = (source, self.pool.picture, self.pool.raw)
        digests = [_digest(path) for path in guarded]
        places = {"in": source, "out": out, "picture": self.pool.picture, "raw": self.pool.raw}
        for command in case.commands:
            words = cases.words(command, places)
            name = " ".join(command[: 2 if command[0] == "weights" else 1])
            ran = self.last = run(words, self.folder)
            plain = case.name.isprintable() and "{in}" in command
            found = list(judge(ran, name, str(source) if plain else ""))
            if ran.seconds > self.slow:
                found.append(Finding("slow", name, f"{ran.seconds:.1f} s"))
            found += self._left(ran, command, name, out)
            if [_digest(path) for path in guarded] != digests:
                found.append(Finding("input changed", name))
            if rest := _files(temporary) | (_files(inside) - {source}):
                found.append(Finding("left over", name, ", ".join(str(p.relative_to(self.folder)) for p in rest)))
            found += self._memory(name)
            findings += [Finding(f.rule, f.where, f"{' '.join(words)!r}\n{f.detail}") for f in found]
            for path in _files(out):
                path.unlink()
        return findings

    def _memory(self, name: str) -> list[Finding]:
        """A finding if the peak has risen too far."""
        risen = _peak() - self.peak
        return [Finding("memory", name, f"{risen >> 20} MB")] if risen > self.memory else []

    def _left(self, ran: Ran, command: tuple[str, ...], name: str, out: Path) -> Iterator[Finding]:
        """What stands in the output folder afterwards: all of it after success, nothing else, nothing after failure."""
        files = _files(out)
        if ran.code != 0 and files:
            yield Finding("partial output", name, ", ".join(path.name for path in files))
        if ran.code != 0:
            return
        works = command[0] in ("unprocess", "render") and "--dry-run" not in command
        expected = {out / Path(word).name for word in command if works and word.startswith("{out}/")}
        if works and files != expected:
            yield Finding("output", f"{name}: {len(files)} files for {len(expected)}", ", ".join(map(str, files)))
        if any(path.name.startswith(".") for path in files):
            yield Finding("left over", name, ", ".join(path.name for path in files))
        for path in sorted(files & expected if works else files):
            if reason := _opens(path):
                yield Finding("unreadable output", f"{name}: {path.suffix}: {reason.split(':')[0]}", reason)


def _peak() -> int:
    """The most memory that this process has held, in bytes.

    Linux's ru_maxrss begins at the peak of the parent, which may be a large test process; VmHWM begins at 0.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _limit(memory: int) -> None:
    """Limit the address space to three times ``memory`` beyond what the worker has by now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux: the peak is watched all the same
        return
    room = pages * resource.getpagesize() + 3 * memory
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _on_purpose(trouble: str, place: Worker) -> list[Finding]:
    """Do what the parent must survive and see; for the harness's own tests."""
    if trouble == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if trouble == "hang":
        time.sleep(3600)
    if trouble == "memory":
        block = bytearray(2 * place.memory)
        block[::4096] = b"x" * len(block[::4096])
    return place._memory("on purpose")


def main(folder: Path, channel: int, more: Path | None, slow: float, memory: int) -> None:
    """Take a line of JSON from stdin for each case, and answer with a line of JSON on file descriptor ``channel``."""
    os.environ["PARAMISP_DEBUG"] = "1"  # exceptions come through with their traceback
    os.environ |= {"XDG_DATA_HOME": str(folder / "data"), "HOME": str(folder), "NO_COLOR": "1"}
    import torch

    from paramisp_cli import convert  # noqa: F401 – loaded before memory is counted
    from paramisp_cli.cli import app  # noqa: F401

    torch.set_num_threads(1)
    pool = seeds.make(folder / "seeds", more)
    worker = Worker(pool, folder / "case", slow, memory)
    run(["unprocess", str(pool.picture), "-o", str(folder / "warm.dng"), "--model", "parametric"], folder)
    worker.peak = _peak()
    _limit(memory)
    answers = os.fdopen(channel, "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        begun = time.monotonic()
        if trouble := job.get("trouble"):
            findings = _on_purpose(trouble, worker)
        else:
            findings = worker.case(cases.make(job["seed"], job["number"], pool))
        answer = {"findings": [asdict(finding) for finding in findings], "seconds": time.monotonic() - begun}
        print(json.dumps(answer), file=answers, flush=True)
    shutil.rmtree(folder / "case", ignore_errors=True)
