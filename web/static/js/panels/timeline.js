// panels/timeline.js: what happened to one task, out of the event log; a run of progress events is one line.
import { h } from "../dom.js";
import { t } from "../i18n.js";
import { clock, exact, sameDay, span } from "../time.js";

const TONES = { "task.enqueued": "pending", "task.started": "processing", "task.progress": "processing", "task.retry_scheduled": "pending", "task.completed": "completed", "task.failed": "failed", "task.cancelled": "cancelled" };

function detail(event) {
  const { task } = event;
  if (!task) return "";
  const { sent, failed, skipped, total } = task.progress ?? {};
  switch (event.event) {
    case "task.started":
      return [task.attempts > 1 ? t("event.round", { n: task.attempts }) : "", task.node ? t("event.node", { node: task.node }) : ""].filter(Boolean).join(" · ");
    case "task.progress":
    case "task.completed":
    case "task.failed":
    case "task.cancelled":
      return [t("event.reached", { n: sent, b: total - skipped }), failed ? t("event.missed", { n: failed }) : ""].filter(Boolean).join(" · ");
    case "task.retry_scheduled": {
      const wait = (Date.parse(task.next_attempt_at_iso) - Date.parse(event.at)) / 1000;
      return wait > 0 ? t("event.wait", { time: span(wait) }) : "";
    }
    case "task.enqueued":
      return t("event.recipients", { n: total });
    default:
      return "";
  }
}

export function drawTimeline(events) {
  const lines = events.filter((event, i) => event.event !== "task.progress" || events[i + 1]?.event !== "task.progress");
  return h("ol", { class: "timeline" }, lines.map((event, i) => {
    const said = detail(event);
    const again = i > 0 && event.task?.run > lines[i - 1].task?.run; // an operator's retry, not the queue's own
    return h("li", { class: TONES[event.event] ?? "" }, h("span", null, again ? t("event.again") : t(`event.${event.event}`)),
      h("time", { datetime: event.at, title: exact(event.at) }, sameDay(event.at, (lines[i - 1] ?? lines.at(-1)).at) ? clock(event.at) : exact(event.at)), said && h("small", null, said));
  }));
}
