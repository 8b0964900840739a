"""Run a model over an image of any size: by a plan of its own if it pools over the image, else strip by strip."""

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
from paramisp_cli.models.base import DISK, WHOLE, IspModel, Params, Sink, Source
from paramisp_cli.scratch import Scratch
from paramisp_cli.types import Direction

_STRIP_PIXELS = 1 << 18
"""Pixels a strip: a few megabytes of float32, which the allocator keeps; half as many take longer."""

_STRIP_THREADS = min(4, os.cpu_count() or 1)
"""Strips worked on at a time."""


def choose_plan(
    model: IspModel, height: int, width: int, device: torch.device, limit: int | None, scratch: Path | None = None
) -> str:
    """The fastest of the model's plans that ``limit`` bytes (None: what is free) allow; ConfigError if none does.

    With a folder for ``scratch``, and on a CPU, feature maps may be kept in a file, too.
    """
    if model.halo is not None:
        return WHOLE  # strips need next to nothing
    if device.type == "cuda":
        have = min(limit or 1 << 62, torch.cuda.mem_get_info(device)[0])
    else:
        have = limit or memory.free()
    for plan in _plans(model, device, scratch):
        need = model.peak_bytes(height, width, plan)
        if need <= have:
            return plan
    megapixels = height * width / 1e6
    raise ConfigError(
        f"{model.name} needs about {need / 1e9:.1f} GB for these {megapixels:.1f} megapixels and has "
        f"{have / 1e9:.1f} GB ({'--max-memory' if limit else 'free now'}); pass --model parametric"
    )


def _plans(model: IspModel, device: torch.device, scratch: Path | None) -> list[str]:
    """Those that can be used."""
    return [plan for plan in model.plans() if plan != DISK or (scratch is not None and device.type == "cpu")]


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
    strip_rows: int | None = None,
    frame: tuple[int, int, int, int] | None = None,
) -> str:
    """Apply ``model`` to an image of ``size`` (height, width), both even, that ``source`` gives and ``sink`` takes.

    ``plan`` is how a model that pools over the image uses memory (None: as ``max_memory`` allows); where memory runs
    out all the same, the next one is taken, and rows may be given to ``sink`` again. Returns the plan that it was.
    ``scratch`` is a folder for a file of feature maps (None: no such file), for a plan that memory allows no better.
    What ``sink`` takes is on ``device``; ``source`` may give from anywhere.
    ``strip_rows`` (even) overrides the height of the strips of one that does not. The result depends on neither.
    ``dtype`` below float32 is for convolutions. ``frame``: where the image's corner lies in the picture that it was
    cut from, and that one's size (top, left, height, width), for what depends on the place: lens shading.
    Raises ConfigError if the memory does not suffice.
    """
    height, width = size
    plan = plan or choose_plan(model, height, width, device, max_memory, scratch)
    model = model.to(device).eval()
    params = params.to(device)
    if (shading := model.lens_shading) is not None:
        source, sink = _shaded(
            source, sink, shading, params.cfa, frame or (0, 0, height, width), width, model.direction
        )
    if model.halo is not None:
        _run_in_strips(model, params, size, source, sink, device, dtype, strip_rows)
        return plan
    names = list(model.plans())
    left = [plan, *(name for name in names[names.index(plan) + 1 :] if name in _plans(model, device, scratch))]
    make_scratch = None if scratch is None else partial(Scratch, folder=scratch)
    while True:
        try:
            with torch.inference_mode():
                model.stream(source, sink, size, params, dtype=dtype, plan=left[0], scratch=make_scratch)
        except (MemoryError, RuntimeError) as error:
            if len(left) == 1 or not is_out_of_memory(error):
                raise
        else:
            return left[0]
        left = left[1:]
        memory.release()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def codes_on(device: torch.device, codes: np.ndarray) -> Tensor:
    """uint8, uint16 or float32 numbers as float32 on a device, which they go to as they are: it is the shorter way."""
    if device.type == "cpu":
        return torch.from_numpy(codes.astype(np.float32))
    plain = torch.from_numpy(np.ascontiguousarray(codes.view(np.int16) if codes.dtype == np.uint16 else codes))
    there = (plain.pin_memory() if device.type == "cuda" else plain).to(device, non_blocking=True)
    return (there.int() & 0xFFFF).float() if codes.dtype == np.uint16 else there.float()


def codes_from(values: Tensor, dtype: np.dtype[Any]) -> np.ndarray:
    """Whole numbers on any device as uint8 or uint16, which they leave it as."""
    if dtype == np.uint8:
        return values.to(torch.uint8).cpu().numpy()
    return values.int().short().cpu().numpy().view(np.uint16)  # its upper half as negative numbers on the way


def is_out_of_memory(error: Exception) -> bool:
    """Whether that is what an exception says; torch has several words for it."""
    said = str(error).lower()
    words = ("not enough memory", "out of memory", "allocate memory")
    return isinstance(error, MemoryError) or any(word in said for word in words)


def _shaded(
    source: Source,
    sink: Sink,
    shading: Sequence[Sequence[float]],
    cfa: str,
    frame: tuple[int, int, int, int],
    width: int,
    direction: Direction,
) -> tuple[Source, Sink]:
    """Source and sink with the lens shading of the mosaic, whichever of them has it, taken out and put back."""

    def gain(first: int, end: int) -> Tensor:
        return isp.shading_gain(shading, cfa, (first, end), frame, width)

    def shaded(top: int, rows: Tensor) -> None:
        sink(top, rows / gain(top, top + rows.shape[2]).to(rows.device))

    def flat(first: int, end: int) -> Tensor:
        rows = source(first, end)
        return rows * gain(first, end).to(rows.device)

    return (source, shaded) if direction == Direction.UNPROCESS else (flat, sink)


def _run_in_strips(
    model: IspModel,
    params: Params,
    size: tuple[int, int],
    source: Source,
    sink: Sink,
    device: torch.device,
    dtype: torch.dtype,
    strip_rows: int | None,
) -> None:
    """A model that sees no further than its halo, strip by strip."""
    height, width = size
    rows, halo = strip_rows or max(_STRIP_PIXELS // width // 2 * 2, 16), model.halo or 0

    def strip(top: int) -> Tensor:
        end = min(top + rows, height)
        first, last = max(top - halo, 0), min(end + halo, height)
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return model(source(first, last).to(device), params)[:, :, top - first : end - first].float()

    tops = range(0, height, rows)
    with torch.inference_mode():
        if device.type == "cpu" and len(tops) > 1:
            _run_in_threads(strip, tops, sink)
        else:
            for top in tops:
                sink(top, strip(top))


def _run_in_threads(strip: Callable[[int], Tensor], tops: Sequence[int], sink: Sink) -> None:
    """``strip`` of each of ``tops``, a few at a time, one thread a strip; ``sink`` gets them in order.

    Threads inside every small operation, torch's way, wait for each other hundreds of times a picture: on cores that
    something else uses too, that costs many times the work itself.
    """
    memory.keep_freed()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    ahead: deque[tuple[int, Future[Tensor]]] = deque()
    try:
        with ThreadPoolExecutor(_STRIP_THREADS) as pool:
            for top in tops:
                ahead.append((top, pool.submit(strip, top)))
                if len(ahead) > _STRIP_THREADS:
                    first, done = ahead.popleft()
                    sink(first, done.result())
            for first, done in ahead:
                sink(first, done.result())
    finally:
        torch.set_num_threads(before)


def devices() -> list[str]:
    """What there is to compute on, a line each, for ``paramisp doctor``."""
    lines = [f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads, {memory.free() / 1e9:.1f} GB free"]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        lines.append(f"cuda:{number}: {properties.name}, {properties.total_memory / 1e9:.1f} GB")
    if torch.backends.mps.is_available():
        lines.append("mps: Apple GPU")
    return lines if len(lines) > 1 else [*lines, "no GPU"]
