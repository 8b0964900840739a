"""RAW training data from batches of pictures, as torch modules: unprocess, add noise, render, cut and turn.

    from paramisp_cli.torch import Synthesize
    make = Synthesize(cameras=["Nikon D90", "Canon EOS 60D"], iso=(100, 6400))
    batch = make(pictures)         # (N, 3, H, W) uint8, or float in [0, 1]
    batch["noisy"], batch["clean"], batch["variance"]   # (N, 4, H/2, W/2): R, Gr, Gb, B

RAW is linear, black 0, white 1, not white-balanced. A "mosaic" is (N, 1, H, W); "packed" is (N, 4, H/2, W/2) with the
planes R, Gr (green in red's rows), Gb, B for every CFA. All modules run on any device, in the workers of a
DataLoader and under ``torch.compile``. Random numbers come from a ``torch.Generator`` on the pixels' device, or from
torch's own.
"""

from __future__ import annotations

from paramisp_cli.torch.layouts import augment, pack, unpack
from paramisp_cli.torch.modules import Made, Render, Synthesize, Unprocess
from paramisp_cli.torch.noise import AddNoise, Noisy
from paramisp_cli.torch.shots import Shots, chosen

__all__ = [
    "AddNoise",
    "Made",
    "Noisy",
    "Render",
    "Shots",
    "Synthesize",
    "Unprocess",
    "augment",
    "chosen",
    "pack",
    "unpack",
]
