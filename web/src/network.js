// Run an exported network over a picture, tile by tile. It follows paramisp_cli/onnx_runner.py.

import { camToSrgb } from "./color.js";
import { roundHalfEven } from "./exif.js";
import { bind } from "./onnx.js";

const OPTICAL = ["focal_length", "f_number", "exposure_time", "iso"];
export const FALLBACK = { iso: 160, exposure_time: 1 / 125, f_number: 2.8, focal_length: 80 };
const CELLS = 16, SMALLEST_TILE = 256, SHARE_OF_CODE = 0.5;
/** Largest tile with its surroundings [px]: the network takes 165 to 270 bytes for each. */
const TILE_PIXELS = 1_000_000;

/** Return indices that extend [0, size) by reflection about its first and last sample. */
export function reflectIndex(size, before, after) {
  const period = Math.max(2 * (size - 1), 1);
  return Int32Array.from({ length: before + size + after }, (_, i) => {
    const index = (((i - before) % period) + period) % period;
    return size > 1 ? Math.min(index, period - index) : 0;
  });
}

const roundUp = (size, multiple) => Math.ceil(size / multiple) * multiple;

/** Cut [0, size) into pieces of `length`, each with its surroundings: [begin, end, first, last]. */
export function spans(size, length, multiple, halo) {
  const padded = Math.max(roundUp(size, multiple), multiple), pieces = [];
  for (let begin = 0; begin < size; begin += length) {
    const end = Math.min(begin + length, size), last = Math.min(roundUp(end + halo, multiple), padded);
    const first = Math.floor(Math.max(begin - halo, 0) / multiple) * multiple;
    pieces.push([begin, end, Math.max(Math.min(first, last - multiple), 0), last]);
  }
  return pieces;
}

/** Choose height and width of tiles: the least work within TILE_PIXELS. */
export function tileOf(size, multiple, halo) {
  let best = Infinity, chosen = [SMALLEST_TILE, SMALLEST_TILE];
  for (let rows = 1; rows <= Math.ceil(size[0] / SMALLEST_TILE); rows++) {
    for (let columns = 1; columns <= Math.ceil(size[1] / SMALLEST_TILE); columns++) {
      const tile = [roundUp(Math.ceil(size[0] / rows), multiple), roundUp(Math.ceil(size[1] / columns), multiple)];
      if ((tile[0] + 2 * halo) * (tile[1] + 2 * halo) > TILE_PIXELS) continue;
      const work = (size[0] + 2 * halo * (rows - 1)) * (size[1] + 2 * halo * (columns - 1));
      if (work < best) [best, chosen] = [work, tile];
    }
  }
  return chosen;
}

/** Average the padded picture to 16×16 cells of three colours, (3 · 16 · 16), as adaptive pooling. */
export function thumbnail(picture, rows, columns) {
  const cells = (length) => Array.from({ length: CELLS }, (_, cell) =>
    [Math.floor((cell * length) / CELLS), Math.ceil(((cell + 1) * length) / CELLS)].map((place) => 2 * place));
  const across = cells(columns.length / 2), out = new Float64Array(3 * CELLS * CELLS);
  const { pixels, width, scale } = picture;
  cells(rows.length / 2).forEach(([top, bottom], i) => {
    across.forEach(([left, right], j) => {
      const sums = [0, 0, 0];
      for (let row = top; row < bottom; row++) {
        const line = rows[row] * width;
        for (let column = left; column < right; column++) {
          const at = 3 * (line + columns[column]);
          sums[0] += pixels[at];
          sums[1] += pixels[at + 1];
          sums[2] += pixels[at + 2];
        }
      }
      const area = (bottom - top) * (right - left) * scale;
      sums.forEach((sum, colour) => (out[(colour * CELLS + i) * CELLS + j] = sum / area));
    });
  });
  return out;
}

/**
 * Run the network: return {mosaic, height, width, backend, notices}.
 *
 * picture   {pixels, height, width, scale}: (H · W · 3) sRGB codes, `scale` is the code of 1
 * canonical {cfa, black, white, neutral, matrix}
 * weights   {onnx: the exported file, multiple, halo, lens_shading}
 * runtime   {open(bytes, kind), kinds}: makes a session; "webgpu" is checked against "wasm" on one tile
 */
export async function unprocess(picture, canonical, optical, weights, runtime, progress) {
  const { multiple, halo } = weights;
  const height = Math.max(picture.height + (picture.height % 2), 24);
  const width = Math.max(picture.width + (picture.width % 2), 24);
  const down = reflectIndex(picture.height, 0, height - picture.height);
  const across = reflectIndex(picture.width, 0, width - picture.width);
  const { neutral } = canonical, gains = neutral.map((value) => neutral[1] / value);
  const model = bind(weights.onnx, {
    wb_gains: [[3], gains],
    cam_to_srgb: [[3, 3], camToSrgb(canonical.matrix).flat()],
    optical: [[4], OPTICAL.map((name) => optical[name] ?? FALLBACK[name])],
    thumbnail: [[1, 3, CELLS, CELLS], thumbnail(picture, down, across)],
  });
  // The graph wants a CFA that begins with red: the picture is extended by reflection on the left or above.
  const red = canonical.cfa.indexOf("R"), offsets = [red >> 1, red & 1];
  const places = [down, across].map((inner, axis) => {
    const padded = roundUp(Math.max(inner.length, multiple), multiple);
    const extended = reflectIndex(inner.length, 0, padded - inner.length);
    const outer = reflectIndex(padded, offsets[axis], offsets[axis] && multiple - offsets[axis]);
    return outer.map((place) => inner[extended[place]]);
  });
  const size = [height, width], tile = tileOf([places[0].length, places[1].length], multiple, halo);
  const cuts = places.map((place, axis) => spans(place.length, tile[axis], multiple, halo)
    .filter(([begin]) => begin < offsets[axis] + size[axis]));
  const mosaic = new Uint16Array(height * width), notices = [];
  const span = canonical.white - canonical.black;
  let { session, backend } = await openChecked(runtime, model, span, picture, notices);
  let done = 0;
  try {
    for (const y of cuts[0]) {
      for (const x of cuts[1]) {
        const rows = places[0].subarray(y[2], y[3]), columns = places[1].subarray(x[2], x[3]);
        const values = await session.run(planes(picture, rows, columns), rows.length, columns.length);
        const first = [y, x].map((s, axis) => Math.max(s[0], offsets[axis]));
        const end = [y, x].map((s, axis) => Math.min(s[1], offsets[axis] + size[axis]));
        for (let row = first[0]; row < end[0]; row++) {
          let from = (row - y[2]) * columns.length + first[1] - x[2];
          let to = (row - offsets[0]) * width + first[1] - offsets[1];
          for (let column = first[1]; column < end[1]; column++, from++, to++) {
            let light = values[from];
            if (weights.lens_shading) {
              light /= shadingGain(weights, canonical.cfa, row - offsets[0], column - offsets[1], size);
            }
            const code = roundHalfEven(Math.fround(Math.fround(light * span) + canonical.black));
            mosaic[to] = code < 0 ? 0 : code > canonical.white ? canonical.white : code;
          }
        }
        done += (end[0] - first[0]) * (end[1] - first[1]);
        progress(done / (height * width));
      }
    }
  } finally {
    await session.release();
  }
  return { mosaic, height, width, gains, backend, notices };
}

/** Return rows and columns of a picture as three planes of [0, 1], float32. */
function planes({ pixels, width, scale }, rows, columns) {
  const area = rows.length * columns.length, out = new Float32Array(3 * area);
  let to = 0;
  for (const row of rows) {
    for (const column of columns) {
      const at = 3 * (row * width + column);
      out[to] = pixels[at] / scale;
      out[to + area] = pixels[at + 1] / scale;
      out[to + 2 * area] = pixels[at + 2] / scale;
      to += 1;
    }
  }
  return out;
}

/** Open a session; on a GPU only if a tile of the picture comes out as on the CPU, within half a code. */
async function openChecked(runtime, model, span, picture, notices) {
  if (runtime.kinds.includes("webgpu")) {
    let session = null;
    try {
      session = await runtime.open(model, "webgpu");
      const side = 192, corner = (length) => Math.max(Math.floor((length - side) / 2), 0);
      const lines = (length) => Int32Array.from({ length: side }, (_, i) => Math.min(corner(length) + i, length - 1));
      const tile = planes(picture, lines(picture.height), lines(picture.width));
      const plain = await runtime.open(model, "wasm");
      const [one, two] = [await session.run(tile, side, side), await plain.run(tile, side, side)];
      await plain.release();
      const away = one.reduce((most, value, i) => Math.max(most, Math.abs(value - two[i])), 0);
      if (away * span <= SHARE_OF_CODE) return { session, backend: "WebGPU" };
      notices.push(`WebGPU was off by ${(away * span).toFixed(1)} codes: used WASM`);
    } catch (error) {
      notices.push(`WebGPU failed (${String(error.message ?? error).split("\n")[0].slice(0, 120)}): used WASM`);
    }
    await session?.release();
  }
  return { session: await runtime.open(model, "wasm"), backend: "WASM" };
}

/** Return the factor that undoes the lens's fall-off of light at a site of the mosaic. */
function shadingGain({ lens_shading }, cfa, row, column, [height, width]) {
  const y = row + 0.5 - height / 2, x = column + 0.5 - width / 2;
  const r = (y * y + x * x) / ((height * height) / 4 + (width * width) / 4);
  const [k1, k2, k3] = lens_shading["RGB".indexOf(cfa[2 * (row % 2) + (column % 2)])];
  return 1 / (1 + r * (k1 + r * (k2 + r * k3)));
}
