"""Three-vectors and 3×3 matrices of colour, in float64 numpy. Matrices are named ``a_to_b`` and act on columns."""

from __future__ import annotations

import numpy as np

# Primaries and D65 white of IEC 61966-2-1.
SRGB_TO_XYZ = np.array(
    [
        [0.4123907992659595, 0.35758433938387796, 0.1804807884018343],
        [0.21263900587151036, 0.7151686787677559, 0.07219231536073371],
        [0.01933081871559185, 0.11919477979462599, 0.9505321522496606],
    ]
)
XYZ_TO_SRGB = np.linalg.inv(SRGB_TO_XYZ)

# Linear ProPhoto RGB (ROMM RGB, ISO 22028-2, white D50): DNG readers apply ProfileToneCurve in this space.
# White is adapted from D65 by the Bradford transform.
SRGB_TO_PROPHOTO = np.array(
    [
        [0.5292900462685786, 0.3301171656410729, 0.1405927880903488],
        [0.0983604208555234, 0.8734694174529825, 0.0281701616914940],
        [0.0168761670926747, 0.1176575280751748, 0.8654663048321506],
    ]
)
PROPHOTO_TO_SRGB = np.linalg.inv(SRGB_TO_PROPHOTO)

# Correlated colour temperatures [K] of EXIF LightSource / DNG CalibrationIlluminant codes.
ILLUMINANT_KELVIN = {
    1: 5500, 2: 4150, 3: 2850, 4: 5500, 9: 5500, 10: 6500, 11: 7500, 12: 6430, 13: 5000, 14: 4150, 15: 3450,
    17: 2850, 18: 4874, 19: 6774, 20: 5500, 21: 6500, 22: 7500, 23: 5000, 24: 3200,
}  # fmt: skip


def wb_gains(as_shot_neutral: np.ndarray) -> np.ndarray:
    """Return white-balance multipliers (3,) with G = 1 from the camera RGB (3,) of a neutral object."""
    neutral = np.asarray(as_shot_neutral, np.float64)
    gains: np.ndarray = neutral[1] / neutral
    return gains


def cam_to_srgb(color_matrix: np.ndarray, row_sum: float | None = None) -> np.ndarray:
    """Return (3, 3) white-balanced camera RGB → linear sRGB from ``color_matrix`` (XYZ → camera).

    Two rules preserve white. With ``row_sum`` None, the rule of DNG readers, the camera's channels (columns) are scaled
    like by a white balance. With a number, the rule of the ParamISP networks' training, the rows are scaled to this sum
    (3 for the published weights of four cameras), which changes the hue of saturated colours.
    """
    color_matrix = np.asarray(color_matrix, np.float64)
    if row_sum is None:
        srgb_to_cam = color_matrix @ SRGB_TO_XYZ
        matrix: np.ndarray = np.linalg.inv(srgb_to_cam / srgb_to_cam.sum(1, keepdims=True))
        return matrix
    matrix = XYZ_TO_SRGB @ np.linalg.inv(color_matrix)
    matrix = matrix * (row_sum / matrix.sum(1, keepdims=True))
    return matrix


def cam_to_cam(matrix_a: np.ndarray, matrix_b: np.ndarray) -> np.ndarray:
    """Return (3, 3) white-balanced RGB of camera A → white-balanced RGB of camera B; its rows sum to 1.

    ``matrix_a`` and ``matrix_b`` are XYZ → camera. The result cancels the readers' step to sRGB (``cam_to_srgb``): a
    reader shows the same colours before and after. Of one matrix with itself it is the identity.
    """
    if np.array_equal(matrix_a, matrix_b):
        return np.eye(3)
    matrix = np.linalg.solve(cam_to_srgb(matrix_b), cam_to_srgb(matrix_a))
    exact: np.ndarray = matrix / matrix.sum(1, keepdims=True)  # 1 up to rounding
    return exact


def neutral_of_other(neutral: np.ndarray, matrix_a: np.ndarray, matrix_b: np.ndarray) -> np.ndarray:
    """Predict camera B's RGB (3,) of a neutral object, G = 1, from camera A's, as DNG readers find the light's XYZ.

    A's neutral goes to XYZ by the inverse of ``matrix_a``, and to B by ``matrix_b`` (both XYZ → camera). A value may be
    0 or less for a light that no camera meets.
    """
    other = np.asarray(matrix_b) @ np.linalg.solve(matrix_a, np.asarray(neutral, np.float64))
    scaled: np.ndarray = other / other[1]
    return scaled


def nearest_to_d65(illuminants: list[int | None]) -> int:
    """Return the index of the illuminant (EXIF LightSource codes) nearest to D65 in reciprocal temperature."""
    mired = [1e6 / ILLUMINANT_KELVIN.get(code or 0, 2000) for code in illuminants]
    return int(np.argmin([abs(m - 1e6 / 6504) for m in mired]))


def srgb_encode(linear: np.ndarray) -> np.ndarray:
    """Encode linear light by the sRGB transfer function (IEC 61966-2-1), odd-symmetric for negatives."""
    a = np.abs(linear)
    encoded: np.ndarray = np.sign(linear) * np.where(
        a <= 0.0031308, 12.92 * a, 1.055 * np.maximum(a, 1e-12) ** (1 / 2.4) - 0.055
    )
    return encoded


def srgb_decode(encoded: np.ndarray) -> np.ndarray:
    """Decode the sRGB transfer function to linear light, odd-symmetric for negatives."""
    a = np.abs(encoded)
    linear: np.ndarray = np.sign(encoded) * np.where(a <= 0.04045, a / 12.92, ((a + 0.055) / 1.055) ** 2.4)
    return linear


def srgb_to_lab(linear: np.ndarray) -> np.ndarray:
    """Convert (…, 3) linear sRGB to CIE L*a*b*, D65 white (CIE 15)."""
    xyz = linear @ SRGB_TO_XYZ.T / SRGB_TO_XYZ.sum(1)
    delta = 6 / 29
    f = np.where(xyz > delta**3, np.cbrt(np.maximum(xyz, 1e-12)), xyz / (3 * delta**2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def ciede2000(lab_1: np.ndarray, lab_2: np.ndarray) -> np.ndarray:
    """Return the colour difference ΔE00 (…) of two (…, 3) L*a*b* (CIE 142; names as in Sharma, Wu, Dalal 2005)."""
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(np.asarray(x, np.float64), -1, 0) for x in (lab_1, lab_2))
    c_bar7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    g = 0.5 * (1 - np.sqrt(c_bar7 / (c_bar7 + 25.0**7)))
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 == 0
    turn = h2 - h1
    turn = np.where(grey, 0, turn - 360 * np.round(turn / 360))
    d_l, d_c, d_h = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    l_bar, c_bar = (l1 + l2) / 2, (c1 + c2) / 2
    h_sum = h1 + h2
    h_mean = np.where(np.abs(h1 - h2) <= 180, h_sum / 2, np.where(h_sum < 360, h_sum / 2 + 180, h_sum / 2 - 180))
    h_bar = np.where(grey, h_sum, h_mean)
    t = (
        1
        - 0.17 * np.cos(np.radians(h_bar - 30))
        + 0.24 * np.cos(np.radians(2 * h_bar))
        + 0.32 * np.cos(np.radians(3 * h_bar + 6))
        - 0.20 * np.cos(np.radians(4 * h_bar - 63))
    )
    turned = 60 * np.exp(-(((h_bar - 275) / 25) ** 2))
    r_t = -2 * np.sqrt(c_bar**7 / (c_bar**7 + 25.0**7)) * np.sin(np.radians(turned))
    s_l = 1 + 0.015 * (l_bar - 50) ** 2 / np.sqrt(20 + (l_bar - 50) ** 2)
    s_c, s_h = 1 + 0.045 * c_bar, 1 + 0.015 * c_bar * t
    x, y, z = d_l / s_l, d_c / s_c, d_h / s_h
    distance: np.ndarray = np.sqrt(np.maximum(x * x + y * y + z * z + r_t * y * z, 0))
    return distance
