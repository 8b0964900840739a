// Facts of cameras, and the white balance of a shot whose file states none.
// It follows paramisp_cli/cameras and paramisp_cli/white_balance.py. `build.py` writes the table, dist/cameras.json.

import { numbers } from "./exif.js";
import { roundHalfEven } from "./exif.js";
import { fixed } from "./python.js";

/** The table: {brands, cameras, generic, index, kelvin}. */
export class Cameras {
  constructor(table) {
    this.table = table;
  }

  get generic() {
    return this.table.generic;
  }

  /** Return the facts of a camera by the make and model of its EXIF, or null. */
  find(camera) {
    if (!camera || !camera.model.trim()) return null;
    const { index, cameras } = this.table, brand = this.brand(camera.make), key = modelKey(brand, camera.model);
    if (brand) return cameras[index[brand]?.[key]] ?? null;
    const found = new Set();
    for (const [own, models] of Object.entries(index)) {
      const wanted = modelKey(own, camera.model);
      if (wanted && wanted in models) found.add(models[wanted]);
    }
    return found.size === 1 ? cameras[[...found][0]] : null;
  }

  brand(make) {
    const word = /^[a-z]*/.exec(make.toLowerCase().trim())[0];
    return this.table.brands[word] ?? word;
  }
}

function modelKey(brand, model) {
  let text = model.toLowerCase().replace(/\b(digital|camera)\b/g, " ").trim();
  if (brand && text.startsWith(brand)) text = text.slice(brand.length);
  return text.replace(/[^a-z0-9+*]/g, "");
}

/** Spell a camera's name for file names: "GoPro HERO7 Black" → "gopro-hero7-black". */
export const slug = (name) => name.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "");

/** Return [black, white] at an ISO, or at most ISOs. */
export function levels(facts, iso) {
  for (const row of facts.levels) {
    const [low, high] = row.iso_range ?? [0, -1];
    if (iso !== null && (row.iso?.includes(iso) || (low <= iso && iso <= (high ?? Infinity)))) {
      return [row.black, row.white];
    }
  }
  const usual = facts.levels.find((row) => !row.iso && !row.iso_range) ?? facts.levels[0];
  return usual ? [usual.black, usual.white] : [512, 16383];
}

// --- white balance: the prior of white_balance.py --------------------------------------------------------------------

const DAYLIGHT = 1e6 / 5500, WARMEST = 1e6 / 2500, COOLEST = 1e6 / 9000;
const BRIGHT = 12, DIM = 7, LAMPS = 230;
const SPREAD_BRIGHT = 22, SPREAD_DIM = 48, SPREAD_STATED = 20, SPREAD_UNKNOWN = 45;
const ACROSS = [0.1, 0.1], ACROSS_COMPUTED = [0.2, 0.2], ACROSS_GENERIC = [0.28, 0.21];

/** Estimate the gains that a picture's camera had: {neutral, origin}. */
export function estimatedBalance(table, facts, optical, block) {
  const { generic, kelvin } = table.table, known = facts ?? generic;
  const matrix = facts?.matrix ?? generic.matrix;
  const hasOwn = facts !== null && facts.neutral !== null;
  const neutral = hasOwn ? facts.neutral : generic.neutral;
  const across = !hasOwn ? ACROSS_GENERIC : facts.daylight_from_matrix ? ACROSS_COMPUTED : ACROSS;
  const [mired, spread, light] = lightOf(kelvin, optical, block);
  const [day, now, next] = [DAYLIGHT, mired, mired + 1].map((place) => stopsOf(matrix, known, kelvin, place));
  const along = [0, 1].map((i) => (next[i] - now[i]) * spread);
  const [red, blue] = [0, 1].map((i) => 2 ** -(now[i] - day[i]));
  const whose = hasOwn ? `camera table (${facts.name})` : "an average camera";
  const [r, b] = [0, 1].map((i) => fixed(Math.sqrt(along[i] ** 2 + across[i] ** 2), 2));
  return {
    neutral: [(neutral[0] / neutral[1]) * red, 1, (neutral[2] / neutral[1]) * blue],
    origin: `${whose}, ${light}; ± ${r} stops (R), ${b} (B)`,
  };
}

/** Return the likely reciprocal temperature of the light [mired], its standard deviation, and a text. */
function lightOf(kelvins, { iso, exposure_time, f_number }, block) {
  const [source, flash, balance] = [0x9208, 0x9209, 0xa403].map((tag) => numbers(block, tag)[0]);
  const kelvin = kelvins[source];
  if (kelvin !== undefined) return [1e6 / kelvin, SPREAD_STATED, `light of ${kelvin} K (EXIF LightSource)`];
  if (flash !== undefined && Math.trunc(flash) & 1) return [DAYLIGHT, SPREAD_BRIGHT, "daylight (the flash fired)"];
  if (balance === 1 || iso === null || exposure_time === null || f_number === null) {
    return [DAYLIGHT, SPREAD_UNKNOWN, "daylight"];
  }
  const brightness = Math.log2(((f_number ** 2 / exposure_time) * 100) / iso);
  const dim = Math.min(Math.max((BRIGHT - brightness) / (BRIGHT - DIM), 0), 1);
  const mired = DAYLIGHT + dim * (LAMPS - DAYLIGHT);
  const variance = (1 - dim) * SPREAD_BRIGHT ** 2 + dim * SPREAD_DIM ** 2;
  const spread = Math.sqrt(variance + dim * (1 - dim) * (LAMPS - DAYLIGHT) ** 2);
  const about = 100 * roundHalfEven(1e4 / mired);
  return [mired, spread, dim ? `light of about ${about} K (EV ${fixed(brightness, 1)})` : "daylight"];
}

/** Return the gains [stops] of red and blue for a light; two matrices are interpolated over mired, as in DNG. */
function stopsOf(one, facts, kelvins, place) {
  const mired = Math.min(Math.max(place, COOLEST), WARMEST);
  const kelvin = kelvins[facts.illuminant_2 ?? 0];
  let matrix = one;
  if (facts.matrix_2 && kelvin !== undefined && 1e6 / kelvin > DAYLIGHT) {
    const first = 1e6 / 6504, share = Math.min(Math.max((mired - first) / (1e6 / kelvin - first), 0), 1);
    matrix = one.map((row, i) => row.map((value, j) => value * (1 - share) + facts.matrix_2[i][j] * share));
  }
  const [x, y] = chromaticity(mired), xyz = [x / y, 1, (1 - x - y) / y];
  const rgb = matrix.map((row) => Math.max(row[0] * xyz[0] + row[1] * xyz[1] + row[2] * xyz[2], 1e-3));
  return [Math.log2(rgb[1] / rgb[0]), Math.log2(rgb[1] / rgb[2])];
}

/** Return CIE x, y: daylight from 5000 K, a black body to 4000 K, or a mixture. */
function chromaticity(mired) {
  const kelvin = 1e6 / mired, t = 1e3 / kelvin;
  const bodyX = -0.2661239 * t ** 3 - 0.2343589 * t ** 2 + 0.8776956 * t + 0.17991;
  const bodyY = kelvin < 2222
    ? -1.1063814 * bodyX ** 3 - 1.3481102 * bodyX ** 2 + 2.18555832 * bodyX - 0.20219683
    : -0.9549476 * bodyX ** 3 - 1.37418593 * bodyX ** 2 + 2.09137015 * bodyX - 0.16748867;
  const dayX = kelvin <= 7000
    ? -4.607 * t ** 3 + 2.9678 * t ** 2 + 0.09911 * t + 0.244063
    : -2.0064 * t ** 3 + 1.9018 * t ** 2 + 0.24748 * t + 0.23704;
  const dayY = -3 * dayX ** 2 + 2.87 * dayX - 0.275;
  const share = Math.min(Math.max((250 - mired) / 50, 0), 1);
  return [bodyX + share * (dayX - bodyX), bodyY + share * (dayY - bodyY)];
}
