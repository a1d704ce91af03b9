// page-task.js: /admin/queue/{id}, one task on a page of its own; the stream is narrowed to it.
import { boot } from "./boot.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { mountShell } from "./shell.js";
import { State } from "./store.js";
import * as connection from "./panels/connection.js";
import { mountTask } from "./panels/task.js";

const { signal } = new AbortController();
const state = new State();
const body = h("div", { class: "task" });
document.getElementById("app").append(h("p", { class: "back" }, h("a", { class: "btn quiet", href: "/admin/queue" }, icon("back"), t("task.back"))), body);
mountShell();
connection.mount(document.getElementById("link"), state, { signal });

let begun = false;
const begin = () => {
  if (begun) return;
  begun = true;
  void mountTask(body, boot.task_id, { signal, state, onTitle: (titre) => (document.title = `${titre} · Tocsin`) });
};
state.addEventListener("hello", ({ detail }) => {
  if (begun && detail.afresh === false) state.reread(); // it was shown before the first socket was there
  begin();
});
setTimeout(begin, 1500); // no socket yet: what can be shown is shown
state.follow({ mode: "latest", interval_ms: 100, task_id: boot.task_id }, signal);
