"""Groups of options that several commands share, parsing of values, shell completion, and grouped help."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

# ---- parsing of values ----------------------------------------------------------------------------------------------


def seconds(text: str) -> float:
    """Parse "1/125" or "0.008"."""
    try:
        above, slash, below = text.partition("/")
        return float(above) / float(below if slash else 1)
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"{text!r} is not a time in seconds such as 1/125 or 0.5") from error


def gains(text: str) -> tuple[float, float, float]:
    """Parse "2.1,1,1.5"."""
    try:
        red, green, blue = (float(number) for number in text.replace(",", " ").split())
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not three gains R,G,B such as 2.1,1,1.5") from error
    return red, green, blue


def levels(text: str) -> tuple[float, float]:
    """Parse "0,4095"."""
    try:
        black, white = (float(number) for number in text.replace(",", " ").split())
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not two levels BLACK,WHITE such as 0,4095") from error
    return black, white


def span(text: str) -> tuple[float, float]:
    """Parse "100:6400", "-3:0" or one number."""
    match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*(?::\s*(-?\d+(?:\.\d+)?))?\s*", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a number or a range such as 100:6400")
    low = float(match[1])
    return low, float(match[2]) if match[2] else low


def size_in_bytes(text: str) -> int:
    """Parse "4GB", "4G", "512MB": powers of 1000. Refuse a number without a unit: 4 bytes would be a mistake."""
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    power = {"K": 1, "M": 2, "G": 3, "T": 4}.get(number[-1:], 0)
    try:
        value = float(number[:-1] if power else number) * 1000**power
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not an amount of memory such as 4GB") from error
    if not power:
        raise typer.BadParameter(f"{text!r} has no unit; write 4GB or 500MB")
    if not 0 < value < 1e18:
        raise typer.BadParameter(f"{text!r} is not a sensible amount of memory")
    return int(value)


def pixel_count(text: str) -> int:
    """Parse "400MP", "1.2GP" or a plain number of pixels."""
    number = text.strip().upper().removesuffix("P")
    power = {"K": 1, "M": 2, "G": 3}.get(number[-1:], 0)
    try:
        value = float(number[:-1] if power else number) * 1000**power
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a number of pixels such as 400MP") from error
    if not 1 <= value < 1e12:
        raise typer.BadParameter(f"{text!r} is not a sensible number of pixels; write 400MP for 400 megapixels")
    return int(value)


def share(text: str) -> tuple[int, int]:
    """Parse "2/8": worker 2 of 8."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(f"{text!r} is not I/N with I from 1 to N, such as 2/8")
    return int(number), int(count)


# ---- shell completion: lazy imports, so that other commands start quickly -------------------------------------------


def complete_camera(incomplete: str) -> list[str]:
    """Offer the cameras whose name begins with the word, then those that contain it."""
    from paramisp_cli import cameras

    word = incomplete.lower()
    names = [facts.name for facts in cameras.all_cameras() if word in facts.name.lower()]
    return sorted(names, key=lambda name: not name.lower().startswith(word))


TRANSFERS = ("splines", "cstpp", "cstpp-unpaired")
"""Recipes of --direction transfer (``training.transfer.RECIPES``, whose import costs seconds)."""


def complete_recipe(incomplete: str) -> list[str]:
    """Offer the recipes of the package."""
    from importlib import resources

    folder = resources.files("paramisp_cli.training").joinpath("recipes")
    names = [entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return sorted(name for name in (*names, *TRANSFERS) if name.startswith(incomplete))


def complete_weights(incomplete: str) -> list[str]:
    """Offer the names of checkpoints, as `weights list` shows them."""
    from paramisp_cli import weights

    names = {checkpoint.path.name.split(".")[0] for checkpoint in weights.available()}
    return sorted(name for name in names if name.startswith(incomplete.lower()))


def complete_device(incomplete: str) -> list[str]:
    """Offer the kinds of device."""
    return [name for name in ("auto", "cpu", "cuda", "mps") if name.startswith(incomplete)]


# ---- the groups -----------------------------------------------------------------------------------------------------


def option(panel: str, *names: str, **more: Any) -> Any:
    """Declare an option in a panel of the help."""
    return typer.Option(*names, rich_help_panel=panel, **more)


def _path(panel: str, *names: str, **more: Any) -> Any:
    # readable=False: an unreadable file must not stop the others; Typer would refuse the whole command.
    return typer.Option(*names, rich_help_panel=panel, readable=False, **more)


FILES, MODEL, SHOT, OUTPUT, WORDS = "Files", "Model and machine", "Shot", "Output", "Messages"
RAY = "Cluster"

Inputs = Annotated[
    list[Path], typer.Argument(metavar="INPUT", help="Files or folders.", show_default=False, readable=False)
]
Json = Annotated[bool, option(WORDS, "--json", help="Print one JSON object a file on stdout.")]
Camera = Annotated[
    str | None,
    option(
        MODEL,
        "--camera",
        metavar="NAME",
        autocompletion=complete_camera,
        help="MAKE/MODEL, or a name of `paramisp cameras`.",
    ),
]
Weights = Annotated[
    str | None,
    option(
        MODEL,
        "--weights",
        metavar="NAME|FILE",
        autocompletion=complete_weights,
        help="A name of `weights list`, a .safetensors file, a published .ckpt, .pth or .pt, or a folder.",
    ),
]
Model = Annotated[
    Literal["fast", "paramisp", "parametric", "invisp", "ciexyz", "cycleisp", "cameranet"] | None,
    option(MODEL, "--model", help="Architecture. Default: a trained network if there are weights, else parametric."),
]
Device = Annotated[
    str,
    option(MODEL, "--device", metavar="NAME", autocompletion=complete_device, help="auto, cpu, cuda, cuda:N or mps."),
]
MaxPixels = Annotated[
    Any,
    option(
        MODEL,
        "--max-pixels",
        parser=pixel_count,
        metavar="COUNT",
        help="Refuse larger pictures, such as 400MP. Default: 250MP.",
    ),
]
Isolate = Annotated[
    bool, option(MODEL, "--isolate", help="Decode RAW files in a process of their own: for untrusted files.")
]
Like = Annotated[
    list[Path] | None,
    _path(
        SHOT,
        "--like",
        metavar="PATH",
        help="A RAW of the same camera, or a folder of them, for facts that the picture lacks. Repeatable.",
    ),
]


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Options of commands that convert files and folders."""

    output: Annotated[
        Path | None,
        _path(
            FILES,
            "--output",
            "-o",
            metavar="PATH",
            help="File, folder (made if needed), or - for stdout. Default: beside the input.",
        ),
    ] = None
    recursive: Annotated[
        bool, option(FILES, "--recursive", "-r", help="Search subfolders; -o keeps their structure.")
    ] = False
    on_exists: Annotated[
        Literal["error", "skip", "overwrite", "rename"],
        option(FILES, "--on-exists", help="Treatment of an output that exists already."),
    ] = "error"
    overwrite_foreign: Annotated[
        bool,
        option(FILES, "--overwrite-foreign", help="Let overwrite replace files that paramisp did not make, too."),
    ] = False
    fail_fast: Annotated[bool, option(FILES, "--fail-fast", help="Stop at the first file that fails.")] = False
    dry_run: Annotated[bool, option(FILES, "--dry-run", help="Show the plan and do nothing.")] = False
    shard: Annotated[
        Any, option(FILES, "--shard", parser=share, metavar="I/N", help="Do worker I's share of N (I from 1).")
    ] = None
    json_lines: Json = False
    quiet: Annotated[bool, option(WORDS, "--quiet", "-q", help="Print only errors on stderr.")] = False
    verbose: Annotated[bool, option(WORDS, "--verbose", "-v", help="Print every value used, with its source.")] = False


@dataclass(frozen=True, slots=True)
class SettingsOptions:
    """Options that become `parameters.Settings`, name by name."""

    model: Model = None
    weights: Weights = None
    device: Device = "auto"
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        option(MODEL, "--dtype", help="Precision of the convolutions; the last two are less exact."),
    ] = "auto"
    max_memory: Annotated[
        Any,
        option(MODEL, "--max-memory", parser=size_in_bytes, metavar="SIZE", help="Such as 4GB. Default: free memory."),
    ] = None
    scratch: Annotated[
        Path | None, _path(MODEL, "--scratch", metavar="DIR", help="Folder for temporary files when memory is short.")
    ] = None
    max_pixels: MaxPixels = None
    isolate: Isolate = False
    camera: Camera = None
    iso: Annotated[float | None, option(SHOT, "--iso", metavar="NUMBER", help="ISO speed, instead of EXIF's.")] = None
    exposure_time: Annotated[
        Any, option(SHOT, "--exposure-time", parser=seconds, metavar="SECONDS", help="Such as 1/125.")
    ] = None
    f_number: Annotated[float | None, option(SHOT, "--f-number", metavar="NUMBER", help="Such as 2.8.")] = None
    focal_length: Annotated[
        float | None, option(SHOT, "--focal-length", metavar="MM", help="Not the 35-mm equivalent.")
    ] = None
    wb: Annotated[
        Any, option(SHOT, "--wb", parser=gains, metavar="R,G,B", help="White-balance gains, such as 2.1,1,1.5.")
    ] = None
    like: Like = None
    cfa: Annotated[
        Literal["RGGB", "GRBG", "GBRG", "BGGR"] | None, option(SHOT, "--cfa", help="Colours of the top-left 2×2.")
    ] = None
    look: Annotated[
        Literal["camera", "weights", "neutral"] | None,
        option(SHOT, "--look", help="Look of a rendered RAW. Default: that of its JPEG, else weights."),
    ] = None
    look_from: Annotated[
        Path | None,
        _path(
            SHOT,
            "--look-from",
            metavar="FILE",
            help="JPEG that shows the look of the RAW.",
        ),
    ] = None
    exposure: Annotated[
        float | None,
        option(SHOT, "--exposure", metavar="EV", help="Digital gain. A trained network refuses it in `unprocess`."),
    ] = None


RayAddress = Annotated[
    str | None,
    option(
        RAY,
        "--ray",
        metavar="ADDRESS",
        help="Share the work among the machines of a Ray cluster that see the same disk: "
        "auto, HOST:PORT, or local for this machine.",
    ),
]
RayCpus = Annotated[
    int | None,
    option(RAY, "--ray-cpus", metavar="COUNT", help="CPUs of each Ray worker. Default: 2; 1 for `synth`."),
]


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Options of commands that can run on a Ray cluster."""

    ray: RayAddress = None
    ray_cpus: RayCpus = None

    def cpus(self, default: int) -> int:
        """Return the CPUs of each worker."""
        return default if self.ray_cpus is None else self.ray_cpus


@dataclass(frozen=True, slots=True)
class ArrayOptions:
    """Options of `unprocess` for the format of its outputs, and for arrays."""

    format_name: Annotated[
        Literal["dng", "npy", "npz", "tif", "tiff", "exr"] | None,
        option(OUTPUT, "--format", help="A DNG, or an array with its parameters. Default: that of -o, else dng."),
    ] = None
    layout: Annotated[
        Literal["mosaic", "packed", "rgb"] | None,
        option(OUTPUT, "--layout", help="Of an array: (H, W), (H/2, W/2, 4: R Gr Gb B), (H, W, 3). Default: mosaic."),
    ] = None
    bits: Annotated[
        int | None,
        option(
            OUTPUT,
            "--bits",
            help="Of an array: 16 (camera codes, the default), 32 (black 0, white 1).",
        ),
    ] = None
    levels: Annotated[
        Any,
        option(OUTPUT, "--levels", parser=levels, metavar="B,W", help="Black and white level, such as 0,4095."),
    ] = None
    patch: Annotated[
        int | None, option(OUTPUT, "--patch", metavar="SIZE", help="Cut into patches of SIZE×SIZE samples.")
    ] = None
    stride: Annotated[
        int | None, option(OUTPUT, "--stride", metavar="STEP", help="From patch to patch. Default: --patch.")
    ] = None


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function whose parameters include option groups: each field becomes an option."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if not is_dataclass(hint):
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = hint
        inner = get_type_hints(hint, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=inner[field.name]
            )
            for field in fields(hint)
        ]

    def command(**values: Any) -> None:
        built = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        function(**values, **built)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


# ---- help -----------------------------------------------------------------------------------------------------------


class _GroupedHelp:
    """Help with a command's options in sections by panel, in plain text: rich would double the time of --help."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the command's name, such as "[OPTIONS] INPUT..."; Typer's versions differ here."""
        words = [self.options_metavar]  # type: ignore[attr-defined]
        for param in self.get_params(ctx):  # type: ignore[attr-defined]
            if param.param_type_name == "argument":
                name = param.metavar or param.name.upper()
                words.append(f"{name if param.required else f'[{name}]'}{'...' if param.nargs == -1 else ''}")
        subcommand = getattr(self, "subcommand_metavar", None)
        return [*words, subcommand] if subcommand else words

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel in the order of the panels' first options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):  # type: ignore[attr-defined]
            record = param.get_help_record(ctx)
            if record is None:
                continue
            kind = "Arguments" if param.param_type_name == "argument" else "Options"
            name = re.sub(r" <[^>]*>$", "", record[0]) if kind == "Arguments" else record[0]  # without the Python type
            sections.setdefault(getattr(param, "rich_help_panel", None) or kind, []).append((name, record[1]))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples unchanged."""
        if self.epilog:  # type: ignore[attr-defined]
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():  # type: ignore[attr-defined]
                    formatter.write(f"  {line}\n")


class Command(_GroupedHelp, TyperCommand):
    """A command with grouped help; its epilog has one example per line."""


class Group(_GroupedHelp, TyperGroup):
    """A group of commands, listed in sections by their panel, in the order of declaration."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel of commands."""
        sections: dict[str, list[tuple[str, str]]] = {}
        names = self.list_commands(ctx)
        limit = formatter.width - 6 - max(map(len, names), default=0)
        for name in names:
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None) or "Commands"
                sections.setdefault(str(panel), []).append((name, command.get_short_help_str(limit)))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
