// How an expert did on a prompt, as who is logged in says it: an outcome that rankings may learn from.

import { call, el } from "./api.js";

const CHOICES = [["Good", 1], ["Bad", 0]];

// match: of a retrieval; text: what it was found for. Null for visitors, whose word counts nothing.
export function judgement({ adapter, revision }, text, isLoggedIn) {
  if (!isLoggedIn || text === undefined) return null;
  let own = null; // the outcome that stands
  const says = el("span", { class: "small muted", role: "status" });
  const buttons = CHOICES.map(([label]) => el("button", { type: "button", class: "button small", "aria-pressed": "false", "aria-label": `${label}: ${adapter} on this prompt` }, label));
  const show = (score, words) => {
    CHOICES.forEach(([, value], index) => buttons[index].setAttribute("aria-pressed", String(value === score)));
    says.textContent = words;
  };

  // Pressed once more it is taken back.
  async function press(score) {
    try {
      if (own?.score === score) {
        await call("DELETE", `outcomes/${own.id}/`);
        own = null;
        show(null, "Taken back.");
      } else {
        own = await call("POST", "outcomes/", { adapter, revision, text, score });
        show(score, "Kept as an outcome; the text stays yours.");
      }
    } catch ({ message }) {
      show(own?.score ?? null, message);
    }
  }

  CHOICES.forEach(([, score], index) => buttons[index].addEventListener("click", () => press(score)));
  return el("p", { class: "judgement row small" }, el("span", { class: "muted" }, "Did it answer well?"), ...buttons, says);
}
