// The map on the first page.

import { el } from "./api.js";
import { ExpertMap, loadMap } from "./map.js";

const $ = (id) => document.getElementById(id);

async function start() {
  const data = await loadMap();
  const drawn = `${data.count < data.total ? "newest " : ""}${data.count.toLocaleString("en")}`;
  if (data.count < Number($("map").dataset.experts)) $("map-count").textContent = ` Drawn are the ${drawn} that have samples.`;
  const by = document.querySelector("[name=map-by]:checked").value;
  const map = new ExpertMap({ box: $("map"), says: $("map-says"), legend: $("map-legend") }, data, { by });
  for (const choice of document.querySelectorAll("[name=map-by]")) choice.addEventListener("change", () => map.colourBy(choice.value));
}

start().catch((error) => $("map").replaceChildren(el("p", { class: "muted map-waits", role: "alert" }, `The map cannot be drawn: ${error.message}`)));
