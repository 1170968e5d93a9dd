// Traffic: how many answers each route got over time, how sure they were, and how many had no route.

import { contentSet, get } from "./api.js";
import { dot, shorten } from "./charts.js";
import { h, s, scroll, whole } from "./dom.js";
import { link } from "./place.js";

const RANGES = { "1h": "hour", "24h": "day", "7d": "week" };
const SHOWN = 7;
const LOOK_MS = 10000;

export function show(main, place) {
  const range = place.params.get("range") in RANGES ? place.params.get("range") : "1h";
  const facts = h("div", { class: "facts" });
  const chart = h("div", {});
  const lines = h("div", {});
  const table = h("div", {});
  const choice = h("div", { class: "row", role: "group", "aria-label": "Range" },
    Object.entries(RANGES).map(([name, word]) => h("a", { class: "button", href: link("traffic", "", { range: name }), "aria-current": name === range ? "true" : null }, `Last ${word}`)));
  main.append(
    h("section", { class: "card" }, h("header", {}, h("div", {}, h("h1", {}, "Traffic"),
      h("p", { class: "muted" }, "Answers of all nodes by route. Only counts are kept, no texts.")), choice), facts, chart),
    h("div", { class: "grid two start" }, h("section", { class: "card" }, h("header", {}, h("h2", {}, "How sure, and how many without a route")), lines),
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Routes")), table)));
  let shown = "";
  const look = async () => {
    try {
      const found = await get(`/v1/traffic?set=${encodeURIComponent(contentSet())}&range=${range}`);
      const key = JSON.stringify(found);
      if (key === shown) return;
      shown = key;
      draw({ facts, chart, lines, table }, found, range);
    } catch (problem) { chart.replaceChildren(h("p", { class: "wrong" }, problem.message)); }
  };
  look();
  const timer = setInterval(() => { if (!document.hidden) look(); }, LOOK_MS);
  return () => clearInterval(timer);
}

const percent = (share) => share === null ? "–" : share > 0 && share < .01 ? "< 1 %" : `${Math.round(share * 100)} %`;

function draw(parts, found, range) {
  const fact = (value, name) => h("div", { class: "fact" }, h("b", {}, value), h("span", {}, name));
  parts.facts.replaceChildren(fact(whole(found.answers), "answers"), fact(percent(found.answers ? found.unmatched.share : null), "without a route"),
    fact(percent(found.confidence), "mean confidence"), fact(whole(found.routes.length), "routes that answered"));
  if (!found.answers) {
    const since = new Date(found.since_ms).toLocaleString();
    parts.chart.replaceChildren(h("p", { class: "empty" }, `No answers in the last ${RANGES[range]}. This coordinator counts since ${since}.`));
    parts.lines.replaceChildren(h("p", { class: "empty" }, "Nothing to show yet."));
    parts.table.replaceChildren(h("p", { class: "empty" }, "Nothing to show yet."));
    return;
  }
  const own = found.routes.slice(0, SHOWN);
  const rest = found.routes.slice(SHOWN);
  const others = sum([...rest.map((each) => each.series), found.others.series]);
  const layers = [...own.map((each, index) => ({ name: each.route, tone: `c${index}`, series: each.series })),
    { name: "other routes", tone: "c7", series: others }, { name: "no route", tone: "none", series: found.unmatched.series }].filter((each) => each.series.some(Boolean));
  parts.chart.replaceChildren(scroll("Answers over time", stacked(found, layers)),
    h("div", { class: "legend" }, layers.map((each) => h("span", {}, mark(each.tone), each.name))));
  // On a small screen the newest answers are seen first.
  parts.chart.firstChild.scrollLeft = parts.chart.firstChild.scrollWidth;
  parts.lines.replaceChildren(scroll("Mean confidence and share without a route", shares(found)),
    h("div", { class: "legend" }, h("span", {}, mark("c0"), "mean confidence"), h("span", {}, mark("c3"), "share without a route")));
  parts.table.replaceChildren(scroll("Routes by answers", h("table", {},
    h("thead", {}, h("tr", {}, [["Route", ""], ["Answers", "number"], ["Share", "number"], ["Confidence", "number"]].map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))),
    h("tbody", {}, found.routes.slice(0, 50).map((each, index) => row(index < SHOWN ? `c${index}` : "c7", each.route, each)),
      found.others.answers ? row("c7", "other routes", found.others) : null,
      found.unmatched.answers ? row("none", "no route", found.unmatched) : null))));
}

const mark = (tone) => tone === "none" ? s("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, s("circle", { class: "none", cx: 5, cy: 5, r: 4.2 })) : dot(Number(tone.slice(1)));

const row = (tone, name, each) => h("tr", {}, h("td", { class: "legend-cell" }, mark(tone), name),
  h("td", { class: "number" }, whole(each.answers)), h("td", { class: "number" }, percent(each.share)), h("td", { class: "number" }, percent(each.confidence)));

const sum = (lists) => lists.reduce((total, list) => total.map((value, index) => value + (list[index] ?? 0)), lists.reduce((a, b) => (b.length > a.length ? b : a), []).map(() => 0));

const LEFT = 46, RIGHT = 8, TOP = 10, BOTTOM = 24;

function axes(svg, found, [width, height], ticks, label) {
  const count = found.unmatched.series.length;
  const inner = width - LEFT - RIGHT;
  for (const [share, text] of ticks) {
    const y = TOP + (height - TOP - BOTTOM) * (1 - share);
    svg.append(s("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }), s("text", { class: "tick", x: LEFT - 6, y: y + 4, "text-anchor": "end" }, text));
  }
  const isLong = count * found.bucket_seconds > 90000;
  for (let index = 0; index <= 4; index += 1) {
    const at = new Date(found.from_ms + index / 4 * count * found.bucket_seconds * 1000);
    const text = isLong ? at.toLocaleDateString("en", { weekday: "short", day: "numeric" }) : at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
    svg.append(s("text", { class: "tick", x: LEFT + inner * index / 4, y: height - 6, "text-anchor": index === 0 ? "start" : index === 4 ? "end" : "middle" }, text));
  }
  svg.setAttribute("aria-label", label);
}

// Answers a bucket as bars, one layer a route.
function stacked(found, layers) {
  const width = 900, height = 240, count = found.unmatched.series.length;
  const totals = sum(layers.map((each) => each.series));
  const most = nice(Math.max(1, ...totals));
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img" });
  axes(svg, found, [width, height], [[0, "0"], [.5, short(most / 2)], [1, short(most)]],
    `Answers over time, ${whole(found.answers)} in all; the most frequent: ${layers.slice(0, 3).map((each) => each.name).join(", ")}`);
  const step = (width - LEFT - RIGHT) / count, room = height - TOP - BOTTOM;
  for (let bucket = 0; bucket < count; bucket += 1) {
    let below = 0;
    for (const layer of layers) {
      const value = layer.series[bucket];
      if (!value) continue;
      below += value;
      const size = value / most * room;
      svg.append(s("rect", { class: layer.tone, x: LEFT + bucket * step + .5, y: TOP + room - below / most * room, width: Math.max(1, step - 1), height: size },
        s("title", {}, `${shorten(layer.name, 60)}: ${whole(value)} from ${new Date(found.from_ms + bucket * found.bucket_seconds * 1000).toLocaleString()}`)));
    }
  }
  return svg;
}

// Mean confidence and share without a route, a point a bucket with answers.
function shares(found) {
  const width = 460, height = 220, room = height - TOP - BOTTOM;
  const count = found.unmatched.series.length;
  const totals = sum([...found.routes.map((each) => each.series), found.others.series, found.unmatched.series]);
  const svg = s("svg", { class: "chart narrow", viewBox: `0 0 ${width} ${height}`, role: "img" });
  axes(svg, found, [width, height], [[0, "0 %"], [.5, "50 %"], [1, "100 %"]], `Mean confidence ${percent(found.confidence)}, without a route ${percent(found.unmatched.share)}`);
  const line = (tone, values) => {
    let run = [];
    const end = () => {
      if (run.length > 1) svg.append(s("polyline", { class: `trend ${tone}-line`, points: run.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ") }));
      for (const [x, y, value] of run) svg.append(s("circle", { class: tone, cx: x, cy: y, r: run.length > 60 ? 2 : 3 }, s("title", {}, percent(value))));
      run = [];
    };
    values.forEach((value, index) => {
      if (value === null) { end(); return; }
      run.push([LEFT + (index + .5) / count * (width - LEFT - RIGHT), TOP + room * (1 - value), value]);
    });
    end();
  };
  line("c0", found.confidence_series);
  line("c3", found.unmatched.series.map((value, index) => totals[index] ? value / totals[index] : null));
  return svg;
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= value) ?? value;
}

const short = (value) => value >= 1000000 ? `${value / 1000000} M` : value >= 1000 ? `${value / 1000} k` : String(value);
