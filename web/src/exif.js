// EXIF: the values of a shot and its white balance. It follows paramisp_cli/formats/exif.py.

import { SHORT, UNDEFINED, Walker, decodedText, fractions, isText, values, view } from "./tiff.js";

const EMPTY = new Map();

/** Parse an EXIF block: its IFDs (tag → entry), byte order, and the entries of a known MakerNote. */
export function parse(content) {
  const walker = new Walker(content);
  const [ifd0] = walker.ifd(walker.first);
  const exif = walker.sub(ifd0, 0x8769), gps = walker.sub(ifd0, 0x8825);
  const interop = first(walker.sub(exif, 0xa005), () => walker.sub(ifd0, 0xa005));
  const [maker, makernote] = makerNote(walker, ifd0, exif);
  return { little: walker.little, ifd0, exif, gps, interop, maker, makernote };
}

export const emptyBlock = () => ({
  little: true, ifd0: EMPTY, exif: EMPTY, gps: EMPTY, interop: EMPTY, maker: "", makernote: EMPTY,
});

const first = (map, other) => (map.size ? map : other());

function makerNote(walker, ifd0, exif) {
  const note = exif.get(0x927c), make = ifd0.has(0x010f) ? decodedText(ifd0.get(0x010f).data).toLowerCase() : "";
  if (!note || note.count < 20) return ["", EMPTY];
  const letters = (at, count) => String.fromCharCode(...note.data.subarray(at, at + count));
  if (letters(0, 6) === "Nikon\0" && ["II", "MM"].includes(letters(10, 2))) {
    try {
      const inner = new Walker(note.data.subarray(10));
      return ["Nikon", inner.ifd(inner.first)[0]];
    } catch {
      return ["", EMPTY];
    }
  }
  if (!make.startsWith("canon")) return ["", EMPTY];
  const footer = note.data.subarray(-8), magic = String.fromCharCode(...footer.subarray(0, 4));
  let moved = 0;
  if (magic === "II*\0" || magic === "MM\0*") moved = note.offset - view(footer).getUint32(4, magic[0] === "I");
  return ["Canon", walker.ifd(note.offset, moved)[0]];
}

const find = (block, tag) => block.exif.get(tag) ?? block.ifd0.get(tag);

/** Return the elements of a tag of the Exif IFD, else of IFD0, as numbers. */
export function numbers(block, tag) {
  const entry = find(block, tag);
  return entry ? values(entry) : [];
}

// --- values ----------------------------------------------------------------------------------------------------------

const LIMITS = {
  iso: [0.5, 1e7], exposure_time: [1e-7, 86400], f_number: [0.3, 1024], focal_length: [0.1, 10000],
};
const fits = (name, value) => Number.isFinite(value) && value >= LIMITS[name][0] && value <= LIMITS[name][1];

/** Return [{iso, exposure_time, f_number, focal_length}, notes]; null for an unknown value. */
export function opticalParams(block) {
  const notes = [];
  const usable = (name, label, tag) => {
    const entry = find(block, tag);
    if (!entry) return null;
    for (const value of numbers(block, tag)) {
      if (fits(name, value) && !(entry.type === SHORT && value === 65535)) return value;
    }
    notes.push(`${label} ${shown(entry)} is not usable`);
    return null;
  };
  let iso = null;
  const sources = [[34855, "ISO"], [34866, "RecommendedExposureIndex"], [34867, "ISOSpeed"], [34865, "SOS"]];
  for (const [tag, label] of sources) iso ??= usable("iso", label, tag);
  if (iso === null) {
    let origin;
    [iso, origin] = makerNoteIso(block);
    if (iso !== null) notes.push(`ISO ${iso} read from the ${origin}`);
  }
  const fromApex = (name, label, tag, power) => {
    const apex = numbers(block, tag)[0] ?? NaN;
    const value = Math.abs(apex) < 64 ? 2 ** (power * apex) : NaN;
    if (!fits(name, value)) return null;
    notes.push(`${name} ${Number(value.toPrecision(4))} derived from ${label}`);
    return value;
  };
  const exposure_time = usable("exposure_time", "ExposureTime", 33434) ??
    fromApex("exposure_time", "ShutterSpeedValue", 37377, -1);
  let f_number = usable("f_number", "FNumber", 33437);
  // For lenses without contacts cameras write ApertureValue 0, which would read as f/1.
  if (f_number === null && numbers(block, 37378).some((value) => value !== 0)) {
    f_number = fromApex("f_number", "ApertureValue", 37378, 0.5);
  }
  return [{ iso, exposure_time, f_number, focal_length: usable("focal_length", "FocalLength", 37386) }, notes];
}

const shown = (entry) =>
  isText(entry)
    ? `'${decodedText(entry.data).slice(0, 40)}'`
    : (fractions(entry).map((pair) => pair.join("/")).slice(0, 4).join(", ") || values(entry).slice(0, 4).join(", "));

function makerNoteIso(block) {
  const note = block.makernote;
  if (block.maker === "Nikon") {
    const plain = note.get(2), info = note.get(0x25);
    if (plain && plain.type === SHORT && plain.count === 2 && fits("iso", values(plain)[1])) {
      return [values(plain)[1], "MakerNote (Nikon 0x0002)"];
    }
    if (info && info.type === UNDEFINED && info.data[0]) {
      return [roundHalfEven(100 * 2 ** (info.data[0] / 12 - 5)), "MakerNote (Nikon 0x0025)"];
    }
  }
  const entry = block.maker === "Canon" ? note.get(4) : undefined;
  if (entry && (entry.type === SHORT || entry.type === 8)) {
    const data = view(entry.data);
    const shot = Array.from({ length: entry.count }, (_, i) => data.getInt16(2 * i, true));
    if (shot.length > 2 && shot[2] > 0) {
      const iso = (100 / 32) * 2 ** (shot[2] / 32) * 2 ** (shot[1] / 32);
      if (fits("iso", iso)) return [roundHalfEven(iso), "MakerNote (Canon 0x0004)"];
    }
  }
  return [null, ""];
}

/** Round to a whole number; a half goes to the even one. */
export function roundHalfEven(value) {
  const floor = Math.floor(value), rest = value - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

const textOf = (ifd, tag) => (ifd.has(tag) ? decodedText(ifd.get(tag).data) : "");

/** Return {make, model}, null if the block names neither. */
export function camera(block) {
  const make = textOf(block.ifd0, 0x010f);
  const model = textOf(block.ifd0, 0x0110).replace(/ \(from JPEG\)$/, "").replace(/ \(from RAW\)$/, "");
  return make || model ? { make, model } : null;
}

/** Return make and model; the model alone if it begins with the make's first word. */
export function cameraName({ make, model }) {
  const word = make.split(" ")[0];
  const repeats = word && model.toLowerCase().startsWith(word.toLowerCase());
  return repeats || !make ? model : `${make} ${model}`.trim();
}

/** Return the orientation 1–8; 1 if it is absent or absurd. */
export function orientation(block) {
  const entry = block.ifd0.get(0x0112), value = entry ? values(entry)[0] : 1;
  return Number.isInteger(value) && value >= 1 && value <= 8 ? value : 1;
}

/** Return "sRGB", "Adobe RGB", or null if the colour space is unknown. */
export function colorSpace(block) {
  const code = numbers(block, 0xa001)[0], index = textOf(block.interop, 1);
  if (code === 1 || code === 2) return code === 1 ? "sRGB" : "Adobe RGB";
  if (index === "R03") return "Adobe RGB";
  return index === "R98" && code !== 65535 ? "sRGB" : null;
}

// Canon ColorData: number of 16-bit words → index of WB_RGGBLevelsAsShot.
const CANON_WB_INDEX = new Map([
  [582, 0x19], [653, 0x22], [2560, 0x47],
  ...[796, 674, 692, 702, 1227, 1250, 1251, 1337, 1338, 1346, 1273, 1275].map((count) => [count, 0x3f]),
  ...[1312, 1313, 1316, 1506, 1353, 1560, 1592, 1602].map((count) => [count, 0x3f]),
  ...[1816, 1820, 1824].map((count) => [count, 0x47]),
  ...[2024, 3656].map((count) => [count, 0x55]),
  ...[3778, 3973].map((count) => [count, 0x69]),
]);

/** Return the as-shot neutral (camera RGB, G = 1) of the MakerNote, or null. */
export function whiteBalance(block) {
  const note = block.makernote;
  if (block.maker === "Nikon" && note.has(0x0c)) {
    const levels = values(note.get(0x0c)).slice(0, 2);
    if (levels.length === 2) return neutral(levels[0], 1, levels[1]);
  }
  if (block.maker === "Canon" && note.has(0x4001)) {
    const { data, type } = note.get(0x4001), little = block.little || type !== UNDEFINED;
    const index = CANON_WB_INDEX.get(data.length >> 1);
    if (index !== undefined) {
      const [red, one, two, blue] = [0, 1, 2, 3].map((i) => view(data).getUint16(2 * (index + i), little));
      return neutral(red, (one + two) / 2, blue);
    }
  }
  return null;
}

function neutral(red, green, blue) {
  if (![red, green, blue].every((level) => Number.isFinite(level) && level > 0)) return null;
  const found = [green / red, 1, green / blue];
  return found.every((value) => value > 1 / 16 && value < 16) ? found : null;
}
