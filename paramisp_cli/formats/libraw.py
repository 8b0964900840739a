"""Read camera RAW files through LibRaw (the only module that uses rawpy); a DNG's colour comes from its own tags."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import rawpy

from paramisp_cli import cameras, color
from paramisp_cli import mosaic as bayer
from paramisp_cli.errors import FormatError, MetadataError
from paramisp_cli.formats import exif, provenance, tiles
from paramisp_cli.formats.base import MAX_PIXELS, Format, check_pixels
from paramisp_cli.formats.jpeg import exif_block
from paramisp_cli.formats.kinds import TIFF_MAGICS
from paramisp_cli.formats.quiet import captured
from paramisp_cli.formats.tiff import Ifd, parse_ifds
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, Crop, Metadata, OpticalParams, RawImage, SrgbImage

SUFFIXES = (
    ".dng", ".3fr", ".arw", ".bay", ".cap", ".cr2", ".cr3", ".crw", ".dcr", ".dcs", ".erf", ".fff", ".gpr", ".iiq",
    ".k25", ".kdc", ".mdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl",
    ".rwz", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip

_RAW_MAGIC = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"\0MRM", b"FOVb")

# LibRaw's flip is three bits: 1 mirrors left-right, 2 mirrors top-bottom, 4 swaps rows and columns last.
_ORIENTATION_OF_FLIP = {0: 1, 1: 2, 2: 4, 3: 3, 4: 5, 5: 8, 6: 6, 7: 7}

# TIFF and DNG tags.
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _PHOTOMETRIC, _SAMPLES, _SOFTWARE, _XMP = 254, 256, 257, 262, 277, 305, 700
_CFA, _LINEAR_RAW = 32803, 34892
_DNG_VERSION, _UNIQUE_MODEL, _COLOR_MATRIX_1, _COLOR_MATRIX_2, _ANALOG_BALANCE = 50706, 50708, 50721, 50722, 50727
_CALIBRATION_1, _CALIBRATION_2, _AS_SHOT_NEUTRAL, _AS_SHOT_WHITE_XY = 50723, 50724, 50728, 50729
_BLACK_LEVEL, _WHITE_LEVEL = 50714, 50717
_BASELINE_EXPOSURE, _ILLUMINANT_1, _ILLUMINANT_2 = 50730, 50778, 50779
_CROP_ORIGIN, _CROP_SIZE, _ACTIVE_AREA = 50719, 50720, 50829
_CFA_REPEAT, _NOISE_PROFILE, _PREVIEW_APPLICATION, _NEW_DIGEST = 33421, 51041, 50966, 51111

_STRIPS, _TILES = (273, 279), (324, 325)  # offsets, byte counts


def _sniff(head: bytes) -> bool:
    return head.startswith(TIFF_MAGICS + _RAW_MAGIC) or head[6:14] == b"HEAPCCDR" or head[4:11] == b"ftypcrx"


def is_raw(path: Path, head: bytes) -> bool:
    """Tell whether a file with these first bytes is a RAW: a plain TIFF begins like a NEF."""
    if not head.startswith(TIFF_MAGICS):
        return True
    if head[8:10] == b"CR" or any(_is_cfa(tags) or _DNG_VERSION in tags for tags in _tiff_ifds(path)):
        return True
    return path.suffix.lower() in SUFFIXES and _opens(path)


def _opens(path: Path) -> bool:
    """Tell whether LibRaw opens the file as a RAW: tags of old cameras do not mark it, and its name may be wrong."""
    try:
        rawpy.imread(str(path)).close()
    except rawpy.LibRawError:
        return False
    return True


def _is_cfa(tags: Ifd) -> bool:
    photometric = tags[_PHOTOMETRIC].values() if _PHOTOMETRIC in tags else ()
    return photometric[:1] in ((_CFA,), (_LINEAR_RAW,))


def _tiff_ifds(path: Path) -> list[Ifd]:
    """Return the tags of every IFD of a TIFF-like file, IFD0 first; an empty list for damaged and other files."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse_ifds(data)
    except (FormatError, ValueError):
        return []


def _numbers(tags: Ifd, tag: int, count: int) -> np.ndarray | None:
    """Return the first ``count`` values of a tag if all are there and finite."""
    values = tags[tag].values() if tag in tags else ()
    array = np.array(values[:count], np.float64)
    return array if array.size == count and np.isfinite(array).all() else None


def read(path: Path, max_pixels: int = MAX_PIXELS) -> RawImage:
    """Read a Bayer RAW, or a LinearRaw DNG, of at most ``max_pixels``: the visible area, in raw units, of even sides.

    Levels, CFA and orientation come from LibRaw; matrix, neutral, crop and exposure of a DNG from its own tags, and the
    levels of a LinearRaw, too. Raises FormatError for X-Trans, Foveon, monochrome and unreadable files.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
    remarks: list[str] = []
    try:
        with _remarks(remarks), rawpy.imread(str(path)) as raw:  # nothing is decoded yet
            _check_pixels(path, raw, max_pixels)
            image = _from_libraw(path, head, raw)
    except rawpy.LibRawError as error:
        reason = error.args[0] if error.args else error
        reason = " ".join((reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)).split())
        if remarks:
            raise FormatError(
                f"{path}: the RAW data is damaged ({remarks[0]}); copy it from the camera again"
            ) from error
        raise FormatError(f"{path}: LibRaw cannot read it ({reason}); damaged, or an unknown RAW format") from error
    if remarks:  # LibRaw continues after damage if it can
        note = f"the RAW data is damaged ({remarks[0]}): a part of the picture may be wrong"
        image = replace(image, notes=(*image.notes, note))
    return image


def _check_pixels(path: Path, raw: rawpy.RawPy, max_pixels: int) -> None:
    try:
        check_pixels(raw.sizes.raw_width, raw.sizes.raw_height, max_pixels)
    except FormatError as error:
        raise error.named(path) from error


def developed(path: Path) -> SrgbImage:
    """Render a RAW with LibRaw: the camera's white balance, LibRaw's defaults for all else, 8 bits.

    The picture shows the visible area, not turned upright: pixel on pixel with the mosaic of ``read``, which trims odd
    sides. Its tone curve is LibRaw's (BT.709); LibRaw brightens it until 1 % of the pixels clip. Raises FormatError.
    """
    remarks: list[str] = []
    try:
        with _remarks(remarks), rawpy.imread(str(path)) as raw:
            return SrgbImage(raw.postprocess(use_camera_wb=True, user_flip=0))
    except rawpy.LibRawError as error:
        raise FormatError(f"{path}: LibRaw cannot render it; damaged, or an unknown RAW format") from error


@contextmanager
def _remarks(remarks: list[str]) -> Iterator[None]:
    """Collect LibRaw's remarks on damaged data: it prints them to stderr and reports them in no other way."""
    lines: list[str] = []
    try:
        with captured(lines):
            yield
    finally:  # "NAME: data corrupted at 123"
        remarks += [line.rpartition(": ")[2] for line in lines if "Unexpected end" in line or "corrupted" in line]


def _from_libraw(path: Path, head: bytes, raw: rawpy.RawPy) -> RawImage:
    sizes = raw.sizes
    ifds = _tiff_ifds(path) if not head.startswith(_RAW_MAGIC[4:]) else []
    main = ifds[0] if ifds else {}
    is_dng = _DNG_VERSION in main
    own = _linear_ifd(raw, ifds) if is_dng else None
    cfa = _cfa(path, raw, ifds if is_dng else []) if own is None else _ANY_CFA
    if is_dng:
        _check_length(path, ifds)
    visible = raw.raw_image_visible
    height, width = visible.shape[0] // 2 * 2, visible.shape[1] // 2 * 2
    if height < 2 or width < 2:
        raise FormatError(f"{path}: the RAW image is only {visible.shape[1]}×{visible.shape[0]} pixels")
    linear = np.ascontiguousarray(visible[:height, :width, :3]) if own else None
    mosaic = np.array(visible[:height, :width]) if linear is None else bayer.sampled(linear, cfa)

    jpeg = _preview(raw)
    block, clean = _exif_of(path, ifds, jpeg)
    camera = exif.camera(block) if block else None
    optical, notes = exif.optical_params(block) if block else (OpticalParams(), [])
    optical = _completed(optical, raw)
    facts = cameras.find(camera)

    origin: dict[str, str] = {"cfa": "the RAW file", "black_level": "the RAW file", "white_level": "the RAW file"}
    if linear is not None:
        origin["cfa"] = "of a sample: the file has all three colours of each pixel"
    matrix, illuminant = _dng_matrix(main) if is_dng else (None, "")
    if matrix is not None:
        origin["color_matrix"] = f"the DNG's {illuminant}"
    elif np.abs(raw.rgb_xyz_matrix[:3]).sum() > 0:
        matrix, origin["color_matrix"] = raw.rgb_xyz_matrix[:3], "LibRaw's table"
    elif facts is not None and facts.color_matrix is not None:
        matrix, origin["color_matrix"] = facts.color_matrix, f"camera table ({facts.name})"
    else:
        matrix, origin["color_matrix"] = cameras.GENERIC.color_matrix, "an average camera (the camera is unknown)"
    assert matrix is not None

    neutral = _dng_neutral(main, matrix) if is_dng else None
    wb = np.array(raw.camera_whitebalance, np.float64)
    if neutral is not None:
        origin["wb"] = "the DNG's AsShotNeutral"
    elif np.isfinite(wb).all() and (wb[:3] > 0).all():
        green = (wb[1] + wb[3]) / 2 if wb[3] > 0 else wb[1]
        neutral, origin["wb"] = green / np.array([wb[0], green, wb[2]]), "the RAW file, as shot"
    elif facts is not None and facts.daylight_neutral is not None:
        neutral, origin["wb"] = facts.daylight_neutral, f"camera table ({facts.name}), daylight: the file has none"
    else:
        daylight = np.array(raw.daylight_whitebalance[:3], np.float64)
        if not (np.isfinite(daylight).all() and (daylight > 0).all()):
            raise MetadataError(f"{path}: has no white balance; pass `wb` R,G,B")
        neutral, origin["wb"] = daylight[1] / daylight, "LibRaw's daylight: the file has none"

    per_color, white = np.array(raw.black_level_per_channel, np.float64), float(raw.white_level)
    if own is None:
        index = [[raw.raw_color(sizes.top_margin + y, sizes.left_margin + x) for x in (0, 1)] for y in (0, 1)]
        down, right = _rounding(raw, ifds if is_dng else [])
        black = np.roll(per_color[np.array(index)], (down, right), (0, 1))
    else:
        per_color, white = _linear_levels(own, per_color, white)
        black = bayer.by_site(per_color, cfa)
    try:
        canonical = CanonicalParams(cfa, black, white, neutral, matrix)
    except MetadataError as error:
        raise MetadataError(f"{path}: {error}") from error

    if jpeg is not None and _PREVIEW_APPLICATION in main:
        origin["jpeg"] = f"rendered by {main[_PREVIEW_APPLICATION].text()}"
    exposure = _numbers(main, _BASELINE_EXPOSURE, 1) if is_dng else None
    noise = next((p for tags in ifds if (p := _numbers(tags, _NOISE_PROFILE, 6)) is not None), None) if is_dng else None
    software = main[_SOFTWARE].text() if _SOFTWARE in main else ""
    # paramisp's own files hold a digest of the mosaic. It detects damage that LibRaw does not report.
    if (
        software.startswith("paramisp")
        and _NEW_DIGEST in main
        and (tiles.digest(mosaic if linear is None else linear) != main[_NEW_DIGEST].data)
    ):
        notes.append("the RAW data is damaged (its digest differs): a part of the picture may be wrong")
    packet = main[_XMP].data if _XMP in main else None
    made = provenance.made_by(packet)
    version = software.removeprefix("paramisp").strip() or None if software.startswith("paramisp") else None
    return RawImage(
        mosaic=mosaic,
        canonical=canonical,
        optical=optical,
        camera=camera,
        orientation=_ORIENTATION_OF_FLIP.get(sizes.flip, 1),
        linear=linear,
        crop=_crop(raw, [own] if own else ifds if is_dng else [], height, width),
        origin=origin,
        metadata=Metadata(
            exif=clean,
            xmp=packet,
            jpeg=jpeg,
            source_name=path.name,
        ),
        baseline_exposure=float(np.clip(exposure[0], -10, 10)) if exposure is not None else 0.0,
        noise_profile=noise.reshape(3, 2) if noise is not None else None,
        model=made.model if made else version,
        colours_of=_colours_of(main) if software.startswith("paramisp") else None,
        notes=tuple(notes),
    )


def _colours_of(main: Ifd) -> str | None:
    """Return the other camera of a file that `paramisp transfer` wrote (``formats.dng``), None of other files."""
    match = re.fullmatch(r"(.+) \(from .+\)", main[_UNIQUE_MODEL].text()) if _UNIQUE_MODEL in main else None
    return match[1] if match else None


def _check_length(path: Path, ifds: list[Ifd]) -> None:
    """Raise FormatError if a DNG's mosaic goes beyond the file's end: LibRaw fills missing tiles with black."""
    size = path.stat().st_size
    for tags in filter(_is_cfa, ifds):
        for offsets, counts in (_STRIPS, _TILES):
            if offsets in tags and counts in tags:
                ends = [at + length for at, length in zip(tags[offsets].values(), tags[counts].values(), strict=False)]
                if max(ends, default=0) > size:
                    raise FormatError(
                        f"{path}: the RAW data is damaged: the file has {size} of at least {max(ends)} bytes; "
                        "copy it from the camera again"
                    )


_ANY_CFA = CFA_PATTERNS[0]
"""CFA of the mosaic that is sampled from a LinearRaw."""


def _linear_ifd(raw: rawpy.RawPy, ifds: list[Ifd]) -> Ifd | None:
    """Return the tags of the LinearRaw image of three colours that LibRaw decodes; None if it decodes another image."""
    if raw.raw_type != rawpy.RawType.Stack:
        return None
    wanted = [raw.sizes.raw_width, raw.sizes.raw_height]
    for tags in ifds:
        kind = [tags[tag].values()[:1] for tag in (_PHOTOMETRIC, _SAMPLES) if tag in tags]
        sides = [number for tag in (_WIDTH, _HEIGHT) if tag in tags for number in tags[tag].values()[:1]]
        if kind == [(_LINEAR_RAW,), (3,)] and sides == wanted:
            return tags
    return None


def _linear_levels(tags: Ifd, black: np.ndarray, white: float) -> tuple[np.ndarray, float]:
    """Return black level (3,) and white level of a LinearRaw: LibRaw's, unless its tags tell."""
    levels = np.array(tags[_BLACK_LEVEL].values() if _BLACK_LEVEL in tags else (0.0, 0.0, 0.0), np.float64)
    sound = levels.size and levels.size % 3 == 0 and np.isfinite(levels).all()
    whites = np.array(tags[_WHITE_LEVEL].values() if _WHITE_LEVEL in tags else (), np.float64)
    # Repeated black levels lie row by row, column by column, colour by colour.
    black = levels.reshape(-1, 3).mean(0) if sound else black[:3]
    return black, float(whites.min()) if whites.size and np.isfinite(whites).all() else white


def _cfa(path: Path, raw: rawpy.RawPy, ifds: list[Ifd]) -> str:
    """Return the CFA of the visible area; FormatError unless it is Bayer with red, green and blue."""
    sides = next((n for t in ifds if _is_cfa(t) and (n := _numbers(t, _CFA_REPEAT, 2)) is not None), np.array([2, 2]))
    pattern = raw.raw_pattern if raw.raw_type == rawpy.RawType.Flat else None
    if pattern is None:
        kind = "Foveon, monochrome, or already demosaiced"
        raise FormatError(f"{path}: not a Bayer file ({kind}); only Bayer RAWs can be rendered")
    rows, columns = pattern.shape if pattern.shape != (2, 2) else sides.astype(int)  # LibRaw gives 4×4 CFAs as 2×2
    if (rows, columns) != (2, 2):
        kind = "X-Trans" if (rows, columns) == (6, 6) else f"{rows}×{columns} CFA"
        raise FormatError(f"{path}: not a Bayer file ({kind}); only Bayer RAWs can be rendered")
    top, left, names = raw.sizes.top_margin, raw.sizes.left_margin, raw.color_desc.decode()
    cfa = "".join(names[raw.raw_color(top + y, left + x)] for y in (0, 1) for x in (0, 1))
    if cfa not in CFA_PATTERNS:
        raise FormatError(f"{path}: its colour filters are {cfa}; only Bayer RAWs with R, G and B can be rendered")
    return cfa


def _preview(raw: rawpy.RawPy) -> bytes | None:
    """Return the embedded camera JPEG, if there is one."""
    try:
        thumb = raw.extract_thumb()
    except rawpy.LibRawError:  # no preview, or of an unknown kind: the RAW itself may be sound
        return None
    return bytes(thumb.data) if thumb.format == rawpy.ThumbFormat.JPEG else None


def _exif_of(path: Path, ifds: list[Ifd], jpeg: bytes | None) -> tuple[exif.ExifBlock | None, bytes | None]:
    """Return the file's EXIF, parsed, and a small clean copy of it for the image's metadata.

    Its source is the file itself if it is TIFF-like, else the embedded JPEG (LibRaw adds EXIF even to a CRW's JPEG).
    """
    try:
        if ifds:
            with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parsed(data)
        block = exif_block(jpeg) if jpeg else None
        return _parsed(block) if block else (None, None)
    except FormatError:
        return None, None


def _parsed(data: bytes | mmap.mmap) -> tuple[exif.ExifBlock, bytes]:
    block = exif.parse(data)
    optical, camera = exif.optical_params(block)[0], exif.camera(block)
    return block, exif.clean_exif(data, optical=optical, camera=camera, software="", width=0, height=0)


def _completed(optical: OpticalParams, raw: rawpy.RawPy) -> OpticalParams:
    """Complete values missing in EXIF: LibRaw may know them from the maker's own fields."""
    known = raw.other
    pairs = {
        "iso": known.iso_speed,
        "exposure_time": known.shutter_speed,
        "f_number": known.aperture,
        "focal_length": known.focal_length,
    }
    values = {}
    for name, guess in pairs.items():
        value = getattr(optical, name)
        values[name] = float(guess) if value is None and guess is not None and 0 < guess < 1e7 else value
    return OpticalParams(**values)


def _dng_matrix(main: Ifd) -> tuple[np.ndarray | None, str]:
    """Return XYZ → camera for the calibration illuminant nearest to D65, and its tag's name.

    The matrix is AnalogBalance · CameraCalibration · ColorMatrix.
    """
    candidates = []
    for number, (tag, calibration_tag, illuminant_tag) in enumerate(
        ((_COLOR_MATRIX_1, _CALIBRATION_1, _ILLUMINANT_1), (_COLOR_MATRIX_2, _CALIBRATION_2, _ILLUMINANT_2)), 1
    ):
        if (matrix := _numbers(main, tag, 9)) is None:
            continue
        calibration = _numbers(main, calibration_tag, 9)
        if calibration is not None:
            matrix = (calibration.reshape(3, 3) @ matrix.reshape(3, 3)).ravel()
        code = _numbers(main, illuminant_tag, 1)
        candidates.append((matrix.reshape(3, 3), f"ColorMatrix{number}", int(code[0]) if code is not None else None))
    if not candidates:
        return None, ""
    matrix, name, _ = candidates[color.nearest_to_d65([code for *_, code in candidates])]
    balance = _numbers(main, _ANALOG_BALANCE, 3)
    return (matrix if balance is None else balance[:, None] * matrix), name


def _dng_neutral(main: Ifd, matrix: np.ndarray) -> np.ndarray | None:
    """Return AsShotNeutral, or the product of the matrix and AsShotWhiteXY."""
    neutral = _numbers(main, _AS_SHOT_NEUTRAL, 3)
    if neutral is None and (xy := _numbers(main, _AS_SHOT_WHITE_XY, 2)) is not None and xy[1] > 0:
        neutral = matrix @ (np.array([xy[0], xy[1], 1 - xy.sum()]) / xy[1])
    return neutral if neutral is not None and (neutral > 0).all() else None


def _rounding(raw: rawpy.RawPy, ifds: list[Ifd]) -> tuple[int, int]:
    """Return the offset (rows, columns) of the visible area from ActiveArea, the origin of the DNG's coordinates.

    LibRaw rounds odd origins up and moves the CFA with them, but not the black levels of each site.
    """
    area = next((a for tags in ifds if _is_cfa(tags) and (a := _numbers(tags, _ACTIVE_AREA, 4)) is not None), None)
    if area is None:
        return 0, 0
    top, left = area[:2].astype(int).tolist()
    return (raw.sizes.top_margin - top) % 2, (raw.sizes.left_margin - left) % 2


def _crop(raw: rawpy.RawPy, ifds: list[Ifd], height: int, width: int) -> Crop | None:
    """Return the area that the camera shows, inside the visible area; None for the whole."""
    for tags in ifds:
        origin, size = _numbers(tags, _CROP_ORIGIN, 2), _numbers(tags, _CROP_SIZE, 2)
        if _is_cfa(tags) and origin is not None and size is not None:
            (left, top), (wide, high) = origin.round().astype(int).tolist(), size.round().astype(int).tolist()
            down, right = _rounding(raw, ifds)
            top, left, high, wide = max(top - down, 0), max(left - right, 0), min(high, height), min(wide, width)
            break
    else:
        s = raw.sizes
        top, left = s.crop_top_margin - s.top_margin, s.crop_left_margin - s.left_margin
        # LibRaw's crop of several Canons has one row less than the camera's own JPEG.
        high, wide = s.crop_height + s.crop_height % 2, s.crop_width + s.crop_width % 2
    if top < 0 or left < 0 or high < 1 or wide < 1 or top + high > height or left + wide > width:
        return None
    return Crop(top, left, high, wide)


FORMAT = Format(name="camera RAW", suffixes=SUFFIXES, sniff=_sniff, read=read)
