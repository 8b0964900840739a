"""What unprocess and render do: from an image to an image, with every parameter found and its origin told.

Nothing here imports torch until pixels are worked on: the plans alone serve ``inspect`` and ``--dry-run``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paramisp_cli import cameras, formats, look, models, weights
from paramisp_cli.errors import ConfigError, FormatError, WeightsError
from paramisp_cli.formats import exif, raster
from paramisp_cli.types import (
    CFA_PATTERNS,
    FALLBACK_OPTICAL,
    Camera,
    CanonicalParams,
    Crop,
    Direction,
    Metadata,
    Notice,
    OpticalParams,
    RawImage,
    SrgbImage,
)

if TYPE_CHECKING:
    import torch

    from paramisp_cli.models.base import IspModel

MODELS = models.names()
"""Names of the architectures, best first."""

WEIGHTLESS = models.names(needs_weights=False)
"""Names of the architectures that need no weights."""

DTYPES = {"auto": "float32", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""``--dtype`` → torch's name of it."""

SMALLEST_MOSAIC = 24
"""Sides of the smallest mosaic that is made: LibRaw opens no DNG of less than 22 pixels a side."""

_OPTICAL_TEXT = {
    "iso": ("ISO", "--iso", "ISO {:g}"),
    "exposure_time": ("ExposureTime", "--exposure-time", "{:g} s"),
    "f_number": ("FNumber", "--f-number", "f/{:g}"),
    "focal_length": ("FocalLength", "--focal-length", "{:g} mm"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user may set; None means: find out.

    model          one of ``MODELS``; None: the camera's checkpoint, else the generic one, else parametric
    weights        a checkpoint's file, folder or name, instead of the camera's; paths may be strings
    device         "auto", "cpu", "cuda", "cuda:1", "mps"
    dtype          "auto", "fp32", "bf16", "fp16": precision of the convolutions
    max_memory     bytes the network may use; None: what is free
    scratch        a folder, not in memory, for a file of the feature maps that the network has no memory for
    camera         "MAKE/MODEL" or a name of the camera table
    iso, exposure_time [s], f_number, focal_length [mm]
    wb             white-balance gains (R, G, B)
    like           a RAW file of the same camera, for everything that only a RAW knows
    cfa            "RGGB", "GRBG", "GBRG", "BGGR"
    exposure       EV of digital gain: render brightens by it, unprocess darkens (and says so in the DNG); None: for
                   render, what the RAW asks for, and with the parametric model what its camera JPEG shows
    bit_depth      8 or 16, of the rendered pixels
    max_pixels     pictures of more pixels are refused before they are decoded; None: ``formats.MAX_PIXELS``
    isolate        decode RAW files in a process of their own, which a damaged or hostile file may crash
    """

    model: str | None = None
    weights: str | Path | None = None
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
    like: str | Path | None = None
    cfa: str | None = None
    exposure: float | None = None
    bit_depth: int = 8
    max_pixels: int | None = None
    isolate: bool = False

    def __post_init__(self) -> None:
        for name, (_, flag, _) in _OPTICAL_TEXT.items():
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ConfigError(f"{flag} must be a positive number, got {value:g}")
        for name in ("weights", "scratch", "like"):
            value = getattr(self, name)
            if isinstance(value, str | os.PathLike):
                object.__setattr__(self, name, Path(value))
            elif value is not None:
                raise ConfigError(f"--{name} must be a path, got {type(value).__name__}")
        if self.scratch_path is not None and not self.scratch_path.is_dir():
            raise ConfigError(f"--scratch: not an existing folder: {self.scratch}")
        if self.wb is not None and not (len(self.wb) == 3 and np.isfinite(self.wb).all() and min(self.wb) > 0):
            raise ConfigError(f"--wb takes three positive gains R,G,B, got {','.join(f'{g:g}' for g in self.wb)}")
        if self.cfa is not None and self.cfa not in CFA_PATTERNS:
            raise ConfigError(f"--cfa must be one of {', '.join(CFA_PATTERNS)}, got {self.cfa}")
        if self.exposure is not None and not abs(self.exposure) <= 10:
            raise ConfigError(f"--exposure must lie between -10 and 10 EV, got {self.exposure:g}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"--dtype must be one of {', '.join(DTYPES)}, got {self.dtype}")
        if self.model is not None and self.model not in MODELS:
            raise ConfigError(f"--model {self.model}: there is no such model; there are {', '.join(MODELS)}")
        if self.bit_depth not in (8, 16):
            raise ConfigError(f"bit depth must be 8 or 16, got {self.bit_depth}")

    @property
    def scratch_path(self) -> Path | None:
        """``scratch`` as a path."""
        return None if self.scratch is None else Path(self.scratch)


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be used for one file, and why.

    optical keeps None for what is unknown; checkpoint None means that the architecture needs no weights.
    notices are sentences for the user, without the file's name. memory_plan is ``tiling.choose_plan``'s, for networks.
    """

    direction: Direction
    camera: Camera | None
    canonical: CanonicalParams
    optical: OpticalParams
    origin: dict[str, str]
    architecture: str
    checkpoint: Path | None
    notices: tuple[str, ...]
    facts: cameras.CameraFacts = field(repr=False)
    memory_plan: str | None = None

    def describe(self) -> dict[str, Any]:
        """The plan as plain values for ``--json``."""
        c, o = self.canonical, self.optical
        used = {"memory_plan": self.memory_plan} if self.memory_plan else {}
        return used | {
            "camera": self.camera.name if self.camera else None,
            "model": self.architecture,
            "weights": str(self.checkpoint) if self.checkpoint else None,
            "iso": o.iso,
            "exposure_time": o.exposure_time,
            "f_number": o.f_number,
            "focal_length": o.focal_length,
            "cfa": c.cfa,
            "black_level": c.black_level.ravel().tolist(),
            "white_level": c.white_level,
            "wb_gains": c.wb_gains.round(6).tolist(),
            "color_matrix": c.color_matrix.round(6).tolist(),
            "origin": self.origin,
            "notices": list(self.notices),
        }


def _pick_camera(settings: Settings, own: Camera | None, like: RawImage | None) -> tuple[Camera | None, str]:
    if settings.camera is not None:
        facts = cameras.find_by_name(settings.camera)
        if facts is not None:
            return Camera(facts.exif_make, facts.exif_model), "--camera"
        if "/" in settings.camera:
            make, model = settings.camera.split("/", 1)
            return Camera(make.strip(), model.strip()), "--camera"
        close = cameras.close_names(settings.camera)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"--camera {settings.camera}: not in the camera table (see `paramisp cameras`){hint}")
    if own is not None:
        return own, "EXIF"
    if like is not None and like.camera is not None:
        return like.camera, f"--like {like.metadata.source_name}"
    return None, "unknown"


def _pick_optical(
    settings: Settings, own: OpticalParams, like: RawImage | None, origin: dict[str, str]
) -> OpticalParams:
    values: dict[str, float | None] = {}
    for name in _OPTICAL_TEXT:
        choices = [
            (getattr(settings, name), "flag"),
            (getattr(own, name), "EXIF"),
            (getattr(like.optical, name) if like else None, f"--like {like.metadata.source_name if like else ''}"),
        ]
        values[name], origin[name] = next(((v, o) for v, o in choices if v is not None), (None, "unknown"))
    return OpticalParams(**values)


def _read_like(settings: Settings) -> RawImage | None:
    if settings.like is None:
        return None
    return _parameters_of(Path(settings.like), settings.max_pixels, settings.isolate)


def read(path: Path, settings: Settings = Settings()) -> SrgbImage | RawImage:
    """Read an image file within the settings' limit of pixels, RAW files in their own process if the settings say so.

    Raises what ``formats.read`` raises.
    """
    return formats.read(path, max_pixels=settings.max_pixels or formats.MAX_PIXELS, isolate=settings.isolate)


@lru_cache(maxsize=1)
def _parameters_of(path: Path, max_pixels: int | None, isolate: bool) -> RawImage:
    """A RAW file without its pixels, which stays for all files of a batch; its CFA begins where its picture does."""
    raw = read(path, Settings(max_pixels=max_pixels, isolate=isolate))
    if not isinstance(raw, RawImage):
        raise ConfigError(f"--like {path}: must be a RAW file, and this is a picture")
    raw = raw.cropped()
    return replace(raw, mosaic=raw.mosaic[:2, :2].copy(), crop=None, metadata=Metadata(source_name=path.name))


def check(settings: Settings, direction: Direction) -> None:
    """What can be known to be wrong before any file is looked at.

    Raises ConfigError for a camera or device that is not there, WeightsError for ``weights``, and what reading
    ``like`` raises.
    """
    camera, _ = _pick_camera(settings, None, _read_like(settings))
    if settings.weights is not None:
        _pick_model(settings, camera, direction, cameras.find(camera))
    if settings.device not in ("auto", "cpu"):  # these need no look, and no torch
        pick_device(settings.device)


def _pick_model(
    settings: Settings, camera: Camera | None, direction: Direction, facts: cameras.CameraFacts | None
) -> tuple[str, Path | None, str, list[str]]:
    """(architecture, checkpoint, where that comes from, notices)."""
    if settings.model in WEIGHTLESS and settings.weights is None:
        return settings.model, None, "--model", []
    found = weights.find(known_as(camera, facts), direction, settings.model, settings.weights)
    shown = camera.name if camera else "an unknown camera"
    if found is None:
        if settings.model is not None:
            raise WeightsError(
                f"no {settings.model} weights for {shown} and no generic ones; pass --weights or --model parametric"
            )
        notice = Notice(
            f"no trained weights for {shown} and no generic ones: used the parametric model",
            "no trained weights for the camera and no generic ones: used the parametric model",
        )
        return "parametric", None, "no trained weights found", [notice]
    notices: list[str] = [_used_generic(camera)] if found.is_generic else []
    published = found.path.suffix == ".ckpt"  # the authors' own format: always ParamISP
    architecture = "paramisp" if published else weights.info(found.path)["architecture"]
    return architecture, found.path, found.how, notices


def known_as(camera: Camera | None, facts: cameras.CameraFacts | None) -> list[str]:
    """The names under which a camera's weights may be kept, best first: EXIF's, the table's, the table's aliases."""
    names = [f"{camera.make} {camera.model}", camera.name] if camera else []
    if facts is not None:
        names += [facts.name, *(f"{facts.exif_make} {model}" for model in (facts.exif_model, *facts.aliases))]
    return names


def _used_generic(camera: Camera | None) -> Notice:
    return Notice(
        f"no weights for {camera.name if camera else 'an unknown camera'}: used the generic ones",
        "no weights for the camera: used the generic ones",
    )


def plan_unprocess(image: SrgbImage, settings: Settings = Settings()) -> Plan:
    """Complete the parameters of a picture: flag › ``--like`` RAW › MakerNote › camera table › average camera.

    Optical values: flag › EXIF › ``--like``. Raises ConfigError, MetadataError, WeightsError.
    """
    like = _read_like(settings)
    origin: dict[str, str] = {}
    notices: list[str] = list(image.notes)
    camera, origin["camera"] = _pick_camera(settings, image.camera, like)
    optical = _pick_optical(settings, image.optical, like, origin)
    known = cameras.find(camera)
    table = f"camera table ({known.name})" if known else ""
    facts = known or cameras.GENERIC
    generic = "an average camera (this one is not in the table)"

    matrix: np.ndarray | None
    neutral: np.ndarray | None
    if like is not None:
        source = f"--like {like.metadata.source_name}"
        cfa, black, white = like.canonical.cfa, like.canonical.black_level, like.canonical.white_level
        matrix, neutral = like.canonical.color_matrix, like.canonical.as_shot_neutral
        origin |= dict.fromkeys(("cfa", "black_level", "white_level", "color_matrix", "wb"), source)
    else:
        level_black, white = facts.levels(optical.iso)
        black = np.full((2, 2), float(level_black))
        cfa, origin["cfa"] = (facts.cfa, table or generic) if facts.cfa else ("RGGB", "default (table is silent)")
        origin |= dict.fromkeys(("black_level", "white_level"), table or generic)
        if facts.color_matrix is not None:
            matrix, origin["color_matrix"] = facts.color_matrix, table or generic
        else:
            matrix, origin["color_matrix"] = cameras.GENERIC.color_matrix, "an average camera (table is silent)"
        if image.as_shot_neutral is not None:
            neutral, origin["wb"] = image.as_shot_neutral, "MakerNote, as shot"
        elif facts.daylight_neutral is not None:
            neutral, origin["wb"] = facts.daylight_neutral, f"{table or generic}, daylight"
        else:
            neutral, origin["wb"] = cameras.GENERIC.daylight_neutral, "an average camera, daylight"
        if known is None:
            remedy = "(pass --camera or --like RAW)"
            unknown = f"{camera.name} is not in the camera table" if camera else "EXIF names no camera"
            notices.append(
                Notice(f"{unknown}: used average colours {remedy}", f"camera unknown: used average colours {remedy}")
            )
    if settings.cfa is not None:
        cfa, origin["cfa"] = settings.cfa, "flag"
    if settings.wb is not None:
        neutral, origin["wb"] = 1 / np.array(settings.wb), "flag"
    assert matrix is not None
    assert neutral is not None
    canonical = CanonicalParams(cfa, black, white, neutral, matrix)
    architecture, checkpoint, origin["model"], more = _pick_model(settings, camera, Direction.UNPROCESS, known)
    if checkpoint is not None and settings.exposure:
        raise ConfigError(
            "--exposure: a trained model sets it when unprocessing; leave it out or pass --model parametric"
        )
    notices += more + _silent_optics(optical, checkpoint)
    return Plan(
        Direction.UNPROCESS, camera, canonical, optical, origin, architecture, checkpoint, tuple(notices), facts
    )


def plan_render(raw: RawImage, settings: Settings = Settings()) -> Plan:
    """Complete the parameters of a RAW: flags and ``--like`` over the file's own. Errors as ``plan_unprocess``."""
    like = _read_like(settings)
    origin = dict(raw.origin)
    notices = list(raw.notes)
    camera, origin["camera"] = _pick_camera(settings, raw.camera, like)
    optical = _pick_optical(settings, raw.optical, like, origin)
    known = cameras.find(camera)
    canonical = raw.canonical
    if like is not None:
        source = f"--like {like.metadata.source_name}"
        canonical = replace(
            canonical, color_matrix=like.canonical.color_matrix, as_shot_neutral=like.canonical.as_shot_neutral
        )
        origin |= {"color_matrix": source, "wb": source}
    if settings.cfa is not None:
        canonical, origin["cfa"] = replace(canonical, cfa=settings.cfa), "flag"
    if settings.wb is not None:
        canonical, origin["wb"] = replace(canonical, as_shot_neutral=1 / np.array(settings.wb)), "flag"
    architecture, checkpoint, origin["model"], more = _pick_model(settings, camera, Direction.RENDER, known)
    notices += more + _silent_optics(optical, checkpoint)
    return Plan(
        Direction.RENDER,
        camera,
        canonical,
        optical,
        origin,
        architecture,
        checkpoint,
        tuple(notices),
        known or cameras.GENERIC,
    )


def _silent_optics(optical: OpticalParams, checkpoint: Path | None) -> list[str]:
    """Tell in one notice which settings the file lacks and which values the network gets instead."""
    if checkpoint is None:
        return []
    labels, values, flags = [], [], []
    for name, (label, flag, form) in _OPTICAL_TEXT.items():
        if getattr(optical, name) is None:
            labels.append(label)
            value = getattr(FALLBACK_OPTICAL, name)
            values.append(f"1/{1 / value:.0f} s" if name == "exposure_time" else form.format(value))
            flags.append(flag)
    if not labels:
        return []
    missing = f"has no {', '.join(labels)}"
    return [
        Notice(
            f"{missing}; used {', '.join(values)} (pass {', '.join(flags)} or --like RAW)",
            "some settings are missing in EXIF; used stand-ins (-v shows them; pass --like RAW, --iso, …)",
        )
    ]


def plan(image: SrgbImage | RawImage, settings: Settings = Settings()) -> Plan:
    """The plan for whichever way the image goes."""
    return plan_render(image, settings) if isinstance(image, RawImage) else plan_unprocess(image, settings)


def affordable(plan: Plan, settings: Settings, size: tuple[int, int]) -> Plan:
    """The plan with how it is to use memory; or, if nobody asked for the network that was picked and memory does not
    suffice for any way, the parametric one. ConfigError if it was asked for.
    """  # fmt: skip
    from paramisp_cli import tiling

    if plan.checkpoint is None:
        return plan
    device = pick_device(settings.device)
    model = _loaded(plan.checkpoint, plan.direction, device)
    try:
        memory_plan = tiling.choose_plan(model, *size, device, settings.max_memory, settings.scratch_path)
    except ConfigError as error:
        if settings.model is not None or settings.weights is not None:
            raise
        text, _, remedy = str(error).partition("; ")
        other = remedy.rpartition(" or --model")[0].rstrip(",")
        hint = f" (for the network {other})" if other else ""
        notice = f"{text}: used the parametric model{hint}"
        notices = (*(n for n in plan.notices if n != _used_generic(plan.camera)), notice)
        origin = {**plan.origin, "model": "not enough memory for the trained weights"}
        return replace(plan, architecture="parametric", checkpoint=None, notices=notices, origin=origin)
    return replace(plan, memory_plan=memory_plan)


def run_unprocess(image: SrgbImage, plan: Plan, settings: Settings) -> RawImage:
    """The pixel work of ``unprocess``, with everything decided."""
    import torch

    from paramisp_cli import isp, tiling

    height, width = image.size
    even = max(height + height % 2, SMALLEST_MOSAIC), max(width + width % 2, SMALLEST_MOSAIC)
    pixels, canonical = image.pixels, plan.canonical
    scale = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(pixels.dtype, 1.0)
    exposure = settings.exposure or 0.0
    model, device, dtype = _model(plan, settings, exposure)
    black = torch.tensor(canonical.black_level, dtype=torch.float32, device=device)
    mosaic = np.empty(even, np.uint16)
    reflected = isp.reflect_index(height, 0, even[0] - height).numpy()

    def source(first: int, end: int) -> torch.Tensor:
        rows = pixels[first:end] if end <= height else pixels[reflected[first:end]]
        strip = tiling.codes_on(device, rows).permute(2, 0, 1)[None].contiguous().div_(scale)
        return isp.reflect_pad(strip, 0, even[1] - width, 0, 0)

    def sink(top: int, rows: torch.Tensor) -> None:
        levels = isp.quantise(rows, black, canonical.white_level)
        mosaic[top : top + rows.shape[2]] = tiling.codes_from(levels[0, 0], mosaic.dtype)

    params = model.params_of(canonical, plan.optical)
    used = tiling.run(
        model, params, even, source, sink,
        device=device, dtype=dtype, max_memory=settings.max_memory, plan=plan.memory_plan,
        scratch=settings.scratch_path,
    )  # fmt: skip
    raw = RawImage(
        mosaic=mosaic,
        canonical=canonical,
        optical=plan.optical,
        camera=plan.camera,
        orientation=image.orientation,
        crop=Crop(0, 0, height, width),
        origin=plan.origin,
        metadata=image.metadata,
        baseline_exposure=exposure,
        noise_profile=plan.facts.noise_profile(plan.optical.iso),
        model=plan.architecture,
        notes=plan.notices + _stepped_down(plan, used),
    )
    curve = model.tone_curve()
    return replace(raw, tone_curve=np.array(curve) if curve else look.fitted_curve(pixels, raw))


def run_render(raw: RawImage, plan: Plan, settings: Settings) -> SrgbImage:
    """The pixel work of ``render``, with everything decided."""
    import torch

    from paramisp_cli import isp, tiling

    raw = replace(raw, canonical=plan.canonical, optical=plan.optical, camera=plan.camera).cropped()
    canonical, mosaic, crop = raw.canonical, raw.mosaic, raw.crop
    assert crop is not None
    exposure, notices = _render_exposure(raw, plan, settings)
    model, device, dtype = _model(plan, settings, exposure)
    black = torch.tensor(canonical.black_level, dtype=torch.float32, device=device)
    top_code = 255 if settings.bit_depth == 8 else 65535
    pixels = np.empty((*mosaic.shape, 3), np.uint8 if settings.bit_depth == 8 else np.uint16)
    gain = 1.0 if plan.architecture == "parametric" else 2.0**exposure

    def source(first: int, end: int) -> torch.Tensor:
        strip = tiling.codes_on(device, mosaic[first:end])[None, None]
        linear = strip if mosaic.dtype == np.float32 else isp.normalise(strip, black, canonical.white_level)
        return linear if gain == 1 else linear * gain

    def sink(top: int, rows: torch.Tensor) -> None:
        codes = rows.clamp_(0, 1).mul_(top_code).round_()[0]
        pixels[top : top + rows.shape[2]] = tiling.codes_from(codes, pixels.dtype).transpose(1, 2, 0)

    params = model.params_of(canonical, plan.optical)
    used = tiling.run(
        model, params, raw.mosaic.shape, source, sink,
        device=device, dtype=dtype, max_memory=settings.max_memory, plan=plan.memory_plan,
        scratch=settings.scratch_path,
    )  # fmt: skip
    shown = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    upright = raster.apply_orientation(shown, raw.orientation)
    block = exif.clean_exif(
        raw.metadata.exif,
        optical=plan.optical,
        camera=plan.camera,
        software=f"paramisp {plan.architecture}",
        width=upright.shape[1],
        height=upright.shape[0],
    )
    return SrgbImage(
        pixels=upright,
        camera=plan.camera,
        optical=plan.optical,
        metadata=Metadata(exif=block, xmp=raw.metadata.xmp, source_name=raw.metadata.source_name),
        notes=plan.notices + notices + _stepped_down(plan, used),
    )


def _stepped_down(plan: Plan, used: str) -> tuple[str, ...]:
    """A notice if memory ran out on the way."""
    if plan.memory_plan in (None, used):
        return ()
    return (f"memory ran out: went on with the plan {used!r}, which needs less and takes longer",)


def _render_exposure(raw: RawImage, plan: Plan, settings: Settings) -> tuple[float, tuple[str, ...]]:
    """(EV of digital gain, notices).

    A trained network knows its camera's brightness. The parametric model does not: cameras leave different headroom
    above their metering, so without ``--exposure`` it is set to that of the RAW's own camera JPEG.
    """
    if plan.architecture != "parametric":
        return settings.exposure or 0.0, ()
    if settings.exposure is not None or raw.model is not None or raw.metadata.jpeg is None:
        return raw.baseline_exposure + (settings.exposure or 0.0), ()
    try:
        preview = raster.decode_small(raw.metadata.jpeg, 512)
    except FormatError:
        return raw.baseline_exposure, ()
    exposure = look.matched_exposure(raw, preview)
    text = f"brightness matched to the embedded JPEG: {exposure:+.2f} EV (pass --exposure to set it)"
    return exposure, (Notice(text, "brightness matched to the embedded JPEG (pass --exposure to set it)"),)


def _model(plan: Plan, settings: Settings, exposure: float) -> tuple[IspModel, torch.device, torch.dtype]:
    """The built model on its device, and the precision to run it in."""
    import torch

    device = pick_device(settings.device)
    if plan.checkpoint is None:
        model = models.architecture(plan.architecture)(plan.direction, **_gain(plan, exposure))
    else:
        model = _loaded(plan.checkpoint, plan.direction, device)
        if model.direction != plan.direction:
            raise ConfigError(f"{plan.checkpoint} is for {model.direction}, not for {plan.direction}")
    return model, device, getattr(torch, DTYPES[settings.dtype])


@lru_cache(maxsize=16)
def _loaded(path: Path, direction: Direction, device: torch.device) -> IspModel:
    """The model of a checkpoint, kept from file to file of a batch; one for each device, which may all work at once."""
    return weights.load_model(path, direction).to(device)


def _gain(plan: Plan, exposure: float) -> dict[str, Any]:
    return {"digital_gain": 2.0**exposure} if plan.architecture == "parametric" else {}


def devices(name: str) -> list[str]:
    """Those that "auto" and "cuda" stand for, all GPUs if there are several; a device's own name is that one."""
    device = pick_device(name)
    import torch

    count = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
    return [f"cuda:{number}" for number in range(count)] if count > 1 else [name]


def pick_device(name: str) -> torch.device:
    """ "auto" takes a GPU if there is one; a device that was asked for and is not there is a ConfigError."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: unknown; use auto, cpu, cuda, cuda:N or mps") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise ConfigError(f"--device {name}: there is no such device here; use auto or cpu")
    return device
