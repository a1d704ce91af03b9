// panels/connection.js: is what I see live? If not: since when, and when is the next try.
// Draws state.link; its button tries at once.
import { clear, h } from "../dom.js";
import { t } from "../i18n.js";
import { clock, everySecond } from "../time.js";

export function mount(root, state, { signal }) {
  const said = h("span", { class: "link connecting" }, t("link.connecting"));
  const count = h("span", { "aria-hidden": "true" }); // a countdown read out every second would be chatter
  let phase = "";
  root.append(said);

  const tick = () => {
    const { retryAt } = state.link;
    if (retryAt) count.textContent = t("link.in", { s: Math.max(0, Math.ceil((retryAt - Date.now()) / 1000)) });
  };
  const draw = () => {
    if (phase !== state.link.phase) {
      phase = state.link.phase;
      said.className = `link ${phase}`;
      const broken = phase === "waiting" || phase === "stale";
      const since = broken ? clock(new Date(state.link.since).toISOString()) : "";
      clear(
        said,
        h("span", null, t(`link.${phase}`, { since })),
        broken && count,
        broken && h("button", { type: "button", onclick: () => state.stream.retry() }, t("link.now")),
      );
    }
    tick();
  };
  state.addEventListener("change", draw, { signal });
  everySecond(tick, signal);
  draw();
}
