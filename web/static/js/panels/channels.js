// panels/channels.js: each way out: does it work, how fast may it go, what waits for it.
// Draws state.stats.channels; changes nothing.
import { bdi, clear, h } from "../dom.js";
import { decimal, t } from "../i18n.js";

function row(channel) {
  const { name, breaker = "closed", rate_per_second: rate, in_flight: flying = 0, waiting = 0 } = channel;
  const facts = [t("channels.flying", { n: flying }), waiting ? t("channels.waiting", { n: waiting }) : "", rate ? t("channels.rate", { rate: decimal(rate) }) : ""];
  return h("li", { class: `chan ${breaker}` },
    h("span", { class: "dot" }), h("b", null, bdi(name)), h("span", { class: "state small" }, t(`breaker.${breaker}`)),
    h("small", null, facts.filter(Boolean).join(" · ")));
}

export function mount(root, state, { signal }) {
  const list = h("ul", { class: "chans" });
  root.append(h("div", { class: "card-head" }, h("h2", null, t("channels.title"))), h("div", { class: "card-body" }, list));
  let shown = "";
  const draw = () => {
    const channels = state.stats?.channels;
    if (!channels) return;
    const now = JSON.stringify(channels);
    if (now === shown) return;
    shown = now;
    clear(list, channels.map(row));
  };
  state.addEventListener("change", draw, { signal });
  draw();
}
