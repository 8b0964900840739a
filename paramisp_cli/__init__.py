"""paramisp: a JPEG back to the RAW its camera must have seen, and a RAW to the picture it would have made.

``import paramisp_cli as paramisp``; names are loaded when first used, so that importing costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from paramisp_cli.errors import ParamispError
    from paramisp_cli.formats import WriteOptions, read, write
    from paramisp_cli.models.base import Params
    from paramisp_cli.pipeline import Settings, render, unprocess
    from paramisp_cli.types import (
        Camera,
        CanonicalParams,
        Direction,
        OpticalParams,
        RawImage,
        SrgbImage,
    )
    from paramisp_cli.weights import load_model

_HOME = {
    "ParamispError": "errors",
    "WriteOptions": "formats",
    "read": "formats",
    "write": "formats",
    "Params": "models.base",
    "Settings": "pipeline",
    "render": "pipeline",
    "unprocess": "pipeline",
    "Camera": "types",
    "CanonicalParams": "types",
    "Direction": "types",
    "OpticalParams": "types",
    "RawImage": "types",
    "SrgbImage": "types",
    "load_model": "weights",
}

__all__ = [
    "Camera",
    "CanonicalParams",
    "Direction",
    "OpticalParams",
    "ParamispError",
    "Params",
    "RawImage",
    "Settings",
    "SrgbImage",
    "WriteOptions",
    "load_model",
    "read",
    "render",
    "unprocess",
    "write",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
