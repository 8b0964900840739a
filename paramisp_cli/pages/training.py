"""The page of a training folder: curves of the log, previews by step, recipe, results and machine."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli import checkpoint, torch_zip
from paramisp_cli.errors import FormatError, InputMissingError, WeightsError
from paramisp_cli.pages import lines, pictures, scores, svg
from paramisp_cli.pages.document import (
    Markup,
    chooser,
    compared,
    counted,
    details,
    facts,
    figure,
    joined,
    limited,
    number,
    page,
    paragraph,
    table,
    tag,
    tiles,
)
from paramisp_cli.pages.lines import Record

LOG, CHECKPOINT = "log.jsonl", "checkpoint.pt"
_PREVIEW = re.compile(r"step(\d+)(?:\.([a-z]+))?\.png")
_MOST_PREVIEWS, _SIDE = 24, 512
"""Most previews of a direction on the page, spread over the steps; least size [px] of the longer side of each."""
_MOST_ROWS = 500
_NAMES = {"loss": "Loss", "lr": "Learning rate"}


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview of a step: prediction, truth and error as embedded pictures, and the PSNR [dB] of the prediction."""

    step: int
    prediction: pictures.Picture
    truth: pictures.Picture
    error: pictures.Picture


@dataclass(frozen=True, slots=True)
class Run:
    """A training folder as read.

    log       a record for each step of the log, by step; the later of two for the same step counts
    headers   name of a checkpoint file → its header
    state     step, recipe, direction, seconds and core_seconds of ``checkpoint.pt``; empty if it is not needed or not
              there
    """

    folder: Path
    log: list[Record]
    headers: dict[str, dict[str, str]]
    state: Record
    cards: list[Path] = field(default_factory=list)

    @property
    def training(self) -> Record:
        """The facts of the training in the first checkpoint."""
        return next((lines.table_of(each.get("training")) for each in self.headers.values()), {})

    @property
    def recipe(self) -> Record:
        """The recipe, from a checkpoint; empty before the first checkpoint."""
        own = self.training.get("recipe")
        return own if isinstance(own, dict) else lines.table_of(self.state.get("recipe"))


def is_training(folder: Path) -> bool:
    """Tell whether a folder is that of a training."""
    return (folder / LOG).is_file()


def read(folder: Path) -> Run:
    """Read a training folder.

    Raises InputMissingError for a log without lines, FormatError for a damaged line, WeightsError for a damaged
    checkpoint.
    """
    by_step: dict[float, Record] = {}
    path = folder / LOG
    for at, record in enumerate(lines.read(path), 1):
        step = lines.real(record, "step")
        if step is None or not step >= 0:
            raise FormatError(f"{path}: record {at} has no step; repair or remove the line")
        by_step.pop(step, None)
        by_step[step] = record
    if not by_step:
        raise InputMissingError(f"{path}: has no line yet; report again after the first preview of the training")
    headers = {each.name: checkpoint.info(each) for each in sorted(folder.glob("*.safetensors"))}
    return Run(folder, [by_step[step] for step in sorted(by_step)], headers, _state(folder / CHECKPOINT))


def _state(path: Path) -> Record:
    """Return the plain values of the trainer's checkpoint; nothing in it is run, and no tensor is read."""
    if not path.is_file():
        return {}
    saved = torch_zip.Archive(path).saved()
    if not isinstance(saved, dict):
        raise WeightsError(f"{path}: is no checkpoint of a training; remove it, or report another folder")
    return {key: saved[key] for key in ("step", "recipe", "direction", "seconds", "core_seconds") if key in saved}


def document(folder: Path) -> str:
    """Return the page of a training folder; raises as ``read``, and FormatError for a damaged preview."""
    run = read(folder)
    previews, psnr = _previews(folder, _directions(run))
    name = folder.resolve().name
    cameras = ", ".join(map(str, lines.listed(run.training, "cameras"))) or "camera not known yet"
    directions = " and ".join(_directions(run)) or "direction not known yet"
    sections = [
        ("Overview", _overview(run, psnr)),
        ("Curves", _curves(run, psnr)),
        ("Previews", _shown(folder, previews)),
        ("Results on data that the training never saw", _results(run)),
        ("Recipe", _recipe(run.recipe)),
        ("Data and machine", _environment(run)),
    ]
    return page(f"Training {name}", f"{cameras[:1].upper()}{cameras[1:]}; {directions}.", sections)


def _directions(run: Run) -> list[str]:
    names = "+".join([*(each["direction"] for each in run.headers.values()), str(run.state.get("direction") or "")])
    return list(dict.fromkeys(name for name in names.split("+") if name))


def _steps_wanted(recipe: Record) -> int:
    phases = (phase for phase in lines.listed(recipe, "phases") if isinstance(phase, dict))
    return int(sum(steps for phase in phases if np.isfinite(steps := lines.real(phase, "steps") or 0)))


def _overview(run: Run, psnr: dict[str, list[tuple[float, float]]]) -> Markup:
    last = run.log[-1]
    losses = [
        (value, record["step"]) for record in run.log if np.isfinite(value := lines.real(record, "loss") or np.nan)
    ]
    steps, wanted = max(int(last["step"]), int(lines.real(run.state, "step") or 0)), _steps_wanted(run.recipe)
    items: list[tuple[str, object]] = [("Steps done", f"{steps} of {wanted}" if wanted else steps)]
    items.append(("Loss, last line", number(lines.real(last, "loss"))))
    if losses:
        best, at = min(losses)
        items.append((f"Lowest loss, at step {number(at)}", number(best)))
    for direction, points in psnr.items():
        items.append(
            (f"PSNR of the last preview{f', {direction}' if len(psnr) > 1 else ''}", f"{points[-1][1]:.2f} dB")
        )
    if (minutes := _minutes(run)) is not None:
        items.append(("Time", f"{number(minutes, 1)} min"))
    return joined([tiles(items), _warning(run)])


def _minutes(run: Run) -> float | None:
    found = lines.real(run.state, "seconds")
    return found / 60 if found is not None else lines.real(run.training, "minutes")


def _warning(run: Run) -> Markup:
    """Name the first step whose loss is not finite."""
    bad = [record["step"] for record in run.log if not np.isfinite(lines.real(record, "loss") or 0.0)]
    return (
        paragraph(tag("span", f"The loss is not a finite number from step {bad[0]} on.", class_="failed"))
        if bad
        else Markup("")
    )


def _curves(run: Run, psnr: dict[str, list[tuple[float, float]]]) -> Markup:
    keys = list(dict.fromkeys(key for record in run.log for key in record if key != "step"))
    cards, shown = [], []
    for key in keys:
        points = [(float(r["step"]), value) for r in run.log if (value := lines.real(r, key)) is not None]
        if points:
            shown.append(key)
            name = _NAMES.get(key, key)
            cards.append(svg.plot(name, svg.curves([svg.Series(name, points)], "step", name, zoomed=key != "lr")))
    if psnr:
        drawn = svg.curves([svg.Series(name or "PSNR", points) for name, points in psnr.items()], "step", "PSNR [dB]")
        note = tag(
            "p", "Of the preview pictures, 8 bits a channel; for unprocess, of square roots of light.", class_="soft"
        )
        cards.insert(min(len(cards), 1), svg.plot("PSNR of the previews [dB]", drawn, note))
    rows = [[record["step"], *(number(record.get(key)) for key in shown)] for record in run.log[-_MOST_ROWS:]]
    numbers = table(f"The last {counted(len(rows), 'line')} of {LOG}", ["step", *shown], rows, numbers_from=1)
    return joined([svg.plots(cards), details("Numbers", numbers)])


# Previews -------------------------------------------------------------------------------------------------------------


def _previews(
    folder: Path, directions: Sequence[str]
) -> tuple[dict[str, list[Preview]], dict[str, list[tuple[float, float]]]]:
    """Read the previews → (direction → some of them, direction → points (step, PSNR) of all)."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.glob("step*.png")):
        if match := _PREVIEW.fullmatch(path.name):
            own = match[2] or (directions[0] if len(directions) == 1 else "")
            found.setdefault(own, []).append((int(match[1]), path))
    previews: dict[str, list[Preview]] = {}
    psnr: dict[str, list[tuple[float, float]]] = {}
    for direction, files in found.items():
        files.sort()
        picked = set(pictures.spread(len(files), _MOST_PREVIEWS))
        for at, (step, path) in enumerate(files):
            got, truth, error = pictures.thirds(path)
            squares = float(np.mean((got.astype(np.float64) - truth) ** 2)) / 255**2
            psnr.setdefault(direction, []).append((float(step), -10 * float(np.log10(max(squares, 1e-12)))))
            if at in picked:
                own = (pictures.embedded(each, _SIDE) for each in (got, truth, error))
                previews.setdefault(direction, []).append(Preview(step, *own))
    return previews, psnr


def _shown(folder: Path, previews: dict[str, list[Preview]]) -> Markup:
    if not previews:
        return paragraph("No preview yet.")
    blocks: list[Markup] = []
    for direction, group in previews.items():
        frames = []
        for each in group:
            subject = f"Preview at step {each.step}"
            pair = compared(
                each.prediction.shown(f"{subject}: prediction"),
                each.truth.shown(f"{subject}: truth"),
                ("prediction", "truth"),
                subject,
            )
            error = figure(each.error.shown(f"{subject}: ten times the absolute error"), "ten times the error")
            frames.append((str(each.step), tag("div", pair, error, class_="side")))
        blocks += [tag("h3", direction) if direction and len(previews) > 1 else Markup(""), chooser("Step", frames)]
        count = sum(1 for path in folder.glob("step*.png") if _is_of(path, direction, len(previews)))
        if count > len(group):
            blocks.append(paragraph(f"{len(group)} of {count} previews, spread over the steps."))
    return joined(blocks)


def _is_of(path: Path, direction: str, directions: int) -> bool:
    match = _PREVIEW.fullmatch(path.name)
    return match is not None and (directions == 1 or (match[2] or "") == direction)


# Facts ----------------------------------------------------------------------------------------------------------------


def _results(run: Run) -> Markup:
    """Return the scores in the checkpoints' headers."""
    found: dict[str, list[Record]] = {}
    for header in run.headers.values():
        for kind, records in lines.table_of(header.get("metrics")).items():
            if isinstance(records, list):
                known = found.setdefault(str(kind), [])
                known += [each for each in records if isinstance(each, dict) and each not in known]
    if not any(found.values()):
        return paragraph("None in a checkpoint of this folder.") if run.headers else Markup("")
    return joined(scores.plain_table(kind, records) for kind, records in found.items() if records)


def _recipe(recipe: Record) -> Markup:
    if not recipe:
        return paragraph("Not known: the folder has no checkpoint yet.")
    phases = [each for each in lines.listed(recipe, "phases") if isinstance(each, dict)]
    rows = [[f"{at}", *(number(each.get(key)) for key in ("steps", "crop", "batch", "part"))]
            for at, each in enumerate(phases, 1)]  # fmt: skip
    values = [(key, _worded(value)) for key, value in recipe.items() if key != "phases"]
    return joined(
        [facts(values), table("Phases", ["phase", "steps", "crop [px]", "batch", "part"], rows, numbers_from=1)]
    )


def _worded(value: Any) -> object:
    if isinstance(value, dict | list):
        return tag("code", json.dumps(value, ensure_ascii=False)) if value else "–"
    if isinstance(value, str):
        return value or "–"
    return number(value) if not isinstance(value, bool) else str(value)


def _environment(run: Run) -> Markup:
    training = run.training
    photographs = [str(each) for each in lines.listed(training, "photographs")]
    items: list[tuple[str, object]] = [
        ("Machine", training.get("machine") or "not known yet"),
        ("Cameras", ", ".join(map(str, lines.listed(training, "cameras"))) or "not known yet"),
        ("Trained on", counted(len(photographs), "entry", "entries") if photographs else "not known yet"),
    ]
    if (seconds := lines.real(run.state, "core_seconds")) is not None:
        items.append(("Processor time of the steps", f"{number(seconds / 60, 1)} min"))
    if (minutes := _minutes(run)) is not None:
        items.append(("Time of all runs", f"{number(minutes, 1)} min"))
    rows = [
        [name, *(header.get(key) or "–" for key in ("architecture", "camera", "direction", "licence")),
         f"{(run.folder / name).stat().st_size / 1e6:.2f} MB"]
        for name, header in run.headers.items()
    ]  # fmt: skip
    head = ["file", "architecture", "camera", "direction", "licence", "size"]
    checkpoints = table("Checkpoints", head, rows) if rows else paragraph("No checkpoint of the result yet.")
    configs = [
        details(
            f"Configuration in {name}", facts((key, _worded(v)) for key, v in lines.table_of(h.get("config")).items())
        )
        for name, h in run.headers.items()
    ]
    most = 200
    named = details(
        "Photographs of the training", tag("ul", *(tag("li", each) for each in photographs[:most])),
        limited(min(most, len(photographs)), len(photographs), "photographs"),
    )  # fmt: skip
    return joined([facts(items), checkpoints, *configs, named if photographs else ""])
