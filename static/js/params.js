// Form fields for the parameters of a router or merge method, from its JSON Schema.

import { el, markField, unmarkField } from "./api.js";
import { readExamples, writeExamples } from "./examples.js";

const types = (schema) => [schema.type].flat();
const isNullable = (schema) => types(schema).includes("null");
const isInteger = (schema) => types(schema).includes("integer");
const isNumber = (schema) => isInteger(schema) || types(schema).includes("number");
const isBoolean = (schema) => types(schema).includes("boolean");
// Lists are of examples, one a line.
const isList = (schema) => types(schema).includes("array");
const isLong = (schema) => isList(schema) || String(schema.default ?? "").includes("\n");
// A share of something, which can be slid to; a hundredth is too coarse for a tolerance.
const isShare = ({ minimum, exclusiveMinimum, maximum, default: value }) => maximum === 1 && (minimum ?? exclusiveMinimum) === 0 && value >= 0.05;
const properties = (schema) => Object.entries(schema?.properties || {});
const fieldOf = (box, name) => box.querySelector(`[name="${CSS.escape(name)}"]`);

function control(name, schema) {
  const id = `param-${name}`;
  if (isBoolean(schema)) return el("input", { type: "checkbox", id, name });
  if (schema.enum) {
    const choices = isNullable(schema) ? ["", ...schema.enum] : schema.enum;
    return el("select", { id, name }, ...choices.map((value) => el("option", { value }, value || "none")));
  }
  if (isLong(schema)) return el("textarea", { id, name, rows: isList(schema) ? 4 : 2, spellcheck: "false", autocomplete: "off" });
  return el("input", {
    id,
    name,
    type: isNumber(schema) ? "number" : "text",
    step: isInteger(schema) ? "1" : "any",
    min: schema.minimum,
    max: schema.maximum,
    placeholder: isNullable(schema) ? "none" : null,
    autocomplete: "off",
  });
}

function range({ minimum, exclusiveMinimum, maximum }) {
  const low = minimum !== undefined ? `from ${minimum}` : exclusiveMinimum !== undefined ? `above ${exclusiveMinimum}` : "";
  const high = maximum === undefined ? "" : low.startsWith("from") ? `to ${maximum}` : `at most ${maximum}`;
  return [low, high].filter(Boolean).join(low.startsWith("from") ? " " : ", ");
}

// "fraction kept. Above 0, at most 1; 0.2 unless you change it."
function hint(schema) {
  const fallback = schema.default === null ? "none" : isLong(schema) ? undefined : schema.default;
  const bounds = [range(schema), isList(schema) ? `one a line, as text or as JSON, at most ${schema.maxItems}` : "", isNullable(schema) && schema.default !== null ? "empty for none" : ""].filter(Boolean).join("; ");
  return [schema.description, bounds, fallback === undefined ? "" : `default ${fallback}`].filter(Boolean).join(" · ");
}

const setValue = (input, value) => {
  if (input.type === "checkbox") input.checked = value === true || value === "true";
  else if (Array.isArray(value)) input.value = writeExamples(value);
  else input.value = value === null || value === "null" ? "" : value;
};

// A list as it stands in an address.
function listOf(value) {
  if (typeof value !== "string") return value ?? [];
  try {
    return [JSON.parse(value)].flat();
  } catch {
    return readExamples(value);
  }
}

// For the mouse alone: keys and screen readers have the same value in the field.
function withSlider(input) {
  const slider = el("input", { type: "range", min: "0", max: "1", step: "0.01", tabindex: "-1", "aria-hidden": "true" });
  slider.value = input.value;
  slider.addEventListener("input", () => { input.value = slider.value; });
  input.addEventListener("input", () => { slider.value = input.value; });
  return el("div", { class: "slid" }, input, slider);
}

// `values`: what differs from the defaults, as JSON values or as they stand in an address.
export function showParams(box, schema, values = {}) {
  const fields = properties(schema).map(([name, property]) => {
    const input = control(name, property);
    const value = values[name] ?? property.default ?? null;
    setValue(input, isList(property) ? listOf(value) : value);
    const note = el("p", { class: "hint", id: `${input.id}-hint` }, hint(property));
    input.dataset.hint = note.id;
    input.setAttribute("aria-describedby", note.id);
    const label = el("label", { for: input.id }, name);
    const children = input.type === "checkbox" ? [el("span", { class: "check" }, input, label)] : [label, isShare(property) ? withSlider(input) : input];
    return el("div", { class: isLong(property) ? "field wide" : "field" }, ...children, note);
  });
  box.replaceChildren(...fields);
  box.hidden = fields.length === 0;
}

function valueOf(input, schema) {
  if (input.type === "checkbox") return input.checked;
  if (isList(schema)) return readExamples(input.value);
  if (input.value === "") return null;
  return isNumber(schema) ? Number(input.value) : input.value;
}

// Only what differs from the defaults, so that a copied request stays short.
export function readParams(box, schema) {
  const params = {};
  for (const [name, property] of properties(schema)) {
    const value = valueOf(fieldOf(box, name), property);
    if (isList(property) ? value.length : value !== (property.default ?? null)) params[name] = value;
  }
  return params;
}

function problemOf(input, schema) {
  if (input.validity.badInput) return "This is not a number.";
  const value = valueOf(input, schema);
  if (isList(schema)) return value.length > schema.maxItems ? `These are ${value.length} lines; at most ${schema.maxItems} are taken.` : "";
  if (value === null) return isNullable(schema) ? "" : `Give a value; the default is ${schema.default}.`;
  if (!isNumber(schema)) return "";
  const { minimum = -Infinity, maximum = Infinity, exclusiveMinimum = -Infinity } = schema;
  if (value < minimum || value > maximum || value <= exclusiveMinimum) return `It must be ${range(schema)}.`;
  return isInteger(schema) && !Number.isInteger(value) ? "It must be a whole number." : "";
}

// Marks what the schema refuses. Returns whether all is well.
export function checkParams(box, schema) {
  const problems = properties(schema).map(([name, property]) => {
    const input = fieldOf(box, name);
    const problem = problemOf(input, property);
    if (problem) markField(input, problem);
    else unmarkField(input);
    return problem;
  });
  return problems.every((problem) => !problem);
}

const PREFIX = "param.";

export function paramsToAddress(values, address) {
  for (const [name, value] of Object.entries(values)) address.set(PREFIX + name, Array.isArray(value) ? JSON.stringify(value) : String(value));
}

export function paramsFromAddress(address) {
  return Object.fromEntries([...address].filter(([name]) => name.startsWith(PREFIX)).map(([name, value]) => [name.slice(PREFIX.length), value]));
}
