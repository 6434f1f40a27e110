// Draws every element with data-chart from the JSON that its data-source names; the same numbers stand in a table beside it.

const draw = { heatmap, spectrum, map };

// ECharts needs plain colours: let the browser resolve our variables for the current scheme.
function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const format = (value) => (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 10000) ? value.toExponential(1) : String(Number(value.toPrecision(3))));

function axis(extra) {
  return {
    axisLine: { lineStyle: { color: colour("line-strong") } },
    axisTick: { show: false },
    axisLabel: { color: colour("muted"), fontSize: 12, ...extra.axisLabel },
    nameTextStyle: { color: colour("muted") },
    splitLine: { lineStyle: { color: colour("line") } },
    ...Object.fromEntries(Object.entries(extra).filter(([key]) => key !== "axisLabel")),
  };
}

function common(element) {
  return {
    animation: false,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    // Text, not HTML: module names come from strangers' files.
    tooltip: { renderMode: "richText", confine: true, backgroundColor: colour("surface"), borderColor: colour("line-strong"), textStyle: { color: colour("text"), fontSize: 13 } },
    aria: { enabled: false },
    isNarrow: element.clientWidth < 480,
  };
}

// data: {columns: [layer], rows: [module kind], cells: [[column, row, value]], label}
function heatmap(element, data) {
  const { isNarrow, ...base } = common(element);
  const values = data.cells.map((cell) => cell[2]);
  const short = (name) => (isNarrow ? name.split(".").at(-1) : name);
  return {
    ...base,
    grid: { left: 12, right: 8, top: 8, bottom: 64, outerBoundsMode: "same" },
    tooltip: { ...base.tooltip, formatter: ({ value: [column, row, value] }) => `layer ${data.columns[column]}, ${data.rows[row]}\n${data.label} ${format(value)}` },
    xAxis: axis({ type: "category", data: data.columns, name: "layer", nameLocation: "middle", nameGap: 24, splitArea: { show: false } }),
    yAxis: axis({ type: "category", data: data.rows, inverse: true, axisLabel: { formatter: short } }),
    visualMap: {
      min: Math.min(0, ...values),
      max: Math.max(...values, 1e-12),
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
    series: [{ type: "heatmap", data: data.cells, itemStyle: { borderColor: colour("surface"), borderWidth: 1 }, emphasis: { itemStyle: { borderColor: colour("text") } } }],
  };
}

// data: {lines: [{name, sigma: [...]}]}
function spectrum(element, data) {
  const { isNarrow, ...base } = common(element);
  const palette = ["#4f6bd8", "#2f9e8f", "#c98a1b", "#b0509f", "#6b7785", "#c4553d", "#5b8f2a", "#8a63c9"];
  const dashes = ["solid", "dashed", "dotted"];
  const length = Math.max(...data.lines.map((line) => line.sigma.length));
  return {
    ...base,
    color: palette,
    grid: { left: 12, right: 16, top: 40, bottom: 32, outerBoundsMode: "same" },
    legend: { type: "scroll", top: 0, textStyle: { color: colour("muted") }, formatter: (name) => (isNarrow ? name.split(".").at(-1) : name) },
    tooltip: { ...base.tooltip, trigger: "axis", valueFormatter: format },
    xAxis: axis({ type: "category", data: Array.from({ length }, (_, index) => index + 1), name: "singular value", nameLocation: "middle", nameGap: 24 }),
    yAxis: axis({ type: "log", name: "σ", axisLabel: { formatter: format } }),
    series: data.lines.map((line, index) => ({
      type: "line",
      name: line.name,
      symbolSize: 5,
      lineStyle: { width: 2, type: dashes[Math.floor(index / palette.length) % dashes.length] },
      // A log axis has no place for 0.
      data: line.sigma.map((value) => (value > 0 ? value : null)),
    })),
  };
}

// data: {groups: [{base_model, points: [[x, y, name]]}]}
function map(element, data) {
  const { isNarrow, ...base } = common(element);
  const hidden = { show: false, scale: true };
  return {
    ...base,
    color: ["#4f6bd8", "#2f9e8f", "#c98a1b", "#b0509f", "#6b7785", "#c4553d"],
    grid: { left: 12, right: 12, top: data.groups.length > 1 ? 36 : 12, bottom: 12 },
    legend: { show: data.groups.length > 1, type: "scroll", top: 0, textStyle: { color: colour("muted") } },
    tooltip: { ...base.tooltip, formatter: ({ value }) => value[2] },
    xAxis: hidden,
    yAxis: hidden,
    series: data.groups.map((group) => ({
      type: "scatter",
      name: group.base_model,
      data: group.points,
      symbolSize: isNarrow ? 8 : 11,
      itemStyle: { opacity: 0.8 },
      label: { show: data.groups.reduce((sum, each) => sum + each.points.length, 0) <= 40 && !isNarrow, position: "right", color: colour("muted"), formatter: ({ value }) => value[2].split("/")[1] },
      labelLayout: { hideOverlap: true },
    })),
  };
}

for (const element of document.querySelectorAll("[data-chart]")) {
  const data = JSON.parse(document.getElementById(element.dataset.source).textContent);
  const chart = echarts.init(element, null, { renderer: "svg" });
  const render = () => chart.setOption(draw[element.dataset.chart](element, data), true);
  render();
  if (element.dataset.chart === "map") chart.on("click", ({ value }) => { location.href = `/adapters/${value[2]}/`; });
  new ResizeObserver(() => { chart.resize(); render(); }).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
}
