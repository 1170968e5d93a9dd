// Conflicts: similar utterances of different routes.

import { get, inSet } from "./api.js";
import { h, whole } from "./dom.js";
import { link } from "./place.js";

export function show(main) {
  const least = h("input", { id: "least", type: "range", min: 0.5, max: 0.99, step: 0.01, value: 0.8 });
  const shown = h("output", { for: "least" }, "0.80");
  const note = h("p", { class: "muted small", role: "status" });
  const list = h("div", {});
  let asked = 0;
  const look = async () => {
    asked += 1;
    const mine = asked;
    try {
      const found = await get(inSet(`/v1/conflicts?limit=100&similarity_min=${least.value}`));
      if (mine !== asked) return;
      const part = found.rows_compared < found.rows ? `the first ${whole(found.rows_compared)} of ` : "";
      note.textContent = `${found.conflicts.length === 100 ? "The 100 most similar" : found.conflicts.length} pairs among ${part}${whole(found.rows)} utterances at ${found.version}`;
      list.replaceChildren(...found.conflicts.map(pair));
      if (!found.conflicts.length) list.append(h("p", { class: "empty" }, "No two routes have such similar utterances."));
    } catch (problem) { note.textContent = problem.message; }
  };
  let waiting = 0;
  least.addEventListener("input", () => {
    shown.textContent = Number(least.value).toFixed(2);
    clearTimeout(waiting);
    waiting = setTimeout(look, 250);
  });
  main.append(h("section", { class: "card" },
    h("header", {}, h("div", {}, h("h1", {}, "Conflicts"),
      h("p", { class: "muted" }, "Similar utterances of two routes: queries like them may match either route."))),
    h("div", { class: "row" }, h("label", { for: "least" }, "Minimum similarity ", shown), h("div", { class: "grow" }, least)), note),
  h("section", { class: "card" }, list));
  look();
  return () => {};
}

const side = (route, text) => h("div", {},
  h("strong", {}, h("a", { href: link("routes", route) }, route)), h("span", { class: "muted" }, `“${text}”`));

const pair = (each) => h("div", { class: "pair" },
  h("div", { class: "value" }, each.similarity.toFixed(3)),
  side(each.route, each.utterance), side(each.other_route, each.other_utterance));
