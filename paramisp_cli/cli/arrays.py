"""Check the options of `unprocess` for arrays and patches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paramisp_cli.cli.console import fail, fail_usage
from paramisp_cli.cli.options import ArrayOptions, BatchOptions
from paramisp_cli.errors import ConfigError

if TYPE_CHECKING:
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.patches import Grid


def grid_of(arrays: ArrayOptions, suffix: str, batch: BatchOptions, options: WriteOptions, linear: bool) -> Grid | None:
    """Return the grid of patches, if there is one; end with a usage error for options that do not go together."""
    from paramisp_cli.patches import Grid

    if suffix in (".npy", ".npz", ".tif", ".tiff", ".exr"):
        if (options.profile, options.compression, options.embed_jpeg) != ("match", "lossless", True):
            fail_usage("--profile, --compression and --no-embed-jpeg are for a DNG; leave them out for an array")
    elif arrays.layout == "packed" or arrays.bits not in (None, 16):
        given = "--layout packed" if arrays.layout == "packed" else f"--bits {arrays.bits}"
        fail_usage(f"{given} is for an array, not for a DNG; pass --format npy, npz, tif or exr")
    if arrays.bits not in (None, 16, 32):
        fail_usage(f"--bits takes 16 or 32, not {arrays.bits}")
    if suffix == ".exr":
        from paramisp_cli.formats import exr

        try:
            exr.check()
        except ConfigError as error:
            fail(error)
    if linear and arrays.layout in ("mosaic", "packed"):
        fail_usage(f"--linear is --layout rgb; leave out --linear or --layout {arrays.layout}")
    if batch.output == Path("-") and (suffix == ".npy" or arrays.patch is not None):
        fail_usage("-o -: stdout holds one file; pass --format npz, tif or exr, and leave out --patch")
    if arrays.patch is None:
        if arrays.stride is not None:
            fail_usage("--stride is the step between patches; pass --patch, too")
        return None
    stride = arrays.patch if arrays.stride is None else arrays.stride
    try:
        return Grid(arrays.patch, stride, 2 if arrays.layout == "packed" else 1)
    except ConfigError as error:
        fail(error)
