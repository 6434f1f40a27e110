// Which merge methods there are, and what the chosen one takes.

import { el } from "./api.js";

const NEEDS = {
  base_model: "the base model's weights at the worker",
  samples: "samples of every input",
  labels: "samples with answers of every input",
};

const joined = (words) => (words.length > 1 ? `${words.slice(0, -1).join(", ")} and ${words.at(-1)}` : words.join(""));

// Groups in the order of `families`, {name: what its methods work on}; in each group by title.
function grouped(methods, families) {
  const byFamily = Map.groupBy(methods, ({ family }) => family);
  const ordered = Object.keys(families).filter((family) => byFamily.has(family));
  const byTitle = (a, b) => a.title.localeCompare(b.title);
  return ordered.map((family) => ({ title: `${family[0].toUpperCase()}${family.slice(1)}: ${families[family]}`, methods: byFamily.get(family).sort(byTitle) }));
}

export function fillMethods(select, methods, families, chosen) {
  const option = ({ name, title }) => new Option(title, name, name === chosen, name === chosen);
  select.replaceChildren(...grouped(methods, families).map((group) => el("optgroup", { label: group.title }, ...group.methods.map(option))));
}

// What must be at hand, and what the method leaves no choice about.
export function terms(method) {
  const needs = method.needs.map((need) => NEEDS[need] || need);
  const instead = needs.length && method.params.properties.examples ? ", or the examples below" : "";
  return [
    needs.length ? `Needs ${joined(needs)}${instead}.` : "",
    method.max_inputs ? `Takes at most ${method.max_inputs} inputs.` : "",
    method.equal_ranks ? "All inputs must have one rank." : "",
    method.rank_mode ? `Its file always has the rank mode ${method.rank_mode}.` : "",
    method.rank_aware ? "The rank of the output changes what it does, and not only what is cut off." : "",
  ].filter(Boolean);
}

// Every method with the sentence that says when to use it; its title chooses it.
export function listMethods(box, methods, families, onChoose) {
  const item = (method) => {
    const button = el("button", { type: "button", "data-method": method.name }, method.title);
    button.addEventListener("click", () => onChoose(method.name));
    const needs = method.needs.length ? `Needs ${joined(method.needs.map((need) => NEEDS[need] || need))}.` : "";
    return el("li", {}, button, el("span", { class: "small" }, [method.when, needs].filter(Boolean).join(" ")));
  };
  box.replaceChildren(...grouped(methods, families).map((group) => el("section", {}, el("h3", {}, group.title), el("ul", { class: "plain-list" }, ...group.methods.map(item)))));
}

export function markChosen(box, name) {
  for (const button of box.querySelectorAll("[data-method]")) button.setAttribute("aria-pressed", String(button.dataset.method === name));
}
