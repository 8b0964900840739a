"""Data sets: a folder of aligned pairs of RAW and sRGB, with functions that read, write, load and split them.

``index.jsonl`` has one line for each RAW file examined. ``<name>.npz`` of a pair holds mosaic (H, W) uint16 and srgb
(H, W, 3) uint8 in the frame of the JPEG. That of a simulated shot may hold light (H, W, 3) uint16 in the frame of the
mosaic: R, G and B on every site of the sensor, without noise, 0 black, ``LIGHT_WHITE`` the sensor's white. Both files
are written atomically. No torch is needed.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from paramisp_cli import mosaic
from paramisp_cli.errors import ConfigError, FileAccessError, FormatError, InputMissingError, ParamispError
from paramisp_cli.training.folder import hold, write_whole
from paramisp_cli.types import Camera, CanonicalParams, OpticalParams

INDEX = "index.jsonl"
CONTACT_SHEET = "contact_sheet.jpg"
SIMULATED = "simulated"
"""Name of the JPEG in pairs that no camera took."""
LIGHT_WHITE = 65535
"""White of stored light: finer steps than those of any sensor, and light beyond the sensor's white is clipped."""
GAP = 16
"""Columns between the two areas of a split photograph, so that demosaicing one never reads the other."""


@dataclass(frozen=True, slots=True)
class Region:
    """An aligned rectangle of a pair: sRGB pixel (y, x) lies on mosaic pixel (y + dy, x + dx)."""

    top: int
    left: int
    height: int
    width: int
    dy: int = 0
    dx: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """A line of the index: the result for one RAW file.

    status     "pair" (full size), "reduced" (the JPEG is smaller: the RAW was averaged down ``reduction`` times) or
               "refused"
    reason     why a file was refused, or how the pair is aligned
    canonical  parameters of the stored mosaic
    gain       factor of the light of another simulated shot, of which this is a computed exposure; 1: a shot itself
    """

    name: str
    raw: str
    jpeg: str
    status: str
    reason: str
    camera: Camera | None = None
    optical: OpticalParams = field(default_factory=OpticalParams)
    canonical: CanonicalParams | None = None
    orientation: int = 1
    offset: tuple[float, float] = (0.0, 0.0)
    reduction: float = 1.0
    score: float = 0.0
    regions: tuple[Region, ...] = ()
    size: tuple[int, int] = (0, 0)
    source_hash: str = ""
    gain: float = 1.0

    @property
    def is_exposed(self) -> bool:
        """Whether it is a computed exposure of another pair."""
        return self.gain != 1.0

    @property
    def is_simulated(self) -> bool:
        """Whether a simulated camera took it."""
        return self.jpeg == SIMULATED

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        record = asdict(self)
        if (values := record["canonical"]) is not None:
            record["canonical"] = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
        return record

    @classmethod
    def of(cls, record: dict[str, Any]) -> Pair:
        """Make a pair of plain values; raises KeyError, TypeError, ValueError or a ParamispError for wrong ones."""
        r = dict(record)
        camera = r["camera"] = Camera(**r["camera"]) if r["camera"] else None
        if camera is not None and not (isinstance(camera.make, str) and isinstance(camera.model, str)):
            raise TypeError(f"make and model must be texts, got {camera.make!r} and {camera.model!r}")
        r["optical"] = OpticalParams(**r["optical"])
        r["canonical"] = CanonicalParams(**r["canonical"]) if r["canonical"] else None
        r["regions"] = tuple(Region(**region) for region in r["regions"])
        return cls(**{**r, "offset": tuple(r["offset"]), "size": tuple(r["size"])})


# The files ------------------------------------------------------------------------------------------------------------


@contextmanager
def locked(dataset: Path) -> Iterator[None]:
    """Create and lock a data set for writing; raises ConfigError if it is in use, FileAccessError for every OSError."""
    lock = hold(dataset, "choose another -o")
    try:
        yield
    except OSError as error:
        raise FileAccessError(f"{error.filename or dataset}: {error.strerror or error}") from error
    finally:
        lock.release()


def read_index(dataset: Path | str) -> list[Pair]:
    """Read the index of a data set; raises InputMissingError or FormatError, which names a damaged line."""
    path = Path(dataset) / INDEX
    if not path.exists():
        raise InputMissingError(f"{dataset}: no data set (it has no {INDEX}); `paramisp pairs` makes one")
    pairs = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            pairs += [Pair.of(json.loads(line))] if line.strip() else []
        except (ValueError, KeyError, TypeError, ParamispError) as error:
            raise FormatError(f"{path}: line {number} is damaged ({error}); make the data set again") from error
    return pairs


def write_index(dataset: Path, pairs: Iterable[Pair]) -> None:
    """Write the index of a data set; raises OSError."""
    text = "".join(json.dumps(pair.record()) + "\n" for pair in pairs).encode()
    write_whole(dataset / INDEX, lambda file: file.write(text))


def read_arrays(dataset: Path | str, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Read (mosaic (H, W) uint16, srgb (H', W', 3) uint8) of a pair; raises FormatError."""
    with _opened(dataset, pair.name) as arrays:
        return arrays["mosaic"], arrays["srgb"]


def read_light(dataset: Path | str, pair: Pair) -> np.ndarray | None:
    """Read light (H, W, 3) uint16 of a pair, as the module describes it, or None without light; raises FormatError."""
    with _opened(dataset, pair.name) as arrays:
        if "light" not in arrays:
            return None
        light: np.ndarray = arrays["light"]
        if light.shape != (*pair.size, 3) or light.dtype != np.uint16:
            raise ValueError(f"light is {light.shape} {light.dtype}, not {(*pair.size, 3)} uint16")
        return light


def has_light(dataset: Path | str, name: str) -> bool:
    """Tell whether the arrays of the pair of this name hold light; False if they are missing or damaged."""
    try:
        with _opened(dataset, name) as arrays:
            return "light" in arrays
    except FormatError:
        return False


@contextmanager
def _opened(dataset: Path | str, name: str) -> Iterator[Mapping[str, np.ndarray]]:
    """Open the arrays of a pair, to be read on access; a wrong one raises FormatError, like damage."""
    path = arrays_path(dataset, name)
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            yield arrays
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError(f"{path}: missing or damaged ({error}); run `paramisp pairs` again") from error


def write_arrays(
    dataset: Path, name: str, mosaic: np.ndarray, srgb: np.ndarray, light: np.ndarray | None = None
) -> None:
    """Write the arrays of a pair, with light if there is any; raises OSError."""

    def write(file: BinaryIO) -> None:
        if light is None:
            np.savez_compressed(file, mosaic=mosaic, srgb=srgb)
        else:
            np.savez_compressed(file, mosaic=mosaic, srgb=srgb, light=light)

    write_whole(arrays_path(dataset, name), write)


def arrays_path(dataset: Path | str, name: str) -> Path:
    """Return the path of the arrays of the pair of this name."""
    return Path(dataset) / f"{name}.npz"


# Pairs in memory ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPair:
    """A pair with its arrays, or an area of one; equal only to itself, so it can be a key.

    area   name of the area of the photograph, such as "right 30 %"; empty for the whole photograph
    frame  place of the mosaic in the whole photograph: (top, left) of its corner, (height, width) of the whole
    light  stored light of a simulated shot (H, W, 3), or of the area of one; None if there is none, or it is not needed
    """

    pair: Pair
    mosaic: np.ndarray
    srgb: np.ndarray
    area: str = ""
    frame: tuple[int, int, int, int] | None = None
    light: np.ndarray | None = None

    @property
    def is_whole(self) -> bool:
        """Whether one offset aligns all pixels; otherwise only the regions are aligned."""
        return self.mosaic.shape == self.srgb.shape[:2] and self.pair.regions == (Region(0, 0, *self.mosaic.shape),)

    @property
    def camera(self) -> str:
        """Name of the camera, or "unknown"."""
        return self.pair.camera.name if self.pair.camera else "unknown"

    @property
    def name(self) -> str:
        """Name of the pair, with the area if it is not whole."""
        return f"{self.pair.name} ({self.area})" if self.area else self.pair.name

    @property
    def canonical(self) -> CanonicalParams:
        """Parameters of the mosaic, which only refused pairs lack."""
        assert self.pair.canonical is not None
        return self.pair.canonical

    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (mosaic (H, W), picture (H, W, 3)) as float32, black 0 and white 1, clipped to [0, 1]."""
        levels = self.canonical.black_level, self.canonical.white_level
        return np.clip(mosaic.linear(self.mosaic, *levels), 0, 1), self.srgb.astype(np.float32) / 255


def load(
    dataset: Path | str,
    camera: str | None = None,
    leave_out: Sequence[str] = (),
    *,
    simulated: bool = False,
    light: bool = False,
    exposures: bool = False,
) -> list[LoadedPair]:
    """Load the usable pairs of a data set; raises ConfigError if there is none.

    ``camera``: only cameras whose name contains it. ``leave_out``: leave out pairs whose name contains one of these.
    ``simulated``: load simulated pairs beside photographs; a data set without photographs always gives them. ``light``:
    load the light of simulated pairs, too, where it is stored; it takes 6 bytes a pixel. ``exposures``: load computed
    exposures of simulated pairs, too.
    """
    chosen = [
        pair
        for pair in read_index(dataset)
        if pair.status != "refused"
        and (camera is None or (pair.camera is not None and camera.lower() in pair.camera.name.lower()))
        and not any(word in pair.name for word in leave_out)
        and (exposures or not pair.is_exposed)
    ]
    if not chosen:
        of_camera = f" of {camera}" if camera else ""
        raise ConfigError(f"{dataset}: no pair{of_camera} to use; `paramisp pairs` prints a reason for each file")
    if not simulated:
        chosen = [pair for pair in chosen if not pair.is_simulated] or chosen
    return [
        LoadedPair(pair, *read_arrays(dataset, pair), light=read_light(dataset, pair) if light else None)
        for pair in chosen
    ]


def whole(pairs: Iterable[LoadedPair]) -> list[LoadedPair]:
    """Return the pairs with a single offset: measuring compares every pixel."""
    return [item for item in pairs if item.is_whole]


def split(item: LoadedPair, side: Literal["train", "test"], fraction: float = 0.3) -> LoadedPair:
    """Return an area of a photograph: "test" is the right-hand ``fraction`` (0 to 1) of the frame, "train" the rest.

    ``GAP`` columns between the two belong to neither. CFA, regions and the offset to the RAW file move with the area.
    A photograph that is aligned only in regions keeps its arrays and loses the regions of the other area. Raises
    ConfigError for a fraction that leaves one of the areas empty.
    """
    width = item.srgb.shape[1]
    middle = round(width * (1 - fraction) / 2) * 2 if 0 < fraction < 1 else 0
    if middle - GAP < 2 or middle + 2 > width:
        raise ConfigError(f"{item.pair.name}: cannot hold out {fraction:g} of its {width} columns")
    left, right = (0, middle - GAP) if side == "train" else (middle, width // 2 * 2)
    area = f"left {100 * (1 - fraction):.0f} %" if side == "train" else f"right {100 * fraction:.0f} %"
    regions = []
    for region in item.pair.regions:
        first = max(region.left, left)
        columns = (min(region.left + region.width, right) - first) // 2 * 2
        if columns > 0:
            regions.append(replace(region, left=first, width=columns))
    if not item.is_whole:
        return replace(item, pair=replace(item.pair, regions=tuple(regions)), area=area)
    y, x = item.pair.offset
    if item.pair.status == "reduced":
        x += left * item.pair.reduction
    else:
        y, x = max(y, 0), max(x, 0) + left  # from the corner of the stored picture
    pair = replace(
        item.pair,
        canonical=item.canonical.shifted(0, left),
        regions=tuple(replace(region, left=region.left - left) for region in regions),
        size=(item.pair.size[0], right - left),
        offset=(y, x),
    )
    frame = (0, left, *item.mosaic.shape)
    light = None if item.light is None else item.light[:, left:right]
    return LoadedPair(pair, item.mosaic[:, left:right], item.srgb[:, left:right], area, frame, light)
