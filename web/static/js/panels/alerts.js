// panels/alerts.js: what must not be overlooked: alerts, a queue on pause, a queue that nobody works on.
// Draws state.alerts and state.stats; changes nothing.
import { boot } from "../boot.js";
import { bdi, clear, h } from "../dom.js";
import { percent, t } from "../i18n.js";
import { icon } from "../icons.js";
import { timeAgo } from "../time.js";

const minutes = (seconds) => Math.max(1, Math.round(seconds / 60));

// An alert of a kind that this page does not know shows its name: better odd than unseen.
function sentence({ kind, ratio, failed, ended, window_s: windowS, channel }) {
  if (kind === "failure_ratio") return t("alert.ratio", { n: failed, of: ended, ratio: percent(ratio), minutes: minutes(windowS) });
  if (channel) return t("alert.channel", { channel });
  return t("alert.other", { kind });
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
          h("span", null, bdi(sentence(alert))),
          alert.since && timeAgo(alert.since, { class: "small" }),
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
