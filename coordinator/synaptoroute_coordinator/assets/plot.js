// Charts over time: uPlot draws them, a table beside them tells the same numbers.

import { h, scroll, whole } from "./dom.js";

const DAY_SECONDS = 86400;
const GAP = 36; // pixels between two labels of an axis
const WHOLE_STEPS = [1, 2, 5].flatMap((each) => Array.from({ length: 13 }, (_, power) => each * 10 ** power)).sort((a, b) => a - b);

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const time = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
const day = (seconds) => new Date(seconds * 1000).toLocaleDateString("en", { weekday: "short", day: "numeric" });
export const moment = (seconds, isLong) => isLong ? `${day(seconds)}, ${time(seconds)}` : time(seconds);

// A chart of series over time.  Draws into the returned `element`; `update` takes new numbers, and
// `end` must be called when the view is left.
//
// `title` says what the chart shows.  Each of `series` has a `name`, a `tone` (a colour of the style
// sheet; without one it is in the table alone) and perhaps a `format` of its values.  With `isStacked`
// each is drawn on top of those before it.
export function plot({ title, series, height = 220, isStacked = false, most = null, format = String }) {
  const canvas = h("div", { class: "plot", role: "img" });
  const readout = h("p", { class: "readout muted small", "aria-hidden": "true" });
  const rows = h("tbody", {});
  const table = h("details", { class: "as-table" }, h("summary", {}, "As a table"), scroll(`${title}, as a table`,
    h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Time"), series.map((each) => h("th", { scope: "col", class: "number" }, each.name)))), rows)));
  const element = h("div", { class: "plot-box" }, canvas, readout, table);
  const formatOf = (each) => each.format ?? format;
  let numbers = null, chart = null;

  const say = (index) => {
    if (index === null || index === undefined || !numbers) { readout.textContent = "\u00a0"; return; }
    const said = series.map((each, at) => [each, numbers.values[at][index]]).filter(([, value]) => value !== null && !(isStacked && !value));
    readout.textContent = `${moment(numbers.times[index], numbers.isLong)} · ${said.map(([each, value]) => `${each.name} ${formatOf(each)(value)}`).join(", ") || "nothing"}`;
  };
  const fillTable = () => {
    if (!table.open || !numbers) return;
    const isEmpty = (index) => numbers.values.every((each) => !each[index]);
    const shown = numbers.times.map((_, index) => index).filter((index) => !isEmpty(index)).reverse();
    rows.replaceChildren(...shown.map((index) => h("tr", {}, h("th", { scope: "row" }, moment(numbers.times[index], numbers.isLong)),
      series.map((each, at) => h("td", { class: "number" }, numbers.values[at][index] === null ? "–" : formatOf(each)(numbers.values[at][index]))))));
  };
  table.addEventListener("toggle", fillTable);

  const options = () => {
    const ink = color("ink-2"), line = color("line-soft");
    const bars = window.uPlot.paths.bars({ size: [0.86, 40], gap: 1 });
    return {
      width: Math.max(200, canvas.clientWidth), height, legend: { show: false },
      cursor: { y: false, drag: { setScale: false, x: false, y: false }, points: { show: !isStacked } },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, most ?? (high > 0 ? high * 1.08 : 1)] } },
      axes: [
        { stroke: ink, grid: { show: false }, ticks: { stroke: line, size: 4 }, font: "11px system-ui", space: GAP + 30, size: 30,
          values: (_, splits, axis, space, step) => splits.map((each) => step >= DAY_SECONDS ? day(each) : time(each)) },
        { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui", size: 52, space: GAP,
          ...(format === whole ? { incrs: WHOLE_STEPS } : {}),
          values: (_, splits) => splits.map((each) => format(each)) }],
      series: [{}, ...drawn().map((each) => ({ label: each.name, stroke: color(each.tone), width: isStacked ? 0 : 2,
        ...(isStacked ? { fill: color(each.tone), paths: bars, points: { show: false } } : { points: { show: true, size: 4 }, spanGaps: false }) }))],
      hooks: { setCursor: [(self) => say(self.cursor.idx)], draw: [drawMarks] },
    };
  };
  // Bars of a stack cover each other: the tallest is drawn first.
  const drawn = () => {
    const found = series.filter((each) => each.tone);
    return isStacked ? found.reverse() : found;
  };
  const columns = () => {
    const values = numbers.values.filter((_, at) => series[at].tone);
    if (!isStacked) return [numbers.times, ...values];
    const sums = [];
    values.forEach((each, at) => sums.push(each.map((value, index) => (value ?? 0) + (at ? sums[at - 1][index] : 0))));
    return [numbers.times, ...sums.reverse()];
  };
  // Times of events, as lines across the chart.
  function drawMarks(self) {
    for (const mark of numbers?.marks ?? []) {
      const x = Math.round(self.valToPos(mark.at, "x", true));
      if (x < self.bbox.left || x > self.bbox.left + self.bbox.width) continue;
      self.ctx.fillStyle = color(mark.tone);
      self.ctx.fillRect(x, self.bbox.top, Math.max(1, devicePixelRatio), self.bbox.height);
    }
  }
  const draw = () => {
    chart?.destroy();
    chart = null;
    if (numbers && canvas.clientWidth) chart = new window.uPlot(options(), columns(), canvas);
  };
  const sizes = new ResizeObserver(() => {
    if (!chart) draw();
    else if (chart.width !== canvas.clientWidth) chart.setSize({ width: Math.max(200, canvas.clientWidth), height });
  });
  // Colours of a canvas do not follow the style sheet.
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const themes = new MutationObserver(draw);
  scheme.addEventListener("change", draw);
  themes.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  sizes.observe(canvas);
  say(null);

  return {
    element,
    // `times` in seconds since 1970; `values` has one list a series, with null for no value.
    update({ times, values, marks = [], words }) {
      numbers = { times, values, marks, isLong: times.at(-1) - times[0] > DAY_SECONDS / 2 };
      canvas.setAttribute("aria-label", `${title}. ${words}`);
      if (chart) chart.setData(columns());
      else draw();
      fillTable();
    },
    end() {
      sizes.disconnect();
      themes.disconnect();
      scheme.removeEventListener("change", draw);
      chart?.destroy();
      chart = null;
    },
  };
}
