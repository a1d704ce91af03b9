// panels/people.js: the recipients of one task: who was reached, who was not, and why. Filter, search, more, CSV.
// Reads /api/queue/tasks/{id}/deliveries; changes nothing.
import { get, query } from "../api.js";
import { download, toCsv } from "../csv.js";
import { bdi, clear, h, redraw } from "../dom.js";
import { fail } from "../dialogs.js";
import { lang, t } from "../i18n.js";
import { icon } from "../icons.js";
import { exact, setAgo } from "../time.js";

const PAGE = 100;
const EXPORT_PAGE = 500;

const MARKS = { sent: "completed", refused: "failed", gave_up: "failed", expired: "failed", cancelled: "cancelled", skipped: "cancelled", waiting: "pending" };

function row({ id, nom, channel, address, status, attempts, error, detail, sent_at_iso }) {
  const when = h("time", { class: "nowrap muted" });
  if (sent_at_iso) setAgo(when, sent_at_iso);
  return h("tr", null,
    h("td", null, h("div", null, bdi(nom)), h("div", { class: "muted small mono" }, bdi(id))),
    h("td", null, h("div", null, channel), address && h("div", { class: "muted small" }, bdi(address))),
    h("td", null, h("span", { class: `status ${status}` }, icon(MARKS[status] ?? "pending"), t(`delivery.${status}`)), error && h("div", { class: "why" }, bdi(error)), detail && h("div", { class: "hint" }, bdi(detail))),
    h("td", { class: "num nowrap" }, attempts ? t("people.attempts", { n: attempts }) : ""),
    h("td", { class: "num" }, sent_at_iso ? when : null));
}

export function mountPeople(root, id, { signal, failed }) {
  const path = `/api/queue/tasks/${encodeURIComponent(id)}/deliveries`;
  let status = failed ? ["refused", "gave_up", "expired"] : [];
  let word = "";
  let shown = [];
  let cursor = null;
  let job = 0;
  let timer = 0;

  const body = h("tbody");
  const foot = h("div", { class: "tail" });
  const choices = { all: [], missed: ["refused", "gave_up", "expired"], sent: ["sent"], waiting: ["waiting"], other: ["skipped", "cancelled"] };
  const tabs = h("div", { class: "seg", role: "group", "aria-label": t("people.filter") }, Object.entries(choices).map(([name, of]) =>
    h("button", { type: "button", "data-name": name, onclick: () => { status = of; void load(); } }, t(`people.${name}`))));
  const search = h("input", { class: "input", type: "search", placeholder: t("people.search"), "aria-label": t("people.search"), autocomplete: "off", oninput: () => {
    clearTimeout(timer);
    timer = setTimeout(() => { word = search.value.trim(); void load(); }, 250);
  } });
  const exporter = h("button", { class: "btn", type: "button", onclick: exportCsv }, icon("download"), "CSV");
  root.append(
    h("div", { class: "people-tools" }, tabs, h("div", { class: "search" }, icon("search"), search), exporter),
    h("div", { class: "scroll-x" }, h("table", { class: "list stack" }, h("thead", null, h("tr", null, ["who", "channel", "outcome", "tries", "when"].map((name, i) => h("th", { scope: "col", class: i > 2 ? "num" : null }, t(`people.col.${name}`))))), body)),
    foot);

  const page = (limit) => get(path + query({ status, q: word, limit, cursor }), { signal });

  async function load({ quiet = false } = {}) {
    const mine = ++job;
    const want = quiet ? Math.max(PAGE, shown.length) : PAGE;
    for (const tab of tabs.children) tab.setAttribute("aria-pressed", choices[tab.dataset.name].join() === status.join());
    if (!quiet) clear(foot, h("span", { class: "spin" }));
    const before = cursor;
    cursor = null;
    const found = [];
    try {
      do {
        const got = await page(PAGE);
        if (mine !== job) return;
        found.push(...got.deliveries);
        cursor = got.next_cursor;
      } while (cursor && found.length < want);
      shown = found;
      draw();
    } catch (error) {
      if (mine !== job || error.name === "AbortError") return;
      cursor = before;
      clear(foot, h("span", null, error.message, " "), h("button", { class: "btn", type: "button", onclick: () => load() }, t("table.again")));
    }
  }

  async function more() {
    const mine = job;
    try {
      const got = await page(PAGE);
      if (mine !== job) return;
      cursor = got.next_cursor;
      shown.push(...got.deliveries);
      body.append(...got.deliveries.map(row));
      drawFoot();
    } catch (error) {
      fail(error);
    }
  }

  function draw() {
    clear(body, shown.map(row));
    drawFoot();
  }

  function drawFoot() {
    if (cursor) redraw(foot, h("button", { class: "btn", type: "button", onclick: more }, t("people.more")));
    else clear(foot, h("span", null, shown.length ? t("people.count", { n: shown.length }) : t("people.none")));
  }

  // All outcomes under the chosen filter, page by page.
  async function exportCsv() {
    exporter.setAttribute("aria-busy", "true");
    try {
      const rows = [["id", "nom", "canal", "adresse", "statut", "tentatives", "erreur", "envoyé"].map((name) => t(`csv.${name}`))];
      let next = null;
      do {
        const got = await get(path + query({ status, q: word, limit: EXPORT_PAGE, cursor: next }), { signal });
        for (const one of got.deliveries) rows.push([one.id, one.nom, one.channel, one.address, t(`delivery.${one.status}`), one.attempts, one.error, one.sent_at_iso ? exact(one.sent_at_iso) : ""]);
        next = got.next_cursor;
      } while (next);
      download(`tocsin-${id}.csv`, toCsv(rows, lang === "fr" ? ";" : ","));
    } catch (error) {
      if (error.name !== "AbortError") fail(error);
    }
    exporter.removeAttribute("aria-busy");
  }

  void load();
  return { refresh: () => load({ quiet: true }), show: (name) => { status = choices[name]; return load(); } };
}

