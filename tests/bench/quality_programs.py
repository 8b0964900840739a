"""Other programs' pictures of RAW files, and the camera's look from a file's own preview, for quality.py."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rawpy
from bench_camera_look import likeness

from paramisp_cli import formats
from paramisp_cli.errors import ConfigError, ParamispError
from paramisp_cli.formats import raster
from paramisp_cli.rendition import look
from paramisp_cli.rendition.develop import develop
from paramisp_cli.training.dataset import LoadedPair
from paramisp_cli.training.measure.libraw import in_frame
from paramisp_cli.training.measure.predictors import Predictor
from paramisp_cli.types import RawImage, SrgbImage

COMMANDS = {"RawTherapee": "rawtherapee-cli", "darktable": "darktable-cli"}
AVAILABLE = [name for name, command in COMMANDS.items() if shutil.which(command)]
SUFFIXES = (".crw", ".cr2", ".cr3", ".dng", ".nef", ".arw", ".raf", ".rw2", ".orf", ".pef")


def developed(program: str, path: Path) -> np.ndarray:
    """Develop a RAW file with a program's defaults, upright: (H, W, 3) uint8. Raises ConfigError without a picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if program == "LibRaw":
            with rawpy.imread(str(path)) as raw:
                picture: np.ndarray = raw.postprocess(use_camera_wb=True)
            return picture
        out = folder / "out.tif"
        (folder / "border.pp3").write_text("[Version]\nAppVersion=5.9\nVersion=349\n\n[RAW Bayer]\nBorder=0\n")
        command = {
            "RawTherapee": ["-o", out, "-t", "-b8", "-Y", "-d", "-p", folder / "border.pp3", "-c", path],
            "darktable": [path, out, "--core", "--configdir", folder / "dt", "--library", ":memory:"],
        }[program]
        subprocess.run([COMMANDS[program], *map(str, command)], capture_output=True, check=False, timeout=600)
        if not out.exists():
            raise ConfigError(f"{path}: {program} made no picture")
        image = formats.read(out)
        assert isinstance(image, SrgbImage)
        return raster.to_depth(image.pixels, 8)


def predictor(program: str) -> Predictor:
    def predict(item: LoadedPair) -> np.ndarray:
        path = Path(item.pair.raw)
        with rawpy.imread(str(path)) as raw:
            size = raw.sizes.height, raw.sizes.width
            size = size[::-1] if raw.sizes.flip in (5, 6) else size
        return in_frame(item, centred(developed(program, path), size), f"{program}'s picture", attempts=3)

    return predict


def centred(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a picture to LibRaw's size: some programs cut a few pixels on each side."""
    missing = [max(want - have, 0) for want, have in zip(size, picture.shape[:2], strict=True)]
    padded = np.pad(picture, [*((side // 2, side - side // 2) for side in missing), (0, 0)], mode="edge")
    top, left = ((have - want) // 2 for want, have in zip(size, padded.shape[:2], strict=True))
    return padded[top : top + size[0], left : left + size[1]]


def camera_look(item: LoadedPair) -> np.ndarray:
    """Render the RAW file with the look of its own preview, in the frame of the pair."""
    raw, picture, _ = with_look(Path(item.pair.raw))
    crop, (height, width) = raw.crop, raw.mosaic.shape
    assert crop is not None
    rows, columns = (crop.top, height - crop.top - crop.height), (crop.left, width - crop.left - crop.width)
    return in_frame(item, np.pad(picture, [rows, columns, (0, 0)], mode="edge"), "the picture", attempts=3)


def with_look(path: Path) -> tuple[RawImage, np.ndarray, np.ndarray]:
    """Return the RAW, its picture with its preview's look, and the preview, as stored; raises ConfigError."""
    raw = formats.read(path)
    if not isinstance(raw, RawImage) or raw.metadata.jpeg is None:
        raise ConfigError(f"{path}: no preview")
    fitted, report = look.camera_look(raw)
    if fitted is None:
        raise ConfigError(f"{path}: {report.reason}")
    shown = raster.read_bytes(raw.metadata.jpeg, path).pixels
    return raw, develop(raw, fitted.rendition), shown


def looks(folders: Sequence[Path], stored: Callable[[tuple[str, ...], Callable[[], object]], object]) -> str:
    """Word the table of the camera's look on every RAW file with a preview: PSNR to the preview at about 240 px."""
    columns = ["camera look", *AVAILABLE, "LibRaw"]
    lines = [f"| file | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    sums = []
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        found = stored(("look", path.name, str(path.stat().st_size)), lambda path=path: likenesses(path, columns))
        if found is not None and "left out" not in found:
            lines.append(f"| {path.stem} | {' | '.join(cell(found[name]) for name in columns)} |")
            sums.append([found[name] if found[name] is not None else np.nan for name in columns])
    if sums:
        lines.append(f"| mean | {' | '.join(f'{value:.1f}' for value in np.nanmean(sums, 0))} |")
    text = (
        "## The look of the JPEG inside a RAW file\n\n"
        "Every RAW file with a preview by its camera: PSNR of the picture to the preview at about 240 px of the\n"
        "longer side, registered by shift, scale and lens warp: colour and tone alone.\n\n"
    )
    return text + "\n".join(lines) + "\n"


def cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def likenesses(path: Path, columns: Sequence[str]) -> dict[str, object]:
    try:
        raw, *stored = with_look(path)
        ours, shown = (raster.apply_orientation(picture, raw.orientation) for picture in stored)
    except ParamispError as error:
        return {"left out": str(error)}
    found: dict[str, object] = {}
    for name in columns:
        try:
            picture = ours if name == "camera look" else developed(name, path)
            found[name] = likeness(picture, shown, 240)
        except (ParamispError, np.linalg.LinAlgError, ValueError):
            found[name] = None
    return found
