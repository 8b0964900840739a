"""Optical parameters as inputs of a network: one value becomes 15 numbers (Kim et al., CVPR 2024, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Constants that turn one optical value v into 15 numbers (paper, section 3.1 and figure 3b; values of the published
# weights): (hi, lo) scale the powers of v, (p, q) its logarithm, c divides v inside the sines and cosines.
EQUALISATION: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float, float]]] = {
    "focal_length": ((200, 4.2), (1.9, 5.8), (50, 30, 20)),  # mm
    "f_number": ((32, 1.7), (0.7, 4.3), (11, 5, 2)),
    "exposure_time": ((30, 1 / 28800), (-15, 20), (11, 5, 2)),  # s
    "iso": ((8000, 64), (6, 7), (3100, 1300, 500)),
}


def equalise(name: str, value: Tensor) -> Tensor:
    """Equalise values of an optical parameter non-linearly: (N,), > 0, in its unit → (N, 15).

    With u = v/hi and w = v/lo: u, √u, u^¼, 1/w, 1/√w, w^−¼, (log2 v − p)/q, sin and cos of log2 v, v/c1, v/c2, v/c3.
    """
    import torch  # lazily: the ONNX graph needs the numbers without it

    (hi, lo), (p, q), c = EQUALISATION[name]
    u, w, log = value / hi, value / lo, value.log2()
    powers = [u, u.sqrt(), u**0.25, 1 / w, w**-0.5, w**-0.25]
    waves = [f(angle) for angle in (log, *(value / ci for ci in c)) for f in (torch.sin, torch.cos)]
    return torch.stack([*powers, (log - p) / q, *waves], dim=1)
