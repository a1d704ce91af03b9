// panels/table.js: the tasks, newest on top. Only the rows around the visible ones are in the DOM; a row is changed in
// place, so scroll, selection and focus stay where they are. Draws the TaskList; reports what the reader does.
import { attr, clear, h, put } from "../dom.js";
import { blank } from "../dialogs.js";
import { isEmpty } from "../filter.js";
import { number, t, typeLabel } from "../i18n.js";
import { icon, reshape } from "../icons.js";
import { isCommand } from "../shortcuts.js";
import { isPlanned, setAgo, when } from "../time.js";

const OVER = 12; // rows drawn beyond either edge
const MOST = 160;
const AHEAD_PX = 1200; // the next page is asked for this far before the end
const SPARES = 80;
const FLASH = 3; // more newcomers than this in one frame do not flash: that would be noise

function makeRow({ onOpen, onTick, mayPick }) {
  const row = { id: "", task: null, named: "" };
  const box = h("input", { type: "checkbox", class: "check", onclick: (event) => onTick(row.id, box.checked, event.shiftKey) });
  const glyph = icon("pending");
  const said = h("span");
  const link = h("a", { class: "titre", dir: "auto", onclick: (event) => onOpen(event, row.id) });
  const parts = { type: h("span"), short: h("span", { class: "mono" }), note: h("span"), prio: h("span", { class: "chip" }), ok: h("i", { class: "ok" }), ko: h("i", { class: "ko" }), nums: h("span"), kos: h("span", { class: "ko" }), when: h("time", { class: "when", role: "cell" }) };
  const status = h("span", { class: "status", role: "cell" }, glyph, said);
  const node = h("div", { class: "row", role: "row" },
    h("span", { role: "cell", class: "tick" }, mayPick && h("label", { class: "tick" }, box)),
    status,
    h("div", { class: "what", role: "cell" }, link, h("div", { class: "sub" }, parts.type, parts.short, parts.note)),
    h("span", { class: "prio", role: "cell" }, parts.prio),
    h("div", { class: "prog", role: "cell" }, h("div", { class: "nums" }, parts.nums, parts.kos), h("div", { class: "bar", "aria-hidden": "true" }, parts.ok, parts.ko)),
    parts.when);
  return Object.assign(row, { node, box, glyph, said, link, status }, parts);
}

// A row, new or used, is now that of another task.
function become(row, id) {
  row.id = row.node.dataset.id = id;
  row.task = null;
  row.link.href = `/admin/queue/${id}`;
  row.short.title = id;
  put(row.short, id.slice(-8));
}

// The line below the title: why it failed, or when it is tried again.
function note(task) {
  const { total, sent, skipped } = task.progress;
  if (task.status === "failed") {
    const unreached = t("row.unreached", { n: task.result?.non_joints ?? total - skipped - sent, of: total - skipped });
    const kind = task.failure?.kind;
    return ["why", kind === "expired" || kind === "crashed" ? `${t(`row.${kind}`)} · ${unreached}` : unreached];
  }
  if (task.status === "pending" && task.next_attempt_at_iso) return ["next", t(isPlanned(task) ? "row.planned" : "row.again", { at: when(task.next_attempt_at_iso) })];
  return ["", ""];
}

function drawRow(row, task) {
  if (row.task === task) return;
  row.task = task;
  const { sent, failed, skipped, total } = task.progress;
  const base = Math.max(1, total - skipped);
  row.status.className = `status ${task.status}`;
  reshape(row.glyph, task.status);
  put(row.said, t(`status.${task.status}`));
  put(row.link, task.titre);
  if (row.named !== task.titre) attr(row.box, "aria-label", t("table.pick.one", { titre: task.titre }));
  row.named = task.titre;
  put(row.type, typeLabel(task.type));
  const [tone, text] = note(task);
  row.note.className = tone;
  put(row.note, text);
  row.prio.className = `chip ${task.priority}`;
  put(row.prio, t(`priority.${task.priority}`));
  row.ok.style.width = `${(100 * sent) / base}%`;
  const missed = task.status === "failed" ? base - sent : failed;
  row.ko.style.width = `${(100 * missed) / base}%`;
  put(row.nums, `${number(sent)} / ${number(total - skipped)}`);
  put(row.kos, failed && task.status !== "failed" ? t("row.missed", { n: failed }) : ""); // a failed one says it in words
  setAgo(row.when, task.created_at_iso);
}

export function mount(root, state, { signal, list, picks, mayPick, onOpen, onReset, sendLink }) {
  const rows = new Map();
  const spare = []; // rows that left the window, to be used again
  const all = h("input", { type: "checkbox", class: "check", "aria-label": t("table.all"), onclick: () => picks.toggleShown(all.checked) });
  const body = h("div", { class: "rows", role: "rowgroup" });
  const table = h("div", { class: "table", role: "table", "aria-label": t("table.label") },
    h("div", { class: "thead", role: "row" },
      h("span", { role: "columnheader", class: "tick" }, mayPick ? all : h("span", { class: "vh" }, t("table.pick"))),
      ["status", "task", "priority", "progress", "created"].map((name) => h("span", { role: "columnheader" }, t(`col.${name}`)))),
    body);
  const pill = h("button", { type: "button", onclick: toTop }, icon("up"), h("span"));
  const tail = h("div", { class: "tail" });
  const empty = h("div");
  root.append(h("div", { class: "pill", hidden: true }, pill), table, empty, tail);
  let height = 0;
  let lastPick = null;
  let fresh = new Set();
  const measure = () => (height = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row")) * parseFloat(getComputedStyle(document.documentElement).fontSize));
  measure();

  function onTick(id, on, shift) {
    const from = shift && lastPick ? list.order.indexOf(lastPick) : -1;
    const to = list.order.indexOf(id);
    const ids = from < 0 ? [id] : list.order.slice(Math.min(from, to), Math.max(from, to) + 1);
    lastPick = id;
    picks.set(ids, on);
  }

  // Where the list stands in the window, read once per frame.
  let top = 0;
  const look = () => (top = body.getBoundingClientRect().top);

  // The stretch of the list to be in the DOM, from where the reader stands.
  function stretch() {
    const first = Math.max(0, Math.floor(-top / height) - OVER);
    const count = Math.min(MOST, Math.ceil(innerHeight / height) + 2 * OVER);
    return [Math.min(first, Math.max(0, list.order.length - count)), count];
  }

  function draw() {
    const [first, count] = stretch();
    const ids = list.order.slice(first, first + count);
    const wanted = new Set(ids);
    const focused = document.activeElement?.closest?.(".row")?.dataset.id;
    for (const [id, row] of rows) {
      if (wanted.has(id)) continue;
      if (id === focused && list.get(id)) row.node.querySelector("a").blur();
      row.node.remove();
      rows.delete(id);
      if (spare.length < SPARES) spare.push(row);
    }
    let place = body.firstChild;
    const quiet = fresh.size > FLASH;
    ids.forEach((id, i) => {
      let row = rows.get(id);
      if (!row) {
        row = spare.pop() ?? makeRow({ onOpen, onTick, mayPick });
        become(row, id);
        rows.set(id, row);
        row.node.classList.toggle("fresh", fresh.has(id) && !quiet);
      }
      if (row.node === place) place = place.nextSibling;
      else body.insertBefore(row.node, place);
      drawRow(row, list.get(id));
      attr(row.node, "aria-rowindex", first + i + 2);
      const on = picks.has(id);
      if (row.box.checked !== on) row.box.checked = on;
      row.node.classList.toggle("picked", on);
      row.node.classList.toggle("open", picks.open === id);
    });
    fresh = new Set();
    body.style.paddingTop = `${first * height}px`;
    body.style.paddingBottom = `${Math.max(0, list.order.length - first - ids.length) * height}px`;
    attr(table, "aria-rowcount", list.more ? -1 : list.order.length + 1);
    const shown = list.order.length;
    all.checked = shown > 0 && picks.size >= shown;
    all.indeterminate = picks.size > 0 && !all.checked;
    pill.parentNode.hidden = list.heldCount === 0;
    put(pill.lastChild, t("table.new", { n: list.heldCount }) + (list.overflow ? "+" : ""));
    drawEnd();
    ahead();
  }

  let ended = "";
  function drawEnd() {
    const none = list.order.length === 0;
    const now = [list.phase, none, list.busy, list.more, list.error?.message, isEmpty(list.filter)].join();
    if (now === ended) return;
    ended = now;
    table.hidden = none && list.phase !== "ready";
    table.classList.toggle("vh", none);
    if (list.phase === "loading") clear(empty, h("div", { class: "bones", role: "status", "aria-label": t("table.loading") }, Array.from({ length: 8 }, () => h("div", { class: "row" }, Array.from({ length: 6 }, () => h("span"))))));
    else if (list.phase === "error") clear(empty, blank({ glyph: "alert", title: t("table.error"), text: list.error.message, action: h("button", { class: "btn", type: "button", onclick: () => list.load() }, icon("retry"), t("table.again")) }));
    else if (none && list.more) clear(empty, blank({ glyph: "search", title: t("table.far"), text: t("table.far.text"), action: h("button", { class: "btn", type: "button", onclick: () => list.loadMore() }, t("table.farther")) }));
    else if (none && isEmpty(list.filter)) clear(empty, blank({ glyph: "inbox", title: t("table.empty"), text: t("table.empty.text"), action: sendLink }));
    else if (none) clear(empty, blank({ glyph: "search", title: t("table.nomatch"), text: t("table.nomatch.text"), action: h("button", { class: "btn", type: "button", onclick: onReset }, t("filter.reset")) }));
    else clear(empty);
    tail.hidden = none;
    if (list.error && list.phase === "ready") clear(tail, h("div", null, list.error.message, " ", h("button", { class: "btn", type: "button", onclick: () => list.loadMore() }, t("table.again"))));
    else clear(tail, list.busy ? h("span", { class: "spin" }) : h("span", null, list.more ? "" : t("table.end", { n: list.order.length })));
  }

  const ahead = () => {
    const end = top + list.order.length * height;
    if (list.more && !list.busy && !list.error && list.order.length && end < innerHeight + AHEAD_PX) void list.loadMore();
  };

  function toTop() {
    list.release();
    root.scrollIntoView({ block: "start" });
    state.touch();
  }

  const onScroll = () => {
    const below = look() < -height;
    if (below) list.frozen = true;
    else if (list.frozen) void list.release();
    state.touch();
  };

  list.addEventListener("change", ({ detail }) => {
    if (detail) {
      for (const id of detail.fresh) fresh.add(id);
      if (list.frozen && detail.left.length) {
        const edge = Math.floor(-look() / height); // rows above it are out of sight
        scrollBy(0, -height * detail.left.filter((at) => at < edge).length);
      }
      list.trim();
    }
    state.touch();
  }, { signal });
  state.addEventListener("measure", look, { signal });
  state.addEventListener("change", draw, { signal });
  addEventListener("scroll", onScroll, { signal, passive: true });
  addEventListener("resize", () => (measure(), state.touch()), { signal });

  // j and k walk, x picks; the place is where the focus is.
  function step(by) {
    const at = list.order.indexOf(document.activeElement?.closest?.(".row")?.dataset.id);
    const next = at < 0 ? stretch()[0] : Math.min(list.order.length - 1, Math.max(0, at + by));
    const id = list.order[next];
    if (!id) return;
    const place = look() + next * height;
    const head = root.firstChild.getBoundingClientRect().bottom;
    if (place < head + height) scrollBy(0, place - head - 2 * height);
    else if (place > innerHeight - 2 * height) scrollBy(0, place - innerHeight + 3 * height);
    look();
    draw();
    rows.get(id)?.link.focus({ preventScroll: true });
  }
  document.addEventListener("keydown", (event) => {
    if (!isCommand(event)) return;
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "x" && mayPick) {
      const id = document.activeElement?.closest?.(".row")?.dataset.id;
      if (id) onTick(id, !picks.has(id), false);
    } else return;
    event.preventDefault();
  }, { signal });
  look();
  draw();
}
