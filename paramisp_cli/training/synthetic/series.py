"""The options of a synthetic RAW data set, checked once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from paramisp_cli import weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError
from paramisp_cli.torch import AddNoise, Synthesize, chosen
from paramisp_cli.torch.layouts import known, layout_of
from paramisp_cli.training.synthetic import hdf5

KINDS = ("tar", "npy", "hdf5")
DTYPES = ("uint16", "float32")
BLACK, WHITE = 4096, 65535
"""Codes of black and white of uint16 arrays: noise falls below black."""
_VERSION = 2


@dataclass(frozen=True)
class Series:
    """The options of a data set.

    model        name or file of a checkpoint, or "parametric"
    cameras      names of the camera table; empty: every camera with all facts
    iso          least and greatest ISO; None: the speeds at which the camera's noise is known
    exposure, headroom   least and greatest [EV], see ``torch.Shots``
    layout, cfa  "packed" or "mosaic"; the CFA of all RAWs
    patch        side of the patches, in samples of the mosaic, even; 0: pictures in one piece
    stride       distance of patches; 0: the side
    shot, row, clip, subtract  see ``torch.AddNoise``
    noise        whether to make noisy RAWs beside the clean ones
    kind, dtype  "tar" (WebDataset), "npy" or "hdf5" files; "uint16" or "float32" arrays
    shard        pictures in a shard
    test_share   share of the pictures on the test side, 0 to 1
    """

    model: str = "generic"
    cameras: tuple[str, ...] = ()
    iso: tuple[float, float] | None = None
    exposure: tuple[float, float] = (0.0, 0.0)
    headroom: tuple[float, float] = (0.0, 0.0)
    layout: str = "packed"
    cfa: str = "RGGB"
    patch: int = 0
    stride: int = 0
    shot: str = "poisson"
    row: float = 0.0
    clip: str = "raw"
    subtract: bool = False
    noise: bool = True
    kind: str = "tar"
    dtype: str = "uint16"
    shard: int = 100
    test_share: float = 0.0
    seed: int = 0
    licence: str = ""

    def __post_init__(self) -> None:
        layout_of(self.layout)
        known(self.cfa)
        for name, value, allowed in (("kind", self.kind, KINDS), ("dtype", self.dtype, DTYPES)):
            if value not in allowed:
                raise ConfigError(f"{name} must be {' or '.join(allowed)}, got {value!r}")
        if self.patch < 0 or self.patch % 2 or self.stride < 0 or self.stride % 2:
            raise ConfigError(f"patch and stride must be even, 0 or more, got {self.patch} and {self.stride}")
        if self.stride and not self.patch:
            raise ConfigError(f"stride {self.stride} needs patch: the side of the patches")
        if self.kind == "hdf5":
            hdf5.check()
            if not self.patch:
                raise ConfigError("kind hdf5 needs patch: the arrays of a file have one shape")
        if self.shard < 1:
            raise ConfigError(f"shard must be at least 1 picture, got {self.shard}")
        if not 0 <= self.test_share <= 1:
            raise ConfigError(f"test_share must be from 0 to 1, got {self.test_share:g}")
        for name in ("iso", "exposure", "headroom"):
            span = getattr(self, name)
            if span is not None and not span[0] <= span[1]:
                raise ConfigError(f"{name} must go from the least to the greatest, got {span[0]:g} to {span[1]:g}")
        if self.iso is not None and self.iso[0] <= 0:
            raise ConfigError(f"iso must be positive, got {self.iso[0]:g}")
        chosen(self.cameras or None)
        self.noise_module()

    def noise_module(self) -> AddNoise:
        """Return the module that adds the noise."""
        return AddNoise(shot=self.shot, row=self.row, clip=self.clip, subtract=self.subtract)

    def module(self) -> Synthesize:
        """Return the module that makes the RAWs; raises WeightsError without weights of that name."""
        return Synthesize(
            self.model,
            self.layout,
            cameras=self.cameras or None,
            iso=self.iso,
            exposure=self.exposure,
            headroom=self.headroom,
            cfa=self.cfa,
            noise=self.noise_module(),
        )

    def decisive(self) -> dict[str, Any]:
        """Return everything but the pictures that decides the bytes of the data set: options, version, weights."""
        options = {name: value for name, value in asdict(self).items() if name != "licence"}
        found = weights.locate(self.model, Direction.UNPROCESS) if self.model != "parametric" else []
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in found]
        return {"version": _VERSION, **options, "weights": hashes}

    @lru_cache(maxsize=4)  # noqa: B019 – it reads the weights, and a run has one series
    def key(self) -> str:
        """Return a hash of ``decisive``."""
        return hashlib.sha256(json.dumps(self.decisive(), sort_keys=True).encode()).hexdigest()[:16]
