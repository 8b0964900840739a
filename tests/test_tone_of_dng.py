"""The tone curve that a network's DNG carries, on the real JPEGs of ../shared/data; skipped without them.

`paramisp` takes about 3 s a megapixel on a CPU, so every photo is reduced before it is unprocessed: to half a megapixel
(for `paramisp` an eighth), and to a tenth where only black is looked at. At full size, with an earlier weighting of the
fit, the distance of three photos to their optimum differed by 0.3 dB or less.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import paramisp_cli as paramisp
from paramisp_cli import color, look

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
JPEGS = sorted((SHARED / "jpegs").glob("*.JPG"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not JPEGS, reason=f"no photographs in {SHARED}")]
NETWORKS = pytest.mark.parametrize("model", ["fast", "paramisp"])
LUMINANCE = color.SRGB_TO_XYZ[1]


@pytest.fixture(scope="module", params=JPEGS, ids=lambda path: path.stem)
def photo(request: pytest.FixtureRequest) -> tuple[str, paramisp.SrgbImage]:
    """Name and picture of each photo; its tests follow one another, and it is read once for them."""
    image = paramisp.read(request.param)
    assert isinstance(image, paramisp.SrgbImage)
    pixels = image.pixels if image.pixels.dtype == np.uint8 else np.rint(image.pixels / 257).astype(np.uint8)
    return request.param.stem, paramisp.SrgbImage(pixels, camera=image.camera, optical=image.optical)


def reduced(image: paramisp.SrgbImage, megapixels: float) -> paramisp.SrgbImage:
    """The picture with about this many pixels."""
    height, width = image.size
    factor = (height * width / megapixels / 1e6) ** 0.5
    size = round(width / factor), round(height / factor)
    small = np.asarray(Image.fromarray(image.pixels).resize(size, Image.Resampling.BOX))
    return paramisp.SrgbImage(small, camera=image.camera, optical=image.optical)


def sites(image: paramisp.SrgbImage, raw: paramisp.RawImage) -> tuple[np.ndarray, np.ndarray]:
    """(linear sRGB of the RAW's 2×2 sites, linear sRGB of the picture's), each (h, w, 3)."""
    canonical, (height, width) = raw.canonical, (side // 2 for side in image.size)
    camera, shown = np.zeros((2, height, width, 3))
    for position, channel in enumerate(canonical.cfa):
        y, x = divmod(position, 2)
        black = canonical.black_level[y, x]
        plane = raw.mosaic[y : 2 * height : 2, x : 2 * width : 2]
        level = (plane - black) / (canonical.white_level - black)
        camera[..., "RGB".index(channel)] += level / canonical.cfa.count(channel)
        shown += color.srgb_decode(image.pixels[y : 2 * height : 2, x : 2 * width : 2] / 255) / 4
    gains = canonical.wb_gains / canonical.wb_gains.min()  # as DNG readers scale them
    return np.clip(camera * gains, 0, 1) @ canonical.cam_to_srgb().T, shown


def per_channel(linear: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Every channel of linear ProPhoto RGB through the curve → linear sRGB."""
    wide = np.clip(linear @ color.SRGB_TO_PROPHOTO.T, 0, 1)
    return np.clip(np.interp(wide, curve[:, 0], curve[:, 1]) @ color.PROPHOTO_TO_SRGB.T, 0, 1)


def per_srgb_channel(linear: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Every channel of linear sRGB through the curve, as simple readers do."""
    return np.interp(np.clip(linear, 0, 1), curve[:, 0], curve[:, 1])


def optimum(linear: np.ndarray, shown: np.ndarray, space: np.ndarray) -> np.ndarray:
    """The isotonic curve of least encoded error over all channel values, of any colour, black and all.

    ``space`` is the matrix from linear sRGB to the space in which the curve is applied.
    """
    x, y = (np.clip(light @ space.T, 0, 1).ravel() for light in (linear, shown))
    bins = np.minimum((np.cbrt(x) * 4096).astype(int), 4095)
    count = np.bincount(bins)
    used = count > 0
    levels = look.isotonic((np.bincount(bins, color.srgb_encode(y))[used] / count[used]), count[used])
    return np.stack([np.bincount(bins, x)[used] / count[used], color.srgb_decode(levels)], 1)


def psnr(linear: np.ndarray, shown: np.ndarray) -> float:
    return float(-10 * np.log10(((color.srgb_encode(linear) - color.srgb_encode(shown)) ** 2).mean()))


@NETWORKS
def test_the_curve_shows_the_photo(photo: tuple[str, paramisp.SrgbImage], model: str, tmp_path: Path) -> None:
    """Within 1 dB of the isotonic optimum, with the hue preserved and each channel by itself, and no step at black.

    In sRGB the optimum of a photo with colours outside sRGB lifts black to 40 codes and more, for these colours are
    zeros there; the curve does not. The iPhone's JPEG is toned locally, which no single curve follows.
    """
    name, full = photo
    image = reduced(full, 0.12 if model == "paramisp" else 0.5)
    raw = paramisp.unprocess(image, paramisp.Settings(model=model))
    assert raw.model == model
    assert raw.tone_curve is not None
    paramisp.write(raw, tmp_path / "photo.dng")
    with tifffile.TiffFile(tmp_path / "photo.dng") as file:
        curve = np.reshape(file.pages[0].tags["ProfileToneCurve"].value, (-1, 2))
    np.testing.assert_array_equal(curve, raw.tone_curve.astype(np.float32))
    linear, shown = sites(image, raw)
    is_local = "iPhone" in name
    ways = [
        (look.toned, color.SRGB_TO_PROPHOTO, 1.0),
        (per_channel, color.SRGB_TO_PROPHOTO, 1.3 if is_local else 1.0),
        (per_srgb_channel, np.eye(3), 1.8 if is_local else 1.2),
    ]
    for develop, space, loss in ways:
        best = optimum(linear, shown, space)
        reached, possible = psnr(develop(linear, curve), shown), psnr(develop(linear, best), shown)
        print(f"{name:44} {develop.__name__:16} {reached:.2f} dB, optimum {possible:.2f} dB")
        assert reached > possible - loss
    assert 255 * color.srgb_encode(np.interp(0.001, *curve.T)) < 5  # 25 to 67 on six photos with a running maximum


@NETWORKS
def test_black_stays_black(photo: tuple[str, paramisp.SrgbImage], model: str) -> None:
    """A bar of black painted over an edge: it is developed as black, to 2 codes of luminance.

    None of the photos has a black of its own that is larger than a few pixels.
    """
    name, full = photo
    image = reduced(full, 0.1)
    pixels = np.array(image.pixels)
    pixels[:, : pixels.shape[1] // 12] = 0
    image = paramisp.SrgbImage(pixels, camera=image.camera, optical=image.optical)
    raw = paramisp.unprocess(image, paramisp.Settings(model=model))
    assert raw.tone_curve is not None
    linear, shown = sites(image, raw)
    for develop in (per_channel, look.toned):
        black = develop(linear, raw.tone_curve)[shown.max(-1) == 0]
        floor = float(255 * color.srgb_encode(np.median(black @ LUMINANCE)))
        print(f"{name:44} {develop.__name__:12} black at {floor:.1f} codes")
        assert floor <= 2
