// Playground: the match of a text, its reason, and whether all nodes agree.

import { chosenAlias, contentSet, state } from "./api.js";
import { candidates, meter } from "./charts.js";
import { h, millis, scroll, toast } from "./dom.js";
import { exchange } from "./exchange.js";
import { correct } from "./learn.js";
import { loadRoutes } from "./routes.js";
import { isLive, query } from "./sets.js";
import { addTests, fix } from "./tests.js";

const REASONS = { matched: "best route that passes", exact: "the text is an utterance of this route",
  not_understood: "the encoder does not know this text, and no utterance equals it",
  below_confidence: "no route is sure enough",
  below_threshold: "no score reaches its threshold", no_routes: "there are no routes yet",
  filter_empty: "no route passes the filter" };

export function show(main, { params }) {
  const text = h("input", { id: "query-text", name: "text", required: true, maxlength: 8000, autocomplete: "off", placeholder: "Where is my order?", "aria-label": "Query", value: params.get("text") ?? "" });
  const node = h("select", { id: "query-node", "aria-label": "Node that answers" },
    h("option", { value: "" }, "any node"),
    (state.view?.nodes ?? []).filter((each) => each.is_live).map((each) => h("option", { value: each.name, selected: each.name === params.get("node") }, each.name)));
  const session = h("input", { id: "query-session", maxlength: 256, autocomplete: "off", value: params.get("session") ?? "" });
  const wrong = h("p", { class: "wrong", role: "alert" });
  const answer = h("div", { class: "grid", "aria-live": "polite" });
  const one = (name) => query(text.value, { node: name, session: session.value.trim() });
  const ask = async (event) => {
    event?.preventDefault();
    wrong.textContent = "";
    if (!text.value.trim()) { text.focus(); return; }
    try {
      const started = performance.now();
      const match = await one(node.value);
      drawAnswer(answer, { text: text.value, node: node.value, session: session.value.trim() }, match, performance.now() - started);
    } catch (problem) { wrong.textContent = problem.message; }
  };
  const askAll = async () => {
    wrong.textContent = "";
    if (!text.value.trim()) { text.focus(); return; }
    const nodes = state.view.nodes.filter((each) => each.is_live && each.url);
    const found = await Promise.all(nodes.map(async (each) => {
      try { return { node: each.name, match: await one(each.name) }; }
      catch (problem) { return { node: each.name, problem }; }
    }));
    drawAll(answer, found);
  };
  const canary = chosenAlias()?.canary;
  main.append(h("section", { class: "card" },
    h("header", {}, h("h1", {}, "Playground"), h("span", { class: "muted small" }, `Asks ${state.named || "the nodes"}; changes nothing`)),
    h("form", { class: "ask", onsubmit: ask }, text, node,
      h("button", { type: "submit", class: "primary" }, "Ask"),
      h("button", { type: "button", onclick: askAll, id: "ask-all" }, "Ask every node")),
    canary ? h("div", { class: "field spaced" }, h("label", { for: "query-session" }, `Session: decides whether ${canary} answers`), session) : null, wrong), answer);
  if (text.value) ask();
  else text.focus();
  return () => {};
}

function drawAnswer(answer, asked, match, ms) {
  const top = match.candidates?.find((each) => each.route === match.route) ?? match.candidates?.[0];
  answer.replaceChildren(
    h("section", { class: "card answer" },
      h("div", { class: "row" },
        h("span", { class: `tag ${match.route ? "ok" : "warn"}` }, match.route ? "matched" : "no route"),
        match.route_set && match.route_set !== state.named ? h("span", { class: "tag info" }, match.route_set) : null,
        h("span", { class: "muted small" }, `${match.node} at ${match.version} · ${millis(ms)} from this page`)),
      h("h2", {}, match.route ?? "No route"),
      h("p", { class: "muted" }, reasonOf(match)),
      match.confidence != null && h("div", { class: "row" }, meter(match.confidence, `confidence ${percent(match.confidence)}`), h("strong", {}, percent(match.confidence))),
      match.encoded_text != null && h("p", { class: "muted small" }, `read as “${match.encoded_text}”`),
      match.truncated && h("p", { class: "muted small" }, "Only the beginning of the text was read."),
      top?.utterance && h("blockquote", {}, `“${top.utterance}” is the nearest example, similarity ${top.similarity.toFixed(3)}`),
      extra("Payload", match.payload), extra("Metadata", match.metadata)),
    judgement(asked.text.trim(), match),
    h("section", { class: "card" }, h("header", {}, h("h2", {}, "Why")),
      match.candidates?.length ? candidates(match.candidates) : h("p", { class: "empty" }, "There is nothing to compare with.")),
    exchange(asked, match));
}

function reasonOf(match) {
  const words = REASONS[match.reason] ?? match.reason;
  if (match.reason === "below_confidence") return `${words}: the best is ${percent(match.confidence)} sure, ${percent(match.confidence_min)} are needed`;
  if (match.reason === "exact" || match.score == null) return words;
  const least = match.threshold == null ? "" : ` against a threshold of ${match.threshold.toFixed(2)}`;
  if (!match.route) return `${words}: the best is ${match.score.toFixed(3)}${least}`;
  const margin = match.margin == null ? "" : `, ${match.margin.toFixed(3)} ahead of ${match.runner_up}`;
  return `score ${match.score.toFixed(3)}${least}${margin}`;
}

// What to do about a wrong answer: keep it as a test, and mend it.
function judgement(text, match) {
  const name = match.route_set ?? contentSet();
  const right = h("select", { id: "right-route" }, h("option", { value: "" }, "no route"));
  loadRoutes(name).then((routes) => right.append(...routes.map((each) => h("option", { value: each.name, selected: each.name === match.route }, each.name)))).catch(() => {});
  const expected = () => right.value || null;
  const tested = state.hasSets ? h("button", { type: "button", id: "add-test", onclick: async () => {
    tested.disabled = true;
    tested.disabled = await addTests([{ text, route: expected() }], name);
  } }, "Keep as a test") : null;
  return h("section", { class: "card", id: "judgement" }, h("header", {}, h("h2", {}, "Is this right?"), h("span", { class: "muted small" }, `in ${name}`)),
    h("div", { class: "row" }, h("label", { for: "right-route", class: "inline" }, "The right route is"), h("div", { class: "grow" }, right), tested,
      h("button", { type: "button", class: "primary", id: "fix", onclick: () => {
        if (expected() === match.route) { toast("This is what was answered: choose the right route."); return; }
        if (isLive(name)) fix(name, { text, expected: expected(), got: match.route });
        else correct(name, text, expected(), match.route);
      } }, isLive(name) ? "Fix in a draft" : "Fix")));
}

function extra(name, value) {
  if (value === null || value === undefined || (typeof value === "object" && !Object.keys(value).length)) return null;
  return h("details", { class: "field spaced", open: name === "Payload" }, h("summary", {}, name), h("pre", { class: "mono scroll", tabindex: 0 }, JSON.stringify(value, null, 2)));
}

const percent = (share) => `${Math.round(share * 100)} %`;

function drawAll(answer, found) {
  const texts = new Set(found.filter((each) => each.match).map((each) => `${each.match.route} ${each.match.score} ${each.match.confidence}`));
  const isOne = texts.size === 1 && found.every((each) => each.match);
  answer.replaceChildren(h("section", { class: "card answer" },
    h("div", { class: "row" }, h("span", { class: `tag ${isOne ? "ok" : "warn"}` }, isOne ? "the same answer everywhere" : "answers differ")),
    h("h2", {}, found.find((each) => each.match)?.match.route ?? "No route"),
    scroll("Answers of every node", h("table", {},
      h("thead", {}, h("tr", {}, ["Node", "Position", "Route", "Confidence", "Exact score"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, found.map((each) => h("tr", {}, h("td", {}, each.node),
        h("td", {}, each.match?.version ?? "–"), h("td", {}, each.match ? each.match.route ?? "no route" : each.problem.message),
        h("td", { class: "mono" }, each.match?.confidence ?? "–"), h("td", { class: "mono" }, each.match?.score ?? "–"))))))));
}
