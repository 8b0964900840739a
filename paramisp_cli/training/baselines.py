"""What predicts one side of a pair from the other: networks, and what they must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from paramisp_cli import color, isp
from paramisp_cli.errors import ConfigError, InputMissingError
from paramisp_cli.formats import raster
from paramisp_cli.formats.libraw import developed as developed_by_libraw
from paramisp_cli.models.base import IspModel
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.runner import Runner
from paramisp_cli.training import align
from paramisp_cli.training.data import Loaded
from paramisp_cli.types import Direction

Predictor = Callable[[Loaded], np.ndarray]
"""A pair → the other side, float32 in [0, 1]: mosaic (H, W) or picture (H, W, 3), aligned with the pair's own."""


def whole_pairs(loaded: Sequence[Loaded]) -> list[Loaded]:
    """Those that are aligned as a whole: measuring needs one offset for every pixel."""
    return [item for item in loaded if item.is_whole]


def sides(item: Loaded) -> tuple[np.ndarray, np.ndarray]:
    """(mosaic (H, W), picture (H, W, 3)) of a pair, float32, black 0 and white 1, clipped to [0, 1]."""
    c = item.pair.canonical
    assert c is not None
    height, width = item.mosaic.shape
    black = np.tile(c.black_level, (height // 2, width // 2)).astype(np.float32)
    mosaic = (item.mosaic - black) / (np.float32(c.white_level) - black)
    return np.clip(mosaic, 0, 1), item.srgb.astype(np.float32) / 255


def target(item: Loaded, direction: Direction) -> np.ndarray:
    """What a model of this direction should give."""
    mosaic, picture = sides(item)
    return mosaic if direction == Direction.UNPROCESS else picture


def network(model: IspModel, device: torch.device) -> Predictor:
    """A model as a predictor, run as the command line runs it."""

    def predict(item: Loaded) -> np.ndarray:
        mosaic, picture = sides(item)
        assert item.pair.canonical is not None
        runner = Runner(model, device)
        run, source = (runner.unprocess, picture) if model.direction == Direction.UNPROCESS else (runner.render, mosaic)
        return run(source, item.pair.canonical, item.pair.optical, dtype=np.float32, frame=item.frame)[0]

    return predict


def there_and_back(unprocess: Predictor, render: Predictor) -> Predictor:
    """The picture that ``render`` makes of what ``unprocess`` makes of a pair's own, by way of the camera's codes."""

    def predict(item: Loaded) -> np.ndarray:
        c = item.pair.canonical
        assert c is not None
        height, width = item.mosaic.shape
        black = np.tile(c.black_level, (height // 2, width // 2))
        codes = unprocess(item) * (c.white_level - black) + black
        return render(replace(item, mosaic=codes.round().astype(np.uint16)))

    return predict


def fitted_parametric(train: Sequence[Loaded], direction: Direction) -> Predictor:
    """The parametric model with the digital gain that serves the training pairs best."""

    def error(gain: float) -> float:
        predict = network(Parametric(direction, gain), torch.device("cpu"))
        return sum(float(((predict(small) - target(small, direction)) ** 2).mean()) for small in smalls)

    smalls = [_thinned(item, 8) for item in train]
    gains = 2.0 ** np.arange(-1, 4.01, 0.25)
    return network(Parametric(direction, float(min(gains, key=error))), torch.device("cpu"))


def _thinned(item: Loaded, factor: int) -> Loaded:
    """Every ``factor``-th 2×2 of a pair: the same colours at a fraction of the work."""
    h, w = (size // (2 * factor) for size in item.mosaic.shape)
    rows = (np.arange(h)[:, None] * 2 * factor + np.arange(2)).ravel()
    columns = (np.arange(w)[:, None] * 2 * factor + np.arange(2)).ravel()
    return replace(item, mosaic=item.mosaic[np.ix_(rows, columns)], srgb=item.srgb[np.ix_(rows, columns)])


_POWERS = {Direction.UNPROCESS: (1.0, 2.2, 3.0, 4.4), Direction.RENDER: (1.0, 1 / 2.2, 1 / 3, 1 / 4.4)}


def polynomial(rgb: np.ndarray, direction: Direction) -> np.ndarray:
    """What the regression is linear in, (…, 3) → (…, 16): constant, four powers of each channel, three products."""
    x = np.clip(rgb, 0, 1)
    powers = [x**p for p in _POWERS[direction]]
    base = powers[0] if direction == Direction.UNPROCESS else powers[1]
    products = base * np.roll(base, -1, -1)
    return np.concatenate([np.ones_like(x[..., :1]), *powers, products], -1)


_RIDGE = 1e-6
"""Weight decay of the regression: of 1e-9 to 1e-4 the best on parts and photographs that it was not fitted on."""


def regression(train: Sequence[Loaded], direction: Direction) -> Predictor:
    """Polynomial regression pixel by pixel (DATA: powers and products, least squares), fitted on 2×2 means.

    The powers of a channel are nearly alike: without a little weight decay, their large coefficients of opposite signs
    fit no better what they were fitted on, and lose up to 18 dB a little beyond its colours.
    """
    normal, right = np.zeros((16, 16)), np.zeros((16, 3))
    for item in train:
        raw, picture = quads(item)
        source, wanted = (picture, raw) if direction == Direction.UNPROCESS else (raw, picture)
        x, y = polynomial(source, direction).reshape(-1, 16), wanted.reshape(-1, 3)
        normal += x.T @ x / len(x)
        right += x.T @ y / len(x)
    weights = np.linalg.solve(normal + _RIDGE * np.eye(16), right).astype(np.float32)

    def predict(item: Loaded) -> np.ndarray:
        mosaic, picture = sides(item)
        assert item.pair.canonical is not None
        cfa = item.pair.canonical.cfa
        if direction == Direction.UNPROCESS:
            rgb = np.stack([polynomial(rows, direction) @ weights for rows in picture])
            full = isp.mosaic(torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None].float(), cfa)[0, 0].numpy()
            clipped: np.ndarray = np.clip(full, 0, 1)
            return clipped
        rgb = isp.demosaic(torch.from_numpy(mosaic)[None, None], cfa)[0].permute(1, 2, 0).numpy()
        return np.clip(np.stack([polynomial(rows, direction) @ weights for rows in rgb]), 0, 1).astype(np.float32)

    return predict


def quads(item: Loaded) -> tuple[np.ndarray, np.ndarray]:
    """(RAW, picture), each (h, w, 3): means over the 2×2 sites."""
    mosaic, picture = sides(item)
    assert item.pair.canonical is not None
    raw = np.zeros((mosaic.shape[0] // 2, mosaic.shape[1] // 2, 3), np.float32)
    for i, letter in enumerate(item.pair.canonical.cfa):
        raw[..., "RGB".index(letter)] += mosaic[i // 2 :: 2, i % 2 :: 2] * (0.5 if letter == "G" else 1)
    corners = np.stack([picture[y::2, x::2] for y in (0, 1) for x in (0, 1)])
    return raw, corners.mean(0, dtype=np.float32)


# --- LibRaw's own rendering -------------------------------------------------------------------------------------------


def libraw(item: Loaded) -> np.ndarray:
    """What LibRaw makes of the pair's RAW file, in the pair's frame: (H, W, 3) float32 in [0, 1].

    ``rawpy.postprocess`` with the camera's white balance and its defaults for all else (auto-brightness among them).
    For a reduced pair averaged down in linear light. Raises InputMissingError if the file is gone, FormatError if it
    cannot be read, ConfigError if the two do not lie on each other beyond doubt.
    """
    pair, path = item.pair, Path(item.pair.raw)
    if not path.is_file():
        raise InputMissingError(f"{path}: no longer there (a relative path counts from where `paramisp pairs` ran)")
    developed = developed_by_libraw(path).pixels
    truth = item.srgb.astype(np.float32) / 255
    geometry = (*pair.offset, pair.reduction, pair.reduction)
    best, best_score = developed, -1.0
    # Which way the RAW was turned is not kept: the wrong ways do not look alike.
    for orientation in range(1, 9):
        turned = raster.apply_orientation(developed, orientation)
        placed = _placed(turned, item, geometry)
        if placed is not None and (score := _likeness(placed, truth)) > best_score:
            best, best_score = turned, score
    reduced = pair.status == "reduced"
    size = min(96 if reduced else 256, *(side // 2 for side in truth.shape[:2]))
    sure, sureness, said = None, 0.8, "another shape"  # pairs asks as much of a JPEG
    for _ in range(3 if reduced else 1):
        placed = _placed(best, item, geometry)
        found = [] if placed is None else align.windows(truth[..., 1], placed[..., 1], 0, 0, reach=8, size=size)
        fit = align.fit(found)
        if fit is None:
            said = "too little alike" if placed is not None else said
            break
        if max(abs(fit.dy), abs(fit.dx)) <= 1 and fit.agree >= sureness:
            sure, sureness = placed, fit.agree
        said = f"({fit.dy:.1f}, {fit.dx:.1f}) px off, {fit.agree:.0%} of it alike"
        if sure is not None and fit.agree >= 0.95:
            break
        # The pair keeps one scale; a camera may reduce height and width by a little more and less.
        geometry = align.refined(geometry, found)
    if sure is None:
        raise ConfigError(f"{path}: LibRaw's picture does not lie on the camera's beyond doubt ({said})")
    return sure


def _placed(developed: np.ndarray, item: Loaded, geometry: align.Geometry) -> np.ndarray | None:
    """The part of a developed RAW (uint8) that the pair shows, at its scale, in [0, 1]; None if it is too small."""
    height, width = item.srgb.shape[:2]
    y, x, step_y, step_x = geometry
    if item.pair.status != "reduced":
        # The picture was cut where it stuck out over the RAW.
        top, left = max(round(y), 0), max(round(x), 0)
        part = developed[top : top + height, left : left + width]
        return part.astype(np.float32) / 255 if part.shape == item.srgb.shape else None
    if developed.shape[0] < y + height * step_y - 2 * step_y or developed.shape[1] < x + width * step_x - 2 * step_x:
        return None
    decoded = color.srgb_decode(np.arange(256) / 255)
    planes = []
    for i in range(3):
        rows = _averaged(decoded[developed[..., i]], y, step_y, height)
        planes.append(_averaged(rows.T, x, step_x, width).T)
    encoded: np.ndarray = np.clip(color.srgb_encode(np.stack(planes, -1)), 0, 1).astype(np.float32)
    return encoded


def _averaged(values: np.ndarray, start: float, step: float, count: int) -> np.ndarray:
    """(N, M) → (count, M): means over [start + i·step, start + (i + 1)·step), parts of a row counted as parts."""
    sums = np.concatenate([np.zeros_like(values[:1]), values.cumsum(0)])
    edges = np.clip(start + step * np.arange(count + 1), 0, len(values))
    low = np.minimum(edges.astype(int), len(values) - 1)
    at = sums[low] + (edges - low)[:, None] * (sums[low + 1] - sums[low])
    means: np.ndarray = np.diff(at, axis=0) / np.maximum(np.diff(edges), 1e-9)[:, None]
    return means


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of the edges of two pictures (green), reduced to a few hundred pixels."""
    step = max(min(a.shape[:2]) // 300, 1)
    h, w = a.shape[0] // step * step, a.shape[1] // step * step
    one, two = (
        align.detail(v[:h, :w, 1].reshape(h // step, step, w // step, step).mean((1, 3)), radius=4) for v in (a, b)
    )
    return float((one * two).sum() / np.sqrt((one * one).sum() * (two * two).sum() + 1e-9))


_CODES = 255 * 16  # exact at 8 bits


def _codes(x: np.ndarray) -> np.ndarray:
    return (x * np.float32(_CODES) + np.float32(0.5)).astype(np.int32)


def gain_fitted(predict: Predictor) -> Predictor:
    """A rendering with the one exposure, in linear light, that brings each picture nearest to the truth itself."""

    def fitted(item: Loaded) -> np.ndarray:
        got = predict(item)
        step = max(min(got.shape[:2]) // 200, 1)
        few, truth = _codes(got[::step, ::step]), item.srgb[::step, ::step].astype(np.float32) / 255
        linear = color.srgb_decode(np.linspace(0, 1, _CODES + 1))

        def curve(stops: float) -> np.ndarray:
            return color.srgb_encode(np.clip(linear * 2**stops, 0, 1)).astype(np.float32)

        def error(stops: float) -> float:
            return float(((curve(stops)[few] - truth) ** 2).mean())

        best = 0.0
        for width in (0.5, 0.1, 0.02):  # coarse to fine, ±4 stops
            best = min((best + width * n for n in range(-8, 9)), key=error)
        rendered: np.ndarray = curve(best)[_codes(got)]
        return rendered

    return fitted


def remembered(predict: Predictor) -> Predictor:
    """The same predictor, that keeps its last answer: for two that stand on one, called on the same pair in turn."""
    last: list[tuple[Loaded, np.ndarray]] = []

    def keep(item: Loaded) -> np.ndarray:
        if not last or last[0][0] is not item:
            last[:] = [(item, predict(item))]
        return last[0][1]

    return keep
