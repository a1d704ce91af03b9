// shell.js: what every page has at its top: language, light or dark. Both live in cookies, so the server draws the
// next page right from the start.
import { boot } from "./boot.js";
import { attr, clear, h } from "./dom.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";

const THEMES = ["auto", "light", "dark"];
const GLYPHS = { auto: "auto", light: "sun", dark: "moon" };

function remember(name, value) {
  document.cookie = `${name}=${value}; Path=/; Max-Age=31536000; SameSite=Strict${location.protocol === "https:" ? "; Secure" : ""}`;
}

export function mountShell() {
  const root = document.documentElement;
  const theme = h("button", { class: "btn quiet square", type: "button", id: "theme" });
  const draw = () => {
    const now = root.dataset.theme ?? "auto";
    clear(theme, icon(GLYPHS[now]));
    attr(theme, "aria-label", t(`theme.${now}`));
    attr(theme, "title", t(`theme.${now}`));
  };
  theme.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "auto") + 1) % THEMES.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    remember("theme", next);
    draw();
  });
  const other = boot.lang === "fr" ? "en" : "fr";
  const language = h(
    "button",
    {
      class: "btn quiet square",
      type: "button",
      id: "lang",
      lang: other,
      title: other === "en" ? "English" : "Français",
      "aria-label": other === "en" ? "English" : "Français",
      onclick: () => {
        remember("lang", other);
        location.reload();
      },
    },
    other.toUpperCase(),
  );
  draw();
  const tools = document.getElementById("tools");
  tools.className = "seg-free";
  tools.append(language, theme);
}
