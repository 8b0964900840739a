"""Aligned pairs of RAW and camera JPEG, found in folders, checked, and stored as a data set (``dataset``).

Beside the data set's own files the folder gets ``contact_sheet.jpg`` to look at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from paramisp_cli import formats, isp
from paramisp_cli.errors import FileAccessError, InputMissingError, ParamispError
from paramisp_cli.formats import raster
from paramisp_cli.training import align, folder
from paramisp_cli.training.dataset import (
    INDEX,
    SIMULATED,
    Pair,
    Region,
    read_arrays,
    read_index,
    write_arrays,
    write_index,
)
from paramisp_cli.types import CanonicalParams, RawImage, SrgbImage

__all__ = ["INDEX", "SIMULATED", "Pair", "Region", "find_raws", "make", "read_arrays", "read_index"]

_EMBEDDED = "embedded"
_JPEG_SUFFIXES = (".jpg", ".jpeg")
_INVERSE_ORIENTATION = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
_SAME_SHOT = 0.3
"""Correlation of the edges from which a JPEG and a RAW are believed to show the same."""
_REDUCED_BLACK, _REDUCED_WHITE = 4096, 64096
"""Levels of a mosaic that was averaged down: room below black for noise, and finer steps than the sensor's."""


def find_raws(folders: Sequence[Path | str]) -> list[Path]:
    """Find every RAW file below the folders (or the files themselves), sorted, each once."""
    found: dict[Path, None] = {}
    for place in map(Path, folders):
        if not place.exists():
            raise InputMissingError(f"{place}: no such file or folder")
        below = sorted(place.rglob("*")) if place.is_dir() else [place]
        found |= dict.fromkeys(p for p in below if p.is_file() and p.suffix.lower() in formats.RAW_SUFFIXES)
    if not found:
        raise InputMissingError(f"{', '.join(map(str, folders))}: no RAW file below")
    return list(found)


def make(folders: Sequence[Path | str], dataset: Path | str) -> Iterator[Pair]:
    """Look at every RAW file below ``folders`` and store what pairs with its JPEG; yields each file's result.

    A file that an earlier run has done, and that has not changed since, is not done again. The data set is locked until
    the end. Raises ConfigError if another process works in it, InputMissingError, FileAccessError.
    """
    dataset = Path(dataset)
    held = folder.hold(dataset, "choose another -o")
    try:
        yield from _made(folders, dataset)
    except OSError as error:
        raise FileAccessError(f"{error.filename or dataset}: {error.strerror or error}") from error
    finally:
        held.release()


def _made(folders: Sequence[Path | str], dataset: Path) -> Iterator[Pair]:
    known = {pair.source_hash: pair for pair in read_index(dataset)} if (dataset / INDEX).exists() else {}
    pairs = {pair.name: pair for pair in known.values()}
    thumbnails = []
    for path in find_raws(folders):
        stamp = _stamp(path)
        pair = known.get(stamp)
        if pair is None or (pair.status != "refused" and not (dataset / f"{pair.name}.npz").exists()):
            try:
                pair = replace(_make_one(path, dataset), source_hash=stamp)
            except ParamispError as error:
                pair = _refused(path, "", str(error).removeprefix(f"{path}: "), stamp)
        pairs[pair.name] = pair
        write_index(dataset, pairs.values())
        if pair.status != "refused":
            thumbnails.append(_thumbnails(dataset, pair))
        yield pair
    if thumbnails:
        width = max(t.shape[1] for t in thumbnails)
        sheet = np.concatenate([np.pad(t, ((4, 4), (0, width - t.shape[1]), (0, 0))) for t in thumbnails])
        path = dataset / "contact_sheet.jpg"
        formats.write(SrgbImage(sheet), path, overwrite=True)


def _stamp(path: Path) -> str:
    """What tells a file from a changed one without reading it all."""
    state = path.stat()
    return hashlib.sha256(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]


def _refused(path: Path, jpeg: str, reason: str, stamp: str = "") -> Pair:
    return Pair(_name(path), str(path), jpeg, "refused", reason, source_hash=stamp)


def _name(path: Path) -> str:
    """A file name for the pair, unique by folder."""
    return f"{path.stem}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]}"


def _find_jpeg(path: Path, raw: RawImage) -> tuple[SrgbImage, str] | None:
    """The camera's JPEG with the most pixels: a sibling of the same stem, or the one inside the RAW."""
    choices = []
    for sibling in sorted(path.parent.iterdir()):
        if sibling.stem == path.stem and sibling.suffix.lower() in _JPEG_SUFFIXES:
            picture = formats.read(sibling)
            if isinstance(picture, SrgbImage):
                choices.append((picture, sibling.name))
    if raw.metadata.jpeg is not None:
        with suppress(ParamispError):  # a preview of a kind of its own; a sibling may do
            choices.append((raster.read_bytes(raw.metadata.jpeg, path), _EMBEDDED))
    if not choices:
        return None
    return max(choices, key=lambda choice: choice[0].pixels.size)


def _turned(raw: RawImage, orientations: Sequence[int]) -> RawImage:
    """The RAW with its mosaic turned by the orientations, one after the other; CFA and black levels turn with it."""
    mosaic, canonical = raw.mosaic, raw.canonical
    cfa, black = np.array(list(canonical.cfa)).reshape(2, 2), canonical.black_level
    for orientation in orientations:
        mosaic, cfa, black = (raster.apply_orientation(x, orientation) for x in (mosaic, cfa, black))
    turned = replace(canonical, cfa="".join(cfa.ravel().tolist()), black_level=black)
    return replace(raw, mosaic=np.ascontiguousarray(mosaic), canonical=turned, crop=None)


def _linear(raw: RawImage) -> np.ndarray:
    """(H, W) float32 mosaic, black 0, white 1."""
    c = raw.canonical
    black = np.tile(c.black_level, (raw.mosaic.shape[0] // 2, raw.mosaic.shape[1] // 2)).astype(np.float32)
    return (raw.mosaic - black) / np.float32(c.white_level - c.black_level.mean())


def _green(linear: np.ndarray, cfa: str) -> np.ndarray:
    """(H, W) green at every pixel, with about the tone of a picture."""
    green = isp.demosaic(torch.from_numpy(linear)[None, None], cfa)[0, 1].numpy()
    toned: np.ndarray = np.clip(green, 0, None) ** np.float32(1 / 2.2)
    return toned


@dataclass(frozen=True, slots=True)
class _Laid:
    """A RAW turned into the JPEG's frame: JPEG pixel (y, x) has its corner at RAW (y·step + dy, x·step + dx)."""

    raw: RawImage
    linear: np.ndarray
    step: float
    dy: float
    dx: float
    score: float


def _lay(raw: RawImage, picture: SrgbImage, turn: Sequence[int]) -> _Laid | None:
    """Turn the RAW and find the JPEG in it, to about a pixel of the JPEG; None if the shapes do not go together."""
    assert raw.crop is not None
    turned = _turned(raw, turn)
    shown = (raw.crop.height, raw.crop.width)
    high, wide = shown[::-1] if turned.mosaic.shape != raw.mosaic.shape else shown
    luma = _luma(picture)
    by_height, by_width = high / luma.shape[0], wide / luma.shape[1]
    if abs(by_height / by_width - 1) > 0.03 or by_width < 0.97:
        return None
    step = 1.0 if by_width < 1.06 else by_width  # margins, not scale: no camera reduces by so little
    linear = _linear(turned)
    green = _green(linear, turned.canonical.cfa)
    if step > 1:
        shape = (int(green.shape[0] / step), int(green.shape[1] / step))
        green = _box(shape[0], 0, step, 0, 1, green.shape[0], 1) @ green
        green = green @ _box(shape[1], 0, step, 0, 1, green.shape[1], 1).T
    dy, dx, score = align.coarse(luma, green)
    return _Laid(turned, linear, step, dy * step, dx * step, score)


def _luma(picture: SrgbImage) -> np.ndarray:
    return picture.pixels[..., 1].astype(np.float32) / 255


def _box(count: int, start: float, step: float, first: int, stride: int, sites: int, width: float) -> np.ndarray:
    """(count, sites) weights that average samples over [start + i·step, start + (i + 1)·step).

    Sample j is spread over ``width`` px around the middle of pixel first + j·stride. Rows sum to 1.
    """
    low = start + step * np.arange(count)[:, None]
    middle = first + stride * np.arange(sites)[None] + 0.5
    overlap = np.minimum(low + step, middle + width / 2) - np.maximum(low, middle - width / 2)
    weights = np.clip(overlap, 0, None).astype(np.float32)
    rows: np.ndarray = weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)
    return rows


def _averaged(laid: _Laid, shape: tuple[int, int], geometry: align.Geometry) -> np.ndarray:
    """(h, w, 3) linear camera RGB at the JPEG's scale: same-colour sites averaged over each of its pixels.

    ``geometry``: RAW position of the JPEG's corner (y, x) and RAW pixels a JPEG pixel (y, x).
    """
    y0, x0, ky, kx = geometry
    out = np.zeros((*shape, 3), np.float32)
    spread = 1.0 if min(ky, kx) >= 3 else 2.0  # below 3 px a pixel may hold no site of a colour: widen the sites
    cfa = laid.raw.canonical.cfa
    for row in (0, 1):
        for column in (0, 1):
            plane = laid.linear[row::2, column::2]
            rows = _box(shape[0], y0, ky, row, 2, plane.shape[0], spread)
            columns = _box(shape[1], x0, kx, column, 2, plane.shape[1], spread)
            color = "RGB".index(cfa[2 * row + column])
            out[..., color] += (rows @ plane @ columns.T) * (0.5 if color == 1 else 1)
    return out


def _make_one(path: Path, dataset: Path) -> Pair:
    raw = formats.read(path)
    if not isinstance(raw, RawImage):
        return _refused(path, "", "is a picture, not a RAW file")
    if raw.model is not None:
        return _refused(path, "", "was made by paramisp: no camera's RAW")
    found = _find_jpeg(path, raw)
    if found is None:
        return _refused(path, "", "no camera JPEG inside or beside it")
    picture, jpeg = found
    if jpeg == _EMBEDDED and "jpeg" in raw.origin:
        return _refused(path, jpeg, f"its JPEG is not the camera's: {raw.origin['jpeg']}")
    if picture.pixels.dtype != np.uint8:
        picture = replace(picture, pixels=(picture.pixels / 257).round().astype(np.uint8))
    # EXIF's word first; embedded JPEGs often lie as the sensor does and say nothing.
    turns = dict.fromkeys([(raw.orientation, _INVERSE_ORIENTATION[picture.orientation]), (1, 1), (raw.orientation, 1)])
    laid = [lay for turn in turns if (lay := _lay(raw, picture, turn)) is not None]
    if not laid:
        return _refused(path, jpeg, f"the JPEG ({picture.size[1]}×{picture.size[0]}) has another shape than the RAW")
    best = max(laid, key=lambda lay: lay.score)
    name = _name(path)
    base = Pair(
        name, str(path), jpeg, "pair", "", camera=raw.camera, optical=raw.optical, orientation=picture.orientation,
        score=round(float(best.score), 3),
    )  # fmt: skip
    store = _store_full if best.step == 1 else _store_reduced
    return store(base, best, picture, dataset)


def _doubt(base: Pair, fit: align.Fit | None) -> str | None:
    """Why the two cannot be laid over each other, or do not show the same; None if they do.

    A JPEG of faint texture, or one whose distortion was corrected, may match badly as a whole and well in its windows.
    """
    if fit is None:
        return "too little texture to find where the JPEG lies"
    if base.score < _SAME_SHOT and fit.count < 12:
        return f"the JPEG does not look like this RAW (correlation {base.score:.2f}, {fit.count} windows alike)"
    return None


def _store_full(base: Pair, laid: _Laid, picture: SrgbImage, dataset: Path) -> Pair:
    luma, green = _luma(picture), _green(laid.linear, laid.raw.canonical.cfa)
    found = align.windows(luma, green, laid.dy, laid.dx)
    fit = align.fit(found)
    if doubt := _doubt(base, fit):
        return replace(base, status="refused", reason=doubt)
    assert fit is not None
    if fit.agree >= 0.9 and fit.worst < 2:
        dy, dx = round(fit.dy), round(fit.dx)
        height, width = luma.shape
        top, left = max(-dy, 0), max(-dx, 0)
        bottom = min(height, laid.linear.shape[0] - dy)
        right = min(width, laid.linear.shape[1] - dx)
        height, width = (bottom - top) // 2 * 2, (right - left) // 2 * 2
        mosaic = laid.raw.mosaic[top + dy : top + dy + height, left + dx : left + dx + width]
        write_arrays(dataset, base.name, mosaic, picture.pixels[top : top + height, left : left + width])
        drift = f", drifting by up to {fit.worst:.1f} px over the frame" if fit.worst > 0.5 else ", constant"
        return replace(
            base,
            reason=f"offset ({dy}, {dx}){drift} ({fit.count} windows)",
            canonical=laid.raw.canonical.shifted(top + dy, left + dx),
            offset=(round(fit.dy, 2), round(fit.dx, 2)),
            regions=(Region(0, 0, height, width),),
            size=(height, width),
        )
    regions = _steady_regions(luma, green, found)
    said = f"lens-corrected in the camera: up to {fit.worst:.0f} px off"
    if len(regions) < 8:
        return replace(base, status="refused", reason=f"{said}, and too few parts of it are aligned in themselves")
    write_arrays(dataset, base.name, laid.raw.mosaic, picture.pixels)
    return replace(
        base,
        reason=f"{said}; {len(regions)} windows with offsets of their own are used",
        canonical=laid.raw.canonical,
        regions=tuple(regions),
        size=luma.shape,
    )


def _steady_regions(luma: np.ndarray, green: np.ndarray, found: list[align.Window]) -> list[Region]:
    """Windows whose four quarters lie within half a pixel of the window's own offset."""
    one, other = align.detail(luma), align.detail(green)
    steady = []
    for window in found:
        half = window.size // 2
        quarters = [
            align.measure(one, other, (window.top + y, window.left + x), window.dy, window.dx, 4, half)
            for y in (0, half)
            for x in (0, half)
        ]
        dy, dx = round(window.dy), round(window.dx)
        near = [q is not None and max(abs(q.dy - dy), abs(q.dx - dx)) <= 0.75 for q in quarters]
        if all(near):
            steady.append(Region(window.top, window.left, window.size, window.size, dy, dx))
    return steady


def _store_reduced(base: Pair, laid: _Laid, picture: SrgbImage, dataset: Path) -> Pair:
    luma = _luma(picture)
    height, width = luma.shape
    geometry = (laid.dy, laid.dx, laid.step, laid.step)
    fit = None
    for _ in range(3):  # offset and scale, refined on what the last round left over
        green = np.clip(_averaged(laid, (height, width), geometry)[..., 1], 0, None) ** np.float32(1 / 2.2)
        found = align.windows(luma, green, 0, 0, reach=16, size=96 if min(luma.shape) < 800 else 128)
        fit = align.fit(found)
        if doubt := _doubt(base, fit):
            return replace(base, status="refused", reason=doubt)
        assert fit is not None
        if fit.agree >= 0.9 and fit.worst < 0.4:
            break
        geometry = align.refined(geometry, found)
    assert fit is not None
    if fit.agree < 0.8:
        return replace(base, status="refused", reason=f"the JPEG is warped: up to {fit.worst:.1f} of its pixels off")
    linear = _averaged(laid, (height // 2 * 2, width // 2 * 2), geometry)
    height, width = linear.shape[:2]
    rgb = torch.from_numpy(linear.transpose(2, 0, 1).copy())[None]
    values = isp.mosaic(rgb, "RGGB")[0, 0].numpy() * (_REDUCED_WHITE - _REDUCED_BLACK) + _REDUCED_BLACK
    mosaic = values.round().clip(0, 65535).astype(np.uint16)
    write_arrays(dataset, base.name, mosaic, picture.pixels[:height, :width])
    c = laid.raw.canonical
    return replace(
        base,
        status="reduced",
        reason=f"JPEG at 1:{geometry[2]:.2f}, left over {fit.worst:.1f} px at most ({fit.count} windows)",
        canonical=CanonicalParams("RGGB", np.array(_REDUCED_BLACK), _REDUCED_WHITE, c.as_shot_neutral, c.color_matrix),
        offset=(round(float(geometry[0]), 2), round(float(geometry[1]), 2)),
        reduction=round(float(geometry[2]), 4),
        regions=(Region(0, 0, height, width),),
        size=(height, width),
    )


def _thumbnails(dataset: Path, pair: Pair) -> np.ndarray:
    """A row of the contact sheet: the JPEG, the RAW rendered simply, and the two checkered, so that shifts show."""
    mosaic, srgb = read_arrays(dataset, pair)
    assert pair.canonical is not None
    region = pair.regions[0] if len(pair.regions) == 1 else Region(0, 0, *srgb.shape[:2])
    c = pair.canonical
    step = max(region.height // 480 * 2, 2)
    planes = np.zeros((3, region.height // step, region.width // step))
    for row in (0, 1):
        for column in (0, 1):
            sites = (mosaic[row::step, column::step] - c.black_level[row, column]) / (
                c.white_level - c.black_level[row, column]
            )
            color = "RGB".index(c.cfa[2 * row + column])
            planes[color] += sites[: planes.shape[1], : planes.shape[2]] * (0.5 if color == 1 else 1)
    camera = np.clip(planes.transpose(1, 2, 0) * c.wb_gains, 0, 1)
    camera *= 0.25 / max(float(np.median(camera)), 0.02)
    drawn = np.clip(np.clip(camera, 0, 1) @ c.cam_to_srgb().T, 0, 1) ** (1 / 2.2)
    ours = (drawn * 255).astype(np.uint8)
    theirs = srgb[::step, ::step][: ours.shape[0], : ours.shape[1]]
    ours = ours[: theirs.shape[0], : theirs.shape[1]]
    cells = (np.indices(ours.shape[:2]) // 24).sum(0) % 2
    both = np.where(cells[..., None] == 0, ours, theirs)
    return np.concatenate([theirs, ours, both], 1)
