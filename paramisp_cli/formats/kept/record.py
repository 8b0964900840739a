"""The record of a carried RAW: everything but its samples, as compressed JSON; every field is checked on reading."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from paramisp_cli.errors import FormatError, MetadataError
from paramisp_cli.formats.base import MAX_PIXELS
from paramisp_cli.formats.kept import levels
from paramisp_cli.types import Camera, CanonicalParams, Crop, Metadata, OpticalParams, RawImage

_MOST_JSON = 32 << 20
_MOST_BEYOND = 1 << 22
"""Samples that a mosaic may have besides its crop and as many again."""


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A RAW without its samples, and how they are coded.

    raw          the RAW; its mosaic is 2×2 zeros until ``decoded``
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
        "tone_curve": None if raw.tone_curve is None else raw.tone_curve.tolist(),
        "model": raw.model,
        "source_name": raw.metadata.source_name,
        "exif": _text(raw.metadata.exif),
        "xmp": _text(raw.metadata.xmp),
        "icc": _text(raw.metadata.icc),
    }
    return zlib.compress(json.dumps(described, allow_nan=False, separators=(",", ":")).encode(), 9)


def unpack(data: bytes) -> Record:
    """Return the record; FormatError if a field is missing, of another type or beyond its limits."""
    try:
        decompressor = zlib.decompressobj()
        text = decompressor.decompress(data, _MOST_JSON)
        if not decompressor.eof:
            raise ValueError("too long or cut short")
        return _record(json.loads(text))
    except (
        MetadataError, zlib.error, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise FormatError(f"its record is damaged ({' '.join(str(error).split())[:80]})") from error


def _record(fields: dict[str, Any]) -> Record:
    height, width = (_whole(n, 2, 1 << 17) for n in fields["size"])
    crop = Crop(*(_whole(n, 0, 1 << 17) for n in fields["crop"]))
    if height * width > min(MAX_PIXELS, 2 * crop.height * crop.width + _MOST_BEYOND) or height % 2 or width % 2:
        raise ValueError("size")
    kind, share = fields["kind"], float(fields["share"])
    if kind not in ("lossless", "near", "size") or not 0 <= share < 1e6:
        raise ValueError("kind")
    values = [_values(each) for each in fields["values"]]
    if len(values) != 4:
        raise ValueError("values")
    optional = {
        name: None if fields[name] is None else np.array(fields[name], np.float64).reshape(-1, 2)
        for name in ("noise", "noise_profile", "tone_curve")
    }
    blank = np.broadcast_to(np.uint16(0), (height, width))  # no memory
    raw = RawImage(
        mosaic=blank,
        canonical=CanonicalParams(
            str(fields["cfa"]),
            np.array(fields["black_level"], np.float64),
            float(fields["white_level"]),
            np.array(fields["as_shot_neutral"], np.float64),
            np.array(fields["color_matrix"], np.float64),
        ),
        optical=OpticalParams(**{str(k): None if v is None else float(v) for k, v in fields["optical"].items()}),
        camera=None if fields["camera"] is None else Camera(*map(str, fields["camera"])),
        orientation=_whole(fields["orientation"], 1, 8),
        crop=crop,
        baseline_exposure=float(np.clip(float(fields["baseline_exposure"]), -10, 10)),
        noise_profile=optional["noise_profile"],
        tone_curve=optional["tone_curve"],
        model=None if fields["model"] is None else str(fields["model"]),
        metadata=Metadata(
            exif=_bytes(fields["exif"]),
            xmp=_bytes(fields["xmp"]),
            icc=_bytes(fields["icc"]),
            source_name=None if fields["source_name"] is None else str(fields["source_name"]),
        ),
    )
    pixels, mosaic = bytes.fromhex(fields["pixels"]), bytes.fromhex(fields["mosaic"])
    return Record(
        raw, (height, width), kind, share, optional["noise"], str(fields["noise_origin"])[:200], values, pixels, mosaic
    )


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


def _text(block: bytes | None) -> str | None:
    return None if block is None else base64.b64encode(block).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
