// Lossless JPEG (ITU-T T.81, SOF3) with predictor 1, two components of half width; see paramisp_cli/formats/ljpeg.py.

import { joined } from "./jpeg.js";

const CATEGORIES = 17, LONGEST = 11, SAMPLED_TILES = 24;
export const TILE = 256;

/** Return the width of the tiles, a multiple of 16; 0 (uncompressed) if the mosaic is too narrow for tiles. */
export const tileWidthFor = (width) => (width === 2 * TILE ? TILE - 16 : Math.min(TILE, width - (width % 16)));

/** Return the tiles of a mosaic (H · W, uint16) as streams, in row order. */
export function tiles(mosaic, height, width, tileWidth, progress = () => {}) {
  const book = codebook(histogram(mosaic, height, width)), found = [];
  for (let top = 0; top < height; top += TILE) {
    for (let left = 0; left < width; left += tileWidth) {
      found.push(encode(mosaic, height, width, top, left, tileWidth, book));
    }
    progress(Math.min(top + TILE, height) / height);
  }
  return found;
}

/** Count the categories of differences in tiles spread over the picture. */
function histogram(mosaic, height, width) {
  const corners = [], counts = new Array(CATEGORIES).fill(0);
  for (let top = 0; top < height; top += TILE) for (let left = 0; left < width; left += TILE) corners.push([top, left]);
  const step = Math.max(1, Math.floor(corners.length / SAMPLED_TILES));
  for (let number = 0; number < corners.length; number += step) {
    const [top, left] = corners[number];
    const rows = Math.min(TILE, height - top), columns = Math.min(TILE, width - left);
    eachDifference(mosaic, width, top, left, rows, columns, (difference) => {
      counts[categoryOf(difference)] += 1;
    });
  }
  return counts;
}

const categoryOf = (difference) => {
  const signed = (difference << 16) >> 16;
  return 32 - Math.clz32(Math.abs(signed));
};

/** Call `use` with sample minus prediction of each sample, in order. */
function eachDifference(samples, width, top, left, rows, columns, use) {
  for (let y = 0; y < rows; y++) {
    const at = (top + y) * width + left;
    for (let x = 0; x < columns; x++) {
      const before = x > 1 ? samples[at + x - 2] : y ? samples[at + x - width] : 1 << 15;
      use(samples[at + x] - before);
    }
  }
}

/** Return the best code for counts of categories: {lengths, order, codes}. */
function codebook(counts) {
  // T.81 (C.2) forbids the code of all ones. A further symbol, the rarest of all, takes this code and is dropped.
  const lengths = codeLengths([...counts.map((count) => Math.max(count, 1)), 0]).slice(0, CATEGORIES);
  const order = [...lengths.keys()].sort((a, b) => lengths[a] - lengths[b] || a - b);
  const codes = new Uint32Array(CATEGORIES);
  let code = 0, previous = 0;
  for (const category of order) {
    code <<= lengths[category] - previous;
    previous = lengths[category];
    codes[category] = code++;
  }
  return { lengths, order, codes };
}

/** Return the code lengths of the best prefix code of at most LONGEST bits, by package-merge. */
function codeLengths(counts) {
  const leaves = counts.map((count, symbol) => [count, [symbol]]).sort((a, b) => a[0] - b[0] || a[1][0] - b[1][0]);
  let packages = leaves;
  for (let round = 1; round < LONGEST; round++) {
    const pairs = [];
    for (let i = 0; i + 1 < packages.length; i += 2) {
      pairs.push([packages[i][0] + packages[i + 1][0], [...packages[i][1], ...packages[i + 1][1]]]);
    }
    packages = [...leaves, ...pairs].sort((a, b) => a[0] - b[0]); // stable, like Python's sort
  }
  const lengths = new Array(counts.length).fill(0);
  for (const [, symbols] of packages.slice(0, 2 * counts.length - 2)) {
    for (const symbol of symbols) lengths[symbol] += 1;
  }
  return lengths;
}

/** Encode the tile at a corner as a JPEG stream; at the edges its last columns and rows are repeated in pairs. */
function encode(mosaic, height, width, top, left, tileWidth, book) {
  const rows = Math.min(TILE, height - top), columns = Math.min(tileWidth, width - left);
  const tile = new Uint16Array(TILE * tileWidth);
  for (let y = 0; y < TILE; y++) {
    const row = (top + (y < rows ? y : rows - 2 + (y % 2))) * width + left, to = y * tileWidth;
    tile.set(mosaic.subarray(row, row + columns), to);
    for (let x = columns; x < tileWidth; x++) tile[to + x] = mosaic[row + columns - 2 + (x % 2)];
  }
  const half = tileWidth / 2;
  const byLength = Array.from({ length: 16 }, (_, i) => book.lengths.filter((length) => length === i + 1).length);
  const header = Uint8Array.from([
    0xff, 0xd8, 0xff, 0xc3, 0, 14, 16, TILE >> 8, TILE & 255, half >> 8, half & 255, 2, 0, 0x11, 0, 1, 0x11, 0,
    0xff, 0xc4, 0, 19 + CATEGORIES, 0, ...byLength, ...book.order, 0xff, 0xda, 0, 10, 2, 0, 0, 1, 0, 1, 0, 0,
  ]);
  return joined([header, packed(tile, tileWidth, book)]);
}

/** Return the coded bits, padded with ones, with zeros after bytes of ones, and the end marker. */
function packed(tile, width, { lengths, codes }) {
  const out = new Uint8Array(2 * (tile.length * 4) + 2); // at most 11 + 15 bits a sample, each byte stuffed
  let at = 0, bits = 0, held = 0;
  const put = (value, count) => { // count ≤ 16
    held = (held << count) | value;
    for (bits += count; bits >= 8; ) {
      bits -= 8;
      const byte = (held >>> bits) & 255;
      out[at++] = byte;
      if (byte === 255) out[at++] = 0;
    }
    held &= (1 << bits) - 1;
  };
  eachDifference(tile, width, 0, 0, TILE, width, (difference) => {
    const signed = (difference << 16) >> 16, category = categoryOf(difference);
    put(codes[category], lengths[category]);
    if (category && category < 16) put((signed < 0 ? signed - 1 : signed) & ((1 << category) - 1), category);
  });
  if (bits) put((1 << (8 - bits)) - 1, 8 - bits);
  out[at++] = 0xff;
  out[at++] = 0xd9;
  return out.slice(0, at);
}
