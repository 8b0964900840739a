"""The command line: parse, call, print, exit code. No maths, and nothing heavy imported until a command runs."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from paramisp_cli import __version__, cli_training, cli_weights
from paramisp_cli.console import fail, fail_usage, interruptible, one_of, result, say, terminal
from paramisp_cli.errors import ConfigError, FileAccessError, ParamispError

if TYPE_CHECKING:
    from paramisp_cli.batch import Outcome
    from paramisp_cli.pipeline import Settings
    from paramisp_cli.types import Direction

app = typer.Typer(
    name="paramisp",
    help="Turn a JPEG back into the RAW its camera must have seen, and render RAW files as that camera would.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_weights.app, name="weights")
cli_training.register(app)


def _seconds(text: str) -> float:
    """ "1/125" or "0.008"."""
    try:
        above, slash, below = text.partition("/")
        return float(above) / float(below if slash else 1)
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"{text!r} is not a time in seconds such as 1/125 or 0.5") from error


def _gains(text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not three gains R,G,B such as 2.1,1,1.5") from error
    return red, green, blue


def _bytes(text: str) -> int:
    """ "4GB", "4G", "512MB" or plain bytes."""
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    power = {"K": 1, "M": 2, "G": 3, "T": 4}.get(number[-1:], 0)
    try:
        value = float(number[:-1] if power else number) * 1000**power
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not an amount of memory such as 4GB") from error
    if not 0 < value < 1e18:
        raise typer.BadParameter(f"{text!r} is not a sensible amount of memory")
    return int(value)


def _part(text: str) -> tuple[int, int]:
    """ "2/8": worker 2 of 8."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(f"{text!r} is not I/N with I from 1 to N, such as 2/8")
    return int(number), int(count)


Inputs = Annotated[list[Path], typer.Argument(help="Files or folders.", show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Output file, or folder (made if needed). Default: beside the input."),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders of folders; -o keeps the tree.")]
OnExistsOption = Annotated[str, typer.Option("--on-exists", help="error, skip, overwrite or rename.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first file that fails.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Shard = Annotated[
    Any, typer.Option("--shard", parser=_part, metavar="I/N", help="Do worker I's share of N (I from 1), by name.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say every value used and where it came from.")]
CameraOption = Annotated[str | None, typer.Option("--camera", help="MAKE/MODEL, or a name of `paramisp cameras`.")]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="A checkpoint (.safetensors, or a published .ckpt).")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="parametric, paramisp. Default: the best there is.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, fp32, bf16, fp16 (the last two lose precision).")]
MaxMemory = Annotated[
    int | None, typer.Option("--max-memory", parser=_bytes, metavar="SIZE", help="Such as 4GB. Default: what is free.")
]
Scratch = Annotated[
    Path | None, typer.Option("--scratch", metavar="DIR", help="Where a file may keep what memory has no room for.")
]
Iso = Annotated[float | None, typer.Option("--iso", help="ISO speed, instead of EXIF's.")]
ExposureTime = Annotated[
    float | None, typer.Option("--exposure-time", parser=_seconds, metavar="SECONDS", help="Such as 1/125.")
]
FNumber = Annotated[float | None, typer.Option("--f-number", help="Such as 2.8.")]
FocalLength = Annotated[float | None, typer.Option("--focal-length", help="In mm, not 35-mm equivalent.")]
WhiteBalance = Annotated[
    Any, typer.Option("--wb", parser=_gains, metavar="R,G,B", help="White-balance gains, such as 2.1,1,1.5.")
]
Like = Annotated[Path | None, typer.Option("--like", help="A RAW of the same camera, for what the file does not tell.")]
Cfa = Annotated[str | None, typer.Option("--cfa", help="RGGB, GRBG, GBRG or BGGR.")]
Exposure = Annotated[float | None, typer.Option("--exposure", help="Digital gain in EV.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False) -> None:
    if version:
        print(f"paramisp {__version__}")
        raise typer.Exit


@app.command()
def unprocess(
    inputs: Inputs,
    output: Output = None,
    recursive: Recursive = False,
    on_exists: OnExistsOption = "error",
    fail_fast: FailFast = False,
    dry_run: DryRun = False,
    shard: Shard = None,
    json_lines: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    camera: CameraOption = None,
    weights: WeightsOption = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    max_memory: MaxMemory = None,
    scratch: Scratch = None,
    iso: Iso = None,
    exposure_time: ExposureTime = None,
    f_number: FNumber = None,
    focal_length: FocalLength = None,
    wb: WhiteBalance = None,
    like: Like = None,
    cfa: Cfa = None,
    exposure: Exposure = None,
    profile: Annotated[str, typer.Option("--profile", help="Look: match (the photo's), linear, adobe.")] = "match",
    compression: Annotated[str, typer.Option("--compression", help="DNG mosaic: lossless or none.")] = "lossless",
    embed_jpeg: Annotated[bool, typer.Option(help="Keep the JPEG itself inside the DNG.")] = True,
) -> None:
    """Turn pictures (JPEG, PNG, TIFF) into RAW files (DNG)."""
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.pipeline import Settings
    from paramisp_cli.types import Direction

    one_of("--profile", profile, ("match", "linear", "adobe"))
    one_of("--compression", compression, ("lossless", "none"))
    options = WriteOptions(compression=compression, profile=profile, embed_jpeg=embed_jpeg)
    try:
        settings = Settings(
            model, weights, device, dtype, max_memory, scratch, camera, iso, exposure_time, f_number, focal_length, wb,
            like, cfa, exposure,
        )  # fmt: skip
    except ConfigError as error:
        fail(error)
    how = _How(recursive, on_exists, fail_fast, dry_run, shard, json_lines, quiet, verbose)
    _batch(Direction.UNPROCESS, inputs, output, None, settings, options, how)


@app.command()
def render(
    inputs: Inputs,
    output: Output = None,
    recursive: Recursive = False,
    on_exists: OnExistsOption = "error",
    fail_fast: FailFast = False,
    dry_run: DryRun = False,
    shard: Shard = None,
    json_lines: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    camera: CameraOption = None,
    weights: WeightsOption = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    max_memory: MaxMemory = None,
    scratch: Scratch = None,
    iso: Iso = None,
    exposure_time: ExposureTime = None,
    f_number: FNumber = None,
    focal_length: FocalLength = None,
    wb: WhiteBalance = None,
    like: Like = None,
    cfa: Cfa = None,
    exposure: Exposure = None,
    format_name: Annotated[str | None, typer.Option("--format", help="jpg, png or tif. Default: jpg.")] = None,
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="JPEG quality.")] = 95,
    bits: Annotated[
        int | None, typer.Option("--bits", help="8 or 16 for PNG and TIFF. Default: TIFF 16, PNG 8.")
    ] = None,
) -> None:
    """Render RAW files (DNG, NEF, CR2, CR3, ARW, …) into pictures (JPEG, PNG, TIFF)."""
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.pipeline import Settings
    from paramisp_cli.types import Direction

    if format_name is not None:
        one_of("--format", format_name, ("jpg", "jpeg", "png", "tif", "tiff"))
    if bits not in (None, 8, 16):
        fail_usage(f"--bits takes 8 or 16, not {bits}")
    options = WriteOptions(quality=quality, bit_depth=bits)
    try:
        settings = Settings(
            model, weights, device, dtype, max_memory, scratch, camera, iso, exposure_time, f_number, focal_length, wb,
            like, cfa, exposure,
        )  # fmt: skip
    except ConfigError as error:
        fail(error)
    how = _How(recursive, on_exists, fail_fast, dry_run, shard, json_lines, quiet, verbose)
    _batch(Direction.RENDER, inputs, output, f".{format_name}" if format_name else None, settings, options, how)


class _How:
    """How a batch is run and talked about."""

    def __init__(
        self,
        recursive: bool,
        on_exists: str,
        fail_fast: bool,
        dry_run: bool,
        shard: tuple[int, int] | None,
        json_lines: bool,
        quiet: bool,
        verbose: bool,
    ) -> None:
        from paramisp_cli.batch import OnExists

        one_of("--on-exists", on_exists, [str(choice) for choice in OnExists])
        self.recursive, self.on_exists, self.fail_fast = recursive, OnExists(on_exists), fail_fast
        self.dry_run, self.shard = dry_run, shard
        self.json_lines, self.quiet, self.verbose = json_lines, quiet, verbose


def _batch(
    direction: Direction, inputs: list[Path], output: Path | None, suffix: str | None, settings: Settings, options: Any,
    how: _How,
) -> None:  # fmt: skip
    """Run a batch and report it; ends with the exit code."""
    from paramisp_cli import batch, formats, pipeline
    from paramisp_cli.types import Direction

    suffixes = formats.SRGB_SUFFIXES if direction == Direction.UNPROCESS else formats.RAW_SUFFIXES
    try:
        pipeline.check(settings, direction)
        found = batch.find(inputs, suffixes, how.recursive)
        jobs = batch.assign(inputs, found, output, suffix, direction, how.on_exists)
        jobs = batch.shard(jobs, found, how.shard) if how.shard else jobs
    except ParamispError as error:
        fail(error)
    if options.bit_depth == 16 and any(job.target and job.target.suffix.lower() in (".jpg", ".jpeg") for job in jobs):
        fail_usage("--bits 16: a JPEG has 8 bits; pass --format png or tif")
    single = not how.shard and [job.source for job in jobs] == inputs[:1]  # not if it is a folder with files in it
    tally, said = batch.Tally(), set[str]()
    with _Progress(len(jobs), how) as progress:
        try:
            with interruptible() as check:
                for outcome in batch.run(
                    jobs, direction, settings, options, how.on_exists, dry_run=how.dry_run, started=progress.started
                ):
                    tally.add(outcome)
                    progress.finished()
                    _report(outcome, how, said, progress, "" if single else f"[{tally.count}/{len(jobs)}] ")
                    if outcome.status == "failed" and how.fail_fast:
                        break
                    check()
        except KeyboardInterrupt:
            progress.stop()
            say(f"interrupted: {tally.done} done, {len(jobs) - tally.count} left; go on with --on-exists skip")
            raise typer.Exit(130) from None
    if not single and not how.quiet:
        verb = "planned" if how.dry_run else "done"
        left = f", {len(jobs) - tally.count} not tried" if tally.count < len(jobs) else ""
        say(f"{tally.done} {verb}, {tally.skipped} skipped, {len(tally.failures)} failed{left}")
        if tally.failures:
            say("failed: " + ", ".join(str(failure.job.source) for failure in tally.failures))
    raise typer.Exit(tally.exit_code(single))


class _Progress:
    """A bar with name and time left if stderr is a terminal, else nothing; lines can be said around it."""

    def __init__(self, total: int, how: _How) -> None:
        self.bar: Any = None
        if total > 1 and not how.quiet and sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                console=terminal(), transient=True, redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> _Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.bar:
            self.bar.stop()

    def started(self, job: Any) -> None:
        if self.bar:
            self.bar.update(self.task, description=job.source.name)

    def finished(self) -> None:
        if self.bar:
            self.bar.advance(self.task)

    def result(self, text: str) -> None:
        """A line for stdout: where that is the terminal with the bar on it, above the bar."""
        if self.bar and sys.stdout.isatty():
            self.say(text)
        else:
            result(text)

    def say(self, text: str) -> None:
        """A line for people, above the bar if there is one."""
        if self.bar:
            self.bar.console.print(text, markup=False)
        else:
            say(text)


def _report(outcome: Outcome, how: _How, said: set[str], progress: _Progress, count: str) -> None:
    """One file's result: path or JSON on stdout, words on stderr, every notice once a batch."""
    name = outcome.job.source
    if how.json_lines:
        progress.result(json.dumps(outcome.record(), allow_nan=False))
    elif outcome.status in ("done", "planned"):
        progress.result(str(outcome.target))
    if outcome.status == "failed":
        progress.say(f"paramisp: {outcome.error}")
        return
    if how.quiet:
        return
    for notice in outcome.notices or (outcome.plan.notices if outcome.plan else ()):
        if notice not in said:
            said.add(notice)
            progress.say(f"{name}: {notice}")
    if outcome.plan is not None and how.verbose:
        for key, value in outcome.plan.describe().items():
            if key not in ("origin", "notices"):
                source = outcome.plan.origin.get({"wb_gains": "wb"}.get(key, key))
                progress.say(f"  {key}: {value}" + (f"  [{source}]" if source else ""))
    if outcome.status == "skipped" and not count:
        progress.say(f"{outcome.target}: exists already, skipped")
    if progress.bar is None and not sys.stderr.isatty() and count:
        progress.say(f"{count}{name}: {outcome.status} ({outcome.seconds:.1f} s)")


@app.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(help="JPEG, PNG, TIFF or RAW files.", show_default=False)],
    json_lines: Json = False,
    camera: CameraOption = None,
    weights: WeightsOption = None,
    model: ModelOption = None,
    like: Like = None,
) -> None:
    """Show what would be used for a file: camera, checkpoint, parameters, each with its source."""
    from paramisp_cli import formats, pipeline
    from paramisp_cli.types import RawImage

    code = 0
    for path in files:
        try:
            settings = pipeline.Settings(model=model, weights=weights, camera=camera, like=like)
            image = formats.read(path)
            plan = pipeline.plan(image, settings)
        except ParamispError as error:
            say(f"paramisp: {error}" if str(error).startswith(f"{path}: ") else f"paramisp: {path}: {error}")
            code = error.exit_code if len(files) == 1 else 1
            continue
        height, width = image.size
        kind = "RAW" if isinstance(image, RawImage) else "picture"
        if json_lines:
            record = {
                "file": str(path),
                "kind": kind,
                "width": width,
                "height": height,
                "orientation": image.orientation,
            }
            result(json.dumps(record | plan.describe(), allow_nan=False))
            continue
        rows = [("kind", f"{kind}, {width} × {height}, orientation {image.orientation}", "")]
        for key, value in plan.describe().items():
            if key in ("origin", "notices"):
                continue
            source = plan.origin.get({"wb_gains": "wb"}.get(key, key), "")
            rows.append((key, _shown(key, value), source))
        result(str(path))
        for key, text, source in rows:
            result(f"  {key:<15} {text:<42} {source}".rstrip())
        for notice in plan.notices:
            say(f"{path}: {notice}")
    raise typer.Exit(code)


def _shown(key: str, value: Any) -> str:
    """A value as a photographer writes it."""
    if value is None:
        return "none needed" if key == "weights" else "unknown"
    if key == "exposure_time":
        return f"1/{1 / value:.0f} s" if value < 0.4 else f"{value:g} s"
    if key == "color_matrix":
        return "  ".join(" ".join(f"{v:.4f}" for v in row) for row in value)
    if isinstance(value, list):
        return " ".join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@app.command()
def cameras(
    pattern: Annotated[str, typer.Argument(help="Only names that contain this.", show_default=False)] = "",
    json_lines: Json = False,
) -> None:
    """List the cameras whose colours are known."""
    from paramisp_cli import cameras as table

    shown = [facts for facts in table.all_cameras() if pattern.lower() in facts.name.lower()]
    for facts in shown:
        black, white = facts.levels(None)
        if json_lines:
            record = {
                "name": facts.name, "make": facts.exif_make, "model": facts.exif_model, "aliases": list(facts.aliases),
                "cfa": facts.cfa, "black_level": black, "white_level": white,
                "color_matrix": facts.color_matrix is not None, "noise": facts.noise_profile(100) is not None,
            }  # fmt: skip
            result(json.dumps(record))
        else:
            result(f"{facts.name:<40} {facts.cfa or '?':<5} black {black:g}, white {white:g}")
    if not shown:
        fail(ConfigError(f"no camera's name contains {pattern!r}"))


@app.command()
def doctor() -> None:
    """Show versions, devices and the weights found: what a bug report should hold."""
    import platform
    from importlib import metadata

    result(f"paramisp {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in ("torch", "numpy", "rawpy", "pillow", "tifffile", "safetensors", "typer", "rich"):
        result(f"  {package} {metadata.version(package)}")
    from paramisp_cli import cameras as table
    from paramisp_cli import tiling
    from paramisp_cli import weights as store

    for line in tiling.devices():
        result(line)
    result(f"cameras in the table: {len(table.all_cameras())}")
    result("weights are looked for in:")
    for how, folder in store.places():
        result(f"  {folder} ({how}){'' if folder.exists() else ': not there'}")
    found = store.available()
    damaged = sum(checkpoint.damaged is not None for checkpoint in found)
    result(f"weights found: {len(found)}" + (f", {damaged} damaged (see `paramisp weights list`)" if damaged else ""))


def main() -> NoReturn:
    """The console script: every way out has its exit code, and no user sees a traceback for a mistake of theirs."""
    # Torch's threads spin while they wait, which on cores that others use too costs many times the work itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.getLogger().addHandler(logging.NullHandler())  # libraries' remarks on odd files: what matters, we say
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name that is not UTF-8 comes out as it went in
    try:
        code = app(prog_name="paramisp", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        say("paramisp: interrupted")
        code = 130
    except ParamispError as error:
        say(f"paramisp: {error}")
        code = error.exit_code
    except OSError as error:  # of files we speak ourselves: this is stdout, of which Typer writes the help
        say(f"paramisp: {error.filename or 'stdout'}: {error.strerror or error}")
        code = FileAccessError.exit_code
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's own: a wrong option or value
            code = _said_usage(error)
        elif os.environ.get("PARAMISP_DEBUG"):
            raise
        else:
            say(f"paramisp: internal error: {type(error).__name__}: {error} (set PARAMISP_DEBUG=1 and report it)")
            code = 3
    sys.exit(code if isinstance(code, int) else 0)


def _said_usage(error: Any) -> int:
    """Say a wrong option in one line, or the help if there was nothing else on the command line → exit code."""
    context = error.ctx
    command = context.command_path if context else "paramisp"
    if context and not sys.argv[len(command.split()) :]:
        say(context.get_help())
    else:
        text = " ".join(error.format_message().split()).rstrip(".")
        say(f"{command}: {text[:1].lower()}{text[1:]}; see `{command} -h`")
    return 2
