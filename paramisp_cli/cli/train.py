"""``paramisp pairs``, ``simulate``, ``train`` and ``evaluate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from paramisp_cli.cli.console import fail, fail_usage, interruptible, or_fail, result, say
from paramisp_cli.cli.options import Command, complete_camera, complete_device, complete_recipe, complete_weights
from paramisp_cli.errors import FileAccessError, ParamispError

if TYPE_CHECKING:
    from paramisp_cli.training.data import Loaded
    from paramisp_cli.training.loop import Progress, Trainer
    from paramisp_cli.training.pairs import Pair

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line on stdout.")]
CameraName = Annotated[
    str | None,
    typer.Option(
        "--camera", autocompletion=complete_camera, help="Use only pairs of the camera whose name contains this."
    ),
]
LeaveOut = Annotated[list[str] | None, typer.Option("--leave-out", help="Leave out pairs whose name contains this.")]
HoldOut = Annotated[
    float | None,
    typer.Option(
        "--hold-out",
        help="Measure on this fraction (0.3) of each photograph, its right-hand side; see docs/evaluation.md.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", autocompletion=complete_device, help="auto, cpu, cuda, cuda:N or mps.")
]
DataSet = Annotated[
    Path,
    typer.Argument(
        metavar="DATASET", help="A folder made by `paramisp pairs` or `simulate`.", show_default=False, readable=False
    ),
]
DataSetOutput = Annotated[Path, typer.Option("--output", "-o", readable=False, help="Folder of the data set.")]

_EXAMPLES = {
    "pairs": "paramisp pairs photos -o pairs",
    "simulate": "paramisp simulate panoramas photos -o scenes --count 2000 --seed 1",
    "train": 'paramisp train pairs --camera "EOS 60D" --direction unprocess --leave-out IMG_0003 -o run',
    "evaluate": "paramisp evaluate pairs --test IMG_0003 --weights generic",
}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (pairs, simulate, train, evaluate):
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
    from paramisp_cli.training import pairs as work

    done = []
    try:
        with interruptible() as check:
            for pair in work.make(folders, output):
                done.append(pair)
                _tell(pair, json_lines)
                check()
    except ParamispError as error:
        fail(error)
    except KeyboardInterrupt:
        say(f"interrupted: {len(done)} looked at; run it again to go on")
        raise typer.Exit(130) from None
    good = sum(pair.status != "refused" for pair in done)
    say(f"{good} pairs, {len(done) - good} refused; look at {output / 'contact_sheet.jpg'}")
    raise typer.Exit(0 if good else 7)


def _tell(pair: Pair, json_lines: bool) -> None:
    """A pair's line on stdout; simulated shots have a name, and no file of their own, but a refused scene has one."""
    if json_lines:
        result(json.dumps(pair.record()))
    else:
        shown = pair.name if pair.is_simulated and pair.status != "refused" else pair.raw
        result(f"{pair.status:<8} {shown}: {pair.reason}")


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
        list[str] | None, typer.Option("--camera", help="Simulate this camera; may be repeated. Default: all known.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Random seed of the shots and the cameras' looks.")] = 0,
    json_lines: Json = False,
) -> None:
    """Make a training set of shots by simulated cameras. Their looks depend on the settings."""
    from paramisp_cli.training import simulate as work

    done = []
    try:
        plan = work.Plan(count, size, seed, work.pick_cameras(camera or ()))
        with interruptible() as check:
            for pair in work.make(scenes, output, plan):
                done.append(pair)
                _tell(pair, json_lines)
                check()
    except ParamispError as error:
        fail(error)
    except KeyboardInterrupt:
        say(f"interrupted: {len(done)} looked at; run it again to go on")
        raise typer.Exit(130) from None
    good = sum(pair.status != "refused" for pair in done)
    lost = f", {len(done) - good} scenes refused" if len(done) > good else ""
    say(f"{good} shots{lost}; look at {output / 'contact_sheet.jpg'}")
    raise typer.Exit(0 if good else 7)


def train(
    dataset: DataSet,
    direction: Annotated[
        Literal["unprocess", "render", "joint"], typer.Option("--direction", help="joint trains both together.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", readable=False, help="Folder of this training: checkpoint, log, weights.")
    ],
    camera: CameraName = None,
    recipe_name: Annotated[
        str, typer.Option("--recipe", autocompletion=complete_recipe, help="A recipe's name, or a TOML file.")
    ] = "camera-cpu",
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            autocompletion=complete_weights,
            help="Start from these weights: a name, a file or a folder; none: from random numbers.",
        ),
    ] = None,
    leave_out: LeaveOut = None,
    hold_out: HoldOut = None,
    device: Device = "auto",
) -> None:
    """Train weights; the same command resumes an interrupted training."""
    from dataclasses import replace

    from paramisp_cli import devices
    from paramisp_cli.training import config, data, loop, shading
    from paramisp_cli.training import evaluate as measure
    from paramisp_cli.types import Direction

    ways = tuple(Direction) if direction == "joint" else (Direction(direction),)
    try:
        recipe = config.load(recipe_name)
        if init is not None:
            recipe = replace(recipe, init="" if init == "none" else init)
        photographs = data.load(dataset, camera, leave_out or (), simulated=recipe.simulated > 0)
        loaded, held = photographs, []
        if hold_out is not None:
            invented = [item for item in photographs if item.pair.is_simulated]
            photographs = [item for item in photographs if not item.pair.is_simulated]
            parts = [data.split(item, "train", hold_out) for item in photographs]
            loaded = [item for item in parts if item.pair.regions] + invented
            held = [data.split(item, "test", hold_out) for item in measure.whole_pairs(photographs)]
            if not loaded:
                fail_usage(f"--hold-out {hold_out:g}: leaves no aligned part to train on")
        recipe, changed = loop.fitted(recipe, loaded)
        shaded = shading.measure(loaded) if recipe.lens_shading == "auto" and _one_camera(loaded) else None
        trainer = loop.Trainer(recipe, ways, devices.pick(device), output, shaded)
    except ParamispError as error:
        fail(error)
    taken = [item for item in loaded if not item.pair.is_simulated]
    seen = sorted(item.name for item in taken)
    names = sorted({item.pair.camera.name for item in taken or loaded if item.pair.camera})
    if len(taken) < len(loaded):
        seen.append(f"{len(loaded) - len(taken)} simulated ones")
    for words in changed:
        say(words)
    say(f"{len(loaded)} pairs of {', '.join(names) or 'unknown cameras'}; {recipe.name}, {recipe.steps} steps")
    if shaded is not None:
        corners = " ".join(f"{1 / (1 + sum(row)):.2f}" for row in shaded)
        say(f"lens shading: the corners of the RAW take gains of {corners} (R G B) to match the JPEG")

    def report(progress: Progress) -> None:
        if progress.step % 100 == 0 or progress.step == progress.steps:
            left = progress.seconds_left / 60
            say(f"step {progress.step}/{progress.steps}  loss {progress.loss:.5f}  {left:.0f} min left")

    def preview(trainer: Trainer) -> None:
        for way in ways:
            name = f"step{trainer.step:07d}.{way}.png" if len(ways) > 1 else f"step{trainer.step:07d}.png"
            loop.preview(trainer, way, loaded[0], output / name)

    sampler = data.Sampler(loaded, trainer.color_matrix_row_sum, shaded, recipe.simulated, recipe.random_balance)
    try:
        with interruptible() as check:
            trainer.run(sampler, report, preview, check)
    except KeyboardInterrupt:
        say(f"interrupted at step {trainer.step}; the same command goes on from there")
        raise typer.Exit(130) from None
    except ParamispError as error:
        fail(error)
    if leave_out:
        known = {item.pair.name for item in photographs}
        held += [item for item in measure.whole_pairs(data.load(dataset, camera)) if item.pair.name not in known]
    predictors = {way: measure.network(trainer.averaged(way), trainer.device) for way in ways}
    trips = []
    if len(ways) > 1:
        trip = measure.there_and_back(*(predictors[way] for way in Direction))
        trips = [measure.measure_trip(item, "this", trip) for item in held]
    for way, predict in predictors.items():
        scores = [measure.measure(item, way, "this", predict) for item in held]
        path = loop.keep(
            trainer,
            way,
            camera=names[0] if len(names) == 1 else "generic",
            photographs=seen,
            cameras=names,
            scores=[*scores, *trips],
        )
        for score in scores:
            say(f"{score.photo} (never seen), {way}: PSNR {score.psnr:.2f} dB, five crops {score.psnr_crops:.2f} dB")
        result(str(path))
    for score in trips:
        say(f"{score.photo} (never seen), there and back: PSNR {score.psnr:.2f} dB")


def _one_camera(loaded: Sequence[Loaded]) -> bool:
    return len({item.pair.camera for item in loaded}) == 1


def evaluate(
    dataset: DataSet,
    camera: CameraName = None,
    direction: Annotated[
        Literal["unprocess", "render"] | None, typer.Option("--direction", help="Default: both.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            metavar="NAME|FILE",
            autocompletion=complete_weights,
            help="Checkpoints to measure; auto: those that unprocess and render would pick.",
        ),
    ] = None,
    test: Annotated[list[str] | None, typer.Option("--test", help="Measure on pairs whose name contains this.")] = None,
    hold_out: HoldOut = None,
    shuffle_optics: Annotated[
        bool,
        typer.Option("--shuffle-optics", help="Give each photograph the EXIF of the next: what wrong EXIF costs."),
    ] = False,
    pictures: Annotated[Path | None, typer.Option("--pictures", help="Folder for error maps.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the tables to this file, too.")] = None,
    device: Device = "auto",
    json_lines: Json = False,
) -> None:
    """Measure weights beside baselines: parametric, LibRaw, a regression fitted on other photographs."""
    from paramisp_cli import devices
    from paramisp_cli.training import data, trials
    from paramisp_cli.training import evaluate as measure
    from paramisp_cli.types import Direction

    ways = tuple(Direction) if direction is None else (Direction(direction),)
    try:
        loaded = measure.whole_pairs(data.load(dataset, camera))
        if shuffle_optics:
            loaded = trials.with_others_optics(loaded)
        planned = trials.plan(loaded, test or (), hold_out)
        chosen = trials.Weights(weights or (), devices.pick(device))
    except ParamispError as error:
        fail(error)
    if not planned:
        fail_usage(f"{dataset}: no pair that is aligned as a whole: nothing to measure on")
    if markdown is not None:
        or_fail(partial(_write, markdown, ""))
    scores = []
    try:
        for score in trials.run(planned, ways, chosen, pictures, say):
            scores.append(score)
            if json_lines:
                result(json.dumps(score.record()))
    except ParamispError as error:
        fail(error)
    if not json_lines:
        for line in measure.tables(scores).rstrip().splitlines():
            result(line)
    if markdown is not None:
        or_fail(partial(_write, markdown, measure.tables(scores)))
    for camera_name in dict.fromkeys(trial.item.camera for trial in planned if trial.fitted_on_itself):
        say(
            f"note: {camera_name}: the baselines were fitted on the photographs they are measured on; leave some out "
            "with --test, or a part of each with --hold-out"
        )


def _write(path: Path, text: str) -> None:
    """A text file; raises FileAccessError."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise FileAccessError(f"{path}: cannot be written: {error.strerror or error}") from error
