"""OpenEXR: linear pictures of 32-bit floats, written by the package openexr, an optional extra."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats.base import Format, WriteOptions
from paramisp_cli.types import LinearImage, Output

_MAGIC = b"v/1\x01"
_CHROMATICITIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)
"""Primaries and white of sRGB, as x and y (Rec. ITU-R BT.709)."""


def check() -> None:
    """Raise ConfigError if the package that writes OpenEXR is missing."""
    if importlib.util.find_spec("OpenEXR") is None:
        raise ConfigError(
            "OpenEXR needs the package openexr: `pip install 'paramisp[exr]'`, or write .tif or .hdr instead"
        )


def _write(image: Output, path: Path, options: WriteOptions) -> None:
    """Write three channels of 32-bit floats with ZIP compression; the XMP packet goes into the attribute ``xmp``."""
    if not isinstance(image, LinearImage):
        raise FormatError("OpenEXR holds linear pictures alone")
    check()
    import OpenEXR

    height, width = image.size
    header: dict[str, object] = {
        "compression": OpenEXR.ZIP_COMPRESSION,
        "type": OpenEXR.scanlineimage,
        "chromaticities": _CHROMATICITIES,
    }
    if image.metadata.xmp:
        header["xmp"] = image.metadata.xmp.decode("utf-8", "replace")
    if image.camera is not None:
        header |= {"cameraMake": image.camera.make, "cameraModel": image.camera.model}
    optical = {
        "isoSpeed": image.optical.iso,
        "expTime": image.optical.exposure_time,
        "aperture": image.optical.f_number,
    }
    header |= {name: float(value) for name, value in optical.items() if value is not None}
    # Copies: the package takes contiguous arrays that can be written to.
    planes = {name: image.pixels[..., number].copy() for number, name in enumerate("RGB")}
    try:
        with OpenEXR.File(header, planes) as file:
            file.write(str(path))
    except (RuntimeError, ValueError, TypeError) as error:
        raise FormatError(f"OpenEXR cannot write {width}×{height} pixels: {error}") from error


def _verify(image: Output, path: Path, options: WriteOptions) -> None:
    """Read the file again and compare every float."""
    import numpy as np
    import OpenEXR

    assert isinstance(image, LinearImage)
    with OpenEXR.File(str(path), separate_channels=True) as file:
        same = all(
            np.array_equal(file.channels()[name].pixels, image.pixels[..., number]) for number, name in enumerate("RGB")
        )
    if not same:
        raise FormatError(f"{path}: holds other values")


FORMAT = Format(
    "OpenEXR", (".exr",), sniff=lambda head: head.startswith(_MAGIC), read=None, write=_write, verify=_verify
)
