// Tables with data-sortable are ordered by the column whose head is pressed; a second press turns the order round.

const compare = new Intl.Collator("en", { numeric: true }).compare;

const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;

function sort(head) {
  const table = head.closest("table");
  const column = head.cellIndex;
  const isNumber = head.classList.contains("number");
  const wasSorted = head.getAttribute("aria-sort");
  // Numbers begin with the largest, names with A.
  const isDescending = wasSorted === "ascending" || (wasSorted !== "descending" && isNumber);
  for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
  const order = (a, b) => (isNumber ? value(a, column) - value(b, column) : compare(value(a, column), value(b, column)));
  const rows = [...table.tBodies[0].rows].sort((a, b) => (isDescending ? order(b, a) : order(a, b)));
  table.tBodies[0].append(...rows);
}

document.addEventListener("click", (event) => {
  const head = event.target.closest("table[data-sortable] thead button")?.closest("th");
  if (head) sort(head);
});

// A browser leaves a head where it is when the least bit of it can be seen.
document.addEventListener("focusin", (event) => {
  if (event.target.closest("table[data-sortable] thead")) event.target.scrollIntoView({ inline: "nearest", block: "nearest" });
});
