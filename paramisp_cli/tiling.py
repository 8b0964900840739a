"""Run a model over an image of any size: by a memory plan if it pools over the image, else tile by tile."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import isp, memory
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import DISK, HOST, WHOLE, IspModel, MakeStore, Params
from paramisp_cli.models.regions import Sink, Source, Span, reflecting, round_up, spans
from paramisp_cli.scratch import HostMemory, Scratch
from paramisp_cli.types import Direction, Kind

_STRIP_PIXELS = 1 << 18
"""Pixels a strip: a few megabytes of float32, which the allocator keeps; half as many take longer."""
_STRIP_ROWS = 16
"""Rows a strip, at least."""
_TILE_COLUMNS = 128
"""Columns of a tile, at least, where memory is short."""
_STRIP_THREADS = min(4, os.cpu_count() or 1)
"""Strips worked on at a time."""


# --- memory -----------------------------------------------------------------------------------------------------------


def choose_plan(
    model: IspModel, height: int, width: int, device: torch.device, limit: int | None, scratch: Path | None = None
) -> str:
    """Choose the fastest of the model's memory plans that ``limit`` bytes (None: free memory) allow.

    The plan ``DISK`` needs a folder for ``scratch``. Raises ConfigError, which says how to go on, if no plan fits.
    """
    if not model.geometry.pooled:
        return WHOLE  # tiles need next to nothing
    have = _free(device, limit)
    needs = {plan: model.peak_bytes(height, width, plan) for plan in _usable(model, (height, width), device, scratch)}
    for plan, need in needs.items():
        if need <= have:
            return plan
    remedy = "--model parametric"
    if scratch is None and DISK in model.plans(device) and model.peak_bytes(height, width, DISK) <= have:
        room = model.store_bytes(height, width) / 1e9
        remedy = f"--scratch DIR, a folder on a disk with {room:.1f} GB free, or {remedy}"
    elif device.type != "cpu":
        remedy = f"--device cpu or {remedy}"
    raise ConfigError(
        f"{model.name} needs about {min(needs.values()) / 1e9:.1f} GB for these {height * width / 1e6:.1f} megapixels "
        f"and has {have / 1e9:.1f} GB ({'--max-memory' if limit else 'free now'}); pass {remedy}"
    )


def _free(device: torch.device, limit: int | None) -> int:
    """Return the bytes that a network may use on a device."""
    if device.type == "cuda":
        return int(min(limit or 1 << 62, torch.cuda.mem_get_info(device)[0]))
    return limit or memory.free()


def _usable(model: IspModel, size: tuple[int, int], device: torch.device, scratch: Path | None) -> list[str]:
    """Return the model's plans without those whose store has no place: a folder, or enough memory of the host."""
    lacking = {DISK} if scratch is None else set()
    if HOST in model.plans(device) and model.store_bytes(*size) > memory.free():
        lacking.add(HOST)
    return [plan for plan in model.plans(device) if plan not in lacking]


def _store_for(plan: str, scratch: Path | None) -> MakeStore | None:
    """Return how to make the store of a plan."""
    if plan == HOST:
        return HostMemory
    return partial(Scratch, folder=scratch) if plan == DISK else None


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an exception means lack of memory; torch has several texts for it."""
    text = str(error).lower()
    words = ("not enough memory", "out of memory", "allocate memory")
    return isinstance(error, MemoryError) or any(word in text for word in words)


# --- running ----------------------------------------------------------------------------------------------------------


def run(
    model: IspModel,
    params: Params,
    size: tuple[int, int],
    source: Source,
    sink: Sink,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    max_memory: int | None = None,
    plan: str | None = None,
    scratch: Path | None = None,
    tile: tuple[int, int] | None = None,
    frame: tuple[int, int, int, int] | None = None,
) -> str:
    """Apply ``model`` to an image of ``size`` (height, width), both even; return the memory plan that was used.

    source, sink  give the input's rows, from any device; take the output's, on ``device``
    dtype         of convolutions
    max_memory    bytes that the model may use (None: free memory)
    plan          memory plan of a model that pools over the image (None: by ``max_memory``). Where memory runs out all
                  the same, the next plan is taken, and ``sink`` may get rows again.
    scratch       folder for the file of the plan ``DISK`` (None: without that plan)
    tile          height and width of the tiles of other models (None: chosen), rounded up to the geometry's multiple
    frame         (top, left, height, width): where the image's corner lies in the picture that it was cut from, and
                  that picture's size; for lens shading, which depends on the place

    The result depends on neither plan nor tile. Raises ConfigError if the memory does not suffice.
    """
    height, width = size
    plan = plan or choose_plan(model, height, width, device, max_memory, scratch)
    model = model.to(device).eval()
    params = params.to(device)
    if model.lens_shading is not None:
        where = frame or (0, 0, height, width)
        source, sink = _shaded(source, sink, model.lens_shading, params.cfa, where, width, model.direction)
    if not model.geometry.pooled:
        tile = tile or _tile(model, size, _free(device, max_memory))
        _run_in_tiles(model, params, size, source, sink, device, dtype, tile)
        return plan
    names = model.plans(device)
    left = [plan, *(name for name in names[names.index(plan) + 1 :] if name in _usable(model, size, device, scratch))]
    while True:
        store = _store_for(left[0], scratch)
        try:
            with torch.inference_mode():
                model.stream(source, sink, size, params, dtype=dtype, plan=left[0], store=store)
        except (MemoryError, RuntimeError) as error:
            if len(left) == 1 or not is_out_of_memory(error):
                raise
        else:
            return left[0]
        left = left[1:]
        memory.release()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _shaded(
    source: Source,
    sink: Sink,
    shading: Sequence[Sequence[float]],
    cfa: str,
    frame: tuple[int, int, int, int],
    width: int,
    direction: Direction,
) -> tuple[Source, Sink]:
    """Return source and sink that take lens shading out of the RAW going in and put it into the RAW coming out."""

    def gain(first: int, end: int) -> Tensor:
        return isp.shading_gain(shading, cfa, (first, end), frame, width)

    def shaded(top: int, rows: Tensor) -> None:
        sink(top, rows / gain(top, top + rows.shape[2]).to(rows.device))

    def flat(first: int, end: int) -> Tensor:
        rows = source(first, end)
        return rows * gain(first, end).to(rows.device)

    return flat if direction.input == Kind.RAW else source, shaded if direction.output == Kind.RAW else sink


def _tile(model: IspModel, size: tuple[int, int], limit: int) -> tuple[int, int]:
    """Choose the height and width of tiles: whole rows, and narrower where ``limit`` bytes do not suffice."""
    multiple, halo = model.geometry.multiple, model.geometry.halo
    rows = max(_STRIP_PIXELS // size[1] // multiple * multiple, _STRIP_ROWS, 4 * halo)
    columns = size[1]
    while columns > _TILE_COLUMNS:
        if _STRIP_THREADS * model.peak_bytes(rows + 2 * halo, columns + 2 * halo) <= limit:
            break
        columns = round_up(-(-columns // 2), multiple)
    return rows, columns


def _run_in_tiles(
    model: IspModel,
    params: Params,
    size: tuple[int, int],
    source: Source,
    sink: Sink,
    device: torch.device,
    dtype: torch.dtype,
    tile: tuple[int, int],
) -> None:
    """Run a model that sees no further than its halo, tile by tile.

    Tiles lie at multiples of the geometry's multiple, in the image padded as ``IspModel.forward`` pads it.
    """
    geometry = model.geometry
    given = reflecting(source, size, (geometry.padded(size[0]), geometry.padded(size[1])))
    down, across = (
        spans(side, length, geometry.multiple, geometry.halo, geometry.smallest)
        for side, length in zip(size, tile, strict=True)
    )

    def strip(rows: Span) -> Tensor:
        inside = slice(rows.begin - rows.first, rows.end - rows.first)
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            x = given(rows.first, rows.last).to(device)
            tiles = [
                model(x[..., columns.first : columns.last], params)[
                    :, :, inside, columns.begin - columns.first : columns.end - columns.first
                ].float()
                for columns in across
            ]
        return tiles[0] if len(tiles) == 1 else torch.cat(tiles, 3)

    with torch.inference_mode():
        if device.type == "cpu" and len(down) > 1:
            _run_in_threads(strip, down, sink)
        else:
            for rows in down:
                sink(rows.begin, strip(rows))


def _run_in_threads(strip: Callable[[Span], Tensor], down: Sequence[Span], sink: Sink) -> None:
    """Send ``strip`` of each span to the sink in order; a few at a time, one thread a strip.

    Torch's own way, threads inside every small operation, makes them wait for each other hundreds of times a picture:
    on cores that another program uses too, that costs many times the work itself.
    """
    memory.keep_freed()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    ahead: deque[tuple[int, Future[Tensor]]] = deque()
    try:
        with ThreadPoolExecutor(_STRIP_THREADS) as pool:
            for span in down:
                ahead.append((span.begin, pool.submit(strip, span)))
                if len(ahead) > _STRIP_THREADS:
                    first, done = ahead.popleft()
                    sink(first, done.result())
            for first, done in ahead:
                sink(first, done.result())
    finally:
        torch.set_num_threads(before)


# --- devices ----------------------------------------------------------------------------------------------------------


def codes_on(device: torch.device, codes: np.ndarray) -> Tensor:
    """Return uint8, uint16 or float32 numbers as float32 on a device; they travel as they are, which is shorter."""
    if device.type == "cpu":
        return torch.from_numpy(codes.astype(np.float32))
    plain = torch.from_numpy(np.ascontiguousarray(codes.view(np.int16) if codes.dtype == np.uint16 else codes))
    there = (plain.pin_memory() if device.type == "cuda" else plain).to(device, non_blocking=True)
    return (there.int() & 0xFFFF).float() if codes.dtype == np.uint16 else there.float()


def codes_from(values: Tensor, dtype: np.dtype[Any]) -> np.ndarray:
    """Return whole numbers on any device as uint8 or uint16, converted before they leave it."""
    if dtype == np.uint8:
        return values.to(torch.uint8).cpu().numpy()
    return values.int().short().cpu().numpy().view(np.uint16)  # the upper half travels as negative numbers


def devices() -> list[str]:
    """Describe the devices to compute on, a line each, for ``paramisp doctor``."""
    lines = [f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads, {memory.free() / 1e9:.1f} GB free"]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        lines.append(f"cuda:{number}: {properties.name}, {properties.total_memory / 1e9:.1f} GB")
    if torch.backends.mps.is_available():
        lines.append("mps: Apple GPU")
    return lines if len(lines) > 1 else [*lines, "no GPU"]
