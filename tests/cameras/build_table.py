"""Build ``paramisp_cli/cameras/cameras.json`` from the shared collection of camera facts.

    python tests/cameras/build_table.py                # ../shared/data/cameras.json → the package's table
    python tests/cameras/build_table.py SOURCE TARGET

The collection is larger than the program needs: it holds all white-balance presets, X-Trans patterns and the matrices
of a phone's further lenses. The table holds the facts that the program reads, one camera a line, in a form that loads
fast. Three rules choose between facts:

* CFA: the phase of the JPEG's pixel grid (``cfa_crop``) goes before the phase of the visible area, and this before the
  phase of the whole sensor: an unprocessed JPEG begins at the JPEG's first pixel.
* Daylight: the first preset of ``DAYLIGHT`` that the camera has.
* ``OWN``: facts proved by a file of the camera go before all tables.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT.parent / "shared" / "data" / "cameras.json"
TARGET = ROOT / "paramisp_cli" / "cameras" / "cameras.json"

BAYER = ("RGGB", "BGGR", "GRBG", "GBRG")
DAYLIGHT = ("Daylight", "Direct Sunlight", "Sunny", "AsShotNeutral in daylight")
ABOUT = [
    "One camera a line; tests/cameras/build_table.py writes this file. name: ours; make, model, aliases: as in EXIF.",
    "kind: phone or tablet; else a camera. sensor: bayer, xtrans, mono, foveon, superccd, four-colour, other.",
    "cfa: 2x2, row by row. cfa_area: the area whose first pixel it begins at: jpeg (the camera's crop), visible, full.",
    "levels: black, white in raw units; iso: for these only, iso_range: first to last (null: no end), else: others.",
    "matrix: CIE XYZ -> camera RGB in ten-thousandths, illuminant D65 (as DNG's ColorMatrix), row by row.",
    "matrix_2: EXIF LightSource code (17 A, 21 D65, 23 D50), then the same for this illuminant.",
    "daylight: gains R, B with G = 1, and the preset's name. doubts: facts on which sources disagree, or odd ones.",
    "noise: ISO, scale R G B, offset R G B; next ISO ...: variance = scale x + offset, x in [0, 1]. Fits as published:",
    "scales of 0 or less and offsets below 0 are artefacts of the fit (the program derives physical values).",
    "source: fact and code; old: darktable 4.2.1; dt: darktable 5.4.1 (cameras.xml, noiseprofiles, wb_presets);",
    "ado: Adobe DNG Converter 11.3 to 18.4.1; dng: dnglab ab646bc; lr: LibRaw e419de0; rt: RawTherapee 5.13 and ART;",
    "adn: AndroidDeviceNames 2.1.1; exiftool: 13.58; mei, raw, psl, slabs: single DNGs in public repositories;",
    "own: tags, masked pixels and alignment of our own files of the camera; codes: makers' public model codes.",
]

# Name → facts in the collection's terms, and their evidence. They replace the collection's.
OWN: dict[str, dict[str, Any]] = {
    # The DNG's ColorMatrix2 (D50) is the matrix of every RAW of this camera; Adobe's for D65 stands second.
    "GoPro HERO7 Black": {
        "color_matrix_d65": [[1.0344, -0.421, -0.062], [-0.2315, 1.0625, 0.1948], [0.0093, 0.1058, 0.5541]],
        "color_matrix_2": {
            "illuminant": 21,
            "matrix": [[1.1033, -0.4339, -0.1176], [-0.218, 1.0845, 0.1524], [-0.0467, 0.1613, 0.4469]],
        },
        "source": {"matrix": "own", "matrix_2": "ado"},
    },
    # ColorMatrix2 (D65) and ColorMatrix1 (A) of the camera's own DNG.
    "Leica M9": {
        "color_matrix_d65": [[0.626, -0.1019, -0.047], [-0.373, 1.145, 0.193], [-0.1409, 0.295, 0.621]],
        "color_matrix_2": {
            "illuminant": 17,
            "matrix": [[0.856, -0.2034, -0.0066], [-0.424, 1.36, 0.292], [-0.074, 0.247, 0.898]],
        },
        "source": {"matrix": "own", "matrix_2": "own"},
    },
    # LibRaw's matrices: the reader takes them for a CRW, and the shipped networks were trained with them.
    # The JPEG in a D30's CRW begins at row 5, column 8 of the visible area, which is RGGB (`paramisp pairs`: 4.72, 7.73
    # at a scale of 1:1.5, whose resampling moves both axes by a quarter pixel).
    "Canon EOS D30": {
        "cfa_crop": "GBRG",
        "color_matrix_d65": [[0.99, -0.2771, -0.1324], [-0.7072, 1.4229, 0.314], [-0.279, 0.3344, 0.8861]],
        "source": {"cfa": "own", "matrix": "lr"},
    },
    "Canon PowerShot S40": {
        "color_matrix_d65": [[0.8606, -0.2573, -0.0949], [-0.8237, 1.5489, 0.2974], [-0.2649, 0.3076, 0.91]],
        "source": {"matrix": "lr"},
    },
}

# Phones write a model code in EXIF, or their name. The collection has few codes; these follow the makers' schemes.
_SAMSUNG_MARKETS = ("B", "E", "N", "Q", "U", "U1", "W", "0")
_SAMSUNG = {
    "S20": ("G980", "G981"), "S20+": ("G985", "G986"), "S20 Ultra": ("G988",),
    "S21": ("G991",), "S21+": ("G996",), "S21 Ultra": ("G998",),
    "S22": ("S901",), "S22+": ("S906",), "S22 Ultra": ("S908",),
    "S23": ("S911",), "S23+": ("S916",), "S23 Ultra": ("S918",),
    "S24": ("S921",), "S24+": ("S926",), "S24 Ultra": ("S928",),
    "S25": ("S931",), "S25+": ("S936",), "S25 Ultra": ("S938",),
}  # fmt: skip
CODES: dict[str, list[str]] = {
    **{
        f"Samsung Galaxy {name}": [
            f"SM-{code}{market}"
            for code in codes
            for market in (*_SAMSUNG_MARKETS, *(("F",) if code in ("G980", "G985") else ()))
        ]
        for name, codes in _SAMSUNG.items()
    },
    "Huawei HUAWEI P30 Pro": ["VOG-L04", "VOG-L09", "VOG-L29"],
    "OnePlus OnePlus 12": ["CPH2573", "CPH2581", "CPH2583"],
    "Sony Xperia 1 V": ["XQ-DQ54", "XQ-DQ62", "XQ-DQ72"],
}


def _number(value: float) -> str:
    """Spell a number as digits and an exponent: shorter than repr, and read back as the same float."""
    plain = np.format_float_scientific(value, trim="-", exp_digits=1)
    mantissa, _, exponent = plain.partition("e")
    digits = mantissa.partition(".")[2]
    power = int(exponent) - len(digits)
    spelt = f"{mantissa.replace('.', '')}e{power}" if power else mantissa.replace(".", "")
    spelt = min(repr(value), spelt, key=len)
    assert float(spelt) == value
    return spelt


def _noise(rows: Iterable[Iterable[float]]) -> str:
    return ";".join(" ".join([f"{row[0]:g}", *map(_number, row[1:])]) for row in map(list, rows))


def _matrix(rows: Iterable[Iterable[float]]) -> list[int]:
    values = [round(value * 10_000) for row in rows for value in row]
    assert np.array_equal(np.array(values) / 10_000, np.ravel(list(map(list, rows))))
    return values


def _level(given: dict[str, Any]) -> dict[str, Any]:
    level = {"black": given["black"], "white": given["white"]}
    if "iso_list" in given:
        level["iso"] = given["iso_list"]
    if given.keys() & {"iso_min", "iso_max"}:
        level["iso_range"] = [given.get("iso_min", 0), given.get("iso_max")]
    return level


def row(given: dict[str, Any]) -> dict[str, Any]:
    """Turn a camera of the collection into a row of the table."""
    name = f"{given['make']} {given['model']}"
    own = OWN.get(name, {})
    source = {**given["source"], **own.get("source", {})}
    given = {**given, **own}
    made: dict[str, Any] = {"name": name, "make": given["exif_make"], "model": given["exif_model"]}
    if name in CODES:
        source["aliases"] = "codes"
    if aliases := [*given.get("aliases", ()), *given.get("ids", ()), *CODES.get(name, ())]:
        made["aliases"] = aliases
    made |= {key: given[key] for key in ("kind", "sensor") if key in given}
    area = "jpeg" if given.get("cfa_crop") in BAYER else given.get("cfa_area", "")
    cfa = given.get("cfa_crop") if area == "jpeg" else given.get("cfa")
    if cfa in BAYER:
        made |= {"cfa": cfa, "cfa_area": area}
    if "levels" in given:
        made["levels"] = [_level(level) for level in given["levels"]]
    if "color_matrix_d65" in given:
        made["matrix"] = _matrix(given["color_matrix_d65"])
    if "color_matrix_2" in given:
        made["matrix_2"] = [given["color_matrix_2"]["illuminant"], *_matrix(given["color_matrix_2"]["matrix"])]
    presets = given.get("wb", {})
    if preset := next((preset for preset in DAYLIGHT if preset in presets), None):
        red, _, blue = presets[preset]
        made["daylight"] = [red, blue, preset]
    doubts = [fact for fact in ("cfa", "matrix") if f"{fact}_doubt" in given]
    if doubts:
        made["doubts"] = doubts
    if "noise" in given:
        made["noise"] = _noise(given["noise"])
    made["source"] = ", ".join(f"{fact} {code}" for fact, code in source.items())
    return made


def table(cameras: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of all cameras with a model and a fact; a bare make can match no EXIF."""
    return [row(given) for given in cameras if given["exif_model"] and given["source"]]


def write(rows: Iterable[dict[str, Any]], target: Path) -> None:
    """Write the table, one camera a line."""
    lines = [json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in rows]
    about = json.dumps(ABOUT, ensure_ascii=False, indent=1)
    target.write_text(f'{{\n"about": {about},\n"cameras": [\n' + ",\n".join(lines) + "\n]\n}\n", "utf-8")


def main() -> None:
    """Run the command line of this script."""
    source, target = map(Path, sys.argv[1:3]) if len(sys.argv) == 3 else (SOURCE, TARGET)
    cameras = json.loads(source.read_text("utf-8"))["cameras"]
    rows = table(cameras)
    write(rows, target)
    print(f"{target}: {len(rows)} cameras, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
