"""Many files: find them, name their outputs before any work starts, then do one after the other and keep count."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from paramisp_cli import formats, memory, pipeline
from paramisp_cli.errors import (
    ConfigError,
    FileAccessError,
    FormatError,
    InputMissingError,
    OutputExistsError,
    ParamispError,
)
from paramisp_cli.formats import WriteOptions
from paramisp_cli.pipeline import Plan, Settings
from paramisp_cli.types import Direction, RawImage, SrgbImage


class OnExists(StrEnum):
    """What to do with an output that is already there."""

    ERROR = "error"
    SKIP = "skip"
    OVERWRITE = "overwrite"
    RENAME = "rename"


@dataclass(frozen=True, slots=True)
class Found:
    """An input: a file and its name below the output folder; ``error`` if it is known that it cannot be done."""

    source: Path
    name: Path
    error: ParamispError | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One file to do and its output; ``error`` and no output if it is known beforehand that it cannot be done."""

    source: Path
    target: Path | None
    error: ParamispError | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job: status "done", "planned" (dry run), "skipped" or "failed"."""

    job: Job
    status: str
    target: Path | None = None
    error: ParamispError | None = None
    seconds: float = 0.0
    plan: Plan | None = None
    notices: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """The outcome as plain values: one line of ``--json``."""
        record: dict[str, Any] = {
            "input": str(self.job.source),
            "output": str(self.target) if self.target else None,
            "status": self.status,
            "seconds": round(self.seconds, 3),
        }
        if self.plan is not None:
            record |= self.plan.describe() | {"notices": list(self.notices or self.plan.notices)}
        if self.error is not None:
            record |= {"error": str(self.error), "error_kind": type(self.error).__name__}
        return record


@dataclass(slots=True)
class Tally:
    """Counts and the failures, for the last line and the exit code."""

    done: int = 0
    skipped: int = 0
    failures: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if outcome.status == "failed":
            self.failures.append(outcome)
        elif outcome.status == "skipped":
            self.skipped += 1
        else:
            self.done += 1

    @property
    def count(self) -> int:
        """How many have been counted."""
        return self.done + self.skipped + len(self.failures)

    def exit_code(self, single: bool) -> int:
        """0 if nothing failed; a single file's own code; 1 for some of many."""
        if not self.failures:
            return 0
        error = self.failures[0].error
        return error.exit_code if single and error is not None else 1


def find(inputs: Sequence[Path], suffixes: Sequence[str], recursive: bool) -> list[Found]:
    """Every input once: files as given, what fits in folders by suffix, sorted.

    A path that is not there, or a folder that cannot be looked into or holds nothing that fits, is found as an error.
    """
    found: dict[Path, Found] = {}  # by absolute path: a file may be given twice, in two ways
    for path in inputs:
        for each in _found(path, suffixes, recursive):
            found.setdefault(each.source.absolute(), each)
    return list(found.values())


def _found(path: Path, suffixes: Sequence[str], recursive: bool) -> list[Found]:
    name = Path(path.name)
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return [Found(path, name)]
        below = sorted(p for p in _walk(path, recursive) if p.suffix.lower() in suffixes)
    except (FileNotFoundError, NotADirectoryError):
        return [Found(path, name, InputMissingError(f"{path}: no such file or folder"))]
    except OSError as error:
        where = error.filename or path
        return [Found(path, name, FileAccessError(f"{where}: cannot look at it: {error.strerror or error}"))]
    if below:
        return [Found(p, p.relative_to(path)) for p in below]
    hint = "" if recursive else "; pass -r to look into its folders"
    some = f"{', '.join(suffixes[:8])}{', …' if len(suffixes) > 8 else ''}"
    return [Found(path, name, InputMissingError(f"{path}: no file in this folder ends in {some}{hint}"))]


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    """Files in a folder that are not hidden."""

    def stop(error: OSError) -> None:
        raise error

    for base, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        yield from (Path(base) / name for name in names if not name.startswith("."))


def assign(
    inputs: Sequence[Path],
    found: Sequence[Found],
    output: Path | None,
    suffix: str | None,
    direction: Direction,
    on_exists: OnExists,
) -> list[Job]:
    """Give every file its output. ``suffix`` None: that of ``output`` if it is a file, else .dng or .jpg.

    Raises ConfigError for an ``-o`` that does not fit, OutputExistsError if two inputs would share an output or an
    output is another input.
    """
    allowed = (".dng",) if direction == Direction.UNPROCESS else formats.SRGB_WRITE_SUFFIXES
    is_folder = output is not None and os.path.isdir(output)  # noqa: PTH112 – says no to names too long, where Path raises
    names_a_file = output is not None and not is_folder and output.suffix.lower() in allowed
    if output is not None and not is_folder:
        if len(found) != 1 or found[0].source != inputs[0]:  # several files, or those of a folder
            if names_a_file:
                raise ConfigError(f"-o {output}: must be a folder when there are several inputs or a folder")
        elif output.suffix and not names_a_file and not os.path.lexists(output):
            raise ConfigError(f"-o {output}: {direction} writes {', '.join(allowed)}; a folder must exist already")
        if os.path.lexists(output) and not names_a_file:
            raise ConfigError(f"-o {output}: is a file, and must be a folder or end in {', '.join(allowed)}")
        if names_a_file and suffix is not None and formats.writer(suffix) is not formats.writer(output.suffix):
            raise ConfigError(f"-o {output} contradicts --format {suffix[1:]}")
    ending = suffix or (".dng" if direction == Direction.UNPROCESS else ".jpg")
    jobs: list[Job] = []
    sources = {_place(each.source) for each in found}
    taken: dict[Path, Path] = {}
    for each in found:
        if each.error is not None:
            jobs.append(Job(each.source, None, each.error))
            continue
        if output is not None and names_a_file:
            target = output
        else:
            target = (output / each.name if output is not None else each.source).with_suffix(ending)
        if on_exists == OnExists.RENAME:
            target = _free(target, taken, sources)
        key = _place(target)
        if key in sources and key != _place(each.source):  # of itself, `run` says what the file really is
            raise OutputExistsError(f"{target}: is an input itself; pass another -o or --on-exists rename")
        if key in taken:
            raise OutputExistsError(
                f"{target}: both {taken[key]} and {each.source} would be written to it; "
                "pass --on-exists rename or convert them separately"
            )
        taken[key] = each.source
        jobs.append(Job(each.source, target))
    return jobs


def _place(path: Path) -> Path:
    """The path with every link followed, as far as they lead anywhere."""
    return Path(os.path.realpath(path))


def _free(target: Path, *taken: Container[Path]) -> Path:
    """The path itself, or with the first -1, -2, … that is neither there nor taken."""
    candidate, number = target, 0
    while os.path.lexists(candidate) or any(_place(candidate) in paths for paths in taken):
        number += 1
        candidate = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return candidate


def shard(jobs: Sequence[Job], found: Sequence[Found], part: tuple[int, int]) -> list[Job]:
    """The jobs that are worker I's of N: ``part`` is (I, N), I from 1. By the input's name, so that all workers agree.

    The name is that below the folder given, which may lie elsewhere on another machine. Nothing is done twice, and
    nothing by nobody.
    """
    number, count = part

    def worker(name: Path) -> int:
        digest = hashlib.sha256(name.as_posix().encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % count

    return [job for job, each in zip(jobs, found, strict=True) if worker(each.name) == number - 1]


def run(
    jobs: Sequence[Job],
    direction: Direction,
    settings: Settings,
    options: WriteOptions,
    on_exists: OnExists,
    *,
    dry_run: bool = False,
    started: Callable[[Job], None] = lambda job: None,
) -> Iterator[Outcome]:
    """Do the jobs in order, each for itself: a failure is an outcome, not an exception (an interrupt is one).

    The next files are read and the last ones written while one is worked on, as many as keep a device busy and no
    more: memory does not grow with the number of files. Not for a network on a CPU, which needs all of it. Where there
    are several GPUs, each works on a file.
    """
    work = _Work(direction, settings, options, on_exists, dry_run)
    try:
        with memory.kept():
            yield from _overlapped(jobs, work, started)
    except BaseException:
        work.tidy()  # now that every thread is through
        raise


def _overlapped(jobs: Sequence[Job], work: _Work, started: Callable[[Job], None]) -> Iterator[Outcome]:
    """Reading, making and writing beside each other."""
    ahead: deque[tuple[Job, Future[_Step]]] = deque()
    behind: deque[Future[_Step]] = deque()
    with (
        ThreadPoolExecutor(_BESIDE) as reader,
        ThreadPoolExecutor(_MOST_DEVICES) as maker,
        ThreadPoolExecutor(_BESIDE) as writer,
    ):
        left = iter(jobs)
        try:
            while True:
                while len(ahead) <= work.ahead and (job := next(left, None)) is not None:
                    ahead.append((job, reader.submit(work.read, job)))
                if not ahead:
                    break
                job, reading = ahead.popleft()
                started(job)
                step = reading.result()
                if len(work.devices) > 1:
                    making = maker.submit(work.make, step)
                    behind.append(writer.submit(lambda made: work.write(made.result()), making))
                else:
                    step = work.make(step)
                    behind.append(writer.submit(work.write, step))
                while len(behind) > (0 if step.done else work.ahead):  # what failed is told before the next is begun
                    yield _oldest(behind)
            while behind:
                yield _oldest(behind)
        except KeyboardInterrupt:
            while behind:  # what is being written is finished and told, what only waits for it is not
                writing = behind.popleft()
                if not writing.cancel():
                    yield writing.result().outcome()
            raise
        finally:
            for waiting in (*(reading for _, reading in ahead), *behind):
                waiting.cancel()


def _oldest(behind: deque[Future[_Step]]) -> Outcome:
    """What has become of the oldest file; an interrupt while waiting for it leaves it there."""
    outcome = behind[0].result().outcome()
    behind.popleft()
    return outcome


_BESIDE, _MOST_DEVICES = 4, 16
"""Threads that read, and that write; GPUs that are used."""


@dataclass(slots=True)
class _Step:
    """A job on its way: what has come of it so far, the folders made for it, and the seconds that it has taken."""

    job: Job
    image: SrgbImage | RawImage | None = None
    plan: Plan | None = None
    result: SrgbImage | RawImage | None = None
    folders: Sequence[Path] = ()
    done: Outcome | None = None
    seconds: float = 0.0

    def outcome(self) -> Outcome:
        assert self.done is not None
        return replace(self.done, seconds=self.seconds)


class _Work:
    """The three parts of a job. Each takes a step and gives it back further on, and never raises: a failure is done."""

    def __init__(
        self, direction: Direction, settings: Settings, options: WriteOptions, on_exists: OnExists, dry_run: bool
    ) -> None:
        self.direction, self.options, self.on_exists, self.dry_run = direction, options, on_exists, dry_run
        self.settings = settings
        self.devices: list[str] = []
        """Those that work at once; the first file shows which."""
        self.free: SimpleQueue[str] = SimpleQueue()
        self.ahead = 0
        """Files read, and written, beside those that are worked on; the first one shows what is right."""
        self.folders: list[Path] = []
        """Those made."""
        self.swept: set[Path] = set()
        """Those looked through for what a killed program has left there."""

    def read(self, job: Job) -> _Step:
        """The image and its plan."""
        return self._one(_Step(job), self._read)

    def make(self, step: _Step) -> _Step:
        """The result."""
        return self._one(step, self._make)

    def write(self, step: _Step) -> _Step:
        """The file."""
        return self._one(step, self._write)

    def tidy(self) -> None:
        """Take away the folders made for files that are not to come."""
        for folder in sorted(self.folders, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # most hold files
                folder.rmdir()

    def _one(self, step: _Step, part: Callable[[_Step], Outcome | None]) -> _Step:
        begin = time.monotonic()
        if step.done is None:
            try:
                step.done = part(step)
            except ParamispError as error:
                step.done = Outcome(step.job, "failed", error=error)
            except Exception as error:  # a fault of ours: said, and the other files are done
                if os.environ.get("PARAMISP_DEBUG"):
                    raise
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                text = f"{step.job.source}: internal error: {reason} (set PARAMISP_DEBUG=1 and report it)"
                step.done = Outcome(step.job, "failed", error=ParamispError(text))
        if step.done is not None:
            step.image = step.result = None
        step.seconds += time.monotonic() - begin
        return step

    def _settings(self, target: Path) -> Settings:
        if target.suffix.lower() in (".tif", ".tiff") or self.options.bit_depth == 16:
            return replace(self.settings, bit_depth=self.options.bit_depth or 16)
        return self.settings

    def _read(self, step: _Step) -> Outcome | None:
        job, target = step.job, step.job.target
        if job.error is not None or target is None:
            raise job.error or InputMissingError(f"{job.source}: no output for it")
        if target.parent not in self.swept and not self.dry_run:
            self.swept.add(target.parent)
            formats.sweep(target.parent)
        itself = _place(target) == _place(job.source)
        if os.path.lexists(target) and not itself:
            if self.on_exists == OnExists.SKIP:
                return Outcome(job, "skipped", target=target)
            if self.on_exists == OnExists.ERROR:
                raise OutputExistsError(f"{target}: exists already; pass --on-exists skip, overwrite or rename")
        with _named(job.source):
            image = formats.read(job.source)
            if isinstance(image, RawImage) != (self.direction == Direction.RENDER):
                other = Direction.UNPROCESS if self.direction == Direction.RENDER else Direction.RENDER
                kind = "a RAW file" if isinstance(image, RawImage) else "a picture, not a RAW file"
                raise FormatError(f"{job.source}: is {kind}; `paramisp {other}` takes it")
            if itself:
                raise OutputExistsError(f"{target}: is the input itself; pass another -o or --on-exists rename")
            step.image, step.plan = image, pipeline.plan(image, self._settings(target))
        return Outcome(job, "planned", target=target, plan=step.plan) if self.dry_run else None

    def _make(self, step: _Step) -> Outcome | None:
        assert step.job.target is not None
        assert step.image is not None
        assert step.plan is not None
        settings, image = self._settings(step.job.target), step.image
        if not self.devices:
            self.devices = pipeline.devices(settings.device)
            for device in self.devices:
                self.free.put(device)
        device = self.free.get()
        try:
            self._make_on(replace(settings, device=device), step, image)
        finally:
            self.free.put(device)
        return None

    def _make_on(self, settings: Settings, step: _Step, image: SrgbImage | RawImage) -> None:
        assert step.job.target is not None
        assert step.plan is not None
        with _named(step.job.source):
            step.plan = pipeline.affordable(step.plan, settings, image.size)
            if pipeline.pick_device(settings.device).type == "cpu":
                beside = 0 if step.plan.checkpoint is not None else 1
            else:
                beside = min(max((os.cpu_count() or 1) // 4, 1), _BESIDE)
            self.ahead = beside + len(self.devices) - 1
        with _folder(step.job.target.parent) as step.folders, _named(step.job.source):  # first, for it may not be had
            self.folders += step.folders
            if isinstance(image, RawImage):
                step.result = pipeline.run_render(image, step.plan, settings)
            else:
                step.result = pipeline.run_unprocess(image, step.plan, settings)
        step.image = None

    def _write(self, step: _Step) -> Outcome | None:
        job, result = step.job, step.result
        assert job.target is not None
        assert result is not None
        with _folder(job.target.parent, step.folders):
            try:
                formats.write(result, job.target, self.options, overwrite=self.on_exists == OnExists.OVERWRITE)
            except OutputExistsError:
                if self.on_exists != OnExists.SKIP:
                    raise
                return Outcome(job, "skipped", target=job.target)  # another worker was faster
        return Outcome(job, "done", target=job.target, plan=step.plan, notices=result.notes)


@contextmanager
def _named(source: Path) -> Iterator[None]:
    """Put the file's name before an error that does not begin with it, and lack of memory into words."""
    try:
        yield
    except ParamispError as error:
        if str(error).startswith(f"{source}: "):
            raise
        raise type(error)(f"{source}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        from paramisp_cli import tiling

        if not tiling.is_out_of_memory(error):
            raise
        raise FileAccessError(
            f"{source}: not enough memory; pass --model parametric or use a smaller picture"
        ) from error


@contextmanager
def _folder(folder: Path, made: Sequence[Path] = ()) -> Iterator[Sequence[Path]]:
    """Make the folder and those above it, and say which; take away again what was made (``made`` too) if it fails."""
    made = [*made, *(above for above in (folder, *folder.parents) if not os.path.lexists(above))]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise FileAccessError(f"{folder}: cannot make the folder: a file is in its place") from error
        except OSError as error:
            raise FileAccessError(f"{folder}: cannot make the folder: {error.strerror or error}") from error
        yield made
    except BaseException:
        with suppress(OSError):
            for each in made:
                each.rmdir()
        raise
