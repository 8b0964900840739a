// Functions over several modules, for test_web_modules.py.

import { Cameras, estimatedBalance, levels } from "../../web/src/cameras.js";
import * as exif from "../../web/src/exif.js";
import { toSrgb } from "../../web/src/icc.js";
import { spans, thumbnail, unprocess } from "../../web/src/network.js";

let cameras;

/** Load the camera table of `build.py`. */
export const load = (table) => ((cameras = new Cameras(table)), null);

/** Return the table's facts of a camera: [name, black, white, neutral, origin of the neutral]. */
export function facts(camera, optical, exifBytes) {
  const found = cameras.find(camera), block = exifBytes ? exif.parse(exifBytes) : exif.emptyBlock();
  const { neutral, origin } = estimatedBalance(cameras, found, optical, block);
  return [found?.name ?? null, ...levels(found ?? cameras.generic, optical.iso), neutral, origin];
}

/** Return the values of an EXIF block. */
export function values(bytes) {
  const block = exif.parse(bytes), [optical, notes] = exif.opticalParams(block), camera = exif.camera(block);
  const name = camera && exif.cameraName(camera), neutral = exif.whiteBalance(block);
  return [optical, notes.length, camera, name, exif.orientation(block), exif.colorSpace(block), neutral];
}

/** Return [pixels, notes]; an error for a profile made of tables. */
export const converted = (pixels, icc, space) => toSrgb(pixels, icc, space, class Refusal extends Error {});

/** Return the pieces of several lengths; each call is [size, length, multiple, halo]. */
export const cuts = (calls) => calls.map((values) => spans(...values));

/** Return the thumbnail of (H · W · 3) pixels, read at these rows and columns. */
export const averaged = (pixels, width, rows, columns) =>
  Array.from(thumbnail({ pixels, width, scale: 255 }, rows, columns));

/** Run a network whose results are all `light`, on a GPU that adds `error` or, without one, breaks. */
export async function onGpu(onnx, light, error) {
  const open = (bytes, kind) => {
    if (kind === "webgpu" && error === null) throw new Error("device lost\nand more");
    const value = light + (kind === "webgpu" ? error : 0);
    return { run: async (_, rows, columns) => new Float32Array(rows * columns).fill(value), release: async () => {} };
  };
  const picture = { pixels: new Uint8Array(3 * 30 * 40), height: 30, width: 40, scale: 255 };
  const matrix = [[0.9, -0.3, -0.1], [-0.4, 1.2, 0.2], [-0.1, 0.2, 0.6]];
  const canonical = { cfa: "GBRG", black: 100, white: 1100, neutral: [0.5, 1, 0.7], matrix };
  const optical = { iso: 100, exposure_time: 0.01, f_number: 4, focal_length: null };
  const weights = { onnx, multiple: 8, halo: 64, lens_shading: null }, runtime = { open, kinds: ["webgpu", "wasm"] };
  const result = await unprocess(picture, canonical, optical, weights, runtime, () => {});
  return [result.backend, result.notices, result.height, result.width, Array.from(new Set(result.mosaic))];
}
