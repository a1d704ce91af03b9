// panels/audit.js: who did what, when, from where; newest first, page by page. Changes nothing.
import { get, query } from "../api.js";
import { bdi, clear, h } from "../dom.js";
import { blank, fail } from "../dialogs.js";
import { decimal, has, t, typeLabel } from "../i18n.js";
import { timeAgo } from "../time.js";

const PAGE = 50;
const ID = /^[0-9a-f]{8}-[0-9a-f-]{27}$/i;

function target(entry) {
  if (!entry.target || entry.action.startsWith("sign-")) return "";
  const short = ID.test(entry.target) ? entry.target.slice(-8) : entry.target;
  const task = ["send", "cancel", "retry"].includes(entry.action) && ID.test(entry.target);
  return task ? h("a", { href: `/admin/queue/${encodeURIComponent(entry.target)}`, class: "mono", title: entry.target }, short) : h("bdi", { class: "mono", title: entry.target }, short);
}

const words = (value, say) => [value].flat().map(say).join(", ");
const SAID = {
  type: (value) => words(value, typeLabel),
  status: (value) => words(value, (one) => t(`status.${one}`)),
  role: (value) => t(`role.${value}`),
  name: String,
  by: (value) => (value === "one-time link" ? t("audit.by.link") : String(value)),
  q: (value) => t("audit.said.q", { q: value }),
  hours: (value) => t("audit.said.hours", { hours: decimal(value) }),
  recipients: (n) => t("audit.said.recipients", { n }),
  many: (n) => t("audit.said.many", { n }),
  done: (n) => t("audit.said.done", { n }),
  removed: (n) => t("audit.said.removed", { n }),
};

// What was noted beside the act, in words; what this page does not know, as it stands.
function detail(entry) {
  const pairs = Object.entries(entry.detail ?? {}).filter(([, value]) => value !== null && value !== "");
  const raw = (name, value) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`;
  return pairs.map(([name, value]) => (SAID[name] ? SAID[name](value) : raw(name, value))).join(" · ");
}

function row(entry) {
  const name = `audit.${entry.action}`;
  return h("tr", null,
    h("td", { class: "nowrap" }, timeAgo(entry.at_iso)),
    h("td", null, h("b", null, bdi(entry.by))),
    h("td", null, has(name) ? t(name) : bdi(entry.action), " ", target(entry), detail(entry) && h("div", { class: "why" }, bdi(detail(entry)))),
    h("td", { class: "mono" }, bdi(entry.address ?? "")));
}

export function mount(root) {
  const body = h("tbody");
  const foot = h("div", { class: "tail" });
  const table = h("div", { class: "scroll-x" }, h("table", { class: "list stack" }, h("thead", null, h("tr", null, ["when", "who", "what", "where"].map((name) => h("th", { scope: "col" }, t(`audit.col.${name}`))))), body));
  root.append(h("div", { class: "card-head" }, h("h2", null, t("audit.title"))), table, foot);
  let cursor = null;
  async function load() {
    const walked = foot.contains(document.activeElement);
    clear(foot, h("span", { class: "spin" }));
    try {
      const page = await get(`/admin/api/audit${query({ limit: PAGE, cursor })}`);
      const { entries } = page;
      cursor = page.next_cursor;
      body.append(...entries.map(row));
      table.hidden = body.children.length === 0;
      clear(foot, cursor ? h("button", { class: "btn", type: "button", onclick: load }, t("audit.more")) : body.children.length ? null : blank({ glyph: "clock", title: t("audit.none"), text: t("audit.none.text") }));
      if (walked) foot.querySelector("button")?.focus({ preventScroll: true });
    } catch (error) {
      clear(foot, h("button", { class: "btn", type: "button", onclick: load }, t("table.again")));
      fail(error);
    }
  }
  return load();
}
