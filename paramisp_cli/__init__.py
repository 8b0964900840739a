"""paramisp: estimates the RAW file behind a JPEG, and renders RAW files into pictures.

``import paramisp_cli as paramisp``; a name is loaded on first use, so the import costs nothing.

    raw = paramisp.unprocess("photo.jpg")           # or an array, a tensor, a PIL picture
    paramisp.write(raw, "photo.dng")
    picture = paramisp.render("photo.dng")
    model = paramisp.load_model("generic", "unprocess")   # a torch module: y = model(x, params)
"""

import typing as _typing
from importlib import import_module as _import_module

__version__ = "0.1.0"

if _typing.TYPE_CHECKING:
    from paramisp_cli.apps.hdr import hdr
    from paramisp_cli.convert import render, transfer, unprocess
    from paramisp_cli.directions import Direction
    from paramisp_cli.errors import (
        ConfigError,
        FileAccessError,
        FormatError,
        InputMissingError,
        MetadataError,
        OutputExistsError,
        ParamispError,
        WeightsError,
    )
    from paramisp_cli.formats import WriteOptions, read, write
    from paramisp_cli.models.base import IspModel, Params
    from paramisp_cli.parameters import Settings
    from paramisp_cli.types import (
        Camera,
        CanonicalParams,
        Confidence,
        Crop,
        HdrImage,
        LinearImage,
        Metadata,
        OpticalParams,
        RawImage,
        SrgbImage,
    )
    from paramisp_cli.weights import load_model

_HOME = {
    "Camera": "types",
    "CanonicalParams": "types",
    "Confidence": "types",
    "ConfigError": "errors",
    "Crop": "types",
    "Direction": "directions",
    "FileAccessError": "errors",
    "FormatError": "errors",
    "HdrImage": "types",
    "InputMissingError": "errors",
    "IspModel": "models.base",
    "LinearImage": "types",
    "Metadata": "types",
    "MetadataError": "errors",
    "OpticalParams": "types",
    "OutputExistsError": "errors",
    "ParamispError": "errors",
    "Params": "models.base",
    "RawImage": "types",
    "Settings": "parameters",
    "SrgbImage": "types",
    "WeightsError": "errors",
    "WriteOptions": "formats",
    "hdr": "apps.hdr",
    "load_model": "weights",
    "read": "formats",
    "render": "convert",
    "transfer": "convert",
    "unprocess": "convert",
    "write": "formats",
}

__all__ = [
    "Camera",
    "CanonicalParams",
    "Confidence",
    "ConfigError",
    "Crop",
    "Direction",
    "FileAccessError",
    "FormatError",
    "HdrImage",
    "InputMissingError",
    "IspModel",
    "LinearImage",
    "Metadata",
    "MetadataError",
    "OpticalParams",
    "OutputExistsError",
    "ParamispError",
    "Params",
    "RawImage",
    "Settings",
    "SrgbImage",
    "WeightsError",
    "WriteOptions",
    "hdr",
    "load_model",
    "read",
    "render",
    "transfer",
    "unprocess",
    "write",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names and the version."""
    return sorted([*__all__, "__version__"])
