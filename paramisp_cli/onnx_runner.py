"""Run ``fast`` on a CPU through onnxruntime, without PyTorch: arrays in, arrays out, tile by tile.

Importing PyTorch takes as long as the network itself for a picture of 12 megapixels. The graph holds the whole model;
thumbnail, padding, tiles, lens shading and codes are numpy. Every tile is one call with one thread: threads inside an
operation would wait for each other.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from paramisp_cli import atomic, memory, mosaic, weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.fast import graph, spec
from paramisp_cli.models.geometry import WHOLE, Span, spans
from paramisp_cli.settings import DTYPES
from paramisp_cli.types import FALLBACK_OPTICAL, CanonicalParams, OpticalParams

BACKEND = "PARAMISP_BACKEND"
"""Environment variable: "torch" or "onnx"."""
_TILE_PIXELS = 1_400_000
"""Largest tile with its surroundings [px]."""
_PIXEL_BYTES = 270
"""Memory of a tile's run [bytes a pixel]; the values take 165, the rest is lost between blocks."""
_AMPLE = 1_000_000_000
"""Bytes of all tiles together: larger tiles gain a few per cent."""
_FEW_PIXELS = 300_000
"""Size [px] of the largest tile if there are many threads; together they may then take more."""
_SMALLEST_TILE = 256
"""Fewest rows and columns of a tile: a smaller one is mostly surroundings."""
_SURVEY_ROWS = 256
"""Rows of the picture that enter the thumbnail at a time."""
_SHARE_OF_RATE = 0.4
"""Share of a matrix product's rate that the whole model reaches."""

Frame = tuple[int, int, int, int]


@cache
def runtime() -> Any | None:
    """Import onnxruntime, in 0.1 s; None where it is not installed or does not work."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime


def suits(architecture: str, checkpoint: Path | None, device: str, dtype: str) -> bool:
    """Tell whether this module runs a model with these settings.

    It does so for ``fast`` in float32 on a CPU, unless $PARAMISP_BACKEND is "torch". Raises ConfigError if the variable
    is "onnx" and onnxruntime is missing.
    """
    wanted = os.environ.get(BACKEND, "")
    if wanted not in ("", "torch", "onnx"):
        raise ConfigError(f"${BACKEND} must be torch or onnx, got {wanted!r}")
    if wanted == "torch" or architecture != "fast" or checkpoint is None or checkpoint.suffix != ".safetensors":
        return False
    if DTYPES[dtype] != "float32" or device not in ("auto", "cpu"):
        return False
    if wanted != "onnx" and device == "auto" and _may_have_gpu():
        return False  # PyTorch finds out, and uses it
    if runtime() is not None:
        return True
    if wanted == "onnx":
        raise ConfigError(f"${BACKEND}=onnx: onnxruntime is not installed; pip install 'paramisp[onnx]'")
    return False


@cache
def _may_have_gpu() -> bool:
    """Tell whether the system has a driver of a GPU that PyTorch calls "cuda" (NVIDIA, or AMD on Linux)."""
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    return any(Path("/dev", name).exists() for name in ("nvidiactl", "kfd", "dxg"))


def describe() -> str:
    """Describe onnxruntime's part, in one line, for ``paramisp doctor``."""
    module = runtime()
    if module is None:
        return "onnxruntime: not installed (pip install 'paramisp[onnx]'): `fast` starts seconds faster with it"
    chosen = os.environ.get(BACKEND)
    use = f"${BACKEND} is {chosen}" if chosen else "not used, there may be a GPU" if _may_have_gpu() else "runs `fast`"
    return f"onnxruntime {module.__version__}: {use} (on the CPU in float32), {threads()} threads"


def threads() -> int:
    """Return the number of tiles to compute at a time: the usable cores, or $OMP_NUM_THREADS if that is fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(min(cores, int(limit) if limit.isdigit() else cores, 16), 1)


@dataclass(frozen=True)
class FastModel:
    """A checkpoint of ``fast``, read without PyTorch."""

    config: spec.Config
    tensors: dict[str, np.ndarray]

    def tone_curve(self) -> None:
        """Return None: the model removes no global curve (see ``IspModel.tone_curve``)."""
        return


def load(path: Path, direction: Direction) -> FastModel:
    """Load a checkpoint, once for all pictures of a batch; a replaced file is loaded again.

    Raises WeightsError, or ConfigError if the checkpoint is for another direction.
    """
    model = _loaded(path, atomic.stamp(path))
    if model.config.direction != direction:
        raise ConfigError(f"{path} is for {model.config.direction}, not for {direction}")
    return model


@lru_cache(maxsize=16)
def _loaded(path: Path, stamp: tuple[int, int]) -> FastModel:
    return FastModel(*weights.load_arrays(path, spec.Config))


@dataclass(frozen=True, slots=True)
class OnnxRunner:
    """``fast`` on the CPU; ``runner.Runner`` explains the methods, whose results are the same.

    max_memory  bytes that the model may use (None: free memory)
    progress    takes the finished share of the work, 0 to 1, from any thread
    """

    model: FastModel
    max_memory: int | None = None
    progress: Callable[[float], None] | None = None

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
        """Run the model over an sRGB picture; return its mosaic and the memory plan used."""
        height, width = pixels.shape[:2]
        rows, columns = size or (height + height % 2, width + width % 2)
        scale = np.float32({np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(pixels.dtype, 1.0))
        reflected = mosaic.reflect_index(height, 0, rows - height), mosaic.reflect_index(width, 0, columns - width)
        out = np.empty((rows, columns), dtype)
        black, white = (
            mosaic.repeated(canonical.black_level, (2, 2)).astype(np.float32),
            np.float32(canonical.white_level),
        )
        shading = self.model.config.lens_shading

        def source(down: np.ndarray, across: np.ndarray) -> np.ndarray:
            codes = _taken(pixels, reflected[0][down], reflected[1][across])
            planes = codes.transpose(2, 0, 1).astype(np.float32, order="C")
            planes /= scale
            return planes

        def sink(down: np.ndarray, across: np.ndarray, values: np.ndarray) -> None:
            linear = values[0]
            if shading is not None:
                cfa = _from(canonical.cfa, down[0], across[0])
                linear = linear / mosaic.shading_gain(shading, cfa, down, across, frame or (0, 0, rows, columns))
            if dtype == np.uint16:
                levels = _by_position(black, down, across)
                linear = np.clip(np.rint(linear * (white - levels) + levels), 0, white)
            else:
                linear = np.clip(linear, 0, 1)
            out[down[0] : down[-1] + 1, across[0] : across[-1] + 1] = linear

        def survey(first: int, end: int) -> np.ndarray:
            return source(np.arange(2 * first, 2 * end), np.arange(columns))

        thumbnail = self._thumbnail((rows, columns), survey, halved=False)
        self._run(canonical, optical, thumbnail, (rows, columns), source, sink)
        return out, WHOLE

    def render(
        self,
        mosaic_: np.ndarray,
        canonical: CanonicalParams,
        optical: OpticalParams,
        *,
        gain: float = 1.0,
        dtype: type[np.generic] = np.uint8,
        frame: Frame | None = None,
    ) -> tuple[np.ndarray, str]:
        """Run the model over a mosaic; return (H, W, 3) sRGB pixels and the memory plan used."""
        height, width = mosaic_.shape
        black, white = canonical.black_level.astype(np.float32), np.float32(canonical.white_level)
        top_code = {np.uint8: 255, np.uint16: 65535}.get(dtype)
        out = np.empty((height, width, 3), dtype)
        shading = self.model.config.lens_shading

        def source(down: np.ndarray, across: np.ndarray) -> np.ndarray:
            linear = _taken(mosaic_, down, across).astype(np.float32)
            if mosaic_.dtype != np.float32:
                levels = _by_position(black, down, across)
                linear = (linear - levels) / (white - levels)
            if gain != 1:
                linear *= np.float32(gain)
            if shading is not None:
                cfa = _from(canonical.cfa, down[0], across[0])
                linear *= mosaic.shading_gain(shading, cfa, down, across, frame or (0, 0, height, width))
            return linear[None]

        def sink(down: np.ndarray, across: np.ndarray, values: np.ndarray) -> None:
            shown = np.clip(values, 0, 1, out=values)
            if top_code is not None:
                shown *= np.float32(top_code)
                np.rint(shown, out=shown)
            out[down[0] : down[-1] + 1, across[0] : across[-1] + 1] = shown.transpose(1, 2, 0)

        gains = canonical.wb_gains.astype(np.float32)

        def survey(first: int, end: int) -> np.ndarray:
            linear = source(np.arange(2 * first, 2 * end), np.arange(width))[0]
            colours = mosaic.superpixels(mosaic.sites(linear), canonical.cfa).transpose(2, 0, 1)
            return np.asarray(np.sqrt(np.clip(colours * gains[:, None, None], 0, 1)))

        thumbnail = self._thumbnail((height, width), survey, halved=True)
        self._run(canonical, optical, thumbnail, (height, width), source, sink)
        return out, WHOLE

    def choose_plan(self, size: tuple[int, int]) -> str:
        """Return the only plan: tiles need little memory."""
        return WHOLE

    def expected_seconds(self, size: tuple[int, int]) -> float:
        """Estimate the time for a picture of ``size``, within a factor of two; measures the CPU for some 10 ms."""
        return self.model.config.macs * size[0] * size[1] / (_SHARE_OF_RATE * _rate())

    # --- parts --------------------------------------------------------------------------------------------------------

    def _thumbnail(
        self, size: tuple[int, int], survey: Callable[[int, int], np.ndarray], *, halved: bool
    ) -> np.ndarray:
        """Average the picture to (3, 16, 16); ``survey`` returns the colours of rows of 2×2, or of their means."""
        height, step = size[0] // 2, 1 if halved else 2
        down, across = _cells(height), [step * cell for cell in _cells(size[1] // 2)]
        bands = [(first, min(first + _SURVEY_ROWS // 2, height)) for first in range(0, height, _SURVEY_ROWS // 2)]

        def band(rows: tuple[int, int]) -> np.ndarray:
            colours = survey(*rows)
            means = np.stack([colours[:, :, begin:end].mean(2) for begin, end in across], -1)  # (3, rows, 16)
            out = np.zeros((3, spec.THUMBNAIL, spec.THUMBNAIL))
            for number, (begin, end) in enumerate(down):
                own = means[:, step * max(begin - rows[0], 0) : step * max(end - rows[0], 0)]
                out[:, number] = own.sum(1, dtype=np.float64) / (step * (end - begin))
            return out

        with ThreadPoolExecutor(threads()) as pool:
            return np.asarray(np.sum(list(pool.map(band, bands)), 0))

    def _run(
        self,
        canonical: CanonicalParams,
        optical: OpticalParams,
        thumbnail: np.ndarray,
        size: tuple[int, int],
        source: Callable[[np.ndarray, np.ndarray], np.ndarray],
        sink: Callable[[np.ndarray, np.ndarray, np.ndarray], None],
    ) -> None:
        """Run the graph over tiles whose CFA begins with red, as ``Fast.forward`` pads and shifts the picture."""
        memory.keep_freed()
        session = self._session(canonical, optical, thumbnail)
        name = graph.pixels_in_and_out(self.model.config.direction)[0]
        offsets = divmod(canonical.cfa.index("R"), 2)
        places = [_places(side, offset) for side, offset in zip(size, offsets, strict=True)]
        count = threads()
        tile = _tile((len(places[0]), len(places[1])), count, min(self.max_memory or memory.free(), 1 << 62))
        multiple, halo = spec.GEOMETRY.multiple, spec.GEOMETRY.halo
        cuts = [
            [span for span in spans(len(place), side, multiple, halo, multiple) if span.begin < offset + length]
            for place, side, offset, length in zip(places, tile, offsets, size, strict=True)
        ]
        done, counting, total = [0], Lock(), size[0] * size[1]

        def work(spot: tuple[Span, Span]) -> None:
            x = source(*(place[span.first : span.last] for place, span in zip(places, spot, strict=True)))
            y = session.run(None, {name: x[None]})[0][0]
            # Rows and columns of the picture among those of the tile.
            begin = [max(span.begin, offset) for span, offset in zip(spot, offsets, strict=True)]
            end = [min(s.end, offset + length) for s, offset, length in zip(spot, offsets, size, strict=True)]
            inner = [slice(b - s.first, e - s.first) for b, e, s in zip(begin, end, spot, strict=True)]
            where = [np.arange(b - offset, e - offset) for b, e, offset in zip(begin, end, offsets, strict=True)]
            sink(where[0], where[1], y[:, inner[0], inner[1]])
            if self.progress is not None:
                with counting:
                    done[0] += len(where[0]) * len(where[1])
                    self.progress(done[0] / total)

        spots = [(down, across) for down in cuts[0] for across in cuts[1]]
        try:
            with ThreadPoolExecutor(count) as pool:
                try:
                    list(pool.map(work, spots))
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        except Exception as error:
            if "allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise

    def _session(self, canonical: CanonicalParams, optical: OpticalParams, thumbnail: np.ndarray) -> Any:
        """Make the session of one picture: parameters become constants, which onnxruntime folds into the weights."""
        onnxruntime = runtime()
        assert onnxruntime is not None
        optics = [getattr(optical, name) or getattr(FALLBACK_OPTICAL, name) for name in graph.OPTICAL]
        bound = {
            "wb_gains": canonical.wb_gains,
            "cam_to_srgb": canonical.cam_to_srgb(),
            "optical": np.array(optics),
            "thumbnail": thumbnail,
        }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # an arena never shrinks
        options.log_severity_level = 3
        model = graph.build(self.model.config, self.model.tensors, bound)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _places(side: int, offset: int) -> np.ndarray:
    """Return the picture's rows (or columns) in the order of the graph's input, which begins ``offset`` before them."""
    multiple = spec.GEOMETRY.multiple
    padded = spec.GEOMETRY.padded(side)
    inner = mosaic.reflect_index(side, 0, padded - side)
    return np.asarray(inner[mosaic.reflect_index(padded, offset, offset and multiple - offset)])


def _tile(size: tuple[int, int], count: int, available: int) -> tuple[int, int]:
    """Choose the height and width of tiles: the least work of the busiest of ``count`` threads."""
    halo, multiple = spec.GEOMETRY.halo, spec.GEOMETRY.multiple
    each = max(_AMPLE // (count * _PIXEL_BYTES), _FEW_PIXELS)
    most = min(_TILE_PIXELS, each, available // 2 // (count * _PIXEL_BYTES))
    best, chosen = float("inf"), (_SMALLEST_TILE, _SMALLEST_TILE)
    for rows in range(1, -(-size[0] // _SMALLEST_TILE) + 1):
        for columns in range(1, -(-size[1] // _SMALLEST_TILE) + 1):
            tile = [-(-side // cuts // multiple) * multiple for side, cuts in zip(size, (rows, columns), strict=True)]
            if (tile[0] + 2 * halo) * (tile[1] + 2 * halo) > most:
                continue
            work = (size[0] + 2 * halo * (rows - 1)) * (size[1] + 2 * halo * (columns - 1))
            tiles = rows * columns
            busiest = work / tiles * -(-tiles // count)
            if busiest < best:
                best, chosen = busiest, (tile[0], tile[1])
    return chosen


def _cells(length: int) -> np.ndarray:
    """Return (begin, end) of the samples whose mean is a sample of the thumbnail, (16, 2), as adaptive pooling."""
    cell, side = np.arange(spec.THUMBNAIL), spec.THUMBNAIL
    return np.stack([cell * length // side, -(-(cell + 1) * length // side)], -1)


def _taken(image: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return rows and columns of an image: a view where they are consecutive."""
    for axis, index in ((0, down), (1, across)):
        first, last = int(index[0]), int(index[-1])
        consecutive = last - first + 1 == len(index) and bool((np.diff(index) == 1).all())
        image = image[(slice(None),) * axis + (slice(first, last + 1) if consecutive else index,)]
    return image


def _by_position(levels: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return values by position in the 2×2 for rows and columns of a mosaic; one value if all are equal."""
    if (levels == levels[0, 0]).all():
        return levels[:1, :1]
    return np.asarray(levels[(down % 2)[:, None], across % 2])


def _from(cfa: str, row: int, column: int) -> str:
    """Return the CFA that begins at a position."""
    return mosaic.named(mosaic.shifted(mosaic.pattern(cfa), int(row), int(column)))


@cache
def _rate() -> float:
    """Measure the multiply-accumulates a second of a matrix product in numpy, on all threads."""
    one, best = np.ones((512, 512), np.float32), float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        one @ one
        best = min(best, time.perf_counter() - begin)
    return float(512**3 / best)
