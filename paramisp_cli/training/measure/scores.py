"""Scores of models and baselines on pairs, tables of the scores, and error maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from paramisp_cli import color, formats, mosaic
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.training.dataset import LoadedPair
from paramisp_cli.training.measure import chart, edits
from paramisp_cli.training.measure.metrics import delta_e, psnr, psnr_crops, ssim
from paramisp_cli.training.measure.predictors import Predictor, target
from paramisp_cli.types import SrgbImage

_COLUMNS = "photos | PSNR | PSNR (5 crops) | SSIM | ΔE2000 | ΔE2000 chart |"


@dataclass(frozen=True, slots=True)
class Score:
    """Quality of a model on a photograph: PSNR [dB] of the whole and of five crops, SSIM, median ΔE2000.

    delta_e        over small patches of the whole picture; None for RAW
    delta_e_chart  over the patches of a ColorChecker in the picture; None without one, and for RAW
    area           name of the measured area ("right 30 %"); empty for a whole photograph
    edits          errors after edits of the RAW; empty for a picture
    """

    photo: str
    camera: str
    direction: str
    model: str
    psnr: float
    psnr_crops: float
    ssim: float
    delta_e: float | None
    delta_e_chart: float | None = None
    area: str = ""
    edits: tuple[edits.EditError, ...] = ()

    def record(self) -> dict[str, object]:
        """Return plain values for JSON, in which the area is called "part"."""
        record = asdict(self)
        record["part"] = record.pop("area")
        record["edits"] = [each.record() for each in self.edits]
        return record


def score(
    item: LoadedPair,
    direction: Direction,
    name: str,
    predict: Predictor,
    pictures: Path | str | None = None,
) -> Score:
    """Score a model on a photograph; with ``pictures``, write an error map into that folder."""
    wanted, got = target(item, direction), predict(item)
    if pictures is not None:
        error_map(wanted, got, Path(pictures) / f"{item.name}.{direction}.{name}.png")
    picture = direction.output == Kind.SRGB
    found = _chart(item) if picture else None
    values = psnr(got, wanted), psnr_crops(got, wanted), ssim(got, wanted), delta_e(got, wanted) if picture else None
    chart_error = None if found is None else _chart_error(found, got, wanted)
    after = () if picture else edits.compare(got, wanted, item.canonical)
    return Score(item.name, item.camera, str(direction), name, *values, chart_error, item.area, after)


@lru_cache(maxsize=1)
def _chart(item: LoadedPair) -> chart.Chart | None:
    """Find the chart in a photograph, once for all models."""
    return chart.find(item.srgb)


def _chart_error(found: chart.Chart, got: np.ndarray, wanted: np.ndarray) -> float:
    """Compute the median ΔE2000 of the 24 patches of a chart."""
    return float(np.median(color.ciede2000(*(color.srgb_to_lab(found.means(x)) for x in (got, wanted)))))


def error_map(wanted: np.ndarray, got: np.ndarray, path: Path | str) -> None:
    """Write prediction, truth and ten times the absolute error, side by side, reduced to about 700 px of height."""
    step = max(wanted.shape[0] // 700, 1)
    if wanted.ndim == 2:
        wanted, got = (np.sqrt(mosaic.sites(x)[0])[..., None].repeat(3, -1) for x in (wanted, got))
        step = max(step // 2, 1)
    wanted, got = wanted[::step, ::step], got[::step, ::step]
    columns = np.concatenate([got, wanted, np.clip(np.abs(got - wanted) * 10, 0, 1)], 1)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    formats.write(SrgbImage((columns * 255).astype(np.uint8)), path, overwrite=True)


def table(scores: Sequence[Score]) -> str:
    """Word one Markdown table: a line for each camera, direction and model, averaged over photographs."""
    lines = [f"| camera | direction | model | {_COLUMNS}", "|---" * 9 + "|"]
    lines += [f"| {' | '.join(key)} | {_means(group)} |" for key, group in _grouped(scores).items()]
    return "\n".join(lines) + "\n"


def tables(scores: Sequence[Score]) -> str:
    """Word a Markdown table for each camera and direction, with a line for each model, averaged over photographs.

    A heading and the names of the photographs stand above it. The mean ΔE2000 of charts is over the photographs that
    show one. A second table of RAW files has their errors after edits.
    """
    subjects: dict[tuple[str, str], list[Score]] = {}
    for each in scores:
        subjects.setdefault((each.camera, each.direction), []).append(each)
    blocks = []
    for (camera, direction), group in subjects.items():
        photos = ", ".join(dict.fromkeys(each.photo for each in group))
        lines = [f"### {camera}, {direction}", "", f"Measured on {photos}.", "", f"| model | {_COLUMNS}"]
        lines += ["|---" * 7 + "|", *(f"| {key[2]} | {_means(row)} |" for key, row in _grouped(group).items())]
        if any(each.edits for each in group):
            lines += ["", "After the same edit of both RAW files, PSNR / mean ΔE2000:", "", edit_table(group)]
        blocks.append("\n".join(lines).rstrip() + "\n")
    return "\n".join(blocks)


def edit_table(scores: Sequence[Score]) -> str:
    """Word a Markdown table of the errors after edits: a line for each model, averaged over photographs."""
    names = [edit.name for edit in edits.EDITS]
    lines = [f"| model | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for key, group in _grouped(scores).items():
        errors = [[each.edits[i] for each in group] for i in range(len(names))]
        means = [(np.mean([e.psnr for e in some]), np.mean([e.delta_e for e in some])) for some in errors]
        lines.append(f"| {key[2]} | {' | '.join(f'{psnr:.2f} / {delta_e:.2f}' for psnr, delta_e in means)} |")
    return "\n".join(lines) + "\n"


def _grouped(scores: Sequence[Score]) -> dict[tuple[str, str, str], list[Score]]:
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for each in scores:
        groups.setdefault((each.camera, each.direction, each.model), []).append(each)
    return groups


def _means(group: Sequence[Score]) -> str:
    """Word the cells of a line: number of photographs, and the mean of each metric."""
    mean = [float(np.mean([getattr(each, key) for each in group])) for key in ("psnr", "psnr_crops", "ssim")]
    cells = [f"{len(group)}", f"{mean[0]:.2f}", f"{mean[1]:.2f}", f"{mean[2]:.4f}"]
    for errors in ([each.delta_e for each in group], [each.delta_e_chart for each in group]):
        known = [error for error in errors if error is not None]
        cells.append(f"{np.mean(known):.2f}" if known else "–")
    return " | ".join(cells)
