"""The format of a data set: a folder that training reads, and how its files are written.

``index.jsonl`` has a readable line for every RAW file looked at; ``<name>.npz`` of a pair holds mosaic (H, W) uint16
and srgb (H, W, 3) uint8 in the JPEG's own frame, pixel on pixel. A name holds the old file or the whole new one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli.errors import FormatError, InputMissingError, ParamispError
from paramisp_cli.training.folder import write_whole
from paramisp_cli.types import Camera, CanonicalParams, OpticalParams

INDEX = "index.jsonl"
SIMULATED = "simulated"
"""The JPEG's name in pairs that no camera took."""


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of a pair that is aligned: sRGB pixel (y, x) lies on mosaic pixel (y + dy, x + dx)."""

    top: int
    left: int
    height: int
    width: int
    dy: int = 0
    dx: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """A line of the index: what was done with one RAW file.

    status "pair" (full size), "reduced" (the JPEG is smaller: the RAW was averaged down ``reduction`` times) or
    "refused"; ``reason`` says why, or what was noticed. ``canonical`` describes the stored mosaic.
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

    @property
    def is_simulated(self) -> bool:
        """Whether ``paramisp simulate`` made it."""
        return self.jpeg == SIMULATED

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        record = asdict(replace(self, canonical=None))
        if self.canonical is not None:
            c = self.canonical
            record["canonical"] = {
                "cfa": c.cfa,
                "black_level": c.black_level.tolist(),
                "white_level": c.white_level,
                "as_shot_neutral": c.as_shot_neutral.tolist(),
                "color_matrix": c.color_matrix.tolist(),
            }
        return record

    @classmethod
    def of(cls, record: dict[str, Any]) -> Pair:
        """From ``record``'s values; raises FormatError if they are not a pair's."""
        try:
            r = dict(record)
            r["camera"] = Camera(**r["camera"]) if r["camera"] else None
            r["optical"] = OpticalParams(**r["optical"])
            r["canonical"] = CanonicalParams(**r["canonical"]) if r["canonical"] else None
            r["regions"] = tuple(Region(**region) for region in r["regions"])
            return cls(**{**r, "offset": tuple(r["offset"]), "size": tuple(r["size"])})
        except (KeyError, TypeError, ParamispError) as error:
            raise FormatError(f"a line of {INDEX} is damaged ({error}); make the data set again") from error


def line(pair: Pair) -> str:
    """Make the pair's line of the index."""
    return json.dumps(pair.record()) + "\n"


def read_index(dataset: Path | str) -> list[Pair]:
    """Read the index of a data set; raises InputMissingError or FormatError."""
    path = Path(dataset) / INDEX
    if not path.exists():
        raise InputMissingError(f"{dataset}: no data set (it has no {INDEX}); `paramisp pairs` makes one")
    try:
        return [Pair.of(json.loads(line)) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise FormatError(f"{path}: damaged ({error}); make the data set again") from error


def read_arrays(dataset: Path | str, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Read (mosaic (H, W) uint16, srgb (H', W', 3) uint8) of a pair; raises FormatError."""
    path = Path(dataset) / f"{pair.name}.npz"
    try:
        with np.load(path) as arrays:
            return arrays["mosaic"], arrays["srgb"]
    except (OSError, KeyError, ValueError) as error:
        raise FormatError(f"{path}: missing or damaged ({error}); run `paramisp pairs` again") from error


def write_index(dataset: Path, pairs: Iterable[Pair]) -> None:
    """Write the index anew; raises OSError."""
    text = "".join(map(line, pairs)).encode()
    write_whole(dataset / INDEX, lambda file: file.write(text))


def write_arrays(dataset: Path, name: str, mosaic: np.ndarray, srgb: np.ndarray) -> None:
    """Write a pair's arrays; raises OSError."""
    write_whole(dataset / f"{name}.npz", lambda file: np.savez_compressed(file, mosaic=mosaic, srgb=srgb))
