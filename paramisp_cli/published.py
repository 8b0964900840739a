"""The authors' published ParamISP checkpoints (Lightning ``.ckpt``).

``torch_zip`` reads the file and runs no code in it. Here its tensors are renamed, checked against each other
and loaded strictly. Importing this module costs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paramisp_cli.cameras import slug
from paramisp_cli.errors import ConfigError, WeightsError
from paramisp_cli.torch_zip import Archive, Inert, TensorRef, content
from paramisp_cli.types import Direction

if TYPE_CHECKING:
    import torch

    from paramisp_cli.models.base import IspModel

    Build = Callable[[str, str, str, str, Mapping[str, torch.Tensor]], IspModel]

__all__ = ["NAMES", "ROW_SUM_ONE", "ROW_SUM_THREE", "content", "read", "row_sum_of"]

ROW_SUM_THREE = ("d7000", "d90", "d40", "a7r3", "a7r-iii", "a7riii", "ilce-7rm3")
ROW_SUM_ONE = ("s7", "galaxy-s7", "sm-g930")
"""Words in a camera's or a file's slug that tell by which rule the published weights scaled the colour matrix."""


def row_sum_of(name: str) -> float | None:
    """How the published weights of a camera scale the rows of ``cam_to_srgb``: 3, 1, or None for a camera not known."""
    text = f"-{slug(name)}-"
    for words, row_sum in ((ROW_SUM_THREE, 3.0), (ROW_SUM_ONE, 1.0)):
        if any(f"-{word}-" in text for word in words):
            return row_sum
    return None


def _names() -> dict[str, str]:
    """Module of a published network → module of ours; each has .weight and .bias."""
    names = {f"tonenet.convs.{i}": f"globalnet.convs.{i}" for i in range(3)}
    names |= {f"tonenet.fcs.{i}": f"globalnet.hidden.{i}" for i in range(2)}
    names |= {f"tonenet.fc_last.{i}": f"globalnet.last.{i}" for i in range(4)}
    names |= {"tonenet.fc_index": "globalnet.stage", "hypertonenet.fc_embed": "globalnet.condition"}
    names |= {"localnet.conv_head": "localnet.head", "localnet.conv_tail": "localnet.tail"}
    names |= {"hyperlocalnet.fc_head": "localnet.condition"}
    # The published decoder counts by level, full size first; ours counts in order of use. (Found by parity: with any
    # other order of the ten blocks and the two up-convolutions the stored outputs are not reproduced.)
    names |= {f"localnet.conv_down.{i}": f"localnet.down.{i}" for i in range(2)}
    names |= {f"localnet.conv_up.{i}": f"localnet.up.{1 - i}" for i in range(2)}
    parts = {"conv1": "conv1", "conv2": "conv2", "chattn.conv1": "channel1", "chattn.conv2": "channel2"}
    parts |= {"spattn.conv": "spatial"}
    for used, i in enumerate((0, 1, 2, 3, 4, 5, 8, 9, 6, 7)):
        names |= {f"localnet.resblks.{i}.{theirs}": f"localnet.blocks.{used}.{ours}" for theirs, ours in parts.items()}
    names |= {"embed_color": "paramnet.color"}
    embeds = {"focallen": "focal_length", "aperture": "f_number", "expstime": "exposure_time", "senstvty": "iso"}
    names |= {f"embed_{theirs}": f"paramnet.optical.{ours}" for theirs, ours in embeds.items()}
    return names | {f"embednet.{i}": f"paramnet.mlp.{i}" for i in (1, 3, 5)}


NAMES = _names()
_DROPPED = ("demosaic.", "ms_ssim_loss.", "embed_id.")
_REPEATED = {"hypertonenet.target.": "tonenet.", "hyperlocalnet.target.": "localnet."}
_JOINT = {"rgb2raw.": Direction.UNPROCESS, "raw2rgb.": Direction.RENDER}


def read(path: Path, direction: Direction | None, row_sum: float, build: Build) -> dict[Direction, IspModel]:
    """The networks of a published checkpoint by direction; of a joint one, both or the one asked for.

    ``build`` makes a model, strictly, of (where, architecture, config as JSON, direction, tensors). Raises
    WeightsError, or ConfigError if the file does not tell its direction.
    """
    archive = Archive(path)
    saved = archive.saved()
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise WeightsError(f"{path} has no state_dict of named tensors; it is not a published ParamISP checkpoint")
    if not any(key.startswith(tuple(_JOINT)) for key in state):
        told = _told_direction(saved)
        if direction is not None and told not in (None, direction):
            raise WeightsError(f"{path} is for {told}, {direction} is needed")
        if (way := direction or told) is None:
            raise ConfigError(f"{path} does not say its direction; pass direction: {' or '.join(Direction)}")
        return {way: _convert(path, archive, state, way, row_sum, build)}
    models = {}
    for prefix, way in _JOINT.items():
        if direction in (None, way):
            part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            models[way] = _convert(path, archive, part, way, row_sum, build)
    loose = [key for key in state if not key.startswith((*_JOINT, *_DROPPED))]
    if loose:
        raise WeightsError(f"{path} has tensors that ParamISP does not: {', '.join(loose[:4])}")
    return models


def _told_direction(saved: Mapping[object, object]) -> Direction | None:
    """The direction by the training program's own ``inverse`` flag, plain data beside the weights, if it is there."""
    hyper = saved.get("hyper_parameters")
    for _ in range(2):  # the flag itself, or an ``args`` that holds it
        hyper = hyper.__dict__ if isinstance(hyper, Inert) else hyper
        hyper = hyper if isinstance(hyper, dict) else {}
        if "inverse" in hyper:
            break
        hyper = hyper.get("args")
    inverse = hyper.get("inverse") if isinstance(hyper, dict) else None
    if not isinstance(inverse, bool):
        return None
    return Direction.UNPROCESS if inverse else Direction.RENDER


def _convert(
    path: Path,
    archive: Archive,
    state: Mapping[str, object],
    direction: Direction,
    row_sum: float,
    build: Build,
) -> IspModel:
    """One published network: rename its tensors, drop those known to be idle, refuse the rest."""
    import torch

    from paramisp_cli.models.paramisp import ParamISP

    tensors: dict[str, torch.Tensor] = {}
    arrays: dict[str, np.ndarray] = {}
    for key, value in state.items():
        if key.startswith(_DROPPED):
            continue
        if not isinstance(value, TensorRef):
            raise WeightsError(f"{path}: {key} in state_dict is not a tensor; the file is damaged or hostile")
        module, _, kind = _original(key).rpartition(".")
        if module not in NAMES or kind not in ("weight", "bias"):
            raise WeightsError(f"{path} has a tensor that ParamISP does not: {key}")
        arrays[key] = value.array(archive, f"{path}: {key}")
    for key, array in arrays.items():
        if (original := _original(key)) != key:
            if original not in arrays or not np.array_equal(arrays[original], array):
                raise WeightsError(f"{path}: {key} differs from the tensor that it should repeat")
            continue
        module, _, kind = key.rpartition(".")
        tensors[f"{NAMES[module]}.{kind}"] = torch.from_numpy(array)
    wanted = [f"{theirs}.{kind}" for theirs in NAMES for kind in ("weight", "bias")]
    if missing := [key for key in wanted if key not in arrays]:
        some = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
        raise WeightsError(f"{path} misses {len(missing)} of ParamISP's tensors: {some}")
    config = json.dumps(ParamISP(direction, color_matrix_row_sum=row_sum, demosaic_border="replicate").config())
    return build(str(path), "paramisp", config, str(direction), tensors)


def _original(key: str) -> str:
    """The name of the tensor that a hyper-network's copy repeats; of other tensors their own."""
    prefix = next((prefix for prefix in _REPEATED if key.startswith(prefix)), None)
    return key if prefix is None else _REPEATED[prefix] + key.removeprefix(prefix)
