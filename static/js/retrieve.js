// The retrieval page: asks, shows the ranked experts, leads on to a merge.

import { fits, query, readAddress, writeAddress } from "./address.js";
import { call, clearErrors, el, markField, showError, unmarkField } from "./api.js";
import { matchList, promptItem, reason, tallyTable } from "./matches.js";
import { checkParams, showParams } from "./params.js";
import { LONG, Question } from "./question.js";
import { showSnippets } from "./snippets.js";

const $ = (id) => document.getElementById(id);
const form = $("retrieve-form");
const results = $("results");
const mergeBar = $("merge-bar");
const ticked = new Map();
let question;
let asked = 0;

const say = (text) => { $("announcer").textContent = text; };
const button = (text, action) => {
  const node = el("button", { type: "button", class: "button small" }, text);
  node.addEventListener("click", action);
  return node;
};

const mergeAddress = (matches) => new URLSearchParams(matches.map(({ adapter, weight }) => ["input", `${adapter}:${Number(weight.toFixed(4))}`]));

function showMergeBar() {
  const chosen = [...ticked.values()];
  const bases = new Set(chosen.map(({ base_model: base }) => base));
  const isReady = chosen.length > 1 && bases.size === 1;
  const link = mergeBar.querySelector("a");
  mergeBar.hidden = chosen.length === 0;
  link.textContent = chosen.length > 1 ? `Merge these ${chosen.length}` : "Merge these";
  if (isReady) link.href = `/merge/?${query(mergeAddress(chosen))}`;
  else link.removeAttribute("href");
  link.setAttribute("aria-disabled", String(!isReady));
  const state = bases.size > 1 ? "These experts have different base models and cannot be merged." : chosen.length === 1 ? "1 expert ticked; tick another one to merge." : `${chosen.length} experts ticked.`;
  mergeBar.querySelector("span").textContent = state;
}

function onTick(match, isTicked) {
  if (isTicked) ticked.set(match.adapter, match);
  else ticked.delete(match.adapter);
  for (const box of results.querySelectorAll("[data-adapter]")) if (box.dataset.adapter === match.adapter) box.checked = isTicked;
  showMergeBar();
}

// The retrieval itself as the inputs, so that the recipe says how they were found; a long question is left out of an address.
function mergeAllLink(body, { matches }) {
  if (matches.length < 2 || new Set(matches.map(({ base_model: base }) => base)).size > 1) return null;
  const { explain, ...retrieval } = body;
  const whole = new URLSearchParams({ retrieve: JSON.stringify(retrieval) });
  return el("a", { class: "button small", href: `/merge/?${query(fits(whole) ? whole : mergeAddress(matches))}` }, `Merge all ${matches.length}`);
}

function abstention(reasonCode, body) {
  const box = el("div", { class: "empty card" });
  const actions = el("p", { class: "row center" });
  const isEmpty = form.dataset.experts === "0";
  if (reasonCode === "below_threshold") {
    const floor = body.params?.min_score;
    const rule = floor === undefined ? "Every expert scored below the router's own threshold" : `Every expert scored below your threshold of ${floor}`;
    box.append(el("h2", {}, "No expert is close enough"), el("p", {}, `${rule}, so the base model alone is the better choice. Lower the threshold to see the nearest experts all the same.`));
    if (floor !== undefined) actions.append(button("Show the nearest anyway", () => { question.setParam("min_score", ""); ask(); }));
  } else if (isEmpty) {
    box.append(el("h2", {}, "There is no expert to find yet"), el("p", {}, "An expert is found by the samples that it was uploaded with. Upload the first one, with a samples.jsonl beside its weights."));
    actions.append(el("a", { class: "button primary", href: "/upload/" }, "Upload an expert"));
  } else {
    const what = question.isFiltered ? "No expert with samples has what your filters ask for." : "No expert here has samples to be compared with.";
    box.append(el("h2", {}, "No expert can answer this"), el("p", {}, `${what} Experts without samples are listed, and never retrieved.`));
    if (question.isFiltered) actions.append(button("Remove the filters", () => { question.clearFilters(); ask(); }));
    actions.append(el("a", { class: "button small", href: "/adapters/" }, "Browse all experts"));
  }
  box.append(actions);
  return box;
}

// The score below which the router takes no expert; null where there is none.
const threshold = (body) => body.params?.min_score ?? (question.router?.name === "adapter_soup" ? 0 : null);

function footnote(answer) {
  const took = Object.entries(answer.took_ms).map(([step, ms]) => `${step} ${ms.toFixed(1)} ms`).join(", ");
  return el("p", { class: "muted small footnote" }, `${took} · ${answer.router} in ${answer.space || "its own space"} · index ${answer.index_version}`);
}

function showOne(result, body, view) {
  const count = result.matches.length;
  const head = el("div", { class: "row between section-head" }, el("h2", {}, count === 1 ? "The best expert" : `The ${count} best experts`), mergeAllLink(body, result));
  const line = view.threshold === null ? null : el("p", { class: "small muted legend" }, el("span", { class: "legend-mark", "aria-hidden": "true" }), ` threshold ${view.threshold}`);
  results.replaceChildren(head, el("div", { class: "card" }, line, matchList(result, view, { id: "matches" })));
  say(`${count} ${count === 1 ? "expert" : "experts"} found. Best: ${result.matches[0].adapter}. ${reason(result.matches, 0, view.unit)}`);
}

function showMany(found, body, view) {
  const answered = found.filter(({ matches }) => matches.length);
  if (!answered.length) return results.replaceChildren(abstention(found[0].reason, body));
  const head = el("h2", {}, `Experts for ${found.length} prompts`);
  const note = answered.length < found.length ? el("p", { class: "small muted" }, `For ${found.length - answered.length} of them there is no expert.`) : null;
  const prompts = el("ol", { class: "plain-list prompts" }, ...body.texts.map((text, index) => promptItem(text, found[index], view)));
  results.replaceChildren(head, el("div", { class: "card" }, note, tallyTable(found, view)), el("h2", {}, "Prompt by prompt"), el("div", { class: "card" }, prompts));
  say(`Experts found for ${answered.length} of ${found.length} prompts.`);
}

function showAnswer(answer, body) {
  const unit = question.router?.prototype === "centroid" ? "cosine" : "score";
  const view = { texts: question.texts, unit, threshold: threshold(body), ticked, onTick };
  const [first] = answer.results;
  if (body.texts) showMany(answer.results, body, view);
  else if (first.matches.length) showOne(first, body, view);
  else {
    results.replaceChildren(abstention(first.reason, body));
    say("No expert was found.");
  }
  results.append(footnote(answer));
}

// Refusals of the request stand beside its fields; what may pass by itself offers another try.
function showFailure(error) {
  results.replaceChildren();
  if (error.status !== 0 && error.status < 500) {
    if (error.detail.k) form.querySelector("details").open = true;
    return showError(form, error);
  }
  const notice = el("div", { class: "notice bad", role: "alert" }, el("p", {}, error.message), el("p", {}, button("Try again", ask)));
  results.replaceChildren(notice);
}

function showWaiting() {
  const waiting = el("p", { class: "waiting" }, el("span", { class: "spinner", "aria-hidden": "true" }), "Searching …");
  results.replaceChildren(waiting);
  say("Searching");
  setTimeout(() => {
    if (!waiting.isConnected) return;
    waiting.append(" The first search after a start loads the text encoder, which takes some seconds.");
    say("Still searching: the text encoder is being loaded.");
  }, 1500);
}

function checkQuestion() {
  clearErrors(form);
  const { problem } = question;
  if (problem) markField(question.field, problem);
  const isRight = checkParams($("params"), question.router?.params) && checkCount();
  if (!problem && isRight) return true;
  const wrong = form.querySelector("[aria-invalid]");
  if (wrong.closest("details")) wrong.closest("details").open = true;
  wrong.focus();
  return false;
}

function checkCount() {
  const field = form.elements.k;
  const isRight = field.value === "" ? !field.validity.badInput : Number.isInteger(Number(field.value)) && field.value >= 1 && field.value <= 100;
  if (isRight) unmarkField(field);
  else markField(field, "How many: a whole number from 1 to 100.");
  return isRight;
}

// `isNew`: a question of its own in the history, to which Back returns.
async function ask({ isNew = true } = {}) {
  if (!checkQuestion()) return;
  asked += 1;
  const mine = asked;
  const body = question.request();
  $("too-long").hidden = !writeAddress(question.toAddress(), LONG, { isNew });
  showSnippets($("snippets"), "retrieve/", body);
  $("as-code").hidden = false;
  ticked.clear();
  showMergeBar();
  showWaiting();
  try {
    const answer = await call("POST", "retrieve/", body);
    // A later question may have been answered first.
    if (mine === asked) showAnswer(answer, body);
  } catch (error) {
    if (mine === asked) showFailure(error);
  }
}

function showKind() {
  for (const box of form.querySelectorAll("[data-kind]")) box.hidden = box.dataset.kind !== question.kind;
}

function showRouter(values) {
  const { router } = question;
  $("router-summary").textContent = router?.summary || "";
  $("router-source").textContent = router?.source || "";
  form.elements.k.placeholder = router ? `${router.k}, the router's default` : "";
  if (values) showParams($("params"), router?.params, values);
}

// Fills the form from the address and asks, where there is something to ask.
function restore() {
  const { params, isLost } = readAddress();
  question.fromAddress(params);
  showKind();
  showRouter();
  $("options").open = [...params.keys()].some((name) => ["tag", "license", "owner"].includes(name) || name.startsWith("param."));
  $("lost").hidden = !isLost;
  asked += 1;
  results.replaceChildren();
  $("as-code").hidden = true;
  if (!question.isBlank) ask({ isNew: false });
}

function listen() {
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); }
  });
  form.elements.router.addEventListener("change", () => showRouter({}));
  form.addEventListener("change", showKind);
  $("params").addEventListener("input", () => checkParams($("params"), question.router?.params));
  form.elements.k.addEventListener("input", checkCount);
  for (const name of LONG) form.elements[name].addEventListener("input", ({ target }) => unmarkField(target));
  addEventListener("popstate", restore);
}

async function start() {
  const { routers } = await call("GET", "methods/");
  form.elements.router.replaceChildren(...routers.map(({ name, title }) => el("option", { value: name, selected: name === form.dataset.router }, title)));
  question = new Question(form, $("params"), routers);
  listen();
  form.querySelector("button[type=submit]").disabled = false;
  // Somebody may have begun to type before the routers were here.
  const typed = form.elements.text.value;
  restore();
  if (question.isBlank) form.elements.text.value = typed;
}

start().catch((error) => showError(form, error));
