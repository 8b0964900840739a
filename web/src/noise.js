// Measure the noise of a mosaic in its smooth blocks, for DNG's NoiseProfile; see paramisp_cli/flat_noise.py.

import { quantile } from "./color.js";

const BLOCK = 8, LEVELS = 45, STEP = 0.02, FEWEST = 40, QUARTILE = 0.745, BLOCKS = 1 << 14;

/** Return [scale, offset] of R, G, B; null if the mosaic is too small. */
export function usualNoise({ mosaic, height, width, canonical }) {
  const ofPlane = (height * width) / (4 * BLOCK ** 2), { black, white, cfa } = canonical;
  const step = Math.max(1, Math.round(Math.sqrt(ofPlane / BLOCKS))), least = 1 / (12 * white * white);
  const found = [];
  for (let channel = 0; channel < 3; channel++) {
    const points = [];
    for (let site = 0; site < 4; site++) {
      if ("RGB".indexOf(cfa[site]) !== channel) continue;
      points.push(...pointsOf({ mosaic, height, width, span: white - black, black }, site, step));
    }
    if (!points.length) return null;
    const [scale, offset] = line(points, least);
    found.push([Math.max(scale / QUARTILE, 1e-8), offset / QUARTILE]);
  }
  return found;
}

/** Return [level, variance, number of blocks] of each level of one plane with enough blocks. */
function pointsOf({ mosaic, height, width, span, black }, site, step) {
  const groups = Array.from({ length: LEVELS }, () => []), blockOf = new Float32Array(BLOCK * BLOCK);
  for (let i = 0; i < Math.floor(height / 2 / BLOCK); i += step) {
    for (let j = 0; j < Math.floor(width / 2 / BLOCK); j += step) {
      let level = 0, variance = 0;
      for (let y = 0; y < BLOCK; y++) {
        const row = (2 * (i * BLOCK + y) + (site >> 1)) * width + 2 * j * BLOCK + (site & 1);
        for (let x = 0; x < BLOCK; x++) {
          const value = (mosaic[row + 2 * x] - black) / span;
          blockOf[y * BLOCK + x] = value;
          level += blockOf[y * BLOCK + x];
        }
      }
      for (let y = 0; y < BLOCK; y += 2) {
        for (let x = 0; x < BLOCK; x += 2) {
          const at = y * BLOCK + x;
          variance += ((blockOf[at] - blockOf[at + BLOCK] - blockOf[at + 1] + blockOf[at + BLOCK + 1]) / 2) ** 2;
        }
      }
      level = Math.fround(level / BLOCK ** 2);
      const guess = Math.floor(level / STEP);
      for (let number = Math.max(guess - 1, 0); number <= Math.min(guess + 1, LEVELS - 1); number++) {
        const low = number * STEP; // as numpy.arange counts
        if (level >= low && level < low + STEP) groups[number].push((4 * variance) / BLOCK ** 2);
      }
    }
  }
  return groups.flatMap((inside, number) =>
    inside.length >= FEWEST ? [[number * STEP + 0.01, quantile(inside, 0.25), inside.length]] : []);
}

/** Fit variance = scale · level + offset, both ≥ 0; offset ≥ `least`. One level alone has the fit of least norm. */
function line(points, least) {
  const weighted = points.map(([level, variance, number]) => {
    const weight = Math.sqrt(number) / Math.max(variance, Math.max(least, 1e-12));
    return [level * weight, weight, variance * weight];
  });
  const sum = (f) => weighted.reduce((total, row) => total + f(row), 0);
  const [aa, ab, bb] = [sum(([a]) => a * a), sum(([a, b]) => a * b), sum(([, b]) => b * b)];
  const [ay, by] = [sum(([a, , y]) => a * y), sum(([, b, y]) => b * y)];
  const scale = aa * bb - ab * ab, level = points[0][0], mean = by / bb;
  const both = points.every((point) => point[0] === level)
    ? [(mean * level) / (level * level + 1), mean / (level * level + 1)]
    : [(ay * bb - by * ab) / scale, (by * aa - ay * ab) / scale];
  const fit = both.every((value) => value >= 0) ? both : ay >= 0 && aa > 0 ? [ay / aa, 0] : [0, by / bb];
  return [fit[0], Math.max(fit[1], least)];
}
