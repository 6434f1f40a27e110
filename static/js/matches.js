// The experts that a retrieval found, and why.

import { el } from "./api.js";

const WORD = /[\p{L}\p{N}]+/gu;
const MARKED_LENGTH = 4;
const NEARLY_TIED = 0.02;

export const adapterPath = (name) => `/adapters/${name.split("/").map(encodeURIComponent).join("/")}/`;
const shown = (score) => score.toFixed(3);

// A bar whose length is a fraction; the number beside it says the same in text.
export function bar(fraction, { className = "", threshold = null } = {}) {
  const node = el("span", { class: `measure ${className}`, "aria-hidden": "true" }, el("span", { class: "measure-fill" }));
  node.style.setProperty("--fraction", Math.min(1, Math.max(0, fraction)));
  if (threshold !== null) {
    node.append(el("span", { class: "measure-mark" }));
    node.style.setProperty("--threshold", Math.min(1, Math.max(0, threshold)));
  }
  return node;
}

// Text with the words that it shares with the question marked; short words say nothing.
function marked(text, words) {
  const node = el("span");
  let end = 0;
  for (const match of text.matchAll(WORD)) {
    if (!words.has(match[0].toLowerCase())) continue;
    node.append(text.slice(end, match.index), el("mark", {}, match[0]));
    end = match.index + match[0].length;
  }
  node.append(text.slice(end));
  return node;
}

const wordsOf = (texts) => new Set(texts.join(" ").toLowerCase().match(WORD)?.filter((word) => word.length >= MARKED_LENGTH));

function evidence(match, rank, words) {
  const samples = match.evidence?.samples || [];
  if (!samples.length) return null;
  const items = samples.map(({ input, score }) =>
    el("li", {}, input === undefined ? el("em", { class: "muted" }, "The owner does not show the sample texts.") : el("q", {}, marked(input, words)), el("span", { class: "number muted" }, shown(score))),
  );
  return el("details", { class: "evidence more", open: rank === 1 }, el("summary", {}, "Nearest samples"), el("ol", { class: "plain-list small nearest" }, ...items));
}

// One sentence: why this expert, and how clearly.
export function reason(matches, index, unit) {
  const { score } = matches[index];
  const name = unit[0].toUpperCase() + unit.slice(1);
  if (index > 0) return `${name} ${shown(score)}, ${shown(matches[0].score - score)} below the best.`;
  const start = `Its samples are closest: ${unit} ${shown(score)}`;
  if (matches.length === 1) return `${start}.`;
  const margin = score - matches[1].score;
  return margin < NEARLY_TIED ? `${start}, nearly tied with the next.` : `${start}, ${shown(margin)} above the next.`;
}

function facts(match) {
  const known = [match.base_model || "base model not stated", match.rank && `rank ${match.rank}`, match.license || "no licence stated"];
  return el("p", { class: "small muted match-facts" }, known.filter(Boolean).join(" · "));
}

function tickOf(match, { ticked, onTick }) {
  const tick = el("input", { type: "checkbox", checked: ticked.has(match.adapter), "aria-label": `Merge ${match.adapter}`, "data-adapter": match.adapter });
  tick.addEventListener("change", () => onTick(match, tick.checked));
  return tick;
}

// view: {texts, unit, threshold, ticked, onTick}
function matchItem(matches, index, words, view) {
  const match = matches[index];
  const top = Math.max(1, matches[0].score);
  const measure = (label, number, node) => [el("span", {}, label), node, el("output", {}, shown(number))];
  return el(
    "li",
    {},
    el(
      "article",
      { class: "match" },
      el("div", { class: "row" }, tickOf(match, view), el("span", { class: "muted" }, `${index + 1}.`)),
      el("div", { class: "match-who" }, el("h3", {}, el("a", { href: adapterPath(match.adapter) }, match.adapter)), facts(match), el("p", { class: "small why" }, reason(matches, index, view.unit))),
      el(
        "div",
        { class: "measures" },
        ...measure("score", match.score, bar(match.score / top, { threshold: view.threshold === null ? null : view.threshold / top })),
        ...measure("weight", match.weight, bar(match.weight, { className: "teal" })),
      ),
      evidence(match, index + 1, words),
    ),
  );
}

export function matchList(result, view, attributes = {}) {
  const words = wordsOf(view.texts);
  return el("ol", { class: "plain-list matches", ...attributes }, ...result.matches.map((_, index) => matchItem(result.matches, index, words, view)));
}

// How often each expert was the best over several prompts, with its mean weight.
export function tally(results) {
  const experts = new Map();
  for (const { matches } of results) {
    matches.forEach((match, index) => {
      const row = experts.get(match.adapter) || { ...match, best: 0, weight: 0 };
      row.best += index === 0;
      row.weight += match.weight / results.length;
      experts.set(match.adapter, row);
    });
  }
  return [...experts.values()].sort((a, b) => b.weight - a.weight);
}

export function tallyTable(results, view) {
  const rows = tally(results).map((row) =>
    el("tr", {}, el("td", {}, tickOf(row, view)), el("td", {}, el("a", { href: adapterPath(row.adapter) }, row.adapter)), el("td", { class: "number" }, row.best), el("td", { class: "tally-weight" }, bar(row.weight, { className: "teal" }), el("output", {}, shown(row.weight)))),
  );
  const head = ["Merge", "Expert", "Best for", "Mean weight"].map((title, index) => el("th", { scope: "col", class: index === 2 ? "number" : null }, title));
  return el("div", { class: "scroll" }, el("table", { class: "tally" }, el("caption", { class: "visually-hidden" }, "Experts over all prompts"), el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)));
}

// One prompt of several: its best expert in a line, the others on demand.
export function promptItem(text, result, view) {
  const best = result.matches[0];
  const details = el(
    "details",
    { class: "prompt-result" },
    el("summary", {}, el("span", { class: "prompt-text" }, text), best ? el("span", { class: "small" }, `${best.adapter} `, el("span", { class: "number muted" }, shown(best.score))) : el("span", { class: "small muted" }, "no expert")),
  );
  // On demand: hundreds of prompts with a hundred matches each would be a heavy page.
  details.addEventListener("toggle", () => {
    if (details.childElementCount === 1 && best) details.append(matchList(result, { ...view, texts: [text] }));
  });
  return el("li", {}, details);
}
