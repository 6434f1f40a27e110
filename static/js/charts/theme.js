// What all charts share: colours of the current scheme, axes, numbers as text.

export const SERIES = 7;
export const SYMBOLS = ["circle", "rect", "triangle", "diamond", "roundRect", "pin", "arrow"];

// ECharts needs plain colours: let the browser resolve our variables for the current scheme.
export function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

export const isLight = () => Number(colour("surface").match(/\d+/)) > 127;

export const palette = () => Array.from({ length: SERIES }, (_, index) => colour(`series-${index + 1}`));

export const format = (value) => (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 10000) ? value.toExponential(1) : String(Number(value.toPrecision(3))));

export const last = (name) => name.split(".").at(-1);

export function axis({ axisLabel, ...extra }) {
  return {
    axisLine: { lineStyle: { color: colour("line-strong") } },
    axisTick: { show: false },
    axisLabel: { color: colour("muted"), fontSize: 12, ...axisLabel },
    nameTextStyle: { color: colour("muted") },
    splitLine: { lineStyle: { color: colour("line") } },
    ...extra,
  };
}

export function common() {
  return {
    animation: false,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    // Text, not HTML: module names come from strangers' files.
    tooltip: { renderMode: "richText", confine: true, backgroundColor: colour("surface"), borderColor: colour("line-strong"), textStyle: { color: colour("text"), fontSize: 13 } },
    aria: { enabled: false },
  };
}

export function legend() {
  const paging = { pageTextStyle: { color: colour("muted") }, pageIconColor: colour("text"), pageIconInactiveColor: colour("line-strong") };
  return { type: "scroll", top: 0, itemWidth: 18, itemHeight: 11, textStyle: { color: colour("muted") }, ...paging };
}
