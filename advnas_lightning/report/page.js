"use strict";

// The button turns the colours: as the system has them, light, dark. A page from a file may not keep the choice.
const themes = ["auto", "light", "dark"];
const theme = document.querySelector("#theme");
function paint(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  theme.querySelector("span").textContent = name;
}
function kept() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}
paint(themes.includes(kept()) ? kept() : "auto");
theme.addEventListener("click", () => {
  const name = themes[(themes.indexOf(theme.querySelector("span").textContent) + 1) % themes.length];
  paint(name);
  try {
    localStorage.setItem("theme", name);
  } catch {
    // it lasts as long as the page
  }
});

// The chooser shows and hides strategies in all curves.
const boxes = [...document.querySelectorAll("#chooser input")];
const curves = [...document.querySelectorAll("svg [data-strategy]")];
let chosen = new Set();
function choose() {
  chosen = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
  for (const curve of curves) curve.classList.toggle("hidden", !chosen.has(curve.dataset.strategy));
}
document.querySelector("#chooser")?.addEventListener("change", choose);
for (const button of document.querySelectorAll("[data-set]")) {
  button.addEventListener("click", () => {
    for (const box of boxes) {
      const dense = box.dataset.dense === "true";
      box.checked = { all: true, none: false, sparse: !dense, dense }[button.dataset.set];
    }
    choose();
  });
}
choose(); // a browser may remember what was chosen before

// Values beside the pointer.
const tip = document.querySelector("#tip");
function show(event, content) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const right = event.clientX + 16 + width > innerWidth;
  tip.style.left = `${Math.max(4, right ? event.clientX - 16 - width : event.clientX + 16)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - height - 4))}px`;
}
for (const mark of document.querySelectorAll("[data-tip]")) {
  mark.addEventListener("pointerenter", (event) => show(event, [mark.dataset.tip]));
  mark.addEventListener("pointerleave", () => (tip.hidden = true));
}
function made(name, text, colour) {
  const element = document.createElement("span");
  if (name) element.className = name;
  element.textContent = text;
  if (colour) element.style.background = colour;
  return element;
}
const colours = new Map(boxes.map((box) => [box.value, box.parentElement.style.getPropertyValue("--colour")]));
function number(value) {
  return Number(value.toPrecision(4)).toString();
}
const SVG = "http://www.w3.org/2000/svg";
for (const figure of document.querySelectorAll("figure.curves")) {
  const [width, height] = figure.querySelector("[data-size]").dataset.size.split(" ").map(Number);
  const panels = JSON.parse(figure.querySelector("script").textContent); // in shares of the figure's width and height
  figure.querySelectorAll(".panels svg").forEach((view, index) => {
    const panel = panels[index];
    const [left, , wide] = view.getAttribute("viewBox").split(" ").map(Number);
    const marks = view.appendChild(document.createElementNS(SVG, "g"));
    function mark(kind, attributes) {
      const element = marks.appendChild(document.createElementNS(SVG, kind));
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      return element;
    }
    function away() {
      marks.replaceChildren();
      tip.hidden = true;
    }
    view.addEventListener("pointermove", (event) => {
      const box = view.getBoundingClientRect();
      const x = (left + ((event.clientX - box.left) / box.width) * wide) / width;
      const distance = (point) => Math.abs(point[0] - x);
      const near = panel.curves
        .map(({ points, ...curve }) => [curve, points.filter((point) => point[0] <= panel.box[2] + 0.001)])
        .filter(([curve, points]) => chosen.has(curve.strategy) && points.length)
        .map(([curve, points]) => [curve, points.reduce((a, b) => (distance(b) < distance(a) ? b : a))]);
      away();
      if (!near.length) return;
      const at = near.reduce((a, b) => (distance(b[1]) < distance(a[1]) ? b : a))[1];
      const here = near.filter(([, point]) => Math.abs(point[0] - at[0]) < 0.012).sort(([, a], [, b]) => a[1] - b[1]);
      const cursor = { class: "cursor", x1: at[0] * width, x2: at[0] * width };
      mark("line", { ...cursor, y1: panel.box[1] * height, y2: panel.box[3] * height });
      const lines = here.map(([curve, [px, py, , low, middle, high]]) => {
        const colour = colours.get(curve.strategy);
        mark("circle", { class: "cursor-dot", cx: px * width, cy: py * height, r: 2.6 }).style.stroke = colour;
        const line = document.createElement("div");
        const band = low === high ? "" : ` (${number(low)} to ${number(high)})`;
        line.append(made("dot", "", colour), made("", curve.label), made("", number(middle) + band));
        return line;
      });
      const head = document.createElement("b");
      head.textContent = panel.x.endsWith("of training") ? `${number(at[2])} ${panel.x}` : `${panel.x} ${at[2]}`;
      show(event, [head, ...lines]);
    });
    view.addEventListener("pointerleave", away);
  });
}

// A click on a title sorts by it, and another one turns the order; empty places stay last.
function sorted(rows, key, descending) {
  const pairs = rows.map((row) => [key(row), row]);
  const numeric = pairs.every(([value]) => value === "" || !Number.isNaN(Number(value)));
  const turn = descending ? -1 : 1;
  pairs.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return turn * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
  return pairs.map(([, row]) => row);
}
function text(cell) {
  return cell.dataset.value ?? cell.textContent.trim();
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelector(".titles").cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const body = table.tBodies[0];
      body.append(...sorted([...body.rows], (row) => text(row.cells[column]), descending));
    });
  });
}
const list = document.querySelector("#runs .list");
const nothing = document.querySelector("#nothing");
const buttons = [...document.querySelectorAll("#runs .heads button")];
buttons.forEach((button, column) => {
  button.addEventListener("click", () => {
    const descending = button.dataset.order === "ascending";
    for (const other of buttons) delete other.dataset.order;
    button.dataset.order = descending ? "descending" : "ascending";
    const runs = [...list.querySelectorAll(":scope > .run")];
    list.append(...sorted(runs, (run) => text(run.firstElementChild.children[column]), descending), nothing);
  });
});

// The filter keeps the runs in which every word occurs.
const filter = document.querySelector("#filter");
const runs = [...list.querySelectorAll(":scope > .run")].map((run) => [run, run.textContent.toLowerCase()]);
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const [run, content] of runs) {
    run.hidden = !words.every((word) => content.includes(word));
    count += !run.hidden;
  }
  nothing.hidden = count > 0;
  document.querySelector("#shown").textContent = `${count} of ${runs.length} run${runs.length === 1 ? "" : "s"}`;
});
