// Queries that no route took: what people ask and nobody has an answer for.

import { get, state } from "./api.js";
import { clock, h } from "./dom.js";

export function show(main) {
  const list = h("div", { class: "scroll" });
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

function draw(list, found) {
  if (!found.is_on) {
    list.replaceChildren(h("p", { class: "empty" }, "Nothing is captured. Nodes keep such queries once they are started with ",
      h("code", {}, "SYNAPTOROUTE_UNMATCHED_KEPT"), " above 0: they are what people wrote, so it is off by itself."));
    return;
  }
  if (!found.queries.length) { list.replaceChildren(h("p", { class: "empty" }, "Every query of late had a route.")); return; }
  list.replaceChildren(h("table", {},
    h("thead", {}, h("tr", {}, ["When", "Query", "Nearest example", "Score", "Node", ""].map((text) => h("th", { scope: "col" }, text || h("span", { class: "sr-only" }, "Do"))))),
    h("tbody", {}, found.queries.map((each) => h("tr", {},
      h("td", {}, clock(each.at_ms)), h("td", { class: "said" }, each.text), h("td", { class: "muted" }, each.nearest ? `“${each.nearest}”` : "none"),
      h("td", { class: "number" }, each.score === null ? "–" : `${each.score.toFixed(3)} / ${each.threshold.toFixed(2)}`),
      h("td", {}, each.node),
      h("td", {}, h("button", { type: "button", class: "quiet", onclick: () => {
        state.draft = { utterances: [each.text] };
        location.hash = "#/routes/+";
      } }, "New route")))))));
}
