// Request and answer of a query as JSON and as a curl command, and what each part of the answer means.

import { address, DEFAULT, inSet, state } from "./api.js";
import { h, toast } from "./dom.js";
import { link } from "./place.js";

// Parts of an answer in the order in which a reader needs them.
const PARTS = [
  ["route", "The route that the text belongs to; null if none is sure enough."],
  ["reason", "Why: matched, exact (the text is an utterance), below_confidence, below_threshold, not_understood, no_routes or filter_empty."],
  ["confidence", "Probability that the best route is right, calibrated on the route set. It is compared with confidence_min."],
  ["confidence_min", "The least confidence of a match: the route's own, or that of the settings."],
  ["p_none", "Probability that the text belongs to no route."],
  ["score", "How near the text is to the route, from its most similar examples. It is compared with threshold, if there is one."],
  ["threshold", "The least score of a match; null if only the confidence counts."],
  ["utterance", "The example of the route that is nearest to the text."],
  ["similarity", "Cosine similarity of the text and that example, from -1 to 1."],
  ["margin", "How far the score is ahead of the runner-up."],
  ["runner_up", "The second best route."],
  ["candidates", "The best routes with the same figures; passed tells whether the route could be the answer."],
  ["encoded_text", "What was read, where patterns were cut out or words were repaired."],
  ["truncated", "Whether only the beginning of a long text was read."],
  ["payload", "What the route carries for the application."],
  ["metadata", "What describes the route."],
  ["route_set", "The route set that answered, where an alias was asked."],
  ["version", "Position of the log that the node answered at, as epoch.entry."],
  ["node", "The node that answered."],
];

// Body of a query, as the page and the shown command send it.
export const bodyOf = (text, session) => ({ text, limit: 6, explain: true, ...(session ? { session } : {}) });

// `asked` has the text, the node and the session; `found` is the answer.
export function exchange(asked, found) {
  const body = bodyOf(asked.text, asked.session);
  const request = JSON.stringify(body, null, 2), answer = JSON.stringify(found, null, 2);
  const path = inSet("/v1/query", state.named || DEFAULT);
  const parts = PARTS.filter(([name]) => Object.hasOwn(found, name));
  return h("section", { class: "card", id: "exchange" },
    h("header", {}, h("h2", {}, "Request and answer"), h("button", { type: "button", class: "quiet", id: "share", onclick: () => share(asked) }, "Copy link")),
    h("div", { class: "grid two start" },
      h("div", { class: "grid" }, block("Request", `POST ${path}`, request), block("As a command", "curl", curlOf(path, body)),
        h("p", { class: "muted small" }, "Applications send the same request to a node, or to the load balancer before the nodes.")),
      block("Answer", "200", answer, "answer-json")),
    h("details", { class: "spaced" }, h("summary", {}, "What each part means"),
      h("dl", { class: "parts" }, parts.map(([name, meaning]) => [h("dt", {}, h("code", {}, name)), h("dd", {}, meaning)]))),
    h("p", { class: "muted small spaced" }, "The query is in no address and no log, and this page forgets it. A link holds it after #, which browsers keep in their history and do not send to servers."));
}

function block(title, kind, text, id) {
  return h("div", { class: "block" },
    h("div", { class: "row" }, h("h3", {}, title), h("span", { class: "muted small mono" }, kind),
      h("button", { type: "button", class: "quiet apart", "aria-label": `Copy: ${title}`, onclick: () => copy(text) }, "Copy")),
    h("pre", { class: "mono scroll", tabindex: 0, id, role: "region", "aria-label": title }, text));
}

// Quoted for a POSIX shell: inside single quotes every character but the quote stands for itself.
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curlOf(path, body) {
  const key = state.session?.needs_key ? " \\\n  -H \"Authorization: Bearer $SYNAPTOROUTE_API_KEY\"" : "";
  return `curl ${quoted(address(path).href)} \\\n  -H 'Content-Type: application/json'${key} \\\n  --data-raw ${quoted(JSON.stringify(body))}`;
}

// A page of an address without TLS has no clipboard: then the text is there to be marked.
async function copy(text, done = "Copied.") {
  try {
    await navigator.clipboard.writeText(text);
    toast(done);
    return true;
  } catch {
    toast("This browser does not let the page copy.");
    return false;
  }
}

// The address holds the query only where somebody asks for it: browsers keep addresses.
async function share({ text, node, session }) {
  const place = link("query", "", { text, node, session });
  if (!await copy(new URL(place, location.href).href, "The link is copied; it contains the query.")) location.hash = place;
}

