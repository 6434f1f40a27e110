// The trial page: examples in, a job, its log while it runs, and the ranking that it measured.

import { call, clearErrors, el, markField, showError, unmarkField } from "./api.js";
import { follow, isOpen, stateOf } from "./follow.js";
import { showSnippets } from "./snippets.js";
import { readLabelled, writeLabelled } from "./trial-examples.js";
import { resultNodes } from "./trial-result.js";

const $ = (id) => document.getElementById(id);
const form = $("trial-form");
const fields = form?.elements;
const KEPT = "trial";  // in this tab alone: nobody's examples belong into an address
const PREVIEWED = 3;
const LISTED_PROBLEMS = 5;
const MAX_FILE_BYTES = 1_000_000;
const defaultPrompt = fields?.prompt.value;
let isCsv = false;
let followed = null;

const say = (text) => { $("announcer").textContent = text; };
const noun = (count) => `${count} example${count === 1 ? "" : "s"}`;

const read = () => readLabelled(fields.examples.value, { isCsv });

function body() {
  const asked = { examples: read().examples, base_model: fields.base_model.value, k: Number(fields.k.value), merge: fields.merge.checked };
  if (fields.prompt.value !== defaultPrompt) asked.prompt = fields.prompt.value;
  return asked;
}

// What was understood of the box, before anything is sent.
function showExamples() {
  const { examples, problems } = read();
  const listed = problems.slice(0, LISTED_PROBLEMS).map((text) => el("li", {}, text));
  if (problems.length > LISTED_PROBLEMS) listed.push(el("li", {}, `… and ${problems.length - LISTED_PROBLEMS} more lines.`));
  $("problems").replaceChildren(...(listed.length ? [el("ul", {}, ...listed)] : []));
  const table = $("understood");
  table.hidden = !examples.length;
  const more = examples.length > PREVIEWED ? `, the first ${PREVIEWED} of them` : "";
  table.querySelector("caption").textContent = `Understood as ${noun(examples.length)}${more}:`;
  table.querySelector("tbody").replaceChildren(...examples.slice(0, PREVIEWED).map(({ input, output }) => el("tr", {}, el("td", {}, input), el("td", {}, output))));
  $("as-code").hidden = !examples.length;
  if (examples.length) showSnippets($("snippets"), "trials/", body(), { needsToken: true });
}

function showBase() {
  const { experts, runnable } = fields.base_model.selectedOptions[0].dataset;
  const count = Number(experts);
  const tried = count > Number(fields.k.value) ? `${count} experts; the ${fields.k.value} that a retrieval finds for your inputs are tried.` : `${count} expert${count === 1 ? "" : "s"}, ${count === 1 ? "which is" : "all of which are"} tried.`;
  $("base-hint").textContent = runnable === "yes" ? tried : `${tried} This site does not find the base model where a worker would: unless one has it, the trial ends with base_not_here.`;
}

function keep() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ text: fields.examples.value, isCsv, base: fields.base_model.value, k: fields.k.value, merge: fields.merge.checked, prompt: fields.prompt.value }));
  } catch {
    // Full, or forbidden by the browser: only a reload does not bring the examples back.
  }
}

function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) || "null");
  if (!kept || fields.examples.value) return;
  fields.examples.value = kept.text;
  isCsv = kept.isCsv;
  if ([...fields.base_model.options].some(({ value }) => value === kept.base)) fields.base_model.value = kept.base;
  fields.k.value = kept.k;
  fields.merge.checked = kept.merge;
  fields.prompt.value = kept.prompt;
  $("options").open = kept.prompt !== defaultPrompt;
}

// Returns false where something on the page has to be mended first; the server would say the same, later.
function check() {
  clearErrors(form);
  const { examples, problems } = read();
  const most = Number(form.dataset.most);
  const wrong = [
    [fields.examples, !examples.length && !problems.length && "Give at least one example: an input, => and the right answer."],
    [fields.examples, problems.length && `${problems.length === 1 ? "One line is" : `${problems.length} lines are`} not understood.`],
    [fields.examples, examples.length > most && `These are ${examples.length} examples; at most ${most} are tried.`],
    [fields.k, !(Number.isInteger(Number(fields.k.value)) && fields.k.value >= 1 && Number(fields.k.value) <= Number(form.dataset.mostK)) && `A whole number from 1 to ${form.dataset.mostK}.`],
    [fields.prompt, !fields.prompt.value.includes("{line}") && "The prompt needs {line}, where the input goes."],
  ].filter(([, text]) => text);
  for (const [field, text] of wrong) if (!field.hasAttribute("aria-invalid")) markField(field, text);
  const first = wrong[0]?.[0];
  if (first === fields.prompt) $("options").open = true;
  first?.focus();
  return !first;
}

async function take(file) {
  if (file.size > MAX_FILE_BYTES) return markField(fields.examples, `${file.name} has ${Math.round(file.size / 1000)} kB; a file of examples has at most 1,000.`);
  isCsv = file.name.toLowerCase().endsWith(".csv");
  const { examples, problems } = readLabelled(await file.text(), { isCsv });
  // As lines, so that what was read can be seen and changed; a file with faults stays as it is.
  fields.examples.value = problems.length ? await file.text() : writeLabelled(examples);
  if (!problems.length) isCsv = false;
  changed();
  say(`${noun(examples.length)} read from ${file.name}.`);
  return null;
}

function changed() {
  unmarkField(fields.examples);
  showExamples();
  showBase();
  keep();
}

function showState(job, isLate) {
  const open = isOpen(job);
  $("state").replaceChildren(...(open ? [el("span", { class: "spinner", "aria-hidden": "true" })] : []), el("span", {}, stateOf(job, isLate)));
  $("bar").value = job.status === "succeeded" ? 1 : job.progress;
  $("bar").className = `bar ${{ succeeded: "good", failed: "bad" }[job.status] || ""}`;
  $("cancel").hidden = !open;
  if (!open) $("steps").open = job.status !== "succeeded";
  const log = $("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 8;
  const lines = job.log.slice(log.childElementCount).map(({ at, message }) => el("li", {}, el("time", { datetime: at }, new Date(at).toLocaleTimeString([], { hour12: false })), el("span", {}, message)));
  log.append(...lines);
  if (lines.length && isAtEnd) log.scrollTop = log.scrollHeight;
}

function showEnd(job) {
  if (job.status === "succeeded") {
    const [text, nodes] = resultNodes(job.result);
    $("results").replaceChildren(...nodes);
    say(text);
  } else if (job.status === "failed") {
    const again = fields.examples.value.trim() ? " Your examples are still above: try again." : "";
    const advice = (job.error.code === "base_not_here" ? "Choose another base model, or have whoever operates this site put it there." : "") + again;
    $("results").replaceChildren(el("div", { class: "notice bad", role: "alert" }, el("p", {}, el("strong", {}, job.error.message), " ", el("code", {}, job.error.code)), el("p", {}, advice)));
  } else say("The trial was cancelled.");
  form.querySelector("button[type=submit]").disabled = false;
}

// Another trial that is begun takes the place of the one that is shown.
async function watch(id) {
  followed = id;
  $("trial").hidden = false;
  $("job-link").href = `/jobs/${id}/`;
  $("log").replaceChildren();
  $("steps").open = true;
  $("results").replaceChildren();
  const isWanted = () => followed === id;
  const onJob = (job, isLate) => {
    if (job.kind !== "trial") throw Object.assign(new Error("This job is no trial."), { status: 404 });
    showState(job, isLate);
  };
  const onLost = (error) => { $("state").textContent = `${error.message} The trial goes on without this page, which keeps trying.`; };
  try {
    const job = await follow(id, { isWanted, onJob, onLost });
    if (job) showEnd(job);
  } catch (error) {
    $("trial").hidden = true;
    $("results").replaceChildren(el("div", { class: "notice bad", role: "alert" }, el("p", {}, error.status === 404 ? "There is no such trial that you may see. Begin one above." : error.message)));
  }
}

async function start() {
  if (!check()) return;
  keep();
  if (form.dataset.loggedIn !== "yes") {
    location.assign(`/login/?next=${encodeURIComponent(location.pathname)}`);
    return;
  }
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  try {
    const { job } = await call("POST", "trials/", body());
    history.pushState(null, "", `${location.pathname}?job=${job.id}`);
    say("The trial has begun.");
    watch(job.id);
    $("trial").scrollIntoView({ block: "nearest" });
  } catch (error) {
    button.disabled = false;
    showError(form, error);
  }
}

function fromAddress() {
  const id = new URLSearchParams(location.search).get("job");
  if (id) watch(id);
  else {
    followed = null;
    $("trial").hidden = true;
    $("results").replaceChildren();
  }
}

function takeChosen() {
  const [file] = $("file").files;
  if (file) take(file);
  $("file").value = "";
}

function listen() {
  form.addEventListener("submit", (event) => { event.preventDefault(); start(); });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); start(); }
  });
  form.addEventListener("input", ({ target }) => { if (target.name) unmarkField(target); changed(); });
  fields.examples.addEventListener("paste", () => { isCsv = false; });
  $("file").addEventListener("change", takeChosen);
  for (const name of ["dragover", "dragleave", "drop"]) {
    fields.examples.addEventListener(name, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      fields.examples.classList.toggle("dropping", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
  }
  $("cancel").addEventListener("click", () => { if (followed) call("POST", `jobs/${followed}/cancel/`).catch(() => {}); });
  addEventListener("popstate", fromAddress);
}

if (form) {
  restore();
  listen();
  showExamples();
  showBase();
  form.querySelector("button[type=submit]").disabled = false;
  fromAddress();
  takeChosen(); // a file chosen before this script came
}
