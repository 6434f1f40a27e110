// A retrieval whose answer is the result of a job.

import { el } from "./api.js";
import { failure, jobIn } from "./job-box.js";

const ADVICE = { base_not_here: "Choose another base model or another router, or have whoever operates this site put the base model there." };

// Shows the job in `box` until it ends. Returns the answer; null where there is none, of which the box then tells.
export async function routeJob(id, { box, say, isWanted, again }) {
  say("A worker runs the base model.");
  const job = await jobIn(box, id, isWanted);
  if (!job) return null;
  if (job.status === "failed") box.replaceChildren(failure(job, ADVICE[job.error.code]));
  else if (!job.result?.results) {
    const anew = el("button", { type: "button", class: "button small" }, "Ask again");
    anew.addEventListener("click", again);
    box.replaceChildren(el("div", { class: "notice", role: "status" }, el("p", {}, job.status === "cancelled" ? "The job was cancelled." : "This job answers no question."), el("p", {}, anew)));
  } else return job.result;
  return null;
}
