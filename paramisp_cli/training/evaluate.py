"""How good: models and baselines on aligned pairs, photograph by photograph, and the tables of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from paramisp_cli import color, formats
from paramisp_cli.training import chart
from paramisp_cli.training.baselines import (
    Predictor,
    fitted_parametric,
    gain_fitted,
    libraw,
    network,
    regression,
    sides,
    target,
    there_and_back,
    whole_pairs,
)
from paramisp_cli.training.data import Loaded
from paramisp_cli.training.metrics import delta_e, psnr, psnr_crops, ssim
from paramisp_cli.types import Direction, SrgbImage

__all__ = [
    "Predictor", "Score", "delta_e", "error_map", "fitted_parametric", "gain_fitted", "libraw", "measure", "network",
    "psnr", "psnr_crops", "regression", "sides", "ssim", "table", "tables", "target",
    "there_and_back", "whole_pairs",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Score:
    """A model on a photograph: PSNR [dB] of the whole and of the five crops, SSIM of the whole, median ΔE2000.

    ``delta_e`` is over small patches of the whole picture, ``delta_e_chart`` over those of a ColorChecker in it (None
    where there is none); both None for RAW. ``part`` says which part of the photograph it was, if not all.
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
    part: str = ""

    def record(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def measure(
    item: Loaded,
    direction: Direction,
    name: str,
    predict: Predictor,
    pictures: Path | str | None = None,
    find_chart: Callable[[np.ndarray], chart.Chart | None] = chart.find,
) -> Score:
    """One model on one photograph; with ``pictures`` also a PNG of prediction, truth and error ×10 in that folder.

    ``find_chart`` looks for a ColorChecker in a picture (H, W, 3) uint8; for one that has looked already.
    """
    wanted, got = target(item, direction), predict(item)
    if pictures is not None:
        error_map(wanted, got, Path(pictures) / f"{item.name}.{direction}.{name}.png")
    render = direction == Direction.RENDER
    found = find_chart(item.srgb) if render else None
    return Score(
        item.name, item.camera, str(direction), name, psnr(got, wanted), psnr_crops(got, wanted), ssim(got, wanted),
        delta_e(got, wanted) if render else None,
        None if found is None else _chart_error(found, got, wanted),
        item.part,
    )  # fmt: skip


def measure_trip(item: Loaded, name: str, predict: Predictor) -> Score:
    """``measure`` of a picture unprocessed and rendered again (``there_and_back``), direction "there and back"."""
    return replace(measure(item, Direction.RENDER, name, predict), direction="there and back")


def _chart_error(found: chart.Chart, got: np.ndarray, wanted: np.ndarray) -> float:
    """Median ΔE2000 of the chart's 24 patches."""
    return float(np.median(color.ciede2000(*(color.srgb_to_lab(found.means(x)) for x in (got, wanted)))))


def error_map(wanted: np.ndarray, got: np.ndarray, path: Path | str) -> None:
    """Prediction, truth and ten times the absolute error, side by side, reduced to 700 px of height."""
    step = max(wanted.shape[0] // 700, 1)
    if wanted.ndim == 2:
        h, w = wanted.shape
        wanted, got = (np.sqrt(x[: h // 2 * 2 : 2, : w // 2 * 2 : 2])[..., None].repeat(3, -1) for x in (wanted, got))
        step = max(step // 2, 1)
    wanted, got = wanted[::step, ::step], got[::step, ::step]
    joined = np.concatenate([got, wanted, np.clip(np.abs(got - wanted) * 10, 0, 1)], 1)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    formats.write(SrgbImage((joined * 255).astype(np.uint8)), path, overwrite=True)


_COLUMNS = "photos | PSNR | PSNR (5 crops) | SSIM | ΔE2000 | ΔE2000 chart |"


def table(scores: Sequence[Score]) -> str:
    """Markdown: a line per camera, direction and model, averaged over photographs."""
    lines = [f"| camera | direction | model | {_COLUMNS}", "|---" * 9 + "|"]
    lines += [f"| {' | '.join(key)} | {_means(group)} |" for key, group in _grouped(scores).items()]
    return "\n".join(lines) + "\n"


def tables(scores: Sequence[Score]) -> str:
    """Markdown: a table per camera and direction under a heading, a line per model, averaged over photographs.

    The heading tells the photographs. The mean ΔE2000 of charts is over those photographs that show one.
    """
    parts: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        parts.setdefault((score.camera, score.direction), []).append(score)
    blocks = []
    for (camera, direction), part in parts.items():
        photos = ", ".join(dict.fromkeys(score.photo for score in part))
        lines = [f"### {camera}, {direction}", "", f"Measured on {photos}.", "", f"| model | {_COLUMNS}"]
        lines += ["|---" * 7 + "|", *(f"| {key[2]} | {_means(group)} |" for key, group in _grouped(part).items())]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _grouped(scores: Sequence[Score]) -> dict[tuple[str, str, str], list[Score]]:
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.camera, score.direction, score.model), []).append(score)
    return groups


def _means(group: Sequence[Score]) -> str:
    """The cells of a line: number of photographs and what was measured on them, averaged."""
    mean = [float(np.mean([getattr(s, key) for s in group])) for key in ("psnr", "psnr_crops", "ssim")]
    cells = [f"{len(group)}", f"{mean[0]:.2f}", f"{mean[1]:.2f}", f"{mean[2]:.4f}"]
    for errors in ([s.delta_e for s in group], [s.delta_e_chart for s in group]):
        known = [e for e in errors if e is not None]
        cells.append(f"{np.mean(known):.2f}" if known else "–")
    return " | ".join(cells)
