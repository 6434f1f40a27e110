// What each layer of the base model says of the experts: a table whose cells are shaded, and so a picture as well.

import { el } from "./api.js";
import { adapterPath, shown } from "./matches.js";

const rowsOf = (matches) => matches.map(({ adapter, evidence }) => ({ adapter, scores: new Map((evidence?.layers || []).map(({ layer, score }) => [layer, score])) }));

function shaded(node, score, most) {
  node.style.setProperty("--strength", `${Math.round((100 * Math.abs(score)) / most)}%`);
  return node;
}

function cell(score, most, isPick) {
  if (score === undefined) return el("td", { class: "layer none" }, el("span", { class: "visually-hidden" }, "nothing"));
  const node = el("td", { class: `layer ${score < 0 ? "below" : "above"}${isPick ? " pick" : ""}`, title: `${shown(score)}${isPick ? ", the most of all" : ""}` }, el("span", { class: "visually-hidden" }, `${shown(score)}${isPick ? ", picked" : ""}`));
  return shaded(node, score, most);
}

// "Of 30 layers, 24 pick ada/x, 4 pick ada/y; 2 pick an expert that is not listed here."
function summary(picks, matches) {
  const counts = matches.map(({ adapter }) => [adapter, picks.filter((pick) => pick.adapter === adapter).length]).filter(([, count]) => count);
  const others = picks.length - counts.reduce((sum, [, count]) => sum + count, 0);
  const pick = (count) => `${count} ${count === 1 ? "picks" : "pick"}`;
  const named = counts.map(([adapter, count]) => `${pick(count)} ${adapter}`).join(", ");
  return `Of ${picks.length} layers, ${named || "none picks any of these"}${others ? `; ${pick(others)} an expert that is not listed here` : ""}.`;
}

let tables = 0;

// Null where the router says nothing of layers.
export function layerTable({ matches, evidence }) {
  const rows = rowsOf(matches);
  const layers = [...new Set(rows.flatMap(({ scores }) => [...scores.keys()]))].sort((a, b) => a - b);
  if (!layers.length) return null;
  const picks = evidence?.picks || [];
  const picked = new Map(picks.map(({ layer, adapter }) => [layer, adapter]));
  const values = rows.flatMap(({ scores }) => [...scores.values()]);
  const most = Math.max(...values.map(Math.abs)) || 1;
  // Every fifth number is shown; all are read out.
  const head = layers.map((layer, index) => el("th", { scope: "col" }, el("span", { class: index % 5 ? "visually-hidden" : "layer-number" }, layer)));
  const body = rows.map(({ adapter, scores }) => el("tr", {}, el("th", { scope: "row" }, el("a", { href: adapterPath(adapter) }, adapter)), ...layers.map((layer) => cell(scores.get(layer), most, picked.get(layer) === adapter))));
  const caption = el("caption", { class: "visually-hidden" }, "Score of each expert by layer");
  const table = el("table", { class: "layers" }, caption, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Layer"), ...head)), el("tbody", {}, ...body));
  const key = (kind, text, score = 0) => el("span", {}, shaded(el("span", { class: `layer-key ${kind}`, "aria-hidden": "true" }), score, most), text);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const side = (score) => (score < 0 ? "below" : "above");
  const keys = [key(side(high), `most ${shown(high)}`, high), low < 0 ? key("below", `least ${shown(low)}`, low) : null, picks.length ? key("pick", "what the layer picks of all in question") : null];
  tables += 1;
  const title = `layers-${tables}`;
  return el(
    "section",
    { class: "card", "aria-labelledby": title },
    el("h2", { id: title }, "Layer by layer"),
    picks.length ? el("p", {}, summary(picks, matches)) : null,
    el("div", { class: "scroll", tabindex: "0", role: "group", "aria-labelledby": title }, table),
    el("p", { class: "small muted layer-keys" }, ...keys.filter(Boolean)),
  );
}
