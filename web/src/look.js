// Fit the tone curve and the look-up table that make a DNG look like its picture.
// It follows paramisp_cli/look.py and paramisp_cli/look_table.py, which explain every constant.

import { SRGB_TO_PROPHOTO, camToSrgb, clip, decode, encode, interpolate, quantile } from "./color.js";

const SAMPLES = 320, TABLE_SAMPLES = 40_000, FEW = 256;
const CLIPPED = 0.999, NEUTRAL = 0.25, SHADOW = 0.01, COLOURED = 0.2, SRGB = 0.6;
const BLACK = 2 / 255, BLACK_SHARE = 0.75, ENOUGH = 32, BINS = 61, GAP = 1e-6;
const VALUES = 7, HUES = 18, SATURATIONS = 7, SMOOTH = 2e-5, IDENTITY = 3e-6, GREY = 0.15, DARK = 0.3, TURN = 60;

export const TABLE_SHAPE = [HUES, SATURATIONS, VALUES];

/** Return {curve: [[x, y], …], table: Float64Array (V·H·S·3) or null}; null for a picture of fewer than 64 sites. */
export function matched(picture, raw) {
  const found = samples(picture, raw);
  if (!found) return null;
  const curve = fittedCurve(found.linear, found.shown);
  return { curve, table: fittedTable(found, curve) };
}

/** Return linear sRGB of every step-th 2×2 of the mosaic and of the picture: (rows · columns · 3) both. */
function samples(picture, raw) {
  const rows2 = picture.height >> 1, columns2 = picture.width >> 1;
  const step = Math.max(Math.floor(Math.min(rows2, columns2) / SAMPLES), 1);
  const rows = Math.ceil(rows2 / step), columns = Math.ceil(columns2 / step);
  if (rows * columns < 64) return null;
  const { mosaic, width, canonical, gains } = raw, least = Math.min(...gains), m = camToSrgb(canonical.matrix);
  const top = picture.scale, light = Float64Array.from({ length: top + 1 }, (_, code) => decode(code / top));
  const linear = new Float64Array(3 * rows * columns), shown = new Float64Array(3 * rows * columns);
  const channels = Array.from(canonical.cfa, (letter) => "RGB".indexOf(letter));
  const span = canonical.white - canonical.black;
  let to = 0;
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++, to += 3) {
      const camera = [0, 0, 0];
      for (let site = 0; site < 4; site++) {
        const y = 2 * step * i + (site >> 1), x = 2 * step * j + (site & 1), channel = channels[site];
        camera[channel] += ((mosaic[y * width + x] - canonical.black) / span) * (channel === 1 ? 0.5 : 1);
        const at = 3 * (y * picture.width + x);
        for (let c = 0; c < 3; c++) shown[to + c] += light[picture.pixels[at + c]] / 4;
      }
      for (let c = 0; c < 3; c++) camera[c] = clip(camera[c] * (gains[c] / least), 0, 1);
      for (let c = 0; c < 3; c++) linear[to + c] = m[c][0] * camera[0] + m[c][1] * camera[1] + m[c][2] * camera[2];
    }
  }
  return { linear, shown, rows, columns };
}

const prophoto = (light, at, row) =>
  clip(SRGB_TO_PROPHOTO[row][0] * light[at] + SRGB_TO_PROPHOTO[row][1] * light[at + 1] +
    SRGB_TO_PROPHOTO[row][2] * light[at + 2], 0, 1);

const saturationOf = (a, b, c) => {
  const high = Math.max(a, b, c);
  return (high - Math.min(a, b, c)) / (high + 0.1);
};

function fittedCurve(linear, shown) {
  const sums = { weight: new Float64Array(BINS), x: new Float64Array(BINS), y: new Float64Array(BINS) };
  const counts = new Float64Array(BINS), blacks = [];
  const add = (x, y, weight) => {
    const bin = Math.min(Math.trunc(Math.cbrt(x) * BINS), BINS - 1);
    counts[bin] += 1;
    sums.weight[bin] += weight;
    sums.x[bin] += weight * x;
    sums.y[bin] += weight * y;
  };
  let black = 0;
  for (let at = 0; at < linear.length; at += 3) {
    if (!(Math.max(linear[at], linear[at + 1], linear[at + 2]) < CLIPPED)) continue;
    const wide = [0, 1, 2].map((row) => prophoto(linear, at, row));
    const target = [0, 1, 2].map((row) => encode(prophoto(shown, at, row)));
    const encoded = [0, 1, 2].map((c) => encode(shown[at + c]));
    const isBlack = Math.max(...encoded) <= BLACK;
    const saturation = Math.max(saturationOf(...wide.map(encode)), saturationOf(...target));
    const weight = isBlack ? 4 : saturation > NEUTRAL ? COLOURED : 1;
    for (let c = 0; c < 3; c++) {
      add(wide[c], target[c], weight);
      const narrow = clip(linear[at + c], 0, 1);
      if (narrow > SHADOW) add(narrow, encoded[c], SRGB * weight);
    }
    if (isBlack) {
      black += 1;
      blacks.push(...wide);
    }
  }
  let curve = isotonicPoints(counts, sums);
  if (black >= ENOUGH) {
    const floor = quantile(blacks, BLACK_SHARE);
    curve = [[floor, 0], ...curve.filter(([x]) => x > floor + GAP)];
  }
  return [[0, 0], ...curve.filter(([x]) => x > GAP && x < 1 - GAP), [1, 1]];
}

/** Return rising points of the bins: pool adjacent violators; bins of one level become one point. */
function isotonicPoints(counts, sums) {
  const pools = []; // [level, weight, sum of x · weight]
  const bins = [];
  for (let bin = 0; bin < BINS; bin++) {
    if (counts[bin] < ENOUGH) continue;
    let [level, weight, count] = [sums.y[bin] / sums.weight[bin], sums.weight[bin], 1];
    bins.push(bin);
    while (pools.length && pools.at(-1)[0] >= level) {
      const [before, other, more] = pools.pop();
      level = (before * other + level * weight) / (other + weight);
      weight += other;
      count += more;
    }
    pools.push([level, weight, count]);
  }
  let next = 0;
  return pools.map(([level, , count]) => {
    const own = bins.slice(next, next + count);
    next += count;
    const total = (name) => own.reduce((sum, bin) => sum + sums[name][bin], 0);
    return [total("x") / total("weight"), clip(decode(level), 0, 1)];
  });
}

// --- the look-up table -----------------------------------------------------------------------------------------------

function hsv([r, g, b]) {
  const value = Math.max(r, g, b), gap = value - Math.min(r, g, b);
  if (!(gap > 0)) return [0, 0, value];
  const side = r === value ? (g - b) / gap : g === value ? 2 + (b - r) / gap : 4 + (r - g) / gap;
  return [((side % 6) + 6) % 6, gap / Math.max(value, 1e-12), value];
}

function fittedTable({ linear, shown, rows, columns }, curve) {
  const step = Math.ceil(Math.sqrt((rows * columns) / TABLE_SAMPLES));
  const count = Math.ceil(rows / step) * Math.ceil(columns / step);
  if (count < FEW) return null;
  const [x, y] = [curve.map((point) => point[0]), curve.map((point) => point[1])];
  const corners = new Int32Array(8 * count), weights = new Float64Array(8 * count);
  const chroma = new Float64Array(count), wanted = [new Float64Array(count), new Float64Array(count)];
  const light = new Float64Array(count), lightTo = new Float64Array(count);
  let n = 0;
  for (let i = 0; i < rows; i += step) {
    for (let j = 0; j < columns; j += step, n++) {
      const at = 3 * (i * columns + j);
      const [one, two] = [linear, shown].map((source) => [0, 1, 2].map((c) => source[at + c]));
      const wide = [0, 1, 2].map((row) => prophoto(one, 0, row));
      const target = through([0, 1, 2].map((row) => prophoto(two, 0, row)), y, x); // the curve's inverse
      const [hue, saturation, value] = hsv(wide), [hueTo, saturationTo, valueTo] = hsv(target);
      light[n] = encode(value);
      lightTo[n] = encode(valueTo);
      setCorners(corners, weights, 8 * n, hue, saturation, light[n]);
      const seen = Math.max(light[n], DARK) / (saturation + GREY), turn = (Math.PI / 3) * (hueTo - hue);
      chroma[n] = saturation * seen;
      wanted[0][n] = saturationTo * Math.cos(turn) * seen;
      wanted[1][n] = saturationTo * Math.sin(turn) * seen;
    }
  }
  const [re, im] = solved(corners, weights, chroma, wanted, [1, 0]);
  const [scale] = solved(corners, weights, light, [lightTo], [1]);
  const table = new Float64Array(3 * re.length);
  for (let entry = 0; entry < re.length; entry++) {
    const isGrey = entry % SATURATIONS === 0; // the specification demands no change of greys
    table[3 * entry] = isGrey ? 0 : clip((Math.atan2(im[entry], re[entry]) * 180) / Math.PI, -TURN, TURN);
    table[3 * entry + 1] = clip(Math.hypot(re[entry], im[entry]), 0, 4);
    table[3 * entry + 2] = isGrey ? 1 : clip(scale[entry], 0, 4);
  }
  return table;
}

/** Take the outer channels through a curve, the middle one at its place between them. */
function through(rgb, x, y) {
  const low = Math.min(...rgb), high = Math.max(...rgb), gap = Math.max(high - low, 1e-12);
  const [from, to] = [interpolate(low, x, y), interpolate(high, x, y)];
  return rgb.map((value) => from + ((value - low) / gap) * (to - from));
}

function setCorners(corners, weights, at, hue, saturation, light) {
  const v = light * (VALUES - 1), h = (hue * HUES) / 6, s = saturation * (SATURATIONS - 1);
  const v0 = Math.min(Math.trunc(v), VALUES - 2), h0 = Math.min(Math.trunc(h), HUES - 1);
  const s0 = Math.min(Math.trunc(s), SATURATIONS - 2);
  for (let corner = 0; corner < 8; corner++) {
    const dv = corner >> 2, dh = (corner >> 1) & 1, ds = corner & 1;
    corners[at + corner] = ((v0 + dv) * HUES + ((h0 + dh) % HUES)) * SATURATIONS + s0 + ds;
    weights[at + corner] =
      Math.abs(1 - dv - (v - v0)) * Math.abs(1 - dh - (h - h0)) * Math.abs(1 - ds - (s - s0));
  }
}

/** Solve for the tables t of least (x · t − y)², smooth and near `plain`, one for each y. */
function solved(corners, weights, x, ys, plain) {
  const size = VALUES * HUES * SATURATIONS, normal = new Float64Array(size * size);
  const right = ys.map(() => new Float64Array(size)), count = x.length;
  for (let n = 0; n < count; n++) {
    for (let i = 8 * n; i < 8 * n + 8; i++) {
      const weighted = weights[i] * x[n], row = corners[i] * size;
      ys.forEach((y, k) => (right[k][corners[i]] += weighted * y[n]));
      for (let j = 8 * n; j < 8 * n + 8; j++) normal[row + corners[j]] += weighted * x[n] * weights[j];
    }
  }
  const smooth = SMOOTH * count, identity = IDENTITY * count;
  const pair = (one, two) => {
    normal[one * size + one] += smooth;
    normal[two * size + two] += smooth;
    normal[one * size + two] -= smooth;
    normal[two * size + one] -= smooth;
  };
  for (let v = 0; v < VALUES; v++) {
    for (let h = 0; h < HUES; h++) {
      for (let s = 0; s < SATURATIONS; s++) {
        const at = (v * HUES + h) * SATURATIONS + s;
        if (v) pair(at, at - HUES * SATURATIONS);
        pair(at, (v * HUES + ((h + HUES - 1) % HUES)) * SATURATIONS + s);
        if (s) pair(at, at - 1);
        normal[at * size + at] += identity;
      }
    }
  }
  right.forEach((side, k) => side.forEach((_, i) => (side[i] += identity * plain[k])));
  return cholesky(normal, size, right);
}

/** Solve a symmetric positive definite system for several right sides; overwrites all of them. */
function cholesky(a, size, sides) {
  for (let i = 0; i < size; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = a[i * size + j];
      for (let k = 0; k < j; k++) sum -= a[i * size + k] * a[j * size + k];
      a[i * size + j] = i === j ? Math.sqrt(sum) : sum / a[j * size + j];
    }
  }
  for (const b of sides) {
    for (let i = 0; i < size; i++) {
      for (let k = 0; k < i; k++) b[i] -= a[i * size + k] * b[k];
      b[i] /= a[i * size + i];
    }
    for (let i = size - 1; i >= 0; i--) {
      for (let k = i + 1; k < size; k++) b[i] -= a[k * size + i] * b[k];
      b[i] /= a[i * size + i];
    }
  }
  return sides;
}
