// What is missing of an expert's prototypes is asked for; the page of the job tells how it goes.

import { call, clearErrors, showError } from "./api.js";

for (const form of document.querySelectorAll("form.compute")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearErrors(form);
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const { job } = await call("POST", form.dataset.path);
      // Without a job it is there already.
      if (job) location.assign(`/jobs/${job.id}/`);
      else location.reload();
    } catch (error) {
      showError(form, error);
      button.disabled = false;
    }
  });
}
