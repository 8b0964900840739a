// Make a DNG of a JPEG, as `paramisp unprocess` does: everything except decoding the JPEG and running the network.

import * as exif from "./exif.js";
import { toSrgb } from "./icc.js";
import * as jpegs from "./jpeg.js";
import { write } from "./dng.js";
import { matched } from "./look.js";
import { unprocess } from "./network.js";
import { usualNoise } from "./noise.js";
import { complete } from "./parameters.js";
import * as xmp from "./xmp.js";

/** An error for the user: a file that this page does not convert, with the reason and the remedy. */
export class Refusal extends Error {}

const MOST_PIXELS = 250_000_000, LONGEST = 64_000;

/**
 * Return {parts, thumbnail, facts, notices} of a JPEG.
 *
 * bytes    the file; `name` is its name
 * page     {manifest, cameras, weights(entry) → file, decode(pieces, width, height) → RGB bytes, runtime}
 * progress takes (stage, share of the stage)
 */
export async function convert(bytes, name, page, progress) {
  const found = read(bytes);
  const { block, blocks, notices } = found;
  progress("decode", 0);
  const decoded = await page.decode(jpegs.plain(bytes, found.end), found.width, found.height);
  if (found.isGrey) notices.push("the picture is grey: the same values were used for R, G and B");
  const [pixels, colourNotes] = toSrgb(decoded, blocks.icc, exif.colorSpace(block), Refusal);
  const [optical, exifNotes] = exif.opticalParams(block);
  notices.push(...colourNotes, ...exifNotes);
  const camera = exif.camera(block);
  const shot = { camera, optical, neutral: exif.whiteBalance(block), block };
  const { canonical, weights, origin, notices: more } = complete(shot, page.cameras, page.manifest);
  notices.push(...more);
  const scale = pixels instanceof Uint16Array ? 65535 : 255;
  const picture = { pixels, height: found.height, width: found.width, scale };
  progress("model", 0);
  const network = { ...weights, onnx: await page.weights(weights) };
  const report = (share) => progress("network", share);
  const result = await unprocess(picture, canonical, optical, network, page.runtime, report);
  notices.push(...result.notices);
  progress("look", 0);
  const raw = {
    ...result, canonical, camera, optical, crop: [found.height, found.width], orientation: exif.orientation(block),
    look: null, noise: null,
  };
  raw.noise = usualNoise(raw);
  raw.look = matched(picture, raw);
  const software = `paramisp ${page.manifest.version}`;
  const [packet, remarks] = xmp.unprocessed(blocks.xmp, software, {
    operation: "unprocess", source: "JPEG", data: "estimated from a picture, not measured by a sensor", model: "fast",
    weights: weights.file, weights_sha256: weights.sha256, exposure: 0, origin,
  });
  notices.push(...remarks);
  const source = { jpeg: bytes, block: blocks.exif ? block : null, icc: blocks.icc, xmp: packet, name };
  const file = write(raw, source, software, (share) => progress("write", share));
  const { orientation } = raw, { backend } = result;
  return { ...file, notices, facts: { weights: weights.name, backend, orientation } };
}

/** Read a JPEG's segments and EXIF; `Refusal` for a file that this page does not convert. */
function read(bytes) {
  if (bytes.length < 4 || bytes[0] !== 0xff || bytes[1] !== 0xd8 || bytes[2] !== 0xff) {
    throw new Refusal("is not a JPEG: this page takes JPEGs; `paramisp unprocess` also takes PNG, TIFF, WebP and AVIF");
  }
  const frame = jpegs.frame(bytes), end = jpegs.endOfPicture(bytes), notices = [];
  if (!frame || !frame.width || !frame.height) throw new Refusal("is damaged: it has no picture");
  if (end < 0) throw new Refusal("is damaged: the picture is cut short; copy it from the camera again");
  if (frame.count !== 1 && frame.count !== 3) {
    const kind = frame.count === 4 ? "CMYK JPEG" : `JPEG of ${frame.count} channels`;
    throw new Refusal(`is a ${kind}: convert it to RGB first`);
  }
  if (frame.bits !== 8) throw new Refusal(`has ${frame.bits} bits a channel, which browsers do not decode`);
  const { width, height } = frame;
  if (width * height > MOST_PIXELS) {
    throw new Refusal(`has ${Math.round((width * height) / 1e6)} megapixels, more than the 250 megapixels allowed`);
  }
  if (Math.max(width, height) > LONGEST) {
    throw new Refusal(`is ${width}×${height}: most programs open no DNG of more than ${LONGEST} a side; crop it`);
  }
  if (jpegs.carriesRaw(bytes, end)) {
    const remedy = "`paramisp unprocess` gives it back, this page cannot";
    throw new Refusal(`carries the RAW that it was rendered from: ${remedy}`);
  }
  if (jpegs.mayHaveGainMap(bytes, end)) {
    notices.push("has a gain map (HDR): this page leaves out its highlights, as `paramisp unprocess --gain-map off`");
  }
  const blocks = jpegs.blocks(bytes);
  let block = exif.emptyBlock();
  try {
    if (blocks.exif) block = exif.parse(blocks.exif);
  } catch {
    notices.push("the EXIF block is damaged and was ignored");
    blocks.exif = null;
  }
  return { width, height, end, isGrey: frame.count === 1, blocks, block, notices };
}
