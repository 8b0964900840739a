"""A JPEG that carries its RAW: any program shows it, and `paramisp unprocess` gives the RAW back.

``keep`` puts a RAW into the JPEG that was rendered from it, ``find`` returns facts of it, ``restore`` the RAW. The
format is described in `docs/raw-in-jpeg.md`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace

import numpy as np

from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import raster_read, tiles
from paramisp_cli.formats.kept import codec, container, levels
from paramisp_cli.formats.kept import record as records
from paramisp_cli.formats.kept.record import Record
from paramisp_cli.formats.pixels import apply_orientation
from paramisp_cli.types import RawImage

__all__ = ["KeptRaw", "check", "find", "keep", "lost", "restore", "turned_back", "without"]

NEAR, NEAR_BITS = (0.5, 0.7, 1.0), 2.5
"""Largest errors of ``near`` in units of the noise's standard deviation; ``near`` takes the first that needs at most
``NEAR_BITS`` bits a sample.

The last is just below 1: ``levels.bounds`` rounds down. Small pictures may take as many bytes as a megapixel.
"""
_COARSEST = 64.0
_UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1_000_000, "KIB": 1 << 10, "MIB": 1 << 20}


@dataclass(frozen=True, slots=True)
class KeptRaw:
    """Facts of a carried RAW: ``kind`` "lossless", "near" or "size", bits for each of its pixels, largest error.

    ``share`` is the error in units of the noise's standard deviation, which ``noise_origin`` gives; ``bound`` in raw
    units, (least, greatest) over all values. ``raw`` is the RAW without its samples.
    """

    kind: str
    bits: float
    share: float
    noise_origin: str
    bound: tuple[int, int]
    raw: RawImage = field(repr=False, compare=False)

    def __str__(self) -> str:
        """Return the facts in one line."""
        text = f"{self.kind}, {self.bits:.2f} bits a sample"
        if not self.share:
            return f"{text}, exact"
        low, high = self.bound
        return f"{text}, error at most {low} to {high} raw units ({self.share:.2g} of the noise: {self.noise_origin})"


def check(how: str) -> int | None:
    """Return the bytes of a size ("2MB"), None for "lossless" and "near"; ConfigError for anything else."""
    if how in ("lossless", "near"):
        return None
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([kKmM]?[iI]?[bB]?)", how)
    unit = found[2].upper() if found else ""
    unit = unit if unit in _UNITS or not unit else unit.rstrip("B") + "B"
    if found is None or unit not in _UNITS or float(found[1]) <= 0:
        raise ConfigError(f"`keep_raw` takes lossless, near, or a size such as 2MB, not {how}")
    return int(float(found[1]) * _UNITS[unit])


def keep(jpeg: bytes, raw: RawImage, how: str = "lossless") -> bytes:
    """Return the JPEG with the RAW in it, whose crop it shows upright, pixel by pixel.

    how  "lossless": bit for bit; "near": each sample within the noise's standard deviation, or within 0.5 or 0.7 of it
         if 2.5 bits a sample suffice; a size such as "2MB": with the least error at which the whole file is no larger

    Raises FormatError for a RAW or a JPEG that do not fit each other, or a size that is too small.
    """
    size = check(how)
    if raw.linear is not None:
        raise FormatError("a JPEG carries a mosaic, and this RAW has three colours a pixel; leave out `keep_raw`")
    if raw.mosaic.dtype != np.uint16:
        raise FormatError("only a RAW with whole numbers can be carried by a JPEG")
    pixels = raster_read.decode_ycc(jpeg)
    shown = _laid_on(pixels, raw)
    if how == "lossless":
        return _kept(jpeg, raw, how, pixels, shown, 0.0)
    if size is not None:
        return _fitted(jpeg, raw, pixels, shown, size)
    *finer, last = NEAR
    room = NEAR_BITS * max(raw.mosaic.size, 1 << 20) / 8
    sampled = len(_sampled_rows(raw)) < len(raw.mosaic)
    for share in finer:
        if not sampled or _estimate(raw, shown, share) <= room:  # an estimate from all rows takes as long as coding
            whole = _kept(jpeg, raw, how, pixels, shown, share)
            if len(whole) - len(jpeg) <= room:
                return whole
    return _kept(jpeg, raw, how, pixels, shown, last)


def find(jpeg: bytes) -> KeptRaw | None:
    """Return the facts of the RAW that a JPEG carries, None without one; FormatError if it cannot be given back."""
    trailer = container.find(jpeg)
    if trailer is None:
        return None
    record = records.unpack(trailer.record)
    bits = 8 * (trailer.end - trailer.begin) / (record.size[0] * record.size[1])
    reach = [_reach(record, site) for site in range(4)] if record.noise is not None else [np.zeros(1)]
    bound = int(min(r.min() for r in reach)), int(max(r.max() for r in reach))
    return KeptRaw(record.kind, bits, record.share, record.noise_origin, bound, record.raw)


def lost(jpeg: bytes) -> bool:
    """Tell whether a JPEG had a RAW in it that another program removed."""
    return container.lost(jpeg)


def without(jpeg: bytes) -> bytes:
    """Return a JPEG without any RAW in it, damaged ones included."""
    return container.plain(jpeg)


def restore(jpeg: bytes) -> RawImage:
    """Return the RAW that a JPEG carries; FormatError with the reason if there is none, or if it cannot be given back.

    ``metadata.jpeg`` is the JPEG without the RAW, if its pixels lie as the mosaic's. EXIF and XMP are the JPEG's own:
    the RAW has none.
    """
    trailer = container.find(jpeg)
    if trailer is None:
        raise FormatError("carries no RAW")
    record = records.unpack(trailer.record)
    pixels = raster_read.decode_ycc(jpeg)
    if hashlib.sha256(np.ascontiguousarray(pixels).data).digest() != record.pixels:
        raise FormatError(
            "this Pillow decodes the picture to other pixels than when it got its RAW; "
            "install Pillow from the package index (with libjpeg-turbo)"
        )
    tops = [len(values) - 1 for values in record.values]
    planes = codec.decode(trailer.body, _laid_on(pixels, record.raw), record.raw.canonical.cfa, tops)
    mosaic = np.empty(record.size, np.uint16)
    for site, (plane, values) in enumerate(zip(planes, record.values, strict=True)):
        mosaic[site // 2 :: 2, site % 2 :: 2] = values.astype(np.uint16)[plane]
    if tiles.digest(mosaic) != record.mosaic:
        raise FormatError("the RAW inside is damaged: its samples' digest differs")
    raw = record.raw
    preview = container.plain(jpeg) if raw.orientation == 1 else None
    return replace(raw, mosaic=mosaic, metadata=replace(raw.metadata, jpeg=preview))


def turned_back(pixels: np.ndarray, raw: RawImage) -> np.ndarray:
    """Turn the pixels of a carrying JPEG, which are upright as stored, as the mosaic of its RAW lies: a view."""
    back = {6: 8, 8: 6}.get(raw.orientation, raw.orientation)
    return apply_orientation(pixels, back)


def _laid_on(pixels: np.ndarray, raw: RawImage) -> np.ndarray:
    """Turn the JPEG's pixels as the mosaic lies, and repeat its edges around the crop."""
    shown, crop, (height, width) = turned_back(pixels, raw), raw.crop, raw.mosaic.shape
    assert crop is not None
    if shown.shape[:2] != (crop.height, crop.width):
        raise FormatError(
            f"the picture has {shown.shape[1]}×{shown.shape[0]} pixels, its RAW {crop.width}×{crop.height}"
        )
    beyond = (crop.top, height - crop.top - crop.height), (crop.left, width - crop.left - crop.width), (0, 0)
    return np.pad(shown, beyond, mode="edge")


def _planes(mosaic: np.ndarray) -> list[np.ndarray]:
    return [mosaic[site // 2 :: 2, site % 2 :: 2] for site in range(4)]


def _values(raw: RawImage, share: float, noise: np.ndarray | None) -> list[np.ndarray]:
    """Return the lists of values of the four planes for an error of ``share``; 0 is lossless."""
    planes = _planes(raw.mosaic)
    if not share or noise is None:
        return [levels.exact(plane) for plane in planes]
    bounds = levels.bounds(raw.canonical, noise, share)
    return [levels.cells(plane, bound, raw.canonical.white_level) for plane, bound in zip(planes, bounds, strict=True)]


def _reach(record: Record, site: int) -> np.ndarray:
    """Return the largest error (n,) of each listed value of a site."""
    assert record.noise is not None
    bound = levels.bounds(record.raw.canonical, record.noise, record.share)[site]
    reach: np.ndarray = np.floor(bound)[record.values[site]]
    return reach


def _encoded(raw: RawImage, shown: np.ndarray, values: list[np.ndarray]) -> bytes:
    indices = [
        levels.indices(plane, each, raw.canonical.white_level)
        for plane, each in zip(_planes(raw.mosaic), values, strict=True)
    ]
    return codec.encode(indices, shown, raw.canonical.cfa, [len(each) - 1 for each in values])


def _kept(jpeg: bytes, raw: RawImage, kind: str, pixels: np.ndarray, shown: np.ndarray, share: float) -> bytes:
    """Return the JPEG with the RAW in it, with errors of ``share``."""
    noise, origin = levels.noise(raw) if share else (None, "")
    values = _values(raw, share, noise)
    body = _encoded(raw, shown, values)
    mosaic = np.empty_like(raw.mosaic)
    for site, (plane, each) in enumerate(zip(_planes(raw.mosaic), values, strict=True)):
        mosaic[site // 2 :: 2, site % 2 :: 2] = each.astype(np.uint16)[
            levels.indices(plane, each, raw.canonical.white_level)
        ]
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data).digest()
    record = Record(raw, raw.mosaic.shape, kind, share, noise, origin, values, digest, tiles.digest(mosaic))
    error = "exact" if not share else f"error at most {share:.2g} of the noise"
    about = f"{kind}, {error}, in {len(body)} bytes after the picture; `paramisp unprocess` gives it back"
    packed = records.pack(record)
    try:
        records.unpack(packed)
    except FormatError as error:
        raise FormatError(f"a JPEG cannot carry this RAW: {error.__cause__}; leave out `keep_raw`") from error
    return container.attach(jpeg, packed, body, about)


_BANDS, _HEIGHT = 8, 64
_ROOM_OF_VALUES = 2000
"""Bytes that lists of values may take."""
_SURE = 1.03
"""An estimate beyond this many times the room is too large: estimates from bands are wrong by less."""


def _sampled_rows(raw: RawImage) -> np.ndarray:
    """Return the rows of an estimate: a few bands, or all of a small mosaic."""
    rows = np.arange(len(raw.mosaic))
    if len(rows) <= 4 * _BANDS * _HEIGHT:
        return rows
    starts = np.linspace(0, len(rows) - _HEIGHT, _BANDS).astype(int) // 2 * 2
    return np.concatenate([np.arange(start, start + _HEIGHT) for start in starts])


def _estimate(raw: RawImage, shown: np.ndarray, share: float) -> float:
    """Estimate the bytes of a RAW coded with errors of ``share``, from bands of the mosaic."""
    rows = _sampled_rows(raw)
    part = replace(raw, mosaic=np.ascontiguousarray(raw.mosaic[rows]), crop=None)
    noise = levels.noise(raw)[0] if share else None
    body = _encoded(part, shown[rows], _values(part, share, noise))
    model = codec.model_bytes(body)
    return model + (len(body) - model) * len(raw.mosaic) / len(rows)


def _fitted(jpeg: bytes, raw: RawImage, pixels: np.ndarray, shown: np.ndarray, size: int) -> bytes:
    """Return the JPEG with the RAW in it, in at most ``size`` bytes: search for the least error.

    The search runs on estimates; then the whole is coded, and coarser until it fits.
    """
    if size <= len(jpeg):
        raise FormatError(f"its RAW does not fit into {size} bytes: the picture alone takes {len(jpeg)}")
    room = size - len(jpeg) - len(records.pack(_record_without_values(raw))) - _ROOM_OF_VALUES
    if _estimate(raw, shown, 0.0) <= _SURE * (size - len(jpeg)):
        whole = _kept(jpeg, raw, "size", pixels, shown, 0.0)
        if len(whole) <= size:
            return whole
    low, high = -6.0, float(np.log2(_COARSEST))  # log2 of the share
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (low, middle) if _estimate(raw, shown, 2.0**middle) <= room else (middle, high)
    share = 2.0**high
    while True:
        whole = _kept(jpeg, raw, "size", pixels, shown, share)
        if len(whole) <= size:
            return whole
        if share >= _COARSEST:
            raise FormatError(f"its RAW does not fit into {size} bytes beside the picture: {len(whole)} are needed")
        share = min(share * 2 ** (8 * (len(whole) - size) / raw.mosaic.size + 0.03), _COARSEST)


def _record_without_values(raw: RawImage) -> Record:
    return Record(raw, raw.mosaic.shape, "size", 1.0, None, "", [np.arange(1)] * 4, bytes(32), bytes(16))
