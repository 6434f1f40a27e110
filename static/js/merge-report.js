// The page of a merge: how its inputs relate, its recipe as code, and a table of modules that sorts by any column.

import { el } from "./api.js";
import { matrixIn } from "./interference.js";
import { showSnippets } from "./snippets.js";

const valueOf = (row, column) => {
  const text = row.cells[column].textContent;
  const number = Number(text);
  return Number.isNaN(number) ? text : number;
};

const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));

function sort(table, heading, column) {
  const isAscending = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => ({ row, value: valueOf(row, column) }));
  keyed.sort((a, b) => (isAscending ? 1 : -1) * compare(a.value, b.value));
  body.append(...keyed.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = el("button", { type: "button", class: "sort" }, ...heading.childNodes);
    button.addEventListener("click", () => sort(table, heading, column));
    heading.append(button);
  });
}

const matrix = document.getElementById("matrix-data");
if (matrix) {
  const { names, measures } = JSON.parse(matrix.textContent);
  // An older report has the cosines only, which are there already.
  if (measures.overlap) matrixIn(document.getElementById("matrix"))(names, measures);
}

showSnippets(document.getElementById("snippets"), "merges/", JSON.parse(document.getElementById("recipe").textContent), { needsToken: true });
