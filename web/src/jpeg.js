// The segments of a JPEG (ITU-T T.81): its metadata blocks, its frame, and the bytes that a browser shall decode.
// It follows paramisp_cli/formats/jpeg.py, and Pillow for the choice among several blocks of one kind.

const SOS = 0xda, EOI = 0xd9, NOT_FRAMES = [0xc4, 0xc8, 0xcc];
const XMP = "http://ns.adobe.com/xap/1.0/\0", EXIF = "Exif\0\0", ICC = "ICC_PROFILE\0";
const KEPT_RAW = "paramisp RAW\r\n\x1a\n", GAIN_MAPS = ["hdrgm:", "HDRGainMap", "urn:iso:std:iso:ts:21496:-1\0"];

const startsWith = (bytes, text) =>
  bytes.length >= text.length && Array.from(text).every((letter, i) => bytes[i] === letter.charCodeAt(0));

/** Yield [marker, begin, end of the content] of each segment before the first scan, in order. */
export function* segments(jpeg) {
  let at = 2;
  while (at + 4 <= jpeg.length && jpeg[at] === 0xff) {
    const marker = jpeg[at + 1], length = 256 * jpeg[at + 2] + jpeg[at + 3];
    if (marker === 0xff) {
      at += 1; // a fill byte
      continue;
    }
    if (marker === SOS || marker === EOI || length < 2) return;
    yield [marker, at + 4, Math.min(at + 2 + length, jpeg.length)];
    at += 2 + length;
  }
}

/** Return the place after the first picture's end marker, -1 if it has none. */
export function endOfPicture(jpeg) {
  let at = 2;
  while (at + 2 <= jpeg.length && jpeg[at] === 0xff) {
    const marker = jpeg[at + 1];
    if (marker === 0xff) {
      at += 1;
      continue;
    }
    if (marker === EOI) return at + 2;
    at += 2 + 256 * jpeg[at + 2] + jpeg[at + 3];
    if (marker !== SOS) continue;
    for (;;) { // to the next marker that is neither a stuffed byte nor a restart
      at = jpeg.indexOf(0xff, at);
      if (at < 0 || at + 1 >= jpeg.length) return -1;
      const next = jpeg[at + 1];
      if (next !== 0 && next !== 0xff && !(next >= 0xd0 && next <= 0xd7)) break;
      at += next === 0xff ? 1 : 2;
    }
  }
  return -1;
}

/** Return the frame: {marker, bits, height, width, components: [[id, h, v], …]}; null without one. */
export function frame(jpeg) {
  for (const [marker, begin, end] of segments(jpeg)) {
    if (marker < 0xc0 || marker > 0xcf || NOT_FRAMES.includes(marker) || end - begin < 6) continue;
    const c = jpeg.subarray(begin, end);
    const components = [];
    for (let at = 6; at + 3 <= c.length && components.length < c[5]; at += 3) {
      components.push([c[at], c[at + 1] >> 4, c[at + 1] & 15]);
    }
    return {
      marker, bits: c[0], height: 256 * c[1] + c[2], width: 256 * c[3] + c[4], count: c[5], components,
      complete: components.length === c[5],
    };
  }
  return null;
}

/** Return {exif, xmp, icc}: the blocks that Pillow finds, null for a missing one. */
export function blocks(jpeg) {
  const found = { exif: null, xmp: null, icc: null }, profile = [];
  for (const [marker, begin, end] of segments(jpeg)) {
    const content = jpeg.subarray(begin, end);
    if (marker === 0xe1 && startsWith(content, EXIF)) {
      const more = content.subarray(6);
      found.exif = found.exif ? joined([found.exif, more]) : more;
    } else if (marker === 0xe1 && startsWith(content, XMP)) {
      found.xmp = content.subarray(XMP.length);
    } else if (marker === 0xe2 && startsWith(content, ICC) && content.length > 14) {
      profile.push(content);
    }
  }
  profile.sort((a, b) => a[12] - b[12]);
  if (profile.length && profile[0][13] === profile.length) found.icc = joined(profile.map((c) => c.subarray(14)));
  return found;
}

/** Join arrays of bytes. */
export function joined(pieces) {
  const out = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}

/**
 * Return the JPEG without metadata, in pieces: a browser then neither turns it nor converts its colours.
 * Adobe's segment stays, because it tells YCbCr from RGB. Pictures after the first one are left out.
 */
export function plain(jpeg, end) {
  const pieces = [jpeg.subarray(0, 2)];
  let last = 2;
  for (const [marker, , after] of segments(jpeg)) {
    const dropped = (marker >= 0xe1 && marker <= 0xef && marker !== 0xee) || marker === 0xfe;
    if (!dropped) pieces.push(jpeg.subarray(last, after));
    last = after;
  }
  return [...pieces, jpeg.subarray(last, end)];
}

/** Return [width, height, [horizontal, vertical] chroma subsampling] of a possible DNG preview, else null. */
export function previewFrame(jpeg) {
  let transform = 1;
  for (const [marker, begin, end] of segments(jpeg)) {
    if (marker === 0xee && end - begin >= 12 && startsWith(jpeg.subarray(begin, end), "Adobe")) {
      transform = jpeg[begin + 11];
    }
    if (marker >= 0xc0 && marker <= 0xcf && !NOT_FRAMES.includes(marker)) {
      if (marker !== 0xc0 || transform !== 1) return null;
      break;
    }
  }
  const found = frame(jpeg);
  if (!found || !found.complete || found.bits !== 8 || found.count !== 3) return null;
  const [[a, h, v], [b, h1, v1], [c, h2, v2]] = found.components;
  if (String.fromCharCode(a, b, c) === "RGB" || h1 !== h2 || v1 !== v2 || !h1 || !v1) return null;
  const sampling = [Math.floor(h / h1), Math.floor(v / v1)];
  if (sampling[0] * h1 !== h || sampling[1] * v1 !== v) return null;
  if (!sampling.every((step) => [1, 2, 4].includes(step)) || !found.width || !found.height) return null;
  return [found.width, found.height, sampling];
}

/** Tell whether bytes hold a text, from a place on. */
export function holds(bytes, text, from = 0) {
  const first = text.charCodeAt(0);
  for (let at = bytes.indexOf(first, from); at >= 0; at = bytes.indexOf(first, at + 1)) {
    if (startsWith(bytes.subarray(at, at + text.length), text)) return true;
  }
  return false;
}

/** Tell whether paramisp put a RAW behind the picture. */
export const carriesRaw = (jpeg, end) => holds(jpeg, KEPT_RAW, end);

/** Tell whether the file may hold a gain map: a further picture, and a text of one of the kinds of gain maps. */
export const mayHaveGainMap = (jpeg, end) =>
  holds(jpeg, "\xff\xd8\xff", end) && GAIN_MAPS.some((text) => holds(jpeg, text));
