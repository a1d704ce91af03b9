// panels/send.js: compose a notification and send it. Counts while one writes, says what is wrong and where, shows what
// people will read, and asks once more with the number of people before anything leaves.
import { call } from "../api.js";
import { boot } from "../boot.js";
import { ask } from "../dialogs.js";
import { attr, bdi, clear, h, put, redraw } from "../dom.js";
import { number, t, typeLabel } from "../i18n.js";
import { icon } from "../icons.js";
import { parseRecipients } from "../recipients.js";
import { smsParts } from "../sms.js";
import { exact } from "../time.js";

const SHOWN_ERRORS = 50;
const PARSE_MS = 200;
const KEPT = "tocsin.draft";
const BIG = 500_000; // characters; a larger list is not kept as draft and not written into the field

// The same key for the same body: a second press after a broken connection does not send twice.
function idempotency() {
  let last = "";
  let key = "";
  return (body) => {
    if (body !== last) {
      last = body;
      key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    }
    return key;
  };
}

function field(id, label, control, ...after) {
  return h("div", { class: "field" }, h("label", { for: id }, label), control, ...after);
}

export function mount(root) {
  const keyFor = idempotency();
  const type = h("select", { class: "input", id: "type" }, boot.types.map(({ id, label }) => h("option", { value: id }, label)));
  const priority = h("select", { class: "input", id: "priority" });
  const titre = h("input", { class: "input", id: "titre", required: true, autocomplete: "off", "aria-describedby": "titre-count" });
  const titreCount = h("span", { id: "titre-count" });
  const message = h("textarea", { class: "input", id: "message", required: true, "aria-describedby": "message-count" });
  const messageCount = h("span", { id: "message-count" });
  const sms = h("span");
  const planned = h("input", { class: "input", id: "planned", type: "datetime-local" });
  const expires = h("input", { class: "input", id: "expires", type: "datetime-local" });
  const people = h("textarea", { class: "input drop mono", id: "people", spellcheck: "false", placeholder: t("send.people.example"), "aria-describedby": "people-hint people-wrong" });
  const file = h("input", { type: "file", id: "file", accept: ".csv,.txt,.json,text/csv,application/json", class: "vh", onchange: () => file.files[0] && read(file.files[0]) });
  const summary = h("div", { "aria-live": "polite" });
  const wrong = h("div");
  const preview = h("div", { class: "card-body form" });
  const problem = h("div", { role: "alert" });
  const button = h("button", { class: "btn primary big", type: "submit" }, t("send.button"));
  const rules = { ...boot.spreadsheet, channels: boot.channels.map(({ id }) => id) };
  const kept = { type, priority, titre, message, planned, expires, people };
  let list = parseRecipients("", rules);
  let big = null; // text of a file too large for the field
  let timer = 0;
  let langShown = "fr";

  const text = () => big ?? people.value;
  function takePeople() {
    list = parseRecipients(text(), rules);
    draw();
  }
  async function read(chosen) {
    let content = "";
    try {
      content = new TextDecoder("utf-8", { fatal: true }).decode(await chosen.arrayBuffer());
    } catch {
      file.value = "";
      clear(wrong, h("p", { class: "error-text", id: "people-wrong", role: "alert" }, t("send.people.utf8", { name: chosen.name })));
      return;
    }
    big = content.length > BIG ? content : null;
    people.value = big === null ? content : t("send.people.big", { name: chosen.name });
    people.readOnly = big !== null;
    file.value = "";
    takePeople();
  }
  people.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(takePeople, PARSE_MS);
  });
  people.addEventListener("dragover", (event) => (event.preventDefault(), people.classList.add("over")));
  people.addEventListener("dragleave", () => people.classList.remove("over"));
  people.addEventListener("drop", (event) => {
    people.classList.remove("over");
    if (!event.dataTransfer.files[0]) return;
    event.preventDefault();
    void read(event.dataTransfer.files[0]);
  });

  function drawPriorities() {
    const kind = boot.types.find(({ id }) => id === type.value);
    const kept = priority.value;
    clear(priority, h("option", { value: "" }, t("send.priority.default", { priority: t(`priority.${kind?.priority}`) })), boot.priorities.map((id) => h("option", { value: id }, t(`priority.${id}`))));
    priority.value = kept;
  }

  function draw() {
    const left = (control, out, limit) => {
      const n = [...control.value].length;
      put(out, t("send.count", { n, limit }));
      out.className = n > limit ? "over" : "";
      attr(control, "aria-invalid", n > limit);
    };
    left(titre, titreCount, boot.limits.titre);
    left(message, messageCount, boot.limits.message);
    const { parts, wide, odd } = smsParts(message.value);
    put(sms, t("send.sms", { n: parts }) + (wide ? ` · ${t("send.sms.wide", { chars: odd.slice(0, 5).join(" ") })}` : ""));
    const { counts, errors, doubles } = list;
    const facts = [
      counts.noPhone ? t("send.nophone", { n: counts.noPhone }) : "",
      counts.noEmail ? t("send.noemail", { n: counts.noEmail }) : "",
      doubles ? t("send.doubles", { n: doubles }) : "",
      counts.inactive ? t("send.inactive", { n: counts.inactive }) : "",
    ].filter(Boolean);
    clear(summary, counts.unique ? h("p", null, h("b", null, t("send.people.n", { n: counts.unique })), facts.length ? ` · ${facts.join(" · ")}` : "") : null,
      counts.unique ? h("p", { class: "hint" }, Object.entries(counts.byChannel).map(([name, n]) => `${name}${t("colon")}${number(n)}`).join(" · ")) : null,
      counts.unique > boot.limits.recipients ? h("p", { class: "error-text" }, t("send.toomany", { n: boot.limits.recipients })) : null);
    attr(people, "aria-invalid", errors.length > 0 || counts.unique > boot.limits.recipients);
    clear(wrong, errors.length ? [
      h("p", { class: "error-text", id: "people-wrong" }, t("send.wrong", { n: errors.length })),
      h("div", { class: "scroll-x" }, h("table", { class: "list" }, h("thead", null, h("tr", null, h("th", { scope: "col", class: "line" }, t(list.json ? "send.entry" : "send.line")), h("th", { scope: "col" }, t("send.what")))),
        h("tbody", null, errors.slice(0, SHOWN_ERRORS).map((one) => h("tr", null, h("td", { class: "line" }, number(one.line)), h("td", null, bdi(t(one.key, one.values)))))))),
      errors.length > SHOWN_ERRORS ? h("p", { class: "hint" }, t("send.wrong.more", { n: errors.length - SHOWN_ERRORS })) : null,
    ] : null);
    drawPreview();
    keep();
  }

  function drawPreview() {
    const kind = boot.types.find(({ id }) => id === type.value);
    const label = kind?.labels?.[langShown] ?? typeLabel(type.value);
    const title = titre.value || t("send.preview.title");
    const body = message.value || t("send.preview.text");
    redraw(preview,
      h("div", { class: "seg", role: "group", "aria-label": t("send.preview.lang") }, ["fr", "en"].map((lang) => h("button", { type: "button", "aria-pressed": String(lang === langShown), onclick: () => { langShown = lang; drawPreview(); } }, t(`send.lang.${lang}`)))),
      h("div", { class: "field" }, h("span", { class: "label" }, t("send.preview.mail")), h("div", { class: "mail" }, h("header", null, h("b", null, bdi(title))), h("p", null, h("span", { class: "muted small" }, bdi(label)), h("b", null, bdi(title))), h("div", null, bdi(body)))),
      h("div", { class: "field" }, h("span", { class: "label" }, t("send.preview.sms")), h("div", { class: "phone" }, bdi(body))),
      h("div", { class: "field" }, h("span", { class: "label" }, t("send.preview.app")), h("div", { class: "phone" }, h("b", null, bdi(title)), bdi(body))),
      h("p", { class: "hint" }, t("send.preview.hint")));
  }

  function keep() {
    if (big !== null || people.value.length > BIG) return;
    sessionStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(Object.entries(kept).map(([name, control]) => [name, control.value]))));
  }

  function bodyNow() {
    const body = { titre: titre.value, message: message.value, utilisateurs: list.people };
    if (priority.value) body.priorite = priority.value;
    if (planned.value) body.planifiee_a = new Date(planned.value).toISOString();
    if (expires.value) body.expire_a = new Date(expires.value).toISOString();
    return body;
  }

  // The server's errors, by pointer, where the reader can find them.
  function explain(error) {
    const where = (pointer) => {
      const at = /^\/utilisateurs\/(\d+)/.exec(pointer ?? "");
      return at ? t("send.at", { n: list.lines[Number(at[1])] ?? 0 }) : { "/titre": t("send.titre"), "/message": t("send.message"), "/planifiee_a": t("send.planned"), "/expire_a": t("send.expires") }[pointer] ?? pointer ?? "";
    };
    clear(problem, h("div", { class: "banner alert" }, icon("alert"), h("div", null, h("b", null, error.title ?? error.message), error.detail && !error.errors?.length && h("p", null, bdi(error.status ? error.detail : t("send.network"))),
      error.errors?.length ? h("ul", null, error.errors.slice(0, SHOWN_ERRORS).map((one) => h("li", null, [where(one.pointer), one.message].filter(Boolean).join(t("colon"))))) : null)));
    problem.scrollIntoView({ block: "center" });
  }

  async function submit(event) {
    event.preventDefault();
    clearTimeout(timer);
    takePeople();
    clear(problem);
    const { counts, errors } = list;
    if (errors.length || !counts.unique || counts.unique > boot.limits.recipients) {
      if (!counts.unique && !errors.length) clear(wrong, h("p", { class: "error-text", id: "people-wrong", role: "alert" }, t("send.nobody")));
      attr(people, "aria-invalid", true);
      people.focus({ preventScroll: true });
      people.scrollIntoView({ block: "center" });
      return;
    }
    const chosen = priority.value || boot.types.find(({ id }) => id === type.value)?.priority;
    const active = counts.unique - counts.inactive;
    const facts = [counts.noPhone ? t("send.nophone", { n: counts.noPhone }) : "", counts.noEmail ? t("send.noemail", { n: counts.noEmail }) : ""].filter(Boolean).join(", ");
    const past = new Date(planned.value) <= new Date();
    let sent = null;
    const read = async () => {
      const body = JSON.stringify(bodyNow());
      sent = await call("POST", `/api/notifications/${encodeURIComponent(type.value)}`, JSON.parse(body), { headers: { "Idempotency-Key": keyFor(type.value + body) } }).catch((error) => ({ error }));
      return true;
    };
    const yes = await ask({
      title: t("send.ask", { n: active }),
      body: [
        h("p", null, h("b", null, bdi(titre.value))),
        h("p", null, h("span", { class: `chip ${chosen}` }, t(`priority.${chosen}`)), " ", typeLabel(type.value), planned.value ? ` · ${t(past ? "send.ask.past" : "send.ask.planned", { at: exact(planned.value) })}` : "", expires.value ? ` · ${t("send.ask.expires", { at: exact(expires.value) })}` : ""),
        h("p", null, t("send.ask.people", { n: active }) + (facts ? `, ${t("send.of")} ${facts}` : "")),
      ],
      confirm: t("send.yes"),
      read,
    });
    if (!yes) return;
    if (sent.error) return explain(sent.error);
    sessionStorage.removeItem(KEPT);
    location.assign(`/admin/queue/${encodeURIComponent(sent.task_id)}`);
  }

  const form = h("form", { class: "compose", novalidate: false, onsubmit: submit },
    h("div", { class: "form" },
      problem,
      h("section", { class: "card" }, h("div", { class: "card-body form" },
        h("div", { class: "two" }, field("type", t("send.type"), type), field("priority", t("send.priority"), priority)),
        field("titre", t("send.titre"), titre, h("div", { class: "count-line" }, titreCount)),
        field("message", t("send.message"), message, h("div", { class: "count-line" }, messageCount, sms)),
        h("div", { class: "two" }, field("planned", t("send.planned"), planned, h("p", { class: "hint" }, t("send.planned.hint"))), field("expires", t("send.expires"), expires, h("p", { class: "hint" }, t("send.expires.hint")))))),
      h("section", { class: "card" }, h("div", { class: "card-body form" },
        field("people", t("send.people"), people, h("div", { class: "count-line" }, h("span", { class: "hint", id: "people-hint" }, t("send.people.hint")),
          h("span", null, file, h("button", { class: "btn", type: "button", onclick: () => file.click() }, t("send.file")), " ",
            h("button", { class: "btn quiet", type: "button", onclick: () => { big = null; people.readOnly = false; people.value = ""; takePeople(); people.focus(); } }, t("send.clear"))))),
        summary, wrong)),
      h("div", null, button)),
    h("aside", { class: "side" }, h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", null, t("send.preview"))), preview)));
  attr(file, "tabindex", "-1");
  attr(file, "aria-hidden", "true");
  root.append(h("div", { class: "page-head" }, h("div", null, h("h1", null, t("title.send")), h("p", null, t("send.lead")))), form);

  type.addEventListener("change", () => (drawPriorities(), draw()));
  for (const control of [priority, titre, message, planned, expires]) control.addEventListener("input", draw);
  try {
    const draft = JSON.parse(sessionStorage.getItem(KEPT) ?? "{}");
    if (boot.types.some(({ id }) => id === draft.type)) type.value = draft.type;
    drawPriorities();
    for (const [name, control] of Object.entries(kept)) if (control !== type) control.value = draft[name] ?? "";
  } catch {
    sessionStorage.removeItem(KEPT); // a draft of another version
    drawPriorities();
  }
  takePeople();
}
