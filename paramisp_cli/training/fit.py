"""Weights in closed form: a camera's colours fitted to the JPEGs inside its RAW files, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from paramisp_cli import atomic, cameras, formats, models, weights, white_balance
from paramisp_cli.batch import find
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FormatError, ParamispError
from paramisp_cli.models.base import IspModel
from paramisp_cli.rendition.fit import Cells
from paramisp_cli.rendition.look import aligned_preview, cells_of
from paramisp_cli.rendition.preview import Misfit
from paramisp_cli.types import RawImage

_WAYS = (Direction.UNPROCESS, Direction.RENDER)


def fit(
    paths: Sequence[Path | str],
    folder: Path | str,
    camera: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Fit both directions to the RAW files among ``paths`` (files and folders) → the checkpoints written.

    camera  use only cameras whose name contains this; all files must be of one camera
    tell    takes a line for each file that cannot be used

    The network of the checkpoints is that of the generic weights, if there are any, and starts as no change: training
    continues from there. Raises ConfigError for several cameras, FormatError if no file can be used, and the errors of
    writing.
    """
    gathered: dict[str, list[tuple[str, dict[Direction, Cells]]]] = {}
    for each in find.search(paths, formats.RAW_SUFFIXES, recursive=True).inputs:
        try:
            if each.error is not None:
                raise each.error
            name, colours = _colours(each.source)
        except (ParamispError, Misfit) as error:
            text = str(error)
            tell(text if text.startswith(str(each.source)) else f"{each.source}: {text}")
            continue
        if camera is None or camera.lower() in name.lower():
            gathered.setdefault(name, []).append((each.source.name, colours))
    if not gathered:
        raise FormatError("no RAW file holds a JPEG by its camera that fits; see the lines above")
    if len(gathered) > 1:
        raise ConfigError(
            f"files of {len(gathered)} cameras: {', '.join(sorted(gathered))}; pass `camera` to choose one"
        )
    ((name, photographs),) = gathered.items()
    return [
        _written(name, photographs, direction, Path(folder)) for direction in (Direction.UNPROCESS, Direction.RENDER)
    ]


def _colours(path: Path) -> tuple[str, dict[Direction, Cells]]:
    """Read a RAW file → (name of its camera, its colours for both directions)."""
    raw = formats.read(path)
    if not isinstance(raw, RawImage):
        raise FormatError(f"{path}: is a picture, not a RAW file")
    if raw.camera is None:
        raise FormatError(f"{path}: names no camera")
    known = cameras.find(raw.camera)
    name = known.name if known else raw.camera.name
    raw = white_balance.balanced(raw)
    aligned = aligned_preview(raw)
    return name, {way: cells_of(raw, aligned, way) for way in _WAYS}


def _written(
    camera: str, photographs: Sequence[tuple[str, dict[Direction, Cells]]], direction: Direction, folder: Path
) -> Path:
    """Fit one direction and write its checkpoint."""
    model = _begin(direction)
    model.fit_colours([colours[direction] for _, colours in photographs])
    model.trust_colours()
    names = [name for name, _ in photographs]
    path = weights.save(
        model,
        folder / f"{weights.slug(camera)}.{direction}.safetensors",
        camera=camera,
        recipe="fit",
        training={"photographs": names, "cameras": [camera], "steps": 0},
        licence="MIT",
        half=True,
    )
    card = (
        f"# {camera}, {direction}\n\n"
        f"* Fitted in closed form, under the prior over cameras, to the JPEG inside {', '.join(names)}.\n"
        "* The network is not trained: it changes nothing.\n"
        "* Measured on no photograph.\n"
        "* Licence: MIT.\n"
    )
    atomic.write_bytes(path.with_suffix(".md"), card.encode())
    return path


def _begin(direction: Direction) -> IspModel:
    """Return a network that fits colours: with the generic weights if there are any, else with fresh ones."""
    for name in models.names(needs_weights=True):
        kind = models.architecture(name)
        if kind.fits_colours:
            generic = weights.find(None, direction, name)
            return kind(direction) if generic is None else weights.load(generic.path)
    raise ConfigError("no architecture fits colours")
