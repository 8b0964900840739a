"""The parametric ISP in numpy, for pictures on a CPU: the same numbers as ``models.parametric``, without torch.

After Brooks et al., "Unprocessing images for learned raw denoising" (CVPR 2019).
"""

from __future__ import annotations

import numpy as np

from paramisp_cli import color
from paramisp_cli.rendition.apply import interpolated
from paramisp_cli.types import CanonicalParams

INFLECTION = 0.9
"""Grey level from which the inverse gain bends towards 1, so that white stays white (Brooks et al., section 3.2)."""
_FINE = 1 << 18
"""Entries, even in light, of the table of 8-bit codes: neighbours differ by at most a seventieth of a code."""
_TABLE = 4096
"""Entries, even in the fourth root of light, of the table of finer values; between them it is straight."""


def smoothstep(x: np.ndarray) -> np.ndarray:
    """Return 3x² − 2x³ on [0, 1]: the tone curve of Brooks et al."""
    curved: np.ndarray = x * x * (3 - 2 * x)
    return curved


def inverse_smoothstep(y: np.ndarray) -> np.ndarray:
    """Return the x in [0, 1] with 3x² − 2x³ = y, for y in [0, 1]."""
    x: np.ndarray = 0.5 - np.sin(np.arcsin(np.clip(1 - 2 * y, -1, 1)) / 3)
    return x


def tone_curve() -> np.ndarray:
    """Return smoothstep, which acts on sRGB-encoded values, as a curve of linear light: (129, 2), finer near 0."""
    encoded = np.linspace(0, 1, 129)
    curve = np.stack([color.srgb_decode(encoded), color.srgb_decode(smoothstep(encoded))], -1)
    curve[-1] = 1
    return curve


class ParametricRender:
    """Camera RGB → sRGB: gains, clipping, colour matrix, transfer function, tone curve. A stage of ``develop``."""

    balanced = False
    shaded = False

    def __init__(self, canonical: CanonicalParams, digital_gain: float = 1.0) -> None:
        """Prepare the render; ``digital_gain`` multiplies linear light, before the clipping."""
        self._gains = (canonical.wb_gains * digital_gain).astype(np.float32)[:, None]
        self._matrix = canonical.cam_to_srgb().astype(np.float32)
        light = np.linspace(0, 1, _FINE)
        self._codes = np.rint(255 * _shown(light)).astype(np.uint8)
        self._table = _shown(np.linspace(0, 1, _TABLE) ** 4).astype(np.float32)
        self._step = np.diff(self._table, append=self._table[-1:])

    def codes(self, pixels: np.ndarray, rho: np.ndarray | None, dtype: type[np.generic]) -> np.ndarray:
        """Map (3, n) float32 camera RGB, which it overwrites, to (3, n) sRGB of ``dtype``; see ``develop``."""
        pixels *= self._gains
        np.clip(pixels, 0, 1, out=pixels)
        light = self._matrix @ pixels
        np.clip(light, 0, 1, out=light)
        if dtype == np.uint8:
            light *= np.float32(_FINE - 1)
            light += np.float32(0.5)
            codes: np.ndarray = self._codes.take(light.astype(np.intp), mode="clip")
            return codes
        np.sqrt(light, out=light)
        np.sqrt(light, out=light)
        light *= np.float32(_TABLE - 1)
        shown = interpolated(self._table, self._step, light, pixels)
        if dtype == np.uint16:
            shown *= np.float32(65535)
            np.rint(shown, out=shown)
        return shown.astype(dtype, copy=False)


class ParametricLinear:
    """Camera RGB → linear sRGB: the first stages of ``ParametricRender``. A stage of ``develop``, for float32 alone.

    Balanced values are clipped to [0, 1], where green clips, so that a blown highlight is white and not magenta. The
    result is not clipped: the matrix takes camera colours out of sRGB, and the gain takes highlights above 1.
    """

    balanced = False
    shaded = False

    def __init__(self, canonical: CanonicalParams, digital_gain: float = 1.0) -> None:
        """Prepare the stage; ``digital_gain`` multiplies linear light, after the clipping."""
        self._gains = canonical.wb_gains.astype(np.float32)[:, None]
        self._matrix = (canonical.cam_to_srgb() * digital_gain).astype(np.float32)

    def codes(self, pixels: np.ndarray, rho: np.ndarray | None, dtype: type[np.generic]) -> np.ndarray:
        """Map (3, n) float32 camera RGB, which it overwrites, to (3, n) linear sRGB; see ``develop``."""
        if dtype != np.float32:
            raise ValueError(f"linear light is float32, not {dtype}")
        pixels *= self._gains
        np.clip(pixels, 0, 1, out=pixels)
        light: np.ndarray = self._matrix @ pixels
        return light


class ParametricUnprocess:
    """SRGB → camera RGB: the inverse of each stage, and gains that keep white white. A stage of ``expose``."""

    shaded = False

    def __init__(self, canonical: CanonicalParams, digital_gain: float = 1.0) -> None:
        """Prepare the stage; ``digital_gain`` divides linear light."""
        self._digital_gain = digital_gain
        inverse = np.linalg.inv(canonical.cam_to_srgb())
        self._rows = [np.stack([row, inverse.mean(0)]).astype(np.float32) for row in inverse]
        """Colour and grey (2, 3) of linear sRGB, for each camera channel."""
        self._inverse = (1 / canonical.wb_gains).astype(np.float32)
        self._tables: dict[np.dtype[np.generic], np.ndarray] = {}

    def light(self, sites: np.ndarray, channel: int, rho: np.ndarray | None) -> np.ndarray:
        """Map sRGB (rows, columns, 3), uint8, uint16 or float32, to a channel's linear values (n,) in [0, 1]."""
        linear = self._linear(np.moveaxis(sites, -1, 0)).reshape(3, -1)
        camera, grey = self._rows[channel] @ linear
        inverse = self._inverse[channel]
        if inverse < 1:
            grey -= np.float32(INFLECTION)
            grey *= np.float32(1 / (1 - INFLECTION))
            np.maximum(grey, 0, out=grey)
            np.multiply(grey, grey, out=grey)
            grey *= 1 - inverse
            grey += inverse
            camera *= grey
        else:  # never below the inverse gain
            camera *= inverse
        clipped: np.ndarray = np.clip(camera, 0, 1, out=camera)
        return clipped

    def _linear(self, codes: np.ndarray) -> np.ndarray:
        """Return linear light before tone curve and digital gain; whole numbers go through a table."""
        if codes.dtype == np.float32:
            return self._inverted(np.clip(codes, 0, 1))
        if codes.dtype not in self._tables:
            top = np.iinfo(codes.dtype).max
            self._tables[codes.dtype] = self._inverted(np.arange(top + 1) / top).astype(np.float32)
        linear: np.ndarray = self._tables[codes.dtype].take(codes)
        return linear

    def _inverted(self, srgb: np.ndarray) -> np.ndarray:
        linear: np.ndarray = color.srgb_decode(inverse_smoothstep(srgb)) / self._digital_gain
        return linear.astype(srgb.dtype, copy=False)


def _shown(light: np.ndarray) -> np.ndarray:
    """Return sRGB-encoded light through the tone curve."""
    return smoothstep(np.clip(color.srgb_encode(light), 0, 1))
