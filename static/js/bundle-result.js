// A finished bundle: what is in it, its download, and the code that runs it.

import { el } from "./api.js";
import { snippet } from "./snippets.js";
import { size } from "./upload/files.js";

const EXTERNAL_URL = document.querySelector("meta[name=external-url]").content;
// Decided for a whole prompt, which the base has to read before it answers.
const WHOLE_PROMPT = "arrow_global";

const fetchCode = ({ id }) => `curl -fsSL -H "Authorization: Bearer $LORADEX_TOKEN" -o bundle.zip \\
  ${EXTERNAL_URL}/api/v1/bundles/${id}/archive/
unzip -qo bundle.zip -d bundle`;

const runCode = ({ base_model: base, router }) => `import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, "bundle")
from bundle import Bundle

tokenizer = AutoTokenizer.from_pretrained(${JSON.stringify(base)})
model = AutoModelForCausalLM.from_pretrained(${JSON.stringify(base)})
inputs = tokenizer(["Your prompt"], return_tensors="pt")
with Bundle.load(Path("bundle")).on(model${router === WHOLE_PROMPT ? ", prompt=inputs" : ""}):
    answers = model.generate(**inputs, max_new_tokens=20)
print(tokenizer.batch_decode(answers, skip_special_tokens=True))`;

function facts({ adapters, base_model: base, files, size_bytes: bytes, params }, title) {
  const count = `${adapters.length} expert${adapters.length === 1 ? "" : "s"}`;
  const told = Object.entries(params).map(([name, value]) => `${name} ${value}`).join(", ");
  return el("p", {}, `${count} of ${base}, routed by ${title} (${told}); ${files.length} files, ${size(bytes)}.`);
}

// `routers`: those of `GET /methods/`.
export function bundleNodes(bundle, routers) {
  const { title } = routers.find(({ name }) => name === bundle.router) || { title: bundle.router };
  const warnings = bundle.warnings.map(({ code, message }) => el("li", {}, message, " ", el("code", {}, code)));
  const download = el("a", { class: "button primary", href: `/api/v1/bundles/${bundle.id}/archive/`, download: true }, `Download ${size(bundle.size_bytes)}`);
  return [
    el(
      "section",
      { class: "card", "aria-labelledby": "result-title" },
      el("div", { class: "row between section-head" }, el("h2", { id: "result-title", tabindex: "-1" }, "The bundle is ready"), download),
      facts(bundle, title),
      warnings.length ? el("div", { class: "notice" }, el("ul", {}, ...warnings)) : null,
      snippet("Fetch and unpack", fetchCode(bundle)),
      snippet("Run it", runCode(bundle)),
      el("p", { class: "hint" }, "Besides the base model it takes torch and safetensors. Within the block the model routes; after it, it is as it was. README.md in the archive says more."),
    ),
  ];
}
