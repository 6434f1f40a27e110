// One number by layer and kind of module, as shades.

import { axis, colour, common, format, isLight, last } from "./theme.js";

// data: {columns: [layer], rows: [module kind], cells: [[column, row, value]], label}
export function heatmap(data, isNarrow) {
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
