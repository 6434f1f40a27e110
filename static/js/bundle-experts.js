// The experts of a bundle: a row each, with what stands in its way and, where a worker can mend that, a button.

import { call, el, markField, unmarkField } from "./api.js";
import { makeCombobox } from "./combobox.js";
import { follow, stateOf } from "./follow.js";
import { spinner } from "./job-box.js";
import { parseInput } from "./merge-inputs.js";

const SUGGESTIONS = 10;
// What a worker with the base model computes of an expert's samples.
const REMEDIES = {
  phatgoose: { lacks: "It has no trained gates.", press: "Train its gates", done: "Its gates are trained." },
  activations: { lacks: "It has no mean activations.", press: "Compute its activations", done: "Its activations are computed." },
};
let rowCount = 0;

const factsOf = ({ base_model: base, facts, license }) => [base || "base model not stated", facts.rank && `rank ${facts.rank}`, license || "no licence stated"].filter(Boolean).join(" · ");

class Row {
  constructor(list, template, { baseModel, onChange, say }) {
    rowCount += 1;
    this.list = list;
    this.say = say;
    this.node = template.content.firstElementChild.cloneNode(true);
    this.node.row = this;
    this.field = this.node.querySelector("input");
    this.facts = this.node.querySelector("[data-part=facts]");
    this.field.id = `expert-${rowCount}`;
    this.facts.id = `facts-${rowCount}`;
    this.field.dataset.hint = this.facts.id;
    this.field.setAttribute("aria-describedby", this.facts.id);
    this.node.querySelector("label").htmlFor = this.field.id;
    const changed = () => { this.unmark(); this.look(); onChange(); };
    makeCombobox(this.field, this.field.nextElementSibling, { label: "Experts", search: (text) => this.#suggest(text, baseModel(this)), onPick: changed });
    this.field.addEventListener("change", changed);
  }

  get text() {
    return this.field.value.trim();
  }

  // As in a request.
  get asked() {
    const { adapter = this.text, revision } = parseInput(this.text) || {};
    return revision ? { adapter, revision } : adapter;
  }

  unmark() {
    unmarkField(this.field);
    this.node.querySelector(".remedy")?.remove();
  }

  // What is known of it, which also says whether it is there.
  async look() {
    const { adapter, revision } = parseInput(this.text) || {};
    this.known = null;
    this.facts.textContent = "";
    if (!adapter) return;
    const mine = this.text;
    try {
      const known = await call("GET", `adapters/${adapter}/${revision ? `?revision=${encodeURIComponent(revision)}` : ""}`);
      if (mine !== this.text) return;
      this.known = known;
      this.facts.textContent = factsOf(known);
    } catch (error) {
      // A name that is being typed is not a wrong one yet.
      if (mine === this.text && error.status === 404) markField(this.field, error.message);
    }
  }

  async #suggest(text, base) {
    const asked = { state: "ready", page_size: SUGGESTIONS, search: text, ...(base ? { base_model: base } : {}) };
    const { results } = await call("GET", `adapters/?${new URLSearchParams(asked)}`);
    return { options: results.map(({ name, base_model: of, facts }) => ({ value: name, note: base ? `rank ${facts.rank}` : of })), hint: base && !results.length ? `No expert of ${base} by that name.` : "" };
  }

  // A button below the problem, where a worker can compute what is missing.
  offer(kind) {
    this.node.querySelector(".remedy")?.remove();
    const button = el("button", { type: "button", class: "button small" }, REMEDIES[kind].press);
    const box = el("p", { class: "remedy row small" }, button);
    button.addEventListener("click", () => this.#compute(kind, box));
    this.node.append(box);
  }

  async #compute(kind, box) {
    const { adapter, revision } = parseInput(this.text);
    const line = el("span", { role: "status" }, "Asking for it …");
    box.replaceChildren(spinner(), line);
    try {
      const { job } = await call("POST", `adapters/${adapter}/prototypes/${kind}/${revision ? `?revision=${encodeURIComponent(revision)}` : ""}`);
      if (job) box.append(el("a", { href: `/jobs/${job.id}/` }, "Job"));
      const tell = (text) => { if (line.textContent !== text) line.textContent = text; };
      const ended = job && (await follow(job.id, { isWanted: () => box.isConnected, onJob: (now, isLate) => tell(stateOf(now, isLate)), onLost: ({ message }) => tell(message) }));
      if (job && ended?.status !== "succeeded") throw new Error(ended?.error?.message || "The job was cancelled.");
      unmarkField(this.field);
      box.replaceChildren(REMEDIES[kind].done);
    } catch (error) {
      if (!box.isConnected) return;
      this.offer(kind);
      markField(this.field, error.message);
      this.say(error.message);
    }
  }
}

export class Experts {
  constructor(list, template, { onChange, say }) {
    Object.assign(this, { list, template, onChange, say });
    list.addEventListener("click", ({ target }) => {
      if (target.dataset.part === "remove") this.#remove(target.closest("li").row);
    });
  }

  get rows() {
    return [...this.list.children].map(({ row }) => row);
  }

  get named() {
    return this.rows.filter(({ text }) => text);
  }

  get asked() {
    return this.named.map(({ asked }) => asked);
  }

  add(text = "") {
    const baseModel = (row) => this.named.filter((other) => other !== row).map(({ known }) => known?.base_model).find(Boolean) || "";
    const row = new Row(this.list, this.template, { baseModel, onChange: this.onChange, say: this.say });
    row.field.value = text;
    this.list.append(row.node);
    if (text) row.look();
    return row;
  }

  replace(texts) {
    this.list.replaceChildren();
    for (const text of texts.length ? texts : ["", ""]) this.add(text);
  }

  // What a refusal says of single experts, each beside it. `prototype`: what the router compares with. Returns what is about none.
  mark(problems, prototype) {
    const { named } = this;
    return problems.filter(({ where = "", code, message }) => {
      const row = named[where.match(/^adapters\[(\d+)\]/)?.[1]];
      if (!row) return true;
      const remedy = code === "missing_prototypes" && REMEDIES[prototype];
      markField(row.field, remedy ? remedy.lacks : message);
      if (remedy) row.offer(prototype);
      return false;
    });
  }

  unmark() {
    for (const row of this.rows) row.unmark();
  }

  #remove(row) {
    const { rows } = this;
    const next = rows[rows.indexOf(row) + 1] || rows[rows.indexOf(row) - 1];
    row.node.remove();
    (next || this.add()).field.focus();
    this.onChange();
  }
}
