// stream.js: the connection to /ws/events. It never gives up: it comes back with growing, spread-out pauses and goes
// on from the last seq it saw, so nothing is lost. It hands frames over and says how it stands; it draws nothing.
//
// Events: "frame" (detail: one frame of the contract), "phase" (detail: { phase, since, retryAt }).
// Phases: connecting, live, waiting (broken, a new try at retryAt), stale (broken for longer than STALE_MS).
import { toLogin } from "./api.js";

const FIRST_MS = 250;
const MOST_MS = 4_000; // a server that is back is found again within this
const STALE_MS = 8_000;
const OPEN_MS = 8_000; // a connection that does not open within this is given up
const ANSWER_MS = 5_000; // and one that does not answer a question within this is dead

export class Stream extends EventTarget {
  #params;
  #socket = null;
  #tries = 0;
  #timer = 0;
  #watch = 0;
  #lastHeard = 0;
  #asked = 0;
  #heartbeatMs = 20_000;
  #brokenAt = 0;
  #opened = false;
  #ended = false;
  seq = null; // the last event seen; the next connection goes on behind it
  phase = { phase: "connecting" };

  constructor(params, signal) {
    super();
    this.#params = params;
    signal?.addEventListener("abort", () => this.close());
    document.querySelector('form[action="/admin/logout"]')?.addEventListener("submit", () => this.close(), { signal }); // the end is wanted
    addEventListener("online", () => this.retry(), { signal });
    addEventListener("offline", () => this.#socket?.close(), { signal });
    addEventListener("pageshow", (event) => event.persisted && this.retry(), { signal });
    document.addEventListener("visibilitychange", () => document.hidden || this.retry(), { signal });
  }

  open() {
    clearTimeout(this.#timer);
    const params = new URLSearchParams(this.#params);
    if (this.seq !== null) params.set("since", this.seq);
    const url = new URL(`/ws/events?${params}`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(url));
    this.#opened = false;
    this.#timer = setTimeout(() => this.#drop(socket), OPEN_MS);
    socket.onmessage = (message) => this.#socket === socket && this.#take(JSON.parse(message.data));
    socket.onclose = (event) => this.#socket === socket && this.#lost(event);
  }

  // Try now rather than later; a live connection is left alone.
  retry() {
    if (this.#socket || this.#ended) return;
    this.#tries = 0;
    this.open();
  }

  close() {
    this.#ended = true;
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    this.#socket?.close(1000);
    this.#socket = null;
  }

  #say(phase) {
    this.phase = phase;
    this.dispatchEvent(new CustomEvent("phase", { detail: phase }));
  }

  #take(frame) {
    this.#lastHeard = performance.now();
    this.#asked = 0;
    if (frame.kind === "hello") this.#hello(frame);
    if (frame.kind === "events") this.seq = Math.max(this.seq ?? 0, frame.to);
    if (frame.kind === "gap") this.seq = Math.max(this.seq ?? 0, frame.to);
    if (frame.kind === "shutdown") this.retryAfter = frame.retry_after_ms;
    this.dispatchEvent(new CustomEvent("frame", { detail: frame }));
  }

  #hello(frame) {
    clearTimeout(this.#timer);
    this.#opened = true;
    this.#tries = 0;
    this.#brokenAt = 0;
    this.#heartbeatMs = (frame.heartbeat_s ?? 20) * 1000;
    if (this.seq === null || this.seq > frame.seq) {
      frame.afresh = this.seq !== null; // another log than the one we knew: what we have is worth nothing
      this.seq = frame.seq;
    }
    clearInterval(this.#watch);
    this.#watch = setInterval(() => this.#listen(), 1000);
    this.#say({ phase: "live" });
  }

  // Pings are invisible to scripts, so silence is broken by a question: the server answers even one it does not know.
  #listen() {
    const quiet = performance.now() - this.#lastHeard;
    if (this.#asked && performance.now() - this.#asked > ANSWER_MS) this.#drop(this.#socket);
    else if (!this.#asked && quiet > this.#heartbeatMs && this.#socket?.readyState === WebSocket.OPEN) {
      this.#asked = performance.now();
      this.#socket.send('{"action":"ping"}');
    }
  }

  #drop(socket) {
    if (this.#socket !== socket) return;
    socket.close();
    this.#lost({ code: 1006 });
  }

  #lost(event) {
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    this.#socket = null;
    this.#asked = 0;
    if (this.#ended) return;
    this.#brokenAt ||= Date.now();
    if (event.code === 1008 || (!this.#opened && this.#tries % 3 === 1)) void this.#checkSession();
    const ceiling = Math.min(MOST_MS, FIRST_MS * 2 ** this.#tries++);
    const wait = (this.retryAfter ?? 0) + ceiling / 2 + (Math.random() * ceiling) / 2;
    this.retryAfter = undefined;
    const stale = Date.now() - this.#brokenAt > STALE_MS;
    this.#say({ phase: stale ? "stale" : "waiting", since: this.#brokenAt, retryAt: Date.now() + wait });
    this.#timer = setTimeout(() => this.open(), wait);
  }

  // A handshake that is refused looks like any other failure; a plain request tells a lost session from a lost server.
  async #checkSession() {
    try {
      const response = await fetch("/api/notifications/types", { credentials: "same-origin", cache: "no-store" });
      if (response.status === 401 || response.status === 403) toLogin();
    } catch {
      // out of reach: that is what the countdown says
    }
  }
}
