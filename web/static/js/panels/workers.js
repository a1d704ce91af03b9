// panels/workers.js: what each worker has in hand, how far it has come and how long it will take.
// Draws state.stats.in_hand and state.running; a click opens the task (`onOpen`).
import { attr, clear, h, put } from "../dom.js";
import { t } from "../i18n.js";
import { everySecond, now, span } from "../time.js";

const SOON_S = 2; // before that, a guess at the remaining time is noise

// Seconds left at the speed so far; null where nothing can be said yet.
export function remaining(task, elapsedS) {
  const { sent, failed, skipped, total } = task.progress;
  const done = sent + failed;
  const left = total - skipped - done;
  if (!left || !done || elapsedS < SOON_S) return null;
  return (left * elapsedS) / done;
}

function drawHand(hand, onOpen) {
  const ok = h("i", { class: "ok" });
  const ko = h("i", { class: "ko" });
  const counts = h("span", { class: "muted small" });
  const age = h("span", { class: "muted small nowrap" });
  const link = h(
    "a",
    { href: `/admin/queue/${hand.task_id}`, dir: "auto", onclick: (event) => onOpen(event, hand.task_id) },
    hand.titre,
  );
  const node = h("li", { class: "hand" },
    h("div", { class: "hand-top" }, h("b", null, t(hand.express ? "workers.express" : "workers.one", { n: hand.worker })), age),
    link, h("div", { class: "bar" }, ok, ko), counts);
  return { node, hand, ok, ko, counts, age };
}

export function mount(root, state, { signal, onOpen }) {
  const list = h("ul", { class: "hands" });
  root.append(h("div", { class: "card-head" }, h("h2", null, t("workers.title"))), h("div", { class: "card-body" }, list));
  let shown = "";
  let hands = [];

  const tick = () => {
    for (const { hand, age, ok, ko, counts } of hands) {
      const elapsed = Math.max(0, (now() - Date.parse(hand.since)) / 1000);
      put(age, span(Math.max(1, Math.floor(elapsed))));
      const task = state.running.get(hand.task_id);
      if (!task) continue;
      const { sent, failed, skipped, total } = task.progress;
      const base = Math.max(1, total - skipped);
      ok.style.width = `${(100 * sent) / base}%`;
      ko.style.width = `${(100 * failed) / base}%`;
      const left = remaining(task, elapsed);
      put(counts, [t("workers.done", { n: sent, b: base }), failed ? t("workers.failed", { n: failed }) : "", left === null ? "" : t("workers.left", { time: span(left) })].filter(Boolean).join(" · "));
    }
  };
  const draw = () => {
    const { stats } = state;
    if (!stats) return;
    const inHand = stats.in_hand ?? [];
    const idle = Math.max(0, stats.workers + (stats.express_workers ?? 0) - inHand.length);
    const now = JSON.stringify([inHand, idle]);
    if (now !== shown) {
      shown = now;
      hands = inHand.map((hand) => drawHand(hand, onOpen));
      clear(list, hands.map(({ node }) => node), idle ? h("li", { class: "hand" }, h("span", { class: "idle" }, t("workers.idle", { n: idle }))) : null);
      attr(list, "aria-label", t("workers.title"));
    }
    tick();
  };
  state.addEventListener("change", draw, { signal });
  everySecond(tick, signal);
  draw();
}

