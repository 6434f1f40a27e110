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

  get texts() {
    return this.kind === "text" ? [this.fields.text.value] : lines(this.field.value);
  }

  // What is wrong with the prompt, beyond what the server says better.
  get problem() {
    if (this.isBlank) return "Say what the expert is to be good at: type a prompt.";
    const count = this.texts.length;
    return count > MAX_TEXTS ? `These are ${count} lines; at most ${MAX_TEXTS} are asked at once.` : "";
  }

  request() {
    const { fields } = this;
    const asked = { text: () => fields.text.value, texts: () => lines(fields.texts.value), examples: () => readExamples(fields.examples.value) };
    const body = { router: fields.router.value, [this.kind]: asked[this.kind]() };
    if (fields.k.value !== "") body.k = Number(fields.k.value);
    if (fields.base_model.value) body.base_model = fields.base_model.value;
    const filters = Object.fromEntries(FILTERS.map((key) => [key, list(fields[key].value)]).filter(([, values]) => values.length));
    if (Object.keys(filters).length) body.filters = filters;
    const params = readParams(this.paramsBox, this.router?.params);
    if (Object.keys(params).length) body.params = params;
    body.explain = true;
    return body;
  }

  get isFiltered() {
    return this.fields.base_model.value !== "" || FILTERS.some((key) => this.fields[key].value.trim());
  }

  clearFilters() {
    for (const key of ["base_model", ...FILTERS]) this.fields[key].value = "";
  }

  setParam(name, value) {
    const field = this.paramsBox.querySelector(`[name="${CSS.escape(name)}"]`);
    if (field) field.value = value;
  }

  toAddress() {
    const { fields, kind } = this;
    const address = new URLSearchParams();
    if (kind === "text") address.set("text", fields.text.value);
    else for (const line of lines(this.field.value)) address.append(kind, line);
    if (fields.router.value !== this.form.dataset.router) address.set("router", fields.router.value);
    if (fields.k.value !== "") address.set("k", fields.k.value);
    if (fields.base_model.value) address.set("base_model", fields.base_model.value);
    for (const key of FILTERS) for (const value of list(fields[key].value)) address.append(key, value);
    paramsToAddress(readParams(this.paramsBox, this.router?.params), address);
    return address;
  }

  fromAddress(address) {
    const { fields } = this;
    const kind = ["examples", "texts"].find((name) => address.has(name)) || "text";
    fields.query_kind.value = kind;
    fields.text.value = address.get("text") || "";
    for (const name of ["texts", "examples"]) fields[name].value = address.getAll(name).join("\n");
    const router = address.get("router") || this.form.dataset.router;
    if (this.routers.some(({ name }) => name === router)) fields.router.value = router;
    fields.k.value = address.get("k") || "";
    const base = address.get("base_model") || "";
    // A base that no visible expert has is asked for all the same, and the answer says that there is none.
    if (base && ![...fields.base_model.options].some(({ value }) => value === base)) fields.base_model.add(new Option(base));
    fields.base_model.value = base;
    for (const key of FILTERS) fields[key].value = address.getAll(key).join(", ");
    showParams(this.paramsBox, this.router?.params, paramsFromAddress(address));
  }
}
