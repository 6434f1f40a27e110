// Draws every element with data-chart from the JSON that its data-source names; the same numbers stand in a table beside it.

const draw = { heatmap, spectrum, map, energy, contributions, tradeoff };
const NARROW = 480;
const SERIES = 7;
const LABEL = { width: 130, position: "right" };
const NARROW_LABEL = { width: 92, position: "top", distance: 3, fontSize: 11 };
const SYMBOLS = ["circle", "rect", "triangle", "diamond", "roundRect", "pin", "arrow"];
const DASHES = ["solid", "dashed", "dotted"];

// ECharts needs plain colours: let the browser resolve our variables for the current scheme.
function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const isLight = () => Number(colour("surface").match(/\d+/)) > 127;

const palette = () => Array.from({ length: SERIES }, (_, index) => colour(`series-${index + 1}`));

const format = (value) => (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 10000) ? value.toExponential(1) : String(Number(value.toPrecision(3))));

const last = (name) => name.split(".").at(-1);

function axis({ axisLabel, ...extra }) {
  return {
    axisLine: { lineStyle: { color: colour("line-strong") } },
    axisTick: { show: false },
    axisLabel: { color: colour("muted"), fontSize: 12, ...axisLabel },
    nameTextStyle: { color: colour("muted") },
    splitLine: { lineStyle: { color: colour("line") } },
    ...extra,
  };
}

function common() {
  return {
    animation: false,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    // Text, not HTML: module names come from strangers' files.
    tooltip: { renderMode: "richText", confine: true, backgroundColor: colour("surface"), borderColor: colour("line-strong"), textStyle: { color: colour("text"), fontSize: 13 } },
    aria: { enabled: false },
  };
}

function legend() {
  const paging = { pageTextStyle: { color: colour("muted") }, pageIconColor: colour("text"), pageIconInactiveColor: colour("line-strong") };
  return { type: "scroll", top: 0, itemWidth: 18, itemHeight: 11, textStyle: { color: colour("muted") }, ...paging };
}

// data: {columns: [layer], rows: [module kind], cells: [[column, row, value]], label}
function heatmap(data, isNarrow) {
  const base = common();
  const values = data.cells.map((cell) => cell[2]);
  const top = Math.max(...values, 1e-12);
  const showsNumbers = data.columns.length <= (isNarrow ? 4 : 12) && data.rows.length <= 12;
  // Text on the pale part of the scale, the surface's colour on the strong one: each where it has more contrast.
  const strong = (isLight() ? 0.74 : 0.55) * top;
  const cells = data.cells.map((value) => ({ value, label: { color: colour(value[2] > strong ? "surface" : "text") } }));
  return {
    ...base,
    grid: { left: 4, right: 8, top: 8, bottom: 60, outerBoundsMode: "same" },
    tooltip: { ...base.tooltip, formatter: ({ value: [column, row, value] }) => `layer ${data.columns[column]}, ${data.rows[row]}\n${data.label} ${format(value)}` },
    xAxis: axis({ type: "category", data: data.columns, name: "layer", nameLocation: "middle", nameGap: 24 }),
    yAxis: axis({ type: "category", data: data.rows, inverse: true, axisLabel: { formatter: isNarrow ? last : (name) => name } }),
    visualMap: {
      min: Math.min(0, ...values),
      max: top,
      calculable: false,
      hoverLink: false,
      orient: "horizontal",
      left: "center",
      bottom: 0,
      itemWidth: 12,
      itemHeight: 160,
      text: [format(Math.max(...values)), format(Math.min(0, ...values))],
      textStyle: { color: colour("muted") },
      inRange: { color: [colour("sunken"), colour("accent")] },
    },
    series: [{ type: "heatmap", data: cells, label: { show: showsNumbers, formatter: ({ value }) => format(value[2]) }, itemStyle: { borderColor: colour("surface"), borderWidth: 1 }, emphasis: { itemStyle: { borderColor: colour("text") } } }],
  };
}

// data: {lines: [{name, sigma: [...]}]}
function spectrum(data, isNarrow) {
  const base = common();
  const length = Math.max(...data.lines.map((line) => line.sigma.length));
  return {
    ...base,
    color: palette(),
    grid: { left: 12, right: 16, top: 40, bottom: 32, outerBoundsMode: "same" },
    legend: { ...legend(), formatter: isNarrow ? last : (name) => name },
    tooltip: { ...base.tooltip, trigger: "axis", valueFormatter: format },
    xAxis: axis({ type: "category", data: Array.from({ length }, (_, index) => index + 1), name: "singular value", nameLocation: "middle", nameGap: 24 }),
    yAxis: axis({ type: "log", name: "σ", axisLabel: { formatter: format } }),
    series: data.lines.map((line, index) => ({
      type: "line",
      name: line.name,
      symbol: SYMBOLS[index % SYMBOLS.length],
      symbolSize: 7,
      lineStyle: { width: 2, type: DASHES[Math.floor(index / SERIES) % DASHES.length] },
      // A log axis has no place for 0.
      data: line.sigma.map((value) => (value > 0 ? value : null)),
    })),
  };
}

const percent = (value) => `${Number((100 * value).toPrecision(3))} %`;

// data: {points: [{rank, kept}], served: [rank], chosen: rank or null}; filled points are ranks that vLLM serves.
function energy(data) {
  const base = common();
  const isServed = (rank) => data.served.includes(rank);
  const chosen = data.chosen === null ? [] : [{ xAxis: String(data.chosen), label: { formatter: `rank ${data.chosen}`, color: colour("text") } }];
  return {
    ...base,
    grid: { left: 12, right: 24, top: 28, bottom: 32, outerBoundsMode: "same" },
    tooltip: { ...base.tooltip, trigger: "axis", formatter: ([{ dataIndex }]) => `rank ${data.points[dataIndex].rank}${isServed(data.points[dataIndex].rank) ? ", served by vLLM" : ""}\nkeeps ${percent(data.points[dataIndex].kept)}` },
    xAxis: axis({ type: "category", data: data.points.map(({ rank }) => String(rank)), name: "rank", nameLocation: "middle", nameGap: 24 }),
    yAxis: axis({ type: "value", min: 0, max: 1, axisLabel: { formatter: (value) => `${100 * value} %` } }),
    series: [{
      type: "line",
      symbol: "circle",
      lineStyle: { width: 2, color: colour("accent") },
      itemStyle: { color: colour("accent") },
      data: data.points.map(({ rank, kept }) => ({ value: kept, symbolSize: isServed(rank) ? 10 : 6, itemStyle: { color: colour(isServed(rank) ? "accent" : "surface"), borderColor: colour("accent"), borderWidth: 2 } })),
      markLine: { symbol: "none", silent: true, lineStyle: { color: colour("muted"), type: "dashed" }, data: chosen },
    }],
  };
}

// data: {layers: [name], parents: [{name, shares: [by layer]}]}; below zero is what works against the result.
function contributions(data, isNarrow) {
  const base = common();
  return {
    ...base,
    color: palette(),
    grid: { left: 12, right: 16, top: 40, bottom: 32, outerBoundsMode: "same" },
    legend: { ...legend(), formatter: isNarrow ? (name) => name.split("/").at(-1) : (name) => name },
    tooltip: { ...base.tooltip, trigger: "axis", valueFormatter: percent },
    xAxis: axis({ type: "category", data: data.layers, name: "layer", nameLocation: "middle", nameGap: 24 }),
    yAxis: axis({ type: "value", axisLabel: { formatter: (value) => `${Math.round(100 * value)} %` } }),
    series: data.parents.map(({ name, shares }, index) => ({
      type: "bar",
      stack: "all",
      name,
      data: shares,
      itemStyle: { borderColor: colour("surface"), borderWidth: 0.5, decal: index < SERIES ? undefined : { symbol: "rect", dashArrayX: [1, 0], dashArrayY: [2, 3], rotation: 0.8, color: colour("surface") } },
    })),
  };
}

// data: {points: [{scale, skill_loss, general_loss}], chosen, most: of general_loss or null, skill, general}
// Two panels, because the losses of two tasks have no scale in common.
function tradeoff(data, isNarrow) {
  const base = common();
  const panels = [
    { name: data.skill, of: "skill_loss", limit: null, place: { top: 44, height: "30%" } },
    { name: data.general, of: "general_loss", limit: data.most, place: { bottom: 44, height: "30%" } },
  ];
  const colours = palette();
  const called = (name) => `loss on ${isNarrow ? name.split("/").at(-1) : `samples of ${name}`}`;
  const line = ({ of, limit }, index) => ({
    type: "line",
    xAxisIndex: index,
    yAxisIndex: index,
    symbol: SYMBOLS[index],
    lineStyle: { width: 2, color: colours[index] },
    itemStyle: { color: colours[index] },
    data: data.points.map((point) => ({ value: [point.scale, point[of]], symbolSize: point.scale === data.chosen ? 13 : 7 })),
    markLine: {
      symbol: "none",
      silent: true,
      lineStyle: { color: colour("muted"), type: "dashed" },
      label: { color: colour("text") },
      data: [
        { xAxis: data.chosen, label: { formatter: index ? "" : `strength ${format(data.chosen)}` } },
        ...(limit === null ? [] : [{ yAxis: limit, label: { position: "insideStartTop", formatter: `at most ${format(limit)}` } }]),
      ],
    },
  });
  // Markings do not stretch an axis by themselves.
  const reach = (limit) => ({ max: ({ max }) => (limit > max ? limit : null) });
  return {
    ...base,
    // One left edge for both, so that a strength stands above itself.
    grid: panels.map(({ place }) => ({ left: 48, right: 24, ...place, outerBoundsMode: "none" })),
    axisPointer: { link: [{ xAxisIndex: "all" }] },
    tooltip: { ...base.tooltip, trigger: "axis", formatter: ([{ dataIndex }]) => `strength ${format(data.points[dataIndex].scale)}\n${panels.map(({ name, of }) => `${called(name)} ${format(data.points[dataIndex][of])}`).join("\n")}` },
    xAxis: panels.map((_, index) => axis({ type: "value", gridIndex: index, name: index ? "strength of the skill" : "", nameLocation: "middle", nameGap: 24, max: data.points.at(-1).scale, splitLine: { show: false }, axisLabel: { show: index === 1, customValues: data.points.map(({ scale }) => scale), formatter: format, hideOverlap: true } })),
    yAxis: panels.map(({ name, limit }, index) => axis({ type: "value", gridIndex: index, scale: true, splitNumber: 3, name: called(name), nameGap: 24, nameTextStyle: { color: colours[index], align: "left", padding: [0, 0, 0, -40] }, axisLabel: { formatter: format }, ...reach(limit) })),
    series: panels.map(line),
  };
}

// data: {groups: [{base_model, points: [[x, y, name]]}], by: "base_model" | "owner"}
function map(data, isNarrow) {
  const base = common();
  const hidden = { show: false, scale: true };
  const groups = grouped(data);
  const count = groups.reduce((sum, group) => sum + group.points.length, 0);
  const isLabelled = count <= 40;
  const margin = isLabelled ? (isNarrow ? NARROW_LABEL.width / 2 : LABEL.width) : 0;
  const colours = palette();
  return {
    ...base,
    grid: { left: 12 + (isNarrow ? margin : 0), right: 12 + margin, top: (groups.length > 1 ? 36 : 12) + (isNarrow ? 12 : 0), bottom: 12 },
    legend: { ...legend(), show: groups.length > 1, formatter: isNarrow ? (name) => name.split("/").at(-1) : (name) => name },
    tooltip: { ...base.tooltip, formatter: ({ value }) => value[2] },
    xAxis: hidden,
    yAxis: hidden,
    series: groups.map((group, index) => ({
      type: "scatter",
      name: group.name,
      data: group.points,
      symbol: SYMBOLS[index] ?? "circle",
      symbolSize: (isNarrow ? 8 : 11) * (count > 500 ? 0.6 : 1),
      itemStyle: { color: colours[index] ?? colour("line-strong"), opacity: 0.8 },
      emphasis: { scale: 1.8, itemStyle: { opacity: 1, borderColor: colour("text"), borderWidth: 2 } },
      label: { show: isLabelled, ...(isNarrow ? NARROW_LABEL : LABEL), overflow: "truncate", color: colour("muted"), formatter: ({ value }) => value[2].split("/")[1] },
      labelLayout: { hideOverlap: true },
    })),
  };
}

// The largest groups with a colour and a shape each, the rest together.
function grouped(data) {
  const groups = new Map();
  for (const group of data.groups) {
    for (const point of group.points) {
      const name = data.by === "owner" ? point[2].split("/")[0] : group.base_model;
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(point);
    }
  }
  const sorted = [...groups].map(([name, points]) => ({ name, points })).sort((a, b) => b.points.length - a.points.length);
  const rest = sorted.splice(SERIES).flatMap((group) => group.points);
  return rest.length ? [...sorted, { name: "others", points: rest }] : sorted;
}

// Arrows walk over the points from left to right, Enter opens one.
function walkMap(element, chart, data) {
  const said = document.getElementById(element.dataset.says);
  let place = -1;
  const places = () => {
    const groups = grouped(data);
    return groups
      .flatMap(({ points }, seriesIndex) => points.map((point, dataIndex) => ({ seriesIndex, dataIndex, point })))
      .sort((a, b) => a.point[0] - b.point[0]);
  };
  const open = (name) => { location.href = `/adapters/${name}/`; };
  chart.on("click", ({ value }) => open(value[2]));
  element.addEventListener("keydown", (event) => {
    const all = places();
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" && place >= 0) open(all[place].point[2]);
    if (!step) return;
    event.preventDefault();
    if (place >= 0) chart.dispatchAction({ type: "downplay", ...key(all[place]) });
    place = place < 0 ? (step > 0 ? 0 : all.length - 1) : (place + step + all.length) % all.length;
    chart.dispatchAction({ type: "highlight", ...key(all[place]) });
    chart.dispatchAction({ type: "showTip", ...key(all[place]) });
    said.textContent = all[place].point[2];
  });
  const key = ({ seriesIndex, dataIndex }) => ({ seriesIndex, dataIndex });
}

// Draws, and again whenever width or colours change. Returns: the chart, and a function that draws other data.
export function mount(element, kind, initial) {
  let data = initial;
  // Rows as high as text; the page's own height is for charts of fixed size.
  if (kind === "heatmap") Object.assign(element.style, { minHeight: 0, height: `${data.rows.length * 1.7 + 6.5}rem` });
  const chart = echarts.init(element, null, { renderer: "svg" });
  let isNarrow;
  const render = () => {
    isNarrow = element.clientWidth < NARROW;
    chart.setOption(draw[kind](data, isNarrow), true);
  };
  const fit = () => {
    chart.resize();
    if (isNarrow !== element.clientWidth < NARROW) render();
  };
  render();
  new ResizeObserver(fit).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
  document.addEventListener("themechange", render);
  // Paper has a width and a colour scheme of its own.
  matchMedia("print").addEventListener("change", () => { fit(); render(); });
  return { chart, show: (next) => { data = next; render(); } };
}

function start(element) {
  const data = JSON.parse(document.getElementById(element.dataset.source).textContent);
  const kind = element.dataset.chart;
  const { chart, show } = mount(element, kind, data);
  if (kind !== "map") return;
  walkMap(element, chart, data);
  for (const choice of document.querySelectorAll(`[name="${element.id}-by"]`)) {
    choice.addEventListener("change", () => { data.by = choice.value; show(data); });
    if (choice.checked) data.by = choice.value;
  }
  show(data);
}

document.querySelectorAll("[data-chart]").forEach(start);
