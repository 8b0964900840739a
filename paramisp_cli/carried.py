"""Find the gain map and the RAW that a file carries beside its picture; tell whether the settings use them."""

from __future__ import annotations

from paramisp_cli.errors import FormatError
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


def kept_raw(image: SrgbImage, settings: Settings) -> tuple[kept.KeptRaw | None, list[str]]:
    """Find the RAW that a JPEG carries → (its facts or None, notices); with notices it is not used.

    Raises FormatError if it cannot be given back, or if there is none and the settings require one.
    """
    jpeg = image.metadata.jpeg
    if settings.kept_raw is False or jpeg is None:
        found, removed = None, False
    else:
        try:
            found = kept.find(jpeg)
        except FormatError as error:
            raise FormatError(
                f"{error} (`--no-kept-raw`, in Python `kept_raw=False`, unprocesses the picture alone)"
            ) from error
        removed = found is None and kept.lost(jpeg)
    if found is None:
        if settings.kept_raw:
            raise FormatError("carries no RAW: it never did, or a program that edits or sends it removed it")
        text = "the RAW that it carried was removed by a program that edited or sent it"
        return None, [f"{text}: unprocessed the picture alone"] if removed else []
    chosen = [name for name in ("model", "weights", "look", "like", "levels") if getattr(settings, name) is not None]
    chosen += ["linear"] if settings.linear else []
    if chosen and settings.kept_raw is None:
        return found, [f"carries its RAW, which was not used because of `{chosen[0]}` (pass `kept_raw` to use it)"]
    return found, []
