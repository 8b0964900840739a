// Call functions of the page's modules: reads [[module, function, [arguments]], …] as JSON, prints the results.
// Bytes travel as {"bytes": base64}; an error is {"error": text}.

import { readFileSync } from "node:fs";

const sources = new URL("../../web/src/", import.meta.url);

const taken = (value) => {
  if (Array.isArray(value)) return value.map(taken);
  if (value && typeof value === "object") {
    if ("bytes" in value) return new Uint8Array(Buffer.from(value.bytes, "base64"));
    if ("uint16" in value) return new Uint16Array(new Uint8Array(Buffer.from(value.uint16, "base64")).buffer);
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, taken(inner)]));
  }
  return value;
};

const given = (value) => {
  if (ArrayBuffer.isView(value)) {
    return { bytes: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64") };
  }
  if (Array.isArray(value)) return value.map(given);
  return value ?? null;
};

const results = [];
for (const [file, name, values] of JSON.parse(readFileSync(0, "utf-8"))) {
  const module = await import(new URL(file, sources));
  try {
    const exported = name.split(".").reduce((object, part) => object[part], module);
    results.push(given(await exported(...taken(values))));
  } catch (error) {
    results.push({ error: error.message });
  }
}
console.log(JSON.stringify(results));
