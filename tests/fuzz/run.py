"""Fuzz paramisp by hand: ``python tests/fuzz/run.py --count 20000 --seed 7``, ``--replay N`` for one case again."""

from __future__ import annotations

import argparse
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))

from fuzz import cases, seeds, worker  # noqa: E402
from fuzz.worker import Finding  # noqa: E402

WATCHDOG = 120.0
"""Seconds after which a case counts as hanging."""
_MANY = 500
"""Cases after which a worker is replaced."""


@dataclass(frozen=True)
class Found:
    """A finding and the number of the case that showed it."""

    number: int
    kind: str
    finding: Finding


class Watched:
    """A worker process and the pipes to it; started when first needed, and again after it has died."""

    def __init__(
        self, folder: Path, more: Path | None, slow: float, watchdog: float = WATCHDOG, memory: int = worker.MEMORY
    ) -> None:
        self.folder, self.more, self.slow, self.watchdog, self.memory = folder, more, slow, watchdog, memory
        self.process: subprocess.Popen[bytes] | None = None
        self.done = 0

    def _start(self) -> None:
        self.close()
        read, write = os.pipe()
        code = "import sys; sys.path[:0] = sys.argv[1:3]; from fuzz.run import work; work(sys.argv[3:])"
        words = [str(self.folder), str(write), str(self.more or ""), str(self.slow), str(self.memory)]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(ROOT), str(ROOT / "tests"), *words],
            stdin=subprocess.PIPE, stdout=self.log, stderr=self.log, pass_fds=[write],
            env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        )  # fmt: skip
        os.close(write)
        self.answers, self.done = read, 0
        if self._line(300) != "ready":
            raise RuntimeError(f"the worker did not start; see {self.folder / 'log'}")

    def _line(self, seconds: float) -> str | None:
        """The next line of the worker's; "" if it died, None if it did not answer in time."""
        parts, end = b"", time.monotonic() + seconds
        while not parts.endswith(b"\n"):
            ready, _, _ = select.select([self.answers], [], [], max(end - time.monotonic(), 0))
            if not ready:
                return None
            part = os.read(self.answers, 65536)
            if not part:
                return ""
            parts += part
        return parts.decode().strip()

    def ask(self, job: dict[str, Any]) -> list[Finding]:
        """Run a case in the worker → its findings, a death or a hang of the worker among them."""
        if self.process is None or self.done >= _MANY:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # died after its last answer
            self._start()
            return self.ask(job)
        line = self._line(self.watchdog)
        self.done += 1
        if line:
            findings = [Finding(**each) for each in json.loads(line)["findings"]]
            if any(finding.rule == "memory" for finding in findings):  # peaks do not come down again
                self.close()
            return findings
        if line is None:
            self.close()
            return [Finding("hang", "no answer", f"within {self.watchdog:g} s")]
        code = self.process.wait()
        self.close()
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return [Finding("crash", name)]

    def close(self) -> None:
        """End the worker."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdin is not None
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            os.close(self.answers)
            self.log.close()
            self.process = None


def work(words: Sequence[str]) -> None:
    """What a worker process does: see ``worker.main``."""
    folder, channel, more, slow, memory = words
    worker.main(Path(folder), int(channel), Path(more) if more else None, float(slow), int(memory))


def numbers(count: int, kind: str | None) -> list[int]:
    """The first ``count`` case numbers, of all kinds or of one."""
    first, step = (seeds.KINDS.index(kind), len(seeds.KINDS)) if kind else (0, 1)
    return list(range(first, first + count * step, step))


def campaign(
    jobs: Iterable[int], seed: int, folder: Path, *, workers: int = 2, more: Path | None = None,
    slow: float = 30.0, watchdog: float = WATCHDOG, memory: int = worker.MEMORY,
) -> Iterator[Found]:  # fmt: skip
    """Run the cases in ``workers`` processes → findings as they come."""
    waiting, lock = iter(jobs), threading.Lock()
    found: list[Found] = []
    news = threading.Condition()
    running = workers

    def serve(place: Path) -> None:
        nonlocal running
        watched = Watched(place, more, slow, watchdog, memory)
        try:
            while True:
                with lock:
                    number = next(waiting, None)
                if number is None:
                    return
                for finding in watched.ask({"seed": seed, "number": number}):
                    with news:
                        found.append(Found(number, cases.kind_of(number), finding))
                        news.notify()
        finally:
            watched.close()
            with news:
                running -= 1
                news.notify()

    threads = [threading.Thread(target=serve, args=(folder / f"worker{i}",), daemon=True) for i in range(workers)]
    for thread in threads:
        thread.start()
    try:
        while True:
            with news:
                news.wait_for(lambda: found or not running)
                batch, found[:] = list(found), []
            yield from batch
            if not running and not found:
                return
    finally:  # stopped early: no further cases
        with lock:
            waiting = iter(())
        for thread in threads:
            thread.join()


def report(groups: dict[tuple[str, str], list[Found]]) -> str:
    """The findings, grouped by rule and place, most frequent first, with an example of each."""
    lines = []
    for (rule, where), members in sorted(groups.items(), key=lambda item: -len(item[1])):
        some = ", ".join(str(each.number) for each in members[:6])
        kinds = ", ".join(sorted({each.kind for each in members}))
        lines.append(f"{len(members):6}  {rule}: {where}\n        {kinds}; cases {some}")
        lines += ["        | " + line for line in members[0].finding.detail.splitlines()[:12]]
    return "\n".join(lines)


def main() -> int:
    """The command line of the harness → 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--kind", choices=seeds.KINDS)
    parser.add_argument("--first", type=int, default=0, help="leave out the first cases")
    parser.add_argument("--replay", type=int, action="append", help="run case N alone (may be given again)")
    parser.add_argument("--keep", type=Path, help="folder for the files of cases with findings, or of replayed ones")
    parser.add_argument("--seeds", type=Path, help="folder of files to mutate instead of our own")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slow", type=float, default=20.0, help="seconds a command may take")
    parser.add_argument("--memory", type=float, default=1.0, help="GiB by which a case may raise the peak")
    given = parser.parse_args()
    jobs = given.replay if given.replay else numbers(given.count + given.first, given.kind)[given.first :]
    groups: dict[tuple[str, str], list[Found]] = {}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="paramisp-fuzz-") as temporary:
        folder = Path(temporary)
        more = given.seeds.resolve() if given.seeds else None
        pool = seeds.make(folder / "seeds", more)
        for each in given.replay or ():
            _keep(given, pool, each)
        memory = int(given.memory * (1 << 30))
        for each in campaign(
            jobs, given.seed, folder, workers=given.workers, more=more, slow=given.slow, memory=memory
        ):
            key = (each.finding.rule, each.finding.where)
            if key not in groups:
                print(f"case {each.number} ({each.kind}): {each.finding.rule}: {each.finding.where}", flush=True)
            groups.setdefault(key, []).append(each)
            if len(groups[key]) <= 3 and not given.replay:
                _keep(given, pool, each.number)
    seconds = time.monotonic() - begun
    print(f"\n{len(jobs)} cases of seed {given.seed} in {seconds:.0f} s, {len(groups)} groups of findings")
    print(report(groups))
    return 1 if groups else 0


def _keep(given: argparse.Namespace, pool: seeds.Pool, number: int) -> None:
    """Store a case's file, and its commands beside it."""
    if given.keep is None:
        return
    case = cases.make(given.seed, number, pool)
    folder = given.keep / f"seed{given.seed}-case{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / case.name).write_bytes(case.data)
    lines = [shlex.join(("paramisp", *command)) for command in case.commands]
    (folder / "commands.txt").write_text(f"made of {case.source}\n" + "\n".join(lines) + "\n", "utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main())
