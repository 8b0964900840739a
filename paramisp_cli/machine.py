"""The machine of a conversion: whether numpy, onnxruntime or PyTorch runs it, and the facts for its history."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramisp_cli import atomic, models, onnx_runner
from paramisp_cli.directions import Direction
from paramisp_cli.parameters import DTYPES, GAIN_MAP, Conversion, Settings

if TYPE_CHECKING:
    from paramisp_cli.onnx_runner import OnnxRunner
    from paramisp_cli.runner import Runner


def is_free_of_torch(conversion: Conversion, settings: Settings) -> bool:
    """Tell whether a conversion runs in numpy: a look, a RAW given back, a gain map, another camera's
    RAW, the parametric model on a CPU.
    """
    if conversion.direction == Direction.TRANSFER and conversion.checkpoint is None:
        return True
    if conversion.rendition is not None or conversion.kept_raw is not None:
        return True
    if conversion.architecture == GAIN_MAP:
        return True
    parametric = conversion.architecture == "parametric" and conversion.checkpoint is None
    return parametric and settings.device in ("auto", "cpu")


def runs_on_onnx(conversion: Conversion, settings: Settings) -> bool:
    """Tell whether onnxruntime runs the conversion's network; importing torch takes seconds."""
    return onnx_runner.suits(conversion.architecture, conversion.checkpoint, settings.device, settings.dtype)


def runner_of(
    conversion: Conversion,
    settings: Settings,
    exposure: float = 0.0,
    progress: Callable[[float], None] | None = None,
) -> Runner | OnnxRunner:
    """Build the model of a conversion on its device."""
    if conversion.checkpoint is not None and runs_on_onnx(conversion, settings):
        fast = onnx_runner.load(conversion.checkpoint, conversion.direction)
        return onnx_runner.OnnxRunner(fast, settings.max_memory, progress)
    import torch

    from paramisp_cli import devices, runner

    device = devices.pick(settings.device)
    if conversion.checkpoint is None:
        gain = {"digital_gain": 2.0**exposure} if conversion.architecture == "parametric" else {}
        model = models.architecture(conversion.architecture)(conversion.direction, **gain)
    else:
        model = runner.load(conversion.checkpoint, conversion.direction, device)
    if conversion.stop_at is not None:
        model = model.stopping_at(conversion.stop_at)
    if conversion.backwards:
        model = model.backwards()
    dtype = getattr(torch, DTYPES[settings.dtype])
    return runner.Runner(
        model, device, dtype, settings.max_memory, settings.scratch_path, conversion.memory_plan, progress
    )


def stepped_down(conversion: Conversion, used: str | None) -> tuple[str, ...]:
    """Return a notice if memory ran out during the work."""
    if conversion.memory_plan in (None, used):
        return ()
    return (f"memory ran out: continued with the memory plan {used!r}, which needs less and takes longer",)


def facts_of(conversion: Conversion, exposure: float) -> dict[str, Any]:
    """Return the facts of a conversion for the history in its result's XMP: the same for the same input."""
    checkpoint = conversion.checkpoint
    weights = {
        "weights": checkpoint.name if checkpoint else None,
        "weights_sha256": _sha256(checkpoint, atomic.stamp(checkpoint)) if checkpoint else None,
    }
    return {"model": conversion.architecture, **weights, "exposure": exposure, "origin": conversion.origin}


@lru_cache(maxsize=16)
def _sha256(path: Path, stamp: tuple[int, int]) -> str:
    """Return the SHA-256 of a file of weights, once for all pictures of a batch."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
