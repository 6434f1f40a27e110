// The inputs of a merge: a row each, with the expert, its revision and its weight.

import { call, unmarkField } from "./api.js";
import { makeCombobox } from "./combobox.js";
import { COLOURS } from "./shares.js";

const INPUT = /^([^:@]+)(?:@([^:@]+))?(?::(-?[0-9.eE+-]+))?$/;
const SUGGESTIONS = 10;
let rowCount = 0;

function parseNested(text) {
  try {
    const { recipe, weight = "" } = JSON.parse(text);
    return recipe && typeof recipe === "object" ? { recipe, weight } : null;
  } catch {
    return null;
  }
}

// `owner/name[@revision][:weight]`, as it stands in an address; an input that is a recipe is JSON there.
export function parseInput(text) {
  if (text.startsWith("{")) return parseNested(text);
  const [, adapter, revision = "", weight = ""] = text.match(INPUT) || [];
  return adapter ? { adapter, revision, weight } : null;
}

export const formatInput = ({ recipe, adapter, revision, weight }) => recipe ? JSON.stringify({ recipe, weight }) : adapter + (revision ? `@${revision}` : "") + (weight === undefined ? "" : `:${weight}`);

// "ties of ada/sql, bo/json"
function summary({ method, inputs }) {
  const names = Array.isArray(inputs) ? inputs.map((input) => input?.adapter || (input?.recipe ? `(${summary(input.recipe)})` : "?")) : ["a retrieval"];
  return `${method} of ${names.join(", ")}`;
}

class Row {
  constructor(list, template) {
    rowCount += 1;
    this.list = list;
    this.node = template.content.firstElementChild.cloneNode(true);
    this.node.row = this;
    [this.name, this.weight, this.slider] = this.node.querySelectorAll("input");
    this.revision = this.node.querySelector("select");
    this.facts = this.node.querySelector("[data-part=facts]");
    const fields = { adapter: this.name, revision: this.revision, weight: this.weight };
    Object.entries(fields).forEach(([part, field], index) => {
      field.id = `${part}-${rowCount}`;
      this.node.querySelectorAll("label")[index].htmlFor = field.id;
    });
    this.facts.id = `facts-${rowCount}`;
    this.name.dataset.hint = this.facts.id;
    this.name.setAttribute("aria-describedby", this.facts.id);
    this.#listen();
  }

  get adapter() {
    return this.name.value.trim();
  }

  // As in a request.
  get input() {
    const input = this.recipe ? { recipe: this.recipe } : { adapter: this.adapter };
    if (this.revision.value) input.revision = this.revision.value;
    if (this.weight.value !== "") input.weight = Number(this.weight.value);
    return input;
  }

  fill({ recipe, adapter = "", revision = "", weight = "" }) {
    if (recipe) this.#hold(recipe);
    // A pasted owner/name@revision:weight fills all three.
    else this.name.value = adapter;
    if (revision) this.pin(revision);
    this.weight.value = weight;
  }

  // An input that is a recipe itself: its weight and its place are changed here, the rest in the text.
  #hold(recipe) {
    this.recipe = recipe;
    this.name.value = summary(recipe);
    this.name.readOnly = true;
    this.node.classList.add("nested");
    this.node.querySelector(".expert label").lastChild.textContent = "Recipe";
  }

  pin(revision) {
    if (![...this.revision.options].some(({ value }) => value === revision)) this.revision.add(new Option(revision.slice(0, 10), revision));
    this.revision.value = revision;
  }

  // known: what the preview says of this input, or null; `fallback`: the weight where none is given.
  describe(known, norm, fallback) {
    const said = known && this.recipe ? ["a recipe in the recipe: change it in the text"] : known && [known.base_model || "base not stated", known.rank && `rank ${known.rank}`, known.dtype, known.license, known.visibility === "private" ? "private" : "", norm !== null && `‖ΔW‖ ${Number(norm.toPrecision(3))}`];
    this.facts.textContent = said ? said.filter(Boolean).join(" · ") : "";
    this.facts.hidden = !said;
    this.weight.placeholder = String(Number(fallback.toPrecision(3)));
    this.slider.value = this.weight.value === "" ? fallback : this.weight.value;
  }

  // As its part of the bars; an input without a name, -1, has none.
  colour(index) {
    const key = this.node.querySelector(".share-key");
    key.hidden = index < 0;
    key.className = `share-key share-${index % COLOURS}`;
  }

  label(position, count) {
    const who = this.adapter || `input ${position}`;
    const names = { up: `Move ${who} up`, down: `Move ${who} down`, remove: `Remove ${who}` };
    for (const [part, name] of Object.entries(names)) this.button(part).setAttribute("aria-label", name);
    this.slider.setAttribute("aria-label", `Slider for the weight of ${who}`);
    this.button("up").disabled = position === 1;
    this.button("down").disabled = position === count;
  }

  button(part) {
    return this.node.querySelector(`[data-part=${part}]`);
  }

  // That a problem of `part` is about.
  field(part) {
    return { revision: this.revision, weight: this.weight }[part] || this.name;
  }

  unmark() {
    for (const field of [this.name, this.revision, this.weight]) unmarkField(field);
  }

  #listen() {
    makeCombobox(this.name, this.node.querySelector("[role=listbox]"), {
      label: "Experts",
      search: (text) => this.list.suggest(text, this),
      onPick: () => { this.#reset(); this.list.onChange(); },
    });
    this.name.addEventListener("paste", () => setTimeout(() => this.#split()));
    this.name.addEventListener("input", () => this.#reset());
    this.revision.addEventListener("focus", () => this.#loadRevisions());
    this.slider.addEventListener("input", () => {
      this.weight.value = this.slider.value;
      this.list.onWeight(this);
    });
    this.weight.addEventListener("input", () => this.list.onWeight(this));
    for (const [part, step] of [["up", -1], ["down", 1]]) this.button(part).addEventListener("click", () => this.list.move(this, step));
    this.button("remove").addEventListener("click", () => this.list.remove(this));
  }

  #split() {
    const found = parseInput(this.adapter);
    if (found && (found.revision || found.weight)) {
      this.fill(found);
      this.list.onChange();
    }
  }

  // Another expert has other revisions.
  #reset() {
    if (this.loaded === this.adapter) return;
    this.loaded = undefined;
    this.revision.replaceChildren(new Option("main", ""));
  }

  async #loadRevisions() {
    const { adapter } = this;
    if (!adapter || this.loaded === adapter) return;
    const path = adapter.split("/").map(encodeURIComponent).join("/");
    const { results } = await call("GET", `adapters/${path}/revisions/?page_size=50`).catch(() => ({ results: [] }));
    if (this.adapter !== adapter) return;
    this.loaded = adapter;
    const chosen = this.revision.value;
    const ready = results.filter(({ state }) => state === "ready");
    const option = ({ revision, created_at: at, message }) => new Option([revision.slice(0, 10), at.slice(0, 10), message].filter(Boolean).join(" · "), revision);
    this.revision.replaceChildren(new Option("main", ""), ...ready.map(option));
    if (chosen) this.pin(chosen);
  }
}

export class Inputs {
  // onChange after every change; say(text) for what is not seen; baseModel() narrows the suggestions.
  constructor(node, template, { onChange, say, baseModel, isRelative }) {
    Object.assign(this, { node, template, onChange, say, baseModel, isRelative });
  }

  get rows() {
    return [...this.node.children].map(({ row }) => row);
  }

  // Rows that name an expert: the inputs of the request, in its order.
  get named() {
    return this.rows.filter(({ adapter }) => adapter);
  }

  add(input = {}) {
    const row = new Row(this, this.template);
    row.fill(input);
    this.node.append(row.node);
    return row;
  }

  replace(inputs) {
    this.node.replaceChildren();
    for (const input of inputs) this.add(input);
    while (this.rows.length < 2) this.add();
  }

  remove(row) {
    const place = this.rows.indexOf(row);
    row.node.remove();
    if (!this.rows.length) this.add();
    const next = this.rows[Math.min(place, this.rows.length - 1)];
    next.name.focus();
    this.say(`${row.adapter || "The empty input"} removed. ${this.named.length} left.`);
    this.onChange();
  }

  move(row, step) {
    const { rows } = this;
    const place = rows.indexOf(row) + step;
    if (step < 0) rows[place].node.before(row.node);
    else rows[place].node.after(row.node);
    const button = row.button(step < 0 ? "up" : "down");
    this.onChange();
    (button.disabled ? row.button(step < 0 ? "down" : "up") : button).focus();
    this.say(`${row.adapter || "The empty input"} is now input ${place + 1} of ${rows.length}.`);
  }

  // Relative weights mean nothing alone: the others get theirs when the first one is given.
  onWeight(row) {
    if (this.isRelative() && row.weight.value !== "") for (const other of this.named) if (other.weight.value === "") other.weight.value = 1;
    this.onChange();
  }

  async suggest(text, row) {
    const base = this.named.some((other) => other !== row) ? this.baseModel(row) : "";
    const query = new URLSearchParams({ state: "ready", page_size: SUGGESTIONS, search: text, ...(base ? { base_model: base } : { ordering: "-downloads" }) });
    const { results } = await call("GET", `adapters/?${query}`);
    const taken = new Set(this.named.filter((other) => other !== row).map(({ adapter }) => adapter));
    // A word may stand in a description, too; who types a name means the name.
    const isMeant = ({ name }) => name.includes(text);
    const free = results.filter(({ name }) => !taken.has(name)).sort((a, b) => isMeant(b) - isMeant(a));
    const options = free.map(({ name, base_model: model, facts }) => ({ value: name, note: [base ? "" : model, facts?.rank && `rank ${facts.rank}`].filter(Boolean).join(" · ") }));
    return { options, hint: base ? `${options.length ? "Only" : "No other"} experts of ${base}, the other inputs' base model.` : "" };
  }
}
