"""``paramisp unprocess`` and ``paramisp render``: convert files and folders, and report each result."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from paramisp_cli.cli.arrays import grid_of
from paramisp_cli.cli.console import fail, fail_usage, hint, in_flags, interruptible, say, with_flags, worded
from paramisp_cli.cli.options import (
    OUTPUT,
    ArrayOptions,
    BatchOptions,
    Command,
    Inputs,
    SettingsOptions,
    grouped,
)
from paramisp_cli.cli.progress import Progress
from paramisp_cli.errors import ConfigError, ParamispError

if TYPE_CHECKING:
    from paramisp_cli.batch.run import Outcome
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.parameters import Settings
    from paramisp_cli.patches import Grid
    from paramisp_cli.types import Direction

_UNPROCESS_EXAMPLES = """\
paramisp unprocess photo.jpg              # writes photo.dng
paramisp unprocess photos -r -o raws --on-exists skip    # repeat to resume
paramisp unprocess photos -o set --format npy --layout packed --patch 512
paramisp unprocess photo.jpg --camera "Nikon D90" --dry-run -v"""
_RENDER_EXAMPLES = """\
paramisp render shot.dng                # writes shot.jpg
paramisp render shot.nef -o shot.tif    # 16 bits a channel
paramisp render shot.cr2 --stop-at restored    # writes shot.tif: linear light, 32-bit floats
paramisp render raws -r -o pictures --format png --bits 16"""


_LONG, _VERY_LONG = 3, 20
"""Seconds from which the expected time is announced, and from which a faster model is named."""


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command, examples in ((unprocess, _UNPROCESS_EXAMPLES), (render, _RENDER_EXAMPLES)):
        app.command(cls=Command, epilog=examples, rich_help_panel="Convert")(grouped(command))


def unprocess(
    inputs: Inputs,
    batch: BatchOptions,
    settings: SettingsOptions,
    arrays: ArrayOptions,
    profile: Annotated[
        Literal["match", "linear", "adobe"],
        typer.Option(rich_help_panel=OUTPUT, help="Look: the photo's, a straight line, or the reader's own."),
    ] = "match",
    compression: Annotated[
        Literal["lossless", "none"], typer.Option(rich_help_panel=OUTPUT, help="Compression of the mosaic.")
    ] = "lossless",
    linear: Annotated[
        bool,
        typer.Option(
            "--linear", rich_help_panel=OUTPUT, help="Write three colours a pixel (LinearRaw) instead of a mosaic."
        ),
    ] = False,
    embed_jpeg: Annotated[
        bool, typer.Option(rich_help_panel=OUTPUT, help="Put the JPEG itself into the DNG, byte for byte.")
    ] = True,
    verify: Annotated[
        bool, typer.Option("--verify", rich_help_panel=OUTPUT, help="Open every output again and compare it.")
    ] = False,
    gain_map: Annotated[
        Literal["auto", "off", "linear"],
        typer.Option(
            "--gain-map",
            rich_help_panel=OUTPUT,
            help="Highlights of a phone's gain map: use, ignore, or all its light.",
        ),
    ] = "auto",
    kept_raw: Annotated[
        bool | None,
        typer.Option("--kept-raw/--no-kept-raw", rich_help_panel=OUTPUT, help="Require or ignore the RAW in a JPEG."),
    ] = None,
) -> None:
    """Turn pictures (JPEG, PNG, TIFF, WebP, AVIF) into RAW files (DNG), or into arrays for training."""
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.types import Direction

    options = WriteOptions(
        compression=compression, profile=profile, embed_jpeg=embed_jpeg, layout=arrays.layout, verify=verify
    )
    suffix = f".{arrays.format_name}" if arrays.format_name else None
    own = batch.output.suffix.lower() if batch.output is not None and not batch.output.is_dir() else ""
    grid = grid_of(arrays, suffix or own or ".dng", batch, options, linear)
    try:
        chosen = replace(
            _settings(settings),
            kept_raw=kept_raw,
            gain_map=gain_map,
            linear=linear or arrays.layout == "rgb",
            levels=arrays.levels,
            bit_depth=32 if arrays.bits == 32 else 8,  # 8: whole numbers
        )
    except ConfigError as error:
        fail(error)
    _convert(Direction.UNPROCESS, inputs, suffix or ".dng", suffix, chosen, options, batch, grid)


def render(
    inputs: Inputs,
    batch: BatchOptions,
    settings: SettingsOptions,
    format_name: Annotated[
        Literal["jpg", "jpeg", "png", "tif", "tiff"] | None,
        typer.Option("--format", rich_help_panel=OUTPUT, help="Default: that of -o, else jpg."),
    ] = None,
    quality: Annotated[
        int, typer.Option("--quality", min=1, max=100, rich_help_panel=OUTPUT, help="JPEG quality.")
    ] = 95,
    bits: Annotated[
        int | None, typer.Option("--bits", rich_help_panel=OUTPUT, help="8 or 16 a channel. Default: TIFF 16, PNG 8.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", rich_help_panel=OUTPUT, help="Open every output again and compare it.")
    ] = False,
    keep_raw: Annotated[
        str | None,
        typer.Option(
            "--keep-raw",
            metavar="HOW",
            rich_help_panel=OUTPUT,
            help="Let the JPEG carry its RAW: lossless, near (below the noise), or a file size such as 2MB.",
        ),
    ] = None,
    stop_at: Annotated[
        Literal["restored"] | None,
        typer.Option(
            "--stop-at",
            rich_help_panel=OUTPUT,
            help="Write the linear picture of this stage, without a look: TIFF of 32-bit floats, linear sRGB.",
        ),
    ] = None,
) -> None:
    """Turn RAW files (DNG, NEF, CR2, CR3, ARW, …) into pictures (JPEG, PNG, TIFF)."""
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.types import Direction

    if bits not in (None, 8, 16):
        fail_usage(f"--bits takes 8 or 16, not {bits}")
    options = WriteOptions(quality=quality, bit_depth=bits, verify=verify, keep_raw=keep_raw)
    if keep_raw is not None:
        from paramisp_cli.formats import kept

        try:
            kept.check(keep_raw)
        except ConfigError as error:
            fail(error)
    suffix = f".{format_name}" if format_name else None
    if stop_at is not None:
        _check_linear(stop_at, format_name, batch.output, options)
        suffix = suffix or ".tif"
    _convert(Direction.RENDER, inputs, suffix or ".jpg", suffix, _settings(settings, stop_at), options, batch)


def _check_linear(stop_at: str, format_name: str | None, output: Path | None, options: WriteOptions) -> None:
    """End with a usage error for options that do not go with a linear picture."""
    from paramisp_cli import formats

    linear = f"--stop-at {stop_at} writes a TIFF of 32-bit floats"
    others = [suffix for suffix in formats.SRGB_WRITE_SUFFIXES if suffix not in formats.LINEAR_WRITE_SUFFIXES]
    if format_name is not None and f".{format_name}" in others:
        fail_usage(f"{linear}: leave out --format {format_name}, or pass --format tif")
    if output is not None and output.suffix.lower() in others and not output.is_dir():
        fail_usage(f"{linear}: -o {output} must end in .tif")
    if options.bit_depth is not None:
        fail_usage(f"{linear}: leave out --bits")
    if options.keep_raw is not None:
        fail_usage(f"{linear}: leave out --keep-raw, which is for a JPEG")


def _settings(options: SettingsOptions, stop_at: str | None = None) -> Settings:
    from paramisp_cli.parameters import Settings

    try:
        return Settings(**{f.name: getattr(options, f.name) for f in fields(options)}, stop_at=stop_at)
    except ConfigError as error:
        fail(error)


def _convert(
    direction: Direction, inputs: list[Path], ending: str, suffix: str | None, settings: Settings,
    options: WriteOptions, batch: BatchOptions, grid: Grid | None = None,
) -> None:  # fmt: skip
    """Run a batch, report it and end with the exit code. ``suffix`` comes from --format, ``ending`` is its default."""
    from paramisp_cli import convert, formats, sources
    from paramisp_cli.batch import find

    if batch.output == Path("-"):
        _to_stdout(direction, inputs, ending, suffix, settings, options, batch)
    rendering = direction == "render"
    suffixes = (*formats.RAW_SUFFIXES, *formats.ARRAY_SUFFIXES) if rendering else formats.SRGB_SUFFIXES
    on_exists = find.OnExists(batch.on_exists)
    try:
        settings = replace(settings, like=sources.like_files(settings))  # before outputs appear in the folders
        convert.check(settings, direction)
        protected = [*settings.like_paths, *([settings.look_from] if settings.look_from else [])]
        selection = find.search(inputs, suffixes, recursive=batch.recursive, array_tiffs=rendering)
        jobs = find.assign(
            inputs, selection.inputs, batch.output, suffix, direction, on_exists, protected, in_patches=grid is not None
        )
        jobs = find.shard(jobs, selection.inputs, batch.shard) if batch.shard else jobs
    except ParamispError as error:
        fail(error)
    if options.bit_depth == 16 and any(job.target and job.target.suffix.lower() in (".jpg", ".jpeg") for job in jobs):
        fail_usage("--bits 16: a JPEG has 8 bits; pass --format png or tif")
    if settings.look_from is not None and len(jobs) > 1:
        fail_usage("--look-from is the JPEG of one shot; render the files one by one")
    if options.keep_raw and any(job.target and job.target.suffix.lower() not in (".jpg", ".jpeg") for job in jobs):
        fail_usage("--keep-raw: only a JPEG carries its RAW; leave out --format, or pass --format jpg")
    single = not batch.shard and [job.source for job in jobs] == inputs[:1]  # False for a folder with one file
    outputs = {job.target for job in jobs}
    records = {formats.beside(job.source) for job in jobs}  # beside arrays that are rendered
    if not batch.quiet and (others := [path for path in selection.left_out if path not in outputs | records]):
        say(left_out(others))
    report = _Report(batch, single, len(jobs), grid)
    raise typer.Exit(report.run(jobs, direction, settings, options))


def _to_stdout(
    direction: Direction, inputs: list[Path], ending: str, suffix: str | None, settings: Settings,
    options: WriteOptions, batch: BatchOptions,
) -> None:  # fmt: skip
    """Convert one file, write the result to stdout and end with the exit code."""
    if len(inputs) != 1 or inputs[0].is_dir():
        fail_usage("-o -: stdout holds the result of a single file; pass -o FOLDER for several")
    if batch.json_lines or batch.dry_run:
        fail_usage("-o -: stdout carries the file; leave out --json and --dry-run")
    if sys.stdout is None or sys.stdout.isatty():
        fail_usage("-o -: stdout is a terminal; send it to a file or another program")
    with tempfile.TemporaryDirectory(prefix="paramisp-") as folder:
        target = Path(folder, f"result{ending}")
        try:
            with open(os.devnull, "w") as nowhere:  # noqa: PTH123 – os.devnull is no Path
                stdout, sys.stdout = sys.stdout, nowhere  # hide the temporary path
                try:
                    _convert(direction, inputs, ending, suffix, settings, options, replace(batch, output=target))
                finally:
                    sys.stdout = stdout
        except typer.Exit as end:
            if end.exit_code == 0:
                with target.open("rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            raise


def _suffix_of(path: Path) -> str:
    """Return the suffix that tells the kind of a file: that of an array for a TIFF of RAW samples."""
    from paramisp_cli import formats

    suffix = path.suffix.lower()
    return formats.ARRAY_SUFFIXES[0] if suffix in (".tif", ".tiff") and formats.is_array(path) else suffix


def left_out(files: Sequence[Path]) -> str:
    """Return one line with the number of files, by kind, that the search left out of folders."""
    from paramisp_cli import formats

    kinds: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for suffix, count in Counter(_suffix_of(path) for path in files).items():
        if suffix in formats.KNOWN_UNREADABLE:
            kinds[f"{formats.KNOWN_UNREADABLE[suffix]} (cannot be read)"] += count
        elif suffix in (*formats.RAW_SUFFIXES, *formats.ARRAY_SUFFIXES):
            kinds["RAW (`paramisp render` converts them)"] += count
        elif suffix in formats.SRGB_SUFFIXES:
            kinds["pictures (`paramisp unprocess` converts them)"] += count
        else:
            others[suffix or "no suffix"] += count
    shown = [f"{count} {kind}" for kind, count in sorted(kinds.items())]
    if others:
        names = sorted(others)
        shown.append(f"{others.total()} other ({', '.join(names[:6])}{', …' if len(names) > 6 else ''})")
    return f"left out {len(files)} {'file' if len(files) == 1 else 'files'}: {', '.join(shown)}"


@dataclass(slots=True)
class _Report:
    """Report of a batch: paths or JSON on stdout, messages on stderr, each notice once for all its files."""

    batch: BatchOptions
    single: bool
    total: int
    grid: Grid | None = None
    notices: dict[str, list[tuple[Path, str]]] = field(default_factory=dict)
    """Summary of a notice → its files, with its full text for each."""

    def run(self, jobs: Any, direction: Direction, settings: Settings, options: WriteOptions) -> int:
        """Run the jobs and return the exit code."""
        from paramisp_cli.batch import outputs, run
        from paramisp_cli.batch.find import OnExists

        batch, tally = self.batch, run.Tally()
        policy = outputs.Policy(OnExists(batch.on_exists), batch.overwrite_foreign, batch.dry_run)
        with Progress(self.total, quiet=batch.quiet) as progress:
            try:
                with interruptible() as check:
                    announce = self._announcer(settings, progress)
                    for outcome in run.run(
                        jobs,
                        direction,
                        settings,
                        options,
                        policy,
                        grid=self.grid,
                        started=progress.started,
                        progress=progress.share,
                        prepared=announce,
                    ):
                        tally.add(outcome)
                        progress.finished()
                        self._show(outcome, progress, "" if self.single else f"[{tally.count}/{self.total}] ")
                        if outcome.status == "failed" and batch.fail_fast:
                            break
                        check()
            except KeyboardInterrupt:
                progress.stop()
                say(f"interrupted: {tally.done} done, {self.total - tally.count} left; resume with --on-exists skip")
                return 130
        self._show_notices()
        if tally.done and not batch.quiet and not batch.json_lines:
            self._hint(direction, jobs)
        if not self.single and not batch.quiet:
            verb = "planned" if batch.dry_run else "done"
            untried = f", {self.total - tally.count} not tried" if tally.count < self.total else ""
            say(f"{tally.done} {verb}, {tally.skipped} skipped, {len(tally.failures)} failed{untried}")
            if tally.failures:
                say("failed: " + ", ".join(str(failure.job.source) for failure in tally.failures))
        return tally.exit_code(self.single)

    def _show(self, outcome: Outcome, progress: Progress, count: str) -> None:
        """Report one file."""
        name, batch = outcome.job.source, self.batch
        if batch.json_lines:
            progress.result(json.dumps(in_flags(outcome.record()), allow_nan=False))
        elif outcome.status in ("done", "planned"):
            for path in [each["file"] for each in outcome.files] or [outcome.target]:
                progress.result_path(path)
        if outcome.status == "failed":
            progress.say(worded(outcome.error))
            return
        if batch.quiet:
            return
        for notice in outcome.all_notices:
            if self.single or batch.verbose:
                progress.say(f"{name}: {with_flags(notice)}")
            else:
                self.notices.setdefault(with_flags(getattr(notice, "summary", notice)), []).append(
                    (name, with_flags(notice))
                )
        if outcome.conversion is not None and batch.verbose:
            for key, value in outcome.conversion.describe().items():
                if key not in ("origin", "notices", "made_by"):
                    source = outcome.conversion.origin.get({"wb_gains": "wb"}.get(key, key))
                    progress.say(f"  {key}: {value}" + (f"  [{source}]" if source else ""))
        if outcome.status == "skipped" and not count:
            progress.say(f"{outcome.target}: exists already, skipped")
        if progress.bar is None and count:
            progress.say(f"{count}{name}: {outcome.status} ({outcome.seconds:.1f} s)")

    def _announcer(self, settings: Settings, progress: Progress) -> Callable[[Any, Any, Any], None]:
        """Return a function that tells, on a terminal, the model of a single file and the time that it may take."""

        def announce(job: Any, conversion: Any, image: Any) -> None:
            if not self.single or progress.bar is None:
                return
            from paramisp_cli import convert

            seconds = convert.expected_seconds(conversion, settings, image.size)
            if seconds < _LONG:
                return
            chosen = f"{conversion.architecture} ({conversion.checkpoint.name.split('.')[0]})"
            megapixels = image.size[0] * image.size[1] / 1e6
            faster = "fast" if conversion.architecture != "fast" and conversion.stop_at is None else "parametric"
            hint = f"; --model {faster} takes less" if seconds > _VERY_LONG else ""
            progress.say(f"{job.source.name}: {chosen}, {megapixels:.1f} megapixels, about {seconds:.0f} s{hint}")

        return announce

    def _hint(self, direction: Direction, jobs: Any) -> None:
        """Suggest the next command for the first file."""
        target = next((job.target for job in jobs if job.target is not None and job.target.exists()), None)
        if self.batch.dry_run or target is None:
            return
        if direction == "unprocess":
            hint("paramisp", "render", target, "-o", target.with_name(f"{target.stem}-again.jpg"))
        elif target.suffix.lower() in (".jpg", ".jpeg"):
            hint("paramisp", "render", jobs[0].source, "-o", target.with_suffix(".tif"))  # 16 bits a channel

    def _show_notices(self) -> None:
        """Print each notice of a batch once, with the number of its files."""
        for summary, files in self.notices.items():
            if len(files) == 1:
                say(f"{files[0][0]}: {files[0][1]}")
            else:
                say(f"{len(files)} files: {summary}")
