// Routes: search, read and edit; a change can be previewed on test queries.

import { contentSet, get, inSet, post, routePath, state, watch, write } from "./api.js";
import { confirmTyped } from "./dialogs.js";
import { h, keeper, scroll, toast, whole } from "./dom.js";
import { go, link } from "./place.js";
import { isLive, makeDraft } from "./sets.js";

const KEPT = "synaptoroute.queries";
const PAGES_MAX = 20;
const LISTED = 200; // more would take a slow computer longer than a key press

export function show(main, { rest: name }) {
  const search = h("input", { type: "search", id: "route-search", placeholder: "Name or utterance", "aria-label": "Search routes" });
  const count = h("span", { class: "muted small", role: "status" });
  const list = h("ul", { class: "route-list" });
  const pane = h("section", { class: "card", "aria-live": "off" });
  main.append(h("div", { class: "grid narrow-left" },
    h("section", { class: "card" },
      h("header", {}, h("h1", {}, "Routes"), h("button", { type: "button", onclick: () => edit(pane, null, refresh) }, "New route")),
      search, h("p", {}, count), list), pane));
  let routes = [];
  const draw = () => drawList(list, count, routes, search.value, name);
  search.addEventListener("input", draw);
  const refresh = async (chosen) => {
    routes = await loadRoutes();
    draw();
    if (!chosen) return;
    const place = link("routes", chosen);
    const found = routes.find((route) => route.name === chosen);
    // The page of this route is already open, so nothing else draws it anew.
    if (location.hash === place && found) read(pane, found, refresh);
    else location.hash = place;
  };
  refresh().then(() => {
    const chosen = routes.find((route) => route.name === name) ?? null;
    if (name === "+") edit(pane, null, refresh);
    else if (chosen) read(pane, chosen, refresh);
    else pane.replaceChildren(h("p", { class: "empty" }, name ? `The route ${name} does not exist.` : "Choose a route to read or change it."));
  }).catch((problem) => pane.replaceChildren(h("p", { class: "wrong" }, problem.message)));
  return () => {};
}

export async function loadRoutes(name = contentSet()) {
  const routes = [];
  let after = "";
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const found = await get(inSet(`/v1/routes?limit=500&after=${encodeURIComponent(after)}`, name));
    routes.push(...found.routes);
    if (!found.next_after) break;
    after = found.next_after;
  }
  return routes;
}

function drawList(list, count, routes, wanted, current, listed = LISTED) {
  const words = wanted.trim().toLowerCase();
  const found = routes.map((route) => ({ route, hit: hitOf(route, words) })).filter((each) => each.hit !== null);
  count.textContent = words ? `${whole(found.length)} of ${whole(routes.length)}` : `${whole(routes.length)} routes`;
  const more = found.length > listed && h("li", {}, h("button", { type: "button", class: "more", onclick: () => {
    drawList(list, count, routes, wanted, current, listed + LISTED);
    list.children[listed]?.querySelector("button").focus();
  } }, h("span", {}, `Show ${whole(Math.min(LISTED, found.length - listed))} more`), h("span", {}, `${whole(found.length - listed)} left`)));
  list.replaceChildren(...[...found.slice(0, listed).map(({ route, hit }) => h("li", {},
    h("button", { type: "button", "aria-current": route.name === current ? "true" : null,
      onclick: () => { go("routes", route.name); } },
      h("span", {}, route.name, hit && h("small", { class: "muted" }, h("br"), `“${hit}”`)),
      h("span", {}, route.utterances.length)))), more].filter(Boolean));
}

function hitOf(route, words) {
  if (!words || route.name.toLowerCase().includes(words)) return "";
  return route.utterances.find((text) => text.toLowerCase().includes(words)) ?? null;
}

// What the route needs to match: a least confidence, a least score, or both.
function limitsOf(route) {
  const shown = (name, value, own) => value == null ? [] : [`${name} ${value.toFixed(2)}${own == null ? " (default)" : ""}`];
  const limits = [...shown("confidence at least", route.effective_confidence_min, route.confidence_min),
    ...shown("threshold", route.effective_threshold, route.threshold)];
  return limits.join(" · ") || "no limit";
}

function read(pane, route, refresh) {
  pane.replaceChildren(...[
    h("header", {}, h("div", {}, h("h1", {}, route.name),
      h("p", { class: "muted small" }, `${limitsOf(route)} · changed at ${route.revision} · ${route.utterances.length} utterances`)),
    h("div", { class: "row" },
      state.hasSets ? h("a", { class: "button", href: link("history", "", { route: route.name }) }, "History") : null,
      h("button", { type: "button", class: "primary", onclick: () => edit(pane, route, refresh) }, "Change"))),
    liveHint(route.name),
    route.description && h("p", {}, route.description),
    h("ul", { class: "utterances" }, route.utterances.map((text) => h("li", {}, text))),
    route.negatives?.length ? h("details", { class: "field", open: true }, h("summary", {}, "Must not get this route"),
      h("ul", { class: "utterances" }, route.negatives.map((text) => h("li", {}, text)))) : null,
    extra("Payload", route.payload), extra("Metadata", route.metadata),
    h("details", { class: "danger-zone spaced" }, h("summary", {}, "Delete the route"),
      h("button", { type: "button", class: "danger", onclick: () => remove(route, refresh) }, "Delete …"))].filter(Boolean));
}

// A change here is seen at once where an alias gives answers of the set.
function liveHint(rest) {
  const name = contentSet();
  return isLive(name) ? h("p", { class: "hint" }, `${name} answers queries: a change is seen at once. `,
    h("button", { type: "button", class: "quiet", onclick: () => makeDraft(name, "routes", rest) }, "Make a draft")) : null;
}

function extra(name, value) {
  if (value === null || (typeof value === "object" && !Object.keys(value).length)) return null;
  return h("details", { class: "field" }, h("summary", {}, name), h("pre", { class: "mono scroll", tabindex: 0 }, JSON.stringify(value, null, 2)));
}

async function remove(route, refresh) {
  const where = state.sets.length > 1 ? ` of ${contentSet()}` : "";
  if (!await confirmTyped("Delete a route", `The route${where} goes with its ${route.utterances.length} utterances, on every node.`, route.name, "Delete the route")) return;
  try {
    const { version } = await write("DELETE", routePath(route.name), { headers: { "If-Match": `"${route.revision}"` } });
    toast(`${route.name} was deleted at ${version}`);
    await refresh();
    go("routes");
  } catch (problem) { toast(problem.message); }
}

function edit(pane, route, refresh) {
  const name = h("input", { id: "name", value: route?.name ?? "", maxlength: 128, required: true, disabled: route !== null, placeholder: "refund" });
  const utterances = h("textarea", { id: "utterances", rows: 9, required: true, placeholder: "One utterance per line" });
  utterances.value = (route ?? state.draft)?.utterances.join("\n") ?? "";
  state.draft = null;
  const threshold = h("input", { id: "threshold", type: "number", min: -1, max: 1, step: 0.01, value: route?.threshold ?? "", placeholder: "default" });
  const confidence = h("input", { id: "confidence-min", type: "number", min: 0, max: 1, step: 0.01, value: route?.confidence_min ?? "", placeholder: "default" });
  const description = h("textarea", { id: "description", rows: 2, maxlength: 8192, placeholder: "What the route is for; counts as one more example" });
  description.value = route?.description ?? "";
  const negatives = h("textarea", { id: "negatives", rows: 4, placeholder: "I do not want a refund" });
  negatives.value = route?.negatives?.join("\n") ?? "";
  const texts = h("textarea", { id: "texts", rows: 6, placeholder: "Queries to test, one per line" });
  const keep = keeper(texts, KEPT);
  const note = h("input", { id: "note", maxlength: 200, placeholder: "Why; kept in the history" });
  const origin = originOf(contentSet());
  const wrong = h("p", { class: "wrong", role: "alert" });
  const outcome = h("div", { "aria-live": "polite" });
  const save = h("button", { type: "submit", class: "primary" }, "Save on every node");
  const number = (input) => input.value === "" ? null : Number(input.value);
  // Fields of newer formats are left out where they are empty, so that a cluster below level 3 takes the rest.
  const wished = () => ({ name: name.value.trim(), utterances: linesOf(utterances.value),
    threshold: number(threshold), metadata: route?.metadata ?? {}, payload: route?.payload ?? null,
    ...(confidence.value === "" ? {} : { confidence_min: number(confidence) }),
    ...(description.value.trim() ? { description: description.value.trim() } : {}),
    ...(linesOf(negatives.value).length ? { negatives: linesOf(negatives.value) } : {}) });
  let asked = 0;
  const tryIt = async (isAsked) => {
    wrong.textContent = "";
    const queries = linesOf(texts.value).slice(0, 200);
    if (!queries.length || !linesOf(utterances.value).length) { if (isAsked) wrong.textContent = "Enter an utterance and some test queries first."; return; }
    asked += 1;
    const mine = asked;
    try {
      const body = { name: wished().name || "new route", texts: queries };
      const [found, live] = await Promise.all([post(inSet("/v1/preview"), { ...body, route: { ...wished(), name: body.name } }),
        origin ? post(inSet("/v1/query/batch", origin), { texts: queries }) : null]);
      if (mine === asked) outcome.replaceChildren(previewTable(found.texts, origin, live?.matches));
    } catch (problem) { if (mine === asked) wrong.textContent = problem.message; }
  };
  // The preview follows what is typed.
  let waiting = 0;
  const later = () => { clearTimeout(waiting); waiting = setTimeout(() => tryIt(false), 600); };
  const submit = async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    save.disabled = true;
    const { name: chosen, ...body } = wished();
    try {
      const headers = route ? { "If-Match": `"${route.revision}"` } : { "If-None-Match": "*" };
      const { version } = await write("PUT", routePath(chosen), { body, headers, note: note.value.trim() });
      await settle(version, chosen);
      await refresh(chosen);
    } catch (problem) { wrong.textContent = problem.message; }
    save.disabled = false;
  };
  pane.replaceChildren(h("form", { onsubmit: submit, oninput: later },
    h("header", {}, h("h1", {}, route ? `Change ${route.name}` : "New route")),
    liveHint(route?.name ?? "+"),
    h("div", { class: "grid two" },
      h("div", {},
        field("name", "Name", name), field("utterances", "Utterances", utterances),
        field("description", "Description", description),
        field("negatives", "Negatives: texts that must not get this route, one per line", negatives),
        field("confidence-min", "Least confidence (empty: default)", confidence),
        field("threshold", "Threshold (empty: default)", threshold)),
      h("div", {}, field("texts", "Test queries", texts), h("div", { class: "row" },
        h("button", { type: "button", onclick: () => tryIt(true), id: "try" }, "Preview"), keep), outcome)),
    state.hasSets ? field("note", "Note", note) : null, wrong,
    h("div", { class: "row" }, save,
      h("button", { type: "button", class: "quiet", onclick: () => (route ? read(pane, route, refresh) : pane.replaceChildren()) }, "Cancel"))));
  (route ? utterances : name).focus();
  if (!texts.value && state.hasSets) {
    get(inSet("/v1/tests?limit=20")).then((found) => {
      if (!texts.value) { texts.value = found.tests.map((each) => each.text).join("\n"); later(); }
    }).catch(() => {});
  } else later();
}

// The set that a draft was copied from, if it still exists.
function originOf(name) {
  const origin = state.sets.find((each) => each.name === name)?.forked_from;
  return state.sets.some((each) => each.name === origin) ? origin : null;
}

const field = (id, text, input) => h("div", { class: "field" }, h("label", { for: id }, text), input);
export const linesOf = (text) => [...new Set(text.split("\n").map((line) => line.trim()).filter(Boolean))];

// Answers before and after a change; in a draft those of the set that it was copied from as well.
function previewTable(texts, origin, live) {
  const changed = texts.filter((each) => each.is_changed).length;
  const words = (match) => match.route ? `${match.route} ${percent(match)}` : "no route";
  const percent = (match) => match.confidence == null ? match.score.toFixed(2) : `${Math.round(match.confidence * 100)} %`;
  return scroll("Test queries before and after the change",
    h("p", { class: "small muted" }, changed ? `${changed} of ${texts.length} queries have a different answer` : `None of ${texts.length} queries has a different answer`),
    h("table", {}, h("thead", {}, h("tr", {}, ["Query", live && origin, live ? "Draft" : "Now", "After"].filter(Boolean).map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, texts.map((each, index) => h("tr", { class: each.is_changed ? "changed" : "" },
        h("td", {}, each.text), live ? h("td", { class: "muted" }, words(live[index])) : null, h("td", {}, words(each.before)), h("td", {}, words(each.after)))))));
}

// Wait until every live node has reached a version.
export function settle(version, name) {
  const [epoch, seq] = version.split(".").map(Number);
  const reached = (node) => { const [e, q] = node.version.split(".").map(Number); return e > epoch || (e === epoch && q >= seq); };
  return new Promise((resolve) => {
    const end = setTimeout(() => done(false), 5000);
    const stop = watch(() => { if (state.view.nodes.filter((node) => node.is_live).every(reached)) done(true); });
    function done(isWhole) {
      clearTimeout(end);
      setTimeout(() => stop(), 0);
      const live = state.view?.nodes.filter((node) => node.is_live).length ?? 0;
      toast(isWhole ? `${name} is on all ${live} nodes at ${version}` : `${name} is written at ${version}; a node is behind`);
      resolve();
    }
  });
}
