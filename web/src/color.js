// Three-vectors and 3×3 matrices of colour, row by row; see paramisp_cli/color.py. Matrices act on columns.

export const SRGB_TO_XYZ = [
  [0.4123907992659595, 0.35758433938387796, 0.1804807884018343],
  [0.21263900587151036, 0.7151686787677559, 0.07219231536073371],
  [0.01933081871559185, 0.11919477979462599, 0.9505321522496606],
];
export const XYZ_TO_SRGB = inverse(SRGB_TO_XYZ);
export const SRGB_TO_PROPHOTO = [
  [0.5292900462685786, 0.3301171656410729, 0.1405927880903488],
  [0.0983604208555234, 0.8734694174529825, 0.0281701616914940],
  [0.0168761670926747, 0.1176575280751748, 0.8654663048321506],
];

/** Multiply two matrices. */
export function product(a, b) {
  return a.map((row) => b[0].map((_, j) => row.reduce((sum, value, k) => sum + value * b[k][j], 0)));
}

/** Return the determinant of a 3×3 matrix. */
export function determinant([a, b, c]) {
  return a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0]);
}

/** Return the inverse of a 3×3 matrix. */
export function inverse(m) {
  const scale = determinant(m);
  const at = (i, j) => m[(i + 3) % 3][(j + 3) % 3];
  return [0, 1, 2].map((i) => [0, 1, 2].map((j) =>
    (at(j + 1, i + 1) * at(j + 2, i + 2) - at(j + 1, i + 2) * at(j + 2, i + 1)) / scale));
}

/** Return white-balanced camera RGB → linear sRGB from a matrix XYZ → camera, by the rule of DNG readers. */
export function camToSrgb(colorMatrix) {
  const m = product(colorMatrix, SRGB_TO_XYZ);
  return inverse(m.map((row) => row.map((value) => value / (row[0] + row[1] + row[2]))));
}

/** Encode linear light by the sRGB transfer function, odd-symmetric. */
export function encode(light) {
  const a = Math.abs(light);
  return Math.sign(light) * (a <= 0.0031308 ? 12.92 * a : 1.055 * a ** (1 / 2.4) - 0.055);
}

/** Decode the sRGB transfer function to linear light, odd-symmetric. */
export function decode(encoded) {
  const a = Math.abs(encoded);
  return Math.sign(encoded) * (a <= 0.04045 ? a / 12.92 : ((a + 0.055) / 1.055) ** 2.4);
}

/** Interpolate like numpy.interp: x and y of rising points, the ends' values beyond them. */
export function interpolate(value, x, y) {
  const last = x.length - 1;
  if (value >= x[last]) return y[last];
  if (value < x[0]) return y[0];
  let low = 0, high = last; // x[low] ≤ value < x[high]
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x[middle] <= value) low = middle;
    else high = middle;
  }
  return ((y[high] - y[low]) / (x[high] - x[low])) * (value - x[low]) + y[low];
}

export const clip = (value, low, high) => (value < low ? low : value > high ? high : value);

/** Return the quantile of numbers, interpolated linearly between two of them. */
export function quantile(numbers, share) {
  const sorted = Float64Array.from(numbers).sort(), place = share * (sorted.length - 1), low = Math.floor(place);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (place - low);
}
