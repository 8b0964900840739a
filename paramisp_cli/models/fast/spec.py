"""Facts of ``fast`` that the PyTorch network and the ONNX graph share; no PyTorch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paramisp_cli.directions import Direction, Kind
from paramisp_cli.models.geometry import Geometry
from paramisp_cli.models.optics import EQUALISATION
from paramisp_cli.rendition import form

GEOMETRY = Geometry(multiple=8, halo=64, smallest=8)
THUMBNAIL = 16
"""Sides of the thumbnail."""
STEERING = 32
"""Numbers that steer the network."""
FLOOR = 1e-4
"""Light added under a square root, whose slope at 0 is infinite."""
MOST_ADJUSTED = 0.7
"""Largest log gain by which the steering changes the rendition: one stop."""
TABLE = 2048
"""Intervals of a curve's table."""
GRID = 9
"""Points a side of the table of trust."""


@dataclass(frozen=True, slots=True)
class Config:
    """Arguments of the model, as the header of a checkpoint holds them; ``network.Fast`` explains them.

    Raises ValueError for a value out of range.
    """

    direction: Direction
    widths: Sequence[int] = (16, 32, 64)
    optical_dropout: float = 0.2
    lens_shading: Sequence[Sequence[float]] | None = None
    full_white: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction", Direction(self.direction))
        object.__setattr__(self, "widths", tuple(self.widths))
        if len(self.widths) != 3 or min(self.widths) < 1:
            raise ValueError(f"widths must be three numbers of channels, got {self.widths}")
        if not 0 <= self.optical_dropout < 1:
            raise ValueError(f"optical_dropout must be in [0, 1), got {self.optical_dropout}")

    @property
    def macs(self) -> float:
        """Count the multiply-accumulates of the network's convolutions a pixel."""
        first, second, third = self.widths
        outputs = 4 if self.direction.output == Kind.RAW else 12
        blocks = 2 * 2 * 9 * (first**2 / 4 + second**2 / 16 + third**2 / 64)  # at 1/4, 1/16, 1/64 of the pixels
        between = 1.25 * (first * second / 4 + second * third / 16)  # 2×2 on the way down, 1×1 on the way up
        return blocks + between + 9 * first * (16 + outputs) / 4

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor of a checkpoint, by name."""
        shapes: dict[str, tuple[int, ...]] = {
            "rendition.vector": (form.SIZE,),
            "rendition.trusted": (GRID, GRID, GRID),
        }

        def layer(name: str, out: int, *weight: int) -> None:
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, (out,)

        first, second, third = self.widths
        outputs = 4 if self.direction.output == Kind.RAW else 12
        for name in EQUALISATION:
            layer(f"steering.optical.{name}", STEERING, STEERING, 15)
        layer("steering.balance", STEERING, STEERING, 2)
        layer("steering.look.0", 16, 16, 3, 3, 3)
        layer("steering.look.2", 32, 32, 16, 3, 3)
        layer("steering.statistics", STEERING, STEERING, 32 + 12)
        layer("steering.mlp.1", STEERING, STEERING, STEERING)
        layer("adjust", 3, 3, STEERING)
        layer("net.stem", first, first, 16, 3, 3)
        layer("net.down1", second, second, first, 2, 2)
        layer("net.down2", third, third, second, 2, 2)
        layer("net.up2", second, second, third, 1, 1)
        layer("net.up1", first, first, second, 1, 1)
        for number, width in enumerate((first, second, third, third, second, first)):
            for part in ("conv1", "conv2"):
                layer(f"net.blocks.{number}.{part}", width, width, width, 3, 3)
            layer(f"net.blocks.{number}.steer", 2 * width, 2 * width, STEERING)
        layer("net.tail", outputs, outputs, first, 3, 3)
        return shapes
