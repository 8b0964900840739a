"""Make the README's picture from a scene that is computed: the JPEG, its RAW as the sensor sees it, rendered back.

Run from the repository root: python tests/readme/make_picture.py   → tests/readme/before_after.jpg
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import piexif
from PIL import Image, ImageDraw, ImageFont

import paramisp_cli as paramisp

WIDTH, HEIGHT = 960, 640
RNG = np.random.default_rng(7)
Colour = tuple[float, float, float]


def noise(height: int, width: int, cells: int, octaves: int = 5) -> np.ndarray:
    """(height, width) smooth noise in [0, 1]: octaves of random grids, each twice as fine and half as strong."""
    total = np.zeros((height, width), np.float64)
    for octave in range(octaves):
        count = cells * 2**octave
        grid = RNG.random((max(2, count * height // width) + 3, count + 3)).astype(np.float32)
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer) / 2**octave
    return (total - total.min()) / (total.max() - total.min())


def mixed(a: np.ndarray | Colour, b: np.ndarray | Colour, share: np.ndarray) -> np.ndarray:
    """Colours between ``a`` and ``b``."""
    return np.asarray(a) * (1 - share[..., None]) + np.asarray(b) * share[..., None]


def scene() -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8 sRGB: evening hills over a lake, a lit sphere and balloons, a chart of colours."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / np.array([HEIGHT, WIDTH]).reshape(2, 1, 1)
    horizon = 0.62
    sky = mixed((0.16, 0.34, 0.66), (0.97, 0.72, 0.48), np.clip(y / horizon, 0, 1) ** 1.6)
    sky = mixed(sky, (1.0, 0.94, 0.78), np.exp(-((x - 0.72) ** 2 * 40 + (y - 0.5) ** 2 * 90)) * 0.9)
    clouds = np.clip(noise(HEIGHT, WIDTH, 4) * 2.4 - 1.25, 0, 1) * np.clip(1.1 - y / horizon, 0, 1)
    picture = mixed(sky, (1.0, 0.9, 0.84), clouds * 0.8)
    for number, (base, height, colour) in enumerate(
        [(0.60, 0.22, (0.45, 0.47, 0.62)), (0.62, 0.15, (0.27, 0.36, 0.46)), (0.64, 0.08, (0.13, 0.25, 0.20))]
    ):
        ridge = base - height * noise(1, WIDTH, 3 + 2 * number, 7)[0]
        shade = noise(HEIGHT, WIDTH, 24, 4) * 0.35 + 0.8
        inside = np.clip((y - ridge) * HEIGHT, 0, 1) * (y < horizon + 0.02)
        picture = mixed(picture, np.asarray(colour) * shade[..., None], inside)
    mirror = np.clip((2 * horizon - y) * HEIGHT, 0, HEIGHT - 1).astype(int)
    ripple = (np.sin(y**2 * 900 + noise(HEIGHT, WIDTH, 8) * 9) * 6 * (y - horizon) * 3).astype(int)
    lake = picture[mirror, np.clip(np.arange(WIDTH)[None] + ripple, 0, WIDTH - 1)] * 0.72 + (0.0, 0.02, 0.05)
    picture = mixed(picture, lake, (y > horizon).astype(float))
    for cx, cy, radius, colour in (
        (0.20, 0.27, 0.075, (0.86, 0.12, 0.13)), (0.37, 0.17, 0.045, (0.98, 0.74, 0.10)),
        (0.49, 0.33, 0.032, (0.10, 0.55, 0.58)),
    ):  # fmt: skip
        u, v = (x - cx) * WIDTH / HEIGHT / radius, (y - cy) / radius
        ball = np.clip((1 - np.hypot(u, v)) * radius * HEIGHT, 0, 1)
        light = np.clip(0.45 + 0.55 * (0.6 * u - 0.55 * v + 0.55 * np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))), 0, 1.2)
        stripes = np.where(
            np.sin(np.arcsin(np.clip(u / np.sqrt(np.clip(1 - v**2, 0.05, 1)), -1, 1)) * 8) > 0, 1.0, 0.72
        )
        picture = mixed(picture, np.asarray(colour) * (light * stripes)[..., None], ball)
        basket = (abs(u) < 0.16) & (v > 1.25) & (v < 1.55)
        picture = mixed(picture, (0.30, 0.19, 0.11), basket.astype(float))
        ropes = (abs(abs(u) - 0.15 - (1.25 - v) * 0.6) < 0.03) & (v > 0.85) & (v < 1.25)
        picture = mixed(picture, (0.2, 0.15, 0.12), ropes * 0.8)
    chart = [
        (115, 82, 68), (194, 150, 130), (98, 122, 157), (87, 108, 67), (133, 128, 177), (103, 189, 170),
        (214, 126, 44), (80, 91, 166), (193, 90, 99), (94, 60, 108), (157, 188, 64), (224, 163, 46),
        (56, 61, 150), (70, 148, 73), (175, 54, 60), (231, 199, 31), (187, 86, 149), (8, 133, 161),
        (243, 243, 242), (200, 200, 200), (160, 160, 160), (122, 122, 121), (85, 85, 85), (52, 52, 52),
    ]  # fmt: skip
    left, top, side, gap = 640, 478, 34, 6
    picture[top - 8 : top + 4 * (side + gap) + 2, left - 8 : left + 6 * (side + gap) + 2] = 0.07
    for number, colour in enumerate(chart):
        row, column = divmod(number, 6)
        y0, x0 = top + row * (side + gap) - 2, left + column * (side + gap) - 2
        picture[y0 : y0 + side, x0 : x0 + side] = np.asarray(colour) / 255
    picture = picture + RNG.normal(0, 0.006, picture.shape)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def mosaic_view(raw: paramisp.RawImage) -> np.ndarray:
    """(H, W, 3) uint8: each sample in its filter's colour, linear, three times as bright."""
    black, white = raw.canonical.black_level, raw.canonical.white_level
    shown = np.zeros((*raw.mosaic.shape, 3))
    for position, colour in enumerate(raw.canonical.cfa):
        row, column = divmod(position, 2)
        level = (raw.mosaic[row::2, column::2] - black[row, column]) / (white - black[row, column])
        shown[row::2, column::2, "RGB".index(colour)] = level
    return (np.clip(shown * 3, 0, 1) * 255 + 0.5).astype(np.uint8)


def with_inset(picture: np.ndarray, zoom: int = 12) -> Image.Image:
    """A piece of 20×16 pixels, where the red balloon meets the sky, enlarged into the lower left corner."""
    image, (left, top, width, height) = Image.fromarray(picture), (229, 166, 20, 16)
    piece = image.crop((left, top, left + width, top + height))
    piece = piece.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    corner = (20, HEIGHT - 20 - height * zoom)
    draw.rectangle((left - 2, top - 2, left + width + 1, top + height + 1), outline="white", width=2)
    draw.line((left, top + height + 2, corner[0], corner[1]), fill="white", width=1)
    draw.line((left + width, top + height + 2, corner[0] + width * zoom, corner[1]), fill="white", width=1)
    image.paste(piece, corner)
    draw.rectangle((corner[0] - 2, corner[1] - 2, corner[0] + width * zoom + 1, HEIGHT - 19), outline="white", width=2)
    return image


def main() -> None:
    """Make the scene a photo, convert it there and back, and put the three beside each other."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("before_after.jpg"))
    settings = paramisp.Settings(model="parametric")
    with tempfile.TemporaryDirectory() as folder:
        photo, dng = Path(folder, "photo.jpg"), Path(folder, "photo.dng")
        names = {piexif.ImageIFD.Make: b"NIKON CORPORATION", piexif.ImageIFD.Model: b"NIKON D90"}
        Image.fromarray(scene()).save(photo, quality=97, subsampling=0, exif=piexif.dump({"0th": names}))
        raw = paramisp.unprocess(photo, settings)
        paramisp.write(raw, dng)
        back = paramisp.render(dng, settings)
        with Image.open(photo) as jpeg:
            before = np.asarray(jpeg)
    panels = (
        ("photo.jpg", with_inset(before)),
        ("photo.dng: the mosaic, linear (shown 3 times brighter)", with_inset(mosaic_view(raw))),
        ("photo.dng, rendered", with_inset(back.pixels)),
    )
    width, height = WIDTH * 2 // 3, HEIGHT * 2 // 3
    sheet = Image.new("RGB", (3 * width + 2 * 12, height + 34), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for number, (label, panel) in enumerate(panels):
        left = number * (width + 12)
        sheet.paste(panel.resize((width, height), Image.Resampling.LANCZOS), (left, 34))
        draw.text((left + 2, 5), label, "black", font)
    sheet.save(target, quality=86, optimize=True)
    error = np.square(back.pixels.astype(float) - before).mean()
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB; round trip {10 * np.log10(255**2 / error):.1f} dB")


if __name__ == "__main__":
    main()
