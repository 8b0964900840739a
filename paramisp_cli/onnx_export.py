"""Export a checkpoint of ``fast`` as one ONNX file that describes itself; no torch, no ``onnx`` package."""

from __future__ import annotations

import json
from pathlib import Path

from paramisp_cli import __version__, atomic, weights
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.errors import ConfigError, FileAccessError, OutputExistsError
from paramisp_cli.models.fast import graph, spec

_PIXELS = {
    Kind.SRGB: "(1, 3, height, width) float32, sRGB-encoded RGB in [0, 1]",
    Kind.RAW: "(1, 1, height, width) float32, linear, black 0, white 1, not white-balanced, CFA RGGB",
}
_PARAMETERS = {
    "wb_gains": "white-balance gains R, G, B with G = 1: 1 / AsShotNeutral, over its green",
    "cam_to_srgb": "white-balanced camera RGB to linear sRGB: multiply ColorMatrix (XYZ to camera) by sRGB to XYZ, "
    "scale each row to a sum of 1, and invert",
    "optical": "focal length [mm], f-number, exposure time [s], ISO; each > 0",
    "thumbnail": "means of 16 by 16 cells of the whole picture, RGB: ",
}
_CELLS = {
    Kind.SRGB: "of sRGB-encoded values",
    Kind.RAW: "of the square root of R, mean of both G, and B of each 2 by 2 sites, times wb_gains, clipped to [0, 1]",
}
_TILES = (
    "height and width are multiples of {multiple}. Pad a picture on the right and below by reflection about its last "
    "row and column, as far as the next multiple. A mosaic of another CFA is first extended by reflection on the left "
    "or above until it begins with red. A tile begins at multiples of {multiple} and needs {halo} pixels around its "
    "result, or the picture's border; then tiles give the same result as the whole picture."
)
_SHADING = (
    "R, G, B of k1, k2, k3: the mosaic is free of lens shading, which is 1 + k1 r + k2 r^2 + k3 r^3, with r the "
    "squared distance from the picture's middle, 1 in its corners"
)


def export(checkpoint: Path | str, dest: Path | str, direction: Direction | str | None = None) -> list[Path]:
    """Write checkpoints as ONNX files; return their paths.

    checkpoint  the file or the name of a checkpoint
    dest        a folder, which must exist, or one .onnx file; a file that exists is not replaced
    direction   needed for a name of both directions if ``dest`` is a file

    Raises WeightsError, OutputExistsError, FileAccessError; ConfigError for an architecture other than ``fast``.
    """
    dest, paths = Path(dest), weights.locate(checkpoint, direction)
    is_file = dest.suffix == ".onnx"
    if is_file and len(paths) > 1:
        raise ConfigError(f"{checkpoint} has both directions, and {dest} is one file; pass `direction`, or a folder")
    return [_exported(path, dest if is_file else dest / f"{path.stem}.onnx", direction) for path in paths]


def _exported(path: Path, target: Path, direction: Direction | str | None) -> Path:
    header = weights.info(path)
    if header["architecture"] != "fast":
        raise ConfigError(
            f"{path} holds the network {header['architecture']}; only checkpoints of fast become ONNX files"
        )
    if direction is not None and header["direction"] != direction:
        raise ConfigError(f"{path} is for {header['direction']}, not for {direction}")
    config, tensors = weights.load_arrays(path, spec.Config)
    content = graph.build(config, tensors, metadata=metadata(header, config))
    try:
        with atomic.replacing(target, overwrite=False) as temporary:
            temporary.write_bytes(content)
    except FileExistsError as error:
        raise OutputExistsError(f"{target}: exists already; remove it, or pass another -o") from error
    except OSError as error:
        raise FileAccessError.of(error, target, "write it") from error
    return target


def metadata(header: dict[str, str], config: spec.Config) -> dict[str, str]:
    """Return the strings that describe a file: model, tiles, inputs and outputs with their ranges."""
    way, shape = config.direction, spec.GEOMETRY
    taken, given = graph.pixels_in_and_out(way)
    parameters = {**_PARAMETERS, "thumbnail": _PARAMETERS["thumbnail"] + _CELLS[way.input]}
    shading = (
        {}
        if config.lens_shading is None
        else {"lens_shading": json.dumps(config.lens_shading), "lens_shading_meaning": _SHADING}
    )
    return {
        "producer": f"paramisp {__version__}",
        "architecture": "fast",
        "direction": str(way),
        "camera": header["camera"],
        "licence": header.get("licence", ""),
        "recipe": header.get("recipe", ""),
        "multiple": str(shape.multiple),
        "halo": str(shape.halo),
        "tiles": _TILES.format(multiple=shape.multiple, halo=shape.halo),
        f"input.{taken}": _PIXELS[way.input],
        **{f"input.{name}": text for name, text in parameters.items()},
        f"output.{given}": _PIXELS[way.output] + "; not clipped",
        **shading,
    }
