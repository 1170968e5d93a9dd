// Charts: SVG made from numbers, each with a text alternative.

import { s } from "./dom.js";

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
    s("text", { class: `ring-text${text.length > 5 ? " long" : ""}`, x: 42, y: 49 }, text));
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

// One line per entry, newest on top, with a dot at the time each node made it visible.
export function timeline(entries, nodes) {
  const left = 190, right = 24, rowHeight = 23, top = 24, width = 820;
  const height = top + entries.length * rowHeight + 8;
  const delays = nodes.map((node) => new Map(node.entries));
  const all = entries.flatMap((entry) => delays.map((known) => known.get(entry.seq)).filter((v) => v !== undefined));
  const most = Math.max(10, ...all);
  const limit = TICKS.find((tick) => tick >= most * 1.05) ?? most;
  const x = (ms) => left + (Math.log10(Math.max(.5, ms) / .5) / Math.log10(limit / .5)) * (width - left - right);
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Time from the log to each node for the newest ${entries.length} entries` });
  for (const tick of TICKS.filter((value) => value <= limit)) {
    svg.append(s("line", { class: "axis", x1: x(tick), x2: x(tick), y1: top - 6, y2: height - 4 }),
      s("text", { class: "tick", x: x(tick), y: 12, "text-anchor": "middle" }, tick >= 1000 ? `${tick / 1000} s` : `${tick} ms`));
  }
  entries.forEach((entry, index) => {
    const y = top + index * rowHeight + rowHeight / 2;
    if (index % 2 === 0) svg.append(s("rect", { class: "band", x: 0, y: y - rowHeight / 2, width, height: rowHeight, rx: 5 }));
    const subject = entry.subject.length > 17 ? `${entry.subject.slice(0, 16)}…` : entry.subject;
    svg.append(s("text", { class: "label-2", x: 8, y: y + 4 }, entry.seq),
      s("text", { class: "label", x: 58, y: y + 4 }, s("title", {}, `${entry.kind} ${entry.subject}`), subject || entry.kind));
    const seen = nodes.map((node, at) => ({ node, at, ms: delays[at].get(entry.seq) })).filter((each) => each.ms !== undefined);
    if (seen.length > 1) {
      const times = seen.map((each) => each.ms);
      svg.append(s("line", { class: "span-line", x1: x(Math.min(...times)), x2: x(Math.max(...times)), y1: y, y2: y }));
    }
    for (const each of seen) {
      svg.append(s("circle", { class: `c${each.at % 8}`, cx: x(each.ms), cy: y, r: 5 },
        s("title", {}, `${each.node.name}: ${each.ms.toFixed(1)} ms`)));
    }
  });
  return svg;
}

// Confidence of each route and the least that it needs, best first; scores where a node gives no confidence.
export function candidates(list) {
  const isSure = list.every((each) => each.confidence != null);
  const value = (each) => (isSure ? each.confidence : each.score);
  const least = (each) => (isSure ? each.confidence_min : each.threshold) ?? null;
  const shown = (number) => (isSure ? `${Math.round(number * 100)} %` : number.toFixed(3));
  const left = 200, width = 820, rowHeight = 44, right = 80;
  const height = list.length * rowHeight + 26;
  const low = Math.min(0, ...list.map(value)), high = Math.max(1, ...list.map(value));
  const x = (number) => left + ((number - low) / (high - low)) * (width - left - right);
  const svg = s("svg", { class: "chart scores", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": list.map((each) => `${each.route} ${shown(value(each))}${least(each) === null ? "" : ` against ${shown(least(each))}`}`).join("; ") });
  list.forEach((each, index) => {
    const y = index * rowHeight + 6;
    const name = each.route.length > 25 ? `${each.route.slice(0, 24)}…` : each.route;
    svg.append(
      s("text", { class: "label", x: left - 12, y: y + 16, "text-anchor": "end" }, s("title", {}, each.route), name),
      s("rect", { class: "score-back", x: left, y: y + 2, width: width - left - right, height: 20, rx: 6 }),
      s("rect", { class: `score-bar ${each.passed ? "passed" : ""}`, x: left, y: y + 2, width: Math.max(2, x(value(each)) - left), height: 20, rx: 6 }),
      ...(least(each) === null ? [] : [s("line", { class: "threshold-line", x1: x(least(each)), x2: x(least(each)), y1: y - 2, y2: y + 26 },
        s("title", {}, `at least ${shown(least(each))}`))]),
      s("text", { class: "label", x: width - right + 12, y: y + 17 }, shown(value(each))),
      s("text", { class: "label-2", x: left, y: y + 37 }, detailOf(each, isSure)));
  });
  svg.append(s("text", { class: "tick", x: left, y: height - 2 }, isSure ? "0 %" : low.toFixed(1)),
    s("text", { class: "tick", x: width - right, y: height - 2, "text-anchor": "end" }, isSure ? "100 %" : high.toFixed(1)),
    s("text", { class: "tick", x: (left + width - right) / 2, y: height - 2, "text-anchor": "middle" }, `${isSure ? "confidence" : "score"}; the dashed line is the least that the route needs`));
  return svg;
}

function detailOf(each, isSure) {
  const text = each.utterance ? `“${shorten(each.utterance, 72)}”` : "nearest to the description";
  if (!isSure) return text;
  const least = each.threshold == null ? "" : ` of at least ${each.threshold.toFixed(2)}`;
  return `${text}  ·  score ${each.score.toFixed(3)}${least}`;
}

// Bars of shares, with labels.
export function compare(rows) {
  const left = 190, width = 560, rowHeight = 34;
  const svg = s("svg", { class: "compare", viewBox: `0 0 ${width} ${rows.length * rowHeight}`, role: "img",
    "aria-label": rows.map((row) => `${row.name}: ${row.text}`).join("; ") });
  rows.forEach((row, index) => {
    const y = index * rowHeight, room = width - left - 110;
    svg.append(s("text", { class: "label", x: left - 12, y: y + 19, "text-anchor": "end" }, row.name),
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

// Coverage and accuracy by the least confidence, and confidence against accuracy.
export function curves(found, marked) {
  const left = 40, top = 12, width = 300, height = 190, gap = 70;
  const x = (share, from) => from + width * share, y = (share) => top + height * (1 - share);
  const svg = s("svg", { class: "curves", viewBox: `0 0 ${left + 2 * width + gap + 12} ${top + height + 62}`, role: "img",
    "aria-label": "Coverage and accuracy by the least confidence, and how often confidences are right" });
  const frame = (from, label) => {
    for (const share of [0, .25, .5, .75, 1]) {
      svg.append(s("line", { class: "axis", x1: from, x2: from + width, y1: y(share), y2: y(share) }),
        s("text", { class: "tick", x: from - 6, y: y(share) + 4, "text-anchor": "end" }, share.toFixed(2)),
        s("text", { class: "tick", x: x(share, from), y: top + height + 16, "text-anchor": "middle" }, share.toFixed(2)));
    }
    svg.append(s("text", { class: "label-2", x: from + width / 2, y: top + height + 34, "text-anchor": "middle" }, label));
  };
  const line = (kind, values, name, place) => svg.append(
    s("polyline", { class: `curve k${kind}`, points: values.map(([a, b]) => `${x(a, left).toFixed(1)},${y(b).toFixed(1)}`).join(" ") }, s("title", {}, name)),
    s("text", { class: `label-2 k${kind}`, x: left + place, y: top + height + 54 }, name));
  frame(left, "least confidence");
  line(0, found.curve.map((each) => [each.limit, each.coverage]), "answered", 0);
  line(1, found.curve.filter((each) => each.accuracy !== null).map((each) => [each.limit, each.accuracy]), "right of these", 90);
  line(2, found.curve.map((each) => [each.limit, each.right]), "right of all", 200);
  if (marked !== null && marked !== undefined) svg.append(s("line", { class: "threshold-line", x1: x(marked, left), x2: x(marked, left), y1: top, y2: top + height }, s("title", {}, `in use: ${marked}`)));
  const second = left + width + gap;
  frame(second, "confidence");
  svg.append(s("line", { class: "span-line", x1: second, x2: second + width, y1: y(0), y2: y(1) }));
  for (const each of found.reliability) {
    svg.append(s("rect", { class: "score-bar passed", x: x(each.low, second) + 1, y: y(each.accuracy), width: width * (each.high - each.low) - 2, height: Math.max(0, y(0) - y(each.accuracy)) },
      s("title", {}, `${each.count} texts: confidence ${each.confidence.toFixed(2)}, right ${each.accuracy.toFixed(2)}`)));
  }
  svg.append(s("text", { class: "label-2", x: second, y: top + height + 54 }, "share that is right, by confidence"));
  return svg;
}
