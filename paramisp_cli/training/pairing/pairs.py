"""Pairs of RAW and camera JPEG: found in folders, aligned, checked, and stored as a data set.

The folder of the data set also gets ``contact_sheet.jpg``, for the user's eye.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from paramisp_cli import formats, isp, white_balance
from paramisp_cli.errors import ParamispError
from paramisp_cli.training.dataset import (
    INDEX,
    Pair,
    Region,
    arrays_path,
    locked,
    read_index,
    write_arrays,
    write_index,
)  # fmt: skip
from paramisp_cli.training.pairing import align, contact_sheet, find, overlay
from paramisp_cli.training.pairing.overlay import Overlay
from paramisp_cli.types import CanonicalParams, RawImage, SrgbImage

_SAME_SHOT = 0.3
"""Correlation of the edges from which a JPEG and a RAW are taken to show the same."""
_REDUCED_BLACK, _REDUCED_WHITE = 4096, 64096
"""Levels of a mosaic that was averaged down: room below black for noise, and finer steps than those of the sensor."""


def make(places: Sequence[Path | str], dataset: Path | str) -> Generator[Pair, None, None]:
    """Examine every RAW file among files and below folders, store it with its JPEG, and yield the result of each.

    A file that an earlier run examined, and that has not changed, is not examined again. The data set is locked until
    the end. Raises ConfigError if another process works in it, InputMissingError, FileAccessError.
    """
    dataset = Path(dataset)
    with locked(dataset):
        known = {pair.source_hash: pair for pair in read_index(dataset)} if (dataset / INDEX).exists() else {}
        pairs = {pair.name: pair for pair in known.values()}
        rows = []
        for path in find.raws(places):
            source = find.fingerprint(path)
            pair = known.get(source)
            if pair is None or (pair.status != "refused" and not arrays_path(dataset, pair.name).exists()):
                try:
                    pair = _examined(path, dataset)
                except ParamispError as error:
                    pair = _refused(path, "", str(error).removeprefix(f"{path}: "))
                pair = replace(pair, source_hash=source)
            pairs[pair.name] = pair
            write_index(dataset, pairs.values())
            if pair.status != "refused":
                rows.append(contact_sheet.row(dataset, pair))
            yield pair
        if rows:
            contact_sheet.write(dataset, rows)


def _refused(path: Path, jpeg: str, reason: str) -> Pair:
    return Pair(find.pair_name(path), str(path), jpeg, "refused", reason)


def _examined(path: Path, dataset: Path) -> Pair:
    """Find the JPEG of a RAW file, align the two, and store their arrays."""
    raw = formats.read(path)
    if not isinstance(raw, RawImage):
        return _refused(path, "", "is a picture, not a RAW file")
    if raw.model is not None:
        return _refused(path, "", "was made by paramisp: no camera's RAW")
    if raw.linear is not None:
        return _refused(path, "", "has three colours a pixel: no sensor's mosaic")
    found = find.camera_jpeg(path, raw)
    if found is None:
        return _refused(path, "", "no camera JPEG inside or beside it")
    picture, jpeg = found
    if jpeg == find.EMBEDDED and "jpeg" in raw.origin:
        return _refused(path, jpeg, f"its JPEG is not the camera's: {raw.origin['jpeg']}")
    raw = white_balance.balanced(raw)
    if picture.pixels.dtype != np.uint8:
        picture = replace(picture, pixels=(picture.pixels / 257).round().astype(np.uint8))
    laid = overlay.best(raw, picture)
    if laid is None:
        return _refused(path, jpeg, f"the JPEG ({picture.size[1]}×{picture.size[0]}) has another shape than the RAW")
    pair = Pair(find.pair_name(path), str(path), jpeg, "pair", "", raw.camera, raw.optical)
    pair = replace(pair, orientation=picture.orientation, score=round(float(laid.score), 3))
    return (_store_full if laid.step == 1 else _store_reduced)(pair, laid, picture, dataset)


def _doubt(pair: Pair, fit: align.Fit | None) -> str | None:
    """Return a reason to refuse a pair that cannot be aligned, or does not show the same; None if it can be used.

    A JPEG of faint texture, or one whose distortion was corrected, may match badly as a whole and well in its windows.
    """
    if fit is None:
        return "too little texture to find the place of the JPEG"
    if pair.score < _SAME_SHOT and fit.count < 12:
        return f"the JPEG does not look like this RAW (correlation {pair.score:.2f}, {fit.count} windows alike)"
    return None


def _store_full(pair: Pair, laid: Overlay, picture: SrgbImage, dataset: Path) -> Pair:
    """Store a JPEG of the size of the RAW: with one offset if one fits the frame, otherwise window by window."""
    luma, green = overlay.luma(picture), overlay.green(laid.linear, laid.raw.canonical.cfa)
    windows = align.windows(luma, green, laid.dy, laid.dx)
    fit = align.fit(windows)
    if doubt := _doubt(pair, fit):
        return replace(pair, status="refused", reason=doubt)
    assert fit is not None
    if fit.agree >= 0.9 and fit.worst < 2:
        dy, dx = round(fit.dy), round(fit.dx)
        height, width = luma.shape
        top, left = max(-dy, 0), max(-dx, 0)
        bottom = min(height, laid.linear.shape[0] - dy)
        right = min(width, laid.linear.shape[1] - dx)
        height, width = (bottom - top) // 2 * 2, (right - left) // 2 * 2
        mosaic = laid.raw.mosaic[top + dy : top + dy + height, left + dx : left + dx + width]
        write_arrays(dataset, pair.name, mosaic, picture.pixels[top : top + height, left : left + width])
        drift = f", drifting by up to {fit.worst:.1f} px over the frame" if fit.worst > 0.5 else ", constant"
        return replace(
            pair,
            reason=f"offset ({dy}, {dx}){drift} ({fit.count} windows)",
            canonical=laid.raw.canonical.shifted(top + dy, left + dx),
            offset=(round(fit.dy, 2), round(fit.dx, 2)),
            regions=(Region(0, 0, height, width),),
            size=(height, width),
        )
    regions = _steady_regions(luma, green, windows)
    distortion = f"lens-corrected in the camera: up to {fit.worst:.0f} px off"
    if len(regions) < 8:
        return replace(pair, status="refused", reason=f"{distortion}, and too few windows are aligned in themselves")
    write_arrays(dataset, pair.name, laid.raw.mosaic, picture.pixels)
    return replace(
        pair,
        reason=f"{distortion}; {len(regions)} windows with offsets of their own are used",
        canonical=laid.raw.canonical,
        regions=tuple(regions),
        size=luma.shape,
    )


def _steady_regions(luma: np.ndarray, green: np.ndarray, windows: list[align.Window]) -> list[Region]:
    """Return the windows whose four quarters have the offset of the window, to three quarters of a pixel."""
    one, other = align.detail(luma), align.detail(green)
    steady = []
    for window in windows:
        half = window.size // 2
        quarters = [
            align.measure(one, other, (window.top + y, window.left + x), window.dy, window.dx, 4, half)
            for y in (0, half)
            for x in (0, half)
        ]
        dy, dx = round(window.dy), round(window.dx)
        if all(q is not None and max(abs(q.dy - dy), abs(q.dx - dx)) <= 0.75 for q in quarters):
            steady.append(Region(window.top, window.left, window.size, window.size, dy, dx))
    return steady


def _store_reduced(pair: Pair, laid: Overlay, picture: SrgbImage, dataset: Path) -> Pair:
    """Store a JPEG smaller than the RAW, with the RAW averaged down to its scale."""
    luma = overlay.luma(picture)
    height, width = luma.shape
    geometry = (laid.dy, laid.dx, laid.step, laid.step)
    fit = None
    for _ in range(3):  # refine offset and scale by the offsets that remain
        green = overlay.toned(overlay.averaged(laid, (height, width), geometry)[..., 1])
        windows = align.windows(luma, green, 0, 0, reach=16, size=96 if min(luma.shape) < 800 else 128)
        fit = align.fit(windows)
        if doubt := _doubt(pair, fit):
            return replace(pair, status="refused", reason=doubt)
        assert fit is not None
        if fit.agree >= 0.9 and fit.worst < 0.4:
            break
        geometry = align.refined(geometry, windows)
    assert fit is not None
    if fit.agree < 0.8:
        return replace(pair, status="refused", reason=f"the JPEG is warped: up to {fit.worst:.1f} of its pixels off")
    linear = overlay.averaged(laid, (height // 2 * 2, width // 2 * 2), geometry)
    height, width = linear.shape[:2]
    rgb = torch.from_numpy(linear.transpose(2, 0, 1).copy())[None]
    values = isp.mosaic(rgb, "RGGB")[0, 0].numpy() * (_REDUCED_WHITE - _REDUCED_BLACK) + _REDUCED_BLACK
    mosaic = values.round().clip(0, 65535).astype(np.uint16)
    write_arrays(dataset, pair.name, mosaic, picture.pixels[:height, :width])
    c = laid.raw.canonical
    return replace(
        pair,
        status="reduced",
        reason=f"JPEG at 1:{geometry[2]:.2f}, left over {fit.worst:.1f} px at most ({fit.count} windows)",
        canonical=CanonicalParams("RGGB", np.array(_REDUCED_BLACK), _REDUCED_WHITE, c.as_shot_neutral, c.color_matrix),
        offset=(round(float(geometry[0]), 2), round(float(geometry[1]), 2)),
        reduction=round(float(geometry[2]), 4),
        regions=(Region(0, 0, height, width),),
        size=(height, width),
    )
