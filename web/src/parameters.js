// Complete the parameters of a shot, each with its origin, and pick its weights; see paramisp_cli/parameters.py.

import { estimatedBalance, levels, slug } from "./cameras.js";
import { cameraName } from "./exif.js";
import { FALLBACK } from "./network.js";

const LABELS = { iso: "ISO", exposure_time: "ExposureTime", f_number: "FNumber", focal_length: "FocalLength" };

/** Return {canonical, weights, origin, notices}; `shot` is {camera, optical, neutral, block}. */
export function complete(shot, table, manifest) {
  const { camera, optical } = shot, known = table.find(camera), facts = known ?? table.generic, notices = [];
  const origin = { camera: camera ? "EXIF" : "unknown" };
  for (const name of Object.keys(LABELS)) origin[name] = optical[name] === null ? "unknown" : "EXIF";
  const average = "an average camera";
  const source = known ? `camera table (${known.name})` : `${average} (the camera is not in the table)`;
  const [black, white] = levels(facts, optical.iso);
  for (const name of ["black_level", "white_level", "color_matrix"]) origin[name] = source;
  origin.cfa = facts.cfa ? source : "default (table is silent)";
  if (!facts.matrix) origin.color_matrix = `${average} (table is silent)`;
  let neutral = shot.neutral;
  if (neutral) origin.wb = "MakerNote, as shot";
  else ({ neutral, origin: origin.wb } = estimatedBalance(table, known, optical, shot.block));
  if (!known) {
    const whose = camera ? `${cameraName(camera)} is not in the camera table` : "EXIF names no camera";
    notices.push(`${whose}: used average colours`);
  }
  const weights = weightsOf(camera, known, manifest);
  origin.model = weights.how;
  if (weights.name === "generic") {
    notices.push(`no weights for ${camera ? cameraName(camera) : "an unknown camera"}: used the generic ones`);
  }
  const missing = Object.keys(LABELS).filter((name) => optical[name] === null);
  if (missing.length) {
    notices.push(`has no ${missing.map((name) => LABELS[name]).join(", ")}; used ${missing.map(usual).join(", ")}`);
  }
  const matrix = facts.matrix ?? table.generic.matrix;
  return { canonical: { cfa: facts.cfa ?? "RGGB", black, white, neutral, matrix }, weights, origin, notices };
}

const usual = (name) => ({
  iso: `ISO ${FALLBACK.iso}`, exposure_time: "1/125 s", f_number: `f/${FALLBACK.f_number}`,
  focal_length: `${FALLBACK.focal_length} mm`,
}[name]);

/** Return the camera's own weights, else the generic ones. */
function weightsOf(camera, facts, manifest) {
  const names = camera ? [`${camera.make} ${camera.model}`, cameraName(camera)] : [];
  if (facts) names.push(facts.name, ...[facts.model, ...facts.aliases].map((model) => `${facts.make} ${model}`));
  for (const name of [...names.map(slug), "generic"]) {
    const found = manifest.weights.find((weights) => weights.name === name);
    if (found) return found;
  }
  throw new Error("the page has no generic weights: build it again");
}
