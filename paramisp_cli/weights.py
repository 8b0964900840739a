"""Find weights by name, load them as models, and import published checkpoints.

A checkpoint is one safetensors file per camera and direction,
``<folder>/<architecture>/<camera>.<direction>.safetensors``, with the camera's make and model in lower case and dashes
for other characters than letters and digits ("gopro-hero7-black.unprocess.safetensors"), or
``generic.<direction>.safetensors`` for any camera. No function fetches weights from a network.

Importing this module, listing and finding do not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paramisp_cli import published
from paramisp_cli.cameras import slug
from paramisp_cli.checkpoint import FORMAT_VERSION, HEADER, directions, info, load, load_arrays, save, verify
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError, OutputExistsError, WeightsError
from paramisp_cli.models import architecture as architecture_class
from paramisp_cli.models import automatic
from paramisp_cli.models import names as architectures
from paramisp_cli.types import Camera

if TYPE_CHECKING:
    import torch

    from paramisp_cli.models.base import IspModel

__all__ = [
    "ENVIRONMENT", "FORMAT_VERSION", "GENERIC", "HEADER", "Checkpoint", "Found", "architecture_of", "available",
    "candidates", "directions", "find", "import_checkpoint", "info", "load", "load_arrays", "load_model", "locate",
    "places", "recognise", "save", "slug", "user_folder", "verify",
]  # fmt: skip

ENVIRONMENT = "PARAMISP_WEIGHTS"
GENERIC = "generic"
BOTH = "both"
"""Stands for the direction in the name of a file that serves both: ``<camera>.both.safetensors``."""
_PREFERRED = architectures(needs_weights=True)
"""Architectures searched first unless one is requested, best first; others follow by name."""
_ON_REQUEST = {*architectures()} - {*automatic()}
"""Architectures whose weights are used only if the architecture or the weights are named."""


@dataclass(frozen=True, slots=True)
class Found:
    """A result of the search: the file, the camera's name in the file name, and the rule that found it."""

    path: Path
    name: str
    how: str

    @property
    def is_generic(self) -> bool:
        """True for the fallback for any camera, False for the camera's own checkpoint."""
        return self.name == GENERIC


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An entry of the list: the file, its place in the search, its header (``HEADER``), or the reason of its damage."""

    path: Path
    how: str
    header: Mapping[str, str]
    damaged: str | None = None


# --- the search -------------------------------------------------------------------------------------------------------


def user_folder() -> Path:
    """Return the user's folder of imported and trained checkpoints: ``weights`` in the user's data folder."""
    import platformdirs

    return platformdirs.user_data_path("paramisp") / "weights"


def places() -> list[tuple[str, Path]]:
    """List (name, folder or file) in the order of search: $PARAMISP_WEIGHTS, checkout or wheel, the user's folder."""
    package = Path(__file__).parent
    search_places = []
    if value := os.environ.get(ENVIRONMENT):
        search_places.append((f"${ENVIRONMENT}", Path(value).expanduser()))
    if (package.parent / "pyproject.toml").is_file():
        search_places.append(("checkout", package.parent / "weights"))
    return [*search_places, ("installed package", package / "shipped_weights"), ("user data folder", user_folder())]


def _architecture_folders(root: Path) -> list[Path]:
    """List the folders of a place, preferred architecture first; the place itself last, for loose files."""
    try:
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
    except OSError:
        folders = []
    rank = {name: number for number, name in enumerate(_PREFERRED)}
    return [*sorted(folders, key=lambda folder: rank.get(folder.name, len(rank))), root]


def locate(name_or_file: Path | str, direction: Direction | str | None = None) -> list[Path]:
    """Return a checkpoint's files: a given file itself, or for a name ("generic", a camera's) one file per direction.

    Raises WeightsError if there is none.
    """
    path = Path(name_or_file)
    if _is_file(path):
        return [path]
    ways = ISP_DIRECTIONS if direction is None else (Direction(direction),)
    named = slug(str(name_or_file))
    matches = [find(named, way, generic=named == GENERIC, on_request=True) for way in ways]
    files = list(dict.fromkeys(each.path for each in matches if each is not None))
    if not files:
        raise WeightsError(f"{path}: no such file or checkpoint; `paramisp weights list` shows the names")
    return files


def _is_file(path: Path) -> bool:
    """Tell whether a path is a file; False for a name that no file system accepts."""
    return os.path.isfile(path)  # noqa: PTH113 – Path.is_file raises for names too long


def _checked_file(path: Path, direction: Direction, architecture: str | None, how: str) -> Found:
    """Return an explicitly named file. Raises WeightsError if it is missing, or if direction or architecture differ."""
    if not _is_file(path):
        raise WeightsError(f"{path} ({how}) does not exist")
    if path.suffix not in published.SUFFIXES:
        header = info(path)
        for key, wanted in (("direction", str(direction)), ("architecture", architecture)):
            fits = direction in directions(header) if key == "direction" else header[key] == wanted
            if wanted is not None and not fits:
                raise WeightsError(f"{path} ({how}) has {key} {header[key]}, {wanted} is needed")
    return Found(path, path.name.split(".")[0], how)


def candidates(camera: Camera | str | Sequence[str] | None) -> list[str]:
    """List the distinct file names for a search: from a Camera's name and its make and model, or from each name."""
    if camera is None:
        names: Iterable[str] = ()
    elif isinstance(camera, Camera):
        names = (camera.name, f"{camera.make} {camera.model}")
    else:
        names = (camera,) if isinstance(camera, str) else camera
    return [name for name in dict.fromkeys(slug(name) for name in names) if name]


def find(
    camera: Camera | str | Sequence[str] | None,
    direction: Direction | str,
    architecture: str | None = None,
    explicit: Path | str | None = None,
    *,
    generic: bool = True,
    on_request: bool = False,
) -> Found | None:
    """Find the checkpoint for a camera: its own if any place has it, else (``generic``) the generic one, else None.

    ``camera`` may be several names (aliases), best first. ``explicit`` (`weights`) is a file, a folder (the only place
    of the search), or the name of a checkpoint. $PARAMISP_WEIGHTS is a file or a folder; after a folder the search
    continues. ``on_request`` includes architectures that are never chosen by themselves. Raises WeightsError if an
    explicit checkpoint is missing or is for another direction or architecture.
    """
    direction = Direction(direction)
    if explicit is not None and not os.path.lexists(Path(explicit).expanduser()) and not Path(explicit).suffix:
        return _named(str(explicit), direction, architecture)
    where = places() if explicit is None else [("--weights", Path(explicit).expanduser())]
    how, first = where[0]
    if how in ("--weights", f"${ENVIRONMENT}") and not os.path.isdir(first):  # noqa: PTH112 – see _is_file
        return _checked_file(first, direction, architecture, how)
    for name in [*candidates(camera), *([GENERIC] if generic else [])]:
        for how, root in where:
            folders = _architecture_folders(root) if architecture is None else [root / architecture]
            for folder in folders:
                if architecture is None and explicit is None and not on_request and folder.name in _ON_REQUEST:
                    continue
                for way in (direction, BOTH):
                    path = folder / f"{name}.{way}.safetensors"
                    if _is_file(path):
                        return Found(path, name, how)
    if explicit is not None:
        raise WeightsError(f"{explicit} (`weights`) holds no checkpoint for {direction}; see `paramisp weights list`")
    return None


def _named(name: str, direction: Direction, architecture: str | None) -> Found:
    """Find a checkpoint by its name, without a camera. Raises WeightsError."""
    match = find(name, direction, architecture, generic=slug(name) == GENERIC, on_request=True)
    if match is None:
        raise WeightsError(
            f"{name} (`weights`) is neither a file nor the name of a checkpoint for {direction}; "
            "`paramisp weights list` shows the names"
        )
    return Found(match.path, match.name, "--weights")


def available() -> list[Checkpoint]:
    """List the checkpoints in all places of the search, in its order; damaged files too, with the reason."""
    checkpoints = []
    for how, root in places():
        paths = [root] if root.is_file() else sorted(root.glob("*.safetensors")) + sorted(root.glob("*/*.safetensors"))
        for path in paths:
            try:
                checkpoints.append(Checkpoint(path, how, info(path)))
            except WeightsError as error:
                checkpoints.append(Checkpoint(path, how, {}, damaged=str(error)))
    return checkpoints


# --- models -----------------------------------------------------------------------------------------------------------


def load_model(
    path_or_name: Path | str,
    direction: Direction | str | None = None,
    device: torch.device | str = "cpu",
    architecture: str | None = None,
) -> IspModel:
    """Load a model from a checkpoint file (.safetensors), a published checkpoint (.ckpt, .pth, .pt), or a name.

    A name is a camera's ("GoPro HERO7 Black", "gopro-hero7-black"), "generic", or an architecture without weights
    ("parametric"). A name needs a ``direction``; a file needs it only if it holds both directions. ``architecture``
    limits a name to one network. Raises WeightsError, or ConfigError without a direction.
    """
    path = Path(path_or_name)
    if path.suffix in (".safetensors", *published.SUFFIXES):
        wanted = None if direction is None else Direction(direction)
        if path.suffix in published.SUFFIXES:
            return _only(path, published.read(path, wanted)).to(device)
        return load(path if wanted is None else _checked_file(path, wanted, None, "given").path, device, wanted)
    name = str(path_or_name)
    if direction is None:
        raise ConfigError(f"the model {name!r} needs a direction: {' or '.join(Direction)}")
    if slug(name) in architectures(needs_weights=False):
        return architecture_class(slug(name))(Direction(direction)).to(device).eval()
    match = find(name, direction, architecture, generic=slug(name) == GENERIC, on_request=True)
    if match is None:
        known = sorted({f"{slug(c.header['camera'])}.{c.header['direction']}" for c in available() if not c.damaged})
        raise WeightsError(
            f"there are no {direction} weights for {name!r}; there are: {', '.join(known) or 'none'}. "
            "`paramisp weights import` adds published ones, and `model` parametric works without"
        )
    return load(match.path, device, direction)


def architecture_of(path: Path) -> str:
    """Return the name of a checkpoint file's architecture. Raises WeightsError."""
    return published.architecture_of(path) if path.suffix in published.SUFFIXES else info(path)["architecture"]


def recognise(path: Path | str) -> str:
    """Return a sentence on a published checkpoint: its architecture and tensors. Raises WeightsError."""
    return published.recognise(Path(path))


def has_seen(path: Path, camera: Camera | None) -> bool:
    """Tell whether a checkpoint is a camera's own, or its training had photographs by the camera, says its header."""
    if camera is None:
        return False
    header = info(path)
    try:
        cameras = json.loads(header.get("training") or "{}").get("cameras") or []
    except (ValueError, AttributeError):
        cameras = []
    return slug(camera.name) in {slug(str(name)) for name in (*cameras, header.get("camera") or "")}


def import_checkpoint(
    path: Path | str,
    dest: Path | str | None = None,
    *,
    camera: str,
    direction: Direction | str | None = None,
    color_matrix_row_sum: float | None = None,
    licence: str = "",
) -> list[Path]:
    """Convert a published checkpoint; return the files written: one per direction, or one for both.

    path                  the file; its tensors' names and shapes determine the architecture
    dest                  a folder of weights (default: the user's) or, for one result, a .safetensors file
    camera                camera name for the files ("Nikon D7000", "generic")
    direction             needed only if the file does not state it
    color_matrix_row_sum  rule of ParamISP's colour matrix; known for the five published cameras, needed for others

    licence               default: that of the weights that the architecture's authors published

    Code inside the file is not run. Raises WeightsError, ConfigError for a missing argument, and OutputExistsError for
    a file ``dest`` that exists.
    """
    path = Path(path)
    if not slug(camera) or not camera.isprintable():
        raise ConfigError(f"cannot derive a file name from `camera` {camera!r}; give make and model")
    dest = user_folder() if dest is None else Path(dest)
    source_hash = hashlib.sha256(published.content(path)).hexdigest()
    wanted = None if direction is None else Direction(direction)
    models = published.read(path, wanted, camera=camera, row_sum=color_matrix_row_sum)
    licence = licence or f"of the authors' weights: {published.licence_of(next(iter(models.values())).name)}"
    is_file = dest.suffix == ".safetensors"
    names: dict[Direction, str] = {way: str(way) for way in models}
    both = len(models) > 1 and all(model.serves_both for model in models.values())
    if both:
        names = {next(iter(models)): BOTH}
    if is_file and len(names) > 1:
        raise ConfigError(f"{path} holds both directions, and {dest} is one file; pass `direction`, or a folder")
    if is_file and dest.is_dir():
        raise ConfigError(f"{dest} is a folder; give another name, or remove it")
    if is_file and os.path.lexists(dest):
        raise OutputExistsError(f"{dest}: exists already; give another name, or remove it")
    return [
        save(
            models[way],
            dest if is_file else dest / models[way].name / f"{slug(camera)}.{name}.safetensors",
            camera=camera,
            recipe="published",
            licence=licence,
            source_hash=source_hash,
            extra={"source": path.name.encode(errors="backslashreplace").decode()},
            both=both,
        )
        for way, name in names.items()
    ]


def _only(path: Path, models: Mapping[Direction, IspModel]) -> IspModel:
    """Return the only model of a file. Raises ConfigError if the file holds both directions."""
    if len(models) > 1:
        raise ConfigError(f"{path} holds both directions; pass `direction`: {' or '.join(models)}")
    return next(iter(models.values()))
