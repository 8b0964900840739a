"""Layouts of RAW tensors: mosaic and packed; cuts, turns and mirror images that do not change the CFA."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paramisp_cli.errors import ConfigError
from paramisp_cli.types import CFA_PATTERNS

MOSAIC, PACKED = "mosaic", "packed"
CHANNELS = {MOSAIC: 1, PACKED: 4}


def planes(cfa: str) -> list[int]:
    """Return the sites of a CFA's 2×2, row-major, in the order R, Gr, Gb, B."""
    red = cfa.index("R")
    return [red, red ^ 1, red ^ 2, red ^ 3]


def pack(mosaic: Tensor, cfa: str = "RGGB") -> Tensor:
    """Take a mosaic (N, 1, H, W) apart: (N, 4, H/2, W/2), R, Gr, Gb, B. Raises ConfigError for another shape."""
    if mosaic.ndim != 4 or mosaic.shape[1] != 1 or mosaic.shape[2] % 2 or mosaic.shape[3] % 2:
        raise ConfigError(f"a mosaic must be (N, 1, H, W) with even H and W, got {tuple(mosaic.shape)}")
    return F.pixel_unshuffle(mosaic, 2)[:, planes(known(cfa))]


def unpack(packed: Tensor, cfa: str = "RGGB") -> Tensor:
    """Put the planes R, Gr, Gb, B (N, 4, h, w) together to a mosaic (N, 1, 2h, 2w)."""
    if packed.ndim != 4 or packed.shape[1] != 4:
        raise ConfigError(f"a packed RAW must be (N, 4, H, W), got {tuple(packed.shape)}")
    return F.pixel_shuffle(packed[:, np.argsort(planes(known(cfa))).tolist()], 2)


def known(cfa: str) -> str:
    """Return the CFA; ConfigError unless it is one of the four."""
    if cfa not in CFA_PATTERNS:
        raise ConfigError(f"cfa must be one of {', '.join(CFA_PATTERNS)}, got {cfa!r}")
    return cfa


def layout_of(layout: str) -> str:
    """Return the layout; ConfigError unless it is "mosaic" or "packed"."""
    if layout not in CHANNELS:
        raise ConfigError(f"layout must be {' or '.join(CHANNELS)}, got {layout!r}")
    return layout


def augment(
    *raws: Tensor,
    size: int | None = None,
    cfa: str = "RGGB",
    turns: bool = True,
    flips: bool = True,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    """Cut, turn and flip RAWs of one batch at random, all alike, and return them with the same CFA.

    A turned mosaic has another CFA at its corner; two more rows and columns are cut off to restore the CFA.

    raws   (N, 1, H, W) or (N, 4, H/2, W/2): noisy, clean, variance …
    size   side of the square to cut out, in samples of the mosaic, even; None: all of the largest square
    turns, flips  whether to turn by quarters, and to mirror

    Raises ConfigError for RAWs of different sizes, and for a size that does not fit.
    """
    mosaics = [unpack(raw, cfa) if raw.shape[1] == 4 else raw for raw in raws]
    if not mosaics or len({tuple(mosaic.shape[2:]) for mosaic in mosaics}) != 1:
        raise ConfigError(f"augment takes RAWs of one size, got {[tuple(raw.shape) for raw in raws]}")
    height, width = mosaics[0].shape[2:]
    side = min(height, width) // 2 * 2 - 2 if size is None else size
    if side < 2 or side % 2 or side + 2 > min(height, width):
        raise ConfigError(f"size must be even, from 2 to {min(height, width) // 2 * 2 - 2}, got {side}")

    def pick(count: int) -> int:
        device = generator.device if generator is not None else "cpu"
        return int(torch.randint(count, (), generator=generator, device=device))

    top, left = 2 * pick((height - side) // 2), 2 * pick((width - side) // 2)
    quarter, mirror = pick(4) if turns else 0, bool(pick(2)) if flips else False
    results = []
    for raw, mosaic in zip(raws, mosaics, strict=True):
        moved = _moved(mosaic[..., top : top + side + 2, left : left + side + 2], quarter, mirror=mirror)
        pattern = _moved(torch.tensor([ord(letter) for letter in known(cfa)]).view(1, 1, 2, 2), quarter, mirror=mirror)
        down, right = _shift([chr(code) for code in pattern.flatten().tolist()], cfa)
        cut = moved[..., down : down + side, right : right + side]
        results.append(pack(cut, cfa) if raw.shape[1] == 4 else cut.contiguous())
    return tuple(results)


def _moved(x: Tensor, quarter: int, *, mirror: bool) -> Tensor:
    x = torch.rot90(x, quarter, (-2, -1))
    return x.flip(-1) if mirror else x


def _shift(pattern: Sequence[str], cfa: str) -> tuple[int, int]:
    """Return the rows and columns to cut off, so that a CFA with this 2×2 begins with ``cfa``."""
    for down in (0, 1):
        for right in (0, 1):
            if "".join(pattern[2 * ((y + down) % 2) + (x + right) % 2] for y in (0, 1) for x in (0, 1)) == cfa:
                return down, right
    raise AssertionError(pattern)
