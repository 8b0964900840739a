"""Train the networks of other papers beside ours for equal time, measure all of them, and write docs/comparison.md.

    python tests/bench/peers.py train WORK --pairs PAIRS --simulated SIM [--minutes 30 | --steps 200] [--only WORD…]
    python tests/bench/peers.py measure WORK --pairs PAIRS --simulated SIM --simulated-test SIM_TEST [--only WORD…]
    python tests/bench/peers.py write

``train`` runs the recipes ``peer-…`` one after the other, ``--minutes`` of one core a direction (half an hour by
default); the same command resumes. Each number of minutes takes a folder WORK of its own. ``measure`` scores every
training that has ended and every baseline, and adds the new scores to peers.jsonl beside this script, so that trainings
of several days make one table. ``write`` makes the page of peers.jsonl. ``--only`` picks trainings whose names contain
one of the words, for several processes side by side.

PAIRS: made by ``paramisp pairs`` of the HERO7's two photographs; networks are trained on GOPR8508 and measured on
GOPR8513 whole. SIM and SIM_TEST: shots of a simulated Nikon D90 whose processing follows the settings, of different
scenes (docs/training.md has the commands).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch

import paramisp_cli
from paramisp_cli import models, weights
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.runner import Runner
from paramisp_cli.training.dataset import LoadedPair, load, whole
from paramisp_cli.training.measure import baselines
from paramisp_cli.training.measure.edits import EDITS
from paramisp_cli.training.measure.libraw import libraw
from paramisp_cli.training.measure.predictors import Predictor, network
from paramisp_cli.training.measure.scores import score
from paramisp_cli.types import CanonicalParams, OpticalParams

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_suffix(".jsonl")
PAGE = ROOT / "docs" / "comparison.md"
CPU = torch.device("cpu")
PHOTOGRAPHS, SIMULATED = "photographs", "simulated"
TEST = "GOPR8513"
HALF_AN_HOUR = 30
"""Minutes that the recipes ``peer-…`` are written for."""
CHEAP = ("fast", "paramisp", "ciexyz")
"""Networks that are trained with three seeds: their training takes no longer, and they are not undertrained."""
TITLES = {
    PHOTOGRAPHS: "GoPro HERO7: trained on GOPR8508, measured on GOPR8513 whole",
    SIMULATED: "Simulated Nikon D90: 1650 shots of eleven scenes, measured on 99 shots of three others",
}
ABOUT = 0.2
"""How far, relative to a fixed number of steps, the steps of a training of fixed time may lie to be compared."""
FEW_STEPS = 2000
"""Steps below which a row is called undertrained: up to about 1200 steps the papers' networks gained several dB."""
WORDS = {
    "invisp": "InvISP, a network a direction", "invisp both": "InvISP, one network both ways", "cycleisp": "CycleISP",
    "ciexyz": "CIE XYZ Net", "cameranet": "CameraNet, half width", "paramisp": "ParamISP", "fast": "fast (ours)",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One training: its data, recipe, direction ("joint" for both) and seed."""

    data: str
    architecture: str
    direction: str
    seed: int = 0

    @property
    def name(self) -> str:
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.data[0]}-{self.architecture}-{self.direction}{seed}"

    @property
    def recipe(self) -> str:
        alone = "-alone" if self.architecture == "invisp" and self.direction != "joint" else ""
        return f"peer-{self.architecture}{alone}"

    def among(self, words: Sequence[str]) -> bool:
        """Return whether the name contains one of the words; without words, all are chosen."""
        return not words or any(word in self.name for word in words)


def jobs() -> Iterator[Job]:
    """Give every training, those of the first seed first."""
    for seed in range(3):
        for data in (PHOTOGRAPHS, SIMULATED):
            for entry in models.REGISTRY:
                if entry.needs_weights and (not seed or entry.name in CHEAP):
                    yield from (
                        Job(data, entry.name, str(each), seed) for each in ISP_DIRECTIONS if each in entry.directions
                    )
                    if entry.name == "invisp":
                        yield Job(data, entry.name, "joint", seed)


def train(work: Path, pairs: Path, simulated: Path, minutes: float, steps: int, only: Sequence[str]) -> None:
    """Run the trainings that have not ended, for ``minutes`` of one core a direction or, if given, for ``steps``."""
    work.mkdir(parents=True, exist_ok=True)
    for job in jobs():
        folder = work / job.name
        if not job.among(only) or (folder / "finished").exists():
            continue
        with tempfile.TemporaryDirectory() as temporary:
            recipe = Path(temporary, "recipe.toml")
            spent = 0 if steps else minutes * (2 if job.direction == "joint" else 1)
            recipe.write_text(
                f'base = "{job.recipe}"\nseed = {job.seed}\ncore_minutes = {spent}\n{phases(job, minutes, steps)}'
            )
            dataset = pairs if job.data == PHOTOGRAPHS else simulated
            command = [sys.executable, "-m", "paramisp_cli", "train", str(dataset), "-o", str(folder)]
            command += ["--direction", job.direction, "--recipe", str(recipe)]
            command += ["--camera", "HERO7", "--leave-out", TEST] if job.data == PHOTOGRAPHS else []
            print(job.name, flush=True)
            done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        (folder / "finished").touch()


def phases(job: Job, minutes: float, steps: int) -> str:
    """Return a recipe's phases as TOML: early ones shortened as the time is, or all of them to ``steps`` in sum."""
    recipe = {"base": job.recipe}
    while "phases" not in recipe:
        file = resources.files(paramisp_cli) / "training" / "recipes" / f"{recipe['base']}.toml"
        recipe = tomllib.loads(file.read_text())
    each = recipe["phases"]
    for phase in each[:-1]:
        phase["steps"] = max(steps // 4 if steps else round(phase["steps"] * minutes / HALF_AN_HOUR), 1)
    if steps:
        each[-1]["steps"] = steps - sum(phase["steps"] for phase in each[:-1])
    lines = ["\n[[phases]]\n" + "\n".join(f"{key} = {json.dumps(own)}" for key, own in one.items()) for one in each]
    return "\n".join(lines) + "\n"


def stored() -> list[dict]:
    """Return the results so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def add(record: dict) -> None:
    with RESULTS.open("a") as file:
        file.write(json.dumps(record) + "\n")


def measure(
    work: Path, sets: dict[str, list[LoadedPair]], fitting: dict[str, list[LoadedPair]], only: Sequence[str]
) -> None:
    """Score baselines and ended trainings that have no result, each on every photograph of its test set."""
    have = {tuple(each[key] for key in KEYS) for each in stored()}
    for data, items in sets.items():
        for direction in ISP_DIRECTIONS:
            for name, make in reference(fitting[data], direction, data):
                key = (data, name, str(direction), 0, 0)
                if key not in have:
                    print(*key, flush=True)
                    add(dict(zip(KEYS, key, strict=True)) | scored(items, direction, name, make()))
    for job in jobs():
        if job.data not in sets or not job.among(only) or not (work / job.name / "finished").exists():
            continue
        for path in sorted((work / job.name).glob("*.safetensors")):
            for direction in [Direction(job.direction)] if job.direction != "joint" else list(ISP_DIRECTIONS):
                name = f"{job.architecture} both" if job.direction == "joint" else job.architecture
                spent = json.loads(weights.info(path)["training"])["recipe"]["core_minutes"]
                key = (job.data, name, str(direction), job.seed, spent)
                if key not in have:
                    print(*key, flush=True)
                    result = of_training(path, direction, sets[job.data])
                    costs = {} if has_cost(job.architecture, direction) else cost(path, direction)
                    add(dict(zip(KEYS, key, strict=True)) | result | costs)


PLAIN_MACS = {"paramisp": 271e3}
"""Multiply-accumulates a pixel of networks whose ``macs`` counts the fewer of our own convolutions."""
KEYS = ("data", "model", "direction", "seed", "core_minutes")


def of_training(path: Path, direction: Direction, items: Sequence[LoadedPair]) -> dict:
    """Return the scores of a training; those of its own closing measurement where it has the same photographs."""
    header = weights.info(path)
    about = json.loads(header["training"])
    unseen = json.loads(header.get("metrics") or "{}").get("photographs never seen", [])
    records = [each for each in unseen if each["direction"] == str(direction) and each["model"] == "this"]
    if {each["photo"] for each in records} == {item.name for item in items}:
        result = summary(records, direction)
    else:
        result = scored(items, direction, "this", network(weights.load_model(path, direction), CPU))
    return {key: about[key] for key in ("steps", "minutes", "machine")} | result


def reference(
    fitting: list[LoadedPair], direction: Direction, data: str
) -> Iterator[tuple[str, Callable[[], Predictor]]]:
    """Give the baselines of a direction, fitted on the training set."""
    yield "parametric", lambda: network(weights.load_model("parametric", direction), CPU)
    yield "parametric, gain fitted", lambda: baselines.fitted_parametric(fitting, direction)
    yield "regression", lambda: baselines.regression(fitting, direction)
    if direction == Direction.RENDER and data == PHOTOGRAPHS:
        yield "LibRaw", lambda: libraw


def scored(items: Sequence[LoadedPair], direction: Direction, name: str, predict: Predictor) -> dict:
    """Score a predictor on every photograph and summarise."""
    return summary([score(item, direction, name, predict).record() for item in items], direction)


def summary(records: Sequence[dict], direction: Direction) -> dict:
    """Return mean metrics over photographs, the worst photograph, and the errors after edits."""
    worst = min(records, key=lambda record: record["psnr"])
    result = {"photographs": len(records), "worst": [worst["photo"], worst["psnr"]]}
    result |= {key: float(np.mean([record[key] for record in records])) for key in ("psnr", "ssim")}
    if direction == Direction.RENDER:
        return result | {"delta_e": float(np.mean([record["delta_e"] for record in records]))}
    edits = [[[each["psnr"], each["delta_e"]] for each in record["edits"]] for record in records]
    return result | {"edits": np.mean(np.array(edits, float), 0).tolist()}


def has_cost(architecture: str, direction: Direction) -> bool:
    """Return whether an earlier result has the cost of a network."""
    rows = [row for row in stored() if (row["model"].split()[0], row["direction"]) == (architecture, str(direction))]
    return any(row.get("peak") for row in rows)


def cost(path: Path, direction: Direction) -> dict:
    """Return parameters, multiply-accumulates a pixel, and seconds and bytes of a picture in a process of its own."""
    command = [sys.executable, __file__, "cost", str(path), str(direction)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict = json.loads(done.stdout)
    return result


def print_cost(path: Path, direction: Direction, megapixels: float = 2.0) -> None:
    """Print the cost of a checkpoint as JSON: one thread, a picture of noise."""
    torch.set_num_threads(1)
    model = weights.load_model(path, direction)
    width = int((megapixels * 1e6 * 4 / 3) ** 0.5) // 32 * 32
    height = int(megapixels * 1e6 / width) // 32 * 32
    canonical = CanonicalParams("RGGB", np.zeros((2, 2)), 4095, np.ones(3) / [2, 1, 1.5], np.eye(3))
    optical, rng, machine = OpticalParams(200, 1 / 60, 4, 50), np.random.default_rng(0), Runner(model, CPU)
    before = peak_bytes()
    start = time.process_time()
    if direction == Direction.UNPROCESS:
        machine.unprocess(rng.integers(0, 256, (height, width, 3), np.uint8), canonical, optical)
    else:
        machine.render(rng.integers(0, 4096, (height, width), np.uint16), canonical, optical)
    spent = time.process_time() - start
    peak = peak_bytes() - before
    size = height * width / 1e6
    numbers = sum(parameter.numel() for parameter in model.parameters())
    macs = PLAIN_MACS.get(model.name, model.macs)
    print(json.dumps({"parameters": numbers, "gmac": macs / 1e3, "seconds": spent / size, "peak": peak}))


def peak_bytes() -> int:
    """Return the most memory that this process has held; Linux's ru_maxrss would begin at the parent's peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def page(results: Sequence[dict]) -> str:
    """Word the page: a table for each data set and direction."""
    text = [INTRODUCTION]
    for data, title in TITLES.items():
        here = [each for each in results if each["data"] == data]
        if not here:
            continue
        text.append(f"## {title}\n")
        for direction, heading in ((Direction.UNPROCESS, "sRGB → RAW"), (Direction.RENDER, "RAW → sRGB")):
            rows = [each for each in here if each["direction"] == str(direction)]
            if rows:
                text.append(f"### {heading}: {data}\n\n{table(rows, direction)}")
            if rows and direction == Direction.UNPROCESS:
                text.append(f"After the same edit of both RAW files, PSNR / mean ΔE2000:\n\n{edit_table(rows)}")
    text.append(f"## Order\n\n{order_table(results)}")
    costs = [each for each in results if each.get("peak")]
    if costs:
        text.append(f"## Cost\n\n{cost_table(costs)}")
    return "\n".join(text)


def groups(rows: Sequence[dict]) -> list[tuple[tuple[str, str], list[dict]]]:
    """Return the model, its budget, and the results of its seeds; the best model last."""
    found: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        found.setdefault((row["model"], budget(row)), []).append(row)
    return sorted(found.items(), key=lambda item: float(np.mean([row["psnr"] for row in item[1]])))


def by_time(found: list[tuple[tuple[str, str], list[dict]]]) -> list[tuple[tuple[str, str], list[dict]]]:
    """Sort the result of ``groups`` by the time for a direction, so that equal times stand together."""
    return sorted(found, key=lambda item: one_way(item[1][0]))


def one_way(row: dict) -> float:
    """Return the minutes of a direction; 0 for a baseline, and for a training of fixed steps."""
    minutes: float = row["core_minutes"] / (2 if row["model"].endswith(" both") else 1)
    return minutes


def budget(row: dict) -> str:
    """Word the time of a training, or its steps if these were fixed; empty for a baseline."""
    if row["core_minutes"]:
        return f"{row['core_minutes']:.0f} minutes"
    return f"{row['steps']} steps" if "steps" in row else ""


def titled(name: str, amount: str, group: Sequence[dict]) -> str:
    """Word a row's model, with its budget."""
    few = amount and np.mean([row["steps"] for row in group]) < FEW_STEPS
    return WORDS.get(name, name) + (f", {amount}" if amount else "") + (" (undertrained)" if few else "")


def spread(values: Sequence[float], digits: int) -> str:
    shown = f"{np.mean(values):.{digits}f}"
    return shown + (f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")


def table(rows: Sequence[dict], direction: Direction) -> str:
    picture = direction == Direction.RENDER
    lines = [f"| model | seeds | steps | PSNR | SSIM |{' ΔE2000 |' if picture else ''} worst photograph |"]
    lines.append("|---" * (7 if picture else 6) + "|")
    for (name, amount), group in by_time(groups(rows)):
        worst = min((row["worst"] for row in group), key=lambda each: each[1])
        steps = spread([row["steps"] for row in group], 0).split(" ")[0] if "steps" in group[0] else "–"
        cells = [
            titled(name, amount, group),
            str(len(group)),
            steps,
            spread([r["psnr"] for r in group], 2),
            spread([r["ssim"] for r in group], 3),
        ]
        cells += [spread([row["delta_e"] for row in group], 2)] if picture else []
        lines.append(f"| {' | '.join(cells)} | {worst[0].rsplit('-', 1)[0]} {worst[1]:.2f} |")
    return "\n".join(lines) + "\n"


def order_table(results: Sequence[dict]) -> str:
    """Word the order of the networks for each data set, direction and equal time or equal steps."""
    lines = ["| data | direction | each trained for | order by PSNR |", "|---|---|---|---|"]
    for data in TITLES:
        for direction in ISP_DIRECTIONS:
            rows = [each for each in results if (each["data"], each["direction"]) == (data, str(direction))]
            fixed = [row for row in rows if "steps" not in row]
            for amount, some in equally_trained([row for row in rows if "steps" in row]).items():
                if len({row["model"] for row in some}) > 1:
                    best_first = [
                        f"{WORDS.get(name, name)} {np.mean([row['psnr'] for row in group]):.1f}"
                        for (name, _), group in reversed(groups([*some, *fixed]))
                    ]
                    lines.append(f"| {data} | {direction} | {amount} | {' > '.join(best_first)} |")
    return "\n".join(lines) + "\n"


def equally_trained(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Group trainings of one data set and direction by equal time, and by equal steps within ``ABOUT``."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        if row["core_minutes"]:
            found.setdefault(budget(row | {"core_minutes": one_way(row)}), []).append(row)
    for steps in sorted({row["steps"] for row in rows if not row["core_minutes"]}):
        exact = [row for row in rows if not row["core_minutes"] and row["steps"] == steps]
        names = {row["model"] for row in exact}
        if len(names) < 2:
            continue
        near = [row for row in rows if row["model"] not in names and abs(row["steps"] - steps) <= ABOUT * steps]
        found[f"about {steps} steps"] = exact + near
    return found


def edit_table(rows: Sequence[dict]) -> str:
    lines = [f"| model | {' | '.join(edit.name for edit in EDITS)} |", "|---" * (len(EDITS) + 1) + "|"]
    for (name, amount), group in by_time(groups(rows)):
        means = np.mean([row["edits"] for row in group], 0)
        cells = [titled(name, amount, group), *(f"{psnr:.1f} / {delta:.2f}" for psnr, delta in means)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cost_table(rows: Sequence[dict]) -> str:
    """Word the cost of each network; the latest measurement of each direction counts."""
    networks: dict[str, dict[str, dict]] = {}
    for row in rows:
        networks.setdefault(row["model"].split()[0], {})[row["direction"]] = row
    lines = ["| model | parameters | GMAC/MP | s/MP: unprocess | render | memory at 2 MP, MB |", "|---" * 6 + "|"]
    for name, ways in sorted(networks.items(), key=lambda item: max(row["gmac"] for row in item[1].values())):
        largest = max(ways.values(), key=lambda row: row["peak"])
        seconds = [f"{ways[str(each)]['seconds']:.1f}" if str(each) in ways else "–" for each in ISP_DIRECTIONS]
        cells = [WORDS.get(name, name), f"{largest['parameters'] / 1e6:.2f} M", f"{largest['gmac']:.0f}", *seconds]
        lines.append(f"| {' | '.join(cells)} | {largest['peak'] / 1e6:.0f} |")
    return "\n".join(lines) + "\n"


INTRODUCTION = """# Networks of other papers, for equal time

Each network was trained from random numbers for the minutes of one CPU core that its row tells (twice as many for one
network of both directions), or for a number of steps, with the recipes `peer-…`. It was measured on scenes that it
never saw. PSNR in dB, median ΔE2000; ± is the standard deviation over seeds. A row of fewer than 2000 steps is called
undertrained: on the simulated shots ParamISP, InvISP and CycleISP gained 2.5 to 6.4 dB from about 200 to about 1200
steps, and InvISP's authors trained for 124 000. InvISP computes five times as much a pixel as ParamISP, and CycleISP
eleven times, so their recipes take smaller crops. `tests/bench/peers.py` trains, measures and writes this page.

Tables 4 and 5 of ParamISP's paper, for its Nikon D90: sRGB → RAW ParamISP 37.06, CycleISP 35.85, InvISP 35.39, CIE XYZ
Net 32.62, UPI 26.57; RAW → sRGB ParamISP 30.83, InvISP 28.89, CIE XYZ Net 27.61, UPI 20.30. UPI is the kind of our
`parametric`. [The order](#order) here stands at the end.

At equal time, `fast` leads by PSNR everywhere, and ParamISP leads the papers' other networks, as in its paper. One pair
is equal: ParamISP and CycleISP for sRGB → RAW on the photograph. ParamISP leads by a quarter of a dB after five
minutes, CycleISP after thirty. By SSIM, after thirty minutes, ParamISP and InvISP's network of one direction lead
`fast` for RAW → sRGB. In this direction three seeds of `fast` differ by 2.2 dB on the photograph, after five minutes.

* **The simulated shots, thirty minutes: the paper's order** in both directions. ParamISP leads by 5.5 and 7.1 dB, in
  the paper by 1.2 and 1.9 dB. CycleISP, InvISP and CIE XYZ Net lie within 1.2 dB (sRGB → RAW), InvISP and CIE XYZ Net
  within 0.4 dB (RAW → sRGB): with one seed, their order is only a hint. CameraNet, which the paper does not have,
  stands with InvISP. For sRGB → RAW only ParamISP and `fast` beat the fitted regression; after edits, all do. The
  worst shot of `fast` is worse than ParamISP's there (20.6 and 22.2 dB).
* **The photograph, thirty minutes: the paper's order for RAW → sRGB alone.** ParamISP leads InvISP by 3.4 dB (one
  network both ways) and 8.3 dB (a network a direction), and InvISP leads CIE XYZ Net by 7.0 and 2.1 dB. CameraNet
  stands 0.3 dB above the better InvISP. These two, ParamISP and `fast` beat the fitted regression. The order for
  sRGB → RAW is CycleISP, ParamISP, CIE XYZ Net, InvISP: CIE XYZ Net, behind InvISP in the paper, leads it by 2.7 dB.
  All of them beat the regression, but for InvISP's network of both directions.
* The simulated shots, five minutes: CIE XYZ Net is the second of the papers' networks in both directions. CycleISP and
  InvISP stay below `parametric` for sRGB → RAW.
* The simulated shots, about 200 steps: ParamISP leads even `fast`, which takes less than a tenth of its time a step.
  CycleISP is last. With the crops of their recipes, ParamISP, InvISP and CycleISP take about the same time a step:
  thirty minutes are 1061 to 1349 steps.
* The photograph, five minutes: for sRGB → RAW CIE XYZ Net and InvISP follow ParamISP and CycleISP. For RAW → sRGB
  InvISP leads CIE XYZ Net, as in the paper. About 200 steps: ParamISP leads CycleISP and InvISP, and for RAW → sRGB
  even `fast`.
* After edits the order on the simulated shots is another one: with thirty minutes, InvISP (26.1 dB as shot) and CIE XYZ
  Net (25.0) lead CycleISP (23.4). On the photograph the networks keep their order, but InvISP falls below the
  regression.
* InvISP's network of both directions, given the time of both, is as good as a network a direction on the simulated
  shots: 23.7 and 27.4 dB. Its sRGB → RAW half learns from JPEGs that the network rendered itself. From the camera's own
  JPEG, the photograph's, it reaches 15.4 dB after ten minutes and 32.6 dB after an hour, 6.9 dB less than a network of
  one direction. RAW → sRGB is 4.9 dB better there.

The recipe `peer-fast` has the common loss alone. With its default recipe, `fast` reached 33.86 dB on RAW → sRGB in
three minutes and 36.38 dB in nine; its settings were chosen on this photograph.
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("train")
    verb.add_argument("work", type=Path)
    verb.add_argument("--pairs", type=Path, required=True)
    verb.add_argument("--simulated", type=Path, required=True)
    verb.add_argument("--minutes", type=float, default=30)
    verb.add_argument("--steps", type=int, default=0)
    verb.add_argument("--only", nargs="*", default=[])
    verb = verbs.add_parser("measure")
    verb.add_argument("work", type=Path)
    verb.add_argument("--pairs", type=Path)
    verb.add_argument("--simulated", type=Path)
    verb.add_argument("--simulated-test", type=Path)
    verb.add_argument("--only", nargs="*", default=[])
    verbs.add_parser("write")
    verb = verbs.add_parser("cost")
    verb.add_argument("path", type=Path)
    verb.add_argument("direction")
    chosen = parser.parse_args()
    if chosen.verb == "train":
        train(chosen.work, chosen.pairs, chosen.simulated, chosen.minutes, chosen.steps, chosen.only)
    elif chosen.verb == "measure":
        torch.set_num_threads(1)
        sets, fitting = {}, {}
        if chosen.pairs:
            both = whole(load(chosen.pairs, camera="HERO7"))
            sets[PHOTOGRAPHS] = [item for item in both if TEST in item.name]
            fitting[PHOTOGRAPHS] = [item for item in both if TEST not in item.name]
        if chosen.simulated_test:
            sets[SIMULATED] = list(whole(load(chosen.simulated_test)))
            fitting[SIMULATED] = list(whole(load(chosen.simulated)))[::10]  # a tenth of the shots fits 30 numbers
        measure(chosen.work, sets, fitting, chosen.only)
    elif chosen.verb == "cost":
        print_cost(chosen.path, Direction(chosen.direction))
    if chosen.verb in ("measure", "write"):
        PAGE.write_text(page(stored()), "utf-8")
        print(PAGE)


if __name__ == "__main__":
    main()
