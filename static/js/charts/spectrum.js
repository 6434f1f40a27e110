// Singular values by kind of module, as lines.

import { SERIES, SYMBOLS, axis, common, format, last, legend, palette } from "./theme.js";

const DASHES = ["solid", "dashed", "dotted"];

// data: {lines: [{name, sigma: [...]}]}
export function spectrum(data, isNarrow) {
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
