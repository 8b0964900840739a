"""The record of a carried RAW: everything but its samples, as compressed JSON; every field is checked on reading."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from paramisp_cli.errors import FormatError, MetadataError
from paramisp_cli.formats.base import MAX_PIXELS
from paramisp_cli.formats.kept import levels
from paramisp_cli.types import Camera, CanonicalParams, Crop, Metadata, OpticalParams, RawImage

_MOST_JSON = 8 << 20
_MOST_CONTAINERS = 1000
"""Lists and objects in the JSON: an empty one takes 2 bytes there and 64 in memory."""
_MOST_BEYOND, _CROPS = 1 << 22, 8
"""Samples that a mosaic may have: so many, and so many times those of its crop."""
_MOST_WHITE = (1 << 32) - 1
"""Largest white level: a DNG's has 32 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A RAW without its samples, and how they are coded.

    EXIF and XMP are left out: those of the JPEG count, so that a position removed from it is gone. The look is left
    out, too: it is fitted to the JPEG.

    raw          the RAW; its mosaic is all zeros, in no memory
    size         (height, width) of the mosaic
    kind         "lossless", "near" or "size"
    share        largest error in units of the noise's standard deviation; 0 for lossless
    noise        (3, 2) noise that the errors are measured by, see ``RawImage.noise_profile``; and its origin
    values       four ascending lists of values, by site of the 2×2
    pixels       digest of the JPEG's decoded pixels
    mosaic       digest of the mosaic as decoded
    """

    raw: RawImage
    size: tuple[int, int]
    kind: str
    share: float
    noise: np.ndarray | None
    noise_origin: str
    values: list[np.ndarray]
    pixels: bytes
    mosaic: bytes


def pack(record: Record) -> bytes:
    """Return the record as bytes."""
    raw, canonical, crop = record.raw, record.raw.canonical, record.raw.crop
    assert crop is not None
    described = {
        "size": list(record.size),
        "kind": record.kind,
        "share": record.share,
        "noise": None if record.noise is None else record.noise.tolist(),
        "noise_origin": record.noise_origin,
        "values": [_described(values) for values in record.values],
        "pixels": record.pixels.hex(),
        "mosaic": record.mosaic.hex(),
        "cfa": canonical.cfa,
        "black_level": canonical.black_level.tolist(),
        "white_level": canonical.white_level,
        "as_shot_neutral": canonical.as_shot_neutral.tolist(),
        "color_matrix": canonical.color_matrix.tolist(),
        "optical": asdict(raw.optical),
        "camera": [raw.camera.make, raw.camera.model] if raw.camera else None,
        "orientation": raw.orientation,
        "crop": [crop.top, crop.left, crop.height, crop.width],
        "baseline_exposure": raw.baseline_exposure,
        "noise_profile": None if raw.noise_profile is None else raw.noise_profile.tolist(),
        "profile_exposure": raw.profile_exposure,
        "model": raw.model,
        "colours_of": raw.colours_of,
        "source_name": raw.metadata.source_name,
    }
    try:
        return zlib.compress(json.dumps(described, allow_nan=False, separators=(",", ":")).encode(), 9)
    except ValueError as error:
        raise FormatError("a JPEG cannot carry a RAW with a value that is not finite; leave out `keep_raw`") from error


def unpack(data: bytes) -> Record:
    """Return the record; FormatError if a field is missing, of another type or beyond its limits."""
    try:
        decompressor = zlib.decompressobj()
        text = decompressor.decompress(data, _MOST_JSON)
        if not decompressor.eof:
            raise ValueError("too long or cut short")
        if text.count(b"[") + text.count(b"{") > _MOST_CONTAINERS:
            raise ValueError("too many lists")
        return _record(json.loads(text, parse_constant=_refused))
    except (
        MetadataError, zlib.error, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise FormatError(f"its record is damaged ({' '.join(str(error).split())[:80]})") from error


def _record(fields: dict[str, Any]) -> Record:
    height, width = (_whole(n, 2, 1 << 17) for n in fields["size"])
    crop = Crop(*(_whole(n, 0, 1 << 17) for n in fields["crop"]))
    if height * width > min(MAX_PIXELS, _CROPS * crop.height * crop.width + _MOST_BEYOND) or height % 2 or width % 2:
        raise ValueError(f"a mosaic of {width}×{height} for a picture of {crop.width}×{crop.height}")
    kind, share = fields["kind"], float(fields["share"])
    if kind not in ("lossless", "near", "size") or not 0 <= share < 1e6:
        raise ValueError("kind")
    values = [_values(each) for each in fields["values"]]
    if len(values) != 4:
        raise ValueError("values")
    noise = _noise(fields["noise"])
    if noise is not None and not ((noise >= 0) & (noise <= 1)).all():
        raise ValueError("noise")
    white_level = float(fields["white_level"])
    if white_level > _MOST_WHITE:
        raise ValueError("white level")
    blank = np.broadcast_to(np.uint16(0), (height, width))  # no memory
    raw = RawImage(
        mosaic=blank,
        canonical=CanonicalParams(
            str(fields["cfa"]),
            np.array(fields["black_level"], np.float64),
            white_level,
            np.array(fields["as_shot_neutral"], np.float64),
            np.array(fields["color_matrix"], np.float64),
        ),
        optical=OpticalParams(**{str(k): None if v is None else float(v) for k, v in fields["optical"].items()}),
        camera=None if fields["camera"] is None else Camera(*map(str, fields["camera"])),
        orientation=_whole(fields["orientation"], 1, 8),
        crop=crop,
        baseline_exposure=_stops(fields["baseline_exposure"]),
        profile_exposure=_stops(fields.get("profile_exposure", 0)),
        noise_profile=_noise(fields["noise_profile"]),
        model=None if fields["model"] is None else str(fields["model"]),
        colours_of=None if fields.get("colours_of") is None else str(fields["colours_of"])[:200],
        metadata=Metadata(source_name=None if fields["source_name"] is None else str(fields["source_name"])[:255]),
    )
    pixels, mosaic = bytes.fromhex(fields["pixels"]), bytes.fromhex(fields["mosaic"])
    origin = str(fields["noise_origin"])[:200]
    return Record(raw, (height, width), kind, share, noise, origin, values, pixels, mosaic)


def _described(values: np.ndarray) -> list[int]:
    """Return the first value and the steps to the next ones, equal steps as (step, number)."""
    steps = np.diff(values)
    starts = np.flatnonzero(np.diff(steps, prepend=-1))
    numbers = np.diff(starts, append=len(steps))
    return [int(values[0]), *np.stack([steps[starts], numbers], 1).ravel().tolist()]


def _values(described: list[int]) -> np.ndarray:
    first, *runs = (_whole(n, 0, 1 << 16) for n in described)
    if sum(runs[1::2]) > 1 << 16 or len(runs) % 2:
        raise ValueError("values")
    values = first + np.cumsum([0, *np.repeat(runs[::2], runs[1::2]).tolist()])
    levels.check(values)
    return values


def _whole(value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{str(value)[:20]} is not a number from {least} to {most}")
    return value


def _stops(value: Any) -> float:
    """Return an exposure [EV] within the limits of one read from a DNG."""
    return float(np.clip(float(value), -10, 10))


def _noise(value: Any) -> np.ndarray | None:
    """Return noise (3, 2) as float64; it may be None."""
    if value is None:
        return None
    noise = np.array(value, np.float64)
    if noise.shape != (3, 2) or not np.isfinite(noise).all():
        raise ValueError("noise")
    return noise


def _refused(constant: str) -> None:
    """Refuse NaN and Infinity, which Python's JSON allows."""
    raise ValueError(f"{constant} is not a number")
