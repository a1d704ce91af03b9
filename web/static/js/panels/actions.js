// panels/actions.js: what an admin does to the whole queue: pause, resume, clean up. Viewers and operators have none.
import { boot } from "../boot.js";
import { clear, h } from "../dom.js";
import { ask, fail, toast } from "../dialogs.js";
import { t } from "../i18n.js";
import { icon } from "../icons.js";
import { post } from "../api.js";

async function pause(paused) {
  if (!paused && !(await ask({ title: t("pause.ask"), body: t("pause.text"), confirm: t("pause.yes") }))) return;
  try {
    await post(`/admin/api/queue/${paused ? "resume" : "pause"}`);
    toast(t(paused ? "resume.done" : "pause.done"));
  } catch (error) {
    fail(error);
  }
}

async function cleanUp() {
  const hours = h("input", { class: "input", type: "number", id: "clear-hours", min: 0, max: 87600, step: "any", value: 24, required: true });
  const boxes = boot.statuses.filter((status) => boot.ended.includes(status)).map((status) => {
    const box = h("input", { type: "checkbox", class: "check", value: status, checked: true });
    return { status, box, node: h("label", { class: "opt" }, box, h("span", { class: `status ${status}` }, icon(status), t(`status.${status}`))) };
  });
  const read = async () => {
    const status = boxes.filter(({ box }) => box.checked).map((one) => one.status);
    if (!status.length) throw new Error(t("clear.nostatus"));
    return post("/admin/api/queue/clear", { hours: Number(hours.value), status });
  };
  const answer = await ask({
    title: t("clear.title"),
    body: [
      h("p", null, t("clear.text")),
      h("div", { class: "field" }, h("label", { for: "clear-hours" }, t("clear.hours")), hours),
      h("fieldset", { class: "plain" }, h("legend", { class: "label" }, t("clear.which")), boxes.map((one) => one.node)),
    ],
    confirm: t("clear.yes"),
    danger: true,
    read,
  });
  if (answer) toast(answer.message);
}

export function mount(root, state, { signal }) {
  if (!boot.may.admin) return;
  const toggle = h("button", { class: "btn", type: "button", id: "pause", onclick: () => pause(state.stats?.paused) });
  root.append(toggle, h("button", { class: "btn", type: "button", id: "clear", onclick: cleanUp }, icon("broom"), t("clear.button")));
  let drawn;
  const draw = () => {
    const paused = Boolean(state.stats?.paused);
    if (drawn === paused) return;
    drawn = paused;
    clear(toggle, icon(paused ? "play" : "pause"), t(paused ? "resume.button" : "pause.button"));
    toggle.classList.toggle("primary", paused);
  };
  state.addEventListener("change", draw, { signal });
  draw();
}
