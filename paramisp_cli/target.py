"""The camera that a RAW is transferred to: its colours, and the map from another camera's samples to its own."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from paramisp_cli import atomic, cameras, color, sources
from paramisp_cli.cameras import CameraFacts, spectra
from paramisp_cli.errors import ConfigError, MetadataError
from paramisp_cli.rendition.transfer import Transform
from paramisp_cli.settings import Settings
from paramisp_cli.types import Camera, CanonicalParams, Notice, RawImage

_AVERAGE = "an average camera"
"""Beginning of the origin of a colour matrix that is not the camera's own (``formats.libraw``, ``parameters``)."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The other camera.

    name          as in the camera table, or as its RAW file states it
    camera        make and model as in EXIF
    color_matrix  (3, 3) CIE XYZ → camera RGB for D65
    cfa           colours of the top-left 2×2 of its pictures; None: not known, or no Bayer filters
    facts         the table's facts; None: the table lacks it
    origin        source of the colour matrix, for the user
    """

    name: str
    camera: Camera
    color_matrix: np.ndarray
    cfa: str | None
    facts: CameraFacts | None
    origin: str

    @property
    def slug(self) -> str:
        """Name for file names: "nikon-d90"."""
        return cameras.slug(self.name) or "other"

    def describe(self, transform: Transform, rendering: Path | None) -> dict[str, object]:
        """Return plain values for ``--json``; ``rendering`` is the checkpoint of a picture."""
        return {
            "to": self.name,
            "to_color_matrix": self.color_matrix.round(6).tolist(),
            "to_wb_gains": (1 / transform.neutral_b).round(6).tolist(),
            "to_weights": str(rendering) if rendering else None,
        }


def of(settings: Settings) -> Target:
    """Return the camera of the setting ``to``: a name of the camera table, or a RAW file.

    Raises ConfigError for a name that is not in the table and for a camera without a colour matrix, and the errors of
    reading a RAW file.
    """
    assert settings.to is not None
    name = str(settings.to)
    facts = cameras.find_by_name(name)
    if facts is None and (isinstance(settings.to, Path) or os.path.exists(name)):  # noqa: PTH110 – False for long names
        path = Path(settings.to)
        return _of_file(path, atomic.stamp(path), settings.max_pixels, settings.isolate)
    if facts is None:
        close = cameras.close_names(name)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"`to` {name}: neither a camera of the table (see `paramisp cameras`) nor a file{hint}")
    if facts.color_matrix is None:
        raise ConfigError(f"`to` {facts.name}: the camera table has no colour matrix of it; pass a RAW file by it")
    bayer = facts.cfa if facts.sensor in ("", "bayer") else None
    camera = Camera(facts.exif_make, facts.exif_model)
    return Target(facts.name, camera, facts.color_matrix, bayer, facts, f"camera table ({facts.name})")


@lru_cache(maxsize=2)
def _of_file(path: Path, stamp: tuple[int, int], max_pixels: int | None, isolate: bool) -> Target:
    raw = sources.read(path, Settings(max_pixels=max_pixels, isolate=isolate))
    if not isinstance(raw, RawImage):
        raise ConfigError(f"`to` {path}: is a picture; give a RAW file of the other camera, or a name")
    if raw.camera is None or not raw.camera.name:
        raise MetadataError(f"`to` {path}: does not name its camera; give a name of the camera table")
    if not has_own_matrix(raw.origin.get("color_matrix", "")):
        raise MetadataError(f"`to` {path}: no colour matrix of {raw.camera.name} is known; name another camera")
    facts, own = cameras.find(raw.camera), raw.cropped().canonical
    name = facts.name if facts else raw.camera.name
    return Target(name, raw.camera, own.color_matrix, own.cfa, facts, f"--to {path.name}")


def has_own_matrix(origin: str) -> bool:
    """Tell whether a colour matrix of this origin is the camera's, and not that of an average camera."""
    return not origin.startswith(_AVERAGE)


def camera_of(raw: RawImage) -> Camera | None:
    """Return the camera whose colours a RAW has: that of an earlier transfer, else the one that took it."""
    if raw.colours_of is None:
        return raw.camera
    facts = cameras.find_by_name(raw.colours_of)
    return Camera(facts.exif_make, facts.exif_model) if facts else Camera("", raw.colours_of)


def is_same(target: Target, camera: Camera | None) -> bool:
    """Tell whether the target is the camera that took the picture."""
    if camera is None:
        return False
    known = cameras.find(camera)
    return camera == target.camera or (known is not None and known is target.facts)


def transform(
    target: Target, camera: Camera | None, canonical: CanonicalParams, method: str
) -> tuple[Transform, tuple[str, ...]]:
    """Return the map from a camera's samples to the target's, and notices.

    ``canonical`` are the shot's parameters. Of a camera to itself it is the identity, for any matrices. Raises
    MetadataError for a camera that ``method`` does not know, and for a light that the target cannot meet.
    """
    neutral = canonical.as_shot_neutral / canonical.as_shot_neutral[1]
    if is_same(target, camera):
        return Transform(np.eye(3), neutral, neutral), ()
    if method == "conditioned":
        return _conditioned(target, camera, neutral)
    other = color.neutral_of_other(neutral, canonical.color_matrix, target.color_matrix)
    if not (np.isfinite(other).all() and other.min() > 0.01 and other.max() < 100):
        gains = ",".join(f"{gain:.3g}" for gain in canonical.wb_gains)
        raise MetadataError(f"no light gives the white balance {gains} on {target.name}; pass `wb` R,G,B")
    return Transform(color.cam_to_cam(canonical.color_matrix, target.color_matrix), neutral, other), ()


def _conditioned(target: Target, camera: Camera | None, neutral: np.ndarray) -> tuple[Transform, tuple[str, ...]]:
    """Return the map that the measured sensitivities of both cameras give for the light of this neutral."""
    found = []
    for each, known in ((camera, cameras.find(camera)), (target.camera, target.facts)):
        own = spectra.find(_names(each, known))
        if own is None:
            shown = known.name if known else each.name if each else "an unknown camera"
            raise MetadataError(
                f"`method` conditioned: no spectral sensitivities of {shown} are known; pass `method` matrix"
            )
        found.append(own)
    a, b = found
    fit = spectra.fitted(a.name, b.name)
    coefficients, other, inside = fit.at(neutral)
    notices: list[str] = []
    if a.laboratory != b.laboratory:
        notices.append(
            f"sensitivities by two laboratories ({a.laboratory}: {a.name}; {b.laboratory}: {b.name}), which differ more"
        )
    if not inside:
        text = "the light is none that the conditioned method was fitted to: used the nearest"
        notices.append(Notice(f"{text} (`method` matrix has no such limit)", text))
    return Transform(coefficients, neutral, other), tuple(notices)


def _names(camera: Camera | None, known: CameraFacts | None) -> list[str]:
    names = [camera.name, f"{camera.make} {camera.model}", camera.model] if camera else []
    if known is not None:
        names += [known.name, *(f"{known.exif_make} {model}" for model in (known.exif_model, *known.aliases))]
    return names


def without_file(settings: Settings) -> Settings:
    """Return the settings of a conversion that is no transfer."""
    return replace(settings, to=None, method="matrix", target_cfa=False, match_noise=False)
