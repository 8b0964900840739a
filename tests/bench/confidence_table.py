"""Fit and measure the confidence map: paramisp_cli/confidence.json and the tables of docs/confidence.md.

Run: python tests/bench/confidence_table.py PAIRS WORK [--weights FILE…] [--others RAW…] [--fit] [-o FILE]

PAIRS: a data set that ``paramisp pairs`` made, with all photographs, of two cameras or more. WORK: a folder for errors
and terms, made once. ``--weights``: checkpoints of trainings that left photographs out. ``--others``: RAW files of
further cameras, developed by LibRaw for a last test. ``--simulated``: a data set of ``paramisp simulate``. ``--fit``
writes confidence.json anew; without it, the tables are those of the numbers in the package and of the same fit without
each camera.

Every table of shares is by photograph. A row "left out" has numbers from a fit that saw no photograph of the camera.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from paramisp_cli import cameras, confidence, onnx_runner, weights
from paramisp_cli.formats import jpeg
from paramisp_cli.rendition import develop, parametric
from paramisp_cli.training.dataset import LoadedPair, load, whole
from paramisp_cli.types import Direction

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "weights"
GENERIC = SHIPPED / "fast" / "generic.unprocess.safetensors"
FLOOR, LEVELS = confidence.FLOOR, confidence.LEVELS
SITES = 40_000  # of a photograph
SIDE = 1200  # most rows and columns of an edited photograph
MOST_OF_PARAMISP = 3_000_000  # sites of a photograph that the slow network takes
EDITS = ((0.0, 60), (1.0, 90), (2.0, 70))  # EV and JPEG quality of edited photographs, for the fit alone
SAMPLE = 60_000  # of all sites, for the weights of the terms
KNOTS = 12
MEASUREMENT = "1"  # a new word measures everything anew
_PAIRS = {"parametric": confidence.PARAMETRIC, "generic fast": confidence.NETWORK}


@dataclass(frozen=True)
class Measured:
    """Terms (N, T) and errors (N,) of sites of a photograph, by one model; ``gain`` [EV] was fitted first."""

    photo: str
    camera: str
    model: str
    edit: str
    terms: np.ndarray
    errors: np.ndarray
    gain: float


# --- photographs ------------------------------------------------------------------------------------------------------


def noise_of(item: LoadedPair) -> np.ndarray | None:
    """Return the noise of a pair's samples: of a reduced RAW it is that of means."""
    facts, iso = cameras.find(item.pair.camera), item.pair.optical.iso
    if iso is None:
        return None
    own = facts.noise_profile(iso) if facts else None
    own = confidence.usual_noise(iso) if own is None else own
    return own / item.pair.reduction**2


def tables_of(item: LoadedPair) -> tuple[float, float] | None:
    """Return the quantisation tables of the camera's JPEG, inside the RAW file or beside it."""
    raw = Path(item.pair.raw)
    path = raw.parent / item.pair.jpeg
    if path.is_file() and item.pair.jpeg != "embedded":
        return jpeg.mean_squares(path.read_bytes())
    if not raw.is_file():
        return None
    import rawpy

    with rawpy.imread(str(raw)) as file:
        thumb = file.extract_thumb()
    return jpeg.mean_squares(bytes(thumb.data)) if thumb.format == rawpy.ThumbFormat.JPEG else None


def edited(item: LoadedPair, stops: float, quality: int) -> tuple[LoadedPair, tuple[float, float] | None]:
    """Return the middle of a photograph, brightened and developed by its camera's weights, as a JPEG."""
    rows, columns = (min(side, SIDE) // 2 * 2 for side in item.mosaic.shape)
    top, left = ((side - cut) // 4 * 2 for side, cut in zip(item.mosaic.shape, (rows, columns), strict=True))
    mosaic = item.mosaic[top : top + rows, left : left + columns]
    slug = next(name for name in weights.candidates(item.camera) if name != "generic")
    model = onnx_runner.load(SHIPPED / "fast" / f"{slug}.render.safetensors", Direction.RENDER)
    item = replace(item, mosaic=mosaic, frame=None)
    linear = item.sides()[0]
    shown, _ = onnx_runner.OnnxRunner(model).render(linear, item.canonical, item.pair.optical, gain=2.0**stops)
    stream = io.BytesIO()
    Image.fromarray(shown).save(stream, "JPEG", quality=quality)
    srgb = np.array(Image.open(stream))
    return replace(item, srgb=srgb), jpeg.mean_squares(stream.getvalue())


def made_by(model: str, path: Path | None, item: LoadedPair) -> np.ndarray:
    """Make the RAW of a pair's picture, float32."""
    if model == "parametric":
        stage = parametric.ParametricUnprocess(item.canonical)
        return develop.expose(item.srgb, stage, item.canonical, item.mosaic.shape, dtype=np.float32)
    assert path is not None
    if "paramisp" in model:
        from paramisp_cli.runner import Runner

        machine = Runner(weights.load(path, torch.device("cpu")), torch.device("cpu"))
        return machine.unprocess(item.srgb, item.canonical, item.pair.optical, dtype=np.float32, frame=item.frame)[0]
    loaded = onnx_runner.load(path, Direction.UNPROCESS)
    own = onnx_runner.OnnxRunner(loaded)
    return own.unprocess(item.srgb, item.canonical, item.pair.optical, dtype=np.float32, frame=item.frame)[0]


def measured(
    item: LoadedPair, model: str, path: Path | None, tables: tuple[float, float] | None, edit: str = ""
) -> Measured:
    """Measure terms and errors of sites of a photograph, after one gain."""
    true = item.sides()[0]
    made = made_by(model, path, item)
    source = confidence.Source(tables=tables, noise=noise_of(item))
    terms = confidence.terms(item.srgb, made, item.canonical, source).reshape(len(confidence.TERMS), -1)
    near = terms[confidence.TERMS.index("near_clipped")]
    true, made = true.ravel(), made.ravel()
    sound = (near == 0) & (made > 0.02) & (true > 0.02) & (true < 0.95)
    gain = float(np.exp(np.median(np.log(true[sound] / made[sound])))) if sound.any() else 1.0
    errors = np.abs(true - gain * made) / (gain * made + FLOOR)
    chosen = np.random.default_rng(0).choice(true.size, min(true.size, SITES), replace=False)
    return Measured(
        item.pair.name, item.camera, model, edit, terms[:, chosen].T.copy(), errors[chosen], float(np.log2(gain))
    )


def stored(folder: Path, key: Sequence[str], make) -> Measured:
    """Return a measurement, made once for a state of the code of the terms."""
    code = ast.dump(ast.parse((ROOT / "paramisp_cli" / "confidence.py").read_text())) + MEASUREMENT
    digest = hashlib.sha256("|".join((*key, code)).encode()).hexdigest()[:24]
    path = folder / f"{digest}.npz"
    if not path.exists():
        result = make()
        facts = [result.photo, result.camera, result.model, result.edit, str(result.gain)]
        np.savez(path, terms=result.terms, errors=result.errors, facts=np.array(facts))
    with np.load(path) as file:
        photo, camera, model, edit, gain = map(str, file["facts"])
        return Measured(photo, camera, model, edit, file["terms"], file["errors"], float(gain))


def all_measured(pairs: Sequence[LoadedPair], more: Sequence[Path], work: Path) -> Iterator[Measured]:
    """Measure every photograph by every model, and the edited ones by those of the fit."""
    for item in pairs:
        models: list[tuple[str, Path | None]] = [("parametric", None), ("generic fast", GENERIC)]
        if item.mosaic.size < MOST_OF_PARAMISP:
            models.append(("generic paramisp", SHIPPED / "paramisp" / "generic.unprocess.safetensors"))
        for path in more:
            header = weights.info(path)
            fits = header["camera"] == item.camera and item.pair.name not in header.get("training", "")
            if fits:
                models.append(("own fast, photograph left out", path))
        for model, path in models:
            key = (item.pair.name, model, str(path))
            make = lambda item=item, model=model, path=path: measured(item, model, path, tables_of(item))  # noqa: E731
            yield stored(work, key, make)
        for stops, quality in EDITS:
            for model, path in models[:2]:

                def make(item=item, model=model, path=path, stops=stops, quality=quality) -> Measured:
                    changed, tables = edited(item, stops, quality)
                    return measured(changed, model, path, tables, f"{stops:+g} EV, JPEG {quality}")

                yield stored(work, (item.pair.name, model, str(path), f"{stops} {quality}"), make)
        print(item.pair.name, file=sys.stderr, flush=True)


def developed(path: Path) -> LoadedPair:
    """Return a RAW file with its picture by LibRaw, in the frame of the visible area: another camera, another ISP."""
    import rawpy

    from paramisp_cli import formats
    from paramisp_cli.training.dataset import Pair, Region

    raw = formats.read(path)
    with rawpy.imread(str(path)) as file:
        shown = file.postprocess(use_camera_wb=True, user_flip=0, demosaic_algorithm=rawpy.DemosaicAlgorithm.AHD)
    rows, columns = (min(a, b) // 2 * 2 for a, b in zip(raw.mosaic.shape, shown.shape[:2], strict=True))
    stream = io.BytesIO()
    Image.fromarray(shown[:rows, :columns]).save(stream, "JPEG", quality=92)
    pair = Pair(path.stem, str(path), "LibRaw", "pair", "", raw.camera, raw.optical, raw.canonical,
                regions=(Region(0, 0, rows, columns),), size=(rows, columns))  # fmt: skip
    return LoadedPair(pair, np.ascontiguousarray(raw.mosaic[:rows, :columns]), np.array(Image.open(stream)))


# --- the fit ----------------------------------------------------------------------------------------------------------


def balance(data: Sequence[Measured]) -> np.ndarray:
    """Return a weight for each site: every camera counts alike, and in it every photograph."""
    count = {camera: sum(each.camera == camera for each in data) for camera in {each.camera for each in data}}
    per_site = [np.full(len(each.errors), 1 / (count[each.camera] * len(each.errors))) for each in data]
    joined = np.concatenate(per_site)
    return joined / joined.mean()


def fit_weights(data: Sequence[Measured], steps: int = 300) -> np.ndarray:
    """Fit the weights of the terms: the maximum likelihood of a Laplace distribution whose scale is the budget."""
    squares = torch.from_numpy(np.concatenate([each.terms for each in data])).float().square()
    errors = torch.from_numpy(np.concatenate([each.errors for each in data])).float()
    shares = torch.from_numpy(balance(data)).float()
    chosen = torch.randperm(len(errors), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    squares, errors, shares = squares[chosen], errors[chosen], shares[chosen]
    scale = squares.mean(0).clamp(min=1e-9)
    logs = torch.full((squares.shape[1],), -6.0, requires_grad=True)
    optimiser = torch.optim.Adam([logs], 0.06)
    for _ in range(steps):
        budget = ((squares / scale) @ logs.exp() + 1e-10).sqrt()
        loss = (shares * (budget.log() + errors / budget)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = (logs.exp() / scale).sqrt().detach().numpy()
    share = np.sqrt((squares.mean(0).numpy()) * found**2)
    found[share < 1e-3] = 0  # a term that moves no half-width
    return found


def budgets(found: np.ndarray, data: Measured) -> np.ndarray:
    return np.log(np.maximum((data.terms**2) @ (found**2), 1e-12)) / 2


def fit_table(pairs: Sequence[tuple[np.ndarray, Measured]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Fit ln(budget) → ln(half-width) for each level, from photographs with budgets of fits that did not see them."""
    data = [each for _, each in pairs]
    budget, errors, shares = (
        np.concatenate([b for b, _ in pairs]),
        np.concatenate([d.errors for d in data]),
        balance(data),
    )
    order = np.argsort(budget, kind="stable")
    budget, errors, shares = budget[order], errors[order], shares[order]
    place = (np.cumsum(shares) - shares / 2) / shares.sum()
    edges = np.concatenate([np.linspace(0, 0.9, KNOTS - 2), [0.97, 1]])  # the last ones are the clipped sites
    knots, widths = [], {f"{level:g}": [] for level in LEVELS}
    for low, high in itertools.pairwise(edges):
        inside = (place >= low) & (place <= high)
        values, part = errors[inside], shares[inside]
        rising = np.argsort(values, kind="stable")
        total = np.cumsum(part[rising]) / part.sum()
        knots.append(np.average(budget[inside], weights=part))
        for level in LEVELS:
            widths[f"{level:g}"].append(np.log(max(values[rising][np.searchsorted(total, level)], 1e-6)))
    return np.array(knots), {level: rising_fit(np.array(line)) for level, line in widths.items()}


def rising_fit(values: np.ndarray) -> np.ndarray:
    """Return the rising sequence nearest to values, by pooling neighbours that fall (isotonic regression)."""
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    return np.concatenate([np.full(len(group), np.mean(group)) for group in groups])


@dataclass(frozen=True)
class Fit:
    weights: np.ndarray
    knots: np.ndarray
    widths: dict[str, np.ndarray]

    def shares(self, data: Measured) -> list[float]:
        """Return the shares of errors inside the half-widths of all levels."""
        square = np.exp(2 * budgets(self.weights, data))
        return [
            float((data.errors <= confidence._width(square, self.knots, self.widths[f"{level:g}"])).mean())
            for level in LEVELS
        ]


def fit(data: Sequence[Measured]) -> Fit:
    """Fit weights on all data, and the table on budgets of fits without the photograph's camera."""
    names = sorted({each.camera for each in data})
    pairs = []
    for name in names:
        inner = fit_weights([each for each in data if each.camera != name])
        pairs += [(budgets(inner, each), each) for each in data if each.camera == name]
    return Fit(fit_weights(data), *fit_table(pairs))


def shipped(kind: str) -> Fit:
    own = confidence._constants()[kind]
    return Fit(np.array(own["weights"]), np.array(own["knots"]), {k: np.array(v) for k, v in own["widths"].items()})


# --- the tables -------------------------------------------------------------------------------------------------------


def row(name: str, shares: Sequence[Sequence[float]], gains: Sequence[float] = ()) -> str:
    """Word a row: mean and worst share of each level, and the gains."""
    cells = [name, str(len(shares))]
    for number, level in enumerate(LEVELS):
        own = [each[number] for each in shares]
        worst = max(own, key=lambda share: abs(share - level))
        cells.append(f"{100 * np.mean(own):.0f} / {100 * worst:.0f}")
    cells.append(f"{max(map(abs, gains)):.2f}" if gains else "–")
    return f"| {' | '.join(cells)} |"


def simulated(folder: Path, work: Path, found: Fit) -> str:
    """Return the row of simulated shots, by cameras with an invented processing that differs from shot to shot."""
    results = [
        stored(work, (item.pair.name, "simulated"), lambda item=item: measured(item, "generic fast", GENERIC, None))
        for item in whole(load(folder))
    ]
    gains = [each.gain for each in results]
    print("gains of simulated shots, EV:", np.quantile(np.abs(gains), LEVELS).round(2), file=sys.stderr)
    return row("generic fast, simulated shots", [found.shares(each) for each in results], gains)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--weights", type=Path, nargs="*", default=[])
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    parser.add_argument("--simulated", type=Path)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    data = list(all_measured(whole(load(options.pairs)), options.weights, options.work))
    head = "| model, photographs | number | 50 % | 68 % | 90 % | largest gain [EV] |"
    lines = [head, "|---" * 6 + "|"]
    per_photo = ["| photograph | model | gain [EV] | 50 % | 68 % | 90 % |", "|---" * 6 + "|"]
    written = dict(confidence._constants()) if not options.fit else {"noise": noise_constants()}
    fits: dict[str, Fit] = {}
    for model, kind in _PAIRS.items():
        own = [each for each in data if each.model == model]
        plain = [each for each in own if not each.edit]
        shares, edits = [], []
        left: dict[str, Fit] = {}
        for name in sorted({each.camera for each in own}):
            left[name] = fit([each for each in own if each.camera != name])
            for each in own:
                if each.camera == name:
                    (edits if each.edit else shares).append(left[name].shares(each))
                    if not each.edit:
                        cells = " | ".join(f"{100 * share:.0f}" for share in shares[-1])
                        per_photo.append(f"| {each.photo.rsplit('-', 1)[0]} | {model} | {each.gain:+.2f} | {cells} |")
        lines.append(row(f"{model}, camera left out", shares, [each.gain for each in plain]))
        lines.append(row(f"{model}, edited, camera left out", edits))
        for each in data:
            if kind == confidence.NETWORK and (each.model.startswith("own") or "paramisp" in each.model):
                result = left[each.camera].shares(each)
                cells = " | ".join(f"{100 * share:.0f}" for share in result)
                per_photo.append(f"| {each.photo.rsplit('-', 1)[0]} | {each.model} | {each.gain:+.2f} | {cells} |")
        if options.fit:
            fits[kind] = fit(own)
            gains = sorted(abs(each.gain) for each in plain)
            written[kind] = {
                "weights": fits[kind].weights.astype(np.float64).round(5).tolist(),
                "knots": fits[kind].knots.round(4).tolist(),
                "widths": {level: line.round(4).tolist() for level, line in fits[kind].widths.items()},
                "scale_ev": round(float(np.quantile(gains, 0.9)), 2),
            }
            print(dict(zip(confidence.TERMS, written[kind]["weights"], strict=True)), file=sys.stderr)
        else:
            fits[kind] = shipped(kind)
    lines.append(simulated(options.simulated, options.work, fits[confidence.NETWORK])) if options.simulated else None
    for path in options.others:
        item = developed(path)
        for model, kind in _PAIRS.items():
            each = stored(
                options.work,
                (path.name, model, "libraw"),
                lambda item=item, model=model: measured(item, model, GENERIC, None),
            )
            cells = " | ".join(f"{100 * share:.0f}" for share in fits[kind].shares(each))
            per_photo.append(f"| {path.stem}, by LibRaw | {model} | {each.gain:+.2f} | {cells} |")
    if options.fit:
        target = ROOT / "paramisp_cli" / "confidence.json"
        target.write_text(json.dumps(written, indent=1) + "\n")
    text = "\n".join([*lines, "", *per_photo, ""])
    print(text)
    if options.output:
        options.output.write_text(text)


def noise_constants() -> list[float]:
    """Return the median of the table's cameras at ISO 400: scale per ISO, and offset per ISO²."""
    known = [facts.noise_profile(400.0) for facts in cameras.all_cameras() if facts.noise_rows is not None]
    medians = np.median([profile[1] for profile in known if profile is not None], 0)
    return [float(medians[0] / 400), float(medians[1] / 400**2)]


if __name__ == "__main__":
    main()
