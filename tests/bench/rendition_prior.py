"""Estimate the prior of renditions from a data set of pairs, and measure it across photographs and cameras.

The data set is that of `paramisp pairs`. Every table is about photographs that the fit never saw: other photographs of
the camera, or all other cameras. PSNR of half-size pixels; of sRGB→RAW in the mosaic's units, green counting twice.
Beside each figure stands that of the polynomial regression (16 features, ridge 1e-6, float64) fitted to the same.
Run: python tests/bench/rendition_prior.py PAIRS [--write] [--tables]
--write puts the prior of all pairs into the package, else nothing is written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from paramisp_cli import rendition as package
from paramisp_cli.directions import Direction
from paramisp_cli.rendition import apply, fit, form, prior
from paramisp_cli.training import dataset
from paramisp_cli.training.measure import baselines, shading

PIXELS = 150_000
EVIDENCE = (30.0, 100.0, 1000.0)
MOSAIC = np.array([0.25, 0.5, 0.25])


@dataclass(frozen=True)
class Photo:
    """Aligned pixels (n, 3): white-balanced camera RGB without lens shading, the same with it, sRGB; their camera."""

    name: str
    camera: str
    camera_rgb: np.ndarray
    fall: np.ndarray
    srgb: np.ndarray
    gains: np.ndarray
    matrix: np.ndarray
    gathered: dict[Direction, fit.Cells] = field(default_factory=dict)

    def only(self, chosen: np.ndarray) -> Photo:
        return replace(
            self, camera_rgb=self.camera_rgb[chosen], fall=self.fall[chosen], srgb=self.srgb[chosen], gathered={}
        )

    def cells(self, way: Direction) -> fit.Cells:
        if way not in self.gathered:
            self.gathered[way] = fit.cells(way, self.camera_rgb, self.srgb, self.matrix, self.gains)
        return self.gathered[way]


def photos(folder: Path) -> list[Photo]:
    groups: dict[str, list[dataset.LoadedPair]] = {}
    for item in dataset.load(folder):
        if item.is_whole:
            groups.setdefault(item.camera, []).append(item)
    made = []
    for camera, items in groups.items():
        full_size = all(item.pair.status == "pair" for item in items)
        coefficients = shading.measure(items) if full_size and len(items) > 1 else None
        for item in items:
            raw, srgb = baselines.quads(item)
            fall = np.ones_like(raw)
            if coefficients is not None:
                rho = squared_distance(*raw.shape[:2])
                fall = 1 + np.stack([rho, rho**2, rho**3], -1) @ np.array(coefficients).T
            step = max(raw[..., 0].size // PIXELS, 1)
            gains = item.canonical.wb_gains
            flat = [x.reshape(-1, 3)[::step].astype(np.float64) for x in (raw / fall * gains, fall, srgb)]
            made.append(Photo(item.name[:-7], camera, *flat, gains, item.canonical.cam_to_srgb()))
    return made


def squared_distance(height: int, width: int) -> np.ndarray:
    y, x = np.arange(height)[:, None] + 0.5 - height / 2, np.arange(width) + 0.5 - width / 2
    return (y**2 + x**2) / (height * height / 4 + width * width / 4)


def psnr(error: np.ndarray, weights: np.ndarray | None = None) -> float:
    return float(-10 * np.log10(np.average((error**2).mean(0), weights=weights)))


def score(photo: Photo, way: Direction, predicted: np.ndarray) -> float:
    if way == Direction.RENDER:
        return psnr(np.clip(predicted, 0, 1) - photo.srgb)
    raw = photo.camera_rgb / photo.gains * photo.fall
    return psnr(np.clip(predicted / photo.gains, 0, 1) * photo.fall - raw, MOSAIC)


def fitted_score(one: form.Rendition, photo: Photo, way: Direction) -> float:
    source = photo.camera_rgb if way == Direction.RENDER else photo.srgb
    return score(photo, way, apply.applied(one, source[None].astype(np.float32))[0])


def features(way: Direction, pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    if way == Direction.UNPROCESS:
        x = np.clip(pixels, 0, 1)
        powers, base = [x, x**2, x**3, x**4], x
    else:
        x = np.clip(np.clip(pixels, 0, 1) @ matrix.T, 0, 1)
        base = np.sqrt(x)
        powers = [x, base, x**0.25, x**0.75]
    return np.concatenate([np.ones_like(x[:, :1]), *powers, base * np.roll(base, -1, -1)], -1)


def regression(train: Sequence[Photo], photo: Photo, way: Direction) -> float:
    normal, right = 1e-6 * np.eye(16), np.zeros((16, 3))
    for one in train:
        source, target = (one.camera_rgb, one.srgb) if way == Direction.RENDER else (one.srgb, one.camera_rgb)
        x = features(way, source, one.matrix)
        normal += x.T @ x / len(x) / len(train)
        right += x.T @ target / len(x) / len(train)
    source = photo.camera_rgb if way == Direction.RENDER else photo.srgb
    return score(photo, way, features(way, source, photo.matrix) @ np.linalg.solve(normal, right))


_SAID: dict[tuple[Direction, str], prior.Likelihood] = {}


def likelihood(photo: Photo, way: Direction) -> prior.Likelihood:
    key = way, photo.name
    if key not in _SAID:
        _SAID[key] = fit.likelihood([photo.cells(way)], prior.vague(way))
    return _SAID[key]


def estimated(train: Sequence[Photo], way: Direction) -> prior.Prior:
    start = prior.vague(way)
    likelihoods = [likelihood(one, way) for one in train]
    count = {one.camera: sum(other.camera == one.camera for other in train) for one in train}
    return prior.estimate(start, likelihoods, [1 / count[one.camera] for one in train])


def line(label: str, values: Sequence[float]) -> str:
    return f"{label:42s} mean {np.mean(values):6.2f}  worst {min(values):6.2f}   " + " ".join(
        f"{v:.2f}" for v in values
    )


def tables(loaded: Sequence[Photo], way: Direction, say: Callable[[str], None] = print) -> None:
    cameras = sorted({one.camera for one in loaded})
    priors = {camera: estimated([one for one in loaded if one.camera != camera], way) for camera in cameras}

    def of(train: Sequence[Photo], camera: str, evidence: float) -> form.Rendition:
        return fit.fit([one.cells(way) for one in train], priors[camera], evidence=evidence).rendition

    say(f"## {way}: no photograph of the camera (prior of the other cameras; beside it the pooled regression)")
    for camera in cameras:
        tests = [one for one in loaded if one.camera == camera]
        others = [one for one in loaded if one.camera != camera]
        mean = priors[camera].mean
        ours = [form.orderly(form.Rendition(way, t.matrix, mean)) for t in tests]
        say(line(f"{camera}: prior", [fitted_score(one, t, way) for one, t in zip(ours, tests, strict=True)]))
        say(line(f"{camera}: pooled regression", [regression(others, t, way) for t in tests]))
    say(f"## {way}: the camera's other photographs")
    for camera in cameras:
        tests = [one for one in loaded if one.camera == camera]
        if len(tests) < 2:
            continue
        rest = [[one for one in tests if one is not t] for t in tests]
        say(line(f"{camera}: regression", [regression(r, t, way) for r, t in zip(rest, tests, strict=True)]))
        for e in EVIDENCE:
            got = [fitted_score(of(r, camera, e), t, way) for r, t in zip(rest, tests, strict=True)]
            say(line(f"{camera}: evidence {e:g}", got))
        pairs = [(one, t) for t in tests for one in tests if one is not t]
        say(line(f"{camera}: regression, one photograph", [regression([a], t, way) for a, t in pairs]))
        for e in EVIDENCE:
            got = [fitted_score(of([a], camera, e), t, way) for a, t in pairs]
            say(line(f"{camera}: one photograph, evidence {e:g}", got))
    say(f"## {way}: fitted to the dark pixels (no channel over 0.5), measured on the bright ones")
    rows: dict[str, list[float]] = {}
    for one in loaded:
        dark = one.srgb.max(-1) < 0.5
        if not 0.05 < dark.mean() < 0.97:
            continue
        few, rest = one.only(dark), one.only(~dark)
        rows.setdefault("regression", []).append(regression([few], rest, way))
        for e in EVIDENCE:
            rows.setdefault(f"evidence {e:g}", []).append(fitted_score(of([few], one.camera, e), rest, way))
    for label, values in rows.items():
        say(line(label, values))
    say(f"## {way}: fitted to the photograph itself (a ceiling)")
    say(line("regression", [regression([one], one, way) for one in loaded]))
    say(line("evidence 2000", [fitted_score(of([one], one.camera, 2000), one, way) for one in loaded]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--tables", action="store_true")
    chosen = parser.parse_args()
    loaded = photos(chosen.dataset)
    print(*(f"{one.camera} {one.name}" for one in loaded), sep="\n", flush=True)
    if chosen.write:
        record = {str(way): estimated(loaded, way).record() for way in (Direction.UNPROCESS, Direction.RENDER)}
        record["about"] = "tests/bench/rendition_prior.py made this of " + ", ".join(
            f"{one.camera} {one.name}" for one in loaded
        )
        assert package.__file__ is not None
        path = Path(package.__file__).with_name("prior.json")
        path.write_text(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")
    if chosen.tables:
        for way in (Direction.UNPROCESS, Direction.RENDER):
            tables(loaded, way, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
