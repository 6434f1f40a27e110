// How the inputs of a merge relate, as a table that is its own picture, and what each rank keeps.

import { call, el } from "./api.js";
import { mount } from "./charts.js";

const STEPS = 4;
const POLL_MS = 1000;
const SERVED = [8, 16, 32, 64, 128, 256];
const KINDS = {
  cosine: { title: "cosine", says: "Cosine of the whole ΔW: 0 is unrelated, 1 the same change, below 0 they pull against each other.", strength: Math.abs },
  overlap: { title: "overlap", says: "How much of the directions that they write to is shared: 0 none, 1 all.", strength: (value) => value, side: "out" },
  overlap_in: { title: "overlap, inputs", says: "How much of the directions that they read from is shared: 0 none, 1 all.", strength: (value) => value, side: "in" },
  sign_conflict: { title: "sign conflict", says: "Share of the entries whose signs differ: 0.5 is unrelated, above it they pull against each other.", strength: (value) => Math.max(0, 2 * value - 1) },
};

const shown = (value) => (value === null ? "–" : value.toFixed(3).replace(/^-(0\.0+)$/, "$1"));

function chanceText(measures, side) {
  const chances = side ? measures.overlap_chance?.[side] : null;
  if (!chances?.length) return "";
  const low = Math.min(...chances).toFixed(3);
  const high = Math.max(...chances).toFixed(3);
  return ` By chance it would be ${low === high ? low : `${low} to ${high}`}.`;
}

function matrix(names, rows, strength) {
  const head = el("tr", {}, el("td"), ...names.map((name, index) => el("th", { scope: "col", title: name }, String(index + 1))));
  const body = rows.map((row, i) => {
    const cells = row.map((value, j) => {
      const step = value === null || i === j ? 0 : Math.round(STEPS * Math.min(1, strength(value)));
      return el("td", { class: `number step-${step}${i === j ? " muted" : ""}` }, shown(value));
    });
    return el("tr", {}, el("th", { scope: "row" }, `${i + 1}. ${names[i]}`), ...cells);
  });
  return el("table", { class: "cosine" }, el("thead", {}, head), el("tbody", {}, ...body));
}

// The matrix in a box, with a button for each measure that there is. Returns: a function that shows other measures.
export function matrixIn(box) {
  let kind = "cosine";
  let latest = null;
  const buttons = Object.entries(KINDS).map(([name, { title }]) => {
    const button = el("button", { type: "button", class: "button small" }, title);
    button.addEventListener("click", () => { kind = name; render(); });
    return { name, button };
  });
  const says = el("p", { class: "small muted" });
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "How the inputs relate, as a table" });
  box.replaceChildren(el("div", { class: "switch", role: "group", "aria-label": "Measure" }, ...buttons.map(({ button }) => button)), says, table);
  function render() {
    const { names, measures } = latest;
    if (!measures[kind]) kind = "cosine";
    for (const { name, button } of buttons) {
      button.hidden = !measures[name];
      button.setAttribute("aria-pressed", String(name === kind));
    }
    says.textContent = KINDS[kind].says + chanceText(measures, KINDS[kind].side);
    table.replaceChildren(matrix(names, measures[kind], KINDS[kind].strength));
  }
  return (names, measures) => { latest = { names, measures }; render(); };
}

// What the form shows of a preview. `onRank`: a rank was chosen; `onMeasured`: a worker is done, ask again.
export class InterferenceView {
  constructor(root, { onRank, onMeasured }) {
    this.root = root;
    this.onRank = onRank;
    this.onMeasured = onMeasured;
    this.parts = Object.fromEntries([...root.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
    this.showMatrix = matrixIn(this.parts.matrix);
    this.watched = null;
  }

  show(preview) {
    const { measured, job } = preview;
    const isOpen = job && ["queued", "running"].includes(job.status);
    this.root.hidden = !measured && !job;
    this.parts.found.hidden = !measured;
    this.parts.waiting.hidden = Boolean(measured) || !job;
    if (measured) this.#showMeasures(preview);
    else if (job) this.#showJob(job);
    this.#watch(isOpen ? job.id : null);
  }

  #showMeasures(preview) {
    const names = preview.measured.map(({ adapter }) => adapter);
    this.parts.relations.hidden = names.length < 2;
    if (names.length > 1) this.showMatrix(names, preview);
    this.parts.dominates.textContent = preview.dominates ? `${names[preview.dominates.input]} is ${Number(preview.dominates.ratio.toPrecision(2))} times as strong as any other: it dominates.` : "";
    const data = { points: preview.energy, served: SERVED, chosen: preview.rank };
    if (this.curve) this.curve.show(data);
    else this.curve = mount(this.parts.curve, "energy", data);
    this.parts.ranks.replaceChildren(...preview.energy.filter(({ rank }) => SERVED.includes(rank) || rank === preview.rank).map((row) => this.#rank(row, preview.rank)));
  }

  #rank({ rank, kept }, chosen) {
    const share = kept > 0.9995 && kept < 1 ? "99.9" : (100 * kept).toFixed(1);
    const button = el("button", { type: "button", class: "chip", "aria-pressed": String(rank === chosen) }, `rank ${rank}: ${share} %`);
    button.addEventListener("click", () => this.onRank(rank));
    return el("li", {}, button);
  }

  #showJob({ status, progress, error }) {
    this.parts.bar.value = progress;
    this.parts.bar.hidden = status === "failed" || status === "cancelled";
    this.parts.said.textContent = { queued: "The files are large: a worker will measure them.", running: "The files are large: a worker is measuring them." }[status] || `They could not be measured. ${error?.message || ""}`;
  }

  // Follows one job; the one before it measures what nobody waits for any more.
  #watch(id) {
    if (id === this.watched) return;
    if (this.watched) call("POST", `jobs/${this.watched}/cancel/`).catch(() => {});
    this.watched = id;
    if (id) setTimeout(() => this.#poll(id), POLL_MS);
  }

  async #poll(id) {
    if (id !== this.watched) return;
    let job = null;
    try {
      job = await call("GET", `jobs/${id}/`);
    } catch { /* the next look may succeed */ }
    if (id !== this.watched) return;
    if (job && !["queued", "running"].includes(job.status)) {
      this.watched = null;
      if (job.status === "succeeded") this.onMeasured();
      else this.#showJob(job);
      return;
    }
    if (job) this.#showJob(job);
    setTimeout(() => this.#poll(id), POLL_MS);
  }
}
