"""Make another camera's RAW of a RAW, and its picture of a picture, with completed parameters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli import cameras, make_picture, make_raw, models, mosaic, onnx_runner, parameters, target, weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, MetadataError, WeightsError
from paramisp_cli.formats import exif, provenance
from paramisp_cli.machine import facts_of, runner_of
from paramisp_cli.parameters import Conversion, Settings
from paramisp_cli.rendition import transfer
from paramisp_cli.types import Camera, LinearImage, RawImage, SrgbImage

Progress = Callable[[float], None]


def complete(image: SrgbImage | RawImage, settings: Settings) -> Conversion:
    """Complete the parameters of a shot (``parameters.complete``); with ``to``, find the map to that camera, too.

    Raises its errors, MetadataError for a camera without a colour matrix, and WeightsError if a picture's target has no
    weights.
    """
    if settings.to is None:
        return parameters.complete(image, settings)
    other, own = target.of(settings), replace(target.without_file(settings), weights=None)
    if isinstance(image, RawImage):
        own = replace(own, model="parametric", look=None)  # of its values, none comes from a model
    conversion = parameters.complete(image, own)
    camera, canonical, origin = conversion.camera, conversion.canonical, dict(conversion.origin)
    is_raw, has_matrix = isinstance(image, RawImage), target.has_own_matrix(origin.get("color_matrix", ""))
    if isinstance(image, RawImage) and image.colours_of is not None and settings.camera is None:
        camera = target.camera_of(image)
    if is_raw and not has_matrix and not target.is_same(other, camera):
        shown = camera.name if camera else "its camera, which it does not name,"
        raise MetadataError(f"no colour matrix of {shown} is known; pass `camera` or `like`")
    _check_method(image, settings)
    by_network = isinstance(image, RawImage) and settings.weights is not None
    transform, notices = target.transform(
        other, camera, canonical, "conditioned" if by_network else settings.method
    )  # fmt: skip
    notices = (*conversion.notices, *notices)
    if settings.match_noise:
        _check_noise(other, conversion, is_raw=is_raw)
    if isinstance(image, RawImage):
        same = target.is_same(other, camera)
        if by_network and not same:
            path, backwards = _network(image, camera, other, settings)
            return replace(
                conversion, direction=Direction.TRANSFER, architecture=weights.architecture_of(path), checkpoint=path,
                origin={**origin, "model": "--weights"}, notices=notices, target=other, transform=transform,
                backwards=backwards,
            )  # fmt: skip
        name = "identity" if same else settings.method
        origin["model"] = "the camera itself" if same else "--method"
        return replace(
            conversion, direction=Direction.TRANSFER, architecture=name, origin=origin, notices=notices, target=other,
            transform=transform,
        )  # fmt: skip
    names = parameters.known_as(other.camera, other.facts)
    checkpoint = weights.find(names, Direction.RENDER, None, settings.weights, generic=False)
    if checkpoint is None:
        raise WeightsError(
            f"no render weights for {other.name}: its look is not known (`paramisp weights list` shows those that "
            "have weights; pass `weights`)"
        )
    return replace(conversion, notices=notices, target=other, transform=transform, rendering=checkpoint.path)


def _check_noise(other: target.Target, conversion: Conversion, *, is_raw: bool) -> None:
    """Raise ConfigError for a picture and MetadataError for noise that the table does not know (``match_noise``)."""
    if not is_raw:
        raise ConfigError("`match_noise`: for RAW files; leave it out")
    if conversion.optical.iso is None:
        raise MetadataError("the ISO of the shot is not known, and the noise depends on it; leave out `match_noise`")
    if other.facts is None or other.facts.noise_profile(conversion.optical.iso) is None:
        raise MetadataError(f"the noise of {other.name} is not known; leave out `match_noise`")


def _check_method(image: SrgbImage | RawImage, settings: Settings) -> None:
    """Raise an error for a network as the method where none can run."""
    if settings.method != "cstpp":
        return
    if not isinstance(image, RawImage):
        raise ConfigError("`method` cstpp: for RAW files; a picture takes matrix or conditioned")
    if settings.weights is None:
        raise WeightsError(
            "`method` cstpp: no weights come with paramisp; train them (docs/transfer.md) and pass `weights`"
        )


def _network(raw: RawImage, camera: Camera | None, other: target.Target, settings: Settings) -> tuple[Path, bool]:
    """Return the checkpoint of the setting ``weights``, and whether its network runs backwards.

    Raises WeightsError unless it is for these two cameras, and of the architecture that the method names.
    """
    if raw.linear is not None or settings.target_cfa:
        what = "a RAW of three colours a pixel" if raw.linear is not None else "the other camera's filters"
        raise ConfigError(f"`weights`: a network gives no {what}; leave it out")
    found = weights.find(None, Direction.TRANSFER, None, settings.weights, generic=False)
    assert found is not None  # `find` raises for a checkpoint that it does not find
    header = weights.info(found.path)
    try:
        pair = [header["camera"], header["to"] if "to" in header else json.loads(header["training"])["to"]]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{found.path} (`weights`) does not state its two cameras") from error
    kind = header["architecture"]
    if settings.method == "cstpp" and kind != "cstpp":
        raise WeightsError(f"{found.path} (`weights`) is of {kind}, not of `method` cstpp")
    own, wanted = [cameras.find_by_name(str(name)) for name in pair], [cameras.find(camera), other.facts]
    if None in own or own not in ([wanted, wanted[::-1]] if models.entry(kind).both_ways else [wanted]):
        shown = camera.name if camera else "an unknown camera"
        raise WeightsError(f"{found.path} (`weights`) is for {' to '.join(pair)}, not for {shown} to {other.name}")
    return found.path, own != wanted


def of_raw(raw: RawImage, conversion: Conversion, settings: Settings, progress: Progress | None) -> RawImage:
    """Return the RAW that the other camera would have recorded; ``progress`` takes the finished share of the work.

    Camera and settings in its EXIF stay those of the shot. To the camera itself, with its own CFA and no exposure, the
    samples and levels stay as they were, bit for bit. See ``rendition.transfer.transferred`` for the pixels.
    """
    other, transform = conversion.target, conversion.transform
    assert other is not None
    assert transform is not None
    exposure = settings.exposure or 0.0
    noise = raw.noise_profile
    raw = replace(
        raw,
        canonical=conversion.canonical,
        noise_profile=conversion.facts.noise_profile(conversion.optical.iso) if noise is None else noise,
    )
    cfa = _cfa(raw, conversion, settings)
    notices = conversion.notices
    origin = dict(conversion.origin)
    if transform.is_identity and exposure == 0 and cfa == raw.canonical.cfa:
        notices = (*notices, f"is by {other.name} itself: the samples do not change")
    else:
        dtype: type[np.generic] = np.float32 if settings.bit_depth == 32 else np.uint16
        if conversion.checkpoint is None:
            raw = transfer.transferred(raw, transform, cfa, gain=2.0**exposure, dtype=dtype, progress=progress)
        else:
            runner = runner_of(conversion, settings, progress=progress)
            assert not isinstance(runner, onnx_runner.OnnxRunner)  # it has `fast` alone
            light, _ = runner.transfer(raw.mosaic, raw.canonical, conversion.optical)
            raw = transfer.with_samples(raw, transform, light, gain=2.0**exposure, dtype=dtype)
        raw = replace(raw, canonical=replace(raw.canonical, color_matrix=other.color_matrix))
        origin |= dict.fromkeys(("black_level", "white_level"), "16 bits, with room below black for noise")
        origin |= {"color_matrix": other.origin, "wb": f"of {other.name} in the light of the shot"}
        if settings.target_cfa:
            origin["cfa"] = other.origin
    if settings.match_noise:
        assert other.facts is not None  # `complete` checked it
        goal = other.facts.noise_profile(conversion.optical.iso)
        assert goal is not None
        raw, notice = transfer.with_noise(raw, goal)
        notices = (*notices, notice.format(name=other.name))
    facts = facts_of(conversion, exposure) | {"to": other.name, "to_matrix": other.color_matrix.round(6).tolist()}
    if settings.match_noise:
        facts["match_noise"] = True
    xmp, remarks = provenance.transferred(raw.metadata.xmp, facts)
    return replace(
        raw,
        camera=conversion.camera,
        optical=conversion.optical,
        origin=origin,
        metadata=replace(raw.metadata, xmp=xmp, jpeg=None, jpeg_beside=None),  # they show the first camera's colours
        tone_curve=None,
        look_table=None,
        profile_exposure=0.0,
        model=conversion.architecture,
        colours_of=None if target.is_same(other, conversion.camera) else other.name,
        notes=notices + remarks,
    )


def _cfa(raw: RawImage, conversion: Conversion, settings: Settings) -> str:
    """Return the CFA of the result's first pixel: the RAW's own, or the other camera's at the picture's corner."""
    assert conversion.target is not None
    crop, own = raw.crop, conversion.target.cfa
    if not settings.target_cfa or own is None:
        return raw.canonical.cfa
    assert crop is not None
    return mosaic.named(mosaic.shifted(mosaic.pattern(own), crop.top, crop.left))


def of_picture(
    image: SrgbImage, conversion: Conversion, settings: Settings, progress: Progress | None
) -> SrgbImage | LinearImage:
    """Return the picture that the other camera would have made: unprocessed, transferred, and rendered by its weights.

    The EXIF stays that of the shot.
    """
    other = conversion.target
    assert other is not None
    own = replace(target.without_file(settings), weights=None, bit_depth=32, exposure=None)
    raw = make_raw.unprocessed(image, replace(conversion, target=None), own, _part(progress, 0, 0.5))
    seen = of_raw(
        raw,
        replace(conversion, canonical=raw.canonical, notices=raw.notes, architecture=settings.method, checkpoint=None),
        replace(settings, bit_depth=32, target_cfa=True),
        None,
    )
    seen = replace(seen, camera=other.camera)
    chosen: dict[str, Any] = {"camera": None, "model": None, "weights": conversion.rendering, "like": None, "wb": None}
    then = replace(target.without_file(settings), **chosen, exposure=None)
    rendering = parameters.complete(seen, then)
    shown = make_picture.rendered(seen, rendering, then, _part(progress, 0.5, 0.5))
    block = exif.clean_exif(
        image.metadata.exif,
        optical=conversion.optical,
        camera=conversion.camera,
        software="paramisp transfer",
        width=shown.pixels.shape[1],
        height=shown.pixels.shape[0],
        is_srgb=True,
    )
    return replace(shown, camera=conversion.camera, metadata=replace(shown.metadata, exif=block))


def _part(progress: Progress | None, start: float, length: float) -> Progress | None:
    """Return a function that reports a stage's share of the work as one of the whole work."""
    return None if progress is None else lambda share: progress(start + length * share)
