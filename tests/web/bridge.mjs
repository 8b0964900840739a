// Functions over several modules, for test_web_modules.py.

import { Cameras, estimatedBalance, levels } from "../../web/src/cameras.js";
import * as exif from "../../web/src/exif.js";
import { toSrgb } from "../../web/src/icc.js";

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
  const name = camera && exif.cameraName(camera);
  return [optical, notes.length, camera, name, exif.orientation(block), exif.colorSpace(block), exif.whiteBalance(block)];
}

/** Return [pixels, notes]; an error for a profile made of tables. */
export const converted = (pixels, icc, space) => toSrgb(pixels, icc, space, class Refusal extends Error {});
