// Points on a canvas: each kind of point is drawn once, and its pixels are then set wherever one is, which takes a
// millisecond or two for ten thousand points, with or without a graphics card.

const SHAPES = ["circle", "square", "triangle", "diamond", "circle", "square", "triangle", "circle"];
const FAINT = 0.16;
const LABELLED = 40;

function outline(context, shape, middle, radius) {
  context.beginPath();
  if (shape === "circle") context.arc(middle, middle, radius, 0, 2 * Math.PI);
  else if (shape === "square") context.rect(middle - 0.86 * radius, middle - 0.86 * radius, 1.72 * radius, 1.72 * radius);
  else {
    const corners = shape === "triangle" ? [[0, -1.15], [1, 0.75], [-1, 0.75]] : [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]];
    for (const [x, y] of corners) context.lineTo(middle + radius * x, middle + radius * y);
  }
  context.closePath();
}

// A point of a group as those pixels of a square that it covers; `radius` in pixels of the device.
function stamp(group, radius) {
  const side = Math.ceil(2.6 * radius) + 2;
  const context = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  outline(context, SHAPES[group], side / 2, radius);
  context.fill();
  const opacity = context.getImageData(0, 0, side, side).data.filter((_, index) => index % 4 === 3);
  const covered = [...opacity.keys()].filter((place) => opacity[place] > 8);
  return { side, rows: covered.map((place) => Math.floor(place / side)), columns: covered.map((place) => place % side), opacity: Float64Array.from(covered, (place) => opacity[place]) };
}

// A point of a group in a legend.
export function swatch(canvas, group, colour) {
  const context = canvas.getContext("2d");
  outline(context, SHAPES[group], canvas.width / 2, canvas.width * 0.32);
  context.fillStyle = colour;
  context.fill();
}

// "rgb(1, 2, 3)" as a pixel of alpha 0; the bytes of a pixel are red, green, blue, alpha from the lowest.
const pixelOf = (colour) => colour.match(/\d+/g).slice(0, 3).reduce((pixel, value, place) => pixel | (Number(value) << (8 * place)), 0);

// Sets a stamp on pixels of a picture; what lies over another point has its colour, and is the more opaque.
function press(pixels, width, height, { side, rows, columns, offsets, opacity }, left, top, colour, strength) {
  const isWhole = left >= 0 && top >= 0 && left + side <= width && top + side <= height;
  const start = top * width + left;
  for (let i = 0; i < offsets.length; i += 1) {
    if (!isWhole && (left + columns[i] < 0 || left + columns[i] >= width || top + rows[i] < 0 || top + rows[i] >= height)) continue;
    const place = start + offsets[i];
    const before = pixels[place] >>> 24;
    pixels[place] = colour | ((before + ((255 - before) * opacity[i] * strength) / 255) << 24);
  }
}

// A star of four points: where the query is.
function star(context, x, y, size) {
  context.beginPath();
  for (let corner = 0; corner < 8; corner += 1) {
    const reach = corner % 2 ? size * 0.38 : size;
    context.lineTo(x + reach * Math.sin((corner * Math.PI) / 4), y - reach * Math.cos((corner * Math.PI) / 4));
  }
  context.closePath();
}

// Two canvases, one above the other: what is pointed at changes often, and the points need not be drawn anew for it.
export class Drawing {
  constructor(canvases) {
    this.canvases = canvases;
    this.points = canvases[0].getContext("2d", { willReadFrequently: true });
    this.context = canvases[1].getContext("2d");
    this.stamps = new Map();
  }

  // Returns whether there is room to draw in.
  fit() {
    this.ratio = devicePixelRatio || 1;
    const [{ clientWidth, clientHeight }] = this.canvases;
    Object.assign(this, { width: clientWidth, height: clientHeight });
    const [width, height] = [Math.round(clientWidth * this.ratio), Math.round(clientHeight * this.ratio)];
    for (const canvas of this.canvases) if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    return width > 0 && height > 0;
  }

  // scene: {points, of, groups, view: {k, x, y}, radius, colours, only, found, palette}. Returns the points in sight, a few at most.
  draw(scene) {
    const { points, view } = scene;
    const [{ width, height }] = this.canvases;
    const stamps = scene.groups.map((_, group) => this.#stamp(group, scene.radius * this.ratio, width));
    const colours = scene.colours.map(pixelOf);
    const [k, left, top] = [view.k * this.ratio, view.x * this.ratio, view.y * this.ratio];
    const seen = [];
    if (this.image?.width !== width || this.image.height !== height) this.image = this.points.createImageData(width, height);
    const pixels = new Uint32Array(this.image.data.buffer);
    pixels.fill(0);
    const isFaint = (group) => (scene.only !== null && scene.only !== group) || Boolean(scene.found);
    // The faint ones first, below the others.
    for (const faint of [true, false]) {
      const strength = faint ? FAINT * (scene.found ? 2.5 : 1) : 0.85;
      for (let i = 0; i < points.count; i += 1) {
        const group = scene.of[i];
        if (isFaint(group) !== faint) continue;
        const { side } = stamps[group];
        const x = Math.round(points.x[i] * k + left - side / 2);
        const y = Math.round(points.y[i] * k + top - side / 2);
        if (x <= -side || y <= -side || x >= width || y >= height) continue;
        press(pixels, width, height, stamps[group], x, y, colours[group], strength);
        if (!faint && seen.length <= LABELLED) seen.push(i);
      }
    }
    this.points.putImageData(this.image, 0, 0);
    return seen;
  }

  // Steps of a quarter of a pixel are too small to be seen.
  #stamp(group, radius, width) {
    const size = Math.round(4 * radius) / 4;
    const key = `${SHAPES[group]} ${size} ${width}`;
    if (!this.stamps.has(key)) {
      const made = stamp(group, size);
      this.stamps.set(key, { ...made, offsets: Int32Array.from(made.rows, (row, i) => row * width + made.columns[i]) });
    }
    return this.stamps.get(key);
  }

  // scene: as for draw, with {query, current}; `seen` is what draw returned.
  mark(scene, seen) {
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.clearRect(0, 0, this.canvases[1].width, this.canvases[1].height);
    this.context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    this.#overlay(scene, seen);
  }

  #overlay(scene, inside) {
    const { context } = this;
    const place = (i) => [scene.points.x[i] * scene.view.k + scene.view.x, scene.points.y[i] * scene.view.k + scene.view.y];
    const found = scene.found ? [...scene.found.keys()] : [];
    for (const i of found) this.#ring(...place(i), scene.radius + 3, scene.palette.accent, scene.palette.accent);
    if (scene.query) {
      const [x, y] = [scene.query[0] * scene.view.k + scene.view.x, scene.query[1] * scene.view.k + scene.view.y];
      star(context, x, y, 11);
      Object.assign(context, { fillStyle: scene.palette.warn, strokeStyle: scene.palette.surface, lineWidth: 1.5 });
      context.fill();
      context.stroke();
    }
    if (scene.current >= 0) this.#ring(...place(scene.current), scene.radius + 4, scene.palette.text);
    const named = scene.found ? found : inside.length <= LABELLED ? inside : [];
    this.#labels(named.map((i) => [...place(i), scene.points.names[i].split("/")[1]]), scene);
  }

  #ring(x, y, radius, stroke, fill = null) {
    const { context } = this;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    Object.assign(context, { strokeStyle: stroke, lineWidth: 2 });
    if (fill) {
      context.globalAlpha = 0.35;
      context.fillStyle = fill;
      context.fill();
      context.globalAlpha = 1;
    }
    context.stroke();
  }

  // Beside the points, to the left where the right has no room; what would cover another label is left out.
  #labels(labels, scene) {
    const { radius, palette } = scene;
    const { context } = this;
    const taken = scene.found ? labels.map(([x, y]) => [x - radius - 5, y, 2 * radius + 10]) : [];
    Object.assign(context, { font: palette.font, fillStyle: palette.muted, textBaseline: "middle" });
    for (const [x, y, text] of labels) {
      const width = context.measureText(text).width;
      const gap = radius + (scene.found ? 10 : 5);
      const places = [[x + gap, y], [x - gap - width, y], [x - width / 2, y - gap - 6], [x - width / 2, y + gap + 6]];
      const free = places.find(([left, middle]) => left > 2 && left + width < this.width - 2 && middle > 8 && middle < this.height - 8 && !taken.some(([l, m, w]) => left < l + w + 4 && l < left + width + 4 && Math.abs(m - middle) < 13));
      if (!free) continue;
      taken.push([...free, width]);
      context.fillText(text, ...free);
    }
  }
}
