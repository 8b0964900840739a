"""``paramisp fit``, ``train`` and ``evaluate``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from paramisp_cli.cli.console import fail, fail_usage, hint, interruptible, or_fail, result, say
from paramisp_cli.cli.options import Command, complete_camera, complete_device, complete_recipe, complete_weights
from paramisp_cli.errors import FileAccessError, ParamispError

if TYPE_CHECKING:
    from paramisp_cli.training.loop import Progress, Trainer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line on stdout.")]
CameraName = Annotated[
    str | None,
    typer.Option(
        "--camera", autocompletion=complete_camera, help="Use only pairs of the camera whose name contains this."
    ),
]
LeaveOut = Annotated[
    list[str] | None, typer.Option("--leave-out", metavar="WORD", help="Leave out pairs whose name contains this.")
]
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
FromCamera = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="NAME",
        autocompletion=complete_camera,
        help="First camera of a transfer. Default: the data set's.",
    ),
]
ToCamera = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="NAME", autocompletion=complete_camera, help="Second camera of a transfer. Default: the other."
    ),
]
DataSet = Annotated[
    Path,
    typer.Argument(
        metavar="DATASET", help="A folder made by `paramisp pairs` or `simulate`.", show_default=False, readable=False
    ),
]

_EXAMPLES = {
    "fit": "paramisp fit photos -o my-weights\nparamisp unprocess photo.jpg --weights my-weights",
    "train": 'paramisp train pairs --camera "EOS 60D" --direction unprocess --leave-out IMG_0003 -o run',
    "evaluate": "paramisp evaluate pairs --test IMG_0003 --weights generic",
}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (fit, train, evaluate):
        app.command(cls=Command, epilog=_EXAMPLES[command.__name__], rich_help_panel="Weights and training")(command)


def fit(
    raws: Annotated[
        list[Path],
        typer.Argument(
            metavar="RAW", help="RAW files of one camera, or folders of them.", show_default=False, readable=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", readable=False, help="Folder of the weights.")],
    camera: Annotated[
        str | None,
        typer.Option("--camera", autocompletion=complete_camera, help="Use only cameras whose name contains this."),
    ] = None,
) -> None:
    """Make a camera's weights from the JPEGs inside its RAW files, in seconds."""
    from paramisp_cli.training.fit import fit as fit_weights

    for path in or_fail(lambda: fit_weights(raws, output, camera, say)):
        result(str(path))
    hint("paramisp", "unprocess", "photo.jpg", "--weights", output)


def train(
    dataset: DataSet,
    direction: Annotated[
        Literal["unprocess", "render", "joint", "transfer"],
        typer.Option("--direction", help="joint trains both together; transfer: from camera to camera."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", readable=False, help="Folder of this training: checkpoint, log, weights.")
    ],
    camera: CameraName = None,
    recipe_name: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            autocompletion=complete_recipe,
            help="A recipe's name, or a TOML file. Default: fast-camera; of a transfer, splines.",
        ),
    ] = None,
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
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Steps of a training of --direction transfer. Default: the recipe's."),
    ] = None,
    source: FromCamera = None,
    to: ToCamera = None,
) -> None:
    """Train weights; the same command resumes an interrupted training."""
    if direction == "transfer":
        _train_transfer(dataset, output, recipe_name or "splines", steps, device, source, to)
        return
    for option, value in (("--steps", steps), ("--from", source), ("--to", to)):
        if value is not None:
            fail_usage(f"{option}: for --direction transfer alone; leave it out")
    from dataclasses import replace

    from paramisp_cli import devices
    from paramisp_cli.directions import ISP_DIRECTIONS, Direction
    from paramisp_cli.training import config, protocol
    from paramisp_cli.training.dataset import load, whole

    directions = ISP_DIRECTIONS if direction == "joint" else (Direction(direction),)
    try:
        recipe = config.load(recipe_name or "fast-camera").of(directions)
        if init is not None:
            recipe = replace(recipe, init="" if init == "none" else init)
        light = protocol.takes_light(recipe)
        loaded = load(
            dataset,
            camera,
            leave_out or (),
            simulated=recipe.simulated > 0,
            light=light,
            exposures=recipe.exposures > 0,
        )
        learned, held_out = (loaded, []) if hold_out is None else protocol.hold_out(loaded, hold_out)
        recipe, changes = protocol.fitted(recipe, learned)
        shading = protocol.lens_shading(recipe, learned)
        trainer = protocol.start(recipe, directions, devices.pick(device), output, shading)
        protocol.fit_colours(trainer, learned)
    except ParamispError as error:
        fail(error)
    for line in [*changes, *protocol.without_light(recipe, learned)]:
        say(line)
    cameras = ", ".join(protocol.cameras(learned)) or "unknown cameras"
    say(f"{len(learned)} pairs of {cameras}; {recipe.name}, {recipe.steps} steps")
    if shading is not None:
        corners = " ".join(f"{1 / (1 + sum(row)):.2f}" for row in shading)
        say(f"lens shading: the corners of the RAW take gains of {corners} (R G B) to match the JPEG")

    def report(progress: Progress) -> None:
        if progress.step % 100 == 0 or progress.step == progress.steps:
            minutes = progress.seconds_left / 60
            say(f"step {progress.step}/{progress.steps}  loss {progress.loss:.5f}  {minutes:.0f} min left")

    def preview(trainer: Trainer) -> None:
        for each in directions:
            name = f"step{trainer.step:07d}.{each}.png" if len(directions) > 1 else f"step{trainer.step:07d}.png"
            protocol.preview(trainer, each, learned[0], output / name)

    try:
        with interruptible() as check:
            trainer.run(protocol.sampler(trainer, learned), report, preview, check)
    except KeyboardInterrupt:
        say(f"interrupted at step {trainer.step}; the same command continues from there")
        raise typer.Exit(130) from None
    except ParamispError as error:
        fail(error)
    if leave_out:
        names = {item.pair.name for item in loaded}
        held_out += [item for item in whole(load(dataset, camera)) if item.pair.name not in names]
    scores = protocol.measure(trainer, held_out)
    for score in dict.fromkeys(score for group in scores.values() for score in group):
        decibels = f"PSNR {score.psnr:.2f} dB, five crops {score.psnr_crops:.2f} dB"
        say(f"{score.photo} (never seen), {score.direction}: {decibels}")
    for path in protocol.write_weights(trainer, learned, scores):
        result(str(path))


def _train_transfer(
    dataset: Path,
    output: Path,
    recipe: str,
    steps: int | None,
    device: str,
    a: str | None,
    b: str | None,
) -> None:
    """Train a network from camera to camera, and print the weights' path."""
    from paramisp_cli import devices
    from paramisp_cli.training import transfer

    def report(progress: transfer.Progress) -> None:
        at = f"step {progress.step}/{progress.steps}  loss {progress.loss:.5f}"
        say(f"{at}  validation {progress.psnr:.2f} dB, best {progress.best:.2f} dB")

    try:
        schedule = transfer.recipe(recipe, steps)
        with interruptible() as check:
            path = transfer.train(dataset, output, schedule, devices.pick(device), report, check, a, b)
    except ParamispError as error:
        fail(error)
    except KeyboardInterrupt:
        again = "starts again from its beginning" if recipe == "splines" else "continues with the same command"
        say(f"interrupted: a training of {recipe} {again}")
        raise typer.Exit(130) from None
    result(str(path))


def evaluate(
    dataset: DataSet,
    camera: CameraName = None,
    direction: Annotated[
        Literal["unprocess", "render", "transfer"] | None, typer.Option("--direction", help="Default: the first two.")
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
    source: FromCamera = None,
    to: ToCamera = None,
    test: Annotated[
        list[str] | None, typer.Option("--test", metavar="WORD", help="Measure on pairs whose name contains this.")
    ] = None,
    hold_out: HoldOut = None,
    shuffle_optics: Annotated[
        bool,
        typer.Option(
            "--shuffle-optics", help="Give each photograph the EXIF of the next, to measure the cost of wrong EXIF."
        ),
    ] = False,
    pictures: Annotated[Path | None, typer.Option("--pictures", help="Folder for error maps.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the tables to this file, too.")] = None,
    device: Device = "auto",
    json_lines: Json = False,
) -> None:
    """Measure weights beside baselines: parametric, LibRaw, a regression fitted on other photographs."""
    if direction == "transfer":
        _evaluate_transfer(dataset, weights or [], markdown, device, json_lines, source, to)
        return
    for option, value in (("--from", source), ("--to", to)):
        if value is not None:
            fail_usage(f"{option}: for --direction transfer alone; leave it out")
    from paramisp_cli import devices
    from paramisp_cli.directions import ISP_DIRECTIONS, Direction
    from paramisp_cli.training.dataset import load, whole
    from paramisp_cli.training.measure import trials
    from paramisp_cli.training.measure.scores import tables

    directions = ISP_DIRECTIONS if direction is None else (Direction(direction),)
    try:
        loaded = whole(load(dataset, camera))
        if shuffle_optics:
            loaded = trials.with_shuffled_optics(loaded)
        arranged = trials.arrange(loaded, test or (), hold_out)
        checkpoints = trials.Checkpoints(weights or (), devices.pick(device))
    except ParamispError as error:
        fail(error)
    if not arranged:
        fail_usage(f"{dataset}: no pair that is aligned as a whole: nothing to measure on")
    if markdown is not None:
        or_fail(partial(_write, markdown, ""))
    for path in checkpoints.unused(directions):
        say(f"note: {path} is not measured: it is not for {' or '.join(directions)}")
    scores = []
    try:
        for score in trials.run(arranged, directions, checkpoints, pictures, say):
            scores.append(score)
            if json_lines:
                result(json.dumps(score.record()))
    except ParamispError as error:
        fail(error)
    if not json_lines:
        for line in tables(scores).rstrip().splitlines():
            result(line)
    if markdown is not None:
        or_fail(partial(_write, markdown, tables(scores)))
    for name in dict.fromkeys(trial.item.camera for trial in arranged if trial.fitted_on_itself):
        say(
            f"note: {name}: the baselines were fitted on the photographs they are measured on; name some with --test, "
            "or hold out a part of each with --hold-out"
        )


def _evaluate_transfer(
    dataset: Path,
    files: list[str],
    markdown: Path | None,
    device: str,
    json_lines: bool,
    a: str | None,
    b: str | None,
) -> None:
    """Measure closed forms and networks from camera to camera, and print the table."""
    from dataclasses import asdict

    from paramisp_cli import devices
    from paramisp_cli.training import transfer

    scores = or_fail(lambda: transfer.evaluate(dataset, files, devices.pick(device), a, b))
    for line in [json.dumps(asdict(score)) for score in scores] if json_lines else transfer.table(scores).splitlines():
        result(line)
    if markdown is not None:
        or_fail(partial(_write, markdown, transfer.table(scores)))


def _write(path: Path, text: str) -> None:
    """Write a text file; raises FileAccessError."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise FileAccessError.of(error, path, "write it") from error
