"use strict";

// The chooser shows and hides strategies in all curves.
const boxes = [...document.querySelectorAll("#chooser input")];
const curves = [...document.querySelectorAll("svg [data-strategy]")];
function choose() {
  const chosen = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
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

// A click on a column's title sorts by it, and another one turns the order; empty places stay last.
function sort(table, column, descending) {
  const body = table.tBodies[0];
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const rows = [...body.rows].map((row) => [key(row), row]);
  const numeric = rows.every(([value]) => value === "" || !Number.isNaN(Number(value)));
  const turn = descending ? -1 : 1;
  rows.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return turn * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
  body.append(...rows.map(([, row]) => row));
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, column, descending);
    });
  });
}

// The filter keeps the runs in which every word occurs.
const filter = document.querySelector("#filter");
const rows = [...document.querySelectorAll("#runs tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const [row, text] of rows) {
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  document.querySelector("#shown").textContent = `${shown} shown`;
});
