"""Crops for training: the same area of both sides of a pair, mirrored at random, always with the same CFA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import isp, mosaic
from paramisp_cli.directions import Kind
from paramisp_cli.errors import ConfigError
from paramisp_cli.formats import raster
from paramisp_cli.models.base import Params
from paramisp_cli.training.dataset import LIGHT_WHITE, LoadedPair, Region
from paramisp_cli.types import CanonicalParams, OpticalParams

CFA = "RGGB"
"""CFA of every crop: a batch has one, and moving or mirroring turns any CFA into any other."""
_SLACK = 2
"""Pixels by which a region must exceed a crop, whose corner moves by up to one for the phase of the CFA."""


_WHITE, _BLACK = 250, 12
"""sRGB codes from which a pixel is a clipped white, and up to which it is a deep black."""


@dataclass(frozen=True, slots=True)
class Batch:
    """srgb (N, 3, H, W) and mosaic (N, 1, H, W), float32, linear RAW with black 0 and white 1, and the parameters.

    ``code`` (N,) is one raw unit on the scale of the mosaic: 1 / (white − black). ``thumbnails`` (N, 3, side, side) of
    the whole pictures are there for each side whose thumbnail a network needs. ``restored`` (N, 3, H, W) is linear,
    white-balanced sRGB, clipped only where the sensor clips: of a simulated shot the light without noise, of other
    shots a plain rendering of the mosaic (demosaiced, gains, matrix). It is None if no pair in training has light.
    """

    srgb: Tensor
    mosaic: Tensor
    params: Params
    code: Tensor
    thumbnails: Mapping[Kind, Tensor] = field(default_factory=dict)
    restored: Tensor | None = None


def largest_side(item: LoadedPair) -> int:
    """Return the side [px] of the largest square that can be cropped from a region of a pair; 0 if there is none."""
    return max((min(region.height, region.width) - _SLACK for region in item.pair.regions), default=0)


class Sampler:
    """Random crops: each camera as often as any other, and each pair of a camera as often as any other.

    Where a data set holds photographs, simulated pairs give the share ``simulated`` of the crops. Where a camera has
    computed exposures, they give the share ``exposures`` of its crops. A pair none of whose
    regions holds a crop gives none of that size.
    """

    def __init__(
        self,
        pairs: Sequence[LoadedPair],
        params_of: Callable[[CanonicalParams, OpticalParams], Params] = Params.of,
        lens_shading: Sequence[Sequence[float]] | None = None,
        simulated: float = 0.0,
        random_balance: float = 0.0,
        extremes: float = 0.0,
        exposures: float = 0.0,
        thumbnail_of: Callable[[LoadedPair, Kind], Tensor | None] = lambda item, kind: None,
    ) -> None:
        """Store the sources; ``params_of`` and ``lens_shading`` are the model's, and the mosaics come without shading.

        ``thumbnail_of`` returns the thumbnail of a whole picture (1, 3, side, side), or None if no network needs it.
        """
        self.pairs, self.params_of, self.lens_shading = pairs, params_of, lens_shading
        self.simulated, self.random_balance, self.extremes = simulated, random_balance, extremes
        self.exposures = exposures
        self.thumbnail_of = cache(thumbnail_of)
        self.with_light = any(item.light is not None for item in pairs)
        self._groups: dict[int, list[list[list[LoadedPair]]]] = {}

    def _groups_for(self, crop: int) -> list[list[list[LoadedPair]]]:
        """Return the pairs that hold such crops, by camera: those of photographs first, then simulated ones."""
        if crop not in self._groups:
            groups: dict[bool, dict[str, list[LoadedPair]]] = {}
            for item in self.pairs:
                if largest_side(item) >= crop:
                    groups.setdefault(item.pair.is_simulated, {}).setdefault(item.camera, []).append(item)
            if not groups:
                raise ConfigError(f"no aligned part of any photograph holds a crop of {crop} px; use a smaller one")
            self._groups[crop] = [list(groups[simulated].values()) for simulated in sorted(groups)]
        return self._groups[crop]

    def batch(self, count: int, crop: int, generator: torch.Generator) -> Batch:
        """Draw ``count`` crops of ``crop`` × ``crop`` px; all randomness comes from the generator."""

        def pick(n: int) -> int:
            return int(torch.randint(n, (1,), generator=generator))

        srgbs, mosaics, lights, parameters, codes = [], [], [], [], []
        thumbnails: dict[Kind, list[Tensor]] = {kind: [] for kind in Kind}
        groups = self._groups_for(crop)
        for _ in range(count):
            cameras = groups[len(groups) > 1 and float(torch.rand(1, generator=generator)) < self.simulated]
            items = cameras[pick(len(cameras))]
            if exposed := [item for item in items if item.pair.is_exposed]:  # else no number is drawn
                plain = [item for item in items if not item.pair.is_exposed]
                bent = not plain or float(torch.rand(1, generator=generator)) < self.exposures
                items = exposed if bent else plain
            item = items[pick(len(items))]
            fitting = [r for r in item.pair.regions if min(r.height, r.width) >= crop + _SLACK]
            areas = torch.tensor([float(r.height * r.width) for r in fitting])
            region = fitting[int(torch.multinomial(areas, 1, generator=generator))]
            spots = [(pick((region.height - crop) // 2), pick((region.width - crop) // 2))]
            if self.extremes and float(torch.rand(1, generator=generator)) < self.extremes:
                spots += [(pick((region.height - crop) // 2), pick((region.width - crop) // 2)) for _ in range(3)]
            spot = max(spots, key=lambda spot: _extreme(item, region, spot, crop)) if len(spots) > 1 else spots[0]
            orientation = 1 + pick(4)
            srgb, raw = cut(item, region, spot, crop, orientation, self.lens_shading)
            for kind, thumbs in thumbnails.items():
                if (thumbnail := self.thumbnail_of(item, kind)) is not None:
                    mirrored = [dim for dim, turns in ((2, (3, 4)), (3, (2, 3))) if orientation in turns]
                    thumbs.append(thumbnail.flip(mirrored))
            srgbs.append(srgb)
            mosaics.append(raw)
            lights.append(cut_light(item, region, spot, crop, orientation, self.lens_shading))
            codes.append(1 / (item.canonical.white_level - float(item.canonical.black_level.mean())))
            parameters.append((replace(item.canonical, cfa=CFA), item.pair.optical))
        if self.random_balance:
            for number, (canonical, optical) in enumerate(parameters):
                red, blue = (self.random_balance * torch.randn(2, generator=generator)).exp().tolist()
                planes = mosaic.sites(mosaics[number][0])
                planes[CFA.index("R")] *= red
                planes[CFA.index("B")] *= blue
                if (light := lights[number]) is not None:
                    light *= np.array([[[red]], [[1]], [[blue]]], np.float32)
                neutral = canonical.as_shot_neutral * (red, 1, blue)
                parameters[number] = replace(canonical, as_shot_neutral=neutral), optical
        raws = torch.from_numpy(np.stack(mosaics))
        params = Params.cat([self.params_of(canonical, optical) for canonical, optical in parameters])
        return Batch(
            torch.from_numpy(np.stack(srgbs)),
            raws,
            params,
            torch.tensor(codes, dtype=torch.float32),
            {kind: torch.cat(thumbs) for kind, thumbs in thumbnails.items() if thumbs},
            _restored(raws, lights, params) if self.with_light else None,
        )


def _restored(mosaics: Tensor, lights: Sequence[np.ndarray | None], params: Params) -> Tensor:
    """Return the restored pictures of a batch; see ``Batch``."""
    camera = torch.stack(
        [
            isp.demosaic(raw[None], CFA)[0] if light is None else torch.from_numpy(light)
            for raw, light in zip(mosaics, lights, strict=True)
        ]
    )
    return isp.balanced_srgb(camera, params.wb_gains, params.cam_to_srgb)


def _extreme(item: LoadedPair, region: Region, spot: tuple[int, int], crop: int) -> int:
    """Count the clipped whites and deep blacks of a crop, in every fourth row and column."""
    top, left = region.top + 2 * spot[0], region.left + 2 * spot[1]
    sample = item.srgb[top : top + crop : 4, left : left + crop : 4]
    return int((sample.min(-1) > _WHITE).sum() + (sample.max(-1) < _BLACK).sum())


def cut(
    item: LoadedPair,
    region: Region,
    spot: tuple[int, int],
    crop: int,
    orientation: int,
    lens_shading: Sequence[Sequence[float]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut (srgb (3, crop, crop) in [0, 1], mosaic (1, crop, crop) with ``CFA``) at twice ``spot`` in the region.

    ``orientation`` 1–4 mirrors both; ``lens_shading`` is taken out of the mosaic. The corner moves by up to one pixel
    to give the crop its CFA.
    """
    top, left, canonical = _corner(item, region, spot, orientation)
    srgb = item.srgb[top : top + crop, left : left + crop]
    top, left = top + region.dy, left + region.dx
    codes = item.mosaic[top : top + crop, left : left + crop]
    black = mosaic.repeated(canonical.black_level, codes.shape)
    raw = (codes - black) / (canonical.white_level - black)
    if lens_shading is not None:
        frame = _frame(item, top, left)
        raw = raw * isp.shading_gain(lens_shading, canonical.cfa, (0, crop), frame, crop)[0, 0].numpy()
    srgb, raw = (raster.apply_orientation(side, orientation) for side in (srgb, raw))
    return (srgb.transpose(2, 0, 1) / 255).astype(np.float32), raw[None].astype(np.float32)


def cut_light(
    item: LoadedPair,
    region: Region,
    spot: tuple[int, int],
    crop: int,
    orientation: int,
    lens_shading: Sequence[Sequence[float]] | None = None,
) -> np.ndarray | None:
    """Cut the light (3, crop, crop) on the sites of the mosaic that ``cut`` returns, on its scale; None without light.

    A mosaic of this light is that of ``cut`` without noise.
    """
    if item.light is None:
        return None
    top, left, _ = _corner(item, region, spot, orientation)
    top, left = top + region.dy, left + region.dx
    light = item.light[top : top + crop, left : left + crop].astype(np.float32) / LIGHT_WHITE
    if lens_shading is not None:
        frame = _frame(item, top, left)
        for channel, row in enumerate(lens_shading):  # three equal rows: the gain of one channel on every site
            light[..., channel] *= isp.shading_gain([row] * 3, CFA, (0, crop), frame, crop)[0, 0].numpy()
    return np.ascontiguousarray(raster.apply_orientation(light, orientation).transpose(2, 0, 1))


def _corner(
    item: LoadedPair, region: Region, spot: tuple[int, int], orientation: int
) -> tuple[int, int, CanonicalParams]:
    """Return (top, left) of a crop in the picture, and the parameters of its mosaic before it is mirrored."""
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        top, left = region.top + 2 * spot[0] + dy, region.left + 2 * spot[1] + dx
        canonical = item.canonical.shifted(top + region.dy, left + region.dx)
        if mosaic.named(raster.apply_orientation(mosaic.pattern(canonical.cfa), orientation)) == CFA:
            break
    return top, left, canonical


def _frame(item: LoadedPair, top: int, left: int) -> tuple[int, int, int, int]:
    """Return the frame, for ``isp.shading_gain``, of a crop at (top, left) in the mosaic."""
    frame_top, frame_left, height, width = item.frame or (0, 0, *item.mosaic.shape)
    return frame_top + top, frame_left + left, height, width
