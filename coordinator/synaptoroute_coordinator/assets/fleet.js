// Overview of the fleet: agreement, lag and load.

import { get, post, state, watch } from "./api.js";
import { dot, DOTS_MAX, glyph, meter, ring, spark, timeline } from "./charts.js";
import { confirmTyped } from "./dialogs.js";
import { bytes, clock, h, millis, rate, refill, scroll, setText, toast, whole } from "./dom.js";

const WORDS = { agrees: "agrees", alone: "alone at its position", differs: "differs",
  unsound: "damaged", unknown: "unknown" };
const TIMELINE_ENTRIES = 14;

export function show(main) {
  const hero = h("section", { class: "card hero", "aria-label": "Agreement" });
  const nodes = h("section", { class: "nodes", "aria-label": "Nodes" });
  const spread = h("div", {});
  const log = h("div", {});
  const recent = h("ol", { class: "events" });
  main.append(hero, nodes,
    h("div", { class: "grid wide-left" },
      h("section", { class: "card" },
        h("header", {}, h("h2", {}, "Propagation of the newest writes"),
          h("span", { class: "muted small" }, "from the log to each node's tensor")), spread),
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Log")), log)),
    h("section", { class: "card" },
      h("header", {}, h("h2", {}, "Recent events"), h("a", { href: "#/activity", class: "small" }, "all events")), recent));

  const recovery = h("section", { class: "card", hidden: true, "aria-label": "Recovery", "aria-live": "polite" });
  nodes.before(recovery);
  const cards = new Map();
  const render = (what) => {
    if (what !== "event") {
      drawHero(hero, state.view);
      drawNodes(nodes, cards, state.view);
      drawLog(log, state.view);
    }
    drawRecent(recent);
  };
  const stop = watch(render);
  drawRecent(recent);
  let isOver = false;
  const look = async () => {
    if (isOver) return;
    if (!document.hidden) {
      await drawSpread(spread).catch(() => {});
      await drawRecovery(recovery).catch(() => {});
    }
    setTimeout(look, 2000);
  };
  look();
  return () => { isOver = true; stop(); };
}

function drawHero(hero, view) {
  const { agreeing, live, nodes } = view.digest;
  const isWhole = agreeing === live && live === nodes && live > 0 && view.log_state === "open";
  const tone = view.nodes.some((node) => node.health === "bad") ? "bad" : isWhole ? "" : "warn";
  const head = view.head || "–";
  let title = `All ${live} nodes agree`;
  if (view.log_state === "away") title = "The state of the fleet is unknown";
  else if (live === 0) title = "No node is live";
  else if (agreeing < live) title = `${live - agreeing} of ${live} nodes differ`;
  else if (live < nodes) title = `${nodes - live} of ${nodes} nodes silent`;
  else if (live === 1) title = "One node";
  const line = view.log_state === "away"
    ? `Redis does not answer this coordinator. ${live} of ${nodes} nodes answer it.`
    : view.log_state === "open"
    ? `The log is open at ${head}. ${auditWords(view)}`
    : `The log is ${view.log_state}: queries continue, writes are refused. ${recoveryWords(view)}`;
  const total = view.nodes.reduce((sum, node) => sum + (node.is_live ? node.queries_per_second ?? 0 : 0), 0);
  const slowest = Math.max(0, ...view.nodes.map((node) => node.p99_ms ?? 0));
  const lag = Math.max(0, ...view.nodes.filter((node) => node.is_live).map((node) => node.lag_entries));
  const routes = Math.max(0, ...view.nodes.map((node) => node.routes ?? 0));
  const slots = Math.max(0, ...view.nodes.map((node) => node.slots_used ?? 0));
  const key = JSON.stringify([title, line, tone, total, slowest, lag, routes, slots, agreeing, nodes]);
  if (hero.dataset.key === key) return;
  hero.dataset.key = key;
  hero.replaceChildren(
    ring(nodes ? agreeing / nodes : 0, tone, `${agreeing}/${nodes}`),
    h("div", {}, h("h1", {}, title), h("p", {}, line)),
    h("div", { class: "facts" },
      fact(rate(total), "queries/s"),
      fact(slowest ? millis(slowest) : "–", "slowest p99"),
      fact(whole(lag), "largest lag"),
      fact(whole(routes), "routes"), fact(whole(slots), "utterances")));
}

// While the log is closed: which voters are missing, and what forcing may lose.
async function drawRecovery(card) {
  const isClosed = ["recovering", "lost"].includes(state.view.log_state);
  const isAdmin = state.session?.scopes.includes("admin");
  if (!isClosed || !isAdmin || !state.view.nodes.some((node) => node.is_live)) { card.hidden = true; return; }
  const outlook = await post("/v1/actions/recover", { force: false });
  card.hidden = !outlook.is_needed;
  const key = JSON.stringify(outlook);
  if (card.dataset.key === key) return;
  card.dataset.key = key;
  const force = async () => {
    if (!await confirmTyped("Continue without the missing voters", `The log opens with the nodes that are present. ${outlook.risk || "Nothing that a majority held is lost."}`, "continue", "Force the recovery")) return;
    try { await post("/v1/actions/recover", { force: true }); toast("The recovery was forced."); }
    catch (problem) { toast(problem.message); }
  };
  refill(card, h("header", {}, h("h2", {}, "Recovery"), h("span", { class: "tag warn" }, outlook.log_state)),
    h("p", {}, outlook.detail || "The nodes are checking that nothing was lost."),
    outlook.base && h("p", { class: "muted" }, `Everything up to ${outlook.base} is kept.`),
    outlook.missing.length > 0 && h("p", { class: "muted" }, `No answer yet from ${outlook.missing.join(", ")}.`),
    outlook.missing.length > 0 && h("div", { class: "row" }, h("button", { type: "button", class: "danger", onclick: force }, "Continue without them")));
}

function recoveryWords(view) {
  const { voters, missing_voters: missing } = view.log;
  if (!voters.length) return "";
  return `${voters.length - missing.length} of ${voters.length} voters are present; ${Math.floor(voters.length / 2) + 1} are needed.`;
}

const fact = (value, name) => h("div", { class: "fact" }, h("b", {}, value), h("span", {}, name));

function auditWords(view) {
  if (!view.audit) return "No audit yet.";
  const depth = view.audit.is_deep ? " in memory and on disk" : "";
  if (view.audit.is_sound) return `The audit at ${view.audit.seq} found that ${view.audit.agreeing.length} nodes agree${depth}.`;
  const wrong = [...view.audit.differing, ...view.audit.unsound].join(", ");
  return wrong ? `The audit at ${view.audit.seq} found errors on ${wrong}.` : `No node reported to the audit at ${view.audit.seq}.`;
}

const MANY = 13;

function drawNodes(nodes, cards, view) {
  const areMany = view.nodes.length >= MANY;
  nodes.classList.toggle("many", areMany);
  // Among many, those that need somebody come first.
  const rank = (node) => ["bad", "unknown", "warn", "ok"].indexOf(node.health);
  const ordered = areMany ? [...view.nodes].sort((a, b) => rank(a) - rank(b)) : view.nodes;
  const present = new Set();
  ordered.forEach((node, place) => {
    present.add(node.node);
    let card = cards.get(node.node);
    if (!card) {
      card = makeCard();
      cards.set(node.node, card);
    }
    // A card that stays in its place is not moved: a moved one loses the focus, and is laid out anew.
    if (nodes.children[place] !== card.element) nodes.insertBefore(card.element, nodes.children[place] ?? null);
    fillCard(card, node, areMany);
  });
  for (const [identity, card] of cards) {
    if (!present.has(identity)) { card.element.remove(); cards.delete(identity); }
  }
}

function makeCard() {
  const part = { glyph: h("div", {}), name: h("h2", {}), about: h("p", {}), state: h("span", { class: "tag state" }),
    version: h("dd", {}), lag: h("dd", {}), rate: h("dd", {}), p99: h("dd", {}), spark: h("div", {}) };
  const pair = (value, name) => [value, h("dt", {}, name)];
  part.element = h("article", { class: "card node" },
    h("div", { class: "who" }, part.glyph, h("div", { class: "words" }, part.name, part.about), part.state),
    h("dl", {}, pair(part.version, "position"), pair(part.lag, "behind"), pair(part.rate, "queries/s"), pair(part.p99, "p50 · p99")),
    part.spark);
  return part;
}

function fillCard(card, node, areMany) {
  card.element.dataset.health = node.health;
  card.element.dataset.node = node.name;
  // A node alone at its position cannot be compared: keep the identicon of the last agreement.
  const shape = areMany ? "" : `${node.digest}${node.digest_state}`;
  if (shape && card.glyph.dataset.shape !== shape && !(node.digest_state === "alone" && card.glyph.dataset.shape)) {
    card.glyph.dataset.shape = shape;
    card.glyph.replaceChildren(glyph(node.digest, `digest ${node.digest.slice(0, 8)}: ${WORDS[node.digest_state]}`));
  }
  setText(card.name, node.name);
  setText(card.about, `${node.role}, ${WORDS[node.digest_state]}${node.queue_requests ? `, queue ${node.queue_requests}` : ""}`);
  const tone = node.health === "ok" ? "ok" : node.health;
  const words = node.health === "unknown" ? (node.is_live ? "unknown" : "silent")
    : !node.is_live ? `silent ${Math.round(node.age_ms / 1000)} s`
    : node.is_repairing ? "repairing"
    : node.digest_state === "differs" ? "differs" : node.digest_state === "unsound" ? "damaged"
    : node.state.replaceAll("_", " ");
  card.state.className = `tag state ${tone}`;
  setText(card.state, words);
  setText(card.version, node.version);
  setText(card.lag, node.lag_entries === null ? "–" : whole(node.lag_entries));
  setText(card.rate, rate(node.is_live ? node.queries_per_second : null));
  setText(card.p99, node.p50_ms === null ? "–" : `${node.p50_ms.toFixed(1)} · ${millis(node.p99_ms)}`);
  if (areMany) return; // the style sheet hides the curve
  const history = state.history.get(node.node) ?? [];
  const newest = history[history.length - 1]?.at;
  if (card.spark.dataset.at !== String(newest)) {
    card.spark.dataset.at = newest;
    card.spark.replaceChildren(spark(history.slice(-60), `queries a second on ${node.name}, the last two minutes`));
  }
}

function drawLog(log, view) {
  const facts = view.log;
  const key = JSON.stringify(facts) + view.coordinator.holder;
  if (log.dataset.key === key) return;
  log.dataset.key = key;
  const share = facts.kept_bytes / facts.bytes_max;
  const missing = facts.missing_voters.length;
  const row = (name, value) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, value));
  log.replaceChildren(
    meter(share, `${(share * 100).toFixed(1)} % of the log's limit`),
    h("table", { class: "facts-table" }, h("tbody", {},
      row("kept", `${whole(facts.entries)} entries, ${bytes(facts.kept_bytes)}`),
      row("limit", bytes(facts.bytes_max)),
      row("epoch", facts.epoch || "–"),
      row("voters", missing ? `${facts.voters.length - missing} of ${facts.voters.length}` : facts.voters.length),
      row("feature level", facts.level_possible > facts.level ? `${facts.level}, ${facts.level_possible} possible` : facts.level),
      row("encoder", h("a", { href: "#/encoder" }, h("code", {}, facts.encoder.slice(0, 10) || "–"))),
      row("coordinator", h("span", { class: "small" }, view.coordinator.is_active ? "this one" : view.coordinator.holder.split("#")[0] || "none")))));
}

async function drawSpread(spread) {
  const [newest, found] = await Promise.all([get("/v1/log?limit=120"), get("/v1/propagation?limit=120")]);
  const log = { entries: newest.entries.filter((entry) => entry.kind !== "audit").slice(0, TIMELINE_ENTRIES) };
  const key = JSON.stringify([log.entries.map((entry) => entry.seq), found.nodes.map((node) => node.entries.at(-1))]);
  if (spread.dataset.key === key) return;
  spread.dataset.key = key;
  if (!log.entries.length) {
    spread.replaceChildren(h("p", { class: "empty" }, "No writes yet."));
    return;
  }
  const areMany = found.nodes.length > DOTS_MAX;
  const legend = h("div", { class: "legend" }, areMany ? [h("span", {}, dot(0), "median node"), h("span", {}, dot(3), "slowest node")]
    : found.nodes.map((node, index) => h("span", {}, dot(index), node.name)));
  spread.replaceChildren(scroll("Propagation of the newest writes", timeline(log.entries, found.nodes)), legend);
}

function drawRecent(list) {
  const newest = state.events.slice(-6).reverse();
  list.replaceChildren(...newest.map(eventLine));
  if (!newest.length) list.append(h("li", { class: "empty" }, "No events yet."));
}

export function eventLine(event) {
  return h("li", { class: event.tone },
    h("time", { datetime: new Date(event.at_ms).toISOString() }, clock(event.at_ms)),
    h("i", { "aria-hidden": "true" }), h("span", {}, event.message));
}
