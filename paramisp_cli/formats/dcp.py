"""DNG camera profiles in files of their own (.dcp): the directory of a TIFF file with another magic number.

DNG 1.4, chapter 6, lists the tags. RawTherapee and Adobe's programs take such files for any RAW of the camera.
"""

from __future__ import annotations

import struct

import numpy as np

from paramisp_cli import color
from paramisp_cli.errors import FormatError
from paramisp_cli.formats.tiff import FLOAT, Entry, directory, long, short, srational, text

# ROMM RGB (ISO 22028-2) → CIE XYZ of D50, Y = 1: rows sum to the white of DNG's connection space.
_PROPHOTO_TO_XYZ = np.array([[0.797675, 0.135192, 0.031353], [0.28804, 0.711874, 0.000086], [0.0, 0.0, 0.82521]])
_MAGIC = 0x4352  # "RC" in a little-endian file


def profile(
    model: str,
    name: str,
    color_matrix: np.ndarray,
    cam_to_srgb: np.ndarray,
    curve: np.ndarray,
    table: np.ndarray | None = None,
    *,
    exposure: float = 0.0,
) -> bytes:
    """Return a profile as the bytes of a file.

    model         the camera, as its RAW files or Adobe's converter name it (UniqueCameraModel)
    name          of the profile
    color_matrix  (3, 3) CIE XYZ → camera RGB for D65
    cam_to_srgb   (3, 3) white-balanced camera RGB → linear sRGB; its rows sum to 1. Readers take it for the colours,
                  in place of their own adaptation to the light, and the matrix above for the white balance
    curve         (N, 2) points of the tone curve, linear, from (0, 0) to (1, 1)
    table         (V, H, S, 3) look-up table before the curve: see ``look_table``
    exposure      [EV] added to the BaselineExposure of a file

    Raises FormatError for a curve that DNG does not allow.
    """
    if len(curve) < 2 or (curve[0] != 0).any() or (curve[-1] != 1).any() or (np.diff(curve[:, 0]) <= 0).any():
        raise FormatError("a tone curve must go from (0, 0) to (1, 1) with x increasing (DNG ProfileToneCurve)")
    ifd = {
        50708: text(model),  # UniqueCameraModel
        50721: srational(*color_matrix.ravel()),  # ColorMatrix1
        50778: short(21),  # CalibrationIlluminant1: D65
        50964: srational(*(_PROPHOTO_TO_XYZ @ color.SRGB_TO_PROPHOTO @ cam_to_srgb).ravel()),  # ForwardMatrix1
        50936: text(name),  # ProfileName
        50940: Entry(FLOAT, curve.size, curve.astype("<f4").tobytes()),  # ProfileToneCurve
        50941: long(0),  # ProfileEmbedPolicy: allow copying
        51109: srational(exposure),  # BaselineExposureOffset
        51110: long(1),  # DefaultBlackRender: none, the curve has the look's blacks
    }
    if table is not None:
        values, hues, saturations = table.shape[:3]
        ifd[50981] = long(hues, saturations, values)  # ProfileLookTableDims
        ifd[50982] = Entry(FLOAT, table.size, table.astype("<f4").tobytes())  # ProfileLookTableData
        ifd[51108] = long(1)  # ProfileLookTableEncoding: the value is sRGB-encoded
    return b"II" + struct.pack("<HI", _MAGIC, 8) + directory(ifd, 8)
