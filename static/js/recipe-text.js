// The recipe as YAML beside the form: written anew when the form changes, and read by the server when it is edited.

import { call, el } from "./api.js";
import { PATIENCE_MS } from "./merge-verdict.js";

const DELAY_MS = 500;
export const YAML = "application/yaml";
const PLAIN = /^[A-Za-z][\w./@-]*$/;
const RESERVED = /^(y|n|yes|no|true|false|on|off|null|nan|inf)$/i;

function scalar(value) {
  if (typeof value === "string") return PLAIN.test(value) && !RESERVED.test(value) ? value : JSON.stringify(value);
  // YAML 1.1 takes 1e-7 for text.
  return String(value).replace(/^(-?\d+)e/, "$1.0e");
}

// A JSON value as YAML: blocks, and what is empty in brackets.
export function toYaml(value, indent = "") {
  if (value === null || typeof value !== "object") return scalar(value);
  const isList = Array.isArray(value);
  const items = isList ? value.map((item) => [null, item]) : Object.entries(value).filter(([, item]) => item !== undefined);
  if (!items.length) return isList ? "[]" : "{}";
  return items.map(([key, item]) => {
    const isBlock = item !== null && typeof item === "object" && Object.keys(item).length > 0;
    const inner = `${indent}  `;
    if (isList) return `- ${toYaml(item, inner)}`;
    return `${scalar(key)}:${isBlock ? `\n${Array.isArray(item) ? indent + "  " : inner}` : " "}${toYaml(item, inner)}`;
  }).join(`\n${indent}`);
}

// Throws an Error whose message is for the reader.
async function textOf(file, mostBytes) {
  const inKb = (bytes) => `${Math.ceil(bytes / 1024).toLocaleString("en")} kB`;
  if (file.size > mostBytes) throw new Error(`${file.name} has ${inKb(file.size)}; a recipe has at most ${inKb(mostBytes)}.`);
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch (error) {
    if (error instanceof TypeError) throw new Error(`${file.name} is not a recipe: it is not UTF-8 text.`);
    throw new Error(`${file.name} cannot be read any more. Was it moved or changed? Choose it again.`);
  }
  if (text.includes("\0")) throw new Error(`${file.name} is not a recipe: it is not text.`);
  // JSON is YAML but for the tabs that may indent it.
  return /\.json$/i.test(file.name) ? text.replace(/^\t+/gm, (tabs) => "  ".repeat(tabs.length)) : text;
}

export class RecipeText {
  // opener: the field that chooses a file. onRead(request) after an edit that can be merged; it returns what the form
  // says then.
  constructor(field, problems, opener, { onRead, say }) {
    Object.assign(this, { field, problems, onRead, say, reads: 0 });
    field.addEventListener("input", (event) => {
      // The form's own listeners would write the text anew under the caret.
      event.stopPropagation();
      this.#later();
    });
    field.addEventListener("change", (event) => event.stopPropagation());
    opener.addEventListener("input", (event) => event.stopPropagation());
    opener.addEventListener("change", (event) => {
      event.stopPropagation();
      if (opener.files.length) this.#open(opener.files[0]);
      opener.value = "";
    });
  }

  get isAhead() {
    return this.reading !== undefined || this.isRefused;
  }

  // What the form says now, unless somebody is writing here.
  show(request) {
    // The text stays as it was written, comments and all, until the form says something else.
    if (this.isAhead || JSON.stringify(request) === this.adopted) return;
    this.adopted = undefined;
    const text = `${toYaml({ format: "loradex/v1", ...request })}\n`;
    if (this.shown === text) return;
    this.shown = text;
    this.field.value = text;
  }

  // The form was changed: it is what counts from here on.
  yield() {
    this.reads += 1;
    clearTimeout(this.timer);
    this.reading?.resolve();
    this.reading = undefined;
    this.#say([]);
  }

  #later(delayMs = DELAY_MS) {
    clearTimeout(this.timer);
    this.reading ??= deferred();
    this.timer = setTimeout(() => this.#read(), delayMs);
  }

  // A file that is refused leaves the text, and what is known of it, as they are.
  async #open(file) {
    try {
      this.field.value = await textOf(file, Number(this.field.dataset.maxBytes));
    } catch ({ message }) {
      this.problems.replaceChildren(el("div", { class: "notice bad" }, el("p", {}, message)));
      return;
    }
    this.say(`${file.name} is in the text.`);
    this.#later(0);
  }

  // Returns once what was written is in the form, or refused.
  async settle() {
    if (this.reading) await this.reading.promise;
    return !this.isRefused;
  }

  async #read() {
    this.reads += 1;
    const mine = this.reads;
    const patience = setTimeout(() => this.problems.replaceChildren(el("p", { class: "hint" }, "Checking …")), PATIENCE_MS);
    let problems;
    let preview;
    let isLost = false;
    try {
      preview = await call("POST", "merges/preview/", this.field.value, YAML);
      problems = preview.mergeable ? [] : preview.problems;
    } catch (error) {
      problems = [{ where: "", message: error.message }];
      isLost = error.status === 0 || error.status >= 500;
    }
    clearTimeout(patience);
    if (mine !== this.reads) return;
    this.#say(problems, isLost);
    const { reading } = this;
    this.reading = undefined;
    if (!problems.length) {
      this.shown = undefined;
      this.adopted = JSON.stringify(this.onRead(preview.recipe));
    }
    reading?.resolve();
  }

  #again() {
    const button = el("button", { type: "button", class: "button small" }, "Try again");
    button.addEventListener("click", () => { this.field.focus(); this.#later(0); });
    return button;
  }

  // isLost: nothing is known against the text; the answer did not come.
  #say(problems, isLost = false) {
    this.isRefused = problems.length > 0;
    this.field.setAttribute("aria-invalid", String(this.isRefused));
    const line = ({ where, message }) => el("li", {}, where ? el("code", {}, where) : null, where ? " " : null, message);
    this.problems.replaceChildren(...(this.isRefused ? [el("div", { class: "notice bad" }, el("p", {}, "Not in the form yet:"), el("ul", {}, ...problems.map(line)), isLost ? this.#again() : null)] : []));
  }
}

function deferred() {
  const made = {};
  made.promise = new Promise((resolve) => { made.resolve = resolve; });
  return made;
}

// Saves a text as a file.
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: YAML }));
  const link = el("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
