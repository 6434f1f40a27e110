// "Copy as curl / Python" for a JSON request.

import { el } from "./api.js";

const EXTERNAL_URL = document.querySelector("meta[name=external-url]").content;
const LOGGED_IN = document.querySelector("meta[name=user]").content !== "";

export function curl(path, body, hasToken = LOGGED_IN) {
  const lines = [`curl -sS ${EXTERNAL_URL}/api/v1/${path}`, `  -H "Content-Type: application/json"`];
  if (hasToken) lines.push(`  -H "Authorization: Bearer $LORADEX_TOKEN"`);
  // A quoted here-document: nothing in the text can end a shell string.
  return `${lines.join(" \\\n")} -d @- <<'JSON'\n${JSON.stringify(body, null, 2)}\nJSON`;
}

export function python(path, body, hasToken = LOGGED_IN) {
  const headers = hasToken ? `,\n    headers={"Authorization": "Bearer " + os.environ["LORADEX_TOKEN"]}` : "";
  return [
    hasToken ? "import os\n\nimport requests\n" : "import requests\n",
    `answer = requests.post(\n    "${EXTERNAL_URL}/api/v1/${path}",\n    json=${literal(body, "    ")}${headers},\n    timeout=60,\n)`,
    "answer.raise_for_status()\nprint(answer.json())",
  ].join("\n");
}

// A JSON value as a Python literal. JSON's strings are Python strings too.
function literal(value, indent) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = indent + "    ";
  const isList = Array.isArray(value);
  const items = isList
    ? value.map((item) => inner + literal(item, inner))
    : Object.entries(value).map(([key, item]) => `${inner}${JSON.stringify(key)}: ${literal(item, inner)}`);
  const [open, close] = isList ? "[]" : "{}";
  return items.length ? `${open}\n${items.join(",\n")},\n${indent}${close}` : open + close;
}

// Shows both forms of the request inside `box`; with a token where the caller has an account, or the request needs one.
export function showSnippets(box, path, body, { needsToken = false } = {}) {
  const hasToken = LOGGED_IN || needsToken;
  const copy = () => el("button", { type: "button", class: "button small copy" }, "Copy");
  const block = (title, code) => el("div", { class: "snippet" }, el("h3", {}, title), copy(), el("pre", {}, el("code", {}, code)));
  box.replaceChildren(block("curl", curl(path, body, hasToken)), block("Python", python(path, body, hasToken)));
}
