// Charts: SVG made from numbers, each with a text alternative.

import { h, s } from "./dom.js";

// A small screen gets charts of its own width: scaled down, their letters could not be read.
const isNarrow = () => innerWidth < 760;

// A digest as an identicon: five by five cells, mirrored.  Equal digests look equal.
export function glyph(digest, title) {
  const bits = parseInt(digest.slice(0, 8) || "0", 16);
  const hue = parseInt(digest.slice(8, 12) || "0", 16) % 360;
  const cells = [];
  for (let column = 0; column < 3; column += 1) {
    for (let row = 0; row < 5; row += 1) {
      if (!((bits >>> (column * 5 + row)) & 1)) continue;
      for (const x of column === 2 ? [2] : [column, 4 - column]) {
        cells.push(s("rect", { x: 6 + x * 6, y: 6 + row * 6, width: 6.2, height: 6.2 }));
      }
    }
  }
  return s("svg", { class: "glyph", viewBox: "0 0 42 42", role: "img", "aria-label": title },
    s("title", {}, title), s("g", { fill: `hsl(${hue} 48% 52%)` }, cells));
}

export function ring(share, tone, text) {
  const length = 2 * Math.PI * 34;
  return s("svg", { class: "ring", viewBox: "0 0 84 84", role: "img", "aria-label": text },
    s("circle", { class: "ring-back", cx: 42, cy: 42, r: 34 }),
    s("circle", { class: `ring-fill ${tone}`, cx: 42, cy: 42, r: 34,
      "stroke-dasharray": `${length * share} ${length}`, transform: "rotate(-90 42 42)" }),
    s("text", { class: `ring-text${text.length > 6 ? " longest" : text.length > 5 ? " long" : ""}`, x: 42, y: 49 }, text));
}

export function spark(points, title) {
  const width = 300, height = 44;
  const top = Math.max(1, ...points.map((point) => point.rate));
  const step = width / Math.max(1, points.length - 1);
  const at = points.map((point, index) =>
    `${(index * step).toFixed(1)},${(height - 3 - (point.rate / top) * (height - 8)).toFixed(1)}`);
  const line = at.length > 1 ? at.join(" ") : `0,${height - 3} ${width},${height - 3}`;
  return s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none",
    role: "img", "aria-label": title },
    s("title", {}, title),
    s("polygon", { class: "spark-fill", points: `0,${height} ${line} ${width},${height}` }),
    s("polyline", { class: "spark-line", points: line }));
}

export function meter(share, title) {
  return s("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none",
    role: "img", "aria-label": title },
    s("rect", { x: 0, y: 0, width: Math.max(.5, Math.min(100, share * 100)), height: 8, rx: 3 }));
}

const TICKS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];

// So many nodes get a dot each; of more, the median and the slowest are shown.
export const DOTS_MAX = 12;

// One line per entry, newest on top, with a dot at the time each node made it visible.
export function timeline(entries, nodes) {
  const narrow = isNarrow();
  const left = narrow ? 116 : 190, right = 24, rowHeight = 23, top = 24, width = narrow ? Math.max(300, innerWidth - 62) : 820;
  const height = top + entries.length * rowHeight + 8;
  const delays = nodes.map((node) => new Map(node.entries));
  const all = entries.flatMap((entry) => delays.map((known) => known.get(entry.seq)).filter((v) => v !== undefined));
  const most = Math.max(10, ...all);
  const limit = TICKS.find((tick) => tick >= most * 1.05) ?? most;
  const x = (ms) => left + (Math.log10(Math.max(.5, ms) / .5) / Math.log10(limit / .5)) * (width - left - right);
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Time from the log to each node for the newest ${entries.length} entries` });
  for (const tick of TICKS.filter((value) => value <= limit && (!narrow || String(value).startsWith("1")))) {
    svg.append(s("line", { class: "axis", x1: x(tick), x2: x(tick), y1: top - 6, y2: height - 4 }),
      s("text", { class: "tick", x: x(tick), y: 12, "text-anchor": "middle" }, tick >= 1000 ? `${tick / 1000} s` : `${tick} ms`));
  }
  entries.forEach((entry, index) => {
    const y = top + index * rowHeight + rowHeight / 2;
    if (index % 2 === 0) svg.append(s("rect", { class: "band", x: 0, y: y - rowHeight / 2, width, height: rowHeight, rx: 5 }));
    const subject = shorten(entry.subject, narrow ? 15 : 17);
    svg.append(narrow ? "" : s("text", { class: "label-2", x: 8, y: y + 4 }, entry.seq),
      s("text", { class: "label", x: narrow ? 4 : 58, y: y + 4 }, s("title", {}, `${entry.kind} ${entry.subject}`), subject || entry.kind));
    const seen = nodes.map((node, at) => ({ node, at, ms: delays[at].get(entry.seq) })).filter((each) => each.ms !== undefined);
    if (seen.length > 1) {
      const times = seen.map((each) => each.ms);
      svg.append(s("line", { class: "span-line", x1: x(Math.min(...times)), x2: x(Math.max(...times)), y1: y, y2: y }));
    }
    for (const each of nodes.length > DOTS_MAX ? medianAndSlowest(seen) : seen) {
      svg.append(s("circle", { class: `c${each.at % 8}`, cx: x(each.ms), cy: y, r: 5 },
        s("title", {}, `${each.node.name}: ${each.ms.toFixed(1)} ms`)));
    }
  });
  return svg;
}

function medianAndSlowest(seen) {
  const ordered = [...seen].sort((a, b) => a.ms - b.ms);
  if (!ordered.length) return [];
  return [{ ...ordered[Math.floor((ordered.length - 1) / 2)], at: 0 }, { ...ordered.at(-1), at: 3 }];
}

// Confidence of each route and the least that it needs, best first; scores where a node gives no confidence.
export function candidates(list) {
  const isSure = list.every((each) => each.confidence != null);
  const value = (each) => (isSure ? each.confidence : each.score);
  const least = (each) => (isSure ? each.confidence_min : each.threshold) ?? null;
  const shown = (number) => (isSure ? `${Math.round(number * 100)} %` : number.toFixed(3));
  const low = Math.min(0, ...list.map(value)), high = Math.max(1, ...list.map(value));
  const x = (number) => (100 * (number - low)) / (high - low);
  return h("div", {},
    h("ol", { class: "scores" }, list.map((each) => h("li", {},
      h("span", { class: "name" }, each.route),
      s("svg", { viewBox: "0 0 100 26", preserveAspectRatio: "none", "aria-hidden": "true" },
        s("rect", { class: "score-back", x: 0, y: 3, width: 100, height: 20 }),
        s("rect", { class: `score-bar ${each.passed ? "passed" : ""}`, x: 0, y: 3, width: Math.max(.4, x(value(each))), height: 20 }),
        least(each) === null ? null : s("line", { class: "threshold-line", x1: x(least(each)), x2: x(least(each)), y1: 0, y2: 26 })),
      h("strong", {}, shown(value(each))),
      h("span", { class: "muted small detail" }, detailOf(each, isSure), least(each) === null ? "" : ` · needs ${shown(least(each))}`)))),
    h("p", { class: "muted small" }, `Bars show the ${isSure ? "confidence" : "score"} from ${isSure ? "0 %" : low.toFixed(1)} to ${isSure ? "100 %" : high.toFixed(1)}; the dashed line is the least that the route needs.`));
}

function detailOf(each, isSure) {
  const text = each.utterance ? `“${shorten(each.utterance, 72)}”` : "nearest to the description";
  if (!isSure) return text;
  const least = each.threshold == null ? "" : ` of at least ${each.threshold.toFixed(2)}`;
  return `${text}  ·  score ${each.score.toFixed(3)}${least}`;
}

// Bars of shares, with labels.
export function compare(rows) {
  const narrow = isNarrow();
  const left = narrow ? 100 : 190, width = narrow ? Math.max(300, innerWidth - 62) : 560, rowHeight = 34;
  const svg = s("svg", { class: "compare", viewBox: `0 0 ${width} ${rows.length * rowHeight}`, role: "img",
    "aria-label": rows.map((row) => `${row.name}: ${row.text}`).join("; ") });
  rows.forEach((row, index) => {
    const y = index * rowHeight, room = width - left - 110;
    svg.append(s("text", { class: "label", x: left - 12, y: y + 19, "text-anchor": "end" }, s("title", {}, row.name), shorten(row.name, narrow ? 13 : 26)),
      s("rect", { class: "score-back", x: left, y: y + 5, width: room, height: 18, rx: 6 }),
      s("rect", { class: "score-bar passed", x: left, y: y + 5, width: Math.max(2, room * row.share), height: 18, rx: 6 }),
      s("text", { class: "label-2", x: left + room + 12, y: y + 19 }, row.text));
  });
  return svg;
}

export function shorten(text, limit) {
  return text.length > limit ? `${text.slice(0, limit - 1)}…` : text;
}

export const dot = (index) => s("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" },
  s("circle", { class: `c${index % 8}`, cx: 5, cy: 5, r: 5 }));

// Coverage and accuracy by the least confidence, and confidence against accuracy; the second below the
// first on a small screen.
export function curves(found, marked) {
  const narrow = isNarrow();
  const left = 40, height = 190, width = narrow ? Math.max(220, innerWidth - 130) : 300, gap = narrow ? 78 : 70;
  const first = { left, top: 12 };
  const second = narrow ? { left, top: 12 + height + gap } : { left: left + width + gap, top: 12 };
  const x = (share, { left: from }) => from + width * share, y = (share, { top }) => top + height * (1 - share);
  const svg = s("svg", { class: "curves", viewBox: `0 0 ${second.left + width + 14} ${second.top + height + 62}`, role: "img",
    "aria-label": "Coverage and accuracy by the least confidence, and how often confidences are right" });
  const frame = (at, label) => {
    for (const share of [0, .25, .5, .75, 1]) {
      svg.append(s("line", { class: "axis", x1: at.left, x2: at.left + width, y1: y(share, at), y2: y(share, at) }),
        s("text", { class: "tick", x: at.left - 6, y: y(share, at) + 4, "text-anchor": "end" }, share.toFixed(2)),
        s("text", { class: "tick", x: x(share, at), y: at.top + height + 16, "text-anchor": "middle" }, share.toFixed(2)));
    }
    svg.append(s("text", { class: "label-2", x: at.left + width / 2, y: at.top + height + 34, "text-anchor": "middle" }, label));
  };
  const line = (kind, values, name, place) => svg.append(
    s("polyline", { class: `curve k${kind}`, points: values.map(([a, b]) => `${x(a, first).toFixed(1)},${y(b, first).toFixed(1)}`).join(" ") }, s("title", {}, name)),
    s("text", { class: `label-2 k${kind}`, x: left + place, y: first.top + height + 54 }, name));
  frame(first, "least confidence");
  line(0, found.curve.map((each) => [each.limit, each.coverage]), "answered", 0);
  line(1, found.curve.filter((each) => each.accuracy !== null).map((each) => [each.limit, each.accuracy]), "right of these", narrow ? 70 : 90);
  line(2, found.curve.map((each) => [each.limit, each.right]), "right of all", narrow ? 165 : 200);
  if (marked !== null && marked !== undefined) svg.append(s("line", { class: "threshold-line", x1: x(marked, first), x2: x(marked, first), y1: first.top, y2: first.top + height }, s("title", {}, `in use: ${marked}`)));
  frame(second, "confidence");
  svg.append(s("line", { class: "span-line", x1: second.left, x2: second.left + width, y1: y(0, second), y2: y(1, second) }));
  for (const each of found.reliability) {
    svg.append(s("rect", { class: "score-bar passed", x: x(each.low, second) + 1, y: y(each.accuracy, second), width: width * (each.high - each.low) - 2, height: Math.max(0, y(0, second) - y(each.accuracy, second)) },
      s("title", {}, `${each.count} texts: confidence ${each.confidence.toFixed(2)}, right ${each.accuracy.toFixed(2)}`)));
  }
  svg.append(s("text", { class: "label-2", x: second.left, y: second.top + height + 54 }, "share that is right, by confidence"));
  return svg;
}
