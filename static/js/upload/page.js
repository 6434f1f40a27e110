// The upload page: choose or drop files, see the verdict before they are sent, send them, try again.

import { ApiError, clearErrors, el, markField, showError } from "../api.js";
import { PARTS, REQUIRED, Selection, readEntry, size } from "./files.js";
import { digestOf, inWords, isPassing, send } from "./send.js";
import { showSnippets } from "./snippets.js";
import { askVerdict, headline, verdictBody } from "./verdict.js";

const form = document.getElementById("upload-form");
const byId = (id) => document.getElementById(id);
const [drop, progress, status, speed] = ["drop", "progress", "upload-status", "upload-speed"].map(byId);
const [submit, cancel] = [form.querySelector("button[type=submit]"), byId("cancel-upload")];
const fields = form.elements;
const selection = new Selection();
const ASK_AFTER_MS = 300;

let verdict = null; // of what is chosen now; null while it is not known
let asking = null; // {promise, controller} of the request for it
let sending = null; // AbortController while bytes go out
let timer = 0;
let filledName = "";

// What is chosen and typed, as the parts of an upload.

function typedSamples() {
  if (selection.files.has("samples.jsonl")) return "";
  const lines = byId("typed").value.split("\n").map((line) => line.trim()).filter(Boolean);
  return lines.map((input) => `${JSON.stringify({ input })}\n`).join("");
}

function allFiles() {
  const files = new Map(selection.files);
  const typed = typedSamples();
  if (typed) files.set("samples.jsonl", new File([typed], "samples.jsonl"));
  return files;
}

function allFields() {
  const name = fields.adapter.value.trim();
  const said = [["name", name && `${fields.owner.value}/${name}`], ["visibility", fields.visibility.value]];
  for (const key of ["base_model", "description", "license"]) said.push([key, fields[key].value.trim()]);
  for (const tag of fields.tags.value.split(",")) said.push(["tags", tag.trim()]);
  return said.filter(([, value]) => value);
}

// The verdict.

function changed() {
  clearTimeout(timer);
  asking?.controller.abort();
  asking = null;
  verdict = null;
  timer = setTimeout(ask, ASK_AFTER_MS);
  showState(["checking …", "checking"]);
  if (byId("copy-as").open) copyAs();
}

function ask() {
  clearTimeout(timer);
  const files = allFiles();
  if (selection.pickle) files.set(selection.pickle.path, selection.pickle.file);
  if (files.size === 0 && !fields.adapter.value.trim()) return showState(null);
  const controller = new AbortController();
  const promise = askVerdict(allFields(), files, controller.signal).then(showVerdict, (error) => {
    if (error.name !== "AbortError") showNoVerdict(error);
  });
  asking = { promise, controller };
  return promise;
}

const isAboutName = ({ detail }) => Boolean(detail.name);
const fieldOf = ({ detail }) => Object.keys(detail).map((key) => (key === "name" ? fields.adapter : fields[key])).find((field) => field?.closest) ?? null;

function showVerdict(answer) {
  verdict = answer;
  clearErrors(form);
  for (const refusal of answer.refusals) {
    const field = fieldOf(refusal);
    if (field && refusal.detail.name !== "missing") markField(field, refusal.message);
  }
  showName(answer.adapter);
  showSamples(answer.samples);
  fields.description.placeholder = answer.card.description || "as the card says";
  fields.license.placeholder = answer.card.license || "as the card says";
  fields.tags.placeholder = answer.card.tags.join(", ") || "as the card says";
  fields.base_model.placeholder = answer.base_model || "as the config says";
  if (selection.isEmpty) return showState(null);
  const isComplete = REQUIRED.every((path) => selection.files.has(path));
  const aboutFiles = answer.refusals.filter((refusal) => !fieldOf(refusal));
  showState(headline({ usable: aboutFiles.length === 0 }, isComplete || Boolean(selection.pickle)));
  byId("verdict-body").replaceChildren(...verdictBody(answer, isComplete || selection.pickle ? aboutFiles : []));
}

function showNoVerdict(error) {
  verdict = null;
  showState(["unknown", "plain"]);
  const again = el("button", { type: "button", class: "button small" }, "Ask again");
  again.addEventListener("click", changed);
  byId("verdict-body").replaceChildren(el("div", { class: "notice warn" }, el("p", {}, `${error.message} You can upload all the same; the server then decides.`), again));
}

// said: [text, class of the badge], or null where there is nothing to judge.
function showState(said) {
  byId("verdict").hidden = said === null || selection.isEmpty;
  byId("help").hidden = !selection.isEmpty;
  const badge = byId("verdict-state");
  if (said === null || badge.textContent === said[0]) return;
  [badge.textContent] = said;
  badge.className = `badge ${said[1]}`;
}

function showName(adapter) {
  const note = byId("name-note");
  note.hidden = !adapter;
  if (!adapter) return;
  note.textContent = adapter.exists ? `${adapter.name} exists: this becomes a new revision of it.` : `${adapter.name} is free.`;
  note.className = adapter.exists ? "hint exists" : "hint";
  // An existing adapter stays as visible as it is, unless the contributor chooses otherwise.
  if (adapter.exists && !fields.visibility[0].dataset.touched) fields.visibility.value = adapter.visibility;
}

function showSamples({ count, first }) {
  const list = byId("samples-preview");
  list.hidden = count === 0;
  const pair = (term, text) => [el("dt", {}, term), el("dd", {}, text)];
  list.replaceChildren(...first.map(({ input, output }) => el("li", {}, el("dl", { class: "sample" }, ...pair("Input", input), ...(output ? pair("Output", output) : [])))));
  byId("samples-note").textContent = count
    ? `${count.toLocaleString("en")} ${count === 1 ? "sample" : "samples"}${count > first.length ? `, the first ${first.length} of which are below` : ""}. Prompts like these will find the expert.`
    : "None yet. Without samples the expert is listed and can be merged, but nobody finds it by a prompt: 20 to 40 typical inputs do.";
}

// What is chosen.

function showChosen() {
  const rows = Object.entries(PARTS).filter(([path, kind]) => selection.files.has(path) || kind === "required").map(([path, kind]) => {
    const file = selection.files.get(path);
    const remove = el("button", { type: "button", class: "button small", "aria-label": `Remove ${path}` }, "Remove");
    remove.addEventListener("click", () => { selection.remove(path); showChosen(); byId("files").focus(); });
    return el("tr", {}, el("td", { class: "mono" }, path), el("td", { class: file ? "" : "muted", "data-label": "Part" }, file ? kind : "missing, required"), el("td", { class: "number", "data-label": "Size" }, file ? size(file.size) : ""), el("td", { class: "number" }, file ? remove : ""));
  });
  byId("chosen").querySelector("tbody").replaceChildren(...rows);
  byId("chosen").hidden = selection.isEmpty;
  showSkipped(selection.skipped);
  showWhich(selection.roots);
  const hasFile = selection.files.has("samples.jsonl");
  byId("typed-field").hidden = hasFile;
  changed();
}

function showSkipped(skipped) {
  const list = byId("skipped");
  list.hidden = skipped.length === 0;
  list.querySelector("ul").replaceChildren(...skipped.slice(0, 200).map(({ path, why }) => el("li", {}, el("code", {}, path), ` ${why}`)));
  list.querySelector("summary").textContent = `${skipped.length} ${skipped.length === 1 ? "file" : "files"} will not be sent`;
  list.open = skipped.length > 0 && skipped.length <= 5;
}

function showWhich(roots) {
  byId("which").hidden = roots.length < 2;
  const options = roots.map((root) => el("option", { value: root, selected: root === selection.root }, root.replace(/\/$/, "") || "the files beside each other"));
  byId("which-adapter").replaceChildren(...options);
  byId("which-count").textContent = `${roots.length} adapters are in what you chose, and one is uploaded at a time.`;
}

function fillName() {
  if (fields.adapter.value && fields.adapter.value !== filledName) return;
  filledName = selection.name;
  fields.adapter.value = filledName;
}

function take(entries) {
  if (sending || entries.length === 0) return;
  selection.take(entries);
  fillName();
  clearErrors(form);
  showChosen();
}

drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  // The entries must be taken before the first await: afterwards the browser empties the list.
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  take((await Promise.all(entries.map((entry) => readEntry(entry)))).flat());
});
const inputs = drop.querySelectorAll("input[type=file]");
function takeFrom(input) {
  take([...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file })));
  input.value = "";
}
for (const input of inputs) input.addEventListener("change", () => takeFrom(input));
byId("which-adapter").addEventListener("change", ({ target }) => { selection.choose(target.value); fillName(); showChosen(); });
for (const radio of fields.visibility) radio.addEventListener("click", () => (fields.visibility[0].dataset.touched = "yes"));
form.addEventListener("input", ({ target }) => { if (target.name || target.id === "typed") changed(); });

function copyAs() {
  const parts = [...new Set([...REQUIRED, ...allFiles().keys()])];
  const said = allFields();
  if (!said.some(([name]) => name === "name")) said.unshift(["name", `${fields.owner.value}/NAME`]);
  showSnippets(byId("snippets"), said, parts, typedSamples());
}
byId("copy-as").addEventListener("toggle", copyAs);

// Sending.

function problemsBefore() {
  const missing = REQUIRED.filter((path) => !selection.files.has(path));
  if (missing.length && !selection.pickle) return `Choose ${missing.join(" and ")}: every adapter needs both.`;
  return "";
}

function report({ loaded, total, perSecond }) {
  progress.value = loaded / total;
  if (loaded >= total) return phase("Sent. The server is storing the files …", "");
  const left = perSecond ? `, ${size(perSecond)}/s, about ${inWords((total - loaded) / perSecond)} left` : "";
  speed.textContent = `${size(loaded)} of ${size(total)}${left}`;
}

function phase(text, numbers) {
  if (status.textContent !== text) status.textContent = text;
  speed.textContent = numbers;
}

function setSending(controller) {
  sending = controller;
  submit.disabled = sending !== null;
  progress.hidden = cancel.hidden = sending === null;
  drop.inert = sending !== null;
  if (sending === null) phase("", "");
}

async function upload() {
  const data = new FormData();
  // The fields go first, so that a refusal comes before the weights are read.
  for (const [name, value] of allFields()) data.append(name, value);
  phase("Reading the weights …", "");
  const digest = await digestOf(selection.files.get("adapter_model.safetensors"));
  if (digest) data.append("sha256", digest);
  for (const [path, file] of allFiles()) data.append(path, file, path);
  phase("Sending …", "");
  return send("adapters/", data, report, sending.signal);
}

// Refusals that the verdict already knows: nothing is sent.
async function refusedBefore() {
  if (verdict === null) await (asking?.promise ?? ask());
  return verdict?.refusals[0] ?? null;
}

function showFailure(error) {
  if (error.detail.name) {
    markField(fields.adapter, error.message);
    fields.adapter.focus();
    return;
  }
  const hint = isPassing(error) && !error.cancelled ? " Your files and fields are still here: press “Try again”." : "";
  submit.textContent = isPassing(error) ? "Try again" : "Upload";
  if (hint) error.message += error.retryAfterS ? ` The server asks to wait ${inWords(error.retryAfterS)}.${hint}` : hint;
  showError(form, error);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (sending) return;
  clearErrors(form);
  const problem = problemsBefore();
  if (problem) return showFailure(Object.assign(new ApiError(422, { message: problem })));
  setSending(new AbortController());
  progress.removeAttribute("value");
  try {
    const refusal = await refusedBefore();
    if (refusal) throw new ApiError(422, refusal);
    const { adapter, job } = await upload();
    sending = null;
    location.assign(job ? `/jobs/${job.id}/` : `/adapters/${adapter.name}/`);
  } catch (error) {
    setSending(null);
    clearErrors(form);
    showFailure(error instanceof ApiError ? error : new ApiError(0, { message: "A file cannot be read any more. Was it moved or changed? Choose it again." }));
  }
});
cancel.addEventListener("click", () => sending?.abort());
addEventListener("beforeunload", (event) => { if (sending) event.preventDefault(); });

showSamples({ count: 0, first: [] });
// Who chose faster than this script came has chosen all the same.
for (const input of inputs) takeFrom(input);
