"""The error of a RAW as a photographer sees it: true and made RAW are edited alike, developed, and compared.

A network may err where the camera's own picture is nearly white or black. The PSNR of the RAW hides such errors, and an
edit of exposure or white balance shows them. The pipeline is fixed and linear up to its tone curve
(docs/evaluation.md has the formulas):

superpixels → white balance × the edit → clip at 1 → colour matrix → clip to [0, 1] → sRGB encoding → tone curve
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from paramisp_cli import color, mosaic
from paramisp_cli.types import CanonicalParams

_SAMPLES = 250_000
"""Most 2×2 sites that are developed. A larger RAW is sampled on a grid: its error is a mean over the frame."""


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit of a RAW.

    gains     factors of the white-balanced R, G, B
    contrast  strength k of the tone curve y + k·y(1 − y)(2y − 1) on sRGB-encoded values: 0 none, 1 the steepest
    """

    name: str
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 0.5


def _exposed(name: str, stops: float) -> Edit:
    return Edit(name, (2.0**stops,) * 3)


def _warmed(name: str, stops: float) -> Edit:
    return Edit(name, (2.0**stops, 1.0, 2.0**-stops))


EDITS = (
    Edit("as shot"),
    _exposed("+2 EV", 2),
    _exposed("+1 EV", 1),
    _exposed("−1 EV", -1),
    _warmed("warmer", 0.25),
    _warmed("cooler", -0.25),
    Edit("contrast", contrast=1.0),
)


@dataclass(frozen=True, slots=True)
class EditError:
    """The error after an edit: PSNR [dB] of sRGB pictures (infinite for equal ones), and mean ΔE2000."""

    edit: str
    psnr: float
    delta_e: float

    def record(self) -> dict[str, object]:
        """Return plain values for JSON, which has no infinity: it becomes None."""
        return asdict(self) | {"psnr": self.psnr if np.isfinite(self.psnr) else None}


def compare(made: np.ndarray, true: np.ndarray, canonical: CanonicalParams) -> tuple[EditError, ...]:
    """Compare two mosaics (H, W), black 0 and white 1, after every edit.

    White balance, CFA and colour matrix are those of ``canonical``, the true file's, for both.
    """
    step = max(int(np.ceil(np.sqrt(true.size / 4 / _SAMPLES))), 1)
    sampled = [mosaic.superpixels(mosaic.sites(raw, step), canonical.cfa) for raw in (made, true)]
    return tuple(_error(edit, *(developed(camera, edit, canonical) for camera in sampled)) for edit in EDITS)


def developed(camera: np.ndarray, edit: Edit, canonical: CanonicalParams) -> np.ndarray:
    """Develop camera RGB (…, 3), black 0 and white 1, with an edit → encoded sRGB in [0, 1]."""
    balanced = np.minimum(camera * (canonical.wb_gains * edit.gains), 1)
    linear = np.clip(balanced @ canonical.cam_to_srgb().T, 0, 1)
    y = color.srgb_encode(linear)
    curved: np.ndarray = y + edit.contrast * y * (1 - y) * (2 * y - 1)
    return curved


def _error(edit: Edit, made: np.ndarray, true: np.ndarray) -> EditError:
    squares = float(np.mean((made - true) ** 2))
    lab = [color.srgb_to_lab(color.srgb_decode(picture)) for picture in (made, true)]
    psnr = -10 * np.log10(squares) if squares else np.inf
    return EditError(edit.name, float(psnr), float(np.mean(color.ciede2000(*lab))))
