// panels/filters.js: status, type, priority, text and time; what is chosen stands in the address bar.
// Draws the filter of `filters` ({ get, set }); changes it, nothing else.
import { boot } from "../boot.js";
import { attr, h, put } from "../dom.js";
import { emptyFilter, isEmpty } from "../filter.js";
import { number, t } from "../i18n.js";
import { icon } from "../icons.js";

const TYPING_MS = 250;
const SPANS = { "15m": 900, "1h": 3600, "24h": 86400 };

// Menus close at a click elsewhere, when the focus goes elsewhere, and at Escape, which hands the focus back.
function closing(menu, signal) {
  document.addEventListener("pointerdown", (event) => menu.contains(event.target) || (menu.open = false), { signal });
  menu.addEventListener("focusout", ({ relatedTarget: to }) => to && !menu.contains(to) && (menu.open = false));
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    event.stopPropagation();
    menu.open = false;
    menu.firstChild.focus();
  });
  return menu;
}

function picker(name, options, filters, signal) {
  const count = h("span", { class: "n", hidden: true });
  const boxes = options.map(({ id, label, glyph, tone }) => {
    const box = h("input", { type: "checkbox", class: "check", value: id, onchange: choose });
    const num = h("span", { class: "num" });
    return { id, box, num, node: h("label", { class: "opt" }, box, h("span", { class: `status ${tone ?? ""}` }, glyph && icon(glyph), label), num) };
  });
  function choose() {
    filters.set({ ...filters.get(), [name]: boxes.filter(({ box }) => box.checked).map(({ id }) => id) });
  }
  const node = closing(
    h("details", { class: "pick" }, h("summary", { class: "btn" }, h("span", null, t(`filter.${name}`)), count, icon("down")),
      h("div", { class: "menu", role: "group", "aria-label": t(`filter.${name}`) }, boxes.map((box) => box.node))),
    signal,
  );
  const draw = (filter, counts) => {
    for (const { id, box, num } of boxes) {
      box.checked = filter[name].includes(id);
      if (counts) put(num, number(counts[id] ?? 0));
    }
    count.hidden = filter[name].length === 0;
    put(count, String(filter[name].length));
  };
  return { node, draw };
}

// RFC 3339 for the server, local time for the field.
const toLocal = (iso) => {
  if (!iso) return "";
  const date = new Date(iso);
  return new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
};
const fromLocal = (text) => (text ? new Date(text).toISOString() : "");

function timePicker(filters, signal) {
  const mark = h("span", { class: "n", hidden: true }, "1");
  const since = h("input", { class: "input", type: "datetime-local", id: "since", onchange: (event) => filters.set({ ...filters.get(), since: fromLocal(event.target.value) }) });
  const until = h("input", { class: "input", type: "datetime-local", id: "until", onchange: (event) => filters.set({ ...filters.get(), until: fromLocal(event.target.value) }) });
  const quick = Object.entries(SPANS).map(([name, seconds]) =>
    h("button", { type: "button", onclick: () => filters.set({ ...filters.get(), since: new Date(Date.now() - seconds * 1000).toISOString(), until: "" }) }, t(`filter.last.${name}`)));
  const node = closing(
    h("details", { class: "pick time" }, h("summary", { class: "btn", "aria-label": t("filter.time") }, icon("clock"), h("span", null, t("filter.time")), mark),
      h("div", { class: "menu end", role: "group", "aria-label": t("filter.time") },
        h("div", { class: "pad" }, h("div", { class: "seg" }, quick),
          h("div", { class: "field" }, h("label", { for: "since" }, t("filter.since")), since),
          h("div", { class: "field" }, h("label", { for: "until" }, t("filter.until")), until),
          h("button", { class: "btn", type: "button", onclick: () => filters.set({ ...filters.get(), since: "", until: "" }) }, t("filter.anytime"))))),
    signal,
  );
  const draw = (filter) => {
    since.value = toLocal(filter.since);
    until.value = toLocal(filter.until);
    mark.hidden = !filter.since && !filter.until;
  };
  return { node, draw };
}

export function mount(root, state, { signal, filters, onHelp }) {
  let timer = 0;
  const search = h("input", {
    class: "input",
    type: "search",
    id: "q",
    placeholder: t("filter.q"),
    "aria-label": t("filter.q"),
    autocomplete: "off",
    spellcheck: "false",
    maxlength: 200,
    oninput: () => {
      clearTimeout(timer);
      timer = setTimeout(() => filters.set({ ...filters.get(), q: search.value.trim() }), TYPING_MS);
    },
    onkeydown: (event) => event.key === "Escape" && search.blur(),
  });
  const pickers = [
    picker("status", boot.statuses.map((id) => ({ id, label: t(`status.${id}`), glyph: id, tone: id })), filters, signal),
    picker("type", boot.types, filters, signal),
    picker("priority", boot.priorities.map((id) => ({ id, label: t(`priority.${id}`) })), filters, signal),
  ];
  const time = timePicker(filters, signal);
  const reset = h("button", { class: "btn quiet", type: "button", hidden: true, onclick: () => filters.set(emptyFilter()) }, t("filter.reset"));
  root.append(
    h("div", { class: "search" }, icon("search"), search),
    ...pickers.map((one) => one.node), time.node, reset,
    h("button", { class: "btn quiet square help", type: "button", title: t("keys.title"), "aria-label": t("keys.title"), onclick: onHelp }, icon("help")),
  );

  const draw = () => {
    const filter = filters.get();
    const { stats } = state;
    const sums = (table) => table && Object.fromEntries(Object.entries(table).map(([id, by]) => [id, Object.values(by).reduce((a, b) => a + b, 0)]));
    const counts = [stats?.tasks_by_status, sums(stats?.tasks_by_type), sums(stats?.tasks_by_priority)];
    pickers.forEach((one, i) => one.draw(filter, counts[i]));
    time.draw(filter);
    if (document.activeElement !== search) search.value = filter.q;
    reset.hidden = isEmpty(filter);
    attr(root, "data-active", !isEmpty(filter));
  };
  state.addEventListener("change", draw, { signal });
  draw();
  // Another filter than the one typed has been taken (back, forward): the field says so even while one is in it.
  const follow = () => {
    clearTimeout(timer);
    search.value = filters.get().q;
  };
  return { draw, follow, focus: () => search.select() };
}
