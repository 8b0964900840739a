"""The page of an evaluation: means and worst photographs by model, every score, errors after edits, pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paramisp_cli.errors import FormatError, InputMissingError
from paramisp_cli.pages import lines, pictures
from paramisp_cli.pages.document import (
    Markup,
    chooser,
    compared,
    counted,
    details,
    figure,
    joined,
    number,
    page,
    paragraph,
    table,
    tag,
    tiles,
)
from paramisp_cli.pages.lines import Record
from paramisp_cli.pages.scores import METRICS, plain_table

_MOST_PHOTOGRAPHS, _SIDE = 16, 480
"""Most photographs whose pictures are shown, the worst first; least size [px] of the longer side of a picture."""
_TRANSFER = {
    "psnr": ("PSNR [dB]", 2), "noisy": ("PSNR with noise [dB]", 2), "mae": ("mean error", 4), "angle": ("angle [°]", 2),
    "delta_e": ("ΔE2000", 2), "delta_e_95": ("ΔE2000, 95 %", 2),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subject:
    """The scores of a camera and direction, in the order of the file, and by photograph and model."""

    camera: str
    direction: str
    scores: list[Record]
    by_name: dict[str, dict[str, Record]]

    @property
    def name(self) -> str:
        """Heading."""
        return f"{self.camera}, {self.direction}"

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order of the file."""
        return list(dict.fromkeys(each["model"] for each in self.scores))

    @property
    def photographs(self) -> list[str]:
        """Names of the photographs, in the order of the file."""
        return list(self.by_name)

    def of(self, photo: str, model: str) -> Record | None:
        """Return the score of a model on a photograph."""
        return self.by_name[photo].get(model)


def is_evaluation(records: Sequence[Record]) -> bool:
    """Tell whether records are scores of ``evaluate --json``."""
    return bool(records) and ("photo" in records[0] or "method" in records[0])


def document(path: Path, records: Sequence[Record], folder: Path) -> str:
    """Return the page of scores; ``folder`` may hold the error maps of ``evaluate --pictures``.

    Raises FormatError for a record that is no score, and for a damaged picture.
    """
    title = f"Evaluation {path.resolve().name}"
    if "method" in records[0]:
        return page(title, "From camera to camera, by kind of light.", [("Scores", _transfer(path, records))])
    subjects = _subjects(path, records)
    photographs = {(each.camera, photo) for each in subjects for photo in each.photographs}
    models = {model for each in subjects for model in each.models}
    overview = tiles(
        [
            ("Photographs", len(photographs)),
            ("Models and baselines", len(models)),
            ("Cameras", len({each.camera for each in subjects})),
            ("Scores", len(records)),
        ]
    )
    sections = [("Overview", overview)]
    for each in subjects:
        blocks = [_summary(each), _by_photograph(each), _edits(each), _pictures(each, folder)]
        blocks.append(details("All scores", plain_table(f"All scores: {each.name}", each.scores)))
        sections.append((each.name, joined(blocks)))
    return page(title, "Mean and worst of each model; green marks the best.", sections)


def _subjects(path: Path, records: Sequence[Record]) -> list[Subject]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for at, record in enumerate(records, 1):
        if not all(isinstance(record.get(key), str) for key in ("photo", "direction", "model")):
            raise FormatError(
                f"{path}: record {at} is no score of `paramisp evaluate --json`: photo, direction or model"
            )
        groups.setdefault((str(record.get("camera") or "unknown camera"), record["direction"]), []).append(record)
    subjects = []
    for (camera, direction), group in groups.items():
        by_name: dict[str, dict[str, Record]] = {}
        for each in group:
            by_name.setdefault(each["photo"], {}).setdefault(each["model"], each)
        subjects.append(Subject(camera, direction, group, by_name))
    return subjects


# Tables ---------------------------------------------------------------------------------------------------------------


def _finite(records: Sequence[Record], key: str) -> list[tuple[float, Record]]:
    found = [(lines.real(each, key), each) for each in records]
    return [(value, each) for value, each in found if value is not None and math.isfinite(value)]


def _marked(value: float | None, best: float | None, digits: int) -> object:
    """Word a value; the best of a column is marked."""
    shown = number(value, digits)
    return tag("span", shown, class_="best") if best is not None and value == best else shown


def _summary(subject: Subject) -> Markup:
    """Make the table of the mean and the worst value of each metric, with the photograph of the worst."""
    metrics = {key: facts for key, facts in METRICS.items() if _finite(subject.scores, key)}
    means: dict[tuple[str, str], float] = {}
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    for model in subject.models:
        own = [each for each in subject.scores if each["model"] == model]
        for key, (_, _, better) in metrics.items():
            values = _finite(own, key)
            if values:
                means[model, key] = sum(value for value, _ in values) / len(values)
                worse = min if better is max else max
                value, record = worse(values, key=lambda pair: pair[0])
                worst[model, key] = value, record["photo"]
    best = {
        key: better(means[model, key] for model in subject.models if (model, key) in means)
        for key, (_, _, better) in metrics.items()
    }
    head: list[object] = ["model", "photographs"]
    for name, _, _ in metrics.values():
        head += [f"{name}, mean", "worst"]
    if "psnr" in metrics:
        head.append("worst PSNR on")
    rows = []
    for model in subject.models:
        row: list[object] = [model, sum(each["model"] == model for each in subject.scores)]
        for key, (_, digits, _) in metrics.items():
            row.append(_marked(means.get((model, key)), best[key], digits))
            row.append(number(worst[model, key][0], digits) if (model, key) in worst else "–")
        if "psnr" in metrics:
            row.append(worst[model, "psnr"][1] if (model, "psnr") in worst else "–")
        rows.append(row)
    return table(f"Models over {counted(len(subject.photographs), 'photograph')}", head, rows, numbers_from=1)


def _by_photograph(subject: Subject) -> Markup:
    """Make the table of the PSNR by photograph and model, the worst photograph first."""
    head = ["photograph", *subject.models]
    rows = []
    for photo in _worst_first(subject):
        scores = [subject.of(photo, model) for model in subject.models]
        values = [lines.real(score, "psnr") if score is not None else None for score in scores]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        best = max(finite, default=None)
        rows.append([photo, *(_marked(value, best, 2) for value in values)])
    return table("PSNR [dB] by photograph, the worst first", head, rows, numbers_from=1)


def _worst_first(subject: Subject) -> list[str]:
    """Return the photographs by the best PSNR that a model reaches on each, the lowest first."""

    def reached(photo: str) -> float:
        own = _finite(list(subject.by_name[photo].values()), "psnr")
        return max((value for value, _ in own), default=math.inf)

    return sorted(subject.photographs, key=reached)


def _edits(subject: Subject) -> Markup:
    """Make the table of the mean errors after edits, by model; nothing for pictures."""
    sums: dict[tuple[str, str], list[tuple[float | None, float | None]]] = {}
    names: list[str] = []
    for record in subject.scores:
        edits = record.get("edits")
        for each in edits if isinstance(edits, list) else []:
            if isinstance(each, dict) and isinstance(each.get("edit"), str):
                names.append(each["edit"])
                values = lines.real(each, "psnr"), lines.real(each, "delta_e")
                sums.setdefault((record["model"], each["edit"]), []).append(values)
    names = list(dict.fromkeys(names))
    if not names:
        return Markup("")
    rows = []
    for model in subject.models:
        row: list[object] = [model]
        for name in names:
            found = sums.get((model, name), [])
            cells = []
            for at in (0, 1):
                finite = [v for each in found if (v := each[at]) is not None and math.isfinite(v)]
                cells.append(f"{sum(finite) / len(finite):.2f}" if finite else "–")
            row.append(" / ".join(cells))
        rows.append(row)
    return table(
        "After the same edit of both RAW files: PSNR [dB] / mean ΔE2000", ["model", *names], rows, numbers_from=1
    )


def _transfer(path: Path, records: Sequence[Record]) -> Markup:
    """Make the table of an evaluation from camera to camera."""
    rows = []
    for at, record in enumerate(records, 1):
        if not isinstance(record.get("method"), str) or not isinstance(record.get("kind"), str):
            raise FormatError(f"{path}: record {at} is no score of `paramisp evaluate --json`: method or kind")
        values = (number(lines.real(record, key), digits) for key, (_, digits) in _TRANSFER.items())
        rows.append([record["method"], record["kind"], *values])
    head = ["method", "light", *(name for name, _ in _TRANSFER.values())]
    return table("Methods by kind of light", head, rows, numbers_from=2)


# Pictures -------------------------------------------------------------------------------------------------------------


def _pictures(subject: Subject, folder: Path) -> Markup:
    """Show prediction over truth and the error of each model, for the worst photographs that have pictures."""
    blocks: list[Markup] = []
    count, shown = 0, 0
    for photo in _worst_first(subject):
        found = [(model, path) for model in subject.models if (path := _picture(folder, subject, photo, model))]
        if not found:
            continue
        count += 1
        if shown == _MOST_PHOTOGRAPHS:
            continue
        shown += 1
        blocks += [tag("h3", photo), _of_models(subject, photo, found)]
    if not blocks:
        return paragraph("No pictures: `evaluate --pictures FOLDER` writes them.".replace("`", ""))
    note = paragraph(f"The {shown} worst of {count} photographs.") if count > shown else ""
    return joined([*blocks, note])


def _picture(folder: Path, subject: Subject, photo: str, model: str) -> Path | None:
    """Return the error map of a score; None if there is none, or if its name leads out of the folder."""
    path = folder / f"{photo}.{subject.direction}.{model}.png"
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        return path if inside and path.is_file() else None
    except (OSError, ValueError):  # a name too long, or with a NUL
        return None


def _of_models(subject: Subject, photo: str, found: Sequence[tuple[str, Path]]) -> Markup:
    """Return the chooser of a photograph's models, the best last: it is shown first."""

    def reached(pair: tuple[str, Path]) -> float:
        score = subject.of(photo, pair[0])
        value = lines.real(score, "psnr") if score is not None else None
        return value if value is not None and math.isfinite(value) else -math.inf

    frames = []
    for model, path in sorted(found, key=reached):
        got, truth, error = (pictures.embedded(each, _SIDE) for each in pictures.thirds(path))
        about = f"{photo} by {model}"
        names = "prediction", "truth"
        pair = compared(got.shown(f"{about}: prediction"), truth.shown(f"{photo}: truth"), names, about)
        wrong = figure(error.shown(f"{about}: ten times the absolute error"), "ten times the error")
        score = subject.of(photo, model)
        value = lines.real(score, "psnr") if score is not None else None
        frames.append((f"{model}, {number(value, 2)} dB", tag("div", pair, wrong, class_="side")))
    return chooser("Model", frames, slider=False)


def find(folder: Path) -> Path:
    """Return the file of scores in a folder: its only .jsonl or .json file with scores.

    Raises InputMissingError if there is none, or several.
    """
    found = []
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.json")]):
        try:
            if is_evaluation(lines.read(path)):
                found.append(path)
        except FormatError:
            if len([*folder.glob("*.json*")]) == 1:
                raise
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputMissingError(f"{folder}: has {len(found)} files of scores ({names}); name one of them")
    if not found:
        raise InputMissingError(
            f"{folder}: is no training, data set or evaluation: it has no log.jsonl, no index.jsonl and no scores of "
            "`paramisp evaluate --json`"
        )
    return found[0]
