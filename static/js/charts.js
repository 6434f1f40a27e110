// Draws every element with data-chart from the JSON that its data-source names; the same numbers stand in a table beside it.

import { heatmap } from "./charts/heatmap.js";
import { losses } from "./charts/losses.js";
import { contributions, energy, tradeoff } from "./charts/merges.js";
import { spectrum } from "./charts/spectrum.js";

const draw = { heatmap, spectrum, energy, contributions, tradeoff, losses };
const NARROW = 480;

// Draws, and again whenever width or colours change. Returns: a function that draws other data.
export function mount(element, kind, initial) {
  let data = initial;
  // Rows as high as text; the page's own height is for charts of fixed size.
  if (kind === "heatmap") Object.assign(element.style, { minHeight: 0, height: `${data.rows.length * 1.7 + 6.5}rem` });
  const chart = echarts.init(element, null, { renderer: "svg" });
  let isNarrow;
  const render = () => {
    isNarrow = element.clientWidth < NARROW;
    chart.setOption(draw[kind](data, isNarrow), true);
  };
  const fit = () => {
    chart.resize();
    if (isNarrow !== element.clientWidth < NARROW) render();
  };
  render();
  new ResizeObserver(fit).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
  document.addEventListener("themechange", render);
  // Paper has a width and a colour scheme of its own.
  matchMedia("print").addEventListener("change", () => { fit(); render(); });
  return { show: (next) => { data = next; render(); } };
}

function start(element) {
  mount(element, element.dataset.chart, JSON.parse(document.getElementById(element.dataset.source).textContent));
}

document.querySelectorAll("[data-chart]").forEach(start);
// What htmx has fetched since.
document.addEventListener("htmx:load", ({ detail }) => detail.elt.querySelectorAll("[data-chart]:empty").forEach(start));
