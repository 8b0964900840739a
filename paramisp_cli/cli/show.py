"""``paramisp inspect``, ``cameras`` and ``doctor``: show facts, change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from paramisp_cli import __version__
from paramisp_cli.cli.console import hint, in_flags, result, say, with_flags, worded
from paramisp_cli.cli.options import (
    Camera,
    Command,
    Isolate,
    Json,
    Like,
    MaxPixels,
    Model,
    Weights,
    complete_camera,
)
from paramisp_cli.errors import ParamispError

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE", help="JPEG, PNG, TIFF, WebP, AVIF, HEIC or RAW files.", show_default=False, readable=False
    ),
]
Pattern = Annotated[
    str,
    typer.Argument(
        metavar="TEXT", help="Show only names that contain this.", show_default=False, autocompletion=complete_camera
    ),
]

_EXAMPLES = {
    "inspect": "paramisp inspect photo.jpg shot.dng",
    "cameras": 'paramisp cameras "eos r"',
    "doctor": "paramisp doctor",
}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (inspect, cameras, doctor):
        app.command(cls=Command, epilog=_EXAMPLES[command.__name__], rich_help_panel="Look")(command)


def inspect(
    files: Files,
    json_lines: Json = False,
    camera: Camera = None,
    weights: Weights = None,
    model: Model = None,
    like: Like = None,
    max_pixels: MaxPixels = None,
    isolate: Isolate = False,
) -> None:
    """Show the values that a conversion would use, each with its source."""
    from paramisp_cli import parameters

    code = 0
    for path in files:
        try:
            settings = parameters.Settings(
                model=model, weights=weights, camera=camera, like=like, max_pixels=max_pixels, isolate=isolate
            )
            image = parameters.read(path, settings)
            conversion = parameters.complete(image, settings)
        except ParamispError as error:
            say(worded(error.named(path)))
            code = error.exit_code if len(files) == 1 else 1
            continue
        _show(path, image, conversion, json_lines)
    if not code and not json_lines:
        hint("paramisp", conversion.direction, path)
    raise typer.Exit(code)


def _show(path: Path, image: Any, conversion: Any, json_lines: bool) -> None:
    """Print one file's facts."""
    from paramisp_cli.types import RawImage

    height, width = image.size
    kind = "RAW" if isinstance(image, RawImage) else "picture"
    is_linear = isinstance(image, RawImage) and image.linear is not None
    if json_lines:
        about = {"file": str(path), "kind": kind, "width": width, "height": height, "orientation": image.orientation}
        if isinstance(image, RawImage):
            about["linear"] = is_linear
        result(json.dumps(about | in_flags(conversion.describe()), allow_nan=False))
        return
    kind += " of three colours a pixel (LinearRaw)" if is_linear else ""
    rows = [("kind", f"{kind}, {width} × {height}, orientation {image.orientation}", "")]
    if conversion.made:
        rows.append(("made_by", str(conversion.made).removeprefix("made by "), "the XMP of the file"))
    for key, value in conversion.describe().items():
        if key not in ("origin", "notices", "made_by"):
            source = conversion.origin.get({"wb_gains": "wb"}.get(key, key), "")
            rows.append((key, _readable(key, value), source))
    result(str(path))
    for key, text, source in rows:
        result(f"  {key:<15} {text:<42} {source}".rstrip())
    for notice in conversion.notices:
        say(with_flags(f"{path}: {notice}"))


def _readable(key: str, value: Any) -> str:
    """Format a value in photographers' notation."""
    if value is None:
        return {"weights": "none needed", "kept_raw": "none inside", "gain_map": "none used"}.get(key, "unknown")
    if key == "exposure_time":
        return f"1/{1 / value:.0f} s" if value < 0.4 else f"{value:g} s"
    if key == "color_matrix":
        return "  ".join(" ".join(f"{v:.4f}" for v in row) for row in value)
    if isinstance(value, list):
        return " ".join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def cameras(pattern: Pattern = "", json_lines: Json = False) -> None:
    """List the cameras of the camera table."""
    from paramisp_cli import cameras as table

    shown = [facts for facts in table.all_cameras() if pattern.lower() in facts.name.lower()]
    for facts in shown:
        black, white = facts.levels(None)
        if json_lines:
            record = {
                "name": facts.name, "make": facts.exif_make, "model": facts.exif_model, "aliases": list(facts.aliases),
                "cfa": facts.cfa, "black_level": black, "white_level": white,
                "color_matrix": facts.color_matrix is not None, "noise": facts.noise_profile(100) is not None,
            }  # fmt: skip
            result(json.dumps(record))
        else:
            result(f"{facts.name:<40} {facts.cfa or '?':<5} black {black:g}, white {white:g}")
    if not shown:
        say(f"no camera's name contains {pattern!r}; `paramisp cameras` lists all {len(table.all_cameras())}")


def doctor() -> None:
    """Show versions, devices and the weights found, for a bug report."""
    import platform
    from importlib import metadata

    result(f"paramisp {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in ("torch", "numpy", "rawpy", "pillow", "piexif", "tifffile", "safetensors", "typer", "rich"):
        result(f"  {package} {metadata.version(package)}")
    from paramisp_cli import cameras as table
    from paramisp_cli import devices, onnx_runner
    from paramisp_cli import weights as store

    for line in (*devices.describe(), onnx_runner.describe()):
        result(line)
    result(f"cameras in the table: {len(table.all_cameras())}")
    result("search path of weights:")
    for how, folder in store.places():
        result(f"  {folder} ({how}){'' if folder.exists() else ': does not exist'}")
    listed = store.available()
    damaged = sum(checkpoint.damaged is not None for checkpoint in listed)
    result(f"weights found: {len(listed)}" + (f", {damaged} damaged (see `paramisp weights list`)" if damaged else ""))
