"use strict";
// Dividers inside one chooser move together, so that a change of the frame compares the same place.
for (const divider of document.querySelectorAll("[data-divider]")) {
  divider.addEventListener("input", () => {
    const frames = divider.closest(".frames");
    const all = frames ? frames.querySelectorAll("[data-divider]") : [divider];
    for (const each of all) {
      each.value = divider.value;
      each.closest("[data-compare]").style.setProperty("--at", divider.value + "%");
    }
  });
}
for (const control of document.querySelectorAll("[data-chooser]")) {
  const frames = control.closest(".frames").querySelectorAll(".frame");
  const output = control.closest(".choose").querySelector("output");
  const names = (control.dataset.names || "").split("\n");
  const show = () => {
    frames.forEach((frame, at) => { frame.hidden = at !== Number(control.value); });
    if (output) {
      output.textContent = names[control.value];
      control.setAttribute("aria-valuetext", names[control.value]);
    }
  };
  control.addEventListener("input", show);
  show(); // a browser may restore the control's value, but not the frame, when the page is loaded again
}
for (const divider of document.querySelectorAll("[data-divider]")) {
  divider.closest("[data-compare]").style.setProperty("--at", divider.value + "%");
}
