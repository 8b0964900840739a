// Convert one photo after another, off the page's thread. The page ends this worker to cancel.

import { Cameras } from "./cameras.js";
import { Refusal, convert } from "./convert.js";

const STRIP = 512; // rows that are read back at a time
const base = new URL("../", self.location.href);
const loaded = new Map();

/** Fetch a file of this site, once; `as` is "json" or "arrayBuffer". */
function fetched(path, as) {
  if (!loaded.has(path)) {
    loaded.set(path, fetch(new URL(path, base)).then((response) => {
      if (!response.ok) throw new Error(`cannot load ${path} (status ${response.status}): reload the page`);
      return response[as]();
    }));
    loaded.get(path).catch(() => loaded.delete(path));
  }
  return loaded.get(path);
}

/** Decode a JPEG without metadata to (H · W · 3) bytes, exactly as coded. */
async function decode(pieces, width, height) {
  let bitmap;
  try {
    const blob = new Blob(pieces, { type: "image/jpeg" });
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    const size = `${Math.round((width * height) / 1e5) / 10} megapixels`;
    throw new Refusal(`cannot be decoded by this browser: it is damaged, or too large (${size}) for its memory`);
  }
  if (bitmap.width !== width || bitmap.height !== height) {
    const own = `${bitmap.width}×${bitmap.height}`;
    throw new Refusal(`was decoded to ${own} instead of ${width}×${height}: use another browser`);
  }
  const canvas = new OffscreenCanvas(width, Math.min(STRIP, height));
  const context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  if (!context) throw new Refusal("is too wide for this browser: use the command line");
  checkReadBack(context);
  const pixels = new Uint8Array(3 * width * height);
  for (let top = 0, to = 0; top < height; top += STRIP) {
    const rows = Math.min(STRIP, height - top);
    context.drawImage(bitmap, 0, top, width, rows, 0, 0, width, rows);
    const { data } = context.getImageData(0, 0, width, rows);
    for (let from = 0; from < data.length; from += 4) {
      pixels[to++] = data[from];
      pixels[to++] = data[from + 1];
      pixels[to++] = data[from + 2];
    }
  }
  bitmap.close();
  return pixels;
}

/** Some browsers add noise to pixels that a page reads, against fingerprinting: the RAW would hold the noise. */
function checkReadBack(context) {
  const side = Math.min(context.canvas.width, context.canvas.height, 64), wanted = new ImageData(side, side);
  for (let at = 0; at < wanted.data.length; at++) wanted.data[at] = at % 4 === 3 ? 255 : (at * 89) % 251;
  context.putImageData(wanted, 0, 0);
  const { data } = context.getImageData(0, 0, side, side);
  if (data.some((value, at) => value !== wanted.data[at])) {
    const reason = "this browser alters pixels against fingerprinting";
    throw new Refusal(`cannot be read exactly: ${reason}; allow this site to read canvases`);
  }
}

let runtime = null;

/** Load onnxruntime-web: the build with WebGPU if this browser has a GPU, else the smaller one. */
async function loadRuntime() {
  const hasGpu = await findGpu(new URLSearchParams(self.location.search).get("backend"));
  const build = hasGpu ? "webgpu" : "wasm", file = (kind) => new URL(`vendor/${build}.${kind}`, base).href;
  const module = await import(file("js"));
  const ort = module.default?.InferenceSession ? module.default : module;
  ort.env.wasm.wasmPaths = { mjs: file("glue.js"), wasm: file("wasm") };
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  ort.env.logLevel = "error";
  return {
    kinds: hasGpu ? ["webgpu", "wasm"] : ["wasm"],
    async open(bytes, kind) {
      const session = await ort.InferenceSession.create(bytes, { executionProviders: [kind], logSeverityLevel: 3 });
      return {
        async run(values, rows, columns) {
          const tensor = new ort.Tensor("float32", values, [1, 3, rows, columns]);
          const { mosaic } = await session.run({ picture: tensor });
          const data = await mosaic.getData();
          mosaic.dispose();
          return data;
        },
        release: () => session.release(),
      };
    },
  };
}

/** Tell whether to try WebGPU; `wanted` ("wasm", "webgpu" or null) is the page's ?backend=. */
async function findGpu(wanted) {
  if (wanted === "wasm") return false;
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    // A GPU that software imitates is slower than WASM.
    return Boolean(adapter) && (wanted === "webgpu" || !adapter.info?.isFallbackAdapter);
  } catch {
    return false;
  }
}

/** Return the error as one line for the user. */
function sentence(error, name) {
  if (error instanceof Refusal) return `${name} ${error.message}`;
  const text = String(error?.message ?? error).split("\n")[0];
  const isMemory = error instanceof RangeError || /memory|allocate|allocation/i.test(text);
  return isMemory
    ? `${name} is too large for this browser's memory: close other pages, or use \`paramisp unprocess\``
    : `${name} was not converted: ${text}`;
}

self.onmessage = async ({ data: { id, file } }) => {
  const started = performance.now();
  try {
    const [manifest, table, bytes] = await Promise.all([
      fetched("manifest.json", "json"), fetched("cameras.json", "json"), file.arrayBuffer(),
    ]);
    runtime ??= await loadRuntime();
    const page = {
      manifest, cameras: new Cameras(table), decode, runtime,
      weights: async (entry) => new Uint8Array(await fetched(entry.onnx, "arrayBuffer")),
    };
    const report = (stage, share) => self.postMessage({ id, stage, share });
    const { parts, thumbnail, notices, facts } = await convert(new Uint8Array(bytes), file.name, page, report);
    const dng = new Blob(parts, { type: "image/x-adobe-dng" });
    const seconds = (performance.now() - started) / 1000;
    self.postMessage({ id, stage: "done", dng, thumbnail, notices, facts, seconds });
  } catch (error) {
    self.postMessage({ id, stage: "failed", message: sentence(error, file.name) });
  }
};
