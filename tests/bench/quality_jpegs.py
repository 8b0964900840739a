"""The round trip of photos without RAW: JPEG → `paramisp unprocess` → DNG → another program → picture.

LibRaw and darktable develop each DNG in linear light, and the DNG's profile is put on top (look-up table and tone
curve), as Adobe's programs do. RawTherapee applies the profile itself: it takes the DNG as its input profile. The
picture is compared with the photo on means of about 600 px of the longer side. Prints a Markdown table; ``--sheets
FOLDER`` writes contact sheets, JPEG beside DNG: the frame, and crops at 100 %.

Run: python tests/bench/quality_jpegs.py PHOTO… [--sheets FOLDER] [--without darktable RawTherapee]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import rawpy
import tifffile
from PIL import Image

import paramisp_cli as paramisp
from paramisp_cli import color, look
from paramisp_cli.formats import raster

SIDE = 600
"""Longer side [px] of the means that are compared: no detail, little noise."""
HUES = {"red": (0, 60), "yellow": (60, 115), "green": (115, 190)}
"""CIE hue angles [°] of a class of colours."""
CHROMA, BLACK, WHITE, FEWEST = 35.0, 10.0, 252, 30
"""Chroma from which a colour is saturated; lightness up to which a mean is black; code from which all channels of a
clipped pixel are white; fewest means that make a figure."""


def libraw(dng: Path, raw: paramisp.RawImage, folder: Path) -> np.ndarray:
    """Linear sRGB (H, W, 3), not clipped: decoded, balanced and demosaicked by LibRaw, with the DNG's own matrix."""
    with rawpy.imread(str(dng)) as file:
        camera = file.postprocess(
            use_camera_wb=True,
            no_auto_bright=True,
            gamma=(1, 1),
            output_bps=16,
            output_color=rawpy.ColorSpace.raw,
            adjust_maximum_thr=0,  # by default LibRaw lowers the white level to the picture's own maximum
        )
    linear: np.ndarray = (camera / np.float32(65535)) @ raw.canonical.cam_to_srgb().T.astype(np.float32)
    return linear


def darktable(dng: Path, raw: paramisp.RawImage, folder: Path) -> np.ndarray:
    """Linear sRGB (H, W, 3) in [0, 1], without darktable's own tone curves."""
    out = folder / f"{dng.stem}.tif"
    config = ["--configdir", folder / "darktable", "--library", ":memory:", "--conf", "plugins/darkroom/workflow=none"]
    command = ["darktable-cli", dng, out, "--icc-type", "LIN_REC709", "--core", *config]
    command += ["--conf", "plugins/imageio/format/tiff/bpp=16"]
    subprocess.run([str(word) for word in command], capture_output=True, check=True, timeout=600)
    picture: np.ndarray = tifffile.imread(out) / np.float32(65535)
    out.unlink()
    return picture


def rawtherapee(dng: Path, folder: Path, use_table: bool) -> np.ndarray:
    """Linear sRGB (H, W, 3) in [0, 1], with the DNG's profile applied by RawTherapee."""
    out, profile = folder / f"{dng.stem}.tif", folder / "profile.pp3"
    profile.write_text(
        "[Version]\nAppVersion=5.9\nVersion=349\n\n[RAW Bayer]\nBorder=0\n\n[Color Management]\n"
        f"InputProfile=file:{dng}\nToneCurve=true\nApplyLookTable={str(use_table).lower()}\n"
    )
    command = ["rawtherapee-cli", "-Y", "-t", "-b16", "-o", out, "-p", profile, "-c", dng]
    subprocess.run([str(word) for word in command], capture_output=True, check=True, timeout=600)
    picture: np.ndarray = color.srgb_decode(tifffile.imread(out) / np.float32(65535))
    out.unlink()
    return picture


def developed(dng: Path, raw: paramisp.RawImage, folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The DNG as a program shows it, linear sRGB (H, W, 3): by its tone curve alone, and by its table, too."""
    if name == "RawTherapee":
        return rawtherapee(dng, folder, False), rawtherapee(dng, folder, True)
    linear = {"LibRaw": libraw, "darktable": darktable}[name](dng, raw, folder)
    return with_profile(linear, dng, use_table=False), with_profile(linear, dng)


PROGRAMS = {"LibRaw": None, "darktable": "darktable-cli", "RawTherapee": "rawtherapee-cli"}


def with_profile(linear: np.ndarray, dng: Path, use_table: bool = True) -> np.ndarray:
    """Linear sRGB after the look-up table and the tone curve of the DNG's profile."""
    with tifffile.TiffFile(dng) as file:
        tags = file.pages[0].tags
        curve, table = np.reshape(tags[50940].value, (-1, 2)), None
        if use_table and 50982 in tags:
            hues, saturations, values = tags[50981].value
            table = np.reshape(tags[50982].value, (values, hues, saturations, 3))
    rows = [
        look.toned(part, curve, table).astype(np.float32)
        for part in np.array_split(linear, max(linear.shape[0] // 256, 1))
    ]
    return np.concatenate(rows)


def reduced(linear: np.ndarray, factor: int) -> np.ndarray:
    height, width = (side // factor for side in linear.shape[:2])
    cut = linear[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor, 3).mean((1, 3))


def figures(shown: np.ndarray, made: np.ndarray, clipped: np.ndarray) -> dict[str, str]:
    """Figures of a picture beside its photo: (h, w, 3) linear sRGB, and where the photo is clipped to white (h, w)."""
    true, got = color.srgb_to_lab(shown), color.srgb_to_lab(np.clip(made, 0, 1))
    error = color.ciede2000(true, got)
    chroma, hue = np.hypot(true[..., 1], true[..., 2]), np.degrees(np.arctan2(true[..., 2], true[..., 1])) % 360
    result = {"mean ΔE": f"{error.mean():.2f}", "95 %": f"{np.percentile(error, 95):.1f}"}
    for name, (low, high) in HUES.items():
        of = (chroma > CHROMA) & (hue >= low) & (hue < high)
        result[name] = f"{error[of].mean():.1f}" if of.sum() >= FEWEST else "–"
        if of.sum() >= FEWEST:
            both = (np.hypot(x[of][:, 1], x[of][:, 2]).mean() for x in (true, got))
            result[name] += " (C* {:.0f} → {:.0f})".format(*both)
    black = true[..., 0] < BLACK
    if black.sum() >= FEWEST:
        result["black a*, b*"] = " → ".join(
            f"{x[black][:, 1].mean():.1f}, {x[black][:, 2].mean():.1f}" for x in (true, got)
        )
    if clipped.sum() >= FEWEST:
        result["white L*, a*, b*"] = ", ".join(f"{v:.1f}" for v in got[clipped].mean(0))
    return result


COLUMNS = ("mean ΔE", "95 %", *HUES, "black a*, b*", "white L*, a*, b*")


def sheet(photo: np.ndarray, developed: np.ndarray, path: Path) -> None:
    """Write the frame and three crops at 100 %: photo on the left, DNG on the right. Both (H, W, 3) uint8."""
    height, width = photo.shape[:2]
    small = [
        Image.fromarray(x).resize((800, round(800 * height / width)), Image.Resampling.BOX) for x in (photo, developed)
    ]
    lab = color.srgb_to_lab(color.srgb_decode(photo[::8, ::8] / 255))
    # Crops where the photo is most colourful, darkest and lightest, on cells of about a tenth of the frame.
    cell = max(min(lab.shape[:2]) // 8, 1)
    rows, columns = lab.shape[0] // cell, lab.shape[1] // cell
    grid = lab[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell, 3).mean((1, 3))
    places = [np.hypot(grid[..., 1], grid[..., 2]).argmax(), grid[..., 0].argmin(), grid[..., 0].argmax()]
    strips = [np.concatenate([np.asarray(x) for x in small], 1)]
    for place in places:
        row, column = divmod(int(place), columns)
        top = min(row * cell * 8, max(height - 400, 0))
        left = min(column * cell * 8, max(width - 800, 0))
        pair = [x[top : top + 400, left : left + 800] for x in (photo, developed)]
        pair = [np.pad(x, ((0, 0), (0, 800 - x.shape[1]), (0, 0))) for x in pair]
        strips.append(np.concatenate(pair, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(strips)).save(path, quality=90)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--without", nargs="*", default=[], choices=PROGRAMS)
    chosen = parser.parse_args()
    readers = [
        name for name, command in PROGRAMS.items()
        if name not in chosen.without and (command is None or shutil.which(command))
    ]  # fmt: skip
    print(f"| photo | reader | {' | '.join(COLUMNS)} |\n{'|---' * (2 + len(COLUMNS))}|", flush=True)
    for path in chosen.photos:
        photo = paramisp.read(path)
        assert isinstance(photo, paramisp.SrgbImage)
        raw = paramisp.unprocess(photo, paramisp.Settings(gain_map="off"))
        upright = raster.to_depth(raster.apply_orientation(photo.pixels, photo.orientation), 8)
        factor = -(-max(upright.shape[:2]) // SIDE)
        shown = reduced(color.srgb_decode(np.arange(256) / 255).astype(np.float32)[upright], factor)
        clipped = reduced((upright >= WHITE).all(-1)[..., None].repeat(3, -1).astype(np.float32), factor)[..., 0] == 1
        with tempfile.TemporaryDirectory() as folder:
            dng = Path(folder) / f"{path.stem}.dng"
            paramisp.write(raw, dng)
            for name in readers:
                plain, made = developed(dng, raw, Path(folder), name)
                if made.shape != upright.shape:
                    print(f"| {path.stem} | {name} | another size: {made.shape[1]}×{made.shape[0]} |", flush=True)
                    plain, made = (x[: upright.shape[0], : upright.shape[1]] for x in (plain, made))
                for way, picture in (("curve alone", plain), ("table and curve", made)):
                    got = figures(shown, reduced(picture, factor), clipped)
                    cells = " | ".join(got.get(key, "–") for key in COLUMNS)
                    print(f"| {path.stem} | {name}, {way} | {cells} |", flush=True)
                if chosen.sheets and name == "LibRaw":
                    codes = np.rint(color.srgb_encode(made) * 255).astype(np.uint8)
                    sheet(upright, codes, chosen.sheets / f"{path.stem}.jpg")


if __name__ == "__main__":
    main()
