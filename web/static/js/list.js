// list.js: the tasks of the table, newest first, under a filter. It takes pages of the list and events in any order
// and as often as they come: per task the newest state wins. It draws nothing and asks the server through `fetchPage`.
//
// Subscribe first, then take the list: what events said since then is newer than the list's answer and stays.
// While `frozen` (the reader has scrolled down) new tasks are held back and only counted.

const PAGE = 100;
const CAP = 400; // at the top of a busy list this many rows are kept; older ones are asked for again
const KEEP = 300;
const HELD = 500;
const REREAD = 1000; // rows taken anew at the most when the list has to be mended
const SEARCH_MS = 2000; // under a text search, new tasks that only the server can judge are asked for this much later
const RANK = { pending: 0, processing: 1, cancelled: 2, failed: 2, completed: 2 };

// Is `a` certainly older than `b`, two states of one task? (Where unsure: no; the next event mends it.)
export function isOlder(a, b) {
  if (a.run !== b.run) return a.run < b.run;
  if (RANK[a.status] === 2 || RANK[b.status] === 2) return RANK[a.status] < RANK[b.status];
  return a.attempts < b.attempts || a.progress.sent + a.progress.failed < b.progress.sent + b.progress.failed;
}

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
  #gone = null; // ids deleted while a page is on its way
  #job = 0; // the newest question; answers to older ones are dropped
  #cursor = null;
  #since = 0; // seq when the question left
  #unsure = false;
  #later = 0;
  order = []; // ids, newest first
  phase = "loading"; // loading, ready, error
  error = null;
  more = false; // the server has older ones
  busy = false;
  frozen = false;
  overflow = false; // more were held back than can be kept
  seq = 0;

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
    const found = [];
    try {
      let cursor = null;
      do {
        const page = await this.#fetch(this.filter, { cursor, limit: Math.min(PAGE, want - found.length) });
        if (job !== this.#job) return;
        found.push(...page.tasks);
        cursor = page.next_cursor;
      } while (cursor && found.length < want);
      this.#cursor = cursor ? { cursor } : null;
    } catch (error) {
      if (job === this.#job) this.#fail(error, keep);
      return;
    }
    const before = this.#entries;
    this.#entries = new Map();
    this.order = [];
    this.#held.clear();
    this.overflow = false;
    for (const [id, entry] of before) if (entry.seq > this.#since && matches(entry.task, this.filter)) this.#insert(id, entry);
    this.#end(found);
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
      this.#end(page.tasks);
    } catch (error) {
      if (job === this.#job) this.#fail(error, true);
    }
  }

  #begin() {
    this.busy = true;
    this.error = null;
    this.#gone = new Set();
    this.#since = this.seq;
    return ++this.#job;
  }

  #end(tasks) {
    for (const task of tasks) {
      const known = this.#entries.get(task.id);
      if (this.#gone.has(task.id) || (known && known.seq > this.#since && !isOlder(known.task, task))) continue;
      if (known) known.task = task;
      else this.#insert(task.id, { task, seq: this.#since });
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
      this.seq = Math.max(this.seq, seq);
      if (!task) continue;
      if (event === "task.deleted") {
        this.#gone?.add(task.id);
        const at = this.#remove(task.id);
        if (at >= 0) left.push(at);
        continue;
      }
      const known = this.#entries.get(task.id) ?? this.#held.get(task.id);
      if (known) {
        if (seq <= known.seq) continue;
        known.seq = seq;
        if (!isOlder(task, known.task)) known.task = task;
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
