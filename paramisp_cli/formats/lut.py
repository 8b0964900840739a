"""3-D look-up tables of colour: the .cube text of Adobe, and the HaldCLUT picture.

A table is (N, N, N, 3): sRGB-encoded R, G and B in, each in N equal steps from 0 to 1, sRGB-encoded colour out.
"""

from __future__ import annotations

import numpy as np

from paramisp_cli.errors import ConfigError

CUBE_SIZES = (2, 129)
"""Least and most steps of a .cube: programs differ in the largest that they take."""
HALD_SIZES = tuple(level**2 for level in range(2, 13))
"""Steps of a HaldCLUT of level 2 to 12: a picture of level³ × level³ pixels."""


def check_size(size: int, suffix: str) -> None:
    """Raise ConfigError for a number of steps that a format (".cube" or ".png") cannot hold."""
    low, high = CUBE_SIZES
    if suffix == ".cube" and not low <= size <= high:
        raise ConfigError(f"`size` {size}: a .cube has {low} to {high} steps")
    if suffix == ".png" and size not in HALD_SIZES:
        raise ConfigError(f"`size` {size}: a HaldCLUT has {', '.join(map(str, HALD_SIZES))} steps")


def applied(table: np.ndarray, encoded: np.ndarray) -> np.ndarray:
    """Interpolate a table linearly at sRGB-encoded colours (n, 3), clipped to [0, 1] → (n, 3)."""
    entries = table.reshape(-1, table.shape[-1])
    result = np.zeros((len(encoded), table.shape[-1]))
    for corner, weight in zip(*corners(encoded, len(table)), strict=True):
        result += weight[:, None] * entries[corner]
    return result


def corners(encoded: np.ndarray, size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the eight entries around each colour (n, 3), and their weights: both eight arrays (n,)."""
    at = np.clip(encoded, 0, 1) * (size - 1)
    low = np.minimum(at.astype(int), size - 2)
    above = at - low
    places, weights = [], []
    for number in range(8):
        step = np.array([number >> 2 & 1, number >> 1 & 1, number & 1])
        r, g, b = (low + step).T
        places.append((r * size + g) * size + b)
        weights.append(np.where(step, above, 1 - above).prod(-1))
    return places, weights


def nodes(size: int) -> np.ndarray:
    """Return the colours in (size³, 3) of a table's entries, in their order."""
    axis = np.linspace(0, 1, size)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def cube(table: np.ndarray, title: str, remarks: tuple[str, ...] = ()) -> bytes:
    """Return the text of a .cube file (Adobe, Cube LUT Specification 1.0): red runs fastest."""
    name = title.replace('"', "'").encode("ascii", "replace").decode()
    head = [f'TITLE "{name}"', *(f"# {line}" for line in remarks), f"LUT_3D_SIZE {len(table)}"]
    head += ["DOMAIN_MIN 0.0 0.0 0.0", "DOMAIN_MAX 1.0 1.0 1.0"]
    rows = table.transpose(2, 1, 0, 3).reshape(-1, 3)
    return "\n".join([*head, *(f"{r:.6f} {g:.6f} {b:.6f}" for r, g, b in rows.tolist()), ""]).encode()


def hald(table: np.ndarray) -> np.ndarray:
    """Return the pixels (L³, L³, 3) uint16 of a HaldCLUT of level L, from a table of L² steps: red runs fastest."""
    side = round(len(table) ** 1.5)
    pixels: np.ndarray = np.rint(np.clip(table, 0, 1) * 65535).astype(np.uint16)
    return pixels.transpose(2, 1, 0, 3).reshape(side, side, 3)
