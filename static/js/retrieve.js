// The retrieval page: builds the request, shows the ranked experts, leads on to a merge.

import { call, clearErrors, el, showError } from "./api.js";
import { readParams, showParams } from "./params.js";
import { showSnippets } from "./snippets.js";

const form = document.getElementById("retrieve-form");
const fields = form.elements;
const results = document.getElementById("results");
const paramsBox = document.getElementById("params");
const mergeBar = document.getElementById("merge-bar");
const template = document.getElementById("match-template");
let routers = [];
const ticked = new Map();

const isExamples = () => fields.query_kind.value === "examples";
const list = (value) => value.split(",").map((part) => part.trim()).filter(Boolean);
const router = () => routers.find(({ name }) => name === fields.router.value);

function examples() {
  return fields.examples.value.split("\n").filter((line) => line.trim()).map((line) => {
    if (!line.trim().startsWith("{")) return { input: line };
    try {
      return JSON.parse(line);
    } catch {
      return { input: line };
    }
  });
}

function request() {
  const body = { router: fields.router.value, ...(isExamples() ? { examples: examples() } : { text: fields.text.value }) };
  if (fields.k.value !== "") body.k = Number(fields.k.value);
  if (fields.base_model.value) body.base_model = fields.base_model.value;
  const filters = Object.fromEntries(["tag", "license", "owner"].map((key) => [key, list(fields[key].value)]).filter(([, values]) => values.length));
  if (Object.keys(filters).length) body.filters = filters;
  const params = readParams(paramsBox, router()?.params);
  if (Object.keys(params).length) body.params = params;
  body.explain = true;
  return body;
}

function showMatch(match, rank, best) {
  const node = template.content.cloneNode(true);
  const part = (name) => node.querySelector(`[data-part=${name}]`);
  const tick = part("tick");
  tick.setAttribute("aria-label", `Merge ${match.adapter}`);
  tick.addEventListener("change", () => {
    if (tick.checked) ticked.set(match.adapter, match);
    else ticked.delete(match.adapter);
    showMergeBar();
  });
  part("rank").textContent = `${rank}.`;
  part("name").textContent = match.adapter;
  part("name").href = `/adapters/${match.adapter}/`;
  part("base").textContent = match.base_model || "base model not stated";
  for (const [name, value, top] of [["score", match.score, best], ["weight", match.weight, 1]]) {
    part(`${name}-bar`).value = top > 0 ? Math.max(0, value / top) : 0;
    part(`${name}-bar`).setAttribute("aria-label", `${name} ${value.toFixed(3)}`);
    part(name).textContent = value.toFixed(3);
  }
  const samples = match.evidence?.samples || [];
  part("evidence").hidden = samples.length === 0;
  part("evidence").open = rank === 1;
  part("samples").replaceChildren(...samples.map(({ input, score }) => el("li", {}, input ? el("span", {}, input) : el("em", {}, "text not public"), el("span", { class: "muted number" }, ` ${score.toFixed(3)}`))));
  return node;
}

function abstention(reason) {
  const text = {
    no_experts: ["No expert can answer this", "The registry has no ready expert with samples that fits the base model and the filters that you set. Remove a filter, or upload an expert."],
    below_threshold: ["No expert is close enough", "Every expert scored below the router's threshold, so it is better to use the base model alone. Lower the threshold to see the nearest experts anyway."],
  }[reason] || ["The router abstained", `Reason: ${reason}.`];
  return el("div", { class: "empty card" }, el("h2", {}, text[0]), el("p", {}, text[1]));
}

function showResults(answer) {
  const [result] = answer.results;
  if (result.abstained || !result.matches.length) return results.replaceChildren(abstention(result.reason));
  const best = Math.max(1, ...result.matches.map(({ score }) => score));
  const took = Object.entries(answer.took_ms).map(([step, ms]) => `${step} ${ms.toFixed(1)} ms`).join(", ");
  const count = result.matches.length;
  results.replaceChildren(
    el("h2", {}, count === 1 ? "The best expert" : `The ${count} best experts`),
    el("div", { class: "card" }, el("ol", { class: "plain-list", id: "matches" }, ...result.matches.map((match, index) => el("li", {}, showMatch(match, index + 1, best))))),
    el("p", { class: "muted small" }, `${answer.router} in ${answer.space || "its own space"} · ${took}`),
  );
}

function showMergeBar() {
  const bases = new Set([...ticked.values()].map((match) => match.base_model));
  mergeBar.hidden = ticked.size === 0;
  const link = mergeBar.querySelector("a");
  const isReady = ticked.size > 1 && bases.size === 1;
  const inputs = [...ticked.values()].map(({ adapter, weight }) => `input=${encodeURIComponent(adapter)}:${weight.toFixed(4)}`);
  if (isReady) link.href = `/merge/?${inputs.join("&").replaceAll("%2F", "/")}`;
  else link.removeAttribute("href");
  link.setAttribute("aria-disabled", String(!isReady));
  mergeBar.querySelector("span").textContent =
    bases.size > 1 ? "These experts have different base models and cannot be merged." : ticked.size === 1 ? "1 expert ticked; tick another one to merge." : `${ticked.size} experts ticked.`;
}

let asked = 0;
async function ask() {
  asked += 1;
  const mine = asked;
  clearErrors(form);
  const body = request();
  showSnippets(document.getElementById("snippets"), "retrieve/", body);
  document.getElementById("as-code").hidden = false;
  const waiting = el("p", { class: "muted" }, "Searching …");
  results.replaceChildren(waiting);
  setTimeout(() => waiting.append(" The first search after a start loads the encoder, which takes some seconds."), 2000);
  ticked.clear();
  showMergeBar();
  try {
    const answer = await call("POST", "retrieve/", body);
    // A later question may have been answered first.
    if (mine === asked) showResults(answer);
  } catch (error) {
    if (mine !== asked) return;
    results.replaceChildren();
    showError(form, error);
  }
}

function showKind() {
  for (const box of form.querySelectorAll("[data-kind]")) box.hidden = box.dataset.kind !== fields.query_kind.value;
}

function showRouter() {
  document.getElementById("router-summary").textContent = router()?.summary || "";
  showParams(paramsBox, router()?.params);
  fields.k.placeholder = router()?.k ?? "";
}

async function start() {
  ({ routers } = await call("GET", "methods/"));
  fields.router.replaceChildren(...routers.map(({ name, title }) => el("option", { value: name, selected: name === form.dataset.router }, title)));
  showRouter();
  showKind();
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  fields.router.addEventListener("change", showRouter);
  form.addEventListener("change", showKind);
  form.querySelector("button[type=submit]").disabled = false;
  if (fields.text.value.trim()) ask();
}

start().catch((error) => showError(form, error));
