// DOM elements without markup: text is always text, so no route can inject a script.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...present(children));
  return element;
}

// Children without those that a condition left out: the DOM would write them as the text `null` or `false`.
const present = (children) => children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false)
  .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));

export const refill = (element, ...children) => element.replaceChildren(...present(children));

export const h = (tag, properties, ...children) =>
  fill(document.createElement(tag), properties, children);

export const s = (tag, properties, ...children) =>
  fill(document.createElementNS(SVG, tag), properties, children);

// Wide content scrolls in its own container, which the keyboard can reach.
export const scroll = (label, ...children) =>
  h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, ...children);

export const byId = (id) => document.getElementById(id);

export function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = String(text);
}

let hiding = 0;
export function toast(text) {
  const element = byId("toast");
  element.textContent = text;
  element.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => element.classList.remove("shown"), 4500);
}

// Time of day, with the date unless it is today.
export function clock(milliseconds) {
  const at = new Date(milliseconds), time = at.toLocaleTimeString([], { hour12: false });
  return at.toDateString() === new Date().toDateString() ? time : `${at.toLocaleDateString("en", { month: "short", day: "numeric" })}, ${time}`;
}

export function whole(number) {
  return Number(number).toLocaleString("en");
}

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let power = 0;
  while (count >= 1000 && power < units.length - 1) { count /= 1000; power += 1; }
  return `${count >= 100 || power === 0 ? Math.round(count) : count.toFixed(1)} ${units[power]}`;
}

export function rate(number) {
  if (number === null || number === undefined) return "–";
  return number >= 100 ? whole(Math.round(number)) : number >= 10 ? number.toFixed(0) : number.toFixed(1);
}

export function millis(number) {
  if (number === null || number === undefined) return "–";
  return number >= 100 ? `${Math.round(number)} ms` : `${number.toFixed(1)} ms`;
}

// A field whose text is kept in this browser only if somebody switches that on; returns its switch.
export function keeper(area, key) {
  const box = h("input", { type: "checkbox", id: `${area.id}-kept`, checked: localStorage.getItem(`${key}.on`) === "1" });
  const keep = () => {
    if (box.checked) { localStorage.setItem(`${key}.on`, "1"); localStorage.setItem(key, area.value); }
    else { localStorage.removeItem(`${key}.on`); localStorage.removeItem(key); }
  };
  if (box.checked) area.value = localStorage.getItem(key) ?? "";
  keep();
  box.addEventListener("change", keep);
  area.addEventListener("input", keep);
  return h("label", { class: "muted small keeper", for: box.id }, box, " Keep these texts in this browser");
}
