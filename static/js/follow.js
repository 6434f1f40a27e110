// Follows a job to its end, through lost connections.

import { call } from "./api.js";

const POLL_MS = 1000;
const PATIENCE_MS = 8000;
const WORDS = { queued: "Waiting for a worker …", succeeded: "Done.", failed: "It failed.", cancelled: "It was cancelled." };

export const isOpen = ({ status }) => status === "queued" || status === "running";

// Where a job stands, as a sentence.
export function stateOf(job, isLate) {
  if (job.status === "running") return `Running, ${Math.round(job.progress * 100)} % …`;
  return WORDS[job.status] + (isLate ? " None has taken it yet; the job’s page says whether one is running." : "");
}

// `onJob(job, isLate)` is told of every look at the job, `onLost(error)` of those that failed, until `isWanted()` says no.
// Returns the job that has ended, or null where nobody wants to know any more. Throws what the server refuses.
export async function follow(id, { isWanted, onJob, onLost }) {
  const since = Date.now();
  while (isWanted()) {
    const job = await call("GET", `jobs/${id}/`).catch((error) => {
      if (error.status !== 0 && error.status < 500) throw error;
      if (isWanted()) onLost(error);
    });
    if (job && isWanted()) {
      onJob(job, job.status === "queued" && Date.now() - since > PATIENCE_MS);
      if (!isOpen(job)) return job;
    }
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
  return null;
}
