"""Make data sets of blurred and sharp pictures: light is averaged in the RAW of a camera, with its noise.

After RSBlur (Rim et al., ECCV 2022), with this package's ISPs. A clip's frames are unprocessed and averaged in RAW;
where frames were clipped, light is added, because a clipped streak is brighter than its frames tell. A still scene is
seen by a turning camera (``simulated.shake``). Both get the sensor's noise and are rendered; the sharp picture is the
middle frame, or the view in the middle of the shake, rendered without noise.

Every pair follows from the seed and its number: a second run makes only the missing ones, with the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli import convert, formats
from paramisp_cli.directions import Direction
from paramisp_cli.errors import FormatError, ParamispError
from paramisp_cli.training.blurred import clips, sources, stills
from paramisp_cli.training.blurred.series import BORDER, Series, Shot, camera_of, codes_of, settings_of
from paramisp_cli.training.blurred.sources import Kind, Source
from paramisp_cli.training.dataset import CONTACT_SHEET, INDEX, locked
from paramisp_cli.training.folder import write_whole
from paramisp_cli.types import RawImage, SrgbImage

_SHEET, _TILE = 24, 192
"""Largest number of pairs on the contact sheet, and the side of each picture on it [px]."""
_INDEX_SECONDS = 5.0

Record = dict[str, Any]
"""A line of the index: "name", "status" ("pair" or "refused"), "split", "source" and further facts."""


def make(paths: Sequence[Path | str], dataset: Path | str, series: Series) -> Generator[Record, None, None]:
    """Make the pairs that ``dataset`` lacks; yield the line of each pair, and of refused sources and blurs.

    Other pairs of the data set stay. The data set is locked until the end. Raises InputMissingError, FormatError,
    FileAccessError, or ConfigError.
    """
    dataset = Path(dataset)
    found = sources.find(paths, kernels=series.kernels)
    convert.check(settings_of(series, series.cameras[0]), Direction.RENDER)
    with locked(dataset):
        lines = {line["name"]: line for line in _read_index(dataset)}
        lines = {name: line for name, line in lines.items() if line["status"] == "pair"}
        written, made = -_INDEX_SECONDS, []
        try:
            for place, source in enumerate(found):
                for line in _of_source(source, range(place, series.count, len(found)), dataset, series, lines):
                    if line["status"] == "pair":
                        lines[line["name"]] = line
                        made.append(line)
                        if time.monotonic() - written > _INDEX_SECONDS:
                            _write_index(dataset, lines)
                            written = time.monotonic()
                    yield line
        finally:
            _write_index(dataset, lines)
        if made:
            sheet = contact_sheet(dataset, made[:: -(-len(made) // _SHEET)])
            formats.write(SrgbImage(sheet), dataset / CONTACT_SHEET, overwrite=True)


def _of_source(
    source: Source, numbers: range, dataset: Path, series: Series, lines: dict[str, Record]
) -> Iterator[Record]:
    """Yield the lines of a source."""
    split = "test" if _chance(source, series) < series.test_share else "train"
    names = {number: _name(source, number, series) for number in numbers}
    missing = {
        number for number, name in names.items() if name not in lines or not _is_complete(dataset, lines[name], series)
    }
    try:
        is_clip = source.kind != Kind.STILL
        takes = clips.blurs(source, names, missing, series) if is_clip else stills.blurs(source, missing, series)
        for number in numbers:
            if number not in missing:
                if is_clip and missing:
                    next(takes, None)
                yield lines[names[number]]
                continue
            shot = next(takes, None)
            if shot is None:
                break  # the clip has ended
            base = {"name": names[number], "split": split, "source": str(source.path), "kind": str(source.kind)}
            if isinstance(shot, str):
                yield {**base, "status": "refused", "reason": shot}
                continue
            yield {**base, "status": "pair", **_write(dataset, names[number], split, shot, series)}
    except ParamispError as error:
        reason = str(error).removeprefix(f"{source.path}: ")
        yield {
            "name": source.name, "status": "refused", "split": split, "source": str(source.path),
            "kind": str(source.kind), "reason": reason,
        }  # fmt: skip


def _name(source: Source, number: int, series: Series) -> str:
    """Return the name of a pair: the source, the number, and a hash of everything that decides its pixels."""
    text = json.dumps([*series.decisive(), source.path.name, source.size, number])
    return f"{source.name}-{number:05d}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _chance(source: Source, series: Series) -> float:
    """Return a number in [0, 1) of a source: its frames never lie on both sides of the split."""
    digest = hashlib.sha256(f"{series.seed} {source.path.name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _rendered(mosaic: np.ndarray, shot: Shot, series: Series) -> np.ndarray:
    """Return the picture (H, W, 3) uint8 of a linear mosaic, in the camera's codes, without its border."""
    codes = codes_of(mosaic, shot.canonical)
    raw = RawImage(codes, shot.canonical, optical=shot.optical, camera=camera_of(shot.facts))
    shown = convert.render(raw, settings_of(series, shot.facts))
    return np.ascontiguousarray(shown.pixels[BORDER:-BORDER, BORDER:-BORDER])


# Files ----------------------------------------------------------------------------------------------------------------


def _paths(dataset: Path, name: str, split: str) -> tuple[Path, Path]:
    return dataset / split / "blur" / f"{name}.png", dataset / split / "sharp" / f"{name}.png"


def _raw_path(dataset: Path, name: str, split: str) -> Path:
    return dataset / split / "raw" / f"{name}.npz"


def _is_complete(dataset: Path, line: Record, series: Series) -> bool:
    """Tell whether all files of a pair are there."""
    files = [*_paths(dataset, line["name"], line["split"])]
    files += [_raw_path(dataset, line["name"], line["split"])] if series.raw else []
    return all(path.exists() for path in files)


def _write(dataset: Path, name: str, split: str, shot: Shot, series: Series) -> Record:
    """Write the files of a pair; return the rest of its line."""
    pictures = [_rendered(mosaic, shot, series) for mosaic in (shot.blurred, shot.sharp)]
    for path, pixels in zip(_paths(dataset, name, split), pictures, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        formats.write(SrgbImage(pixels), path, overwrite=True)
    if series.raw:
        path = _raw_path(dataset, name, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        inner = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))  # an even border: the CFA stays
        mosaics = [codes_of(mosaic[inner], shot.canonical) for mosaic in (shot.blurred, shot.sharp)]
        stream = io.BytesIO()
        np.savez_compressed(stream, blur=mosaics[0], sharp=mosaics[1])
        write_whole(path, lambda file: file.write(stream.getvalue()))
    c = shot.canonical
    error = float(np.mean(np.square(pictures[0].astype(np.float64) - pictures[1])))
    return {
        **shot.told,
        "camera": shot.facts.name,
        "model": series.model,
        "iso": round(float(shot.optical.iso or 0), 1),
        "exposure_time": shot.optical.exposure_time,
        "noise": series.noise,
        "cfa": c.cfa,
        "black_level": c.black_level.tolist(),
        "white_level": c.white_level,
        "as_shot_neutral": c.as_shot_neutral.tolist(),
        "color_matrix": c.color_matrix.tolist(),
        "seed": series.seed,
        "psnr": round(float(10 * np.log10(255**2 / max(error, 1e-3))), 2),
    }


def _read_index(dataset: Path) -> list[Record]:
    """Read the index; an empty list if there is none. Raises FormatError for a damaged line."""
    path = dataset / INDEX
    lines: list[Record] = []
    for number, text in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            line = json.loads(text)
            lines.append({**line, "name": str(line["name"]), "split": str(line["split"]), "status": line["status"]})
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{path}: line {number} is no line of a blurred data set; choose another -o") from error
    return lines


def _write_index(dataset: Path, lines: dict[str, Record]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines.values()).encode()
    write_whole(dataset / INDEX, lambda file: file.write(text))


def contact_sheet(dataset: Path, lines: Sequence[Record]) -> np.ndarray:
    """Draw blurred beside sharp, the middle at full size, three pairs to a row: (H, W, 3) uint8."""
    tiles = []
    for line in lines:
        both = []
        for path in _paths(dataset, line["name"], line["split"]):
            pixels = sources.picture(path)
            top, left = (max((side - _TILE) // 2, 0) for side in pixels.shape[:2])
            piece = pixels[top : top + _TILE, left : left + _TILE]
            room = [(0, _TILE - side) for side in piece.shape[:2]]
            both.append(np.pad(piece, (*room, (0, 0))))
        tiles.append(np.pad(np.concatenate(both, 1), ((4, 4), (4, 4), (0, 0))))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 3)
    return np.concatenate([np.concatenate(tiles[at : at + 3], 1) for at in range(0, len(tiles), 3)])
