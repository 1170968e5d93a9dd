// Settings of the route set: limits, noise and repair; patterns are tried on texts before they are saved.

import { call, get, inSet, post } from "./api.js";
import { h, scroll } from "./dom.js";
import { linesOf, settle } from "./routes.js";

export function show(main) {
  const card = h("section", { class: "card" }, h("h1", {}, "Settings"));
  main.append(card);
  get(inSet("/v1/settings")).then((settings) => draw(card, settings))
    .catch((problem) => card.append(h("p", { class: "wrong" }, problem.message)));
  return () => {};
}

const field = (id, text, input) => h("div", { class: "field" }, h("label", { for: id }, text), input);

function draw(card, settings) {
  const confidence = h("input", { id: "confidence-min", type: "number", min: 0, max: 1, step: 0.01, value: settings.confidence_min ?? "", placeholder: "none" });
  const threshold = h("input", { id: "threshold", type: "number", min: -1, max: 1, step: 0.01, value: settings.threshold ?? "", placeholder: "none" });
  const share = h("input", { id: "unmatched-share", type: "number", min: 0.001, max: 0.9, step: 0.001, required: true, value: settings.expected_unmatched_share ?? 0.1 });
  const ignore = h("textarea", { id: "ignore", rows: 5, class: "mono", placeholder: "(?s)<system-reminder>.*?</system-reminder>" });
  ignore.value = settings.ignore?.join("\n") ?? "";
  const repair = h("input", { id: "repair-words", type: "checkbox", checked: settings.repair_words === true });
  const modes = { auto: "auto", on: true, off: false };
  const cascade = h("select", { id: "cascade" }, Object.entries(modes).map(([name, mode]) =>
    h("option", { value: name, selected: mode === settings.cascade }, name)));
  const texts = h("textarea", { id: "texts", rows: 6, placeholder: "A query with the noise around it" });
  const wrong = h("p", { class: "wrong", role: "alert" });
  const outcome = h("div", { "aria-live": "polite" });
  const save = h("button", { type: "submit", class: "primary" }, "Save on every node");
  const number = (input) => input.value === "" ? null : Number(input.value);
  const wished = () => {
    const { confidence_min, expected_unmatched_share, ignore: patterns, repair_words, ...kept } = settings;
    return { ...kept, threshold: number(threshold), cascade: modes[cascade.value],
      ...(confidence.value === "" ? {} : { confidence_min: number(confidence) }),
      ...(number(share) === 0.1 ? {} : { expected_unmatched_share: number(share) }),
      ...(linesOf(ignore.value).length ? { ignore: linesOf(ignore.value) } : {}),
      ...(repair.checked ? { repair_words: true } : {}) };
  };
  const tryIt = async () => {
    wrong.textContent = "";
    if (!texts.value.trim()) { wrong.textContent = "Enter a text first."; return; }
    try {
      const found = await post(inSet("/v1/preview/texts"), { texts: [texts.value], ignore: linesOf(ignore.value) });
      outcome.replaceChildren(reading(found.texts[0]));
    } catch (problem) { wrong.textContent = problem.message; }
  };
  const submit = async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    save.disabled = true;
    try {
      const answer = await call("PUT", inSet("/v1/settings"), { body: wished() });
      await settle(answer.headers.get("SR-Version"), "The settings");
      settings = await get(inSet("/v1/settings"));
    } catch (problem) { wrong.textContent = problem.message; }
    save.disabled = false;
  };
  card.replaceChildren(h("form", { onsubmit: submit },
    h("header", {}, h("h1", {}, "Settings"), h("span", { class: "muted small" }, `aggregation ${settings.aggregation}`)),
    h("div", { class: "grid two" },
      h("div", {},
        field("confidence-min", "Least confidence of a match (empty: none)", confidence),
        field("threshold", "Least score of a match (empty: none)", threshold),
        field("unmatched-share", "Share of queries that belong to no route", share),
        h("div", { class: "field row" }, repair, h("label", { for: "repair-words" }, "Read misspelled words as known words")),
        field("cascade", "Cascade: answer sure queries without the encoder (auto: where it pays)", cascade),
        field("ignore", "Ignore: patterns of RE2 that are cut out of queries, one per line", ignore)),
      h("div", {}, field("texts", "Text to try", texts),
        h("button", { type: "button", onclick: tryIt, id: "try" }, "Preview"), outcome)),
    wrong, h("div", { class: "row" }, save)));
  confidence.focus();
}

function reading(text) {
  return scroll("How the text is read",
    h("p", { class: "small muted" }, text.encoded_text ? "This is read:" : "Nothing is left of the text: it gets no route."),
    h("blockquote", { id: "read" }, text.encoded_text),
    text.repairs.map((each) => h("p", { class: "small" }, `${each.written} is read as ${each.read}`)));
}
