// Compare: how two route sets answer the same texts, before anybody is affected.

import { contentSet, DEFAULT, post, state } from "./api.js";
import { compare as bars } from "./charts.js";
import { h, scroll, whole } from "./dom.js";
import { go, link } from "./place.js";
import { fix, head } from "./tests.js";

const VERDICTS = { fixed: ["ok", "fixed"], broken: ["bad", "broken"], both_wrong: ["warn", "wrong in both"], unlabelled: ["", "differs"] };

export function show(main, place) {
  const own = state.sets.find((each) => each.name === contentSet());
  const from = place.params.get("from") || own?.forked_from || DEFAULT;
  const to = place.params.get("to") || contentSet();
  const outcome = h("div", { class: "grid", "aria-live": "polite" });
  const texts = h("textarea", { id: "compare-texts", rows: 4, placeholder: "Queries to ask both, one per line" });
  const choose = (id, value) => h("select", { id, onchange: () => go("compare", "", { from: before.value, to: after.value }) },
    state.sets.map((each) => h("option", { value: each.name, selected: each.name === value }, each.name)));
  const before = choose("compare-from", from), after = choose("compare-to", to);
  const look = async (asked) => {
    outcome.replaceChildren(h("p", { class: "empty" }, "Asking both sets …"));
    try { draw(outcome, await post("/v1/diff", { from, to, ...(asked ? { texts: asked } : {}) }), from, to); }
    catch (problem) { outcome.replaceChildren(h("p", { class: "wrong" }, problem.message)); }
  };
  main.append(h("section", { class: "card" },
    h("header", {}, h("div", {}, h("h1", {}, "Compare"), h("p", { class: "muted" }, "Both sets answer the tests of both. Nothing changes."))),
    h("div", { class: "row" }, h("div", { class: "grow" }, h("label", { for: "compare-from" }, "Before"), before),
      h("div", { class: "grow" }, h("label", { for: "compare-to" }, "After"), after)),
    h("details", { class: "field spaced" }, h("summary", {}, "Other texts"), h("label", { for: "compare-texts" }, "Queries without a label"), texts,
      h("button", { type: "button", onclick: () => {
        const asked = [...new Set(texts.value.split("\n").map((line) => line.trim()).filter(Boolean))].slice(0, 1000);
        if (asked.length) look(asked.map((text) => ({ text })));
      } }, "Compare on these"))), outcome);
  if (from === to) outcome.replaceChildren(h("p", { class: "empty" }, "Choose two different sets."));
  else look(null);
  return () => {};
}

function draw(outcome, found, from, to) {
  const side = (name, each) => ({ name, share: each.accuracy ?? 0, text: each.accuracy === null ? "no labels" : `${each.right} of ${found.labelled} right` });
  const aliases = state.aliases.filter((each) => each.set === from && from !== to);
  outcome.replaceChildren(...[
    h("section", { class: "card" },
      h("header", {}, h("h2", {}, "Result"), h("div", { class: "row" },
        aliases.map((each) => h("a", { class: "button primary", href: link("alias", each.name, { to }) }, `Promote ${to} for ${each.name} …`)))),
      found.texts ? h("div", { class: "row" }, h("span", { class: `tag ${found.broken ? "bad" : "ok"}` }, found.broken ? `${whole(found.broken)} broken` : "none broken"),
        h("span", { class: `tag ${found.fixed ? "ok" : ""}` }, `${whole(found.fixed)} fixed`), h("span", { class: "muted" }, `${whole(found.changed_total)} of ${whole(found.texts)} answers differ`))
        : h("p", { class: "empty" }, "Neither set has tests. Add some first, or compare on other texts."),
      found.labelled ? scroll("Accuracy", bars([side(from, found.before), side(to, found.after)])) : null,
      !found.is_current && h("p", { class: "wrong" }, "A set changed while it was asked: compare again.")),
    found.changed.length > 0 && h("section", { class: "card" }, h("header", {}, h("h2", {}, "Answers that change")),
      scroll("Answers that change", h("table", { class: "unmatched" }, head(["Query", "Right", from, to, "", ""]),
        h("tbody", {}, found.changed.map((each) => changed(each, to)))))),
    found.routes.length > 0 && h("section", { class: "card" }, h("header", {}, h("h2", {}, "Routes whose answers change")),
      scroll("Routes whose answers change", h("table", {}, h("thead", {}, h("tr", {}, ["Route", "Answers before", "After", "Tests", "Right before", "After"].map((text, index) => h("th", { scope: "col", class: index ? "number" : null }, text)))),
        h("tbody", {}, found.routes.slice(0, 200).map((each) => h("tr", {}, h("td", { class: "said" }, each.route ?? "no route"),
          [each.before, each.after, each.expected, each.right_before, each.right_after].map((count) => h("td", { class: "number" }, whole(count)))))))))].filter(Boolean));
}

const answer = (each) => `${each.route ?? "no route"}${each.confidence === null ? "" : ` ${Math.round(each.confidence * 100)} %`}`;

function changed(each, to) {
  const [tone, word] = VERDICTS[each.verdict] ?? ["", each.verdict];
  const label = each.verdict === "unlabelled" ? "–" : each.expected ?? "no route";
  return h("tr", { class: each.verdict === "broken" ? "worse" : "" }, h("td", { class: "said" }, each.text), h("td", {}, label),
    h("td", {}, answer(each.before)), h("td", {}, answer(each.after)), h("td", {}, h("span", { class: `tag ${tone}` }, word)),
    h("td", {}, ["broken", "both_wrong"].includes(each.verdict) ? h("button", { type: "button", class: "quiet", onclick: () => fix(to, { text: each.text, expected: each.expected, got: each.after.route }) }, "Fix") : null));
}
