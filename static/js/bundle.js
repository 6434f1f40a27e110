// The bundle page: experts, a router that chooses among them inside the model, and the archive that comes of it.

import { readAddress, writeAddress } from "./address.js";
import { call, clearErrors, el, showError } from "./api.js";
import { Experts } from "./bundle-experts.js";
import { bundleNodes } from "./bundle-result.js";
import { failure, jobIn } from "./job-box.js";
import { checkParams, paramsFromAddress, paramsToAddress, readParams, showParams } from "./params.js";
import { showSnippets } from "./snippets.js";

const $ = (id) => document.getElementById(id);
const form = $("bundle-form");
const result = $("result");
const say = (text) => { $("announcer").textContent = text; };
const experts = new Experts($("experts"), $("expert-template"), { onChange: () => changed(), say });
// What has to be there for a bundle; the model is needed by whoever runs it, whichever router it is.
const NEEDS = {
  arrow: "Made of the weights alone. Calibrated, it needs a worker with the base model.",
  arrow_global: "Needs a worker with the base model, which reads generic texts first.",
  spectr: "Made of the weights alone.",
  phatgoose: "Needs trained gates of every expert.",
  activation: "Needs mean activations of every expert.",
};
const ADVICE = { base_not_here: "Choose a router that is made of the weights alone, or have whoever operates this site put the base model there." };
let routers = [];
let asked = 0;

const router = () => routers.find(({ name }) => name === form.elements.router.value);

function request() {
  const params = readParams($("params"), router().params);
  return { router: router().name, adapters: experts.asked, ...(Object.keys(params).length ? { params } : {}) };
}

function toAddress() {
  const address = new URLSearchParams({ router: router().name });
  for (const { text } of experts.named) address.append("input", text);
  paramsToAddress(readParams($("params"), router().params), address);
  return address;
}

function withJob(id) {
  const address = toAddress();
  address.set("job", id);
  return address;
}

function showRequest() {
  const { named } = experts;
  $("begin").hidden = named.length > 0;
  $("expert-count").textContent = named.length || "";
  $("as-code").hidden = named.length === 0;
  showSnippets($("snippets"), "bundles/", request(), { needsToken: true, waits: true });
}

// Somebody has changed the form: what a job has made is of another request.
function changed() {
  showExpertsError();
  checkParams($("params"), router().params);
  showRequest();
  $("too-long").hidden = !writeAddress(toAddress(), ["input"]);
}

function showExpertsError(...nodes) {
  $("experts-error").replaceChildren(...nodes);
  $("experts-error").hidden = nodes.length === 0;
}

function showRouters() {
  const item = ({ name, title, summary, when }) => {
    const radio = el("input", { type: "radio", name: "router", value: name, "aria-labelledby": `router-${name}-title`, "aria-describedby": `router-${name}-about` });
    const about = el("span", { class: "router-about", id: `router-${name}-about` }, el("span", {}, when), el("span", { class: "muted" }, NEEDS[name] || summary));
    return el("label", { class: "router" }, radio, el("span", { class: "router-title", id: `router-${name}-title` }, title), about);
  };
  $("routers").replaceChildren(...routers.map(item));
}

function chooseRouter(name, params = {}) {
  const chosen = routers.find((one) => one.name === (name || form.dataset.router)) || routers[0];
  form.elements.router.value = chosen.name;
  showRouter(params);
}

function showRouter(params) {
  $("router-summary").textContent = router().summary;
  $("router-source").textContent = `After ${router().source}.`;
  showParams($("params"), router().params, params);
}

function isRight() {
  clearErrors(form);
  experts.unmark();
  showExpertsError();
  if (!experts.named.length) showExpertsError("Name at least one expert.");
  const isChecked = checkParams($("params"), router().params) && experts.named.length > 0;
  if (!isChecked) (form.querySelector("[aria-invalid]") || experts.rows[0]?.field || $("add-expert")).focus();
  return isChecked;
}

async function submit(event) {
  event.preventDefault();
  if (!isRight()) return;
  if (form.dataset.loggedIn !== "yes") return location.assign(`/login/?next=${encodeURIComponent(location.pathname + location.search)}`);
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  try {
    const { job } = await call("POST", "bundles/", request());
    await showJob(job.id);
  } catch (error) {
    showRefusal(error);
  } finally {
    button.disabled = false;
  }
}

// Problems of single experts stand beside them.
function showRefusal(error) {
  const { inputs, where } = error.detail;
  const problems = inputs || (where ? [{ where, code: error.code, message: error.message }] : []);
  const unplaced = experts.mark(problems, router().prototype);
  if (!problems.length || unplaced.length) return showError(form, error);
  const remedies = [...$("experts").querySelectorAll(".remedy button")];
  if (remedies.length > 1) {
    const all = el("button", { type: "button", class: "button small" }, `Have all ${remedies.length} computed`);
    all.addEventListener("click", () => { showExpertsError(); for (const one of remedies) one.click(); });
    showExpertsError(el("span", {}, `${remedies.length} experts lack what this router compares with.`), " ", all);
  }
  say(`${problems.length} ${problems.length === 1 ? "expert stands" : "experts stand"} in the way.`);
  (remedies[0] || $("experts").querySelector("[aria-invalid]")).focus();
}

// The job's id is in the address, so that a reload finds what it has made.
async function showJob(id) {
  asked += 1;
  const mine = asked;
  const isWanted = () => mine === asked;
  writeAddress(withJob(id), ["input"]);
  say("A worker makes the bundle.");
  try {
    setTimeout(() => result.scrollIntoView({ block: "nearest" }));
    const job = await jobIn(result, id, isWanted);
    if (!job || !isWanted()) return;
    if (job.status === "succeeded" && job.result?.bundle) await showBundle(job.result.bundle);
    else if (job.status === "failed") result.replaceChildren(failure(job, ADVICE[job.error.code]));
    else result.replaceChildren(el("div", { class: "notice", role: "status" }, job.status === "cancelled" ? "The job was cancelled. Make the bundle again when you like." : "This job made no bundle."));
  } catch (error) {
    if (isWanted()) result.replaceChildren(el("div", { class: "notice bad", role: "alert" }, error.message));
  }
}

async function showBundle(id) {
  const bundle = await call("GET", `bundles/${id}/`);
  // A link from the job's page knows the job alone.
  if (!experts.named.length) {
    const job = new URLSearchParams(location.search).get("job");
    fill(bundle);
    showRequest();
    writeAddress(withJob(job), ["input"]);
  }
  result.replaceChildren(...bundleNodes(bundle, routers));
  result.querySelector("h2").focus();
  say("The bundle is ready.");
}

function fill({ router: name, params, adapters }) {
  experts.replace(adapters.map(({ adapter, revision }) => `${adapter}@${revision}`));
  chooseRouter(name, params);
}

async function restore() {
  const { params, isLost } = readAddress();
  $("lost").hidden = !isLost;
  chooseRouter(params.get("router"), paramsFromAddress(params));
  experts.replace(params.getAll("input"));
  if (params.has("bundle")) fill(await call("GET", `bundles/${encodeURIComponent(params.get("bundle"))}/`));
  showRequest();
  if (params.has("job")) await showJob(params.get("job"));
}

function listen() {
  $("add-expert").addEventListener("click", () => experts.add().field.focus());
  $("routers").addEventListener("change", () => { clearErrors(form); experts.unmark(); showRouter({}); });
  form.addEventListener("change", changed);
  $("params").addEventListener("input", () => checkParams($("params"), router().params));
  form.addEventListener("submit", submit);
}

async function start() {
  routers = (await call("GET", "methods/")).bundles;
  showRouters();
  listen();
  form.querySelector("button[type=submit]").disabled = false;
  await restore();
}

start().catch((error) => showError(form, error));
