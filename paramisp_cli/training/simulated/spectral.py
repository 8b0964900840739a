"""Shots of one scene by two cameras on the same spectra: pairs of RAW colours for training and measuring transfers.

A panorama has three channels, a scene has spectra. Each pixel becomes a mixture of measured reflectances that are near
its hue; the choice of reflectances is random for each region of a shot. Surfaces of one hue thus have different spectra
(metamers), and a network cannot learn the lifting instead of the world. Both cameras integrate the same reflectance
times the same light.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from paramisp_cli import atomic, color
from paramisp_cli.cameras import spectra
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.training.folder import hold
from paramisp_cli.training.simulated import scenes

INDEX = "transfer.json"
"""File of a data set of transfers: cameras, seed and shots."""
KINDS = ("daylight", "fluorescent", "led", "mixed")
WHITE = 65535
"""Code of the light 1 in a stored shot."""
_ANCHORS, _REGIONS, _SHARPNESS = 16, 4, 0.06
"""Reflectances of a region, regions of a shot, and the spread [ln] of hues that share a mixture."""
_HELD_OUT = 4
"""Every 4th scene, and every 2nd reflectance, serve tests alone."""
_SIZES = (32, 2048)


@dataclass(frozen=True, slots=True)
class Shot:
    """A shot of both cameras. Neutrals are (3,), G = 1: RGB of white in the mean light.

    test   scene, reflectances and lights that no training sees
    light  name of the light; ``kind`` is one of ``KINDS``
    """

    name: str
    scene: str
    kind: str
    light: str
    test: bool
    neutral_a: tuple[float, ...]
    neutral_b: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """``count`` shots of ``size`` × ``size`` px by cameras ``a`` and ``b``; raises ConfigError for bad values."""

    a: str
    b: str
    count: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.seed < 0:
            raise ConfigError(f"--count must be at least 1 and --seed not negative, not {self.count} and {self.seed}")
        if self.size % 16 or not _SIZES[0] <= self.size <= _SIZES[1]:
            raise ConfigError(f"--spectral: --size must be a multiple of 16 from {_SIZES[0]} to {_SIZES[1]}")
        for name in (self.a, self.b):
            sensor(name)


def sensor(name: str) -> spectra.Sensor:
    """Return a camera's sensitivities by a name; raises ConfigError, with the names that are known."""
    from paramisp_cli import cameras

    facts = cameras.find_by_name(name)
    found = spectra.find([name, *([facts.name] if facts else [])])
    if found is None:
        known = ", ".join(sorted(each.name for each in spectra.sensors()))
        raise ConfigError(f"no spectral sensitivities of {name} are known; they are known of {known}")
    return found


# Lights ---------------------------------------------------------------------------------------------------------------


def draw_light(kind: str, rng: np.random.Generator, *, test: bool) -> tuple[np.ndarray, str]:
    """Draw a light (81,) of a kind other than "mixed", and its name; for a test, one of the held-out ones."""
    if test:
        named = spectra.lights("held-out" if kind == "daylight" else kind)
        name = list(named)[int(rng.integers(len(named)))]
        return named[name], name
    if kind == "daylight":
        if rng.random() < 0.5:
            kelvin = float(rng.uniform(2300, 4000))
            return spectra.black_body(kelvin), f"{kelvin:.0f} K bulb"
        kelvin = 1e6 / float(rng.uniform(1e6 / 10000, 1e6 / 4000))
        return spectra.daylight(kelvin), f"{kelvin:.0f} K daylight"
    if kind == "fluorescent":
        return _fluorescent(rng), "fluorescent lamp"
    return _led(rng), "LED"


def _fluorescent(rng: np.random.Generator) -> np.ndarray:
    """Draw a lamp: mercury's lines with two broad phosphors, or with three narrow bands."""
    mercury = rng.uniform(0.5, 1.5)
    lines = [(at, sigma, mercury * high) for at, sigma, high in ((405, 2.5, 0.2), (436, 2.5, 0.6), (546, 2.5, 0.5))]
    if rng.random() < 0.5:
        broad = [(rng.uniform(470, 495), rng.uniform(28, 45), rng.uniform(0.1, 1.0))]
        broad += [(rng.uniform(570, 600), rng.uniform(32, 48), rng.uniform(0.7, 1.0)), (578, 3.0, 0.2 * mercury)]
        return spectra.peaks(*lines, *broad)
    bands = [(rng.uniform(448, 456), rng.uniform(8, 20), rng.uniform(0.05, 0.6)), (488, 5.0, rng.uniform(0.1, 0.35))]
    bands += [(rng.uniform(541, 547), rng.uniform(4, 6), rng.uniform(0.8, 1.0)), (586, 5.0, rng.uniform(0.15, 0.4))]
    bands += [(rng.uniform(608, 614), rng.uniform(3, 6), rng.uniform(0.5, 1.2)), (630, 5.0, rng.uniform(0.05, 0.2))]
    return spectra.peaks(*lines, *bands)


def _led(rng: np.random.Generator) -> np.ndarray:
    """Draw an LED: blue with a phosphor, violet with three phosphors, or three colours."""
    draw = rng.uniform
    which = rng.random()
    if which < 0.6:
        return spectra.peaks((draw(444, 462), draw(8, 12), draw(0.2, 1.2)), (draw(550, 605), draw(42, 58), 0.8))
    if which < 0.8:
        bands = [(draw(408, 422), draw(7, 10), draw(0.3, 0.7)), (draw(455, 468), draw(20, 30), draw(0.3, 0.7))]
        bands += [(draw(528, 545), draw(34, 46), draw(0.6, 1.0)), (draw(615, 635), draw(36, 48), draw(0.7, 1.1))]
        return spectra.peaks(*bands)
    bands = [(draw(455, 472), draw(9, 13), draw(0.5, 1.0)), (draw(515, 532), draw(13, 19), draw(0.5, 1.0))]
    return spectra.peaks(*bands, (draw(622, 638), draw(7, 11), draw(0.6, 1.2)))


# One shot -------------------------------------------------------------------------------------------------------------


def shoot(
    view: np.ndarray, kind: str, sensors: Sequence[spectra.Sensor], rng: np.random.Generator, *, test: bool
) -> tuple[list[np.ndarray], list[np.ndarray], str]:
    """Take a view (H, W, 3), linear sRGB, with several cameras.

    Returns their RGB (H, W, 3), linear, below 1; their neutrals (3,), G = 1; and the light's
    name. In "mixed" light two lights meet, each with its own place; the neutral is that of their mean.
    """
    height, width = view.shape[:2]
    if kind == "mixed":
        kinds = rng.choice(KINDS[:3], 2)
        drawn = [draw_light(str(each), rng, test=test) for each in kinds]
        first = _smooth(height, width, rng)
        shares = [first, 1 - first]
    else:
        drawn, shares = [draw_light(kind, rng, test=test)], [np.ones((height, width))]
    surfaces = spectra.reflectances()[1 if test else 0 :: 2]
    mixture = _mixture(view, surfaces, rng)
    pictures = [np.zeros((height, width, 3)) for _ in sensors]
    neutrals = [np.zeros(3) for _ in sensors]
    for (light, _), share in zip(drawn, shares, strict=True):
        power = light / (light @ spectra.observer()[:, 1])  # lights of one luminance
        for number, each in enumerate(sensors):
            weights = each.sensitivity * power[:, None]
            pictures[number] += share[..., None] * (mixture @ (surfaces @ weights))
            neutrals[number] += share.mean() * weights.sum(0)
    scale = rng.uniform(0.6, 0.98) / max(
        float((picture / white[1]).max()) for picture, white in zip(pictures, neutrals, strict=True)
    )
    pictures = [picture / white[1] * scale for picture, white in zip(pictures, neutrals, strict=True)]
    return pictures, [white / white[1] for white in neutrals], " and ".join(name for _, name in drawn)


def _mixture(view: np.ndarray, surfaces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the share (H, W, n) of each reflectance (n, 81) in each pixel; a pixel's sum is its brightness."""
    light = spectra.daylight(6504)
    xyz = (surfaces * light) @ spectra.observer() / (light @ spectra.observer()[:, 1])
    rgb = np.maximum(xyz @ color.XYZ_TO_SRGB.T, 1e-3)
    own, wanted = _hue(rgb), _repainted(_hue(np.maximum(view, 1e-3 * view.mean())), rng)
    height, width = view.shape[:2]
    places = np.stack([_smooth(height, width, rng) for _ in range(_REGIONS)]).argmax(0)
    mixture = np.zeros((height, width, len(surfaces)))
    for region in range(_REGIONS):
        inside = places == region
        anchors = rng.choice(len(surfaces), _ANCHORS, replace=False)
        distance = ((wanted[inside][:, None] - own[anchors]) ** 2).sum(-1)
        near = np.exp(-(distance - distance.min(1, keepdims=True)) / (2 * _SHARPNESS**2))
        near /= near.sum(1, keepdims=True)
        part = np.zeros((len(near), len(surfaces)))
        part[:, anchors] = near / xyz[anchors, 1]  # mixtures of one luminance
        mixture[inside] = part
    luminance = np.maximum(view @ color.SRGB_TO_XYZ[1], 0)
    # Lamps in the view would leave all else dark: compress the range, which changes no hue.
    luminance = luminance / (luminance + 2 * np.median(luminance) + 1e-9)
    shares: np.ndarray = mixture * luminance[..., None]
    return shares


def _repainted(hue: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn and widen the hues (H, W, 2) of a view at random: panoramas of workshops are mostly grey."""
    turn, widen = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(0, np.log(5)))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = np.median(hue, (0, 1))
    painted: np.ndarray = (hue - middle) @ rotation.T * widen + middle * rng.uniform(0, 1)
    return painted


def _hue(rgb: np.ndarray) -> np.ndarray:
    hue: np.ndarray = np.log(rgb[..., [0, 2]] / rgb[..., 1:2])
    return hue


def _smooth(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random field (H, W) from 0 to 1."""
    coarse = torch.from_numpy(rng.normal(size=(1, 1, 4, 4)))
    field = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)[0, 0].numpy()
    smooth: np.ndarray = 1 / (1 + np.exp(-4 * (field - np.median(field))))
    return smooth


# The data set ---------------------------------------------------------------------------------------------------------


def make(paths: Sequence[Path | str], dataset: Path | str, series: Series) -> Generator[Shot, None, None]:
    """Make the shots that a data set lacks and yield all; every 4th scene serves tests alone.

    Shots take turns through the scenes and the kinds of light, and each follows from the seed and its number. Raises
    ConfigError if another process works in the folder or if it holds other shots, and the errors of reading scenes.
    """
    dataset, files = Path(dataset), scenes.find(paths)
    lock = hold(dataset, "wait, or choose another -o")
    try:
        stated = {**asdict(series), "scenes": [path.name for path in files]}
        if (dataset / INDEX).exists():
            own = {key: value for key, value in _index(dataset).items() if key != "shots"}
            if {**own, "count": 0} != {**stated, "count": 0}:
                raise ConfigError(f"{dataset}: holds shots of other cameras, scenes or settings; choose another -o")
        sensors = [sensor(series.a), sensor(series.b)]
        shots: dict[int, Shot] = {}
        for place, path in enumerate(files):
            scene = None
            for number in range(place, series.count, len(files)):
                test = place % _HELD_OUT == _HELD_OUT - 1
                rng = np.random.default_rng((1, series.seed, number))
                kind = KINDS[number // len(files) % len(KINDS)]
                scene = scene or scenes.load(path)
                try:
                    view = scenes.view(scene, series.size, float(rng.uniform(18, 60)), rng)
                except FormatError as error:
                    raise FormatError(f"{path}: {error}") from error
                pixels = view.permute(1, 2, 0).double().numpy()
                pictures, neutrals, light = shoot(pixels, kind, sensors, rng, test=test)
                own_a, own_b = (tuple(map(float, neutral)) for neutral in neutrals)
                shot = Shot(f"{path.stem}-{number:05d}", path.name, kind, light, test, own_a, own_b)
                _write(dataset, shot, pictures)
                shots[number] = shot
                yield shot
        listed = [asdict(shots[number]) for number in sorted(shots)]
        atomic.write_bytes(dataset / INDEX, json.dumps({**stated, "shots": listed}, indent=1).encode())
    finally:
        lock.release()


def _write(dataset: Path, shot: Shot, pictures: Sequence[np.ndarray]) -> None:
    codes = [np.rint(np.clip(each, 0, 1) * WHITE).astype(np.uint16) for each in pictures]
    stored = io.BytesIO()
    np.savez(stored, a=codes[0], b=codes[1])
    atomic.write_bytes(dataset / f"{shot.name}.npz", stored.getvalue())


def _index(dataset: Path) -> dict[str, Any]:
    try:
        table = json.loads((dataset / INDEX).read_text("utf-8"))
        assert isinstance(table["shots"], list)
        return dict(table)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"{dataset}: no data set of `paramisp simulate --spectral`: {INDEX} cannot be read"
        ) from error


def load(dataset: Path | str) -> tuple[Series, list[Shot]]:
    """Return the series of a data set and its shots; raises ConfigError if the folder holds none."""
    table = _index(Path(dataset))
    try:
        series = Series(*(table[name] for name in ("a", "b", "count", "size", "seed")))
        return series, [
            Shot(**{**each, "neutral_a": tuple(each["neutral_a"]), "neutral_b": tuple(each["neutral_b"])})
            for each in table["shots"]
        ]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{dataset}: {INDEX} lacks {error}") from error


def read(dataset: Path | str, shot: Shot) -> tuple[np.ndarray, np.ndarray]:
    """Return both cameras' RGB (H, W, 3) float32, linear; raises FormatError for a damaged file."""
    path = Path(dataset) / f"{shot.name}.npz"
    try:
        with path.open("rb") as file, np.load(file) as stored:
            a, b = (stored[name].astype(np.float32) / WHITE for name in ("a", "b"))
            return a, b
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: cannot be read: damaged or missing; run `paramisp simulate` again") from error
