// Before the first paint, so that the page never flashes: the colours that a person has chosen. See site.js.
try {
  document.documentElement.dataset.theme = localStorage.getItem("theme") || "";
} catch {
  // No storage: the system's colours.
}
