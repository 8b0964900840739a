"""Some pictures of a data set: pairs of ``pairs`` and ``simulate``, and RAWs of ``synth`` in shards or files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paramisp_cli.errors import FileAccessError, FormatError, ParamispError
from paramisp_cli.mosaic import unpacked
from paramisp_cli.pages import pictures
from paramisp_cli.pages.lines import Record
from paramisp_cli.pages.pictures import Picture
from paramisp_cli.training.dataset import Pair, read_arrays
from paramisp_cli.training.synthetic import hdf5
from paramisp_cli.types import CanonicalParams

_SIDE = 240
"""Least size [px] of the longer side of a picture."""


def of_pair(folder: Path, pair: Pair) -> tuple[Picture, Picture]:
    """Return the picture of a pair and its RAW, drawn over the same area.

    Raises FormatError for damaged arrays, and for a line of the index whose area does not fit them.
    """
    samples, srgb = read_arrays(folder, pair)
    try:
        samples, srgb, canonical = _over_each_other(pair, samples, srgb)
        drawn = pictures.of_mosaic(samples, canonical, _SIDE)
        return pictures.embedded(srgb, _SIDE), pictures.embedded(drawn, _SIDE)
    except (TypeError, ValueError, IndexError) as error:
        raise FormatError(f"{folder}: cannot draw {pair.name}: {error}; make the data set again") from error


def _over_each_other(
    pair: Pair, samples: np.ndarray, srgb: np.ndarray
) -> tuple[np.ndarray, np.ndarray, CanonicalParams]:
    """Cut mosaic and picture to the aligned area of a pair with one region, else to their common size."""
    assert pair.canonical is not None
    canonical = pair.canonical
    if len(pair.regions) == 1:
        (region,) = pair.regions
        top, left = region.top + region.dy, region.left + region.dx
        if top >= 0 and left >= 0:
            samples = samples[top : top + region.height, left : left + region.width]
            srgb = srgb[region.top : region.top + region.height, region.left : region.left + region.width]
            canonical = canonical.shifted(top, left)
    height, width = (min(a, b) // 2 * 2 for a, b in zip(samples.shape, srgb.shape[:2], strict=True))
    if not height or not width:
        raise ValueError("mosaic and picture have no common area")
    return samples[:height, :width], srgb[:height, :width], canonical


def synthetic(folder: Path, records: Sequence[Record], most: int) -> list[tuple[Record, Picture, Picture | None]]:
    """Return some RAWs as (line of the index, clean, noisy or None).

    Of shards, only the first of each split is opened. Raises FormatError for a damaged shard, array or line.
    """
    by_name = {str(record.get("name")): record for record in records}
    names = list(by_name)
    shards = [
        path
        for split in ("train", "test")
        for path in sorted(each for each in (folder / split).glob("*") if each.suffix in (".tar", hdf5.SUFFIX))[:1]
    ]
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in shards:
        reader = _of_hdf5 if path.suffix == hdf5.SUFFIX else _of_shard
        for name, arrays in reader(path, set(names), max(most // len(shards), 1)).items():
            found[name] = arrays
    if not shards:
        for at in pictures.spread(len(names), most):
            found[names[at]] = _of_files(folder, by_name[names[at]])
    shown = []
    for name, arrays in found.items():
        if "clean" in arrays:
            clean, noisy = (_drawn(folder, by_name[name], arrays.get(kind)) for kind in ("clean", "noisy"))
            assert clean is not None
            shown.append((by_name[name], clean, noisy))
    return shown


def _of_shard(path: Path, names: set[str], most: int) -> dict[str, dict[str, np.ndarray]]:
    """Read the arrays of at most ``most`` RAWs of a shard, spread over it."""
    found: dict[str, dict[str, np.ndarray]] = {}
    try:
        with tarfile.open(path) as archive:
            members = {member.name: member for member in archive.getmembers() if member.isfile()}
            own = [name for name in names if f"{name}.clean.npy" in members]
            own.sort()
            for at in pictures.spread(len(own), most):
                for kind in ("clean", "noisy"):
                    member = members.get(f"{own[at]}.{kind}.npy")
                    stream = archive.extractfile(member) if member is not None else None
                    if stream is not None:
                        found.setdefault(own[at], {})[kind] = np.load(io.BytesIO(stream.read()))
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise FormatError(
            f"{path}: damaged ({error}); remove it with its index, and `paramisp synth` makes it"
        ) from error
    return found


def _of_hdf5(path: Path, names: set[str], most: int) -> dict[str, dict[str, np.ndarray]]:
    """Read the arrays of at most ``most`` RAWs of an HDF5 file, spread over it."""
    own = [(name, at) for at, name in enumerate(hdf5.names(path)) if name in names]
    picked = [own[at] for at in pictures.spread(len(own), most)]
    arrays = hdf5.read(path, [at for _, at in picked], ("clean", "noisy"))
    return {name: found for (name, _), found in zip(picked, arrays, strict=True)}


def _of_files(folder: Path, record: Record) -> dict[str, np.ndarray]:
    """Read the arrays of a RAW in files of its own."""
    found = {}
    for kind in ("clean", "noisy"):
        path = folder / str(record.get("split")) / kind / f"{record.get('name')}.npy"
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            continue
        try:
            found[kind] = np.load(path)
        except OSError as error:
            raise FileAccessError.of(error, path, "read it") from error
        except (ValueError, EOFError) as error:
            raise FormatError(f"{path}: damaged ({error}); remove it, and `paramisp synth` makes it again") from error
    return found


def _drawn(folder: Path, record: Record, array: np.ndarray | None) -> Picture | None:
    """Draw a RAW by the parameters of its line."""
    if array is None:
        return None
    try:
        canonical = CanonicalParams(*(record[key] for key in (
            "cfa", "black_level", "white_level", "as_shot_neutral", "color_matrix")))  # fmt: skip
        samples = unpacked(array, canonical.cfa) if array.ndim == 3 else array
        return pictures.embedded(pictures.of_mosaic(samples, canonical, _SIDE), _SIDE)
    except (KeyError, TypeError, ValueError, IndexError, ParamispError) as error:
        raise FormatError(f"{folder}: cannot draw {record.get('name')}: {error}; make the data set again") from error
