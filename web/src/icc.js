// Convert pixels to sRGB by a profile of primaries and tone curves, or by EXIF's mark for Adobe RGB.
// It follows paramisp_cli/formats/icc.py. Profiles made of tables are refused: the command line converts them.

import { XYZ_TO_SRGB, clip, determinant, encode, interpolate, product } from "./color.js";
import { view } from "./tiff.js";

const D50_TO_D65 = [
  [0.9555766, -0.0230393, 0.0631636], [-0.0282895, 1.0099416, 0.0210077], [0.0122982, -0.020483, 1.3299098],
];
const ADOBE_TO_XYZ = [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]];
const AXIS = Array.from({ length: 256 }, (_, code) => code / 255);

/**
 * Return [pixels, notes] of (H·W·3) 8-bit pixels: the same array, or Uint16Array after a conversion.
 * `Refusal` is thrown for a profile made of tables.
 */
export function toSrgb(pixels, icc, exifSpace, Refusal) {
  if (!icc) {
    if (exifSpace !== "Adobe RGB") return [pixels, []];
    const curve = AXIS.map((value) => value ** (563 / 256));
    return convert(pixels, [curve, curve, curve], product(XYZ_TO_SRGB, ADOBE_TO_XYZ), "Adobe RGB (from EXIF)");
  }
  let name, curves, matrix;
  try {
    const tags = tagsOf(icc), space = letters(icc, 16, 4);
    if (icc.length < 132) throw new Error("it is cut short");
    name = nameOf(tags) || "an unnamed profile";
    if (space === "GRAY") return [pixels, []];
    if (space !== "RGB ") {
      return [pixels, [`the embedded profile (${name}) is not for RGB and was ignored; the pixels count as sRGB`]];
    }
    if (!["rXYZ", "gXYZ", "bXYZ", "rTRC", "gTRC", "bTRC"].every((tag) => tags.has(tag))) {
      throw new Refusal(
        `its colour profile (${name}) is made of tables, which this page does not convert; use \`paramisp unprocess\``,
      );
    }
    curves = ["rTRC", "gTRC", "bTRC"].map((tag) => curveOf(tags.get(tag)));
    const columns = ["rXYZ", "gXYZ", "bXYZ"].map((tag) => xyzOf(tags.get(tag)));
    matrix = product(XYZ_TO_SRGB, product(D50_TO_D65, [0, 1, 2].map((i) => columns.map((column) => column[i]))));
    const sums = matrix.map((row) => row[0] + row[1] + row[2]);
    if (!matrix.flat().every(Number.isFinite) || Math.abs(determinant(matrix)) < 1e-3 || sums.some((s) => s <= 0.1)) {
      throw new Error("its primaries make no sense");
    }
    if (curves.some((curve) => !curve.every(Number.isFinite) || curve[255] - curve[0] < 0.5)) {
      throw new Error("its tone curves make no sense");
    }
  } catch (error) {
    if (error instanceof Refusal) throw error;
    return [pixels, [`the embedded colour profile cannot be used (${error.message}); the pixels count as sRGB`]];
  }
  // sRGB by its numbers, not by name: primaries and tone curve within the precision of 8 bits.
  const away = Math.max(...curves.flatMap((curve) => curve.map((light, i) => Math.abs(encode(light) - AXIS[i]))));
  const off = Math.max(...matrix.flatMap((row, i) => row.map((value, j) => Math.abs(value - (i === j ? 1 : 0)))));
  if (away < 0.006 && off < 0.005) return [pixels, []];
  return convert(pixels, curves, matrix, name);
}

function convert(pixels, curves, matrix, name) {
  const m = matrix.map((row) => row.map((value) => Math.fround(value / (row[0] + row[1] + row[2]))));
  const tables = curves.map((curve) => Float32Array.from(curve));
  const codes = Uint16Array.from({ length: 65536 }, (_, i) => Math.round(encode((i / 65535) ** 2) * 65535));
  const out = new Uint16Array(pixels.length);
  let outside = 0;
  for (let at = 0; at < pixels.length; at += 3) {
    const r = tables[0][pixels[at]], g = tables[1][pixels[at + 1]], b = tables[2][pixels[at + 2]];
    let beyond = false;
    for (let i = 0; i < 3; i++) {
      const light = m[i][0] * r + m[i][1] * g + m[i][2] * b;
      beyond ||= light < -1.5e-4 || light > 1.0045; // half an 8-bit code beyond either end
      out[at + i] = codes[Math.floor(Math.sqrt(clip(light, 0, 1)) * 65535 + 0.5)];
    }
    outside += beyond;
  }
  const share = (300 * outside) / pixels.length;
  const clipped = outside ? `; ${Math.max(share, 0.01).toPrecision(2)} % of the pixels were outside sRGB` : "";
  return [out, [`converted from ${name} to sRGB${clipped}`]];
}

const letters = (data, at, count) => String.fromCharCode(...data.subarray(at, at + count));

function tagsOf(icc) {
  const data = view(icc), tags = new Map(), count = Math.min(data.getUint32(128), 256);
  for (let at = 132; at < 132 + 12 * count; at += 12) {
    const offset = data.getUint32(at + 4);
    tags.set(letters(icc, at, 4), icc.subarray(offset, offset + data.getUint32(at + 8)));
  }
  return tags;
}

function nameOf(tags) {
  const data = tags.get("desc") ?? new Uint8Array();
  const trimmed = (text) => text.replace(/^[\0 ]+|[\0 ]+$/g, "");
  if (letters(data, 0, 4) === "mluc" && data.length >= 28) {
    const length = view(data).getUint32(20), offset = view(data).getUint32(24);
    return trimmed(new TextDecoder("utf-16be").decode(data.subarray(offset, offset + length)));
  }
  return letters(data, 0, 4) === "desc" ? trimmed(letters(data, 12, view(data).getUint32(8))) : "";
}

const fixed = (data, at) => view(data).getInt32(at) / 65536;
const xyzOf = (data) => [8, 12, 16].map((at) => fixed(data, at));

/** Return linear light at each of the 256 codes: a curveType or parametricCurveType. */
function curveOf(data) {
  const kind = letters(data, 0, 4);
  if (kind === "curv") {
    const count = view(data).getUint32(8);
    if (count === 0) return AXIS;
    const points = Array.from({ length: count }, (_, i) => view(data).getUint16(12 + 2 * i));
    if (count === 1) return AXIS.map((value) => value ** (points[0] / 256));
    const places = points.map((_, i) => i / (count - 1));
    return AXIS.map((value) => interpolate(value, places, points.map((point) => point / 65535)));
  }
  if (kind !== "para") throw new Error(`tone curve of type ${kind}`);
  const form = view(data).getUint16(8), count = [1, 3, 4, 5, 7][form];
  let [g, a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = Array.from({ length: count }, (_, i) => fixed(data, 12 + 4 * i));
  if (form === 0) [a, d] = [1, 0];
  else if (form <= 2) [d, e, f, c] = [-b / a, c, c, 0]; // above −b/a the power, below it a constant
  return AXIS.map((value) => clip(value >= d ? Math.max(a * value + b, 0) ** g + e : c * value + f, 0, 1));
}
