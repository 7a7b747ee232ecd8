"use strict";

// Light and dark: the system's choice until the reader takes another.
const theme = document.querySelector(".theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// A readout under each line chart: the values nearest to the pointer, or to the position the arrow keys reach.
for (const plot of document.querySelectorAll(".plot")) {
  const area = plot.querySelector(".area");
  const cross = plot.querySelector(".cross");
  const readout = plot.querySelector(".readout");
  const lines = [...plot.querySelectorAll(".line")].map((path) => ({
    name: path.dataset.name, color: path.dataset.color, points: JSON.parse(path.dataset.points),
  }));
  const stops = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  const rest = readout.textContent;
  let index = stops.length - 1;

  const nearest = (points, x) => points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
  const show = () => {
    const x = stops[index];
    cross.setAttribute("x1", x);
    cross.setAttribute("x2", x);
    cross.removeAttribute("visibility");
    readout.replaceChildren();
    lines.forEach((line, order) => {
      const point = nearest(line.points, x);
      if (order === 0) readout.append(`${plot.dataset.axis} ${point[1]}`);
      const value = document.createElement("b");
      value.style.color = `var(--c-${line.color})`;
      value.textContent = `${line.name} ${point[2]}`;
      readout.append(" ", value);
    });
  };
  const clear = () => {
    cross.setAttribute("visibility", "hidden");
    readout.textContent = rest;
  };
  area.addEventListener("pointermove", (event) => {
    const frame = area.getBoundingClientRect();
    const x = ((event.clientX - frame.left) / frame.width) * 1000;
    index = stops.reduce((best, stop, at) => (Math.abs(stop - x) < Math.abs(stops[best] - x) ? at : best), 0);
    show();
  });
  area.addEventListener("pointerleave", clear);
  area.addEventListener("focus", show);
  area.addEventListener("blur", clear);
  area.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: stops.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    index = Math.min(Math.max(moves[event.key], 0), stops.length - 1);
    show();
  });
}

// Cards: an answer's button draws that answer on the map.
for (const card of document.querySelectorAll(".card")) {
  const buttons = [...card.querySelectorAll("button.answer")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other.dataset.key === button.dataset.key));
      for (const overlay of card.querySelectorAll(".overlay")) overlay.classList.toggle("on", overlay.dataset.key === button.dataset.key);
      const caption = card.querySelector(".shown");
      if (caption) caption.textContent = button.dataset.caption;
      const truth = card.querySelector(".truth");
      if (truth) truth.textContent = button.dataset.truth;
    });
  }
}

// The filter over the cards.
const filters = [...document.querySelectorAll(".filter button")];
for (const filter of filters) {
  filter.addEventListener("click", () => {
    for (const other of filters) other.setAttribute("aria-pressed", String(other === filter));
    for (const card of document.querySelectorAll(".card")) {
      card.hidden = filter.dataset.only !== "all" && card.dataset.result !== filter.dataset.only;
    }
  });
}

// Tables: a column's name sorts by it; numbers begin with the largest, words with A.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("th")];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const words = head.classList.contains("words");
      const now = head.getAttribute("aria-sort");
      const next = now === "none" ? (words ? "ascending" : "descending") : now === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? next : "none"));
      const key = (row) => row.cells[column].dataset.order;
      const order = (a, b) => (words ? key(a).localeCompare(key(b)) : Number(key(a)) - Number(key(b)));
      const sign = next === "ascending" ? 1 : -1;
      body.append(...[...body.rows].sort((a, b) => sign * order(a, b)));
    });
  });
}
