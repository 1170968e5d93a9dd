// The address of a view: `#/view/rest?name=value`.  It holds all that is chosen, so it can be shared.

import { state } from "./api.js";

export function readPlace() {
  const address = location.hash.replace(/^#\/?/, "");
  const at = address.indexOf("?");
  const [view, ...rest] = (at < 0 ? address : address.slice(0, at)).split("/");
  return { view, rest: decoded(rest.join("/")), params: new URLSearchParams(at < 0 ? "" : address.slice(at + 1)) };
}

// A link that somebody cut or typed may hold a `%` that encodes nothing.
function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

// Address of a view of the chosen set, unless `set` names another; empty parameters are left out.
export function link(view, rest = "", params = {}) {
  const query = new URLSearchParams(Object.entries({ set: state.named, ...params }).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  return `#/${view}${rest ? `/${encodeURIComponent(rest)}` : ""}${query.size ? `?${query}` : ""}`;
}

export function go(view, rest, params) {
  location.hash = link(view, rest, params);
}
