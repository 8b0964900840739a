"""Run the jobs of a batch: reading, converting and writing overlap; a failed file does not stop the others."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from paramisp_cli import atomic, convert, formats, machine, make_transfer, memory, parameters
from paramisp_cli.batch import outputs
from paramisp_cli.batch.find import Job, OnExists, patch_path, real_path
from paramisp_cli.batch.outcome import Outcome, naming
from paramisp_cli.batch.outputs import Policy, created, skips
from paramisp_cli.directions import Direction
from paramisp_cli.errors import (
    FormatError,
    InputMissingError,
    OutputExistsError,
    ParamispError,
)
from paramisp_cli.formats import WriteOptions, dng, raster
from paramisp_cli.parameters import CAMERA_LOOK, KEPT_RAW, Conversion, Settings
from paramisp_cli.patches import Grid
from paramisp_cli.rendition.pool import Deferred, Pool
from paramisp_cli.rendition.preview import Misfit
from paramisp_cli.types import Output, RawImage, SrgbImage

Image = SrgbImage | RawImage


_POLICY = Policy()


def run(
    jobs: Sequence[Job],
    direction: Direction,
    settings: Settings,
    options: WriteOptions,
    policy: Policy = _POLICY,
    *,
    grid: Grid | None = None,
    started: Callable[[Job], None] = lambda job: None,
    progress: Callable[[float], None] = lambda share: None,
    prepared: Callable[[Job, Conversion, Image], None] = lambda job, conversion, image: None,
    converted: Callable[[Job, Image, Output], None] = lambda job, image, result: None,
) -> Iterator[Outcome]:
    """Yield the outcome of every job, in order; failures are outcomes, only an interrupt is an exception.

    RAW files whose own preview shows no camera look come last, in order: they borrow the look of the other files.

    Other files are read and written during a conversion, just enough to keep a device busy: memory does not grow with
    the number of files. A network on a CPU needs all cores, so reading and writing wait for it. Several GPUs convert
    one file each. ``progress`` takes the finished share of the current file's pixel work, 0 to 1, from any
    thread; with several GPUs it is not called. ``prepared`` is called before the pixel work, ``converted`` after it,
    from any thread. With a ``grid`` every RAW is cut into patches.
    """
    pool = Pool() if direction == Direction.RENDER and len(jobs) > 1 and not policy.dry_run else None
    work = _Work(direction, settings, options, policy, progress, prepared, converted, pool, grid)
    try:
        with memory.kept():
            deferred, skipped = [], []
            for outcome in _overlapped(jobs, work, started):
                if outcome.status == "deferred":
                    deferred.append(outcome.job)
                    continue
                if outcome.status == "skipped":
                    skipped.append(outcome.job)
                yield outcome
            if deferred:
                assert pool is not None
                collect(pool, skipped, settings)
                pool.close()
                yield from _overlapped(deferred, work, started)
    except BaseException:
        work.remove_empty_folders()  # all threads have ended
        raise


def once(
    jobs: Sequence[Job],
    direction: Direction,
    settings: Settings,
    options: WriteOptions,
    policy: Policy,
    pool: Pool | None,
    *,
    grid: Grid | None = None,
    converted: Callable[[Job, Image, Output], None] = lambda job, image, result: None,
) -> Iterator[Outcome]:
    """Yield the outcome of every job as ``run`` does; "deferred" for a file whose look waits until ``pool`` is closed.

    A batch of several machines shares the looks of its pools among them.
    """

    def nothing(*_: object) -> None:
        pass

    work = _Work(direction, settings, options, policy, nothing, nothing, converted, pool, grid)
    try:
        with memory.kept():
            yield from _overlapped(jobs, work, nothing)
    except BaseException:
        work.remove_empty_folders()
        raise


def collect(pool: Pool, skipped: Sequence[Job], settings: Settings) -> None:
    """Add the looks of skipped files to a pool, so that a repeated batch gives the same results."""
    for job in skipped:
        with suppress(ParamispError, Misfit, Deferred):
            image = parameters.read(job.source, settings)
            if isinstance(image, RawImage) and convert.borrows_look(image, settings):
                conversion = parameters.complete(image, settings)
                pool.fit(replace(image, canonical=conversion.canonical, camera=conversion.camera))


def _overlapped(jobs: Sequence[Job], work: _Work, started: Callable[[Job], None]) -> Iterator[Outcome]:
    """Read, convert and write in threads, and yield the outcomes in order."""
    reading: deque[tuple[Job, Future[_Step]]] = deque()
    writing: deque[Future[_Step]] = deque()
    with (
        ThreadPoolExecutor(_MOST_READERS) as reader,
        ThreadPoolExecutor(_MOST_DEVICES) as maker,
        ThreadPoolExecutor(_MOST_READERS) as writer,
    ):
        waiting = iter(jobs)
        try:
            while True:
                while len(reading) <= work.ahead and (job := next(waiting, None)) is not None:
                    reading.append((job, reader.submit(work.read, job)))
                if not reading:
                    break
                job, future = reading.popleft()
                started(job)
                step = future.result()
                if len(work.devices) > 1:
                    making = maker.submit(work.make, step)
                    writing.append(writer.submit(lambda making: work.write(making.result()), making))
                else:
                    step = work.make(step)
                    writing.append(writer.submit(work.write, step))
                while len(writing) > (0 if step.done else work.ahead):  # report a failure before the next file starts
                    yield _oldest(writing)
            while writing:
                yield _oldest(writing)
        except KeyboardInterrupt:
            while writing:  # finish and report files being written, drop waiting files
                future = writing.popleft()
                if not future.cancel():
                    yield future.result().outcome()
            raise
        finally:
            for future in (*(future for _, future in reading), *writing):
                future.cancel()


def _oldest(writing: deque[Future[_Step]]) -> Outcome:
    """Wait for the oldest result; on interrupt it stays queued."""
    outcome = writing[0].result().outcome()
    writing.popleft()
    return outcome


_MOST_READERS, _MOST_DEVICES = 4, 16
"""Most threads that read (and as many that write), and most GPUs in use."""


@dataclass(slots=True)
class _Step:
    """The state of a job between reading, converting and writing.

    ``raw`` is the RAW that the output carries; ``folders`` were created for its output; ``seconds`` is the time spent.
    """

    job: Job
    image: SrgbImage | RawImage | None = None
    conversion: Conversion | None = None
    result: Output | None = None
    raw: RawImage | None = None
    folders: Sequence[Path] = ()
    done: Outcome | None = None
    seconds: float = 0.0

    def outcome(self) -> Outcome:
        assert self.done is not None
        return replace(self.done, seconds=self.seconds)


class _Work:
    """The three stages of a job. Each takes a step and returns it; an error is stored in ``step.done``, not raised."""

    def __init__(
        self,
        direction: Direction,
        settings: Settings,
        options: WriteOptions,
        policy: Policy,
        progress: Callable[[float], None],
        prepared: Callable[[Job, Conversion, Image], None],
        converted: Callable[[Job, Image, Output], None],
        pool: Pool | None,
        grid: Grid | None,
    ) -> None:
        self.direction, self.options, self.policy = direction, options, policy
        self.progress, self.prepared, self.converted = progress, prepared, converted
        self.settings, self.pool, self.grid = settings, pool, grid
        self.devices: list[str] = []
        """Devices in parallel use; the first file determines them."""
        self.free: SimpleQueue[str] = SimpleQueue()
        self.ahead = 0
        """Files read ahead, and files written, during a conversion; the first file determines the number."""
        self.folders: list[Path] = []
        """Folders created."""
        self.swept: set[Path] = set()
        """Folders already searched for temporary files of ended programs."""

    def read(self, job: Job) -> _Step:
        """Read the image and plan its conversion."""
        return self._guarded(_Step(job), self._read)

    def make(self, step: _Step) -> _Step:
        """Convert the image."""
        return self._guarded(step, self._make)

    def write(self, step: _Step) -> _Step:
        """Write the output."""
        return self._guarded(step, self._write)

    def remove_empty_folders(self) -> None:
        """Remove folders created for outputs that were never written."""
        for folder in sorted(self.folders, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # most are not empty
                folder.rmdir()

    def _guarded(self, step: _Step, stage: Callable[[_Step], Outcome | None]) -> _Step:
        begin = time.monotonic()
        if step.done is None:
            try:
                step.done = stage(step)
            except Deferred:
                step.done = Outcome(step.job, "deferred")
            except ParamispError as error:
                step.done = Outcome(step.job, "failed", error=error)
            except Exception as error:  # internal error: report it, continue with the batch
                if os.environ.get("PARAMISP_DEBUG"):
                    raise
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                text = f"{step.job.source}: internal error: {reason} (set PARAMISP_DEBUG=1 and report it)"
                step.done = Outcome(step.job, "failed", error=ParamispError(text))
        if step.done is not None:
            step.image = step.result = step.raw = None
        step.seconds += time.monotonic() - begin
        return step

    def _settings(self, target: Path) -> Settings:
        if self.settings.stop_at is not None or self.direction == Direction.UNPROCESS:
            return self.settings
        if target.suffix.lower() in (".tif", ".tiff") or self.options.bit_depth == 16:
            return replace(self.settings, bit_depth=self.options.bit_depth or 16)
        return self.settings

    def _read(self, step: _Step) -> Outcome | None:
        job, target = step.job, step.job.target
        if job.error is not None or target is None:
            raise job.error or InputMissingError(f"{job.source}: has no output")
        if target.parent not in self.swept and not self.policy.dry_run:
            self.swept.add(target.parent)
            atomic.sweep(target.parent)
        is_itself = real_path(target) == real_path(job.source)
        # The first patch is written last: if it exists, all patches do.
        first = target if self.grid is None else patch_path(target, 0)
        if os.path.lexists(first) and not is_itself and skips(first, self.policy):
            return Outcome(job, "skipped", target=first)
        if job.confidence is not None:
            outputs.check_confidence(job.confidence, self.policy)
        with naming(job.source, self.settings):
            image = parameters.read(job.source, self.settings)
            self._check_kind(job.source, image, target)
            if isinstance(image, SrgbImage):
                if target.suffix.lower() in dng.FORMAT.suffixes and self.grid is None:
                    dng.check_size(*image.size)
            elif self.settings.stop_at is not None:
                raster.check_linear_size(*image.size)
            if is_itself:
                raise OutputExistsError(f"{target}: is the input itself; pass another -o or `on_exists` rename")
            step.image, step.conversion = image, make_transfer.complete(image, self._settings(target))
            if self.grid is not None and step.conversion.architecture != KEPT_RAW:  # a RAW has a size of its own
                self.grid.check(*image.size)
        return Outcome(job, "planned", target=first, conversion=step.conversion) if self.policy.dry_run else None

    def _check_kind(self, source: Path, image: Image, output: Path) -> None:
        """Raise FormatError if the command does not make such an output of such an image."""
        is_raw, transfers = isinstance(image, RawImage), self.direction == Direction.TRANSFER
        if is_raw == (output.suffix == ".dng" if transfers else self.direction == Direction.RENDER):
            return
        kind = "a RAW file" if is_raw else "a picture, not a RAW file"
        other = Direction.UNPROCESS if self.direction == Direction.RENDER else Direction.RENDER
        remedy = "convert RAW files and pictures separately" if transfers else f"`paramisp {other}` converts it"
        raise FormatError(f"{source}: is {kind}; {remedy}")

    def _make(self, step: _Step) -> Outcome | None:
        assert step.job.target is not None
        assert step.image is not None
        assert step.conversion is not None
        settings, image = self._settings(step.job.target), step.image
        borrows = self.pool is not None and convert.borrows_look(image, settings)
        if step.conversion.architecture == CAMERA_LOOK or borrows:
            with naming(step.job.source, self.settings):
                step.conversion = convert.prepare(image, step.conversion, settings, self.pool)
        if machine.is_free_of_torch(step.conversion, settings):  # no device
            self.ahead = 1
            self._convert(settings, step, image)
            return None
        if not self.devices and machine.runs_on_onnx(step.conversion, settings):
            with naming(step.job.source, self.settings):
                step.conversion = convert.affordable(step.conversion, settings, image.size)
            self.ahead = 0
            self._convert(settings, step, image)
            return None
        if not self.devices:
            from paramisp_cli import devices

            self.devices = devices.several(settings.device)
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
        assert step.conversion is not None
        with naming(step.job.source, self.settings):
            step.conversion = convert.prepare(image, step.conversion, settings)
            from paramisp_cli import devices

            if devices.pick(settings.device).type == "cpu":
                beside = 0 if step.conversion.checkpoint is not None else 1
            else:
                beside = min(max((os.cpu_count() or 1) // 4, 1), _MOST_READERS)
            self.ahead = beside + len(self.devices) - 1
        self._convert(settings, step, image)

    def _convert(self, settings: Settings, step: _Step, image: SrgbImage | RawImage) -> None:
        assert step.job.target is not None
        assert step.conversion is not None
        self.prepared(step.job, step.conversion, image)
        # Create the folder first: it may fail, and the conversion takes long.
        with created(step.job.target.parent) as step.folders, naming(step.job.source, self.settings):
            self.folders += step.folders
            progress = self.progress if len(self.devices) < 2 else None
            step.result = convert.run(image, step.conversion, settings, progress)
            self.converted(step.job, image, step.result)
        if self.options.keep_raw is not None and isinstance(image, RawImage):
            step.raw = image
        step.image = None

    def _write(self, step: _Step) -> Outcome | None:
        job, result = step.job, step.result
        assert job.target is not None
        assert result is not None
        with created(job.target.parent, step.folders):
            try:
                if not isinstance(result, RawImage):
                    self._write_image(result, job.target, step.raw)
                    return Outcome(job, "done", target=job.target, conversion=step.conversion, notices=result.notes)
                with outputs.confidence_written(result, job, self.policy):
                    return self._write_raw(result, step)
            except OutputExistsError:
                if self.policy.on_exists != OnExists.SKIP:
                    raise
                return Outcome(job, "skipped", target=job.target)  # another worker was faster

    def _write_raw(self, raw: RawImage, step: _Step) -> Outcome:
        job, target, notes = step.job, step.job.target, raw.notes
        files: tuple[dict[str, Any], ...] = ()
        assert target is not None
        if self.grid is not None or outputs.is_array(target):
            files, notices = outputs.write_samples(raw, job, self.options, self.policy, self.grid)
            target, notes = Path(files[0]["file"]), (*raw.notes, *notices)
        else:
            self._write_image(raw, target, step.raw)
        sure = None if raw.confidence is None else raw.confidence.describe()
        return Outcome(
            job, "done", target, conversion=step.conversion, notices=notes, files=files, confidence=sure
        )  # fmt: skip

    def _write_image(self, image: Output, target: Path, raw: RawImage | None) -> None:
        overwrite = self.policy.on_exists == OnExists.OVERWRITE
        formats.write(image, target, self.options, overwrite=overwrite, raw=raw)
