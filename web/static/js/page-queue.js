// page-queue.js: the live queue: puts the panels together. No panel asks again by itself: all follows the stream.
import { get, query } from "./api.js";
import { boot } from "./boot.js";
import { attr, h, put } from "./dom.js";
import { ask, fail } from "./dialogs.js";
import { emptyFilter, filterUrl, readFilter, same } from "./filter.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { TaskList } from "./list.js";
import { mountAlarm } from "./alarm.js";
import { Picks } from "./picks.js";
import { mountShell } from "./shell.js";
import { areOn, isCommand, turn } from "./shortcuts.js";
import { State } from "./store.js";
import * as actions from "./panels/actions.js";
import * as alerts from "./panels/alerts.js";
import * as bulk from "./panels/bulk.js";
import * as channels from "./panels/channels.js";
import * as charts from "./panels/charts.js";
import * as connection from "./panels/connection.js";
import * as counters from "./panels/counters.js";
import * as filtersPanel from "./panels/filters.js";
import * as table from "./panels/table.js";
import * as workers from "./panels/workers.js";
import { mountDrawer } from "./drawer.js";

const { signal } = new AbortController();
const state = new State();

// The filter: in the address bar, and from there everywhere.
class Filters extends EventTarget {
  #now = readFilter();
  get = () => this.#now;
  set(filter, { write = true } = {}) {
    if (same(filter, this.#now)) return;
    const typedOn = this.#now.q && filter.q && same({ ...filter, q: "" }, { ...this.#now, q: "" }); // one search, one step back
    this.#now = filter;
    if (write) history[typedOn ? "replaceState" : "pushState"](null, "", filterUrl(filter));
    this.dispatchEvent(new Event("change"));
  }
}
const filters = new Filters();
const list = new TaskList((filter, page) => get(`/api/queue/tasks${query({ ...filter, ...page })}`), filters.get());
const picks = new Picks(list);

const app = document.getElementById("app");
const section = (props) => h("section", props);
const parts = {
  alerts: section({ class: "alerts" }),
  counters: section({ id: "counters" }),
  facts: h("dl", { class: "facts" }),
  actions: h("div", { class: "actions" }),
  charts: section({ class: "charts", "aria-label": t("charts.label") }),
  tasks: section({ class: "card tasks", "aria-label": t("table.label") }),
  workers: section({ class: "card", id: "workers" }),
  channels: section({ class: "card", id: "channels" }),
};
const filterBar = h("div", { class: "filters", role: "search" });
const found = h("p", { class: "vh", role: "status" }); // what a new filter has found, for those who hear the page
parts.tasks.append(filterBar);
const pulse = h("div", { class: "pulse shut" });
const more = h("button", { class: "btn pulse-toggle", type: "button", "aria-expanded": "false", onclick: () => {
  const shut = pulse.classList.toggle("shut");
  attr(more, "aria-expanded", !shut);
} }, t("pulse.toggle"), icon("down"));
pulse.append(more, parts.charts);
app.append(h("h1", { class: "vh" }, t("title.queue")), found, parts.alerts, parts.counters, h("div", { class: "overview" }, parts.facts, parts.actions), pulse,
  h("div", { class: "deck" }, parts.tasks, h("aside", { class: "aside", "aria-label": t("aside.label") }, parts.workers, parts.channels)));

mountShell();
const drawer = mountDrawer(state, picks, { signal });
const onOpen = (event, id) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button > 0) return; // a new tab stays a new tab
  event.preventDefault();
  drawer.open(id);
};
const help = () => ask({
  title: t("keys.title"),
  body: [h("dl", { class: "keys-help" }, [["j k", "keys.walk"], [t("keys.enter"), "keys.open"], ["x", "keys.pick"], ["/", "keys.search"], ["?", "keys.help"], [t("keys.escape"), "keys.close"]].map(([names, key]) => [
    h("dt", null, names.split(" ").map((name) => [h("kbd", null, name), " "])), h("dd", null, t(key))])),
  h("label", { class: "opt" }, h("input", { type: "checkbox", class: "check", checked: areOn(), onchange: (event) => turn(event.target.checked) }), t("keys.on"))],
});
const pickStatus = (status) => {
  const { status: before } = filters.get();
  filters.set({ ...filters.get(), status: before.includes(status) ? before.filter((one) => one !== status) : [...before, status] });
};

connection.mount(document.getElementById("link"), state, { signal });
alerts.mount(parts.alerts, state, { signal });
const counterPanel = counters.mount(parts.counters, parts.facts, state, { signal, filter: filters.get, onPick: pickStatus });
actions.mount(parts.actions, state, { signal });
charts.mount(parts.charts, state, { signal });
workers.mount(parts.workers, state, { signal, onOpen });
channels.mount(parts.channels, state, { signal });
const filterPanel = filtersPanel.mount(filterBar, state, { signal, filters, onHelp: help });
table.mount(parts.tasks, state, {
  signal, list, picks, onOpen, mayPick: boot.may.admin,
  onReset: () => filters.set(emptyFilter()),
  sendLink: boot.may.send ? h("a", { class: "btn primary", href: "/admin/send" }, t("table.compose")) : null,
});
if (boot.may.admin) bulk.mount(document.body, state, { signal, picks, filters });
mountAlarm(state, document.getElementById("tools"), { signal });

filters.addEventListener("change", () => {
  list.filter = filters.get();
  list.frozen = false;
  filterPanel.draw();
  counterPanel.draw();
  void list.load().then(() => {
    const n = list.order.length;
    put(found, list.phase !== "ready" ? "" : n ? t("table.found", { n }) : t("table.nomatch"));
  });
});
addEventListener("popstate", () => {
  filters.set(readFilter(), { write: false });
  filterPanel.follow();
  drawer.follow();
});
document.addEventListener("keydown", (event) => {
  if (!isCommand(event)) return;
  if (event.key === "/") filterPanel.focus();
  else if (event.key === "?") void help();
  else return;
  event.preventDefault();
});

// Subscribe first, then take the snapshot: what the list's answer does not cover, the stream has brought meanwhile.
async function snapshot(keep) {
  void list.load({ keep });
  try {
    const { stats } = await get("/api/queue/stats");
    state.setStats(stats);
    if (stats.in_hand?.length) {
      await state.learnRunning(() => get(`/api/queue/tasks${query({ status: "processing", limit: 100 })}`));
    }
  } catch (error) {
    if (!keep) fail(error);
  }
}
state.addEventListener("events", ({ detail }) => list.apply(detail));
state.addEventListener("reread", () => void snapshot(true));
let begun = false;
const begin = () => {
  if (begun) return;
  begun = true;
  void snapshot(false);
};
state.addEventListener("hello", ({ detail }) => {
  if (detail.afresh) list.restart();
  if (list.error) void (list.phase === "error" ? list.load() : list.loadMore()); // the server is back
  if (begun && detail.afresh === false) state.reread(); // it was shown before the first socket was there
  begin();
});
setTimeout(begin, 1500); // no socket yet: what can be shown is shown
state.follow({ mode: "latest", interval_ms: 100, stats: 1 }, signal);
drawer.follow();
