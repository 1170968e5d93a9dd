// Learn: what people asked and what was wrong becomes utterances, previewed and applied at once.

import { call, contentSet, get, inSet, post, state } from "./api.js";
import { curves } from "./charts.js";
import { clock, h, scroll, toast, whole } from "./dom.js";
import { go, link } from "./place.js";
import { loadRoutes, settle } from "./routes.js";
import { isLive, makeDraft, query } from "./sets.js";

const CHECKED_MAX = 12;

// What is picked lives as long as the page, so that looking at another view loses nothing.
const picksOfSets = new Map();
let picks = new Map();

function picksOf(name) {
  if (!picksOfSets.has(name)) picksOfSets.set(name, new Map());
  return picksOfSets.get(name);
}

// Take a wrong answer to this page, for a set: the text becomes an utterance of the right route, or
// a negative of the wrong one where no route is right.
export function correct(name, text, expected, got) {
  picksOf(name).set(`text:${text}`, { texts: [text], route: expected, create: false, not: expected === null ? got : null });
  go("learn", "", { set: name === "default" ? "" : name });
}

export function show(main) {
  const name = contentSet();
  picks = picksOf(name);
  const parts = { ask: h("section", { class: "card" }), queue: h("section", { class: "card" }),
    clusters: h("section", { class: "card" }), sure: h("section", { class: "card" }), changes: h("section", { class: "card sticky", id: "changes" }) };
  main.append(h("div", { class: "grid wide-left" },
    h("div", { class: "grid" }, parts.ask, parts.queue, parts.clusters, parts.sure), parts.changes));
  // A draft answers nobody: what people asked is with the set that it was copied from.
  const origin = state.sets.find((each) => each.name === name)?.forked_from;
  const source = !isLive(name) && state.sets.some((each) => each.name === origin) ? origin : name;
  const view = { name, source, parts, routes: [], settings: null, queue: null, clusters: null };
  const redraw = () => { drawQueue(view); drawClusters(view); drawChanges(view); };
  view.refresh = async () => {
    try {
      const [routes, settings, queue, clusters] = await Promise.all([
        loadRoutes(), get(inSet("/v1/settings")), get(inSet("/v1/feedback?limit=200")), get(inSet("/v1/unmatched/clusters", source))]);
      Object.assign(view, { routes: routes.map((each) => each.name), settings, queue, clusters });
      const kept = new Set(queue.items.map((each) => each.id));
      for (const [key, pick] of picks) if (pick.item && !kept.has(pick.item)) picks.delete(key);
      redraw();
    } catch (problem) {
      parts.queue.replaceChildren(h("p", { class: problem.status === 403 ? "muted" : "wrong" }, problem.message));
    }
  };
  view.redraw = redraw;
  drawAsk(view);
  drawSure(view);
  drawChanges(view);
  view.refresh();
  return () => {};
}

// --- picking --------------------------------------------------------------------------------

function pick(view, key, chosen) {
  picks.set(key, chosen);
  view.redraw();
}

function chooseRoute(view, label, chosen) {
  const select = h("select", { "aria-label": label },
    h("option", { value: "" }, "choose a route"),
    view.routes.map((name) => h("option", { value: name, selected: name === chosen }, name)),
    h("option", { value: "+" }, "a new route …"));
  const name = h("input", { "aria-label": `${label}: name of the new route`, maxlength: 128, placeholder: "name of the new route", hidden: true });
  select.addEventListener("change", () => { name.hidden = select.value !== "+"; if (!name.hidden) name.focus(); });
  const value = () => {
    const given = select.value === "+" ? name.value.trim() : select.value;
    return given ? { route: given, create: !view.routes.includes(given) } : null;
  };
  return { element: h("span", { class: "row" }, select, name), value };
}

function addTo(view, key, texts, chooser, extra, not) {
  const chosen = chooser.value();
  if (!chosen) { toast("Choose a route first."); return; }
  pick(view, key, { texts, ...chosen, ...extra, not: not?.value(chosen.route) ?? null });
}

// Whether the route that answered wrongly learns that the text is not its own.
function notFor(was) {
  if (!was) return null;
  const box = h("input", { type: "checkbox" });
  return { element: h("label", { class: "muted small nowrap" }, box, ` and never ${was}`),
    value: (route) => (box.checked && route !== was ? was : null) };
}

// --- a question -----------------------------------------------------------------------------

function drawAsk(view) {
  const text = h("input", { id: "learn-text", required: true, maxlength: 8000, autocomplete: "off", placeholder: "Where is my order?", "aria-label": "Question" });
  const outcome = h("div", { "aria-live": "polite" });
  const ask = async (event) => {
    event.preventDefault();
    if (!text.value.trim()) { text.focus(); return; }
    try {
      const match = await query(text.value, { name: view.name });
      drawAnswer(view, outcome, text.value.trim(), match);
    } catch (problem) { outcome.replaceChildren(h("p", { class: "wrong" }, problem.message)); }
  };
  view.parts.ask.replaceChildren(
    h("header", {}, h("h1", {}, "Learn"), h("span", { class: "muted small" }, "Turn misses into utterances; nothing changes before you apply it")),
    h("form", { class: "ask", onsubmit: ask }, text, h("button", { type: "submit", class: "primary" }, "Ask")), outcome);
}

function drawAnswer(view, outcome, text, match) {
  const chooser = chooseRoute(view, "Right route of the question", match.route ?? match.candidates?.[0]?.route);
  const not = notFor(match.route);
  outcome.replaceChildren(
    h("p", {}, h("span", { class: `tag ${match.route ? "ok" : "warn"}` }, match.route ?? "no route"), " ",
      h("span", { class: "muted" }, `${certainty(match)}${match.utterance ? `, nearest “${match.utterance}”` : ""}`)),
    h("div", { class: "row" }, h("span", {}, "It belongs to"), chooser.element, not?.element ?? "",
      h("button", { type: "button", id: "learn-add", onclick: () => addTo(view, `text:${text}`, [text], chooser, {}, not) }, "Add as an utterance")));
}

const certainty = (match) => {
  if (match.confidence !== null && match.confidence !== undefined) return `confidence ${match.confidence.toFixed(2)}`;
  return match.score === null ? "nothing to compare with" : `score ${match.score.toFixed(2)}`;
};

// --- the review queue -----------------------------------------------------------------------

function drawQueue(view) {
  const { queue, parts } = view;
  if (!queue) return;
  const title = h("header", {}, h("h2", {}, "Review queue"),
    h("span", { class: "muted small" }, queue.is_on ? `${whole(queue.total)} items` : "off"));
  if (!queue.is_on) {
    parts.queue.replaceChildren(title, h("p", { class: "empty" }, "The queue keeps what people say about answers. It is off by default, because it holds what they wrote; it is deleted after 30 days, and e-mail addresses and long numbers are cut out."),
      h("button", { type: "button", id: "queue-on", onclick: () => switchOn(view) }, "Switch the queue on"));
    return;
  }
  parts.queue.replaceChildren(title, queue.items.length ? scroll("Review queue", h("table", { class: "unmatched" },
    head(["Said", "Text", "Was", "Belongs to", ""]),
    h("tbody", {}, queue.items.map((item) => queueRow(view, item))))) : h("p", { class: "empty" }, "Nothing waits for a review."));
}

async function switchOn(view) {
  try {
    await call("PUT", inSet("/v1/settings"), { body: { ...view.settings, feedback: {} } });
    await view.refresh();
  } catch (problem) { toast(problem.message); }
}

function queueRow(view, item) {
  const key = `item:${item.id}`;
  const chooser = chooseRoute(view, `Route of “${item.text ?? item.id}”`, item.route);
  const not = notFor(item.text ? item.was : null);
  const chosen = picks.get(key);
  return h("tr", { class: chosen ? "changed" : "", "data-item": item.id },
    h("td", { class: "nowrap" }, clock(item.at_ms), item.times > 1 ? ` ×${item.times}` : ""),
    h("td", { class: "said" }, item.text ?? "no text is kept"), h("td", {}, item.was ?? "no route"),
    h("td", {}, chosen ? picked(chosen) : [chooser.element, not?.element]),
    h("td", { class: "nowrap" }, chosen
      ? h("button", { type: "button", class: "quiet", onclick: () => { picks.delete(key); view.redraw(); } }, "Undo")
      : [item.text ? h("button", { type: "button", onclick: () => addTo(view, key, [item.text], chooser, { item: item.id }, not) }, "Add") : null,
        h("button", { type: "button", class: "quiet", onclick: () => pick(view, key, { texts: [], item: item.id }) }, "Dismiss")]));
}

const picked = (chosen) => h("b", {}, [chosen.route && `${chosen.create ? "new route " : ""}${chosen.route}`, chosen.not && `never ${chosen.not}`].filter(Boolean).join(", ") || "dismissed");

// --- unmatched queries ----------------------------------------------------------------------

function drawClusters(view) {
  const { clusters, parts } = view;
  if (!clusters) return;
  const found = clusters.clusters;
  const title = h("header", {}, h("h2", {}, "Queries without a route"),
    found.length ? h("button", { type: "button", class: "quiet", onclick: () => save(found) }, "Export") : null);
  if (!clusters.is_on) {
    parts.clusters.replaceChildren(title, h("p", { class: "empty" }, "Nothing is recorded. Nodes record unmatched queries if they are started with ",
      h("code", {}, "SYNAPTOROUTE_UNMATCHED_KEPT"), " above 0."));
    return;
  }
  parts.clusters.replaceChildren(title, found.length ? h("ul", { class: "clusters" },
    found.slice(0, 50).map((cluster) => clusterRow(view, cluster))) : h("p", { class: "empty" }, "No unmatched queries."));
}

function clusterRow(view, cluster) {
  const texts = cluster.texts.map((each) => each.text);
  const key = `cluster:${texts[0]}`;
  const chooser = chooseRoute(view, `Route of “${texts[0]}”`, cluster.nearest.route);
  const chosen = picks.get(key);
  const dismiss = async () => {
    try { await post(inSet("/v1/unmatched/dismiss", view.source), { texts }); await view.refresh(); } catch (problem) { toast(problem.message); }
  };
  return h("li", { class: chosen ? "changed" : "" },
    h("p", {}, h("b", {}, whole(cluster.size)), " × ", texts.slice(0, 3).map((text) => h("span", { class: "said" }, `“${text}” `)),
      texts.length > 3 ? h("span", { class: "muted small" }, `and ${texts.length - 3} more`) : null),
    h("p", { class: "muted small" }, cluster.nearest.route ? `nearest route ${cluster.nearest.route}` : "no route is near"),
    chosen ? h("div", { class: "row" }, picked(chosen), h("button", { type: "button", class: "quiet", onclick: () => { picks.delete(key); view.redraw(); } }, "Undo"))
      : h("div", { class: "row" }, chooser.element,
        h("button", { type: "button", onclick: () => addTo(view, key, texts, chooser, {}) }, texts.length > 1 ? `Add all ${texts.length}` : "Add"),
        h("button", { type: "button", class: "quiet", onclick: dismiss }, "Dismiss")));
}

function save(clusters) {
  const lines = clusters.flatMap((cluster, number) => cluster.texts.map((each) =>
    JSON.stringify({ text: each.text, times: each.times, cluster: number + 1, nearest: cluster.nearest.route })));
  const link = h("a", { href: URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "application/x-ndjson" })), download: "unmatched.jsonl" });
  link.click();
  URL.revokeObjectURL(link.href);
}

// --- how sure answers are -------------------------------------------------------------------

function drawSure(view) {
  const outcome = h("div", { "aria-live": "polite" });
  const judge = h("button", { type: "button", id: "judge", onclick: async () => {
    judge.disabled = true;
    try {
      const found = await get(inSet("/v1/evaluation"));
      outcome.replaceChildren(...drawEvaluation(found, view.settings?.confidence_min ?? null));
    } catch (problem) { outcome.replaceChildren(h("p", { class: "wrong" }, problem.message)); }
    judge.disabled = false;
  } }, "Judge the routes");
  view.parts.sure.replaceChildren(h("header", {}, h("h2", {}, "How sure answers are"), judge),
    h("p", { class: "muted small" }, "Every utterance as a query, by the routes without it. None of them belongs to no route."), outcome);
}

function drawEvaluation(found, marked) {
  if (!found.texts) return [h("p", { class: "empty" }, "No route has two utterances.")];
  const share = (count) => `${(100 * count / found.texts).toFixed(0)} %`;
  const pairs = found.confusion_pairs.slice(0, 8);
  return [
    h("p", {}, `Of ${whole(found.texts)} utterances the own route ranks first for ${share(found.ranked_right)}, and ${share(found.answered_right)} are answered right. Calibration error ${found.calibration_error.toFixed(3)}.`),
    scroll("Curves", curves(found, marked)),
    pairs.length ? h("table", {}, head(["Belongs to", "Nearest", "Times"]), h("tbody", {}, pairs.map((each) =>
      h("tr", {}, h("td", {}, each.expected), h("td", {}, each.best), h("td", { class: "number" }, whole(each.count)))))) : h("p", { class: "muted" }, "No pair of routes is confused.")];
}

// --- the change -----------------------------------------------------------------------------

function revision() {
  const routes = new Map();
  const resolved = [];
  const change = (name, create) => {
    if (!routes.has(name)) routes.set(name, { name, utterances: [], negatives: [], create });
    return routes.get(name);
  };
  for (const chosen of picks.values()) {
    if (chosen.item) resolved.push(chosen.item);
    if (chosen.route) add(change(chosen.route, chosen.create).utterances, chosen.texts);
    if (chosen.not) add(change(chosen.not, false).negatives, chosen.texts);
  }
  return { routes: [...routes.values()], resolved };
}

const add = (list, texts) => list.push(...texts.filter((text) => !list.includes(text)));

function drawChanges(view) {
  const { routes, resolved } = revision();
  const pane = view.parts.changes;
  // Drawn anew only if it changed: an answer on its way belongs to what is shown.
  const key = JSON.stringify([routes, resolved]);
  if (view.shown === key) return;
  view.shown = key;
  const title = h("header", {}, h("h2", {}, "Changes"));
  if (!picks.size) {
    pane.replaceChildren(title, h("p", { class: "empty" }, "Ask a question or go through the lists, and add what the routes should learn. Everything is applied in one write."));
    return;
  }
  const outcome = h("div", { "aria-live": "polite", id: "effect" });
  const wrong = h("p", { class: "wrong", role: "alert" });
  const isServing = isLive(view.name);
  const apply = h("button", { type: "button", class: "primary", id: "apply", onclick: () => applyAll(view, wrong, apply) }, "Apply on every node");
  const preview = h("button", { type: "button", id: "preview", onclick: async () => {
    wrong.textContent = "";
    preview.disabled = true;
    try { drawEffect(outcome, await post(inSet("/v1/revisions/preview"), { ...revision(), texts: labelled() })); }
    catch (problem) { wrong.textContent = problem.message; }
    preview.disabled = false;
  } }, "Preview the effect");
  const forget = (route, text) => {
    for (const [key, chosen] of picks) {
      if (chosen.route !== route || !chosen.texts.includes(text)) continue;
      chosen.texts = chosen.texts.filter((each) => each !== text);
      if (!chosen.texts.length) picks.delete(key);
    }
    view.redraw();
  };
  const forgetNot = (route, text) => {
    for (const [key, chosen] of picks) {
      if (chosen.not !== route || !chosen.texts.includes(text)) continue;
      chosen.not = null;
      if (!chosen.route) picks.delete(key);
    }
    view.redraw();
  };
  pane.replaceChildren(...[title,
    isServing && state.hasSets ? h("p", { class: "hint" }, `${view.name} answers queries. `, h("button", { type: "button", class: "quiet", onclick: async () => {
      const into = await makeDraft(view.name, "");
      if (!into) return;
      for (const [key, chosen] of picks) if (!chosen.item) picksOf(into).set(key, chosen);
      picks.clear();
      go("learn", "", { set: into });
    } }, "Go on in a draft")) : null,
    ...routes.map((route) => h("div", { class: "field" },
      h("h3", {}, route.create ? `New route ${route.name}` : route.name),
      h("ul", { class: "utterances" }, route.utterances.map((text) => h("li", {}, text, " ",
        h("button", { type: "button", class: "quiet", "aria-label": `Leave out “${text}”`, onclick: () => forget(route.name, text) }, "×"))),
        route.negatives.map((text) => h("li", {}, h("span", { class: "muted" }, "never "), text, " ",
          h("button", { type: "button", class: "quiet", "aria-label": `Leave out “${text}”`, onclick: () => forgetNot(route.name, text) }, "×")))))),
    resolved.length ? h("p", { class: "muted small" }, `${resolved.length} ${resolved.length === 1 ? "item leaves" : "items leave"} the review queue`) : null,
    h("div", { class: "row" }, preview, apply,
      h("button", { type: "button", class: "quiet", onclick: () => { picks.clear(); view.redraw(); } }, "Discard")),
    wrong, outcome].filter(Boolean));
}

// The picked questions with their labels: the server judges the queue's items by itself.
function labelled() {
  const texts = [];
  for (const chosen of picks.values()) {
    if (chosen.item || !(chosen.route || chosen.not)) continue;
    for (const text of chosen.texts) if (texts.length < 200) texts.push({ text, route: chosen.route });
  }
  return texts;
}

function drawEffect(outcome, effect) {
  const change = (before, after, count) => `${before} of ${count} before, ${after} after`;
  const changed = [...effect.texts.filter((each) => each.is_changed), ...effect.utterances_changed];
  const isWorse = effect.right_after < effect.right_before;
  outcome.replaceChildren(
    h("p", {}, h("b", {}, "Labelled texts answered right: "), change(effect.labelled_right_before, effect.labelled_right_after, effect.labelled)),
    h("p", { class: isWorse ? "wrong" : "" }, h("b", {}, "Own utterances, each left out, answered right: "), change(effect.right_before, effect.right_after, effect.utterances)),
    changed.length ? scroll("Answers that change", h("table", {}, head(["Text", "Now", "After"]),
      h("tbody", {}, changed.slice(0, 60).map((each) => h("tr", { class: each.is_labelled && each.after.route !== each.expected ? "worse" : "changed" },
        h("td", {}, each.text, each.kind === "utterance" ? h("span", { class: "muted small" }, " (utterance)") : null),
        h("td", {}, each.before.route ?? "no route"), h("td", {}, each.after.route ?? "no route"))))))
      : h("p", { class: "muted" }, "No answer changes."));
}

async function applyAll(view, wrong, button) {
  wrong.textContent = "";
  button.disabled = true;
  const sent = revision();
  const asked = sent.routes.flatMap((route) => route.utterances.map((text) => ({ text, route: route.name })));
  const learned = asked.map((each) => each.text).slice(0, 1000);
  try {
    const answer = await call("POST", inSet("/v1/revisions"), { body: sent });
    const names = sent.routes.map((route) => route.name).join(", ") || "the review";
    await settle(answer.headers.get("SR-Version"), names);
    picks.clear();
    if (learned.length) await post(inSet("/v1/unmatched/dismiss", view.source), { texts: learned });
    await view.refresh();
    drawDone(view.parts.changes, await checkNodes(asked.slice(0, CHECKED_MAX)), answer.headers.get("SR-Version"));
  } catch (problem) { wrong.textContent = problem.message; }
  button.disabled = false;
}

// Ask every live node what was learned, all texts in one request a node.
async function checkNodes(asked) {
  const nodes = state.view.nodes.filter((each) => each.is_live && each.url);
  const texts = asked.map((each) => each.text);
  const answers = await Promise.all(nodes.map(async (node) => {
    if (!texts.length) return [];
    try { return (await post(`${inSet("/v1/query/batch")}?node=${encodeURIComponent(node.name)}`, { texts })).matches; } catch { return []; }
  }));
  return asked.map(({ text, route }, at) => ({ text, route, nodes: nodes.length,
    right: answers.filter((each) => each[at] && each[at].route === route).length }));
}

function drawDone(pane, found, version) {
  const isWhole = found.every((each) => each.right === each.nodes);
  pane.replaceChildren(...[h("header", {}, h("h2", {}, "Applied"), h("span", { class: "muted small" }, `at ${version}`)),
    h("p", {}, h("span", { class: `tag ${isWhole ? "ok" : "warn"}` }, isWhole ? "answered on every node" : "not answered everywhere")),
    h("div", { class: "row spaced" }, h("a", { class: "button", href: link("tests") }, "Run the tests"),
      state.sets.find((each) => each.name === contentSet())?.forked_from ? h("a", { class: "button primary", href: link("compare") }, "Compare with the set that answers") : null),
    found.length ? h("table", {}, head(["Text", "Route", "Nodes"]), h("tbody", {}, found.map((each) => h("tr", {},
      h("td", {}, each.text), h("td", {}, each.route), h("td", { class: "number" }, `${each.right} of ${each.nodes}`))))) : null].filter(Boolean));
}

const head = (names) => h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name || h("span", { class: "sr-only" }, "Action")))));
