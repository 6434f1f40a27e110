// The merge page: inputs with weights, a method with its parameters, what to make of the result; checked while you type.

import { readAddress, writeAddress } from "./address.js";
import { call, clearErrors, el, markField, showError, unmarkField } from "./api.js";
import { InterferenceView } from "./interference.js";
import { Inputs } from "./merge-inputs.js";
import { fillMethods, listMethods, markChosen, terms } from "./merge-methods.js";
import { showRetrieval } from "./merge-retrieval.js";
import { Verdict } from "./merge-verdict.js";
import { checkParams } from "./params.js";
import { LONG, RecipeForm } from "./recipe-form.js";
import { RecipeText, download } from "./recipe-text.js";
import { showShares } from "./shares.js";
import { showSnippets } from "./snippets.js";

const DELAY_MS = 300;
const $ = (id) => document.getElementById(id);
const form = $("merge-form");
const fields = form.elements;
const isLoggedIn = form.dataset.loggedIn === "yes";
const say = (text) => { $("announcer").textContent = text; };
const inputs = new Inputs($("inputs"), $("input-template"), {
  onChange: () => changed(),
  say,
  // That of the first other input which the last preview knew.
  baseModel: (row) => inputs.named.filter((other) => other !== row).map(({ known }) => known?.base_model).find(Boolean) || "",
  isRelative: () => recipe.method?.weights === "relative",
});
const recipeText = new RecipeText($("recipe-text"), $("recipe-problems"), $("open-recipe"), {
  say,
  onRead: (request) => {
    recipe.fromRequest(request);
    showMethod();
    showRetrieval(recipe.retrieval);
    refresh();
    return recipe.previewRequest();
  },
});
const interference = new InterferenceView($("interference"), {
  onRank: (rank) => {
    fields.rank_mode.value = "fixed";
    recipe.showRank(rank);
    say(`The file will have rank ${rank}.`);
    changed();
  },
  onMeasured: () => check(),
});
const verdict = new Verdict($("verdict"), (method) => chooseMethod(method));
let recipe;
let timer;
let checks = 0;

const FIELD_OF = { method: "method", params: "method", "output.name": "output_name", "output.dtype": "dtype", "output.visibility": "output_name", output: "rank_mode" };

// The first problem of a field is the one to mend first.
function markOnce(field, message) {
  if (!field.hasAttribute("aria-invalid")) markField(field, message);
}

// Puts a problem beside what causes it. Returns false where nothing on the page does.
function place({ where, code, message }) {
  const [, index, part] = where.match(/^inputs\[(\d+)\](?:\.(\w+))?/) || [];
  const row = index !== undefined && !recipe.retrieval ? inputs.named[index] : undefined;
  if (row) {
    // A name that is being typed is not a wrong one yet.
    if (code === "not_found" && document.activeElement === row.name) return true;
    markOnce(row.field(part), message);
  } else if (where.startsWith("inputs") || where === "weights") showInputsError(message);
  else if (where.startsWith("params.")) {
    const field = $("params").querySelector(`[name="${CSS.escape(where.slice(7))}"]`);
    if (!field) return false;
    markOnce(field, message);
  } else if (where === "output.rank") markOnce($("rank-value").hidden ? fields.rank_mode : fields.rank_value, message);
  else if (FIELD_OF[where] && !fields[FIELD_OF[where]].closest("[hidden]")) markOnce(fields[FIELD_OF[where]], message);
  else return false;
  return true;
}

function showInputsError(message) {
  const box = $("inputs-error");
  box.textContent = message;
  box.hidden = !message;
}

function unmarkAll() {
  for (const row of inputs.rows) row.unmark();
  for (const field of [fields.method, fields.rank_mode, fields.rank_value, fields.dtype, fields.output_name]) unmarkField(field);
  showInputsError("");
}

function rankText(preview) {
  const mode = fields.rank_mode.value;
  const ranks = preview.inputs.filter(Boolean).map(({ rank }) => rank).filter(Boolean);
  const origin = new Set(ranks).size > 1 ? `the highest of ${ranks.join(", ")}` : "that of the inputs";
  const file = preview.rank === null ? "" : `The file has rank ${preview.rank}`;
  if (mode === "max_input") return file && `${file}, ${origin}; what does not fit is cut off by its singular values.`;
  if (mode === "fixed") return file && (preview.rank < fields.rank_value.value ? `${file}: no module can have more.` : `${file}.`);
  if (mode === "energy") return "The file has the lowest rank at which every module keeps that share; the result decides.";
  const sum = ranks.reduce((total, rank) => total + rank, 0);
  return recipe.method?.weights === "absolute" && sum ? `The file has as much rank as the sum needs, at most ${ranks.join(" + ")} = ${sum}.` : "The file has as much rank as the result needs, which can be that of whole modules.";
}

// Warnings that have a place of their own are told there.
function showHints(preview) {
  $("rank-hint").textContent = rankText(preview);
  const told = Object.fromEntries(preview.warnings.map(({ code, message }) => [code, message]));
  const isFree = isLoggedIn && recipe.name !== null && !recipe.name.endsWith("/") && !preview.problems.some(({ where }) => where === "output.name");
  $("name-hint").textContent = told.new_revision || (isFree ? `${recipe.name} is free.` : "");
  const hidden = preview.inputs.filter((input) => input?.visibility === "private").map(({ adapter }) => adapter);
  if (!recipe.hasChosenVisibility) fields.visibility.value = hidden.length ? "private" : "public";
  $("visibility-hint").textContent = told.private_parent || (hidden.length ? `${hidden.join(", ")} ${hidden.length > 1 ? "are" : "is"} private, so the merge is, too, unless you choose otherwise.` : "");
  return preview.warnings.filter(({ code }) => !["new_revision", "private_parent", "not_authenticated"].includes(code)).map(({ message }) => message);
}

function showPreview(preview) {
  unmarkAll();
  recipe.inputs.named.forEach((row, index) => { row.known = recipe.retrieval ? null : preview.inputs[index]; });
  showRetrieved(preview);
  showRows(preview.norms);
  const unplaced = preview.problems.filter((problem) => !place(problem));
  const warnings = showHints(preview);
  verdict.show(preview, unplaced, preview.mergeable ? warnings : []);
  interference.show(preview);
  showRequest();
}

function showRetrieved(preview) {
  if (!recipe.retrieval) return;
  recipe.found = preview.inputs.filter(Boolean);
  const items = recipe.found.map(({ adapter, weight }) => el("li", { class: "row between" }, el("a", { href: `/adapters/${adapter}/` }, adapter), el("span", { class: "number muted" }, weight === null ? "" : `weight ${Number(weight.toPrecision(3))}`)));
  $("retrieved").replaceChildren(...items);
  recipe.suggestName(recipe.found.map(({ adapter }) => adapter));
}

// What depends on the rows alone, without asking the server. `norms`: by input, where they are known.
function showRows(norms) {
  const { rows, named } = inputs;
  const kind = recipe.method?.weights;
  const given = named.map(({ weight }) => (weight.value === "" ? null : Number(weight.value)));
  const fallback = kind === "relative" ? 1 : 1 / Math.max(1, named.length);
  if (norms) named.forEach((row, index) => { row.norm = norms[index] ?? null; });
  rows.forEach((row, index) => { row.describe(row.known ?? null, row.norm ?? null, fallback); row.label(index + 1, rows.length); });
  const shown = named.map((row, index) => ({ name: row.adapter, weight: given[index], norm: row.norm }));
  showShares($("shares"), recipe.retrieval ? [] : shown, kind);
  for (const row of rows) row.colour(named.indexOf(row));
  $("input-count").textContent = named.length ? `${named.length}` : "";
  $("begin").hidden = !recipe.isBlank;
  $("pin-inputs").hidden = !named.some(({ known, recipe: nested, revision }) => known && !nested && !revision.value);
}

function showRequest() {
  recipeText.show(recipe.previewRequest());
  showSnippets($("snippets"), "merges/", recipe.request(), { needsToken: true });
  $("too-long").hidden = !writeAddress(recipe.toAddress(), LONG);
}

async function check() {
  checks += 1;
  const mine = checks;
  if (recipe.isBlank) {
    unmarkAll();
    verdict.nothing();
    return;
  }
  verdict.wait();
  try {
    const preview = await call("POST", "merges/preview/", recipe.previewRequest());
    if (mine === checks) showPreview(preview);
  } catch (error) {
    if (mine !== checks) return;
    $("rank-hint").textContent = "";  // it was about another recipe
    verdict.fail(`The recipe could not be checked. ${error.message}`, check);
  }
}

// Somebody has changed the form.
function changed() {
  recipeText.yield();
  refresh();
}

function refresh() {
  $("publish-fields").hidden = !fields.publish.checked;
  if (!recipe.retrieval) recipe.suggestName(inputs.named.filter((row) => !row.recipe).map(({ adapter }) => adapter));
  showRows();
  checkParams($("params"), recipe.method?.params);
  clearTimeout(timer);
  // Not at every step of a slider: browsers refuse a page that rewrites its address hundreds of times.
  timer = setTimeout(() => { showRequest(); check(); }, DELAY_MS);
}

// From the list of all methods; as if it had been chosen in the field.
function chooseMethod(name) {
  fields.method.value = name;
  fields.method.dispatchEvent(new Event("input", { bubbles: true }));
  fields.method.focus();
}

function showMethod() {
  const { method } = recipe;
  $("method-when").textContent = method?.when || "";
  $("method-summary").textContent = method?.summary || "";
  $("method-terms").replaceChildren(...(method ? terms(method) : []).map((text) => el("li", {}, text)));
  $("method-terms").hidden = !$("method-terms").children.length;
  $("method-source").textContent = method?.source ? `After ${method.source}.` : "";
  markChosen($("method-list"), method?.name);
}

async function submit(event) {
  event.preventDefault();
  if (!(await recipeText.settle())) {
    $("recipe-text").focus();
    return;
  }
  clearErrors(form);
  if (!isLoggedIn) {
    showRequest();
    location.assign(`/login/?next=${encodeURIComponent(location.pathname + location.search)}`);
    return;
  }
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  try {
    const { job } = await call("POST", "merges/", recipe.request());
    location.assign(`/jobs/${job.id}/`);
  } catch (error) {
    showError(form, error);
    if (recipe.name?.endsWith("/")) markField(fields.output_name, "Give the merge a name, or do not register it.");
    else await check();
    form.querySelector("[aria-invalid=true]")?.focus();
    button.disabled = false;
  }
}

function listen() {
  $("add-input").addEventListener("click", () => { inputs.add().name.focus(); changed(); });
  $("pin-inputs").addEventListener("click", () => {
    for (const row of inputs.named) if (row.known && !row.recipe) row.pin(row.known.revision);
    say("Every input is pinned to the revision that it has now.");
    changed();
  });
  $("fix-retrieval").addEventListener("click", () => {
    inputs.replace((recipe.found || []).map(({ adapter, revision, weight }) => ({ adapter, revision, weight: Number(weight.toPrecision(6)) })));
    recipe.retrieval = null;
    showRetrieval(recipe.retrieval);
    changed();
  });
  // Before the form's own listener, so that the request is read from the fields of the new choice.
  fields.method.addEventListener("input", () => {
    recipe.followMethod();
    showMethod();
  });
  fields.rank_mode.addEventListener("input", () => recipe.showRank());
  fields.output_name.addEventListener("input", () => { recipe.hasNamed = fields.output_name.value !== ""; });
  for (const radio of fields.visibility) radio.addEventListener("input", () => { recipe.hasChosenVisibility = true; });
  form.addEventListener("input", () => { form.querySelector("[data-errors]").replaceChildren(); changed(); });
  form.addEventListener("change", changed);
  form.addEventListener("submit", submit);
  $("copy-recipe").addEventListener("click", () => navigator.clipboard.writeText($("recipe-text").value).then(() => say("The recipe is copied."), () => $("recipe-text").select()));
  $("save-recipe").addEventListener("click", () => download(`${fields.output_name.value.trim() || "recipe"}.yaml`, $("recipe-text").value));
}

function start(merges) {
  const families = JSON.parse($("families").textContent);
  fillMethods(fields.method, merges, families, form.dataset.method);
  listMethods($("method-list"), merges, families, chooseMethod);
  recipe = new RecipeForm(form, $("params"), inputs, merges);
  const { params, isLost } = readAddress();
  recipe.fromAddress(params);
  $("lost").hidden = !isLost;
  showMethod();
  showRetrieval(recipe.retrieval);
  listen();
  form.querySelector("button[type=submit]").disabled = false;
  refresh();
}

async function load() {
  verdict.wait();
  let methods;
  try {
    methods = await call("GET", "methods/");
  } catch (error) {
    verdict.fail(`The methods could not be loaded. ${error.message}`, load);
    return;
  }
  start(methods.merges);
}

load();
