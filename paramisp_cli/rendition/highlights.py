"""Put the light of a gain map into a mosaic: the highlights that a phone stored beside its picture.

The mosaic of the picture alone cannot simply be multiplied by the gain. There, a blown white fills every channel to the
brim, so that readers clip it to white; scaled down it would turn magenta. A model also expands the shoulder of the tone
curve, and so does the gain: the product would expand twice. So the HDR rendition H itself, in camera RGB, replaces the
model's mosaic where it is brighter than half the picture's white, by a smooth share. Below, the model's mosaic stays,
clipped at white as readers clip it, times the gain, which is about 1 there. Both agree at white, where model, picture
and rendition are all 1: no scale has to be fitted.

The result is divided by the headroom, the brightest light of H, and BaselineExposure multiplies by it again. Mosaic
times 2^BaselineExposure is therefore light in units of the picture's white.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from paramisp_cli import color
from paramisp_cli import mosaic as bayer
from paramisp_cli.formats.gainmap import GainMap
from paramisp_cli.rendition.bands import Progress, in_bands
from paramisp_cli.types import CanonicalParams

_START = 0.5
"""Light, in units of the picture's white, from which H begins to replace the model's mosaic; at white it is H alone."""
_BAND = 1 << 16  # 2×2 sites at a time
_SAMPLES = 4_000_000
"""Most pixels of the headroom's statistics."""
_BRIGHTEST = 99.99
"""Percentile of H that becomes the headroom: a few specks above it are clipped."""
_SMALLEST = 0.02
"""Headroom [EV] below which the picture has no light above its white."""
_CODES = 65535.0


def headroom_of(pixels: np.ndarray, gain_map: GainMap) -> float:
    """Return the light above white [EV] that a picture (H, W, 3) gains by its map; 0 for next to none.

    It is that of the percentile ``_BRIGHTEST``, and at most the map's own headroom.
    """
    height, width = pixels.shape[:2]
    step = math.ceil(math.sqrt(max(height * width / _SAMPLES, 1)))
    rows, columns = np.arange(0, height, step), np.arange(0, width, step)
    decoded = _decoder(pixels.dtype)
    band = max(_BAND // max(len(columns), 1), 1)
    tops = [
        gain_map.light(decoded(pixels[np.ix_(part, columns)]), part, columns, (height, width)).max(-1).ravel()
        for part in (rows[first : first + band] for first in range(0, len(rows), band))
    ]
    brightest = float(np.percentile(np.concatenate(tops), _BRIGHTEST))
    stops = min(math.log2(max(brightest, 1.0)), gain_map.headroom)
    return stops if stops >= _SMALLEST else 0.0


def stretched(canonical: CanonicalParams) -> CanonicalParams:
    """Return the parameters with all 16 bits up to the white level: the picture must not lose codes to the headroom."""
    return CanonicalParams(
        canonical.cfa,
        canonical.black_level,
        max(_CODES, canonical.white_level),
        canonical.as_shot_neutral,
        canonical.color_matrix,
    )


def with_highlights(
    pixels: np.ndarray,
    gain_map: GainMap,
    canonical: CanonicalParams,
    stops: float,
    model: np.ndarray | None,
    size: tuple[int, int],
    *,
    exposure: float = 0.0,
    dtype: type[np.generic] = np.uint16,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return a mosaic of ``size`` with the light of a picture and of its gain map.

    pixels     (H, W, 3) uint8, uint16 or float32 in [0, 1], sRGB; padded by reflection to ``size``, which is even
    canonical  parameters of the new mosaic, see ``stretched``
    stops      headroom [EV] of the new mosaic, see ``headroom_of``
    model      (size) float32 in [0, 1], the mosaic of the picture alone, darkened by ``exposure``; None: H is taken as
               the light of the scene everywhere
    exposure   EV by which the new mosaic is darkened, beside the headroom
    dtype      uint16: raw units; float32: black 0, white 1
    """
    height, width = pixels.shape[:2]
    row_of = bayer.reflect_index(height, 0, size[0] - height)
    column_of = bayer.reflect_index(width, 0, size[1] - width)
    inverse = np.linalg.inv(canonical.cam_to_srgb()).astype(np.float32)
    gains = canonical.wb_gains.astype(np.float32)
    most = np.float32(2.0**stops)
    darker = np.float32(2.0**exposure)
    decoded = _decoder(pixels.dtype)
    out = np.empty(size, dtype)

    def work(first: int, last: int) -> None:
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            rows, columns = row_of[2 * first + y : 2 * last : 2], column_of[x::2]
            channel = bayer.channel_of(canonical.cfa, y, x)
            linear = decoded(pixels[np.ix_(rows, columns)])
            hdr = gain_map.light(linear, rows, columns, (height, width))
            light = np.maximum(hdr @ inverse[channel], 0)
            if model is not None:
                own = model[2 * first + y : 2 * last : 2, x::2] * (darker * gains[channel])
                gain = gain_map.gain(rows, columns, (height, width))
                own = np.minimum(own, 1) * (gain if gain.ndim == 2 else gain[..., channel])
                share = np.clip((hdr.max(-1) - _START) / (1 - _START), 0, 1)
                share *= share * (3 - 2 * share)
                light = own + share * (light - own)
            # All channels clip at one brightness: a lamp beyond the headroom is white.
            light = np.minimum(light, most) / (most * darker * gains[channel])
            if dtype != np.float32:
                black = np.float32(canonical.black_level[y, x])
                light = np.rint(light * (np.float32(canonical.white_level) - black) + black)
                np.clip(light, 0, canonical.white_level, out=light)
            out[2 * first + y : 2 * last : 2, x::2] = light

    in_bands(work, size[0] // 2, max(_BAND // (size[1] // 2), 1), progress=progress)
    return out


def _decoder(dtype: np.dtype[np.generic]) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that decodes sRGB pixels of a type to linear float32 in [0, 1]; whole numbers by a table."""
    if dtype.kind == "f":
        return lambda pixels: color.srgb_decode(np.clip(pixels, 0, 1)).astype(np.float32)
    top = 255 if dtype == np.uint8 else 65535
    table = color.srgb_decode(np.arange(top + 1) / top).astype(np.float32)
    return table.take
