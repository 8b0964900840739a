"""The global effect of a look, as a file for other programs: fitted to renderings of RAW files, or of a colour chart.

The look is that of ``render`` on a RAW. The input of the table is the neutral rendering of the same RAW: white
balance, demosaicing and colour matrix alone, the sensor's exposure, sRGB-encoded and clipped to [0, 1]. RawTherapee's
neutral profile and darktable without a tone mapper show it. A table sees one colour at a time, so the local work of a
look (denoising, sharpening, shading, local contrast) is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paramisp_cli import (
    cameras,
    color,
    convert,
    formats,
    look_refined,
    make_picture,
    mosaic,
    parameters,
    published,
    weights,
)
from paramisp_cli import look as looks
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FormatError, MetadataError, OutputExistsError
from paramisp_cli.formats import darktable, dcp, lut
from paramisp_cli.parameters import Conversion, Settings
from paramisp_cli.types import Camera, CanonicalParams, LinearImage, RawImage, SrgbImage

SUFFIXES: dict[str, int | None] = {".cube": 33, ".png": 64, ".dcp": None, ".dtstyle": 33, ".xmp": 33}
"""Formats of exported looks, and the usual steps of their tables; None for a camera profile."""
_WITH_TABLE = (".dtstyle", ".xmp")
"""Formats that name a .cube, which is written beside them."""
_SAMPLES = 60_000
"""Most pixels of a fit, and of a measurement."""
_TILES = 12
"""Tiles along each side of a picture: of one shot, a quarter of the tiles is held out."""
_STEPS, _PATCH = 11, 24
"""Steps of each channel on the chart, and the side of its patches [px]."""
_CHART_WEIGHT = 0.05
"""Weight of a patch beside pixels of photographs: patches decide where the photographs have no colours."""
_BINS = 128
_SMOOTH, _PLAIN = 2e-6, 1e-8
"""Weights of the differences of neighbouring entries, and of entries, for each sample: they fill the table's gaps."""
_ROUNDS = 60
"""Most steps of the conjugate gradients on each size."""


@dataclass(frozen=True, slots=True, eq=False)
class Colours:
    """Colours of a shot before and after its look, and the tile (n,) of each.

    neutral, shown  (n, 3) sRGB-encoded; neutral colours outside sRGB are below 0 or above 1
    """

    name: str
    neutral: np.ndarray
    shown: np.ndarray
    tile: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """Renderings from which a look is fitted.

    fit, held    colours of the fit (n, 3), and those held out of it; neutral and shown, sRGB-encoded
    weight       (n,) of the colours of the fit
    held_out     words for the colours that are held out
    camera       name of the camera
    canonical    parameters of the first shot, or of the chart
    source       words for the origin of the look
    baseline_exposure
                 [EV] that DNG readers add to the first shot
    notices      of the renderings
    """

    fit: tuple[np.ndarray, np.ndarray]
    weight: np.ndarray
    held: tuple[np.ndarray, np.ndarray]
    held_out: str
    camera: Camera | None
    canonical: CanonicalParams
    source: str
    baseline_exposure: float = 0.0
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Error:
    """ΔE2000 of held-out colours against ``render``: median and 95th percentile, and the median without the look."""

    median: float
    most: float
    neutral: float


def gather(paths: Sequence[Path], settings: Settings) -> Look:
    """Render RAW files with and without their look → colours. ``settings`` choose the look, as for ``render``.

    Without a path, the weights of the settings render a chart of flat colours, as their camera would record it.
    With several files every fourth shot is held out; of one file, a quarter of its tiles. Raises ConfigError
    for files of several cameras or for weights of no one camera, and the errors of reading and rendering.
    """
    settings = replace(settings, bit_depth=16)
    if not paths:
        return _of_weights(settings)
    shots: list[Colours] = []
    notices: list[str] = []
    first: tuple[RawImage, Conversion] | None = None
    for path in paths:
        raw = parameters.read(path, settings)
        if not isinstance(raw, RawImage):
            raise FormatError(f"{path}: is a picture, not a RAW file")
        conversion = convert.prepare(raw, parameters.complete(raw, settings), settings)
        notices += [f"{path}: {notice}" for notice in conversion.notices]
        if first is not None and conversion.camera != first[1].camera:
            names = " and ".join(c.name if c else "an unknown camera" for c in (first[1].camera, conversion.camera))
            raise ConfigError(f"{path}: the files are by {names}; export the look of one camera at a time")
        first = first or (raw, conversion)
        shots.append(_colours(path.name, raw, conversion, settings))
    assert first is not None
    chart = _chart_colours(*first, settings)
    if len(shots) > 1:
        held = shots[1::4]
        used = [shot for number, shot in enumerate(shots) if number % 4 != 1]
        words = f"{len(held)} of {len(shots)} shots"
    else:
        used, held = [_tiles(shots[0], held=False)], [_tiles(shots[0], held=True)]
        words = "a quarter of the picture"
    fit = _joined([_thinned(shot, _SAMPLES // len(used)) for shot in used])
    weight = np.concatenate([np.ones(len(fit[0])), np.full(len(chart.neutral), _CHART_WEIGHT)])
    joined = _joined([Colours("", *fit, np.zeros(0)), chart])
    model = first[1].architecture if first[1].checkpoint is None else f"weights {first[1].checkpoint.name}"
    source = f"{model} on {len(shots)} shot{'s' if len(shots) > 1 else ''}"
    return Look(
        joined, weight, _joined([_thinned(shot, _SAMPLES // len(held)) for shot in held]), words, first[1].camera,
        first[1].canonical, source, first[0].baseline_exposure, tuple(notices),
    )  # fmt: skip


def checked_size(size: int | None, suffix: str) -> int:
    """Return the steps of a table for a format (".cube"…): those given or the usual ones. Raises ConfigError."""
    usual = SUFFIXES[suffix]
    if usual is None:
        if size is not None:
            raise ConfigError(f"`size`: is for tables; leave it out for {suffix}")
        return 0
    lut.check_size(usual if size is None else size, ".cube" if suffix in _WITH_TABLE else suffix)
    return usual if size is None else size


def outputs(path: Path) -> tuple[Path, ...]:
    """Return the files of an export to a path: of a style and a sidecar of darktable, a .cube comes first."""
    return (path.with_suffix(".cube"), path) if path.suffix.lower() in _WITH_TABLE else (path,)


def export(look: Look, path: Path, size: int, *, overwrite: bool = False) -> Error:
    """Fit a look, write it in the format of the path's suffix, and measure it on the colours that were held out.

    size  steps of each channel of a table: see ``checked_size``

    Raises OutputExistsError (unless ``overwrite``), FileAccessError and ConfigError.
    """
    suffix = path.suffix.lower()
    neutral, shown = look.fit
    names = outputs(path)
    if not overwrite:
        for each in names:  # before the work, and before the first is written
            if os.path.lexists(each):
                raise OutputExistsError(f"{each}: exists already; pass `on_exists` overwrite")
    if suffix == ".dcp":
        return _export_profile(look, path, overwrite=overwrite)
    table = fitted(neutral, shown, look.weight, size)
    if suffix == ".png":
        pixels = lut.hald(table)
        formats.write(SrgbImage(pixels), path, formats.WriteOptions(bit_depth=16), overwrite=overwrite)
    else:
        table = np.round(table, 6)
        name = look.camera.name if look.camera else "look"
        remarks = (
            f"Fitted by paramisp: {look.source}.",
            "In: neutral rendering (white balance, camera matrix, no tone curve), sRGB-encoded. Out: sRGB-encoded.",
        )
        modules = darktable.modules(names[0].name) if len(names) > 1 else ()
        formats.write_bytes(lut.cube(table, name, remarks), names[0], overwrite=overwrite)
        if suffix == ".dtstyle":
            about = f"{remarks[0]} Table: {names[0].name} in the folder of 3D LUTs."
            formats.write_bytes(darktable.style(path.stem, about, modules), path, overwrite=overwrite)
        elif suffix == ".xmp":
            formats.write_bytes(darktable.sidecar(modules), path, overwrite=overwrite)
    return error(look, lambda colours: lut.applied(table, colours))


def error(look: Look, apply: Callable[[np.ndarray], np.ndarray]) -> Error:
    """Measure a map of encoded colours (n, 3) → the same on the colours that were held out."""
    neutral, shown = look.held
    true = color.srgb_to_lab(color.srgb_decode(shown))
    made, plain = (color.srgb_to_lab(color.srgb_decode(colours)) for colours in (apply(neutral), neutral.clip(0, 1)))
    off = color.ciede2000(true, made)
    median, most = (float(np.quantile(off, share)) for share in (0.5, 0.95))
    return Error(median, most, float(np.median(color.ciede2000(true, plain))))


def _export_profile(look: Look, path: Path, *, overwrite: bool) -> Error:
    """Write a camera profile; see ``export``."""
    if look.camera is None:
        raise MetadataError(f"{path}: the RAW names no camera, and a profile belongs to one; write a .cube")
    linear, shown = (color.srgb_decode(colours)[:, None] for colours in look.fit)
    curve, table = looks.profile(linear, shown)
    if table is not None:
        table = look_refined.refined(linear[:, 0], shown[:, 0], look.weight, curve, table)
    data = dcp.profile(
        look.camera.name, f"paramisp {path.stem}", look.canonical.color_matrix, look.canonical.cam_to_srgb(), curve,
        table, exposure=-look.baseline_exposure,
    )  # fmt: skip
    formats.write_bytes(data, path, overwrite=overwrite)
    return error(look, lambda colours: color.srgb_encode(looks.toned(color.srgb_decode(colours), curve, table)))


# --- colours ----------------------------------------------------------------------------------------------------------


def _colours(name: str, raw: RawImage, conversion: Conversion, settings: Settings) -> Colours:
    """Render a RAW both ways and sample the pixels of both."""
    shown = convert.run(raw, conversion, settings)
    assert isinstance(shown, SrgbImage)
    plain = _neutral(raw, conversion, settings)
    height, width = plain.shape[:2]
    step = max(int(np.sqrt(height * width / (4 * _SAMPLES))), 1)
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    tile = rows * _TILES // height + 2 * (columns * _TILES // width)
    before = plain[rows, columns].reshape(-1, 3)
    after = shown.pixels[rows, columns].reshape(-1, 3) / 65535
    return Colours(name, color.srgb_encode(before), after, tile.ravel() % 4)


def _neutral(raw: RawImage, conversion: Conversion, settings: Settings) -> np.ndarray:
    """Return the neutral rendering (H, W, 3), linear sRGB, upright, at the exposure of the sensor."""
    plain = Settings(stop_at="restored", exposure=-raw.baseline_exposure, max_pixels=settings.max_pixels)
    raw = replace(raw, canonical=conversion.canonical)
    parametric = replace(conversion, architecture="parametric", checkpoint=None, rendition=None, stop_at="restored")
    made = convert.run(raw, parametric, plain)
    assert isinstance(made, LinearImage)
    return made.pixels


def _chart_colours(shot: RawImage | None, conversion: Conversion, settings: Settings) -> Colours:
    """Render a chart of flat colours with the look, and the exposure, of a shot → the middle of each patch."""
    raw = _chart(conversion.canonical, conversion.camera)
    if shot is not None:
        raw = replace(raw, baseline_exposure=shot.baseline_exposure, model=shot.model)
        if conversion.architecture == "parametric":  # it matches the brightness of the shot's own JPEG
            exposure, _ = make_picture.render_exposure(shot, conversion, settings)
            settings = replace(settings, exposure=exposure - shot.baseline_exposure)
    shown = convert.run(raw, convert.affordable(conversion, settings, raw.size), settings)
    assert isinstance(shown, SrgbImage)
    before, after = (_middles(pixels) for pixels in (_neutral(raw, conversion, settings), shown.pixels / 65535))
    return Colours("chart", color.srgb_encode(before), after, np.arange(len(before)) % 4)


def _chart(canonical: CanonicalParams, camera: Camera | None) -> RawImage:
    """Return the RAW of flat patches, as a camera records them: all steps of sRGB that it can record, mixed in place.

    Patches lie in random order, the same each time: neither the shading of a look nor neighbours add up.
    """
    patches = color.srgb_decode(lut.nodes(_STEPS))
    side = int(np.ceil(np.sqrt(len(patches))))
    order = np.random.default_rng(0).permutation(side * side) % len(patches)
    balanced = np.clip(patches[order] @ np.linalg.inv(canonical.cam_to_srgb()).T, 0, 1)
    light = (balanced / np.maximum(canonical.wb_gains, 1)).reshape(side, side, 3)
    sites = mosaic.sampled(light.repeat(_PATCH, 0).repeat(_PATCH, 1), canonical.cfa)
    black = np.tile(canonical.black_level, (side * _PATCH // 2, side * _PATCH // 2))
    codes = np.rint(sites * (canonical.white_level - black) + black).astype(np.uint16)
    return RawImage(codes, canonical, camera=camera)


def _middles(pixels: np.ndarray) -> np.ndarray:
    """Return the mean (n, 3) of the middle of each patch of the chart."""
    rows, columns = (side // _PATCH for side in pixels.shape[:2])
    blocks = pixels[: rows * _PATCH, : columns * _PATCH].reshape(rows, _PATCH, columns, _PATCH, 3)
    edge = _PATCH // 2 - 2
    middle: np.ndarray = blocks[:, edge:-edge, :, edge:-edge].mean((1, 3)).reshape(-1, 3)
    return middle


def _of_weights(settings: Settings) -> Look:
    """Return the look of weights on the chart."""
    assert settings.weights is not None
    path = weights.locate(settings.weights, Direction.RENDER)[0]
    named = "" if path.suffix in published.SUFFIXES else str(weights.info(path)["camera"])  # published files tell none
    facts = cameras.find_by_name(named)
    if facts is None or facts.color_matrix is None or facts.daylight_neutral is None:
        raise ConfigError(f"{settings.weights}: weights of no camera in the table: pass a RAW file, too")
    black, white = facts.levels()
    canonical = CanonicalParams(
        facts.cfa or "RGGB", np.full((2, 2), black), white, facts.daylight_neutral, facts.color_matrix
    )
    camera = Camera(facts.exif_make, facts.exif_model)
    raw = _chart(canonical, camera)
    colours = _chart_colours(None, parameters.complete(raw, settings), settings)
    used, held = _tiles(colours, held=False), _tiles(colours, held=True)
    fit = (used.neutral, used.shown)
    return Look(
        fit, np.ones(len(fit[0])), (held.neutral, held.shown), "a quarter of a chart in daylight", camera, canonical,
        f"weights {path.name} on a chart in daylight",
    )  # fmt: skip


def _tiles(colours: Colours, *, held: bool) -> Colours:
    """Return the quarter of the tiles that is held out, or the others."""
    chosen = (colours.tile == 1) == held
    if not chosen.any():
        raise MetadataError(f"{colours.name}: has too few pixels for a look")
    return Colours(colours.name, colours.neutral[chosen], colours.shown[chosen], colours.tile[chosen])


def _thinned(colours: Colours, most: int) -> Colours:
    """Return at most about ``most`` of the colours."""
    step = max(len(colours.neutral) // most, 1)
    return Colours(colours.name, colours.neutral[::step], colours.shown[::step], colours.tile[::step])


def _joined(shots: Sequence[Colours]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([shot.neutral for shot in shots]), np.concatenate([shot.shown for shot in shots])


# --- the fit ----------------------------------------------------------------------------------------------------------


def fitted(neutral: np.ndarray, shown: np.ndarray, weight: np.ndarray, size: int) -> np.ndarray:
    """Fit a table (size, size, size, 3) to encoded colours (n, 3) → (n, 3) of weights (n,).

    A rising curve of all channels comes first; the table adds to it, from coarse to fine: least squares of the
    interpolated table, with a penalty of roughness that fills colours without samples.
    """
    axis = np.linspace(0, 1, _BINS)
    curve = _curve(neutral, shown, weight)
    sizes = [side for side in (3, 5, 9, 17, 33) if side < size]
    added = np.zeros((2, 2, 2, 3))
    for side in sizes:
        added = lut.applied(added, lut.nodes(side)).reshape(side, side, side, 3)
        rest = shown - np.interp(neutral, axis, curve) - lut.applied(added, neutral)
        added = added + _solved(neutral, rest, weight, side)
    colours = lut.nodes(size)
    made = (np.interp(colours, axis, curve) + lut.applied(added, colours)).reshape(size, size, size, 3)
    made = made + _solved(neutral, shown - lut.applied(made, neutral), weight, size)
    table: np.ndarray = np.clip(made, 0, 1)
    return table


def _curve(neutral: np.ndarray, shown: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fit the rising curve (_BINS,) of all channels, at equal steps of encoded values."""
    index = np.rint(neutral.ravel().clip(0, 1) * (_BINS - 1)).astype(int)
    each = weight.repeat(3)
    total = np.bincount(index, each, _BINS)
    full = total > 0
    mean = np.bincount(index, each * shown.ravel(), _BINS)[full] / total[full]
    curve: np.ndarray = np.interp(np.arange(_BINS), np.flatnonzero(full), looks.isotonic(mean, total[full]))
    return curve


def _solved(neutral: np.ndarray, rest: np.ndarray, weight: np.ndarray, size: int) -> np.ndarray:
    """Solve for the smooth table of least squares to ``rest`` (n, 3): conjugate gradients, one run for each channel."""
    places, shares = lut.corners(neutral, size)
    total, count = float(weight.sum()), size**3

    def normal(x: np.ndarray) -> np.ndarray:
        at = sum(share[:, None] * x[place] for place, share in zip(places, shares, strict=True)) * weight[:, None]
        result = _spread(places, shares, at, count) + _PLAIN * total * x
        cube = x.reshape(size, size, size, 3)
        rough = np.zeros_like(cube)
        for axis in range(3):
            step = np.diff(cube, axis=axis)
            low, high = ([slice(None)] * 3 for _ in range(2))
            low[axis], high[axis] = slice(None, -1), slice(1, None)
            rough[tuple(low)] -= step
            rough[tuple(high)] += step
        return result + _SMOOTH * total * rough.reshape(-1, 3)

    right = _spread(places, shares, rest * weight[:, None], count)
    diagonal = _spread(places, [share**2 for share in shares], weight[:, None].repeat(3, 1), count)
    diagonal += (_PLAIN + 6 * _SMOOTH) * total
    x = np.zeros((count, 3))
    off = right
    scaled = off / diagonal
    way, power = scaled, (off * scaled).sum(0)
    for _ in range(_ROUNDS):
        pushed = normal(way)
        length = power / np.maximum((way * pushed).sum(0), 1e-30)
        x, off = x + length * way, off - length * pushed
        scaled = off / diagonal
        before, power = power, (off * scaled).sum(0)
        if (power <= 1e-10 * total).all():
            break
        way = scaled + power / np.maximum(before, 1e-30) * way
    solution: np.ndarray = x.reshape(size, size, size, 3)
    return solution


def _spread(places: list[np.ndarray], shares: list[np.ndarray], values: np.ndarray, count: int) -> np.ndarray:
    """Add values (n, 3) to the entries around each sample → (count, 3): the transpose of the interpolation."""
    result = np.zeros((count, 3))
    for place, share in zip(places, shares, strict=True):
        for channel in range(3):
            result[:, channel] += np.bincount(place, share * values[:, channel], count)
    return result
