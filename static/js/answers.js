// A retrieval's answer as nodes: the experts, or why there are none.

import { fits, query } from "./address.js";
import { el } from "./api.js";
import { layerTable } from "./layers.js";
import { matchList, promptItem, reason, shown, tallyTable } from "./matches.js";
import { bar } from "./measures.js";
import { mapCard } from "./place.js";

export const mergeAddress = (matches) => new URLSearchParams(matches.map(({ adapter, weight }) => ["input", `${adapter}:${Number(weight.toFixed(4))}`]));

// The retrieval itself as the inputs, so that the recipe says how they were found; a long question is left out of an
// address, and a merge cannot ask what is answered by a job. What a search has found is a sum, with weights of any sign.
function mergeAllLink(body, { matches, inputs }, isJob) {
  if (inputs?.length > 1) return el("a", { class: "button small", href: `/merge/?${query(new URLSearchParams([["method", "weighted_sum"], ...mergeAddress(inputs)]))}` }, `Merge this sum of ${inputs.length}`);
  if (matches.length < 2 || new Set(matches.map(({ base_model: base }) => base)).size > 1) return null;
  const { explain, ...retrieval } = body;
  const whole = new URLSearchParams({ retrieve: JSON.stringify(retrieval) });
  return el("a", { class: "button small", href: `/merge/?${query(!isJob && fits(whole) ? whole : mergeAddress(matches))}` }, `Merge all ${matches.length}`);
}

// What the router took for certain before it looked at single experts, where it tells.
function decision({ evidence }) {
  if (evidence?.fits === undefined) return null;
  const { fits, familiar, threshold } = evidence;
  const line = (text, probability, className, marks) => [el("span", {}, text), bar(probability, { className, marks }), el("output", {}, probability.toFixed(2))];
  return el("div", { class: "decision" },
    ...line("The right expert is here, with probability", fits, fits < 0.5 ? "low" : "good", {}),
    ...line("The prompt is of a kind that these experts may be for", familiar, familiar < threshold ? "low" : "good", { threshold }),
    el("p", { class: "small muted" }, `Below ${threshold.toFixed(2)}, the mark, the router abstains.`));
}

// What a router that runs experts tells beside its matches: what speaks against them, what a search has come to.
function trial({ warnings = [], skipped = [] }, { loss, inputs = [], matches }) {
  if (!loss && !warnings.length && !skipped.length) return null;
  const taken = inputs.filter(({ weight }) => weight < 0).map(({ adapter, weight }) => `${adapter} (${shown(weight)})`);
  const found = loss && matches.length ? `The loss of your answers is ${shown(loss.before)} with the base model alone and ${shown(loss.after)} with this sum, the best of ${loss.tried} that were tried.${taken.length ? ` It takes away ${taken.join(", ")}.` : ""}` : "";
  const left = skipped.map(({ adapter, reason }) => `${adapter} was left out: ${reason}`);
  const said = [found, ...left].filter(Boolean).map((text) => el("p", { class: "small" }, text));
  return el("div", {}, ...warnings.map(({ message }) => el("div", { class: "notice warn" }, el("p", {}, message))), ...said);
}

// What to ask a language model of one's own, where the router gives it.
function modelPrompt({ prompt }) {
  if (!prompt) return null;
  const copy = el("button", { type: "button", class: "button small copy" }, "Copy");
  return el("details", { class: "card" }, el("summary", {}, "Prompt for a language model"), el("div", { class: "snippet" }, copy, el("pre", {}, el("code", {}, prompt))));
}

function footnote(answer) {
  const took = Object.entries(answer.took_ms).map(([step, ms]) => `${step} ${ms.toFixed(1)} ms`).join(", ");
  return el("p", { class: "muted small footnote" }, `${took} · ${answer.router} in ${answer.space || "its own space"} · index ${answer.index_version}`);
}

// Why there are no experts, and what to do: `actions` are {again, unfilter}, functions that ask anew.
function abstention(result, body, { question, experts, actions, prototype, isTrial }) {
  const box = el("div", { class: "empty card" });
  const row = el("p", { class: "row center" });
  const button = (text, action) => {
    const node = el("button", { type: "button", class: "button small" }, text);
    node.addEventListener("click", action);
    return node;
  };
  if (result.loss) {
    box.append(el("h2", {}, "No expert helps here"), el("p", {}, `None of the ${result.loss.tried} sums that were tried is better than the base model alone by adding an expert.`));
  } else if (result.reason === "below_threshold") {
    const floor = body.params?.min_score;
    const judged = decision(result);
    const rule = floor !== undefined ? `Every expert scored below your threshold of ${floor}` : judged ? "The prompt is unlike what these experts were made for" : "Every expert scored below the router's own threshold";
    const advice = judged ? "" : " Lower the threshold to see the nearest experts all the same.";
    box.append(el("h2", {}, "No expert is close enough"), el("p", {}, `${rule}, so the base model alone is the better choice.${advice}`));
    if (judged) box.append(judged);
    if (judged || floor !== undefined) row.append(button("Show the nearest anyway", actions.again));
  } else if (result.message) {
    box.append(el("h2", {}, "There is too little to rank by"), el("p", {}, result.message));
  } else if (experts === 0) {
    box.append(el("h2", {}, "There is no expert to find yet"), el("p", {}, "An expert is found by the samples that it was uploaded with. Upload the first one, with a samples.jsonl beside its weights."));
    row.append(el("a", { class: "button primary", href: "/upload/" }, "Upload an expert"));
  } else {
    const kind = question.router.prototype === "description" ? "a description" : "samples";
    const lacked = isTrial ? "weights that can be run" : question.isJob ? `what this router compares: ${prototype}` : `${kind} to be compared with`;
    const where = question.isJob ? ` of ${body.base_model}` : "";
    const what = question.isFiltered ? `No expert${where} with ${question.isJob ? lacked : kind} has what your filters ask for.` : `No expert${where || " here"} has ${lacked}.`;
    const advice = question.isJob ? "Another router may find them." : "Experts without samples are listed, and found by routers that look at the weights alone.";
    box.append(el("h2", {}, "No expert can answer this"), el("p", {}, `${what} ${advice}`));
    if (question.isFiltered) row.append(button("Remove the filters", actions.unfilter));
    row.append(el("a", { class: "button small", href: "/adapters/" }, "Browse all experts"));
  }
  box.append(row);
  return box;
}

function legend({ threshold }, { matches }) {
  const parts = [];
  if (matches.length > 1) parts.push(el("span", {}, el("span", { class: "legend-lead", "aria-hidden": "true" }), "ahead of the next"));
  if (threshold !== null) parts.push(el("span", {}, el("span", { class: "legend-mark", "aria-hidden": "true" }), `threshold ${threshold}`));
  return parts.length ? el("p", { class: "small muted legend" }, ...parts) : null;
}

function one(answer, body, view) {
  const [result] = answer.results;
  const count = result.matches.length;
  const head = el("div", { class: "row between section-head" }, el("h2", {}, count === 1 ? "The best expert" : `The ${count} best experts`), mergeAllLink(body, result, view.question.isJob));
  const card = el("div", { class: "card" }, trial(answer, result), decision(result), legend(view, result), matchList(result, view, { id: "matches" }));
  return [`${count} ${count === 1 ? "expert" : "experts"} found. Best: ${result.matches[0].adapter}. ${reason(result.matches, 0, view)}`, [head, card, modelPrompt(result), layerTable(result), mapCard(result)]];
}

function many(found, body, view) {
  const answered = found.filter(({ matches }) => matches.length);
  if (!answered.length) return ["No expert was found.", [abstention(found[0], body, view)]];
  const head = el("h2", {}, `Experts for ${found.length} prompts`);
  const note = answered.length < found.length ? el("p", { class: "small muted" }, `For ${found.length - answered.length} of them there is no expert.`) : null;
  const prompts = el("ol", { class: "plain-list prompts" }, ...body.texts.map((text, index) => promptItem(text, found[index], view, layerTable)));
  return [`Experts found for ${answered.length} of ${found.length} prompts.`, [head, el("div", { class: "card" }, note, tallyTable(found, view)), el("h2", {}, "Prompt by prompt"), el("div", { class: "card" }, prompts)]];
}

// Returns what to say, and what to show. view: as for matchList, with {question, experts, actions, prototype}.
export function answerNodes(answer, body, view) {
  const [first] = answer.results;
  const [text, nodes] = body.texts ? many(answer.results, body, view) : first.matches.length ? one(answer, body, view) : ["No expert was found.", [abstention(first, body, view)]];
  return [text, [...nodes.filter(Boolean), footnote(answer)]];
}
