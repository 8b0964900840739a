"""Measure closed forms and trained networks from camera to camera on the same pixels, by kind of light.

None sees the test shots: their scenes, reflectances and lights are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import color
from paramisp_cli.cameras import spectra
from paramisp_cli.training.simulated import spectral
from paramisp_cli.training.transfer import stored
from paramisp_cli.training.transfer.shots import Pixels, base, load, noisy, predicted, psnr, split

_BINS, _RARE = 256, 1e-7
"""Bins of a histogram, and the frequency added to each, for ``divergence``."""


@dataclass(frozen=True, slots=True)
class Score:
    """The errors of a method on the test shots of one kind of light: PSNR and MAE of the values, angle [°], ΔE2000.

    ``noisy`` is the PSNR where the first camera's samples have noise. ΔE2000 is that of the pictures by the second
    camera's own matrix and its true white balance; ``delta_e_95`` its 95th percentile.
    """

    method: str
    kind: str
    psnr: float
    noisy: float
    mae: float
    angle: float
    delta_e: float
    delta_e_95: float
    kl: float


Method = Callable[[Pixels], Tensor]


def methods(series: spectral.Series, learned: Pixels) -> dict[str, Method]:
    """Return the closed forms by name. None sees the test shots; the last is fitted to the training shots."""
    fit = base(series)
    matrix_a, matrix_b = (_matrix(spectral.sensor(name).sensitivity) for name in (series.a, series.b))
    to_b = torch.from_numpy(color.cam_to_cam(matrix_a, matrix_b)).float()

    def others(shown: Pixels) -> Tensor:
        return torch.tensor(np.array([fit.at(neutral.numpy())[1] for neutral in shown.neutral_a.double()])).float()

    def diagonal(shown: Pixels) -> Tensor:
        return shown.a * (others(shown) / shown.neutral_a)[:, :, None, None]

    def matrix(shown: Pixels) -> Tensor:
        balanced = shown.a / shown.neutral_a[:, :, None, None]
        return torch.einsum("cd,ndhw->nchw", to_b, balanced) * others(shown)[:, :, None, None]

    def conditioned(shown: Pixels) -> Tensor:
        pictures = []
        for camera, neutral in zip(shown.a, shown.neutral_a, strict=True):
            coefficients, other, _ = fit.at(neutral.double().numpy())
            terms = spectra.root_terms(camera.permute(1, 2, 0).double().numpy() / neutral.double().numpy())
            pictures.append(torch.from_numpy(terms @ coefficients.T * other).permute(2, 0, 1))
        return torch.stack(pictures).float()

    return {
        "nothing": lambda shown: shown.a,
        "diagonal, B's neutral predicted": diagonal,
        "matrix route, B's neutral predicted": matrix,
        "conditioned root-polynomial": conditioned,
        "the same form, fitted to the training shots": fitted_to_shots(learned),
    }


def fitted_to_shots(learned: Pixels, count: int = 400) -> Method:
    """Return the conditioned form of 108 numbers by least squares over pixels of shots in all kinds of light."""
    rng = np.random.default_rng(0)
    rows, targets = [], []
    for number in range(len(learned.shots)):
        own = learned.neutral_a[number].double().numpy()
        camera, other = (each[number].flatten(1).double().numpy().T for each in (learned.a, learned.b))
        some = rng.choice(len(camera), min(count, len(camera)), replace=False)
        rows.append(_design(camera[some], own))
        targets.append(other[some])
    found = np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=1e-10)[0]

    def method(shown: Pixels) -> Tensor:
        pictures = []
        for camera, neutral in zip(shown.a, shown.neutral_a, strict=True):
            flat = camera.flatten(1).double().numpy().T
            pictures.append(torch.from_numpy((_design(flat, neutral.double().numpy()) @ found).T).view_as(camera))
        return torch.stack(pictures).float()

    return method


def _design(camera: np.ndarray, neutral: np.ndarray) -> np.ndarray:
    terms = spectra.root_terms(camera / neutral)
    products: np.ndarray = (terms[:, :, None] * spectra.light_terms(neutral)).reshape(len(camera), -1)
    return products


def _matrix(sensitivity: np.ndarray) -> np.ndarray:
    """Return XYZ → camera for D65: the inverse of the best map from balanced RGB to XYZ that preserves white."""
    light, surfaces = spectra.daylight(6504), spectra.reflectances()[::2]
    white = spectra.neutral(sensitivity, light)
    balanced = spectra.response(surfaces, sensitivity, light) / white
    weights = spectra.observer() * light[:, None]
    xyz, top = surfaces @ (weights / weights[:, 1].sum()), weights.sum(0) / weights[:, 1].sum()
    rest = np.linalg.lstsq(balanced[:, 1:] - balanced[:, :1], xyz - balanced[:, :1] * top, rcond=None)[0].T
    to_xyz = np.concatenate([(top - rest.sum(1))[:, None], rest], 1)
    matrix: np.ndarray = np.linalg.inv(to_xyz) * white[:, None]
    return matrix


def evaluate(
    dataset: Path | str,
    files: Sequence[Path | str] = (),
    device: torch.device | str = "cpu",
    a: str | None = None,
    b: str | None = None,
) -> list[Score]:
    """Measure closed forms and trained weights on the test shots of a data set, by kind of light, then over all.

    It is from camera ``a`` to ``b``; None: as the data set has them. Raises ConfigError, FormatError and WeightsError.
    """
    data = load(dataset, a, b)
    learned, _, tested = split(data.shots)
    ways = methods(data.series, data.pixels(learned))
    for path in files:
        model = stored.load(path, data.series).to(device)
        name = Path(path).name.split(".")[0]
        if f"network `{name}`" in ways:
            name = f"{Path(path).parent.name}/{name}"
        ways[f"network `{name}`"] = partial(predicted, model, device=device)
    to_srgb = torch.from_numpy(color.cam_to_srgb(_matrix(spectral.sensor(data.series.b).sensitivity)))
    plain = data.pixels(tested)
    with_noise = replace(plain, a=noisy(plain.a, torch.Generator().manual_seed(1)))
    groups = {kind: [n for n, shot in enumerate(tested) if shot.kind == kind] for kind in spectral.KINDS}
    groups["all"] = list(range(len(tested)))
    scores = []
    for name, way in ways.items():
        shown, disturbed = way(plain), way(with_noise)
        for kind, numbers in groups.items():
            if numbers:
                own = replace(plain, a=shown)
                scores.append(_score(name, kind, own, disturbed, numbers, to_srgb))
    return scores


def _score(name: str, kind: str, own: Pixels, disturbed: Tensor, numbers: list[int], to_srgb: Tensor) -> Score:
    """Measure pictures ``own.a`` beside the true ``own.b``."""
    x, y = own.a[numbers].double(), own.b[numbers].double()
    cosine = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)).clamp(min=1e-9)
    labs = []
    for each in (x, y):
        balanced = each / own.neutral_b[numbers].double()[:, :, None, None]
        linear = torch.einsum("cd,ndhw->nhwc", to_srgb, balanced)
        labs.append(color.srgb_to_lab(linear.numpy()[:, ::3, ::3]))  # of some pixels: it is slow
    delta = color.ciede2000(*labs)
    return Score(
        method=name,
        kind=kind,
        psnr=psnr(own.a[numbers], own.b[numbers]),
        noisy=psnr(disturbed[numbers], own.b[numbers]),
        mae=float((x - y).abs().mean()),
        angle=float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).mean()),
        delta_e=float(delta.mean()),
        delta_e_95=float(np.percentile(delta, 95)),
        kl=divergence(own.a[numbers], own.b[numbers]),
    )


def divergence(shown: Tensor, wanted: Tensor) -> float:
    """Return how far the values' histograms of pictures (n, 3, H, W) lie apart; 0 if they are the same.

    Of each picture and channel: 256 bins over [0, 1], relative frequencies p and q, and the sum over the bins of
    p·ln(p/q) + q·ln(q/p); then the mean. This is CSTPP's measure for pictures without a partner.
    """
    p, q = (_frequencies(each) for each in (shown, wanted))
    return float(((p - q) * (p.log() - q.log())).sum(-1).mean())


def _frequencies(pictures: Tensor) -> Tensor:
    """Return the relative frequencies (n, 3, 256) of the values of pictures, clipped to [0, 1]."""
    flat = (pictures.double().flatten(2).clamp(0, 1) * _BINS).long().clamp(max=_BINS - 1)
    counts = torch.zeros(*flat.shape[:2], _BINS, dtype=torch.float64, device=flat.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat, dtype=torch.float64))
    return counts / flat.shape[2] + _RARE


def table(scores: Sequence[Score]) -> str:
    """Return scores as a table in Markdown: a row for each method, a column for each kind of light."""
    kinds = list(dict.fromkeys(score.kind for score in scores))
    lines = [
        f"| method | {' | '.join(kinds)} | with noise | MAE | angle | ΔE2000 (95 %) | KL |",
        "|---" * (len(kinds) + 6) + "|",
    ]  # fmt: skip
    for name in dict.fromkeys(score.method for score in scores):
        own = {score.kind: score for score in scores if score.method == name}
        whole = own["all"]
        cells = [f"{own[kind].psnr:.1f}" for kind in kinds]
        cells += [f"{whole.noisy:.1f}", f"{whole.mae:.4f}", f"{whole.angle:.2f}°"]
        cells += [f"{whole.delta_e:.2f} ({whole.delta_e_95:.2f})", f"{whole.kl:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
