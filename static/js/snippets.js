// "Copy as curl / Python" for a JSON request.

import { el } from "./api.js";

const EXTERNAL_URL = document.querySelector("meta[name=external-url]").content;
const LOGGED_IN = document.querySelector("meta[name=user]").content !== "";

const TOKEN = `-H "Authorization: Bearer $LORADEX_TOKEN"`;
const ENDED = "succeeded|failed|cancelled";

function request(path, body, hasToken, extra = "") {
  const lines = [`curl -sS${extra} ${EXTERNAL_URL}/api/v1/${path}`, `  -H "Content-Type: application/json"`];
  if (hasToken) lines.push(`  ${TOKEN}`);
  // A quoted here-document: nothing in the text can end a shell string.
  return `${lines.join(" \\\n")} -d @- <<'JSON'\n${JSON.stringify(body, null, 2)}\nJSON`;
}

// `waits`: the answer is a job, which is asked for until it has ended.
export function curl(path, body, hasToken = LOGGED_IN, waits = false) {
  if (!waits) return request(path, body, hasToken);
  const job = `curl -sS "${EXTERNAL_URL}$job" ${TOKEN}`;
  return `job=$(${request(path, body, hasToken, " -f -o /dev/null -w '%header{location}'")}\n) &&\nuntil ${job} | grep -qE '"status":"(${ENDED})"'; do sleep 1; done &&\n${job}`;
}

export function python(path, body, hasToken = LOGGED_IN, waits = false) {
  const imports = [hasToken && "import os", waits && "import time"].filter(Boolean).join("\n");
  const headers = `{"Authorization": "Bearer " + os.environ["LORADEX_TOKEN"]}`;
  const post = `answer = requests.post(\n    "${EXTERNAL_URL}/api/v1/${path}",\n    json=${literal(body, "    ")}${hasToken ? `,\n    headers=${waits ? "headers" : headers}` : ""},\n    timeout=60,\n)\nanswer.raise_for_status()`;
  const start = `${imports && `${imports}\n\n`}import requests\n`;
  if (!waits) return `${start}\n${post}\nprint(answer.json())`;
  return `${start}\nheaders = ${headers}\n${post}
job = answer.json()["job"]
while job["status"] in ("queued", "running"):
    time.sleep(1)
    job = requests.get("${EXTERNAL_URL}/api/v1/jobs/" + job["id"] + "/", headers=headers, timeout=60).json()
print(job)`;
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

// Code with a button that copies it.
export function snippet(title, code) {
  const copy = el("button", { type: "button", class: "button small copy", "aria-label": `Copy: ${title}` }, "Copy");
  return el("div", { class: "snippet" }, el("h3", {}, title), copy, el("pre", { tabindex: "0" }, el("code", {}, code)));
}

// Shows both forms of the request inside `box`; with a token where the caller has an account, or the request needs one.
export function showSnippets(box, path, body, { needsToken = false, waits = false } = {}) {
  const hasToken = LOGGED_IN || needsToken;
  box.replaceChildren(snippet("curl", curl(path, body, hasToken, waits)), snippet("Python", python(path, body, hasToken, waits)));
}
