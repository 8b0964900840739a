"""Complete the parameters of a shot, each with its origin, and pick the model of its conversion.

This module does not import torch, for ``inspect`` and ``--dry-run``. In messages, a setting's name stands in backticks
(`exposure_time`); the command line shows its flag instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli import atomic, cameras, formats, weights
from paramisp_cli.errors import ConfigError, FormatError, WeightsError
from paramisp_cli.formats import kept
from paramisp_cli.rendition.form import Rendition
from paramisp_cli.settings import CAMERA_LOOK, DTYPES, KEPT_RAW, LOOKS, MODELS, WEIGHTLESS, Settings
from paramisp_cli.types import (
    FALLBACK_OPTICAL,
    Camera,
    CanonicalParams,
    Direction,
    Metadata,
    Notice,
    OpticalParams,
    RawImage,
    SrgbImage,
)

__all__ = [
    "CAMERA_LOOK", "DTYPES", "KEPT_RAW", "LOOKS", "MODELS", "WEIGHTLESS", "Conversion", "Settings", "check", "complete",
    "known_as", "read",
]  # fmt: skip

_OPTICAL_TEXT = {
    "iso": ("ISO", "ISO {:g}"),
    "exposure_time": ("ExposureTime", "{:g} s"),
    "f_number": ("FNumber", "f/{:g}"),
    "focal_length": ("FocalLength", "{:g} mm"),
}
"""Field of ``OpticalParams`` → its name in EXIF, the format of its value."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The parameters, the model and the checkpoint for one file, each with its origin.

    Unknown values of ``optical`` are None. ``checkpoint`` is None for an architecture that needs no weights.
    ``notices`` are sentences for the user, without the file's name. ``memory_plan`` is set when the runner has chosen
    the network's memory plan, ``rendition`` when the look of the JPEG inside a RAW file has been fitted.
    ``kept_raw`` tells of the RAW that a JPEG carries.
    """

    direction: Direction
    camera: Camera | None
    canonical: CanonicalParams
    optical: OpticalParams
    origin: dict[str, str]
    architecture: str
    checkpoint: Path | None
    notices: tuple[str, ...]
    facts: cameras.CameraFacts = field(repr=False)
    memory_plan: str | None = None
    rendition: Rendition | None = None
    kept_raw: kept.KeptRaw | None = None

    def describe(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        c, o = self.canonical, self.optical
        used: dict[str, Any] = {"memory_plan": self.memory_plan} if self.memory_plan else {}
        if self.direction == Direction.UNPROCESS:
            used["kept_raw"] = str(self.kept_raw) if self.kept_raw else None
        return used | {
            "camera": self.camera.name if self.camera else None,
            "model": self.architecture,
            "weights": str(self.checkpoint) if self.checkpoint else None,
            "iso": o.iso,
            "exposure_time": o.exposure_time,
            "f_number": o.f_number,
            "focal_length": o.focal_length,
            "cfa": c.cfa,
            "black_level": c.black_level.ravel().tolist(),
            "white_level": c.white_level,
            "wb_gains": c.wb_gains.round(6).tolist(),
            "color_matrix": c.color_matrix.round(6).tolist(),
            "origin": self.origin,
            "notices": list(self.notices),
        }

    def without_network(self, notice: str) -> Conversion:
        """Return the same conversion by the parametric model, with a notice of the reason."""
        notices = (*(n for n in self.notices if n != _used_generic(self.camera)), notice)
        origin = {**self.origin, "model": "not enough memory for the trained weights"}
        return replace(self, architecture="parametric", checkpoint=None, notices=notices, origin=origin)


def read(path: Path, settings: Settings = Settings()) -> SrgbImage | RawImage:
    """Read an image file within the settings' limit of pixels; with ``isolate``, RAW files in their own process.

    Raises the errors of ``formats.read``.
    """
    return formats.read(path, max_pixels=settings.max_pixels or formats.MAX_PIXELS, isolate=settings.isolate)


def check(settings: Settings, direction: Direction) -> None:
    """Find mistakes in the settings, except in the device, before any file is read.

    Raises ConfigError for an unknown camera, WeightsError for ``weights``, and the errors of reading ``like``.
    """
    camera, _ = _pick_camera(settings, None, _read_like(settings))
    if settings.weights is not None:
        _pick_model(settings, camera, direction, cameras.find(camera))


def complete(image: SrgbImage | RawImage, settings: Settings = Settings()) -> Conversion:
    """Complete the parameters of an image and pick its model; a picture is unprocessed, a RAW rendered.

    Settings come first, then the RAW file of ``like``. Then, for a picture: EXIF or the MakerNote, the camera table, an
    average camera. For a RAW: the file's own values. Raises ConfigError, MetadataError, WeightsError.
    """
    return _of_raw(image, settings) if isinstance(image, RawImage) else _of_picture(image, settings)


def _of_picture(image: SrgbImage, settings: Settings) -> Conversion:
    kept_raw, remarks = _kept_raw(image, settings)
    if kept_raw is not None and not remarks:
        return _of_kept_raw(image, kept_raw, settings)
    like = _read_like(settings)
    origin: dict[str, str] = {}
    notices = [*image.notes, *remarks]
    camera, origin["camera"] = _pick_camera(settings, image.camera, like)
    optical = _pick_optical(settings, image.optical, like, origin)
    known = cameras.find(camera)
    if like is not None:
        canonical = like.canonical
        origin |= dict.fromkeys(("cfa", "black_level", "white_level", "color_matrix", "wb"), _name_of_like(like))
    else:
        canonical = _canonical_of_table(image, known, optical.iso, origin)
        if known is None:
            remedy = "(pass `camera` or `like` RAW)"
            unknown = f"{camera.name} is not in the camera table" if camera else "EXIF names no camera"
            notices.append(
                Notice(f"{unknown}: used average colours {remedy}", f"camera unknown: used average colours {remedy}")
            )
    canonical = _with_flags(canonical, settings, origin)
    if like is not None and _takes_look_of_like(like, camera, known, settings):
        origin["model"] = f"the JPEG inside {_name_of_like(like)}"
        facts = known or cameras.GENERIC
        return Conversion(
            Direction.UNPROCESS, camera, canonical, optical, origin, CAMERA_LOOK, None, tuple(notices), facts
        )
    return _with_model(Direction.UNPROCESS, camera, canonical, optical, origin, notices, known, settings)


def _kept_raw(image: SrgbImage, settings: Settings) -> tuple[kept.KeptRaw | None, list[str]]:
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
    chosen = [name for name in ("model", "weights", "look", "like") if getattr(settings, name) is not None]
    if chosen and settings.kept_raw is None:
        return found, [f"carries its RAW, which was not used because of `{chosen[0]}` (pass `kept_raw` to use it)"]
    return found, []


def _of_kept_raw(image: SrgbImage, found: kept.KeptRaw, settings: Settings) -> Conversion:
    """Return the conversion that gives back the RAW that a JPEG carries."""
    raw, source = found.raw, "the RAW inside the JPEG"
    origin = dict.fromkeys(("cfa", "black_level", "white_level", "color_matrix", "wb", "model"), source)
    camera, origin["camera"] = _pick_camera(settings, raw.camera, None)
    optical = _pick_optical(settings, raw.optical, None, origin)
    canonical = _with_flags(raw.canonical, settings, origin)
    facts = cameras.find(camera) or cameras.GENERIC
    notice = Notice(f"gave back the RAW that it carries: {found}", "gave back the RAW that the JPEG carries")
    return Conversion(
        Direction.UNPROCESS, camera, canonical, optical, origin, KEPT_RAW, None, (*image.notes, notice), facts,
        kept_raw=found,
    )  # fmt: skip


def _takes_look_of_like(
    like: RawImage, camera: Camera | None, known: cameras.CameraFacts | None, settings: Settings
) -> bool:
    """Tell whether to invert the look of the JPEG inside ``like``: for a camera without weights of its own."""
    if settings.model is not None or settings.weights is not None or like.metadata.jpeg is None:
        return False
    if settings.look is not None or like.model is not None or "jpeg" in like.origin:
        return settings.look == "camera"
    return weights.find(known_as(camera, known), Direction.UNPROCESS, generic=False) is None


def _of_raw(raw: RawImage, settings: Settings) -> Conversion:
    like = _read_like(settings)
    origin = dict(raw.origin)
    camera, origin["camera"] = _pick_camera(settings, raw.camera, like)
    optical = _pick_optical(settings, raw.optical, like, origin)
    canonical = raw.canonical
    if like is not None:
        matrix, neutral = like.canonical.color_matrix, like.canonical.as_shot_neutral
        canonical = replace(canonical, color_matrix=matrix, as_shot_neutral=neutral)
        origin |= dict.fromkeys(("color_matrix", "wb"), _name_of_like(like))
    canonical = _with_flags(canonical, settings, origin)
    known = cameras.find(camera)
    if settings.look == "neutral" and settings.model is None:
        settings = replace(settings, model="parametric")
    if _takes_camera_look(raw, settings):
        origin["model"] = "the JPEG inside the file"
        facts = known or cameras.GENERIC
        return Conversion(
            Direction.RENDER, camera, canonical, optical, origin, CAMERA_LOOK, None, tuple(raw.notes), facts
        )
    notices = list(raw.notes)
    if settings.look == "camera":
        notices.append("has no JPEG inside that shows its look: used weights")
    return _with_model(Direction.RENDER, camera, canonical, optical, origin, notices, known, settings)


def _takes_camera_look(raw: RawImage, settings: Settings) -> bool:
    """Tell whether to fit the look of the JPEG inside a RAW file; not of a RAW that a model made of that JPEG."""
    if settings.look is not None:
        return settings.look == "camera" and raw.metadata.jpeg is not None
    chosen = settings.model is not None or settings.weights is not None
    return not chosen and raw.model is None and raw.metadata.jpeg is not None and "jpeg" not in raw.origin


# --- the origin of each value -----------------------------------------------------------------------------------------


def _pick_camera(settings: Settings, own: Camera | None, like: RawImage | None) -> tuple[Camera | None, str]:
    """Return the camera and its origin. Raises ConfigError for a name that the table lacks."""
    if settings.camera is not None:
        facts = cameras.find_by_name(settings.camera)
        if facts is not None:
            return Camera(facts.exif_make, facts.exif_model), "--camera"
        if "/" in settings.camera:
            make, model = settings.camera.split("/", 1)
            return Camera(make.strip(), model.strip()), "--camera"
        close = cameras.close_names(settings.camera)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"`camera` {settings.camera}: not in the camera table (see `paramisp cameras`){hint}")
    if own is not None:
        return own, "EXIF"
    if like is not None and like.camera is not None:
        return like.camera, _name_of_like(like)
    return None, "unknown"


def _pick_optical(
    settings: Settings, own: OpticalParams, like: RawImage | None, origin: dict[str, str]
) -> OpticalParams:
    """Return each value from the settings, else EXIF, else ``like``; write the origins to ``origin``."""
    values: dict[str, float | None] = {}
    for name in _OPTICAL_TEXT:
        choices = [(getattr(settings, name), "flag"), (getattr(own, name), "EXIF")]
        if like is not None:
            choices.append((getattr(like.optical, name), _name_of_like(like)))
        values[name], origin[name] = next(((v, o) for v, o in choices if v is not None), (None, "unknown"))
    return OpticalParams(**values)


def _canonical_of_table(
    image: SrgbImage, known: cameras.CameraFacts | None, iso: float | None, origin: dict[str, str]
) -> CanonicalParams:
    """Return the values of the camera table, else of an average camera; prefer the MakerNote's white balance."""
    facts = known or cameras.GENERIC
    average = "an average camera"
    source = f"camera table ({known.name})" if known else f"{average} (the camera is not in the table)"
    matrix, neutral = facts.color_matrix, facts.daylight_neutral
    level, white = facts.levels(iso)
    origin |= dict.fromkeys(("black_level", "white_level", "color_matrix"), source)
    origin["cfa"] = source if facts.cfa else "default (table is silent)"
    origin["wb"] = f"{source}, daylight"
    if matrix is None:
        matrix, origin["color_matrix"] = cameras.GENERIC.color_matrix, f"{average} (table is silent)"
    if image.as_shot_neutral is not None:
        neutral, origin["wb"] = image.as_shot_neutral, "MakerNote, as shot"
    elif neutral is None:
        neutral, origin["wb"] = cameras.GENERIC.daylight_neutral, f"{average}, daylight"
    assert matrix is not None
    assert neutral is not None
    return CanonicalParams(facts.cfa or "RGGB", np.full((2, 2), float(level)), white, neutral, matrix)


def _with_flags(canonical: CanonicalParams, settings: Settings, origin: dict[str, str]) -> CanonicalParams:
    """Return the values, replaced by the user's settings; write their origins to ``origin``."""
    if settings.cfa is not None:
        canonical, origin["cfa"] = replace(canonical, cfa=settings.cfa), "flag"
    if settings.wb is not None:
        canonical, origin["wb"] = replace(canonical, as_shot_neutral=1 / np.array(settings.wb)), "flag"
    return canonical


def _read_like(settings: Settings) -> RawImage | None:
    if settings.like is None:
        return None
    path = Path(settings.like)
    return _parameters_of(path, atomic.stamp(path), settings.max_pixels, settings.isolate)


def _name_of_like(like: RawImage) -> str:
    return f"--like {like.metadata.source_name}"


@lru_cache(maxsize=1)
def _parameters_of(path: Path, stamp: tuple[int, int], max_pixels: int | None, isolate: bool) -> RawImage:
    """Read a RAW file's parameters, once for all files of a batch; the CFA is shifted to the crop's corner.

    ``stamp`` is a cache key that changes when the file is replaced.
    """
    raw = read(path, Settings(max_pixels=max_pixels, isolate=isolate))
    if not isinstance(raw, RawImage):
        raise ConfigError(f"`like` {path}: is a picture; it must be a RAW file")
    raw = raw.cropped()
    return replace(
        raw,
        mosaic=raw.mosaic[:2, :2].copy(),
        crop=None,
        metadata=Metadata(jpeg=raw.metadata.jpeg, source_name=path.name),
    )


# --- the model --------------------------------------------------------------------------------------------------------


def _with_model(
    direction: Direction,
    camera: Camera | None,
    canonical: CanonicalParams,
    optical: OpticalParams,
    origin: dict[str, str],
    notices: list[str],
    known: cameras.CameraFacts | None,
    settings: Settings,
) -> Conversion:
    """Pick the model, and finish the conversion with its notices."""
    architecture, checkpoint, origin["model"], model_notices = _pick_model(settings, camera, direction, known)
    if direction == Direction.UNPROCESS and checkpoint is not None and settings.exposure:
        raise ConfigError(
            "`exposure`: a trained model sets it when unprocessing; leave it out or pass `model` parametric"
        )
    notices += model_notices + _silent_optics(optical, checkpoint)
    facts = known or cameras.GENERIC
    return Conversion(
        direction, camera, canonical, optical, origin, architecture, checkpoint, tuple(notices), facts
    )  # fmt: skip


def _pick_model(
    settings: Settings, camera: Camera | None, direction: Direction, facts: cameras.CameraFacts | None
) -> tuple[str, Path | None, str, list[str]]:
    """Return the architecture, its checkpoint, their origin, and notices."""
    if settings.model in WEIGHTLESS and settings.weights is None:
        return settings.model, None, "--model", []
    checkpoint = weights.find(known_as(camera, facts), direction, settings.model, settings.weights)
    shown = camera.name if camera else "an unknown camera"
    if checkpoint is None:
        if settings.model is not None:
            raise WeightsError(
                f"no {settings.model} weights for {shown} and no generic ones; pass `weights` or `model` parametric"
            )
        notice = Notice(
            f"no trained weights for {shown} and no generic ones: used the parametric model",
            "no trained weights for the camera and no generic ones: used the parametric model",
        )
        return "parametric", None, "no trained weights found", [notice]
    notices: list[str] = [_used_generic(camera)] if checkpoint.is_generic else []
    return weights.architecture_of(checkpoint.path), checkpoint.path, checkpoint.how, notices


def known_as(camera: Camera | None, facts: cameras.CameraFacts | None) -> list[str]:
    """List the names under which a camera's weights may be stored, best first: EXIF's, the table's, its aliases."""
    names = [f"{camera.make} {camera.model}", camera.name] if camera else []
    if facts is not None:
        names += [facts.name, *(f"{facts.exif_make} {model}" for model in (facts.exif_model, *facts.aliases))]
    return names


def _used_generic(camera: Camera | None) -> Notice:
    return Notice(
        f"no weights for {camera.name if camera else 'an unknown camera'}: used the generic ones",
        "no weights for the camera: used the generic ones",
    )


def _silent_optics(optical: OpticalParams, checkpoint: Path | None) -> list[str]:
    """Return a notice of the settings that the file lacks and the values that the network gets instead."""
    if checkpoint is None:
        return []
    labels, values, remedies = [], [], []
    for name, (label, form) in _OPTICAL_TEXT.items():
        if getattr(optical, name) is None:
            labels.append(label)
            value = getattr(FALLBACK_OPTICAL, name)
            values.append(f"1/{1 / value:.0f} s" if name == "exposure_time" else form.format(value))
            remedies.append(f"`{name}`")
    if not labels:
        return []
    return [
        Notice(
            f"has no {', '.join(labels)}; used {', '.join(values)} (pass {', '.join(remedies)} or `like` RAW)",
            "some settings are missing in EXIF; used default values (-v shows them; pass `like` RAW, `iso`, …)",
        )
    ]
