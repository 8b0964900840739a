"""The user's settings of a conversion. In messages, a setting's name stands in backticks (`iso`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from paramisp_cli import models
from paramisp_cli.errors import ConfigError
from paramisp_cli.types import CFA_PATTERNS, OpticalParams

MODELS = models.names()
"""Names of the architectures, best first."""

WEIGHTLESS = models.names(needs_weights=False)
"""Names of the architectures that need no weights."""

CAMERA_LOOK = "camera-look"
"""Name of the conversion that renders as the JPEG inside the RAW file looks."""

KEPT_RAW = "kept-raw"
"""Name of the conversion that gives back the RAW that a JPEG carries."""

STAGES = models.stages()
"""Stages at which ``render`` can stop."""

GAIN_MAP = "gain-map"
"""Name of the conversion that takes the HDR rendition of a picture with a gain map as linear light."""

GAIN_MAPS = ("auto", "off", "linear")
"""Values of ``Settings.gain_map``."""

LOOKS = ("camera", "weights", "neutral")
"""Values of ``Settings.look``."""

METHODS = ("matrix", "conditioned", "cstpp")
"""Values of ``Settings.method``."""

DTYPES = {"auto": "float32", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Value of ``Settings.dtype`` → torch's name of the type."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The user's choices; None means automatic.

    model          one of ``MODELS``; None: the camera's checkpoint, else the generic one, else parametric
    weights        a checkpoint's file, folder or name, instead of the camera's; paths may be strings
    look           of a rendered RAW: "camera", fitted to the JPEG inside the file; "weights", a trained network's;
                   "neutral", the parametric model's; None: the camera's if the file has a JPEG by its camera and no
                   model or weights are chosen
    look_from      a JPEG that shows the camera's look of a RAW file, instead of the one inside or beside the file
    device         "auto", "cpu", "cuda", "cuda:1", "mps"
    dtype          "auto", "fp32", "bf16", "fp16": precision of the convolutions
    max_memory     bytes that the network may use; None: the free memory
    scratch        a folder, not in memory, for a file of feature maps that do not fit into memory
    camera         "MAKE/MODEL" or a name of the camera table
    iso, exposure_time [s], f_number, focal_length [mm]
    wb             white-balance gains (R, G, B)
    like           RAW files of the same camera, for values that only a RAW has: a path, or several; a folder stands for
                   the RAW files in it
    cfa            "RGGB", "GRBG", "GBRG", "BGGR"
    levels         black and white level, whole numbers, of a RAW that ``unprocess`` makes, instead of the camera's
    exposure       EV of digital gain: render brightens by it, unprocess darkens (and records it in the DNG); None: for
                   render, the value in the RAW, and with the parametric model the brightness of its camera JPEG
    bit_depth      bits of a rendered channel: 8, 16, or 32 for float32 in [0, 1]; with 32, unprocess returns a float32
                   mosaic, black 0 and white 1, neither rounded nor clipped to the camera's codes
    max_pixels     pictures of more pixels are refused before they are decoded; None: ``formats.MAX_PIXELS``
    kept_raw       of an unprocessed JPEG that carries its RAW: True requires it; False ignores it; None: gives it back,
                   unless a setting tells how to make one: ``model``, ``weights``, ``look``, ``like``, ``levels``,
                   ``cfa``, ``exposure``, ``linear``, ``gain_map`` "linear"
    gain_map       of an unprocessed picture: "auto" puts the highlights of its gain map into the RAW, if it has one;
                   "linear" takes its whole HDR rendition as linear light, without a model, and requires a map; "off"
                   ignores the map
    stop_at        stage at which ``render`` stops: "restored" is demosaiced, denoised by a network, white-balanced and
                   in linear sRGB. ``render`` then returns a ``LinearImage``, whose values ``exposure`` scales; the
                   parametric model, which runs without a model and weights, adds the exposure in the RAW
    linear         ``unprocess`` gives all three colours of each pixel (``RawImage.linear``), for a LinearRaw DNG
    confidence     ``unprocess`` measures how far the RAW can be trusted, too (``RawImage.confidence``)
    isolate        decode RAW files in a process of their own: a damaged or hostile file can crash only this process
    to             ``transfer``: the other camera, a name of the camera table or a RAW file by it
    method         ``transfer``: "matrix", from both cameras' colour matrices; "conditioned", fitted to both cameras'
                   measured spectral sensitivities, and following the light; "cstpp", a network, by ``weights``
    target_cfa     ``transfer``: the result has the other camera's CFA, instead of the file's own
    match_noise    ``transfer``: add the noise that the other camera has more, at the ISO of the shot

    Raises ConfigError for a value out of range; the error's ``field`` names the setting.
    """

    model: str | None = None
    weights: str | Path | None = None
    look: str | None = None
    look_from: str | Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    max_memory: int | None = None
    scratch: str | Path | None = None
    camera: str | None = None
    iso: float | None = None
    exposure_time: float | None = None
    f_number: float | None = None
    focal_length: float | None = None
    wb: tuple[float, float, float] | None = None
    like: str | Path | Sequence[str | Path] | None = None
    cfa: str | None = None
    levels: tuple[float, float] | None = None
    exposure: float | None = None
    bit_depth: int = 8
    max_pixels: int | None = None
    isolate: bool = False
    kept_raw: bool | None = None
    gain_map: str = "auto"
    stop_at: str | None = None
    linear: bool = False
    confidence: bool = False
    to: str | Path | None = None
    method: str = "matrix"
    target_cfa: bool = False
    match_noise: bool = False

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(OpticalParams)):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ConfigError(f"`{name}` must be a positive number, got {value:g}")
        for name in ("weights", "scratch", "look_from"):
            object.__setattr__(self, name, _as_path(name, getattr(self, name)))
        if isinstance(self.like, Sequence) and not isinstance(self.like, str | bytes):
            object.__setattr__(self, "like", tuple(_as_path("like", path) for path in self.like) or None)
        else:
            object.__setattr__(self, "like", _as_path("like", self.like))
        if self.scratch_path is not None and not self.scratch_path.is_dir():
            raise ConfigError(f"`scratch`: not an existing folder: {self.scratch}")
        if self.wb is not None and not (len(self.wb) == 3 and np.isfinite(self.wb).all() and min(self.wb) > 0):
            raise ConfigError(f"`wb` takes three positive gains R,G,B, got {','.join(f'{g:g}' for g in self.wb)}")
        if self.levels is not None and not _are_levels(self.levels):
            shown = ",".join(f"{level:g}" for level in self.levels)
            raise ConfigError(f"`levels` takes whole numbers BLACK,WHITE with 0 ≤ black < white ≤ 65535, got {shown}")
        for name in ("levels", "cfa"):
            if getattr(self, name) is not None and self.kept_raw:
                raise ConfigError(f"`{name}`: the RAW in a JPEG has its own; leave out `kept_raw`")
        if self.cfa is not None and self.cfa not in CFA_PATTERNS:
            raise ConfigError(f"`cfa` must be one of {', '.join(CFA_PATTERNS)}, got {self.cfa}")
        if self.exposure is not None and not abs(self.exposure) <= 10:
            raise ConfigError(f"`exposure` must lie between -10 and 10 EV, got {self.exposure:g}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype}")
        if self.model is not None and self.model not in MODELS:
            raise ConfigError(f"`model` {self.model}: there is no such model; there are {', '.join(MODELS)}")
        if self.look is not None and self.look not in LOOKS:
            raise ConfigError(f"`look` must be one of {', '.join(LOOKS)}, got {self.look}")
        if self.method not in METHODS:
            raise ConfigError(f"`method` must be one of {', '.join(METHODS)}, got {self.method}")
        self._check_gain_map()
        if self.look_from is not None and (self.model or self.weights or self.look not in (None, "camera")):
            raise ConfigError("`look_from` sets the look; leave out `model` and `weights`, and `look` but for camera")
        if self.bit_depth not in (8, 16, 32):
            raise ConfigError(f"`bit_depth` must be 8, 16 or 32, got {self.bit_depth}")
        if self.stop_at is not None:
            self._check_stop_at(self.stop_at)
        if self.linear and (self.cfa is not None or self.kept_raw):
            text = "a RAW of three colours a pixel has no colour filters" if self.cfa else "a JPEG carries a mosaic"
            raise ConfigError(f"`linear`: {text}; leave out `{'cfa' if self.cfa else 'kept_raw'}`")

        if self.confidence:
            self._check_confidence()

    def _check_confidence(self) -> None:
        """Raise ConfigError for settings under which there is no confidence map."""
        for name, wrong, reason in (
            ("linear", self.linear, "the map has one value for each site of a mosaic"),
            ("kept_raw", bool(self.kept_raw), "a RAW that the camera made needs no map"),
            ("gain_map", self.gain_map == "linear", "without a model there is nothing to judge"),
        ):
            if wrong:
                raise ConfigError(f"`confidence`: {reason}; leave out `{name}`")

    def _check_gain_map(self) -> None:
        """Raise ConfigError for an unknown treatment of gain maps, and for settings that do not go with it."""
        if self.gain_map not in GAIN_MAPS:
            raise ConfigError(f"`gain_map` must be one of {', '.join(GAIN_MAPS)}, got {self.gain_map}")
        if self.gain_map == "linear":
            for name in ("model", "weights", "look", "kept_raw"):
                if getattr(self, name):
                    raise ConfigError(f"`gain_map` linear uses neither a model nor a stored RAW; leave out `{name}`")

    def _check_stop_at(self, stage: str) -> None:
        """Raise ConfigError for an unknown stage, and for settings that do not go with one."""
        if stage not in STAGES:
            raise ConfigError(f"`stop_at` must be one of {', '.join(STAGES)}, got {stage}")
        if self.model is not None:
            models.check_stage(self.model, stage)
        if self.look in ("camera", "weights") or self.look_from is not None:
            name = "look_from" if self.look_from is not None else "look"
            raise ConfigError(f"`stop_at` {stage}: this picture has no look yet; leave out `{name}`")
        if self.bit_depth == 16:
            raise ConfigError(f"`stop_at` {stage}: this picture has 32-bit floats; leave out `bit_depth`")

    @property
    def scratch_path(self) -> Path | None:
        """Folder ``scratch`` as a path."""
        return None if self.scratch is None else Path(self.scratch)

    @property
    def like_paths(self) -> tuple[Path, ...]:
        """Paths of ``like``: files and folders, as given."""
        if self.like is None:
            return ()
        return (Path(self.like),) if isinstance(self.like, str | Path) else tuple(map(Path, self.like))


def _are_levels(levels: Sequence[float]) -> bool:
    """Tell whether numbers are the black and white level of a RAW: whole, because LibRaw cuts off the fraction."""
    whole = len(levels) == 2 and all(np.isfinite(level) and level == int(level) for level in levels)
    return whole and 0 <= levels[0] < levels[1] <= 65535


def _as_path(name: str, value: object) -> Path | None:
    """Return a setting's value as a path; ConfigError for another type."""
    if value is None or isinstance(value, str | os.PathLike):
        return None if value is None else Path(value)
    raise ConfigError(f"`{name}` must be a path, got {type(value).__name__}")
