"""Hold a redesign to its promise: the results of all commands, before and after, on the same files.

    python tests/gate/gate.py compare REVISION     # this working tree against a commit; exit code 1 on a difference
    python tests/gate/gate.py record FOLDER        # run all commands with this working tree, keep the outputs
    python tests/gate/gate.py diff FOLDER FOLDER   # compare two records

The commands run as a user runs them, and their outputs are read by rawpy, tifffile, Pillow and numpy, never by the
package, so that the gate survives any change inside. Outputs without a network must agree byte for byte; those of a
network to 1e-6 of full scale, which after rounding to codes is at most one code, in at most a thousandth of the pixels.
The photographs of ../shared/data are used where they are there; networks get reduced copies, for they are slow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import rawpy
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
NETWORK_PIXELS = 90_000
TOLERANCE, RARE = 1e-6, 1e-3
NETWORKS = ("generic", "gopro-hero7-black")
NETWORK = ("--model", "paramisp")
CAMERA = ("--camera", "Canon EOS 60D")


def prepare(work: Path) -> None:
    """Make the input files: computed ones always, photographs and reduced copies of them where they are there."""
    for name in ("photos", "small", "raws"):
        (work / name).mkdir(parents=True)
    y, x = np.mgrid[:97, :131]
    scene = np.stack([x * 255 // 130, y * 255 // 96, (x * y) % 256], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon", "Canon EOS 60D"
    Image.fromarray(scene).save(work / "photos" / "computed.jpg", quality=95, exif=exif)
    Image.fromarray(scene).save(work / "photos" / "computed.png")
    Image.fromarray(scene).save(work / "photos" / "computed.tif")
    Image.fromarray(scene).save(work / "small" / "computed.jpg", quality=95, exif=exif)
    for path in sorted((DATA / "jpegs").glob("*.JPG")) if DATA.is_dir() else ():
        shutil.copy2(path, work / "photos" / path.name)
        with Image.open(path) as image:
            scale = (NETWORK_PIXELS / (image.width * image.height)) ** 0.5
            small = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)))
            small.save(work / "small" / path.name, quality=95, exif=image.info.get("exif", b""))
    kinds = ("*/*.CRW", "*/*.CR2", "*/*.DNG")
    for path in sorted(path for kind in kinds for path in DATA.glob(kind)) if DATA.is_dir() else ():
        shutil.copy2(path, work / "raws" / path.name)


def run(work: Path, tree: Path, *words: object, into: str) -> None:
    """Run ``paramisp words`` in ``work`` with the package of ``tree``; stdout and stderr go to ``into``.txt."""
    command = [sys.executable, "-m", "paramisp_cli", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "100", "PARAMISP_WEIGHTS": ""}
    environment["OMP_NUM_THREADS"] = "2"  # sums of other numbers of threads round differently
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    text = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}".replace(str(tree), "TREE")
    (work / f"{into}.txt").write_text(text, "utf-8")


def record(tree: Path, folder: Path) -> None:
    """Run every command with the package of ``tree`` and leave the outputs in ``folder``."""
    prepare(folder)
    (folder / "txt").mkdir()
    unprocess, render, parametric = "unprocess", "render", ("--model", "parametric")
    run(folder, tree, "inspect", "--json", *sorted(p.relative_to(folder) for p in (folder / "photos").iterdir()),
        *sorted(p.relative_to(folder) for p in (folder / "raws").iterdir()), into="txt/inspect")  # fmt: skip
    run(folder, tree, "cameras", "--json", into="txt/cameras")
    run(folder, tree, "weights", "list", "--json", into="txt/weights")
    run(folder, tree, unprocess, "photos", "-o", "out/parametric", *parametric, "--on-exists", "rename", into="txt/up")
    run(folder, tree, unprocess, "photos/computed.jpg", "-o", "out/flags.dng", *parametric, "--iso", 200, "--wb",
        "2,1,1.5", "--cfa", "GBRG", "--exposure", 1, "--profile", "linear", "--compression", "none",
        "--no-embed-jpeg", into="txt/flags")  # fmt: skip
    run(folder, tree, render, "out/parametric", "-o", "out/back", *parametric, "--format", "png", into="txt/back")
    run(folder, tree, render, "raws", "-o", "out/raws", *parametric, "--format", "tif", into="txt/raws")
    run(folder, tree, render, "raws", "-o", "out/raws8", *parametric, "--bits", 8, "--format", "png", into="txt/raws8")
    for name in NETWORKS:
        out = f"network/{name}"
        run(folder, tree, unprocess, "small", "-o", out, "--weights", name, *NETWORK, into=f"txt/{name}-up")
        back = ("--weights", name, *NETWORK, "--format", "tif")
        run(folder, tree, render, out, "-o", out, *back, into=f"txt/{name}-back")
    pairs = [folder / "raws" / name for name in ("CRW_0101.CRW", "CRW_0104.CRW")]
    if all(path.exists() for path in pairs):
        names = [path.relative_to(folder) for path in pairs]
        run(folder, tree, "pairs", *names, "-o", "pairs", "--json", into="txt/pairs")
        run(folder, tree, "evaluate", "pairs", "--test", "0104", "--direction", "render", "--json", into="txt/evaluate")
        run(folder, tree, "simulate", "raws/CRW_0101.CRW", "-o", "simulated", "--count", 3, "--size", 128, *CAMERA,
            into="txt/simulate")  # fmt: skip


def arrays(path: Path) -> np.ndarray | None:
    """The pixels of an output file, as integers in [0, 1]·full scale; None if it has none."""
    if path.suffix.lower() == ".dng":
        with rawpy.imread(str(path)) as raw:
            return raw.raw_image_visible.astype(np.float64) / 65535
    if path.suffix.lower() in (".tif", ".png"):
        import tifffile

        pixels = tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))
        return pixels.astype(np.float64) / np.iinfo(pixels.dtype).max
    return None


def _lines(path: Path) -> list[str]:
    """The lines of a text output without times; floats of JSON to 6 digits: sums in another order differ in the 7th."""
    lines = []
    for line in path.read_text("utf-8").splitlines():
        try:
            value = json.loads(line, parse_float=lambda number: float(f"{float(number):.6g}"))
        except ValueError:
            lines.append(" ".join(word for word in line.split() if not word.startswith("(") and word != "s)"))
            continue
        if isinstance(value, dict):
            value.pop("seconds", None)
        lines.append(json.dumps(value, sort_keys=True))
    return sorted(lines)  # messages of threads come in any order


def diff(first: Path, second: Path) -> list[str]:
    """Compare two records → one line for each difference."""
    names = {
        path.relative_to(folder)
        for folder in (first, second)
        for part in ("txt", "out", "network", "pairs", "simulated")
        for path in (folder / part).rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
    found = []
    for name in sorted(names):
        a, b = first / name, second / name
        if not (a.exists() and b.exists()):
            found.append(f"{name}: only in the {'first' if a.exists() else 'second'}")
        elif name.parts[0] == "txt":
            if _lines(a) != _lines(b):
                changed = next(
                    (pair for pair in zip(_lines(a), _lines(b), strict=False) if pair[0] != pair[1]), ("length", "")
                )
                found.append(f"{name}: {changed[0][:300]} → {changed[1][:300]}")
        elif hashlib.sha256(a.read_bytes()).digest() != hashlib.sha256(b.read_bytes()).digest():
            x, y = (arrays(path) for path in (a, b)) if name.parts[0] == "network" else (None, None)
            if x is None or y is None:
                found.append(f"{name}: bytes differ")
            elif x.shape != y.shape:
                found.append(f"{name}: shapes {x.shape} and {y.shape}")
            else:
                far = np.abs(x - y)
                if far.max() > 1.01 / 65535 or np.mean(far > TOLERANCE) > RARE:
                    found.append(f"{name}: up to {far.max():.2g} apart, {np.mean(far > TOLERANCE):.2%} of the values")
    return found


def compare(revision: str) -> list[str]:
    """Record a commit and this working tree, and compare them."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tree = folder / "tree"
        subprocess.run(
            ["git", "worktree", "add", "--detach", tree, revision], cwd=ROOT, check=True, capture_output=True
        )
        try:
            for name, package in (("before", tree), ("after", ROOT)):  # both at one path: names of pairs depend on it
                record(package, folder / "run")
                (folder / "run").rename(folder / name)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)
        return diff(folder / "before", folder / "after")


def main() -> int:
    """Run the command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("compare").add_argument("revision")
    commands.add_parser("record").add_argument("folder", type=Path)
    two = commands.add_parser("diff")
    two.add_argument("first", type=Path)
    two.add_argument("second", type=Path)
    given = parser.parse_args()
    if given.command == "record":
        record(ROOT, given.folder)
        return 0
    found = compare(given.revision) if given.command == "compare" else diff(given.first, given.second)
    for line in found:
        print(line)
    print("no result changed" if not found else f"{len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
