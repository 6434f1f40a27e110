// What a trial has measured: a verdict in words, a table with bars, and what can be downloaded.

import { call, el } from "./api.js";
import { adapterPath } from "./matches.js";
import { bar } from "./measures.js";

const POLL_MS = 1000;
const FINAL = ["succeeded", "failed", "cancelled"];
const KINDS = { base: "Base model alone", base_few_shot: "Base model, the other examples in its prompt", merge: "Merge of the best" };
const shown = (value) => value.toFixed(3);
const right = ({ exact_match: share }, count) => `${Math.round(share * count)} of ${count}`;
const nameOf = (row) => row.adapter || KINDS[row.kind];

function verdict({ ranking, examples }) {
  const [best] = ranking;
  const [base, shots] = ["base", "base_few_shot"].map((kind) => ranking.find((row) => row.kind === kind));
  const withShots = shots.exact_match === null ? "" : `, and ${right(shots, examples)} with the other examples in its prompt`;
  if (best.kind.startsWith("base")) return `No expert is better on these: the ${best.kind === "base" ? "base model alone" : "base model with the other examples in its prompt"} answers ${right(best, examples)} exactly.`;
  const isTied = best.exact_match <= Math.max(base.exact_match, shots.exact_match ?? 0);
  return `${right(best, examples)} answered exactly. The base model alone answers ${right(base, examples)}${withShots}.${isTied ? " That is as many; which makes the answers more probable has decided." : ""}`;
}

function who(row) {
  const name = row.adapter ? el("a", { href: adapterPath(row.adapter) }, row.adapter) : el("span", {}, KINDS[row.kind]);
  const parts = (row.inputs || []).filter(({ weight }) => weight !== 0).map(({ adapter, weight }) => `${adapter} × ${String(Number(weight.toPrecision(3))).replace("-", "−")}`);
  const said = (text) => el("p", { class: "small muted" }, text);
  return el("td", { class: "trial-who" }, name, parts.length ? said(parts.join(" + ")) : null, row.instruction ? said(`below “${row.instruction}”`) : null);
}

function measured(text, fraction, className) {
  const cell = el("td", { class: "trial-measure" });
  cell.append(text === null ? el("span", { class: "muted small" }, "not measured") : el("span", { class: "number" }, text));
  if (text !== null) cell.append(bar(fraction, { className }));
  return cell;
}

// What the best has to be asked below, to do as well as it did here.
function instruction({ instruction: line, adapter, inputs }) {
  if (!line) return [];
  const copy = el("button", { type: "button", class: "button small copy", "aria-label": "Copy: the line above" }, "Copy");
  return [el("p", {}, `Your examples did better below the line with which the samples of ${adapter || inputs[0].adapter} begin. Put it above what you ask:`), el("div", { class: "snippet" }, copy, el("pre", { tabindex: "0" }, el("code", {}, line)))];
}

const archive = ({ adapter, revision }) => `/api/v1/adapters/${adapter}/archive/?revision=${revision}`;

// The merge is made by a job of its own, which may take a little longer than the trial.
function mergeLink(merge, className) {
  const link = el("a", { class: `button ${className}`, "aria-disabled": "true" }, "Merge is being made …");
  const look = async () => {
    if (!link.isConnected) return setTimeout(look, POLL_MS);
    const { status } = await call("GET", `merges/${merge}/`).catch(() => ({}));
    if (status === "succeeded") {
      link.href = `/api/v1/merges/${merge}/archive/`;
      link.setAttribute("download", "");
      link.removeAttribute("aria-disabled");
      link.textContent = "Download the merge";
    } else if (FINAL.includes(status)) {
      link.href = `/merges/${merge}/`;
      link.removeAttribute("aria-disabled");
      link.textContent = `Merge ${status}: see why`;
    } else setTimeout(look, POLL_MS);
    return null;
  };
  setTimeout(look);
  return link;
}

function action(row, merge, isBest) {
  const className = isBest ? "primary" : "small";
  if (row.adapter) return el("a", { class: `button ${className}`, href: archive(row), download: true, "aria-label": `Download ${row.adapter}` }, isBest ? `Download ${row.adapter}` : "Download");
  return row.kind === "merge" && merge ? mergeLink(merge, className) : null;
}

function tableRow(row, index, result) {
  const isBase = row.kind.startsWith("base");
  const exact = row.exact_match === null ? null : right(row, result.examples);
  const likely = row.probability === null ? null : shown(row.probability) + (row.examples < result.examples ? ` on ${row.examples}` : "");
  return el(
    "tr",
    { class: isBase ? "trial-base" : null, "data-kind": row.kind },
    el("td", { class: "number muted" }, row.loss === null && row.exact_match === null ? "–" : index + 1),
    who(row),
    measured(exact, row.exact_match ?? 0, "teal"),
    measured(likely, row.probability ?? 0, isBase ? "plain" : ""),
    el("td", { class: "number trial-loss" }, row.loss === null ? "–" : shown(row.loss)),
    el("td", { class: "trial-action" }, index === 0 && !isBase ? null : action(row, result.merge, false)),
  );
}

function table(result) {
  const head = ["", "Who", "Answered exactly", "Probability", "Loss", ""].map((title, index) => el("th", { scope: title ? "col" : null, class: index === 0 || title === "Loss" ? "number" : null }, title || el("span", { class: "visually-hidden" }, index ? "Download" : "Place")));
  const rows = result.ranking.map((row, index) => tableRow(row, index, result));
  return el("div", { class: "scroll" }, el("table", { class: "trial-table" }, el("caption", { class: "visually-hidden" }, "What was measured, the best first"), el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)));
}

function notes({ examples, ranking, skipped, merge }) {
  const found = [`One answer of ${examples} is ${Math.round(100 / examples)} points: small differences may be chance. Ranked by exact answers, ties by how probable the examples’ answers are, per token and in the mean. Loss is the mean of −log p per token.`];
  if (ranking.some(({ exact_match: share, kind }) => share === null && kind === "adapter")) found.push("Experts that make the answers improbable saw no more examples after a first round, so that exact answers are not counted.");
  if (ranking.some((row) => row.instruction)) found.push("An expert whose samples all begin with one line was asked as you wrote and below that line, and goes on as it did better.");
  if (merge) found.push("The merge is measured on the half of the examples that its search had not seen, both ways round; the file has the weights found on all.");
  return [...found.map((text) => el("p", { class: "hint" }, text)), ...skipped.map(({ adapter, reason }) => el("p", { class: "hint" }, `${adapter} was left out. ${reason}`))];
}

// Returns [verdict in words, nodes].
export function resultNodes(result) {
  const [best] = result.ranking;
  const text = verdict(result);
  const link = best.kind.startsWith("base") ? null : action(best, result.merge, true);
  return [`Best: ${nameOf(best)}. ${text}`, [el("section", { class: "card trial-best" }, el("h2", {}, `Best: ${nameOf(best)}`), el("p", {}, text), ...instruction(best), link ? el("p", { class: "row" }, link) : null), el("section", { class: "card" }, el("h2", {}, "Measured"), table(result), ...notes(result))]];
}
