// Events, actions, backups and the audit log.

import { get, post, state, watch } from "./api.js";
import { confirmTyped } from "./dialogs.js";
import { bytes, clock, h, scroll, toast } from "./dom.js";
import { eventLine } from "./fleet.js";
import { linesOf } from "./routes.js";

export function show(main) {
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
  const isVoter = () => state.view?.nodes.find((each) => each.name === node.value)?.role === "voter";
  const voter = h("button", { type: "button", disabled: !isAdmin, onclick: (event) => {
    const vote = !isVoter();
    const question = vote ? `Give ${node.value} a vote on recoveries?` : `Remove the vote of ${node.value}?`;
    if (confirm(question)) act("voter", () => ({ node: node.value, vote }))(event);
  } }, "Voter");
  const nameVoter = () => { voter.textContent = isVoter() ? "Remove vote" : "Give vote"; };
  node.addEventListener("change", nameVoter);
  main.append(h("div", { class: "grid wide-left" },
    h("section", { class: "card" }, h("header", {}, h("h1", {}, "Activity")), events),
    h("div", { class: "grid" },
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Actions"),
        !isAdmin && h("span", { class: "tag" }, "requires the scope admin")),
      h("div", { class: "row" },
        button("Compare digests", "audit"), button("Compare memory and disk", "audit?depth=rows"),
        button("Take a backup", "backup"), button("Trim the log", "trim", () => ({ retain_entries: 10000 }))),
      h("div", { class: "field" }, h("label", { for: "action-node" }, "One node"),
        h("div", { class: "row" }, h("div", { class: "grow" }, node),
          button("Scrub", "scrub", () => ({ node: node.value })), voter)),
      h("details", { class: "danger-zone" }, h("summary", {}, "Replace the state of this node"),
        h("p", { class: "muted small" }, "The node discards what it holds and installs the snapshot of another node."),
        h("button", { type: "button", class: "danger", disabled: !isAdmin, onclick: async () => {
          const name = node.value;
          if (await confirmTyped("Replace the state of a node", `${name} discards its state and installs the snapshot of another node.`, name, "Resync")) run("resync", { node: name });
        } }, "Resync …"))),
      erase, orphans,
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Backups")), backups),
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Writes")), writes),
      h("section", { class: "card" }, h("header", {}, h("h2", {}, "Audit log")), record))));
  let shown = "";
  const stop = watch((what) => {
    if (what !== "view") events.replaceChildren(...[...state.events].reverse().map(eventLine));
    const names = state.view?.nodes.map((each) => each.name) ?? [];
    if (shown !== names.join()) {
      shown = names.join();
      node.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    }
    nameVoter();
    erase.hidden = !state.hasSets;
  });
  erase.hidden = !state.hasSets;
  events.replaceChildren(...[...state.events].reverse().map(eventLine));
  refresh().catch((problem) => toast(problem.message));
  return stop;
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
