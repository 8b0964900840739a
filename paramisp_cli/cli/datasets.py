"""``paramisp pairs`` and ``simulate``: data sets for ``paramisp train``."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paramisp_cli.cli.console import fail, fail_usage, interruptible, or_fail, result, say
from paramisp_cli.cli.options import Command
from paramisp_cli.errors import ParamispError

if TYPE_CHECKING:
    from paramisp_cli.training.dataset import Pair

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line on stdout.")]
DataSetOutput = Annotated[Path, typer.Option("--output", "-o", readable=False, help="Folder of the data set.")]

_EXAMPLES = {
    "pairs": "paramisp pairs photos -o pairs",
    "simulate": "paramisp simulate panoramas photos -o scenes --count 2000 --seed 1",
}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (pairs, simulate):
        app.command(cls=Command, epilog=_EXAMPLES[command.__name__], rich_help_panel="Weights and training")(command)


def pairs(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER", help="Folders of RAW files, or RAW files.", show_default=False, readable=False
        ),
    ],
    output: DataSetOutput,
    json_lines: Json = False,
) -> None:
    """Make a training set of RAW files and their camera JPEGs. Each pair is aligned."""
    from paramisp_cli.training.pairing.pairs import make

    good, refused = _printed(make(folders, output), json_lines)
    say(f"{good} pairs, {refused} refused; look at {output / 'contact_sheet.jpg'}")
    raise typer.Exit(0 if good else 7)


def _printed(made: Generator[Pair, None, None], json_lines: bool) -> tuple[int, int]:
    """Print each new pair, end at an error or an interrupt → number of usable and of refused pairs."""
    counts = {True: 0, False: 0}
    try:
        with interruptible() as check, closing(made):  # closed: the data set is complete and free
            for pair in made:
                counts[pair.status != "refused"] += 1
                # A simulated shot has no file of its own; a refused scene has one.
                shown = pair.name if pair.is_simulated and pair.status != "refused" else pair.raw
                result(json.dumps(pair.record()) if json_lines else f"{pair.status:<8} {shown}: {pair.reason}")
                check()
    except ParamispError as error:
        fail(error)
    except KeyboardInterrupt:
        say(f"interrupted after {sum(counts.values())} results; run it again to continue")
        raise typer.Exit(130) from None
    return counts[True], counts[False]


def simulate(
    scenes: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCENE",
            help="Panoramas (.hdr), RAW files, or folders of them.",
            show_default=False,
            readable=False,
        ),
    ],
    output: DataSetOutput,
    count: Annotated[int, typer.Option("--count", help="How many shots.")] = 200,
    size: Annotated[int, typer.Option("--size", help="Width and height of a shot in pixels.")] = 512,
    camera: Annotated[
        list[str] | None,
        typer.Option("--camera", metavar="NAME", help="Simulate this camera; may be repeated. Default: all known."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Random seed of the shots and the cameras' looks.")] = 0,
    light: Annotated[
        bool,
        typer.Option("--with-light", help="Store the light without noise, too, which `cameranet` learns to restore."),
    ] = False,
    spectral: Annotated[
        bool,
        typer.Option("--spectral", help="RAW colours of two cameras (--camera A --camera B) on the same spectra."),
    ] = False,
    exposures: Annotated[
        bool,
        typer.Option(
            "--with-exposures",
            help="Store a darker or brighter exposure of each shot, too, for recipes with `exposures`.",
        ),
    ] = False,
    json_lines: Json = False,
) -> None:
    """Make a training set of shots by simulated cameras. Their looks depend on the settings."""
    if spectral:
        _simulate_spectral(scenes, output, camera or [], count, size, seed, json_lines)
        return
    from paramisp_cli.training.simulated import shots

    series = or_fail(lambda: shots.Series(count, size, seed, shots.pick_cameras(camera or ()), light, exposures))
    good, refused = _printed(shots.make(scenes, output, series), json_lines)
    scenes_refused = f", {refused} scenes refused" if refused else ""
    say(f"{good} shots{scenes_refused}; look at {output / 'contact_sheet.jpg'}")
    raise typer.Exit(0 if good else 7)


def _simulate_spectral(
    scenes: list[Path], output: Path, names: list[str], count: int, size: int, seed: int, json_lines: bool
) -> None:
    """Make pairs of two cameras' RAW colours, print them, and end with the exit code."""
    from dataclasses import asdict

    from paramisp_cli.training.simulated import spectral

    if len(names) != 2:
        fail_usage(f"--spectral takes two cameras, --camera A --camera B, not {len(names)}")
    done = 0
    try:
        series = spectral.Series(names[0], names[1], count, size, seed)
        with interruptible() as check, closing(spectral.make(scenes, output, series)) as made:
            for shot in made:
                done += 1
                result(json.dumps(asdict(shot)) if json_lines else f"{shot.kind:<11} {shot.name}: {shot.light}")
                check()
    except ParamispError as error:
        fail(error)
    except KeyboardInterrupt:
        say(f"interrupted after {done} shots; run it again")
        raise typer.Exit(130) from None
    say(f"{done} shots by {series.a} and {series.b}")
