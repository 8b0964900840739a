"""Write paramisp_cli/cameras/spectra.npz: sensitivities of cameras, reflectances and the standard observer.

    python tests/cameras/build_spectra.py ../shared/data/spectra

The folder is a copy of rawtoaces-data (Academy Software Foundation, Apache License 2.0): JSON files of single cameras,
of 190 reflectances and of the CIE 1931 observer. Numbers are stored as 16-bit integers, each spectrum in units of its
own maximum or of 1; names of cameras are those of the camera table, if it has the camera.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from paramisp_cli import cameras

TARGET = Path(cameras.__file__).with_name("spectra.npz")
WAVELENGTHS = [str(nm) for nm in range(380, 781, 5)]
SPELT_OTHERWISE = {
    "Canon Digital Rebel XTi": "Canon EOS 400D",
    "Canon EOS R5m2": "Canon EOS R5 Mark II",
    "Canon EOS R6m2": "Canon EOS R6 Mark II",
}
LABORATORIES = {"wetadigital": "Weta Digital", "scitech": "AMPAS SciTech"}
SCALE = 65535


def table(path: Path) -> tuple[dict[str, str], np.ndarray]:
    """Return the header of a file and its spectra (81, n)."""
    file = json.loads(path.read_text("utf-8"))
    main = file["spectral_data"]["data"]["main"]
    return file["header"], np.array([main[nm] for nm in WAVELENGTHS], np.float64)


def codes(values: np.ndarray, top: float) -> np.ndarray:
    """Return values in [0, top] as 16-bit integers."""
    return np.rint(np.clip(values / top, 0, 1) * SCALE).astype(np.uint16)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    names, laboratories, sensitivities = [], [], []
    for path in sorted((folder / "camera").glob("*.json")):
        header, spectra = table(path)
        own = f"{header['manufacturer']} {header['model']}"
        facts = cameras.find_by_name(SPELT_OTHERWISE.get(own, own))
        print(f"{own:32} {facts.name if facts else '(not in the camera table)'}")
        names.append(facts.name if facts else SPELT_OTHERWISE.get(own, own))
        laboratory = header.get("laboratory") or header["document_creator"]
        laboratories.append(LABORATORIES.get(laboratory, laboratory))
        sensitivities.append(codes(spectra, spectra.max()))
    assert len({*names}) == len(names)
    np.savez_compressed(
        TARGET,
        names=np.array(names),
        laboratories=np.array(laboratories),
        sensitivities=np.array(sensitivities),
        reflectances=codes(table(folder / "training" / "training_spectral.json")[1].T, 1),
        observer=codes(table(folder / "cmf" / "cmf_1931.json")[1], 2),
    )
    print(f"{len(names)} cameras, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
