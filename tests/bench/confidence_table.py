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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from paramisp_cli import cameras, confidence, onnx_runner, weights
from paramisp_cli.directions import Direction
from paramisp_cli.formats import jpeg
from paramisp_cli.rendition import develop, parametric
from paramisp_cli.training.dataset import LoadedPair, load, whole

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "weights"
GENERIC = SHIPPED / "fast" / "generic.unprocess.safetensors"
FLOOR, LEVELS = confidence.FLOOR, confidence.LEVELS
SITES = 40_000  # of a photograph
SIDE = 1200  # most rows and columns of an edited photograph
MOST_OF_PARAMISP = 3_000_000  # sites of a photograph that the slow network takes
NEVER_SEEN_BY_PARAMISP = ("Canon EOS 30D", "Canon PowerShot G10")  # by its generic weights, says their card
EDITS = ((0.0, 60), (1.0, 90), (2.0, 70))  # EV and JPEG quality of edited photographs, for the fit alone
SAMPLE = 60_000  # of all sites, for the weights of the terms
KNOTS = 12
MEASUREMENT = "1"  # a new word measures everything anew
LIBRAW = "LibRaw"  # beginning of the edits that show a look which no weights learned
OF_KINDS = {
    confidence.PARAMETRIC: "parametric",
    confidence.KNOWN: "generic fast",
    confidence.UNKNOWN: "generic fast",
}


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
        if Path(item.pair.raw).is_file():
            for bright, quality in ((True, 92), (False, 75)):

                def make(item=item, bright=bright, quality=quality) -> Measured:
                    shown, tables = developed(Path(item.pair.raw), bright=bright, quality=quality)
                    shown = replace(shown, pair=replace(shown.pair, name=item.pair.name, camera=item.pair.camera))
                    return measured(shown, "generic fast", GENERIC, tables, f"{LIBRAW} {quality}")

                yield stored(work, (item.pair.name, LIBRAW, str(bright), str(quality)), make)
        print(item.pair.name, file=sys.stderr, flush=True)


def developed(path: Path, *, bright: bool = True, quality: int = 92) -> tuple[LoadedPair, tuple[float, float] | None]:
    """Return the middle of a RAW file with a JPEG by LibRaw, a look that no weights learned, and the JPEG's tables."""
    import rawpy

    from paramisp_cli import formats
    from paramisp_cli.training.dataset import Pair, Region

    raw = formats.read(path)
    with rawpy.imread(str(path)) as file:
        shown = file.postprocess(
            use_camera_wb=True, user_flip=0, no_auto_bright=not bright, gamma=(2.4, 12.92),
            demosaic_algorithm=rawpy.DemosaicAlgorithm.AHD,
        )  # fmt: skip
    sides = [min(a, b) for a, b in zip(raw.mosaic.shape, shown.shape[:2], strict=True)]
    rows, columns = (min(side, SIDE) // 2 * 2 for side in sides)
    top, left = ((side - cut) // 4 * 2 for side, cut in zip(sides, (rows, columns), strict=True))
    stream = io.BytesIO()
    Image.fromarray(shown[top : top + rows, left : left + columns]).save(stream, "JPEG", quality=quality)
    pair = Pair(
        path.stem, str(path), LIBRAW, "pair", "", raw.camera, raw.optical, raw.canonical,
        regions=(Region(0, 0, rows, columns),), size=(rows, columns),
    )  # fmt: skip
    mosaic = np.ascontiguousarray(raw.mosaic[top : top + rows, left : left + columns])
    return LoadedPair(pair, mosaic, np.array(Image.open(stream))), jpeg.mean_squares(stream.getvalue())


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
    """Fit ln(budget) → ln(half-width) for each level, from photographs with budgets of fits that did not see them.

    Every photograph counts alike, as in the tables.
    """
    budget, errors = np.concatenate([each for each, _ in pairs]), np.concatenate([each.errors for _, each in pairs])
    shares = np.concatenate([np.full(len(each.errors), 1 / len(each.errors)) for _, each in pairs])
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

    def record(self) -> dict[str, object]:
        """Return plain values for confidence.json."""
        return {
            "weights": self.weights.astype(np.float64).round(5).tolist(),
            "knots": self.knots.round(4).tolist(),
            "widths": {level: line.round(4).tolist() for level, line in self.widths.items()},
        }

    def stated(self, data: Measured, level: float) -> np.ndarray:
        """Return the half-widths of the sites of a photograph."""
        square = np.exp(2 * budgets(self.weights, data))
        return confidence._width(square, self.knots, self.widths[f"{level:g}"])

    def shares(self, data: Measured) -> list[float]:
        """Return the shares of errors inside the half-widths of all levels."""
        return [float((data.errors <= self.stated(data, level)).mean()) for level in LEVELS]


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


HEAD = "| model, pictures | number | 50 % | 68 % | 90 % | largest gain [EV] |\n" + "|---" * 6 + "|"
HEAD_OF_PHOTOS = "| photograph | model | gain [EV] | 50 % | 68 % | 90 % |\n" + "|---" * 6 + "|"


def row(title: str, data: Sequence[Measured], found: Fit | Mapping[str, Fit]) -> str:
    """Word a row: mean and worst share of each level, and the largest gain; a fit for all, or one for each camera."""
    shares = [(found if isinstance(found, Fit) else found[each.camera]).shares(each) for each in data]
    cells = [title, str(len(shares))]
    for number, level in enumerate(LEVELS):
        own = [each[number] for each in shares]
        worst = max(own, key=lambda share: abs(share - level))
        cells.append(f"{100 * np.mean(own):.0f}, worst {100 * worst:.0f}")
    return f"| {' | '.join([*cells, f'{max(abs(each.gain) for each in data):.2f}'])} |"


BANDS = (0, 0.1, 0.2, 0.4, 1, np.inf)
HEAD_OF_BANDS = "| stated half-width | sites | 90 % | median error |\n" + "|---" * 4 + "|"


def bands(data: Sequence[Measured], found: Mapping[str, Fit]) -> list[str]:
    """Word the rows of half-widths from less to more: means over photographs of at least 200 sites in a band."""
    rows = []
    for low, high in itertools.pairwise(BANDS):
        inside = []
        for each in data:
            stated = found[each.camera].stated(each, 0.9)
            sites = (stated >= low) & (stated < high)
            if sites.sum() >= 200:
                errors = each.errors[sites]
                inside.append((sites.mean(), (errors <= stated[sites]).mean(), np.median(errors)))
        if inside:
            share, right, median = np.mean(inside, 0) * (len(inside) / len(data), 1, 1)
            name = f"{100 * low:.0f} to {100 * high:.0f} %" if np.isfinite(high) else f"more than {100 * low:.0f} %"
            worst = max((each[1] for each in inside), key=lambda value: abs(value - 0.9))
            rows.append(
                f"| {name} | {100 * share:.1f} % | {100 * right:.0f}, worst {100 * worst:.0f} | {100 * median:.1f} % |"
            )
    return rows


def photo(data: Measured, found: Fit) -> str:
    """Word the row of a photograph."""
    name = data.photo.rsplit("-", 1)[0] if data.edit == "" else f"{data.photo}, by {LIBRAW}"
    return f"| {name} | {data.model} | {data.gain:+.2f} | {' | '.join(f'{100 * s:.0f}' for s in found.shares(data))} |"


def simulated(folder: Path, work: Path) -> list[Measured]:
    """Measure simulated shots, by cameras with an invented processing that differs from shot to shot."""
    return [
        stored(work, (item.pair.name, "simulated"), lambda item=item: measured(item, "generic fast", GENERIC, None))
        for item in whole(load(folder))
    ]


def of_further(path: Path, model: str) -> Measured:
    item, tables = developed(path)
    return measured(item, model, GENERIC, tables, LIBRAW)


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
    plain = [each for each in data if not each.edit]
    fits: dict[str, Fit] = {}
    lines, per_photo, by_width = [HEAD], [HEAD_OF_PHOTOS], []
    for kind, model in OF_KINDS.items():
        looks = kind == confidence.UNKNOWN
        own = [each for each in data if each.model == model and each.edit.startswith(LIBRAW) == looks]
        left = {name: fit([each for each in own if each.camera != name]) for name in sorted({e.camera for e in own})}
        fits[kind] = fit(own) if options.fit else shipped(kind)
        title = f"{model}, {'LibRaw develops' if looks else 'the camera develops'}; camera left out"
        lines.append(row(title, [each for each in own if looks or not each.edit], left))
        by_width += ["", f"{title}:", "", HEAD_OF_BANDS, *bands([e for e in own if looks or not e.edit], left)]
        if not looks:
            by_width += ["", f"{model}, edited JPEGs:", "", HEAD_OF_BANDS, *bands([e for e in own if e.edit], left)]
            lines.append(row(f"{model}, edited JPEGs; camera left out", [each for each in own if each.edit], left))
            others = ("own fast", "generic paramisp") if kind == confidence.KNOWN else ()
            shown = [each for each in plain if each.model.startswith((model, *others))]
            per_photo += [photo(each, left[each.camera]) for each in shown]
    further = [
        stored(options.work, (path.name, LIBRAW, model), lambda path=path, model=model: of_further(path, model))
        for path in options.others
        for model in ("parametric", "generic fast")
    ]
    shots = simulated(options.simulated, options.work) if options.simulated else []
    strange = [each for each in plain if each.model == "generic paramisp" and each.camera in NEVER_SEEN_BY_PARAMISP]
    for title, group in (("generic fast, simulated shots", shots), ("generic paramisp, camera never seen", strange)):
        lines += [row(title, group, fits[confidence.UNKNOWN])] if group else []
    for each in further:
        kind = confidence.PARAMETRIC if each.model == "parametric" else confidence.UNKNOWN
        per_photo.append(photo(each, fits[kind]))
    if options.fit:
        gains = {
            confidence.PARAMETRIC: [each.gain for each in plain if each.model == "parametric"],
            confidence.KNOWN: [each.gain for each in plain if each.model == "generic fast"],
            confidence.UNKNOWN: [each.gain for each in shots],
        }
        written: dict[str, object] = {"noise": noise_constants()}
        for kind, found in fits.items():
            scale = float(np.quantile(np.abs(gains[kind]), 0.9)) if gains[kind] else 0.0
            if kind == confidence.UNKNOWN:
                scale = max([scale, *(abs(each.gain) for each in strange)])
            written[kind] = found.record() | {"scale_ev": float(np.ceil(100 * scale) / 100)}
        target = ROOT / "paramisp_cli" / "confidence.json"
        target.write_text(json.dumps(written, indent=1) + "\n")
    text = "\n".join([*lines, *by_width, "", *per_photo, ""])
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
