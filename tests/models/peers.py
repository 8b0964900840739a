"""Checkpoints and stored outputs of the authors' own programs, from ../shared/data, for the tests of their networks."""

import bz2
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from paramisp_cli import published
from paramisp_cli.directions import Direction
from paramisp_cli.models.base import Params

PARITY = Path(__file__).resolve().parents[3] / "shared" / "data" / "parity_peers"
NO_PARITY = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no stored outputs of the published networks at {PARITY}")
BOUND = 2e-5


def seeds(name: str) -> list[str]:
    """Return the seeds of a network's checkpoints; one without files keeps the tests' names."""
    return sorted({path.name.split("_")[1].split(".")[0] for path in PARITY.glob(f"{name}_seed*.ckpt.bz2")}) or [
        "seed01"
    ]


def checkpoint(name: str, folder: Path) -> Path:
    """Unpack a published checkpoint into a folder."""
    path = folder / f"{name}.ckpt"
    path.write_bytes(bz2.decompress((PARITY / f"{name}.ckpt.bz2").read_bytes()))
    return path


@cache
def stored(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a file of outputs."""
    with np.load(PARITY / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def model(name: str, direction: Direction, folder: Path):
    """Read a published checkpoint as the network of a direction."""
    return published.read(checkpoint(name, folder), direction)[direction]


def shots(arrays: dict[str, np.ndarray], count: int) -> Params:
    """Return the parameters of ``count`` shots stored with some outputs; these networks ignore the optical ones."""
    one = torch.ones(count)
    matrices = (torch.from_numpy(arrays[key][:count]) for key in ("wb_gains", "cam_to_srgb"))
    return Params(*matrices, one, one, one, one, cfa=str(arrays["cfa"]))


def error(got: torch.Tensor, want: np.ndarray) -> float:
    """Return the largest difference."""
    assert got.shape == want.shape
    return float(np.abs(got.detach().numpy() - want).max())
