// The query and the experts that were found for it, on the map of all experts.

import { el } from "./api.js";
import { ExpertMap, loadMap } from "./map.js";

async function draw(box, says, { matches, evidence }) {
  const data = await loadMap();
  if (data.version !== evidence.map.version) throw new Error("it has been drawn anew meanwhile. Ask again.");
  new ExpertMap({ box, says }, data, { found: matches.map(({ adapter }) => adapter), query: evidence.map });
}

// Null where the router does not say where the query is.
export function mapCard(result) {
  if (!result.evidence?.map) return null;
  const label = "Map of the experts with your query. Arrows walk over the experts, Enter opens one, plus and minus zoom, 0 shows the whole.";
  const box = el("div", { class: "map small-map", tabindex: "0", role: "application", "aria-roledescription": "map", "aria-label": label }, el("p", { class: "muted map-waits" }, "Drawing the map …"));
  const says = el("p", { class: "visually-hidden", role: "status" });
  const star = el("span", { class: "map-star", "aria-hidden": "true" }, "✦");
  const ring = el("span", { class: "map-ring", "aria-hidden": "true" });
  draw(box, says, result).catch((error) => {
    box.dataset.drawn = 0;
    box.replaceChildren(el("p", { class: "muted map-waits" }, `The map cannot be shown: ${error.message}`));
  });
  return el(
    "section",
    { class: "card", "aria-labelledby": "place-title" },
    el("h2", { id: "place-title" }, "On the map of the experts"),
    el("p", { class: "small muted legend" }, el("span", {}, star, "your query"), el("span", {}, ring, "the experts found"), el("span", {}, "Two directions cannot show every likeness: the scores know more.")),
    says,
    el("div", { class: "map-frame" }, box),
  );
}
