// The address of a view: `#/view/rest?name=value`.  It holds all that is chosen, so it can be shared.

import { state } from "./api.js";

export function readPlace() {
  const [path, query] = location.hash.replace(/^#\//, "").split("?");
  const [view, ...rest] = path.split("/");
  return { view, rest: decodeURIComponent(rest.join("/")), params: new URLSearchParams(query ?? "") };
}

// Address of a view of the chosen set, unless `set` names another; empty parameters are left out.
export function link(view, rest = "", params = {}) {
  const query = new URLSearchParams(Object.entries({ set: state.named, ...params }).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  return `#/${view}${rest ? `/${encodeURIComponent(rest)}` : ""}${query.size ? `?${query}` : ""}`;
}

export function go(view, rest, params) {
  location.hash = link(view, rest, params);
}
