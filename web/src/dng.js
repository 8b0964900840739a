// Write a mosaic as a DNG, tag by tag as paramisp_cli/formats/dng.py and dng_exif.py, which give the reasons.

import { camToSrgb, clip, encode, interpolate } from "./color.js";
import { cameraName, roundHalfEven } from "./exif.js";
import { holds, joined, previewFrame } from "./jpeg.js";
import { TILE, tileWidthFor, tiles } from "./ljpeg.js";
import { TABLE_SHAPE } from "./look.js";
import { md5 } from "./md5.js";
import {
  ASCII, LONG, RATIONAL, SHORT, TYPES, UNDEFINED, UTF8, byte, doubles, floats, isSound, long, rational, short, spilt,
  srational, text, values, view, writeDirectory,
} from "./tiff.js";

const THUMBNAIL = 256;
const STRIP_OFFSETS = 273, STRIP_COUNTS = 279, TILE_OFFSETS = 324, TILE_COUNTS = 325;
const COPIED_FROM_IFD0 = [0x010e, 0x0132, 0x013b, 0x013c, 0x8298, 0x9c9b, 0x9c9c, 0x9c9d, 0x9c9e, 0x9c9f];
const MASKED_BORDERS = new RegExp(
  "^Canon (EOS (550D|Rebel (T2i|T6i|T6s|T7i|SL2)|Kiss X(4|8i|9|9i)|5D Mark IV|5DS( R)?|6D Mark II|40D" +
  "|80D|77D|9000D|750D|760D|8000D|800D|200D|M3|M5|M6|R|RP|R\\d.*)|EOS-1D X Mark III" +
  "|PowerShot (A480|G12|G1 X Mark II|G3 X|G7 X|G5 X|G7 X Mark II|G9 X Mark II|S120|SX60 HS))$", "i");
const NOT_COPIED = new Set([
  0x927c, 0x9101, 0x9102, 0xa000, 0xa001, 0xa002, 0xa003, 0xa004, 0xa005, 0xa302, 0xa500, 0xea1c, 0xea1d, 34665, 34853,
]);

/**
 * Return {parts, thumbnail}: the pieces of the file, in order, and its small picture {pixels, width, height}.
 *
 * raw  {mosaic, height, width, crop: [height, width], canonical, gains, camera, optical, orientation, look, noise}
 * source {jpeg, block (parsed EXIF or null), icc, xmp, name}
 */
export function write(raw, source, software, progress) {
  const thumbnail = smallPicture(raw), tileWidth = tileWidthFor(raw.width);
  const preview = previewIfd(source, raw);
  const ifds = {
    main: mainIfd(raw, source, thumbnail, software),
    exif: exifIfd(raw.optical, source.block),
    gps: new Map([...(source.block?.gps ?? [])].filter(([, entry]) => isCopied(entry)).map(([t, e]) => [t, copied(e)])),
    raw: rawIfd(raw, tileWidth),
    preview: preview ?? new Map(),
  };
  if (!preview) for (const [tag, entry] of originalFile(source.jpeg)) ifds.main.set(tag, entry);
  ifds.main.set(51111, byte(digest(raw)));
  const streams = tileWidth
    ? tiles(raw.mosaic, raw.height, raw.width, tileWidth, progress)
    : [new Uint8Array(raw.mosaic.buffer, raw.mosaic.byteOffset, raw.mosaic.byteLength)];
  const [offsets, counts] = tileWidth ? [TILE_OFFSETS, TILE_COUNTS] : [STRIP_OFFSETS, STRIP_COUNTS];
  ifds.raw.set(offsets, long(...streams.map(() => 0)));
  ifds.raw.set(counts, long(...streams.map((stream) => stream.length)));

  const parts = [];
  let at = laidOut(ifds).length;
  const place = (data) => {
    const here = at;
    parts.push(data);
    if (data.length % 2) parts.push(new Uint8Array(1));
    at += data.length + (data.length % 2);
    return here;
  };
  ifds.main.set(STRIP_OFFSETS, long(place(thumbnail.pixels)));
  if (preview) ifds.preview.set(STRIP_OFFSETS, long(place(source.jpeg)));
  ifds.raw.set(offsets, long(...streams.map(place)));
  return { parts: [laidOut(ifds), ...parts], thumbnail };
}

/** Return header and directories as the file's first bytes; fills in the offsets of the directories. */
function laidOut(ifds) {
  const { main } = ifds, subs = ifds.preview.size ? ["raw", "preview"] : ["raw"], starts = {};
  const pointers = Object.entries({ exif: 34665, gps: 34853 }).filter(([name]) => ifds[name].size);
  for (const [, tag] of pointers) main.set(tag, long(0));
  main.set(330, long(...subs.map(() => 0)));
  let at = 8;
  for (const [name, ifd] of Object.entries(ifds)) {
    starts[name] = at;
    if (ifd.size) at += 2 + 12 * ifd.size + 4 + spilt(ifd);
  }
  for (const [name, tag] of pointers) main.set(tag, long(starts[name]));
  main.set(330, long(...subs.map((name) => starts[name])));
  const out = new Uint8Array(at);
  out.set([0x49, 0x49, 42, 0, 8, 0, 0, 0]);
  for (const [name, ifd] of Object.entries(ifds)) if (ifd.size) writeDirectory(out, ifd, starts[name]);
  return out;
}

function mainIfd(raw, source, thumbnail, software) {
  const { camera, canonical, look } = raw, { block } = source, most = Math.max(...canonical.neutral);
  const name = camera ? cameraName(camera) : "";
  const ifd = new Map([
    [254, long(1)], [256, long(thumbnail.width)], [257, long(thumbnail.height)], [258, short(8, 8, 8)],
    [259, short(1)], [262, short(2)], [STRIP_OFFSETS, long(0)], [274, short(raw.orientation)], [277, short(3)],
    [278, long(thumbnail.height)], [STRIP_COUNTS, long(thumbnail.pixels.length)], [284, short(1)],
    [305, text(software)],
    [50706, byte(Uint8Array.of(1, 4, 0, 0))], [50707, byte(Uint8Array.of(1, 1, 0, 0))],
    [50708, text(name || "paramisp generic")],
    [50721, srational(...canonical.matrix.flat())],
    [50728, rational(...canonical.neutral.map((value) => value / most))],
    [50730, srational(0)], [50731, rational(1)], [50732, rational(1)], [50734, rational(1)],
    [50778, short(21)], [50970, long(2)],
  ]);
  if (camera?.make) ifd.set(271, text(camera.make));
  if (camera?.model) ifd.set(272, text(camera.model + (MASKED_BORDERS.test(camera.model) ? " (from JPEG)" : "")));
  if (block) {
    for (const tag of COPIED_FROM_IFD0) if (isCopied(block.ifd0.get(tag))) ifd.set(tag, copied(block.ifd0.get(tag)));
    const note = block.exif.get(0x927c);
    if (isCopied(note) && note.count >= 18) ifd.set(50740, byte(privateData(note, block.little)));
  }
  ifd.set(700, byte(source.xmp));
  ifd.set(50827, byte(joined([new TextEncoder().encode(source.name), new Uint8Array(1)])));
  ifd.set(50936, text("paramisp"));
  ifd.set(50940, floats((look?.curve ?? [[0, 0], [1, 1]]).flat()));
  ifd.set(50941, long(0));
  if (look?.table) {
    ifd.set(50981, long(...TABLE_SHAPE));
    ifd.set(50982, floats(look.table));
    ifd.set(51108, long(1));
  }
  ifd.set(51110, long(1));
  return ifd;
}

/** Return DNGPrivateData with the MakerNote, in the form of Adobe's converter. */
function privateData(note, little) {
  const size = 6 + note.data.length, out = new Uint8Array(14 + size + (size % 2)), data = view(out);
  out.set(new TextEncoder().encode("Adobe\0MakN"));
  data.setUint32(10, size);
  out.set(new TextEncoder().encode(little ? "II" : "MM"), 14);
  data.setUint32(16, note.offset);
  out.set(note.data, 20);
  return out;
}

function rawIfd({ height, width, crop, canonical, noise }, tileWidth) {
  const { black, white, cfa } = canonical;
  const ifd = new Map([
    [254, long(0)], [256, long(width)], [257, long(height)], [258, short(16)], [259, short(tileWidth ? 7 : 1)],
    [262, short(32803)], [277, short(1)], [284, short(1)], [33421, short(2, 2)],
    [33422, byte(Uint8Array.from(cfa, (letter) => "RGB".indexOf(letter)))],
    [50710, byte(Uint8Array.of(0, 1, 2))], [50711, short(1)], [50713, short(2, 2)],
    [50714, Number.isInteger(black) ? short(black, black, black, black) : rational(black, black, black, black)],
    [50717, long(Math.floor(white + 0.5))], [50718, rational(1, 1)], [50719, long(0, 0)],
    [50720, long(crop[1], crop[0])], [50733, long(0)], [50738, rational(1)], [50780, rational(1)],
    [50829, long(0, 0, height, width)],
  ]);
  if (tileWidth) ifd.set(322, long(tileWidth)).set(323, long(TILE));
  else ifd.set(278, long(height));
  if (noise) ifd.set(51041, doubles(noise.flat()));
  return ifd;
}

function previewIfd({ jpeg, icc }, { mosaic }) {
  const found = previewFrame(jpeg);
  if (!found || found[0] * found[1] > mosaic.length) return null;
  const [width, height, sampling] = found;
  return new Map([
    [254, long(1)], [256, long(width)], [257, long(height)], [258, short(8, 8, 8)], [259, short(7)], [262, short(6)],
    [STRIP_OFFSETS, long(0)], [277, short(3)], [278, long(height)], [STRIP_COUNTS, long(jpeg.length)], [284, short(1)],
    [530, short(...sampling)], [531, short(1)], [532, rational(0, 255, 128, 255, 128, 255)],
    [50970, long(previewSpace(icc))],
  ]);
}

/** Return PreviewColorSpace by the profile's name: 2 sRGB, 3 Adobe RGB, 0 unknown. */
function previewSpace(icc) {
  if (!icc) return 2;
  if (holds(icc, "sRGB") || holds(icc, "\0s\0R\0G\0B")) return 2;
  return holds(icc, "Adobe RGB") ? 3 : 0;
}

/** Return OriginalRawFileData and its digest: the JPEG in zlib blocks of 64 KiB, stored. */
function originalFile(data) {
  const blocks = [];
  for (let at = 0; at < data.length; at += 0x10000) blocks.push(stored(data.subarray(at, at + 0x10000)));
  const head = new Uint8Array(4 * (blocks.length + 2));
  let offset = head.length;
  view(head).setUint32(0, data.length);
  blocks.forEach((block, i) => {
    view(head).setUint32(4 * i + 4, offset);
    offset += block.length;
  });
  view(head).setUint32(head.length - 4, offset);
  const fork = joined([head, ...blocks, new Uint8Array(28)]);
  return [[50828, { type: UNDEFINED, count: fork.length, data: fork }], [50973, byte(md5(fork))]];
}

/** Return a zlib stream of stored blocks (RFC 1950, 1951). */
function stored(data) {
  const pieces = [Uint8Array.of(0x78, 0x01)];
  let a = 1, b = 0;
  for (let at = 0; at < data.length; at += 65535) {
    const part = data.subarray(at, at + 65535), size = part.length;
    const last = at + size >= data.length ? 1 : 0;
    pieces.push(Uint8Array.of(last, size & 255, size >> 8, ~size & 255, (~size >> 8) & 255), part);
  }
  for (const value of data) {
    a = (a + value) % 65521;
    b = (b + a) % 65521;
  }
  return joined([...pieces, Uint8Array.of(b >> 8, b & 255, a >> 8, a & 255)]);
}

// --- Exif ------------------------------------------------------------------------------------------------------------

const isCopied = (entry) => entry !== undefined && entry.type !== 13 && isSound(entry);
const copied = (entry) => ({ type: entry.type === UTF8 ? ASCII : entry.type, count: entry.count, data: entry.data });

function numberOf(entry) {
  if (!entry || entry.count < 1) return null;
  if (entry.type === RATIONAL) {
    const over = view(entry.data).getUint32(0, true), under = view(entry.data).getUint32(4, true);
    return under ? over / under : null;
  }
  return [SHORT, LONG].includes(entry.type) && entry.data.length >= TYPES[entry.type][0] ? values(entry)[0] : null;
}

function equals(entry, number) {
  const first = numberOf(entry);
  return first !== null && Math.abs(first - number) <= 1e-3 * Math.max(Math.abs(first), Math.abs(number));
}

function exifIfd(optical, block) {
  const ifd = new Map();
  for (const [tag, entry] of block?.exif ?? []) {
    if (!NOT_COPIED.has(tag) && isCopied(entry)) ifd.set(tag, copied(entry));
  }
  if (!ifd.has(0x9000)) ifd.set(0x9000, { type: UNDEFINED, count: 4, data: new TextEncoder().encode("0230") });
  const known = [
    [optical.exposure_time, 0x829a, 0x9201], [optical.f_number, 0x829d, 0x9202], [optical.focal_length, 0x920a, 0xa405],
  ];
  for (const [value, tag, rival] of known) {
    if (value === null || equals(ifd.get(tag), value)) continue;
    ifd.set(tag, rational(value));
    ifd.delete(rival);
  }
  if (optical.iso !== null) {
    const iso = Math.max(1, Math.floor(optical.iso + 0.5));
    if (![0x8827, 0x8831, 0x8832, 0x8833].some((tag) => equals(ifd.get(tag), iso))) {
      for (let tag = 0x8830; tag < 0x8836; tag++) ifd.delete(tag);
      if (iso > 0xffff) ifd.set(0x8830, short(2)).set(0x8832, long(iso));
    }
    if (!equals(ifd.get(0x8827), iso)) ifd.set(0x8827, short(Math.min(iso, 0xffff)));
  }
  mend(ifd);
  return ifd;
}

/** Correct mistakes of real cameras that the Adobe SDK reports. */
function mend(ifd) {
  const lens = ifd.get(0xa432), comment = ifd.get(0x9286), fNumber = numberOf(ifd.get(0x829d));
  if (lens?.type === RATIONAL) {
    const data = lens.data.slice();
    for (let at = 0; at + 8 <= data.length; at += 8) {
      if (data.subarray(at, at + 4).every((value) => value === 0)) data.fill(0, at, at + 8);
    }
    ifd.set(0xa432, { ...lens, data });
  }
  const isBlank = comment && comment.data.subarray(0, 8).every((value) => value === 0) &&
    comment.data.subarray(8).every((value) => value === 0 || value === 32);
  if (isBlank) ifd.delete(0x9286);
  if (fNumber) {
    const apex = 2 * Math.log2(fNumber);
    if (Math.abs((numberOf(ifd.get(0x9202)) || apex) - apex) > 0.2) ifd.delete(0x9202);
    if ((numberOf(ifd.get(0x9205)) || 0) > apex + 0.2) ifd.delete(0x9205);
  }
}

// --- pixels ----------------------------------------------------------------------------------------------------------

/** Return NewRawImageDigest: the MD5 of the MD5s of 256×256 blocks, clipped at the edges. */
function digest({ mosaic, height, width }) {
  const digests = [];
  for (let top = 0; top < height; top += TILE) {
    for (let left = 0; left < width; left += TILE) {
      const rows = Math.min(TILE, height - top), columns = Math.min(TILE, width - left);
      const block = new Uint16Array(rows * columns);
      for (let y = 0; y < rows; y++) {
        const at = (top + y) * width + left;
        block.set(mosaic.subarray(at, at + columns), y * columns);
      }
      digests.push(md5(new Uint8Array(block.buffer)));
    }
  }
  return md5(joined(digests));
}

/** Return a picture of at most 256 px, sRGB: each pixel averages a few 2×2 cells. */
function smallPicture({ mosaic, height, width, crop, canonical, gains, look }) {
  const step = Math.ceil(Math.max(...crop) / (2 * THUMBNAIL)), every = Math.max(1, Math.floor(step / 3));
  const offsets = [];
  for (let offset = 0; offset < step; offset += every) offsets.push(2 * offset);
  const size = crop.map((length) => Math.max(1, Math.floor(length / (2 * step)))), m = camToSrgb(canonical.matrix);
  const pixels = new Uint8Array(3 * size[0] * size[1]), least = Math.min(...gains);
  const curve = look?.curve ?? [[0, 0], [1, 1]], [x, y] = [0, 1].map((axis) => curve.map((point) => point[axis]));
  const { black, white, cfa } = canonical, channels = Array.from(cfa, (letter) => "RGB".indexOf(letter));
  for (let i = 0; i < size[0]; i++) {
    for (let j = 0; j < size[1]; j++) {
      const camera = [0, 0, 0];
      channels.forEach((channel, site) => {
        let total = 0;
        for (const down of offsets) {
          const row = (Math.min(2 * step * i + down, height - 2) + (site >> 1)) * width + (site & 1);
          for (const across of offsets) total += mosaic[row + Math.min(2 * step * j + across, width - 2)];
        }
        camera[channel] += ((total / offsets.length ** 2 - black) / (white - black)) * (channel === 1 ? 0.5 : 1);
      });
      const rgb = camera.map((value, c) => clip(value * (gains[c] / least), 0, 1));
      m.forEach((row, c) => {
        const light = clip(row[0] * rgb[0] + row[1] * rgb[1] + row[2] * rgb[2], 0, 1);
        pixels[3 * (i * size[1] + j) + c] = roundHalfEven(encode(interpolate(light, x, y)) * 255);
      });
    }
  }
  return { pixels, height: size[0], width: size[1] };
}
