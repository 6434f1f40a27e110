// The experts that a retrieval found, and why.

import { el } from "./api.js";
import { judgement } from "./judgement.js";
import { bar, scaleOf } from "./measures.js";

const WORD = /[\p{L}\p{N}]+/gu;
const MARKED_LENGTH = 4;
const NEARLY_TIED = 0.02;

export const adapterPath = (name) => `/adapters/${name.split("/").map(encodeURIComponent).join("/")}/`;
// As many digits as tell scores apart: cosines and shares have three decimals, log densities none.
export const shown = (score) => score.toFixed(Math.abs(score) < 10 ? 3 : Math.abs(score) < 100 ? 2 : Math.abs(score) < 1000 ? 1 : 0).replace("-", "−");

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
export function reason(matches, index, { unit, why }) {
  const { score, evidence: { probability } = {} } = matches[index];
  if (index > 0) return `${unit[0].toUpperCase() + unit.slice(1)} ${shown(score)}, ${shown(matches[0].score - score)} below the best.`;
  const start = `${why}: ${probability === undefined ? "" : `probability ${shown(probability)}, `}${unit} ${shown(score)}`;
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

// The line below which the expert was trained, where the question was asked without it.
function instruction({ instruction: line }, texts) {
  if (!line || texts.every((text) => text.startsWith(line))) return null;
  return el("p", { class: "small why" }, "Ask it below the line with which its samples begin: ", el("q", {}, line));
}

const count = (number) => `${number} outcome${number === 1 ? "" : "s"}`;

// What is known of an expert from how it did before, and what is said about it, where the router tells.
function known({ evidence: { predicted, outcomes, description, samples_shift: bySamples, loss_without: without, log_likelihood: likelihood, entropy } = {} }) {
  const parts = [];
  if (bySamples) parts.push(`What samples say shifts its score by ${bySamples > 0 ? "+" : ""}${shown(bySamples)}.`);
  if (without !== undefined) parts.push(`Without it the loss would be ${shown(without)}.`);
  if (likelihood !== undefined) parts.push(`log p of a text, in the mean: ${shown(likelihood)}.`);
  if (entropy !== undefined) parts.push(`Entropy of what follows a token, in the mean: ${shown(entropy)}.`);
  if (predicted) parts.push(`To expect by ${count(predicted.outcomes)}: score ${shown(predicted.score)}${predicted.cost === null ? "" : `, cost ${Number(predicted.cost.toPrecision(3))}`}.`);
  if (description) parts.push(`Its description: “${description}”`);
  if (outcomes) parts.push(outcomes.count ? `${count(outcomes.count)} near this shifted its score by ${outcomes.shift > 0 ? "+" : ""}${shown(outcomes.shift)}.` : "No outcome is near this.");
  return parts.length ? el("p", { class: "small why" }, parts.join(" ")) : null;
}

// Score, weight and, where the router tells it, probability as bars. What the best is ahead of the next is marked on its bar.
function measures(matches, index, scale, threshold) {
  const { score, weight, evidence: { probability } = {} } = matches[index];
  const marks = { zero: scale.zero, threshold: threshold === null ? null : scale.place(threshold) };
  const scored = bar(scale.place(score), { from: scale.zero ?? 0, marks });
  if (index === 0 && matches.length > 1) scored.prepend(lead(scale.place(matches[1].score), scale.place(score)));
  const rows = [["score", score, scored]];
  if (probability !== undefined) rows.push(["probability", probability, bar(probability)]);
  rows.push(["weight", weight, bar(weight, { className: "teal" })]);
  return el("div", { class: "measures" }, ...rows.flatMap(([label, number, node]) => [el("span", {}, label), node, el("output", {}, shown(number))]));
}

function lead(from, to) {
  const node = el("span", { class: "measure-lead" });
  node.style.setProperty("--from", from);
  node.style.setProperty("--fraction", to - from);
  return node;
}

function matchItem(matches, index, words, view) {
  const match = matches[index];
  return el(
    "li",
    {},
    el(
      "article",
      { class: "match" },
      el("div", { class: "row" }, tickOf(match, view), el("span", { class: "muted" }, `${index + 1}.`)),
      el("div", { class: "match-who" }, el("h3", {}, el("a", { href: adapterPath(match.adapter) }, match.adapter)), facts(match), el("p", { class: "small why" }, reason(matches, index, view)), known(match), instruction(match, view.texts), judgement(match, view.prompt, view.isLoggedIn)),
      measures(matches, index, view.scale, view.threshold),
      evidence(match, index + 1, words),
    ),
  );
}

// view: {texts, prompt, unit, isUnit, why, threshold, ticked, onTick, isLoggedIn}; prompt is the one text that was asked, if it is one.
export function matchList(result, view, attributes = {}) {
  const words = wordsOf(view.texts);
  const scale = scaleOf(result.matches.map(({ score }) => score), view);
  return el("ol", { class: "plain-list matches", ...attributes }, ...result.matches.map((_, index) => matchItem(result.matches, index, words, { ...view, scale })));
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

// One prompt of several: its best expert in a line, the others and a picture of what decided on demand.
export function promptItem(text, result, view, picture) {
  const best = result.matches[0];
  const details = el(
    "details",
    { class: "prompt-result" },
    el("summary", {}, el("span", { class: "prompt-text" }, text), best ? el("span", { class: "small" }, `${best.adapter} `, el("span", { class: "number muted" }, shown(best.score))) : el("span", { class: "small muted" }, "no expert")),
  );
  // On demand: hundreds of prompts with a hundred matches each would be a heavy page.
  details.addEventListener("toggle", () => {
    if (details.childElementCount === 1 && best) details.append(...[matchList(result, { ...view, texts: [text], prompt: text }), picture(result)].filter(Boolean));
  });
  return el("li", {}, details);
}
