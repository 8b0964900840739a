"""Apply an application to the jobs of a batch, one after the other; a failed file does not stop the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from paramisp_cli import atomic, formats, memory
from paramisp_cli.batch.find import Job, OnExists, real_path
from paramisp_cli.batch.outcome import Outcome, naming
from paramisp_cli.batch.outputs import Policy, created, skips
from paramisp_cli.errors import InputMissingError, OutputExistsError, ParamispError
from paramisp_cli.formats import WriteOptions
from paramisp_cli.parameters import Conversion, Settings
from paramisp_cli.types import Output

Work = Callable[[Job, Callable[[float], None]], tuple[Conversion, Output | None]]
"""Function that converts a job's input → (its conversion, the result; None in a dry run).

Its second argument takes the finished share of the pixel work.
"""


def apply(
    jobs: Sequence[Job],
    work: Work,
    settings: Settings,
    options: WriteOptions,
    policy: Policy,
    *,
    started: Callable[[Job], None] = lambda job: None,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[Outcome]:
    """Yield the outcome of every job, in order; failures are outcomes, only an interrupt is an exception.

    The same rules hold as in ``run.run``: an output is complete or missing, and replaces a file only if ``policy``
    allows it. ``settings`` serves the messages.
    """
    folders: list[Path] = []
    try:
        with memory.kept():
            for job in jobs:
                started(job)
                begin = time.monotonic()
                outcome = _outcome(job, work, settings, options, policy, progress, folders)
                yield replace(outcome, seconds=time.monotonic() - begin)
    except BaseException:
        for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # most are not empty
                folder.rmdir()
        raise


def _outcome(
    job: Job,
    work: Work,
    settings: Settings,
    options: WriteOptions,
    policy: Policy,
    progress: Callable[[float], None],
    folders: list[Path],
) -> Outcome:
    try:
        return _applied(job, work, settings, options, policy, progress, folders)
    except ParamispError as error:
        return Outcome(job, "failed", error=error)
    except Exception as error:  # internal error: report it, continue with the batch
        if os.environ.get("PARAMISP_DEBUG"):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        text = f"{job.source}: internal error: {reason} (set PARAMISP_DEBUG=1 and report it)"
        return Outcome(job, "failed", error=ParamispError(text))


def _applied(
    job: Job,
    work: Work,
    settings: Settings,
    options: WriteOptions,
    policy: Policy,
    progress: Callable[[float], None],
    folders: list[Path],
) -> Outcome:
    target = job.target
    if job.error is not None or target is None:
        raise job.error or InputMissingError(f"{job.source}: has no output")
    if real_path(target) == real_path(job.source):
        raise OutputExistsError(f"{target}: is the input itself; pass another -o or `on_exists` rename")
    if not policy.dry_run:
        atomic.sweep(target.parent)
    if os.path.lexists(target) and skips(target, policy):
        return Outcome(job, "skipped", target=target)
    if policy.dry_run:
        with naming(job.source, settings):
            conversion, _ = work(job, progress)
        return Outcome(job, "planned", target=target, conversion=conversion)
    # Create the folder first: it may fail, and the conversion takes long.
    with created(target.parent) as made:
        folders += made
        with naming(job.source, settings):
            conversion, result = work(job, progress)
        assert result is not None
        try:
            formats.write(result, target, options, overwrite=policy.on_exists == OnExists.OVERWRITE)
        except OutputExistsError:
            if policy.on_exists != OnExists.SKIP:
                raise
            return Outcome(job, "skipped", target=target)  # another worker was faster
    return Outcome(job, "done", target=target, conversion=conversion, notices=result.notes)
