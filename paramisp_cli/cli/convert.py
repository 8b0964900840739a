"""``paramisp unprocess`` and ``paramisp render``: convert files and folders, and report each result."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from paramisp_cli.cli.arrays import grid_of
from paramisp_cli.cli.console import fail, fail_usage, say
from paramisp_cli.cli.options import (
    OUTPUT,
    ArrayOptions,
    BatchOptions,
    Command,
    Inputs,
    RayOptions,
    SettingsOptions,
    grouped,
)
from paramisp_cli.cli.report import REPLACES, Report, left_out
from paramisp_cli.errors import ConfigError, ParamispError

if TYPE_CHECKING:
    from paramisp_cli.directions import Direction
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.parameters import Settings
    from paramisp_cli.patches import Grid

ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--report",
        rich_help_panel=OUTPUT,
        metavar="FILE",
        readable=False,
        help="Write an HTML page about the batch: pictures before and after, parameters, notices, failures.",
    ),
]

NO_RAY = RayOptions()

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


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command, examples in ((unprocess, _UNPROCESS_EXAMPLES), (render, _RENDER_EXAMPLES)):
        app.command(cls=Command, epilog=examples, rich_help_panel="Convert")(grouped(command))


def unprocess(
    inputs: Inputs,
    batch: BatchOptions,
    settings: SettingsOptions,
    arrays: ArrayOptions,
    ray: RayOptions,
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
    report: ReportFile = None,
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
    confidence: Annotated[
        str | None,
        typer.Option(
            "--confidence",
            metavar="KIND|FILE",
            rich_help_panel=OUTPUT,
            help="Write a map of expected errors, too: FILE (.png, .tif), or png or tif beside each output.",
        ),
    ] = None,
) -> None:
    """Turn pictures (JPEG, PNG, TIFF, WebP, AVIF, HEIC) into RAW files (DNG), or into arrays for training."""
    from paramisp_cli.directions import Direction
    from paramisp_cli.formats import WriteOptions

    options = WriteOptions(
        compression=compression, profile=profile, embed_jpeg=embed_jpeg, layout=arrays.layout, verify=verify
    )
    suffix = f".{arrays.format_name}" if arrays.format_name else None
    own = batch.output.suffix.lower() if batch.output is not None and not batch.output.is_dir() else ""
    ending = suffix or own or ".dng"
    grid = grid_of(arrays, ending, batch, options, linear)
    floats = arrays.bits == 32 or ending == ".exr"
    options = replace(options, half=ending == ".exr" and arrays.bits == 16)
    if confidence is not None:
        _check_confidence(confidence, batch, grid)
    try:
        chosen = replace(
            settings_of(settings),
            kept_raw=kept_raw,
            gain_map=gain_map,
            linear=linear or arrays.layout == "rgb",
            confidence=confidence is not None,
            levels=arrays.levels,
            bit_depth=32 if floats else 8,  # 8: whole numbers
        )
    except ConfigError as error:
        fail(error)
    convert_files(
        Direction.UNPROCESS, inputs, suffix or ".dng", suffix, chosen, options, batch, grid, report=report,
        confidence=confidence, ray=ray,
    )  # fmt: skip


def _check_confidence(confidence: str, batch: BatchOptions, grid: Grid | None) -> None:
    """End with an error for a confidence map that cannot be written, before any file is read."""
    from paramisp_cli import formats

    if grid is not None:
        fail_usage("--confidence: a map is of the whole picture; leave out --patch")
    if f".{confidence.lower()}" in formats.CONFIDENCE_SUFFIXES:
        if batch.output == Path("-"):
            fail_usage(f"--confidence {confidence}: lies beside the output, and -o - has none; name a file")
        return
    if Path(confidence).is_dir():
        fail_usage(f"--confidence {confidence}: is a folder; pass png or tif for a map beside each output, or a file")
    if Path(confidence).suffix.lower() not in formats.CONFIDENCE_SUFFIXES:
        fail_usage(f"--confidence {confidence}: takes png or tif, or a file that ends in .png or .tif")


def render(
    inputs: Inputs,
    batch: BatchOptions,
    settings: SettingsOptions,
    ray: RayOptions,
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
    report: ReportFile = None,
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
    from paramisp_cli.directions import Direction
    from paramisp_cli.formats import WriteOptions

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
    chosen = settings_of(settings, stop_at)
    convert_files(Direction.RENDER, inputs, suffix or ".jpg", suffix, chosen, options, batch, report=report, ray=ray)


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


def settings_of(options: SettingsOptions, stop_at: str | None = None) -> Settings:
    """Return the settings that the options state; end with a usage error for a wrong one."""
    from paramisp_cli.parameters import Settings

    try:
        return Settings(**{f.name: getattr(options, f.name) for f in fields(options)}, stop_at=stop_at)
    except ConfigError as error:
        fail(error)


def convert_files(
    direction: Direction, inputs: list[Path], ending: str, suffix: str | None, settings: Settings,
    options: WriteOptions, batch: BatchOptions, grid: Grid | None = None, *, stem: str = "", report: Path | None = None,
    confidence: str | None = None, ray: RayOptions = NO_RAY,
) -> None:  # fmt: skip
    """Run a batch, report it and end with the exit code. ``suffix`` comes from --format, ``ending`` is its default.

    ``stem`` follows the names of outputs. ``report`` takes an HTML page about the batch, ``confidence`` is the kind or
    file of confidence maps. ``ray`` names a cluster.
    """
    from paramisp_cli import convert, formats, sources
    from paramisp_cli.batch import find

    if report is not None:
        _check_report(report, batch)
    _check_ray(ray, batch, settings)
    if batch.output == Path("-"):
        _to_stdout(direction, inputs, ending, suffix, settings, options, batch, confidence)
    takes_pictures = direction == "unprocess" or (direction == "transfer" and ending != ".dng")
    rendering = direction == "render"
    suffixes = formats.SRGB_SUFFIXES if takes_pictures else formats.RAW_SUFFIXES
    suffixes = (*suffixes, *formats.ARRAY_SUFFIXES) if rendering else suffixes
    on_exists = find.OnExists(batch.on_exists)
    try:
        settings = replace(settings, like=sources.like_files(settings))  # before outputs appear in the folders
        convert.check(settings if ray.ray is None else replace(settings, device="auto"), direction)
        protected = [*settings.like_paths, *([settings.look_from] if settings.look_from else [])]
        protected += [settings.to] if settings.to is not None and Path(settings.to).is_file() else []
        selection = find.search(inputs, suffixes, recursive=batch.recursive, array_tiffs=rendering)
        jobs = find.assign(
            inputs, selection.inputs, batch.output, suffix, direction, on_exists, protected,
            stem=stem, in_patches=grid is not None,
        )  # fmt: skip
        if confidence is not None:
            jobs = find.with_confidence(jobs, confidence, on_exists, protected)
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
    shown = Report(batch, single, len(jobs), grid, report)
    if ray.ray is None:
        raise typer.Exit(shown.run(jobs, direction, settings, options))
    from paramisp_cli.batch import cluster

    gpus = settings.device in ("auto", "cuda")
    # Connect before Report heeds signals: Ray replaces their handlers.
    with cluster.connected(ray.ray, ray.cpus(2), gpus=gpus, verbose=batch.verbose) as connected:
        raise typer.Exit(shown.run(jobs, direction, settings, options, connected))


def _check_ray(ray: RayOptions, batch: BatchOptions, settings: Settings) -> None:
    """End with an error for a cluster that cannot be used, before the files are searched."""
    if ray.ray is None:
        if ray.ray_cpus is not None:
            fail_usage("--ray-cpus: is for workers of --ray; pass --ray, or leave it out")
        return
    from paramisp_cli.batch import cluster

    if batch.output == Path("-"):
        fail_usage("-o -: stdout holds the result of a single file; leave out --ray")
    if settings.device not in ("auto", "cpu", "cuda"):
        fail_usage(f"--device {settings.device}: Ray gives each worker its GPU; pass auto, cuda or cpu with --ray")
    try:
        cluster.check(ray.ray, ray.cpus(2))
    except ParamispError as error:
        fail(error)


def _check_report(report: Path, batch: BatchOptions) -> None:
    """End with an error for a page about the batch that cannot be written, before the work starts."""
    from paramisp_cli.pages import make

    for flag, value in (("--dry-run", batch.dry_run), ("-o -", batch.output == Path("-"))):
        if value:
            fail_usage(f"--report: tells of files that a batch writes; leave out {flag}")
    try:
        make.check(report, overwrite=batch.on_exists in REPLACES)
    except ParamispError as error:
        fail(error)


def _to_stdout(
    direction: Direction, inputs: list[Path], ending: str, suffix: str | None, settings: Settings,
    options: WriteOptions, batch: BatchOptions, confidence: str | None,
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
                    convert_files(
                        direction, inputs, ending, suffix, settings, options, replace(batch, output=target),
                        confidence=confidence,
                    )  # fmt: skip
                finally:
                    sys.stdout = stdout
        except typer.Exit as end:
            if end.exit_code == 0:
                with target.open("rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            raise
