"""Facts of cameras: read ``cameras.json`` on first use, and match its cameras to the make and model of EXIF.

``tests/cameras/build_table.py`` writes the table. A camera's facts are decoded on first use: most commands need one
camera of the table's hundreds.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from paramisp_cli.cameras import noise
from paramisp_cli.types import Camera


def _array(values: Any) -> np.ndarray:
    array = np.array(values, np.float64)
    array.setflags(write=False)
    return array


# XYZ of CIE daylight of 5500 K (D55: x = 0.33242, y = 0.34743), Y = 1: the light of a camera's daylight preset.
_D55 = np.array([0.33242, 0.34743, 1 - 0.33242 - 0.34743]) / 0.34743


@dataclass(frozen=True, slots=True, eq=False)
class CameraFacts:
    """The table's facts of a camera; ``None`` (or empty) for a missing fact.

    name             the name in sentences and file names: "Canon EOS 60D"
    exif_make        make as in EXIF (0x010F)
    exif_model       model as in EXIF (0x0110); ``aliases`` are further models (names in other markets)
    cfa              "RGGB"… at the first pixel of ``cfa_area``
    cfa_area         "jpeg" (the camera's own crop), "visible" or "full" (the whole sensor); empty: not known
    sensor           "bayer", "xtrans", "mono", "foveon", "superccd", "four-colour" or "other"; empty: not known
    kind             "phone" or "tablet"; empty: a camera
    color_matrix     (3, 3) CIE XYZ → camera RGB for D65
    color_matrix_2   (3, 3) the same for ``illuminant_2``, an EXIF LightSource code (17: incandescent, A)
    daylight_neutral (3,) camera RGB of a neutral object in daylight, G = 1
    daylight_origin  the preset's name, or a text for a value computed from the matrix
    level_rows       black, white, ISO values or range where they hold: see ``levels``
    noise_rows       (N, 7) ISO, scale R G B, offset R G B as fitted: see ``noise_profile``
    doubts           odd facts, or facts on which the table's sources disagree: "cfa", "matrix"
    source           fact and source code of each fact: the table's ``about`` explains the codes
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
    cfa_area: str = ""
    sensor: str = ""
    kind: str = ""
    color_matrix_2: np.ndarray | None = None
    illuminant_2: int | None = None
    doubts: tuple[str, ...] = ()
    source: str = ""

    def levels(self, iso: float | None = None) -> tuple[float, float]:
        """Return (black, white) in raw units at an ISO, or at most ISOs; 512 and 16383 if the table lacks levels."""
        for row in self.level_rows:
            low, high = row.get("iso_range", (0, -1))
            if iso is not None and (iso in row.get("iso", ()) or low <= iso <= (math.inf if high is None else high)):
                return row["black"], row["white"]
        usual = [row for row in self.level_rows if not row.keys() & {"iso", "iso_range"}] or self.level_rows
        return (usual[0]["black"], usual[0]["white"]) if usual else (512, 16383)

    def noise_profile(self, iso: float | None) -> np.ndarray | None:
        """Return (3, 2) scale and offset of R, G, B at an ISO: variance = scale·x + offset for x linear in [0, 1].

        This is the noise of RAW samples, as in DNG's NoiseProfile (tag 51041). The table's fits are corrected for it
        (``noise.of_samples``); its values from NoiseProfile tags are not. Linear in ISO between the table's rows, in
        proportion to ISO beyond them. None without noise in the table or without ISO.
        """
        if self.noise_rows is None or iso is None:
            return None
        rows = self.noise_rows if self._noise_from_tags else noise.of_samples(self.noise_rows)
        inside = float(np.clip(iso, rows[0, 0], rows[-1, 0]))
        values = np.array([np.interp(inside, rows[:, 0], column) for column in rows[:, 1:].T])
        scale, offset = values.reshape(2, 3) * (iso / inside)
        return np.stack([scale.clip(1e-8), offset], 1)

    @property
    def _noise_from_tags(self) -> bool:
        """Tell whether the noise comes from single DNG files, not from darktable ("old", "dt")."""
        return not {"noise old", "noise dt"} & set(self.source.split(", "))

    @property
    def noise_flags(self) -> np.ndarray | None:
        """Flags (N, 6), bool, of the unphysical values in ``noise_rows`` after the ISO: scale ≤ 0, offset < 0."""
        return None if self.noise_rows is None else noise.unphysical(self.noise_rows)


# For a camera that the table lacks: the medians over the whole table, phones included (a test checks them), the most
# common CFA, and the levels of a common 14-bit sensor.
GENERIC = CameraFacts(
    name="an average camera",
    exif_make="",
    exif_model="",
    cfa="RGGB",
    color_matrix=_array([[0.9258, -0.3112, -0.0949], [-0.442, 1.2367, 0.2173], [-0.0709, 0.1651, 0.5731]]),
    daylight_neutral=_array([0.5079, 1.0, 0.6315]),
    daylight_origin="median of all cameras' daylight",
    level_rows=({"black": 512, "white": 16383},),
)


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    """Read the table's rows, in their order."""
    text = resources.files(__package__).joinpath("cameras.json").read_text("utf-8")
    return tuple(json.loads(text)["cameras"])


@cache
def all_cameras() -> tuple[CameraFacts, ...]:
    """Return every camera of the table, in its order: by make and model."""
    return tuple(_facts(number) for number in range(len(_rows())))


@cache
def _facts(number: int) -> CameraFacts:
    """Decode the row of this number."""
    row = _rows()[number]
    matrix = _matrix(row["matrix"]) if "matrix" in row else None
    illuminant, *second = row.get("matrix_2", (None,))
    neutral, origin = None, ""
    if "daylight" in row:
        red, blue, origin = row["daylight"]
        neutral = _array([1 / red, 1.0, 1 / blue])
    elif matrix is not None:
        daylight = matrix @ _D55
        neutral, origin = _array(daylight / daylight[1]), "D55 through the colour matrix"
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
        noise_rows=_array([line.split() for line in row["noise"].split(";")]) if "noise" in row else None,
        cfa_area=row.get("cfa_area", ""),
        sensor=row.get("sensor", ""),
        kind=row.get("kind", ""),
        color_matrix_2=_matrix(second) if second else None,
        illuminant_2=illuminant,
        doubts=tuple(row.get("doubts", ())),
        source=row.get("source", ""),
    )


def _matrix(ten_thousandths: Sequence[int]) -> np.ndarray:
    return _array(np.reshape(ten_thousandths, (3, 3)) / 10_000)


# Matching ------------------------------------------------------------------------------------------------------------

# Makers with other names: of their owners, former or later; for all others the first word of the make counts.
_BRANDS = {
    "eastman": "kodak",
    "konica": "minolta",
    "seiko": "epson",
    "ricoh": "pentax",
    "om": "olympus",
    "creo": "leaf",
}
# Words that some files add: "Canon EOS 350D DIGITAL", "M9 Digital Camera".
_FILLERS = re.compile(r"\b(digital|camera)\b")


def _brand(make: str) -> str:
    first = re.match(r"[a-z]*", make.lower().strip())
    word = first.group() if first else ""
    return _BRANDS.get(word, word)


def _key(brand: str, model: str) -> str:
    """Return the model without its brand, fillers, case, spaces and punctuation: "NIKON D90" → "d90"."""
    text = _FILLERS.sub(" ", model.lower()).strip()
    return re.sub(r"[^a-z0-9+*]", "", text.removeprefix(brand) if brand else text)


@cache
def _index() -> dict[tuple[str, str], int]:
    """Map (brand, model key) to the number of a row, for every name of every camera."""
    index: dict[tuple[str, str], int] = {}
    for number, row in enumerate(_rows()):
        brand = _brand(row["make"])
        index[brand, _key(brand, row["model"])] = number
    for number, row in enumerate(_rows()):  # a camera's own name precedes an equal alias
        for brand in {_brand(row["make"]), _brand(row["name"])}:
            for model in (row["model"], row["name"], *row.get("aliases", ())):
                index.setdefault((brand, _key(brand, model)), number)
    return index


def find(camera: Camera | None) -> CameraFacts | None:
    """Return the table's facts of a camera by the make and model of its EXIF, or None.

    Case, spaces, the make's legal form ("NIKON CORPORATION") and a make repeated in the model do not matter.
    """
    if camera is None or not camera.model.strip():
        return None
    brand = _brand(camera.make)
    if not brand:
        return _by_model(camera.model)
    number = _index().get((brand, _key(brand, camera.model)))
    return None if number is None else _facts(number)


def find_by_name(name: str) -> CameraFacts | None:
    """Return the facts of a camera by an informal name: "Canon EOS 60D", "Canon/EOS 60D", "eos 60d"; None if unknown.

    A model alone suffices if only one make has it.
    """
    name = name.strip()
    for gap in re.finditer(r"[/ ]", name):  # try every split: makes and models may contain a slash or a space
        facts = find(Camera(name[: gap.start()].strip(), name[gap.end() :].strip()))
        if facts and gap.start():
            return facts
    return _by_model(name)


def _by_model(model: str) -> CameraFacts | None:
    """Return the camera with this model, of any make; None for no match or several."""
    numbers = {number for (brand, key), number in _index().items() if key and key == _key(brand, model)}
    return _facts(numbers.pop()) if len(numbers) == 1 else None


def close_names(name: str) -> list[str]:
    """Return up to three names of the table for a name that is not in it; for error messages.

    First choice are cameras whose names contain every word of ``name`` at the beginning of a word; if there are none,
    names with similar spelling.
    """
    words = name.replace("/", " ").lower().split()
    known_names = [row["name"] for row in _rows()]
    holding = [
        known
        for known in known_names
        if all(any(own.startswith(word) for own in known.lower().split()) for word in words)
    ]
    if words and holding:
        return sorted(holding, key=lambda known: (len(known), known))[:3]
    names = {known.lower(): known for known in known_names}
    return [names[key] for key in difflib.get_close_matches(" ".join(words), names, n=3, cutoff=0.6)]


def slug(name: str) -> str:
    """Spell a camera's name for file names: "GoPro HERO7 Black" → "gopro-hero7-black"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
