// Numbers as bars; the number beside a bar says the same in text.

import { el } from "./api.js";

const within = (value) => Math.min(1, Math.max(0, value));

// A bar from one place to another, in parts of its width, with marks of class measure-NAME where `marks` says.
export function bar(to, { from = 0, className = "", marks = {} } = {}) {
  const node = el("span", { class: `measure ${className}`, "aria-hidden": "true" }, el("span", { class: "measure-fill" }));
  const [left, right] = [within(Math.min(from, to)), within(Math.max(from, to))];
  node.style.setProperty("--from", left);
  node.style.setProperty("--fraction", right - left);
  for (const [name, place] of Object.entries(marks)) {
    if (place === null) continue;
    const mark = el("span", { class: `measure-mark measure-${name}` });
    mark.style.setProperty("--at", within(place));
    node.append(mark);
  }
  return node;
}

// How scores become bars. Returns {place(score), zero}: parts of the width; zero is null where it is the left end.
// `isUnit`: cosines and shares, whose whole is 1. Others are compared with each other alone.
export function scaleOf(scores, { isUnit, threshold = null }) {
  const all = threshold === null ? scores : [...scores, threshold];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  if (low >= 0) {
    const top = isUnit ? Math.max(1, high) : high || 1;
    return { place: (score) => score / top, zero: null };
  }
  if (high > 0) {
    const top = isUnit ? Math.max(1, high) : high;
    return { place: (score) => (score - low) / (top - low), zero: -low / (top - low) };
  }
  // Log densities and distances: the least of those shown keeps a stump.
  const floor = low - 0.15 * (high - low || 1);
  return { place: (score) => (score - floor) / (high - floor), zero: null };
}
