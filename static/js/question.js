// The retrieval form as a request, and as an address.

import { lines, readExamples } from "./examples.js";
import { paramsFromAddress, paramsToAddress, readParams, showParams } from "./params.js";

export const MAX_TEXTS = 256;
// What this tab keeps where the address would grow too long.
export const LONG = ["text", "texts", "examples"];
const FILTERS = ["tag", "license", "owner"];

const list = (value) => value.split(",").map((part) => part.trim()).filter(Boolean);

export class Question {
  constructor(form, paramsBox, routers) {
    this.form = form;
    this.fields = form.elements;
    this.paramsBox = paramsBox;
    this.routers = routers;
  }

  get kind() {
    return this.fields.query_kind.value;
  }

  get router() {
    return this.routers.find(({ name }) => name === this.fields.router.value);
  }

  get field() {
    return this.fields[this.kind];
  }

  get isBlank() {
    return !this.field.value.trim();
  }

  // Whether the answer is the result of a job, which runs the base model and so has to be told which.
  get isJob() {
    const { router } = this;
    if (!router || router.answers === "job") return Boolean(router);
    const given = readParams(this.paramsBox, router.params);
    return Object.entries(router.job_with).some(([name, values]) => values.includes(given[name]));
  }

  get texts() {
    if (this.kind === "adapter") return [];
    return this.kind === "text" ? [this.fields.text.value] : lines(this.field.value);
  }

  // Whether what experts scored before can shift the ranks; routers that know nothing else, or run a job, refuse it.
  get takesOutcomes() {
    return !this.isJob && this.router?.prototype !== "outcomes";
  }

  accepts(kind) {
    return this.router?.accepts.includes(kind) ?? true;
  }

  // Away from a form of query that the router refuses; what was typed comes along.
  fitKind() {
    if (this.accepts(this.kind)) return;
    const typed = this.kind === "adapter" ? "" : this.field.value;
    this.fields.query_kind.value = [...this.fields.query_kind].map(({ value }) => value).find((kind) => this.accepts(kind));
    if (this.isBlank) this.field.value = typed;
  }

  // What is wrong, beyond what the server says better: [field, text] each.
  get problems() {
    const found = [];
    const count = this.texts.length;
    if (this.isBlank) found.push([this.field, this.kind === "adapter" ? "Name an expert, as owner/name." : "Say what the expert is to be good at: type a prompt."]);
    else if (count > MAX_TEXTS) found.push([this.field, `These are ${count} lines; at most ${MAX_TEXTS} are asked at once.`]);
    if (this.isJob && !this.fields.base_model.value) found.push([this.fields.base_model, "This router runs one base model: choose it."]);
    return found;
  }

  request() {
    const { fields } = this;
    const asked = { text: () => fields.text.value, texts: () => lines(fields.texts.value), examples: () => readExamples(fields.examples.value), adapter: () => fields.adapter.value.trim() };
    const body = { router: fields.router.value, [this.kind]: asked[this.kind]() };
    if (fields.k.value !== "") body.k = Number(fields.k.value);
    if (fields.base_model.value) body.base_model = fields.base_model.value;
    const filters = Object.fromEntries(FILTERS.map((key) => [key, list(fields[key].value)]).filter(([, values]) => values.length));
    if (Object.keys(filters).length) body.filters = filters;
    const params = readParams(this.paramsBox, this.router?.params);
    if (Object.keys(params).length) body.params = params;
    if (this.takesOutcomes && fields.outcomes.checked) body.outcomes = true;
    body.explain = true;
    return body;
  }

  get isFiltered() {
    return (!this.isJob && this.fields.base_model.value !== "") || FILTERS.some((key) => this.fields[key].value.trim());
  }

  clearFilters() {
    for (const key of this.isJob ? FILTERS : ["base_model", ...FILTERS]) this.fields[key].value = "";
  }

  setParam(name, value) {
    const field = this.paramsBox.querySelector(`[name="${CSS.escape(name)}"]`);
    if (field?.type === "checkbox") field.checked = value;
    else if (field) field.value = value;
  }

  toAddress() {
    const { fields, kind } = this;
    const address = new URLSearchParams();
    if (kind === "text" || kind === "adapter") address.set(kind, this.field.value);
    else for (const line of lines(this.field.value)) address.append(kind, line);
    if (fields.router.value !== this.form.dataset.router) address.set("router", fields.router.value);
    if (fields.k.value !== "") address.set("k", fields.k.value);
    if (fields.base_model.value) address.set("base_model", fields.base_model.value);
    for (const key of FILTERS) for (const value of list(fields[key].value)) address.append(key, value);
    if (this.takesOutcomes && fields.outcomes.checked) address.set("outcomes", "true");
    paramsToAddress(readParams(this.paramsBox, this.router?.params), address);
    return address;
  }

  fromAddress(address) {
    const { fields } = this;
    const kind = ["examples", "texts", "adapter"].find((name) => address.has(name)) || "text";
    fields.query_kind.value = kind;
    for (const name of ["text", "adapter"]) fields[name].value = address.get(name) || "";
    for (const name of ["texts", "examples"]) fields[name].value = address.getAll(name).join("\n");
    const router = address.get("router") || this.form.dataset.router;
    if (this.routers.some(({ name }) => name === router)) fields.router.value = router;
    this.fitKind();
    fields.k.value = address.get("k") || "";
    const base = address.get("base_model") || "";
    // A base that no visible expert has is asked for all the same, and the answer says that there is none.
    if (base && ![...fields.base_model.options].some(({ value }) => value === base)) fields.base_model.add(new Option(base));
    fields.base_model.value = base;
    for (const key of FILTERS) fields[key].value = address.getAll(key).join(", ");
    fields.outcomes.checked = address.get("outcomes") === "true";
    showParams(this.paramsBox, this.router?.params, paramsFromAddress(address));
  }
}
