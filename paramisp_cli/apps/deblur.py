"""Take mild camera shake out of photographs, in RAW: a RAW file gives a RAW, a picture gives a picture.

A picture goes through its camera's RAW: output = picture + render(deblurred RAW) − render(RAW). So light that the
network leaves alone does not change, and errors of the way to RAW and back cancel. The network knows no camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli import convert, look, machine, parameters, weights
from paramisp_cli import mosaic as bayer
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FormatError, WeightsError
from paramisp_cli.formats import exif, provenance, raster
from paramisp_cli.parameters import Conversion, Settings
from paramisp_cli.types import Metadata, RawImage, SrgbImage

ARCHITECTURE = "deblur"
GREY = 0.18
"""Light at which the noise is stated."""
_CLIPPED = 0.98
"""Light of a site, of the sensor's white, from which it counts as clipped."""
_AROUND = 12
"""Sites around a clipped one whose change fades out: true light there is not known."""

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Choices:
    """Choices for a deblurring.

    strength        0 (no change) to 1: share of the network's change, in RAW
    mask_saturated  do not change clipped light and its surroundings
    weights         file or name of the network's weights; None: the shipped ones
    """

    strength: float = 1.0
    mask_saturated: bool = True
    weights: str | Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"`strength` must be in 0 to 1, got {self.strength:g}")


@dataclass(frozen=True, slots=True)
class Deblurred:
    """A result with the conversions by which it was made, and the mean size of its change (0: none, in √ of light)."""

    image: SrgbImage | RawImage
    conversion: Conversion
    change: float


def network(choices: Choices) -> Path:
    """Return the file of the network's weights. Raises WeightsError."""
    found = weights.find(None, Direction.RESTORE, ARCHITECTURE, choices.weights)
    if found is None:
        raise WeightsError("there are no weights of `deblur`; `paramisp weights list` shows all")
    return found.path


def deblur(
    image: SrgbImage | RawImage,
    settings: Settings = Settings(),
    choices: Choices = Choices(),
    progress: Progress | None = None,
) -> Deblurred:
    """Take shake out of an image; ``progress`` takes the finished share of the work, 0 to 1, from any thread.

    settings  choices for the parameters of the shot, for the device and, of a picture, for the way to RAW and back

    The result of a RAW is a RAW of the same camera, levels and size. The result of a picture is an upright picture of
    the same type. Raises ConfigError, WeightsError, and FormatError for a RAW of three colours a pixel.
    """
    file = network(choices)
    report = progress or (lambda share: None)
    if isinstance(image, RawImage):
        return _raw(image, settings, choices, file, report)
    return _picture(image, settings, choices, file, report)


# RAW ------------------------------------------------------------------------------------------------------------------


def _raw(image: RawImage, settings: Settings, choices: Choices, file: Path, report: Progress) -> Deblurred:
    """Deblur a RAW; its preview, which shows the shake, is left out."""
    if image.linear is not None:
        raise FormatError("has three colours a pixel (LinearRaw); deblur takes mosaics")
    conversion = _planned(image, replace(settings, look="neutral", weights=None, model=None))
    canonical = conversion.canonical
    profile = image.noise_profile
    if profile is None:
        profile = conversion.facts.noise_profile(conversion.optical.iso)
    noise = None if profile is None else float(np.sqrt(max(profile[1, 0] * GREY + profile[1, 1], 0)))
    if image.model is not None:
        noise = None  # of a picture, whose noise is not the sensor's
    before = image.mosaic
    if before.dtype == np.uint16:
        before = bayer.linear(before, canonical.black_level, canonical.white_level)
    after = _without_shake(before, conversion, settings, choices, file, noise, report)
    result = after
    if image.mosaic.dtype == np.uint16:
        result = _codes(after, canonical.black_level, canonical.white_level)
        same = after == before
        result = np.where(same, image.mosaic, result)
    xmp, remarks = provenance.restored(image.metadata.xmp, "RAW", _facts(file, choices, conversion))
    raw = replace(
        image,
        mosaic=result,
        canonical=canonical,
        optical=conversion.optical,
        camera=conversion.camera,
        origin=conversion.origin,
        metadata=replace(image.metadata, xmp=xmp, jpeg=None, jpeg_beside=None),
        notes=(*conversion.notices, *remarks),
    )
    return Deblurred(_with_look(image, raw), conversion, _size_of(before, after))


def _with_look(image: RawImage, raw: RawImage) -> RawImage:
    """Return the RAW with a profile that shows the look of the camera's JPEG inside, unless it has a profile."""
    if raw.tone_curve is not None or image.metadata.jpeg is None:
        return raw
    try:
        preview = raster.decode_small(image.metadata.jpeg, 1024)
    except FormatError:
        return raw
    height, width = raw.size
    if abs(np.log(preview.shape[1] / preview.shape[0] * height / width)) > 0.02:
        return raw  # of another frame
    rows = (np.arange(height) * preview.shape[0] // height)[:, None]
    columns = np.arange(width) * preview.shape[1] // width
    return look.matched(preview[rows, columns], raw)


def _codes(linear: np.ndarray, black: np.ndarray, white: float) -> np.ndarray:
    """Return linear light as codes of the sensor."""
    level = bayer.repeated(black, linear.shape).astype(np.float32)
    codes: np.ndarray = np.clip(np.rint(linear * (np.float32(white) - level) + level), 0, white).astype(np.uint16)
    return codes


# Pictures -------------------------------------------------------------------------------------------------------------


def _picture(image: SrgbImage, settings: Settings, choices: Choices, file: Path, report: Progress) -> Deblurred:
    """Deblur a picture through its RAW."""
    own = replace(settings, kept_raw=False, gain_map="off", bit_depth=32)
    conversion = convert.prepare(image, _planned(image, own), own)
    raw = convert.run(image, conversion, own, lambda share: report(0.3 * share))
    assert isinstance(raw, RawImage)
    raw = replace(raw, orientation=1, metadata=Metadata(), baseline_exposure=0.0)
    before = raw.mosaic
    after = _without_shake(before, conversion, settings, choices, file, None, lambda share: report(0.3 + 0.2 * share))
    if np.array_equal(before, after):
        pixels = image.pixels
    else:
        shown = _rendered(raw, own, lambda share: report(0.5 + 0.25 * share))
        repaired = replace(raw, mosaic=np.clip(after, 0, 1))
        pixels = _moved(image.pixels, _rendered(repaired, own, lambda share: report(0.75 + 0.25 * share)) - shown)
    upright = raster.apply_orientation(pixels, image.orientation)
    xmp, remarks = provenance.restored(image.metadata.xmp, "picture", _facts(file, choices, conversion))
    block = exif.clean_exif(
        image.metadata.exif, optical=image.optical, camera=image.camera, software="paramisp deblur",
        width=upright.shape[1], height=upright.shape[0],
    )  # fmt: skip
    result = SrgbImage(
        upright,
        camera=image.camera,
        optical=image.optical,
        metadata=Metadata(exif=block, xmp=xmp, source_name=image.metadata.source_name),
        notes=(*conversion.notices, *remarks),
    )
    return Deblurred(result, conversion, _size_of(before, after))


def _rendered(raw: RawImage, settings: Settings, report: Progress) -> np.ndarray:
    """Return the pixels (H, W, 3) float32 that the camera's weights make of a RAW made of a picture."""
    conversion = _planned(raw, replace(settings, kept_raw=None, gain_map="auto", like=None))
    picture = convert.run(raw, convert.prepare(raw, conversion, settings), settings, report)
    assert isinstance(picture, SrgbImage)
    return picture.pixels


def _moved(pixels: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return pixels of any type with a change (H, W, 3), in units of full scale, added to them."""
    scale = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(pixels.dtype)
    if scale is None:
        shown: np.ndarray = np.clip(pixels + change, 0, 1)
        return shown
    moved: np.ndarray = np.clip(np.rint(pixels + change * np.float32(scale)), 0, scale).astype(pixels.dtype)
    return moved


# Both -----------------------------------------------------------------------------------------------------------------


def _planned(image: SrgbImage | RawImage, settings: Settings) -> Conversion:
    return parameters.complete(image, settings)


def _without_shake(
    mosaic: np.ndarray,
    conversion: Conversion,
    settings: Settings,
    choices: Choices,
    file: Path,
    noise: float | None,
    report: Progress,
) -> np.ndarray:
    """Return a linear mosaic (H, W) float32 without shake; a strength of 0 gives the same."""
    import torch

    from paramisp_cli import devices, runner

    device = devices.pick(settings.device)
    dtype = getattr(torch, parameters.DTYPES[settings.dtype])
    model = runner.load(file, Direction.RESTORE, device)
    run = runner.Runner(model, device, dtype, settings.max_memory, progress=report)
    change = run.repair(mosaic, conversion.canonical, conversion.optical, noise=noise)
    change -= mosaic
    change *= np.float32(choices.strength)
    if choices.mask_saturated:
        change *= _unclipped(mosaic)
    after: np.ndarray = mosaic + change
    return after


def _unclipped(mosaic: np.ndarray) -> np.ndarray:
    """Return the share (H, W) of the change that applies: 0 at clipped sites, 1 away from them."""
    import torch
    import torch.nn.functional as F

    bright = torch.from_numpy(np.maximum.reduce(bayer.sites(mosaic)) >= _CLIPPED).float()[None, None]
    if not bright.any():
        return np.ones((1, 1), np.float32)
    reach = _AROUND // 2
    near = bright
    for kernel in ((2 * reach + 1, 1), (1, 2 * reach + 1)):
        near = F.max_pool2d(near, kernel, 1, (kernel[0] // 2, kernel[1] // 2))
    for kernel in ((reach | 1, 1), (1, reach | 1)):
        near = F.avg_pool2d(near, kernel, 1, (kernel[0] // 2, kernel[1] // 2), count_include_pad=False)
    share: np.ndarray = 1 - near[0, 0].numpy().repeat(2, 0).repeat(2, 1)
    return share


def _size_of(before: np.ndarray, after: np.ndarray) -> float:
    """Return the root mean square change of √ of light."""
    roots = [np.sqrt(np.clip(each[::2, ::2], 0, 1)) for each in (before, after)]
    return float(np.sqrt(np.mean(np.square(roots[1] - roots[0]))))


def _facts(file: Path, choices: Choices, conversion: Conversion) -> dict[str, Any]:
    """Return the facts of a deblurring for its history, and for a picture the models of the way to RAW and back."""
    own = machine.facts_of(replace(conversion, architecture=ARCHITECTURE, checkpoint=file), 0.0)
    own = {key: value for key, value in own.items() if key != "exposure"}
    own["origin"] = {key: value for key, value in conversion.origin.items() if key != "model"}
    own |= {"strength": choices.strength, "mask_saturated": choices.mask_saturated}
    if conversion.direction == Direction.UNPROCESS:
        isp = machine.facts_of(conversion, 0.0)
        own["isp"] = {key: isp[key] for key in ("model", "weights", "weights_sha256")}
    return own
