// Queries that no route took: what people ask and nobody has an answer for.

import { get, state } from "./api.js";
import { clock, h, scroll, whole } from "./dom.js";

const SHOWN = 100;

export function show(main) {
  const list = scroll("Unmatched queries");
  main.append(h("section", { class: "card" },
    h("header", {}, h("div", {}, h("h1", {}, "Unmatched"),
      h("p", { class: "muted" }, "The newest queries that no route took. They are kept in memory only, and only where an operator wants it."))),
    list));
  const look = async () => {
    try { draw(list, await get("/v1/unmatched")); }
    catch (problem) { list.replaceChildren(h("p", { class: problem.status === 403 ? "muted" : "wrong" }, problem.message)); }
  };
  look();
  const timer = setInterval(() => { if (!document.hidden) look(); }, 5000);
  return () => clearInterval(timer);
}

// The same text, asked often: once, with the most often asked first.
function together(queries) {
  const texts = new Map();
  for (const each of queries) {
    const known = texts.get(each.text);
    if (known) known.times += 1;
    else texts.set(each.text, { ...each, times: 1 });
  }
  return [...texts.values()].sort((a, b) => b.times - a.times || b.at_ms - a.at_ms);
}

function draw(list, found) {
  if (!found.is_on) {
    list.replaceChildren(h("p", { class: "empty" }, "Nothing is captured. Nodes keep such queries once they are started with ",
      h("code", {}, "SYNAPTOROUTE_UNMATCHED_KEPT"), " above 0: they are what people wrote, so it is off by itself."));
    return;
  }
  if (!found.queries.length) { list.replaceChildren(h("p", { class: "empty" }, "Every query of late had a route.")); return; }
  list.replaceChildren(h("table", { class: "unmatched" },
    h("thead", {}, h("tr", {}, ["Newest", "Query", "Times", "Nearest example", "Score", ""].map((text) => h("th", { scope: "col" }, text || h("span", { class: "sr-only" }, "Do"))))),
    h("tbody", {}, together(found.queries).slice(0, SHOWN).map((each) => h("tr", {},
      h("td", {}, clock(each.at_ms)), h("td", { class: "said" }, each.text), h("td", { class: "number" }, whole(each.times)), h("td", { class: "muted" }, each.nearest ? `“${each.nearest}”` : "none"),
      h("td", { class: "nowrap" }, each.score === null ? "–" : `${each.score.toFixed(3)} of ${each.threshold.toFixed(2)}`),
      h("td", {}, h("button", { type: "button", class: "quiet nowrap", onclick: () => {
        state.draft = { utterances: [each.text] };
        location.hash = "#/routes/+";
      } }, "New route")))))));
}
