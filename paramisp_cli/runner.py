"""Run a model over an image of any size: arrays in, arrays out. Only this module runs networks over pictures.

A model that pools over the picture runs by one of its memory plans; other models run tile by tile. The result depends
neither on the plan nor on the tiles.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import atomic, devices, isp, memory, weights
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import DISK, HOST, WHOLE, IspModel, MakeStore, Params
from paramisp_cli.models.geometry import Span, round_up, spans
from paramisp_cli.models.regions import Progress, Sink, Source, reflecting
from paramisp_cli.scratch import HostMemory, Scratch
from paramisp_cli.types import CanonicalParams, OpticalParams

_STRIP_PIXELS = 1 << 18
"""Pixels of a strip: a few megabytes of float32, which the allocator reuses; half as many pixels take longer."""
_STRIP_ROWS = 16
"""Fewest rows of a strip."""
_AMPLE = 900_000_000
"""Bytes of all strips together beyond which wider tiles gain nothing."""
_TILE_COLUMNS = 128
"""Fewest columns of a tile when memory is short."""
_SHARE_OF_RATE = 0.5
"""Share of a convolution's rate that a whole network reaches."""
_STRIP_THREADS = min(4, os.cpu_count() or 1)
"""Strips computed at a time."""

Frame = tuple[int, int, int, int]
"""(top, left, height, width): corner of an image in its original picture, and the size of this picture.

Lens shading depends on the position in the picture."""


class NotEnoughMemoryError(ConfigError):
    """No memory plan of the network fits. ``need`` states the sizes, ``remedy`` a way to run the network."""

    def __init__(self, need: str, remedy: str = "") -> None:
        super().__init__(f"{need}; pass {remedy and remedy + ', or '}`model` parametric")
        self.need, self.remedy = need, remedy


@cache
def _rate(device: torch.device, threads: int) -> float:
    """Measure the multiply-accumulates a second of a 3×3 convolution of 32 channels on a device."""
    x, weight = torch.rand(1, 32, 256, 256, device=device), torch.rand(32, 32, 3, 3, device=device)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(5):
            begin = time.perf_counter()
            torch.nn.functional.conv2d(x, weight).mean().item()
            best = min(best, time.perf_counter() - begin)
    return 32 * 32 * 9 * 254**2 / best


def load(path: Path, direction: Direction, device: torch.device) -> IspModel:
    """Load a checkpoint onto a device, once for all pictures of a batch; a replaced file is loaded again.

    Raises WeightsError, or ConfigError if the checkpoint is for another direction.
    """
    return _loaded(path, atomic.stamp(path), direction, device)


@lru_cache(maxsize=16)
def _loaded(path: Path, stamp: tuple[int, int], direction: Direction, device: torch.device) -> IspModel:
    model = weights.load_model(path, direction).to(device)
    if model.direction != direction:
        raise ConfigError(f"{path} is for {model.direction}, not for {direction}")
    return model


@dataclass(frozen=True, slots=True)
class Runner:
    """A model on a device, and the memory that it may use.

    dtype         type of the convolutions
    max_memory    bytes that the model may use (None: free memory)
    scratch       folder for the file of the memory plan ``DISK`` (None: without that plan)
    memory_plan   plan of a model that pools over the picture (None: the fastest that fits). If memory still runs out,
                  the next plan follows, and the sink may get rows again.
    progress      takes the finished share of the work, 0 to 1, from any thread
    """

    model: IspModel
    device: torch.device
    dtype: torch.dtype = torch.float32
    max_memory: int | None = None
    scratch: Path | None = None
    memory_plan: str | None = None
    progress: Progress | None = None

    def unprocess(
        self,
        pixels: np.ndarray,
        canonical: CanonicalParams,
        optical: OpticalParams,
        *,
        size: tuple[int, int] | None = None,
        dtype: type[np.generic] = np.uint16,
        frame: Frame | None = None,
    ) -> tuple[np.ndarray, str]:
        """Run the model over an sRGB picture; return its mosaic and the memory plan used.

        pixels    (H, W, 3) uint8, uint16 or float32 in [0, 1]
        size      (height, width) of the mosaic, even; the picture is padded to it by reflection (None: even sides)
        dtype     uint16: raw units, rounded and clipped to [0, white level]; float32: linear in [0, 1]
        """
        height, width = pixels.shape[:2]
        rows, columns = size or (height + height % 2, width + width % 2)
        scale = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(pixels.dtype, 1.0)
        black = torch.tensor(canonical.black_level, dtype=torch.float32, device=self.device)
        mosaic = np.empty((rows, columns), dtype)
        reflected = isp.reflect_index(height, 0, rows - height).numpy()

        def source(first: int, end: int) -> Tensor:
            strip = pixels[first:end] if end <= height else pixels[reflected[first:end]]
            planes = devices.codes_on(self.device, strip).permute(2, 0, 1)[None].contiguous().div_(scale)
            return isp.reflect_pad(planes, 0, columns - width, 0, 0)

        def sink(top: int, strip: Tensor) -> None:
            levels = isp.quantise(strip, black, canonical.white_level) if dtype == np.uint16 else strip.clamp(0, 1)
            mosaic[top : top + strip.shape[2]] = devices.codes_from(levels[0, 0], mosaic.dtype)

        params = self.model.params_of(canonical, optical)
        return mosaic, self.run(params, (rows, columns), source, sink, frame=frame)

    def render(
        self,
        mosaic: np.ndarray,
        canonical: CanonicalParams,
        optical: OpticalParams,
        *,
        gain: float = 1.0,
        dtype: type[np.generic] = np.uint8,
        frame: Frame | None = None,
    ) -> tuple[np.ndarray, str]:
        """Run the model over a mosaic; return (H, W, 3) sRGB pixels and the memory plan used.

        mosaic    (H, W), even: uint16 in raw units, or float32, linear, black 0, white 1
        gain      factor of the linear values
        dtype     uint8 or uint16: full scale 255 or 65535; float32: in [0, 1]
        """
        top_code = {np.uint8: 255, np.uint16: 65535}.get(dtype)
        pixels = np.empty((*mosaic.shape, 3), dtype)
        linear = self._linear(mosaic, canonical)

        def source(first: int, end: int) -> Tensor:
            return linear(first, end) if gain == 1 else linear(first, end) * gain

        def sink(top: int, strip: Tensor) -> None:
            shown = strip.clamp_(0, 1)[0]
            codes = shown if top_code is None else shown.mul_(top_code).round_()
            pixels[top : top + strip.shape[2]] = devices.codes_from(codes, pixels.dtype).transpose(1, 2, 0)

        height, width = mosaic.shape
        params = self.model.params_of(canonical, optical)
        return pixels, self.run(params, (height, width), source, sink, frame=frame)

    def restore(
        self,
        mosaic: np.ndarray,
        canonical: CanonicalParams,
        optical: OpticalParams,
        *,
        gain: float = 1.0,
        frame: Frame | None = None,
    ) -> tuple[np.ndarray, str]:
        """Run a model that stops at a stage (``IspModel.stopping_at``) over a mosaic; return the memory plan, too.

        mosaic    as for ``render``
        gain      factor of the result; the model's input has none

        The result is (H, W, 3) float32, linear sRGB, white 1, not clipped.
        """
        pixels = np.empty((*mosaic.shape, 3), np.float32)

        def sink(top: int, strip: Tensor) -> None:
            light = strip[0] if gain == 1 else strip[0] * gain
            pixels[top : top + strip.shape[2]] = devices.codes_from(light, pixels.dtype).transpose(1, 2, 0)

        height, width = mosaic.shape
        params = self.model.params_of(canonical, optical)
        return pixels, self.run(params, (height, width), self._linear(mosaic, canonical), sink, frame=frame)

    def repair(
        self,
        mosaic: np.ndarray,
        canonical: CanonicalParams,
        optical: OpticalParams,
        *,
        noise: float | None = None,
    ) -> np.ndarray:
        """Run a model from mosaic to mosaic (``Direction.RESTORE``); return (H, W) float32, linear, not clipped.

        mosaic    as for ``render``
        noise     σ of its noise at middle grey; None: it was made of a picture
        """
        result = np.empty(mosaic.shape, np.float32)

        def sink(top: int, strip: Tensor) -> None:
            result[top : top + strip.shape[2]] = devices.codes_from(strip[0, 0], result.dtype)

        params = self.model.params_of(canonical, optical)
        if noise is not None:
            params = replace(params, noise=params.iso.new_tensor([noise]))
        height, width = mosaic.shape
        self.run(params, (height, width), self._linear(mosaic, canonical), sink)
        return result

    def transfer(
        self, mosaic: np.ndarray, canonical: CanonicalParams, optical: OpticalParams
    ) -> tuple[np.ndarray, str]:
        """Run the model over a mosaic; return another camera's, (H, W) float32, linear, and the memory plan used.

        mosaic    as for ``render``
        """
        out = np.empty(mosaic.shape, np.float32)

        def sink(top: int, strip: Tensor) -> None:
            out[top : top + strip.shape[2]] = devices.codes_from(strip[0, 0], out.dtype)

        params, (height, width) = self.model.params_of(canonical, optical), mosaic.shape
        return out, self.run(params, (height, width), self._linear(mosaic, canonical), sink)

    def _linear(self, mosaic: np.ndarray, canonical: CanonicalParams) -> Source:
        """Return the source of a mosaic's rows, linear, black 0, white 1."""
        black = torch.tensor(canonical.black_level, dtype=torch.float32, device=self.device)

        def source(first: int, end: int) -> Tensor:
            strip = devices.codes_on(self.device, mosaic[first:end])[None, None]
            return strip if mosaic.dtype == np.float32 else isp.normalise(strip, black, canonical.white_level)

        return source

    def run(
        self,
        params: Params,
        size: tuple[int, int],
        source: Source,
        sink: Sink,
        *,
        frame: Frame | None = None,
        tile: tuple[int, int] | None = None,
    ) -> str:
        """Run the model from rows to rows over an image of ``size`` (height, width), both even; return the memory plan.

        source, sink  functions that return the input's rows, on any device, and take the output's rows, on ``device``
        tile          height and width of tiles for a model that does not pool (None: chosen), rounded up to the
                      geometry's multiple

        Raises ConfigError if the memory does not suffice.
        """
        device = self.device
        plan = self.memory_plan or self.choose_plan(size)
        model, params = self.model.to(device).eval(), params.to(device)
        if model.lens_shading is not None:
            where = frame or (0, 0, *size)
            source, sink = _shaded(source, sink, model.lens_shading, params.cfa, where, size[1], model.direction)
        if not model.geometry.pooled:
            self._run_in_tiles(params, size, source, sink, tile or self._tile(size))
            return plan
        names, usable = model.plans(device), self._usable(size)
        plans = [plan, *(name for name in names[names.index(plan) + 1 :] if name in usable)]
        while True:
            try:
                with torch.inference_mode():
                    model.stream(
                        source, sink, size, params,
                        dtype=self.dtype, plan=plans[0], store=self._store_for(plans[0]), progress=self.progress,
                    )  # fmt: skip
            except (MemoryError, RuntimeError) as error:
                if len(plans) == 1 or not devices.is_out_of_memory(error):
                    raise
            else:
                return plans[0]
            plans = plans[1:]
            devices.release(device)

    def _counted(self, source: Source, sink: Sink, size: tuple[int, int]) -> tuple[Source, Sink]:
        """Return source and sink of a survey and of tiles that report the finished share of the work of both.

        Rows come top to bottom.
        """
        progress = self.progress
        if progress is None:
            return source, sink
        height, work = size[0], self.model.survey_pixels(size)
        share = work / (work + size[0] * size[1])

        def surveyed(first: int, end: int) -> Tensor:
            progress(share * first / height)
            return source(first, end)

        def counted(top: int, rows: Tensor) -> None:
            sink(top, rows)
            progress(share + (1 - share) * (top + rows.shape[2]) / height)

        return surveyed, counted

    def expected_seconds(self, size: tuple[int, int]) -> float:
        """Estimate the time for a picture of ``size``, within a factor of two; measures the device for some 50 ms."""
        macs = self.model.macs * (size[0] * size[1] + self.model.survey_pixels(size))
        return macs / (_SHARE_OF_RATE * _rate(self.device, torch.get_num_threads())) if macs else 0.0

    # --- memory plans -------------------------------------------------------------------------------------------------

    def choose_plan(self, size: tuple[int, int]) -> str:
        """Choose the fastest of the model's memory plans that fits the memory. Raises NotEnoughMemoryError."""
        model, device = self.model, self.device
        if not model.geometry.pooled:
            return WHOLE  # tiles need little memory
        available = devices.free(device, self.max_memory)
        needs = {plan: model.peak_bytes(*size, plan) for plan in self._usable(size)}
        for plan, need in needs.items():
            if need <= available:
                return plan
        remedy = ""
        if self.scratch is None and DISK in model.plans(device) and model.peak_bytes(*size, DISK) <= available:
            remedy = f"`scratch` DIR, a folder on a disk with {model.store_bytes(*size) / 1e9:.1f} GB free"
        elif device.type != "cpu":
            remedy = "`device` cpu"
        raise NotEnoughMemoryError(
            f"{model.name} needs about {min(needs.values()) / 1e9:.1f} GB for {size[0] * size[1] / 1e6:.1f} "
            f"megapixels and has {available / 1e9:.1f} GB ({'`max_memory`' if self.max_memory else 'free now'})",
            remedy,
        )

    def _usable(self, size: tuple[int, int]) -> list[str]:
        """Return the model's plans whose store is available: a folder, or enough memory of the host."""
        plans = self.model.plans(self.device)
        lacking = {DISK} if self.scratch is None else set()
        if HOST in plans and self.model.store_bytes(*size) > memory.free():
            lacking.add(HOST)
        return [plan for plan in plans if plan not in lacking]

    def _store_for(self, plan: str) -> MakeStore | None:
        """Return the function that makes the store of a plan, or None."""
        if plan == HOST:
            return HostMemory
        return partial(Scratch, folder=self.scratch) if plan == DISK and self.scratch is not None else None

    # --- tiles --------------------------------------------------------------------------------------------------------

    def _tile(self, size: tuple[int, int]) -> tuple[int, int]:
        """Choose the height and width of tiles: whole rows, or narrower if memory does not suffice."""
        model, limit = self.model, min(devices.free(self.device, self.max_memory), _AMPLE)
        multiple, halo = model.geometry.multiple, model.geometry.halo
        rows = max(_STRIP_PIXELS // size[1] // multiple * multiple, _STRIP_ROWS, 12 * halo)
        columns = size[1]
        while columns > _TILE_COLUMNS:
            if _STRIP_THREADS * model.peak_bytes(rows + 2 * halo, columns + 2 * halo) <= limit:
                break
            columns = round_up(-(-columns // 2), multiple)
        return rows, columns

    def _run_in_tiles(
        self, params: Params, size: tuple[int, int], source: Source, sink: Sink, tile: tuple[int, int]
    ) -> None:
        """Run a model whose outputs depend only on inputs within its halo, tile by tile.

        Tiles begin at multiples of the geometry's multiple, in the image padded as in ``IspModel.forward``.
        """
        model, device, geometry = self.model, self.device, self.model.geometry
        lower = self.dtype != torch.float32
        survey, sink = self._counted(source, sink, size)
        with torch.inference_mode():  # gradients would hold the features of the whole picture
            params = model.surveyed(lambda first, end: survey(first, end).to(device), size, params)
        padded_source = reflecting(source, size, (geometry.padded(size[0]), geometry.padded(size[1])))
        down, across = (
            spans(side, length, geometry.multiple, geometry.halo, geometry.smallest)
            for side, length in zip(size, tile, strict=True)
        )

        def strip(rows: Span) -> Tensor:
            inside = slice(rows.begin - rows.first, rows.end - rows.first)
            with torch.inference_mode(), torch.autocast(device.type, self.dtype, enabled=lower):
                x = padded_source(rows.first, rows.last).to(device)
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


def _shaded(
    source: Source,
    sink: Sink,
    shading: Sequence[Sequence[float]],
    cfa: str,
    frame: Frame,
    width: int,
    direction: Direction,
) -> tuple[Source, Sink]:
    """Return source and sink that remove lens shading from an input RAW and add it to an output RAW."""

    def gain(first: int, end: int) -> Tensor:
        return isp.shading_gain(shading, cfa, (first, end), frame, width)

    def shaded(top: int, rows: Tensor) -> None:
        sink(top, rows / gain(top, top + rows.shape[2]).to(rows.device))

    def flat(first: int, end: int) -> Tensor:
        rows = source(first, end)
        return rows * gain(first, end).to(rows.device)

    return flat if direction.input == Kind.RAW else source, shaded if direction.output == Kind.RAW else sink


def _run_in_threads(strip: Callable[[Span], Tensor], down: Sequence[Span], sink: Sink) -> None:
    """Send ``strip`` of each span to the sink in order; a few at a time, one thread per strip.

    Torch uses threads inside every small operation; they would wait for each other hundreds of times per picture. On
    cores shared with another program, waiting costs many times the work itself.
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
