// What would come of the recipe: ready or refused, on its way, or not to be had.

import { el } from "./api.js";

// An answer that comes sooner needs no word before it.
export const PATIENCE_MS = 200;

const list = (items) => el("ul", {}, ...items.map((text) => el("li", {}, text)));

function headline({ mergeable, problems, warnings, inputs, rank }, unplaced) {
  if (!mergeable) {
    const count = problems.length;
    return `${count === 1 ? "1 problem stands" : `${count} problems stand`} in the way${unplaced.length === count ? ":" : `, ${count === 1 ? "" : "each "}shown beside its cause.`}`;
  }
  const known = inputs.filter(Boolean);
  const noun = known.some((input) => input.recipe) ? "input" : "expert";
  const experts = `${known.length} ${noun}${known.length === 1 ? "" : "s"}`;
  const ready = warnings.some(({ code }) => code === "base_needed") ? "Ready if a worker has the base model" : "Ready";
  return `${ready}: ${experts} of ${known[0].base_model || "an unnamed base"}${rank === null ? "" : ` ${known.length === 1 ? "becomes" : "become"} one of rank ${rank}`}.`;
}

export class Verdict {
  // onTake: gets the method that is suggested, when somebody takes it.
  constructor(box, onTake) {
    this.box = box;
    this.onTake = onTake;
  }

  nothing() {
    this.#say("small muted", el("p", {}, "Name the experts to merge."));
  }

  // What stands here is about the recipe before; it keeps its place, so that nothing below it moves.
  wait() {
    clearTimeout(this.timer);
    if (this.box.classList.contains("checking")) return;
    this.timer = setTimeout(() => {
      const height = this.box.offsetHeight;
      this.#say("notice checking", el("p", {}, "Checking …"));
      this.box.style.minHeight = `${height}px`;
    }, PATIENCE_MS);
  }

  // unplaced: problems that stand nowhere else; warnings: sentences.
  show(preview, unplaced, warnings) {
    const parts = [el("p", {}, headline(preview, unplaced))];
    if (unplaced.length) parts.push(list(unplaced.map(({ message }) => message)));
    if (warnings.length) parts.push(list(warnings));
    if (preview.suggestion) parts.push(this.#suggest(preview.suggestion));
    this.#say(`notice ${preview.mergeable ? (warnings.length ? "warn" : "good") : "bad"}`, ...parts);
  }

  #suggest({ method, title, message }) {
    const take = el("button", { type: "button", class: "button small" }, `Take ${title}`);
    take.addEventListener("click", () => this.onTake(method));
    return el("p", { class: "suggestion" }, `${message} `, take);
  }

  fail(text, retry) {
    const again = el("button", { type: "button", class: "button small" }, "Try again");
    again.addEventListener("click", retry);
    this.#say("notice bad", el("p", {}, text), again);
  }

  #say(kind, ...parts) {
    clearTimeout(this.timer);
    // The button that was pressed here goes away, and the focus must not go with it.
    if (this.box.contains(document.activeElement)) this.box.focus({ preventScroll: true });
    this.box.style.minHeight = "";
    this.box.className = `verdict ${kind}`;
    this.box.replaceChildren(...parts);
  }
}
