// The points of the map of experts: their groups, and which is near.

export const GROUPS = 7;
const SLACK = 0.06;
// How much wider than high the unit may become where the box is wide.
const STRETCH = 1.8;

// data: as `GET /api/v1/map/` answers.
export class Points {
  constructor({ names, x, y, ...columns }) {
    this.names = names;
    this.plain = Float64Array.from(x);
    this.x = this.plain;
    // On a screen, down is more.
    this.y = Float64Array.from(y, (value) => -value);
    this.columns = columns;
    this.count = names.length;
  }

  // The largest groups, and the rest as one: `of` says which group each point is in, by its place in `groups`.
  groupBy(by) {
    const values = by === "owner" ? this.names.map((name) => name.split("/")[0]) : this.columns[by];
    const label = by === "owner" ? (value) => value : (value) => this.columns[`${by}s`][value] ?? (by === "tag" ? "no tag" : "unknown");
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    const sorted = [...counts].sort((a, b) => b[1] - a[1]);
    const places = new Map(sorted.map(([value], place) => [value, Math.min(place, GROUPS)]));
    const groups = sorted.slice(0, GROUPS).map(([value, count]) => ({ name: label(value), count }));
    const rest = sorted.slice(GROUPS).reduce((sum, [, count]) => sum + count, 0);
    if (rest) groups.push({ name: "others", count: rest });
    return { groups, of: Uint8Array.from(values, (value) => places.get(value)) };
  }

  // Makes the most of a box of this width by its height. Returns the bounds of all points and of `more` points [x, y],
  // with some room, and by how much x was stretched.
  stretch(aspect, more = []) {
    const plain = bounds([...this.plain, ...more.map(([x]) => x)], [...this.y, ...more.map(([, y]) => y)]);
    const by = Math.min(STRETCH, Math.max(1, (aspect * (plain.bottom - plain.top)) / (plain.right - plain.left)));
    this.x = this.plain.map((x) => x * by);
    return { ...plain, left: plain.left * by, right: plain.right * by, by };
  }

  // The point nearest to (x, y) within `reach`, or -1.
  nearest(x, y, reach = Infinity) {
    let best = -1;
    let least = reach * reach;
    for (let i = 0; i < this.count; i += 1) {
      const distance = (this.x[i] - x) ** 2 + (this.y[i] - y) ** 2;
      if (distance <= least) [best, least] = [i, distance];
    }
    return best;
  }

  // The nearest point from point `from` in the direction (dx, dy): in that quarter of the plane, else in that half of it, else
  // the farthest on the other side, so that walking goes round.
  neighbour(from, dx, dy) {
    const best = [from, from, from];
    const least = [Infinity, Infinity, Infinity];
    for (let i = 0; i < this.count; i += 1) {
      if (i === from) continue;
      const [x, y] = [this.x[i] - this.x[from], this.y[i] - this.y[from]];
      const ahead = x * dx + y * dy;
      const distance = x * x + y * y;
      const rank = ahead <= 0 ? 2 : 2 * ahead * ahead >= distance ? 0 : 1;
      const value = rank === 2 ? ahead : distance;
      if (value < least[rank]) [best[rank], least[rank]] = [i, value];
    }
    return best[least.findIndex((value) => value < Infinity)] ?? from;
  }
}

function bounds(xs, ys) {
  const range = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const [[left, right], [top, bottom]] = [range(xs), range(ys)];
  const [dx, dy] = [SLACK * (right - left) || 1, SLACK * (bottom - top) || 1];
  return { left: left - dx, right: right + dx, top: top - dy, bottom: bottom + dy };
}
