// The page: take files, let a worker convert them one after another, show the results.

const STAGES = { // name → text, share of all work before the stage, share of the stage
  decode: ["decoding", 0, 0.05], model: ["loading the network", 0.05, 0.05], network: ["estimating the RAW", 0.1, 0.75],
  look: ["fitting the look", 0.85, 0.05], write: ["writing the DNG", 0.9, 0.1],
};

const list = document.getElementById("photos"), status = document.getElementById("status");
const input = document.getElementById("files"), drop = document.getElementById("drop");
const template = document.getElementById("photo");
const waiting = [];
let worker = null, current = null, count = 0, done = 0, failed = 0;

/** Return the page's worker; it stays for all photos, with its loaded network, until one is cancelled. */
function theWorker() {
  if (!worker) {
    worker = new Worker(new URL(`worker.js${location.search}`, import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => current && data.id === current.id && take(current, data);
    worker.onerror = (event) => {
      event.preventDefault?.();
      stopWorker();
      const reason = event.message || "the page's worker stopped";
      if (current) take(current, { stage: "failed", message: `${current.file.name} was not converted: ${reason}` });
    };
  }
  return worker;
}

function stopWorker() {
  worker?.terminate();
  worker = null;
}

function add(files) {
  for (const file of files) {
    const item = template.content.firstElementChild.cloneNode(true);
    const photo = { id: ++count, file, item, part: (name) => item.querySelector(`.${name}`), url: null };
    photo.bar = item.querySelector("progress");
    photo.part("name").textContent = file.name;
    photo.part("state").textContent = "waiting";
    photo.part("thumb").setAttribute("aria-label", `RAW of ${file.name}`);
    photo.part("cancel").setAttribute("aria-label", `Cancel ${file.name}`);
    photo.part("remove").setAttribute("aria-label", `Remove ${file.name}`);
    photo.part("cancel").addEventListener("click", () => cancel(photo));
    photo.part("remove").addEventListener("click", () => remove(photo));
    list.append(item);
    waiting.push(photo);
  }
  next();
}

function next() {
  if (current || !waiting.length) return;
  current = waiting.shift();
  say();
  theWorker().postMessage({ id: current.id, file: current.file });
}

function say() {
  const parts = [`${done} done`];
  if (failed) parts.push(`${failed} failed`);
  if (current) parts.push(`working on ${current.file.name}`);
  if (waiting.length) parts.push(`${waiting.length} waiting`);
  status.textContent = done || failed || current ? parts.join(", ") : "";
}

/** Take a message of the worker. */
function take(photo, { stage, share, dng, thumbnail, notices, facts, seconds, message }) {
  if (stage in STAGES) {
    const [text, before, own] = STAGES[stage];
    photo.part("state").textContent = share > 0 ? `${text}: ${Math.floor(100 * share)} %` : text;
    photo.bar.value = before + own * share;
    return;
  }
  if (stage === "done") {
    done += 1;
    const link = photo.part("download");
    photo.url = URL.createObjectURL(dng);
    link.href = photo.url;
    link.download = photo.file.name.replace(/\.[^.]*$/, "") + ".dng";
    link.hidden = false;
    link.setAttribute("aria-label", `Save ${link.download}`);
    const size = (dng.size / 1e6).toFixed(1), time = seconds.toFixed(seconds < 10 ? 1 : 0);
    photo.part("state").textContent = `${size} MB in ${time} s: weights ${facts.weights}, ${facts.backend}`;
    draw(photo.part("thumb"), thumbnail, facts.orientation);
    for (const notice of notices) {
      const line = document.createElement("li");
      line.textContent = notice;
      photo.part("notices").append(line);
    }
    photo.item.classList.add("done");
  } else {
    failed += 1;
    photo.part("state").textContent = message;
    photo.item.classList.add("failed");
  }
  finish(photo);
}

/** End a photo's work and go on with the next one. */
function finish(photo) {
  photo.bar.hidden = true;
  photo.part("cancel").hidden = true;
  photo.part("remove").hidden = false;
  if (photo === current) current = null;
  say();
  next();
}

function cancel(photo) {
  const isCurrent = photo === current;
  if (isCurrent) stopWorker(); // the only way to interrupt a running network
  else waiting.splice(waiting.indexOf(photo), 1);
  photo.part("state").textContent = "cancelled";
  finish(photo);
  photo.part("remove").focus();
}

function remove(photo) {
  if (photo.url) URL.revokeObjectURL(photo.url);
  const neighbour = photo.item.nextElementSibling ?? photo.item.previousElementSibling;
  photo.item.remove();
  (neighbour?.querySelector(".button:not([hidden])") ?? input).focus();
}

/** Draw a picture upright; `orientation` is EXIF's 1–8. */
function draw(canvas, { pixels, width, height }, orientation) {
  const isTurned = orientation > 4, image = new ImageData(isTurned ? height : width, isTurned ? width : height);
  for (let y = 0, from = 0; y < height; y++) {
    for (let x = 0; x < width; x++, from += 3) {
      const right = width - 1 - x, below = height - 1 - y;
      const [column, row] = [[x, y], [right, y], [right, below], [x, below], [y, x], [below, x], [below, right],
        [y, right]][orientation - 1];
      image.data.set([pixels[from], pixels[from + 1], pixels[from + 2], 255], 4 * (row * image.width + column));
    }
  }
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

input.addEventListener("change", () => {
  add(Array.from(input.files));
  input.value = ""; // the same file may be chosen again
});

// A file dropped beside the field would replace the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
window.addEventListener("dragover", () => drop.classList.add("over"));
window.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
window.addEventListener("drop", (event) => {
  drop.classList.remove("over");
  add(Array.from(event.dataTransfer?.files ?? []));
});

if (!("OffscreenCanvas" in window) || !("createImageBitmap" in window) || !("WebAssembly" in window)) {
  status.textContent = "This browser is too old for this page: it needs OffscreenCanvas and WebAssembly.";
  input.disabled = true;
}
