// Traffic: how many answers each route got over time, how sure they were, and how many had no route.

import { contentSet, get } from "./api.js";
import { dot } from "./charts.js";
import { h, s, scroll, whole } from "./dom.js";
import { link } from "./place.js";
import { plot } from "./plot.js";

export const RANGES = { "1h": "hour", "24h": "day", "7d": "week" };
const SHOWN = 7;
const LOOK_MS = 10000;

// The range of an address; the last hour without one.
export const rangeOf = (place) => Object.hasOwn(RANGES, place.params.get("range")) ? place.params.get("range") : "1h";

export const rangeChoice = (view, range) => h("div", { class: "row", role: "group", "aria-label": "Range" },
  Object.entries(RANGES).map(([name, word]) => h("a", { class: "button", href: link(view, "", { range: name }), "aria-current": name === range ? "true" : null }, `Last ${word}`)));

// Times of the buckets of an answer, in seconds since 1970.
export const timesOf = (found, count) => Array.from({ length: count }, (_, index) => found.from_ms / 1000 + index * found.bucket_seconds);

export function show(main, place) {
  const range = rangeOf(place);
  const facts = h("div", { class: "facts" });
  const chart = h("div", {});
  const lines = h("div", {});
  const table = h("div", {});
  const choice = rangeChoice("traffic", range);
  main.append(
    h("section", { class: "card" }, h("header", {}, h("div", {}, h("h1", {}, "Traffic"),
      h("p", { class: "muted" }, "Answers of all nodes by route. Only counts are kept, no texts.")), choice), facts, chart),
    h("div", { class: "grid two start" }, h("section", { class: "card" }, h("header", {}, h("h2", {}, "How sure, and how many without a route")), lines),
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Routes")), table)));
  let shown = "";
  const charts = { key: "", traffic: null, lines: null };
  const end = () => { charts.traffic?.end(); charts.lines?.end(); Object.assign(charts, { key: "", traffic: null, lines: null }); };
  const look = async () => {
    try {
      const found = await get(`/v1/traffic?set=${encodeURIComponent(contentSet())}&range=${range}`);
      const key = JSON.stringify(found);
      if (key === shown) return;
      shown = key;
      draw({ facts, chart, lines, table, charts, end }, found, range);
    } catch (problem) { chart.replaceChildren(h("p", { class: "wrong" }, problem.message)); }
  };
  look();
  const timer = setInterval(() => { if (!document.hidden) look(); }, LOOK_MS);
  return () => { clearInterval(timer); end(); };
}

const percent = (share) => share === null ? "–" : share > 0 && share < .01 ? "< 1 %" : `${Math.round(share * 100)} %`;

function draw(parts, found, range) {
  const fact = (value, name) => h("div", { class: "fact" }, h("b", {}, value), h("span", {}, name));
  parts.facts.replaceChildren(fact(whole(found.answers), "answers"), fact(percent(found.answers ? found.unmatched.share : null), "without a route"),
    fact(percent(found.confidence), "mean confidence"), fact(`${found.others.answers ? "over " : ""}${whole(found.routes.length)}`, "routes that answered"));
  if (!found.answers) {
    const since = new Date(found.since_ms).toLocaleString();
    parts.end();
    parts.chart.replaceChildren(h("p", { class: "empty" }, `No answers in the last ${RANGES[range]}. This coordinator counts since ${since}.`));
    parts.lines.replaceChildren(h("p", { class: "empty" }, "Nothing to show yet."));
    parts.table.replaceChildren(h("p", { class: "empty" }, "Nothing to show yet."));
    return;
  }
  const own = found.routes.slice(0, SHOWN);
  const rest = found.routes.slice(SHOWN);
  const others = sum([...rest.map((each) => each.series), found.others.series]);
  const layers = [...own.map((each, index) => ({ name: each.route, tone: `c${index}`, series: each.series })),
    { name: "other routes", tone: "c7", series: others }, { name: "no route", tone: "no-route", series: found.unmatched.series }].filter((each) => each.series.some(Boolean));
  drawCharts(parts, found, layers);
  parts.table.replaceChildren(scroll("Routes by answers", h("table", {},
    h("thead", {}, h("tr", {}, [["Route", ""], ["Answers", "number"], ["Share", "number"], ["Confidence", "number"]].map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))),
    h("tbody", {}, found.routes.slice(0, 50).map((each, index) => row(index < SHOWN ? `c${index}` : "c7", each.route, each)),
      found.others.answers ? row("c7", "other routes", found.others) : null,
      found.unmatched.answers ? row("no-route", "no route", found.unmatched) : null))));
}

const mark = (tone) => tone === "no-route" ? s("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, s("circle", { class: "none", cx: 5, cy: 5, r: 4.2 })) : dot(Number(tone.slice(1)));

const row = (tone, name, each) => h("tr", {}, h("td", { class: "legend-cell" }, mark(tone), name),
  h("td", { class: "number" }, whole(each.answers)), h("td", { class: "number" }, percent(each.share)), h("td", { class: "number" }, percent(each.confidence)));

const sum = (lists) => lists.reduce((total, list) => total.map((value, index) => value + (list[index] ?? 0)), lists.reduce((a, b) => (b.length > a.length ? b : a), []).map(() => 0));

function drawCharts(parts, found, layers) {
  const { charts } = parts;
  // A chart that is drawn anew while somebody reads it would lose the place.
  const key = JSON.stringify(layers.map((each) => [each.name, each.tone]));
  if (charts.key !== key) {
    parts.end();
    charts.key = key;
    charts.traffic = plot({ title: "Answers over time by route", series: layers, height: 250, isStacked: true, format: whole });
    charts.lines = plot({ title: "Mean confidence and share without a route over time", most: 1, format: percent,
      series: [{ name: "mean confidence", tone: "c0" }, { name: "share without a route", tone: "c3" }] });
    parts.chart.replaceChildren(legend(layers), charts.traffic.element);
    parts.lines.replaceChildren(legend([{ name: "mean confidence", tone: "c0" }, { name: "share without a route", tone: "c3" }]), charts.lines.element);
  }
  const times = timesOf(found, found.unmatched.series.length);
  charts.traffic.update({ times, values: layers.map((each) => each.series),
    words: `${whole(found.answers)} answers in all; the most frequent: ${layers.slice(0, 3).map((each) => each.name).join(", ")}` });
  const totals = sum([...found.routes.map((each) => each.series), found.others.series, found.unmatched.series]);
  const without = found.unmatched.series.map((value, index) => totals[index] ? value / totals[index] : null);
  charts.lines.update({ times, values: [found.confidence_series, without],
    words: `Mean confidence ${percent(found.confidence)}, without a route ${percent(found.unmatched.share)}` });
}

export const legend = (layers) => h("div", { class: "legend" }, layers.map((each) => h("span", {}, mark(each.tone), each.name)));
