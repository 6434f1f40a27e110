// The owner's controls on an adapter's page.

import { call, clearErrors, showError } from "./api.js";

const form = document.getElementById("owner-form");
const yank = document.getElementById("yank-form");
const path = `adapters/${form.dataset.adapter}/`;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  clearErrors(form);
  const { visibility, description, license, tags } = form.elements;
  try {
    await call("PATCH", path, {
      visibility: visibility.value,
      description: description.value.trim(),
      license: license.value.trim(),
      tags: tags.value.split(",").map((tag) => tag.trim()).filter(Boolean),
    });
    location.reload();
  } catch (error) {
    showError(form, error);
  }
});

yank.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await call("DELETE", path);
    location.assign("/adapters/");
  } catch (error) {
    showError(yank, error);
  }
});
