"""Convert colour spaces to sRGB, by ICC profile or by EXIF's mark for Adobe RGB; make the profiles to embed."""

from __future__ import annotations

import io
import struct
from functools import cache

import numpy as np

from paramisp_cli import color
from paramisp_cli.formats.base import one_line
from paramisp_cli.formats.pixels import STRIP, to_depth
from paramisp_cli.types import Notice

# Bradford adaptation from the D50 of ICC's connection space to D65 (Lindbloom; ICC.1:2010 annex E, inverted).
_D50_TO_D65 = np.array(
    [
        [0.9555766, -0.0230393, 0.0631636],
        [-0.0282895, 1.0099416, 0.0210077],
        [0.0122982, -0.0204830, 1.3299098],
    ]
)
# Adobe RGB (1998) 4.3.5.3: linear RGB → XYZ, D65; its transfer function is the power 563/256.
_ADOBE_TO_XYZ = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
_ADOBE_GAMMA = 563 / 256


def to_srgb(pixels: np.ndarray, icc: bytes | None, exif_space: str | None) -> tuple[np.ndarray, list[str]]:
    """Return (pixels in sRGB, notes): uint16 after a conversion, unchanged if none was needed."""
    if icc is None:
        if exif_space != "Adobe RGB":
            return pixels, []
        axis = np.linspace(0, 1, np.iinfo(pixels.dtype).max + 1)
        return _convert(pixels, [axis**_ADOBE_GAMMA] * 3, color.XYZ_TO_SRGB @ _ADOBE_TO_XYZ, "Adobe RGB (from EXIF)")
    try:
        tags = _tags(icc)
        name = _icc_name(tags) or "an unnamed profile"
        if icc[16:20] != b"RGB ":
            if icc[16:20] == b"GRAY":  # a grey picture: only its tone curve could differ, and it hardly does
                return pixels, []
            return pixels, [f"the embedded profile ({name}) is not for RGB and was ignored; the pixels count as sRGB"]
        if not {b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"} <= tags.keys():
            return _convert_lut(pixels, icc, name)
        axis = np.linspace(0, 1, np.iinfo(pixels.dtype).max + 1)
        curves = [_icc_curve(tags[tag], axis) for tag in (b"rTRC", b"gTRC", b"bTRC")]
        colorants = np.column_stack([_icc_xyz(tags[tag]) for tag in (b"rXYZ", b"gXYZ", b"bXYZ")])
        matrix = color.XYZ_TO_SRGB @ _D50_TO_D65 @ colorants
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-3 or (matrix.sum(1) <= 0.1).any():
            raise ValueError("its primaries make no sense")
        if any(not np.isfinite(curve).all() or curve[-1] - curve[0] < 0.5 for curve in curves):
            raise ValueError("its tone curves make no sense")
    except Exception as error:  # damage in a profile causes many kinds of errors
        return pixels, [f"the embedded colour profile cannot be used ({one_line(error)}); the pixels count as sRGB"]
    # Recognise sRGB by its numbers, not by name: primaries and tone curve within the precision of 8 bits.
    same_curve = max(float(np.abs(color.srgb_encode(curve) - axis).max()) for curve in curves) < 0.006
    if same_curve and np.abs(matrix - np.eye(3)).max() < 0.005:
        return pixels, []
    return _convert(pixels, curves, matrix, name)


# Chromaticities of red, green, blue and white by the codes of ITU-T H.273, table 2.
_D65 = (0.3127, 0.3290)
_PRIMARIES: dict[int, tuple[str, tuple[tuple[float, float], ...]]] = {
    5: ("Rec. 601 (625 lines)", ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060), _D65)),
    6: ("Rec. 601 (525 lines)", ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65)),
    7: ("SMPTE 240M", ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65)),
    9: ("Rec. 2020", ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65)),
    11: ("DCI-P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351))),
    12: ("Display P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65)),
}
_UNCONVERTED = {16: "PQ (HDR)", 17: "SMPTE 428", 18: "HLG (HDR)"}
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}
"""Code of a transfer (table 3) → its exponent. Every other one counts as that of sRGB: cameras write 1, 6 and 13."""


def codes_to_srgb(pixels: np.ndarray, primaries: int, transfer: int) -> tuple[np.ndarray, list[str]]:
    """Convert by the codes of ITU-T H.273 as ``to_srgb`` does by a profile; HDR transfers are not converted."""
    name = _PRIMARIES.get(primaries, ("", ()))[0]
    if transfer in _UNCONVERTED:
        names = ", ".join(filter(None, (name, _UNCONVERTED[transfer])))
        return pixels, [f"its colours are {names}, which paramisp does not convert; the pixels count as sRGB"]
    if not name and transfer not in _POWERS:
        return pixels, []
    axis = np.linspace(0, 1, np.iinfo(pixels.dtype).max + 1)
    curve = axis ** _POWERS[transfer] if transfer in _POWERS else color.srgb_decode(axis)
    return _convert(pixels, [curve] * 3, codes_to_srgb_matrix(primaries), name or "the power of its colour codes")


def codes_to_srgb_matrix(primaries: int) -> np.ndarray:
    """Return (3, 3) linear RGB of a code of primaries → linear sRGB, white to white; the identity for others."""
    if primaries not in _PRIMARIES:
        return np.eye(3)
    *corners, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in _PRIMARIES[primaries][1])
    columns = np.column_stack(corners)
    matrix = color.XYZ_TO_SRGB @ (columns * np.linalg.solve(columns, white))
    balanced: np.ndarray = matrix / matrix.sum(1, keepdims=True)
    return balanced


def to_srgb_matrix(icc: bytes | None) -> np.ndarray:
    """Return (3, 3) linear RGB of a profile → linear sRGB, white to white; the identity for a profile without one."""
    try:
        tags = _tags(icc or b"")
        matrix = (
            color.XYZ_TO_SRGB
            @ _D50_TO_D65
            @ np.column_stack([_icc_xyz(tags[b"rgb"[i : i + 1] + b"XYZ"]) for i in range(3)])
        )
        if np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-3 and (matrix.sum(1) > 0.1).all():
            balanced: np.ndarray = matrix / matrix.sum(1, keepdims=True)
            return balanced
    except Exception:  # damage in a profile causes many kinds of errors; ``to_srgb`` has a note of it
        pass
    return np.eye(3)


def _convert(
    pixels: np.ndarray, curves: list[np.ndarray], matrix: np.ndarray, name: str
) -> tuple[np.ndarray, list[str]]:
    """Convert by a decoding table per channel and a matrix to linear sRGB; return ((H, W, 3) uint16 sRGB, note)."""
    # White is white in both spaces; the profile's rounded numbers must not tint it.
    matrix = (matrix / matrix.sum(1, keepdims=True)).T.astype(np.float32)
    tables = [curve.astype(np.float32) for curve in curves]
    # Encode by a table over the square root of light: there the sRGB curve is nowhere steep; 16-bit indices suffice.
    root = np.linspace(0, 1, 65536)
    encode = np.rint(color.srgb_encode(root**2) * 65535).astype(np.uint16)
    out = np.empty(pixels.shape, np.uint16)
    outside = 0
    for top in range(0, len(pixels), STRIP):
        strip = pixels[top : top + STRIP]
        linear = np.stack([table[strip[..., i]] for i, table in enumerate(tables)], -1) @ matrix
        # half an 8-bit code beyond either end
        outside += int(np.count_nonzero(((linear < -1.5e-4) | (linear > 1.0045)).any(-1)))
        index = np.sqrt(np.clip(linear, 0, 1)) * np.float32(65535) + np.float32(0.5)
        out[top : top + STRIP] = encode[index.astype(np.uint16)]
    plain = note = f"converted from {name} to sRGB"
    if outside:
        share = 100 * outside / (pixels.shape[0] * pixels.shape[1])
        note += f"; {max(share, 0.01):.2g} % of the pixels were outside sRGB and were clipped"
    return out, [Notice(note, plain)]


def _convert_lut(pixels: np.ndarray, icc: bytes, name: str) -> tuple[np.ndarray, list[str]]:
    """Convert through a profile made of tables, by LittleCMS; return (uint8 pixels in sRGB, note)."""
    from PIL import Image, ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    image = Image.fromarray(to_depth(pixels, 8))
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    assert converted is not None
    return np.asarray(converted), [f"converted from {name} to sRGB, in 8 bits (the profile is made of tables)"]


def _tags(icc: bytes) -> dict[bytes, bytes]:
    """Return tag signature → data of an ICC profile (ICC.1:2010, 7.3)."""
    count = struct.unpack(">I", icc[128:132])[0]
    entries = [struct.unpack(">4sII", icc[at : at + 12]) for at in range(132, 132 + 12 * min(count, 256), 12)]
    return {signature: icc[offset : offset + size] for signature, offset, size in entries}


def _icc_name(tags: dict[bytes, bytes]) -> str:
    """Return the profile's name: textDescription (version 2) or the first of multiLocalizedUnicode (version 4)."""
    data = tags.get(b"desc", b"")
    if data[:4] == b"mluc" and len(data) >= 28:
        length, offset = struct.unpack(">II", data[20:28])
        return data[offset : offset + length].decode("utf-16-be", "replace").strip("\0 ")
    length = struct.unpack(">I", data[8:12])[0] if data[:4] == b"desc" else 0
    return data[12 : 12 + length].decode("latin-1").strip("\0 ")


def _icc_xyz(data: bytes) -> np.ndarray:
    """Return the (3,) numbers of an XYZType."""
    return np.array(struct.unpack(">3i", data[8:20])) / 65536


def _icc_curve(data: bytes, axis: np.ndarray) -> np.ndarray:
    """Return linear light at each encoded value of ``axis`` (0–1).

    ``data`` is a curveType or parametricCurveType (ICC.1:2010, 10.5, 10.15).
    """
    if data[:4] == b"curv":
        count = struct.unpack(">I", data[8:12])[0]
        if count == 0:
            return axis
        points = np.frombuffer(data, ">u2", count, 12).astype(np.float64)
        if count == 1:
            linear: np.ndarray = axis ** (points[0] / 256)
            return linear
        linear = np.interp(axis, np.linspace(0, 1, count), points / 65535)
        return linear
    if data[:4] != b"para":
        raise ValueError(f"tone curve of type {data[:4]!r}")
    kind = struct.unpack(">H", data[8:10])[0]
    coefficients = np.frombuffer(data, ">i4", (1, 3, 4, 5, 7)[kind], 12) / 65536
    g, a, b, c, d, e, f = (float(value) for value in (*coefficients, *(0.0,) * (7 - len(coefficients))))
    if kind == 0:
        a, d = 1.0, 0.0
    elif kind <= 2:  # above −b/a the power, below it a constant
        d, e, f, c = -b / a, c, c, 0.0
    with np.errstate(all="ignore"):  # absurd parameters overflow; the caller checks the curve
        return np.clip(np.where(axis >= d, np.maximum(a * axis + b, 0) ** g + e, c * axis + f), 0, 1)


@cache
def srgb_profile() -> bytes:
    """Return an sRGB ICC profile, the same bytes every time."""
    from PIL import ImageCms

    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[24:36] = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)  # a fixed date: LittleCMS writes the clock's
    return bytes(data)


_D50 = (0.9642, 1.0, 0.8249)
"""White of ICC's connection space (ICC.1:2010, 7.2.16)."""


@cache
def linear_srgb_profile() -> bytes:
    """Return an ICC profile of linear light with the primaries of sRGB, the same bytes every time.

    A matrix and tone curves in version 2.4 of the format (ICC.1:2001-04), which every reader of profiles knows.
    """

    def numbers(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    name = b"Linear sRGB\0"
    colorants = np.linalg.inv(_D50_TO_D65) @ color.SRGB_TO_XYZ
    colorants = np.rint(colorants * np.array(_D50)[:, None] / colorants.sum(1, keepdims=True) * 65536) / 65536
    colorants[:, 1] = np.rint(np.array(_D50) * 65536) / 65536 - colorants[:, 0] - colorants[:, 2]  # white is exact
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 256)  # one number, a gamma in units of 1/256: 1.0
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78),  # no Unicode, no Macintosh name
        b"cprt": b"text\0\0\0\0" + b"No copyright, use freely\0",
        b"wtpt": b"XYZ \0\0\0\0" + numbers(*_D50),
        b"chad": b"sf32\0\0\0\0" + numbers(*np.linalg.inv(_D50_TO_D65).ravel()),
        **{
            signature: b"XYZ \0\0\0\0" + numbers(*column)
            for signature, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants.T, strict=True)
        },
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    at, table, data = 132 + 12 * len(tags), b"", b""
    places: dict[bytes, int] = {}  # equal values share their bytes
    for signature, value in tags.items():
        if value not in places:
            places[value] = at + len(data)
            data += value + bytes(-len(value) % 4)
        table += struct.pack(">4sII", signature, places[value], len(value))
    header = bytearray(128)
    header[0:4] = struct.pack(">I", at + len(data))
    header[8:12] = struct.pack(">I", 0x02400000)  # version 2.4
    header[12:24] = b"mntrRGB XYZ "
    header[24:36] = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)  # a fixed date
    header[36:40] = b"acsp"
    header[68:80] = numbers(*_D50)
    return bytes(header) + struct.pack(">I", len(tags)) + table + data
