"""Run a batch on the workers of a Ray cluster, with the rules and the results of ``run``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from paramisp_cli import memory
from paramisp_cli.batch import run as batch_run
from paramisp_cli.batch.cluster import Cluster, mapped
from paramisp_cli.batch.find import Job, OnExists, patch_path
from paramisp_cli.batch.outcome import Outcome
from paramisp_cli.batch.outputs import Policy
from paramisp_cli.directions import Direction
from paramisp_cli.errors import FileAccessError
from paramisp_cli.formats import WriteOptions
from paramisp_cli.parameters import Settings
from paramisp_cli.patches import Grid
from paramisp_cli.rendition.pool import Pool, Shots
from paramisp_cli.types import Output

_MOST_FILES, _MOST_TASKS = 8, 20_000
"""Most files in a task, so that reading and writing overlap conversions; tasks from which a task gets more files."""
_TASKS = 16
"""Tasks for each worker before a task gets a second file: small tasks end at about the same time."""


@dataclass(frozen=True, slots=True)
class _Files:
    """A task: files to convert, or with ``is_skipped`` files whose looks are to be collected."""

    jobs: tuple[Job, ...]
    is_shown: bool = False
    is_skipped: bool = False


@dataclass(frozen=True, slots=True)
class _Done:
    """The result of ``_Files``: an outcome for each job; extras by position of the job; new looks for other files."""

    outcomes: list[Outcome]
    extras: dict[Path, Any]
    shots: Shots


@dataclass
class _Conversions:
    """The work of a worker on files. ``looks`` are those of the other files: the pool is closed if they are given."""

    direction: Direction
    settings: Settings
    options: WriteOptions
    policy: Policy
    grid: Grid | None
    seen: Callable[[Output, Output], Any] | None
    pools: bool
    looks: Shots | None
    beside: int

    @cached_property
    def pool(self) -> Pool | None:
        """The pool of this worker's looks."""
        pool = Pool(closed=self.looks is not None) if self.pools else None
        if pool is not None and self.looks is not None:
            pool.merge(self.looks)
        return pool

    @cached_property
    def limited(self) -> Settings:
        """The settings with this worker's share of the memory of its machine."""
        if self.settings.max_memory is not None or self.beside < 2:
            return self.settings
        return replace(self.settings, max_memory=max(memory.free() // self.beside, 1))

    def __call__(self, task: _Files) -> _Done:
        """Convert the files of a task."""
        known = {key for shots in self.pool.shots().values() for key in shots} if self.pool is not None else set()
        extras: dict[Path, Any] = {}

        def converted(job: Job, image: Output, result: Output) -> None:
            if self.seen is not None and task.is_shown:
                extras[job.source] = self.seen(image, result)

        outcomes: list[Outcome] = []
        if task.is_skipped:
            assert self.pool is not None
            batch_run.collect(self.pool, task.jobs, self.limited)
        else:
            outcomes += batch_run.once(
                task.jobs, self.direction, self.limited, self.options, self.policy, self.pool,
                grid=self.grid, converted=converted,
            )  # fmt: skip
        shots: Shots = {}
        if self.pool is not None and not self.pool.closed:
            for name, collected in self.pool.shots().items():
                shots[name] = {key: cells for key, cells in collected.items() if key not in known}
        return _Done(outcomes, extras, shots)


def run(
    cluster: Cluster,
    jobs: Sequence[Job],
    direction: Direction,
    settings: Settings,
    options: WriteOptions,
    policy: Policy,
    *,
    grid: Grid | None = None,
    one_by_one: bool = False,
    seen: Callable[[Output, Output], Any] | None = None,
    shown: Callable[[Job, Any], None] = lambda job, extra: None,
    most_shown: int = 0,
) -> Iterator[Outcome]:
    """Yield the outcome of every job as it ends, in any order, with the rules and the results of ``run.run``.

    With ``one_by_one`` no worker has a second file in hand when a file fails. ``seen`` makes something of input and
    result on the worker, for the first ``most_shown`` jobs; ``shown`` receives it here.

    The file of a worker that ends is tried once more, alone, and then failed. Raises ConfigError if no worker starts.
    """
    pools = direction == Direction.RENDER and len(jobs) > 1 and not policy.dry_run
    work = _Conversions(direction, settings, options, policy, grid, seen, pools, None, cluster.beside)
    cluster.folders.update(job.target.parent for job in jobs if job.target is not None)
    before = {job.source for job in jobs if _exists(job, grid)}
    collected, deferred, skipped = Pool(), list[Job](), list[Job]()
    places = {job.source: number for number, job in enumerate(jobs)}

    def tasks_of(jobs: Sequence[Job]) -> list[_Files]:
        size = 1 if one_by_one else _size(len(jobs), cluster.workers)
        return [
            _Files(tuple(jobs[at : at + size]), is_shown=places[jobs[at].source] < most_shown)
            for at in range(0, len(jobs), size)
        ]

    def outcomes(work: _Conversions, jobs: Sequence[Job]) -> Iterator[Outcome]:
        lost: list[Job] = []
        tasks = tasks_of(jobs)
        for number, done in mapped(cluster, work, tasks):
            if done is None:
                lost += tasks[number].jobs
                continue
            yield from reported(done)
        again = []
        for job in lost:
            if (
                policy.on_exists in (OnExists.ERROR, OnExists.RENAME)
                and job.source not in before
                and _exists(job, grid)
            ):
                skipped.append(job)  # the worker ended after this file: its look is not known yet
                yield Outcome(job, "done", target=_first(job, grid))
            else:
                again.append(_Files((job,), is_shown=places[job.source] < most_shown))
        for number, done in mapped(cluster, work, again):
            if done is None:
                (job,) = again[number].jobs
                text = "the Ray worker that converted it ended twice, of lack of memory or of a damaged file"
                remedy = "pass `isolate`, or `ray_cpus` for fewer workers on a machine"
                yield Outcome(job, "failed", error=FileAccessError(f"{job.source}: {text}; {remedy}"))
                continue
            yield from reported(done)

    def reported(done: _Done) -> Iterator[Outcome]:
        collected.merge(done.shots)
        for outcome in done.outcomes:
            if outcome.status == "deferred":
                deferred.append(outcome.job)
                continue
            if outcome.status == "skipped":
                skipped.append(outcome.job)
            if outcome.job.source in done.extras:
                shown(outcome.job, done.extras[outcome.job.source])
            yield outcome

    yield from outcomes(work, jobs)
    if deferred:
        waiting, deferred = deferred, []
        looks = [replace(task, is_skipped=True) for task in tasks_of(skipped)]
        for _, done in mapped(cluster, work, looks):
            if done is not None:
                collected.merge(done.shots)
        yield from outcomes(replace(work, looks=collected.shots()), waiting)


def _size(count: int, workers: int) -> int:
    """Return the number of files in a task."""
    return max(min(count // (_TASKS * workers), _MOST_FILES), -(-count // _MOST_TASKS), 1)


def _first(job: Job, grid: Grid | None) -> Path | None:
    """Return the output of a job that is written last: the first of its patches with a ``grid``."""
    return job.target if grid is None or job.target is None else patch_path(job.target, 0)


def _exists(job: Job, grid: Grid | None) -> bool:
    first = _first(job, grid)
    with suppress(OSError):
        return first is not None and os.path.lexists(first)
    return False
