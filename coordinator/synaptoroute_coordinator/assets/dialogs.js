// Questions before a change: a note for the history, or the typed name of what goes for good.

import { h } from "./dom.js";

// Ask in a dialog; resolves to what `read` returns, or to null.
function ask(title, parts, action, read, kind = "primary") {
  return new Promise((resolve) => {
    const wrong = h("p", { class: "wrong", role: "alert" });
    const submit = h("button", { type: "submit", class: kind }, action);
    const dialog = h("dialog", { "aria-labelledby": "question" }, h("form", { method: "dialog" },
      h("h2", { id: "question" }, title), ...parts.filter(Boolean), wrong,
      h("div", { class: "row" }, submit, h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"))));
    let found = null;
    dialog.addEventListener("submit", (event) => {
      const [value, problem] = read();
      if (problem) { event.preventDefault(); wrong.textContent = problem; return; }
      found = value;
    });
    dialog.addEventListener("close", () => { dialog.remove(); resolve(found); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

// Before something is destroyed: its name must be typed.  Resolves to whether it was.
export async function confirmTyped(title, consequence, name, action) {
  return await askTyped(title, consequence, name, action, null) !== null;
}

// The same with a note for the history; resolves to the note, or to null.
export const noteTyped = (title, consequence, name, action, note) =>
  askTyped(title, consequence, name, action, h("input", { id: "asked-note", value: note, maxlength: 512, autocomplete: "off" }));

function askTyped(title, consequence, name, action, note) {
  const typed = h("input", { id: "typed-name", autocomplete: "off", spellcheck: "false", "aria-describedby": "consequence" });
  return ask(title, [h("p", { id: "consequence" }, consequence),
    note && h("label", { for: note.id }, "Note"), note,
    h("label", { for: "typed-name" }, "Type ", h("code", {}, name), " to confirm"), typed], action,
  () => typed.value.trim() === name ? [note?.value.trim() ?? "", ""] : [null, "The name is not the same."], "danger");
}

// Ask for one short text; null if the dialog was cancelled.
export function askText(title, explanation, { label, value = "", action, check = () => "", optional = false }) {
  const text = h("input", { id: "asked-text", value, maxlength: 512, autocomplete: "off", required: !optional });
  return ask(title, [explanation && h("p", {}, explanation), h("label", { for: "asked-text" }, label), text], action,
    () => [text.value.trim(), check(text.value.trim())]);
}
