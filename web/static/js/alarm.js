// alarm.js: failures seen from another tab (title, favicon) and, if wanted, heard: one chime for a failed CRITIQUE task.
import { boot } from "./boot.js";
import { attr, clear, h } from "./dom.js";
import { number, t } from "./i18n.js";
import { icon } from "./icons.js";

const KEPT = "tocsin.sound";

function chime(audio) {
  for (const [at, hertz] of [[0, 880], [0.22, 660], [0.44, 880], [0.66, 660]]) {
    const tone = audio.createOscillator();
    const gain = audio.createGain();
    const start = audio.currentTime + at;
    tone.frequency.value = hertz;
    gain.gain.setValueAtTime(0.0001, start);
    gain.gain.exponentialRampToValueAtTime(0.2, start + 0.02);
    gain.gain.exponentialRampToValueAtTime(0.0001, start + 0.2);
    tone.connect(gain).connect(audio.destination);
    tone.start(start);
    tone.stop(start + 0.21);
  }
}

export function mountAlarm(state, root, { signal }) {
  const favicon = document.querySelector("link[rel=icon]");
  const title = document.title;
  let wanted = localStorage.getItem(KEPT) === "on";
  let audio = null; // browsers allow sound only after a gesture
  let chimed = 0;
  const button = h("button", { class: "btn quiet square", type: "button", id: "sound", onclick: () => {
    wanted = !wanted;
    localStorage.setItem(KEPT, wanted ? "on" : "off");
    if (wanted) chime((audio ??= new AudioContext()));
    drawButton();
  } });
  root.prepend(button);
  document.addEventListener("pointerdown", () => wanted && (audio ??= new AudioContext()), { signal });

  function drawButton() {
    clear(button, icon(wanted ? "sound" : "mute"));
    attr(button, "aria-pressed", wanted);
    attr(button, "aria-label", t("sound.label"));
    attr(button, "title", t(wanted ? "sound.on" : "sound.off"));
  }

  // Not tied to drawing: a hidden tab is where the title is looked at.
  let failures = -1;
  const tell = () => {
    const failed = state.stats?.tasks_by_status.failed ?? 0;
    if (failed === failures) return;
    failures = failed;
    document.title = failed ? `(${number(failed)}) ${title}` : title;
    const href = boot.icons[failed ? "favicon-alert" : "favicon"];
    if (favicon.getAttribute("href") !== href) favicon.setAttribute("href", href);
  };
  state.addEventListener("stats", tell, { signal });
  state.addEventListener("events", ({ detail }) => {
    if (!wanted || !audio || !detail.some(({ event, task }) => event === "task.failed" && task.priority === "CRITIQUE")) return;
    if (performance.now() - chimed < 3000 && chimed) return;
    chimed = performance.now();
    chime(audio);
  }, { signal });
  drawButton();
}
