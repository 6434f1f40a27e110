// What became of a merge's inputs: energy by rank, shares by layer, losses by strength.

import { SERIES, SYMBOLS, axis, colour, common, format, legend, palette } from "./theme.js";

const percent = (value) => `${Number((100 * value).toPrecision(3))} %`;

// data: {points: [{rank, kept}], served: [rank], chosen: rank or null}; filled points are ranks that vLLM serves.
export function energy(data) {
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
export function contributions(data, isNarrow) {
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
export function tradeoff(data, isNarrow) {
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
