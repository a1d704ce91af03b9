// panels/alerts.js: what must not be overlooked: alerts, a queue on pause, a queue that nobody works on.
// Draws state.alerts and state.stats; changes nothing.
import { boot } from "../boot.js";
import { clear, h } from "../dom.js";
import { percent, t, typeLabel } from "../i18n.js";
import { icon } from "../icons.js";
import { timeAgo } from "../time.js";

function sentence(alert) {
  const { kind, ratio, failed, total, type, channel, message, detail } = alert;
  if (typeof message === "string" && message) return message;
  if (ratio !== undefined && total !== undefined) {
    return t("alert.ratio", { ratio: percent(ratio), failed: failed ?? 0, n: total, type: type ? typeLabel(type) : t("alert.all") });
  }
  return [t("alert.other"), kind, channel ?? type, detail].filter((part) => typeof part === "string").join(" · ");
}

export function mount(root, state, { signal }) {
  root.setAttribute("role", "status");
  let drawn = "";
  const draw = () => {
    const { stats, alerts, version } = state;
    const stopped = stats && !stats.running && !stats.paused;
    const renewed = version && version !== boot.version;
    const now = JSON.stringify([[...alerts.values()], stats?.paused, stopped, renewed]);
    if (drawn === now) return; // a live region must not repeat itself
    drawn = now;
    clear(
      root,
      [...alerts.values()].map((alert) =>
        h(
          "div",
          { class: "banner alert" },
          icon("alert"),
          h("span", null, sentence(alert)),
          (alert.at ?? alert.since) && h("small", null, t("alert.since"), " ", timeAgo(alert.at ?? alert.since)),
        ),
      ),
      stats?.paused && h("div", { class: "banner warn" }, icon("pause"), h("span", null, t("alert.paused"))),
      stopped && h("div", { class: "banner alert" }, icon("alert"), h("span", null, t("alert.stopped"))),
      renewed &&
        h("div", { class: "banner warn" }, icon("retry"), h("span", null, t("alert.version", { version })),
          h("button", { class: "btn", type: "button", onclick: () => location.reload() }, t("alert.reload"))),
    );
  };
  state.addEventListener("change", draw, { signal });
  draw();
}
