// Fix inputs of an ONNX file to values: onnxruntime then folds all that depends on them, as on the command line.
// An ONNX file is protobuf: a field is a key (number · 8 + wire type), then its content.

import { joined } from "./jpeg.js";
import { view } from "./tiff.js";

/** Yield [number, begin of the key, begin of the content, end] of each field of a message. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0, scale = 1;
    for (;;) {
      const group = bytes[at++];
      value += (group & 0x7f) * scale;
      if (group < 128) return value;
      scale *= 128;
    }
  };
  while (at < bytes.length) {
    const start = at, key = varint(), wire = key % 8;
    let begin = at;
    if (wire === 0) varint();
    else if (wire === 2) {
      const length = varint();
      begin = at;
      at += length;
    } else at += wire === 1 ? 8 : 4;
    yield [Math.floor(key / 8), start, begin, at];
  }
}

function varint(number) {
  const out = [];
  for (; number > 127; number = Math.floor(number / 128)) out.push((number % 128) | 128);
  return [...out, number];
}

const field = (number, content) => joined([Uint8Array.from([...varint(8 * number + 2), ...varint(content.length)]),
  content]);

/** Return a TensorProto of float32. */
function tensor(name, shape, numbers) {
  const dims = shape.flatMap((side) => [8, ...varint(side)]);
  const raw = new Uint8Array(4 * numbers.length);
  numbers.forEach((value, i) => view(raw).setFloat32(4 * i, value, true));
  return joined([Uint8Array.from([...dims, 16, 1]), field(8, new TextEncoder().encode(name)), field(9, raw)]);
}

/** Return the ONNX file with inputs turned to constants: `bound` is {name: [shape, numbers]}. */
export function bind(model, bound) {
  const pieces = [], names = new Set(Object.keys(bound));
  for (const [number, start, begin, end] of fields(model)) {
    if (number !== 7) {
      pieces.push(model.subarray(start, end));
      continue;
    }
    const graph = model.subarray(begin, end), parts = [];
    for (const [inner, first, content, last] of fields(graph)) {
      if (inner === 11 && names.delete(nameOf(graph.subarray(content, last)))) continue; // an input
      parts.push(graph.subarray(first, last));
    }
    for (const [name, [shape, numbers]] of Object.entries(bound)) parts.push(field(5, tensor(name, shape, numbers)));
    pieces.push(field(7, joined(parts)));
  }
  if (names.size) throw new Error(`the model has no input ${[...names].join(", ")}`);
  return joined(pieces);
}

const nameOf = (value) => {
  for (const [number, , begin, end] of fields(value)) {
    if (number === 1) return new TextDecoder().decode(value.subarray(begin, end));
  }
  return "";
};
