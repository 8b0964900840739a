"""Complete the parameters of a shot, each with its origin, and pick the model of its conversion.

This module does not import torch, for ``inspect`` and ``--dry-run``. In messages, a setting's name stands in backticks
(`exposure_time`); the command line shows its flag instead.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from paramisp_cli import cameras, carried, models, target, weights, white_balance
from paramisp_cli.conversion import Conversion, used_generic
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, WeightsError
from paramisp_cli.formats import kept, provenance
from paramisp_cli.settings import CAMERA_LOOK, DTYPES, GAIN_MAP, KEPT_RAW, LOOKS, MODELS, WEIGHTLESS, Settings
from paramisp_cli.sources import Reference, References, nearest, read, references
from paramisp_cli.types import FALLBACK_OPTICAL, Camera, CanonicalParams, Notice, OpticalParams, RawImage, SrgbImage

__all__ = [
    "CAMERA_LOOK", "DTYPES", "GAIN_MAP", "KEPT_RAW", "LOOKS", "MODELS", "WEIGHTLESS", "Conversion", "Settings", "check",
    "complete", "known_as", "read",
]  # fmt: skip

_OPTICAL_TEXT = {
    "iso": ("ISO", "ISO {:g}"),
    "exposure_time": ("ExposureTime", "{:g} s"),
    "f_number": ("FNumber", "f/{:g}"),
    "focal_length": ("FocalLength", "{:g} mm"),
}
"""Field of ``OpticalParams`` → its name in EXIF, the format of its value."""


def check(settings: Settings, direction: Direction) -> None:
    """Find mistakes in the settings, except in the device, before any file is read.

    Raises ConfigError for an unknown camera, WeightsError for ``weights``, and the errors of reading ``like``.
    """
    if direction == Direction.UNPROCESS:
        _refuse_settings_of_render(settings)
    files = references(settings).files
    camera, _ = _pick_camera(settings, None, files[0] if files else None)
    if direction == Direction.TRANSFER:
        target.of(settings)
    elif settings.weights is not None:
        _pick_model(settings, camera, direction, cameras.find(camera))


def complete(image: SrgbImage | RawImage, settings: Settings = Settings()) -> Conversion:
    """Complete the parameters of an image and pick its model; a picture is unprocessed, a RAW rendered.

    Settings come first, then the RAW file of ``like``. Then, for a picture: EXIF or the MakerNote, the camera table, an
    average camera. For a RAW: the file's own values. Raises ConfigError, MetadataError, WeightsError.
    """
    if isinstance(image, RawImage):
        if settings.linear:
            raise ConfigError(
                "`linear` is for `unprocess`; `render` sees by itself that a RAW has three colours a pixel"
            )
        if settings.levels is not None:
            raise ConfigError("`levels` is for `unprocess`; a RAW has the levels that it was recorded with")
        if image.linear is not None and settings.cfa is not None:
            raise ConfigError("`cfa`: this RAW has all three colours of each pixel and no colour filters; leave it out")
        return replace(_of_raw(image, settings), made=provenance.made_by(image.metadata.xmp))
    conversion = _of_picture(image, settings)
    if not settings.linear or settings.levels is not None:
        return conversion
    # Twelve bits of a camera lose up to a quarter of the pixels' codes; no sensor's levels bind a LinearRaw.
    canonical = replace(conversion.canonical, black_level=np.zeros((2, 2)), white_level=65535.0)
    levels = dict.fromkeys(("black_level", "white_level"), "all 16 bits of a LinearRaw")
    return replace(conversion, canonical=canonical, origin={**conversion.origin, **levels})


def _refuse_settings_of_render(settings: Settings) -> None:
    if settings.stop_at is not None:
        raise ConfigError("`stop_at` is for `render`; to unprocess a picture leave it out")
    if settings.look_from is not None:
        raise ConfigError("`look_from` is for `render`; to unprocess a picture pass `like`, a RAW file with its JPEG")


def _of_picture(image: SrgbImage, settings: Settings) -> Conversion:
    _refuse_settings_of_render(settings)
    kept_raw, remarks = carried.kept_raw(image, settings)
    if kept_raw is not None:
        return _of_kept_raw(image, kept_raw, settings)
    found = references(settings)
    like = nearest(image, found)
    origin: dict[str, str] = {}
    gain_map, map_notices = carried.gain_map(image, settings)
    notices = [*image.notes, *found.notices, *remarks, *map_notices]
    camera, origin["camera"] = _pick_camera(settings, image.camera, like)
    optical = _pick_optical(settings, image.optical, like, origin)
    known = cameras.find(camera)
    if like is not None:
        canonical = like.raw.canonical
        origin |= dict.fromkeys(("cfa", "black_level", "white_level", "color_matrix", "wb"), like.name)
    else:
        canonical = _canonical_of_table(image, known, optical, origin)
        if known is None:
            remedy = "(pass `camera` or `like` RAW)"
            unknown = f"{camera.name} is not in the camera table" if camera else "EXIF names no camera"
            notices.append(
                Notice(f"{unknown}: used average colours {remedy}", f"camera unknown: used average colours {remedy}")
            )
        elif known.color_matrix is None:
            silent = "the camera table has no colour matrix of"
            used = "used average colours (pass `like` RAW)"
            notices.append(Notice(f"{silent} {known.name}: {used}", f"{silent} the camera: {used}"))
    canonical = _with_flags(canonical, settings, origin)
    if settings.gain_map == "linear":
        origin["model"] = "--gain-map linear"
        return Conversion(
            Direction.UNPROCESS, camera, canonical, optical, origin, GAIN_MAP, None, tuple(notices),
            known or cameras.GENERIC, gain_map=gain_map,
        )  # fmt: skip
    if _takes_look_of_like(found, camera, known, settings):
        looks = [each.path.name for each in found.files if each.has_look]
        shown = f"{len(looks)} files" if len(looks) > 1 else looks[0]
        origin["model"] = f"the JPEG inside --like {shown}"
        facts = known or cameras.GENERIC
        return Conversion(
            Direction.UNPROCESS, camera, canonical, optical, origin, CAMERA_LOOK, None, tuple(notices), facts,
            gain_map=gain_map,
        )  # fmt: skip
    conversion = _with_model(Direction.UNPROCESS, camera, canonical, optical, origin, notices, known, settings)
    return replace(conversion, gain_map=gain_map)


def _of_kept_raw(image: SrgbImage, found: kept.KeptRaw, settings: Settings) -> Conversion:
    """Return the conversion that gives back the RAW that a JPEG carries."""
    raw, source = found.raw, "the RAW inside the JPEG"
    origin = dict.fromkeys(("cfa", "black_level", "white_level", "color_matrix", "wb", "model"), source)
    camera, origin["camera"] = _pick_camera(settings, raw.camera, None)
    optical = _pick_optical(settings, raw.optical, None, origin)
    origin |= {name: source for name, where in origin.items() if where == "EXIF"}
    canonical = _with_flags(raw.canonical, settings, origin)
    facts = cameras.find(camera) or cameras.GENERIC
    notice = Notice(f"gave back the RAW that it carries: {found}", "gave back the RAW that the JPEG carries")
    return Conversion(
        Direction.UNPROCESS, camera, canonical, optical, origin, KEPT_RAW, None, (*image.notes, notice), facts,
        kept_raw=found,
    )  # fmt: skip


def _takes_look_of_like(
    found: References, camera: Camera | None, known: cameras.CameraFacts | None, settings: Settings
) -> bool:
    """Tell whether to invert the look of the JPEGs inside ``like``: for a camera without trained weights of its own."""
    looks = [each for each in found.files if each.has_look]
    if settings.model is not None or settings.weights is not None or not looks:
        return False
    if settings.look is not None or all(each.raw.model is not None or each.is_foreign for each in looks):
        return settings.look == "camera"
    return not _has_trained_weights(camera, known, Direction.UNPROCESS)


def _has_trained_weights(camera: Camera | None, known: cameras.CameraFacts | None, direction: Direction) -> bool:
    """Tell whether a camera has weights of its own that a training made: those of `fit` are no better than a look."""
    found = weights.find(known_as(camera, known), direction, generic=False)
    return found is not None and (found.path.suffix == ".ckpt" or weights.info(found.path)["recipe"] != "fit")


def _of_raw(raw: RawImage, settings: Settings) -> Conversion:
    if raw.colours_of is not None and settings.camera is None:  # facts and weights of the camera of its colours
        inner = _of_raw(replace(raw, camera=target.camera_of(raw), colours_of=None), settings)
        return replace(inner, camera=raw.camera)
    found = references(settings)
    like = nearest(raw, found)
    origin = dict(raw.origin)
    camera, origin["camera"] = _pick_camera(settings, raw.camera, like)
    optical = _pick_optical(settings, raw.optical, like, origin)
    canonical = raw.canonical
    if like is not None:
        matrix, neutral = like.raw.canonical.color_matrix, like.raw.canonical.as_shot_neutral
        canonical = replace(canonical, color_matrix=matrix, as_shot_neutral=neutral)
        origin |= dict.fromkeys(("color_matrix", "wb"), like.name)
    elif settings.wb is None and white_balance.is_missing(raw):
        estimate = white_balance.of_raw(replace(raw, camera=camera), optical)
        canonical = replace(canonical, as_shot_neutral=estimate.neutral)
        origin["wb"] = estimate.origin
    canonical = _with_flags(canonical, settings, origin)
    known = cameras.find(camera)
    if settings.look == "neutral" and settings.model is None:
        settings = replace(settings, model="parametric")
    if _takes_camera_look(raw, camera, known, settings):
        origin["model"] = origin.get("look", "the JPEG inside the file")
        facts = known or cameras.GENERIC
        return Conversion(
            Direction.RENDER, camera, canonical, optical, origin, CAMERA_LOOK, None, (*raw.notes, *found.notices), facts
        )
    notices = [*raw.notes, *found.notices]
    if settings.look == "camera":
        notices.append("has no JPEG inside that shows its look: used weights")
    return _with_model(Direction.RENDER, camera, canonical, optical, origin, notices, known, settings)


def wants_camera_look(raw: RawImage, settings: Settings) -> bool:
    """Tell whether a RAW file is to look as its camera's pictures; not a RAW that a model made of a picture."""
    if settings.stop_at is not None:
        return False
    if settings.look is not None or settings.look_from is not None:
        return settings.look in (None, "camera")
    return settings.model is None and settings.weights is None and raw.model is None


def _takes_camera_look(
    raw: RawImage, camera: Camera | None, known: cameras.CameraFacts | None, settings: Settings
) -> bool:
    """Tell whether to fit the look of the JPEG inside a RAW file, or beside it.

    A JPEG beside the file that the user does not ask for gives way to trained weights: they know the camera's detail.
    """
    if not wants_camera_look(raw, settings):
        return False
    if raw.metadata.jpeg_beside is not None:
        chosen = settings.look is not None or settings.look_from is not None
        return chosen or not _has_trained_weights(camera, known, Direction.RENDER)
    return raw.metadata.jpeg is not None and (settings.look is not None or "jpeg" not in raw.origin)


# --- the origin of each value -----------------------------------------------------------------------------------------


def _pick_camera(settings: Settings, own: Camera | None, like: Reference | None) -> tuple[Camera | None, str]:
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
    if like is not None and like.raw.camera is not None:
        return like.raw.camera, like.name
    return None, "unknown"


def _pick_optical(
    settings: Settings, own: OpticalParams, like: Reference | None, origin: dict[str, str]
) -> OpticalParams:
    """Return each value from the settings, else EXIF, else ``like``; write the origins to ``origin``."""
    values: dict[str, float | None] = {}
    for name in _OPTICAL_TEXT:
        choices = [(getattr(settings, name), "flag"), (getattr(own, name), "EXIF")]
        if like is not None:
            choices.append((getattr(like.raw.optical, name), like.name))
        values[name], origin[name] = next(((v, o) for v, o in choices if v is not None), (None, "unknown"))
    return OpticalParams(**values)


def _canonical_of_table(
    image: SrgbImage, known: cameras.CameraFacts | None, optical: OpticalParams, origin: dict[str, str]
) -> CanonicalParams:
    """Return the values of the camera table, else of an average camera.

    The white balance is the MakerNote's, else it is estimated.
    """
    facts = known or cameras.GENERIC
    average = "an average camera"
    source = f"camera table ({known.name})" if known else f"{average} (the camera is not in the table)"
    matrix, neutral = facts.color_matrix, image.as_shot_neutral
    level, white = facts.levels(optical.iso)
    origin |= dict.fromkeys(("black_level", "white_level", "color_matrix"), source)
    origin["cfa"] = source if facts.cfa else "default (table is silent)"
    if matrix is None:
        matrix, origin["color_matrix"] = cameras.GENERIC.color_matrix, f"{average} (table is silent)"
    if neutral is not None:
        origin["wb"] = "MakerNote, as shot"
    else:
        estimate = white_balance.of_picture(image, known, optical)
        neutral, origin["wb"] = estimate.neutral, estimate.origin
    assert matrix is not None
    return CanonicalParams(facts.cfa or "RGGB", np.full((2, 2), float(level)), white, neutral, matrix)


def _with_flags(canonical: CanonicalParams, settings: Settings, origin: dict[str, str]) -> CanonicalParams:
    """Return the values, replaced by the user's settings; write their origins to ``origin``."""
    if settings.cfa is not None:
        canonical, origin["cfa"] = replace(canonical, cfa=settings.cfa), "flag"
    if settings.levels is not None:
        black, white = settings.levels
        canonical = replace(canonical, black_level=np.full((2, 2), float(black)), white_level=float(white))
        origin |= dict.fromkeys(("black_level", "white_level"), "flag")
    if settings.wb is not None:
        canonical, origin["wb"] = replace(canonical, as_shot_neutral=1 / np.array(settings.wb)), "flag"
    return canonical


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
        direction, camera, canonical, optical, origin, architecture, checkpoint, tuple(notices), facts,
        stop_at=settings.stop_at,
    )  # fmt: skip


def _pick_model(
    settings: Settings, camera: Camera | None, direction: Direction, facts: cameras.CameraFacts | None
) -> tuple[str, Path | None, str, list[str]]:
    """Return the architecture, its checkpoint, their origin, and notices."""
    if settings.model in WEIGHTLESS and settings.weights is None:
        return settings.model, None, "--model", []
    if settings.stop_at is not None and settings.model is None and settings.weights is None:
        return models.names(needs_weights=False, stage=settings.stop_at)[0], None, "--stop-at", []
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
    notices: list[str] = [used_generic(camera)] if checkpoint.is_generic else []
    architecture = weights.architecture_of(checkpoint.path)
    if settings.stop_at is not None:
        models.check_stage(architecture, settings.stop_at)
    return architecture, checkpoint.path, checkpoint.how, notices


def known_as(camera: Camera | None, facts: cameras.CameraFacts | None) -> list[str]:
    """List the names under which a camera's weights may be stored, best first: EXIF's, the table's, its aliases."""
    names = [f"{camera.make} {camera.model}", camera.name] if camera else []
    if facts is not None:
        names += [facts.name, *(f"{facts.exif_make} {model}" for model in (facts.exif_model, *facts.aliases))]
    return names


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
