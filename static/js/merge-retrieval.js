// What a recipe retrieves its inputs for, and the way back to the page that asks for it.

import { fits, query } from "./address.js";

const $ = (id) => document.getElementById(id);

// In place of the list of inputs, where a recipe has one; the list otherwise.
export function showRetrieval(retrieval) {
  $("retrieval").hidden = !retrieval;
  $("listed").hidden = Boolean(retrieval);
  if (!retrieval) return;
  const { text, texts, examples, router, k, params, base_model: base, filters = {} } = retrieval;
  const asked = text ?? (examples || texts || []).map((item) => item?.input ?? item).join(" / ");
  const short = asked.length > 200 ? `${asked.slice(0, 200)} …` : asked;
  $("retrieval").querySelector(".retrieval-text").textContent = `Whatever a retrieval finds for “${short}”, with its weights. Found now:`;
  const address = new URLSearchParams(Object.entries({ text, router, k, base_model: base }).filter(([, value]) => value !== undefined));
  for (const line of examples || []) address.append("examples", typeof line === "string" ? line : JSON.stringify(line));
  for (const [key, values] of Object.entries(filters)) for (const value of [values].flat()) address.append(key, value);
  for (const [key, value] of Object.entries(params || {})) address.set(`param.${key}`, String(value));
  $("edit-retrieval").href = `/retrieve/?${query(address)}`;
  $("edit-retrieval").hidden = !fits(address);
}
