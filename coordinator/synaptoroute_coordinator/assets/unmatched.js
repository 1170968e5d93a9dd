// Unmatched queries: texts that matched no route.

import { get, inSet, state } from "./api.js";
import { clock, h, scroll, whole } from "./dom.js";
import { go } from "./place.js";

const SHOWN = 100;

export function show(main) {
  const list = scroll("Unmatched queries");
  main.append(h("section", { class: "card" },
    h("header", {}, h("div", {}, h("h1", {}, "Unmatched"),
      h("p", { class: "muted" }, "The newest queries that matched no route. They are kept in memory, and only if an operator enables it."))),
    list));
  const look = async () => {
    try { draw(list, await get(inSet("/v1/unmatched"))); }
    catch (problem) { list.replaceChildren(h("p", { class: problem.status === 403 ? "muted" : "wrong" }, problem.message)); }
  };
  look();
  const timer = setInterval(() => { if (!document.hidden) look(); }, 5000);
  return () => clearInterval(timer);
}

// How near it came: a confidence, a score, or that the encoder does not know the text.
function whyOf(each) {
  if (each.reason === "not_understood") return "not understood";
  if (each.confidence != null) return `${Math.round(each.confidence * 100)} % sure`;
  if (each.score == null) return "–";
  return each.threshold == null ? each.score.toFixed(3) : `${each.score.toFixed(3)} of ${each.threshold.toFixed(2)}`;
}

// Group equal texts, the most frequent first.
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
    list.replaceChildren(h("p", { class: "empty" }, "Nothing is recorded. Nodes record unmatched queries if they are started with ",
      h("code", {}, "SYNAPTOROUTE_UNMATCHED_KEPT"), " above 0. It is off by default, because the queries are texts of users."));
    return;
  }
  if (!found.queries.length) { list.replaceChildren(h("p", { class: "empty" }, "No unmatched queries.")); return; }
  list.replaceChildren(h("table", { class: "unmatched" },
    h("thead", {}, h("tr", {}, ["Newest", "Query", "Times", "Nearest utterance", "How sure", ""].map((text) => h("th", { scope: "col" }, text || h("span", { class: "sr-only" }, "Action"))))),
    h("tbody", {}, together(found.queries).slice(0, SHOWN).map((each) => h("tr", {},
      h("td", {}, clock(each.at_ms)), h("td", { class: "said" }, each.text), h("td", { class: "number" }, whole(each.times)), h("td", { class: "muted" }, each.nearest ? `“${each.nearest}”` : "none"),
      h("td", { class: "nowrap" }, whyOf(each)),
      h("td", {}, h("button", { type: "button", class: "quiet nowrap", onclick: () => {
        state.draft = { utterances: [each.text] };
        go("routes", "+");
      } }, "New route")))))));
}
