// store.js: the state of a page, fed by frames. A repeat does no harm; "change" comes at most once per animation
// frame and not at all while the tab is hidden (the state goes on; it is drawn when the tab comes back).
//
// Events: "measure" (read sizes now, before anything is written: a layout in mid-frame costs more than the drawing),
// "change" (draw), "events" (detail: the events of a frame, at once), "reread" (what is shown is past mending:
// take the list anew).
import { Stream } from "./stream.js";

export class State extends EventTarget {
  #frame = 0;
  #seen = null; // while a snapshot is on its way: task id -> the last event's seq
  stats = null;
  link = { phase: "connecting" };
  running = new Map(); // id -> task in hand, newest state
  alerts = new Map(); // id -> alert
  version = null;

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => document.hidden || this.touch());
  }

  // Something changed: draw at the next frame.
  touch() {
    if (this.#frame || document.hidden) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.dispatchEvent(new Event("measure"));
      this.dispatchEvent(new Event("change"));
    });
  }

  // Open the stream and follow it until the signal.
  follow(params, signal) {
    const stream = (this.stream = new Stream(params, signal));
    stream.addEventListener("phase", ({ detail }) => {
      this.link = detail;
      this.touch();
    });
    stream.addEventListener("frame", ({ detail }) => this.take(detail));
    stream.open();
    return stream;
  }

  take(frame) {
    if (frame.kind === "hello") {
      this.version = frame.version;
      this.dispatchEvent(new CustomEvent("hello", { detail: frame }));
      if (frame.afresh) this.reread();
    } else if (frame.kind === "events") {
      for (const event of frame.events) this.#event(event);
      this.dispatchEvent(new CustomEvent("events", { detail: frame.events }));
    } else if (frame.kind === "stats") {
      this.setStats(frame.stats);
    } else if (frame.kind === "gap") {
      this.reread();
    }
    this.touch();
  }

  setStats(stats) {
    this.stats = stats;
    this.dispatchEvent(new Event("stats"));
    if (Array.isArray(stats.alerts)) this.alerts = new Map(stats.alerts.map((alert) => [alert.id ?? alert.kind, alert]));
    this.touch();
  }

  reread() {
    this.running.clear();
    this.dispatchEvent(new Event("reread"));
  }

  // Take the tasks in hand out of a snapshot, but for those of which an event behind its `seq` has spoken meanwhile.
  async learnRunning(ask) {
    const seen = (this.#seen = new Map());
    const { tasks, seq } = await ask();
    if (this.#seen !== seen) return;
    this.#seen = null;
    for (const task of tasks) if (!(seen.get(task.id) > seq)) this.running.set(task.id, task);
    this.touch();
  }

  #event({ seq, event, task, alert }) {
    if (task) {
      this.#seen?.set(task.id, seq);
      if (task.status === "processing" && event !== "task.deleted") this.running.set(task.id, task);
      else this.running.delete(task.id);
    }
    if (event === "queue.paused" && this.stats) this.stats.paused = true;
    if (event === "queue.resumed" && this.stats) this.stats.paused = false;
    if (event === "alert.raised") this.alerts.set(alert.id ?? alert.kind, alert);
    if (event === "alert.cleared") this.alerts.delete(alert.id ?? alert.kind);
  }
}
