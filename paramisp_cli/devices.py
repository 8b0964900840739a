"""Pick and list computing devices, and move pixels to and from them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paramisp_cli import memory
from paramisp_cli.errors import ConfigError


def pick(name: str) -> torch.device:
    """Return the device of a name; "auto" is a GPU if there is one. Raises ConfigError for a missing device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"`device` {name}: unknown; use auto, cpu, cuda, cuda:N or mps") from error
    exists = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not exists.get(device.type, False):
        raise ConfigError(f"`device` {name}: there is no such device here; use auto or cpu")
    return device


def several(name: str) -> list[str]:
    """List the devices for a name: all GPUs for "auto" and "cuda", the named device for other names."""
    device = pick(name)
    count = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
    return [f"cuda:{number}" for number in range(count)] if count > 1 else [name]


def describe() -> list[str]:
    """Describe the available devices, one line each, for ``paramisp doctor``."""
    lines = [f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads, {memory.free() / 1e9:.1f} GB free"]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        lines.append(f"cuda:{number}: {properties.name}, {properties.total_memory / 1e9:.1f} GB")
    if torch.backends.mps.is_available():
        lines.append("mps: Apple GPU")
    return lines if len(lines) > 1 else [*lines, "no GPU"]


def free(device: torch.device, limit: int | None) -> int:
    """Return the bytes that a network may use on a device: ``limit``, or the free memory; on a GPU the smaller."""
    if device.type == "cuda":
        return int(min(limit or 1 << 62, torch.cuda.mem_get_info(device)[0]))
    return limit or memory.free()


def release(device: torch.device) -> None:
    """Return cached memory to the system."""
    memory.release()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an exception means lack of memory; torch has several texts for it."""
    text = str(error).lower()
    words = ("not enough memory", "out of memory", "allocate memory")
    return isinstance(error, MemoryError) or any(word in text for word in words)


def codes_on(device: torch.device, codes: np.ndarray) -> Tensor:
    """Return uint8, uint16 or float32 numbers as float32 on a device; the transfer uses the smaller original type."""
    if device.type == "cpu":
        return torch.from_numpy(codes.astype(np.float32))
    plain = torch.from_numpy(np.ascontiguousarray(codes.view(np.int16) if codes.dtype == np.uint16 else codes))
    on_device = (plain.pin_memory() if device.type == "cuda" else plain).to(device, non_blocking=True)
    return (on_device.int() & 0xFFFF).float() if codes.dtype == np.uint16 else on_device.float()


def codes_from(values: Tensor, dtype: np.dtype[Any]) -> np.ndarray:
    """Return numbers on any device as float32, or whole numbers as uint8 or uint16, converted before the transfer."""
    if dtype == np.float32:
        return values.cpu().numpy()
    if dtype == np.uint8:
        return values.to(torch.uint8).cpu().numpy()
    return values.int().short().cpu().numpy().view(np.uint16)  # int16 on the way: the upper half is negative
