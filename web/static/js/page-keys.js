// page-keys.js: /admin/keys: the keys, and below them the audit log.
import { h } from "./dom.js";
import { t } from "./i18n.js";
import { mountShell } from "./shell.js";
import * as audit from "./panels/audit.js";
import * as keys from "./panels/keys.js";

mountShell();
const parts = [h("section", { class: "card", "aria-label": t("key.title") }), h("section", { class: "card", "aria-label": t("audit.title") })];
document.getElementById("app").append(
  h("div", { class: "page-head" }, h("div", null, h("h1", null, t("title.keys")), h("p", null, t("key.lead"))), h("a", { class: "btn", href: "/api/docs" }, t("key.docs"))),
  h("div", { class: "form" }, parts));
void keys.mount(parts[0]);
void audit.mount(parts[1]);
