"""``paramisp weights``: list, info, verify, import and export checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from paramisp_cli.cli.console import hint, or_fail, result, say, worded
from paramisp_cli.cli.options import Command, Group, Json, complete_weights
from paramisp_cli.errors import ParamispError

app = typer.Typer(cls=Group, help="List, inspect, verify, import and export trained weights.", no_args_is_help=True)

Checkpoint = Annotated[
    str,
    typer.Argument(
        help="A name of `weights list`, or a file.",
        metavar="NAME|FILE",
        show_default=False,
        autocompletion=complete_weights,
    ),
]


def register(parent: typer.Typer) -> None:
    """Add the group of commands to the program."""
    parent.add_typer(app, name="weights", rich_help_panel="Weights and training")


@app.command("list", cls=Command, epilog="paramisp weights list")
def weights_list(json_lines: Json = False) -> None:
    """List every checkpoint that can be found, best place first."""
    from paramisp_cli import weights as store

    checkpoints = store.available()
    for checkpoint in checkpoints:
        header = checkpoint.header
        if json_lines:
            result(json.dumps({"file": str(checkpoint.path), "damaged": checkpoint.damaged} | dict(header)))
        elif checkpoint.damaged:
            result(f"{checkpoint.path}: damaged: {checkpoint.damaged}")
        else:
            result(f"{header['architecture']:<12} {header['direction']:<10} {header['camera']:<32} {checkpoint.path}")
    if not checkpoints and not json_lines:
        say("no weights found; `paramisp doctor` shows the search path. --model parametric needs none")


@app.command("info", cls=Command, epilog="paramisp weights info generic\nparamisp weights info my.safetensors --json")
def weights_info(checkpoint: Checkpoint, json_lines: Json = False) -> None:
    """Show a checkpoint's header. A name shows both directions."""
    from paramisp_cli import weights as store

    paths = or_fail(lambda: store.locate(checkpoint))
    for number, path in enumerate(paths):
        header = or_fail(lambda path=path: store.info(path))  # type: ignore[misc]
        if json_lines:
            result(json.dumps(header if len(paths) == 1 else {"file": str(path)} | header))
            continue
        if number:
            result("")
        if len(paths) > 1:
            result(f"{'file':<22} {path}")
        for key in sorted(
            header, key=lambda key: store.HEADER.index(key) if key in store.HEADER else len(store.HEADER)
        ):
            result(f"{key:<22} {header[key]}")


@app.command("verify", cls=Command, epilog="paramisp weights verify generic\nparamisp weights verify my.safetensors")
def weights_verify(
    checkpoints: Annotated[
        list[str],
        typer.Argument(metavar="NAME|FILE", show_default=False, autocompletion=complete_weights),
    ],
) -> None:
    """Load checkpoints strictly and run each on a small image."""
    from paramisp_cli import weights as store

    code = 0
    for name in checkpoints:
        try:
            for path in store.locate(name):
                header = store.verify(path)
                result(f"{path}: good ({header['architecture']}, {header['direction']}, {header['camera']})")
        except ParamispError as error:
            say(worded(error))
            code = error.exit_code
    raise typer.Exit(code)


@app.command("import", cls=Command, epilog='paramisp weights import D90.ckpt --camera "Nikon D90"')
def weights_import(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A published checkpoint (.ckpt, .pth, .pt).", show_default=False, readable=False
        ),
    ],
    camera: Annotated[str, typer.Option("--camera", help="The camera it was trained for.")],
    direction: Annotated[
        Literal["unprocess", "render"] | None, typer.Option("--direction", help="If the file does not state it.")
    ] = None,
    row_sum: Annotated[float | None, typer.Option("--row-sum", help="Sum of the colour matrix's rows: 1 or 3.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", readable=False, help="Folder of weights, or .safetensors file. Default: yours."),
    ] = None,
) -> None:
    """Convert a published checkpoint to safetensors. No code in the file is run."""
    from paramisp_cli import weights as store

    recognised = or_fail(lambda: store.recognise(file))
    paths = or_fail(
        lambda: store.import_checkpoint(file, output, camera=camera, direction=direction, color_matrix_row_sum=row_sum)
    )
    say(recognised)  # after the import: a failure has one line
    say(f"licence {or_fail(lambda: store.info(paths[0]))['licence']}")
    for path in paths:
        result(str(path))
    hint("paramisp", "weights", "verify", *paths)


@app.command("export", cls=Command, epilog="paramisp weights export generic --direction render -o render.onnx")
def weights_export(
    checkpoint: Checkpoint,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", readable=False, help="Folder, or .onnx file. Default: here.", show_default=False
        ),
    ] = Path(),
    direction: Annotated[
        Literal["unprocess", "render"] | None, typer.Option("--direction", help="One direction of a name.")
    ] = None,
) -> None:
    """Write a checkpoint of `fast` as an ONNX file, for phones, browsers and other programs."""
    from paramisp_cli import onnx_export

    for path in or_fail(lambda: onnx_export.export(checkpoint, output, direction)):
        result(str(path))
