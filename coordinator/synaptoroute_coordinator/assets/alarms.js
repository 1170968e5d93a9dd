// Alarms: the raised ones above every view, and the list with those that were cleared.

import { DEFAULT, get, isSetName, state, watch } from "./api.js";
import { byId, clock, h, scroll } from "./dom.js";
import { link } from "./place.js";

const SEVERITIES = { critical: "Critical", warning: "Warning" };
const NAMED_MAX = 4;
const CLEARED_MAX = 50;

// Where the sets of an alarm are looked at: the queries that wait for a review, and the answers over time.
const setLinks = (sets) => sets.filter(isSetName).slice(0, NAMED_MAX).map((name) => {
  const set = { set: name === DEFAULT ? "" : name };
  return h("span", { class: "nowrap" }, sets.length > 1 ? `${name}: ` : "", h("a", { href: link("learn", "", set) }, "review queue"), " · ",
    h("a", { href: link("traffic", "", { ...set, range: "7d" }) }, "traffic"));
});

let shown = "";
export function drawAlarms() {
  const alarms = state.view?.alarms ?? [];
  const key = JSON.stringify(alarms);
  if (key === shown) return;
  shown = key;
  byId("alarms").replaceChildren(...alarms.map((alarm) => h("div", { class: `alarm ${alarm.severity}${alarm.is_over ? " over" : ""}`, "data-code": alarm.code },
    h("b", {}, SEVERITIES[alarm.severity]), h("span", {}, alarm.message), setLinks(alarm.sets ?? []),
    h("span", { class: "small apart nowrap" }, alarm.since_ms ? `since ${clock(alarm.since_ms)}` : "", alarm.is_over ? ", over; cleared soon" : ""))));
}

// The card of the page Activity; returns what ends it.
export function alarmsCard(main) {
  const list = scroll("Alarms");
  const note = h("span", { class: "muted small", role: "status" });
  main.append(h("section", { class: "card", id: "alarm-list" }, h("header", {}, h("h2", {}, "Alarms"), note), list));
  let key = "";
  const look = async () => {
    try {
      const found = await get("/v1/alarms");
      if (key === JSON.stringify(found)) return;
      key = JSON.stringify(found);
      note.textContent = found.alarms.length ? `${found.alarms.length} raised` : "none is raised";
      const rows = [...found.alarms.map((each) => row(each, each.is_over ? "over, cleared soon" : "raised")),
        ...found.past.slice(0, CLEARED_MAX).map((each) => row(each, `cleared ${clock(each.until_ms)}`))];
      list.replaceChildren(rows.length ? h("table", { class: "record" },
        h("thead", {}, h("tr", {}, ["Since", "Alarm", "State"].map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows))
        : h("p", { class: "empty" }, "No alarm was raised."));
    } catch (problem) { note.textContent = problem.message; }
  };
  look();
  let before = shown;
  return watch(() => {
    if (before === shown) return;
    before = shown;
    look();
  });
}

const row = (alarm, words) => h("tr", {}, h("td", {}, alarm.since_ms ? clock(alarm.since_ms) : "–"),
  h("td", {}, h("b", {}, alarm.code.replaceAll("_", " ")), h("br"), alarm.message, " ", setLinks(alarm.sets ?? [])),
  h("td", {}, h("span", { class: `tag ${words.startsWith("cleared") ? "" : alarm.severity === "critical" ? "bad" : "warn"}` }, words)));
