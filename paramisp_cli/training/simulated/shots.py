"""Shots of scenes by simulated cameras, stored as a data set of pairs.

Every shot follows from the seed and its number alone: a second run, after an interruption or with a larger count, makes
only the missing shots. A second run that asks for their light makes those without light again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import cameras, drawn, formats, isp
from paramisp_cli import mosaic as bayer
from paramisp_cli.cameras import CameraFacts
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FormatError, ParamispError
from paramisp_cli.models.base import Params
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.training.dataset import (
    CONTACT_SHEET,
    INDEX,
    LIGHT_WHITE,
    SIMULATED,
    Pair,
    Region,
    arrays_path,
    has_light,
    locked,
    read_arrays,
    read_index,
    write_arrays,
    write_index,
)  # fmt: skip
from paramisp_cli.training.simulated import camera, scenes
from paramisp_cli.types import Camera, OpticalParams, SrgbImage

_VERSION = 2
"""Version of the shots, in their names: raise it when the same numbers give other pixels."""
_SIZES = (96, 4096)
_GREY = 0.18
_CLIPPED = 0.04
"""Share of a view that may clip before the simulated metering exposes less."""
_EXPOSURES = (-3.5, 2.0)
"""Range of computed exposures [EV]: that of `hdr`, and a little more."""
_REDUCTION = 1.0
"""Largest reduction of the exposure [EV]: in a room with windows, the room counts."""
_SHEET = 60
"""Largest number of shots on the contact sheet."""
_INDEX_SECONDS = 5.0
"""Time between two writes of the index: it is written whole, and a run may make thousands of shots."""


@dataclass(frozen=True, slots=True)
class Series:
    """A series of ``count`` shots of ``size`` × ``size`` px with these cameras; raises ConfigError for bad numbers.

    ``light``: store with each shot the light on the sensor, without noise (``dataset``); it changes no other value.
    ``exposures``: store a computed exposure of each shot as a further pair (``exposed``).
    """

    count: int
    size: int
    seed: int
    cameras: tuple[CameraFacts, ...]
    light: bool = False
    exposures: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"--count must be at least 1, not {self.count}")
        if self.seed < 0:
            raise ConfigError(f"--seed must not be negative, not {self.seed}")
        if self.size % 2 or not _SIZES[0] <= self.size <= _SIZES[1]:
            raise ConfigError(f"--size must be even and {_SIZES[0]} to {_SIZES[1]}, not {self.size}")


def pick_cameras(names: Sequence[str]) -> tuple[CameraFacts, ...]:
    """Return the cameras of these names, or all that can be simulated; raises ConfigError for any other name."""
    if not names:
        return tuple(facts for facts in cameras.all_cameras() if drawn.lacks(facts) is None)
    picked: dict[str, CameraFacts] = {}
    for name in names:
        facts = cameras.find_by_name(name)
        if facts is None:
            close = cameras.close_names(name)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise ConfigError(f"--camera {name}: not in the camera table (see `paramisp cameras`){hint}")
        if lacking := drawn.lacks(facts):
            raise ConfigError(f"--camera {name}: the table does not know its {lacking}, so it cannot be simulated")
        picked[facts.name] = facts
    return tuple(picked.values())


def make(paths: Sequence[Path | str], dataset: Path | str, series: Series) -> Generator[Pair, None, None]:
    """Make the shots that ``dataset`` lacks, scene by scene; yield every shot of the series, and refused scenes.

    Shot n shows scene n modulo the number of scenes. Other pairs of the data set stay. A scene that cannot be used
    gives a refused pair, and its shots are left out. The data set is locked until the end. Raises InputMissingError,
    FileAccessError, or ConfigError if another process works in the data set.
    """
    dataset = Path(dataset)
    files = scenes.find(paths)
    with locked(dataset):
        yield from _made(files, dataset, series)


def _made(files: Sequence[Path], dataset: Path, series: Series) -> Generator[Pair, None, None]:
    """Make the shots, in a locked data set."""
    pairs = read_index(dataset) if (dataset / INDEX).exists() else []
    pairs = [pair for pair in pairs if (pair.status, pair.jpeg) != ("refused", SIMULATED)]
    places = {pair.name: place for place, pair in enumerate(pairs)}
    written = -_INDEX_SECONDS
    shots: list[Pair] = []
    try:
        for place, path in enumerate(files):
            scene = None
            for number in range(place, series.count, len(files)):
                name = _name(series, number, path)
                pair = pairs[places[name]] if name in places else None
                complete = has_light(dataset, name) if series.light else arrays_path(dataset, name).exists()
                if pair is None or not complete:
                    try:
                        scene = scene or scenes.load(path)
                        pair, mosaic, srgb, light = shoot(series, number, path, scene)
                    except ParamispError as error:
                        reason = str(error).removeprefix(f"{path}: ")
                        pair = Pair(f"{path.stem}-refused", str(path), SIMULATED, "refused", reason)
                    else:
                        # Before the index, which never names a missing shot.
                        write_arrays(dataset, name, mosaic, srgb, light)
                    if name not in places:
                        pairs.append(pair)
                    elif pair.status != "refused":
                        pairs[places[name]] = pair  # made again, with the levels of today's camera table
                    if time.monotonic() - written > _INDEX_SECONDS:
                        write_index(dataset, pairs)
                        written = time.monotonic()
                yield pair
                if pair.status == "refused":
                    break
                shots.append(pair)
                if series.exposures and pair.status == "pair":
                    yield (bent := _exposed_pair(dataset, series, number, pair))
                    if bent.name not in places:
                        places[bent.name] = len(pairs)
                        pairs.append(bent)
    finally:
        write_index(dataset, pairs)
    if shots:
        sheet = contact_sheet(dataset, shots[:: -(-len(shots) // _SHEET)])
        formats.write(SrgbImage(sheet), dataset / CONTACT_SHEET, overwrite=True)


def _name(series: Series, number: int, path: Path) -> str:
    """Return the name of a shot: the scene, the number, and a hash of everything that decides the pixels."""
    names = [facts.name for facts in series.cameras]
    decisive = [_VERSION, series.seed, series.size, number, path.name, path.stat().st_size, *names]
    return f"{path.stem}-{number:05d}-{hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:6]}"


# One shot ------------------------------------------------------------------------------------------------------------


def shoot(
    series: Series, number: int, path: Path, scene: scenes.Scene
) -> tuple[Pair, np.ndarray, np.ndarray, np.ndarray | None]:
    """Take a shot; it is the same every time.

    Returns (pair, mosaic (size, size) uint16, srgb (size, size, 3) uint8, light (size, size, 3) uint16, or None if the
    series stores none). Raises FormatError for a scene smaller than the shot.
    """
    rng = np.random.default_rng((_VERSION, series.seed, number))
    facts = series.cameras[int(rng.integers(len(series.cameras)))]
    optical = drawn.optical(facts, rng)
    assert optical.iso is not None
    assert optical.focal_length is not None
    try:
        view = scenes.view(scene, series.size, optical.focal_length, rng)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    params = drawn.canonical(facts, optical.iso, drawn.neutral(facts, rng))
    noise = facts.noise_profile(optical.iso)
    assert noise is not None
    view, bias = metered(view, rng)
    light = camera.projected(view, params, rng.uniform(0.5, 0.9))
    mosaic = camera.sensed(light, params, noise, rng)
    srgb = camera.develop(mosaic, params, optical, camera.personality(facts.name, series.seed))
    settings = f"ISO {optical.iso:g}, {_time(optical)} s, f/{optical.f_number:g}, {optical.focal_length:g} mm"
    name = _name(series, number, path)
    pair = Pair(
        name=name,
        raw=str(path),
        jpeg=SIMULATED,
        status="pair",
        reason=f"simulated: {path.stem}, {facts.name}, {settings}, {bias:+.1f} EV",
        camera=Camera(facts.exif_make, facts.exif_model),
        optical=optical,
        canonical=params,
        score=1.0,
        regions=(Region(0, 0, series.size, series.size),),
        size=(series.size, series.size),
        source_hash=hashlib.sha256(name.encode()).hexdigest()[:16],
    )
    return pair, mosaic, srgb, _stored(light) if series.light else None


def _exposed_pair(dataset: Path, series: Series, number: int, pair: Pair) -> Pair:
    """Store the computed exposure of a stored shot, unless it is there, and return its pair."""
    mosaic, _ = read_arrays(dataset, pair)
    bent, codes, develop = exposed(series, number, pair, mosaic)
    if not arrays_path(dataset, bent.name).exists():
        write_arrays(dataset, bent.name, codes, develop())
    return bent


def exposed(
    series: Series, number: int, pair: Pair, mosaic: np.ndarray
) -> tuple[Pair, np.ndarray, Callable[[], np.ndarray]]:
    """Scale the light of a shot by a random gain, and develop it as its camera would.

    Returns (pair, mosaic (H, W) uint16 in all 16 bits, function that makes the picture (H, W, 3) uint8). The noise is
    the shot's: a RAW that a user makes darker or brighter has no other.
    """
    assert pair.canonical is not None
    assert pair.camera is not None
    facts = cameras.find(pair.camera)
    assert facts is not None  # it took the shot
    gain = float(2 ** np.random.default_rng((_VERSION, series.seed, number, 1)).uniform(*_EXPOSURES))
    own = pair.canonical
    light = bayer.linear(mosaic, own.black_level, own.white_level)
    bayer.expose(light, own.cfa, own.wb_gains, gain)
    codes = np.rint(light * 65535).astype(np.uint16)
    params = replace(own, black_level=np.zeros((2, 2)), white_level=65535.0)
    bent = replace(
        pair,
        name=f"{pair.name}-exposed",
        reason=f"{pair.reason}, exposed by {np.log2(gain):+.1f} EV",
        canonical=params,
        source_hash=hashlib.sha256(f"{pair.name}-exposed".encode()).hexdigest()[:16],
        gain=gain,
    )
    own_look = camera.personality(facts.name, series.seed)
    return bent, codes, lambda: camera.develop(codes, params, pair.optical, own_look)


def _stored(light: Tensor) -> np.ndarray:
    """Return light (1, 3, H, W), clipped as the sensor clips it, as (H, W, 3) uint16."""
    codes = (light[0].clamp(0, 1) * LIGHT_WHITE).round().permute(1, 2, 0)
    return codes.contiguous().numpy().astype(np.uint16)


def _time(optical: OpticalParams) -> str:
    """Word the exposure time, such as 1/125."""
    assert optical.exposure_time is not None
    return f"1/{round(1 / optical.exposure_time)}"


def metered(view: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Scale a view so that 1 clips → (view, deviation [EV] from the middle grey of the meter).

    The meter sets the geometric mean to middle grey, and exposes less where much of the view would clip.
    """
    luminance = view.mean(0).flatten()
    middle = float(torch.exp(torch.log(luminance + 0.02 * luminance.mean() + 1e-9).mean()))
    bright = float(torch.quantile(luminance[:: max(len(luminance) // 65536, 1)], 1 - _CLIPPED))
    bias = float(np.clip(rng.normal(0, 0.5), -1, 1))
    reduction = float(np.clip(np.log2(_GREY / middle * bright), 0, _REDUCTION))
    gain = _GREY / middle * 2 ** (bias - reduction)
    return view * gain, bias - reduction


# The contact sheet ---------------------------------------------------------------------------------------------------


def contact_sheet(dataset: Path | str, shots: Sequence[Pair]) -> np.ndarray:
    """Draw each picture beside its mosaic, rendered by the parametric model, three to a row: (H, W, 3) uint8."""
    model = Parametric(Direction.RENDER)
    tiles = []
    for pair in shots:
        mosaic, srgb = read_arrays(dataset, pair)
        c = pair.canonical
        assert c is not None
        raw = torch.from_numpy(mosaic.astype(np.float32))[None, None]
        linear = isp.normalise(raw, torch.tensor(c.black_level, dtype=torch.float32), c.white_level)
        with torch.inference_mode():
            rendered = model(linear, Params.of(c, pair.optical))
        picture = torch.from_numpy(srgb).permute(2, 0, 1)[None].float() / 255
        both = torch.cat([picture, rendered.clamp(0, 1)], 3)
        small = torch.nn.functional.interpolate(both, size=(224, 448), mode="bilinear", antialias=True)
        tile = small.clamp(0, 1)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        tiles.append(np.pad(tile, ((4, 4), (4, 4), (0, 0))))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 3)
    return np.concatenate([np.concatenate(tiles[i : i + 3], 1) for i in range(0, len(tiles), 3)])
