// Encoders: the serving one, the others, and the steps to switch.

import { get, post, state } from "./api.js";
import { compare, meter } from "./charts.js";
import { confirmTyped } from "./dialogs.js";
import { h, keeper, scroll, toast, whole } from "./dom.js";

const KEPT = "synaptoroute.labelled";
const LOOK_MS = 1500;
const STEPS = { generating: "encoding utterances", keeping: "keeping the present vectors", switching: "switching",
  done: "done", failed: "failed" };

export function show(main) {
  const isAdmin = state.session?.scopes.includes("admin");
  const list = h("div", { class: "grid" });
  const chosen = h("select", { id: "trial-encoder" });
  const texts = h("textarea", { id: "trial-texts", rows: 8, placeholder: "Where is my parcel? => order-status\nWhat is the capital of France? =>" });
  const wrong = h("p", { class: "wrong", role: "alert" });
  const outcome = h("div", { "aria-live": "polite" });
  const act = (step, encoder, question) => async (event) => {
    const button = event.currentTarget;
    if (question && !await question()) return;
    button.disabled = true;
    try {
      toast((await post("/v1/actions/encoder", { step, encoder })).detail);
      setTimeout(() => look().catch(() => {}), 800);
    } catch (problem) { toast(problem.message); }
  };
  let shown = "";
  const look = async () => {
    const found = await get("/v1/encoders");
    const key = JSON.stringify(found);
    if (key === shown) return;
    shown = key;
    list.replaceChildren(...found.encoders.map((each) => card(each, found, act, isAdmin)),
      ...(found.encoders.length < 2 ? [h("section", { class: "card" }, h("p", { class: "empty" }, "No other encoder is loaded. To prepare a change, restart each node with ", h("code", {}, "SYNAPTOROUTE_NEXT_MODEL"), " set to the new encoder: it loads both and goes on serving with the present one."))] : []));
    const others = found.encoders.filter((each) => !each.is_serving && each.vectors && each.missing_texts === 0);
    const before = chosen.value;
    chosen.replaceChildren(...others.map((each) => h("option", { value: each.encoder }, title(each))));
    chosen.value = others.some((each) => each.encoder === before) ? before : others[0]?.encoder ?? "";
    chosen.disabled = !others.length;
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
      h("p", { class: "muted" }, "The encoder turns texts into the vectors that are compared. To change it without a failed query: start every node with the new one beside the serving one; encode all texts; try it on labelled texts; then switch all nodes at one position of the log. The way back is as short."),
      h("ol", { class: "steps" }, [["Start", "nodes with SYNAPTOROUTE_NEXT_MODEL"], ["Encode", "one node encodes all texts, behind queries"], ["Try", "accuracy before and after"], ["Switch", "every node at one position"]].map(([name, what]) => h("li", {}, h("b", {}, name), h("span", { class: "muted small" }, what))))),
    list,
    h("section", { class: "card" },
      h("header", {}, h("h2", {}, "Try it on labelled texts"), h("span", { class: "muted small" }, "Changes nothing")),
      h("form", { class: "grid two", onsubmit: tryIt },
        h("div", {},
          h("div", { class: "field" }, h("label", { for: "trial-texts" }, "One text per line, a tab (or =>) and its route; - for no route"), texts, keeper(texts, KEPT)),
          h("div", { class: "row" }, h("div", { class: "grow" }, h("label", { class: "sr-only", for: "trial-encoder" }, "Encoder to try"), chosen),
            h("button", { type: "submit", class: "primary" }, "Try")), wrong),
        outcome)));
  let isOver = false;
  const again = async () => {
    if (isOver) return;
    if (!document.hidden) await look().catch((problem) => { if (!shown) list.replaceChildren(h("p", { class: "wrong" }, problem.message)); });
    setTimeout(again, LOOK_MS);
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
      h("div", {}, h("h2", {}, title(each)), h("code", { class: "muted" }, each.encoder.slice(0, 24))),
      h("span", { class: `tag ${each.is_serving ? "ok" : isWhole ? "info" : ""}` },
        each.is_serving ? "serving" : isBusy ? STEPS[work.step] : isWhole ? "ready to switch to" : "standby")),
    missing.length > 0 && h("p", { class: "wrong" }, `${missing.join(", ")} ${missing.length > 1 ? "do" : "does"} not have this encoder: start with next_model set to it.`),
    isBusy && h("div", { class: "field" },
      meter(work.total_texts ? work.done_texts / work.total_texts : 0, `${work.done_texts} of ${work.total_texts} texts`),
      h("p", { class: "small muted" }, `${STEPS[work.step]} on ${work.node}: ${whole(work.done_texts)} of ${whole(work.total_texts)} texts`)),
    work?.step === "failed" && h("p", { class: "wrong" }, `${work.node}: ${work.detail}`),
    !each.is_serving && each.vectors > 0 && !isBusy && h("p", { class: "muted" },
      `${whole(each.vectors)} vectors are staged${each.missing_texts ? `, ${whole(each.missing_texts)} texts have none yet` : ", none is missing"}.`),
    each.is_serving && h("p", { class: "muted" }, `${each.serving_nodes.length} nodes use it.`),
    !each.is_serving && !isBusy && h("div", { class: "row" },
      !isWhole && button(each.vectors ? "Encode the missing texts" : "Encode all texts", "generate", { disabled: !isAdmin || missing.length > 0 }),
      button("Switch to this encoder", "switch", { class: "primary", disabled: !isAdmin || !each.vectors || missing.length > 0 },
        () => confirm("Switch all nodes to this encoder now?")),
      each.vectors > 0 && button("Delete its vectors …", "drop", { class: "danger apart" },
        () => confirmTyped("Delete vectors", "To use this encoder again, all texts must be encoded again.", title(each), "Delete the vectors"))));
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
