"""Conversion of the authors' published ParamISP checkpoints: tensors renamed, and checked against each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError, WeightsError
from paramisp_cli.models.foreign import Foreign

LICENCE = "unknown: the authors state none"
"""Licence of the weights that the authors published."""
ROW_SUM_THREE = ("d7000", "d90", "d40", "a7r3", "a7r-iii", "a7riii", "ilce-7rm3")
ROW_SUM_ONE = ("s7", "galaxy-s7", "sm-g930")
"""Words in a camera's or a file's slug, by the rule that scaled the colour matrix of the published weights."""


def row_sum_of(name: str) -> float | None:
    """Return the row sum of ``cam_to_srgb`` in the training of a camera's published weights; None if unknown."""
    text = f"-{re.sub('[^a-z0-9]+', '-', name.lower())}-"
    for words, row_sum in ((ROW_SUM_THREE, 3.0), (ROW_SUM_ONE, 1.0)):
        if any(f"-{word}-" in text for word in words):
            return row_sum
    return None


def _names() -> dict[str, str]:
    """Map each module of a published network to a module of ``network``; each has .weight and .bias."""
    names = {f"tonenet.convs.{i}": f"globalnet.convs.{i}" for i in range(3)}
    names |= {f"tonenet.fcs.{i}": f"globalnet.hidden.{i}" for i in range(2)}
    names |= {f"tonenet.fc_last.{i}": f"globalnet.last.{i}" for i in range(4)}
    names |= {"tonenet.fc_index": "globalnet.stage", "hypertonenet.fc_embed": "globalnet.condition"}
    names |= {"localnet.conv_head": "localnet.head", "localnet.conv_tail": "localnet.tail"}
    names |= {"hyperlocalnet.fc_head": "localnet.condition"}
    # The published decoder counts by level, full size first; ours counts in order of use. (Only this order of the ten
    # blocks and the two up-convolutions reproduces the stored outputs.)
    names |= {f"localnet.conv_down.{i}": f"localnet.down.{i}" for i in range(2)}
    names |= {f"localnet.conv_up.{i}": f"localnet.up.{1 - i}" for i in range(2)}
    layers = {"conv1": "conv1", "conv2": "conv2", "chattn.conv1": "channel1", "chattn.conv2": "channel2"}
    layers |= {"spattn.conv": "spatial"}
    for used, i in enumerate((0, 1, 2, 3, 4, 5, 8, 9, 6, 7)):
        names |= {f"localnet.resblks.{i}.{theirs}": f"localnet.blocks.{used}.{ours}" for theirs, ours in layers.items()}
    names |= {"embed_color": "paramnet.color"}
    embeds = {"focallen": "focal_length", "aperture": "f_number", "expstime": "exposure_time", "senstvty": "iso"}
    names |= {f"embed_{theirs}": f"paramnet.optical.{ours}" for theirs, ours in embeds.items()}
    return names | {f"embednet.{i}": f"paramnet.mlp.{i}" for i in (1, 3, 5)}


NAMES = _names()
_DROPPED = ("demosaic.", "ms_ssim_loss.", "embed_id.")
_REPEATED = {"hypertonenet.target.": "tonenet.", "hyperlocalnet.target.": "localnet."}
_JOINT = {"rgb2raw.": Direction.UNPROCESS, "raw2rgb.": Direction.RENDER}

Converted = tuple[dict[str, object], dict[str, np.ndarray]]
"""Constructor arguments of the class, and its tensors by name."""


def count_known(tensors: Iterable[str]) -> int:
    """Count the names of tensors that belong to a published ParamISP checkpoint."""
    wanted = {f"{theirs}.{kind}" for theirs in NAMES for kind in ("weight", "bias")}
    bare = (key.removeprefix("rgb2raw.").removeprefix("raw2rgb.") for key in tensors)
    return sum(_original(key) in wanted for key in bare)


def convert(
    foreign: Foreign, direction: Direction | None, *, camera: str | None, row_sum: float | None
) -> dict[Direction, Converted]:
    """Convert a checkpoint to one network by direction; a joint checkpoint to both, or to the one for ``direction``.

    ``row_sum`` is the sum of the colour matrix's rows (1 or 3). None: looked up by ``camera``, or without a camera by
    the file's name, else 3. Raises WeightsError for a bad file, and ConfigError if the direction or the row sum is
    unknown.
    """
    where, tensors = foreign.where, foreign.tensors
    if row_sum is None and (row_sum := row_sum_of(camera or re.split(r"[\\/]", where)[-1])) is None:
        if camera is not None:
            raise ConfigError(
                f"the row sum of the colour matrix for {camera} is not known; pass `row_sum` "
                "(color_matrix_row_sum): published weights use 3 for D7000, D90, D40 and A7R III, 1 for the Galaxy S7"
            )
        row_sum = 3.0
    if not any(key.startswith(tuple(_JOINT)) for key in tensors):
        stored = _stored_direction(foreign.others)
        if direction is not None and stored not in (None, direction):
            raise WeightsError(f"{where} is for {stored}, {direction} is needed")
        if (way := direction or stored) is None:
            raise ConfigError(f"{where} does not state its direction; pass `direction`: {' or '.join(ISP_DIRECTIONS)}")
        return {way: _convert(foreign, "", way, row_sum)}
    if loose := [key for key in tensors if not key.startswith((*_JOINT, *_DROPPED))]:
        raise WeightsError(f"{where} has tensors that ParamISP does not have: {', '.join(loose[:4])}")
    return {way: _convert(foreign, prefix, way, row_sum) for prefix, way in _JOINT.items() if direction in (None, way)}


def _stored_direction(saved: Mapping[str, object]) -> Direction | None:
    """Return the direction by the training program's ``inverse`` flag, plain data beside the weights; None without."""
    hyper = saved.get("hyper_parameters")
    for _ in range(2):  # the flag itself, or an ``args`` that holds it
        hyper = hyper if isinstance(hyper, dict) else getattr(hyper, "__dict__", {})
        if "inverse" in hyper:
            break
        hyper = hyper.get("args")
    inverse = hyper.get("inverse") if isinstance(hyper, dict) else None
    if not isinstance(inverse, bool):
        return None
    return Direction.UNPROCESS if inverse else Direction.RENDER


def _convert(foreign: Foreign, prefix: str, direction: Direction, row_sum: float) -> Converted:
    """Convert one network: rename its tensors, drop the known unused ones, refuse all others."""
    where = foreign.where
    arrays: dict[str, np.ndarray] = {}
    for key, read in foreign.tensors.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name.startswith(_DROPPED):
            continue
        module, _, kind = _original(name).rpartition(".")
        if module not in NAMES or kind not in ("weight", "bias"):
            raise WeightsError(f"{where} has a tensor that ParamISP does not have: {name}")
        arrays[name] = read()
    tensors = {}
    for key, array in arrays.items():
        if (original := _original(key)) != key:
            if original not in arrays or not np.array_equal(arrays[original], array):
                raise WeightsError(f"{where}: {key} differs from the tensor that it should repeat")
            continue
        module, _, kind = key.rpartition(".")
        tensors[f"{NAMES[module]}.{kind}"] = array
    wanted = [f"{theirs}.{kind}" for theirs in NAMES for kind in ("weight", "bias")]
    if missing := [key for key in wanted if key not in arrays]:
        some = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
        raise WeightsError(f"{where} lacks {len(missing)} of ParamISP's tensors: {some}")
    config: dict[str, object] = {"direction": str(direction), "color_matrix_row_sum": row_sum}
    return config | {"demosaic_border": "replicate"}, tensors


def _original(key: str) -> str:
    """Return the name of the tensor that a hyper-network's copy repeats; for other tensors ``key`` itself."""
    prefix = next((prefix for prefix in _REPEATED if key.startswith(prefix)), None)
    return key if prefix is None else _REPEATED[prefix] + key.removeprefix(prefix)
