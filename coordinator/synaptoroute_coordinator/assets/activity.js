// Events, actions, backups and the audit log.

import { get, post, state, watch } from "./api.js";
import { alarmsCard } from "./alarms.js";
import { confirmTyped } from "./dialogs.js";
import { bytes, clock, h, scroll, toast } from "./dom.js";
import { eventLine } from "./fleet.js";
import { show as overTime } from "./over_time.js";
import { linesOf } from "./routes.js";

export function show(main, place) {
  const isAdmin = state.session?.scopes.includes("admin");
  const events = h("ol", { class: "events", tabindex: 0, "aria-label": "Events, newest first" });
  const record = scroll("Audit log");
  const writes = scroll("Writes");
  const backups = scroll("Backups");
  const node = h("select", { id: "action-node" });
  const erase = eraseCard(isAdmin);
  const orphans = h("section", { class: "card", hidden: true });
  const refresh = async () => {
    // Without a node that answers there is no history, but there is a record.
    const history = get("/v1/history?limit=30&changes=false").catch(() => ({ entries: [] }));
    const [actions, kept, written] = await Promise.all([get("/v1/actions"), get("/v1/backups"), history]);
    drawRecord(record, actions.actions);
    drawWrites(writes, written.entries);
    drawBackups(backups, kept);
    if (isAdmin) drawOrphans(orphans, (await get("/v1/orphans")).orphans, act);
  };
  const run = async (path, body) => {
    try {
      const done = await post(`/v1/actions/${path}`, body);
      toast(done.detail || done.outcome || done.status || "done");
      setTimeout(() => refresh().catch(() => {}), 1200);
    } catch (problem) { toast(problem.message); }
  };
  const act = (path, body) => async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    await run(path, body?.());
    button.disabled = !isAdmin;
  };
  const button = (text, path, body) => h("button", { type: "button", disabled: !isAdmin, onclick: act(path, body) }, text);
  const isVoter = () => state.view?.nodes.find((each) => each.name === node.value)?.role === "voter" || isLost(node.value);
  // A voter that is lost for good is no longer among the nodes.
  const isLost = (name) => lostVoters().includes(name);
  const vote = h("button", { type: "button", disabled: !isAdmin, onclick: act("voter", () => ({ node: node.value, vote: true })) }, "Give vote");
  const danger = dangerCard(isAdmin, node, run);
  const nameVoter = () => {
    vote.hidden = isVoter();
    scrub.hidden = isLost(node.value);
    danger.follow(isVoter(), isLost(node.value));
  };
  const scrub = button("Scrub", "scrub", () => ({ node: node.value }));
  node.addEventListener("change", nameVoter);
  main.append(h("h1", {}, "Activity"));
  const endAlarms = alarmsCard(main);
  const endCharts = overTime(main, place);
  main.append(h("div", { class: "grid wide-left" },
    h("div", { class: "grid" },
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Events")), events),
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Writes")), writes),
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Audit log")), record)),
    h("div", { class: "grid" },
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Actions"),
        !isAdmin && h("span", { class: "tag" }, "requires the scope admin")),
      h("div", { class: "row" },
        button("Compare digests", "audit"), button("Compare memory and disk", "audit?depth=rows"),
        button("Take a backup", "backup")),
      h("div", { class: "field spaced" }, h("label", { for: "action-node" }, "One node"),
        h("div", { class: "row" }, h("div", { class: "grow" }, node), scrub, vote))),
      danger.element, erase, orphans,
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Backups")), backups))));
  let shown = "";
  const stop = watch((what) => {
    if (what !== "view") drawEvents(events);
    const names = [...state.view?.nodes.map((each) => each.name) ?? [], ...lostVoters()];
    if (shown !== names.join()) {
      shown = names.join();
      const chosen = node.value;
      node.replaceChildren(...names.map((name) => h("option", { value: name, selected: name === chosen }, isLost(name) ? `${name.slice(0, 12)}, a lost voter` : name)));
    }
    nameVoter();
    erase.hidden = !state.hasSets;
  });
  erase.hidden = !state.hasSets;
  drawEvents(events);
  refresh().catch((problem) => toast(problem.message));
  return () => { stop(); endAlarms(); endCharts(); };
}

function drawEvents(list) {
  list.replaceChildren(...[...state.events].reverse().map(eventLine));
  if (!state.events.length) list.append(h("li", { class: "empty" }, "No events yet."));
}

// Voters of the log that are not among the nodes, by identity.
function lostVoters() {
  const nodes = new Set(state.view?.nodes.map((each) => each.node));
  return (state.view?.log.voters ?? []).filter((each) => !nodes.has(each));
}

// What discards something: apart from the other actions, and only after a name is typed.
function dangerCard(isAdmin, node, run) {
  const button = (text, onclick) => h("button", { type: "button", class: "danger", disabled: !isAdmin, onclick }, text);
  const about = h("b", {});
  const resync = button("Resync …", async () => {
    const name = node.value;
    if (await confirmTyped("Replace the state of a node", `${name} discards its state and installs the snapshot of another node.`, name, "Resync")) run("resync", { node: name });
  });
  const remove = button("Remove vote …", async () => {
    const name = node.value;
    if (await confirmTyped("Remove a voter", `${name} no longer counts when a majority confirms writes and recoveries: fewer lost nodes can be survived. It still answers queries.`, name, "Remove the vote")) run("voter", { node: name, vote: false });
  });
  const trim = button("Trim the log …", async () => {
    if (await confirmTyped("Trim the log", "The log keeps its newest 10,000 entries. A node that is further behind installs a snapshot, and the history ends there.", "trim", "Trim the log")) run("trim", { retain_entries: 10000 });
  });
  const element = h("details", { class: "card danger-zone" }, h("summary", {}, "Remove, replace, trim"),
    h("p", { class: "muted small" }, "Of the node that is chosen above, ", about, ":"), h("div", { class: "row" }, resync, remove),
    h("p", { class: "muted small spaced" }, "Of the log:"), h("div", { class: "row" }, trim));
  return { element, follow: (votes, isLost) => {
    about.textContent = node.value;
    remove.hidden = !votes;
    resync.hidden = isLost;
  } };
}

// Remove texts from every route set, and from the logs.
function eraseCard(isAdmin) {
  const texts = h("textarea", { id: "erase-texts", rows: 3, placeholder: "Texts to erase, one per line" });
  const outcome = h("p", { class: "muted small", "aria-live": "polite" });
  return h("details", { class: "card danger-zone" }, h("summary", {}, "Erase texts"),
    h("p", { class: "muted small" }, "From routes, tests and review queues of every set; every node and Redis then drop the entries that held them. Backups keep them until they are deleted."),
    h("label", { for: "erase-texts", class: "sr-only" }, "Texts to erase"), texts,
    h("button", { type: "button", class: "danger", disabled: !isAdmin, onclick: async () => {
      const asked = linesOf(texts.value).slice(0, 100);
      if (!asked.length || !await confirmTyped("Erase texts", `${asked.length} ${asked.length === 1 ? "text goes" : "texts go"} for good.`, "erase", "Erase")) return;
      try {
        const found = await post("/v1/erase", { texts: asked });
        texts.value = "";
        const counts = Object.entries(found.found).filter(([, count]) => count).map(([name, count]) => `${count} ${name.replaceAll("_", " ")}`);
        outcome.textContent = `Erased at ${found.version}: ${counts.join(", ") || "nothing had these texts"}.`;
      } catch (problem) { outcome.textContent = problem.message; }
    } }, "Erase …"), outcome);
}

function drawRecord(record, actions) {
  if (!actions.length) { record.replaceChildren(h("p", { class: "empty" }, "No actions yet.")); return; }
  record.replaceChildren(h("table", { class: "record" },
    h("thead", {}, h("tr", {}, ["Time", "Author", "From", "Action", "Result"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, actions.slice(0, 30).map((each) => h("tr", {},
      h("td", {}, clock(each.at_ms)), h("td", {}, each.actor), h("td", { class: "muted small" }, each.address ?? ""), h("td", {}, each.action),
      h("td", {}, h("span", { class: `tag ${each.outcome === "done" ? "ok" : "bad"}` }, each.outcome), " ",
        h("span", { class: "muted small" }, each.detail)))))));
}

// Who wrote what, from the newest entries of the log.
function drawWrites(writes, entries) {
  if (!entries.length) { writes.replaceChildren(h("p", { class: "empty" }, "No writes yet.")); return; }
  writes.replaceChildren(h("table", { class: "record" },
    h("thead", {}, h("tr", {}, ["Time", "Author", "Action", "Result"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, entries.map((each) => h("tr", {},
      h("td", {}, clock(Date.parse(each.at))), h("td", {}, each.author ?? "–"),
      h("td", {}, `${each.action.replaceAll("_", " ")} ${each.route ?? ""}`),
      h("td", {}, h("span", { class: `tag ${each.status === "rejected" ? "bad" : "ok"}` }, each.code ?? each.status)))))));
}

// Writes accepted by a Redis server that lost a failover; they can be repeated.
function drawOrphans(card, found, act) {
  card.hidden = !found.length;
  card.replaceChildren(h("header", {}, h("h2", {}, "Orphaned writes"), h("span", { class: "tag warn" }, found.length)),
    scroll("Orphaned writes", h("table", {},
      h("thead", {}, h("tr", {}, ["Node", "Position", "Write", ""].map((text) => h("th", { scope: "col" }, text || h("span", { class: "sr-only" }, "Action"))))),
      h("tbody", {}, found.slice(0, 50).map((each) => h("tr", {},
        h("td", {}, each.node), h("td", {}, each.version), h("td", {}, `${each.kind} ${each.route ?? ""}`),
        h("td", {}, h("button", { type: "button", class: "quiet", onclick: act("orphan", () => ({ node: each.node, op_id: each.op_id })) }, "Repeat"))))))));
}

function drawBackups(backups, kept) {
  if (!kept.is_on) { backups.replaceChildren(h("p", { class: "muted" }, "No backup store is configured.")); return; }
  if (!kept.backups.length) { backups.replaceChildren(h("p", { class: "muted" }, "No backups yet.")); return; }
  backups.replaceChildren(h("table", {},
    h("thead", {}, h("tr", {}, ["Taken", "Position", "Size"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, kept.backups.slice(0, 10).map((each) => h("tr", {},
      h("td", {}, new Date(each.at_ms).toLocaleString()), h("td", {}, each.version), h("td", {}, bytes(each.size_bytes)))))));
}
