// dialogs.js: questions and short notices. A question is a <dialog>; Escape and the backdrop mean no. Notices stand in
// the topmost dialog while one is open: what is outside of it is neither seen nor read out.
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { t } from "./i18n.js";

let count = 0;

// Ask; resolves to the form's answer: true or what `read()` gives, null for no. `body` is text or nodes.
export function ask({ title, body = [], confirm, danger = false, read = () => true, cancel = t("dialog.cancel") }) {
  return new Promise((resolve) => {
    const id = `ask-${++count}`;
    const problem = h("p", { class: "error-text", role: "alert", hidden: true });
    const ok = confirm && h("button", { class: `btn primary ${danger ? "danger" : ""}`, type: "submit" }, confirm);
    const no = h("button", { class: "btn", type: "button", onclick: () => dialog.close() }, confirm ? cancel : t("dialog.close"));
    let answer = null;
    const form = h(
      "form",
      {
        class: "ask-body",
        method: "dialog",
        onsubmit: async (event) => {
          event.preventDefault();
          if (!ok) return dialog.close();
          ok.disabled = true;
          try {
            answer = await read();
            dialog.close();
          } catch (error) {
            problem.textContent = error.message;
            problem.hidden = false;
          }
          ok.disabled = false;
        },
      },
      h("h2", { id }, title),
      [body].flat().filter(Boolean).map((part) => (typeof part === "string" ? h("p", null, part) : part)),
      problem,
      h("div", { class: "ends" }, no, ok),
    );
    const dialog = h("dialog", { class: "ask", "aria-labelledby": id, onclick: (event) => event.target === dialog && dialog.close() }, form);
    dialog.addEventListener("close", () => {
      shelve();
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
    (form.querySelector("[autofocus]") ?? form.querySelector("input, select, textarea") ?? (danger ? no : (ok ?? no))).focus();
  });
}

// The shelf of notices, brought to where it can be seen: to be called whenever a dialog has closed.
export function shelve() {
  const shelf = document.getElementById("toasts");
  const host = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  if (shelf.parentNode !== host) host.append(shelf);
  return shelf;
}

// A short notice in the corner; bad news stays until it is put away, and interrupts who is being read to.
export function toast(text, { bad = false } = {}) {
  const shelf = shelve();
  const node = h(
    "div",
    { class: `toast ${bad ? "bad" : ""}`, role: bad && "alert" },
    h("p", null, text),
    h("button", { type: "button", "aria-label": t("dialog.close"), onclick: () => node.remove() }, icon("close")),
  );
  while (shelf.children.length > 3) shelf.firstChild.remove();
  shelf.append(node);
  if (!bad) setTimeout(() => node.remove(), 6000);
}

export const fail = (error) => toast([error.title, error.detail].filter(Boolean).join(" — "), { bad: true });

// What stands where there is nothing to show: why, and what to do about it.
export function blank({ glyph, title, text, action }) {
  return h("div", { class: "blank" }, icon(glyph), h("h2", null, title), text && h("p", null, text), action);
}

export async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
    toast(said);
  } catch {
    toast(t("copy.failed"), { bad: true }); // not allowed, or no TLS
  }
}

