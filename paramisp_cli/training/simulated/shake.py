"""Camera shake: a sharp view, and the same view through a camera that turns while its shutter is open.

A camera that only turns sees a still scene through homographies, so views of a panorama, or of a photograph taken for a
plane at infinity, give exact shake: it differs from place to place by roll and perspective, and lamps leave streaks.
There is no motion of objects, no parallax, no defocus and no rolling shutter.

The blurred view is the mean, in linear light, of views along a smooth random path. The sharp one is the view at the
path's point nearest the path's mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paramisp_cli.training.simulated import scenes

FINE = 2
"""Samples to a pixel, across and down, of the picture that is turned."""
_PREVIEW = 4
"""Reduction of a view for the measure of its texture."""
_FEWEST, _MOST = 9, 65
"""Fewest and most views of a path."""
_POINTS = np.array([(x, y, 1.0) for y in (-0.5, 0, 0.5) for x in (-0.5, 0, 0.5)])
"""Points of a picture of unit size at which its blur is measured: corners, middles of the sides, centre."""
_ROLL = 0.5
"""Size of the roll beside yaw and pitch, in pixels at the edge of the frame."""
BRIGHTEST = 30.0
"""Largest light, in units of the sensor's clip: a bare lamp would outshine everything within its streak."""


@dataclass(frozen=True, slots=True)
class Shake:
    """The turns of a camera during an exposure.

    angles  (N, 3) yaw, pitch, roll [radians] of each view
    focal   focal length [px]
    size    (H, W) of the picture [px]
    """

    angles: np.ndarray
    focal: float
    size: tuple[int, int]

    @property
    def nearest(self) -> int:
        """Return the number of the view nearest the mean of the path."""
        return int(np.argmin(np.linalg.norm(self._places() - self._places().mean(0), axis=-1).mean(1)))

    @property
    def length(self) -> float:
        """Return the blur [px]: the largest distance between two places of a point, mean of nine points."""
        return float(np.mean([_widest(track) for track in self._places().transpose(1, 0, 2)]))

    @property
    def reach(self) -> int:
        """Return how far [px] views reach beyond the picture of no turn."""
        corner = self._places() - (_POINTS[:, :2] * (self.size[1], self.size[0]))
        return int(np.ceil(np.abs(corner).max())) + 2

    def _places(self) -> np.ndarray:
        """Return the place [px] (N, 9, 2) of each of the nine points, in each view."""
        points = _POINTS * (self.size[1], self.size[0], self.focal)
        turned = np.einsum("nij,pj->npi", np.stack([rotation(*angles) for angles in self.angles]), points)
        places: np.ndarray = turned[..., :2] / turned[..., 2:] * self.focal
        return places


def _widest(track: np.ndarray) -> float:
    """Return the largest distance between two of (N, 2) places."""
    return float(np.linalg.norm(track[:, None] - track[None], axis=-1).max())


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return the matrix (3, 3) of a turn [radians]: first roll about z, then pitch about x, then yaw about y."""
    (cy, cp, cr), (sy, sp, sr) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    turn: np.ndarray = about_y @ about_x @ about_z
    return turn


def draw(length: float, focal: float, size: tuple[int, int], rng: np.random.Generator) -> Shake:
    """Draw a shake whose blur is ``length`` px: a random walk of the speed of the three angles, smoothed.

    The views are at most about half a pixel apart, as far as ``_MOST`` of them reach.
    """
    count = int(np.clip(2 * np.ceil(length) + 1, _FEWEST, _MOST))
    speed = np.cumsum(rng.standard_normal((count, 3)) * rng.uniform(0.02, 0.6), 0) + rng.standard_normal(3)
    walk = np.cumsum(speed, 0)
    walk -= walk.mean(0)
    # A turn of 1/focal moves the middle by a pixel, and a roll of 2/width moves the edge by one.
    unit = walk / np.abs(walk).max() * np.array([1 / focal, 1 / focal, _ROLL * 2 / size[1]])
    for scale in (1.0, 1.0):  # angles are small: the blur grows with them in proportion
        unit = unit * scale * length / max(Shake(unit, focal, size).length, 1e-9)
    return Shake(unit, focal, size)


def blurred_and_sharp(still: Tensor, shake: Shake) -> tuple[Tensor, Tensor]:
    """Return the blurred and the sharp view (3, H, W) of a picture of linear light.

    ``still`` (3, FINE·(H + 2·reach), FINE·(W + 2·reach)) has ``FINE`` samples to a pixel.
    """
    total: Tensor | None = None
    sharp = still
    for number, angles in enumerate(shake.angles):
        view = _turned(still, shake, rotation(*angles))
        total = view if total is None else total.add_(view)
        if number == shake.nearest:
            sharp = view.clone()
    assert total is not None
    return tuple(F.avg_pool2d(each[None], FINE)[0] for each in (total / len(shake.angles), sharp))  # type: ignore[return-value]


def _turned(still: Tensor, shake: Shake, turn: np.ndarray) -> Tensor:
    """Return the view of a turned camera, ``FINE`` samples to a pixel: (3, FINE·H, FINE·W)."""
    height, width = (FINE * side for side in shake.size)
    focal = FINE * shake.focal
    x = torch.arange(width, dtype=torch.float32) + (0.5 - width / 2)
    y = (torch.arange(height, dtype=torch.float32) + (0.5 - height / 2))[:, None]
    m = turn * np.array([[1, 1, focal]]) / np.array([[1], [1], [focal]])  # on pixels
    depth = float(m[2, 0]) * x + float(m[2, 1]) * y + float(m[2, 2])
    column = (float(m[0, 0]) * x + float(m[0, 1]) * y + float(m[0, 2])) / depth
    row = (float(m[1, 0]) * x + float(m[1, 1]) * y + float(m[1, 2])) / depth
    grid = torch.stack([column / (still.shape[2] / 2), row / (still.shape[1] / 2)], -1)
    return F.grid_sample(still[None], grid[None], padding_mode="border", align_corners=False)[0]


def still_of(scene: scenes.Scene, shake: Shake, rng: np.random.Generator, *, tries: int = 1) -> Tensor:
    """Take a random picture for ``blurred_and_sharp``: a view of a panorama, or a crop of a photograph.

    It is the first of ``tries`` random ones with some texture, or the last: plain walls teach little. Raises ValueError
    for a photograph that is too small.
    """
    size = tuple(side + 2 * shake.reach for side in shake.size)
    for number in range(tries):
        look = rotation(rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(-35, 35)), rng.normal(0, 0.03))
        if not scene.panorama:
            still = crop_of(scene.radiance, (size[0], size[1]), rng)
            if number == tries - 1 or scenes.is_textured(still):
                break
        elif number == tries - 1 or scenes.is_textured(
            scenes.seen(scene, (size[0] // _PREVIEW, size[1] // _PREVIEW), shake.focal / _PREVIEW, look)
        ):
            still = scenes.seen(scene, (FINE * size[0], FINE * size[1]), FINE * shake.focal, look)
            break
    return still


def crop_of(light: Tensor, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Cut a random crop of a photograph (3, H, W), reduced by up to two, with ``FINE`` samples to a pixel."""
    room = min(light.shape[1] / size[0], light.shape[2] / size[1])
    if room < 1:
        raise ValueError(f"a photograph of {light.shape[2]}×{light.shape[1]} px holds no {size[1]}×{size[0]}")
    by = min(rng.uniform(1, 2), room)
    spans = [int(side * by) for side in size]
    top, left = (int(rng.integers(light.shape[1 + i] - spans[i] + 1)) for i in (0, 1))
    piece = light[None, :, top : top + spans[0], left : left + spans[1]]
    fine = (FINE * size[0], FINE * size[1])
    return F.interpolate(piece, size=fine, mode="bicubic", antialias=True, align_corners=False)[0].clamp(min=0)
