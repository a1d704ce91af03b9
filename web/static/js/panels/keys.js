// panels/keys.js: the API keys: who may do what, when each was last used; make one (shown once), revoke one.
import { call, get, post } from "../api.js";
import { boot } from "../boot.js";
import { ask, blank, copy, fail, toast } from "../dialogs.js";
import { bdi, clear, h } from "../dom.js";
import { t } from "../i18n.js";
import { icon } from "../icons.js";
import { exact, timeAgo } from "../time.js";

const ROLES = ["viewer", "operator", "admin"];

async function create(done) {
  const name = h("input", { class: "input", id: "key-name", required: true, maxlength: 100, autocomplete: "off" });
  const role = h("select", { class: "input", id: "key-role" }, ROLES.map((one) => h("option", { value: one }, t(`role.${one}`))));
  const made = await ask({
    title: t("key.new"),
    body: [
      h("div", { class: "field" }, h("label", { for: "key-name" }, t("key.name")), name, h("p", { class: "hint" }, t("key.name.hint"))),
      h("div", { class: "field" }, h("label", { for: "key-role" }, t("key.role")), role, h("p", { class: "hint" }, t("key.role.hint"))),
    ],
    confirm: t("key.make"),
    read: () => post("/admin/api/keys", { name: name.value.trim(), role: role.value }),
  });
  if (!made) return;
  done();
  await ask({
    title: t("key.made"),
    body: [t("key.once"), h("div", { class: "secret" }, h("code", null, made.key), h("button", { class: "btn", type: "button", autofocus: true, onclick: () => copy(made.key, t("copy.key")) }, icon("copy"), t("key.copy")))],
  });
}

async function revoke(key, done) {
  const yes = await ask({ title: t("key.revoke.ask", { name: key.name }), body: [key.id === boot.me.key_id && t("key.revoke.own"), t("key.revoke.text")], confirm: t("key.revoke"), danger: true });
  if (!yes) return;
  try {
    await call("DELETE", `/admin/api/keys/${encodeURIComponent(key.id)}`);
    toast(t("key.revoked", { name: key.name }));
    done();
  } catch (error) {
    fail(error);
  }
}

const named = (key) => h("td", null, h("b", null, bdi(key.name)), " ", key.id === boot.me.key_id && h("span", { class: "chip" }, t("key.own")));

// The key of the configuration: in force like the others, but nothing is kept of it here.
function configuredRow(key) {
  return h("tr", { id: "configured-key" }, named(key), h("td", null, t("role.admin")), h("td", { colspan: 3, class: "muted" }, t("key.configured")));
}

function row(key, done) {
  return h("tr", null,
    named(key),
    h("td", null, t(`role.${key.role}`)),
    h("td", { "data-label": t("key.col.used") }, key.last_used_at_iso ? timeAgo(key.last_used_at_iso) : h("span", { class: "muted" }, t("key.never"))),
    h("td", { "data-label": t("key.col.created") }, h("time", { datetime: key.created_at_iso }, exact(key.created_at_iso))),
    h("td", { class: "num" }, h("button", { class: "btn danger", type: "button", "aria-label": t("key.revoke.one", { name: key.name }), onclick: () => revoke(key, done) }, t("key.revoke"))));
}

export function mount(root) {
  const body = h("div", { class: "scroll-x" });
  root.append(
    h("div", { class: "card-head" }, h("h2", null, t("key.title")), h("button", { class: "btn primary", type: "button", id: "new-key", onclick: () => create(load).catch(fail) }, icon("plus"), t("key.new"))),
    body);
  async function load() {
    try {
      const { keys } = await get("/admin/api/keys");
      const rows = keys.map((key) => row(key, load));
      if (boot.configured_key) rows.unshift(configuredRow(boot.configured_key));
      clear(body, rows.length
        ? h("table", { class: "list stack" }, h("thead", null, h("tr", null, ["name", "role", "used", "created"].map((name) => h("th", { scope: "col" }, t(`key.col.${name}`))), h("th", { scope: "col" }, h("span", { class: "vh" }, t("key.revoke"))))), h("tbody", null, rows))
        : blank({ glyph: "key", title: t("key.none"), text: t("key.none.text") }));
    } catch (error) {
      clear(body, blank({ glyph: "alert", title: error.title, text: error.detail, action: h("button", { class: "btn", type: "button", onclick: load }, t("table.again")) }));
    }
  }
  return load();
}
