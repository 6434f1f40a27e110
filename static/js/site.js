// On every page: Copy buttons, the hint that a table goes on sideways, and the choice of colours.

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy) || button.parentElement.querySelector("code");
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    // No clipboard on plain http: select the text, so that Ctrl+C is enough.
    getSelection().selectAllChildren(source);
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => (button.textContent = before), 2000);
});

const tell = (box) => box.classList.toggle("goes-on", Math.ceil(box.scrollLeft + box.clientWidth) < box.scrollWidth);
// A node that has left its box, or the page, is told of once more.
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const box = target.closest(".scroll");
    if (box) tell(box);
    else sizes.unobserve(target);
  }
});
document.addEventListener("scroll", ({ target }) => target.matches?.(".scroll") && tell(target), { capture: true, passive: true });
function watch(part) {
  for (const box of part.querySelectorAll(".scroll")) for (const node of [box, ...box.children]) sizes.observe(node);
}
watch(document);
document.addEventListener("htmx:load", ({ detail }) => watch(detail.elt.parentElement));

const theme = document.getElementById("theme");
const choice = theme.querySelector("select");
choice.value = document.documentElement.dataset.theme || "";
theme.hidden = false;
choice.addEventListener("change", () => {
  document.documentElement.dataset.theme = choice.value;
  // Charts are drawn in plain colours and have to be drawn again.
  document.dispatchEvent(new Event("themechange"));
  try {
    localStorage.setItem("theme", choice.value);
  } catch {
    // No storage: the choice lasts as long as the page.
  }
});
