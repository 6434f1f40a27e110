// Form fields for the parameters of a router or merge method, from its JSON Schema.

import { el } from "./api.js";

const types = (schema) => [schema.type].flat();
const isNullable = (schema) => types(schema).includes("null");
const isNumber = (schema) => types(schema).some((type) => type === "number" || type === "integer");

function control(name, schema) {
  const id = `param-${name}`;
  if (types(schema).includes("boolean")) return el("input", { type: "checkbox", id, name, checked: schema.default === true });
  if (schema.enum) {
    const choices = isNullable(schema) ? ["", ...schema.enum] : schema.enum;
    return el("select", { id, name }, ...choices.map((value) => el("option", { value, selected: value === (schema.default ?? "") }, value || "none")));
  }
  return el("input", {
    id,
    name,
    type: isNumber(schema) ? "number" : "text",
    step: types(schema).includes("number") ? "any" : isNumber(schema) ? "1" : null,
    min: schema.minimum ?? schema.exclusiveMinimum,
    max: schema.maximum,
    value: schema.default ?? "",
    placeholder: isNullable(schema) ? "none" : null,
  });
}

function range({ minimum, exclusiveMinimum, maximum }) {
  const low = minimum !== undefined ? `≥ ${minimum}` : exclusiveMinimum !== undefined ? `> ${exclusiveMinimum}` : "";
  return [low, maximum !== undefined ? `≤ ${maximum}` : ""].filter(Boolean).join(", ");
}

export function showParams(box, schema) {
  const fields = Object.entries(schema?.properties || {}).map(([name, property]) => {
    const input = control(name, property);
    const hint = [property.description, range(property)].filter(Boolean).join("; ");
    const label = el("label", { for: input.id }, name);
    const children = input.type === "checkbox" ? [el("span", { class: "check" }, input, label)] : [label, input];
    return el("div", { class: "field" }, ...children, hint ? el("p", { class: "hint" }, hint) : null);
  });
  box.replaceChildren(...fields);
  box.hidden = fields.length === 0;
}

// Only what differs from the defaults, so that a copied request stays short.
export function readParams(box, schema) {
  const params = {};
  for (const [name, property] of Object.entries(schema?.properties || {})) {
    const input = box.querySelector(`[name="${CSS.escape(name)}"]`);
    const value = input.type === "checkbox" ? input.checked : input.value === "" ? null : isNumber(property) ? Number(input.value) : input.value;
    if (value !== (property.default ?? null)) params[name] = value;
  }
  return params;
}
