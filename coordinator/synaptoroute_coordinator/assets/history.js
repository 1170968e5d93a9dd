// History of a route set: who changed what, why, and what it was before; one change can be reverted.

import { contentSet, get, inSet, write } from "./api.js";
import { noteTyped } from "./dialogs.js";
import { h, toast } from "./dom.js";
import { link } from "./place.js";
import { loadRoutes, settle } from "./routes.js";
import { isAdmin } from "./sets.js";

const PAGE = 50;
const QUIET = new Set(["calibrate_decision", "calibrate", "import_begin"]);

export function show(main, { params }) {
  const route = params.get("route") ?? "";
  const list = h("ol", { class: "changes" });
  const more = h("div", { class: "row" });
  const choose = h("select", { id: "history-route", "aria-label": "Route", onchange: () => { location.hash = link("history", "", { route: choose.value }); } },
    h("option", { value: "" }, "all routes"));
  main.append(h("section", { class: "card" }, h("header", {}, h("div", {}, h("h1", {}, "History"),
    h("p", { class: "muted" }, `Changes of ${contentSet()}, the newest first. A revert is a new change.`)), h("div", {}, choose)), list, more));
  const load = async (before) => {
    try {
      const found = await get(`${inSet("/v1/history")}?limit=${PAGE}${before ? `&before=${before}` : ""}${route ? `&route=${encodeURIComponent(route)}` : ""}`);
      if (!before) list.replaceChildren();
      list.append(...found.entries.filter((each) => each.status !== "unchanged" && !QUIET.has(each.action)).map(entry));
      if (!list.children.length && !found.next_before) list.append(h("li", { class: "empty" }, "No changes are kept."));
      more.replaceChildren(...(found.next_before ? [h("button", { type: "button", onclick: () => load(found.next_before) }, "Earlier changes")] : []));
    } catch (problem) { list.replaceChildren(h("li", { class: "wrong" }, problem.message)); }
  };
  const entry = (each) => {
    const changes = each.changes ?? [];
    const canRevert = each.status === "applied" && changes.length > 0 && changes.every((one) => one.is_known && ["route", "settings", "tests"].includes(one.kind));
    return h("li", { "data-version": each.version },
      h("p", { class: "row" }, h("b", {}, `${words(each.action)} ${each.route ?? each.alias ?? ""}`), each.status === "rejected" ? h("span", { class: "tag bad" }, each.code) : null),
      h("p", { class: "muted small" }, `${new Date(each.at).toLocaleString()} · ${each.author ?? "without a key"} · ${each.version}`),
      each.note ? h("p", {}, `“${each.note}”`) : null,
      changes.length ? h("details", {}, h("summary", {}, summary(each)), changes.map(difference),
        canRevert && isAdmin() ? h("button", { type: "button", class: "danger", onclick: () => revert(each) }, "Revert …") : null) : null);
  };
  const revert = async (each) => {
    const note = await noteTyped("Revert a change", `A new change restores, on every node, what ${each.version} changed: ${summary(each)}.`, each.version, "Revert", `Revert ${each.version}`);
    if (note === null) return;
    try {
      const { version } = await write("POST", inSet(`/v1/history/${each.version}/revert`), { note });
      await settle(version, "The revert");
      await load(0);
    } catch (problem) { toast(problem.message); }
  };
  load(0);
  loadRoutes().then((routes) => choose.append(...routes.map((each) => h("option", { value: each.name, selected: each.name === route }, each.name)))).catch(() => {});
  return () => {};
}

const words = (action) => ({ put_route: "Put", patch_route: "Changed", delete_route: "Deleted", add_utterances: "Added utterances to", remove_utterances: "Removed utterances from",
  revise_routes: "Changed routes", put_settings: "Changed the settings", put_tests: "Changed the tests", import_commit: "Imported routes", commit_plan: "Applied a plan",
  fork_set: "Copied the set", put_set: "Made the set", put_alias: "Moved the alias" })[action] ?? action.replaceAll("_", " ");

function summary(each) {
  const names = (each.changes ?? []).map((one) => one.name || one.kind);
  return `${names.slice(0, 4).join(", ")}${each.changes_total > 4 ? ` and ${each.changes_total - 4} more` : ""}`;
}

// Lines that go and come, field by field.
function difference(change) {
  if (!change.is_known) return h("p", { class: "muted small" }, `${change.name || change.kind}: the node does not keep what it was.`);
  const before = change.before ?? {}, after = change.after ?? {};
  const title = change.before === null ? "new" : change.after === null ? "deleted" : "changed";
  const lines = [...new Set([...Object.keys(before), ...Object.keys(after)])].flatMap((name) => fieldLines(name, before[name], after[name]));
  return h("div", { class: "difference" }, h("h3", {}, `${change.name || change.kind} `, h("span", { class: "tag" }, title)),
    h("ul", {}, lines.slice(0, 60).map(([kind, text]) => h("li", { class: kind }, h("span", { class: "sr-only" }, kind === "gone" ? "Removed: " : "Added: "), text))),
    lines.length > 60 ? h("p", { class: "muted small" }, `and ${lines.length - 60} more lines`) : null);
}

const said = (value) => typeof value === "string" ? value : Array.isArray(value) || (value && typeof value === "object") ? JSON.stringify(value) : String(value);
const isNothing = (value) => value === undefined || value === null || (Array.isArray(value) && !value.length) || (typeof value === "object" && !Object.keys(value).length);

function fieldLines(name, before, after) {
  if (Array.isArray(before) || Array.isArray(after)) {
    const label = name === "negatives" ? "never: " : name === "utterances" ? "" : `${name}: `;
    const one = (before ?? []).map(said), other = (after ?? []).map(said);
    return [...one.filter((each) => !other.includes(each)).map((each) => ["gone", label + each]), ...other.filter((each) => !one.includes(each)).map((each) => ["new", label + each])];
  }
  if (said(before ?? null) === said(after ?? null)) return [];
  const label = name.replaceAll("_", " ");
  return [...(isNothing(before) ? [] : [["gone", `${label}: ${said(before)}`]]), ...(isNothing(after) ? [] : [["new", `${label}: ${said(after)}`]])];
}
