// The server's verdict before anything large is sent: of a safetensors file only its header leaves the machine.

import { ApiError, csrfToken, el, problemItems } from "../api.js";

// As much of a file as the server looks at; beyond these sizes it refuses without looking.
const MAX_HEADER = 10_000_000;
const SNIFF = 512;
const LIMITS = { "adapter_config.json": 1024 ** 2, "README.md": 1024 ** 2, "samples.jsonl": 16 * 1024 ** 2 };
const MEND = {
  no_samples: "Type some below, or add the file.",
  base_unknown: "Write the name of a registered base under “Base model”, or ask the operator to register yours.",
  targets_without_tensors: "Nothing to do if you meant to train only some of them.",
  extra_head: "Nothing to do if the task needs them.",
  bias_missing: "Save the adapter again if the biases were trained.",
};

async function headOf(part, file) {
  if (!part.endsWith(".safetensors")) return file.slice(0, LIMITS[part] ?? SNIFF);
  const start = new DataView(await file.slice(0, 8).arrayBuffer());
  const length = start.byteLength === 8 ? Number(start.getBigUint64(0, true)) : 0;
  return file.slice(0, length <= MAX_HEADER ? Math.max(SNIFF, 8 + length) : SNIFF);
}

// fields: [[name, value]]; files: Map of part → File. Throws ApiError.
export async function askVerdict(fields, files, signal) {
  const data = new FormData();
  for (const [name, value] of fields) data.append(name, value);
  data.append("sizes", JSON.stringify(Object.fromEntries([...files].map(([part, file]) => [part, file.size]))));
  let answer;
  try {
    for (const [part, file] of files) data.append(part, await headOf(part, file), part);
    answer = await fetch("/api/v1/checks/", { method: "POST", body: data, headers: { "X-CSRFToken": csrfToken() }, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "NotReadableError") throw new ApiError(0, { message: "A file cannot be read any more. Was it moved or changed? Choose it again." });
    throw new ApiError(0, { message: "The server cannot be reached for a verdict." });
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new ApiError(answer.status, body);
  return body;
}

const row = (term, ...value) => [el("dt", {}, term), el("dd", {}, ...value)];
const code = (text) => el("code", {}, text);

function binding({ modules_bound: bound, modules_in_base: inBase }, base) {
  if (inBase === null) return [`${bound} modules, not compared: the base is not registered here`];
  return [`${bound} of ${inBase} modules bind`, base ? ` to ${base}` : ""];
}

function factRows({ facts, vllm, base_model: base }) {
  const rows = [
    row("Binding", ...binding(facts, base)),
    row("Rank", `${facts.rank}, alpha ${facts.alpha}, scaling ${Number(facts.scaling.toPrecision(4))}`),
    row("Parameters", `${facts.parameters.toLocaleString("en")} in ${facts.dtype}`),
  ];
  if (vllm.obstacles.length) rows.push(row("vLLM", "cannot serve it"));
  else rows.push(row("vLLM", "needs ", code(`--max-lora-rank ${vllm.max_lora_rank}`)));
  return rows.flat();
}

function warningItems({ warnings, vllm }) {
  const items = warnings.map((warning) => el("li", {}, warning.message, MEND[warning.code] ? ` ${MEND[warning.code]}` : "", " ", code(warning.code)));
  const hints = vllm ? [...vllm.obstacles, ...vllm.cautions] : [];
  return [...items, ...hints.map((text) => el("li", {}, `vLLM: ${text}`))];
}

// What is said in one line, and how: "usable" with the class of its badge.
export function headline(verdict, isComplete) {
  if (verdict.usable) return ["usable", "ready"];
  return isComplete ? ["not usable", "rejected"] : ["incomplete", "checking"];
}

// refusals: those that are about the files; what is about a field stands beside it.
export function verdictBody(verdict, refusals) {
  const parts = [];
  if (refusals.length) parts.push(el("div", { class: "notice bad" }, el("p", {}, el("strong", {}, "An upload would be refused:")), el("ul", {}, ...problemItems(refusals.flatMap(({ message, code: kind, detail }) => detail.problems || [{ message, code: kind }])))));
  if (verdict.facts) {
    const { modules_bound: bound, modules_in_base: inBase } = verdict.facts;
    if (inBase) parts.push(el("progress", { class: `bar ${bound === inBase ? "good" : "warn"}`, max: inBase, value: bound, "aria-label": "Modules that bind" }));
    parts.push(el("dl", { class: "facts" }, ...factRows(verdict)));
  }
  const warnings = warningItems(verdict);
  if (verdict.facts && warnings.length) parts.push(el("div", { class: "notice warn" }, el("p", {}, el("strong", {}, warnings.length === 1 ? "Worth knowing:" : `${warnings.length} things worth knowing:`)), el("ul", {}, ...warnings)));
  if (verdict.usable) parts.push(el("p", { class: "muted small" }, "The values themselves are checked after the upload, by a job."));
  return parts;
}
