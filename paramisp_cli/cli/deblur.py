"""``paramisp deblur``: take mild camera shake out of RAW files and pictures."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from paramisp_cli.cli.console import fail, fail_usage, in_flags, interruptible, say, with_flags, worded
from paramisp_cli.cli.options import (
    MODEL,
    OUTPUT,
    BatchOptions,
    Command,
    Inputs,
    SettingsOptions,
    complete_weights,
    grouped,
)
from paramisp_cli.cli.progress import Progress
from paramisp_cli.errors import (
    ConfigError,
    FileAccessError,
    InputMissingError,
    OutputExistsError,
    ParamispError,
)

if TYPE_CHECKING:
    from paramisp_cli.apps.deblur import Choices
    from paramisp_cli.batch.find import Input, Job, OnExists
    from paramisp_cli.batch.run import Outcome
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.parameters import Settings

_EXAMPLES = """\
paramisp deblur shot.dng                 # writes shot-deblurred.dng
paramisp deblur photo.jpg                # writes photo-deblurred.jpg
paramisp deblur photos -r -o better --strength 0.7"""
_TAIL = "-deblurred"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(cls=Command, epilog=_EXAMPLES, rich_help_panel="Applications")(grouped(deblur))


def deblur(
    inputs: Inputs,
    batch: BatchOptions,
    settings: SettingsOptions,
    strength: Annotated[
        float, typer.Option("--strength", min=0, max=1, rich_help_panel=OUTPUT, help="Share of the change, in RAW.")
    ] = 1.0,
    mask_saturated: Annotated[
        bool,
        typer.Option(
            "--mask-saturated/--no-mask-saturated",
            rich_help_panel=OUTPUT,
            help="Do not change clipped light and its surroundings.",
        ),
    ] = True,
    format_name: Annotated[
        Literal["jpg", "jpeg", "png", "tif", "tiff"] | None,
        typer.Option("--format", rich_help_panel=OUTPUT, help="Of pictures. Default: that of -o, else the input's."),
    ] = None,
    quality: Annotated[
        int, typer.Option("--quality", min=1, max=100, rich_help_panel=OUTPUT, help="JPEG quality.")
    ] = 98,
    deblur_weights: Annotated[
        str | None,
        typer.Option(
            "--deblur-weights",
            metavar="NAME|FILE",
            autocompletion=complete_weights,
            rich_help_panel=MODEL,
            help="Weights of the network against shake.",
        ),
    ] = None,
) -> None:
    """Reduce mild camera shake in RAW files (into DNG) and pictures. Trained and measured on simulated shake alone."""
    from paramisp_cli import convert, formats, sources
    from paramisp_cli.apps import deblur as app
    from paramisp_cli.batch import find
    from paramisp_cli.parameters import Settings
    from paramisp_cli.types import Direction

    if batch.output == Path("-"):
        fail_usage("-o -: deblur writes files; pass a file or a folder")
    if settings.exposure is not None or settings.look is not None or settings.look_from is not None:
        fail_usage("--exposure, --look and --look-from are for `paramisp render`, after the deblurring")
    options = formats.WriteOptions(quality=quality)
    try:
        chosen = Settings(**{f.name: getattr(settings, f.name) for f in fields(settings)})
        choices = app.Choices(strength, mask_saturated, deblur_weights)
        app.network(choices)
        convert.check(chosen, Direction.UNPROCESS)
        suffixes = (*formats.SRGB_SUFFIXES, *formats.RAW_SUFFIXES)
        selection = find.search(inputs, suffixes, recursive=batch.recursive)
        protected = [find.real_path(path) for path in sources.like_files(chosen)]
        jobs = _assigned(inputs, selection.inputs, batch, format_name, protected)
        jobs = find.shard(jobs, selection.inputs, batch.shard) if batch.shard else jobs
    except ParamispError as error:
        fail(error)
    single = not batch.shard and [job.source for job in jobs] == inputs[:1]
    raise typer.Exit(_run(jobs, chosen, choices, options, batch, single))


# Outputs --------------------------------------------------------------------------------------------------------------


def _assigned(
    arguments: list[Path], found: list[Input], batch: BatchOptions, format_name: str | None, protected: list[Path]
) -> list[Job]:
    """Give every input its output, before any work."""
    from paramisp_cli.batch import find

    output, on_exists = batch.output, find.OnExists(batch.on_exists)
    several = len(found) != 1 or found[0].source != arguments[0]
    is_file = output is not None and output.suffix != "" and not output.is_dir()
    if output is not None and several and (is_file or output.is_file()):
        raise ConfigError(f"-o {output}: must be a folder when there are several inputs or a folder")
    taken = {find.real_path(each.source) for each in found} | {*protected}
    jobs: list[Job] = []
    for each in found:
        try:
            if each.error is not None:
                raise each.error
            target = _target(each, output if is_file else None, None if is_file else output, format_name)
        except ParamispError as error:
            jobs.append(find.Job(each.source, None, error))
            continue
        target = _renamed(target, taken) if on_exists == find.OnExists.RENAME else target
        real = find.real_path(target)
        if real in taken:
            raise OutputExistsError(
                f"{target}: is an input, or the output of another input; pass another -o or `on_exists` rename"
            )
        taken.add(real)
        jobs.append(find.Job(each.source, target))
    return jobs


def _target(each: Input, file: Path | None, folder: Path | None, format_name: str | None) -> Path:
    """Return the output of an input: a DNG of a RAW file, a picture of a picture. Raises ParamispError."""
    from paramisp_cli import formats
    from paramisp_cli.types import RawImage

    is_raw = RawImage in formats.identify(each.source).holds
    allowed = (".dng",) if is_raw else formats.SRGB_WRITE_SUFFIXES
    own = each.source.suffix.lower()
    ending = ".dng" if is_raw else f".{format_name}" if format_name else own if own in allowed else ".jpg"
    if file is None:
        beside = each.source if folder is None else folder / each.name
        return beside.with_name(f"{beside.stem}{_TAIL}{ending}")
    if file.suffix.lower() not in allowed:
        kind = "a RAW file" if is_raw else "a picture"
        raise ConfigError(f"-o {file}: deblur makes {', '.join(allowed)} of {kind}")
    if format_name and not is_raw and formats.writer(ending) is not formats.writer(file.suffix):
        raise ConfigError(f"-o {file} contradicts --format {format_name}")
    return file


def _renamed(target: Path, taken: set[Path]) -> Path:
    """Return the path, or the first of its variants -1, -2, … that is free."""
    from paramisp_cli.batch import find

    candidate, number = target, 0
    while os.path.lexists(candidate) or find.real_path(candidate) in taken:
        number += 1
        candidate = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return candidate


# Work -----------------------------------------------------------------------------------------------------------------


def _run(
    jobs: list[Job], settings: Settings, choices: Choices, options: WriteOptions, batch: BatchOptions, single: bool
) -> int:
    """Deblur the files one after the other; return the exit code."""
    from paramisp_cli.batch import run

    tally = run.Tally()
    with Progress(len(jobs), quiet=batch.quiet) as progress:
        try:
            with interruptible() as check:
                for job in jobs:
                    progress.started(job)
                    outcome = _one(job, settings, choices, options, batch, progress)
                    tally.add(outcome)
                    progress.finished()
                    _show(outcome, batch, progress)
                    if outcome.status == "failed" and batch.fail_fast:
                        break
                    check()
        except KeyboardInterrupt:
            progress.stop()
            say(f"interrupted: {tally.done} done, {len(jobs) - tally.count} left; resume with --on-exists skip")
            return 130
    if not single and not batch.quiet:
        verb = "planned" if batch.dry_run else "done"
        say(f"{tally.done} {verb}, {tally.skipped} skipped, {len(tally.failures)} failed")
    return tally.exit_code(single)


def _one(
    job: Job,
    settings: Settings,
    choices: Choices,
    options: WriteOptions,
    batch: BatchOptions,
    progress: Progress,
) -> Outcome:
    """Read, deblur and write a file."""
    from paramisp_cli import formats, parameters
    from paramisp_cli.apps import deblur as app
    from paramisp_cli.batch import run
    from paramisp_cli.batch.find import OnExists

    begin, on_exists = time.monotonic(), OnExists(batch.on_exists)
    try:
        if job.error is not None or job.target is None:
            raise job.error or InputMissingError(f"{job.source}: has no output")
        if os.path.lexists(job.target) and _is_skipped(job.target, on_exists, batch.overwrite_foreign):
            return run.Outcome(job, "skipped", target=job.target)
        image = parameters.read(job.source, settings)
        if batch.dry_run:
            return run.Outcome(job, "planned", target=job.target, conversion=parameters.complete(image, settings))
        made = app.deblur(image, settings, choices, progress.share)
        _make_folder(job.target.parent)
        formats.write(made.image, job.target, options, overwrite=on_exists == OnExists.OVERWRITE)
    except ParamispError as error:
        named = error.named(job.source) if job.target is None or str(job.target) not in str(error) else error
        return run.Outcome(job, "failed", error=named, seconds=time.monotonic() - begin)
    except (MemoryError, RuntimeError) as error:
        from paramisp_cli import devices

        if not devices.is_out_of_memory(error):
            raise
        short = FileAccessError(f"{job.source}: not enough memory; use a smaller picture")
        return run.Outcome(job, "failed", error=short, seconds=time.monotonic() - begin)
    seconds = time.monotonic() - begin
    return run.Outcome(
        job, "done", target=job.target, conversion=made.conversion, notices=made.image.notes, seconds=seconds
    )


def _is_skipped(target: Path, on_exists: OnExists, overwrite_foreign: bool) -> bool:
    """Tell whether to skip an output that exists. Raises OutputExistsError if it must not be replaced."""
    from paramisp_cli import formats

    if on_exists == "error":
        raise OutputExistsError(f"{target}: exists already; pass `on_exists` skip, overwrite or rename")
    if on_exists == "overwrite" and not overwrite_foreign and not formats.is_own(target):
        raise OutputExistsError(
            f"{target}: was not made by paramisp and is not overwritten; pass another -o, `on_exists` rename, or "
            "`overwrite_foreign`"
        )
    return on_exists == "skip"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileAccessError(f"{folder}: cannot make the folder: {error.strerror or error}") from error


def _show(outcome: Outcome, batch: BatchOptions, progress: Progress) -> None:
    """Report a file."""
    if batch.json_lines:
        progress.result(json.dumps(in_flags(outcome.record()), allow_nan=False))
    elif outcome.status in ("done", "planned"):
        progress.result_path(outcome.target)
    if outcome.status == "failed":
        progress.say(worded(outcome.error))
    elif outcome.status == "skipped" and not batch.quiet:
        progress.say(f"{outcome.target}: exists already, skipped")
    elif not batch.quiet:
        for notice in outcome.all_notices:
            progress.say(f"{outcome.job.source}: {with_flags(notice)}")
        if outcome.conversion is not None and batch.verbose:
            for key, value in outcome.conversion.describe().items():
                if key not in ("origin", "notices", "made_by"):
                    source = outcome.conversion.origin.get({"wb_gains": "wb"}.get(key, key))
                    progress.say(f"  {key}: {value}" + (f"  [{source}]" if source else ""))
