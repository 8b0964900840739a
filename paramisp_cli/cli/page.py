"""``paramisp report``: one HTML page about a training, a data set or an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from paramisp_cli.cli.console import fail, result_path
from paramisp_cli.cli.options import Command
from paramisp_cli.errors import ParamispError

_EXAMPLES = """\
paramisp report run -o run.html           # a folder of `paramisp train`
paramisp report pairs -o pairs.html       # a data set
paramisp report scores.jsonl --pictures maps -o scores.html"""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(cls=Command, epilog=_EXAMPLES, rich_help_panel="Weights and training")(report)


def report(
    subject: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|DATASET|SCORES",
            help="Folder of a training or a data set, or scores by `evaluate --json`.",
            show_default=False,
            readable=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", readable=False, help="The page, .html.")],
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--pictures",
            metavar="FOLDER",
            readable=False,
            help="Error maps by `evaluate --pictures`. Default: the folder of the scores.",
        ),
    ] = None,
    on_exists: Annotated[
        Literal["error", "overwrite"], typer.Option("--on-exists", help="Treatment of a page that exists already.")
    ] = "error",
) -> None:
    """Write one HTML page about a training, a data set or an evaluation. It needs no network."""
    from paramisp_cli.pages import make

    overwrite = on_exists == "overwrite"
    try:
        make.check(output, overwrite=overwrite)
        make.write(output, make.document(subject, pictures), overwrite=overwrite)
    except ParamispError as error:
        fail(error)
    result_path(output)
