// Form fields for the parameters of a router or merge method, from its JSON Schema.

import { el, markField, unmarkField } from "./api.js";

const types = (schema) => [schema.type].flat();
const isNullable = (schema) => types(schema).includes("null");
const isInteger = (schema) => types(schema).includes("integer");
const isNumber = (schema) => isInteger(schema) || types(schema).includes("number");
const isBoolean = (schema) => types(schema).includes("boolean");
const properties = (schema) => Object.entries(schema?.properties || {});
const fieldOf = (box, name) => box.querySelector(`[name="${CSS.escape(name)}"]`);

function control(name, schema) {
  const id = `param-${name}`;
  if (isBoolean(schema)) return el("input", { type: "checkbox", id, name });
  if (schema.enum) {
    const choices = isNullable(schema) ? ["", ...schema.enum] : schema.enum;
    return el("select", { id, name }, ...choices.map((value) => el("option", { value }, value || "none")));
  }
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
  const fallback = schema.default === null ? "none" : schema.default;
  const bounds = [range(schema), isNullable(schema) && schema.default !== null ? "empty for none" : ""].filter(Boolean).join("; ");
  return [schema.description, bounds, fallback === undefined ? "" : `default ${fallback}`].filter(Boolean).join(" · ");
}

const setValue = (input, value) => {
  if (input.type === "checkbox") input.checked = value === true || value === "true";
  else input.value = value === null || value === "null" ? "" : value;
};

// `values`: what differs from the defaults, as strings or as JSON values.
export function showParams(box, schema, values = {}) {
  const fields = properties(schema).map(([name, property]) => {
    const input = control(name, property);
    setValue(input, values[name] ?? property.default ?? null);
    const note = el("p", { class: "hint", id: `${input.id}-hint` }, hint(property));
    input.dataset.hint = note.id;
    input.setAttribute("aria-describedby", note.id);
    const label = el("label", { for: input.id }, name);
    const children = input.type === "checkbox" ? [el("span", { class: "check" }, input, label)] : [label, input];
    return el("div", { class: "field" }, ...children, note);
  });
  box.replaceChildren(...fields);
  box.hidden = fields.length === 0;
}

function valueOf(input, schema) {
  if (input.type === "checkbox") return input.checked;
  if (input.value === "") return null;
  return isNumber(schema) ? Number(input.value) : input.value;
}

// Only what differs from the defaults, so that a copied request stays short.
export function readParams(box, schema) {
  const params = {};
  for (const [name, property] of properties(schema)) {
    const value = valueOf(fieldOf(box, name), property);
    if (value !== (property.default ?? null)) params[name] = value;
  }
  return params;
}

function problemOf(input, schema) {
  if (input.validity.badInput) return "This is not a number.";
  const value = valueOf(input, schema);
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
  for (const [name, value] of Object.entries(values)) address.set(PREFIX + name, String(value));
}

export function paramsFromAddress(address) {
  return Object.fromEntries([...address].filter(([name]) => name.startsWith(PREFIX)).map(([name, value]) => [name.slice(PREFIX.length), value]));
}
