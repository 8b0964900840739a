// The TIFF core: entries, a tolerant walk through an EXIF block, and the bytes of directories to write.
// It follows paramisp_cli/formats/tiff.py; its docstrings give the reasons.

export const BYTE = 1, ASCII = 2, SHORT = 3, LONG = 4, RATIONAL = 5, UNDEFINED = 7, SRATIONAL = 10, FLOAT = 11,
  DOUBLE = 12, UTF8 = 129;

/** Field type → [bytes of an element, bytes of the unit that the byte order swaps]. */
export const TYPES = {
  1: [1, 1], 2: [1, 1], 3: [2, 2], 4: [4, 4], 5: [8, 4], 6: [1, 1], 7: [1, 1], 8: [2, 2], 9: [4, 4], 10: [8, 4],
  11: [4, 4], 12: [8, 8], 13: [4, 4], 129: [1, 1],
};
const MAGICS = [42, 0x4f52, 0x5352, 0x0055];
const MOST_ENTRIES = 4096, MOST_IFDS = 256;

export const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
export const isText = (entry) => entry.type === ASCII || entry.type === UTF8;

/** Return the numerators and denominators of a RATIONAL or SRATIONAL; [] for other types. */
export function fractions(entry) {
  if (entry.type !== RATIONAL && entry.type !== SRATIONAL) return [];
  const data = view(entry.data);
  const read = entry.type === RATIONAL ? "getUint32" : "getInt32";
  return Array.from({ length: entry.count }, (_, i) => [data[read](8 * i, true), data[read](8 * i + 4, true)]);
}

/** Return the elements of an entry as numbers: NaN for a zero denominator, [] for text. */
export function values(entry) {
  if (isText(entry)) return [];
  if (entry.type === RATIONAL || entry.type === SRATIONAL) {
    return fractions(entry).map(([over, under]) => (under ? over / under : NaN));
  }
  const data = view(entry.data), size = TYPES[entry.type][0];
  const read = {
    1: "getUint8", 3: "getUint16", 4: "getUint32", 6: "getInt8", 7: "getUint8", 8: "getInt16", 9: "getInt32",
    11: "getFloat32", 12: "getFloat64", 13: "getUint32",
  }[entry.type];
  return Array.from({ length: entry.count }, (_, i) => data[read](size * i, true));
}

/** Decode bytes up to the first NUL: UTF-8 or else Latin-1, without outer white space. */
export function decodedText(data) {
  const end = data.indexOf(0);
  const raw = end < 0 ? data : data.subarray(0, end);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(raw).trim();
  } catch {
    return Array.from(raw, (byte) => String.fromCharCode(byte)).join("").trim();
  }
}

/** Tell whether the data of an entry have the size that type and count claim. */
export const isSound = (entry) =>
  entry !== undefined && entry.count > 0 && entry.type in TYPES &&
  entry.data.length === entry.count * TYPES[entry.type][0];

/** A reader of the IFDs of one block. It visits each IFD once and copies a bounded number of bytes. */
export class Walker {
  constructor(block) {
    this.block = block;
    this.data = view(block);
    const order = block.length < 8 ? "" : String.fromCharCode(block[0], block[1]);
    this.little = order === "II";
    if ((order !== "II" && order !== "MM") || !MAGICS.includes(this.data.getUint16(2, this.little))) {
      throw new Error("no TIFF header");
    }
    this.first = this.data.getUint32(4, this.little);
    this.seen = new Set();
    this.left = 2 * block.length + 65536;
  }

  /** Read the IFD at a byte: [entries, offset of the next IFD or 0]; value offsets count from `base`. */
  ifd(at, base = 0) {
    const entries = new Map(), length = this.block.length;
    if (this.seen.has(at) || !(at > 0 && at <= length - 2) || this.seen.size >= MOST_IFDS) return [entries, 0];
    this.seen.add(at);
    const count = this.data.getUint16(at, this.little);
    if (count > MOST_ENTRIES) return [entries, 0];
    for (let start = at + 2; start < at + 2 + 12 * count; start += 12) {
      if (start + 12 > length) return [entries, 0];
      const [tag, entry] = this.entry(start, base);
      if (entry && !entries.has(tag)) entries.set(tag, entry);
    }
    const end = at + 2 + 12 * count;
    return [entries, end + 4 > length ? 0 : this.data.getUint32(end, this.little)];
  }

  /** Return [tag, value] of the entry at a byte; the value is null if it is damaged. */
  entry(start, base) {
    const tag = this.data.getUint16(start, this.little), type = this.data.getUint16(start + 2, this.little);
    const count = this.data.getUint32(start + 4, this.little);
    if (!(type in TYPES) || !count) return [tag, null];
    const [size, unit] = TYPES[type], length = size * count;
    const offset = length > 4 ? base + this.data.getUint32(start + 8, this.little) : start + 8;
    if (offset < 0 || offset + length > this.block.length || length > this.left) return [tag, null];
    this.left -= length;
    const data = this.block.slice(offset, offset + length);
    if (!this.little && unit > 1) {
      for (let at = 0; at < length; at += unit) data.subarray(at, at + unit).reverse();
    }
    return [tag, { type, count, data, offset }];
  }

  /** Return the entries of the IFD to which a tag of `parent` points; empty if it points nowhere. */
  sub(parent, tag) {
    const entry = parent.get(tag);
    if (!entry || ![SHORT, LONG, 13].includes(entry.type) || entry.count > MOST_IFDS) return new Map();
    return this.ifd(values(entry)[0])[0];
  }
}

// --- writing ---------------------------------------------------------------------------------------------------------

const encode = (count, size, write) => {
  const data = new Uint8Array(count * size);
  write(view(data));
  return data;
};

export const byte = (data) => ({ type: BYTE, count: data.length, data });

/** Make an ASCII value: "?" replaces other characters; a NUL ends it. */
export function text(characters) {
  const codes = Array.from(characters, (letter) => (letter.codePointAt(0) < 128 ? letter.charCodeAt(0) : 63));
  return { type: ASCII, count: codes.length + 1, data: Uint8Array.from([...codes, 0]) };
}

export const short = (...numbers) => ({
  type: SHORT, count: numbers.length,
  data: encode(numbers.length, 2, (data) => numbers.forEach((n, i) => data.setUint16(2 * i, n, true))),
});

export const long = (...numbers) => ({
  type: LONG, count: numbers.length,
  data: encode(numbers.length, 4, (data) => numbers.forEach((n, i) => data.setUint32(4 * i, n, true))),
});

export const floats = (numbers) => ({
  type: FLOAT, count: numbers.length,
  data: encode(numbers.length, 4, (data) => numbers.forEach((n, i) => data.setFloat32(4 * i, n, true))),
});

export const doubles = (numbers) => ({
  type: DOUBLE, count: numbers.length,
  data: encode(numbers.length, 8, (data) => numbers.forEach((n, i) => data.setFloat64(8 * i, n, true))),
});

const fractional = (type, write) => (...numbers) => {
  const terms = numbers.flatMap(fraction);
  const data = encode(terms.length, 4, (target) => terms.forEach((n, i) => target[write](4 * i, n, true)));
  return { type, count: numbers.length, data };
};

/** Make a RATIONAL or SRATIONAL value of the shortest fractions. */
export const rational = fractional(RATIONAL, "setUint32"), srational = fractional(SRATIONAL, "setInt32");

/** Return the shortest fraction within about 1e-8 of a number, numerator and denominator within 31 bits. */
export function fraction(number) {
  const largest = 2 ** 31 - 1;
  if (!(Math.abs(number) <= largest)) throw new Error(`${number} is too large for a DNG`);
  const limit = BigInt(Math.max(1, Math.trunc(Math.min(1e8, largest / Math.max(Math.abs(number), 1e-9) - 1))));
  const [over, under] = limited(...exact(number), limit);
  return [Number(over), Number(under)];
}

/** Return the exact fraction of a double as two BigInts without a common factor. */
function exact(number) {
  let under = 1n;
  while (!Number.isInteger(number)) {
    number *= 2;
    under *= 2n;
  }
  return [BigInt(number), under]; // the numerator is odd, or the denominator is 1
}

/** Return the fraction nearest to n / d of a denominator of at most `limit`: by continued fractions. */
function limited(n, d, limit) {
  if (d <= limit) return [n, d];
  const floor = (a, b) => (a >= 0n ? a / b : -((-a + b - 1n) / b));
  const absolute = (a) => (a < 0n ? -a : a);
  let [p0, q0, p1, q1] = [0n, 1n, 1n, 0n], [a, b] = [n, d];
  for (;;) {
    const whole = floor(a, b), q2 = q0 + whole * q1;
    if (q2 > limit) break;
    [p0, q0, p1, q1] = [p1, q1, p0 + whole * p1, q2];
    [a, b] = [b, a - whole * b];
  }
  const k = (limit - q0) / q1;
  const [p2, q2] = [p0 + k * p1, q0 + k * q1];
  // The nearer of both bounds; the simpler one, p1 / q1, if they are equally near.
  return absolute(p1 * d - n * q1) * q2 <= absolute(p2 * d - n * q2) * q1 ? [p1, q1] : [p2, q2];
}

/** Return the size of a directory's values that do not fit into its entries. */
export const spilt = (ifd) => {
  let size = 0;
  for (const { data } of ifd.values()) if (data.length > 4) size += data.length + (data.length % 2);
  return size;
};

/** Write a directory and its values at offset `start` of `out`; the next directory's offset is 0. */
export function writeDirectory(out, ifd, start) {
  const data = view(out);
  let at = start + 2, value = start + 2 + 12 * ifd.size + 4;
  data.setUint16(start, ifd.size, true);
  for (const [tag, entry] of [...ifd].sort(([a], [b]) => a - b)) {
    data.setUint16(at, tag, true);
    data.setUint16(at + 2, entry.type, true);
    data.setUint32(at + 4, entry.count, true);
    if (entry.data.length <= 4) {
      out.set(entry.data, at + 8);
    } else {
      data.setUint32(at + 8, value, true);
      out.set(entry.data, value);
      value += entry.data.length + (entry.data.length % 2);
    }
    at += 12;
  }
}
