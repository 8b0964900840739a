"""Search for RAW files, and for the camera's JPEG of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from paramisp_cli import formats
from paramisp_cli.errors import InputMissingError, ParamispError
from paramisp_cli.formats import raster
from paramisp_cli.types import RawImage, SrgbImage

EMBEDDED = "embedded"
"""Name of the JPEG inside a RAW file."""
_JPEG_SUFFIXES = (".jpg", ".jpeg")


def raws(places: Sequence[Path | str]) -> list[Path]:
    """Find every RAW file among files and below folders, sorted, each once; raises InputMissingError."""
    found: dict[Path, None] = {}
    for place in map(Path, places):
        if not place.exists():
            raise InputMissingError(f"{place}: no such file or folder")
        below = sorted(place.rglob("*")) if place.is_dir() else [place]
        found |= dict.fromkeys(p for p in below if p.is_file() and p.suffix.lower() in formats.RAW_SUFFIXES)
    if not found:
        raise InputMissingError(f"{', '.join(map(str, places))}: no RAW file below")
    return list(found)


def camera_jpeg(path: Path, raw: RawImage) -> tuple[SrgbImage, str] | None:
    """Read the camera's JPEG with the most pixels and return it with its name; None if there is none.

    It is a file beside the RAW file, of the same stem, or the preview inside (``EMBEDDED``).
    """
    choices = []
    for sibling in sorted(path.parent.iterdir()):
        if sibling.stem == path.stem and sibling.suffix.lower() in _JPEG_SUFFIXES:
            picture = formats.read(sibling)
            if isinstance(picture, SrgbImage):
                choices.append((picture, sibling.name))
    if raw.metadata.jpeg is not None:
        with suppress(ParamispError):  # some previews cannot be decoded; a sibling may do
            choices.append((raster.read_bytes(raw.metadata.jpeg, path), EMBEDDED))
    return max(choices, key=lambda choice: choice[0].pixels.size) if choices else None


def fingerprint(path: Path) -> str:
    """Return a hash of path, size and time: it changes with the file, without a read of its content."""
    state = path.stat()
    return hashlib.sha256(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]


def pair_name(path: Path) -> str:
    """Return the name of the pair of a RAW file: its stem with a hash of its path."""
    return f"{path.stem}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]}"
