// The fleet over time: writes, lag, load and live nodes, with the events as lines.

import { get, state } from "./api.js";
import { h, millis, rate, whole } from "./dom.js";
import { plot } from "./plot.js";
import { legend, RANGES, rangeChoice, rangeOf, timesOf } from "./traffic.js";

const LOOK_MS = 10000;
const MARKS = { bad: "bad", warn: "warn" };

// Adds the card to `main`; returns what ends it, and the start of the range.
export function show(main, place) {
  const range = rangeOf(place);
  const writes = plot({ title: "Entries written to the log", height: 150, isStacked: true, format: whole,
    series: [{ name: "entries", tone: "c0" }, { name: "position of the log" }] });
  const lag = plot({ title: "Largest lag of a node", height: 150, format: whole,
    series: [{ name: "entries behind", tone: "c3" }, { name: "node", format: (name) => name || "none" }] });
  const load = plot({ title: "Queries a second of all nodes", height: 150, format: rate,
    series: [{ name: "queries a second", tone: "c5" }, { name: "slowest p99", format: millis }] });
  const nodes = plot({ title: "Live nodes", height: 150, format: whole,
    series: [{ name: "live, the fewest", tone: "c4" }, { name: "known", tone: "c7" }] });
  const note = h("p", { class: "muted small", role: "status" });
  const part = (title, chart, tones) => h("div", {}, h("h3", {}, title), tones ? legend(tones) : null, chart.element);
  main.append(h("section", { class: "card", id: "over-time" },
    h("header", {}, h("h2", {}, "The fleet over time"), rangeChoice("activity", range)),
    h("div", { class: "grid two" }, part("Writes", writes), part("Largest lag", lag), part("Queries a second", load),
      part("Live nodes", nodes)), note));
  const look = async () => {
    try {
      draw({ writes, lag, load, nodes, note }, await get(`/v1/cluster/history?range=${range}`), range);
    } catch (problem) { note.textContent = problem.message; }
  };
  look();
  const timer = setInterval(() => { if (!document.hidden) look(); }, LOOK_MS);
  return () => {
    clearInterval(timer);
    for (const each of [writes, lag, load, nodes]) each.end();
  };
}

function draw({ writes, lag, load, nodes, note }, found, range) {
  const times = timesOf(found, found.head.length);
  const marks = state.events.filter((each) => Object.hasOwn(MARKS, each.tone)).map((each) => ({ at: each.at_ms / 1000, tone: MARKS[each.tone] }));
  const written = writtenOf(found.head);
  const most = (values) => Math.max(0, ...values.filter((each) => each !== null));
  writes.update({ times, marks, values: [written, found.head], words: `${whole(written.reduce((sum, each) => sum + (each ?? 0), 0))} entries in the last ${RANGES[range]}` });
  lag.update({ times, marks, values: [found.lag_entries, found.behind], words: `At most ${whole(most(found.lag_entries))} entries` });
  load.update({ times, marks, values: [found.queries_per_second, found.p99_ms], words: `At most ${rate(most(found.queries_per_second))}` });
  nodes.update({ times, marks, values: [found.live, found.nodes], words: `${whole(found.live.at(-1) ?? 0)} now` });
  const since = found.since_ms > found.from_ms ? ` This coordinator keeps them since ${new Date(found.since_ms).toLocaleString()}.` : "";
  note.textContent = `Vertical lines are warnings and faults of the list below.${since}`;
}

// Entries a bucket: how far the position moved.  A new epoch continues the numbers of the last one.
function writtenOf(heads) {
  let before = null;
  return heads.map((head) => {
    if (head === null) return null;
    const seq = Number(head.split(".")[1]);
    const moved = before === null ? 0 : Math.max(0, seq - before);
    before = seq;
    return moved;
  });
}
