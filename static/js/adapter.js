// The owner's tools on an adapter's page.

import { ApiError, call, clearErrors, csrfToken, markField, showError } from "./api.js";

const form = document.getElementById("owner-form");
const yank = document.getElementById("yank-form");
const samples = document.getElementById("samples-form");
const name = form.dataset.adapter;
const path = `adapters/${name}/`;

// One request at a time: the button is off while it runs.
function onSubmit(target, send) {
  target?.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearErrors(target);
    const button = target.querySelector("button");
    button.disabled = true;
    try {
      await send();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      showError(target, error);
    } finally {
      button.disabled = false;
    }
  });
}

onSubmit(form, async () => {
  const { visibility, description, license, tags, samples_public } = form.elements;
  await call("PATCH", path, {
    visibility: visibility.value,
    description: description.value.trim(),
    license: license.value.trim(),
    tags: tags.value.split(",").map((tag) => tag.trim()).filter(Boolean),
    samples_public: samples_public.checked,
  });
  location.reload();
});

onSubmit(samples, async () => {
  const body = new FormData();
  body.append("samples.jsonl", samples.elements["samples.jsonl"].files[0], "samples.jsonl");
  let answer;
  try {
    answer = await fetch(`/api/v1/${path}samples/`, { method: "POST", headers: { "X-CSRFToken": csrfToken() }, body });
  } catch {
    throw new ApiError(0, { message: "The server cannot be reached. Check your connection and try again." });
  }
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new ApiError(answer.status, data);
  location.assign(`/jobs/${data.job.id}/`);
});

onSubmit(yank, async () => {
  const { confirm } = yank.elements;
  if (confirm.value.trim() !== name) {
    markField(confirm, "This is not the name of the expert.");
    confirm.focus();
    return;
  }
  await call("DELETE", path);
  location.reload();
});
