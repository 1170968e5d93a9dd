// The page: routing between views, the session, and alarms.

import { address, call, contentSet, follow, get, isSetName, loadSets, onSignedOut, state, unfollow, watch } from "./api.js";
import { byId, h, toast } from "./dom.js";
import { link, readPlace } from "./place.js";
import { show as activity } from "./activity.js";
import { drawAlarms } from "./alarms.js";
import { show as alias } from "./alias.js";
import { show as compare } from "./compare.js";
import { show as conflicts } from "./conflicts.js";
import { show as encoder } from "./encoder.js";
import { show as fleet } from "./fleet.js";
import { show as history } from "./history.js";
import { show as learn } from "./learn.js";
import { show as playground } from "./playground.js";
import { show as routes } from "./routes.js";
import { drawSwitcher, show as sets } from "./sets.js";
import { show as settings } from "./settings.js";
import { show as tests } from "./tests.js";
import { show as traffic } from "./traffic.js";
import { show as unmatched } from "./unmatched.js";

const VIEWS = { fleet, sets, alias, tests, compare, history, routes, query: playground, conflicts, unmatched, learn, traffic, settings, encoder, activity };
const CLUSTER_VIEWS = ["", "fleet", "sets", "encoder", "activity"];
const SETS_WAIT_MS = 5000;
const THEME = "synaptoroute.theme";
let leave = () => {};
let isFirst = true;

function render() {
  if (!state.view) return;
  const place = readPlace();
  if (!Object.hasOwn(VIEWS, place.view)) place.view = "fleet";
  state.named = place.params.get("set") ?? "";
  drawSwitcher(byId("switcher"), readPlace);
  leave();
  const main = byId("main");
  main.replaceChildren();
  let title = "";
  for (const anchor of document.querySelectorAll("nav a[data-view]")) {
    anchor.href = link(anchor.dataset.view);
    if (anchor.dataset.view === (place.view === "alias" ? "sets" : place.view)) {
      title = anchor.textContent;
      anchor.setAttribute("aria-current", "page");
      anchor.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    else anchor.removeAttribute("aria-current");
  }
  document.title = `${[title, state.named].filter(Boolean).join(" · ")} · SynaptoRoute`;
  const wrong = CLUSTER_VIEWS.includes(place.view) ? "" : wrongPlace(place);
  if (wrong) {
    main.append(h("section", { class: "card" }, h("p", { class: "empty" }, `${wrong} `, h("a", { href: link("sets", "", { set: "" }) }, "All sets"))));
    leave = () => {};
    return;
  }
  leave = VIEWS[place.view](main, place) ?? (() => {});
  if (!isFirst && document.activeElement === document.body) main.focus({ preventScroll: true });
  isFirst = false;
}

// Why a view of a set cannot be shown; empty if it can.
function wrongPlace({ view, rest }) {
  if (state.named && !isSetName(state.named)) return `“${state.named}” cannot be the name of a route set.`;
  if (view === "alias" && !isSetName(rest)) return `“${rest}” cannot be the name of an alias.`;
  const isMissing = state.named && state.hasSets && !state.sets.some((each) => each.name === contentSet());
  return isMissing ? `There is no route set or alias ${state.named}.` : "";
}

function drawPulse() {
  const pulse = byId("pulse");
  const isOpen = state.view?.log_state === "open";
  pulse.className = `pulse ${!state.connected ? "gone" : isOpen ? "live" : ""}`;
  pulse.textContent = !state.connected ? "no connection" : isOpen ? "live" : `log ${state.view?.log_state ?? "…"}`;
}

let areSetsShown = false;
function drawSets() {
  // What the name in the address stands for is known only now.
  if (!areSetsShown && hasView && state.named) setTimeout(render, 0);
  areSetsShown = true;
  drawSwitcher(byId("switcher"), readPlace);
  for (const anchor of document.querySelectorAll("[data-view=sets], [data-view=tests], [data-view=compare]")) anchor.hidden = !state.hasSets;
}

// Somebody else may make sets and move aliases.
const SETS_MS = 10000;
let setsAt = Date.now(), setsHead = "";
function followSets() {
  if (state.view?.head === setsHead || Date.now() - setsAt < SETS_MS || document.hidden) return;
  setsAt = Date.now();
  setsHead = state.view.head;
  loadSets().catch(() => {});
}

let hasView = false;
watch((what) => {
  if (what === "view") followSets();
  if (what === "sets") drawSets();
  drawPulse();
  drawAlarms();
  if (!hasView && state.view) { hasView = true; render(); }
});
addEventListener("hashchange", render);

async function begin() {
  const session = await get("/v1/session");
  state.session = session;
  byId("namespace").textContent = session.namespace ?? "";
  byId("leave").hidden = !session.needs_key || !session.name;
  if (session.needs_key && !session.name) { askKey(); return; }
  if (!session.scopes.includes("read")) { drawNoAccess(session); return; }
  // Sets come from a node: what is about the cluster is shown without them.
  const sets = loadSets().catch(() => {});
  state.view = state.view ?? await get("/v1/cluster");
  if (!CLUSTER_VIEWS.includes(readPlace().view)) await Promise.race([sets, new Promise((resolve) => setTimeout(resolve, SETS_WAIT_MS))]);
  follow();
  if (!hasView) { hasView = true; render(); drawAlarms(); drawPulse(); }
}

// A key for some route sets, or for metrics alone, may not see the fleet.
function drawNoAccess({ name, grants = [] }) {
  for (const bar of document.querySelectorAll("nav, .set-bar")) bar.hidden = true;
  byId("pulse").textContent = "signed in";
  byId("main").replaceChildren(h("section", { class: "card", id: "no-access" }, h("h1", {}, "This key cannot open the dashboard"),
    h("p", {}, "The dashboard shows the whole cluster: every node, every route set, and what changed. It needs a key with the scope ", h("code", {}, "read"), " or ", h("code", {}, "admin"), " for all route sets."),
    h("p", {}, `The key ${name} `, grants.length ? ["is for some route sets only: ", grants.map((each) => [h("code", {}, each), " "])] : "has neither. ", "It works at the nodes, which serve each route set below ", h("code", {}, "/v1/sets/"), "."),
    h("p", { class: "muted" }, "Ask an administrator for another key, then sign out and in again.")));
}

function askKey() {
  unfollow();
  const dialog = byId("sign-in");
  if (!dialog.open) dialog.showModal();
}
onSignedOut(askKey);
byId("sign-in").addEventListener("cancel", (event) => event.preventDefault());
byId("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("sign-in-wrong").textContent = "";
  try {
    const answer = await fetch(address("/v1/session"), { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ key: byId("key").value.trim() }) });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    byId("key").value = "";
    byId("sign-in").close();
    await begin();
  } catch (problem) { byId("sign-in-wrong").textContent = problem.message; }
});
byId("leave").addEventListener("click", async () => {
  await call("DELETE", "/v1/session");
  location.reload();
});

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
}
theme(localStorage.getItem(THEME));
byId("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.setItem(THEME, dark ? "light" : "dark");
  theme(dark ? "light" : "dark");
});
addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea, select, dialog[open]");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
    const search = byId("route-search") ?? byId("query-text");
    if (search) { event.preventDefault(); search.focus(); }
  }
});

begin().catch((problem) => toast(problem.message));
