"""Find the gain map and the RAW that a file carries beside its picture; tell whether the settings use them."""

from __future__ import annotations

from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import gainmap, kept
from paramisp_cli.formats.base import MAX_PIXELS
from paramisp_cli.settings import Settings
from paramisp_cli.types import Notice, SrgbImage


def gain_map(image: SrgbImage, settings: Settings) -> tuple[gainmap.GainMap | None, list[str]]:
    """Find the gain map in the file of a picture → (the map or None, notices).

    A map that cannot be used costs a notice. FormatError if the settings require one.
    """
    if settings.gain_map == "off":
        return None, []
    data, required = image.metadata.jpeg or image.metadata.heif, settings.gain_map == "linear"
    try:
        found = gainmap.find(data, settings.max_pixels or MAX_PIXELS) if data is not None else None
    except FormatError as error:
        if required:
            raise FormatError(f"its gain map cannot be used: {error} (leave out `gain_map` linear)") from error
        text = "its gain map cannot be used"
        return None, [Notice(f"{text}: {error}; left it out", f"{text}; left it out")]
    if found is None and required:
        raise FormatError("has no gain map, which `gain_map` linear needs: leave it out")
    return found, []


WITHOUT_RAW = "(`--no-kept-raw`, in Python `kept_raw=False`, unprocesses the picture alone)"
"""Remedy for a JPEG whose RAW cannot be given back."""


def kept_raw(image: SrgbImage, settings: Settings) -> tuple[kept.KeptRaw | None, list[str]]:
    """Find the RAW that a JPEG carries, and that the settings use → (its facts or None, notices).

    A RAW that is lost or not used costs a notice. FormatError for one that is used and cannot be given back, and for a
    missing one that the settings require; ConfigError for settings that contradict each other.
    """
    jpeg, required = image.metadata.jpeg, settings.kept_raw is True
    if required and settings.exposure is not None:
        raise ConfigError("`exposure`: the RAW in a JPEG has its own; leave out `kept_raw`")
    if settings.kept_raw is False or jpeg is None:
        found, lost = None, False
    else:
        chosen = "" if required else _chosen(settings)
        try:
            found = kept.find(jpeg)
        except FormatError as error:
            if chosen:
                return None, [f"carries a RAW, which was not used because of `{chosen}`, and is damaged"]
            raise FormatError(f"{error} {WITHOUT_RAW}") from error
        lost = found is None and kept.lost(jpeg)
        if found is not None and kept.turned_back(image.pixels, found.raw).shape[:2] != found.raw.size:
            text = "its pixels were changed after it was read"
            if required:
                raise FormatError(f"the RAW that it carries does not belong to it: {text}")
            return None, [f"carries a RAW, which was not used: {text}"]
        if found is not None and chosen:
            return None, [f"carries its RAW, which was not used because of `{chosen}` (pass `kept_raw` to use it)"]
    if found is None and required:
        raise FormatError("carries no RAW: it never did, or a program that edits or sends it removed it")
    text = "the RAW that it carried was removed by a program that edited or sent it: unprocessed the picture alone"
    return found, [text] if lost else []


def _chosen(settings: Settings) -> str:
    """Return the first setting that tells how to make a RAW of the picture; empty if there is none."""
    optional = ("model", "weights", "look", "like", "levels", "cfa", "exposure")
    chosen = [name for name in optional if getattr(settings, name) is not None]
    chosen += [
        name for name, wish in (("linear", settings.linear), ("gain_map", settings.gain_map == "linear")) if wish
    ]
    return next(iter(chosen), "")
