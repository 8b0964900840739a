"""``paramisp transfer``: the RAW that another camera would have recorded, or the picture that it would have made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from paramisp_cli.cli.console import fail, fail_usage
from paramisp_cli.cli.convert import convert_files
from paramisp_cli.cli.options import (
    MODEL,
    OUTPUT,
    SHOT,
    BatchOptions,
    Camera,
    Command,
    Device,
    Inputs,
    Isolate,
    Like,
    MaxPixels,
    Weights,
    complete_camera,
    gains,
    grouped,
)
from paramisp_cli.errors import ConfigError, ParamispError

_EXAMPLES = """\
paramisp transfer shot.dng --to "Nikon D90"    # writes shot-nikon-d90.dng
paramisp transfer raws -r -o d850 --to "Nikon D850" --method conditioned
paramisp transfer photo.jpg --to "Canon EOS 60D"    # writes photo-canon-eos-60d.jpg"""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(cls=Command, epilog=_EXAMPLES, rich_help_panel="Applications")(grouped(transfer))


def transfer(
    inputs: Inputs,
    batch: BatchOptions,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="NAME|FILE",
            rich_help_panel=SHOT,
            autocompletion=complete_camera,
            help="The other camera: a name of `paramisp cameras`, or a RAW file by it.",
        ),
    ],
    method: Annotated[
        Literal["matrix", "conditioned", "cstpp"],
        typer.Option(
            "--method",
            rich_help_panel=MODEL,
            help="Both cameras' colour matrices, a fit to their measured sensitivities that follows the light, or a "
            "network (--weights).",
        ),
    ] = "matrix",
    cfa: Annotated[
        Literal["keep", "target"],
        typer.Option("--cfa", rich_help_panel=OUTPUT, help="Colour filters of a DNG: the input's, or the other's."),
    ] = "keep",
    match_noise: Annotated[
        bool,
        typer.Option("--match-noise", rich_help_panel=OUTPUT, help="Add the noise that the other camera has more."),
    ] = False,
    wb: Annotated[
        Any,
        typer.Option(
            "--wb", parser=gains, metavar="R,G,B", rich_help_panel=SHOT, help="White-balance gains of the input."
        ),
    ] = None,
    exposure: Annotated[
        float | None, typer.Option("--exposure", metavar="EV", rich_help_panel=SHOT, help="Digital gain of a DNG.")
    ] = None,
    camera: Camera = None,
    like: Like = None,
    weights: Weights = None,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
    isolate: Isolate = False,
    compression: Annotated[
        Literal["lossless", "none"], typer.Option(rich_help_panel=OUTPUT, help="Compression of a DNG.")
    ] = "lossless",
    quality: Annotated[
        int, typer.Option("--quality", min=1, max=100, rich_help_panel=OUTPUT, help="JPEG quality.")
    ] = 95,
    verify: Annotated[
        bool, typer.Option("--verify", rich_help_panel=OUTPUT, help="Open every output again and compare it.")
    ] = False,
) -> None:
    """Turn a RAW into that of another camera (DNG), or a picture into its picture."""
    from paramisp_cli import target
    from paramisp_cli.directions import Direction
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.parameters import Settings

    of_pictures = _takes_pictures(inputs, recursive=batch.recursive)
    for flag, given in (
        ("--exposure", exposure is not None),
        ("--cfa target", cfa != "keep"),
        ("--match-noise", match_noise),
    ):
        if of_pictures and given:
            fail_usage(f"{flag}: for RAW files; leave it out")
    # No profile: its curve would replace the look that a reader has for RAW files.
    options = WriteOptions(compression=compression, profile="adobe", embed_jpeg=False, quality=quality, verify=verify)
    try:
        settings = Settings(
            to=to, method=method, target_cfa=cfa == "target", match_noise=match_noise, wb=wb, exposure=exposure,
            camera=camera, like=like,
            weights=weights, device=device, max_pixels=max_pixels, isolate=isolate, gain_map="off",
        )  # fmt: skip
        other = target.of(settings)
        if cfa == "target" and other.cfa is None:
            raise ConfigError(f"--cfa target: {other.name} has no known Bayer filters; leave it out")
    except ParamispError as error:
        fail(error)
    ending, suffix = (".jpg", None) if of_pictures else (".dng", ".dng")
    convert_files(Direction.TRANSFER, inputs, ending, suffix, settings, options, batch, stem=f"-{other.slug}")


def _takes_pictures(inputs: list[Path], *, recursive: bool) -> bool:
    """Tell whether the inputs are pictures: by the suffixes of files; of folders, if they hold no RAW file."""
    from paramisp_cli import formats
    from paramisp_cli.batch import find

    files = [path for path in inputs if not path.is_dir()]
    pictures = [path for path in files if path.suffix.lower() in formats.SRGB_SUFFIXES]
    if pictures and len(pictures) < len(files):
        other = next(path for path in files if path not in pictures)
        fail_usage(f"{pictures[0]} is a picture and {other} is not: convert RAW files and pictures separately")
    if files:
        return bool(pictures)
    below = find.search(inputs, (*formats.RAW_SUFFIXES, *formats.SRGB_SUFFIXES), recursive=recursive).inputs
    suffixes = {each.source.suffix.lower() for each in below if each.error is None}
    return bool(suffixes) and not suffixes & set(formats.RAW_SUFFIXES)
