"""The camera's JPEG beside a RAW file (IMG_0001.CR2 + IMG_0001.JPG): find it, and check that it shows the same shot."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from paramisp_cli.errors import FileAccessError, FormatError, InputMissingError
from paramisp_cli.formats import exif
from paramisp_cli.formats.jpeg import exif_block, frame_size
from paramisp_cli.types import Camera, RawImage

SMALL = 640
"""Longer side [px] below which the JPEG inside a RAW file gives way to a JPEG beside it."""
_SUFFIXES = (".JPG", ".jpg", ".Jpg", ".JPEG", ".jpeg", ".Jpeg")
_SHAPE = 0.04
"""Share by which the shapes of JPEG and RAW may differ."""
_SOFTWARE = 0x0131

OURS = "paramisp"
EDITORS = (
    OURS, "adobe", "photoshop", "lightroom", "camera raw", "darktable", "rawtherapee", "gimp", "capture one",
    "dxo photolab", "dxo optics", "affinity", "snapseed", "picasa", "acdsee", "luminar", "digikam", "showfoto",
    "digital photo professional", "capture nx", "viewnx", "nx studio", "silkypix", "aperture 3", "iphoto",
    "apple photos", "photoscape", "xnview", "irfanview", "faststone", "on1 photo", "paintshop", "paint.net",
    "imagemagick", "graphicsmagick", "pixelmator", "vsco", "zoner", "corel", "photodirector", "microsoft",
    "windows photo", "instagram", "filmulator", "imaging edge", "image data converter", "olympus workspace",
    "raw file converter", "ufraw", "nomacs",
)  # fmt: skip
"""Programs that change a picture, in lower case; cameras write the version of their firmware into the same tag."""


def attach(raw: RawImage, path: Path, chosen: Path | None = None) -> RawImage:
    """Return the RAW of ``path`` with the JPEG that shows its look, if that is not the one inside it.

    The JPEG of the same name beside the file is used if the JPEG inside is missing, small or another program's, and the
    one beside is the camera's own of this shot; a note tells why it is not. ``chosen`` is a JPEG that the user names:
    it is used in any case. Raises InputMissingError, FileAccessError or FormatError for ``chosen``.
    """
    if chosen is not None:
        return _with(raw, _bytes(chosen), f"--look-from {chosen.name}")
    if raw.model is not None or not _inside_is_poor(raw):
        return raw
    notes = []
    for beside in _beside(path):
        try:
            data = _bytes(beside)
            reason = _mismatch(raw, data)
        except (FormatError, FileAccessError, InputMissingError):
            continue  # not a JPEG at all: none that a camera wrote
        if not reason:
            return _with(raw, data, f"{beside.name} beside the file")
        if OURS not in reason:
            notes.append(f"{beside.name} beside it does not show its look: {reason}")
    return replace(raw, notes=(*raw.notes, *notes)) if notes else raw


def _with(raw: RawImage, jpeg: bytes, name: str) -> RawImage:
    return replace(raw, metadata=replace(raw.metadata, jpeg_beside=jpeg), origin={**raw.origin, "look": name})


def _inside_is_poor(raw: RawImage) -> bool:
    """Tell whether the JPEG inside a RAW file is missing, another program's, or small."""
    jpeg = raw.metadata.jpeg
    if jpeg is None or "jpeg" in raw.origin:
        return True
    size = frame_size(jpeg)
    return size is None or max(size) < SMALL


def _beside(path: Path) -> list[Path]:
    """List the JPEGs of the same name, each once: a file system may take all cases for one name."""
    found: dict[tuple[int, int], Path] = {}
    for suffix in _SUFFIXES:
        beside = path.with_suffix(suffix)
        with suppress(OSError):
            status = beside.stat()
            found.setdefault((status.st_dev, status.st_ino), beside)
    return list(found.values())


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputMissingError(f"`look_from` {path}: no such file") from error
    except OSError as error:
        raise FileAccessError(f"`look_from` {path}: cannot be read: {error.strerror or error}") from error
    if frame_size(data) is None:
        raise FormatError(f"`look_from` {path}: is not a JPEG; give the JPEG that the camera made of this shot")
    return data


def _mismatch(raw: RawImage, jpeg: bytes) -> str:
    """Return why a JPEG is not the camera's own of this shot; "" if it is."""
    try:
        tags = exif.parse(exif_block(jpeg) or b"")
    except FormatError:
        return "it has no EXIF"
    software = tags.text("ifd0", _SOFTWARE)
    if any(editor in software.lower() for editor in EDITORS):
        return f"it was written by {software}"
    camera = exif.camera(tags)
    if camera is None:
        return "its EXIF names no camera"
    if raw.camera is not None and _key(camera) != _key(raw.camera):
        return f"it is by {camera.name}, the RAW file by {raw.camera.name}"
    taken, own = exif.taken(tags), exif.taken_of(raw.metadata.exif)
    if taken and own and taken != own:
        return f"it was taken at {taken}, the RAW file at {own}"
    size = frame_size(jpeg)
    assert size is not None  # _bytes checked it
    ratio, wanted = max(size) / min(size), max(raw.size) / min(raw.size)
    if abs(ratio / wanted - 1) > _SHAPE:
        return f"its shape ({size[1]}×{size[0]}) is not the RAW picture's: it is cropped"
    return ""


def _key(camera: Camera) -> tuple[str, str]:
    return camera.make.strip().lower(), camera.model.strip().lower()
