"""OpenEXR by the package openexr, an optional extra: linear pictures, and arrays of RAW samples as floats.

An array has a channel "Y" (mosaic), "R", "G1", "G2", "B" (packed: R, Gr, Gb, B), or "R", "G", "B". Its record is the
attribute "ParamispArray"; attributes are stored by name, so it is in the first bytes and tells that the file is an
array. Further attributes repeat the levels and the CFA for other programs.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import array_record
from paramisp_cli.formats.base import MAX_PIXELS, Format, WriteOptions, check_pixels, one_line
from paramisp_cli.formats.quiet import captured, unprinted
from paramisp_cli.formats.verify import check_same
from paramisp_cli.types import LinearImage, OpticalParams, Output, RawImage

_MAGIC = b"v/1\x01"
_CHROMATICITIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)
"""Primaries and white of sRGB, as x and y (Rec. ITU-R BT.709)."""
_RECORD = "ParamispArray"
_CHANNELS = {"mosaic": ("Y",), "packed": ("R", "G1", "G2", "B"), "rgb": ("R", "G", "B")}
_DTYPES = ("float32", "float16")
_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, OSError)
"""Errors of the package for damaged files and for pictures that it cannot write."""


def check() -> None:
    """Raise ConfigError if the package for OpenEXR is missing."""
    if importlib.util.find_spec("OpenEXR") is None:
        raise ConfigError(
            "OpenEXR needs the package openexr: `pip install 'paramisp[exr]'`, or choose another format, such as .tif"
        )


def _put(path: Path, header: dict[str, object], planes: dict[str, np.ndarray]) -> None:
    """Write contiguous planes (H, W) with ZIP compression."""
    check()
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage} | header
    try:
        with OpenEXR.File(header, planes) as file:
            file.write(str(path))
    except _ERRORS as error:
        height, width = next(iter(planes.values())).shape
        raise FormatError(f"OpenEXR cannot write {width}×{height} pixels: {one_line(error)}") from error


def _optical(optical: OpticalParams) -> dict[str, object]:
    """Return OpenEXR's standard attributes of the shot's settings."""
    values = {"isoSpeed": optical.iso, "expTime": optical.exposure_time, "aperture": optical.f_number}
    return {name: float(value) for name, value in values.items() if value is not None}


# --- linear pictures --------------------------------------------------------------------------------------------------


def _write(image: Output, path: Path, options: WriteOptions) -> None:
    """Write three channels of 32-bit floats; the XMP packet goes into the attribute ``xmp``."""
    if not isinstance(image, LinearImage):
        raise FormatError("OpenEXR holds linear pictures alone")
    header: dict[str, object] = {"chromaticities": _CHROMATICITIES}
    if image.metadata.xmp:
        header["xmp"] = image.metadata.xmp.decode("utf-8", "replace")
    if image.camera is not None:
        header |= {"cameraMake": image.camera.make, "cameraModel": image.camera.model}
    # Copies: the package takes contiguous arrays that can be written to.
    planes = {name: image.pixels[..., number].copy() for number, name in enumerate("RGB")}
    _put(path, header | _optical(image.optical), planes)


def _verify(image: Output, path: Path, options: WriteOptions) -> None:
    """Read the file again and compare every float."""
    import OpenEXR

    assert isinstance(image, LinearImage)
    with OpenEXR.File(str(path), separate_channels=True) as file:
        same = all(
            np.array_equal(file.channels()[name].pixels, image.pixels[..., number]) for number, name in enumerate("RGB")
        )
    if not same:
        raise FormatError(f"{path}: holds other values")


FORMAT = Format(
    "OpenEXR",
    (".exr",),
    sniff=lambda head: head.startswith(_MAGIC),
    read=None,
    write=_write,
    verify=_verify,
    holds=(LinearImage,),
)


# --- arrays of RAW samples --------------------------------------------------------------------------------------------


def parts(image: Output, options: WriteOptions) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the samples of a RAW, float32 or float16, and its record. Raises FormatError for integers."""
    if not isinstance(image, RawImage):
        raise FormatError("only a RAW image can be written as an array")
    layout = array_record.layout_of(image, options.layout)
    samples = array_record.samples_of(image, layout)
    if samples.dtype != np.float32:
        raise FormatError("OpenEXR holds floats, and this RAW has whole numbers: make it with `bit_depth` 32")
    if options.half:
        with np.errstate(over="ignore"):
            samples = samples.astype(np.float16)
        if not np.isfinite(samples).all():
            raise FormatError("its samples reach beyond 65504, the largest number of 16 bits; leave out `half`")
    return samples, array_record.record_of(image, samples, layout)


def _write_array(image: Output, path: Path, options: WriteOptions) -> None:
    samples, record = parts(image, options)
    assert isinstance(image, RawImage)
    names = _CHANNELS[record["layout"]]
    planes = np.moveaxis(samples.reshape(*samples.shape[:2], -1), 2, 0)
    header: dict[str, object] = {
        _RECORD: array_record.text_of(record),
        "blackLevel": record["black_level"],
        "whiteLevel": record["white_level"],
        "asShotNeutral": record["as_shot_neutral"],
        "colorMatrix": [float(value) for row in record["color_matrix"] for value in row],
    }
    if "cfa" in record:
        header["cfa"] = record["cfa"]
    if image.camera is not None:
        header |= {"cameraMake": image.camera.make, "cameraModel": image.camera.model}
    _put(
        path,
        header | _optical(image.optical),
        {name: plane.copy() for name, plane in zip(names, planes, strict=True)},
    )


def is_array(head: bytes) -> bool:
    """Tell whether a file with these first 64 bytes is an array of ``unprocess``."""
    return head.startswith(_MAGIC) and head[8 : 9 + len(_RECORD)] == _RECORD.encode() + b"\0"


def _found(path: Path, names: tuple[str, ...] = ()) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the header and the named planes; FormatError if the file is damaged or the package is missing."""
    try:
        check()
    except ConfigError as error:
        raise FormatError(str(error).replace(", or choose", "; for writing, choose")) from error
    import OpenEXR

    try:
        # On damage, the package prints to stdout and stderr, and raises an error as well.
        with captured([]), unprinted(), OpenEXR.File(str(path), True, not names) as file:
            # Copies: the package empties its own on closing.
            return dict(file.header()), [np.array(file.channels()[name].pixels) for name in names]
    except _ERRORS as error:
        raise FormatError(f"is damaged, or its writer was interrupted ({one_line(error)})") from error


def record_at(path: Path) -> dict[str, Any]:
    """Return the record of an array; FormatError if it is damaged."""
    return array_record.parsed(str(_found(path)[0].get(_RECORD, "")))


def _read_array(path: Path, max_pixels: int = MAX_PIXELS) -> RawImage:
    try:
        header, _ = _found(path)
        record = array_record.parsed(str(header.get(_RECORD, "")))
        shape = array_record.shape_of(record)
        dtype = np.dtype(str(record.get("dtype")) if record.get("dtype") in _DTYPES else "u1")
        array_record.check_samples(record, shape, dtype, _DTYPES)
        first, last = header["dataWindow"]
        found = (int(last[1]) - int(first[1]) + 1, int(last[0]) - int(first[0]) + 1)
        names = _CHANNELS[record["layout"]]
        cell = 2 if record["layout"] == "packed" else 1
        check_pixels(cell * found[1], cell * found[0], max_pixels)
        if found != shape[:2] or sorted(each.name for each in header["channels"]) != sorted(names):
            raise FormatError("its channels are not those of its record; it is damaged, or another program wrote it")
        _, planes = _found(path, names)
        if any(plane.dtype != dtype or plane.shape != found for plane in planes):
            raise FormatError("its samples are not those of its record; it is damaged, or another program wrote it")
        samples = planes[0] if len(shape) == 2 else np.stack(planes, -1)
        return array_record.image_of(samples, record, path.name)
    except FormatError as error:
        raise error.named(path) from error


def _verify_array(image: Output, path: Path, options: WriteOptions) -> None:
    assert isinstance(image, RawImage)  # write checked it
    back = _read_array(path, image.mosaic.size)
    written = array_record.as_read(image)
    if options.half:  # the samples that were rounded are those of the record, whose digest was checked
        written = array_record.with_samples_of(written, back)
    check_same(written, back)


ARRAY = Format(
    "OpenEXR of RAW samples",
    (".exr",),
    is_array,
    read=_read_array,
    write=_write_array,
    verify=_verify_array,
    holds=(RawImage,),
)
