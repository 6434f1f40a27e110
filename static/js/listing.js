// The list of experts: "/" goes to the search, and ticked experts stay ticked across pages and filters.
// Filters work without this file: htmx only saves the page from being loaded whole.

const KEY = "selected-experts";
const SHOWN = 3;

const read = () => {
  try {
    return new Set(JSON.parse(sessionStorage.getItem(KEY)) || []);
  } catch {
    return new Set();
  }
};
const selected = read();

function store() {
  try {
    sessionStorage.setItem(KEY, JSON.stringify([...selected]));
  } catch {
    // A browser without storage forgets the selection with the page.
  }
}

function show() {
  const form = document.getElementById("selection");
  if (!form) return;
  for (const box of form.querySelectorAll("input[name=input]:not([type=hidden])")) box.checked = selected.has(box.value);
  // Those on other pages are sent along.
  for (const extra of form.querySelectorAll("input[type=hidden]")) extra.remove();
  const here = new Set([...form.querySelectorAll("input[name=input]")].map((box) => box.value));
  for (const name of selected) {
    if (here.has(name)) continue;
    const extra = document.createElement("input");
    Object.assign(extra, { type: "hidden", name: "input", value: name });
    form.append(extra);
  }
  const names = [...selected];
  const more = names.length > SHOWN ? ` and ${names.length - SHOWN} more` : "";
  document.getElementById("selected").textContent = names.length
    ? `${names.length} selected: ${names.slice(0, SHOWN).join(", ")}${more}`
    : "Tick experts to merge or compare them.";
  document.getElementById("unselect").hidden = !names.length;
  for (const button of form.querySelectorAll("#selection-bar button:not([type=button])")) button.disabled = names.length < 2;
}

document.addEventListener("change", (event) => {
  const box = event.target;
  if (box.name !== "input" || box.type !== "checkbox") return;
  if (box.checked) selected.add(box.value);
  else selected.delete(box.value);
  store();
  show();
});

document.addEventListener("click", (event) => {
  if (event.target.id !== "unselect") return;
  selected.clear();
  store();
  show();
});

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
  event.preventDefault();
  const search = document.getElementById("search");
  search.focus();
  search.select();
});

document.addEventListener("htmx:afterSettle", show);
// Coming back by the history brings the page as it was left, boxes included.
addEventListener("pageshow", show);
show();
