"""The record of an array: its layout and every parameter of its RAW as JSON, in one line, and the RAW again from it.

The samples of a RAW are an array in one of three layouts. All other facts are the record: levels, colours, camera,
settings, the place of a patch, the source and its SHA-256, and the origin of the RAW. ``formats.arrays`` puts the
record into the file, or beside it. The source's own EXIF, XMP and GPS position do not go into a data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from paramisp_cli import __version__, mosaic
from paramisp_cli.errors import ConfigError, FormatError, ParamispError
from paramisp_cli.formats import provenance
from paramisp_cli.types import (
    CFA_PATTERNS,
    Camera,
    CanonicalParams,
    Crop,
    Metadata,
    OpticalParams,
    Patch,
    RawImage,
)

LAYOUTS = ("mosaic", "packed", "rgb")
FORMAT, VERSION = "paramisp array", 1
DTYPES = ("uint16", "float32")
LONGEST = 1 << 20
"""Most bytes of a record that are read; real ones have about 2000."""
_OF_THREE = CFA_PATTERNS[0]
_COLOURS = ["R", "G", "B"]
_SOURCE = "the record of the array"


def layout_of(raw: RawImage, layout: str | None) -> str:
    """Return the layout for a RAW; ConfigError for an unknown one, FormatError for one that it cannot have."""
    if layout is None:
        return "rgb" if raw.linear is not None else "mosaic"
    if layout not in LAYOUTS:
        raise ConfigError(f"`layout` must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if (layout == "rgb") != (raw.linear is not None):
        has = "one colour" if raw.linear is None else "three colours"
        raise FormatError(f"this RAW has {has} a pixel, not that of `layout` {layout}; `linear` makes three colours")
    return layout


def as_read(raw: RawImage) -> RawImage:
    """Return a RAW as its array gives it back: its crop, rounded up to even sides.

    The mosaic beside three colours a pixel is a sample of them, by the first CFA, as a LinearRaw DNG gives it back.
    """
    raw = raw.cropped()
    if raw.linear is None:
        return raw
    canonical = replace(raw.canonical, cfa=_OF_THREE, black_level=_by_first_cfa(_black(raw, "rgb")))
    return replace(raw, mosaic=mosaic.sampled(raw.linear, _OF_THREE), canonical=canonical)


def _by_first_cfa(black: list[float]) -> np.ndarray:
    return mosaic.by_site(np.array(black, np.float64), _OF_THREE)


def with_samples_of(raw: RawImage, other: RawImage) -> RawImage:
    """Return a RAW as ``as_read`` gives it, with the samples of another one of its size."""
    return replace(raw, mosaic=other.mosaic, linear=other.linear)


def samples_of(raw: RawImage, layout: str) -> np.ndarray:
    """Return the samples of the RAW's picture in a layout, in C order: its crop, rounded up to even sides."""
    raw = as_read(raw)
    if layout == "packed":
        return mosaic.packed(raw.mosaic, raw.canonical.cfa)
    return np.ascontiguousarray(raw.mosaic if raw.linear is None else raw.linear)


def shape_of(record: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape that a record states; FormatError if it is none of its layout."""
    layout, shape = record.get("layout"), record.get("shape")
    sizes = {"mosaic": 2, "packed": 3, "rgb": 3}
    if layout not in sizes:
        raise FormatError(f"its record has the layout {layout!r}, not one of {', '.join(LAYOUTS)}")
    if not isinstance(shape, list) or not all(type(side) is int and side > 0 for side in shape):
        raise FormatError(f"its record has the shape {shape!r}, not a list of whole numbers")
    channels = {"packed": 4, "rgb": 3}.get(layout)
    if len(shape) != sizes[layout] or (channels is not None and shape[2] != channels):
        wanted = {"mosaic": "(H, W)", "packed": "(H, W, 4)", "rgb": "(H, W, 3)"}[layout]
        raise FormatError(f"the layout {layout} is {wanted}, its record says {tuple(shape)}")
    return tuple(shape)


def check_samples(
    record: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype, dtypes: tuple[str, ...] = DTYPES
) -> None:
    """Raise FormatError unless samples of this shape and type are those of the record; call it before decoding."""
    wanted, kind = shape_of(record), record.get("dtype")
    if shape != wanted:
        raise FormatError(
            f"the array is {shape}, its record says {wanted} ({record['layout']}): they do not belong together"
        )
    if dtype.name != kind or kind not in dtypes:
        raise FormatError(
            f"the array is of {dtype.name}, its record says {kind}; paramisp reads {' and '.join(dtypes)}"
        )


def digest(samples: np.ndarray) -> str:
    """Return the SHA-256 of samples, little-endian in C order, in hexadecimal."""
    plain = np.ascontiguousarray(samples, samples.dtype.newbyteorder("<"))
    return hashlib.sha256(plain.data).hexdigest()


# --- writing ----------------------------------------------------------------------------------------------------------


def record_of(raw: RawImage, samples: np.ndarray, layout: str) -> dict[str, Any]:
    """Return the record of a RAW whose samples ``samples_of`` gave: plain values for JSON."""
    raw = as_read(raw)
    canonical, camera, crop = raw.canonical, raw.camera, raw.crop
    names = _COLOURS if layout == "rgb" else mosaic.site_names(canonical.cfa)
    by_name = dict(zip(names, _black(raw, layout), strict=True))
    channels = list(mosaic.PACKED) if layout == "packed" else names
    black, white = [by_name[name] for name in channels], canonical.white_level
    levels: dict[str, Any] = {"black_level": black, "white_level": white}
    if samples.dtype.kind == "f":
        levels = {"black_level": [0.0] * len(channels), "white_level": 1.0, "camera_levels": levels}
    return {
        "format": FORMAT,
        "version": VERSION,
        "software": f"paramisp {__version__}",
        "layout": layout,
        "channels": channels,
        "shape": list(samples.shape),
        "dtype": samples.dtype.name,
        "sha256": digest(samples),
        **({} if layout == "rgb" else {"cfa": canonical.cfa}),
        **levels,
        "as_shot_neutral": canonical.as_shot_neutral.tolist(),
        "wb_gains": canonical.wb_gains.tolist(),
        "color_matrix": canonical.color_matrix.tolist(),
        "camera": None if camera is None else asdict(camera),
        **asdict(raw.optical),
        "orientation": raw.orientation,
        "crop": None if crop is None else asdict(crop),
        "patch": None if raw.patch is None else asdict(raw.patch),
        "baseline_exposure": raw.baseline_exposure,
        "noise_profile": None if raw.noise_profile is None else raw.noise_profile.tolist(),
        "source": raw.metadata.source_name,
        "source_sha256": _source_sha256(raw.metadata),
        "model": raw.model,
        "made_by": _history(raw),
        "origin": dict(raw.origin),
    }  # fmt: skip


def _black(raw: RawImage, layout: str) -> list[float]:
    """Return the black levels of the samples: of each site of the 2×2, or of each colour."""
    black, cfa = raw.canonical.black_level, raw.canonical.cfa
    levels: list[float] = (mosaic.by_color(black, cfa) if layout == "rgb" else black.ravel()).tolist()
    return levels


def _source_sha256(about: Metadata) -> str | None:
    if about.source_sha256 is None and about.jpeg is not None:
        return hashlib.sha256(about.jpeg).hexdigest()
    return about.source_sha256


def _history(raw: RawImage) -> dict[str, Any] | None:
    """Return the RAW's origin; the sources of its values are in the record already."""
    history = provenance.history_of(raw.metadata.xmp)
    return None if history is None else {key: value for key, value in history.items() if key != "origin"}


def text_of(record: Mapping[str, Any]) -> str:
    """Return a record as one line of JSON, in ASCII, without the line's end."""
    return json.dumps(record, allow_nan=False)


# --- reading ----------------------------------------------------------------------------------------------------------


def parsed(text: bytes | str) -> dict[str, Any]:
    """Return the record in a text; FormatError if it is not one."""
    if len(text) > LONGEST:
        raise FormatError(f"its record has {len(text)} bytes, more than any array needs; it is damaged")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError("its record is not JSON; it is damaged") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise FormatError(f'its record is not one of paramisp ("format" is not "{FORMAT}")')
    if record.get("version") != VERSION:
        raise FormatError(f"its record has the version {record.get('version')!r}; this paramisp reads {VERSION}")
    return record


def is_own(record: Mapping[str, Any]) -> bool:
    """Tell whether paramisp wrote a record."""
    return str(record.get("software", "")).startswith("paramisp")


def image_of(samples: np.ndarray, record: Mapping[str, Any], name: str) -> RawImage:
    """Return the RAW of samples, which ``check_samples`` has checked; ``name`` is the file's, for a missing source.

    Raises FormatError for samples that the record does not describe (their digest differs), for values that are not
    finite, and for a record without the facts of a RAW.
    """
    samples = np.ascontiguousarray(samples, samples.dtype.newbyteorder("="))
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise FormatError("the array has values that are not finite; it is damaged")
    if digest(samples) != record.get("sha256"):
        raise FormatError(
            "the array is not the one of its record (its SHA-256 differs): one of them was changed or is damaged"
        )
    if samples.dtype == np.float16:
        samples = samples.astype(np.float32)
    try:
        return _image_of(samples, record, name)
    except ParamispError as error:
        raise FormatError(f"its record makes no RAW: {error}", error.field) from error
    except KeyError as error:
        raise FormatError(f"its record makes no RAW: it has no {error}") from error
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise FormatError(f"its record makes no RAW: {' '.join(str(error).split())}") from error


def _image_of(samples: np.ndarray, record: Mapping[str, Any], name: str) -> RawImage:
    layout, channels = record["layout"], record["channels"]
    cfa = _OF_THREE if layout == "rgb" else record["cfa"]
    if cfa not in CFA_PATTERNS:
        raise FormatError(f"the CFA is {cfa!r}, not one of {', '.join(CFA_PATTERNS)}")
    levels = record["camera_levels"] if samples.dtype == np.float32 else record
    by_name = dict(zip(channels, levels["black_level"], strict=True))
    names = _COLOURS if layout == "rgb" else mosaic.site_names(cfa)
    if sorted(channels) != sorted(names):
        raise FormatError(f"the channels are {channels!r}, not {', '.join(names)}")
    black = [float(by_name[each]) for each in names]
    canonical = CanonicalParams(
        cfa,
        _by_first_cfa(black) if layout == "rgb" else np.array(black).reshape(2, 2),
        float(levels["white_level"]),
        record["as_shot_neutral"],
        record["color_matrix"],
    )
    made = record.get("made_by")
    origin = {str(key): str(value) for key, value in record.get("origin", {}).items()}
    source, source_sha256, model = (record.get(key) for key in ("source", "source_sha256", "model"))
    packet = None if made is None else provenance.packet_of({**made, "origin": origin})
    camera, noise = record.get("camera"), record.get("noise_profile")
    facts: dict[str, Any] = {
        "optical": OpticalParams(**{each.name: _number(record.get(each.name)) for each in fields(OpticalParams)}),
        "camera": None if camera is None else Camera(str(camera["make"]), str(camera["model"])),
        "orientation": record["orientation"],
        "crop": None if record.get("crop") is None else Crop(**_whole(record["crop"])),
        "patch": None if record.get("patch") is None else Patch(**_whole(record["patch"])),
        "origin": dict.fromkeys(("cfa", "black_level", "white_level", "color_matrix", "wb"), _SOURCE),
        "metadata": Metadata(
            xmp=packet,
            source_name=name if source is None else str(source),
            source_sha256=None if source_sha256 is None else str(source_sha256),
        ),
        "baseline_exposure": float(np.clip(float(record["baseline_exposure"]), -10, 10)),
        "noise_profile": None if noise is None else np.array(noise, np.float64),
        "model": None if model is None else str(model),
    }  # fmt: skip
    if layout == "rgb":
        return RawImage.of_linear(samples, canonical, **facts)
    return RawImage(mosaic.unpacked(samples, cfa) if layout == "packed" else samples, canonical, **facts)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _whole(values: Mapping[str, Any]) -> dict[str, int]:
    """Return the values, which must be whole numbers; TypeError else."""
    for key, value in values.items():
        if type(value) is not int:
            raise TypeError(f"{key} is {value!r}, not a whole number")
    return dict(values)
