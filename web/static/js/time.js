// time.js: moments for people. Relative ones tick once a second, in visible tabs only; the exact time is on hover.
import { h } from "./dom.js";
import { locale, t } from "./i18n.js";

const relative = new Intl.RelativeTimeFormat(locale, { style: "short", numeric: "always" });
const exactFormat = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" });
const clockFormat = new Intl.DateTimeFormat(locale, { timeStyle: "medium" });
const minuteFormat = new Intl.DateTimeFormat(locale, { timeStyle: "short" });
const dayFormat = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
let skew = 0; // the server's clock less ours, ms

// Learn the server's clock from an answer's Date header; a second or two is the header's own blur.
export function learnClock(date) {
  const found = date ? Date.parse(date) - Date.now() : NaN;
  if (!Number.isNaN(found)) skew = Math.abs(found) > 2000 ? found : 0;
}

export const now = () => Date.now() + skew;
export const exact = (iso) => exactFormat.format(new Date(iso));
export const clock = (iso) => clockFormat.format(new Date(iso));
export const minute = (iso) => minuteFormat.format(new Date(iso));
export const sameDay = (a, b) => new Date(a).toDateString() === new Date(b).toDateString();

// The minute for today, with the day in front of it for any other: 14:30, or 26 nov. 08:00.
export const when = (iso) => (sameDay(iso, now()) ? minute(iso) : dayFormat.format(new Date(iso)));

// Is a task's next moment the one that its sender chose? (Else the queue did: a further try, a channel out of reach.)
export const isPlanned = (task) => task.next_attempt_at_iso === task.planifiee_a;

export function ago(iso) {
  const seconds = (Date.parse(iso) - now()) / 1000;
  const size = Math.abs(seconds);
  if (size < 1.5) return t("time.now");
  if (size < 60) return relative.format(Math.round(seconds), "second");
  if (size < 3600) return relative.format(Math.trunc(seconds / 60), "minute");
  if (size < 86400) return relative.format(Math.trunc(seconds / 3600), "hour");
  return relative.format(Math.trunc(seconds / 86400), "day");
}

// A length of time in few characters: 850 ms, 12 s, 4 min, 2 h 05.
export function span(seconds) {
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${new Intl.NumberFormat(locale, { maximumFractionDigits: 1 }).format(seconds)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")}`;
  return `${Math.round(seconds / 86400)} ${t("time.days")}`;
}

// A <time> that says how long ago, and goes on saying it.
export function timeAgo(iso, props) {
  const node = h("time", props);
  setAgo(node, iso);
  return node;
}

export function setAgo(node, iso) {
  if (!iso) return node.replaceChildren();
  if (node.dateTime !== iso) {
    node.dateTime = iso;
    node.dataset.ago = "";
    node.title = exact(iso);
  }
  const text = ago(iso);
  if (node.textContent !== text) node.textContent = text;
}

// A text that follows the clock: drawn now and every second, until the signal.
const ticking = new Set();
export function everySecond(draw, signal) {
  ticking.add(draw);
  signal?.addEventListener("abort", () => ticking.delete(draw));
  draw();
}

function tick() {
  if (document.hidden) return;
  for (const node of document.querySelectorAll("time[data-ago]")) setAgo(node, node.dateTime);
  for (const draw of ticking) draw();
}
setInterval(tick, 1000);
document.addEventListener("visibilitychange", tick);
