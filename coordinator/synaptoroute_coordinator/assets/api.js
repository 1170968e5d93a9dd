// Client of the fleet API: documents, problems, and the event stream.

export class Problem extends Error {
  constructor(status, document) {
    super(document?.detail ?? `the coordinator answered ${status}`);
    this.status = status;
    this.code = document?.code ?? "unknown";
    this.document = document ?? {};
  }
}

// The coordinator may be served below a prefix: paths count from where this file came from.
const base = new URL("../", import.meta.url);
export const address = (path) => new URL(`.${path}`, base);

const listeners = new Set();
export const onSignedOut = (listener) => listeners.add(listener);

export async function call(method, path, { body, headers } = {}) {
  const options = { method, headers: { Accept: "application/json", ...headers } };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  const answer = await fetch(address(path), options);
  const text = await answer.text();
  let document = null;
  try { document = text ? JSON.parse(text) : null; } catch { document = null; }
  if (answer.status === 401) for (const listener of listeners) listener();
  if (!answer.ok) throw new Problem(answer.status, document);
  return { document, headers: answer.headers };
}

// A header holds bytes: the browser sends each character of this text as one byte of UTF-8.
const noteHeader = (note) => note ? { "SR-Note": String.fromCharCode(...new TextEncoder().encode(note)) } : {};

// A write with its note; returns its version and what the node answered.
export async function write(method, path, { body, note, headers } = {}) {
  const answer = await call(method, path, { body, headers: { ...headers, ...noteHeader(note) } });
  return { version: answer.headers.get("SR-Version"), document: answer.document };
}

export const get = async (path) => (await call("GET", path)).document;
export const post = async (path, body) => (await call("POST", path, { body })).document;

// State of the page; views subscribe to changes.  `named` is the route set or alias of the address.
export const state = { view: null, events: [], session: null, history: new Map(), connected: false,
  named: "", sets: [], aliases: [], hasSets: false };

// Names of routes as the server checks them: of ASCII, letters, digits and ` _.:-` inside.
const NAME = /^[^\x00-/:-@[-`{-\x7f]([^\x00-\x1f!-,/;-@[-^`{-\x7f]*[^\x00- !-,/;-@[-^`{-\x7f])?$/;
const NAME_CHARACTERS_MAX = 128;
export const isName = (name) => NAME.test(name) && [...name].length <= NAME_CHARACTERS_MAX;
export const isSetName = (name) => !name.startsWith("@") && isName(name.replaceAll("@", "_"));

// A name as one part of a path.  The browser resolves `.` and `..` in addresses, encoded or not, so
// a path with such a name would reach another set, or another endpoint.
function part(name, isValid, what) {
  if (isValid(name)) return encodeURIComponent(name);
  throw new Problem(400, { code: "invalid_name", detail: `“${name}” cannot be the name of ${what}.` });
}

export const setPath = (name, rest = "") => `/v1/sets/${part(name, isSetName, "a route set")}${rest}`;
export const aliasPath = (name, rest = "") => `/v1/aliases/${part(name, isSetName, "an alias")}${rest}`;

// Path of a call about the content of the chosen set, or of another one; an alias stands for its set.
export const inSet = (path, name = contentSet()) => name && name !== DEFAULT ? setPath(name, path.slice(3)) : path;

export const routePath = (name) => inSet(`/v1/routes/${part(name, isName, "a route")}`);

export const DEFAULT = "default";
export const chosenAlias = () => state.aliases.find((each) => each.name === state.named) ?? null;
export const contentSet = () => chosenAlias()?.set ?? (state.named || DEFAULT);

async function loadPages(path, field) {
  const found = [];
  let after = "";
  for (let page = 0; page < 20; page += 1) {
    const { [field]: items, next_after: next } = await get(`${path}?limit=500&after=${encodeURIComponent(after)}`);
    found.push(...items);
    if (!next) break;
    after = next;
  }
  return found;
}

// Route sets and aliases; nodes of an earlier release have none.
export async function loadSets() {
  try {
    const [sets, aliases] = await Promise.all([loadPages("/v1/sets", "sets"), loadPages("/v1/aliases", "aliases")]);
    Object.assign(state, { sets, aliases, hasSets: true });
  } catch (problem) {
    if (problem.status !== 404) throw problem;
    Object.assign(state, { sets: [], aliases: [], hasSets: false });
  }
  notify("sets");
}
const subscribers = new Set();

export function watch(subscriber) {
  subscribers.add(subscriber);
  if (state.view) subscriber("view");
  return () => subscribers.delete(subscriber);
}

function notify(what) {
  for (const subscriber of [...subscribers]) subscriber(what);
}

const HISTORY = 150;
const EVENTS = 400;
const EVENTS_MS = 50;
const AWAY_MS = 3000;

function remember(view) {
  const now = Date.now();
  const known = new Set(view.nodes.map((node) => node.node));
  for (const node of state.history.keys()) if (!known.has(node)) state.history.delete(node);
  for (const node of view.nodes) {
    const kept = state.history.get(node.node) ?? [];
    const last = kept[kept.length - 1];
    if (!last || now - last.at >= 1900) {
      kept.push({ at: now, rate: node.queries_per_second ?? 0, lag: node.lag_entries });
      if (kept.length > HISTORY) kept.shift();
      state.history.set(node.node, kept);
    }
  }
}

// A view without an answer of Redis counts once that has lasted: a busy server misses one now and then,
// and every node would be shown as unknown for a moment.
let awayView = null, awayTimer = 0;
function take(view) {
  const isNew = view.log_state === "away" && state.view !== null && state.view.log_state !== "away";
  if (isNew) {
    awayView = view;
    awayTimer ||= setTimeout(() => show(awayView), AWAY_MS);
  } else show(view);
}

function show(view) {
  clearTimeout(awayTimer);
  awayTimer = 0;
  state.view = view;
  remember(view);
  notify("view");
}

// A stream begins with hundreds of events: views are drawn for all of them together.
let eventsTimer = 0;
function notifyEvents() {
  eventsTimer ||= setTimeout(() => { eventsTimer = 0; notify("event"); }, EVENTS_MS);
}

let stream = null;
export function follow() {
  stream?.close();
  stream = new EventSource(address("/v1/events"));
  stream.addEventListener("view", (message) => {
    state.connected = true;
    take(JSON.parse(message.data));
  });
  stream.addEventListener("event", (message) => {
    const event = JSON.parse(message.data);
    if (state.events.some((known) => known.number === event.number && known.at_ms === event.at_ms)) return;
    state.events.push(event);
    if (state.events.length > EVENTS) state.events.shift();
    notifyEvents();
  });
  stream.addEventListener("open", () => { state.connected = true; notify("connection"); });
  stream.addEventListener("error", () => {
    state.connected = false;
    notify("connection");
    if (stream.readyState === EventSource.CLOSED) setTimeout(resume, 2000);
  });
}

async function resume() {
  try {
    await get("/v1/cluster");
    follow();
  } catch (problem) {
    if (problem.status !== 401) setTimeout(resume, 3000);
  }
}

export function unfollow() {
  stream?.close();
  stream = null;
}
