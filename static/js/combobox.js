// Search as you type: a text field with a list of suggestions, after the ARIA pattern of a combobox with a list popup.

import { el } from "./api.js";

const DELAY_MS = 200;
let count = 0;

// search(text) → Promise of {options: [{value, note}], hint}; onPick(value) after a choice.
export function makeCombobox(input, list, { label, search, onPick }) {
  count += 1;
  list.id = `options-${count}`;
  list.setAttribute("aria-label", label);
  input.setAttribute("aria-controls", list.id);
  let active = -1;
  let timer;
  let asked = 0;

  const options = () => [...list.querySelectorAll("[role=option]")];

  function close() {
    clearTimeout(timer);
    asked += 1;
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function point(index) {
    const found = options();
    active = found.length ? (index + found.length) % found.length : -1;
    found.forEach((option, place) => option.setAttribute("aria-selected", String(place === active)));
    if (active < 0) return;
    input.setAttribute("aria-activedescendant", found[active].id);
    found[active].scrollIntoView({ block: "nearest" });
  }

  function pick(option) {
    input.value = option.dataset.value;
    close();
    onPick(input.value);
  }

  function show({ options: found, hint }) {
    const items = found.map(({ value, note }, index) => {
      const item = el("li", { role: "option", id: `${list.id}-${index}`, "aria-selected": "false", "data-value": value }, el("span", {}, value), el("span", { class: "small muted" }, note));
      // Before the field loses the focus, and with it the list.
      item.addEventListener("mousedown", (event) => { event.preventDefault(); pick(item); });
      return item;
    });
    const note = hint || (found.length ? "" : "No expert of that name.");
    list.replaceChildren(...items, ...(note ? [el("li", { role: "presentation", class: "small muted combobox-note" }, note)] : []));
    list.hidden = false;
    active = -1;
    input.setAttribute("aria-expanded", String(found.length > 0));
  }

  async function suggest() {
    asked += 1;
    const mine = asked;
    const found = await search(input.value.trim()).catch(() => ({ options: [], hint: "The suggestions cannot be loaded." }));
    if (mine === asked && document.activeElement === input) show(found);
  }

  function later() {
    clearTimeout(timer);
    timer = setTimeout(suggest, DELAY_MS);
  }

  input.addEventListener("input", later);
  input.addEventListener("focus", () => { if (!input.value) later(); });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) suggest();
      else point(event.key === "ArrowDown" ? active + 1 : active < 0 ? -1 : active - 1);
    } else if (event.key === "Enter" && active >= 0) {
      event.preventDefault();
      pick(options()[active]);
    } else if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
    }
  });
}
