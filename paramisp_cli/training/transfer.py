"""Train and measure a network from one camera's RAW colours to another's, beside closed forms on the same pixels.

The data set is that of ``simulated.spectral``. Of the training scenes the last serves validation, which chooses the
weights; test scenes, their reflectances and their lights are never seen in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import cameras, checkpoint, color
from paramisp_cli.cameras import spectra
from paramisp_cli.errors import ConfigError, WeightsError
from paramisp_cli.models.base import Params
from paramisp_cli.models.splines import Splines
from paramisp_cli.training.simulated import spectral
from paramisp_cli.types import Direction

_EXACT = 1e-7
"""Mean squared error below which a training gains little: 70 dB."""
_CROP = 64
"""Largest side of the squares that a training sees [px]."""
_VALIDATED = 200
"""Steps between two validations."""
_VALIDATION = 40
"""Largest number of shots of a validation."""
_NOISE = (4e-4, 2e-6)
"""Scale and offset of the noise that a part of the training and of the measuring adds: a camera at about ISO 1600."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps, shots in a batch, the first and last learning rate of a cosine, and the random seed."""

    steps: int = 3000
    batch: int = 8
    lr: float = 2e-3
    last_lr: float = 2e-5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"--steps must be at least 1, not {self.steps}")


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a training: step, steps, mean loss since the last report, and PSNR [dB] on the validation scene."""

    step: int
    steps: int
    loss: float
    psnr: float
    best: float


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """Shots of one size: both cameras' RGB (n, 3, H, W) and neutrals (n, 3), float32."""

    shots: tuple[spectral.Shot, ...]
    a: Tensor
    b: Tensor
    neutral_a: Tensor
    neutral_b: Tensor

    def params(self, which: slice | Tensor = slice(None)) -> Params:
        """Return the first camera's parameters of some of the shots."""
        neutral = self.neutral_a[which]
        n = len(neutral)
        return Params(
            wb_gains=1 / neutral, cam_to_srgb=torch.eye(3).repeat(n, 1, 1), iso=torch.full((n,), 100.0),
            exposure_time=torch.full((n,), 0.01), f_number=torch.full((n,), 4.0), focal_length=torch.full((n,), 50.0),
        )  # fmt: skip


def pixels(dataset: Path | str, shots: Sequence[spectral.Shot]) -> Pixels:
    """Read shots; raises FormatError for a damaged file."""
    pairs = [spectral.read(dataset, shot) for shot in shots]
    a, b = (torch.from_numpy(np.stack(each).transpose(0, 3, 1, 2).copy()) for each in zip(*pairs, strict=True))
    neutrals = (torch.tensor([getattr(shot, name) for shot in shots]) for name in ("neutral_a", "neutral_b"))
    return Pixels(tuple(shots), a, b, *neutrals)


def split(
    shots: Sequence[spectral.Shot],
) -> tuple[list[spectral.Shot], list[spectral.Shot], list[spectral.Shot]]:
    """Return the shots for training, validation (the last training scene) and test; raises ConfigError if one lacks."""
    seen = list(dict.fromkeys(shot.scene for shot in shots if not shot.test))
    parts = (
        [shot for shot in shots if not shot.test and shot.scene != seen[-1]],
        [shot for shot in shots if not shot.test and shot.scene == seen[-1]],
        [shot for shot in shots if shot.test],
    )
    if not all(parts):
        raise ConfigError("a data set of transfers needs 4 scenes or more: training, validation and test share none")
    return parts


def base(series: spectral.Series) -> spectra.Fit:
    """Return the closed form of the two cameras, fitted to the reflectances that the test shots do not have."""
    a, b = (spectral.sensor(name).sensitivity for name in (series.a, series.b))
    return spectra.fit(a, b, spectra.reflectances()[::2], list(spectra.lights("fitted").values()))


def train(
    dataset: Path | str,
    output: Path | str,
    schedule: Schedule = Schedule(),
    device: torch.device | str = "cpu",
    report: Callable[[Progress], None] = lambda progress: None,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Train a network on a data set, and write the weights of the best validation → the file.

    Raises ConfigError and FormatError for an unfit data set, FileAccessError for ``output``.
    """
    series, shots = spectral.load(dataset)
    learned, validated, _ = split(shots)
    seen, held = pixels(dataset, learned), pixels(dataset, validated[:: -(-len(validated) // _VALIDATION)])
    generator = torch.Generator().manual_seed(schedule.seed)
    model = Splines()
    model.initialise(generator)
    fit = base(series)
    model.set_base(
        *(torch.from_numpy(np.ascontiguousarray(each)) for each in (fit.coefficients, fit.neutral, fit.known))
    )
    model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), schedule.lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.steps, schedule.last_lr)
    best, kept, losses = _psnr(predicted(model, held, device), held.b), _copy(model), []
    report(Progress(0, schedule.steps, 0.0, best, best))
    for step in range(1, schedule.steps + 1):
        check()
        chosen = torch.randint(len(learned), (schedule.batch,), generator=generator)
        a, b = _cropped(seen.a[chosen], seen.b[chosen], generator)
        a, b = _turned(a, b, generator)
        if step % 4 == 0:
            a = _noisy(a, generator)
        shown = model.colours(a.to(device), seen.params(chosen).to(device))
        # The mean PSNR itself: under L1, shots in odd light would outweigh all that are nearly right already.
        loss = torch.log10((shown - b.to(device)).square().flatten(1).mean(1) + _EXACT).mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
        losses.append(loss.item())
        if step % _VALIDATED == 0 or step == schedule.steps:
            score = _psnr(predicted(model, held, device), held.b)
            if score > best:
                best, kept = score, _copy(model)
            report(Progress(step, schedule.steps, float(np.mean(losses)), score, best))
            losses = []
    model.load_state_dict(kept)
    return _save(model, Path(output), series, schedule, best, shots)


def _copy(model: Splines) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _cropped(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut the same square of at most ``_CROP`` pixels a side from both pictures."""
    side = min(_CROP, *a.shape[2:])
    top, left = (int(torch.randint(length - side + 1, (1,), generator=generator)) for length in a.shape[2:])
    return tuple(each[..., top : top + side, left : left + side] for each in (a, b))  # type: ignore[return-value]


def _turned(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror and turn both pictures alike, at random, and darken both by up to 2 EV."""
    turns, mirror = (int(torch.randint(4, (1,), generator=generator)) for _ in range(2))
    gain = 2 ** (-2 * torch.rand(len(a), 1, 1, 1, generator=generator))
    both = [torch.rot90(each, turns, (2, 3)) * gain for each in (a, b)]
    both = [each.flip(3) for each in both] if mirror % 2 else both
    return both[0], both[1]


def _noisy(a: Tensor, generator: torch.Generator) -> Tensor:
    scale, offset = _NOISE
    return a + torch.randn(a.shape, generator=generator) * (scale * a + offset).sqrt()


def _save(
    model: Splines, folder: Path, series: spectral.Series, schedule: Schedule, best: float, shots: Sequence[Any]
) -> Path:
    names = [cameras.slug(spectral.sensor(name).name) for name in (series.a, series.b)]
    data = hashlib.sha256(repr((series, [shot.name for shot in shots])).encode()).hexdigest()
    return checkpoint.save(
        model.cpu().eval(),
        folder / f"{names[0]}-to-{names[1]}.{Direction.TRANSFER}.safetensors",
        camera=spectral.sensor(series.a).name,
        training={"to": spectral.sensor(series.b).name, "steps": schedule.steps, "batch": schedule.batch,
                  "shots": len(shots), "data": data[:16], "simulated": True},
        metrics={"validation_psnr": round(best, 3)},
        licence="MIT",
    )  # fmt: skip


def load(path: Path | str, series: spectral.Series) -> Splines:
    """Load trained weights; raises WeightsError for those of other cameras or another architecture."""
    import json

    header = checkpoint.info(Path(path))
    model = checkpoint.load(path, direction=Direction.TRANSFER)
    facts = json.loads(header["training"] or "{}")
    wanted = [spectral.sensor(name).name for name in (series.a, series.b)]
    if not isinstance(model, Splines) or [header["camera"], facts.get("to")] != wanted:
        raise WeightsError(f"{path}: is for {header['camera']} to {facts.get('to')}, not {' to '.join(wanted)}")
    return model


def predicted(model: Splines, shown: Pixels, device: torch.device | str = "cpu") -> Tensor:
    """Return the second camera's colours (n, 3, H, W) that a network predicts."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        parts = [
            model.colours(shown.a[at : at + 8].to(device), shown.params(slice(at, at + 8)).to(device)).cpu()
            for at in range(0, len(shown.a), 8)
        ]
    model.train(training)
    return torch.cat(parts).clone()


def _psnr(shown: Tensor, wanted: Tensor) -> float:
    """Return the mean PSNR [dB] of pictures (n, 3, H, W)."""
    errors = (shown - wanted).double().square().flatten(1).mean(1)
    return float((-10 * torch.log10(errors.clamp(min=1e-12))).mean())


# Measuring ------------------------------------------------------------------------------------------------------------


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


def evaluate(dataset: Path | str, files: Sequence[Path | str] = (), device: torch.device | str = "cpu") -> list[Score]:
    """Measure closed forms and trained weights on the test shots of a data set, by kind of light, then over all.

    Raises ConfigError, FormatError and WeightsError.
    """
    series, shots = spectral.load(dataset)
    learned, _, tested = split(shots)
    ways = methods(series, pixels(dataset, learned))
    for path in files:
        model = load(path, series).to(device)
        ways[f"network `{Path(path).name.split('.')[0]}`"] = partial(predicted, model, device=device)
    to_srgb = torch.from_numpy(color.cam_to_srgb(_matrix(spectral.sensor(series.b).sensitivity)))
    plain = pixels(dataset, tested)
    noisy = replace(plain, a=_noisy(plain.a, torch.Generator().manual_seed(1)))
    groups = {kind: [n for n, shot in enumerate(tested) if shot.kind == kind] for kind in spectral.KINDS}
    groups["all"] = list(range(len(tested)))
    scores = []
    for name, way in ways.items():
        shown, with_noise = way(plain), way(noisy)
        for kind, numbers in groups.items():
            if numbers:
                own = replace(plain, a=shown)
                scores.append(_score(name, kind, own, with_noise, numbers, to_srgb))
    return scores


def _score(name: str, kind: str, own: Pixels, noisy: Tensor, numbers: list[int], to_srgb: Tensor) -> Score:
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
        psnr=_psnr(own.a[numbers], own.b[numbers]),
        noisy=_psnr(noisy[numbers], own.b[numbers]),
        mae=float((x - y).abs().mean()),
        angle=float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).mean()),
        delta_e=float(delta.mean()),
        delta_e_95=float(np.percentile(delta, 95)),
    )


def table(scores: Sequence[Score]) -> str:
    """Return scores as a table in Markdown: a row for each method, a column for each kind of light."""
    kinds = list(dict.fromkeys(score.kind for score in scores))
    lines = [
        f"| method | {' | '.join(kinds)} | with noise | MAE | angle | ΔE2000 (95 %) |", "|---" * (len(kinds) + 5) + "|"
    ]  # fmt: skip
    for name in dict.fromkeys(score.method for score in scores):
        own = {score.kind: score for score in scores if score.method == name}
        whole = own["all"]
        cells = [f"{own[kind].psnr:.1f}" for kind in kinds]
        cells += [f"{whole.noisy:.1f}", f"{whole.mae:.4f}", f"{whole.angle:.2f}°"]
        cells += [f"{whole.delta_e:.2f} ({whole.delta_e_95:.2f})"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
