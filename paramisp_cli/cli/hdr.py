"""``paramisp hdr``: HDR results of single photographs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from paramisp_cli.cli.console import fail, fail_usage, hint, say
from paramisp_cli.cli.convert import settings_of
from paramisp_cli.cli.options import OUTPUT, BatchOptions, Command, Inputs, SettingsOptions, grouped
from paramisp_cli.cli.report import LONG, Report, left_out, starting
from paramisp_cli.errors import ConfigError, ParamispError

if TYPE_CHECKING:
    from paramisp_cli.apps.hdr import Options, Plan
    from paramisp_cli.batch.find import Job
    from paramisp_cli.batch.outcome import Outcome
    from paramisp_cli.cli.progress import Progress
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.parameters import Conversion, Settings
    from paramisp_cli.types import HdrImage, LinearImage, SrgbImage

_EXAMPLES = """\
paramisp hdr photo.jpg                    # writes photo-hdr.jpg: fused exposures
paramisp hdr shot.dng -o shot.exr         # linear light, with the RAW's true highlights
paramisp hdr shot.nef --ultra-hdr         # writes shot-hdr.jpg: Ultra HDR
paramisp hdr photo.jpg --ev -2,0,2 --keep-exposures exposures"""
_STEM = "-hdr"
"""Added to the names of outputs."""
_LINEAR_ONLY = (".exr", ".hdr")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(cls=Command, epilog=_EXAMPLES, rich_help_panel="Applications")(grouped(hdr))


def numbers(text: str) -> tuple[float, ...]:
    """Parse "0.4,1.4,2.7"."""
    try:
        return tuple(float(number) for number in text.replace(",", " ").split())
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 0.4,1.4,2.7,4") from error


def hdr(
    inputs: Inputs,
    batch: BatchOptions,
    settings: SettingsOptions,
    gains: Annotated[
        Any,
        typer.Option(
            "--gains", parser=numbers, metavar="LIST", help="Factors of the RAW's light. Default: 0.1,0.4,1.4,2.7,4."
        ),
    ] = None,
    ev: Annotated[
        Any, typer.Option("--ev", parser=numbers, metavar="LIST", help="Exposures in EV, instead of --gains.")
    ] = None,
    fusion: Annotated[
        Any,
        typer.Option(
            "--fusion",
            parser=numbers,
            metavar="C,S,E",
            help="Exponents of contrast, saturation and exposure. Default: 1,1,1; OpenCV's: 1,1,0.",
        ),
    ] = None,
    keep_exposures: Annotated[
        Path | None,
        typer.Option("--keep-exposures", readable=False, metavar="DIR", help="Write each exposure there, too."),
    ] = None,
    linear: Annotated[
        bool,
        typer.Option(
            "--linear", rich_help_panel=OUTPUT, help="Write linear light, 32-bit floats: .exr, .hdr, or .tif (default)."
        ),
    ] = False,
    ultra_hdr: Annotated[
        bool,
        typer.Option(
            "--ultra-hdr", rich_help_panel=OUTPUT, help="Write a JPEG with a gain map around the photo's own JPEG."
        ),
    ] = False,
    format_name: Annotated[
        Literal["jpg", "jpeg", "png", "tif", "tiff", "exr", "hdr"] | None,
        typer.Option("--format", rich_help_panel=OUTPUT, help="Default: that of -o, else jpg."),
    ] = None,
    quality: Annotated[
        int, typer.Option("--quality", min=1, max=100, rich_help_panel=OUTPUT, help="JPEG quality.")
    ] = 95,
    bits: Annotated[
        int | None, typer.Option("--bits", rich_help_panel=OUTPUT, help="8 or 16 a channel. Default: TIFF 16, PNG 8.")
    ] = None,
    gain_map: Annotated[
        Literal["auto", "off", "linear"],
        typer.Option(
            "--gain-map",
            rich_help_panel=OUTPUT,
            help="Highlights of a phone's gain map: use, ignore, or all its light.",
        ),
    ] = "auto",
    verify: Annotated[
        bool, typer.Option("--verify", rich_help_panel=OUTPUT, help="Open every output again and compare it.")
    ] = False,
) -> None:
    """Make HDR results of single photographs: darker and brighter exposures are computed and fused.

    Shadows and compressed highlights open up. A JPEG gives no new highlights: a blown place stays blown, at
    every exposure. A RAW file, or a phone's gain map, has highlights of its own.
    """
    from paramisp_cli.formats import WriteOptions

    suffix = None if format_name is None else f".{format_name}"
    options = _options(gains, ev, fusion, linear, ultra_hdr, suffix, batch.output)
    if bits not in (None, 8, 16):
        fail_usage(f"--bits {bits}: PNG and TIFF have 8 or 16 bits a channel")
    if options.kind != "fused":
        for flag, value in (("--bits", bits), ("--keep-exposures", keep_exposures)):
            if value is not None:
                fail_usage(f"{flag}: is for fused exposures; leave out {_flag_of(options.kind)}")
    write_options = WriteOptions(quality=quality, bit_depth=bits, verify=verify)
    chosen = replace(settings_of(settings), gain_map=gain_map)
    if batch.output == Path("-"):
        fail_usage("-o -: hdr writes to files; pass -o FILE")
    raise typer.Exit(_run(inputs, batch, chosen, options, suffix, write_options, keep_exposures))


def _flag_of(kind: str) -> str:
    return "--linear, .exr and .hdr" if kind == "linear" else "--ultra-hdr"


def _options(
    gains: Any, ev: Any, fusion: Any, linear: bool, ultra_hdr: bool, suffix: str | None, output: Path | None
) -> Options:
    """Return the options; end with a usage error for those that do not go together."""
    from paramisp_cli.apps import hdr as app
    from paramisp_cli.apps.fusion import EXPONENTS

    ending = suffix or (output.suffix.lower() if output is not None and not output.is_dir() else "")
    linear = linear or ending in _LINEAR_ONLY
    if linear and ultra_hdr:
        fail_usage("--ultra-hdr writes a JPEG: leave out --linear, .exr and .hdr")
    if linear and ending in (".jpg", ".jpeg", ".png"):
        fail_usage(f"--linear writes 32-bit floats: {ending} cannot hold them; write .exr, .hdr or .tif")
    if ultra_hdr and ending not in ("", ".jpg", ".jpeg"):
        fail_usage(f"--ultra-hdr writes a JPEG, not {ending}")
    kind = "linear" if linear else "ultra-hdr" if ultra_hdr else "fused"
    if kind != "fused":
        for flag, value in (("--gains", gains), ("--ev", ev), ("--fusion", fusion)):
            if value is not None:
                fail_usage(f"{flag}: is for fused exposures; leave out {_flag_of(kind)}")
    if gains is not None and ev is not None:
        fail_usage("--gains and --ev name the same exposures: pass one of them")
    try:
        if ev is not None:
            if any(not abs(value) <= 10 for value in ev):
                raise ConfigError(f"--ev takes values from -10 to 10, got {','.join(f'{value:g}' for value in ev)}")
            gains = tuple(2.0**value for value in ev)
        return app.Options(kind, app.GAINS if gains is None else gains, EXPONENTS if fusion is None else fusion)
    except ConfigError as error:
        fail(error)


def _run(
    inputs: list[Path],
    batch: BatchOptions,
    settings: Settings,
    options: Options,
    suffix: str | None,
    write_options: WriteOptions,
    keep_exposures: Path | None,
) -> int:
    """Run the batch and return the exit code."""
    from paramisp_cli import convert, formats, sources
    from paramisp_cli.batch import apply, find, outputs
    from paramisp_cli.directions import Direction
    from paramisp_cli.formats import exr

    linear = options.kind == "linear"
    written = formats.LINEAR_WRITE_SUFFIXES if linear else formats.SRGB_WRITE_SUFFIXES
    if options.kind == "ultra-hdr":
        written = (".jpg", ".jpeg")
    own = batch.output.suffix.lower() if batch.output is not None and not batch.output.is_dir() else None
    ending = suffix or (own if own in written else None) or (".tif" if linear else ".jpg")
    on_exists = find.OnExists(batch.on_exists)
    try:
        if ending == ".exr":
            exr.check()
        settings = replace(settings, like=sources.like_files(settings))  # before outputs appear in the folders
        direction = Direction.RENDER if settings.look_from is not None else Direction.UNPROCESS
        convert.check(replace(settings, weights=None), direction)  # each file tells which directions it needs
        protected = [*settings.like_paths, *([settings.look_from] if settings.look_from else [])]
        found = find.search(inputs, (*formats.SRGB_SUFFIXES, *formats.RAW_SUFFIXES), recursive=batch.recursive)
        sources_of = find.without_outputs(inputs, found.inputs, _STEM)
        jobs = find.assign(
            inputs, sources_of, batch.output, ending, Direction.RENDER, on_exists, protected,
            command="hdr", written=written, stem=_STEM,
        )  # fmt: skip
        jobs = find.shard(jobs, sources_of, batch.shard) if batch.shard else jobs
        if keep_exposures is not None:
            _make_folder(keep_exposures)
    except ParamispError as error:
        fail(error)
    if write_options.bit_depth == 16 and ending in (".jpg", ".jpeg"):
        fail_usage("--bits 16: a JPEG has 8 bits; pass --format png or tif")
    if settings.look_from is not None and len(jobs) > 1:
        fail_usage("--look-from is the JPEG of one shot; convert the files one by one")
    if not linear and (write_options.bit_depth == 16 or ending in (".tif", ".tiff")):
        settings = replace(settings, bit_depth=write_options.bit_depth or 16)
    single = not batch.shard and [job.source for job in jobs] == inputs[:1]
    if not batch.quiet and found.left_out:
        say(left_out(found.left_out))
    report = Report(batch, single, len(jobs))
    policy = outputs.Policy(on_exists, batch.overwrite_foreign, batch.dry_run)

    def outcomes(progress: Progress, check: Callable[[], None]) -> Iterator[Outcome]:
        def work(
            job: Job, share: Callable[[float], None]
        ) -> tuple[Conversion, SrgbImage | LinearImage | HdrImage | None]:
            from paramisp_cli import parameters
            from paramisp_cli.apps import hdr as app

            planned = app.plan(parameters.read(job.source, settings), settings, options)
            if batch.dry_run:
                return planned.conversion, None
            if single and progress.bar is not None:
                _announce(job, planned, progress)
            keep = _keeper(keep_exposures, job, write_options, policy) if keep_exposures is not None else None
            return planned.conversion, app.run(planned, share, keep)

        started = starting(progress, check)
        return apply.apply(jobs, work, settings, write_options, policy, started=started, progress=progress.share)

    def suggest() -> None:
        if options.kind == "fused" and jobs[0].target is not None and not batch.dry_run:
            hint("paramisp", "hdr", jobs[0].source, "-o", jobs[0].target.with_suffix(".tif"), "--linear")

    return report.follow(outcomes, suggest)


def _announce(job: Job, planned: Plan, progress: Progress) -> None:
    """Tell the time that a network may take, if it is long."""
    seconds = planned.expected_seconds()
    if seconds >= LONG:
        megapixels = math.prod(planned.image.size) / 1e6
        hinted = "" if planned.conversion.architecture == "fast" else "; --model fast or parametric takes less"
        progress.say(
            f"{job.source.name}: {planned.conversion.architecture}, {planned.runs} runs, {megapixels:.1f} megapixels, "
            f"about {seconds:.0f} s{hinted}"
        )


def _keeper(folder: Path, job: Job, options: WriteOptions, policy: Any) -> Callable[[float, SrgbImage], None]:
    """Return the function that writes each exposure of a file: NAME-ev-3.3.jpg."""
    from paramisp_cli import formats
    from paramisp_cli.batch import outputs
    from paramisp_cli.batch.find import OnExists

    assert job.target is not None
    stem, suffix = job.target.stem.removesuffix(_STEM), job.target.suffix

    def keep(gain: float, picture: SrgbImage) -> None:
        target = folder / f"{stem}-ev{math.log2(gain):+.1f}{suffix}"
        if target.exists() and outputs.skips(target, policy):
            return
        formats.write(picture, target, options, overwrite=policy.on_exists == OnExists.OVERWRITE)

    return keep


def _make_folder(folder: Path) -> None:
    """Create the folder of the exposures; FileAccessError if that fails."""
    from paramisp_cli.errors import FileAccessError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileAccessError.of(error, folder, "make the folder") from error
