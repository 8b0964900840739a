"""Values that modules exchange: frozen, checked on construction, numpy only.

``None`` always means *unknown*; 0 never does. Arrays inside are read-only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from paramisp_cli import color, mosaic
from paramisp_cli.errors import MetadataError

CFA_PATTERNS = ("RGGB", "GRBG", "GBRG", "BGGR")


class Notice(str):
    """A sentence about one file, for the user; ``summary`` is its form for several files, without a file's values."""

    __slots__ = ("summary",)
    summary: str

    def __new__(cls, text: str, summary: str) -> Notice:
        """Make a notice from both texts."""
        notice = super().__new__(cls, text)
        notice.summary = summary
        return notice

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """Return the arguments that copies and pickles are made with."""
        return str(self), self.summary


def _frozen(array: object, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return a read-only float64 copy of ``array`` broadcast to ``shape``; raises MetadataError if it does not fit."""
    try:
        copy = np.array(np.broadcast_to(np.asarray(array, np.float64), shape))
    except (TypeError, ValueError, OverflowError) as error:
        raise MetadataError(f"{name} must have shape {shape}: {error}") from error
    if not np.isfinite(copy).all():
        raise MetadataError(f"{name} has a value that is not finite: {copy.tolist()}")
    copy.setflags(write=False)
    return copy


def _read_only(array: np.ndarray) -> np.ndarray:
    """Return a read-only view, not a copy: the array may have 100 megapixels."""
    view = array.view()
    view.setflags(write=False)
    return view


@dataclass(frozen=True, slots=True)
class Camera:
    """Make and model as in the file's EXIF (tags 0x010F, 0x0110), stripped."""

    make: str
    model: str

    @property
    def name(self) -> str:
        """Make and model; the model alone if it begins with the make's first word."""
        first = self.make.split(" ")[0]
        repeats = first and self.model.lower().startswith(first.lower())
        return self.model if repeats or not self.make else f"{self.make} {self.model}".strip()


@dataclass(frozen=True, slots=True)
class OpticalParams:
    """The exposure of a shot: ISO speed, exposure time [s], f-number, focal length [mm]; each may be unknown."""

    iso: float | None = None
    exposure_time: float | None = None
    f_number: float | None = None
    focal_length: float | None = None

    def __post_init__(self) -> None:
        for name in ("iso", "exposure_time", "f_number", "focal_length"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise MetadataError(f"{name} must be a positive number, got {value}")


FALLBACK_OPTICAL = OpticalParams(iso=160, exposure_time=1 / 125, f_number=2.8, focal_length=80)
"""A network's input for values missing in the file: the defaults of the published code."""


@dataclass(frozen=True, slots=True)
class CanonicalParams:
    """The parameters that turn sensor values into colour.

    cfa             "RGGB", "GRBG", "GBRG" or "BGGR": colours of the mosaic's top-left 2×2, row-major
    black_level     (2, 2) in raw units, by position in the mosaic's 2×2 (scalars are broadcast)
    white_level     raw units; > every black level
    as_shot_neutral (3,) camera RGB of a neutral object, > 0; scale is free (DNG tag 50728)
    color_matrix    (3, 3) CIE XYZ → camera RGB, for D65 or the nearest known illuminant (DNG tag 50721/50722)
    """

    cfa: str
    black_level: np.ndarray
    white_level: float
    as_shot_neutral: np.ndarray
    color_matrix: np.ndarray

    def __post_init__(self) -> None:
        if self.cfa not in CFA_PATTERNS:
            raise MetadataError(f"cfa must be one of {', '.join(CFA_PATTERNS)}, got {self.cfa!r}")
        object.__setattr__(self, "black_level", _frozen(self.black_level, (2, 2), "black_level"))
        object.__setattr__(self, "as_shot_neutral", _frozen(self.as_shot_neutral, (3,), "as_shot_neutral"))
        object.__setattr__(self, "color_matrix", _frozen(self.color_matrix, (3, 3), "color_matrix"))
        if not (np.isfinite(self.white_level) and self.white_level > float(self.black_level.max())):
            raise MetadataError(f"white_level {self.white_level} must be above black_level {self.black_level.max()}")
        if self.as_shot_neutral.min() <= 0:
            raise MetadataError(f"as_shot_neutral must be positive, got {self.as_shot_neutral.tolist()}")
        if abs(np.linalg.det(self.color_matrix)) < 1e-6:
            raise MetadataError(f"color_matrix cannot be inverted: {self.color_matrix.tolist()}")

    @property
    def wb_gains(self) -> np.ndarray:
        """Multipliers (3,) that make a neutral object neutral, G = 1."""
        return color.wb_gains(self.as_shot_neutral)

    def cam_to_srgb(self, row_sum: float | None = None) -> np.ndarray:
        """Return (3, 3) white-balanced camera RGB → linear sRGB; see ``color.cam_to_srgb`` for its two rules."""
        return color.cam_to_srgb(self.color_matrix, row_sum)

    def shifted(self, rows: int, columns: int) -> CanonicalParams:
        """Return the parameters of the mosaic that begins ``rows`` and ``columns`` further in: CFA and black shift."""
        cfa = mosaic.named(mosaic.shifted(mosaic.pattern(self.cfa), rows, columns))
        return replace(self, cfa=cfa, black_level=mosaic.shifted(self.black_level, rows, columns))


@dataclass(frozen=True, slots=True)
class Metadata:
    """The source's own metadata blocks, byte for byte; ``None`` for a missing block.

    A model that makes a RAW of a picture adds its history to the XMP (``formats.provenance``).

    exif        the TIFF structure ("II*\\0…" or "MM\\0*…"), without the "Exif\\0\\0" that precedes it in a JPEG
    xmp         the XMP packet
    icc         the ICC profile
    jpeg        the whole source file, if it was a JPEG (unprocess puts it into the DNG as the preview),
                or the largest JPEG preview found in a RAW file
    jpeg_beside the camera's JPEG beside a RAW file, if its look counts rather than that of ``jpeg``
    source_name file name of the source, without folder
    source_sha256
                SHA-256 of the source file, in hexadecimal
    heif        the whole source file, if it was a HEIC or AVIF file with a gain map
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    jpeg: bytes | None = None
    jpeg_beside: bytes | None = None
    source_name: str | None = None
    source_sha256: str | None = None
    heif: bytes | None = None


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Patch:
    """The place of a patch in the picture that it was cut from, in pixels of the mosaic.

    number of ``count`` patches, from 0, row by row; (``top``, ``left``) is its corner in a picture of ``height`` and
    ``width``, as stored (not turned upright).
    """

    number: int
    count: int
    top: int
    left: int
    height: int
    width: int


def _check_orientation(orientation: int) -> None:
    if orientation not in range(1, 9):
        raise MetadataError(f"orientation must be 1 to 8 (EXIF tag 0x0112), got {orientation}")


@dataclass(frozen=True, slots=True)
class SrgbImage:
    """A display-referred sRGB picture, pixels as stored (orientation is *not* applied).

    pixels      (H, W, 3) uint8 (0–255), uint16 (0–65535) or float32 (0–1), sRGB encoded
    orientation EXIF 1–8: the turn that makes the pixels upright
    notes       changes made by the reader, one sentence each (for the user)
    """

    pixels: np.ndarray
    camera: Camera | None = None
    optical: OpticalParams = OpticalParams()
    orientation: int = 1
    metadata: Metadata = Metadata()
    as_shot_neutral: np.ndarray | None = None  # from a known MakerNote
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or 0 in self.pixels.shape:
            raise MetadataError(f"sRGB pixels must be (H, W, 3), got {self.pixels.shape}")
        if self.pixels.dtype not in (np.uint8, np.uint16, np.float32):
            raise MetadataError(f"sRGB pixels must be uint8, uint16 or float32, got {self.pixels.dtype}")
        _check_orientation(self.orientation)
        object.__setattr__(self, "pixels", _read_only(self.pixels))
        if self.as_shot_neutral is not None:
            object.__setattr__(self, "as_shot_neutral", _frozen(self.as_shot_neutral, (3,), "as_shot_neutral"))

    @property
    def size(self) -> tuple[int, int]:
        """Size (height, width) as stored."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, slots=True)
class LinearImage:
    """A rendered picture before any tone curve and look: linear light, upright.

    pixels      (H, W, 3) float32, linear sRGB (primaries of sRGB, white D65), neither encoded nor clipped: black is 0,
                white 1; colours outside sRGB have values below 0 or above 1
    notes       remarks for the user, one sentence each
    """

    pixels: np.ndarray
    camera: Camera | None = None
    optical: OpticalParams = OpticalParams()
    metadata: Metadata = Metadata()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or 0 in self.pixels.shape:
            raise MetadataError(f"linear pixels must be (H, W, 3), got {self.pixels.shape}")
        if self.pixels.dtype != np.float32:
            raise MetadataError(f"linear pixels must be float32, got {self.pixels.dtype}")
        object.__setattr__(self, "pixels", _read_only(self.pixels))

    @property
    def size(self) -> tuple[int, int]:
        """Size (height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, slots=True)
class HdrImage:
    """A picture with a gain map: how much brighter than the picture each place of its HDR rendition is (Ultra HDR).

    The HDR rendition is H = (S + 1/64) · 2^(stops · g) − 1/64. S is the picture's linear light, its white is 1; g is
    the map in [0, 1], interpolated between the centres of its pixels. One gain serves all channels.

    base   the picture; if its ``metadata.jpeg`` is there, the file is this JPEG with its coded pixels unchanged, and
           its ``metadata.xmp`` replaces the JPEG's
    codes  (h, w) uint8, 255 g, oriented as ``base.pixels``
    stops  EV of the code 255, above 0 and at most 8
    notes  remarks for the user, one sentence each
    """

    base: SrgbImage
    codes: np.ndarray
    stops: float
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or 0 in self.codes.shape or self.codes.dtype != np.uint8:
            raise MetadataError(f"a gain map must be (h, w) uint8, got {self.codes.shape} {self.codes.dtype}")
        if not 0 < self.stops <= 8:
            raise MetadataError(f"the stops of a gain map must lie above 0 and at most at 8, got {self.stops:g}")
        object.__setattr__(self, "codes", _read_only(self.codes))

    @property
    def size(self) -> tuple[int, int]:
        """Size (height, width) of the picture, as stored."""
        return self.base.size

    @property
    def metadata(self) -> Metadata:
        """Metadata of the picture."""
        return self.base.metadata


@dataclass(frozen=True, slots=True)
class Confidence:
    """The confidence map of a made RAW: for each site of its mosaic, the expected error (docs/confidence.md).

    half_width  (H, W) float32: of sites with this value w, a share of ``level`` is expected to have
                |true − g · made| ≤ w · (g · made + floor), black 0, white 1; g is one factor for the whole picture
    level       share of errors inside, 0 to 1
    floor       share of white that is added to every value
    scale_ev    uncertainty of g: it is expected within ± this many EV
    model       architecture that made the RAW
    orientation EXIF orientation of the map; ``crop``: area of the picture, as in ``RawImage``, None: all of it
    """

    half_width: np.ndarray
    level: float
    floor: float
    scale_ev: float
    model: str
    orientation: int = 1
    crop: Crop | None = None

    def __post_init__(self) -> None:
        own = self.half_width
        if own.ndim != 2 or own.dtype != np.float32 or 0 in own.shape:
            raise MetadataError(f"half_width must be (H, W) float32, got {own.shape} {own.dtype}")
        object.__setattr__(self, "half_width", _read_only(own))

    def describe(self) -> dict[str, Any]:
        """Return plain values for JSON, without the map."""
        return {
            "level": self.level,
            "floor": self.floor,
            "scale_ev": self.scale_ev,
            "model": self.model,
            "median": round(float(np.median(self.half_width)), 4),
        }


@dataclass(frozen=True, slots=True)
class RawImage:
    """A Bayer mosaic with its parameters and metadata, as stored (orientation is *not* applied).

    mosaic            (H, W), H and W even: uint16 in raw units (black and white levels as in ``canonical``),
                      or float32 already normalised (black 0, white 1)
    linear            (H, W, 3) of the same type: all three colours of each pixel (DNG LinearRaw), in the levels of the
                      colours' sites; ``mosaic`` is a sample of it (``of_linear`` makes it). None: a mosaic alone
    crop              the area of the picture (DNG DefaultCrop); the whole mosaic if None
    orientation       EXIF 1–8
    origin            the origin of each value: {"wb": "MakerNote (Nikon 0x000C)", …}
    baseline_exposure EV that a renderer should add (DNG tag 50730)
    noise_profile     (3, 2) scale and offset per R, G, B: variance = scale·x + offset, x in [0, 1] (DNG tag 51041)
    profile_exposure  EV that the profile's look adds to ``baseline_exposure``, before curve and table
                      (DNG BaselineExposureOffset, tag 51109)
    tone_curve        (N, 2) points (x, y) in [0, 1] from (0, 0) to (1, 1), linear light to linear light
                      (DNG ProfileToneCurve); None: no profile is written, the reader uses its default look
    look_table        (V, H, S, 3) shift of hue [°], scales of saturation and value (DNG ProfileLookTable, before the
                      curve; ``paramisp_cli.look_table``); None: no table
    model             name of the model that made it ("parametric", …); None for other mosaics
    colours_of        name of the camera whose colours the mosaic has, if it is not ``camera``, which took the picture
    patch             its place in the picture, if it is a patch of one
    confidence        its confidence map, with ``Settings.confidence``
    """

    mosaic: np.ndarray
    canonical: CanonicalParams
    optical: OpticalParams = OpticalParams()
    camera: Camera | None = None
    orientation: int = 1
    crop: Crop | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    metadata: Metadata = Metadata()
    baseline_exposure: float = 0.0
    profile_exposure: float = 0.0
    noise_profile: np.ndarray | None = None
    tone_curve: np.ndarray | None = None
    look_table: np.ndarray | None = None
    model: str | None = None
    notes: tuple[str, ...] = ()
    linear: np.ndarray | None = None
    colours_of: str | None = None
    patch: Patch | None = None
    confidence: Confidence | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.mosaic.ndim != 2 or self.mosaic.shape[0] % 2 or self.mosaic.shape[1] % 2 or 0 in self.mosaic.shape:
            raise MetadataError(f"a mosaic must be (H, W) with even H and W, got {self.mosaic.shape}")
        if self.mosaic.dtype not in (np.uint16, np.float32):
            raise MetadataError(f"a mosaic must be uint16 or float32, got {self.mosaic.dtype}")
        _check_orientation(self.orientation)
        object.__setattr__(self, "mosaic", _read_only(self.mosaic))
        if self.linear is not None:
            if self.linear.shape != (*self.mosaic.shape, 3) or self.linear.dtype != self.mosaic.dtype:
                raise MetadataError(
                    f"linear must be {(*self.mosaic.shape, 3)} {self.mosaic.dtype} beside this mosaic, "
                    f"got {self.linear.shape} {self.linear.dtype}; RawImage.of_linear makes both"
                )
            object.__setattr__(self, "linear", _read_only(self.linear))
        object.__setattr__(self, "origin", MappingProxyType(dict(self.origin)))
        height, width = self.mosaic.shape
        crop = self.crop or Crop(0, 0, height, width)
        inside = 0 <= crop.top < crop.top + crop.height <= height and 0 <= crop.left < crop.left + crop.width <= width
        if not inside:
            raise MetadataError(f"crop {crop} lies outside the mosaic of {width}×{height}")
        object.__setattr__(self, "crop", crop)
        if self.noise_profile is not None:
            object.__setattr__(self, "noise_profile", _frozen(self.noise_profile, (3, 2), "noise_profile"))
        if self.tone_curve is not None:
            object.__setattr__(self, "tone_curve", _frozen(self.tone_curve, (len(self.tone_curve), 2), "tone_curve"))
        if self.look_table is not None:
            shape = (*self.look_table.shape[:3], 3)
            object.__setattr__(self, "look_table", _frozen(self.look_table, shape, "look_table"))

    @classmethod
    def of_linear(cls, linear: np.ndarray, canonical: CanonicalParams, **fields: Any) -> Self:
        """Make an image of three colours a pixel: (H, W, 3), H and W even, uint16 or float32; see ``linear``.

        ``canonical.cfa`` is that of the sample ``mosaic``; of its black levels the mean of each colour counts.
        ``fields`` are the others of the class. Raises MetadataError.
        """
        if linear.ndim != 3 or linear.shape[2] != 3 or linear.shape[0] % 2 or linear.shape[1] % 2 or 0 in linear.shape:
            raise MetadataError(f"linear must be (H, W, 3) with even H and W, got {linear.shape}")
        levels = mosaic.by_site(mosaic.by_color(canonical.black_level, canonical.cfa), canonical.cfa)
        canonical = replace(canonical, black_level=levels)
        return cls(mosaic.sampled(linear, canonical.cfa), canonical, linear=linear, **fields)

    @property
    def size(self) -> tuple[int, int]:
        """Size (height, width) of the picture: the crop's, as stored."""
        assert self.crop is not None  # set in __post_init__
        return self.crop.height, self.crop.width

    def cropped(self) -> RawImage:
        """Return the smallest even-sized mosaic that holds the crop, CFA and black levels shifted with its corner.

        For an odd side the mosaic has one more row or column after the crop, or before it if the crop ends at the edge.
        """
        assert self.crop is not None
        top, height = _even_span(self.crop.top, self.crop.height, self.mosaic.shape[0])
        left, width = _even_span(self.crop.left, self.crop.width, self.mosaic.shape[1])
        return replace(
            self,
            mosaic=self.mosaic[top : top + height, left : left + width],
            linear=None if self.linear is None else self.linear[top : top + height, left : left + width],
            canonical=self.canonical.shifted(top, left),
            crop=Crop(self.crop.top - top, self.crop.left - left, self.crop.height, self.crop.width),
        )


Output = SrgbImage | LinearImage | HdrImage | RawImage
"""The result of a conversion: an image that a file can hold."""


def _even_span(start: int, length: int, limit: int) -> tuple[int, int]:
    """Return (start, length) of the even-length span inside [0, limit) that holds the given span; limit is even."""
    if length % 2 == 0:
        return start, length
    return (start, length + 1) if start + length < limit else (start - 1, length + 1)
