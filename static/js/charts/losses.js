// The loss of a training by step, and its running mean.

import { axis, colour, common, format, legend } from "./theme.js";

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// data: {steps: [loss], mean_of: how many steps the mean is of}
export function losses({ steps, mean_of: count }) {
  const base = common();
  const means = steps.map((_, index) => (index + 1 < count ? null : mean(steps.slice(index + 1 - count, index + 1))));
  const line = (name, data, width, shade) => ({ type: "line", name, data, showSymbol: false, symbol: "none", lineStyle: { width, color: colour(shade) }, itemStyle: { color: colour(shade) } });
  return {
    ...base,
    grid: { left: 12, right: 16, top: 40, bottom: 32, outerBoundsMode: "same" },
    legend: legend(),
    tooltip: { ...base.tooltip, trigger: "axis", valueFormatter: (value) => (value === null ? "–" : format(value)) },
    xAxis: axis({ type: "category", data: steps.map((_, index) => String(index + 1)), name: "step", nameLocation: "middle", nameGap: 24 }),
    yAxis: axis({ type: "value", min: 0, axisLabel: { formatter: format } }),
    series: [line("each step", steps, 1, "line-strong"), line(`mean of ${count}`, means, 2.5, "accent")],
  };
}
