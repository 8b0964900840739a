"""The program: its commands, its entry point and its exit codes."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer

from paramisp_cli import __version__
from paramisp_cli.cli import (
    blur_dataset,
    convert,
    datasets,
    deblur,
    hdr,
    look,
    page,
    show,
    synth,
    train,
    transfer,
    weights,
)
from paramisp_cli.cli.console import open_streams, say, worded
from paramisp_cli.cli.options import Group
from paramisp_cli.errors import FileAccessError, ParamispError

app = typer.Typer(
    name="paramisp",
    cls=Group,
    help="Estimate the RAW file (DNG) behind a JPEG, and render RAW files into pictures.",
    epilog="paramisp unprocess photo.jpg\nparamisp render shot.dng\nparamisp unprocess photos -r -o raws",
    # Help uses the terminal up to this width; longer lines are hard to read.
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
convert.register(app)
transfer.register(app)
deblur.register(app)
blur_dataset.register(app)
hdr.register(app)
look.register(app)
show.register(app)
weights.register(app)
datasets.register(app)
train.register(app)
page.register(app)
synth.register(app)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", "-V", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"paramisp {__version__}")
        raise typer.Exit


@functools.cache
def command() -> typer.core.TyperGroup:
    """Return the commands as Typer makes them of their functions; that takes 30 ms, so a process does it once."""
    made = typer.main.get_command(app)
    assert isinstance(made, typer.core.TyperGroup)
    return made


def main() -> NoReturn:
    """Run the command line: every outcome has an exit code, and a user's mistake never shows a traceback."""
    open_streams()
    try:
        os.getcwd()  # noqa: PTH109 – libraries call it, and some end the process where it fails
    except OSError:
        say("paramisp: the working directory no longer exists; change to another folder")
        sys.exit(FileAccessError.exit_code)
    # Torch's threads spin while they wait; on shared cores, spinning costs many times the work itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # NumPy's matrices are small here, and pictures go in bands to threads of our own: more threads below them only
    # wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.getLogger().addHandler(logging.NullHandler())  # hide libraries' log lines: notices have the relevant facts
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        code = command()(prog_name="paramisp", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        say("paramisp: interrupted")
        code = 130
    except ParamispError as error:
        say(worded(error))
        code = error.exit_code
    except OSError as error:  # formats turn errors about files into FileAccessError; Typer writes help to stdout itself
        say(f"paramisp: {error.filename or 'stdout'}: {error.strerror or error}")
        code = FileAccessError.exit_code
    except Exception as error:
        if hasattr(error, "format_message"):  # an error of Typer: a wrong option or value
            code = _usage_error(error)
        elif os.environ.get("PARAMISP_DEBUG"):
            raise
        else:
            say(f"paramisp: internal error: {type(error).__name__}: {error} (set PARAMISP_DEBUG=1 and report it)")
            code = 3
    sys.exit(code if isinstance(code, int) else 0)


def _usage_error(error: Any) -> int:
    """Print a wrong option in one line, or the help if the command line was empty; return the exit code."""
    context = error.ctx
    command = context.command_path if context else "paramisp"
    if context and not sys.argv[len(command.split()) :]:
        for line in context.get_help().splitlines():
            say(line)
    else:
        text = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
        say(f"{command}: {text[:1].lower()}{text[1:]}; see `{command} -h`")
    return 2
