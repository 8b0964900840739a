"""Pictures for pages: read, reduced, drawn from a RAW, and embedded as data URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paramisp_cli import formats, mosaic
from paramisp_cli.errors import FormatError
from paramisp_cli.formats.raster import apply_orientation, encode_jpeg, to_depth
from paramisp_cli.pages.document import Markup, image
from paramisp_cli.training.pairing.contact_sheet import drawn
from paramisp_cli.types import CanonicalParams, HdrImage, LinearImage, Output, RawImage, SrgbImage

_QUALITY = 88


@dataclass(frozen=True, slots=True)
class Picture:
    """An embedded picture: its data URI and its size (height, width)."""

    uri: str
    size: tuple[int, int]

    def shown(self, alt: str) -> Markup:
        """Return its element."""
        return image(self.uri, self.size, alt)


def embedded(pixels: np.ndarray, longest: int) -> Picture:
    """Embed (H, W, 3) uint8 as a JPEG, reduced by a whole factor: the longer side is below twice ``longest``."""
    small = reduced(pixels, longest)
    data = encode_jpeg(np.ascontiguousarray(small), _QUALITY, chroma_half=False)
    return Picture(f"data:image/jpeg;base64,{base64.b64encode(data).decode()}", (small.shape[0], small.shape[1]))


def reduced(pixels: np.ndarray, longest: int) -> np.ndarray:
    """Reduce (H, W, 3) uint8 by a whole factor, by the mean of blocks; large pictures are sampled first."""
    coarse = max(max(pixels.shape[:2]) // (4 * longest), 1)
    pixels = pixels[::coarse, ::coarse]
    step = max(max(pixels.shape[:2]) // longest, 1)
    step = min(step, *pixels.shape[:2])
    if step == 1:
        return pixels
    height, width = (side // step for side in pixels.shape[:2])
    blocks = pixels[: height * step, : width * step].reshape(height, step, width, step, 3)
    means: np.ndarray = np.rint(blocks.mean((1, 3)))
    return means.astype(np.uint8)


def read(path: Path) -> np.ndarray:
    """Read a picture as (H, W, 3) uint8, upright; raises the errors of ``formats.read``."""
    found = formats.read(path)
    if not isinstance(found, SrgbImage):
        raise FormatError(f"{path}: is a RAW file, not a picture")
    return apply_orientation(to_depth(found.pixels, 8), found.orientation)


def thirds(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a picture of prediction, truth and error, side by side → the three, (H, W, 3) uint8 each.

    Raises FormatError for a picture whose width is no multiple of three.
    """
    pixels = read(path)
    width = pixels.shape[1]
    if width % 3:
        raise FormatError(f"{path}: is not prediction, truth and error side by side: its width is {width}")
    first, second, third = np.split(pixels, 3, axis=1)
    return first, second, third


def of_mosaic(samples: np.ndarray, canonical: CanonicalParams, longest: int) -> np.ndarray:
    """Draw a mosaic (H, W) plainly: white balance, colour matrix, even brightness, no look → (h, w, 3) uint8."""
    step = max(max(samples.shape) // 2 // (2 * longest), 1)
    return drawn(mosaic.linear_sites(samples, canonical.black_level, canonical.white_level, step), canonical)


def of_image(shown: Output, longest: int) -> np.ndarray:
    """Draw the input or the result of a conversion, upright → (h, w, 3) uint8, not yet small."""
    if isinstance(shown, RawImage):
        raw = shown.cropped()
        return apply_orientation(of_mosaic(raw.mosaic, raw.canonical, longest), raw.orientation)
    picture = shown.base if isinstance(shown, HdrImage) else shown
    step = max(max(picture.pixels.shape[:2]) // (4 * longest), 1)
    pixels = picture.pixels[::step, ::step]
    if isinstance(picture, LinearImage):
        return to_depth(np.clip(np.nan_to_num(pixels), 0, 1) ** np.float32(1 / 2.2), 8)
    return apply_orientation(to_depth(pixels, 8), picture.orientation)


def spread(count: int, most: int) -> list[int]:
    """Return at most ``most`` indices below ``count``, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(at * (count - 1) / (most - 1)) for at in range(most)})
