// The page that makes a composition: experts, the type of their gates, and who trains them.

import { readAddress, writeAddress } from "./address.js";
import { call, clearErrors, markField, showError } from "./api.js";
import { Experts } from "./bundle-experts.js";
import { checkParams, paramsFromAddress, paramsToAddress, readParams, showParams } from "./params.js";
import { showSnippets } from "./snippets.js";
import { send } from "./upload/send.js";

const $ = (id) => document.getElementById(id);
const form = $("compose-form");
const { elements } = form;
const button = form.querySelector("button[type=submit]");
const say = (text) => { $("announcer").textContent = text; };
const experts = new Experts($("experts"), $("expert-template"), { onChange: () => changed(), say });
const trained = form.dataset.trained.split(" ");
const isLoggedIn = form.dataset.loggedIn === "yes";
// What an address has of these; the experts and the parameters of a type are in it, too.
const FIELDS = ["way", "type", "name", "steps", "seed", "visibility", "description"];
const initial = Object.fromEntries(FIELDS.map((field) => [field, elements[field].value]));
let types = [];

const isTraining = () => elements.way.value === "train";
const type = () => types.find(({ name }) => name === elements.type.value);
// Who is not logged in writes the owner, too.
const nameOf = () => [elements.owner?.value, elements.name.value.trim()].filter(Boolean).join("/");

function request() {
  const params = readParams($("params"), type().params);
  const description = elements.description.value.trim();
  return {
    name: nameOf(),
    type: type().name,
    adapters: experts.asked,
    ...(Object.keys(params).length ? { params } : {}),
    ...(elements.visibility.value === "private" ? { visibility: "private" } : {}),
    ...(description ? { description } : {}),
    ...(isTraining() ? { train: { steps: Number(elements.steps.value), seed: Number(elements.seed.value) } } : {}),
  };
}

function toAddress() {
  const address = new URLSearchParams();
  for (const field of FIELDS) {
    const { value } = elements[field];
    if (value !== initial[field]) address.set(field, field === "name" ? nameOf() : value);
  }
  paramsToAddress(readParams($("params"), type().params), address);
  for (const { text } of experts.named) address.append("input", text);
  return address;
}

function showRequest() {
  const { named } = experts;
  $("begin").hidden = named.length > 0;
  $("expert-count").textContent = named.length || "";
  $("as-code").hidden = !isTraining() || named.length === 0;
  showSnippets($("snippets"), "compositions/", request(), { needsToken: true, waits: true });
}

function changed() {
  showExpertsError("");
  checkParams($("params"), type().params);
  showRequest();
  $("too-long").hidden = !writeAddress(toAddress(), ["input"]);
}

function showExpertsError(text) {
  $("experts-error").textContent = text;
  $("experts-error").hidden = !text;
}

// The types that can be had in the chosen way.
function showWay(wanted = elements.type.value) {
  const choices = types.filter(({ name }) => !isTraining() || trained.includes(name));
  elements.type.replaceChildren(...choices.map(({ name, title }) => new Option(title, name)));
  elements.type.value = choices.some(({ name }) => name === wanted) ? wanted : trained[0];
  $("training").hidden = !isTraining();
  $("file").hidden = isTraining();
  const action = isTraining() ? "Train the gates" : "Upload the gates";
  button.textContent = isLoggedIn ? action : `Log in and ${action[0].toLowerCase()}${action.slice(1)}`;
}

function showType(params = {}) {
  const { summary, source, when, runs, tensors } = type();
  $("type-hint").textContent = `${summary} ${when} After ${source}.`;
  const shapes = Object.entries(tensors).map(([name, shape]) => `${name} (${shape.join(", ")})`);
  $("gates-hint").textContent = `Of every place, named like model.layers.0.${Object.keys(tensors)[0]}: ${shapes.join("; ")}. n experts, d values that enter the place, o that come out of it.`;
  showParams($("params"), type().params, params);
}

const isWhole = (field) => field.validity.valid && field.value !== "";

function isRight() {
  clearErrors(form);
  experts.unmark();
  showExpertsError(experts.named.length ? "" : "Name at least one expert.");
  checkParams($("params"), type().params);
  if (!elements.name.value.trim()) markField(elements.name, "Give it a name.");
  for (const field of isTraining() ? [elements.steps, elements.seed] : []) {
    if (!isWhole(field)) markField(field, `A whole number from ${field.min} to ${field.max}.`);
  }
  if (!isTraining() && !elements.gates.files.length) markField(elements.gates, "Choose the file with the gates.");
  const wrong = experts.named.length ? form.querySelector("[aria-invalid]") : experts.rows[0]?.field || $("add-expert");
  wrong?.focus();
  return !wrong;
}

async function submit(event) {
  event.preventDefault();
  if (isLoggedIn && !isRight()) return;
  if (!isLoggedIn) return location.assign(`/login/?next=${encodeURIComponent(location.pathname + location.search)}`);
  button.disabled = true;
  try {
    location.assign(isTraining() ? await train() : await upload());
  } catch (error) {
    showRefusal(error);
  } finally {
    button.disabled = false;
    $("progress").hidden = true;
  }
}

async function train() {
  const { job } = await call("POST", "compositions/", request());
  return `/jobs/${job.id}/`;
}

async function upload() {
  const parts = new FormData();
  parts.append("request", JSON.stringify(request()));
  parts.append("gates", elements.gates.files[0]);
  $("progress").hidden = false;
  const { composition } = await send("compositions/", parts, ({ loaded, total }) => { $("progress").value = loaded / total; }, new AbortController().signal);
  return `/compositions/${composition.name}/`;
}

// Problems of single experts stand beside them.
function showRefusal(error) {
  const { inputs, where } = error.detail;
  const problems = inputs || (where ? [{ where, code: error.code, message: error.message }] : []);
  const unplaced = experts.mark(problems);
  if (!problems.length || unplaced.length) return showError(form, error);
  say(`${problems.length} ${problems.length === 1 ? "expert stands" : "experts stand"} in the way.`);
  $("experts").querySelector("[aria-invalid]").focus();
}

function fill(address) {
  for (const field of FIELDS) if (address.has(field) && field !== "name" && field !== "type") elements[field].value = address.get(field);
  const name = address.get("name") || "";
  const [owner, own] = name.split("/");
  if (elements.owner && own) elements.owner.value = owner;
  elements.name.value = elements.owner ? own || "" : name;
  if (address.get("type") && !trained.includes(address.get("type"))) elements.way.value = "upload";
}

function listen() {
  $("add-expert").addEventListener("click", () => experts.add().field.focus());
  $("ways").addEventListener("change", () => { clearErrors(form); showWay(); showType(); });
  elements.type.addEventListener("change", () => { clearErrors(form); showType(); });
  form.addEventListener("change", changed);
  form.addEventListener("submit", submit);
}

async function start() {
  types = (await call("GET", "methods/")).compositions;
  const { params, isLost } = readAddress();
  $("lost").hidden = !isLost;
  fill(params);
  showWay(params.get("type"));
  showType(paramsFromAddress(params));
  experts.replace(params.getAll("input"));
  listen();
  showRequest();
  button.disabled = false;
}

start().catch((error) => showError(form, error));
