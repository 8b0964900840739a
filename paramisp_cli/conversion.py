"""The parameters and the model of one conversion, each with its origin."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paramisp_cli import cameras
from paramisp_cli.directions import Direction
from paramisp_cli.formats import gainmap, kept, provenance
from paramisp_cli.rendition.form import Rendition
from paramisp_cli.rendition.transfer import Transform
from paramisp_cli.target import Target
from paramisp_cli.types import Camera, CanonicalParams, Notice, OpticalParams


@dataclass(frozen=True, slots=True)
class Conversion:
    """The parameters, the model and the checkpoint for one file, each with its origin.

    Unknown values of ``optical`` are None. ``checkpoint`` is None for an architecture that needs no weights.
    ``notices`` are sentences for the user, without the file's name. ``memory_plan`` is set when the runner has chosen
    the network's memory plan, ``rendition`` when the look of the JPEG inside a RAW file has been fitted.
    ``kept_raw`` tells of the RAW that a JPEG carries, ``gain_map`` is the map whose highlights are used. ``stop_at`` is
    the stage at which rendering stops. ``made`` tells of the origin of a RAW that paramisp made of a picture.

    Of a transfer, ``target`` is the other camera and ``transform`` the map to its samples. For a picture all other
    values, the direction too, are those of its unprocessing, and ``rendering`` is the other camera's checkpoint. A
    network of the pair in the other order runs ``backwards``.
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
    gain_map: gainmap.GainMap | None = field(default=None, repr=False)
    stop_at: str | None = None
    made: provenance.Made | None = None
    target: Target | None = None
    transform: Transform | None = field(default=None, repr=False)
    rendering: Path | None = None
    backwards: bool = False

    def describe(self) -> dict[str, Any]:
        """Return plain values for ``--json``."""
        c, o = self.canonical, self.optical
        used: dict[str, Any] = {"memory_plan": self.memory_plan} if self.memory_plan else {}
        if self.stop_at is not None:
            used["stop_at"] = self.stop_at
        if self.direction == Direction.UNPROCESS:
            used["kept_raw"] = str(self.kept_raw) if self.kept_raw else None
            used["gain_map"] = str(self.gain_map) if self.gain_map else None
        else:
            used["made_by"] = self.made.describe() if self.made else None
        if self.target is not None and self.transform is not None:
            used |= self.target.describe(self.transform, self.rendering)
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
        notices = (*(n for n in self.notices if n != used_generic(self.camera)), notice)
        origin = {**self.origin, "model": "not enough memory for the trained weights"}
        return replace(self, architecture="parametric", checkpoint=None, notices=notices, origin=origin)


def used_generic(camera: Camera | None) -> Notice:
    """Return the notice that generic weights stand in for those of the camera."""
    return Notice(
        f"no weights for {camera.name if camera else 'an unknown camera'}: used the generic ones",
        "no weights for the camera: used the generic ones",
    )
