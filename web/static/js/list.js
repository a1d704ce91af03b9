// list.js: the tasks of the table, newest first, under a filter. It takes pages of the list and events in any order
// and as often as they come: per task the newest state wins. It draws nothing and asks the server through `fetchPage`.
//
// Subscribe first, then take the list: its answer carries the log's number `seq` at which it was taken. What events up
// to there said is in it; what those behind it said is newer and stays.
// While `frozen` (the reader has scrolled down) new tasks are held back and only counted.

const PAGE = 100;
const CAP = 400; // at the top of a busy list this many rows are kept; older ones are asked for again
const KEEP = 300;
const HELD = 500;
const REREAD = 1000; // rows taken anew at the most when the list has to be mended
const SEARCH_MS = 2000; // under a text search, new tasks that only the server can judge are asked for this much later

export function matches(task, filter) {
  const { status, type, priority, q, since, until } = filter;
  if (status.length && !status.includes(task.status)) return false;
  if (type.length && !type.includes(task.type)) return false;
  if (priority.length && !priority.includes(task.priority)) return false;
  if (since && task.created_at_iso < new Date(since).toISOString()) return false;
  if (until && task.created_at_iso > new Date(until).toISOString()) return false;
  if (!q) return true;
  const word = q.toLowerCase();
  return task.id.startsWith(word) || task.titre.toLowerCase().includes(word);
}

export class TaskList extends EventTarget {
  #fetch;
  #entries = new Map(); // id -> { task, seq }
  #held = new Map(); // the same, for tasks held back
  #gone = null; // id -> seq of those deleted while a page is on its way
  #job = 0; // the newest question; answers to older ones are dropped
  #cursor = null;
  #unsure = false;
  #later = 0;
  order = []; // ids, newest first
  phase = "loading"; // loading, ready, error
  error = null;
  more = false; // the server has older ones
  busy = false;
  frozen = false;
  overflow = false; // more were held back than can be kept

  constructor(fetchPage, filter) {
    super();
    this.#fetch = fetchPage;
    this.filter = filter;
  }

  get(id) {
    return this.#entries.get(id)?.task;
  }

  get heldCount() {
    return this.#held.size;
  }

  #changed(detail) {
    this.dispatchEvent(new CustomEvent("change", { detail }));
  }

  // Take the list anew; `keep` leaves what is shown until the answer is there (after a gap, a reconnect).
  async load({ keep = false } = {}) {
    const want = keep ? Math.min(Math.max(this.order.length, PAGE), REREAD) : PAGE;
    const job = this.#begin();
    if (!keep) {
      this.order = [];
      this.#entries.clear();
      this.#held.clear();
      this.phase = "loading";
    }
    this.#changed();
    const pages = [];
    try {
      let cursor = null;
      let count = 0;
      do {
        const page = await this.#fetch(this.filter, { cursor, limit: Math.min(PAGE, want - count) });
        if (job !== this.#job) return;
        pages.push(page);
        count += page.tasks.length;
        cursor = page.next_cursor;
      } while (cursor && count < want);
      this.#cursor = cursor ? { cursor } : null;
    } catch (error) {
      if (job === this.#job) this.#fail(error, keep);
      return;
    }
    const before = [...this.#entries, ...this.#held];
    this.#entries = new Map();
    this.order = [];
    this.#held.clear();
    this.overflow = false;
    for (const [id, entry] of before) if (entry.seq > pages[0].seq && matches(entry.task, this.filter)) this.#insert(id, entry);
    this.#end(pages);
  }

  // The next older page.
  async loadMore() {
    if (this.busy || !this.more || this.phase !== "ready") return;
    const job = this.#begin();
    this.#changed();
    try {
      const page = await this.#fetch(this.filter, { ...this.#cursor, limit: PAGE });
      if (job !== this.#job) return;
      this.#cursor = page.next_cursor ? { ...this.#cursor, cursor: page.next_cursor } : null;
      this.#end([page]);
    } catch (error) {
      if (job === this.#job) this.#fail(error, true);
    }
  }

  #begin() {
    this.busy = true;
    this.error = null;
    this.#gone = new Map();
    return ++this.#job;
  }

  #end(pages) {
    for (const { tasks, seq } of pages) {
      for (const task of tasks) {
        const known = this.#entries.get(task.id);
        if (this.#gone.get(task.id) > seq || known?.seq > seq) continue;
        if (known) Object.assign(known, { task, seq });
        else this.#insert(task.id, { task, seq });
      }
    }
    this.#gone = null;
    this.more = this.#cursor !== null;
    this.busy = false;
    this.phase = "ready";
    this.#changed();
  }

  #fail(error, keep) {
    this.busy = false;
    this.#gone = null;
    this.error = error;
    if (!keep || this.phase === "loading") this.phase = "error";
    this.#changed();
  }

  #place(id) {
    let low = 0;
    let high = this.order.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.order[middle] > id) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #insert(id, entry) {
    this.#entries.set(id, entry);
    this.order.splice(this.#place(id), 0, id);
  }

  #remove(id) {
    this.#held.delete(id);
    if (!this.#entries.delete(id)) return -1;
    const at = this.#place(id);
    this.order.splice(at, 1);
    return at;
  }

  // Events of one frame. Says in "change" which rows left, by their former place.
  apply(events) {
    const fresh = [];
    const left = [];
    for (const { seq, event, task } of events) {
      if (!task) continue;
      if (event === "task.deleted") {
        this.#gone?.set(task.id, seq);
        const at = this.#remove(task.id);
        if (at >= 0) left.push(at);
        continue;
      }
      const known = this.#entries.get(task.id) ?? this.#held.get(task.id);
      if (known) {
        if (seq <= known.seq) continue;
        Object.assign(known, { task, seq });
        if (!matches(known.task, { ...this.filter, q: "" })) {
          const at = this.#remove(task.id);
          if (at >= 0) left.push(at);
        }
      } else if (matches(task, this.filter)) {
        if (this.#arrive(task, seq)) fresh.push(task.id);
      } else if (this.filter.q && event === "task.enqueued") {
        this.#unsure = true; // the server also searches messages and recipients
      }
    }
    if (this.#unsure) {
      this.#unsure = false;
      this.#later ||= setTimeout(() => {
        this.#later = 0;
        void this.load({ keep: true });
      }, SEARCH_MS);
    }
    this.#changed({ fresh, left });
  }

  // Another log than the one we knew: its numbers say nothing of what is here.
  restart() {
    for (const entry of [...this.#entries.values(), ...this.#held.values()]) entry.seq = 0;
    this.#gone?.clear();
  }

  // A task not seen before: at its place, held back, or left to a later page.
  #arrive(task, seq) {
    const newest = this.order[0];
    const oldest = this.order[this.order.length - 1];
    const entry = { task, seq };
    if (this.frozen && (newest === undefined || task.id > newest)) {
      if (this.#held.size < HELD) this.#held.set(task.id, entry);
      else this.overflow = true;
      return false;
    }
    if (this.more && oldest !== undefined && task.id < oldest) return false;
    this.#insert(task.id, entry);
    return true;
  }

  // The reader is back at the top: show what was held back, let go of what is far below.
  release() {
    this.frozen = false;
    if (this.overflow) return this.load({ keep: true });
    for (const [id, entry] of this.#held) if (!this.#entries.has(id)) this.#insert(id, entry);
    this.#held.clear();
    this.trim();
    this.#changed();
  }

  trim() {
    if (this.frozen || this.busy || this.order.length <= CAP) return;
    for (const id of this.order.splice(KEEP)) this.#entries.delete(id);
    const last = this.#entries.get(this.order[KEEP - 1]).task;
    this.#cursor = { until: new Date(Date.parse(last.created_at_iso) + 1).toISOString() };
    this.more = true;
  }
}
