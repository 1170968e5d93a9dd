// Route sets and aliases: what there is, drafts, and what goes.

import { aliasPath, contentSet, DEFAULT, inSet, loadSets, post, setPath, state, write } from "./api.js";
import { askText, confirmTyped } from "./dialogs.js";
import { h, scroll, toast, whole } from "./dom.js";
import { bodyOf } from "./exchange.js";
import { go, link } from "./place.js";
import { settle } from "./routes.js";

export const isAdmin = () => state.session?.scopes.includes("admin");

// --- the switcher -----------------------------------------------------------------------------

let drawn = "";
export function drawSwitcher(bar, view) {
  const key = JSON.stringify([state.named, state.sets.map((each) => [each.name, each.forked_from]), state.aliases]);
  if (key === drawn) return;  // an open list would close
  drawn = key;
  bar.hidden = !state.hasSets || (state.sets.length < 2 && !state.aliases.length);
  const select = h("select", { id: "set", "aria-label": "Route set or alias", onchange: (event) => {
    const at = view();
    const kept = Object.fromEntries(["range", "text", "node"].map((name) => [name, at.params.get(name)]));
    go(at.view === "alias" ? "sets" : at.view, "", { ...kept, set: event.target.value });
  } },
  state.aliases.length ? h("optgroup", { label: "Aliases" }, state.aliases.map((each) => option(each.name, `${each.name} → ${each.set}`))) : null,
  h("optgroup", { label: "Route sets" }, state.sets.map((each) => option(each.name === DEFAULT ? "" : each.name, each.name))));
  bar.replaceChildren(select, ...standing(contentSet()));
}

const option = (value, text) => h("option", { value, selected: value === state.named }, text);

// What a set is used for, as tags.
export function standing(name) {
  const tags = state.aliases.flatMap((each) => [
    each.set === name && h("a", { class: "tag ok", href: link("alias", each.name) }, `answers ${each.name}`),
    each.canary === name && h("a", { class: "tag warn", href: link("alias", each.name) }, `canary of ${each.name}`),
    each.shadow === name && h("a", { class: "tag info", href: link("alias", each.name) }, `shadow of ${each.name}`)].filter(Boolean));
  const own = state.sets.find((each) => each.name === name);
  if (!tags.length && own?.forked_from) tags.push(h("span", { class: "tag" }, `draft of ${own.forked_from}`));
  return tags;
}

// Whether an alias gives answers of a set: then it is changed in a draft.
export const isLive = (name) => state.aliases.some((each) => [each.set, each.canary].includes(name));

// --- drafts -----------------------------------------------------------------------------------

// `support@13` after `support@12`; the first free number.
export function nextName(name) {
  const [, base, number] = /^(.*?)(?:@(\d+))?$/.exec(name);
  let next = Number(number ?? 0) + 1;
  while (state.sets.some((each) => each.name === `${base}@${next}`)) next += 1;
  return `${base}@${next}`;
}

// Fork a set and go on in the copy; returns its name, or null.
export async function makeDraft(name, view = "routes", rest = "") {
  const into = await askText("Make a draft", `A copy of ${name}, with its routes, settings and tests. It answers nobody until it is promoted.`,
    { label: "Name of the draft", value: nextName(name), action: "Make the draft" });
  if (!into) return null;
  try {
    const { version } = await write("POST", setPath(name, "/fork"), { body: { as: into } });
    await settle(version, into);
    await loadSets();
    if (view) go(view, rest, { set: into });
    return into;
  } catch (problem) { toast(problem.message); return null; }
}

// --- the view ---------------------------------------------------------------------------------

export function show(main) {
  const aliases = h("div", {}), sets = h("div", {}), danger = h("div", {});
  main.append(
    h("section", { class: "card" }, h("header", {}, h("div", {}, h("h1", {}, "Route sets"),
      h("p", { class: "muted" }, "Clients query an alias. A change is made in a draft, tested, and promoted: then the alias names the draft, on every node at one position.")),
    h("div", { class: "row" }, h("button", { type: "button", onclick: newAlias, disabled: !isAdmin() }, "New alias"),
      h("button", { type: "button", onclick: newSet, disabled: !isAdmin() }, "New set"))), aliases),
    h("section", { class: "card" }, h("header", {}, h("h2", {}, "Sets")), sets),
    h("details", { class: "card danger-zone" }, h("summary", {}, "Delete a set"), danger));
  const draw = () => { drawAliases(aliases); drawSets(sets); drawDanger(danger); };
  if (state.hasSets) draw();
  loadSets().then(draw).catch((problem) => sets.replaceChildren(h("p", { class: "wrong" }, problem.message)));
  return () => {};
}

const share = (name, part) => name ? `${name} · ${Math.round(part * 100)} %` : "–";
const head = (names) => h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col", class: ["Routes", "Texts"].includes(name) ? "number" : null }, name || h("span", { class: "sr-only" }, "Action")))));

function drawAliases(pane) {
  if (!state.aliases.length) { pane.replaceChildren(h("p", { class: "empty" }, "No alias yet. With one, clients keep their address while the set behind it changes.")); return; }
  pane.replaceChildren(scroll("Aliases", h("table", { class: "unmatched" }, head(["Alias", "Answered by", "Shadow", "Canary", ""]),
    h("tbody", {}, state.aliases.map((each) => h("tr", {},
      h("td", {}, h("a", { href: link("alias", each.name) }, each.name)), h("td", {}, each.set),
      h("td", { class: "muted" }, share(each.shadow, each.shadow_share)), h("td", { class: "muted" }, share(each.canary, each.canary_share)),
      h("td", { class: "number" }, h("a", { class: "button", href: link("alias", each.name) }, "Promote, history"))))))));
}

function drawSets(pane) {
  if (!state.hasSets) { pane.replaceChildren(h("p", { class: "empty" }, "The nodes of this cluster have one route set.")); return; }
  pane.replaceChildren(scroll("Route sets", h("table", { class: "unmatched" }, head(["Set", "", "Routes", "Texts", "Changed", ""]),
    h("tbody", {}, state.sets.map((each) => h("tr", {},
      h("td", { class: "said" }, h("a", { href: link("routes", "", { set: each.name === DEFAULT ? "" : each.name }) }, each.name)),
      h("td", {}, h("span", { class: "row" }, standing(each.name))),
      h("td", { class: "number" }, whole(each.routes)), h("td", { class: "number" }, whole(each.utterances)), h("td", { class: "muted nowrap" }, each.revision),
      h("td", {}, h("span", { class: "row end" },
        h("button", { type: "button", class: "quiet", onclick: () => makeDraft(each.name) }, "Draft"),
        each.forked_from && state.sets.some((one) => one.name === each.forked_from)
          ? h("a", { class: "button", href: link("compare", "", { from: each.forked_from, to: each.name }) }, "Compare") : null))))))));
}

function drawDanger(pane) {
  const free = state.sets.filter((each) => each.name !== DEFAULT && !each.aliases.length);
  if (!free.length) { pane.replaceChildren(h("p", { class: "muted" }, "Every set is in use: the default set stays, and a set that an alias names cannot be deleted.")); return; }
  const select = h("select", { id: "delete-set" }, free.map((each) => h("option", {}, each.name)));
  pane.replaceChildren(h("p", { class: "muted" }, "A set goes with its routes, settings, tests and review queue. Nothing brings it back."),
    h("div", { class: "row" }, h("label", { for: "delete-set", class: "sr-only" }, "Set to delete"), h("div", { class: "grow" }, select),
      h("button", { type: "button", class: "danger", onclick: async () => {
        const found = free.find((each) => each.name === select.value);
        if (!await confirmTyped("Delete a set", `${whole(found.routes)} routes with ${whole(found.utterances)} texts are deleted on every node.`, found.name, "Delete the set")) return;
        try {
          const { version } = await write("DELETE", setPath(found.name));
          await settle(version, found.name);
          if (state.named === found.name) go("sets", "", { set: "" });
          await loadSets();
          drawDanger(pane);
        } catch (problem) { toast(problem.message); }
      } }, "Delete …")));
}

async function newSet() {
  const name = await askText("New route set", "It is empty; use Draft to copy an existing one.", { label: "Name", action: "Create" });
  if (!name) return;
  try {
    const { version } = await write("PUT", setPath(name), { headers: { "If-None-Match": "*" } });
    await settle(version, name);
    await loadSets();
    go("routes", "", { set: name });
  } catch (problem) { toast(problem.message); }
}

async function newAlias() {
  const name = await askText("New alias", `It names the set ${contentSet()} at first. Clients query it by its name.`, { label: "Name", action: "Create" });
  if (!name) return;
  try {
    const { version } = await write("PUT", aliasPath(name), { body: { set: contentSet() }, headers: { "If-None-Match": "*" } });
    await settle(version, name);
    await loadSets();
    go("alias", name);
  } catch (problem) { toast(problem.message); }
}

// Ask the chosen set or alias, or another one.
export const query = (text, { name = state.named, node = "", explain = true, session = "" } = {}) =>
  post(`${inSet("/v1/query", name || DEFAULT)}${node ? `?node=${encodeURIComponent(node)}` : ""}`,
    explain ? bodyOf(text, session) : { text, ...(session ? { session } : {}) });
