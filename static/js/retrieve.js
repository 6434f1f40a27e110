// The retrieval page: asks, shows the ranked experts, leads on to a merge.

import { query, readAddress, writeAddress } from "./address.js";
import { answerNodes, mergeAddress } from "./answers.js";
import { call, clearErrors, el, markField, showError, unmarkField } from "./api.js";
import { makeCombobox } from "./combobox.js";
import { checkParams, showParams } from "./params.js";
import { LONG, Question } from "./question.js";
import { routeJob } from "./route-job.js";
import { showSnippets } from "./snippets.js";

const $ = (id) => document.getElementById(id);
const form = $("retrieve-form");
const results = $("results");
const mergeBar = $("merge-bar");
const ticked = new Map();
const SUGGESTIONS = 10;
// What a score is, by the kind of prototype that it compares with.
const UNITS = { centroid: "cosine", description: "cosine", hybrid: "log density" };
const WHY = { hybrid: "The text is likeliest under it", outcomes: "It did best on texts like this", description: "What is said about it fits best" };
// Of routers that run experts on the query.
const WHY_TRIED = { lorahub: "It counts most in the sum that was found", what_the_weight: "It foresees the texts best" };
let question;
let prototypes = [];
let asked = 0;

const say = (text) => { $("announcer").textContent = text; };
const button = (text, action) => {
  const node = el("button", { type: "button", class: "button small" }, text);
  node.addEventListener("click", action);
  return node;
};

function showMergeBar() {
  const chosen = [...ticked.values()];
  const bases = new Set(chosen.map(({ base_model: base }) => base));
  const isReady = chosen.length > 1 && bases.size === 1;
  const [bundle, merge] = mergeBar.querySelectorAll("a");
  mergeBar.hidden = chosen.length === 0;
  merge.textContent = chosen.length > 1 ? `Merge these ${chosen.length}` : "Merge these";
  lead(merge, isReady && `/merge/?${query(mergeAddress(chosen))}`);
  bundle.textContent = chosen.length > 1 ? `Bundle these ${chosen.length}` : "Bundle these";
  lead(bundle, isReady && `/bundle/?${query(new URLSearchParams(chosen.map(({ adapter }) => ["input", adapter])))}`);
  const state = bases.size > 1 ? "These experts have different base models and cannot be used together." : chosen.length === 1 ? "1 expert ticked; tick another one to merge or bundle." : `${chosen.length} experts ticked.`;
  mergeBar.querySelector("span").textContent = state;
}

function lead(link, address) {
  if (address) link.href = address;
  else link.removeAttribute("href");
  link.setAttribute("aria-disabled", String(!address));
}

function onTick(match, isTicked) {
  if (isTicked) ticked.set(match.adapter, match);
  else ticked.delete(match.adapter);
  for (const box of results.querySelectorAll("[data-adapter]")) if (box.dataset.adapter === match.adapter) box.checked = isTicked;
  showMergeBar();
}

function showAnswer(answer, body) {
  const { router } = question;
  const prototype = prototypes.find(({ name }) => name === router.prototype)?.title || router.prototype;
  const kind = router.prototype;
  const isTrial = question.isJob && router.name in WHY_TRIED;
  const view = {
    texts: question.texts,
    prompt: body.text,
    isLoggedIn: form.dataset.loggedIn === "yes",
    // A choice among ways to score makes it something else.
    unit: isTrial ? "score" : (!Object.values(body.params || {}).some((value) => typeof value === "string") && UNITS[kind]) || "score",
    isUnit: !isTrial && ["centroid", "samples", "outcomes", "description"].includes(kind),
    isTrial,
    why: (isTrial && WHY_TRIED[router.name]) || WHY[kind] || (question.isJob && !router.needs.includes("samples") ? "Its weights respond most" : "Its samples are closest"),
    threshold: body.params?.min_score ?? router.params.properties.min_score?.default ?? null,
    ticked,
    onTick,
    question,
    experts: Number(form.dataset.experts),
    prototype,
    actions: {
      again: () => {
        question.setParam("min_score", "");
        question.setParam("abstain", false);
        ask();
      },
      unfilter: () => { question.clearFilters(); ask(); },
    },
  };
  const [text, nodes] = answerNodes(answer, body, view);
  results.replaceChildren(...nodes);
  say(text);
}

// Refusals of the request stand beside its fields; what may pass by itself is tried again by itself.
function showFailure(error, isWanted) {
  results.replaceChildren();
  if (error.status !== 0 && error.status < 500) {
    if (error.detail.k) form.querySelector("details").open = true;
    return showError(form, error);
  }
  if (error.status === 503 && error.retryAfterS) return askLater(error, isWanted);
  results.replaceChildren(el("div", { class: "notice bad", role: "alert" }, el("p", {}, error.message), el("p", {}, button("Try again", ask))));
}

function askLater({ message, retryAfterS }, isWanted) {
  const left = el("span", {}, `This page asks again in ${retryAfterS} s.`);
  results.replaceChildren(el("div", { class: "notice", role: "status" }, el("p", {}, message), el("p", { class: "row" }, el("span", { class: "spinner", "aria-hidden": "true" }), left, button("Ask now", ask))));
  setTimeout(() => { if (isWanted()) ask({ isNew: false }); }, 1000 * retryAfterS);
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
  const { problems } = question;
  for (const [field, text] of problems) markField(field, text);
  const isRight = checkParams($("params"), question.router?.params) && checkCount();
  if (!problems.length && isRight) return true;
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

// `isNew`: a question of its own in the history, to which Back returns. `job`: one that answers it already.
async function ask({ isNew = true, job = null } = {}) {
  if (!checkQuestion()) return;
  asked += 1;
  const mine = asked;
  const isWanted = () => mine === asked;
  const body = question.request();
  const address = question.toAddress();
  if (job) address.set("job", job);
  $("too-long").hidden = !writeAddress(address, LONG, { isNew });
  if (question.isJob && form.dataset.loggedIn !== "yes") return askToLogIn();
  showSnippets($("snippets"), "retrieve/", body, { needsToken: question.isJob, waits: question.isJob });
  $("as-code").hidden = false;
  ticked.clear();
  showMergeBar();
  showWaiting();
  try {
    const answer = job ? { job: { id: job } } : await call("POST", "retrieve/", body);
    // A later question may have been answered first.
    if (!isWanted()) return;
    if (answer.job) await showJob(answer.job, body, address, isWanted);
    else showAnswer(answer, body);
  } catch (error) {
    if (isWanted()) showFailure(error, isWanted);
  }
}

function askToLogIn() {
  const next = encodeURIComponent(location.pathname + location.search);
  results.replaceChildren(el("div", { class: "notice", role: "status" }, el("p", {}, `${question.router.title} runs the base model in a job, and jobs belong to accounts. Your question is kept.`), el("p", {}, el("a", { class: "button small", href: `/login/?next=${next}` }, "Log in and ask"))));
}

// The job's id is in the address, so that a reload finds its answer again.
async function showJob({ id }, body, address, isWanted) {
  address.set("job", id);
  writeAddress(address, LONG);
  const answer = await routeJob(id, { box: results, say, isWanted, again: () => ask() });
  if (answer && isWanted()) showAnswer(answer, body);
}

function showKind() {
  question.fitKind();
  for (const { value, parentElement } of form.elements.query_kind) parentElement.hidden = !question.accepts(value);
  for (const box of form.querySelectorAll("[data-kind]")) box.hidden = box.dataset.kind !== question.kind;
}

function showRouter(values) {
  const { router } = question;
  $("router-summary").textContent = router?.summary || "";
  $("router-when").textContent = router?.when || "";
  $("router-source").textContent = router?.source || "";
  form.elements.k.placeholder = router ? `${router.k}, the router's default` : "";
  $("outcomes-field").hidden = !question.takesOutcomes;
  if (values) showParams($("params"), router?.params, values);
  // A router that runs the base model has to be told which; the first that can be run is as good as any.
  const base = form.elements.base_model;
  if (question.isJob && !base.value) base.value = [...base.options].find(({ dataset }) => dataset.runnable === "yes")?.value || "";
  showBase();
}

function showBase() {
  const field = form.elements.base_model;
  field.options[0].textContent = question.isJob ? "choose one" : "any";
  const { experts, runnable } = field.selectedOptions[0].dataset;
  const count = experts ? `${experts} expert${experts === "1" ? "" : "s"}.` : "";
  $("base-hint").textContent = question.isJob ? `${count} ${runnable === "no" ? "This site does not find the base model where a worker would: unless one has it, the job ends with base_not_here." : "A worker runs it on your text, which takes some seconds."}` : count;
  if (field.value) unmarkField(field);
}

// Fills the form from the address and asks, where there is something to ask.
function restore() {
  const { params, isLost } = readAddress();
  question.fromAddress(params);
  showKind();
  showRouter();
  $("options").open = [...params.keys()].some((name) => ["tag", "license", "owner", "outcomes"].includes(name) || name.startsWith("param."));
  $("lost").hidden = !isLost;
  asked += 1;
  results.replaceChildren();
  $("as-code").hidden = true;
  if (!question.isBlank) ask({ isNew: false, job: params.get("job") });
}

async function suggest(text) {
  const { results: found } = await call("GET", `adapters/?${new URLSearchParams({ state: "ready", page_size: SUGGESTIONS, search: text })}`);
  return { options: found.map(({ name, base_model: base }) => ({ value: name, note: base })), hint: "" };
}

function listen() {
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); }
  });
  form.elements.router.addEventListener("change", () => { clearErrors(form); showRouter({}); });
  form.elements.base_model.addEventListener("change", showBase);
  form.addEventListener("change", showKind);
  $("params").addEventListener("input", () => { checkParams($("params"), question.router?.params); showRouter(); });
  form.elements.k.addEventListener("input", checkCount);
  for (const name of [...LONG, "adapter"]) form.elements[name].addEventListener("input", ({ target }) => unmarkField(target));
  const field = form.elements.adapter;
  makeCombobox(field, field.nextElementSibling, { label: "Experts", search: suggest, onPick: () => unmarkField(field) });
  addEventListener("popstate", restore);
}

// Those that answer at once, and those whose answer is the result of a job.
function routerOptions(routers) {
  const option = ({ name, title }) => el("option", { value: name, selected: name === form.dataset.router }, title);
  const groups = [["Answer at once", routers.filter(({ answers }) => answers !== "job")], ["Run the base model, in a job", routers.filter(({ answers }) => answers === "job")]];
  return groups.filter(([, found]) => found.length).map(([label, found]) => el("optgroup", { label }, ...found.map(option)));
}

async function start() {
  const methods = await call("GET", "methods/");
  prototypes = methods.prototypes;
  form.elements.router.replaceChildren(...routerOptions(methods.routers));
  question = new Question(form, $("params"), methods.routers);
  listen();
  form.querySelector("button[type=submit]").disabled = false;
  // Somebody may have begun to type before the routers were here.
  const typed = form.elements.text.value;
  restore();
  if (question.isBlank) form.elements.text.value = typed;
}

start().catch((error) => showError(form, error));
