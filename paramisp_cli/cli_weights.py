"""``paramisp weights``: list, info, verify and import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from paramisp_cli.console import one_of, or_fail, result, say
from paramisp_cli.errors import ParamispError

app = typer.Typer(help="List, inspect, import and verify trained weights.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]


@app.command("list")
def weights_list(json_lines: Json = False) -> None:
    """List every checkpoint that can be found, best place first."""
    from paramisp_cli import weights as store

    found = store.available()
    for checkpoint in found:
        header = checkpoint.header
        if json_lines:
            result(json.dumps({"file": str(checkpoint.path), "damaged": checkpoint.damaged} | dict(header)))
        elif checkpoint.damaged:
            result(f"{checkpoint.path}: damaged: {checkpoint.damaged}")
        else:
            result(f"{header['architecture']:<12} {header['direction']:<10} {header['camera']:<32} {checkpoint.path}")
    if not found and not json_lines:
        say("no weights found; `paramisp doctor` tells where they are looked for. --model parametric needs none")


@app.command("info")
def weights_info(file: Annotated[Path, typer.Argument(show_default=False)], json_lines: Json = False) -> None:
    """Show what a checkpoint says of itself: architecture, camera, training, metrics, licence."""
    from paramisp_cli import weights as store

    header = or_fail(lambda: store.info(file))
    if json_lines:
        result(json.dumps(header))
        return
    for key, value in header.items():
        result(f"{key:<22} {value}")


@app.command("verify")
def weights_verify(files: Annotated[list[Path], typer.Argument(show_default=False)]) -> None:
    """Load checkpoints strictly and run each once on a small image."""
    from paramisp_cli import weights as store

    code = 0
    for file in files:
        try:
            header = store.verify(file)
            result(f"{file}: good ({header['architecture']}, {header['direction']}, {header['camera']})")
        except ParamispError as error:
            say(f"paramisp: {error}")
            code = error.exit_code
    raise typer.Exit(code)


@app.command("import")
def weights_import(
    file: Annotated[Path, typer.Argument(help="A published ParamISP checkpoint (.ckpt).", show_default=False)],
    camera: Annotated[str, typer.Option("--camera", help="The camera it was trained for.")],
    direction: Annotated[str | None, typer.Option("--direction", help="If it does not say.")] = None,
    row_sum: Annotated[float | None, typer.Option("--row-sum", help="Sum of the colour matrix's rows: 1 or 3.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder. Default: your own.")] = None,
) -> None:
    """Turn a published checkpoint into safetensors; nothing in the file is run."""
    from paramisp_cli import weights as store

    if direction is not None:
        one_of("--direction", direction, ("unprocess", "render"))
    for path in or_fail(
        lambda: store.import_checkpoint(file, output, camera=camera, direction=direction, color_matrix_row_sum=row_sum)
    ):
        result(str(path))
