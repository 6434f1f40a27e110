// How much each input counts, as the method takes its weights.

import { el } from "./api.js";

export const COLOURS = 8;
const shown = (value) => String(Number(value.toPrecision(3)));

// The weights that a method applies: absolute ones as they are, 1/n where none is given; relative ones times n/Σ|w|, equal where none is given.
function applied(weights, kind) {
  const n = weights.length;
  const given = weights.map((weight) => weight ?? (kind === "relative" ? 1 : 1 / n));
  const total = given.reduce((sum, weight) => sum + Math.abs(weight), 0);
  if (kind !== "relative") return given;
  return total > 0 ? given.map((weight) => (weight * n) / total) : given.map(() => 0);
}

// A stacked bar: one part per value, as long as its size; what is below zero is hatched, because it subtracts.
function stack(box, names, values) {
  const total = values.reduce((sum, value) => sum + Math.abs(value), 0);
  const parts = values.map((value, index) => {
    const part = el("span", { class: `share share-${index % COLOURS}${value < 0 ? " negative" : ""}`, title: `${names[index]}: ${shown((100 * Math.abs(value)) / (total || 1))} %` });
    part.style.setProperty("--share", total ? Math.abs(value) / total : 0);
    return part;
  });
  const text = values.map((value, index) => `${names[index]} ${Math.round((100 * Math.abs(value)) / (total || 1))} %${value < 0 ? ", subtracted" : ""}`);
  box.replaceChildren(...parts);
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", text.join("; "));
}

function sentence(weights, kind) {
  if (kind === "relative") return `Only the proportions count: the method takes ${weights.map(shown).join(" : ")}, which have the mean size 1.`;
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const meaning = Math.abs(sum - 1) < 0.005 ? "a weighted mean of the inputs" : sum > 1 ? "stronger than a mean: the changes add up" : "weaker than a mean";
  return `The weights count as they are; their sum is ${shown(sum)}, ${meaning}.`;
}

// inputs: [{name, weight, norm}]; weight null is the method's default, norm null is not known.
export function showShares(box, inputs, kind) {
  box.hidden = inputs.length < 2;
  if (box.hidden) return;
  const names = inputs.map(({ name }) => name);
  const weights = applied(inputs.map(({ weight }) => weight), kind);
  const norms = inputs.map(({ norm }) => norm);
  const isKnown = norms.every((norm) => norm !== null && norm !== undefined);
  stack(box.querySelector("#share-weight"), names, weights);
  box.querySelector("#share-norm-box").hidden = !isKnown;
  if (isKnown) stack(box.querySelector("#share-norm"), names, weights.map((weight, index) => weight * norms[index]));
  box.querySelector("#weight-summary").textContent = sentence(weights, kind);
}
