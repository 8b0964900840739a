"""``paramisp blur-dataset``: make data sets of blurred and sharp pictures."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from paramisp_cli.cli.console import fail, interruptible, or_fail, result, say
from paramisp_cli.cli.options import Command, complete_camera, option, seconds, span
from paramisp_cli.errors import ParamispError

_EXAMPLES = """\
paramisp blur-dataset clips -o blurred                      # folders of frames, videos
paramisp blur-dataset slow.mp4 -o blurred --fps 240 --exposure 1/20
paramisp blur-dataset panoramas -o blurred --count 2000 --raw
paramisp blur-dataset photos -o blurred --kernels --length 2:20"""
_BLUR, _CAMERA, _SET = "Blur", "Camera", "Data set"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("blur-dataset", cls=Command, epilog=_EXAMPLES, rich_help_panel="Applications")(blur_dataset)


def blur_dataset(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="Folders of frames, videos, panoramas (.hdr), RAW files, or folders of them.",
            show_default=False,
            readable=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", readable=False, help="Folder of the data set.")],
    count: Annotated[int, option(_SET, "--count", help="How many pairs; clips may end earlier.")] = 200,
    seed: Annotated[int, option(_SET, "--seed", help="Random seed.")] = 0,
    test_share: Annotated[
        float, option(_SET, "--test-share", help="Share of the sources for the test side, 0 to 1.")
    ] = 0.1,
    raw: Annotated[bool, option(_SET, "--raw", help="Store the mosaics, too.")] = False,
    size: Annotated[int, option(_SET, "--size", help="Side of pictures of panoramas and RAW files, in pixels.")] = 512,
    frames: Annotated[
        Any, option(_BLUR, "--frames", parser=span, metavar="A:B", help="Frames of a blur, odd.")
    ] = "7:13",
    exposure: Annotated[
        Any,
        option(
            _BLUR,
            "--exposure",
            parser=seconds,
            metavar="SECONDS",
            help="Exposure time of a blur, such as 1/20, instead of --frames.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        option(_BLUR, "--fps", help="Frames a second of the camera. Default: the video's, wrong for slow motion."),
    ] = None,
    stride: Annotated[
        int | None, option(_BLUR, "--stride", help="Frames from one blur to the next. Default: no frame twice.")
    ] = None,
    most_step: Annotated[
        float, option(_BLUR, "--max-step", help="Refuse blurs whose frames move by more pixels: ghosts.")
    ] = 3.0,
    kernels: Annotated[
        bool, option(_BLUR, "--kernels", help="Pictures are sharp photographs: give each a synthetic shake.")
    ] = False,
    length: Annotated[
        Any,
        option(_BLUR, "--length", parser=span, metavar="A:B", help="Pixels of a synthetic shake."),
    ] = "0:25",
    saturation: Annotated[
        Any,
        option(
            _BLUR,
            "--saturation",
            parser=span,
            metavar="A:B",
            help="Light added where frames were clipped.",
        ),
    ] = "0.25:1.75",
    camera: Annotated[
        list[str] | None,
        option(
            _CAMERA,
            "--camera",
            metavar="NAME",
            autocompletion=complete_camera,
            help="Camera whose RAW it is; may be repeated. Default: all with known noise.",
        ),
    ] = None,
    model: Annotated[
        str, option(_CAMERA, "--model", help="ISP: parametric, or an architecture with weights.")
    ] = "parametric",
    iso: Annotated[Any, option(_CAMERA, "--iso", parser=span, metavar="A:B", help="ISO speeds.")] = "100:1600",
    noise: Annotated[bool, option(_CAMERA, "--noise/--no-noise", help="Give blurred pictures noise.")] = True,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object a line on stdout.")] = False,
) -> None:
    """Make blurred and sharp pictures for the training of deblurring: light averaged in a camera's RAW, with noise."""
    from paramisp_cli.training.blurred import make
    from paramisp_cli.training.blurred.series import Series
    from paramisp_cli.training.simulated import shots

    series = or_fail(
        lambda: Series(
            cameras=shots.pick_cameras(camera or ()), model=model, count=count, frames=_whole(frames),
            exposure=exposure, rate=rate, stride=stride, most_step=most_step, length=length, size=size, iso=iso,
            saturation=saturation, noise=noise, raw=raw, test_share=test_share, seed=seed, kernels=kernels,
        )
    )  # fmt: skip
    counts = {"pair": 0, "refused": 0}
    try:
        with interruptible() as check, closing(make.make(inputs, output, series)) as made:
            for line in made:
                counts[line["status"]] += 1
                shown = line["name"] if line["status"] == "pair" else line["source"]
                text = f"{line['status']:<8} {shown}: {_facts(line)}"
                result(json.dumps(line) if json_lines else text)
                check()
    except ParamispError as error:
        fail(error)
    except KeyboardInterrupt:
        say(f"interrupted after {sum(counts.values())} results; run it again to continue")
        raise typer.Exit(130) from None
    refused = f", {counts['refused']} refused" if counts["refused"] else ""
    if not counts["pair"]:
        say(f"0 pairs{refused}: the reasons are above")
        raise typer.Exit(7)
    say(f"{counts['pair']} pairs{refused}; look at {output / 'contact_sheet.jpg'}")


def _whole(values: tuple[float, float]) -> tuple[int, int]:
    """Return a range of whole numbers; a fraction becomes 0, which the series refuses."""
    return int(values[0]) if values[0] % 1 == 0 else 0, int(values[1]) if values[1] % 1 == 0 else 0


def _facts(line: dict[str, Any]) -> str:
    """Word a line of the index."""
    if line["status"] == "refused":
        return str(line["reason"])
    moved = f"{line['length']:.1f} px of shake" if "length" in line else f"{line['motion']:.1f} px of motion"
    return f"{line['split']}, {line['camera']}, ISO {line['iso']:.0f}, {moved}, {line['psnr']:.1f} dB"
