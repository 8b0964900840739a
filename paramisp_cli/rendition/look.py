"""The camera's own look: a rendition fitted to the preview of a RAW file, and looks pooled over a camera's files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paramisp_cli.directions import Direction
from paramisp_cli.errors import ParamispError
from paramisp_cli.formats import raster
from paramisp_cli.rendition.apply import applied
from paramisp_cli.rendition.fit import Cells, Fitted, cells, fit
from paramisp_cli.rendition.preview import Aligned, Misfit, align
from paramisp_cli.rendition.prior import Prior, shipped
from paramisp_cli.types import RawImage

EVIDENCE = 3000.0
"""Pixels that a preview is worth: it shows all that the fit is used for, so the prior only fills gaps."""
_UNLIKE = 0.08
"""Root-mean-square error, of encoded values, from which a preview is no rendering of the RAW alone."""
_EXPLAINED = 0.8
"""Least share of the preview's variance that a rendition explains."""


@dataclass(frozen=True, slots=True)
class LookReport:
    """Findings of ``camera_look``: size (height, width) of the preview, 0 without one; matched windows,
    and the share of them that lie within a pixel; error of the fit (root mean square, encoded) and share of the
    preview's variance that it explains. ``reason`` tells why there is no look; it is empty if there is one.
    """  # fmt: skip

    reason: str = ""
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    windows: int = 0
    agree: float = 0.0
    error: float = 0.0
    explained: float = 0.0


def camera_look(raw: RawImage) -> tuple[Fitted | None, LookReport]:
    """Fit a rendition to the preview of the RAW: the JPEG beside it (``raw.metadata.jpeg_beside``), else inside it.

    Returns (fitted, report). Without a usable preview the first is None, and the report tells the reason: no preview,
    another program's, too small, of another shape, not alike, or of colours that no rendition of this RAW gives (an
    edited picture). A bad preview is no error.
    """
    try:
        aligned = aligned_preview(raw)
    except Misfit as misfit:
        return None, LookReport(str(misfit))
    return fit_aligned(raw, aligned)


def aligned_preview(raw: RawImage) -> Aligned:
    """Lay the preview of a RAW on its pixels; raises Misfit, whose text is the reason, if that cannot be done."""
    if raw.metadata.jpeg_beside is not None:
        try:
            return _aligned(raw, raw.metadata.jpeg_beside)
        except Misfit as misfit:
            raise Misfit(str(misfit).replace("its preview", _shown(raw))) from misfit
    if raw.metadata.jpeg is None:
        raise Misfit("the RAW file holds no preview by the camera")
    if "jpeg" in raw.origin:
        raise Misfit(f"its preview is not the camera's: {raw.origin['jpeg']}")
    return _aligned(raw, raw.metadata.jpeg)


def _shown(raw: RawImage) -> str:
    """Return a name for the preview in use."""
    return "its preview" if raw.metadata.jpeg_beside is None else raw.origin.get("look", "the JPEG beside it")


def _aligned(raw: RawImage, jpeg: bytes) -> Aligned:
    try:
        preview = raster.read_bytes(jpeg, Path(raw.metadata.source_name or "preview")).pixels
    except ParamispError as error:
        raise Misfit(f"its preview cannot be read: {error}") from error
    if preview.dtype != np.uint8:
        preview = (preview / 257).astype(np.uint8)
    return align(raw, preview)


def fit_aligned(raw: RawImage, aligned: Aligned, prior: Prior | None = None) -> tuple[Fitted | None, LookReport]:
    """Fit the look to aligned pixels → (fitted, report), as ``camera_look``. ``prior``: over all cameras by default."""
    name = raw.camera.name if raw.camera else ""
    gathered = cells_of(raw, aligned, Direction.RENDER)
    fitted = fit([gathered], prior or shipped(Direction.RENDER), evidence=EVIDENCE, strict=False, camera=name)
    camera_rgb, srgb, weight, rho = _chosen(aligned)
    share = weight / weight.sum()
    off = applied(fitted.rendition, camera_rgb[None], rho[None])[0] - srgb
    error = float(np.sqrt((share @ off**2).mean()))
    spread = float((share @ (srgb - share @ srgb) ** 2).mean())
    explained = 1 - error**2 / max(spread, 1e-9)
    reason = ""
    if error > _UNLIKE or explained < _EXPLAINED:
        reason = f"no rendition of the RAW gives {_shown(raw)} (error {error:.3f}, {explained:.0%} explained): edited?"
    report = LookReport(
        reason, aligned.size, aligned.orientation, aligned.windows, round(aligned.agree, 3), round(error, 5),
        round(explained, 4),
    )  # fmt: skip
    return None if reason else fitted, report


def cells_of(raw: RawImage, aligned: Aligned, direction: Direction) -> Cells:
    """Gather the colours of aligned pixels for a fit of either direction."""
    camera_rgb, srgb, weight, rho = _chosen(aligned)
    matrix, gains = raw.canonical.cam_to_srgb(), raw.canonical.wb_gains
    return cells(direction, camera_rgb, srgb, matrix, gains, weights=weight, rho=rho)


def inverse_look(raws: Iterable[RawImage]) -> tuple[Fitted, tuple[str, ...]]:
    """Fit sRGB → camera RGB to the previews of RAW files of one camera → (fitted, reasons why files were left out).

    Raises Misfit if no preview can be used.
    """
    gathered, reasons = [], []
    for raw in raws:
        try:
            gathered.append(cells_of(raw, aligned_preview(raw), Direction.UNPROCESS))
        except Misfit as misfit:
            reasons.append(f"{raw.metadata.source_name}: {misfit}")
    if not gathered:
        raise Misfit("; ".join(reasons) or "no RAW file")
    return fit(gathered, shipped(Direction.UNPROCESS)), tuple(reasons)


def _chosen(aligned: Aligned) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return camera RGB, sRGB, weight and ρ of the pixels that count."""
    chosen = aligned.weight > 0
    return aligned.camera_rgb[chosen], aligned.srgb[chosen], aligned.weight[chosen], aligned.rho[chosen]
