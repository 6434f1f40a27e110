// The map of experts: zoomed and moved by mouse, fingers and keys; a click or Enter opens an expert.

import { call, el } from "./api.js";
import { colour } from "./charts/theme.js";
import { Drawing, swatch } from "./map/drawing.js";
import { GROUPS, Points } from "./map/points.js";

const REACH = 14;
const STEP = 1.5;
const FARTHEST = 60;
const STILL = 5;
const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

export const loadMap = () => call("GET", "map/");

const address = (name) => `/adapters/${name.split("/").map(encodeURIComponent).join("/")}/`;

export class ExpertMap {
  // parts: {box, says, legend}. found: names of experts to stand out, in their order; query: {x, y} as a retrieval tells them.
  constructor({ box, says, legend }, data, { by = "base_model", found = null, query = null } = {}) {
    Object.assign(this, { box, says, legend, current: -1, only: null, pointers: new Map() });
    this.points = new Points(data);
    const placeOf = new Map(this.points.names.map((name, place) => [name, place]));
    this.found = found && new Map(found.filter((name) => placeOf.has(name)).map((name, rank) => [placeOf.get(name), rank]));
    this.plainQuery = query && [query.x, -query.y];
    this.tip = el("div", { class: "map-tip small", "aria-hidden": "true", hidden: true });
    const canvases = [0, 1].map(() => el("canvas", { "aria-hidden": "true" }));
    box.replaceChildren(...canvases, this.tip);
    box.after(this.#buttons());
    this.drawing = new Drawing(canvases);
    this.colourBy(by);
    this.#listen();
  }

  colourBy(by) {
    this.only = null;
    Object.assign(this, this.points.groupBy(by));
    this.#restyle();
  }

  #restyle() {
    this.colours = Array.from({ length: GROUPS + 1 }, (_, group) => colour(group < GROUPS ? `series-${group + 1}` : "line-strong"));
    if (this.found) this.colours.fill(colour("line-strong"));
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    this.palette = { accent: colour("accent"), warn: colour("bad"), text: colour("text"), muted: colour("muted"), surface: colour("surface"), font };
    this.#showLegend();
    this.#later();
  }

  #showLegend() {
    if (!this.legend) return;
    const items = this.groups.map(({ name, count }, group) => {
      const canvas = el("canvas", { class: "swatch", width: 32, height: 32, "aria-hidden": "true" });
      swatch(canvas, group, this.colours[group]);
      const button = el("button", { type: "button", class: "chip", "aria-pressed": String(this.only === group) }, canvas, `${name} · ${count.toLocaleString("en")}`);
      button.addEventListener("click", () => { this.only = this.only === group ? null : group; this.#showLegend(); this.legend.children[group].firstElementChild.focus(); this.#later(); });
      return el("li", {}, button);
    });
    this.legend.replaceChildren(...(items.length > 1 ? items : []));
  }

  #buttons() {
    const make = (text, label, action) => {
      const button = el("button", { type: "button", class: "button small", "aria-label": label, title: label }, text);
      button.addEventListener("click", action);
      return button;
    };
    return el("div", { class: "map-buttons" }, make("+", "Zoom in", () => this.zoom(STEP)), make("−", "Zoom out", () => this.zoom(1 / STEP)), make("Whole map", "Whole map", () => this.whole()));
  }

  whole() {
    const { width, height } = this.drawing;
    const { left, right, top, bottom, by } = this.points.stretch(width / height, this.plainQuery ? [this.plainQuery] : []);
    this.query = this.plainQuery && [this.plainQuery[0] * by, this.plainQuery[1]];
    const k = Math.min(width / (right - left), height / (bottom - top));
    this.least = k;
    this.view = { k, x: (width - k * (left + right)) / 2, y: (height - k * (top + bottom)) / 2 };
    this.#moved();
  }

  // About the middle, or the place (x, y) of the box.
  zoom(factor, x = this.drawing.width / 2, y = this.drawing.height / 2) {
    const k = Math.min(FARTHEST * this.least, Math.max(this.least, this.view.k * factor));
    if (k === this.least) return this.whole();
    const by = k / this.view.k;
    this.view = { k, x: x - by * (x - this.view.x), y: y - by * (y - this.view.y) };
    return this.#moved();
  }

  #moved() {
    this.box.classList.toggle("zoomed", this.view.k > this.least);
    this.point(this.current);
    this.#later();
  }

  // `isMark`: only what is pointed at has changed.
  #later(isMark = false) {
    this.isStale ||= !isMark;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (!this.drawing.fit()) return;
      if (!this.view) this.whole();
      const size = this.points.count > 3000 ? 2.4 : this.points.count > 400 ? 3.4 : 5.5;
      const scene = { ...this, radius: size * Math.min(2, (this.view.k / this.least) ** 0.35) };
      if (this.isStale) this.seen = this.drawing.draw(scene);
      this.drawing.mark(scene, this.seen);
      this.isStale = false;
      this.box.dataset.drawn = this.points.count;
    });
  }

  // Shows which point is meant; -1 for none.
  point(place) {
    if (this.current !== place) this.#later(true);
    this.current = place;
    this.tip.hidden = place < 0;
    if (place < 0 || !this.view) return;
    const { columns, names } = this.points;
    this.tip.replaceChildren(el("strong", {}, names[place]), el("span", {}, columns.base_models[columns.base_model[place]] || "base model not stated"), columns.tags[columns.tag[place]] ? el("span", {}, columns.tags[columns.tag[place]]) : "");
    const [x, y] = [this.points.x[place] * this.view.k + this.view.x, this.points.y[place] * this.view.k + this.view.y];
    const half = this.tip.offsetWidth / 2;
    this.tip.style.left = `${Math.min(this.drawing.width - half - 4, Math.max(half + 4, x))}px`;
    this.tip.style.top = `${y}px`;
    this.tip.classList.toggle("below", y < this.tip.offsetHeight + 16);
  }

  #under({ clientX, clientY }) {
    const box = this.box.getBoundingClientRect();
    const [x, y] = [clientX - box.left, clientY - box.top];
    return { x, y, place: this.points.nearest((x - this.view.x) / this.view.k, (y - this.view.y) / this.view.k, REACH / this.view.k) };
  }

  open(place = this.current) {
    if (place >= 0) location.assign(address(this.points.names[place]));
  }

  #listen() {
    new ResizeObserver(() => { this.view = null; this.#later(); }).observe(this.box);
    const { box } = this;
    box.addEventListener("pointerdown", (event) => {
      box.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, event);
      this.travelled = 0;
    });
    box.addEventListener("pointermove", (event) => this.#drag(event));
    for (const name of ["pointerup", "pointercancel"]) {
      box.addEventListener(name, (event) => {
        const isClick = this.pointers.size === 1 && name === "pointerup" && this.travelled < STILL;
        this.pointers.delete(event.pointerId);
        if (isClick) this.open(this.#under(event).place);
      });
    }
    box.addEventListener("pointerleave", () => { if (!this.pointers.size) this.point(-1); });
    box.addEventListener("blur", () => this.point(-1));
    // Without a key, the wheel scrolls the page; a pinch on a touchpad comes with one.
    box.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const { x, y } = this.#under(event);
      this.zoom(Math.exp(-event.deltaY / 200), x, y);
    }, { passive: false });
    box.addEventListener("keydown", (event) => this.#key(event));
    const restyle = () => this.#restyle();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
    document.addEventListener("themechange", restyle);
  }

  #drag(event) {
    if (!this.view) return;
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.point(this.#under(event).place);
      this.box.classList.toggle("over", this.current >= 0);
      return;
    }
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    this.travelled += Math.hypot(dx, dy);
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size === 1) {
      if (this.view.k === this.least) return;
      this.view = { ...this.view, x: this.view.x + dx, y: this.view.y + dy };
      this.#moved();
    } else if (this.pointers.size === 2) this.#pinch(before, event);
  }

  #pinch(before, event) {
    const other = [...this.pointers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
    const spread = ({ clientX, clientY }) => Math.hypot(clientX - other.clientX, clientY - other.clientY) || 1;
    const { x, y } = this.#under({ clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 });
    this.zoom(spread(event) / spread(before), x, y);
  }

  #key(event) {
    if (!this.view) return;
    const zoom = { "+": STEP, "=": STEP, "-": 1 / STEP }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter") this.open();
    else if (event.key === "Escape") this.point(-1);
    else if (event.key === "0") this.whole();
    else if (zoom) this.zoom(zoom);
    else if (ARROWS[event.key]) this.#walk(...ARROWS[event.key]);
    else return;
    event.preventDefault();
  }

  // From the middle of what is seen to the nearest point in a direction, and on; what lies outside is brought into view.
  #walk(dx, dy) {
    const { width, height } = this.drawing;
    const middle = () => this.points.nearest((width / 2 - this.view.x) / this.view.k, (height / 2 - this.view.y) / this.view.k);
    const place = this.current < 0 ? middle() : this.points.neighbour(this.current, dx, dy);
    const [x, y] = [this.points.x[place] * this.view.k + this.view.x, this.points.y[place] * this.view.k + this.view.y];
    if (x < 0 || y < 0 || x > width || y > height) this.view = { ...this.view, x: this.view.x + width / 2 - x, y: this.view.y + height / 2 - y };
    this.current = place;
    this.#moved();
    this.#later();
    if (this.says) this.says.textContent = this.points.names[place];
  }
}
