// Encoders: the serving one, the others, and the steps to switch.

import { get, post, state } from "./api.js";
import { compare, meter } from "./charts.js";
import { confirmTyped } from "./dialogs.js";
import { h, keeper, scroll, toast, whole } from "./dom.js";

const KEPT = "synaptoroute.labelled";
const LOOK_MS = 5000, WORKING_MS = 1500;
const STEPS = { generating: "encoding utterances", keeping: "keeping the present vectors", switching: "switching",
  done: "done", failed: "failed" };

export function show(main) {
  const isAdmin = state.session?.scopes.includes("admin");
  const list = h("div", { class: "grid" });
  const background = h("div", { class: "grid" });
  const chosen = h("select", { id: "trial-encoder" });
  const texts = h("textarea", { id: "trial-texts", rows: 8, placeholder: "Where is my parcel? => order-status\nWhat is the capital of France? =>" });
  const wrong = h("p", { class: "wrong", role: "alert" });
  const outcome = h("div", { "aria-live": "polite" });
  const trial = h("button", { type: "submit", class: "primary", disabled: true }, "Try");
  const none = h("p", { class: "muted small" }, "This needs a second encoder that has all its vectors.");
  const act = (step, encoder, question) => async (event) => {
    const button = event.currentTarget;
    if (question && !await question()) return;
    button.disabled = true;
    try {
      toast((await post("/v1/actions/encoder", { step, encoder })).detail);
      setTimeout(() => look().catch(() => {}), 800);
    } catch (problem) { toast(problem.message); }
  };
  let shown = "", isWorking = false;
  const look = async () => {
    const found = await get("/v1/encoders");
    const key = JSON.stringify(found);
    if (key === shown) return;
    shown = key;
    isWorking = found.work.some((each) => !["done", "failed"].includes(each.step));
    drawBackground(background, found);
    list.replaceChildren(...found.encoders.map((each) => card(each, found, act, isAdmin)),
      ...(found.encoders.length < 2 ? [h("p", { class: "muted" }, "No other encoder is loaded, so no change is under way.")] : []));
    const others = found.encoders.filter((each) => !each.is_serving && each.vectors && each.missing_texts === 0);
    const before = chosen.value;
    chosen.replaceChildren(...others.map((each) => h("option", { value: each.encoder }, title(each))));
    chosen.value = others.some((each) => each.encoder === before) ? before : others[0]?.encoder ?? "";
    chosen.disabled = trial.disabled = texts.disabled = !others.length;
    none.hidden = others.length > 0;
  };
  const tryIt = async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    const cases = casesOf(texts.value);
    if (!chosen.value) { wrong.textContent = "No other encoder has all its vectors yet."; return; }
    if (!cases.length) { wrong.textContent = "Enter some labelled texts first."; return; }
    try { drawTrial(outcome, await post("/v1/encoders/trial", { encoder: chosen.value, texts: cases })); }
    catch (problem) { wrong.textContent = problem.message; }
  };
  main.append(
    h("section", { class: "card intro" }, h("h1", {}, "Encoder"),
      h("p", { class: "muted" }, "The encoder turns a text into a vector. A query gets the route whose examples have the most similar vectors, so the encoder decides what counts as similar, in which languages, and how much time a query takes."),
      h("p", { class: "muted" }, "The node that takes a write encodes its texts once and ships the vectors: all nodes compare the same numbers. Vectors of different encoders cannot be compared, so the whole cluster has one encoder, known by its fingerprint, and a node with another one refuses to join.")),
    list, background,
    h("section", { class: "card" }, h("header", {}, h("h2", {}, "Change the encoder")),
      h("p", { class: "muted" }, "No query fails and no write is refused meanwhile. Utterances, tests and settings stay; vectors are computed anew, and the confidences are fitted anew on the route set. The way back is as short, until the former vectors are deleted."),
      h("ol", { class: "steps" }, [["Start", ["each node again with ", h("code", {}, "SYNAPTOROUTE_NEXT_MODEL"), ": it loads both encoders"]], ["Encode", "one node encodes all texts, behind queries"], ["Try", "how many labelled texts are right, before and after"], ["Switch", "every node at one position of the log"]].map(([name, what]) => h("li", {}, h("b", {}, name), h("span", { class: "muted small" }, what))))),
    h("section", { class: "card" },
      h("header", {}, h("h2", {}, "Try it on labelled texts"), h("span", { class: "muted small" }, "Changes nothing")),
      h("form", { class: "grid two", onsubmit: tryIt },
        h("div", {},
          h("div", { class: "field" }, h("label", { for: "trial-texts" }, "One text per line, a tab (or =>) and its route; - for no route"), texts, keeper(texts, KEPT)),
          h("div", { class: "row" }, h("div", { class: "grow" }, h("label", { class: "sr-only", for: "trial-encoder" }, "Encoder to try"), chosen),
            trial), none, wrong),
        outcome)));
  let isOver = false;
  const again = async () => {
    if (isOver) return;
    if (!document.hidden) await look().catch((problem) => { if (!shown) list.replaceChildren(h("p", { class: "wrong" }, problem.message)); });
    setTimeout(again, isWorking ? WORKING_MS : LOOK_MS);
  };
  again();
  return () => { isOver = true; };
}

const title = (each) => each.name ? each.name.split("/").pop() : each.encoder.slice(0, 12);

function card(each, found, act, isAdmin) {
  const work = found.work.find((one) => one.encoder === each.encoder && one.step !== "done");
  const isWhole = each.vectors > 0 && each.missing_texts === 0;
  const missing = each.missing_nodes;
  const button = (text, step, extra, question) =>
    h("button", { type: "button", disabled: !isAdmin, ...extra, onclick: act(step, each.encoder, question) }, text);
  const isBusy = work && work.step !== "failed";
  return h("section", { class: "card encoder", "data-encoder": each.encoder.slice(0, 12) },
    h("header", {},
      h("h2", {}, title(each)),
      h("span", { class: `tag ${each.is_serving ? "ok" : isWhole ? "info" : ""}` },
        each.is_serving ? "serving" : isBusy ? STEPS[work.step] : isWhole ? "ready to switch to" : "standby")),
    missing.length > 0 && h("p", { class: "wrong" }, `${missing.join(", ")} ${missing.length > 1 ? "do" : "does"} not have this encoder: start with next_model set to it.`),
    isBusy && h("div", { class: "field" },
      meter(work.total_texts ? work.done_texts / work.total_texts : 0, `${work.done_texts} of ${work.total_texts} texts`),
      h("p", { class: "small muted" }, `${STEPS[work.step]} on ${work.node}: ${whole(work.done_texts)} of ${whole(work.total_texts)} texts`)),
    work?.step === "failed" && h("p", { class: "wrong" }, `${work.node}: ${work.detail}`),
    !each.is_serving && each.vectors > 0 && !isBusy && h("p", { class: "muted" },
      `${whole(each.vectors)} vectors are staged${each.missing_texts ? `, ${whole(each.missing_texts)} texts have none yet` : ", none is missing"}.`),
    factsOf(each),
    !each.is_serving && !isBusy && h("div", { class: "row" },
      !isWhole && button(each.vectors ? "Encode the missing texts" : "Encode all texts", "generate", { disabled: !isAdmin || missing.length > 0 }),
      isWhole && h("span", { class: "muted small" }, "Try it on labelled texts below before you switch.")),
    !each.is_serving && !isBusy && each.vectors > 0 && h("details", { class: "danger-zone spaced" }, h("summary", {}, "Switch to it, or delete its vectors"),
      h("p", { class: "muted small" }, "Every node switches at one position of the log; answers and confidences change from there on. The present vectors stay, so that you can switch back."),
      h("div", { class: "row" },
        button("Switch to this encoder …", "switch", { class: "danger", disabled: !isAdmin || missing.length > 0 },
          () => confirmTyped("Change the encoder", `All nodes answer by ${title(each)} from one position of the log on.${each.missing_texts ? ` ${whole(each.missing_texts)} texts have no vector yet.` : ""}`, title(each), "Switch all nodes")),
        button("Delete its vectors …", "drop", { class: "danger" },
          () => confirmTyped("Delete vectors", "To use this encoder again, all texts must be encoded again.", title(each), "Delete the vectors")))));
}

const PRECISIONS = { int8: "int8: integers, several times as fast", float32: "float32" };
const KEPT_NODES = 12;

function factsOf(each) {
  const nodes = each.serving_nodes;
  const row = (name, value) => value && h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value));
  return h("table", { class: "facts-table" }, h("tbody", {},
    row("model", each.name || "not loaded on any live node"),
    row("fingerprint", h("code", {}, each.encoder)),
    row("precision", PRECISIONS[each.precision] ?? each.precision),
    row("vector", each.dim && `${whole(each.dim)} numbers`),
    row("reads", each.max_tokens && `the first ${whole(each.max_tokens)} tokens of a text`),
    row("answers on", nodes.length ? `${whole(nodes.length)} ${nodes.length === 1 ? "node" : "nodes"}: ${nodes.slice(0, KEPT_NODES).join(", ")}${nodes.length > KEPT_NODES ? " …" : ""}` : "no node")));
}

// What to say of a reason that is no fault and needs nothing.
const CASCADE_REASONS = { static_encoder: "the encoder is such a table itself", agreement_not_reached: "its answers would be wrong too often",
  too_few_utterances: "it needs three routes, 200 utterances and five a route", too_many_utterances: "there are more utterances than it is offered for",
  aggregation_not_offered: "it is not offered for this score", other_table: "this node has another table than the one that was measured",
  unreadable: "a later release measured it", no_vocabulary: "no table can be distilled from this encoder", not_prepared: "it comes from another node, or is distilled by one",
  distilling: "a node distils it", vocabulary_too_large: "run synaptoroute model prepare", not_finalized: "the upgrade is not finalized",
  starting: "the node starts", routes_changed: "the routes changed since it was measured" };
const CASCADES = { off: "off: the encoder answers every query", no_table: "there is no static table of this encoder", uncalibrated: "not calibrated yet",
  refused: "the encoder answers every query", suspended: "suspended: the encoder answers every query", on: "on" };

// The cascade of each node, and the encoders to choose from.
function drawBackground(pane, { cascades, presets, encoders }) {
  const serving = encoders.find((each) => each.is_serving)?.name;
  const states = new Map();
  for (const each of cascades) {
    const found = states.get(each.state) ?? { nodes: 0, static: 0, deferred: 0, reason: "" };
    states.set(each.state, { nodes: found.nodes + 1, static: found.static + each.static, deferred: found.deferred + each.deferred, reason: found.reason || each.reason });
  }
  pane.replaceChildren(...[
    cascades.length > 0 && h("section", { class: "card", id: "cascade" }, h("header", {}, h("h2", {}, "Cascade")),
      h("p", { class: "muted" }, "A table of word vectors, distilled from the encoder, can answer the queries that it is sure about without the encoder, many times as fast. It is a setting of each route set; this is the state for the set default."),
      h("ul", { class: "plain" }, [...states].map(([name, each]) => h("li", {}, h("span", { class: `tag ${name === "on" ? "ok" : ""}` }, name.replaceAll("_", " ")), " ",
        `${each.nodes === cascades.length ? "all nodes" : `${each.nodes} of ${cascades.length} nodes`}: ${CASCADES[name] ?? name}${each.reason ? ` (${CASCADE_REASONS[each.reason] ?? each.reason.replaceAll("_", " ")})` : ""}`,
        each.static + each.deferred ? `; ${whole(each.static)} of ${whole(each.static + each.deferred)} queries without the encoder` : "")))),
    presets.length > 0 && h("section", { class: "card", id: "presets" }, h("header", {}, h("h2", {}, "Encoders to choose from"), h("span", { class: "muted small" }, "SYNAPTOROUTE_MODEL takes a preset, or any other model")),
      scroll("Presets", h("table", {}, h("thead", {}, h("tr", {}, ["Preset", "For", "Accuracy", "Texts a second, one thread", "Needs"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, presets.map((each) => h("tr", {},
          h("td", {}, h("b", {}, each.name), each.model === serving ? h("span", { class: "tag ok spaced-left" }, "serving") : null, h("br"), h("span", { class: "muted small" }, each.model)),
          h("td", {}, each.purpose, h("br"), h("span", { class: "muted small" }, each.languages.join(" "))),
          h("td", {}, Object.entries(each.measured?.accuracy ?? {}).map(([name, value]) => h("div", { class: "nowrap" }, `${name} ${(100 * value).toFixed(1)} %`)), each.measured ? null : "not measured"),
          h("td", { class: "number" }, each.measured ? whole(each.measured.lone_texts_per_second) : "–"),
          h("td", {}, each.needs || "nothing"))))))),
  ].filter(Boolean));
}

// Lines of text, tab, route, as in files of labelled queries; => stands for the tab where one types.
export function casesOf(text) {
  return text.split("\n").filter((line) => line.trim() && !line.trimStart().startsWith("#")).map((line) => {
    const mark = line.includes("\t") ? "\t" : "=>";
    const at = line.lastIndexOf(mark);
    const said = at < 0 ? line : line.slice(0, at);
    const route = at < 0 ? "" : line.slice(at + mark.length).trim();
    return { text: said.trim(), route: route && route !== "-" ? route.normalize("NFC") : null };
  }).filter((each) => each.text).slice(0, 2000);
}

function drawTrial(outcome, trial) {
  const words = (answer) => answer.route ?? "no route";
  outcome.replaceChildren(
    compare([{ name: "serving", share: trial.correct_before / trial.texts, text: `${trial.correct_before} of ${trial.texts} right` },
      { name: "candidate", share: trial.correct_after / trial.texts, text: `${trial.correct_after} of ${trial.texts} right` },
      { name: `candidate, threshold ${trial.threshold_best}`, share: trial.correct_best / trial.texts, text: `${trial.correct_best} of ${trial.texts} right` }]),
    trial.changed.length ? scroll("Texts with a different answer", h("table", {},
      h("thead", {}, h("tr", {}, ["Text", "Now", "Candidate", "Expected"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, trial.changed.map((each) => h("tr", {}, h("td", {}, each.text), h("td", {}, words(each.before)),
        h("td", { class: each.after.route === each.expected ? "right" : "" }, words(each.after)), h("td", {}, each.expected ?? "none"))))))
      : h("p", { class: "muted" }, "No text has a different answer."));
}
