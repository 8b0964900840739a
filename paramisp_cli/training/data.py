"""Crops for training: both sides of a pair cut alike, flipped without breaking the CFA, with noise in the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import isp
from paramisp_cli.errors import ConfigError
from paramisp_cli.formats import raster
from paramisp_cli.models.base import Params
from paramisp_cli.training.dataset import Pair, Region, read_arrays, read_index
from paramisp_cli.types import CanonicalParams

CFA = "RGGB"
"""The pattern of every training crop: a batch has one, and any pattern becomes any other by moving or mirroring."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pair in memory, or a part of one.

    part   which part of the photograph, if not all ("right 30 %")
    frame  where the mosaic's corner lies in the whole photograph, and that one's size: (top, left, height, width)
    """

    pair: Pair
    mosaic: np.ndarray
    srgb: np.ndarray
    part: str = ""
    frame: tuple[int, int, int, int] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is aligned as a whole, sRGB pixel on mosaic pixel; else only in its regions."""
        return self.mosaic.shape == self.srgb.shape[:2] and self.pair.regions == (Region(0, 0, *self.mosaic.shape),)

    @property
    def camera(self) -> str:
        """The camera's name, "unknown" if it is."""
        return self.pair.camera.name if self.pair.camera else "unknown"

    @property
    def name(self) -> str:
        """The photograph, and which part of it if not all."""
        return f"{self.pair.name} ({self.part})" if self.part else self.pair.name


@dataclass(frozen=True, slots=True)
class Batch:
    """srgb (N, 3, H, W) and mosaic (N, 1, H, W), float32, linear RAW with black 0 and white 1, and the parameters.

    ``bit`` (N,) is a code of the RAW in those units: 1 / (white − black).
    """

    srgb: Tensor
    mosaic: Tensor
    params: Params
    bit: Tensor


def load(
    dataset: Path | str, camera: str | None = None, leave_out: Sequence[str] = (), *, simulated: bool = False
) -> list[Loaded]:
    """The usable pairs of a data set, of one camera if asked; names that contain one of ``leave_out`` are left out.

    Where a data set holds photographs, its simulated pairs are loaded beside them only if ``simulated``.
    Raises ConfigError if none is left.
    """
    chosen = [
        pair
        for pair in read_index(dataset)
        if pair.status != "refused"
        and (camera is None or (pair.camera is not None and camera.lower() in pair.camera.name.lower()))
        and not any(word in pair.name for word in leave_out)
    ]
    if not chosen:
        what = f" of {camera}" if camera else ""
        raise ConfigError(f"{dataset}: no pair{what} to train on; see what `paramisp pairs` said of each file")
    if not simulated:
        chosen = [pair for pair in chosen if not pair.is_simulated] or chosen
    return [Loaded(pair, *read_arrays(dataset, pair)) for pair in chosen]


_SLACK = 2
"""Pixels that a part must have more than a crop, whose corner moves by up to one for the CFA's phase."""

GAP = 16
"""Columns between the two parts of a photograph: a demosaiced pixel of one never looks at the other."""


def split(item: Loaded, which: Literal["train", "test"], fraction: float = 0.3) -> Loaded:
    """A part of a photograph: "test" the right-hand ``fraction`` (0 to 1) of the frame, "train" what is left of it.

    ``GAP`` columns between the two belong to neither. The mosaic's phase, the regions and the offset to the RAW file
    move along. A photograph that is aligned in windows keeps its arrays and loses the windows (or the columns of them)
    of the other part. Raises ConfigError for a fraction that leaves nothing of either.
    """
    width = item.srgb.shape[1]
    middle = round(width * (1 - fraction) / 2) * 2 if 0 < fraction < 1 else 0
    if middle - GAP < 2 or middle + 2 > width:
        raise ConfigError(f"{item.pair.name}: cannot hold out {fraction:g} of its {width} columns")
    left, right = (0, middle - GAP) if which == "train" else (middle, width // 2 * 2)
    told = f"left {1 - fraction:.0%}" if which == "train" else f"right {fraction:.0%}"
    regions = []
    for region in item.pair.regions:
        first = max(region.left, left)
        wide = (min(region.left + region.width, right) - first) // 2 * 2
        if wide > 0:
            regions.append(replace(region, left=first, width=wide))
    part = told.replace("%", " %")
    if not item.is_whole:
        return replace(item, pair=replace(item.pair, regions=tuple(regions)), part=part)
    canonical, (y, x) = item.pair.canonical, item.pair.offset
    assert canonical is not None
    if item.pair.status == "reduced":
        x += left * item.pair.reduction
    else:
        y, x = max(y, 0), max(x, 0) + left  # from the stored picture's own corner
    pair = replace(
        item.pair,
        canonical=canonical.shifted(0, left),
        regions=tuple(replace(r, left=r.left - left) for r in regions),
        size=(item.pair.size[0], right - left),
        offset=(y, x),
    )
    frame = (0, left, *item.mosaic.shape)
    return Loaded(pair, item.mosaic[:, left:right], item.srgb[:, left:right], part, frame)


def largest_crop(item: Loaded) -> int:
    """Side [px] of the largest crop, a multiple of 4, that an aligned part of a pair holds; 0 if there is none."""
    sides = [min(r.height, r.width) - _SLACK for r in item.pair.regions]
    return max([side // 4 * 4 for side in sides if side >= 4], default=0)


class Sampler:
    """Random crops from pairs: every camera as often as any other, every pair of a camera likewise.

    Simulated pairs, if there are photographs too, give the share of crops that is asked for. A pair without an aligned
    part that holds a crop gives none of that size.
    """

    def __init__(
        self,
        loaded: Sequence[Loaded],
        row_sum: float | None = None,
        lens_shading: Sequence[Sequence[float]] | None = None,
        simulated: float = 0.0,
        random_balance: float = 0.0,
    ) -> None:
        """``row_sum`` and ``lens_shading`` as the model's; the mosaics come without the shading."""
        self.row_sum, self.lens_shading, self.simulated = row_sum, lens_shading, simulated
        self.random_balance = random_balance
        self.loaded = loaded
        self._of_crop: dict[int, list[list[list[Loaded]]]] = {}

    def _kinds(self, crop: int) -> list[list[list[Loaded]]]:
        """The pairs that hold such crops: photographs first, then simulated ones; by camera."""
        if crop not in self._of_crop:
            kinds: dict[bool, dict[str, list[Loaded]]] = {}
            for item in self.loaded:
                if largest_crop(item) >= crop:
                    kinds.setdefault(item.pair.is_simulated, {}).setdefault(item.camera, []).append(item)
            if not kinds:
                raise ConfigError(f"no aligned part of any photograph holds a crop of {crop} px; use a smaller one")
            self._of_crop[crop] = [list(kinds[kind].values()) for kind in sorted(kinds)]
        return self._of_crop[crop]

    def batch(self, count: int, crop: int, generator: torch.Generator) -> Batch:
        """``count`` crops of ``crop`` × ``crop``; the generator decides all."""

        def pick(n: int) -> int:
            return int(torch.randint(n, (1,), generator=generator))

        crops, kinds = [], self._kinds(crop)
        for _ in range(count):
            draw = len(kinds) > 1 and float(torch.rand(1, generator=generator)) < self.simulated
            cameras = kinds[draw]
            items = cameras[pick(len(cameras))]
            item = items[pick(len(items))]
            fitting = [r for r in item.pair.regions if min(r.height, r.width) >= crop + _SLACK]
            areas = torch.tensor([float(r.height * r.width) for r in fitting])
            region = fitting[int(torch.multinomial(areas, 1, generator=generator))]
            spot = pick((region.height - crop) // 2), pick((region.width - crop) // 2)
            crops.append(cut(item, region, spot, crop, 1 + pick(4), self.lens_shading))
        parameters = []
        for _, mosaic, item in crops:
            canonical = _canonical(item)
            if self.random_balance:
                red, blue = (self.random_balance * torch.randn(2, generator=generator)).exp().tolist()
                mosaic[0, 0::2, 0::2] *= red
                mosaic[0, 1::2, 1::2] *= blue
                canonical = replace(canonical, as_shot_neutral=canonical.as_shot_neutral * (red, 1, blue))
            parameters.append(Params.of(canonical, item.pair.optical, self.row_sum))
        params = Params.cat(parameters)
        bits = [1 / (c.white_level - float(c.black_level.mean())) for c in (_canonical(item) for *_, item in crops)]
        return Batch(
            torch.from_numpy(np.stack([srgb for srgb, *_ in crops])),
            torch.from_numpy(np.stack([mosaic for _, mosaic, _ in crops])),
            params,
            torch.tensor(bits, dtype=torch.float32),
        )


def _canonical(item: Loaded) -> CanonicalParams:
    """The pair's parameters with the crops' CFA."""
    assert item.pair.canonical is not None
    return replace(item.pair.canonical, cfa=CFA)


def cut(
    item: Loaded,
    region: Region,
    spot: tuple[int, int],
    crop: int,
    orientation: int,
    lens_shading: Sequence[Sequence[float]] | None = None,
) -> tuple[np.ndarray, np.ndarray, Loaded]:
    """(srgb (3, crop, crop) in [0, 1], mosaic (1, crop, crop) with ``CFA``, item) at twice ``spot`` in the region.

    ``orientation`` 1–4 mirrors both; ``lens_shading`` is taken out of the mosaic. The corner moves by up to one pixel,
    so that the pattern comes out as ``CFA``.
    """
    canonical = item.pair.canonical
    assert canonical is not None
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        top, left = region.top + 2 * spot[0] + dy, region.left + 2 * spot[1] + dx
        shifted = canonical.shifted(top + region.dy, left + region.dx)
        pattern = np.array(list(shifted.cfa)).reshape(2, 2)
        if "".join(raster.apply_orientation(pattern, orientation).ravel().tolist()) == CFA:
            break
    srgb = item.srgb[top : top + crop, left : left + crop]
    rows = slice(top + region.dy, top + region.dy + crop)
    columns = slice(left + region.dx, left + region.dx + crop)
    black = np.tile(shifted.black_level, (crop // 2, crop // 2))
    mosaic = (item.mosaic[rows, columns] - black) / (canonical.white_level - black)
    if lens_shading is not None:
        top, left, *whole = item.frame or (0, 0, *item.mosaic.shape)
        place = (top + rows.start, left + columns.start, *whole)
        mosaic = mosaic * isp.shading_gain(lens_shading, shifted.cfa, (0, crop), place, crop)[0, 0].numpy()
    srgb, mosaic = (raster.apply_orientation(x, orientation) for x in (srgb, mosaic))
    return (srgb.transpose(2, 0, 1) / 255).astype(np.float32), mosaic[None].astype(np.float32), item
