// panels/task.js: one task: how far it is, what was sent, what happened, who was not reached and why; retry and cancel.
// Reads the task once, then follows its events; used as a page of its own and as a drawer beside the table.
import { get, post } from "../api.js";
import { boot } from "../boot.js";
import { ask, blank, copy, fail, toast } from "../dialogs.js";
import { attr, bdi, clear, h, put, redraw } from "../dom.js";
import { number, t, typeLabel } from "../i18n.js";
import { icon } from "../icons.js";
import { everySecond, exact, isPlanned, now, span, timeAgo } from "../time.js";
import { mountPeople } from "./people.js";
import { drawTimeline } from "./timeline.js";
import { remaining } from "./workers.js";

const RANK = { pending: 0, processing: 1, cancelled: 2, failed: 2, completed: 2 };

// Is `a` certainly older than `b`, two states of one task? (Where unsure: no; the next event mends it.)
function isOlder(a, b) {
  if (a.run !== b.run) return a.run < b.run;
  if (RANK[a.status] === 2 || RANK[b.status] === 2) return RANK[a.status] < RANK[b.status];
  return a.attempts < b.attempts || a.progress.sent + a.progress.failed < b.progress.sent + b.progress.failed;
}

const REREAD_MS = 700; // at most so often are timeline and recipients taken anew, and only after an event
const EVENT_PAGES = 10;

async function readEvents(path, signal) {
  const events = [];
  let cursor = null;
  let pages = 0;
  do {
    const page = await get(`${path}/events${cursor ? `?cursor=${encodeURIComponent(cursor)}` : ""}`, { signal });
    events.push(...page.events);
    cursor = page.next_cursor;
    pages += 1;
  } while (cursor && pages < EVENT_PAGES);
  return events;
}

const reachable = (task) => task.progress.total - task.progress.skipped;
const missed = (task) => task.result?.non_joints ?? task.progress.failed;

async function retry(task) {
  const { sent } = task.progress;
  const n = task.result?.non_joints ?? reachable(task) - sent;
  const yes = await ask({ title: t("retry.ask"), body: [t("retry.text", { n }), sent ? t("retry.reached", { n: sent }) : ""], confirm: t("retry.yes", { n }) });
  if (yes) await act(task, "retry");
}

async function cancel(task) {
  const { sent } = task.progress;
  const yes = await ask({
    title: t("cancel.ask"),
    body: [sent ? t("cancel.reached", { n: sent, b: reachable(task) }) : t("cancel.nobody"), t("cancel.rest", { n: reachable(task) - sent })],
    confirm: t("cancel.yes"),
    cancel: t("cancel.no"),
    danger: true,
  });
  if (yes) await act(task, "cancel");
}

async function act(task, action) {
  try {
    await post(`/api/queue/tasks/${task.id}/${action}`);
    toast(t(`${action}.done`));
  } catch (error) {
    fail(error);
  }
}

export function mountTask(root, id, { signal, state, onGone, onTitle, heading = "h1" }) {
  const path = `/api/queue/tasks/${encodeURIComponent(id)}`;
  let task = null;
  let seq = 0;
  let people = null;
  let timer = 0;
  let stale = false;
  let broken = false; // out of reach when it was asked for
  let behind = false; // something happened while it was being read
  const parts = {};

  async function open() {
    broken = false;
    clear(root, h("div", { class: "blank", role: "status" }, h("span", { class: "spin" }), h("span", { class: "vh" }, t("table.loading"))));
    try {
      const [answer, events] = await Promise.all([get(path, { signal }), readEvents(path, signal)]);
      task = task && isOlder(answer.task, task) ? { ...answer.task, ...task } : answer.task;
      build(events);
      if (behind) later();
      behind = false;
    } catch (error) {
      if (error.name === "AbortError") return;
      broken = error.status !== 404;
      if (!broken) clear(root, blank({ glyph: "search", title: t("task.unknown"), text: t("task.unknown.text"), action: h("a", { class: "btn", href: "/admin/queue" }, t("task.back")) }));
      else clear(root, blank({ glyph: "alert", title: error.title, text: error.detail, action: h("button", { class: "btn", type: "button", onclick: open }, icon("retry"), t("table.again")) }));
    }
  }

  function build(events) {
    onTitle?.(task.titre);
    Object.assign(parts, {
      status: h("span", { class: "status" }),
      acts: h("div", { class: "task-acts" }),
      why: h("div"),
      ok: h("i", { class: "ok" }),
      ko: h("i", { class: "ko" }),
      tally: h("div", { class: "tally" }),
      left: h("p", { class: "muted small" }),
      pairs: h("dl", { class: "pairs" }),
      timeline: h("div", null, drawTimeline(events)),
    });
    const recipients = parts.people = h("section", { class: "card", "aria-label": t("task.people") }, h("div", { class: "card-head" }, h("h2", null, t("task.people"))));
    clear(root,
      h("header", { class: "task-head" },
        h("div", { class: "task-meta" }, parts.status, h("span", { class: `chip ${task.priority}` }, t(`priority.${task.priority}`)), h("span", null, typeLabel(task.type)), timeAgo(task.created_at_iso)),
        h(heading, null, bdi(task.titre)), parts.acts),
      parts.why,
      h("section", { class: "card big-progress", "aria-label": t("task.progress") }, parts.tally, h("div", { class: "bar", "aria-hidden": "true" }, parts.ok, parts.ko), parts.left),
      task.status === "failed" && recipients, // then this is what is looked for
      h("div", { class: "split" },
        h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, t("task.message"))), h("div", { class: "card-body message" }, bdi(task.message ?? ""))),
        h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, t("task.timeline"))), h("div", { class: "card-body" }, parts.timeline))),
      task.status !== "failed" && recipients,
      h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, t("task.facts"))), h("div", { class: "card-body" }, parts.pairs)));
    people = mountPeople(recipients, id, { signal, failed: task.status === "failed" });
    drawn = null;
    acted = "";
    draw();
    everySecond(tick, signal);
  }

  let drawn = null;
  function draw() {
    if (!task || !people || drawn === task) return;
    drawn = task;
    const { sent, skipped } = task.progress;
    const base = reachable(task);
    const bad = task.status === "failed" ? missed(task) : task.progress.failed;
    parts.status.className = `status ${task.status}`;
    clear(parts.status, icon(task.status), t(`status.${task.status}`));
    parts.ok.style.width = `${(100 * sent) / Math.max(1, base)}%`;
    parts.ko.style.width = `${(100 * bad) / Math.max(1, base)}%`;
    const tally = [["completed", "tally.sent", sent], ["failed", "tally.failed", bad], [task.status === "cancelled" ? "cancelled" : "pending", task.status === "cancelled" ? "tally.cancelled" : "tally.left", Math.max(0, base - sent - bad)], ["cancelled", "tally.skipped", skipped]];
    clear(parts.tally, tally.map(([tone, key, n]) => h("div", { class: n ? tone : "zero" }, h("b", null, number(n)), h("span", null, t(key, { n })))));
    const error = task.status === "failed" && task.error;
    redraw(parts.why, error && h("div", { class: "banner alert" }, icon("alert"), h("span", null, bdi(error)), h("button", { class: "btn", type: "button", onclick: () => { void people.show("missed"); parts.people.scrollIntoView({ block: "start" }); } }, t("task.who"))));
    drawActs();
    drawPairs();
    tick();
  }

  let acted = ""; // the status that the buttons are for: else they would be new ones at every event, under one's finger
  function drawActs() {
    if (acted === task.status) return;
    acted = task.status;
    const ended = boot.ended.includes(task.status);
    const again = task.status === "failed" || task.status === "cancelled";
    redraw(parts.acts,
      boot.may.send && again && h("button", { class: "btn primary", type: "button", id: "retry", onclick: () => retry(task) }, icon("retry"), t("act.retry.unreached")),
      boot.may.send && !ended && h("button", { class: "btn danger", type: "button", id: "cancel", onclick: () => cancel(task) }, icon("stop"), t("act.cancel")),
      h("button", { class: "btn", type: "button", onclick: () => copy(task.id, t("copy.id")) }, icon("copy"), t("act.copy")),
      h("button", { class: "btn quiet", type: "button", onclick: () => print() }, icon("print"), t("act.print")));
  }

  function drawPairs() {
    const rows = [
      ["id", h("span", { class: "mono" }, task.id)],
      ["created", exact(task.created_at_iso)],
      ["started", task.started_at_iso && exact(task.started_at_iso)],
      ["ended", task.completed_at_iso && exact(task.completed_at_iso)],
      ["planned", task.planifiee_a && exact(task.planifiee_a)],
      ["expires", task.expire_a && exact(task.expire_a)],
      ["rounds", task.attempts ? number(task.attempts) : null],
      ["again", task.run > 1 ? number(task.run - 1) : null],
      ["double", task.result?.doublons ? number(task.result.doublons) : null],
      ["node", task.node && bdi(task.node)],
      ["webhook", task.webhook_url && bdi(task.webhook_url)],
    ];
    clear(parts.pairs, rows.filter(([, value]) => value).map(([name, value]) => [h("dt", null, t(`task.fact.${name}`)), h("dd", null, value)]));
  }

  function tick() {
    if (!parts.left || !task) return;
    let text = "";
    if (task.status === "processing" && task.started_at_iso) {
      const elapsed = (now() - Date.parse(task.started_at_iso)) / 1000;
      const left = remaining(task, elapsed);
      text = t("task.running", { time: span(Math.max(0, Math.floor(elapsed))) }) + (left === null ? "" : ` · ${t("workers.left", { time: span(left) })}`);
    } else if (task.status === "pending" && task.next_attempt_at_iso) {
      const wait = (Date.parse(task.next_attempt_at_iso) - now()) / 1000;
      text = wait > 0 ? t(isPlanned(task) ? "task.planned" : "task.again", { time: span(wait), at: exact(task.next_attempt_at_iso) }) : t("task.due");
    } else if (task.completed_at_iso && task.started_at_iso) {
      text = t("task.took", { time: span((Date.parse(task.completed_at_iso) - Date.parse(task.started_at_iso)) / 1000) });
    }
    put(parts.left, text);
    attr(parts.left, "hidden", text === "" ? "" : null);
  }

  // After an event: timeline, recipients and the sentence in the reader's language, not more often than REREAD_MS.
  function later() {
    stale = true;
    timer ||= setTimeout(async () => {
      timer = 0;
      if (!stale || signal.aborted) return;
      stale = false;
      try {
        const [answer, events] = await Promise.all([get(path, { signal }), readEvents(path, signal), people?.refresh()]);
        if (!isOlder(answer.task, task)) task = answer.task;
        clear(parts.timeline, drawTimeline(events));
        draw();
      } catch (error) {
        if (error.name !== "AbortError") stale = true; // the next event, or the reconnect, tries again
      }
    }, REREAD_MS);
  }

  state.addEventListener("events", ({ detail }) => {
    for (const event of detail) {
      if (event.task?.id !== id || event.seq <= seq) continue;
      seq = event.seq;
      if (event.event === "task.deleted") {
        toast(t("task.gone"));
        onGone?.();
        return;
      }
      if (!task) behind = true;
      if (!task || isOlder(event.task, task)) continue;
      task = { ...task, ...event.task, error: event.task.error && task.status === event.task.status ? task.error : event.task.error };
      if (people) {
        draw();
        later();
      }
    }
  }, { signal });
  state.addEventListener("reread", () => {
    if (task) later();
    else behind = true;
  }, { signal });
  state.addEventListener("hello", () => broken && open(), { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  return open();
}
