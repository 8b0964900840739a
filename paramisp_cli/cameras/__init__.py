"""What is known of cameras: ``cameras.json``, read when first asked, and matched to the make and model in EXIF."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from paramisp_cli.types import Camera


def _array(values: Any) -> np.ndarray:
    array = np.array(values, np.float64)
    array.setflags(write=False)
    return array


# XYZ of CIE daylight of 5500 K (D55: x = 0.33242, y = 0.34743), Y = 1: what a camera's daylight preset is made for.
_D55 = np.array([0.33242, 0.34743, 1 - 0.33242 - 0.34743]) / 0.34743


@dataclass(frozen=True, slots=True, eq=False)
class CameraFacts:
    """What the table knows of a camera; ``None`` where it is silent.

    name             as one would say it: "Canon EOS 60D"
    exif_make        make as in EXIF (0x010F)
    exif_model       model as in EXIF (0x0110); aliases are further ones (other markets' names)
    cfa              "RGGB"… of the sensor's full area; of the JPEG's pixel grid where we had files of the camera
    color_matrix     (3, 3) CIE XYZ → camera RGB for D65
    daylight_neutral (3,) camera RGB of a neutral object in daylight, G = 1
    daylight_origin  which preset that was, or that it comes from the matrix
    level_rows       black, white, ISO values or range they hold for: see ``levels``
    noise_rows       (N, 7) ISO, scale R G B, offset R G B: see ``noise_profile``
    """

    name: str
    exif_make: str
    exif_model: str
    aliases: tuple[str, ...] = ()
    cfa: str | None = None
    color_matrix: np.ndarray | None = None
    daylight_neutral: np.ndarray | None = None
    daylight_origin: str = ""
    level_rows: tuple[dict[str, Any], ...] = ()
    noise_rows: np.ndarray | None = None

    def levels(self, iso: float | None = None) -> tuple[float, float]:
        """(black, white) in raw units at an ISO, or those of most ISOs; 512 and 16383 if the table is silent."""
        for row in self.level_rows:
            low, high = row.get("iso_range", (0, -1))
            if iso is not None and (iso in row.get("iso", ()) or low <= iso <= high):
                return row["black"], row["white"]
        usual = [row for row in self.level_rows if not row.keys() & {"iso", "iso_range"}] or self.level_rows
        return (usual[0]["black"], usual[0]["white"]) if usual else (512, 16383)

    def noise_profile(self, iso: float | None) -> np.ndarray | None:
        """(3, 2) scale and offset of R, G, B at an ISO: variance = scale·x + offset for x linear in [0, 1].

        Linear in ISO between the table's rows, in proportion to ISO beyond them. Fits that went below zero are held
        at scale 1e-8 and offset 0 (DNG NoiseProfile, tag 51041, forbids them). None if ISO or noise is unknown.
        """
        if self.noise_rows is None or iso is None:
            return None
        known = self.noise_rows[:, 0]
        inside = float(np.clip(iso, known[0], known[-1]))
        values = np.array([np.interp(inside, known, column) for column in self.noise_rows[:, 1:].T])
        scale, offset = values.reshape(2, 3) * (iso / inside)
        return np.stack([scale.clip(1e-8), offset.clip(0)], 1)


# For a camera that the table does not know: the medians over the whole table (a test holds them to it), the commonest
# CFA, and levels of a common 14-bit sensor.
GENERIC = CameraFacts(
    name="an average camera",
    exif_make="",
    exif_model="",
    cfa="RGGB",
    color_matrix=_array([[0.8532, -0.2709, -0.0888], [-0.4703, 1.247, 0.2305], [-0.0865, 0.1724, 0.6199]]),
    daylight_neutral=_array([0.5047, 1.0, 0.6337]),
    daylight_origin="median of all cameras' daylight",
    level_rows=({"black": 512, "white": 16383},),
)


@cache
def all_cameras() -> tuple[CameraFacts, ...]:
    """Every camera of the table, by name."""
    text = resources.files(__package__).joinpath("cameras.json").read_text("utf-8")
    return tuple(_facts(row) for row in json.loads(text)["cameras"])


def _facts(row: dict[str, Any]) -> CameraFacts:
    matrix = _array(row["matrix"]) if "matrix" in row else None
    neutral, origin = None, ""
    if "daylight" in row:
        red, blue, origin = row["daylight"]
        neutral = _array([1 / red, 1.0, 1 / blue])
    elif matrix is not None:
        seen = matrix @ _D55
        neutral, origin = _array(seen / seen[1]), "D55 through the colour matrix"
    return CameraFacts(
        name=row["name"],
        exif_make=row["make"],
        exif_model=row["model"],
        aliases=tuple(row.get("aliases", ())),
        cfa=row.get("cfa"),
        color_matrix=matrix,
        daylight_neutral=neutral,
        daylight_origin=origin,
        level_rows=tuple(row.get("levels", ())),
        noise_rows=_array(row["noise"]) if "noise" in row else None,
    )


# Matching ------------------------------------------------------------------------------------------------------------

# Makers under the names of their owners, or of before and after; otherwise the first word of the make counts.
_BRANDS = {
    "eastman": "kodak",
    "konica": "minolta",
    "seiko": "epson",
    "ricoh": "pentax",
    "om": "olympus",
    "creo": "leaf",
}
# Words that come and go: "Canon EOS 350D DIGITAL", "M9 Digital Camera".
_FILLERS = re.compile(r"\b(digital|camera)\b")


def _brand(make: str) -> str:
    first = re.match(r"[a-z]*", make.lower().strip())
    word = first.group() if first else ""
    return _BRANDS.get(word, word)


def _key(brand: str, model: str) -> str:
    """The model without its brand, fillers, case, spaces and punctuation: "NIKON D90" → "d90"."""
    text = _FILLERS.sub(" ", model.lower()).strip()
    return re.sub(r"[^a-z0-9+*]", "", text.removeprefix(brand) if brand else text)


@cache
def _index() -> dict[tuple[str, str], CameraFacts]:
    """(brand, model key) → facts, for every name a camera goes by."""
    index: dict[tuple[str, str], CameraFacts] = {}
    for facts in all_cameras():
        brand = _brand(facts.exif_make)
        index[brand, _key(brand, facts.exif_model)] = facts
    for facts in all_cameras():  # a camera's own name goes before another's alias
        for brand in {_brand(facts.exif_make), _brand(facts.name)}:
            for model in (facts.exif_model, facts.name, *facts.aliases):
                index.setdefault((brand, _key(brand, model)), facts)
    return index


def find(camera: Camera | None) -> CameraFacts | None:
    """The table's facts of a camera by the make and model of its EXIF, or None.

    Case, spaces, the make's legal form ("NIKON CORPORATION") and whether the model repeats the make play no part.
    """
    if camera is None or not camera.model.strip():
        return None
    brand = _brand(camera.make)
    return _index().get((brand, _key(brand, camera.model))) if brand else _by_model(camera.model)


def find_by_name(name: str) -> CameraFacts | None:
    """The facts of a camera as a person names it: "Canon EOS 60D", "Canon/EOS 60D", "eos 60d"; None if unknown.

    A model alone will do if only one make has it.
    """
    name = name.strip()
    for gap in re.finditer(r"[/ ]", name):  # makes, models and the space between them may hold either
        found = find(Camera(name[: gap.start()].strip(), name[gap.end() :].strip()))
        if found and gap.start():
            return found
    return _by_model(name)


def _by_model(model: str) -> CameraFacts | None:
    """The one camera of whatever make with this model."""
    found = {facts.name: facts for (brand, key), facts in _index().items() if key and key == _key(brand, model)}
    return next(iter(found.values())) if len(found) == 1 else None


def close_names(name: str) -> list[str]:
    """Return up to three names of the table for a name that is not in it; for error messages.

    Cameras whose name holds every word of it come first, a word's beginning counting as the word; else the names that
    are spelt most alike.
    """
    words = name.replace("/", " ").lower().split()
    holding = [
        facts.name
        for facts in all_cameras()
        if all(any(part.startswith(word) for part in facts.name.lower().split()) for word in words)
    ]
    if words and holding:
        return sorted(holding, key=lambda known: (len(known), known))[:3]
    names = {facts.name.lower(): facts.name for facts in all_cameras()}
    return [names[key] for key in difflib.get_close_matches(" ".join(words), names, n=3, cutoff=0.6)]


def slug(name: str) -> str:
    """A camera's name as file names spell it: "GoPro HERO7 Black" → "gopro-hero7-black"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
