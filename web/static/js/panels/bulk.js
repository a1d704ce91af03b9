// panels/bulk.js: what can be done to the picked tasks, or to all that match the filter. Nothing is done before the
// server has counted and the reader has agreed. Draws the picks; acts through the bulk calls.
import { h, redraw } from "../dom.js";
import { ask, fail, toast } from "../dialogs.js";
import { filterBody, isEmpty } from "../filter.js";
import { t } from "../i18n.js";
import { icon } from "../icons.js";
import { post } from "../api.js";

const MOST = 1000; // ids named one by one; more go by the filter

export async function bulk(action, body, done) {
  try {
    const plan = await post(`/admin/api/queue/${action}`, { ...body, dry_run: true });
    const would = plan.count - (plan.skipped ?? 0);
    const lines = [t(`bulk.${action}.plan`, { n: would })];
    if (plan.skipped) lines.push(t("bulk.skipped", { n: plan.skipped }));
    if (!would) {
      await ask({ title: t("bulk.nothing"), body: t(`bulk.${action}.nothing`) });
      return;
    }
    const yes = await ask({ title: t(`bulk.${action}.ask`, { n: would }), body: lines, confirm: t(`bulk.${action}.yes`, { n: would }), cancel: action === "cancel" ? t("bulk.cancel.no") : undefined, danger: action === "cancel" });
    if (!yes) return;
    const result = await post(`/admin/api/queue/${action}`, body);
    const said = [t(`bulk.${action}.done`, { n: result.done ?? 0 })];
    if (result.skipped) said.push(t("bulk.skipped", { n: result.skipped }));
    if (result.failed) said.push(t("bulk.failed", { n: result.failed }));
    toast(said.join(" "), { bad: Boolean(result.failed) });
    done?.();
  } catch (error) {
    fail(error);
  }
}

export function mount(root, state, { signal, picks, filters }) {
  let everything = null; // how many match, once the reader asked for all
  const bar = h("div", { class: "bulkbar", role: "region", "aria-label": t("bulk.label"), hidden: true });
  root.append(bar);
  const act = (action) => {
    const body = everything === null ? { task_ids: picks.ids } : filterBody(filters.get());
    return bulk(action, body, () => picks.clear());
  };
  async function takeAll() {
    try {
      const plan = await post("/admin/api/queue/retry", { ...filterBody(filters.get()), dry_run: true });
      everything = plan.count;
      draw();
    } catch (error) {
      fail(error);
    }
  }
  const draw = () => {
    if (picks.size === 0 && bar.contains(document.activeElement)) document.querySelector(".thead .check").focus({ preventScroll: true });
    bar.hidden = picks.size === 0;
    if (bar.hidden) return;
    const narrowed = !isEmpty(filters.get());
    const many = picks.size > MOST && everything === null;
    redraw(
      bar,
      h("b", null, everything === null ? t("bulk.picked", { n: picks.size }) : t("bulk.everything", { n: everything })),
      narrowed && everything === null && h("button", { class: "btn quiet", type: "button", onclick: takeAll }, t("bulk.all")),
      h("button", { class: "btn", type: "button", disabled: many, onclick: () => act("retry") }, icon("retry"), t("act.retry")),
      h("button", { class: "btn danger", type: "button", disabled: many, onclick: () => act("cancel") }, icon("stop"), t("act.cancel")),
      h("button", { class: "btn quiet square", type: "button", "aria-label": t("bulk.none"), title: t("bulk.none"), onclick: () => picks.clear() }, icon("close")),
    );
  };
  picks.addEventListener("change", () => {
    everything = null;
    draw();
    state.touch();
  }, { signal });
  filters.addEventListener("change", () => picks.clear(), { signal });
}
