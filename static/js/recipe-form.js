// The merge form as a request, and as an address.

import { formatInput, parseInput } from "./merge-inputs.js";
import { paramsFromAddress, paramsToAddress, readParams, showParams } from "./params.js";

// What this tab keeps where the address would grow too long.
export const LONG = ["input", "retrieve", "param.examples"];
const RANK_VALUE = {
  fixed: { label: "Rank of the file", value: 16, step: 1, min: 1, max: 4096 },
  energy: { label: "Share of ‖ΔW‖² to keep", value: 0.99, step: "any", min: 0, max: 1 },
};

function parseRetrieval(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

export class RecipeForm {
  constructor(form, paramsBox, inputs, methods) {
    this.fields = form.elements;
    this.defaultMethod = form.dataset.method;
    this.paramsBox = paramsBox;
    this.inputs = inputs;
    this.methods = methods;
    // {text: …} of a retrieval whose matches are the inputs; null where they are listed.
    this.retrieval = null;
    this.hasChosenVisibility = false;
    this.hasNamed = false;
    // What was chosen before a method that leaves no choice.
    this.freeMode = null;
  }

  get method() {
    return this.methods.find(({ name }) => name === this.fields.method.value);
  }

  // Some methods leave no choice.
  get defaultRankMode() {
    return this.method?.rank_mode ?? "max_input";
  }

  get isBlank() {
    return !this.retrieval && !this.inputs.named.length;
  }

  get name() {
    return this.fields.publish.checked ? `${this.fields.owner.value}/${this.fields.output_name.value.trim()}` : null;
  }

  get #output() {
    const { fields } = this;
    const rank = { mode: fields.rank_mode.value };
    if (rank.mode in RANK_VALUE) rank.value = fields.rank_value.value === "" ? null : Number(fields.rank_value.value);
    const output = { rank };
    if (fields.dtype.value) output.dtype = fields.dtype.value;
    if (this.name !== null) Object.assign(output, { name: this.name, visibility: fields.visibility.value });
    return output;
  }

  request() {
    const inputs = this.retrieval ? { retrieve: this.retrieval } : this.inputs.named.map(({ input }) => input);
    return { method: this.fields.method.value, inputs, params: readParams(this.paramsBox, this.method?.params), output: this.#output };
  }

  // A name that is still to be typed is no mistake yet, and the default visibility is the server's to tell.
  previewRequest() {
    const request = this.request();
    if (request.output.name?.endsWith("/")) delete request.output.name;
    if (!this.hasChosenVisibility) delete request.output.visibility;
    return request;
  }

  suggestName(adapters) {
    if (this.hasNamed) return;
    const parts = adapters.map((name) => name.split("/")[1] || "").filter(Boolean);
    const more = parts.length > 3 ? `-and-${parts.length - 2}-more` : "";
    const joined = (more ? parts.slice(0, 2) : parts).join("-");
    this.fields.output_name.value = parts.length > 1 ? joined.slice(0, 90 - more.length).replace(/[^A-Za-z0-9]+$/, "").replaceAll("--", "-") + more : "";
  }

  showRank(value) {
    const { rank_mode: mode, rank_value: field } = this.fields;
    const kind = RANK_VALUE[mode.value];
    const box = field.closest(".field");
    box.hidden = !kind;
    if (!kind || (box.dataset.mode === mode.value && value === undefined)) return;
    box.dataset.mode = mode.value;
    box.querySelector("label").textContent = kind.label;
    Object.assign(field, { min: kind.min, max: kind.max, step: kind.step, value: value ?? kind.value });
  }

  // After the choice of another method: its parameters, and the rank that it can write or the one that was chosen before.
  followMethod() {
    const { rank_mode: mode } = this.fields;
    const only = this.method?.rank_mode;
    showParams(this.paramsBox, this.method?.params);
    if (only && mode.value !== only) this.freeMode = mode.value;
    mode.value = only ?? this.freeMode ?? mode.value;
    this.showRank();
    this.#limitRank();
  }

  // What is chosen stays even where the method refuses it, as an address may ask for it: the server says why.
  #limitRank() {
    const only = this.method?.rank_mode;
    this.freeMode = only ? (this.freeMode ?? "max_input") : null;
    for (const option of this.fields.rank_mode.options) option.disabled = Boolean(only) && option.value !== only;
  }

  // The form of a request that the server has read.
  fromRequest({ method, inputs, params = {}, output = {} }) {
    const { fields } = this;
    this.retrieval = Array.isArray(inputs) ? null : inputs.retrieve;
    this.inputs.replace((Array.isArray(inputs) ? inputs : []).map((input) => ({ ...input, revision: input.revision === "main" ? "" : input.revision })));
    fields.method.value = method;
    showParams(this.paramsBox, this.method?.params, params);
    fields.rank_mode.value = output.rank?.mode ?? this.defaultRankMode;
    this.showRank(output.rank?.value);
    this.#limitRank();
    fields.dtype.value = output.dtype ?? "";
    if (!fields.publish.disabled) fields.publish.checked = Boolean(output.name);
    this.#keepName(output.name);
    const [owner, name] = (output.name || "").split("/");
    this.hasNamed = Boolean(name);
    if (name) fields.output_name.value = name;
    if (owner) fields.owner.value = owner;
    this.hasChosenVisibility = Boolean(output.visibility);
    if (output.visibility) fields.visibility.value = output.visibility;
  }

  // Who has to log in first finds the name again in the address.
  #keepName(name) {
    this.laterName = this.fields.publish.disabled ? name : null;
  }

  toAddress() {
    const { fields } = this;
    const address = new URLSearchParams();
    if (this.retrieval) address.set("retrieve", JSON.stringify(this.retrieval));
    else for (const { input } of this.inputs.named) address.append("input", formatInput(input));
    if (fields.method.value !== this.defaultMethod) address.set("method", fields.method.value);
    paramsToAddress(readParams(this.paramsBox, this.method?.params), address);
    const mode = fields.rank_mode.value;
    if (mode in RANK_VALUE) address.set("rank", `${mode}:${fields.rank_value.value}`);
    else if (mode !== this.defaultRankMode) address.set("rank", mode);
    if (fields.dtype.value) address.set("dtype", fields.dtype.value);
    if (fields.publish.checked && this.hasNamed) address.set("name", this.name);
    else if (this.laterName) address.set("name", this.laterName);
    if (!fields.publish.checked && !fields.publish.disabled) address.set("publish", "no");
    if (this.hasChosenVisibility) address.set("visibility", fields.visibility.value);
    return address;
  }

  fromAddress(address) {
    const { fields } = this;
    this.retrieval = parseRetrieval(address.get("retrieve"));
    this.inputs.replace(address.getAll("input").map(parseInput).filter(Boolean));
    const method = address.get("method");
    if (this.methods.some(({ name }) => name === method)) fields.method.value = method;
    showParams(this.paramsBox, this.method?.params, paramsFromAddress(address));
    const [mode, value] = (address.get("rank") || this.defaultRankMode).split(":");
    if ([...fields.rank_mode.options].some((option) => option.value === mode)) fields.rank_mode.value = mode;
    this.showRank(value);
    this.#limitRank();
    fields.dtype.value = address.get("dtype") || "";
    if (fields.dtype.selectedIndex < 0) fields.dtype.value = "";
    if (!fields.publish.disabled) fields.publish.checked = address.get("publish") !== "no";
    this.#keepName(address.get("name"));
    const [owner, name] = (address.get("name") || "").split("/");
    this.hasNamed = Boolean(name);
    if (name) fields.output_name.value = name;
    if ([...fields.owner.options].some((option) => option.value === owner)) fields.owner.value = owner;
    const visibility = address.get("visibility");
    this.hasChosenVisibility = ["public", "private"].includes(visibility);
    if (this.hasChosenVisibility) fields.visibility.value = visibility;
  }
}
