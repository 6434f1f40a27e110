// A job in the place of what will come of it: where it stands, until it has ended.

import { call, el } from "./api.js";
import { follow, isOpen, stateOf } from "./follow.js";

export const spinner = () => el("span", { class: "spinner", "aria-hidden": "true" });

function card(id) {
  const state = el("p", { class: "waiting" });
  const bar = el("progress", { class: "bar", max: 1, value: 0, "aria-label": "Progress of the job" });
  const line = el("p", { class: "small muted job-line" });
  const cancel = el("button", { type: "button", class: "button small danger" }, "Cancel");
  cancel.addEventListener("click", () => call("POST", `jobs/${id}/cancel/`).catch(() => {}));
  const actions = el("p", { class: "row" }, el("a", { class: "button small", href: `/jobs/${id}/` }, "Job"), cancel);
  return { node: el("div", { class: "card route-job" }, state, bar, line, actions), state, bar, line };
}

// Shows the job in `box`. Returns it once it has ended; null where nobody wants to know any more.
export async function jobIn(box, id, isWanted) {
  const shown = card(id);
  box.replaceChildren(shown.node);
  const onJob = (job, isLate) => {
    shown.state.replaceChildren(...(isOpen(job) ? [spinner()] : []), stateOf(job, isLate));
    shown.bar.value = job.progress;
    shown.line.textContent = job.log.at(-1)?.message || "";
  };
  const onLost = (error) => shown.state.replaceChildren(spinner(), `${error.message} The job goes on without this page, which keeps trying.`);
  return follow(id, { isWanted, onJob, onLost });
}

// Why it failed, and what to do.
export function failure({ error, id }, advice = "") {
  return el(
    "div",
    { class: "notice bad", role: "alert" },
    el("p", {}, error.message, " ", el("code", {}, error.code)),
    el("p", {}, advice, " ", el("a", { href: `/jobs/${id}/` }, "What the job did")),
  );
}
