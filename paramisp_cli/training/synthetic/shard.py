"""Make one shard: the RAWs of some pictures, as WebDataset's tar file, an HDF5 file or .npy files, and their lines.

A shard is the unit of work and of resuming: it depends on the options, the seed and its pictures, and on nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import atomic, formats
from paramisp_cli.errors import FormatError, ParamispError
from paramisp_cli.torch import Shots, Synthesize
from paramisp_cli.torch.layouts import PACKED
from paramisp_cli.training.synthetic import hdf5
from paramisp_cli.training.synthetic.series import BLACK, WHITE, Series
from paramisp_cli.types import SrgbImage

SHARDS = "shards"
"""Folder of the indices of finished shards."""

Line = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A shard: its number and pictures, each with the name that its RAWs get, below the folder of the data set."""

    number: int
    pictures: tuple[tuple[str, str], ...]
    dataset: str
    series: Series

    def index(self) -> Path:
        """Return the file of the shard's index, which is written last; its name has a hash of all that decides it."""
        text = json.dumps([self.series.key(), [name for _, name in self.pictures]])
        return Path(self.dataset, SHARDS, f"{self.number:06d}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.jsonl")


def start_worker() -> None:
    """Prepare a process for ``make``: one thread, and Ctrl-C is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def _module(series: Series) -> Synthesize:
    return series.module()


def make(task: Task) -> list[Line]:
    """Make a shard and return its lines of the index; a picture that cannot be read gives a line with its reason."""
    lines: list[Line] = []
    files: dict[str, dict[str, bytes]] = {"train": {}, "test": {}}
    stacks: dict[str, dict[str, list[np.ndarray]]] = {"train": {}, "test": {}}
    for path, name in task.pictures:
        split = "test" if _chance(name, task.series) < task.series.test_share else "train"
        try:
            for line, arrays in _of_picture(Path(path), name, task.series):
                lines.append({"name": line["name"], "status": "made", "split": split, **line})
                for kind, array in arrays.items():
                    if task.series.kind == "hdf5":
                        stacks[split].setdefault(kind, []).append(array)
                        continue
                    files[split][f"{line['name']}.{kind}.npy"] = _npy(array)
                if task.series.kind == "tar":
                    files[split][f"{line['name']}.json"] = json.dumps(lines[-1]).encode()
        except ParamispError as error:
            reason = str(error).removeprefix(f"{path}: ")
            lines.append({"name": name, "status": "refused", "split": split, "source": path, "reason": reason})
    for split, contents in files.items():
        if contents:
            _write(task, split, contents)
    for split, stack in stacks.items():
        if stack:
            target = Path(task.dataset, split, f"{task.number:06d}{hdf5.SUFFIX}")
            target.parent.mkdir(parents=True, exist_ok=True)
            hdf5.write(target, stack, [line for line in lines if line["status"] == "made" and line["split"] == split])
    text = "".join(json.dumps(line) + "\n" for line in lines)
    index = task.index()
    index.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(index, text.encode())
    return lines


def _chance(name: str, series: Series) -> float:
    """Return a number in [0, 1) of a picture: all its patches lie on one side of the split."""
    return int.from_bytes(hashlib.sha256(f"{series.seed} {name}".encode()).digest()[:8], "big") / 2**64


def _of_picture(path: Path, name: str, series: Series) -> Iterator[tuple[Line, dict[str, np.ndarray]]]:
    """Yield the line and the arrays of each patch of a picture."""
    image = formats.read(path)
    if not isinstance(image, SrgbImage):
        raise FormatError("a RAW file: synth makes RAW of pictures; give JPEG, PNG, TIFF or WebP files")
    pixels = image.pixels
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    side = series.patch
    if min(height, width) < max(side, 2):
        raise FormatError(f"{pixels.shape[1]}×{pixels.shape[0]} pixels: smaller than the patch of {max(side, 2)}")
    scale = {np.dtype(np.uint8): None, np.dtype(np.uint16): np.float32(65535)}.get(pixels.dtype, np.float32(1))
    pixels = np.ascontiguousarray(pixels[:height, :width].transpose(2, 0, 1))
    batch = torch.from_numpy(pixels if scale is None else pixels.astype(np.float32) / scale)[None]
    seed = int.from_bytes(hashlib.sha256(f"{series.seed} {name} shot".encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(seed)
    shots = Shots.draw(
        1,
        cameras=series.cameras or None,
        iso=series.iso,
        exposure=series.exposure,
        headroom=series.headroom,
        cfa=series.cfa,
        generator=generator,
    )
    made = _module(series)(batch, shots, generator)
    raws = {"clean": made["clean"], "noisy": made["noisy"]} if series.noise else {"clean": made["clean"]}
    facts = _facts(image, path, shots, series, seed)
    for top, left in _places(height, width, side, series.stride or side):
        rows, columns = (top, top + (side or height)), (left, left + (side or width))
        arrays = {kind: _stored(_cut(raw, rows, columns), series) for kind, raw in raws.items()}
        own = f"{name}-{top:05d}-{left:05d}" if side else name
        yield {"name": own, "top": top, "left": left, **facts}, arrays


def _places(height: int, width: int, side: int, stride: int) -> Iterator[tuple[int, int]]:
    """Yield the corners of the patches, in the middle of the picture; without a side, the picture's corner."""
    if not side:
        yield 0, 0
        return
    begins = []
    for length in (height, width):
        count = (length - side) // stride + 1
        first = (length - side - (count - 1) * stride) // 4 * 2
        begins.append([first + number * stride for number in range(count)])
    for top in begins[0]:
        for left in begins[1]:
            yield top, left


def _cut(raw: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Return a patch (H, W), or (H/2, W/2, 4), at even places of the mosaic."""
    half = 2 if raw.shape[1] == 4 else 1
    cut = raw[0, :, rows[0] // half : rows[1] // half, columns[0] // half : columns[1] // half]
    array: np.ndarray = (cut.permute(1, 2, 0) if half == 2 else cut[0]).contiguous().numpy()
    return array


def _stored(linear: np.ndarray, series: Series) -> np.ndarray:
    """Return the array in the data set's type: uint16 codes have black at ``BLACK`` and white at ``WHITE``."""
    if series.dtype == "float32":
        return linear
    codes: np.ndarray = np.rint(linear * (WHITE - BLACK) + BLACK).clip(0, 65535).astype(np.uint16)
    return codes


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _facts(image: SrgbImage, path: Path, shots: Shots, series: Series, seed: int) -> Line:
    """Return the parameters of a picture's RAWs for the index."""
    canonical, optical = shots.canonical[0], shots.optical[0]
    integers = series.dtype == "uint16"
    return {
        "source": str(path),
        "source_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "source_camera": image.camera.name if image.camera else None,
        "camera": shots.camera[0],
        "model": series.model,
        "layout": "R Gr Gb B" if series.layout == PACKED else "mosaic",
        "cfa": canonical.cfa,
        "black_level": BLACK if integers else 0.0,
        "white_level": WHITE if integers else 1.0,
        "camera_black_level": canonical.black_level.mean(),
        "camera_white_level": canonical.white_level,
        "iso": optical.iso,
        "exposure_time": optical.exposure_time,
        "f_number": optical.f_number,
        "focal_length": optical.focal_length,
        "exposure": round(float(shots.exposure[0]), 4),
        "headroom": round(float(shots.headroom[0]), 4),
        "as_shot_neutral": canonical.as_shot_neutral.round(6).tolist(),
        "color_matrix": canonical.color_matrix.round(4).tolist(),
        "noise": [[float(f"{value:.4g}") for value in row] for row in shots.noise[0].tolist()],
        "seed": seed,
        "licence": series.licence,
    }


def _write(task: Task, split: str, contents: dict[str, bytes]) -> None:
    """Write the files of a split: one tar file, or a file for each array."""
    folder = Path(task.dataset, split)
    if task.series.kind == "tar":
        folder.mkdir(parents=True, exist_ok=True)
        with (
            atomic.replacing(folder / f"{task.number:06d}.tar", overwrite=True) as temporary,
            tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for name, data in contents.items():
                member = tarfile.TarInfo(name)  # no owner and no time: the same bytes every time
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return
    for name, data in contents.items():
        stem, kind = name.removesuffix(".npy").rsplit(".", 1)
        path = folder / kind / f"{stem}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, data)


def divided(paths: Sequence[tuple[str, str]], dataset: Path, series: Series) -> list[Task]:
    """Divide pictures among shards, in their order."""
    return [
        Task(number, tuple(paths[at : at + series.shard]), str(dataset), series)
        for number, at in enumerate(range(0, len(paths), series.shard))
    ]
