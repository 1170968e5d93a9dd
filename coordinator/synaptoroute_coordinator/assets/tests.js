// Tests of a route set: labelled queries, how the set answers them, and what to do about wrong answers.

import { call, contentSet, get, inSet, write } from "./api.js";
import { meter } from "./charts.js";
import { h, scroll, toast, whole } from "./dom.js";
import { casesOf } from "./encoder.js";
import { correct } from "./learn.js";
import { loadRoutes, settle } from "./routes.js";
import { isLive, makeDraft } from "./sets.js";

const SHOWN = 300;

export function show(main) {
  const name = contentSet();
  const view = { name, tests: [], routes: [], run: null };
  const list = h("div", {}), result = h("div", { "aria-live": "polite" });
  const count = h("span", { class: "muted small", role: "status" });
  const run = h("button", { type: "button", class: "primary", id: "run-tests", onclick: async () => {
    run.disabled = true;
    try {
      view.run = (await call("POST", inSet("/v1/evaluation"))).document;
      drawRun(result, view);
      drawList(list, view);
    } catch (problem) { result.replaceChildren(h("p", { class: "wrong" }, problem.message)); }
    run.disabled = false;
  } }, "Run the tests");
  view.refresh = async () => {
    const [tests, routes] = await Promise.all([loadTests(), loadRoutes()]);
    Object.assign(view, { tests, routes: routes.map((each) => each.name), run: null });
    count.textContent = `${whole(tests.length)} ${tests.length === 1 ? "test" : "tests"}`;
    run.disabled = !tests.length;
    result.replaceChildren();
    drawList(list, view);
    drawForm(form, view);
  };
  const form = h("div", {});
  main.append(h("div", { class: "grid wide-left" },
    h("section", { class: "card" }, h("header", {}, h("div", {}, h("h1", {}, "Tests"),
      h("p", { class: "muted" }, `Queries with the route that is right, kept with ${name}. A draft has the tests of the set it was copied from.`)), run), result, count, list),
    h("section", { class: "card sticky" }, h("header", {}, h("h2", {}, "Add tests")), form)));
  view.refresh().catch((problem) => list.replaceChildren(h("p", { class: "wrong" }, problem.message)));
  return () => {};
}

async function loadTests() {
  const tests = [];
  let after = "";
  for (let page = 0; page < 20; page += 1) {
    const found = await get(inSet(`/v1/tests?limit=1000&after=${encodeURIComponent(after)}`));
    tests.push(...found.tests);
    if (!found.next_after) break;
    after = found.next_after;
  }
  return tests;
}

// Add tests to a set; returns whether it was done.
export async function addTests(tests, name = contentSet()) {
  try {
    const { version } = await write("PATCH", inSet("/v1/tests", name), { body: { tests } });
    await settle(version, tests.length === 1 ? "The test" : `${tests.length} tests`);
    return true;
  } catch (problem) { toast(problem.message); return false; }
}

function drawForm(form, view) {
  const text = h("input", { id: "test-text", required: true, maxlength: 8000, autocomplete: "off", placeholder: "Where is my order?" });
  const route = h("select", { id: "test-route" }, h("option", { value: "" }, "no route"), view.routes.map((name) => h("option", { value: name }, name)));
  const several = h("textarea", { id: "test-lines", rows: 6, placeholder: "Where is my parcel? => order-status\nWhat is the capital of France? => -" });
  form.replaceChildren(
    h("form", { onsubmit: async (event) => {
      event.preventDefault();
      if (await addTests([{ text: text.value.trim(), route: route.value || null }])) await view.refresh();
    } }, h("div", { class: "field" }, h("label", { for: "test-text" }, "Query"), text),
    h("div", { class: "field" }, h("label", { for: "test-route" }, "Right route"), route), h("button", { type: "submit" }, "Add the test")),
    h("details", { class: "field spaced" }, h("summary", {}, "Add several"), h("form", { onsubmit: async (event) => {
      event.preventDefault();
      const tests = casesOf(several.value);
      if (tests.length && await addTests(tests)) await view.refresh();
    } }, h("label", { for: "test-lines" }, "One text per line, a tab (or =>) and its route; - for no route"), several, h("button", { type: "submit" }, "Add all"))));
}

const percent = (part) => part === null ? "–" : `${(100 * part).toFixed(part === 1 ? 0 : 1)} %`;

function drawRun(result, view) {
  const run = view.run;
  const worst = run.routes.filter((each) => each.right < each.tests).sort((a, b) => (b.tests - b.right) - (a.tests - a.right)).slice(0, 8);
  result.replaceChildren(...[
    h("div", { class: "row" }, h("span", { class: `tag ${run.right === run.tests ? "ok" : "warn"}` }, run.right === run.tests ? "all right" : `${whole(run.tests - run.right)} wrong`),
      h("strong", {}, percent(run.accuracy)), h("span", { class: "muted" }, `${whole(run.right)} of ${whole(run.tests)} answered right at ${run.revision}`)),
    meter(run.accuracy ?? 0, `accuracy ${percent(run.accuracy)}`),
    !run.is_current && h("p", { class: "wrong" }, "The set changed while it was asked: run the tests again."),
    worst.length > 0 && h("p", { class: "muted small" }, `Most mistakes: ${worst.map((each) => `${each.route ?? "no route"} (${each.right} of ${each.tests} right)`).join(", ")}`),
    run.failures.length > 0 && scroll("Failures", h("table", { class: "unmatched", id: "failures" }, head(["Query", "Right", "Answer", "How sure", ""]),
      h("tbody", {}, run.failures.slice(0, SHOWN).map((each) => h("tr", { class: "worse" },
        h("td", { class: "said" }, each.text), h("td", {}, each.expected ?? "no route"), h("td", {}, each.got ?? "no route"), h("td", {}, percent(each.confidence ?? null)),
        h("td", {}, h("button", { type: "button", class: "quiet nowrap", onclick: () => fix(view.name, each) }, isLive(view.name) ? "Fix in a draft" : "Fix")))))))].filter(Boolean));
}

// Take a wrong answer to the page where routes learn, in a draft if somebody gets answers of the set.
export async function fix(name, { text, expected, got }) {
  const into = isLive(name) ? await makeDraft(name, "") : name;
  if (into) correct(into, text, expected, got);
}

function drawList(list, view) {
  if (!view.tests.length) { list.replaceChildren(h("p", { class: "empty" }, "No tests yet. Add queries whose right route you know; each wrong answer that you find should become one.")); return; }
  const wrong = new Map((view.run?.failures ?? []).map((each) => [each.text, each]));
  list.replaceChildren(scroll("Tests", h("table", { class: "unmatched" }, head(["Query", "Right route", ""]),
    h("tbody", {}, view.tests.slice(0, SHOWN).map((each) => h("tr", {},
      h("td", { class: "said" }, each.text), h("td", {}, each.route ?? "no route", view.run ? h("span", { class: `tag ${wrong.has(each.text) ? "bad" : "ok"} spaced-left` }, wrong.has(each.text) ? "wrong" : "right") : null),
      h("td", {}, h("button", { type: "button", class: "quiet", "aria-label": `Remove the test “${each.text}”`, onclick: async () => {
        try {
          const { version } = await write("PATCH", inSet("/v1/tests"), { body: { removed: [each.text] } });
          await settle(version, "The test");
          await view.refresh();
        } catch (problem) { toast(problem.message); }
      } }, "Remove")))))),
  view.tests.length > SHOWN ? h("p", { class: "muted small" }, `The first ${SHOWN} of ${whole(view.tests.length)}.`) : null));
}

export const head = (names) => h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name || h("span", { class: "sr-only" }, "Action")))));
