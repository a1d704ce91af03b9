// panels/counters.js: how many tasks stand in each status, in numerals that carry across a room; each is also the
// status filter. Below: the facts of the queue. Draws state.stats; reports clicks to `onPick`.
import { boot } from "../boot.js";
import { attr, h, put } from "../dom.js";
import { number, t } from "../i18n.js";
import { icon } from "../icons.js";
import { everySecond, span } from "../time.js";

const LATE_S = 60;

export function mount(root, list, state, { signal, filter, onPick }) {
  const cells = new Map(
    boot.statuses.map((status) => {
      const count = h("span", { class: "count" }, "–");
      const button = h(
        "button",
        { class: `counter ${status} zero`, type: "button", "aria-pressed": "false", "data-status": status, onclick: () => onPick(status) },
        h("span", { class: "name" }, icon(status), t(`count.${status}`)),
        count,
      );
      return [status, { button, count }];
    }),
  );
  const facts = new Map(
    ["workers", "size", "oldest", "stored", "ever"].map((name) => {
      const value = h("dd", null, "–");
      return [name, { value, node: h("div", { "data-fact": name }, h("dt", null, t(`fact.${name}`)), value) }];
    }),
  );
  root.append(h("div", { class: "counters", role: "group", "aria-label": t("counters.label") }, [...cells.values()].map((cell) => cell.button)));
  list.append(...[...facts.values()].map((fact) => fact.node));
  let takenAt = performance.now();
  let taken = null;

  const drawOldest = () => {
    const { stats } = state;
    if (!stats) return;
    if (taken !== stats) {
      taken = stats;
      takenAt = performance.now();
    }
    const { node, value } = facts.get("oldest");
    const oldest = stats.oldest_pending_s;
    const age = oldest === null || oldest === undefined ? null : oldest + (performance.now() - takenAt) / 1000;
    put(value, age === null ? t(stats.tasks_by_status.pending ? "fact.later" : "fact.none") : span(Math.max(1, Math.floor(age))));
    node.classList.toggle("late", age !== null && age > LATE_S);
  };
  const draw = () => {
    const { stats } = state;
    const picked = filter().status;
    for (const [status, { button, count }] of cells) {
      attr(button, "aria-pressed", picked.includes(status));
      if (!stats) continue;
      const n = stats.tasks_by_status[status] ?? 0;
      const text = number(n);
      put(count, text);
      count.style.setProperty("--chars", text.length); // a long number is set smaller rather than cut
      button.classList.toggle("zero", n === 0);
    }
    if (!stats) return;
    const express = stats.express_workers ?? 0;
    put(facts.get("workers").value, express ? t("fact.workers.express", { n: stats.workers, x: express }) : number(stats.workers));
    put(facts.get("size").value, number(stats.current_queue_size));
    put(facts.get("stored").value, number(stats.total_tasks));
    put(
      facts.get("ever").value,
      t("fact.ever.value", { a: stats.total_enqueued, b: stats.total_processed, c: stats.total_failed }),
    );
    drawOldest();
  };
  state.addEventListener("change", draw, { signal });
  everySecond(drawOldest, signal);
  draw();
  return { draw };
}
