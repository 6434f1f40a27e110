// The upload page: choose or drop files or a folder, see what will be sent and what not, send with progress.

import { ApiError, clearErrors, csrfToken, el, markField, showError } from "./api.js";

const form = document.getElementById("upload-form");
const drop = document.getElementById("drop");
const chosenBox = document.getElementById("chosen");
const progress = document.getElementById("progress");
const status = document.getElementById("upload-status");
const submit = form.querySelector("button[type=submit]");

const PARTS = {
  "adapter_config.json": "required",
  "adapter_model.safetensors": "required",
  "README.md": "card",
  "samples.jsonl": "sample inputs",
  "gates.safetensors": "gates",
};
const REASONS = [
  [/(^|\/)(optimizer|scheduler|rng_state|trainer_state|training_args).*$/i, "training state: not needed to use the expert"],
  [/\.(bin|pt|pth|ckpt|pkl|pickle)$/i, "pickle is never read, because it can run a stranger's code; convert it with safetensors.torch.save_file(torch.load(path, weights_only=True), …)"],
  [/(^|\/)(tokenizer.*|vocab.*|merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template.*)$/i, "tokenizer: it belongs to the base model"],
  [/(^|\/)\./, "hidden file"],
];
let chosen = new Map();
let skipped = [];

const size = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

function reason(path) {
  if (path.includes("/")) return "in a sub-folder; only the files beside adapter_config.json are sent";
  const known = REASONS.find(([pattern]) => pattern.test(path));
  return known ? known[1] : "not part of an adapter";
}

// entries: [{path, file}]. The folder that holds adapter_config.json is the adapter; paths are shown relative to it.
function take(entries) {
  const roots = entries.filter(({ path }) => path.split("/").at(-1) === "adapter_config.json").map(({ path }) => path.slice(0, -"adapter_config.json".length));
  const root = roots.sort((a, b) => a.split("/").length - b.split("/").length)[0] ?? "";
  for (const { path, file } of entries) {
    const relative = path.startsWith(root) ? path.slice(root.length) : path;
    skipped = skipped.filter((item) => item.path !== relative);
    if (relative in PARTS) chosen.set(relative, file);
    else skipped.push({ path: relative, why: relative.endsWith("/adapter_config.json") ? "a second adapter; upload one at a time" : reason(relative) });
  }
  const folder = root.split("/").filter(Boolean).at(-1);
  if (folder && !form.elements.adapter.value) form.elements.adapter.value = folder.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "");
  showChosen();
  readConfig();
}

function showChosen() {
  const rows = Object.entries(PARTS).filter(([path, kind]) => chosen.has(path) || kind === "required").map(([path, kind]) => {
    const file = chosen.get(path);
    const remove = el("button", { type: "button", class: "button small", "aria-label": `Remove ${path}` }, "Remove");
    remove.addEventListener("click", () => { chosen.delete(path); showChosen(); });
    return el("tr", {}, el("td", { class: "mono" }, path), el("td", { class: file ? "" : "muted" }, file ? kind : "missing, required"), el("td", { class: "number" }, file ? size(file.size) : ""), el("td", { class: "number" }, file ? remove : ""));
  });
  chosenBox.querySelector("tbody").replaceChildren(...rows);
  chosenBox.hidden = chosen.size === 0 && skipped.length === 0;
  const list = document.getElementById("skipped");
  list.hidden = skipped.length === 0;
  list.querySelector("ul").replaceChildren(...skipped.slice(0, 200).map(({ path, why }) => el("li", {}, el("code", {}, path), ` ${why}`)));
  list.querySelector("strong").textContent = `${skipped.length} ${skipped.length === 1 ? "file" : "files"} will not be sent`;
}

// Shows what the config says about the base model before anything is sent.
async function readConfig() {
  const file = chosen.get("adapter_config.json");
  if (!file || file.size > 1e6) return;
  try {
    const config = JSON.parse(await file.text());
    if (typeof config.base_model_name_or_path === "string") form.elements.base_model.placeholder = config.base_model_name_or_path;
  } catch {
    // The server says what is wrong with it, in full.
  }
}

function readEntry(entry, prefix = "") {
  if (entry.isFile) return new Promise((done, failed) => entry.file((file) => done([{ path: prefix + entry.name, file }]), failed));
  const reader = entry.createReader();
  const batch = () => new Promise((done, failed) => reader.readEntries(done, failed));
  return (async () => {
    const found = [];
    for (let part = await batch(); part.length; part = await batch()) {
      for (const child of part) found.push(...(await readEntry(child, `${prefix}${entry.name}/`)));
    }
    return found;
  })();
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
for (const input of drop.querySelectorAll("input[type=file]")) {
  input.addEventListener("change", () => {
    take([...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file })));
    input.value = "";
  });
}

function problemsBefore() {
  const missing = Object.keys(PARTS).filter((path) => PARTS[path] === "required" && !chosen.has(path));
  if (missing.length) return `Choose ${missing.join(" and ")}: every adapter needs both.`;
  const total = [...chosen.values()].reduce((sum, file) => sum + file.size, 0);
  const limit = Number(form.dataset.maxBytes);
  return total > limit ? `The files are ${size(total)}; this server takes at most ${size(limit)}.` : "";
}

function body() {
  const data = new FormData();
  const { owner, adapter, visibility, base_model: base, description, license, tags } = form.elements;
  // The name goes first, so that a refusal comes before the weights are sent.
  data.append("name", `${owner.value}/${adapter.value.trim()}`);
  data.append("visibility", visibility.value);
  for (const [name, field] of Object.entries({ base_model: base, description, license })) if (field.value.trim()) data.append(name, field.value.trim());
  for (const tag of tags.value.split(",").map((part) => part.trim()).filter(Boolean)) data.append("tags", tag);
  for (const [path, file] of chosen) data.append(path, file, path);
  return data;
}

function send() {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/api/v1/adapters/");
    request.setRequestHeader("X-CSRFToken", csrfToken());
    request.responseType = "json";
    request.upload.onprogress = ({ loaded, total }) => {
      progress.value = loaded / total;
      status.textContent = loaded < total ? `Sending: ${size(loaded)} of ${size(total)}` : "Sent. The server is checking the files …";
    };
    request.onload = () => (request.status < 300 ? done(request.response) : failed(new ApiError(request.status, request.response || {})));
    request.onerror = () => failed(new ApiError(0, { message: "The connection ended before the upload was complete. Check the size of the files and try again." }));
    request.send(body());
  });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  clearErrors(form);
  const problem = problemsBefore();
  if (problem) return showError(form, new ApiError(0, { message: problem }));
  submit.disabled = true;
  progress.hidden = false;
  try {
    const { adapter, job } = await send();
    location.assign(job ? `/jobs/${job.id}/` : `/adapters/${adapter.name}/`);
  } catch (error) {
    progress.hidden = true;
    status.textContent = "";
    submit.disabled = false;
    if (error.detail?.name) markField(form.elements.adapter, error.message);
    else showError(form, error);
  }
});
