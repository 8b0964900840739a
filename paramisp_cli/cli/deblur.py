"""``paramisp deblur``: take mild camera shake out of RAW files and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from paramisp_cli.cli.console import fail, fail_usage, say
from paramisp_cli.cli.convert import settings_of
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
from paramisp_cli.cli.report import Report, left_out, starting
from paramisp_cli.errors import ConfigError, ParamispError

if TYPE_CHECKING:
    from paramisp_cli.batch.find import Job
    from paramisp_cli.batch.outcome import Outcome
    from paramisp_cli.cli.progress import Progress
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.parameters import Conversion, Settings
    from paramisp_cli.types import RawImage, SrgbImage

_EXAMPLES = """\
paramisp deblur shot.dng                 # writes shot-deblurred.dng
paramisp deblur photo.jpg                # writes photo-deblurred.jpg
paramisp deblur photos -r -o better --strength 0.7"""
_STEM = "-deblurred"
"""Added to the names of outputs."""


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
    from paramisp_cli.formats import WriteOptions

    if batch.output == Path("-"):
        fail_usage("-o -: deblur writes files; pass a file or a folder")
    if settings.exposure is not None or settings.look is not None or settings.look_from is not None:
        fail_usage("--exposure, --look and --look-from are for `paramisp render`, after the deblurring")
    raise typer.Exit(
        _run(
            inputs,
            batch,
            settings_of(settings),
            (strength, mask_saturated, deblur_weights),
            None if format_name is None else f".{format_name}",
            WriteOptions(quality=quality),
        )
    )


def _run(
    inputs: list[Path],
    batch: BatchOptions,
    settings: Settings,
    choices_of: tuple[float, bool, str | None],
    suffix: str | None,
    options: WriteOptions,
) -> int:
    """Run the batch and return the exit code."""
    from paramisp_cli import convert, formats, sources
    from paramisp_cli.apps import deblur as app
    from paramisp_cli.batch import apply, find, outputs
    from paramisp_cli.directions import Direction

    on_exists = find.OnExists(batch.on_exists)
    try:
        choices = app.Choices(*choices_of)
        app.network(choices)
        settings = replace(settings, like=sources.like_files(settings))  # before outputs appear in the folders
        convert.check(settings, Direction.UNPROCESS)
        found = find.search(inputs, (*formats.SRGB_SUFFIXES, *formats.RAW_SUFFIXES), recursive=batch.recursive)
        sources_of = find.without_outputs(inputs, found.inputs, _STEM)
        jobs = find.assign(
            inputs, sources_of, batch.output, lambda source: _ending(source, batch.output, suffix), Direction.RENDER,
            on_exists, settings.like_paths, command="deblur", written=(".dng", *formats.SRGB_WRITE_SUFFIXES),
            stem=_STEM,
        )  # fmt: skip
        jobs = find.shard(jobs, sources_of, batch.shard) if batch.shard else jobs
    except ParamispError as error:
        fail(error)
    single = not batch.shard and [job.source for job in jobs] == inputs[:1]
    if not batch.quiet and found.left_out:
        say(left_out(found.left_out))
    policy = outputs.Policy(on_exists, batch.overwrite_foreign, batch.dry_run)

    def outcomes(progress: Progress, check: Callable[[], None]) -> Iterator[Outcome]:
        def work(job: Job, share: Callable[[float], None]) -> tuple[Conversion, SrgbImage | RawImage | None]:
            from paramisp_cli import parameters

            image = parameters.read(job.source, settings)
            if batch.dry_run:
                return parameters.complete(image, settings), None
            made = app.deblur(image, settings, choices, share)
            return made.conversion, made.image

        started = starting(progress, check)
        return apply.apply(jobs, work, settings, options, policy, started=started, progress=progress.share)

    return Report(batch, single, len(jobs)).follow(outcomes, lambda: None)


def _ending(source: Path, output: Path | None, suffix: str | None) -> str:
    """Return the suffix of an input's output: .dng of a RAW file, that of a picture of a picture.

    Raises ParamispError, ConfigError among them for an output that does not fit.
    """
    from paramisp_cli import formats
    from paramisp_cli.types import RawImage

    is_raw = RawImage in formats.identify(source).holds
    allowed = (".dng",) if is_raw else formats.SRGB_WRITE_SUFFIXES
    own = source.suffix.lower()
    ending = ".dng" if is_raw else suffix or (own if own in allowed else ".jpg")
    file = output.suffix.lower() if output is not None and not output.is_dir() else ""
    if file and file not in allowed:
        kind = "a RAW file" if is_raw else "a picture"
        raise ConfigError(f"-o {output}: deblur makes {', '.join(allowed)} of {kind}")
    if file and suffix and not is_raw and formats.writer(suffix) is not formats.writer(file):
        raise ConfigError(f"-o {output} contradicts --format {suffix[1:]}")
    return ending
