"""The camera's own look: a rendition fitted to the preview that a RAW file carries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paramisp_cli.errors import ParamispError
from paramisp_cli.formats import raster
from paramisp_cli.rendition.apply import applied
from paramisp_cli.rendition.fit import Fitted, cells, fit
from paramisp_cli.rendition.preview import Aligned, Misfit, align
from paramisp_cli.rendition.prior import shipped
from paramisp_cli.types import Direction, RawImage

EVIDENCE = 3000.0
"""Pixels that a preview is worth: it shows all that the fit is used for, so the prior only fills gaps."""
_UNLIKE = 0.08
"""Root-mean-square error, of encoded values, from which a preview is no rendering of the RAW alone."""
_EXPLAINED = 0.8
"""Least share of the preview's variance that a rendition explains."""


@dataclass(frozen=True, slots=True)
class LookReport:
    """Findings of ``camera_look``: size (height, width) of the preview, 0 without one; parts that were found again,
    and the share of them that lie within a pixel; error of the fit (root mean square, encoded) and share of the
    preview's variance that it explains. ``reason`` says in words why there is no look; it is empty if there is one.
    """  # fmt: skip

    reason: str = ""
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    windows: int = 0
    agree: float = 0.0
    error: float = 0.0
    explained: float = 0.0


def camera_look(raw: RawImage) -> tuple[Fitted | None, LookReport]:
    """Fit a rendition to the preview inside the RAW (``raw.metadata.jpeg``): (fitted, report).

    None, and the report says why: no preview, another program's, too small, of another shape, not alike, or of colours
    that no rendition of this RAW gives (an edited picture). Nothing is raised for a bad preview.
    """
    if raw.metadata.jpeg is None:
        return None, LookReport("the RAW file holds no preview by the camera")
    if "jpeg" in raw.origin:
        return None, LookReport(f"its preview is not the camera's: {raw.origin['jpeg']}")
    try:
        preview = raster.read_bytes(raw.metadata.jpeg, Path(raw.metadata.source_name or "preview")).pixels
    except ParamispError as reason:
        return None, LookReport(f"its preview cannot be read: {reason}")
    if preview.dtype != np.uint8:
        preview = (preview / 257).astype(np.uint8)
    size = preview.shape[0], preview.shape[1]
    try:
        aligned = align(raw, preview)
    except Misfit as misfit:
        return None, LookReport(str(misfit), size)
    fitted, error, explained = fit_aligned(raw, aligned)
    report = LookReport("", size, aligned.orientation, aligned.windows, round(aligned.agree, 3), error, explained)
    if error > _UNLIKE or explained < _EXPLAINED:
        doubt = f"no rendition of the RAW gives its preview (error {error:.3f}, {explained:.0%} explained): edited?"
        return None, LookReport(doubt, *(getattr(report, name) for name in LookReport.__slots__[1:]))
    return fitted, report


def fit_aligned(raw: RawImage, aligned: Aligned) -> tuple[Fitted, float, float]:
    """Fit to aligned pixels: (fitted, root-mean-square error, share of the preview's variance explained)."""
    chosen = aligned.weight > 0
    camera_rgb, srgb = aligned.camera_rgb[chosen], aligned.srgb[chosen]
    weight, rho = aligned.weight[chosen], aligned.rho[chosen]
    gathered = cells(
        Direction.RENDER, camera_rgb, srgb, raw.canonical.cam_to_srgb(), raw.canonical.wb_gains,
        weights=weight, rho=rho,
    )  # fmt: skip
    name = raw.camera.name if raw.camera else ""
    fitted = fit([gathered], shipped(Direction.RENDER), evidence=EVIDENCE, strict=False, camera=name)
    share = weight / weight.sum()
    off = applied(fitted.rendition, camera_rgb[None], rho[None])[0] - srgb
    error = float(np.sqrt((share @ off**2).mean()))
    spread = float((share @ (srgb - share @ srgb) ** 2).mean())
    return fitted, round(error, 5), round(1 - error**2 / max(spread, 1e-9), 4)
