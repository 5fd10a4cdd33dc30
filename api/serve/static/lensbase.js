// Small helpers on pages that work without them.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Theme: the system's until somebody chooses.
for (const button of all("[data-theme-toggle]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try {
      localStorage.setItem("lensbase-theme", root.dataset.theme);
    } catch {
      // Not kept, then.
    }
  });
}

function say(text) {
  const toast = document.createElement("div");
  toast.className = "toast";
  toast.setAttribute("role", "status");
  toast.textContent = text;
  document.body.append(toast);
  setTimeout(() => toast.remove(), 1600);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Plain http on another host than this one has no clipboard of its own.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say("Copied");
}

// Pictures that can also be shown as heatmaps: one button for a section's.
function showHeat(button) {
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  for (const picture of all("img[data-heat]", button.closest(".section") ?? document)) {
    picture.dataset.plain ??= picture.src;
    picture.src = on ? picture.dataset.heat : picture.dataset.plain;
  }
}

function wire(within) {
  for (const button of all("[data-copy], [data-copy-address]", within)) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button.dataset.copy ?? location.href));
  }
  for (const button of all("[data-heat-toggle]", within)) {
    if (!button.closest(".section")?.querySelector("img[data-heat]")) continue;
    button.hidden = false;
    button.addEventListener("click", () => showHeat(button));
  }
  // A choice that is submitted at once needs no button.
  for (const select of all("select[data-submit]", within)) {
    select.addEventListener("change", () => select.form.requestSubmit());
  }
  for (const box of all("[data-lazy]", within)) watch.observe(box);
  for (const box of all(".scroll, .strip.row, .tabs > ul, .facet ul", within)) {
    box.addEventListener("scroll", () => cue(box), { passive: true });
    sized.observe(box);
  }
}

// Which edges of a box hide something: they fade.
function cue(box) {
  const beyond = box.scrollWidth - box.clientWidth;
  box.classList.toggle("more-left", box.scrollLeft > 1);
  box.classList.toggle("more-right", beyond - box.scrollLeft > 1);
  const below = box.scrollHeight - box.clientHeight - box.scrollTop;
  box.classList.toggle("more-down", box.matches(".facet ul") && below > 1);
}
const sized = new ResizeObserver((entries) => {
  for (const { target } of entries) cue(target);
});

// Parts of a page that are fetched when they come into view; the link in them is the way without.
async function fetchPart(box) {
  box.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(box.dataset.lazy, { headers: { Accept: "text/html" } });
    const found = new DOMParser().parseFromString(await answer.text(), "text/html");
    const part = found.querySelector("[data-part]") ?? found.querySelector("main");
    if (!answer.ok || !part) throw new Error(String(answer.status));
    box.replaceChildren(...part.childNodes);
    wire(box);
  } catch {
    box.append("This part could not be loaded; its link opens it alone.");
  }
  box.removeAttribute("aria-busy");
}
const watch = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      fetchPart(target);
    }
  },
  { rootMargin: "300px" },
);

// Arrow keys walk over a grid; Tab passes over it in one step.
function walk(event) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const cell = event.target.closest("td");
  if (!cell || !(step || event.key === "Home" || event.key === "End")) return;
  const row = cell.parentElement;
  let target = null;
  if (!step) {
    const cells = all("a.cell", row);
    target = event.key === "Home" ? cells[0] : cells.at(-1);
  } else {
    let [line, column] = [row, cell.cellIndex];
    do {
      line = step[0] < 0 ? line.previousElementSibling : step[0] > 0 ? line.nextElementSibling : line;
      column += step[1];
      target = line?.cells[column]?.querySelector("a.cell");
    } while (!target && line && column > 0 && column < line.cells.length);
  }
  if (!target) return;
  event.preventDefault();
  for (const one of all("a.cell", cell.closest("table"))) one.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
}
for (const grid of all("table.grid")) {
  all("a.cell", grid).forEach((one, place) => { one.tabIndex = place ? -1 : 0; });
  grid.addEventListener("keydown", walk);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/") {
    const field = document.querySelector("[data-search]");
    if (!field) return;
    event.preventDefault();
    field.focus();
    field.select();
  }
  const turn = { "[": "prev", "]": "next" }[event.key];
  if (turn) document.querySelector(`a[rel="${turn}"]`)?.click();
});

// The tab of this page is in sight, however many there are.
for (const tab of all(".tabs [aria-current]")) {
  const list = tab.closest("ul");
  list.scrollLeft = tab.offsetLeft + tab.offsetWidth + 48 - list.clientWidth;
}

// Where there is little room, what folds is folded.
if (matchMedia("(max-width: 46rem)").matches) {
  for (const part of all("details[data-folds]")) part.open = false;
}

wire(document);
