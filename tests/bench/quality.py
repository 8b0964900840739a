"""Write docs/quality.md: the shipped weights on photographs, cross-photograph, and the cameras' looks.

Run: make quality, or python tests/bench/quality.py [FOLDER…] [--weights FILE…] [--work FOLDER] [-o FILE]

FOLDER: RAW files with their JPEGs; by default ../shared/data and $PARAMISP_SAMPLES. ``--weights`` names further
checkpoints, of trainings that left photographs out. Every score is stored in the working folder under the hash of its
weights and of the code behind it, so that a second run measures only what has changed. ``--without WORD`` leaves models
out whose name has the word and whose score is not stored; ``--without ""`` writes the page from stored scores alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import quality_programs as programs
import torch

from paramisp_cli import weights
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ParamispError
from paramisp_cli.training.dataset import LoadedPair, load, whole
from paramisp_cli.training.measure import baselines, trials
from paramisp_cli.training.measure.edits import EDITS
from paramisp_cli.training.measure.libraw import libraw
from paramisp_cli.training.measure.predictors import Predictor, network
from paramisp_cli.training.measure.scores import score

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "paramisp_cli"
SHIPPED = ROOT / "weights"
CPU = torch.device("cpu")
OF_SCORES = tuple(f"training/measure/{name}.py" for name in ("metrics", "edits", "scores", "predictors", "baselines"))
OF_NETWORKS = (*OF_SCORES, "models", "runner.py", "isp.py", "mosaic.py", "color.py")
OF_BASELINES = (*OF_SCORES, "models/parametric.py", "isp.py", "mosaic.py", "color.py")
OF_LOOKS = ("rendition", "formats/libraw.py", "training/measure/libraw.py", "color.py")


@dataclass(frozen=True)
class Row:
    """A model on a photograph: its name, whether its training saw the photograph, and the record of its score."""

    model: str
    seen: bool
    record: dict


class Store:
    """Results by name and hash of everything that they depend on; one JSON file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, parts: Sequence[str], make: Callable[[], object], only_stored: bool = False) -> object:
        """Return a result, made now if it is not stored; None if it is not to be made."""
        path = self.folder / f"{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:24]}.json"
        if not path.exists():
            if only_stored:
                return None
            result = json.dumps(make())
            path.write_text(result)
        return json.loads(path.read_text())


def code(names: Sequence[str]) -> str:
    """Hash the source of files and folders of the package."""
    digest = hashlib.sha256()
    for name in names:
        found = CODE / name
        for path in sorted(found.rglob("*.py")) if found.is_dir() else [found]:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_pairs(folders: Sequence[Path], work: Path) -> Path:
    """Align the photographs of the folders, once."""
    out = work / "pairs"
    if not (out / "index.jsonl").exists():
        command = [sys.executable, "-m", "paramisp_cli", "pairs", *map(str, folders), "-o", str(out)]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        if done.returncode not in (0, 1):  # 1: some files are no pairs
            sys.exit(done.returncode)
    return out


def checkpoints(camera: str, direction: Direction, more: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Give the shipped weights of a camera and the generic ones of each architecture, and the further ones."""
    slug = next(name for name in weights.candidates(camera) if name != "generic")
    for architecture in ("fast", "paramisp"):
        for name in ("generic", slug):
            path = SHIPPED / architecture / f"{name}.{direction}.safetensors"
            if path.exists():
                yield f"{'own' if name == slug else name} {architecture}", path
    for path in more:
        header = weights.info(path)
        if header["direction"] == direction and header["camera"] == camera:
            yield f"own {header['architecture']}, photographs left out", path


def rows_of(
    group: Sequence[LoadedPair], direction: Direction, more: Sequence[Path], store: Store, without: str | None
) -> Iterator[Row]:
    """Measure every model on every photograph of a camera."""
    for trial in trials.arrange(group):
        item, others = trial.item, "".join(each.name for each in trial.fitting)
        named: list[tuple[str, bool, str, Callable[[], Predictor]]] = [
            (
                "parametric",
                False,
                code(OF_BASELINES),
                lambda: network(weights.load_model("parametric", direction), CPU),
            ),
            (
                "parametric, gain fitted",
                False,
                code(OF_BASELINES) + others,
                lambda trial=trial: baselines.fitted_parametric(trial.fitting, direction),
            ),
            (
                "regression",
                False,
                code(OF_BASELINES) + others,
                lambda trial=trial: baselines.regression(trial.fitting, direction),
            ),
        ]
        for name, path in checkpoints(item.camera, direction, more):
            seen = trials._was_trained_on(weights.info(path), item)
            make = lambda path=path: network(weights.load(path, CPU), CPU)  # noqa: E731
            named.append((name, seen, content(path) + code(OF_NETWORKS), make))
        if direction == Direction.RENDER:
            named.append(("camera look of its own preview", False, code(OF_LOOKS) + "2", lambda: programs.camera_look))
            named.append(("LibRaw", False, code(OF_LOOKS), lambda: libraw))
            for program in programs.AVAILABLE:
                named.append((program, False, "2", lambda program=program: programs.predictor(program)))
        for name, seen, depends, make in named:
            key = (name, str(direction), item.name, item.pair.source_hash or "", depends)
            left_out = without is not None and without in name
            make_record = lambda make=make, name=name, item=item: measured(item, direction, name, make())  # noqa: E731
            record = store.get(key, make_record, left_out)
            if record is None:
                continue
            print(f"{item.name} {direction} {name}: {record.get('psnr', record)}", file=sys.stderr, flush=True)
            if "psnr" in record:
                yield Row(name, seen, record)


def measured(item: LoadedPair, direction: Direction, name: str, predict: Predictor) -> dict:
    """Score a predictor; with the processor seconds of a megapixel. Why not, where a program's picture is no use."""
    spent = []

    def timed(item: LoadedPair) -> np.ndarray:
        start = time.process_time()
        result = predict(item)
        spent.append((time.process_time() - start) / (item.mosaic.size / 1e6))
        return result

    try:
        return score(item, direction, name, timed).record() | {"seconds": spent[0]}
    except ParamispError as error:
        return {"left out": str(error)}


def short(photo: str) -> str:
    return trials._stem(photo)


def table(rows: Sequence[Row], direction: Direction) -> str:
    """Word a table: mean and spread of each metric over photographs, and the worst photograph."""
    picture = direction == Direction.RENDER
    lines = [
        f"| model | photographs | PSNR | SSIM |{' ΔE2000 |' if picture else ''} worst photograph | s/MP |",
        "|---" * (7 if picture else 6) + "|",
    ]
    for name in dict.fromkeys(row.model for row in rows):
        records = [row.record for row in rows if row.model == name]
        worst = min(records, key=lambda record: record["psnr"])
        cells = [name, str(len(records)), spread(records, "psnr", 2), spread(records, "ssim", 3)]
        cells += [spread(records, "delta_e", 2)] if picture else []
        cells += [f"{short(worst['photo'])} {worst['psnr']:.2f}"]
        is_program = name in ("LibRaw", *programs.AVAILABLE)
        cells += ["–" if is_program else f"{np.mean([record['seconds'] for record in records]):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(records: Sequence[dict], key: str, digits: int) -> str:
    values = [record[key] for record in records]
    return f"{np.mean(values):.{digits}f}" + (f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")


def edit_table(rows: Sequence[Row]) -> str:
    """Word a table of PSNR / mean ΔE2000 after each edit, means over photographs."""
    lines = [f"| model | {' | '.join(edit.name for edit in EDITS)} |", "|---" * (len(EDITS) + 1) + "|"]
    for name in dict.fromkeys(row.model for row in rows):
        errors = [row.record["edits"] for row in rows if row.model == name]
        means = [np.mean([[each[i]["psnr"], each[i]["delta_e"]] for each in errors], 0) for i in range(len(EDITS))]
        lines.append(f"| {name} | {' | '.join(f'{psnr:.1f} / {delta_e:.2f}' for psnr, delta_e in means)} |")
    return "\n".join(lines) + "\n"


def section(camera: str, rows: dict[Direction, list[Row]]) -> str:
    """Word the tables of a camera. The main ones have the photographs that some network of the camera never saw."""
    everything = [row for each in rows.values() for row in each]
    networks = {row.model for row in everything if "fast" in row.model or "paramisp" in row.model}
    unseen = {row.record["photo"] for row in everything if row.model in networks and not row.seen}
    names = ", ".join(sorted(short(photo) for photo in unseen))
    text = [f"## {camera}\n"]
    for direction, title in ((Direction.UNPROCESS, "sRGB → RAW"), (Direction.RENDER, "RAW → sRGB")):
        main = [row for row in rows[direction] if row.record["photo"] in unseen and not row.seen]
        if main:
            text.append(
                f"### {camera}: {title}, photographs never seen\n\nMeasured on {names}.\n\n{table(main, direction)}"
            )
            if direction == Direction.UNPROCESS:
                text.append(f"After the same edit of both RAW files, PSNR / mean ΔE2000:\n\n{edit_table(main)}")
        seen = [row for row in rows[direction] if row.seen]
        if seen:
            text.append(
                f"### {camera}: {title}, photographs seen in training\n\n"
                f"No evidence of quality.\n\n{table(seen, direction)}"
            )
    return "\n".join(text)


def disagreements(rows: Sequence[Row]) -> Iterator[str]:
    """Compare with the figures in the headers of the shipped weights, photograph by photograph."""
    for path in sorted(SHIPPED.glob("*/*.safetensors")):
        header = weights.info(path)
        told = json.loads(header.get("metrics") or "{}").get("photographs never seen", [])
        name = f"{'generic' if header['camera'] == 'generic' else 'own'} {header['architecture']}"
        for old in told:
            for row in rows:
                same = row.model == name and short(row.record["photo"]) == short(old["photo"])
                if (
                    same
                    and row.record["direction"] == old["direction"]
                    and abs(row.record["psnr"] - old["psnr"]) > 0.02
                ):
                    yield (
                        f"{path.parent.name}/{path.stem}: {short(old['photo'])} measures {row.record['psnr']:.2f} dB, "
                        f"its header says {old['psnr']:.2f}"
                    )


def machine() -> str:
    """Name the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


INTRODUCTION = """# Quality

`make quality` writes this page. It measures the weights of the clone on real photographs: PSNR [dB], SSIM and median
ΔE2000, means over photographs ± standard deviation. The main tables have only photographs that the weights of the line
never saw; `parametric` with a fitted gain and the regression are fitted on the other photographs of the camera. Start,
learning rate and steps of "own fast" were chosen on these photographs, so its rows are optimistic.
[Evaluation](evaluation.md) defines metrics and edits. "s/MP" is processor seconds a megapixel.

"Camera look" fits the look to the preview inside the same RAW file, as `render --look camera` does: it sees the JPEG
that it is measured on, as it is meant to. LibRaw, RawTherapee and darktable develop with their defaults, which aim at a
look of their own.
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--weights", nargs="*", type=Path, default=[])
    parser.add_argument("--without", metavar="WORD")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "paramisp-quality")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "quality.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    start = time.time()
    samples = os.environ.get("PARAMISP_SAMPLES")
    folders = chosen.folders or [ROOT.parent / "shared" / "data", *([Path(samples)] if samples else [])]
    store = Store(chosen.work / "scores")
    loaded = whole(load(make_pairs(folders, chosen.work)))
    groups: dict[str, list[LoadedPair]] = {}
    for item in loaded:
        groups.setdefault(item.camera, []).append(item)
    text, everything = [INTRODUCTION], []
    for camera, group in sorted(groups.items()):
        if len(group) > 1:  # a camera with one photograph has no other to measure
            rows = {each: list(rows_of(group, each, chosen.weights, store, chosen.without)) for each in ISP_DIRECTIONS}
            text.append(section(camera, rows))
            everything += [row for each in rows.values() for row in each]
    text.append(
        programs.looks(folders, lambda parts, make: store.get((*parts, code(OF_LOOKS)), make, chosen.without == ""))
    )
    missing = {"RawTherapee": "rawtherapee-cli", "darktable": "darktable-cli"}.items()
    absent = [name for name, command in missing if shutil.which(command) is None]
    text.append(
        f"Measured with one thread on {machine()}.{' Not installed: ' + ', '.join(absent) + '.' if absent else ''}\n"
    )
    if chosen.without is not None:
        text.append("This page is not complete: scores that were not stored are left out.\n")
    chosen.output.write_text("\n".join(text), "utf-8")
    for line in disagreements(everything):
        print(f"header: {line}")
    print(f"{chosen.output} in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
