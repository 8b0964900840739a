"""Read the user's files: images, and the RAW files of the setting ``like``, whose values stand in for missing ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np

from paramisp_cli import atomic, cameras, companion, formats, white_balance
from paramisp_cli.errors import ConfigError, FileAccessError, FormatError, InputMissingError, MetadataError
from paramisp_cli.formats import exif
from paramisp_cli.settings import Settings
from paramisp_cli.types import Camera, Metadata, OpticalParams, RawImage, SrgbImage

_NEAR = timedelta(days=1)
"""Time between two shots below which the nearest in time has the likeliest light."""

Stamps = tuple[tuple[Path, tuple[int, int]], ...]
"""Files, each with its stamp: a cache key that changes when a file is replaced."""


def read(path: Path, settings: Settings = Settings()) -> SrgbImage | RawImage:
    """Read an image file within the settings' limit of pixels; with ``isolate``, RAW files in their own process.

    A RAW file gets the JPEG that shows its look (``companion``). Raises the errors of ``formats.read``.
    """
    image = formats.read(path, max_pixels=settings.max_pixels or formats.MAX_PIXELS, isolate=settings.isolate)
    if isinstance(image, RawImage) and settings.stop_at is None:  # a picture that stops there has no look
        chosen = None if settings.look_from is None else Path(settings.look_from)
        return companion.attach(image, path, chosen)
    return image


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A RAW file of ``like``: its parameters (the mosaic is reduced to 2×2 sites), and whether it may show a look.

    ``how`` tells why it stands for a shot: "" if there is no other.
    """

    path: Path
    raw: RawImage
    has_look: bool
    is_foreign: bool
    how: str = ""

    @property
    def name(self) -> str:
        """Name for the origin of a value."""
        return f"--like {self.path.name}{f' ({self.how})' if self.how else ''}"


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """The RAW files of ``like``, of one camera, and notices of the files that cannot be read."""

    files: tuple[Reference, ...] = ()
    notices: tuple[str, ...] = ()


def like_files(settings: Settings) -> tuple[Path, ...]:
    """List the RAW files of ``like``: files in their order, and the RAW files of folders, sorted, hidden ones left out.

    RAW files that a model made are left out of folders. Raises InputMissingError for a missing path and for a folder
    without RAW files, FileAccessError for a folder that cannot be read.
    """
    found: list[Path] = []
    for path in settings.like_paths:
        found += _raws_of(path) if path.is_dir() else [path]
    return tuple(dict.fromkeys(found))


def _raws_of(folder: Path) -> list[Path]:
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise FileAccessError(f"`like` {folder}: the folder cannot be read: {error.strerror or error}") from error
    raws = [path for path in entries if path.suffix.lower() in formats.RAW_SUFFIXES and path.is_file()]
    raws = [path for path in raws if not _by_model(path, atomic.stamp(path))]
    if not raws:
        raise InputMissingError(f"`like` {folder}: no RAW file by a camera in this folder; name another")
    return raws


@lru_cache(maxsize=4096)
def _by_model(path: Path, stamp: tuple[int, int]) -> bool:
    """Tell whether a model made a RAW file: it holds the model's guess, not the camera's values."""
    return formats.is_own(path)


def stamps(paths: tuple[Path, ...]) -> Stamps:
    """Return the paths, each with its stamp."""
    return tuple((path, atomic.stamp(path)) for path in paths)


def references(settings: Settings) -> References:
    """Read the parameters of the RAW files of ``like``, once for all files of a batch.

    Of several files, those that cannot be read are left out, with a notice. Raises ConfigError for files of several
    cameras or a picture among them, and the errors of reading a single one.
    """
    if not settings.like_paths:
        return References()
    return _references(stamps(like_files(settings)), settings.max_pixels, settings.isolate)


@lru_cache(maxsize=1)
def _references(files: Stamps, max_pixels: int | None, isolate: bool) -> References:
    settings = Settings(max_pixels=max_pixels, isolate=isolate)
    found: list[Reference] = []
    notices: list[str] = []
    for path, _ in files:
        try:
            raw = read_like(path, settings)
        except (FormatError, MetadataError) as error:
            if len(files) == 1:
                raise
            notices.append(f"`like` {error.named(path)}: left out")
            if len(notices) == len(files):
                raise
            continue
        reference = _reference(path, raw)
        if found and not _same(found[0].raw.camera, raw.camera):
            one, other = (each.camera.name if each.camera else "no camera" for each in (found[0].raw, raw))
            raise ConfigError(
                f"`like`: {found[0].path.name} is by {one}, {path.name} by {other}; give RAW files of one camera"
            )
        found.append(reference)
    return References(tuple(found), tuple(notices))


def read_like(path: Path, settings: Settings) -> RawImage:
    """Read a RAW file of ``like`` whole, with its white balance completed; ConfigError for a picture."""
    raw = read(path, replace(settings, look_from=None))
    if not isinstance(raw, RawImage):
        raise ConfigError(f"`like` {path}: is a picture; it must be a RAW file")
    return white_balance.balanced(raw)


def _reference(path: Path, raw: RawImage) -> Reference:
    """Reduce a RAW file to its parameters; the CFA is shifted to the crop's corner."""
    about = raw.metadata
    beside = about.jpeg_beside is not None
    has_look, is_foreign = beside or about.jpeg is not None, not beside and "jpeg" in raw.origin
    raw = raw.cropped()
    mosaic, metadata = raw.mosaic[:2, :2].copy(), Metadata(exif=about.exif, source_name=path.name)
    raw = replace(raw, mosaic=mosaic, linear=None, crop=None, metadata=metadata)
    return Reference(path, raw, has_look, is_foreign)


def _same(one: Camera | None, other: Camera | None) -> bool:
    if one is None or other is None:
        return one is other
    known = cameras.find(one)
    return one == other or (known is not None and known is cameras.find(other))


# --- the file that stands for a shot ----------------------------------------------------------------------------------


def nearest(image: SrgbImage | RawImage, found: References) -> Reference | None:
    """Return the file of ``like`` whose values stand for a shot, with the reason; None without files.

    The file of the same name; else the nearest in time, within a day; else the nearest in brightness of the scene; else
    the one with the median white balance.
    """
    files = found.files
    if len(files) < 2:
        return files[0] if files else None
    stem = Path(image.metadata.source_name or "").stem.lower()
    for each in files:
        if stem and each.path.stem.lower() == stem:
            return replace(each, how="same name")
    taken = _taken(image)
    if taken is not None:
        away = [(abs(at - taken), number) for number, each in enumerate(files) if (at := _taken(each.raw)) is not None]
        if away and min(away)[0] <= _NEAR:
            return replace(files[min(away)[1]], how=f"nearest in time of {len(files)}")
    bright = _brightness(image.optical)
    if bright is not None:
        off = [
            (abs(own - bright), number)
            for number, each in enumerate(files)
            if (own := _brightness(each.raw.optical)) is not None
        ]
        if off:
            return replace(files[min(off)[1]], how=f"nearest in brightness of {len(files)}")
    stops = np.log2([each.raw.canonical.wb_gains for each in files])
    middle = np.abs(stops - np.median(stops, 0)).sum(1).argmin()
    return replace(files[int(middle)], how=f"median white balance of {len(files)}")


def _taken(image: SrgbImage | RawImage) -> datetime | None:
    try:
        return datetime.strptime(exif.taken_of(image.metadata.exif), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None


def _brightness(optical: OpticalParams) -> float | None:
    """Return the exposure value at ISO 100, None if it is unknown."""
    if optical.iso is None or optical.exposure_time is None or optical.f_number is None:
        return None
    return math.log2(optical.f_number**2 / optical.exposure_time * 100 / optical.iso)
