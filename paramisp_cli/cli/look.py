"""``paramisp look export``: the global effect of a look, as a file for other programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from paramisp_cli.cli.console import fail, fail_usage, result, result_path, say, with_flags
from paramisp_cli.cli.options import Command, Device, Group, Json
from paramisp_cli.errors import FileAccessError, FormatError, OutputExistsError, ParamispError

if TYPE_CHECKING:
    from paramisp_cli.apps.looks import Error, Look

app = typer.Typer(cls=Group, help="Export looks for other programs.", no_args_is_help=True)

_EXAMPLES = """\
paramisp look export shot.dng -o camera.cube           # the look of its JPEG, for darktable
paramisp look export raws -o camera.png                # a HaldCLUT, for RawTherapee
paramisp look export raws -o camera.dcp                # a camera profile, for RawTherapee and Adobe
paramisp look export raws -o camera.dtstyle            # a style for darktable, and its camera.cube
paramisp look export canon-eos-60d -o eos60d.cube      # the look of weights"""


def register(parent: typer.Typer) -> None:
    """Add the group of commands to the program."""
    parent.add_typer(app, name="look", rich_help_panel="Applications")


@app.command("export", cls=Command, epilog=_EXAMPLES)
def look_export(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RAW|WEIGHTS", help="RAW files, folders of them, and a name of weights.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            readable=False,
            help="A .cube, .png (HaldCLUT), .dcp (camera profile), .dtstyle or .xmp (darktable).",
        ),
    ],
    size: Annotated[
        int | None, typer.Option("--size", metavar="N", help="Steps of each channel. Default: 33, .png 64.")
    ] = None,
    on_exists: Annotated[
        Literal["error", "overwrite"], typer.Option("--on-exists", help="Treatment of an output that exists already.")
    ] = "error",
    device: Device = "auto",
    json_lines: Json = False,
) -> None:
    """Write the global effect of a look, with its error on colours held out of the fit. Local changes are lost."""
    from paramisp_cli.apps import looks
    from paramisp_cli.parameters import Settings

    suffix = output.suffix.lower()
    if suffix not in looks.SUFFIXES:
        fail_usage(f"-o {output}: a look is written as {', '.join(looks.SUFFIXES)}")
    try:
        size = looks.checked_size(size, suffix)
        for each in looks.outputs(output):
            if os.path.lexists(each) and on_exists == "error":
                raise OutputExistsError(f"{each}: exists already; pass --on-exists overwrite, or another -o")
        if not os.path.isdir(output.parent):  # noqa: PTH112 – Path.is_dir raises for names too long
            raise FileAccessError(f"{output}: cannot write it: there is no folder {output.parent}")
        paths, name = _sorted(sources)
        gathered = looks.gather(paths, Settings(weights=name, device=device))
        measured = looks.export(gathered, output, size, overwrite=on_exists == "overwrite")
    except ParamispError as error:
        fail(error)
    _report(output, gathered, measured, json_lines=json_lines)


def _sorted(sources: list[str]) -> tuple[list[Path], str | None]:
    """Return the RAW files, and the name or file of weights, if there is one."""
    from paramisp_cli import formats
    from paramisp_cli.batch import find

    def is_raw(word: str) -> bool:
        return Path(word).suffix.lower() in formats.RAW_SUFFIXES or os.path.isdir(word)  # noqa: PTH112 – any word

    names = [word for word in sources if not is_raw(word)]
    for word in names:
        if Path(word).suffix.lower() in formats.SRGB_SUFFIXES:
            raise FormatError(f"{word}: is a picture; pass a RAW file, or a name of weights")
    if len(names) > 1:
        fail_usage(f"{names[0]} and {names[1]}: only RAW files can be several; pass one name of weights")
    words = [word for word in sources if is_raw(word)]
    if not words:
        return [], names[0]
    found = find.search(words, formats.RAW_SUFFIXES, recursive=False).inputs
    for each in found:
        if each.error is not None:
            raise each.error
    return [each.source for each in found], names[0] if names else None


def _report(output: Path, gathered: Look, error: Error, *, json_lines: bool) -> None:
    """Print the paths, and the error of the export."""
    from paramisp_cli.apps import looks

    *tables, _ = looks.outputs(output)
    if json_lines:
        record = {
            "output": str(output), **({"table": str(tables[0])} if tables else {}),
            "source": gathered.source, "held_out": gathered.held_out,
            "delta_e_2000": {"median": error.median, "percentile_95": error.most, "neutral": error.neutral},
            "notices": [with_flags(notice) for notice in gathered.notices],
        }  # fmt: skip
        result(json.dumps(record))
        return
    for notice in gathered.notices:
        say(with_flags(notice))
    say(
        f"{gathered.source}; held out: {gathered.held_out}: ΔE2000 median {error.median:.2f}, 95 % below "
        f"{error.most:.2f} (without the look {error.neutral:.2f}); local changes are lost"
    )
    for table in tables:
        say(f"copy {table.name} into darktable's folder of 3D LUTs (preferences, processing); {output.name} names it")
    for each in (*tables, output):
        result_path(each)
