"""Sources of blurred pictures: folders of frames, videos, panoramas, RAW photographs and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from paramisp_cli import formats
from paramisp_cli.errors import FormatError, InputMissingError
from paramisp_cli.formats import raster
from paramisp_cli.training.blurred import video
from paramisp_cli.types import SrgbImage

PANORAMA = ".hdr"
_FEWEST = 3
"""Fewest pictures of a folder that count as frames."""


class Kind(StrEnum):
    """The kind of a source."""

    FRAMES = "frames"
    VIDEO = "video"
    STILL = "still"


@dataclass(frozen=True, slots=True)
class Source:
    """A clip of frames, or a still scene: a panorama, a RAW photograph or a picture.

    files  the frames in order, or the one file
    """

    path: Path
    kind: Kind
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Name for files: letters, digits, dots and dashes."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.path.stem).strip("-") or "source"

    @property
    def size(self) -> int:
        """Bytes of all files: together with the name, it tells whether a source is the same as before."""
        return sum(path.stat().st_size for path in self.files)


def find(paths: Sequence[Path | str], *, kernels: bool) -> list[Source]:
    """Find the sources among files and folders, each once.

    A folder that holds pictures is a clip of frames, in the order of their names; with ``kernels`` each of its pictures
    is a still scene. Raises InputMissingError for a missing path, and if there is no source.
    """
    found: dict[Path, Source] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputMissingError(f"{path}: no such file or folder")
        for each in _of_folder(path, kernels) if path.is_dir() else [_of_file(path, kernels)]:
            found.setdefault(each.path.absolute(), each)
    if not found:
        kinds = "pictures, RAW files or .hdr panoramas" if kernels else "frames, videos, RAW files or .hdr panoramas"
        hint = "" if kernels else f"; a folder of frames has at least {_FEWEST}, and --kernels takes single pictures"
        raise InputMissingError(f"{', '.join(map(str, paths))}: no {kinds} below{hint}")
    return list(found.values())


def _of_file(path: Path, kernels: bool) -> Source:
    suffix = path.suffix.lower()
    if suffix in video.SUFFIXES:
        video.check_installed(path)
        return Source(path, Kind.VIDEO, (path,))
    if suffix != PANORAMA and not kernels and formats.identify(path) in raster.FORMATS:
        raise FormatError(f"{path}: is a single picture; pass a folder of frames, or --kernels for synthetic shake")
    return Source(path, Kind.STILL, (path,))


def _of_folder(folder: Path, kernels: bool) -> list[Source]:
    """Return the sources in a folder and below, sorted."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    own: list[Source] = []
    pictures = []
    for entry in entries:
        suffix = entry.suffix.lower()
        if entry.is_dir():
            own += _of_folder(entry, kernels)
        elif suffix == PANORAMA or suffix in video.SUFFIXES:
            own.append(_of_file(entry, kernels))
        elif suffix in formats.SRGB_SUFFIXES:
            pictures.append(entry)
        elif suffix in formats.RAW_SUFFIXES:
            own.append(Source(entry, Kind.STILL, (entry,)))
    if kernels:
        own += [Source(entry, Kind.STILL, (entry,)) for entry in pictures]
    elif len(pictures) >= _FEWEST:
        own.append(Source(folder, Kind.FRAMES, tuple(sorted(pictures, key=_natural))))
    return own


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def frames(source: Source) -> Iterator[np.ndarray]:
    """Yield the frames of a clip, (H, W, 3) uint8 sRGB, upright; raises FormatError if their sizes differ."""
    size = None
    pictures = video.read(source.path) if source.kind == Kind.VIDEO else map(picture, source.files)
    for number, pixels in enumerate(pictures):
        if size is not None and pixels.shape != size:
            raise FormatError(
                f"{source.path}: frame {number} has {pixels.shape[1]}×{pixels.shape[0]} px, "
                f"the first one {size[1]}×{size[0]}"
            )
        size = pixels.shape
        yield pixels


def picture(path: Path) -> np.ndarray:
    """Read a picture, (H, W, 3) uint8 sRGB, upright. Raises FormatError for a RAW file."""
    image = formats.read(path)
    if not isinstance(image, SrgbImage):
        raise FormatError(f"{path}: is a RAW file, not a frame")
    return np.ascontiguousarray(raster.apply_orientation(raster.to_depth(image.pixels, 8), image.orientation))
