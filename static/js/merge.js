// The merge page: inputs with weights, a method with its parameters, what to make of the result.

import { call, clearErrors, el, markField, showError } from "./api.js";
import { readParams, showParams } from "./params.js";
import { showSnippets } from "./snippets.js";

const form = document.getElementById("merge-form");
const fields = form.elements;
const inputsBox = document.getElementById("inputs");
const template = document.getElementById("input-template");
const paramsBox = document.getElementById("params");
const names = document.getElementById("adapter-names");
let merges = [];
let rowCount = 0;

const rows = () => [...inputsBox.children];
const method = () => merges.find(({ name }) => name === fields.method.value);
const RANK_VALUE = { fixed: ["Rank", 16, 1], energy: ["Share of the energy to keep, (0, 1]", 0.99, "any"] };

function addRow(adapter = "", weight = "") {
  const row = template.content.firstElementChild.cloneNode(true);
  rowCount += 1;
  const [name, number] = row.querySelectorAll("input");
  name.id = `adapter-${rowCount}`;
  number.id = `weight-${rowCount}`;
  row.querySelectorAll("label").forEach((label, index) => { label.htmlFor = [name.id, number.id][index]; });
  name.value = adapter;
  number.value = weight;
  name.addEventListener("input", suggest);
  row.querySelector("button").addEventListener("click", () => { row.remove(); showRequest(); });
  inputsBox.append(row);
  return name;
}

// `owner/name` or `owner/name@revision`, as in a recipe.
function inputOf(row) {
  const [name, number] = row.querySelectorAll("input");
  const [adapter, revision] = name.value.trim().split("@");
  const input = { adapter };
  if (revision) input.revision = revision;
  if (number.value !== "") input.weight = Number(number.value);
  return input;
}

function output() {
  const rank = { mode: fields.rank_mode.value };
  if (rank.mode in RANK_VALUE) rank.value = Number(fields.rank_value.value);
  const made = { rank };
  if (fields.dtype.value) made.dtype = fields.dtype.value;
  if (fields.publish.checked) Object.assign(made, { name: `${fields.owner.value}/${fields.output_name.value.trim()}`, visibility: fields.visibility.value });
  return made;
}

function request() {
  return { method: fields.method.value, inputs: rows().map(inputOf).filter(({ adapter }) => adapter), params: readParams(paramsBox, method()?.params), output: output() };
}

const showRequest = () => showSnippets(document.getElementById("snippets"), "merges/", request());

let timer;
function suggest({ target }) {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    const { results } = await call("GET", `adapters/?state=ready&page_size=10&search=${encodeURIComponent(target.value)}`);
    names.replaceChildren(...results.map(({ name, base_model: base }) => el("option", { value: name }, base)));
  }, 200);
}

function showMethod() {
  const chosen = method();
  document.getElementById("method-summary").textContent = chosen?.summary || "";
  document.getElementById("method-source").textContent = chosen?.source || "";
  showParams(paramsBox, chosen?.params);
}

function showRank() {
  const [label, value, step] = RANK_VALUE[fields.rank_mode.value] || [];
  const box = document.getElementById("rank-value");
  box.hidden = !label;
  if (!label || box.dataset.mode === fields.rank_mode.value) return;
  box.dataset.mode = fields.rank_mode.value;
  box.querySelector("label").textContent = label;
  Object.assign(fields.rank_value, { value, step });
}

function showOutput() {
  document.getElementById("publish-fields").hidden = !fields.publish.checked;
}

// The field that a key of a refusal's detail is about: `output.name`, `inputs[1].weight`, …
function fieldOf(key) {
  const [, index, part] = key.match(/^inputs\[(\d+)\](\.weight)?/) || [];
  if (index !== undefined) return rows().filter((row) => inputOf(row).adapter)[index]?.querySelectorAll("input")[part ? 1 : 0];
  return { name: fields.output_name, "output.name": fields.output_name, "output.rank": fields.rank_mode, "output.rank.value": fields.rank_value, "output.dtype": fields.dtype }[key];
}

function showRefusal(error) {
  const refused = error.detail.inputs;
  if (Array.isArray(refused)) {
    const found = refused.map(({ adapter, message }) => {
      const row = rows().filter((item) => inputOf(item).adapter === adapter).at(-1);
      if (row) markField(row.querySelector("input"), message);
      return Boolean(row);
    });
    if (found.every(Boolean)) return;
  }
  const field = error.code === "invalid_params" ? paramsBox.querySelector(`[name="${CSS.escape(error.message.split(" ")[0])}"]`) : Object.keys(error.detail).map(fieldOf).find(Boolean);
  if (field) {
    markField(field, error.message);
    field.focus();
  } else showError(form, error);
}

async function submit(event) {
  event.preventDefault();
  clearErrors(form);
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  try {
    const { job } = await call("POST", "merges/", request());
    location.assign(`/jobs/${job.id}/`);
  } catch (error) {
    showRefusal(error);
    button.disabled = false;
  }
}

async function start() {
  for (const input of JSON.parse(document.getElementById("given-inputs").textContent)) addRow(input.adapter, input.weight);
  while (rows().length < 2) addRow();
  document.getElementById("add-input").addEventListener("click", () => addRow().focus());
  ({ merges } = await call("GET", "methods/"));
  fields.method.replaceChildren(...merges.map(({ name, title }) => el("option", { value: name, selected: name === form.dataset.method }, title)));
  showMethod();
  showRank();
  showOutput();
  // On the field first, so that the request is read from the fields of the new choice.
  fields.method.addEventListener("input", showMethod);
  fields.rank_mode.addEventListener("input", showRank);
  fields.publish.addEventListener("input", showOutput);
  form.addEventListener("input", showRequest);
  form.addEventListener("submit", submit);
  form.querySelector("button[type=submit]").disabled = form.dataset.mayMerge !== "yes";
  showRequest();
}

start().catch((error) => showError(form, error));
