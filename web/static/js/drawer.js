// drawer.js: one task beside the table. Which one stands in the address bar (`?task=…`), so that back closes it and a
// reload opens it again.
import { shelve } from "./dialogs.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { mountTask } from "./panels/task.js";

const wanted = () => new URLSearchParams(location.search).get("task");

function address(id) {
  const params = new URLSearchParams(location.search);
  params.delete("task");
  if (id) params.set("task", id);
  const text = params.toString();
  return location.pathname + (text ? `?${text}` : "");
}

export function mountDrawer(state, picks, { signal }) {
  const body = h("div", { class: "task" });
  const page = h("a", { class: "btn quiet" }, icon("out"), t("drawer.page"));
  const dialog = h("dialog", { class: "drawer", "aria-label": t("drawer.label"), onclick: (event) => event.target === dialog && close() },
    h("div", { class: "drawer-bar" }, h("button", { class: "btn quiet", type: "button", onclick: close }, icon("close"), t("dialog.close")), h("span", { class: "grow" }), page),
    body);
  document.body.append(dialog);
  let life = null;
  let shown = null;

  function show(id) {
    life?.abort();
    life = new AbortController();
    shown = picks.open = id;
    page.href = `/admin/queue/${encodeURIComponent(id)}`;
    body.replaceChildren();
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    void mountTask(body, id, { signal: life.signal, state, onGone: close, heading: "h2" });
    state.touch();
  }

  function hide() {
    life?.abort();
    life = shown = picks.open = null;
    body.replaceChildren();
    if (dialog.open) dialog.close();
    shelve();
    state.touch();
  }

  function open(id) {
    history.pushState({ drawer: true }, "", address(id));
    show(id);
  }

  function close() {
    if (wanted() && history.state?.drawer) history.back(); // as if it had not been opened: back does not open it again
    else if (wanted()) history.replaceState(null, "", address(null));
    hide();
  }

  dialog.addEventListener("close", () => shown && close(), { signal });
  // What the address bar says is what is shown.
  const follow = () => {
    const id = wanted();
    if (id && id !== shown) show(id);
    else if (!id && shown) hide();
  };
  return { open, close, follow };
}
