"""Data sets without photographs: views of scenes by simulated cameras, stored as ``paramisp pairs`` stores pairs.

Every shot follows from the seed and its number alone, so that a run that was stopped, or is asked for more shots, makes
only what is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import cameras, formats, isp
from paramisp_cli.cameras import CameraFacts
from paramisp_cli.errors import ConfigError, FileAccessError, FormatError, ParamispError
from paramisp_cli.models.base import Params
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.training import folder, scenes, virtual
from paramisp_cli.training.dataset import (
    INDEX,
    SIMULATED,
    Pair,
    Region,
    line,
    read_arrays,
    read_index,
    write_arrays,
    write_index,
)
from paramisp_cli.types import Camera, Direction, OpticalParams, SrgbImage

_VERSION = 1
"""Part of every shot's identity: raise it when the same numbers begin to give other pixels."""
_SIZES = (96, 4096)
_ISOS = np.array(
    [50, 64, 80, 100, 125, 160, 200, 250, 320, 400, 500, 640, 800, 1000, 1250, 1600, 2000, 2500, 3200, 4000, 5000, 6400,
     8000, 10000, 12800, 16000, 20000, 25600]
)  # fmt: skip
_TIMES = 1 / np.array(
    [4000, 3200, 2500, 2000, 1600, 1250, 1000, 800, 640, 500, 400, 320, 250, 200, 160, 125, 100, 80, 60, 50, 40, 30, 25,
     20, 15, 13, 10, 8, 6, 5, 4]
)  # fmt: skip
_F_NUMBERS = np.array([1.8, 2, 2.2, 2.5, 2.8, 3.2, 3.5, 4, 4.5, 5, 5.6, 6.3, 7.1, 8, 9, 10, 11, 13, 14, 16])
_FOCAL_LENGTHS = (18, 200)
_EV100 = (4.0, 15.0)
"""How bright scenes are, from a dim room to open sunlight, in EV at ISO 100."""
_GREY = 0.18
_CLIPPED = 0.04
"""Share of a view that the simulated metering lets clip before it exposes less."""
_HELD_BACK = 1.0
"""EV that it exposes less, at most: in a room with windows, the room counts."""
_SHEET = 60
"""Shots on the contact sheet, at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make: ``count`` shots of ``size`` × ``size`` px with these cameras; ConfigError if it cannot be."""

    count: int
    size: int
    seed: int
    cameras: tuple[CameraFacts, ...]

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"--count must be at least 1, not {self.count}")
        if self.seed < 0:
            raise ConfigError(f"--seed must not be negative, not {self.seed}")
        if self.size % 2 or not _SIZES[0] <= self.size <= _SIZES[1]:
            raise ConfigError(f"--size must be even and {_SIZES[0]} to {_SIZES[1]}, not {self.size}")


def pick_cameras(names: Sequence[str]) -> tuple[CameraFacts, ...]:
    """The table's cameras of these names, or all that can be simulated; ConfigError if one is unknown or cannot be."""
    if not names:
        return tuple(facts for facts in cameras.all_cameras() if virtual.lacks(facts) is None)
    picked: dict[str, CameraFacts] = {}
    for name in names:
        facts = cameras.find_by_name(name)
        if facts is None:
            close = cameras.close_names(name)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise ConfigError(f"--camera {name}: not in the camera table (see `paramisp cameras`){hint}")
        if lacking := virtual.lacks(facts):
            raise ConfigError(f"--camera {name}: the table does not know its {lacking}, so it cannot be simulated")
        picked[facts.name] = facts
    return tuple(picked.values())


def make(paths: Sequence[Path | str], dataset: Path | str, plan: Plan) -> Iterator[Pair]:
    """Make the shots that ``dataset`` lacks, scene by scene; yields every shot of the plan, and refused scenes.

    Shot n shows scene n modulo the number of scenes. Other shots of the data set stay. A scene that cannot be used is a
    refused pair, and its shots are left out. The data set is locked until the end. Raises InputMissingError,
    FileAccessError, or ConfigError if another process works in the data set.
    """
    dataset = Path(dataset)
    files = scenes.find(paths)
    held = folder.hold(dataset, "choose another -o")
    try:
        yield from _made(files, dataset, plan)
    except OSError as error:
        raise FileAccessError(f"{dataset}: cannot write to it: {error.strerror or error}") from error
    finally:
        held.release()


def _made(files: Sequence[Path], dataset: Path, plan: Plan) -> Iterator[Pair]:
    known = {pair.name: pair for pair in read_index(dataset)} if (dataset / INDEX).exists() else {}
    known = {name: pair for name, pair in known.items() if (pair.status, pair.jpeg) != ("refused", SIMULATED)}
    write_index(dataset, known.values())
    shown: list[Pair] = []
    for place, path in enumerate(files):
        scene, refused = None, False
        for number in range(place, plan.count, len(files)):
            name = _name(plan, number, path)
            pair = known.get(name)
            if pair is None or not (dataset / f"{name}.npz").exists():
                try:
                    scene = scene or scenes.load(path)
                    made, mosaic, srgb = shoot(plan, number, path, scene)
                except ParamispError as error:
                    reason = str(error).removeprefix(f"{path}: ")
                    pair, refused = Pair(f"{path.stem}-refused", str(path), SIMULATED, "refused", reason), True
                else:
                    write_arrays(dataset, name, mosaic, srgb)
                    pair = made
                if known.get(name) is None:  # the index never names a shot that is not there
                    with (dataset / INDEX).open("a", encoding="utf-8") as index:
                        index.write(line(pair))
            if pair.status != "refused":
                shown.append(pair)
            yield pair
            if refused:
                break
    if shown:
        sheet = contact_sheet(dataset, shown[:: -(-len(shown) // _SHEET)])
        formats.write(SrgbImage(sheet), dataset / "contact_sheet.jpg", overwrite=True)


def _name(plan: Plan, number: int, path: Path) -> str:
    """A shot's name: it begins with the scene's, and ends with what else decides the pixels."""
    decides = [_VERSION, plan.seed, plan.size, number, path.name, path.stat().st_size, *(c.name for c in plan.cameras)]
    return f"{path.stem}-{number:05d}-{hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:6]}"


# One shot ------------------------------------------------------------------------------------------------------------


def shoot(plan: Plan, number: int, path: Path, scene: scenes.Scene) -> tuple[Pair, np.ndarray, np.ndarray]:
    """(the index's line, mosaic (size, size) uint16, srgb (size, size, 3) uint8) of a shot; the same every time."""
    rng = np.random.default_rng((_VERSION, plan.seed, number))
    facts = plan.cameras[int(rng.integers(len(plan.cameras)))]
    optical = draw_optical(facts, rng)
    assert optical.iso is not None
    assert optical.focal_length is not None
    try:
        seen = scenes.view(scene, plan.size, optical.focal_length, rng)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    params = virtual.canonical(facts, optical.iso, draw_neutral(facts, rng))
    noise = facts.noise_profile(optical.iso)
    assert noise is not None
    lit, bias = metered(seen, rng)
    mosaic = virtual.expose(lit, params, noise, rng.uniform(0.5, 0.9), rng)
    srgb = virtual.develop(mosaic, params, optical, virtual.personality(facts.name, plan.seed))
    said = f"ISO {optical.iso:g}, {_time(optical)} s, f/{optical.f_number:g}, {optical.focal_length:g} mm"
    name = _name(plan, number, path)
    pair = Pair(
        name=name,
        raw=str(path),
        jpeg=SIMULATED,
        status="pair",
        reason=f"simulated: {path.stem}, {facts.name}, {said}, {bias:+.1f} EV",
        camera=Camera(facts.exif_make, facts.exif_model),
        optical=optical,
        canonical=params,
        score=1.0,
        regions=(Region(0, 0, plan.size, plan.size),),
        size=(plan.size, plan.size),
        source_hash=hashlib.sha256(name.encode()).hexdigest()[:16],
    )
    return pair, mosaic, srgb


def _time(optical: OpticalParams) -> str:
    assert optical.exposure_time is not None
    return f"1/{round(1 / optical.exposure_time)}"


def draw_optical(facts: CameraFacts, rng: np.random.Generator) -> OpticalParams:
    """Settings that a scene between a dim room and sunlight could have asked for, at ISO speeds of the camera."""
    assert facts.noise_rows is not None
    low, high = facts.noise_rows[0, 0], facts.noise_rows[-1, 0]
    if high < 4 * low:  # measured at hardly more than one speed: the noise profile goes on in proportion
        low, high = min(low, 100), max(high, 1600)
    isos = _ISOS[(low * 0.9 <= _ISOS) & (high * 1.1 >= _ISOS)]
    pick = partial(rng.integers, 0)
    iso = float(isos[pick(len(isos))]) if len(isos) else float(low)
    while True:  # two of three draws hold
        f_number, time = float(_F_NUMBERS[pick(len(_F_NUMBERS))]), float(_TIMES[pick(len(_TIMES))])
        if _EV100[0] <= np.log2(f_number**2 / time * 100 / iso) <= _EV100[1]:
            break
    shortest, longest = np.log(_FOCAL_LENGTHS)
    return OpticalParams(iso, time, f_number, float(round(np.exp(rng.uniform(shortest, longest)))))


def draw_neutral(facts: CameraFacts, rng: np.random.Generator) -> np.ndarray:
    """(3,) as-shot neutral, G = 1: daylight, or warmer (down to lamps) or cooler (shade) light, and a little off it."""
    assert facts.daylight_neutral is not None
    kind = rng.random()
    warmth = rng.normal(0, 0.05) if kind < 0.5 else rng.uniform(0.05, 0.4) if kind < 0.85 else rng.uniform(-0.15, -0.05)
    off = rng.normal(0, 0.03, 2)
    shift = np.exp([warmth + off[0], 0, -1.2 * warmth + off[1]])
    # A neutral above 1 would clip red or blue before green, and turn highlights: cameras avoid it.
    neutral: np.ndarray = np.minimum(facts.daylight_neutral / facts.daylight_neutral[1] * shift, [0.95, 1, 0.95])
    return neutral


def metered(seen: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """(the view scaled so that 1 clips, EV that it was exposed off the meter's middle grey).

    The meter places the geometric mean; light sources that would clip much of the view make it expose a little less.
    """
    luminance = seen.mean(0).flatten()
    middle = float(torch.exp(torch.log(luminance + 0.02 * luminance.mean() + 1e-9).mean()))
    bright = float(torch.quantile(luminance[:: max(len(luminance) // 65536, 1)], 1 - _CLIPPED))
    bias = float(np.clip(rng.normal(0, 0.5), -1, 1))
    held_back = float(np.clip(np.log2(_GREY / middle * bright), 0, _HELD_BACK))
    gain = _GREY / middle * 2 ** (bias - held_back)
    return seen * gain, bias - held_back


# To look at ----------------------------------------------------------------------------------------------------------


def contact_sheet(dataset: Path | str, shots: Sequence[Pair]) -> np.ndarray:
    """(H, W, 3) uint8: every shot's picture beside its mosaic as the parametric model renders it, three to a row."""
    model = Parametric(Direction.RENDER)
    tiles = []
    for pair in shots:
        mosaic, srgb = read_arrays(dataset, pair)
        c = pair.canonical
        assert c is not None
        raw = torch.from_numpy(mosaic.astype(np.float32))[None, None]
        linear = isp.normalise(raw, torch.tensor(c.black_level, dtype=torch.float32), c.white_level)
        with torch.inference_mode():
            drawn = model(linear, Params.of(c, pair.optical))
        theirs = torch.from_numpy(srgb).permute(2, 0, 1)[None].float() / 255
        both = torch.cat([theirs, drawn.clamp(0, 1)], 3)
        small = torch.nn.functional.interpolate(both, size=(224, 448), mode="bilinear", antialias=True)
        tile = small.clamp(0, 1)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        tiles.append(np.pad(tile, ((4, 4), (4, 4), (0, 0))))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 3)
    return np.concatenate([np.concatenate(tiles[i : i + 3], 1) for i in range(0, len(tiles), 3)])
