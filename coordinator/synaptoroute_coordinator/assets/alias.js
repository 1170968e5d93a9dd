// An alias: promote a set with a gate and its evidence, the shadow's disagreements, and the way back.

import { aliasPath, call, get, loadSets, state, write } from "./api.js";
import { askText, confirmTyped } from "./dialogs.js";
import { h, refill, scroll, toast, whole } from "./dom.js";
import { correct } from "./learn.js";
import { go, link } from "./place.js";
import { settle } from "./routes.js";
import { isAdmin, isLive, makeDraft } from "./sets.js";
import { head } from "./tests.js";

export function show(main, { rest: name, params }) {
  const path = aliasPath(name);
  const parts = { state: h("section", { class: "card" }), promote: h("section", { class: "card" }), shadow: h("section", { class: "card", hidden: true }), history: h("section", { class: "card" }) };
  const danger = h("details", { class: "card danger-zone" }, h("summary", {}, "Delete the alias"), h("p", { class: "muted" }, "Queries to it fail from then on. The sets stay."),
    h("button", { type: "button", class: "danger", disabled: !isAdmin(), onclick: async () => {
      if (!await confirmTyped("Delete an alias", "Clients that query it get an error.", name, "Delete the alias")) return;
      try {
        const { version } = await write("DELETE", path);
        await settle(version, name);
        await loadSets();
        go("sets", "", state.named === name ? { set: "" } : {});
      } catch (problem) { toast(problem.message); }
    } }, "Delete …"));
  main.append(parts.state, h("div", { class: "grid wide-left" }, h("div", { class: "grid" }, parts.promote, parts.shadow), parts.history), danger);
  const view = { name, path, parts, wanted: params.get("to"), alias: null };
  view.refresh = async () => {
    try {
      const [alias] = await Promise.all([get(path), loadSets()]);
      view.alias = alias;
      drawState(view);
      drawPromote(view);
      drawHistory(view);
      if (alias.shadow) await drawShadow(view);
      else parts.shadow.hidden = true;
    } catch (problem) { parts.state.replaceChildren(h("h1", {}, name), h("p", { class: "wrong" }, problem.message)); }
  };
  view.refresh();
  return () => {};
}

const percent = (part) => part === null || part === undefined ? "–" : `${(100 * part).toFixed(part === 1 || part === 0 ? 0 : 1)} %`;
const openSet = (name) => h("a", { href: link("routes", "", { set: name === "default" ? "" : name }) }, name);

function drawState({ name, alias, parts }) {
  const fact = (value, text) => h("div", { class: "fact" }, h("b", {}, value), h("span", {}, text));
  parts.state.replaceChildren(h("header", {}, h("div", {}, h("h1", {}, name), h("p", { class: "muted" }, "An alias: clients query it, and the set that it names answers.")),
    h("a", { class: "button", href: link("query", "", { set: name }) }, "Ask it")),
  h("div", { class: "facts" }, fact(openSet(alias.set), "answers"),
    alias.canary ? fact(openSet(alias.canary), `canary, ${percent(alias.canary_share)} of sessions`) : null,
    alias.shadow ? fact(openSet(alias.shadow), `shadow, ${percent(alias.shadow_share)} of queries`) : null));
}

// --- promote ----------------------------------------------------------------------------------

const field = (id, text, input) => h("div", { class: "field" }, h("label", { for: id }, text), input);
const numberOf = (input, scale = 1) => input.value === "" ? null : Number(input.value) / scale;

function drawPromote(view) {
  const { alias, parts } = view;
  const names = state.sets.map((each) => each.name);
  const choose = (id, value, none) => h("select", { id }, none ? h("option", { value: "" }, none) : null, names.map((each) => h("option", { value: each, selected: each === value }, each)));
  const number = (id, value, max, placeholder) => h("input", { id, type: "number", min: 0, max, step: "any", value: value ?? "", placeholder });
  const target = choose("promote-set", view.wanted ?? alias.set);
  const accuracy = number("min-accuracy", 90, 100, "no demand"), regressions = number("max-regressions", 0, 1000000, "no demand");
  const agreement = number("min-agreement", null, 100, "no demand");
  const shadow = choose("promote-shadow", alias.shadow, "none"), shadowShare = number("shadow-share", alias.shadow ? 100 * alias.shadow_share : "", 100, "share of queries, %");
  const canary = choose("promote-canary", alias.canary, "none"), canaryShare = number("canary-share", alias.canary ? 100 * alias.canary_share : "", 100, "share of sessions, %");
  const note = h("input", { id: "promote-note", maxlength: 200, placeholder: "Why; kept in the history" });
  const gated = h("input", { id: "gated", type: "checkbox", checked: true });
  const gateFields = h("div", { class: "grid three" }, field("min-accuracy", "Tests answered right, at least %", accuracy),
    field("max-regressions", "Regressions, at most", regressions), field("min-agreement", "Agrees with the shadow, at least %", agreement));
  gated.addEventListener("change", () => { gateFields.hidden = !gated.checked; });
  const outcome = h("div", { "aria-live": "polite", id: "promote-outcome" });
  const submit = h("button", { type: "submit", class: "primary", id: "promote", disabled: !isAdmin() }, "Promote");
  const promote = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    const gate = Object.fromEntries([["min_accuracy", numberOf(accuracy, 100)], ["max_regressions", numberOf(regressions)],
      ["min_shadow_agreement", numberOf(agreement, 100)]].filter(([, value]) => value !== null));
    const part = (select, input) => select.value ? numberOf(input, 100) ?? 1 : 0;
    const body = { set: target.value, shadow: shadow.value || null, shadow_share: part(shadow, shadowShare), canary: canary.value || null, canary_share: part(canary, canaryShare),
      ...(gated.checked && Object.keys(gate).length ? { gate } : {}) };
    outcome.replaceChildren(h("p", { class: "muted" }, body.gate ? "Measuring the set …" : "Writing …"));
    try {
      const { version, document } = await write("PUT", view.path, { body, note: note.value.trim(), headers: { "If-Match": `"${alias.revision}"` } });
      await settle(version, view.name);
      view.wanted = null;
      await view.refresh();
      parts.promote.querySelector("#promote-outcome").replaceChildren(h("p", {}, h("span", { class: "tag ok" }, "promoted"), ` ${view.name} is answered by ${body.set} from ${version} on.`),
        ...(document.evidence ? [evidence(document.evidence)] : []));
    } catch (problem) {
      const found = problem.document.evidence;
      outcome.replaceChildren(h("p", { class: "wrong" }, problem.message), ...(found ? [evidence(found)] : []));
    }
    submit.disabled = false;
  };
  const before = () => link("compare", "", { from: alias.set, to: target.value });
  const comparison = h("a", { class: "button", href: before() }, "Compare first");
  target.addEventListener("change", () => { comparison.href = before(); });
  parts.promote.replaceChildren(h("header", {}, h("h2", {}, "Promote"), h("span", { class: "muted small" }, isAdmin() ? "every node switches at one position" : "requires the scope admin")),
    h("form", { onsubmit: promote }, field("promote-set", "Set that answers", target),
      h("div", { class: "field row" }, gated, h("label", { for: "gated", class: "inline" }, "Only if its tests pass")), gateFields,
      h("details", { class: "field", open: Boolean(alias.shadow || alias.canary) }, h("summary", {}, "Shadow and canary"),
        h("div", { class: "grid two" }, h("div", {}, field("promote-shadow", "Shadow: asked as well, answers nobody", shadow), field("shadow-share", "of queries, %", shadowShare)),
          h("div", {}, field("promote-canary", "Canary: answers some sessions", canary), field("canary-share", "of sessions, %", canaryShare)))),
      field("promote-note", "Note", note), h("div", { class: "row" }, submit, comparison), outcome));
}

// What a gate measured.
function evidence(found) {
  const failures = found.failures ?? [];
  return h("div", { class: "evidence" },
    h("p", { class: "row" }, found.accuracy === undefined ? null : h("span", {}, h("b", {}, percent(found.accuracy)), ` of ${whole(found.tests ?? 0)} tests right`,
      found.base_accuracy === undefined || found.base_accuracy === null ? "" : `, ${percent(found.base_accuracy)} before`),
    found.regressions === undefined ? null : h("span", { class: `tag ${found.regressions ? "bad" : "ok"}` }, `${whole(found.regressions)} ${found.regressions === 1 ? "regression" : "regressions"}`),
    found.shadow_agreement === undefined ? null : h("span", {}, `${percent(found.shadow_agreement)} of ${whole(found.shadow_queries)} shadowed queries agree`)),
    (found.unmet ?? []).length ? h("ul", {}, found.unmet.map((each) => h("li", { class: "wrong" }, each))) : null,
    failures.length ? scroll("Tests that failed", h("table", { class: "unmatched" }, head(["Query", "Right", "Answer", ""]),
      h("tbody", {}, failures.map((each) => h("tr", { class: each.is_regression ? "worse" : "" }, h("td", { class: "said" }, each.text ?? "a test that is gone"),
        h("td", {}, each.expected ?? "no route"), h("td", {}, each.got ?? "no route"), h("td", {}, each.is_regression ? h("span", { class: "tag bad" }, "regression") : null)))))) : null);
}

// --- the shadow -------------------------------------------------------------------------------

async function drawShadow(view) {
  const { alias, parts } = view;
  const card = parts.shadow;
  card.hidden = false;
  const found = await get(`${view.path}/shadow`);
  const compared = found.agreed + found.disagreed;
  refill(card, h("header", {}, h("h2", {}, `Shadow ${alias.shadow}`), h("button", { type: "button", class: "quiet", disabled: !isAdmin(), onclick: async () => {
    try { await call("DELETE", `${view.path}/shadow`); await drawShadow(view); } catch (problem) { toast(problem.message); }
  } }, "Count anew")),
  compared ? h("p", {}, h("b", {}, percent(found.agreed / compared)), ` of ${whole(compared)} queries get the same route from both`, found.skipped ? h("span", { class: "muted" }, `, ${whole(found.skipped)} were not compared`) : null)
    : h("p", { class: "empty" }, "No query was compared yet."),
  found.pairs.length ? scroll("Disagreements by routes", h("table", {}, head([alias.set, alias.shadow, "Times"]),
    h("tbody", {}, found.pairs.slice(0, 30).map((each) => h("tr", {}, h("td", {}, each.answered ?? "no route"), h("td", {}, each.shadowed ?? "no route"), h("td", { class: "number" }, whole(each.count))))))) : null,
  h("h3", { class: "spaced" }, "Queries"),
  found.sample.length ? scroll("Queries that both answer differently", h("table", { class: "unmatched", id: "disagreements" }, head(["Query", alias.set, alias.shadow, "Times", "Right is"]),
    h("tbody", {}, together(found.sample).slice(0, 50).map((each) => sampleRow(view, each)))))
    : h("p", { class: "muted" }, "No query is kept. Texts are kept only while the review queue of the answering set is on, which the page Learn can switch on."));
}

// Equal queries once, with how often they came.
function together(sample) {
  const found = new Map();
  for (const each of sample) {
    const key = JSON.stringify([each.text, each.answered, each.shadowed]);
    if (found.has(key)) found.get(key).times += 1;
    else found.set(key, { ...each, times: 1 });
  }
  return [...found.values()];
}

// The right answer of a query goes to the shadow: an utterance of the chosen route, or a negative.
function sampleRow(view, each) {
  const { alias } = view;
  const judge = async (expected, got) => {
    const into = isLive(alias.shadow) ? await makeDraft(alias.shadow, "") : alias.shadow;
    if (into) correct(into, each.text, expected, got);
  };
  const sides = [...new Set([each.answered, each.shadowed])].filter((one) => one !== null);
  return h("tr", {}, h("td", { class: "said" }, each.text), h("td", {}, each.answered ?? "no route"), h("td", {}, each.shadowed ?? "no route"), h("td", { class: "number" }, whole(each.times)),
    h("td", {}, h("span", { class: "row" }, sides.map((one) => h("button", { type: "button", class: "nowrap", onclick: () => judge(one, each.shadowed) }, one)),
      h("button", { type: "button", class: "nowrap", onclick: () => judge(null, each.shadowed ?? each.answered) }, "no route"))));
}

// --- the way back -----------------------------------------------------------------------------

function drawHistory(view) {
  const { alias, parts } = view;
  const back = async (change) => {
    const note = await askText(`Roll back to ${change.set}`, `${view.name} is answered by ${change.set} again, on every node at one position.`,
      { label: "Note", value: `Back to ${change.set}`, action: "Roll back", optional: true });
    if (note === null) return;
    try {
      const { version } = await write("POST", `${view.path}/rollback`, { body: { version: change.version }, note, headers: { "If-Match": `"${alias.revision}"` } });
      await settle(version, view.name);
      await view.refresh();
    } catch (problem) { toast(problem.message); }
  };
  const same = (change) => change.set === alias.set && change.shadow === alias.shadow && change.canary === alias.canary && change.shadow_share === alias.shadow_share && change.canary_share === alias.canary_share;
  parts.history.replaceChildren(h("header", {}, h("h2", {}, "History")),
    h("ol", { class: "changes" }, alias.history.map((each) => h("li", {},
      h("p", { class: "row" }, h("b", {}, each.before && each.before !== each.set ? `${each.before} → ${each.set}` : each.set),
        each.shadow ? h("span", { class: "tag info" }, `shadow ${each.shadow} ${percent(each.shadow_share)}`) : null,
        each.canary ? h("span", { class: "tag warn" }, `canary ${each.canary} ${percent(each.canary_share)}`) : null),
      h("p", { class: "muted small" }, `${new Date(each.at_ms).toLocaleString()} · ${each.author ?? "without a key"} · ${each.version}`),
      each.note ? h("p", {}, `“${each.note}”`) : null,
      each.evidence ? h("details", {}, h("summary", {}, "Evidence"), evidence(each.evidence)) : null,
      same(each) || !isAdmin() ? null : h("button", { type: "button", class: "quiet", onclick: () => back(each) }, "Roll back to this")))));
}
