"""``paramisp synth``: make a training set of RAW from folders of pictures."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paramisp_cli.cli.console import fail, fail_usage, interruptible, or_fail, result, say
from paramisp_cli.cli.options import Command, RayAddress, RayCpus, RayOptions, complete_camera, option, span
from paramisp_cli.errors import ParamispError

if TYPE_CHECKING:
    from paramisp_cli.batch.cluster import Cluster

_EXAMPLES = """\
paramisp synth photos -o raws --patch 512
paramisp synth coco/train2017 -o set --camera "Nikon D90" --iso 200:6400 --exposure -3:0
paramisp synth photos -o set --format npy --layout mosaic --test-share 0.1"""
_CAMERA, _SET, _NOISE = "Camera", "Data set", "Noise"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("synth", cls=Command, epilog=_EXAMPLES, rich_help_panel="Applications")(synth)


def _span(panel: str, name: str, text: str) -> Any:
    return typer.Option(name, parser=span, metavar="A:B", help=text, rich_help_panel=panel)


def synth(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT", help="Pictures, and folders of them.", show_default=False, readable=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", readable=False, help="Folder of the data set.")],
    model: Annotated[str, option(_CAMERA, "--model", help="Checkpoint, generic, or parametric.")] = "generic",
    camera: Annotated[
        list[str] | None,
        option(
            _CAMERA,
            "--camera",
            metavar="NAME",
            autocompletion=complete_camera,
            help="Camera whose RAW it is; may be repeated. Default: all with colours and noise in the table.",
        ),
    ] = None,
    iso: Annotated[Any, _span(_CAMERA, "--iso", "ISO speeds. Default: those of the camera.")] = None,
    exposure: Annotated[Any, _span(_CAMERA, "--exposure", "Brightness of the RAW, in EV from the picture's.")] = "0",
    headroom: Annotated[Any, _span(_CAMERA, "--headroom", "From the picture's white to the RAW's, in EV.")] = "0",
    cfa: Annotated[str, option(_CAMERA, "--cfa", help="CFA of all RAWs.")] = "RGGB",
    layout: Annotated[str, option(_SET, "--layout", help="packed: (H/2, W/2, 4), or mosaic: (H, W).")] = "packed",
    patch: Annotated[
        int,
        option(
            _SET, "--patch", help="Side of patches, in samples of the mosaic, also if packed. 0: pictures in one piece."
        ),
    ] = 0,
    stride: Annotated[int, option(_SET, "--stride", help="Distance of patches. 0: their side.")] = 0,
    kind: Annotated[
        str, option(_SET, "--format", help="tar: WebDataset's shards; hdf5: shards of patches; npy: files.")
    ] = "tar",
    dtype: Annotated[str, option(_SET, "--dtype", help="uint16, with black at 4096, or float32.")] = "uint16",
    shard: Annotated[int, option(_SET, "--shard", help="Pictures in a shard.")] = 100,
    test_share: Annotated[
        float, option(_SET, "--test-share", help="Share of the pictures for the test side, 0 to 1.")
    ] = 0.0,
    licence: Annotated[str, option(_SET, "--licence", help="Licence of the pictures, for index and card.")] = "",
    seed: Annotated[int, option(_SET, "--seed", help="Random seed.")] = 0,
    noise: Annotated[bool, option(_NOISE, "--noise/--no-noise", help="Make noisy RAWs beside the clean ones.")] = True,
    shot: Annotated[str, option(_NOISE, "--shot", help="poisson, or gaussian, which is faster.")] = "poisson",
    row: Annotated[float, option(_NOISE, "--row", help="Noise of rows, in units of the read noise.")] = 0.0,
    clip: Annotated[
        str, option(_NOISE, "--clip", help="raw: at raw value 0, below black; black: at black; none.")
    ] = "raw",
    subtract: Annotated[
        bool, option(_NOISE, "--subtract", help="Leave out the noise that a picture has already.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes. Default: one for each core.", show_default=False)
    ] = None,
    ray: RayAddress = None,
    ray_cpus: RayCpus = None,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object a RAW on stdout.")] = False,
) -> None:
    """Make a training set of clean and noisy RAW from folders of pictures; repeat the command to resume it."""
    from paramisp_cli.training.synthetic import make
    from paramisp_cli.training.synthetic.series import Series

    series = or_fail(
        lambda: Series(
            model=model, cameras=tuple(camera or ()), iso=iso, exposure=exposure, headroom=headroom, cfa=cfa,
            layout=layout, patch=patch, stride=stride, kind=kind, dtype=dtype, shard=shard, test_share=test_share,
            licence=licence, seed=seed, noise=noise, shot=shot, row=row, clip=clip, subtract=subtract,
        )
    )  # fmt: skip
    cluster_options = RayOptions(ray, ray_cpus)
    _check_ray(cluster_options, workers)
    counts = {"made": 0, "refused": 0}
    try:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with (
            _cluster(cluster_options) as cluster,
            interruptible() as check,
            closing(make.make(inputs, output, series, workers=workers or cores, cluster=cluster)) as shards,
        ):
            for lines in shards:
                for line in lines:
                    counts[line["status"]] += 1
                    if json_lines:
                        result(json.dumps(line))
                    elif line["status"] == "refused":
                        say(f"{line['source']}: {line['reason']}")
                if not json_lines:
                    say(f"{counts['made']} RAWs")
                check()
    except ParamispError as error:
        fail(error)
    except KeyboardInterrupt:
        say(f"interrupted after {counts['made']} RAWs; run it again to continue")
        raise typer.Exit(130) from None
    refused = f", {counts['refused']} pictures refused" if counts["refused"] else ""
    say(f"{counts['made']} RAWs{refused}; {output / 'README.md'} describes them")
    if refused:
        raise typer.Exit(1 if counts["made"] else 7)


def _check_ray(options: RayOptions, workers: int | None) -> None:
    """End with a usage error for options that do not go together."""
    if options.ray is None and options.ray_cpus is not None:
        fail_usage("--ray-cpus: is for workers of --ray; pass --ray, or leave it out")
    if options.ray is not None and workers is not None:
        fail_usage("--workers: are processes of this machine; leave it out with --ray")


def _cluster(options: RayOptions) -> AbstractContextManager[Cluster | None]:
    """Connect to the cluster of --ray, if it is given."""
    from paramisp_cli.batch.cluster import connected

    return nullcontext() if options.ray is None else connected(options.ray, options.cpus(1))
