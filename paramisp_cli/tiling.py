"""Run a model over an image of any size: whole if it pools over the image, else strip by strip in constant memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from paramisp_cli import isp, memory
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import IspModel, Params
from paramisp_cli.types import Direction

Source = Callable[[int, int], Tensor]
"""(first row, end row) → (1, C, rows, W) float32 on the CPU."""
Sink = Callable[[int, Tensor], None]
"""(first row, (1, C, rows, W)) → nothing: keeps the rows; called once per row, top to bottom."""

_STRIP_PIXELS = 1 << 17
"""Pixels a strip: a few megabytes of float32, which the allocator keeps and the caches nearly hold."""

_STRIP_THREADS = min(4, os.cpu_count() or 1)
"""Strips worked on at a time."""


def check_memory(model: IspModel, height: int, width: int, device: torch.device, limit: int | None) -> None:
    """Raise ConfigError if the model pools over the image and that takes over ``limit`` bytes (None: what is free)."""
    if model.halo is not None:
        return
    need = model.peak_bytes(height, width)
    if device.type == "cuda":
        have = min(limit or 1 << 62, torch.cuda.mem_get_info(device)[0])
    else:
        have = limit or memory.free()
    if need > have:
        megapixels = height * width / 1e6
        raise ConfigError(
            f"{model.name} needs about {need / 1e9:.1f} GB for these {megapixels:.1f} megapixels and has "
            f"{have / 1e9:.1f} GB ({'--max-memory' if limit else 'free now'}); pass --model parametric"
        )


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
    strip_rows: int | None = None,
    frame: tuple[int, int, int, int] | None = None,
) -> None:
    """Apply ``model`` to an image of ``size`` (height, width), both even, that ``source`` gives and ``sink`` takes.

    ``strip_rows`` (even) overrides the height of the strips; the result does not depend on it. ``dtype`` below
    float32 runs the convolutions in autocast. ``frame``: where the image's corner lies in the picture that it was cut
    from, and that one's size (top, left, height, width), for what depends on the place: lens shading.
    Raises ConfigError if the memory does not suffice.
    """
    height, width = size
    check_memory(model, height, width, device, max_memory)
    model = model.to(device).eval()
    params = params.to(device)
    rows = height if model.halo is None else (strip_rows or max(_STRIP_PIXELS // width // 2 * 2, 16))
    halo = model.halo or 0

    shading, unprocess = model.lens_shading, model.direction == Direction.UNPROCESS

    def gain(first: int, end: int) -> Tensor:
        assert shading is not None
        return isp.shading_gain(shading, params.cfa, (first, end), frame or (0, 0, height, width), width)

    def strip(top: int) -> Tensor:
        end = min(top + rows, height)
        first, last = max(top - halo, 0), min(end + halo, height)
        x = source(first, last)
        if shading and not unprocess:
            x = x * gain(first, last)
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            y = model(x.to(device), params)[:, :, top - first : end - first].float().cpu()
        return y / gain(top, end) if shading and unprocess else y

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
